//! What comes again and should not: a challenge with other bytes, and something revoked.

use keywitness_circuits::{Digest, HsmId, Nonce};
use keywitness_verifier::wire::{EventKind, Evidence, Revocation, Rule, Standing};

use super::{Finding, about, raise, settings, this};
use crate::ledger::{
    apply::Apply,
    state::{RevokedAttempts, key},
    tables::Fault,
};

/// A consumed challenge came back with other bytes: told once for each challenge.
pub(in crate::ledger) fn replayed(
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
    let evidence = vec![Evidence { sequence: None, digest: Some(first) }, this(apply, Some(second))];
    let event = EventKind::Replay { hsm: hsm.clone(), challenge: *challenge, first, second };
    raise(apply, Finding { subject: about(hsm), evidence, event })
}

/// An HSM tried to use something revoked: does it persist? One that asks now and then whether the revocation still
/// stands is honest, and so attempts count within the window only.
pub(in crate::ledger) fn revoked_attempt(
    apply: &mut Apply<'_>,
    hsm: &HsmId,
    revocation: &Revocation,
) -> Result<(), Fault> {
    if revocation.standing != Standing::Revoked {
        return Ok(());
    }
    let Some(settings) = settings(apply.state(), Rule::RevokedPersists)? else { return Ok(()) };
    let now = apply.moment.at;
    if now <= revocation.at.plus(settings.grace) {
        return Ok(());
    }
    let row = key::attempts(&revocation.target, hsm);
    let mut seen: RevokedAttempts = apply.state().get(&row)?.unwrap_or_default();
    let RevokedAttempts(window) = &mut seen;
    // What was told, and counted, of an earlier revocation says nothing of this one.
    window.raised = window.raised.filter(|raised| *raised > revocation.at);
    window.seen.retain(|(at, _)| *at > revocation.at);
    if window.raised.is_some() {
        return Ok(());
    }
    let attempts = window.count(now, this(apply, None), settings.window, settings.threshold);
    if attempts >= settings.threshold {
        window.raised = Some(now);
        let evidence = window.evidence();
        let event = EventKind::RevokedPersists { hsm: hsm.clone(), target: revocation.target.clone(), attempts };
        raise(apply, Finding { subject: about(hsm), evidence, event })?;
    }
    apply.put(&row, &seen)
}
