//! How far an audit has come, so that the next one goes on from there.
//!
//! Progress is the auditor's own, and is kept apart from the archive: whoever hands over an archive could hand over forged progress with
//! it. It is bound to the Merkle root of what was verified and to the setting it was verified in, so that it counts for
//! nothing where the archive, the trust anchors or the parameters have changed since.

use std::{collections::BTreeMap, path::Path};

use keywitness_circuits::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    archive::{ArchiveError, write_whole},
    replay::Replayer,
    scratch::Scratch,
    tally::Tally,
    verify::SealEntry,
};
use crate::ledger::tables::{Rows, Table, Tables};

const VERSION: u32 = 1;

/// What was verified.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    version: u32,
    /// Digest of anchors and parameters.
    pub(crate) setting: Digest,
    /// How many entries were verified.
    pub(crate) sequence: u64,
    /// The log's Merkle root over them.
    pub(crate) root: Digest,
    /// The largest checkpoint that was ever verified: its size and root.
    pub(crate) newest: (u64, Digest),
    /// What was counted.
    pub(crate) tally: Tally,
    /// The state after them: table code, key, value.
    rows: Vec<(u8, Vec<u8>, Vec<u8>)>,
    /// State roots that seals further on must name.
    pub(crate) roots: BTreeMap<u64, Digest>,
}

/// How large the largest checkpoint was that an audit with progress in this file has verified.
pub fn newest(path: &Path) -> Option<u64> {
    Progress::read(path).map(|progress| progress.newest.0)
}

impl Progress {
    pub(crate) fn new(
        setting: Digest,
        (sequence, root): (u64, Digest),
        newest: (u64, Digest),
        tally: Tally,
        replayer: &Replayer,
    ) -> Self {
        let all = Table::ALL.iter().flat_map(|table| {
            let rows = replayer.tables().range(*table, &[], &[], usize::MAX).unwrap_or_default();
            rows.into_iter().map(|(key, value)| (table.code(), key, value))
        });
        Self {
            version: VERSION,
            setting,
            sequence,
            root,
            newest,
            tally,
            rows: all.collect(),
            roots: replayer.roots().clone(),
        }
    }

    /// Whether every seal further on is of a state further on, of the state here, or of one whose root is known. While a seal was
    /// not in the archive yet, nobody knew that its root would be asked for.
    pub(crate) fn knows(&self, seals: &[SealEntry]) -> bool {
        let further = seals.iter().filter(|seal| seal.entry > self.sequence);
        further.map(|seal| seal.sequence).all(|of| of >= self.sequence || self.roots.contains_key(&of))
    }

    /// The state.
    pub(crate) fn state(&self) -> Option<Scratch> {
        let mut state = Scratch::default();
        for (code, key, value) in &self.rows {
            let table = Table::ALL.iter().find(|table| table.code() == *code)?;
            state.put(*table, key, value).ok()?;
        }
        Some(state)
    }

    /// Reads progress; none where there is none, or where it is damaged or of another program: then the audit begins anew.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let (digest, body) = bytes.split_first_chunk::<32>()?;
        if Sha256::digest(body).as_slice() != digest {
            return None;
        }
        postcard::from_bytes::<Self>(body).ok().filter(|progress| progress.version == VERSION)
    }

    /// Writes progress, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), ArchiveError> {
        let failed = |error: postcard::Error| ArchiveError::File {
            path: path.to_owned(),
            error: std::io::Error::other(error.to_string()),
        };
        let body = postcard::to_stdvec(self).map_err(failed)?;
        write_whole(path, &[Sha256::digest(&body).as_slice(), &body].concat())
    }
}
