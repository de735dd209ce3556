//! Verifying an archive: the whole log, from its first entry or from where the last audit of it ended.

use std::{collections::BTreeMap, iter::Take, path::PathBuf};

use keywitness_circuits::{Digest, Timestamp};
use keywitness_verifier::log::{CompactRange, Opening, leaf_hash};
use serde::Serialize;

use super::{
    Accepted, Audit, AuditError, Checker, Divergence, Offence, Replayer, Tally,
    archive::{Archive, ArchiveError, Entries, entry_of},
    base::{Base, FromSeal},
    progress::Progress,
    run::CHUNK,
};
use crate::ledger::{Command, Outcome, tables::Fault};

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

/// An entry that seals a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SealEntry {
    /// Its number.
    pub(super) entry: u64,
    /// When it was entered.
    pub(super) at: Timestamp,
    /// The number of the entry after which the state is meant, which comes before.
    pub(super) sequence: u64,
    /// The root over the state.
    pub(super) root: Digest,
    /// Whether it was not refused.
    pub(super) done: bool,
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
    /// The snapshot that the archive begins with is damaged.
    #[error("the archive's snapshot cannot be used: {0}; fetch again into another directory")]
    Snapshot(String),
    /// No entry seals the state that the archive begins with.
    #[error(
        "the archive begins with a state after entry {sequence}, of root {root}, which no entry of this log seals: it \
         is another log's, or was made up"
    )]
    Unsealed {
        /// The entry.
        sequence: u64,
        /// The state's root.
        root: Digest,
    },
    /// The log seals another state than the archive begins with.
    #[error(
        "entry {entry} seals the state after entry {sequence} with root {expected}, and the archive begins with one of \
         root {found}: it was tampered with, or is another log's"
    )]
    OtherState {
        /// The entry after which the state is.
        sequence: u64,
        /// The entry that seals it.
        entry: u64,
        /// The root that it names.
        expected: Digest,
        /// The root of the archive's.
        found: Digest,
    },
    /// An audit from a seal is not linked with what was verified before.
    #[error(
        "the first {before} entries were verified before, and this archive begins after {from} without a proof that \
         its log is the same; fetch it again, into another directory, with the --data that you verify with"
    )]
    Unlinked {
        /// How many entries were verified before.
        before: u64,
        /// After which the archive begins.
        from: u64,
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
    /// The entry after which this run went on from an earlier one; 0 where it began with the first that there is.
    pub resumed_after: u64,
    /// The sealed state that the audit began with, since the openings before it have expired; none where it began with the
    /// log's first entry.
    pub from_seal: Option<FromSeal>,
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
        let earlier = self.progress.as_deref().and_then(Progress::read);
        let newest = earlier.as_ref().map(|progress| progress.newest);
        if let Some((before, _)) = newest
            && before > self.checkpoint.size
        {
            return Err(VerifyError::OldCheckpoint { before, found: self.checkpoint.size });
        }
        let seals = self.seals()?;
        let Begin { setting, from_seal, range, mut replayer, tally, resumed_after } =
            self.begin(earlier, newest, &seals)?;
        replayer.expect_seals(seals.iter().map(|seal| seal.sequence).collect())?;
        let mut audit = Audit::new(self.checker, replayer, tally);
        let mut entries = self.openings(self.checkpoint.size)?;
        let first = range.size();
        let (mut done, step) = (range, CHUNK.min(usize::try_from(self.save_every.max(1)).unwrap_or(CHUNK)));
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
        let resumed_after = if resumed_after > first { resumed_after } else { 0 };
        Ok(Report { checkpoint: self.checkpoint, resumed_after, from_seal, tally: audit.tally().clone() })
    }

    /// Where to begin: where an earlier run ended, with the sealed state that the archive begins with, or with nothing.
    fn begin(
        &self,
        earlier: Option<Progress>,
        newest: Option<(u64, Digest)>,
        seals: &[SealEntry],
    ) -> Result<Begin, VerifyError> {
        let mut setting = self.checker.setting(&self.anchors);
        let base = Base::read(self.archive)?;
        let from_seal = base.as_ref().map(|base| base.sealed(seals)).transpose()?;
        if let Some(base) = &base {
            setting = base.setting(setting);
            newest.map_or(Ok(()), |newest| base.linked(self.archive, newest, &self.checkpoint))?;
        }
        let range = base.as_ref().map(|base| base.range.clone()).unwrap_or_default();
        let usable = earlier.filter(|progress| {
            progress.setting == setting && (range.size()..=self.checkpoint.size).contains(&progress.sequence)
        });
        let resumed = self.resume(usable, range.clone())?.filter(|progress| progress.knows(seals));
        let state = resumed.and_then(|it| Some((it.state()?, it.roots, it.tally, it.sequence)));
        let (replayer, tally, resumed_after) = match (state, base) {
            (Some((state, roots, tally, sequence)), _) => {
                (Replayer::resume(state, self.accepted.clone(), roots), tally, sequence)
            }
            (None, Some(base)) => {
                let replayer = Replayer::resume(base.tables, self.accepted.clone(), BTreeMap::new());
                replayer.accept_state().map_err(VerifyError::Diverges)?;
                (replayer, Tally::default(), base.seal.sequence)
            }
            (None, None) => (Replayer::new(self.accepted.clone()), Tally::default(), 0),
        };
        let resumed_after = replayer.sequence()?.min(resumed_after);
        Ok(Begin { setting, from_seal, range, replayer, tally, resumed_after })
    }

    /// Reads as many entries as were verified before, and gives the progress back if they are the same.
    fn resume(&self, progress: Option<Progress>, mut tree: CompactRange) -> Result<Option<Progress>, VerifyError> {
        let Some(progress) = progress else { return Ok(None) };
        for entry in self.openings(progress.sequence)? {
            append(&mut tree, &entry?);
        }
        Ok((tree.size() == progress.sequence && tree.root() == progress.root).then_some(progress))
    }

    /// The entries that seal a state. A seal is entered after the state that it is of, so that a first look through the
    /// archive finds them.
    fn seals(&self) -> Result<Vec<SealEntry>, VerifyError> {
        let mut seals = Vec::new();
        for opening in self.openings(self.checkpoint.size)? {
            let opening = opening?;
            if opening.command.len() > MAX_SEAL {
                continue;
            }
            let (entry, at, read) = (opening.sequence, opening.at, entry_of(&opening)?);
            if let Command::Seal { sequence, root } = *read.submission.command.bare() {
                seals.push(SealEntry { entry, at, sequence, root, done: read.outcome == Outcome::Done });
            }
        }
        Ok(seals)
    }

    /// The archive's openings up to an entry.
    fn openings(&self, through: u64) -> Result<Take<Entries>, ArchiveError> {
        let count = through.saturating_sub(self.archive.base()?);
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

/// Where a run begins.
struct Begin {
    setting: Digest,
    from_seal: Option<FromSeal>,
    /// The tree of the entries before the archive's first.
    range: CompactRange,
    replayer: Replayer,
    tally: Tally,
    resumed_after: u64,
}

fn append(tree: &mut CompactRange, opening: &Opening) {
    tree.append(leaf_hash(&opening.entry().0), |_, _| {});
}
