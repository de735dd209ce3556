//! An audit: replay and proofs, side by side.

use std::thread;

use keywitness_verifier::engine::EngineError;

use super::{
    divergence::Divergence,
    proofs::{Attestation, Checker},
    replay::Replayer,
    tally::Tally,
};
use crate::ledger::log::Entry;

/// Entries that are replayed while the proofs of as many before them are checked.
pub(crate) const CHUNK: usize = 4096;

/// Why an audit ended without an answer.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log diverges.
    #[error(transparent)]
    Diverges(Box<Divergence>),
    /// Proofs could not be checked.
    #[error("the proofs cannot be checked: {0}")]
    Engine(#[from] EngineError),
}

impl From<Box<Divergence>> for AuditError {
    fn from(divergence: Box<Divergence>) -> Self {
        Self::Diverges(divergence)
    }
}

/// An audit in progress.
pub struct Audit<'a> {
    checker: &'a Checker,
    replayer: Replayer,
    tally: Tally,
    /// Attestations that were replayed, and whose proofs were not checked yet.
    pending: Vec<Attestation>,
}

impl<'a> Audit<'a> {
    /// Goes on from where a replay is.
    pub const fn new(checker: &'a Checker, replayer: Replayer, tally: Tally) -> Self {
        Self { checker, replayer, tally, pending: Vec::new() }
    }

    /// The replay so far.
    pub const fn replayer(&self) -> &Replayer {
        &self.replayer
    }

    /// What was counted so far. Proofs lag behind entries until [`Self::settle`].
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Replays entries, while the proofs of those before them are checked.
    ///
    /// # Errors
    /// [`AuditError::Diverges`] for the first entry that is wrong, whether in itself or in its proof.
    pub fn advance(&mut self, entries: &[Entry]) -> Result<(), AuditError> {
        for chunk in entries.chunks(CHUNK) {
            let (checker, replayer, tally) = (self.checker, &mut self.replayer, &mut self.tally);
            let pending = std::mem::take(&mut self.pending);
            let mut proofs = Tally::default();
            let (replayed, checked) = thread::scope(|scope| {
                let checking = scope.spawn(|| checker.check(pending, &mut proofs));
                let mut attestations = Vec::new();
                let replayed = chunk.iter().try_for_each(|entry| {
                    attestations.extend(replayer.step(entry, tally)?);
                    Ok(())
                });
                ((replayed, attestations), checking.join())
            });
            // What was pending comes first in the log, then the attestations before an entry that cannot be replayed.
            let checked = checked.map_err(|_| EngineError::Internal)??;
            self.tally.add_proofs(proofs);
            if let Some(divergence) = checked {
                return Err(Box::new(divergence).into());
            }
            let (replayed, attestations): (Result<(), Box<Divergence>>, _) = replayed;
            self.pending = attestations;
            if let Err(divergence) = replayed {
                self.settle()?;
                return Err(divergence.into());
            }
        }
        Ok(())
    }

    /// Checks the proofs that wait.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub fn settle(&mut self) -> Result<(), AuditError> {
        let pending = std::mem::take(&mut self.pending);
        match self.checker.check(pending, &mut self.tally)? {
            Some(divergence) => Err(Box::new(divergence).into()),
            None => Ok(()),
        }
    }
}
