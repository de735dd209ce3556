//! PKCS#11 libraries and their slots: loading, choosing, logging in.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    session::{Session, UserType},
    slot::{Slot, TokenInfo},
};

use super::{Pin, TokenError, error::plain};

/// Which of a library's tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenChoice {
    /// The one with this label.
    Label(String),
    /// The one in this slot.
    Slot(u64),
}

impl fmt::Display for TokenChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => write!(f, "labelled {label:?}"),
            Self::Slot(id) => write!(f, "in slot {id}"),
        }
    }
}

/// A token that was found.
pub(super) struct Place {
    pub(super) library: Pkcs11,
    pub(super) slot: Slot,
    pub(super) label: String,
    info: TokenInfo,
}

/// Lends a library, which is loaded and started once in the life of the process.
///
/// It is never unloaded or finalized: libraries leave threads and exit handlers behind, and another part of the process
/// may use the same one. What `look` does, no other thread does at once: SoftHSM 2.6 aborts the process where two threads
/// list its slots.
pub(super) fn with_library<R>(
    path: &Path,
    look: impl FnOnce(&Pkcs11) -> Result<R, TokenError>,
) -> Result<R, TokenError> {
    static LOADED: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());
    let unusable = |why: String| TokenError::Library { path: path.to_owned(), why };
    // An absolute path: a bare name would be searched for in the system's directories.
    let file = path.canonicalize().map_err(|error| unusable(error.to_string()))?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = loaded.get(&file) {
        return look(library);
    }
    let library = Pkcs11::new(&file).map_err(|error| unusable(plain(&error)))?;
    match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(unusable(plain(&error))),
    }
    look(loaded.entry(file).or_insert(library))
}

/// Finds the one token that `choice` names.
pub(super) fn find(path: &Path, choice: &TokenChoice) -> Result<Place, TokenError> {
    let unusable = |error| TokenError::Library { path: path.to_owned(), why: plain(&error) };
    let (library, tokens) = with_library(path, |library| {
        let slots = library.get_slots_with_initialized_token().map_err(unusable)?;
        let described = slots.into_iter().map(|slot| Ok((slot, library.get_token_info(slot).map_err(unusable)?)));
        Ok((library.clone(), described.collect::<Result<Vec<_>, _>>()?))
    })?;
    let named = |(slot, info): &(Slot, TokenInfo)| format!("{:?} (slot {})", info.label(), slot.id());
    let found = tokens.iter().map(named).collect();
    let wanted = |(slot, info): &(Slot, TokenInfo)| match choice {
        TokenChoice::Label(label) => info.label() == label,
        TokenChoice::Slot(id) => slot.id() == *id,
    };
    let mut matching = tokens.into_iter().filter(wanted).collect::<Vec<_>>();
    match (matching.pop(), matching.is_empty()) {
        (Some((slot, info)), true) => Ok(Place { library, slot, label: info.label().to_owned(), info }),
        (Some((last, info)), false) => {
            let slots = matching.iter().map(|(slot, _)| slot).chain([&last]).map(|slot| slot.id().to_string());
            Err(TokenError::AmbiguousToken { label: info.label().to_owned(), slots: slots.collect() })
        }
        (None, _) => Err(TokenError::NoToken { wanted: choice.to_string(), found }),
    }
}

impl Place {
    /// Logs the process in: one attempt with the PIN, and none where a wrong one would lock the token. The login lasts
    /// while the session does.
    pub(super) fn log_in(&self, pin: &Pin) -> Result<Session, TokenError> {
        check_tries(&self.label, self.info.user_pin_locked(), self.info.user_pin_final_try())?;
        let call = |source| TokenError::Call { token: self.label.clone(), doing: "logging in", source };
        let session = self.library.open_ro_session(self.slot).map_err(call)?;
        match session.login(UserType::User, Some(pin.expose())) {
            Ok(()) => Ok(session),
            Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Err(TokenError::AlreadyOpen(self.label.clone())),
            Err(Error::Pkcs11(RvError::PinLocked, _)) => Err(TokenError::PinLocked(self.label.clone())),
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                Err(TokenError::WrongPin(self.label.clone()))
            }
            Err(error) => Err(call(error)),
        }
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
}
