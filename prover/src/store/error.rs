//! What can go wrong with a store, and what to do about it.

use std::{io, path::PathBuf};

use keywitness_circuits::{KeyAlgorithm, KeyId};
use keywitness_verifier::wire::KeyRef;

/// Why a store refuses.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refuses.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// A store is there already.
    #[error("{0} exists already; open it, or choose another path")]
    Exists(PathBuf),
    /// Another process works on the store.
    #[error("{0} is in use by another process; stop that one first (an agent keeps its store open)")]
    InUse(PathBuf),
    /// The store was opened for reading.
    #[error("the store was opened for reading only")]
    ReadOnly,
    /// Not a store at all.
    #[error("{path} is not a key store: {why}")]
    NotAStore {
        /// Where.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A later format.
    #[error("{path} has store format {version}; this build reads format 1, so use a newer build")]
    UnknownVersion {
        /// Where.
        path: PathBuf,
        /// The version it names.
        version: u16,
    },
    /// The file asks for more work than a store of ours ever does.
    #[error("{0} asks for more memory or time than this build gives to a passphrase; do not trust this file")]
    Excessive(PathBuf),
    /// The store is unlocked by other means.
    #[error("{path} is unlocked by a {needed}; give that")]
    WrongMeans {
        /// Where.
        path: PathBuf,
        /// What unlocks it.
        needed: &'static str,
    },
    /// Authentication failed.
    #[error("{path} does not open: the {means} is wrong, or the file is damaged (then restore it from a backup)")]
    DoesNotOpen {
        /// Where.
        path: PathBuf,
        /// What was tried.
        means: &'static str,
    },
    /// A passphrase that is easily guessed.
    #[error("a passphrase needs at least {0} characters")]
    ShortPassphrase(usize),
    /// A key file that others may read.
    #[error("{path} can be read by others (mode {mode:03o}); run: chmod 600 {path}")]
    KeyFileTooOpen {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A key file of the wrong form.
    #[error("{0} is not a key file: one has exactly 32 bytes")]
    NotAKeyFile(PathBuf),
    /// A key file that a crash left empty.
    #[error("{0} is an empty key file, as a crash may leave it; if no store was made with it, remove it and try again")]
    EmptyKeyFile(PathBuf),
    /// A key of that name is there.
    #[error("key {0} exists already; rotate it to give it a new epoch, or choose another name")]
    KeyExists(KeyId),
    /// The store's copy of a key differs.
    #[error("key {} at epoch {} exists already with other material", .0.key, .0.epoch)]
    KeyDiffers(KeyRef),
    /// A copy of a key is not of the key that the cluster's HSMs prove, or does not open.
    #[error("what was sent as key {0} is not the key that the cluster's HSMs prove, or was not sealed to this HSM")]
    NotTheKey(KeyRef),
    /// A token's key is not copied.
    #[error("key {0} lives in the token, which does not give it out; make it there, or let the token copy it")]
    TokenKeyStays(KeyRef),
    /// The identity key is no key like the others.
    #[error(
        "keywitness-identity is the HSM's identity: an ed25519 key, made before the HSM enrols, and neither rotated nor removed; an HSM that \
         is to have another identity returns by a new join token with another store"
    )]
    IdentityStays,
    /// A key that others are derived from.
    #[error("key {derived} is derived from key {key}, which is not removed before it")]
    MasterNeeded {
        /// The master.
        key: KeyRef,
        /// The derived key.
        derived: KeyRef,
    },
    /// A request for copies that is not answered.
    #[error("no copy is given: {0}")]
    NotGiven(&'static str),
    /// A copy that a token wrapped came to a store without one.
    #[error("key {0} was wrapped for a PKCS#11 token, and this HSM's store has none: name it with --store pkcs11:…")]
    NeedsToken(KeyRef),
    /// Nothing to rotate.
    #[error("there is no key {0} to rotate")]
    NothingToRotate(KeyId),
    /// A rotation keeps the algorithm.
    #[error("key {key} is of algorithm {known}; a rotation keeps the algorithm")]
    OtherAlgorithm {
        /// The key.
        key: KeyId,
        /// Its algorithm.
        known: KeyAlgorithm,
    },
    /// There is no such key.
    #[error("there is no key {} at epoch {}", .0.key, .0.epoch)]
    NoSuchKey(KeyRef),
    /// The material cannot be read.
    #[error("the key material cannot be read: {0}")]
    Unreadable(&'static str),
    /// The material could be found by searching.
    #[error("the key is refused: {0}; its fingerprint could be searched")]
    WeakKey(&'static str),
    /// The key is of an algorithm that does not sign.
    #[error("a {0} key does not sign")]
    NotASigningKey(KeyAlgorithm),
    /// The key is of an algorithm that computes no CMAC.
    #[error("a {0} key computes no CMAC, so there is no beacon that it could answer")]
    NotACmacKey(KeyAlgorithm),
    /// A key of that algorithm cannot be shared.
    #[error("a {0} key cannot be dealt: only ristretto255 keys are shared among holders")]
    NotDealt(KeyAlgorithm),
    /// What needs a place in a trust domain.
    #[error("this store is not enrolled")]
    NotEnrolled,
    /// A share belongs to one holder.
    #[error("share {0} was dealt to this HSM alone, and is not copied to another")]
    ShareStays(KeyId),
    /// A sharing does not work out.
    #[error(transparent)]
    Custody(#[from] keywitness_custody::Error),
    /// A share is a part of another secret: it is dealt to its holder, with the dealing that fixes it.
    #[error("a {0} is dealt, with its commitments: it cannot be generated or imported as a key")]
    ShareIsDealt(KeyAlgorithm),
    /// There is no key to derive from.
    #[error("there is no key {0} to derive from")]
    NoSuchMaster(KeyId),
    /// A rotation keeps where a key comes from.
    #[error("key {0} is not derived from that master for that trust domain; a rotation keeps where a key comes from")]
    OtherDerivation(KeyId),
    /// A derived key was sent to a store without its master.
    #[error("key {} at epoch {} is derived from key {}, which must be copied first", .key.key, .key.epoch, .master.key)]
    MasterMissing {
        /// The derived key.
        key: KeyRef,
        /// Its master.
        master: KeyRef,
    },
    /// The message looks like one of the protocol's own.
    #[error("messages that begin with keywitness/ are the protocol's own, and are never signed for a client")]
    ReservedMessage,
    /// An envelope of a proof that the proving process did not make, or made before it was started anew.
    #[error(
        "the proving process seals its own proofs alone; where it was started anew meanwhile, the proof is made again"
    )]
    NotProvenHere,
    /// The context is about another key than the one that should prove it.
    #[error("the claim speaks of another key than the one that should prove it")]
    ForeignClaim,
    /// A key's attributes are not those that a claim names.
    #[error(
        "the attributes of key {0} are not those that were enrolled: somebody has changed them, or put another key in its place; \
         where that is wanted, rotate it, so that it is enrolled at the next epoch"
    )]
    AttributesChanged(KeyRef),
    /// The proof system refuses.
    #[error(transparent)]
    Proof(#[from] keywitness_circuits::Error),
    /// The token refuses, or fails.
    #[error(transparent)]
    Token(#[from] super::pkcs11::TokenError),
    /// A token refused the PIN, says a proving process; none is started after it.
    #[error("{0}")]
    PinRefused(String),
    /// The token is away, says a proving process.
    #[error("{0}")]
    TokenAway(String),
    /// The proving process is gone, or does not answer; another one is started.
    #[error("the proving process does not answer now: {0}")]
    Away(String),
    /// Isolation is required, and not all of it is in force.
    #[error("isolation is required, and is not whole here: {0}")]
    NotIsolated(String),
    /// What a proving process says.
    #[error("{0}")]
    Process(String),
    /// The cipher or the generator failed.
    #[error("the store cannot be sealed: {0}")]
    Sealing(&'static str),
}

impl StoreError {
    /// Whether a token took a PIN for a wrong one, or may have: another try could lock it.
    pub fn is_of_login(&self) -> bool {
        match self {
            Self::PinRefused(_) => true,
            Self::Token(error) => error.of_login().is_some(),
            _ => false,
        }
    }

    /// Whether the store may do it later, without anybody's doing but bringing back what was taken away.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Away(_) | Self::TokenAway(_) => true,
            Self::Token(error) => error.may_pass(),
            _ => false,
        }
    }

    /// An I/O error at `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
