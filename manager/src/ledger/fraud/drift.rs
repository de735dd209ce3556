//! Two fingerprints of one key at one epoch, inside a cluster.

use keywitness_circuits::Timestamp;
use keywitness_verifier::wire::{EventKind, Evidence, Rule, Sighting, Subject};

use super::{Finding, raise, settings, this};
use crate::ledger::{
    apply::Apply,
    state::{
        DriftSeen, FirstProof, HolderRow, RecordRow,
        fraud::{DriftWatch, watch},
        key,
    },
    tables::Fault,
};

/// An enrolment that went wrong is corrected by the next epoch, and then nobody proves this one any more. So an HSM that differs
/// from the first proof is only watched at first: it is told of where, after the grace, both fingerprints are proven again.
pub(super) fn proven(apply: &mut Apply<'_>, later: &Sighting) -> Result<(), Fault> {
    let row = key::first_proof(later);
    let Some(FirstProof(first)) = apply.state().get(&row)? else {
        return apply.put(&row, &FirstProof(later.clone()));
    };
    if first.fingerprint == later.fingerprint || first.hsm == later.hsm {
        return Ok(());
    }
    let Some(settings) = settings(apply.state(), Rule::Drift)? else { return Ok(()) };
    let seen = key::drift(later);
    if apply.state().get::<DriftSeen>(&seen)?.is_some() {
        return Ok(());
    }
    let watched = watch::drift(&seen);
    let Some(DriftWatch { since }) = apply.state().get(&watched)? else {
        apply.put(&watched, &DriftWatch { since: apply.moment.at })?;
        return if settings.grace == 0 { tell(apply, &first, later, Timestamp(0)) } else { Ok(()) };
    };
    let from = since.plus(settings.grace);
    if apply.moment.at < from { Ok(()) } else { tell(apply, &first, later, from) }
}

/// Tells it, once, if the first fingerprint was proven at `from` or later.
fn tell(apply: &mut Apply<'_>, first: &Sighting, later: &Sighting, from: Timestamp) -> Result<(), Fault> {
    for holder in apply.state().all::<HolderRow>(&key::holders(&later.key.key, Some(&later.cluster)))? {
        let records: Vec<RecordRow> = apply.state().all(&key::epoch(&holder.hsm, &later.key))?;
        let proven = |row: &&RecordRow| row.record.fingerprint == first.fingerprint && row.record.proven_at >= from;
        let Some(RecordRow { record, sequence }) = records.iter().find(proven) else { continue };
        let earlier = Sighting { hsm: holder.hsm, envelope: record.envelope, ..first.clone() };
        apply.put(&key::drift(later), &DriftSeen)?;
        let subject = Subject::Key { hsm: later.hsm.clone(), key: later.key.clone() };
        let before = Evidence { sequence: Some(*sequence), digest: Some(record.envelope) };
        let evidence = vec![before, this(apply, Some(later.envelope))];
        return raise(apply, Finding { subject, evidence, event: EventKind::Drift { earlier, later: later.clone() } });
    }
    Ok(())
}
