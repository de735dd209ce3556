//! What looks like fraud. Every rule raises an event once for one cause, and suspends nobody by itself.
//!
//! An honest HSM that re-attests, retries, rotates, or attests a moment after a revocation raises none.

use keywitness_circuits::{Digest, HsmId, Nonce};
use keywitness_verifier::wire::{EventKind, ProblemKind, Revocation, Sighting, Standing};

use super::{
    apply::Apply,
    state::{DriftSeen, FailureWindow, FirstProof, RevokedAttempts, SightingRow, key},
    tables::Fault,
};

/// A proof was accepted: the same fingerprint in another cluster, or another fingerprint of the same key?
///
/// Both are looked for when an HSM proves a fingerprint for the first time, and never again.
pub(super) fn proven(apply: &mut Apply<'_>, sighting: &Sighting) -> Result<(), Fault> {
    foreign_cluster(apply, sighting)?;
    drift(apply, sighting)
}

fn foreign_cluster(apply: &mut Apply<'_>, later: &Sighting) -> Result<(), Fault> {
    let row = key::sighting(later);
    if apply.state().get::<SightingRow>(&row)?.is_some() {
        return Ok(());
    }
    let mut earlier: Vec<SightingRow> = apply.state().all(&key::fingerprint(&later.fingerprint))?;
    earlier.retain(|seen| seen.sighting.cluster != later.cluster);
    earlier.sort_by(|a, b| (&a.sighting.cluster, a.sequence).cmp(&(&b.sighting.cluster, b.sequence)));
    // The first holder of each other cluster.
    earlier.dedup_by(|next, first| next.sighting.cluster == first.sighting.cluster);
    for SightingRow { sighting: earlier, .. } in earlier {
        apply.events.push(EventKind::ForeignCluster { earlier, later: later.clone() });
    }
    let sequence = apply.moment.sequence;
    apply.put(&row, &SightingRow { sighting: later.clone(), sequence })
}

fn drift(apply: &mut Apply<'_>, later: &Sighting) -> Result<(), Fault> {
    let row = key::first_proof(later);
    let Some(FirstProof(earlier)) = apply.state().get(&row)? else {
        return apply.put(&row, &FirstProof(later.clone()));
    };
    if earlier.fingerprint == later.fingerprint || earlier.hsm == later.hsm {
        return Ok(());
    }
    let seen = key::drift(later);
    if apply.state().get::<DriftSeen>(&seen)?.is_none() {
        apply.put(&seen, &DriftSeen)?;
        apply.events.push(EventKind::Drift { earlier, later: later.clone() });
    }
    Ok(())
}

/// An authenticated failure: too many within the window?
pub(super) fn failed(apply: &mut Apply<'_>, hsm: &HsmId, last: ProblemKind, envelope: &Digest) -> Result<(), Fault> {
    let configuration = apply.state().configuration()?;
    let (now, span) = (apply.moment.at, configuration.failure_window);
    let mut window: FailureWindow = apply.state().get(&key::hsm(hsm))?.unwrap_or_default();
    window.at.push(now);
    window.at.retain(|at| now.since(*at) < span);
    let failures = u32::try_from(window.at.len()).unwrap_or(u32::MAX);
    let quiet = window.raised.is_none_or(|raised| now.since(raised) >= span);
    if failures >= configuration.failures && quiet {
        window.raised = Some(now);
        let (hsm, envelope) = (hsm.clone(), *envelope);
        apply.events.push(EventKind::RepeatedFailures { hsm, failures, window: span, last, envelope });
    }
    let excess = window.at.len().saturating_sub(configuration.failures as usize);
    window.at.drain(..excess);
    apply.put(&key::hsm(hsm), &window)
}

/// A consumed challenge came back with other bytes: told once for each challenge.
pub(super) fn replayed(
    apply: &mut Apply<'_>,
    hsm: &HsmId,
    challenge: &Nonce,
    first: Digest,
    second: Digest,
) -> Result<(), Fault> {
    let Some(mut row) = apply.state().challenge(challenge)? else { return Ok(()) };
    if row.replay_told {
        return Ok(());
    }
    row.replay_told = true;
    apply.put(&challenge.0, &row)?;
    apply.events.push(EventKind::Replay { hsm: hsm.clone(), challenge: *challenge, first, second });
    Ok(())
}

/// An HSM tried to use something revoked: does it persist? One that asks now and then whether the revocation still
/// stands is honest, and so attempts count within the failure window only.
pub(super) fn revoked_attempt(apply: &mut Apply<'_>, hsm: &HsmId, revocation: &Revocation) -> Result<(), Fault> {
    if revocation.standing != Standing::Revoked {
        return Ok(());
    }
    let configuration = apply.state().configuration()?;
    if apply.moment.at <= revocation.at.plus(configuration.revoked_grace) {
        return Ok(());
    }
    let row = key::attempts(&revocation.target, hsm);
    let mut seen: RevokedAttempts = apply.state().get(&row)?.unwrap_or_default();
    if seen.raised {
        return Ok(());
    }
    let now = apply.moment.at;
    seen.at.push(now);
    seen.at.retain(|at| now.since(*at) < configuration.failure_window);
    let attempts = u32::try_from(seen.at.len()).unwrap_or(u32::MAX);
    if attempts >= configuration.revoked_attempts {
        seen.raised = true;
        let (hsm, target) = (hsm.clone(), revocation.target.clone());
        apply.events.push(EventKind::RevokedPersists { hsm, target, attempts });
    }
    apply.put(&row, &seen)?;
    Ok(())
}
