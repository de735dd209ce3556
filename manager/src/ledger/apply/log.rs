//! Seals of the state, and the deletion of openings behind them.

use keywitness_circuits::Digest;
use keywitness_verifier::wire::ProblemKind;

use super::{Apply, refuse};
use crate::ledger::{
    command::Outcome,
    state::{
        key,
        log::{RetentionRow, SealRow},
    },
    tables::{Fault, Table},
};

/// How many openings one command deletes at most.
pub(crate) const PRUNE: u64 = 256;

impl Apply<'_> {
    /// Enters a root over the state after command `sequence`. Whoever replays the log makes it anew.
    pub(super) fn seal(&mut self, sequence: u64, root: &Digest) -> Result<Outcome, Fault> {
        let newest = self.state().newest_seal()?.map_or(0, |seal| seal.sequence);
        if sequence <= newest || sequence >= self.moment.sequence {
            let why = format!("the state after command {sequence} is sealed already, or is not yet");
            return Ok(refuse(ProblemKind::Malformed, why));
        }
        let seal = SealRow { sequence, root: *root, ordered: self.moment.sequence, at: self.moment.at };
        self.put(&key::number(sequence), &seal)?;
        Ok(Outcome::Done)
    }

    /// Deletes the oldest openings, [`PRUNE`] at most and none after `through`, which is not after the newest seal.
    pub(super) fn prune(&mut self, through: u64) -> Result<Outcome, Fault> {
        if self.state().newest_seal()?.is_none_or(|seal| seal.sequence < through) {
            return Ok(refuse(ProblemKind::Malformed, "openings are deleted behind a seal of the state alone"));
        }
        let RetentionRow { through: before } = self.state().get(key::ONLY)?.unwrap_or_default();
        let last = through.min(before.saturating_add(PRUNE));
        for sequence in before + 1..=last {
            self.tables.remove(Table::Commands, &key::number(sequence))?;
        }
        if last > before {
            self.put(key::ONLY, &RetentionRow { through: last })?;
        }
        Ok(Outcome::Done)
    }
}
