//! HSMs that fall silent.
//!
//! An HSM that has proven something is waited for: a deadline stands, a grace after the first of its records that expires. An
//! attestation does not move it. What has become of the HSM is looked at when the deadline comes, which then moves to where the
//! newest record puts it. So intake writes nothing more, and an HSM that never spoke, or was told of, costs nothing.

use std::ops::ControlFlow;

use keywitness_circuits::{HsmId, Timestamp};
use keywitness_verifier::wire::{EventKind, Evidence, Rule};

use super::{Finding, about, policy::FraudPolicy, raise, settings};
use crate::ledger::{
    apply::Apply,
    command::Outcome,
    state::{
        HsmRow, KeyRow, RecordRow, Row, State, decode,
        fraud::{Deadline, SilenceWatch, watch},
        key,
    },
    tables::{Fault, Table},
};

/// How many deadlines one tick looks at.
const DEADLINES: usize = 64;

/// An HSM proved something: from now on it is waited for.
pub(in crate::ledger) fn heard(
    apply: &mut Apply<'_>,
    policy: &FraudPolicy,
    hsm: &HsmId,
    expires_at: Timestamp,
) -> Result<(), Fault> {
    let settings = policy.rule(Rule::SilentHsm);
    let watched = watch::silence(hsm);
    if !settings.enabled || apply.state().get::<SilenceWatch>(&watched)?.is_some() {
        return Ok(());
    }
    apply.put(&watched, &SilenceWatch)?;
    set(apply, expires_at.plus(settings.grace), Deadline::Silence(hsm.clone()))
}

fn set(apply: &mut Apply<'_>, at: Timestamp, deadline: Deadline) -> Result<(), Fault> {
    apply.put(&key::deadline(at, &deadline), &deadline)
}

/// The deadlines that have come, at most `limit`: their keys and what they are.
fn come(state: State<'_>, now: Timestamp, limit: usize) -> Result<Vec<(Vec<u8>, Deadline)>, Fault> {
    let mut come = Vec::new();
    state.0.visit(Table::Deadlines, &[], &[], &mut |key, value| {
        let at = key.first_chunk().map_or(0, |at| u64::from_be_bytes(*at));
        if at > now.0 || come.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        come.push((key.to_vec(), decode(Table::Deadlines, value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(come)
}

/// Whether a deadline has come.
///
/// # Errors
/// [`Fault`]
pub(crate) fn is_due(state: State<'_>, now: Timestamp) -> Result<bool, Fault> {
    Ok(!come(state, now, 1)?.is_empty())
}

/// Looks at some of the deadlines that have come. Nobody can be heard before `receiving_since`.
pub(in crate::ledger) fn tick(apply: &mut Apply<'_>, receiving_since: Timestamp) -> Result<Outcome, Fault> {
    for (key, deadline) in come(apply.state(), apply.moment.at, DEADLINES)? {
        apply.remove::<Deadline>(&key)?;
        let Deadline::Silence(hsm) = &deadline;
        match judge(apply.state(), hsm, receiving_since, apply.moment.at)? {
            Fate::WaitedForUntil(at) => set(apply, at, deadline)?,
            Fate::Gone => apply.remove::<SilenceWatch>(&watch::silence(hsm))?,
            Fate::Silent(newest) => {
                apply.remove::<SilenceWatch>(&watch::silence(hsm))?;
                let RecordRow { record, sequence } = *newest;
                let evidence = vec![Evidence { sequence: Some(sequence), digest: Some(record.envelope) }];
                let (last_proof, expired_at) = (record.proven_at, record.expires_at);
                let event = EventKind::SilentHsm { hsm: hsm.clone(), last_proof, expired_at };
                raise(apply, Finding { subject: about(hsm), evidence, event })?;
            }
        }
    }
    Ok(Outcome::Done)
}

/// What has become of an HSM whose deadline came.
enum Fate {
    /// It has been heard since.
    WaitedForUntil(Timestamp),
    /// It has nothing left to prove: it was revoked, with all that it proved, or suspended.
    Gone,
    /// It has not been heard. Its newest record.
    Silent(Box<RecordRow>),
}

fn judge(state: State<'_>, hsm: &HsmId, receiving_since: Timestamp, now: Timestamp) -> Result<Fate, Fault> {
    let Some(settings) = settings(state, Rule::SilentHsm)? else { return Ok(Fate::Gone) };
    let Some(row) = state.hsm(hsm)?.filter(|row| matches!(state.revocation(row, []), Ok(None))) else {
        return Ok(Fate::Gone);
    };
    // Of one that lives, the first record says so.
    let mut until: Option<Timestamp> = None;
    state.0.visit(RecordRow::TABLE, &key::hsm(hsm), &[], &mut |_, value| {
        let RecordRow { record, .. } = decode(RecordRow::TABLE, value)?;
        let waited = record.expires_at.max(receiving_since).plus(settings.grace);
        until = until.max(Some(waited));
        Ok(if waited > now { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    match until {
        None => Ok(Fate::Gone),
        Some(until) if until > now => Ok(Fate::WaitedForUntil(until)),
        Some(_) => newest(state, &row).map(|newest| newest.map_or(Fate::Gone, |newest| Fate::Silent(Box::new(newest)))),
    }
}

/// The newest record of what may still be proven.
fn newest(state: State<'_>, hsm: &HsmRow) -> Result<Option<RecordRow>, Fault> {
    let mut records: Vec<RecordRow> = state.all(&key::hsm(&hsm.hsm))?;
    records.sort_by_key(|row| row.record.expires_at);
    while let Some(newest) = records.pop() {
        if can_be_proven(state, hsm, &newest)? {
            return Ok(Some(newest));
        }
    }
    Ok(None)
}

/// Whether what was proven may still be proven: nothing of it is revoked.
fn can_be_proven(state: State<'_>, hsm: &HsmRow, row: &RecordRow) -> Result<bool, Fault> {
    let key: KeyRow = state.need(&key::epoch(&hsm.hsm, &row.record.key))?;
    Ok(state.key_revocation(hsm, &key)?.is_none())
}
