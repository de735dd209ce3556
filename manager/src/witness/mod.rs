//! A witness: follows a manager's log, decides again whatever the manager decided, and cosigns what it has seen grow.
//!
//! It keeps the newest checkpoint that it cosigned, and the state that it came to itself by then. From there it replays every
//! command, checks every signature and proof, and compares the roots that it comes to with those of the checkpoint. A
//! log that does not begin with the one it knows gets no cosignature, and both checkpoints are kept as evidence.

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod lies;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, BufWriter, Write},
    path::PathBuf,
};

use keywitness_circuits::{Digest, Timestamp};
use keywitness_verifier::{
    log::{Checkpoint, CheckpointPolicy, NotTrusted, Note, NoteKey, Opening, StateSeal, verify_consistency},
    wire::Seals,
};

use crate::{
    audit::{Accepted, Audit, AuditError, Checker, Replayer, Tally, archive::write_whole, scratch::Scratch},
    files,
    ledger::{
        Fault,
        log::Entry,
        merkle::Tree,
        seal::{SnapshotError, read_snapshot, write_snapshot},
        state::State,
    },
};

/// The newest checkpoint that was cosigned.
const CHECKPOINT: &str = "checkpoint";

/// What a witness asks of a manager. Nothing of it is believed.
pub trait LogSource {
    /// The newest checkpoint.
    ///
    /// # Errors
    /// In words.
    fn checkpoint(&self) -> Result<Note, String>;
    /// The newest checkpoint that another witness has cosigned, if there is one.
    ///
    /// # Errors
    /// In words.
    fn cosigned(&self) -> Result<Option<Note>, String>;
    /// That the tree of `to` entries begins with that of `from`.
    ///
    /// # Errors
    /// In words.
    fn consistency(&self, from: u64, to: u64) -> Result<Vec<Digest>, String>;
    /// A page of openings after a number.
    ///
    /// # Errors
    /// In words.
    fn openings(&self, after: u64) -> Result<Vec<Opening>, String>;
    /// The seals, so that a replay knows which states to make a root of.
    ///
    /// # Errors
    /// In words.
    fn seals(&self) -> Result<Seals, String>;
    /// Takes a cosignature.
    ///
    /// # Errors
    /// In words.
    fn cosign(&self, note: &Note) -> Result<(), String>;
}

/// Why a witness does not cosign.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The manager does not answer, or not with what was asked for.
    #[error("the manager gives no usable answer: {0}")]
    Source(String),
    /// The checkpoint is not the log's.
    #[error(transparent)]
    NotTrusted(#[from] NotTrusted),
    /// The log was forked, rewound or rewritten.
    #[error("THE LOG WAS FORKED, REWOUND OR REWRITTEN: {why}; both checkpoints are kept in {}", evidence.display())]
    Forked {
        /// What is wrong.
        why: String,
        /// Where the evidence is.
        evidence: PathBuf,
    },
    /// The manager decided otherwise than it had to.
    #[error(transparent)]
    Diverges(#[from] AuditError),
    /// Proofs were made under parameters that the witness does not have.
    #[error("{0} proofs were made under parameters that this witness was not given; give their files")]
    Unchecked(u64),
    /// A file cannot be read or written, or is not what it was.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The replay failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A witness of one log.
pub struct Witness {
    /// Signs cosignatures.
    pub key: NoteKey,
    /// The log's key.
    pub policy: CheckpointPolicy,
    /// Where the newest checkpoint and state are.
    pub directory: PathBuf,
    /// What proofs are checked with.
    pub checker: Checker,
    /// What a configuration may put in force.
    pub accepted: Accepted,
}

/// Where a witness is.
struct Known {
    note: Note,
    checkpoint: Checkpoint,
    state: Scratch,
    /// Roots of states that are being sealed.
    roots: Roots,
}

/// Roots over states by the numbers of the commands after which they are: seals further on must name them.
type Roots = BTreeMap<u64, Digest>;

impl Witness {
    /// Follows the log to its newest checkpoint, cosigns that, and on the way the one that another witness cosigned.
    ///
    /// # Errors
    /// [`WitnessError`]
    pub fn round(&self, source: &dyn LogSource, now: Timestamp) -> Result<Checkpoint, WitnessError> {
        if let Some(other) = source.cosigned().map_err(WitnessError::Source)? {
            let before = self.known()?.map_or(0, |known| known.checkpoint.size);
            if self.policy.verify(&other)?.checkpoint().size > before {
                self.witness(source, other, now)?;
            }
        }
        let newest = source.checkpoint().map_err(WitnessError::Source)?;
        self.witness(source, newest, now)
    }

    fn witness(&self, source: &dyn LogSource, mut note: Note, now: Timestamp) -> Result<Checkpoint, WitnessError> {
        let checkpoint = self.policy.verify(&note)?.checkpoint().clone();
        let known = self.known()?;
        let earlier = known.as_ref().map(|known| known.note.clone());
        let forked = |why: &str| self.evidence(earlier.as_ref(), &note, why, now);
        let (mut state, mut roots) = (Scratch::default(), Roots::default());
        if let Some(known) = known {
            let (before, after) = (&known.checkpoint, &checkpoint);
            if after.size < before.size {
                return Err(forked("it is shorter than it was"));
            }
            if after.size == before.size && after != before {
                return Err(forked("two checkpoints of one size differ"));
            }
            let proof = source.consistency(before.size, after.size).map_err(WitnessError::Source)?;
            if verify_consistency((before.size, &before.root), (after.size, &after.root), &proof).is_err() {
                return Err(forked("it does not begin with the log as it was"));
            }
            (state, roots) = (known.state, known.roots);
        }
        let (state, roots) = self.replay(source, state, roots, &checkpoint)?;
        let range = Tree(&state).range()?;
        if (range.size(), range.root()) != (checkpoint.size, checkpoint.root) {
            return Err(forked("its entries are not those that its checkpoint commits to"));
        }
        let seal = State(&state).newest_seal()?.map(|seal| StateSeal { sequence: seal.sequence, root: seal.root });
        if seal != checkpoint.state {
            return Err(forked("its checkpoint names another seal of the state than its entries do"));
        }
        note.add(self.key.sign(note.text(), now));
        self.save(&note, &checkpoint, (&state, &roots))?;
        source.cosign(&note).map_err(WitnessError::Source)?;
        Ok(checkpoint)
    }

    /// Replays the commands up to a checkpoint.
    fn replay(
        &self,
        source: &dyn LogSource,
        state: Scratch,
        roots: Roots,
        to: &Checkpoint,
    ) -> Result<(Scratch, Roots), WitnessError> {
        // After the checkpoint: one that is ordered behind the checkpoint may be of a state before it.
        let Seals { seals, pending, .. } = source.seals().map_err(WitnessError::Source)?;
        let mut replayer = Replayer::resume(state, self.accepted.clone(), roots);
        replayer.expect_seals(seals.iter().map(|seal| seal.sequence).chain(pending).collect())?;
        let mut audit = Audit::new(&self.checker, replayer, Tally::default());
        loop {
            let after = audit.replayer().sequence()?;
            if after >= to.size {
                break;
            }
            let page = source.openings(after).map_err(WitnessError::Source)?;
            if page.is_empty() {
                return Err(WitnessError::Source(format!("it has no opening of command {}", after + 1)));
            }
            if !page.iter().map(|opening| opening.sequence).eq((after + 1..).take(page.len())) {
                return Err(WitnessError::Source("openings do not follow on each other".to_owned()));
            }
            let entries: Vec<Entry> = page
                .iter()
                .take_while(|opening| opening.sequence <= to.size)
                .map(Entry::try_from)
                .collect::<Result<_, _>>()?;
            audit.advance(&entries)?;
        }
        audit.settle()?;
        match audit.tally().unchecked() {
            0 => Ok((audit.replayer().tables().clone(), audit.replayer().roots().clone())),
            unchecked => Err(WitnessError::Unchecked(unchecked)),
        }
    }

    fn known(&self) -> Result<Option<Known>, WitnessError> {
        let path = self.directory.join(CHECKPOINT);
        let failed = |path: &PathBuf, why: &dyn std::fmt::Display| WitnessError::File {
            path: path.clone(),
            why: why.to_string(),
        };
        let Some(text) = files::read_if_there(&path).map_err(|error| failed(&path, &error))? else { return Ok(None) };
        let note: Note = text.parse().map_err(|error: keywitness_circuits::Error| failed(&path, &error))?;
        let checkpoint = self.policy.verify(&note)?.checkpoint().clone();
        let (path, mut state) = (self.state_path(checkpoint.size), Scratch::default());
        let file = File::open(&path).map_err(|error| failed(&path, &error))?;
        read_snapshot(BufReader::new(file), &mut state).map_err(|error| failed(&path, &error))?;
        let range = Tree(&state).range()?;
        if (range.size(), range.root()) != (checkpoint.size, checkpoint.root) {
            return Err(failed(&path, &"it is not the state that the newest checkpoint is of"));
        }
        let path = self.roots_path(checkpoint.size);
        let text = files::read_if_there(&path).map_err(|error| failed(&path, &error))?;
        let roots = text.map_or(Ok(Roots::default()), |text| serde_json::from_str(&text));
        let roots = roots.map_err(|error| failed(&path, &error))?;
        Ok(Some(Known { note, checkpoint, state, roots }))
    }

    fn state_path(&self, size: u64) -> PathBuf {
        self.directory.join(format!("{size}.state"))
    }

    fn roots_path(&self, size: u64) -> PathBuf {
        self.directory.join(format!("{size}.roots"))
    }

    /// Keeps state, then checkpoint, so that whenever this is killed the checkpoint has its state.
    fn save(
        &self,
        note: &Note,
        checkpoint: &Checkpoint,
        (state, roots): (&Scratch, &Roots),
    ) -> Result<(), WitnessError> {
        let before = self.known()?.map(|known| known.checkpoint.size);
        let path = self.state_path(checkpoint.size);
        let failed = |why: &dyn std::fmt::Display| WitnessError::File { path: path.clone(), why: why.to_string() };
        let draft = self.directory.join(".state.draft");
        let write = || -> Result<(), SnapshotError> {
            let mut out = BufWriter::new(File::create(&draft)?);
            write_snapshot(state, &mut out)?;
            out.flush()?;
            out.get_ref().sync_all()?;
            Ok(std::fs::rename(&draft, &path)?)
        };
        write().map_err(|error| failed(&error))?;
        let kept = serde_json::to_vec(roots).map_err(|error| failed(&error))?;
        write_whole(&self.roots_path(checkpoint.size), &kept).map_err(|error| failed(&error))?;
        let text = note.to_string();
        files::write_private(&self.directory, CHECKPOINT, text.as_bytes()).map_err(|error| failed(&error))?;
        match before.filter(|before| *before != checkpoint.size) {
            Some(before) => [self.state_path(before), self.roots_path(before)]
                .iter()
                .filter(|path| path.exists())
                .try_for_each(std::fs::remove_file)
                .map_err(|error| failed(&error)),
            None => Ok(()),
        }
    }

    /// Keeps both checkpoints, and says what is wrong.
    fn evidence(&self, earlier: Option<&Note>, later: &Note, why: &str, now: Timestamp) -> WitnessError {
        let path = self.directory.join(format!("evidence-{}", now.0));
        let earlier = earlier.map(Note::to_string).unwrap_or_default();
        match write_whole(&path, format!("{earlier}\n{later}").as_bytes()) {
            Ok(()) => WitnessError::Forked { why: why.to_owned(), evidence: path },
            Err(error) => WitnessError::File { path, why: format!("{why}, and the evidence cannot be kept: {error}") },
        }
    }
}
