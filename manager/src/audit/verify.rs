//! Verifying an archive: the whole log, from its first entry or from where the last audit of it ended.

use std::{collections::BTreeMap, iter::Take, path::PathBuf};

use keywitness_circuits::{Digest, Timestamp};
use keywitness_verifier::log::{CompactRange, Opening, leaf_hash};
use serde::Serialize;

use super::{
    Accepted, Audit, AuditError, Checker, Divergence, Offence, Replayer, Tally,
    archive::{Archive, ArchiveError, Entries, entry_of},
    progress::Progress,
    run::CHUNK,
};
use crate::ledger::{Command, tables::Fault};

/// After how many entries progress is written, where nothing else is wanted.
pub const SAVE_EVERY: u64 = 16 * CHUNK as u64;

/// No longer is the encoding of a command that seals a state: number and root, and on whose behalf.
const MAX_SEAL: usize = 128;

/// What a checkpoint commits to, after its signatures were checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Commitment {
    /// How many entries.
    pub size: u64,
    /// The Merkle root over them.
    pub root: Digest,
}

/// Why an archive was not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The log diverges.
    #[error(transparent)]
    Diverges(Box<Divergence>),
    /// The archive cannot be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive has too few entries.
    #[error("the archive has {found} entries, and its checkpoint commits to {expected}; fetch the rest")]
    Incomplete {
        /// The checkpoint's size.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// The checkpoint is older than one that was verified before.
    #[error("this checkpoint commits to {found} entries, and one of {before} was verified before: it is an old one")]
    OldCheckpoint {
        /// What was verified before.
        before: u64,
        /// The size of this one.
        found: u64,
    },
    /// The log was rewritten since the audit before.
    #[error(
        "the first {size} entries are others than those of a checkpoint that was verified before: the manager shows \
         different logs, or has rewritten its own"
    )]
    Rewritten {
        /// How many entries the earlier checkpoint had.
        size: u64,
    },
    /// Checks could not be done.
    #[error(transparent)]
    Audit(AuditError),
    /// The replayed state cannot be read.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<AuditError> for VerifyError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Diverges(divergence) => Self::Diverges(divergence),
            other => Self::Audit(other),
        }
    }
}

/// What was found of a log that does not diverge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// What the log's checkpoint commits to, and every entry of it was verified.
    pub checkpoint: Commitment,
    /// The entry after which this run went on from an earlier one; 0 where it began with the first.
    pub resumed_after: u64,
    /// What was counted, earlier runs included.
    #[serde(flatten)]
    pub tally: Tally,
}

impl Report {
    /// Whether every proof was checked again.
    pub fn complete(&self) -> bool {
        self.tally.unchecked() == 0
    }

    /// From when to when the entries are.
    pub fn covers(&self) -> Option<(Timestamp, Timestamp)> {
        self.tally.first.zip(self.tally.last)
    }
}

/// A verification of one archive.
pub struct Verification<'a> {
    /// What to verify.
    pub archive: &'a Archive,
    /// What its checkpoint commits to.
    pub checkpoint: Commitment,
    /// What to check proofs with.
    pub checker: &'a Checker,
    /// What the trust anchors accept.
    pub accepted: Accepted,
    /// Digest of the trust anchors: progress made with others is not used.
    pub anchors: Digest,
    /// Where progress is kept; none to begin with the first entry and keep none.
    pub progress: Option<PathBuf>,
    /// After how many entries progress is written: [`SAVE_EVERY`].
    pub save_every: u64,
}

impl Verification<'_> {
    /// Verifies the archive. `told` hears, from time to time, how many entries are done.
    ///
    /// # Errors
    /// [`VerifyError::Diverges`] for the first entry that is wrong; the others say what to do.
    pub fn run(&self, mut told: impl FnMut(u64)) -> Result<Report, VerifyError> {
        let setting = self.checker.setting(&self.anchors);
        let earlier = self.progress.as_deref().and_then(Progress::read);
        let newest = earlier.as_ref().map(|progress| progress.newest);
        if let Some((before, _)) = newest
            && before > self.checkpoint.size
        {
            return Err(VerifyError::OldCheckpoint { before, found: self.checkpoint.size });
        }
        let usable =
            earlier.filter(|progress| progress.setting == setting && progress.sequence <= self.checkpoint.size);
        let mut tree = CompactRange::default();
        let seals = self.seals()?;
        let resumed = self.resume(usable, &mut tree)?.filter(|progress| progress.knows(&seals));
        let resumed_after = resumed.as_ref().map_or(0, |progress| progress.sequence);
        let state = resumed.and_then(|progress| Some((progress.state()?, progress.roots, progress.tally)));
        let (mut replayer, tally) = match state {
            Some((state, roots, tally)) => (Replayer::resume(state, self.accepted.clone(), roots), tally),
            None => (Replayer::new(self.accepted.clone()), Tally::default()),
        };
        replayer.expect_seals(seals.into_values().collect())?;
        let mut audit = Audit::new(self.checker, replayer, tally);
        let resumed_after = audit.replayer().sequence()?.min(resumed_after);
        let mut entries = self.openings(self.checkpoint.size)?;
        let (mut done, step) =
            (CompactRange::default(), CHUNK.min(usize::try_from(self.save_every.max(1)).unwrap_or(CHUNK)));
        let mut saved = resumed_after;
        loop {
            let chunk = entries.by_ref().take(step).collect::<Result<Vec<Opening>, _>>()?;
            if chunk.is_empty() {
                break;
            }
            let mut fresh = Vec::with_capacity(chunk.len());
            for opening in chunk {
                append(&mut done, &opening);
                if let Some((before, root)) = newest
                    && before == done.size()
                    && root != done.root()
                {
                    return Err(VerifyError::Rewritten { size: before });
                }
                if done.size() > resumed_after {
                    fresh.push(entry_of(&opening)?);
                }
            }
            audit.advance(&fresh)?;
            told(done.size());
            if done.size() >= saved + self.save_every {
                audit.settle()?;
                self.save(setting, &done, newest, &audit)?;
                saved = done.size();
            }
        }
        audit.settle()?;
        if done.size() < self.checkpoint.size {
            return Err(VerifyError::Incomplete { expected: self.checkpoint.size, found: done.size() });
        }
        if done.root() != self.checkpoint.root {
            return Err(VerifyError::Diverges(Box::new(self.other_root(&done, audit.tally()))));
        }
        self.save(setting, &done, Some((done.size(), done.root())), &audit)?;
        Ok(Report { checkpoint: self.checkpoint, resumed_after, tally: audit.tally().clone() })
    }

    /// Reads as many entries as were verified before, and gives the progress back if they are the same.
    fn resume(&self, progress: Option<Progress>, tree: &mut CompactRange) -> Result<Option<Progress>, VerifyError> {
        let Some(progress) = progress else { return Ok(None) };
        for entry in self.openings(progress.sequence)? {
            append(tree, &entry?);
        }
        Ok((tree.size() == progress.sequence && tree.root() == progress.root).then_some(progress))
    }

    /// The entries that seal a state, and after which entry that state was. A seal is entered after the state that it is of, so
    /// that a first look through the archive finds them.
    fn seals(&self) -> Result<BTreeMap<u64, u64>, VerifyError> {
        let mut seals = BTreeMap::new();
        for opening in self.openings(self.checkpoint.size)? {
            let opening = opening?;
            if opening.command.len() <= MAX_SEAL
                && let Command::Seal { sequence, .. } = entry_of(&opening)?.submission.command.bare()
            {
                seals.insert(opening.sequence, *sequence);
            }
        }
        Ok(seals)
    }

    fn openings(&self, count: u64) -> Result<Take<Entries>, ArchiveError> {
        Ok(self.archive.entries()?.take(usize::try_from(count).unwrap_or(usize::MAX)))
    }

    fn save(
        &self,
        setting: Digest,
        done: &CompactRange,
        newest: Option<(u64, Digest)>,
        audit: &Audit<'_>,
    ) -> Result<(), VerifyError> {
        let Some(path) = &self.progress else { return Ok(()) };
        let here = (done.size(), done.root());
        let newest = newest.unwrap_or((0, Digest([0; 32])));
        Progress::new(setting, here, newest, audit.tally().clone(), audit.replayer()).write(path)?;
        Ok(())
    }

    fn other_root(&self, done: &CompactRange, tally: &Tally) -> Divergence {
        Divergence {
            sequence: done.size(),
            at: tally.last.unwrap_or_default(),
            command: "the whole log".to_owned(),
            offence: Offence::LogRoot,
            expected: self.checkpoint.root.to_string(),
            found: done.root().to_string(),
        }
    }
}

fn append(tree: &mut CompactRange, opening: &Opening) {
    tree.append(leaf_hash(&opening.entry().0), |_, _| {});
}
