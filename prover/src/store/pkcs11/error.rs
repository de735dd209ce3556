//! What can go wrong with a token, and what to do about it.

use std::path::PathBuf;

use cryptoki::error::{Error, RvError};
use keywitness_circuits::KeyAlgorithm;
use keywitness_verifier::wire::KeyRef;

/// Why a PKCS#11 token cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The library is no PKCS#11 library, or does not start.
    #[error("the PKCS#11 library {path} cannot be used: {why}")]
    Library {
        /// Where.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// No token of that label or slot.
    #[error("there is no token {wanted}; the library shows {}", list(found))]
    NoToken {
        /// What was asked for.
        wanted: String,
        /// Labels and slots of the tokens that are there.
        found: Vec<String>,
    },
    /// Several tokens are what was asked for.
    #[error("there are several tokens {wanted}: name one by its serial number, or its slot ({})", list(slots))]
    AmbiguousToken {
        /// What was asked for.
        wanted: String,
        /// Their slots.
        slots: Vec<String>,
    },
    /// A login belongs to the process: a second one would not have its PIN checked.
    #[error("this process has token {0} open already")]
    AlreadyOpen(String),
    /// The PIN is wrong.
    #[error(
        "the PIN of token {0} is wrong; it was tried once and will not be tried again, since tokens lock after a few \
         wrong ones"
    )]
    WrongPin(String),
    /// The PIN is locked.
    #[error("the PIN of token {0} is locked; its security officer can unlock it")]
    PinLocked(String),
    /// One more wrong PIN would lock the token.
    #[error(
        "token {0} locks at the next wrong PIN, so none is tried; log in once with the token's own tool, which resets \
         the count"
    )]
    FinalTry(String),
    /// The PIN's text cannot be one.
    #[error("{0}")]
    UnusablePin(String),
    /// No key of that name and epoch.
    #[error("token {token} has no key {} at epoch {}; it has {}", .key.key, .key.epoch, list(there))]
    NoSuchKey {
        /// The token's label.
        token: String,
        /// The key.
        key: KeyRef,
        /// What is there.
        there: Vec<String>,
    },
    /// Several keys have the name and epoch.
    #[error("token {token} has several keys {} at epoch {}; remove all but one, or give them other IDs", .key.key, .key.epoch)]
    AmbiguousKey {
        /// The token's label.
        token: String,
        /// The key.
        key: KeyRef,
    },
    /// The key's attributes make it unfit.
    #[error("key {} at epoch {} is refused: {why}", .key.key, .key.epoch)]
    Refused {
        /// The key.
        key: KeyRef,
        /// Why.
        why: String,
    },
    /// There is no single public key object beside the private one.
    #[error("key {} at epoch {} has no public key object of its label and ID, or several: {why}", .key.key, .key.epoch)]
    NoPublicKey {
        /// The key.
        key: KeyRef,
        /// Why.
        why: &'static str,
    },
    /// The key does another operation.
    #[error("key {} at epoch {} is a {algorithm} key, which does not do that", .key.key, .key.epoch)]
    WrongAlgorithm {
        /// The key.
        key: KeyRef,
        /// Its algorithm.
        algorithm: KeyAlgorithm,
    },
    /// Keys of this algorithm are not used in a token.
    #[error("keys in a token are ed25519, p256, secp256k1 and AES-CMAC keys; {0} keys live in the store's file")]
    NoSuchAlgorithm(KeyAlgorithm),
    /// What came back has the wrong form.
    #[error("token {token} answered {doing} with {length} bytes")]
    WrongLength {
        /// The token's label.
        token: String,
        /// What it was asked.
        doing: &'static str,
        /// How many bytes came.
        length: usize,
    },
    /// The token went away and has not come back.
    #[error("the token {token} is gone: {why}")]
    Stranded {
        /// Which one.
        token: String,
        /// Why it cannot be used again.
        why: String,
    },
    /// The token was there, and its login failed in a way that may have counted against the PIN.
    #[error(
        "token {token} does not let us in ({}); the PIN was tried once and will not be tried again, since tokens lock after a \
         few wrong ones",
        plain(source)
    )]
    LoginFailed {
        /// The token's label.
        token: String,
        /// What it says.
        source: Error,
    },
    /// The token came back, and its login failed: its PIN may be another one.
    #[error(
        "token {token} is not logged in to again, since tokens lock after a few wrong PINs ({why}): restart what uses it, with the \
         right one"
    )]
    NoLoginAgain {
        /// Which one.
        token: String,
        /// What came of the login.
        why: String,
    },
    /// No key wraps others as it should.
    #[error(
        "token {token} has no AES key keywitness-wrap that wraps and unwraps and does nothing else ({why}); its operator puts the \
         same one into every token of the cluster"
    )]
    NoWrappingKey {
        /// The token's label.
        token: String,
        /// What is wrong.
        why: String,
    },
    /// A URI names no token, or not as it should.
    #[error("{0}")]
    Uri(String),
    /// A call failed.
    #[error("token {token} failed while {doing}: {}", plain(source))]
    Call {
        /// The token's label.
        token: String,
        /// What it was asked.
        doing: &'static str,
        /// What it says.
        source: Error,
    },
}

/// What a failure says about whether the token is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gone {
    /// The login is over.
    Yes,
    /// It may be, and so may anything else: that can be asked.
    Perhaps,
    /// The token answered.
    No,
}

impl TokenError {
    pub(super) fn gone(&self) -> Gone {
        let code = match self {
            Self::Call { source: Error::Pkcs11(code, _), .. } => code,
            // A token without its objects looks as one that never had any.
            Self::NoSuchKey { .. } => return Gone::Perhaps,
            _ => return Gone::No,
        };
        match code {
            RvError::UserNotLoggedIn => Gone::Yes,
            code if is_away(*code) => Gone::Yes,
            RvError::ObjectHandleInvalid
            | RvError::KeyHandleInvalid
            | RvError::GeneralError
            | RvError::FunctionFailed
            | RvError::DeviceError => Gone::Perhaps,
            _ => Gone::No,
        }
    }

    /// What came of a login that failed, of which nobody but the token knows whether it counts against the PIN.
    pub(in crate::store) fn of_login(&self) -> Option<String> {
        match self {
            Self::WrongPin(_) => Some("the PIN is wrong".to_owned()),
            Self::PinLocked(_) => Some("the PIN is locked".to_owned()),
            Self::FinalTry(_) => Some("it locks at the next wrong PIN".to_owned()),
            Self::LoginFailed { source, .. } => Some(plain(source)),
            _ => None,
        }
    }

    /// Whether the token may do it later, without anybody's doing but putting it back.
    pub(in crate::store) fn may_pass(&self) -> bool {
        matches!(self, Self::Stranded { .. }) || matches!(self, Self::Call { .. }) && self.gone() != Gone::No
    }

    /// Whether a key object is no longer what it was when it was found.
    pub(super) fn is_stale(&self) -> bool {
        matches!(
            self,
            Self::Call { source: Error::Pkcs11(RvError::ObjectHandleInvalid | RvError::KeyHandleInvalid, _), .. }
        )
    }
}

/// Whether a return code says that token, session or library is no longer there, and nothing else.
pub(super) const fn is_away(code: RvError) -> bool {
    matches!(
        code,
        RvError::DeviceRemoved
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::SlotIdInvalid
            | RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::CryptokiNotInitialized
    )
}

/// An error of a PKCS#11 call by the name of its return code: the specification's prose about each is long.
pub(super) fn plain(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{function} returned {code:?}"),
        other => other.to_string(),
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
