//! The transparency log, as far as anyone can check it without a word from the manager: the Merkle tree and its proofs
//! (RFC 6962, RFC 9162), tiles (C2SP tlog-tiles), signed notes, checkpoints and cosignatures (C2SP signed-note,
//! tlog-checkpoint, tlog-cosignature), proofs that travel alone (C2SP tlog-proof), and openings. No I/O.
//!
//! Entry number `i` of the log, from 0, is the 32 bytes H(salt‖opening) of command number `i + 1`. The entry alone tells
//! nothing of the command; its [`Opening`] does, to whom the manager shows it.

mod checkpoint;
mod note;
mod opening;
mod proof;
mod tile;
mod tree;

pub use checkpoint::{Checkpoint, CheckpointPolicy, NotTrusted, StateSeal, VerifiedCheckpoint};
pub use note::{Algorithm, Note, NoteKey, NoteSignature, VerifierKey};
pub use opening::{MAX_OPENING, OPENINGS_TYPE, Opening, read_page, write_page};
pub use proof::TlogProof;
pub use tile::{TILE_HEIGHT, TILE_WIDTH, Tile, TileKind};
pub use tree::{
    CompactRange, Node, ProofError, consistency_proof, empty_root, inclusion_proof, leaf_hash, node_hash,
    verify_consistency, verify_inclusion,
};

use data_encoding::BASE64;
use keywitness_circuits::Error;

/// The bytes of padded base64 (RFC 4648, section 4) in its one spelling: the library alone also takes padding in the
/// middle, as of texts strung together.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.as_bytes()).ok().filter(|bytes| BASE64.encode(bytes) == text)
}

const fn malformed(what: &'static str, why: &'static str) -> Error {
    Error::Malformed { what, why }
}
