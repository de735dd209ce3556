//! Proofs that come faster than any agent makes them.

use keywitness_verifier::wire::{EventKind, Record, Rule, Subject};

use super::{Finding, policy::FraudPolicy, raise, this};
use crate::ledger::{
    apply::Apply,
    state::{
        RecordRow,
        fraud::{PaceWatch, watch},
    },
    tables::{Fault, Table},
};

/// A proof was accepted at `place`, over an older one: at what pace?
///
/// Counted for each key in each HSM, and not for an HSM: one that comes back from an outage proves all its keys at once. An agent
/// proves a key a few times while its record lasts, so that most keys have no row here.
pub(in crate::ledger) fn paced(
    apply: &mut Apply<'_>,
    policy: &FraudPolicy,
    (place, older): (&[u8], Option<&RecordRow>),
    record: &Record,
) -> Result<(), Fault> {
    let settings = policy.rule(Rule::ImpossiblePace);
    let now = apply.moment.at;
    let Some(older) = older.filter(|older| now.since(older.record.proven_at) < settings.window) else {
        return Ok(());
    };
    if !settings.enabled || older.record.envelope == record.envelope {
        return Ok(());
    }
    let row = watch::pace(place);
    let standing = apply.state().get::<PaceWatch>(&row)?.filter(|pace| now.since(pace.since) < settings.window);
    let fresh = standing.is_none();
    let evidence = this(apply, Some(record.envelope));
    // The first that is counted is the second of a pair.
    let mut pace = standing.unwrap_or(PaceWatch { since: now, proofs: 1, first: evidence, raised: false });
    if pace.raised {
        return Ok(());
    }
    pace.proofs = pace.proofs.saturating_add(1);
    if fresh {
        apply.forget_at(now.plus(2 * settings.window), Table::FraudWatches, &row)?;
    }
    if pace.proofs >= settings.threshold {
        pace.raised = true;
        let event = EventKind::ImpossiblePace {
            hsm: record.hsm.clone(),
            key: record.key.clone(),
            statement: record.statement,
            proofs: pace.proofs,
            window: settings.window,
            envelope: record.envelope,
        };
        let subject = Subject::Key { hsm: record.hsm.clone(), key: record.key.clone() };
        raise(apply, Finding { subject, evidence: vec![pace.first, evidence], event })?;
    }
    apply.put(&row, &pace)
}
