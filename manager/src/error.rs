//! Why a manager does not start.

use std::{io, path::PathBuf};

use keywitness_verifier::wire::Problem;

use crate::ledger::Fault;

/// Why a manager does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration, or the data's, does not allow it.
    #[error("{0}")]
    Refused(String),
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The log's key, or what it signed last, is unusable.
    #[error("{}: {why}; restore the file", path.display())]
    LogKey {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// TLS cannot be spoken as configured.
    #[error("TLS: {0}")]
    Tls(String),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] Fault),
    /// A first command was refused.
    #[error(transparent)]
    Problem(#[from] Problem),
}
