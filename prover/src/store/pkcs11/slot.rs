//! PKCS#11 libraries and their slots: loading, choosing, logging in.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    session::{Session, UserType},
    slot::{Slot, TokenInfo},
};
use serde::{Deserialize, Serialize};

use super::{
    Pin, TokenError,
    error::{is_away, plain},
};

/// Which of a library's tokens: the one that has all that is named.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenChoice {
    /// Its label.
    pub label: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its manufacturer.
    pub manufacturer: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// The slot that it is in.
    pub slot: Option<u64>,
}

impl TokenChoice {
    /// The one with this label.
    pub fn label(label: impl Into<String>) -> Self {
        Self { label: Some(label.into()), ..Self::default() }
    }

    /// The one in this slot.
    pub fn slot(slot: u64) -> Self {
        Self { slot: Some(slot), ..Self::default() }
    }

    fn fits(&self, slot: Slot, info: &TokenInfo) -> bool {
        let texts = [
            (&self.label, info.label()),
            (&self.serial, info.serial_number()),
            (&self.manufacturer, info.manufacturer_id()),
            (&self.model, info.model()),
        ];
        let same = |(wanted, found): (&Option<String>, &str)| wanted.as_ref().is_none_or(|wanted| wanted == found);
        texts.into_iter().all(same) && self.slot.is_none_or(|wanted| wanted == slot.id())
    }
}

impl fmt::Display for TokenChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = [
            (&self.label, "labelled"),
            (&self.serial, "with the serial number"),
            (&self.manufacturer, "made by"),
            (&self.model, "of model"),
        ];
        let named = texts.into_iter().filter_map(|(text, what)| text.as_ref().map(|text| format!("{what} {text:?}")));
        let named: Vec<_> = named.chain(self.slot.map(|slot| format!("in slot {slot}"))).collect();
        f.write_str(if named.is_empty() { "of this library" } else { "" })?;
        f.write_str(&named.join(", "))
    }
}

/// A library, and who uses it.
struct Loaded {
    library: Pkcs11,
    /// One clone for each token that is open.
    users: Arc<()>,
}

/// A token that was found.
pub(super) struct Place {
    pub(super) library: Pkcs11,
    pub(super) slot: Slot,
    pub(super) label: String,
    path: PathBuf,
    info: TokenInfo,
    /// Keeps the library from being started anew under it.
    _user: Arc<()>,
}

/// Lends a library, which is loaded once in the life of the process.
///
/// It is never unloaded: libraries leave threads and exit handlers behind. What `look` does, no other thread does at once: SoftHSM
/// 2.6 aborts the process where two threads list its slots.
fn with_loaded<R>(path: &Path, look: impl FnOnce(&Loaded) -> Result<R, TokenError>) -> Result<R, TokenError> {
    static LOADED: Mutex<BTreeMap<PathBuf, Loaded>> = Mutex::new(BTreeMap::new());
    let unusable = |why: String| TokenError::Library { path: path.to_owned(), why };
    // An absolute path: a bare name would be searched for in the system's directories.
    let file = path.canonicalize().map_err(|error| unusable(error.to_string()))?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = loaded.get(&file) {
        return look(known);
    }
    let library = Pkcs11::new(&file).map_err(|error| unusable(plain(&error)))?;
    start(&library).map_err(|error| unusable(plain(&error)))?;
    look(loaded.entry(file).or_insert(Loaded { library, users: Arc::new(()) }))
}

/// Starts a library, unless somebody else has.
fn start(library: &Pkcs11) -> Result<(), Error> {
    match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lends a library to a test that makes tokens.
#[cfg(test)]
pub(super) fn with_library<R>(
    path: &Path,
    look: impl FnOnce(&Pkcs11) -> Result<R, TokenError>,
) -> Result<R, TokenError> {
    with_loaded(path, |loaded| look(&loaded.library))
}

/// Finds the one token that `choice` names.
pub(super) fn find(path: &Path, choice: &TokenChoice) -> Result<Place, TokenError> {
    with_loaded(path, |loaded| search(path, loaded, choice))
}

/// As [`find`], after a token went away. Some libraries see a token that came back only when they are started anew, which is done
/// where no other token of the library is open.
pub(super) fn find_again(path: &Path, choice: &TokenChoice) -> Result<Place, TokenError> {
    let unusable = |error: Error| TokenError::Library { path: path.to_owned(), why: plain(&error) };
    with_loaded(path, |loaded| {
        if Arc::strong_count(&loaded.users) == 1 {
            match loaded.library.clone().finalize() {
                Ok(()) | Err(Error::Pkcs11(RvError::CryptokiNotInitialized, _)) => {}
                Err(error) => tracing::warn!(error = plain(&error), "the PKCS#11 library does not stop"),
            }
        }
        // Somebody else may have stopped it.
        start(&loaded.library).map_err(unusable)?;
        search(path, loaded, choice)
    })
}

fn search(path: &Path, Loaded { library, users }: &Loaded, choice: &TokenChoice) -> Result<Place, TokenError> {
    let unusable = |error| TokenError::Library { path: path.to_owned(), why: plain(&error) };
    let slots = library.get_slots_with_initialized_token().map_err(unusable)?;
    let described = slots.into_iter().map(|slot| Ok((slot, library.get_token_info(slot).map_err(unusable)?)));
    let tokens = described.collect::<Result<Vec<_>, _>>()?;
    let named = |(slot, info): &(Slot, TokenInfo)| format!("{:?} (slot {})", info.label(), slot.id());
    let found = tokens.iter().map(named).collect();
    let mut matching = tokens.into_iter().filter(|(slot, info)| choice.fits(*slot, info)).collect::<Vec<_>>();
    match (matching.pop(), matching.is_empty()) {
        (Some((slot, info)), true) => Ok(Place {
            library: library.clone(),
            slot,
            label: info.label().to_owned(),
            path: path.to_owned(),
            info,
            _user: Arc::clone(users),
        }),
        (Some((last, _)), false) => {
            let slots = matching.iter().map(|(slot, _)| slot).chain([&last]).map(|slot| slot.id().to_string());
            Err(TokenError::AmbiguousToken { wanted: choice.to_string(), slots: slots.collect() })
        }
        (None, _) => Err(TokenError::NoToken { wanted: choice.to_string(), found }),
    }
}

impl Place {
    /// What names this token wherever it is plugged in. A slot's number may change.
    pub(super) fn itself(&self) -> TokenChoice {
        let text = |text: &str| Some(text.to_owned());
        TokenChoice {
            label: text(self.info.label()),
            serial: text(self.info.serial_number()),
            manufacturer: text(self.info.manufacturer_id()),
            model: text(self.info.model()),
            slot: None,
        }
    }

    /// Whether the token is in its slot.
    pub(super) fn is_there(&self) -> bool {
        let look = |loaded: &Loaded| Ok(loaded.library.get_token_info(self.slot).ok());
        let info = with_loaded(&self.path, look).ok().flatten();
        info.is_some_and(|info| self.itself().fits(self.slot, &info))
    }

    /// How many sessions it has room for, where it says so.
    pub(super) fn most_sessions(&self) -> Option<usize> {
        let most: Option<u64> = self.info.max_session_count().into();
        most.and_then(|most| usize::try_from(most).ok()).filter(|most| *most > 0)
    }

    /// Logs the process in: one attempt with the PIN, and none where a wrong one would lock the token. The login lasts
    /// while the session does. A second login does not look at its PIN, so that it is refused, unless it comes `again` after the
    /// first one.
    pub(super) fn log_in(&self, pin: &Pin, again: bool) -> Result<Session, TokenError> {
        check_tries(&self.label, self.info.user_pin_locked(), self.info.user_pin_final_try())?;
        let call = |source| TokenError::Call { token: self.label.clone(), doing: "opening a session", source };
        let session = self.library.open_ro_session(self.slot).map_err(call)?;
        match session.login(UserType::User, Some(pin.expose())) {
            Ok(()) => Ok(session),
            Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) if again => Ok(session),
            Err(error) => Err(failed_login(&self.label, error)),
        }
    }
}

/// What an answer to C_Login means. Vendors have answers of their own to a wrong PIN: any that does not say that the token went away may
/// be one.
pub(super) fn failed_login(label: &str, source: Error) -> TokenError {
    let token = label.to_owned();
    match source {
        Error::Pkcs11(RvError::UserAlreadyLoggedIn, _) => TokenError::AlreadyOpen(token),
        Error::Pkcs11(RvError::PinLocked, _) => TokenError::PinLocked(token),
        Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => {
            TokenError::WrongPin(token)
        }
        Error::Pkcs11(code, _) if is_away(code) => TokenError::Call { token, doing: "logging in", source },
        _ => TokenError::LoginFailed { token, source },
    }
}

/// An agent that is started again and again with a wrong PIN must not lock its token.
fn check_tries(label: &str, locked: bool, final_try: bool) -> Result<(), TokenError> {
    match (locked, final_try) {
        (true, _) => Err(TokenError::PinLocked(label.to_owned())),
        (false, true) => Err(TokenError::FinalTry(label.to_owned())),
        (false, false) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_try_is_left_to_a_person() {
        assert!(check_tries("t", false, false).is_ok());
        assert!(matches!(check_tries("t", false, true), Err(TokenError::FinalTry(_))));
        assert!(matches!(check_tries("t", true, true), Err(TokenError::PinLocked(_))));
        assert!(matches!(check_tries("t", true, false), Err(TokenError::PinLocked(_))));
    }

    #[test]
    fn a_choice_says_what_it_names() {
        assert_eq!(TokenChoice::label("vault").to_string(), "labelled \"vault\"");
        let slot = TokenChoice { serial: Some("77".to_owned()), ..TokenChoice::slot(3) };
        assert_eq!(slot.to_string(), "with the serial number \"77\", in slot 3");
        assert_eq!(TokenChoice::default().to_string(), "of this library");
    }
}
