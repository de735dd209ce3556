//! Where an audit begins whose first openings are gone: with the state that the log seals after some entry.
//!
//! Nothing before that entry is verified. What is relied on instead is one root over the state, which an entry of the log
//! names: the snapshot must have that root, and the replay from it must come to the root of the checkpoint, which also
//! commits to everything before. Who cosigned the checkpoint made the state's root by a replay of their own.

use std::{fs::File, io::BufReader};

use keywitness_circuits::{Digest, Timestamp};
use keywitness_verifier::{
    log::{CompactRange, StateSeal, verify_consistency},
    wire::ConsistencyProof,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    archive::{Archive, ArchiveError},
    scratch::Scratch,
    verify::{Commitment, SealEntry, VerifyError},
};
use crate::{
    files,
    ledger::{merkle::Tree, seal::read_snapshot},
};

/// The sealed state that an audit began with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct FromSeal {
    /// The entry after which the state was so: it, and all before it, are not verified.
    pub sequence: u64,
    /// The root over the state.
    pub root: Digest,
    /// The entry of the log that names this root.
    pub entry: u64,
    /// When that was entered.
    pub at: Timestamp,
}

/// A snapshot, read.
pub(super) struct Base {
    pub(super) tables: Scratch,
    pub(super) seal: StateSeal,
    /// The log's tree up to there.
    pub(super) range: CompactRange,
}

impl Base {
    /// Reads an archive's snapshot, if it begins with one.
    pub(super) fn read(archive: &Archive) -> Result<Option<Self>, VerifyError> {
        let first = archive.base()?;
        if first == 0 {
            return Ok(None);
        }
        let path = archive.snapshot();
        let file = File::open(&path).map_err(|error| ArchiveError::File { path, error })?;
        let mut tables = Scratch::default();
        let unusable = |why: &dyn std::fmt::Display| VerifyError::Snapshot(why.to_string());
        let seal = read_snapshot(BufReader::with_capacity(1 << 20, file), &mut tables).map_err(|why| unusable(&why))?;
        let range = Tree(&tables).range()?;
        if (seal.sequence, range.size()) != (first, first) {
            return Err(unusable(&"its tree is not that of the log up to there"));
        }
        Ok(Some(Self { tables, seal, range }))
    }

    /// The entry of the log that seals this very state.
    pub(super) fn sealed(&self, seals: &[SealEntry]) -> Result<FromSeal, VerifyError> {
        let StateSeal { sequence, root } = self.seal;
        let entry = seals.iter().find(|seal| seal.sequence == sequence && seal.done);
        let entry = entry.ok_or(VerifyError::Unsealed { sequence, root })?;
        if entry.root != root {
            return Err(VerifyError::OtherState { sequence, entry: entry.entry, expected: entry.root, found: root });
        }
        Ok(FromSeal { sequence, root, entry: entry.entry, at: entry.at })
    }

    /// What was verified from here counts for nothing from elsewhere.
    pub(super) fn setting(&self, setting: Digest) -> Digest {
        let mut hash = Sha256::new_with_prefix(setting.0);
        hash.update(self.seal.sequence.to_be_bytes());
        hash.update(self.seal.root.0);
        Digest(hash.finalize().into())
    }

    /// Sees to it that the log is the one that an earlier audit knew up to a smaller tree.
    pub(super) fn linked(
        &self,
        archive: &Archive,
        (before, root): (u64, Digest),
        checkpoint: &Commitment,
    ) -> Result<(), VerifyError> {
        let from = self.range.size();
        if before == 0 || before > from {
            return Ok(());
        }
        if before == from {
            return if root == self.range.root() { Ok(()) } else { Err(VerifyError::Rewritten { size: before }) };
        }
        let path = archive.consistency();
        let read = files::read_if_there(&path).map_err(|error| ArchiveError::File { path, error })?;
        let proof = read.and_then(|text| serde_json::from_str::<ConsistencyProof>(&text).ok());
        let proof = proof.filter(|proof| (proof.from, proof.to) == (before, checkpoint.size));
        let proof = proof.ok_or(VerifyError::Unlinked { before, from })?;
        verify_consistency((before, &root), (checkpoint.size, &checkpoint.root), &proof.hashes)
            .map_err(|_| VerifyError::Rewritten { size: before })
    }
}
