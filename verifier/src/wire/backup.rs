//! Backups of a manager's store.

use keywitness_circuits::Timestamp;
use serde::{Deserialize, Serialize};

/// A backup that was made, or a store that was made from one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backup {
    /// The file, on the manager's machine.
    pub file: String,
    /// Number of the newest command in it.
    pub sequence: u64,
    /// When that command was applied.
    pub at: Timestamp,
    /// How many rows it has.
    pub rows: u64,
    /// How long the file is, in bytes.
    pub bytes: u64,
}
