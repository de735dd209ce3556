//! The transparency log: checkpoints, tiles and proofs for anyone, openings and cosignatures for auditors, seals of the
//! state and retention for operators.

mod cosigned;
mod seal;
#[cfg(test)]
mod tests;

use std::sync::Mutex;

use keywitness_verifier::{
    log::{Checkpoint, CheckpointPolicy, Note, Opening, StateSeal, Tile, VerifierKey, verify_consistency, write_page},
    wire::{ConsistencyProof, InclusionProof, LogKey, Problem, ProblemKind},
};

use super::{Manager, access::Caller};
use crate::{
    config::Config,
    error::StartError,
    ledger::{
        log::Entry,
        merkle::Tree,
        state::{State, corrupt, decode, key, log::RetentionRow},
        tables::{Fault, Table},
    },
    signer::Signer,
};
use cosigned::Cosigned;

/// A page of openings ends after this many bytes; it has one opening at least.
const PAGE: usize = 1024 * 1024;

/// How many openings a page has at most.
const PAGE_ROWS: usize = 4096;

/// What the log has beside the ledger.
pub(crate) struct TransparencyLog {
    policy: CheckpointPolicy,
    cosigned: Mutex<Cosigned>,
    /// One checkpoint is made at a time, of a view that is newer than the one before.
    signing: Mutex<()>,
    /// One seal is made at a time.
    sealing: Mutex<()>,
    /// The command whose state is being sealed.
    pending: Mutex<Option<u64>>,
}

impl TransparencyLog {
    pub(crate) fn open(config: &Config, signer: &dyn Signer) -> Result<Self, StartError> {
        let origin = Checkpoint::origin_of(&config.audience());
        let key = signer.log_key();
        if key.name() != origin {
            let why = format!("the signer signs the log {}, not {origin}: give it the same settings", key.name());
            return Err(StartError::Refused(why));
        }
        let policy = CheckpointPolicy::new(key, config.witnesses.clone(), 0)
            .map_err(|error| StartError::Refused(format!("witnesses: {error}")))?;
        let cosigned = Cosigned::open(&config.data_dir, &policy)?;
        let (signing, sealing, pending) = Default::default();
        Ok(Self { policy, cosigned: Mutex::new(cosigned), signing, sealing, pending })
    }
}

impl Manager {
    /// The keys that sign for the log. Anyone may know; who relies on the log has learned them elsewhere.
    pub fn log_key(&self) -> LogKey {
        let keys = |keys: &[VerifierKey]| keys.iter().map(VerifierKey::to_string).collect();
        LogKey { log: self.signer.log_key().to_string(), witnesses: keys(&self.config.witnesses) }
    }

    /// The checkpoint of the newest durable command, signed. Anyone.
    ///
    /// # Errors
    /// `internal` where the signer refuses, since the log would be forked.
    pub fn checkpoint(&self) -> Result<Note, Problem> {
        let _one = self.log.signing.lock();
        let rows = self.ledger.view()?;
        let (state, tree) = (State(rows.as_ref()), Tree(rows.as_ref()));
        let range = tree.range()?;
        let seal = state.newest_seal()?.map(|seal| StateSeal { sequence: seal.sequence, root: seal.root });
        let origin = Checkpoint::origin_of(self.audience());
        let checkpoint = Checkpoint { origin, size: range.size(), root: range.root(), state: seal };
        let before = self.signed_last()?.map_or(0, |newest| newest.size);
        // None where the log has shrunk: the signer finds out.
        let consistency = tree.consistency(before, checkpoint.size)?.unwrap_or_default();
        Ok(self.signer.sign_checkpoint(&checkpoint, &consistency)?)
    }

    fn signed_last(&self) -> Result<Option<Checkpoint>, Problem> {
        Ok(self.signer.newest()?.and_then(|note| note.text().parse().ok()))
    }

    /// Whether what was signed last is no beginning of the log: then the signer refuses to sign it. A signer that does not
    /// answer, or a ledger that cannot be read, says neither.
    pub(crate) fn is_forked(&self) -> bool {
        let Ok(Some(signed)) = self.signed_last() else { return false };
        // Read after what was signed, which therefore cannot be ahead.
        let begins = || {
            let rows = self.ledger.view()?;
            let tree = Tree(rows.as_ref());
            let (range, old) = (tree.range()?, (signed.size, &signed.root));
            let proof = tree.consistency(signed.size, range.size())?;
            let new = (range.size(), &range.root());
            Ok::<_, Fault>(proof.is_some_and(|proof| verify_consistency(old, new, &proof).is_ok()))
        };
        begins().is_ok_and(|begins| !begins)
    }

    /// A tile. Anyone.
    ///
    /// # Errors
    /// `not-found` where the log has not so many entries.
    pub fn tile(&self, tile: &Tile) -> Result<Vec<u8>, Problem> {
        let rows = self.ledger.view()?;
        let missing = || Problem::new(ProblemKind::NotFound, format!("the log has no tile {tile} yet"));
        Tree(rows.as_ref()).tile(tile)?.ok_or_else(missing)
    }

    /// Where entry `index` is in the tree of the first `size` entries; of all there are where `size` is left out. Anyone.
    ///
    /// # Errors
    /// `not-found` for an entry that is not in that tree, or a tree that is not there yet.
    pub fn inclusion_proof(&self, index: u64, size: Option<u64>) -> Result<InclusionProof, Problem> {
        let rows = self.ledger.view()?;
        let tree = Tree(rows.as_ref());
        let size = size.map_or_else(|| tree.range().map(|range| range.size()), Ok)?;
        let missing = || Problem::new(ProblemKind::NotFound, format!("the log's first {size} entries have no {index}"));
        let hashes = tree.inclusion(index, size)?.ok_or_else(missing)?;
        let entry = tree.entries(index, 1)?.pop().ok_or_else(missing)?;
        Ok(InclusionProof { index, size, entry, hashes })
    }

    /// That the tree of `to` entries begins with that of `from`. Anyone.
    ///
    /// # Errors
    /// `not-found` where it cannot, or is not there yet.
    pub fn consistency_proof(&self, from: u64, to: u64) -> Result<ConsistencyProof, Problem> {
        let rows = self.ledger.view()?;
        let missing =
            || Problem::new(ProblemKind::NotFound, format!("the log has no trees of {from} and {to} entries"));
        let hashes = Tree(rows.as_ref()).consistency(from, to)?.ok_or_else(missing)?;
        Ok(ConsistencyProof { from, to, hashes })
    }

    /// A page of openings after number `after`, at most `limit`, in their binary form. Auditor.
    ///
    /// # Errors
    /// `not-found` where they were deleted: then an audit begins with a snapshot of the state.
    pub fn openings(&self, caller: &Caller, after: u64, limit: usize) -> Result<Vec<u8>, Problem> {
        caller.must_reach_everything()?;
        self.spend_overview(caller)?;
        let rows = self.ledger.view()?;
        let deleted: Option<RetentionRow> = State(rows.as_ref()).get(key::ONLY)?;
        if let Some(RetentionRow { through }) = deleted
            && after < through
        {
            let why = format!(
                "the openings up to number {through} were deleted; begin with the snapshot of a seal that is not older \
                 (/v1/log/seals)"
            );
            return Err(Problem::new(ProblemKind::NotFound, why));
        }
        let (limit, mut openings, mut size, mut newest) = (limit.clamp(1, PAGE_ROWS), Vec::new(), 0, after);
        let start = key::number(after.saturating_add(1));
        rows.visit(Table::Commands, &[], &start, &mut |row, value| {
            newest += 1;
            if row != key::number(newest) {
                return Err(corrupt(Table::Commands, "an opening is missing"));
            }
            let opening: Opening = decode::<Entry>(Table::Commands, value)?.opening(newest)?;
            size += opening.command.len() + opening.outcome.len() + 56;
            if size > PAGE && !openings.is_empty() {
                return Ok(std::ops::ControlFlow::Break(()));
            }
            openings.push(opening);
            Ok::<_, Fault>(if openings.len() < limit {
                std::ops::ControlFlow::Continue(())
            } else {
                std::ops::ControlFlow::Break(())
            })
        })?;
        Ok(write_page(&openings))
    }

    /// Takes in a checkpoint that witnesses have cosigned. Auditor.
    ///
    /// # Errors
    /// `malformed` for what is not signed by this log, or by none of the witnesses that this manager was told of.
    pub fn cosign(&self, note: &str) -> Result<(), Problem> {
        let malformed = |error: &dyn std::fmt::Display| Problem::new(ProblemKind::Malformed, error.to_string());
        let note: Note = note.parse().map_err(|error: keywitness_circuits::Error| malformed(&error))?;
        let mut cosigned = self.log.cosigned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        cosigned.take_in(&self.log.policy, &note).map_err(|error| malformed(&error))?;
        cosigned.save(&self.config.data_dir).map_err(|error| {
            tracing::error!(%error, "cosignatures cannot be kept");
            Problem::new(ProblemKind::Internal, "the manager's log has the reason")
        })
    }

    /// The newest checkpoint that at least `witnesses` have cosigned. Anyone.
    ///
    /// # Errors
    /// `not-found` where none has so many cosignatures.
    pub fn cosigned(&self, witnesses: usize) -> Result<Note, Problem> {
        let missing = || {
            Problem::new(ProblemKind::NotFound, format!("{witnesses} witnesses have not cosigned one checkpoint yet"))
        };
        if witnesses > self.config.witnesses.len() {
            return Err(missing());
        }
        let cosigned = self.log.cosigned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        cosigned.newest(witnesses).ok_or_else(missing)
    }
}
