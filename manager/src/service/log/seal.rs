//! Seals: a root over the state in the log, and the state itself in a file; and what may be deleted behind them.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::PoisonError,
};

use keywitness_verifier::{
    log::StateSeal,
    wire::{Problem, ProblemKind, SealInfo, Seals},
};

use crate::{
    Manager, files,
    ledger::{
        Command, Rows,
        seal::{SnapshotError, write_snapshot},
        state::{
            State, key,
            log::{RetentionRow, SealRow},
        },
    },
    service::access::Caller,
};

/// The directory of snapshots in a data directory.
const SNAPSHOTS: &str = "snapshots";

/// How many bytes of a snapshot are given at once.
const PART: u64 = 4 * 1024 * 1024;

/// How many snapshots are kept, beside the one that an audit behind deleted openings begins with.
const KEPT: usize = 3;

fn failed(error: impl std::fmt::Display) -> Problem {
    tracing::error!(%error, "a snapshot cannot be written");
    Problem::new(ProblemKind::Internal, "the manager's log has the reason")
}

impl Manager {
    /// Seals the state as it is: writes a snapshot, and orders its root into the log. Commands go on meanwhile, and the
    /// seal is of the state after the command that it names. Operator.
    ///
    /// # Errors
    /// `internal` where the snapshot cannot be written.
    pub fn seal(&self, caller: &Caller) -> Result<StateSeal, Problem> {
        caller.must_reach_everything()?;
        let _one = self.log.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        let sealed = self.seal_alone(caller);
        *self.log.pending.lock().unwrap_or_else(PoisonError::into_inner) = None;
        sealed
    }

    fn seal_alone(&self, caller: &Caller) -> Result<StateSeal, Problem> {
        let directory = self.config.data_dir.join(SNAPSHOTS);
        files::private_directory(&directory).map_err(failed)?;
        let draft = directory.join(".draft");
        let seal = {
            let rows = self.view_to_seal()?;
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
            let mut out = BufWriter::with_capacity(1 << 16, file.map_err(failed)?);
            let seal = write_snapshot(rows.as_ref(), &mut out).map_err(|error| match error {
                SnapshotError::Fault(fault) => Problem::from(fault),
                error => failed(error),
            })?;
            out.flush().and_then(|()| out.get_ref().sync_all()).map_err(failed)?;
            seal
        };
        fs::rename(&draft, self.snapshot_path(seal.sequence)).map_err(failed)?;
        File::open(&directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        self.submit_for(caller, Command::Seal { sequence: seal.sequence, root: seal.root })?;
        self.drop_snapshots()?;
        Ok(seal)
    }

    /// The state as it is, after it was told that it will be sealed: no checkpoint of a larger tree is signed before.
    fn view_to_seal(&self) -> Result<Box<dyn Rows>, Problem> {
        let _no_checkpoint = self.log.signing.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = self.ledger.view()?;
        let sequence = State(rows.as_ref()).head()?.sequence;
        *self.log.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(sequence);
        Ok(rows)
    }

    /// Where the snapshot of a seal is, or would be.
    fn snapshot_path(&self, sequence: u64) -> PathBuf {
        self.config.data_dir.join(SNAPSHOTS).join(format!("{sequence}.state"))
    }

    /// Removes snapshots that no audit needs to begin with.
    fn drop_snapshots(&self) -> Result<(), Problem> {
        let rows = self.ledger.view()?;
        let seals: Vec<SealRow> = State(rows.as_ref()).all(&[])?;
        let RetentionRow { through } = State(rows.as_ref()).get(key::ONLY)?.unwrap_or_default();
        // Behind deleted openings, an audit begins here at the latest.
        let needed = seals.iter().position(|seal| seal.sequence >= through).filter(|_| through > 0);
        let recent = seals.len().saturating_sub(KEPT);
        for (place, seal) in seals.iter().enumerate().take(recent) {
            if needed.is_none_or(|needed| place != needed) {
                match fs::remove_file(self.snapshot_path(seal.sequence)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The seals so far, and from where on there are openings. Auditor or operator.
    ///
    /// # Errors
    /// Where the ledger cannot be read.
    pub fn seals(&self, caller: &Caller) -> Result<Seals, Problem> {
        caller.must_reach_everything()?;
        // Before the view: what is pending no more is ordered in it.
        let pending = *self.log.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let RetentionRow { through } = state.get(key::ONLY)?.unwrap_or_default();
        let seals: Vec<SealRow> = state.all(&[])?;
        let info = |SealRow { sequence, root, ordered, at }: SealRow| {
            let snapshot = self.snapshot_path(sequence).exists();
            SealInfo { sequence, root, ordered, at, snapshot }
        };
        Ok(Seals { deleted_through: through, seals: seals.into_iter().map(info).collect(), pending })
    }

    /// A part of the snapshot of a seal, from byte `offset` on, of 4 MiB at most; empty at its end. Auditor.
    ///
    /// # Errors
    /// `not-found` where there is no such seal, or its snapshot is kept no more.
    pub fn snapshot(&self, caller: &Caller, sequence: u64, offset: u64) -> Result<Vec<u8>, Problem> {
        caller.must_reach_everything()?;
        self.spend_overview(caller)?;
        let sealed: Option<SealRow> = State(self.ledger.view()?.as_ref()).get(&key::number(sequence))?;
        let read = || {
            let mut file = File::open(self.snapshot_path(sequence))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(offset.min(length)))?;
            let mut part = Vec::new();
            file.take(PART).read_to_end(&mut part)?;
            Ok::<_, std::io::Error>(part)
        };
        let none = || format!("there is no snapshot of the state after command {sequence}");
        match sealed.map(|_| read()) {
            Some(Ok(part)) => Ok(part),
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
            _ => Err(Problem::new(ProblemKind::NotFound, none())),
        }
    }

    /// Deletes the openings up to `through`, and tells up to where they are deleted then. Leaves, tiles and proofs stay.
    /// Operator.
    ///
    /// # Errors
    /// `malformed` for openings after the newest seal: they alone say what the state is made of.
    pub fn prune(&self, caller: &Caller, through: u64) -> Result<u64, Problem> {
        caller.must_reach_everything()?;
        loop {
            self.submit_for(caller, Command::Prune { through })?;
            let deleted: RetentionRow = State(self.ledger.view()?.as_ref()).get(key::ONLY)?.unwrap_or_default();
            if deleted.through >= through {
                return Ok(deleted.through);
            }
        }
    }

    /// Deletes what the operator's retention lets be deleted: openings behind the newest seal that is older. Tells up to
    /// where openings are deleted. Operator, and from time to time.
    ///
    /// # Errors
    /// `malformed` where no retention is configured.
    pub fn retain(&self, caller: &Caller) -> Result<u64, Problem> {
        let retention = self.config.opening_retention;
        if retention == 0 {
            let why = "this manager keeps every opening: its setting log.retention is 0s";
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        let due = {
            let rows = self.ledger.view()?;
            let state = State(rows.as_ref());
            let now = self.now(state)?;
            let old = |seal: &SealRow| now.since(seal.at) >= retention;
            let RetentionRow { through } = state.get(key::ONLY)?.unwrap_or_default();
            let due = state.all::<SealRow>(&[])?.into_iter().rfind(old).map(|seal| seal.sequence);
            match due {
                Some(due) if due > through => due,
                _ => return Ok(through),
            }
        };
        self.prune(caller, due)
    }

    /// Seals the state if the configuration says that it is time, and deletes what may be deleted. From time to time.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn keep_log(&self) -> Result<(), Problem> {
        let due = {
            let rows = self.ledger.view()?;
            let state = State(rows.as_ref());
            let (head, newest, now) = (state.head()?, state.newest_seal()?, self.now(state)?);
            // Nothing but the seal itself has happened since.
            let idle = newest.is_some_and(|seal| seal.ordered == head.sequence);
            let since = newest.map_or(0, |seal| seal.sequence);
            let (commands, interval) = (self.config.seal_commands as u64, self.config.seal_interval);
            let many = commands > 0 && head.sequence - since >= commands;
            let aged = interval > 0 && newest.is_none_or(|seal| now.since(seal.at) >= interval);
            !idle && (many || aged)
        };
        if due {
            self.seal(&Caller::in_process())?;
        }
        if self.config.opening_retention > 0 {
            self.retain(&Caller::in_process())?;
        }
        Ok(())
    }
}
