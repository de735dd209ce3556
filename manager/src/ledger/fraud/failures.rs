//! Failures that pile up: in one HSM, and in many at once.

use keywitness_circuits::{Digest, HsmId};
use keywitness_verifier::wire::{EventKind, ProblemKind, Rule, Subject};

use super::{Finding, about, raise, settings, this};
use crate::ledger::{
    apply::Apply,
    state::{
        FailureWindow,
        fraud::{FleetWatch, watch},
        key,
    },
    tables::Fault,
};

/// One failure is an accident: only an HSM that has failed so often within the window counts to [`Rule::FleetFailures`].
const NO_ACCIDENT: usize = 2;

/// An authenticated failure: too many within the window?
pub(in crate::ledger) fn failed(
    apply: &mut Apply<'_>,
    hsm: &HsmId,
    last: ProblemKind,
    envelope: &Digest,
) -> Result<(), Fault> {
    let now = apply.moment.at;
    let policy = apply.state().configuration()?.fraud;
    let (settings, fleet) = (policy.rule(Rule::RepeatedFailures), policy.rule(Rule::FleetFailures));
    let mut row: FailureWindow = apply.state().get(&key::hsm(hsm))?.unwrap_or_default();
    let FailureWindow(window) = &mut row;
    let evidence = this(apply, Some(*envelope));
    let most = settings.threshold.max(u32::try_from(NO_ACCIDENT).unwrap_or(u32::MAX));
    let failures = window.count(now, evidence, settings.window, most);
    let fires = settings.enabled && failures >= settings.threshold && window.quiet(now, settings.window);
    let many = window.seen.iter().filter(|(at, _)| now.since(*at) < fleet.window).count() >= NO_ACCIDENT;
    if fires {
        window.raised = Some(now);
        let evidence = window.evidence();
        let span = settings.window;
        let event = EventKind::RepeatedFailures { hsm: hsm.clone(), failures, window: span, last, envelope: *envelope };
        raise(apply, Finding { subject: about(hsm), evidence, event })?;
    }
    apply.put(&key::hsm(hsm), &row)?;
    if many { fleet_failed(apply, hsm, envelope) } else { Ok(()) }
}

/// An HSM keeps failing: do many?
fn fleet_failed(apply: &mut Apply<'_>, hsm: &HsmId, envelope: &Digest) -> Result<(), Fault> {
    let Some(settings) = settings(apply.state(), Rule::FleetFailures)? else { return Ok(()) };
    let now = apply.moment.at;
    let mut fleet: FleetWatch = apply.state().get(&watch::failures())?.unwrap_or_default();
    let many = fleet.count(hsm, now, this(apply, Some(*envelope)), settings.window, settings.threshold);
    if many >= settings.threshold && fleet.quiet(now, settings.window) {
        fleet.raised = Some(now);
        let hsms = fleet.seen.iter().map(|(hsm, ..)| hsm.clone()).collect();
        let evidence = fleet.seen.iter().map(|(.., evidence)| *evidence).collect();
        let event = EventKind::FleetFailures { hsms, window: settings.window };
        raise(apply, Finding { subject: Subject::Manager, evidence, event })?;
    }
    apply.put(&watch::failures(), &fleet)
}
