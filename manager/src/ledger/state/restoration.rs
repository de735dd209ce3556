//! That the ledger was taken back to a backup.

use keywitness_circuits::Timestamp;
use serde::{Deserialize, Serialize};

/// The latest restoration. Whatever was given out before it and could be used once is void.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RestorationRow {
    /// Counts from 1.
    pub number: u64,
    /// Number of the newest command that the backup had.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
}
