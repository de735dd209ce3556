//! What operators say about fraud: that they have seen to an alert, and what is a migration.

use keywitness_circuits::ClusterId;
use keywitness_verifier::wire::{Acknowledgement, Alert, EventKind, MAX_MIGRATION, Migrant, Migration, ProblemKind};

use super::{Apply, refuse};
use crate::ledger::{
    command::Outcome,
    state::{fraud::FraudCounts, key},
    tables::{Fault, Table},
};

/// How many migrations may be under way at once: a first proof is compared with each.
const MIGRATIONS: usize = 1000;

/// How long a migration that is over is remembered, in seconds: 30 days.
const REMEMBERED: u64 = 30 * 24 * 60 * 60;

impl Apply<'_> {
    /// An alert that was acknowledged stays as it was.
    pub(super) fn acknowledge_alert(&mut self, number: u64, by: &str, note: &str) -> Result<Outcome, Fault> {
        let row = key::number(number);
        let Some(mut alert) = self.state().get::<Alert>(&row)? else {
            return Ok(refuse(ProblemKind::NotFound, format!("there is no alert {number}")));
        };
        if alert.acknowledged.is_none() {
            let (by, note, at) = (by.to_owned(), note.to_owned(), self.moment.at);
            alert.acknowledged = Some(Acknowledgement { by: by.clone(), at, note: note.clone() });
            self.put(&row, &alert)?;
            let mut counts: FraudCounts = self.state().get(key::ONLY)?.unwrap_or_default();
            counts.open = counts.open.saturating_sub(1);
            self.put(key::ONLY, &counts)?;
            self.events.push(EventKind::AlertAcknowledged { acknowledged: number, by, note });
        }
        Ok(Outcome::Alert(Box::new(alert)))
    }

    pub(super) fn declare_migration(
        &mut self,
        what: &Migrant,
        (from, to): (&ClusterId, &ClusterId),
        valid_for: u64,
        by: &str,
    ) -> Result<Outcome, Fault> {
        if from == to {
            return Ok(refuse(ProblemKind::Malformed, "a migration goes from one cluster to another"));
        }
        if !(1..=MAX_MIGRATION).contains(&valid_for) {
            let why = format!("a migration lasts 1 to {MAX_MIGRATION} seconds; declare it again where it needs longer");
            return Ok(refuse(ProblemKind::Malformed, why));
        }
        let known: Vec<Migration> = self.state().some(&[], MIGRATIONS)?;
        if known.len() == MIGRATIONS {
            let why = format!("{MIGRATIONS} migrations are remembered already; the oldest is forgotten first");
            return Ok(refuse(ProblemKind::Forbidden, why));
        }
        let mut counts: FraudCounts = self.state().get(key::ONLY)?.unwrap_or_default();
        counts.migrations += 1;
        self.put(key::ONLY, &counts)?;
        let migration = Migration {
            number: counts.migrations,
            what: what.clone(),
            from: from.clone(),
            to: to.clone(),
            declared_at: self.moment.at,
            until: self.moment.at.plus(valid_for),
            by: by.to_owned(),
        };
        let row = key::number(migration.number);
        self.put(&row, &migration)?;
        self.forget_at(migration.until.plus(REMEMBERED), Table::Migrations, &row)?;
        self.events.push(EventKind::MigrationDeclared { migration: migration.clone() });
        Ok(Outcome::Migration(Box::new(migration)))
    }
}
