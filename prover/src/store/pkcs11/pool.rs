//! Sessions with a token: so many at once and no more, and a new login where the token went away and came back.
//!
//! A call borrows a session for itself. Where it fails in a way that says that the token is gone, no more sessions are lent until all
//! of that login are back; then the token is looked for again, by label and serial number, and logged in to with the same PIN, and the
//! call is made once more. A PIN that no longer opens the token is never tried again.

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

/// An error that may mean anything makes for a new login so often at most.
const SUSPECT_EVERY: Duration = Duration::from_secs(10);

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
    /// The PIN was refused since it opened the token.
    refused: bool,
    connected: Instant,
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
        let state = State { connection, lent: 0, refused: false, connected: Instant::now() };
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
                Err(error) if std::mem::take(&mut again) && self.is_gone(&lent.connection, &error) => {
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
        let label = || self.choice.to_string();
        if state.refused {
            return Err(TokenError::PinChanged(label()));
        }
        let found = slot::find_again(&self.library, &self.choice).and_then(|place| {
            let login = place.log_in(&self.pin, true)?;
            Ok((place, login))
        });
        match found {
            Ok(found) => {
                state.connection = Some(Arc::new(Connection::new(found)));
                state.connected = Instant::now();
                tracing::info!(token = label(), "the token is back");
                Ok(())
            }
            Err(error) => {
                let pin = matches!(error, TokenError::WrongPin(_) | TokenError::PinLocked(_) | TokenError::FinalTry(_));
                state.refused = pin;
                // Whoever waits tries for themselves.
                self.returned.notify_all();
                Err(TokenError::Stranded { token: label(), why: error.to_string() })
            }
        }
    }

    fn is_gone(&self, connection: &Connection, error: &TokenError) -> bool {
        match error.gone() {
            Gone::Yes => true,
            Gone::No => false,
            Gone::Perhaps => !connection.is_alive(),
            Gone::Anything => !connection.is_alive() || lock(&self.state).connected.elapsed() > SUSPECT_EVERY,
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
