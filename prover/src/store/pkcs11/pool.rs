//! Sessions with a token: so many at once and no more, and a new login where the token went away and came back.
//!
//! A call borrows a session for itself. Where it fails in a way that says that the token is gone, no more sessions are lent until all
//! of that login are back; then the token is looked for again, by label and serial number, and logged in to with the same PIN, and the
//! call is made once more. A token that was not there is looked for again a while later; one that was, and did not let us in, never:
//! it may have counted the PIN as a wrong one.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use cryptoki::{
    error::Error,
    session::{Session, SessionInfo, SessionState},
};
use keywitness_verifier::wire::KeyRef;

use super::{
    Pin, TokenChoice, TokenError,
    error::Gone,
    object::Known,
    slot::{self, Place},
};

/// Most sessions at once.
const MOST: usize = 16;

/// How long a token that was not there is not looked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A login, and what was learnt under it. It lasts while this value does.
pub(super) struct Connection {
    pub(super) place: Place,
    /// Keys by name, as they were found last.
    known: RwLock<BTreeMap<KeyRef, Arc<Known>>>,
    idle: Mutex<Vec<Session>>,
    /// Keeps the login alive.
    login: Mutex<Session>,
}

impl Connection {
    fn new((place, login): (Place, Session)) -> Self {
        Self { place, known: RwLock::default(), idle: Mutex::default(), login: Mutex::new(login) }
    }

    /// A key as it was found last.
    pub(super) fn find(&self, key: &KeyRef) -> Option<Arc<Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn forget(&self, key: &KeyRef) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    pub(super) fn keep(&self, known: Arc<Known>) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(known.key.key.clone(), known);
    }

    /// Keeps these keys and no others. What was learnt of a key stays where it is the same.
    pub(super) fn keep_these(&self, found: impl Iterator<Item = Known>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *known);
        for found in found {
            let kept = before.get(&found.key.key).filter(|kept| kept.is_same(&found)).map(Arc::clone);
            known.insert(found.key.key.clone(), kept.unwrap_or_else(|| Arc::new(found)));
        }
    }

    /// Whether the token is there, and the login holds.
    fn is_alive(&self) -> bool {
        let info = lock(&self.login).get_session_info();
        let user = |info: SessionInfo| matches!(info.session_state(), SessionState::RoUser | SessionState::RwUser);
        info.is_ok_and(user) && self.place.is_there()
    }

    fn session(&self) -> Result<Session, Error> {
        let idle = lock(&self.idle).pop();
        idle.map_or_else(|| self.place.library.open_ro_session(self.place.slot), Ok)
    }
}

struct State {
    /// None where the token is gone.
    connection: Option<Arc<Connection>>,
    lent: usize,
    /// What came of looking for it, since it is gone.
    absence: Option<Absence>,
}

/// A token was looked for, and is not logged in to.
struct Absence {
    since: Instant,
    why: String,
    /// It was there, and did not let us in.
    shut: Option<String>,
}

impl Absence {
    fn new(error: &TokenError, since: Instant) -> Self {
        Self { since, why: error.to_string(), shut: error.of_login() }
    }

    /// Whether the token may be looked for at this time, and the PIN be tried with it.
    fn check(&self, token: &TokenChoice, now: Instant) -> Result<(), TokenError> {
        let token = token.to_string();
        match &self.shut {
            Some(why) => Err(TokenError::NoLoginAgain { token, why: why.clone() }),
            None if now.duration_since(self.since) < PATIENCE => {
                Err(TokenError::Stranded { token, why: self.why.clone() })
            }
            None => Ok(()),
        }
    }
}

/// The sessions of one token.
pub(super) struct Pool {
    library: PathBuf,
    choice: TokenChoice,
    pin: Pin,
    most: usize,
    state: Mutex<State>,
    returned: Condvar,
}

impl Pool {
    /// Finds the token and logs in: one attempt.
    pub(super) fn open(library: PathBuf, choice: &TokenChoice, pin: Pin) -> Result<Self, TokenError> {
        let place = slot::find(&library, choice)?;
        let login = place.log_in(&pin, false)?;
        // One is the login's.
        let most = place.most_sessions().map_or(MOST, |most| most.saturating_sub(1).clamp(1, MOST));
        let choice = place.itself();
        let connection = Some(Arc::new(Connection::new((place, login))));
        let state = State { connection, lent: 0, absence: None };
        Ok(Self { library, choice, pin, most, state: Mutex::new(state), returned: Condvar::new() })
    }

    /// The token's label.
    pub(super) fn label(&self) -> String {
        self.choice.label.clone().unwrap_or_default()
    }

    /// How many calls are made at once.
    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// Lends a session to `work`, and once more to the same `work` where the token was gone and came back. A session on which
    /// something failed is closed, since an operation may be under way on it.
    pub(super) fn with_session<R>(
        &self,
        work: impl Fn(&Connection, &Session) -> Result<R, TokenError>,
    ) -> Result<R, TokenError> {
        let mut again = true;
        loop {
            let lent = self.lend()?;
            let label = &lent.connection.place.label;
            let failed = |source| TokenError::Call { token: label.clone(), doing: "opening a session", source };
            let result = lent.connection.session().map_err(failed).and_then(|session| {
                let result = work(&lent.connection, &session)?;
                let mut idle = lock(&lent.connection.idle);
                if idle.len() < self.most {
                    idle.push(session);
                }
                Ok(result)
            });
            match result {
                Err(error) if std::mem::take(&mut again) && Self::is_gone(&lent.connection, &error) => {
                    tracing::warn!(%error, "the token is looked for again");
                    self.give_up(&lent.connection);
                }
                result => return result,
            }
        }
    }

    fn lend(&self) -> Result<Lent<'_>, TokenError> {
        let mut state = lock(&self.state);
        loop {
            match &state.connection {
                Some(connection) if state.lent < self.most => {
                    let connection = Arc::clone(connection);
                    state.lent += 1;
                    return Ok(Lent { connection, _place: Permit(self) });
                }
                None if state.lent == 0 => self.connect(&mut state)?,
                _ => state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Looks for the token again. No session of the login before is left.
    fn connect(&self, state: &mut State) -> Result<(), TokenError> {
        if let Some(absence) = &state.absence {
            absence.check(&self.choice, Instant::now())?;
        }
        let found = slot::find_again(&self.library, &self.choice).and_then(|place| {
            let login = place.log_in(&self.pin, true)?;
            Ok((place, login))
        });
        match found {
            Ok(found) => {
                state.connection = Some(Arc::new(Connection::new(found)));
                state.absence = None;
                tracing::info!(token = %self.choice, "the token is back");
                Ok(())
            }
            Err(error) => {
                state.absence = Some(Absence::new(&error, Instant::now()));
                // Whoever waits is told the same.
                self.returned.notify_all();
                Err(TokenError::Stranded { token: self.choice.to_string(), why: error.to_string() })
            }
        }
    }

    /// Whether an error is of the token's absence. One that may mean anything is the key's own as long as login and token are there.
    fn is_gone(connection: &Connection, error: &TokenError) -> bool {
        match error.gone() {
            Gone::Yes => true,
            Gone::No => false,
            Gone::Perhaps => !connection.is_alive(),
        }
    }

    /// Lends no more sessions of this login.
    fn give_up(&self, connection: &Arc<Connection>) {
        let mut state = lock(&self.state);
        if state.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            state.connection = None;
        }
    }
}

/// A place among those who use the token, under one login. The login is let go of before the place is.
struct Lent<'a> {
    connection: Arc<Connection>,
    _place: Permit<'a>,
}

struct Permit<'a>(&'a Pool);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.lent = state.lent.saturating_sub(1);
        drop(state);
        self.0.returned.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use cryptoki::{context::Function, error::RvError};

    use super::*;

    fn answer(code: RvError) -> TokenError {
        slot::failed_login("vault", Error::Pkcs11(code, Function::Login))
    }

    /// Vendors have answers of their own to a wrong PIN, and any of them may have been counted.
    #[test]
    fn a_login_that_fails_is_never_tried_again() {
        let label = || "vault".to_owned();
        let codes = [
            RvError::GeneralError,
            RvError::FunctionFailed,
            RvError::DeviceError,
            RvError::HostMemory,
            RvError::PinExpired,
            RvError::UserNotLoggedIn,
            RvError::UserPinNotInitialized,
            RvError::VendorDefined(0x8000_0104),
        ];
        let of_pin = [TokenError::WrongPin(label()), TokenError::PinLocked(label()), TokenError::FinalTry(label())];
        let (vault, then) = (TokenChoice::label("vault"), Instant::now());
        for error in codes.map(answer).into_iter().chain(of_pin) {
            assert!(!error.may_pass(), "{error}");
            let absence = Absence::new(&error, then);
            for waited in [Duration::ZERO, PATIENCE, Duration::from_secs(86_400)] {
                let next = absence.check(&vault, then + waited);
                assert!(matches!(next, Err(TokenError::NoLoginAgain { .. })), "{error}: {next:?}");
            }
        }
    }

    #[test]
    fn a_token_that_was_not_there_is_looked_for_after_a_while() {
        let away = [RvError::DeviceRemoved, RvError::TokenNotPresent, RvError::SessionHandleInvalid].map(answer);
        let none = TokenError::NoToken { wanted: "vault".to_owned(), found: Vec::new() };
        let (vault, then) = (TokenChoice::label("vault"), Instant::now());
        for error in away.into_iter().chain([none]) {
            let absence = Absence::new(&error, then);
            for waited in [Duration::ZERO, PATIENCE / 2] {
                let next = absence.check(&vault, then + waited);
                assert!(
                    matches!(&next, Err(stranded @ TokenError::Stranded { .. }) if stranded.may_pass()),
                    "{next:?}"
                );
            }
            assert!(absence.check(&vault, then + PATIENCE).is_ok(), "{error}");
        }
    }
}
