//! Clocks that differ: an HSM's, or the manager's own.
//!
//! Whoever delays an HSM's requests makes its clock look slow, so that this suspends nobody. A copy of one old request is no
//! clock: only requests that are each younger than the last, and all about as far off, count.

use keywitness_circuits::{Digest, HsmId, Timestamp};
use keywitness_verifier::{
    identity::MAX_SKEW,
    wire::{EventKind, Evidence, Rule, Subject},
};

use super::{Finding, about, raise, settings, this};
use crate::ledger::{
    apply::Apply,
    command::Outcome,
    state::{
        HsmRow, RecordRow, State,
        fraud::{FleetWatch, SkewWatch, watch},
        key,
    },
    tables::Fault,
};

/// How many HSMs, and how many records of each, are looked at for one whose clock agrees with the manager's.
const WITNESSES: usize = 64;

/// Seconds from `now` to `created`.
fn ahead(created: Timestamp, now: Timestamp) -> i64 {
    i64::try_from(i128::from(created.0) - i128::from(now.0)).unwrap_or(if created > now { i64::MAX } else { i64::MIN })
}

/// Whether a request that an HSM signed, made at `created` by its clock, tells more than is known already. Bounds what such
/// requests write: one in a [`grace`](super::policy::RuleSettings::grace), and none for the rest of a window once the rule fired.
///
/// # Errors
/// [`Fault`]
pub(crate) fn is_news(state: State<'_>, hsm: &HsmId, created: Timestamp, now: Timestamp) -> Result<bool, Fault> {
    let Some(settings) = settings(state, Rule::ClockSkew)? else { return Ok(false) };
    if now.0.abs_diff(created.0) <= MAX_SKEW {
        return Ok(false);
    }
    let Some(known) = state.get::<SkewWatch>(&watch::skew(hsm))? else { return Ok(true) };
    let waited = known.window.seen.last().is_none_or(|(last, _)| now.since(*last) >= settings.grace.max(1));
    Ok(waited && created > known.created && known.window.quiet(now, settings.window))
}

/// An HSM signed a request at a time that is too far from the manager's.
pub(in crate::ledger) fn skewed(
    apply: &mut Apply<'_>,
    hsm: &HsmRow,
    request: &Digest,
    created: Timestamp,
) -> Result<Outcome, Fault> {
    let now = apply.moment.at;
    if !is_news(apply.state(), &hsm.hsm, created, now)? {
        return Ok(Outcome::Done);
    }
    let Some(settings) = settings(apply.state(), Rule::ClockSkew)? else { return Ok(Outcome::Done) };
    let evidence = this(apply, Some(*request));
    let mut watched: SkewWatch = apply.state().get(&watch::skew(&hsm.hsm))?.unwrap_or_default();
    let ahead = ahead(created, now);
    if ahead.abs_diff(watched.ahead) > 2 * MAX_SKEW {
        // Its clock was set, or the manager's: what was counted before is of another time.
        watched.window.seen.clear();
    }
    (watched.created, watched.ahead) = (created, ahead);
    let requests = watched.window.count(now, evidence, settings.window, settings.threshold);
    let common = fleet(apply, &hsm.hsm, evidence, ahead)?;
    if requests >= settings.threshold && !common {
        watched.window.raised = Some(now);
        let since = watched.window.seen.first().map_or(now, |(at, _)| *at);
        let (evidence, window) = (watched.window.evidence(), settings.window);
        // Somebody else's time was right meanwhile, or else it may be the manager's that is wrong.
        if vouched(apply.state(), &hsm.hsm, since)? {
            let event = EventKind::ClockSkew { hsm: hsm.hsm.clone(), ahead, requests, window };
            raise(apply, Finding { subject: about(&hsm.hsm), evidence, event })?;
        } else {
            manager_clock(apply, evidence, ahead)?;
        }
    }
    apply.put(&watch::skew(&hsm.hsm), &watched)?;
    Ok(Outcome::Done)
}

/// Counts an HSM whose time differs. Whether so many do that it is the manager's that is wrong, which is told once in a window.
fn fleet(apply: &mut Apply<'_>, hsm: &HsmId, evidence: Evidence, ahead: i64) -> Result<bool, Fault> {
    let settings = apply.state().configuration()?.fraud.rule(Rule::ManagerClock);
    let now = apply.moment.at;
    let mut fleet: FleetWatch = apply.state().get(&watch::clocks())?.unwrap_or_default();
    let many = fleet.count(hsm, now, evidence, settings.window, settings.threshold) >= settings.threshold;
    let evidence = fleet.seen.iter().map(|(.., evidence)| *evidence).collect();
    apply.put(&watch::clocks(), &fleet)?;
    if many {
        manager_clock(apply, evidence, ahead)?;
    }
    Ok(many)
}

/// The manager's clock may be wrong: told once in a window.
fn manager_clock(apply: &mut Apply<'_>, evidence: Vec<Evidence>, ahead: i64) -> Result<(), Fault> {
    let settings = apply.state().configuration()?.fraud.rule(Rule::ManagerClock);
    let now = apply.moment.at;
    let mut fleet: FleetWatch = apply.state().get(&watch::clocks())?.unwrap_or_default();
    if !fleet.quiet(now, settings.window) {
        return Ok(());
    }
    fleet.raised = Some(now);
    apply.put(&watch::clocks(), &fleet)?;
    let hsms = fleet.seen.into_iter().map(|(hsm, ..)| hsm).collect();
    let event = EventKind::ManagerClock { hsms, ahead, window: settings.window };
    raise(apply, Finding { subject: Subject::Manager, evidence, event })
}

/// Whether another HSM's request was accepted after `since`: it has proven what it asked a challenge for after that.
fn vouched(state: State<'_>, hsm: &HsmId, since: Timestamp) -> Result<bool, Fault> {
    let asked = since.plus(state.configuration()?.challenge_ttl);
    for row in state.some::<HsmRow>(&[], WITNESSES)? {
        if row.hsm == *hsm {
            continue;
        }
        let records: Vec<RecordRow> = state.some(&key::hsm(&row.hsm), WITNESSES)?;
        if records.iter().any(|row| row.record.proven_at > asked) {
            return Ok(true);
        }
    }
    Ok(false)
}
