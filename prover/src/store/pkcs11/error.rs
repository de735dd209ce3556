//! What can go wrong with a token, and what to do about it.

use std::path::PathBuf;

use cryptoki::error::Error;
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
    /// Several tokens have the label.
    #[error("several tokens are labelled {label}: name one by its slot ({})", list(slots))]
    AmbiguousToken {
        /// The label.
        label: String,
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
