//! What can be wrong with something a stranger sent.

/// Why an encoding, an instance or a proof was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not the canonical encoding of anything.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// The thing that was being read.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The format version is not one this build reads.
    #[error("format version {0} is not supported; this build reads version 1")]
    UnsupportedVersion(u16),
    /// No statement of that name is registered.
    #[error("statement kind {0:?} is not known to this build")]
    UnknownStatement(String),
    /// The instance does not fit the statement kind.
    #[error("the instance does not fit the statement: {0}")]
    WrongInstance(&'static str),
    /// The claim names another verifying key than the one in force here.
    #[error("the claim is made under another verifying key than the one in force")]
    WrongVerifyingKey,
    /// The witness does not satisfy the statement; no proof was made.
    #[error("the witness does not satisfy the statement: {0}")]
    WitnessRefused(&'static str),
    /// Some witnesses of a proof of many keys do not satisfy it; no proof was made.
    #[error("{} of the keys are not those of the claim, the first in place {}", culprits.len(), culprits.first().unwrap_or(&0))]
    KeysRefused {
        /// The places of those keys in the claim, from 0, in rising order.
        culprits: Vec<usize>,
    },
    /// The proof does not verify.
    #[error("the proof does not verify")]
    ProofRefused,
    /// Parameters that this statement kind needs were not loaded.
    #[error("no {0} parameters are loaded")]
    MissingParameters(&'static str),
    /// A parameter file is unusable.
    #[error("parameter file: {0}")]
    Parameters(String),
}

impl Error {
    pub(crate) const fn malformed(what: &'static str, why: &'static str) -> Self {
        Self::Malformed { what, why }
    }
}
