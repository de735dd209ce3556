//! What looks like fraud: rules that [`apply`](super::apply) asks about what it just decided.
//!
//! Every rule fires once for one cause, and goes by its [`policy`]. What it finds is an event, and by its action an alert, which
//! names the log entries that it rests on, and a suspension. A duplicate counts only where both sides are proven, and then the
//! alert is about the later one: the earlier holder is never suspended for it.
//!
//! An honest HSM that re-attests, retries, rotates, is down, is migrated, or attests a moment after a revocation raises none.

pub(crate) mod clock;
mod clusters;
mod devices;
mod drift;
mod failures;
mod measured;
mod pace;
pub mod policy;
mod repeats;
pub(crate) mod silence;

use keywitness_circuits::{Digest, HsmId, Timestamp};
use keywitness_verifier::wire::{
    Action, Alert, Event, EventKind, Evidence, Reason, ReasonCode, RevocationTarget, Rule, Sighting, Subject,
};

pub(super) use self::{
    clusters::tags_differ,
    devices::enrolled,
    failures::failed,
    measured::{author, measured},
    pace::paced,
    repeats::{replayed, revoked_attempt},
};
use super::{
    apply::{Apply, Happened},
    command::Outcome,
    state::{Head, RecordRow, State, corrupt, fraud::FraudCounts, key},
    tables::{Fault, Table},
};
use policy::RuleSettings;

/// What a rule found.
pub(super) struct Finding {
    /// Whom it is about.
    pub(super) subject: Subject,
    /// What it rests on.
    pub(super) evidence: Vec<Evidence>,
    /// Its event, which names the rule.
    pub(super) event: EventKind,
}

/// A proof was accepted: the same fingerprint in another cluster, or another fingerprint of the same key?
pub(super) fn proven(apply: &mut Apply<'_>, sighting: &Sighting) -> Result<(), Fault> {
    clusters::proven(apply, sighting)?;
    drift::proven(apply, sighting)
}

/// A rule's settings; none where it is not looked at.
pub(in crate::ledger) fn settings(state: State<'_>, rule: Rule) -> Result<Option<RuleSettings>, Fault> {
    let settings = state.configuration()?.fraud.rule(rule);
    Ok(settings.enabled.then_some(settings))
}

/// What the command that is being applied is to a rule.
pub(super) fn this(apply: &Apply<'_>, digest: Option<Digest>) -> Evidence {
    Evidence { sequence: Some(apply.moment.sequence), digest }
}

/// An accepted proof, as evidence.
pub(super) fn proof(state: State<'_>, sighting: &Sighting) -> Result<Evidence, Fault> {
    let records: Vec<RecordRow> = state.all(&key::epoch(&sighting.hsm, &sighting.key))?;
    let row = records.iter().find(|row| row.record.envelope == sighting.envelope);
    Ok(Evidence { sequence: row.map(|row| row.sequence), digest: Some(sighting.envelope) })
}

/// An HSM as a subject.
pub(super) fn about(hsm: &HsmId) -> Subject {
    Subject::Hsm(hsm.clone())
}

/// Tells what a rule found, as the policy says.
pub(super) fn raise(apply: &mut Apply<'_>, finding: Finding) -> Result<(), Fault> {
    let Some(rule) = finding.event.rule() else { return Ok(()) };
    let Some(settings) = settings(apply.state(), rule)? else { return Ok(()) };
    raise_as(apply, finding, settings.action)
}

/// Tells what a rule found, with at most this action.
pub(super) fn raise_as(apply: &mut Apply<'_>, finding: Finding, most: Action) -> Result<(), Fault> {
    let Finding { subject, evidence, event } = finding;
    let Some(rule) = event.rule() else { return Ok(()) };
    let Some(settings) = settings(apply.state(), rule)? else { return Ok(()) };
    let action = settings.action.min(most);
    if action == Action::Note {
        apply.events.push(event);
        return Ok(());
    }
    let mut counts: FraudCounts = apply.state().get(key::ONLY)?.unwrap_or_default();
    let head: Head = apply.state().head()?;
    let number = counts.alerts + 1;
    let alert = Alert {
        number,
        rule,
        at: apply.moment.at,
        subject,
        event: head.events + apply.events.len() as u64 + 1,
        evidence,
        action,
        acknowledged: None,
    };
    counts.alerts = number;
    counts.open += 1;
    apply.put(key::ONLY, &counts)?;
    apply.put(&key::number(number), &alert)?;
    let quarantined = alert.subject.hsm().filter(|_| action == Action::Quarantine).cloned();
    apply.alerts.push((apply.events.len(), number));
    apply.events.push(event);
    let Some(hsm) = quarantined else { return Ok(()) };
    let (by, why) = (author(rule), format!("alert {number}: {rule}"));
    let reason = Reason::new(ReasonCode::Fraud, why);
    match apply.suspend(&RevocationTarget::Hsm(hsm), &reason, &by)? {
        Outcome::Refused(problem) => Err(corrupt(Table::Alerts, problem)),
        _ => Ok(()),
    }
}

/// What happened, numbered as it goes to the outbox, with the alerts that it raised.
pub(super) fn numbered(head: &mut Head, happened: Happened, at: Timestamp) -> Vec<Event> {
    let Happened { events, alerts } = happened;
    let number = |(index, kind)| {
        let alert = alerts.iter().find(|(event, _)| *event == index).map(|(_, alert)| *alert);
        head.events += 1;
        head.alerts += u64::from(alert.is_some());
        Event { number: head.events, at, alert, text: String::new(), kind }
    };
    events.into_iter().enumerate().map(number).collect()
}
