//! Rows of the transparency log.

use keywitness_circuits::{Digest, Timestamp};
use keywitness_verifier::log::CompactRange;
use serde::{Deserialize, Serialize};

/// The Merkle tree over all entries so far, as far as it must be known to go on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Frontier(pub CompactRange);

/// A root over the whole state after some command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealRow {
    /// Number of that command.
    pub sequence: u64,
    /// The root.
    pub root: Digest,
    /// Number of the command that ordered the seal.
    pub ordered: u64,
    /// When it was ordered.
    pub at: Timestamp,
}

/// Which openings were deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RetentionRow {
    /// The openings up to this number, and with it.
    pub through: u64,
}
