//! The transparency log's answers in JSON. Checkpoints are signed notes, tiles and openings are bytes.

use keywitness_circuits::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

/// The keys that sign for the log, as C2SP signed-note verifier keys. Whoever relies on the log has them from elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogKey {
    /// The log's own.
    pub log: String,
    /// Those of the witnesses that the manager takes cosignatures of.
    pub witnesses: Vec<String>,
}

/// Where an entry is in the tree (RFC 6962, section 2.1.1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InclusionProof {
    /// The entry's number, from 0.
    pub index: u64,
    /// How many entries the tree is of.
    pub size: u64,
    /// The entry: the leaf's hash is SHA-256 over a zero byte and these 32.
    pub entry: Digest,
    /// From the leaf to the root.
    pub hashes: Vec<Digest>,
}

/// That one tree begins with another (RFC 6962, section 2.1.2).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConsistencyProof {
    /// Size of the older tree.
    pub from: u64,
    /// Size of the newer tree.
    pub to: u64,
    /// The proof.
    pub hashes: Vec<Digest>,
}

/// The seals of the state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seals {
    /// The openings up to this number were deleted; 0 where none were.
    pub deleted_through: u64,
    /// Oldest first.
    pub seals: Vec<SealInfo>,
    /// The number of the command whose state is being sealed now: it was given before any checkpoint of a larger tree, so
    /// that whoever replays the log up to such a checkpoint knows to make this root too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
}

/// A root over the state after some command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealInfo {
    /// Number of that command.
    pub sequence: u64,
    /// The root.
    pub root: Digest,
    /// Number of the command that ordered the seal.
    pub ordered: u64,
    /// When.
    pub at: Timestamp,
    /// Whether the state itself can be fetched.
    pub snapshot: bool,
}

/// Up to where openings are deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Retained {
    /// The openings up to this number.
    pub deleted_through: u64,
}
