//! The same fingerprint in two clusters, and the migrations that are no fraud.

use keywitness_verifier::wire::{Action, EventKind, Evidence, Migrant, Migration, Sighting, Subject};

use super::{Finding, proof, raise, raise_as, this};
use crate::ledger::{
    apply::Apply,
    state::{SightingRow, State, fraud::MigrationNote, key},
    tables::Fault,
};

/// Looked for when an HSM proves a fingerprint for the first time, and, for a holder that a migration should have relieved
/// of it, when that is over.
pub(super) fn proven(apply: &mut Apply<'_>, later: &Sighting) -> Result<(), Fault> {
    let row = key::sighting(later);
    if apply.state().get::<SightingRow>(&row)?.is_some() {
        return relieved(apply, later);
    }
    let seen: Vec<SightingRow> = apply.state().all(&key::fingerprint(&later.fingerprint))?;
    let sequence = apply.moment.sequence;
    apply.put(&row, &SightingRow { sighting: later.clone(), sequence })?;
    let held_before = seen.iter().any(|seen| seen.sighting.cluster == later.cluster);
    let mut elsewhere = seen;
    elsewhere.retain(|seen| seen.sighting.cluster != later.cluster);
    elsewhere.sort_by(|a, b| (&a.sighting.cluster, a.sequence).cmp(&(&b.sighting.cluster, b.sequence)));
    let mut told = Vec::new();
    for SightingRow { sighting: earlier, sequence: first } in elsewhere {
        let newly = !told.contains(&earlier.cluster);
        told.push(earlier.cluster.clone());
        // Under way from there to here; or from here, where others already had it, to there.
        let arriving = covering(apply, &earlier, later)?;
        let leaving = if held_before { covering(apply, later, &earlier)? } else { None };
        if let Some(migration) = arriving {
            note(apply, &earlier, &migration, (later, sequence))?;
            if newly {
                let later = later.clone();
                apply.events.push(EventKind::MigrationSighting { earlier, later, migration: migration.number });
            }
        } else if let Some(migration) = leaving {
            note(apply, later, &migration, (&earlier, first))?;
        } else if newly {
            // Of each other cluster its first holder.
            let subject = Subject::Key { hsm: later.hsm.clone(), key: later.key.clone() };
            let before = Evidence { sequence: Some(first), digest: Some(earlier.envelope) };
            let evidence = vec![before, this(apply, Some(later.envelope))];
            raise(
                apply,
                Finding { subject, evidence, event: EventKind::ForeignCluster { earlier, later: later.clone() } },
            )?;
        }
    }
    Ok(())
}

/// The migration under way that lets the holder `from` and the holder `to` prove the same.
fn covering(apply: &Apply<'_>, from: &Sighting, to: &Sighting) -> Result<Option<Migration>, Fault> {
    let now = apply.moment.at;
    let covers = |migration: &Migration| {
        let what = match &migration.what {
            Migrant::Key(key) => *key == from.key.key && *key == to.key.key,
            Migrant::Fingerprint(fingerprint) => *fingerprint == to.fingerprint,
        };
        what && migration.from == from.cluster && migration.to == to.cluster && now < migration.until
    };
    Ok(migrations(apply.state())?.into_iter().filter(covers).max_by_key(|migration| migration.until))
}

/// Every migration that is remembered.
pub(super) fn migrations(state: State<'_>) -> Result<Vec<Migration>, Fault> {
    state.all(&[])
}

/// Remembers that `holder` must stop when the migration is over.
fn note(
    apply: &mut Apply<'_>,
    holder: &Sighting,
    migration: &Migration,
    (other, sequence): (&Sighting, u64),
) -> Result<(), Fault> {
    let row = MigrationNote { migration: migration.number, until: migration.until, other: other.clone(), sequence };
    apply.put(&key::sighting(holder), &row)
}

/// A holder in the old cluster proves it again: has the migration ended?
///
/// Told once. Suspends nobody: the one in the new cluster is where the key belongs by now, and the one here held it first.
fn relieved(apply: &mut Apply<'_>, holder: &Sighting) -> Result<(), Fault> {
    let row = key::sighting(holder);
    let Some(noted) = apply.state().get::<MigrationNote>(&row)? else { return Ok(()) };
    if apply.moment.at < noted.until {
        return Ok(());
    }
    if let Some(migration) = covering(apply, holder, &noted.other)? {
        return note(apply, holder, &migration, (&noted.other, noted.sequence));
    }
    apply.remove::<MigrationNote>(&row)?;
    let subject = Subject::Key { hsm: noted.other.hsm.clone(), key: noted.other.key.clone() };
    let other = Evidence { sequence: Some(noted.sequence), digest: Some(noted.other.envelope) };
    let evidence = vec![this(apply, Some(holder.envelope)), other];
    let event = EventKind::ForeignCluster { earlier: holder.clone(), later: noted.other };
    raise_as(apply, Finding { subject, evidence, event }, Action::Alert)
}

/// Two tags of one beacon: at least one of the two HSMs does not hold the key.
pub(in crate::ledger) fn tags_differ(
    apply: &mut Apply<'_>,
    earlier: Sighting,
    later: &Sighting,
    beacon: keywitness_circuits::Nonce,
) -> Result<(), Fault> {
    let subject = Subject::Key { hsm: later.hsm.clone(), key: later.key.clone() };
    let evidence = vec![proof(apply.state(), &earlier)?, this(apply, Some(later.envelope))];
    raise(apply, Finding { subject, evidence, event: EventKind::TagsDiffer { earlier, later: later.clone(), beacon } })
}
