//! Why nothing was signed.

/// Why nothing was signed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SignerError {
    /// It has no such key.
    #[error(
        "the signer has no key {0}: restore its file token-key-{0}.pem, or make another key (keywitness token-key rotate)"
    )]
    UnknownKey(String),
    /// A key's file is no key that signs here.
    #[error("{0} is no P-256 or Ed25519 key in PKCS#8; restore it, or remove it to make a new one")]
    NoKey(String),
    /// What it was asked to sign is not what its key is for.
    #[error("the signer refuses: {0}")]
    Refused(String),
    /// A checkpoint does not follow on the one that was signed last.
    #[error(
        "the log of {found} entries does not begin with the one of {before} entries that was signed last: its data was \
         restored from an old copy, or rewritten. Restore the newest data; to sign this log all the same means to fork it"
    )]
    Fork {
        /// Size of the last one.
        before: u64,
        /// Size of this one.
        found: u64,
    },
    /// Its process cannot be reached.
    #[error("the signer is away: {0}")]
    Away(String),
    /// It cannot read or write a file, or its token failed.
    #[error("the signer failed: {0}")]
    Failed(String),
}
