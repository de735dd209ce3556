//! The one deterministic function that changes the state: no clock, no randomness, no I/O.

pub(crate) mod access;
pub(crate) mod attestation;
pub(crate) mod beacon;
mod challenge;
pub(crate) mod challenges;
pub(crate) mod enrolment;
pub(crate) mod evidence;
pub(crate) mod fraud;
pub(crate) mod log;
mod restoration;
pub(crate) mod revocation;
pub(crate) mod sharing;
mod status;
mod token_key;
mod transfer;
mod webhook;

use keywitness_circuits::{Digest, HsmId, Timestamp};
use keywitness_verifier::{
    identity::MAX_SKEW,
    wire::{CredentialId, EventKind, Problem, ProblemKind},
};

use super::{
    command::{Command, Configuration, Outcome},
    fraud::{clock, silence},
    state::{self, CredentialRow, HsmRow, JoinTokenRow, RequestRow, Row, State, key},
    tables::{Fault, Table, Tables},
};

/// How long used or expired challenges, join tokens and outcomes are remembered, in seconds. An outcome is
/// never forgotten before the challenge that it answered, so that a copy of an old envelope, whoever sends
/// it, meets either its outcome or `unknown-challenge`, and neither counts against the HSM.
pub const RETENTION: u64 = 24 * 60 * 60;

/// How long the outcome of a signed request is remembered, in seconds: longer than its signature is accepted.
const REQUEST_RETENTION: u64 = 3 * MAX_SKEW;

/// When a command is applied, and as which one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// The ledger's time.
    pub at: Timestamp,
    /// The command's number.
    pub sequence: u64,
}

/// Applies one command.
///
/// # Errors
/// [`Fault`] where the tables failed; the caller undoes everything.
pub fn apply(tables: &mut dyn Tables, command: &Command, moment: Moment) -> Result<(Outcome, Happened), Fault> {
    let mut apply = Apply { tables, moment, events: Vec::new(), alerts: Vec::new(), by: None };
    let outcome = apply.run(command)?;
    Ok((outcome, Happened { events: apply.events, alerts: apply.alerts }))
}

/// What happened while a command was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Happened {
    /// The events, in order.
    pub events: Vec<EventKind>,
    /// Which of them raised which alert.
    pub alerts: Vec<(usize, u64)>,
}

/// A refusal.
pub(crate) fn refuse(kind: ProblemKind, detail: impl Into<String>) -> Outcome {
    Outcome::Refused(Problem::new(kind, detail))
}

/// The refusal of what was signed under an enrolment that is not in force.
fn unenrolled() -> Outcome {
    refuse(ProblemKind::Unauthenticated, "this HSM is not enrolled, or was enrolled again since it signed this")
}

/// One command being applied.
pub(in crate::ledger) struct Apply<'a> {
    tables: &'a mut dyn Tables,
    pub(in crate::ledger) moment: Moment,
    pub(in crate::ledger) events: Vec<EventKind>,
    /// Who asked for the command, where a credential's holder did.
    pub(in crate::ledger) by: Option<CredentialId>,
    /// Which of the events raised which alert.
    pub(in crate::ledger) alerts: Vec<(usize, u64)>,
}

impl Apply<'_> {
    fn run(&mut self, command: &Command) -> Result<Outcome, Fault> {
        match command {
            Command::OnBehalf { by, command } => self.on_behalf(*by, command),
            Command::GrantCredential { digest, name, role, clusters, expires_at } => {
                self.grant_credential(digest, (name, *role), clusters.as_deref(), *expires_at)
            }
            Command::WithdrawCredential { id } => self.withdraw_credential(*id),
            Command::Configure(configuration) => self.configure(configuration),
            Command::AddCredential { digest, name, role } => {
                self.put(&digest.0, &CredentialRow { name: name.clone(), role: *role })?;
                Ok(Outcome::Done)
            }
            Command::AddJoinToken { digest, cluster, hsm, reenrol, expires_at } => {
                let row = JoinTokenRow {
                    cluster: cluster.clone(),
                    hsm: hsm.clone(),
                    reenrol: *reenrol,
                    expires_at: *expires_at,
                    used_by: None,
                };
                self.add_join_token(digest, &row)
            }
            Command::EnrolHsm { join_token, hsm, identity_key, channel_key } => {
                self.enrol_hsm(join_token, hsm, identity_key, channel_key)
            }
            Command::EnrolKey { request, hsm, enrolment, key, attributes, instances } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| apply.enrol_key(&hsm, key, attributes, instances))
            }
            Command::AnnounceChannel { request, hsm, enrolment, url } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| apply.announce_channel(hsm, url))
            }
            Command::AnnounceSealingKey { request, hsm, enrolment, key } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| apply.announce_sealing_key(hsm, key))
            }
            Command::EnrolSharing { request, hsm, enrolment, dealing } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| apply.enrol_sharing(&hsm, dealing))
            }
            Command::Complain { request, hsm, enrolment, sharing, complaint, verdict } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| apply.complain(&hsm, sharing, complaint, verdict))
            }
            Command::IssueChallenge { request, hsm, enrolment, statement, keys, nonce, beacon } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| {
                    apply.issue_challenge(&hsm, statement, keys, nonce, beacon)
                })
            }
            Command::Attest { envelope, digest, hsm, enrolment, verdict } => {
                self.attest(envelope, digest, hsm, *enrolment, verdict)
            }
            Command::Revoke { target, reason, by } => self.revoke(target, reason, by),
            Command::Suspend { target, reason, by } => self.suspend(target, reason, by),
            Command::AddTokenKey { kid, algorithm, public, overlap, keep } => {
                self.add_token_key(kid, *algorithm, public, (*overlap, *keep))
            }
            Command::Reinstate { target, reason, by } => self.reinstate(target, reason, by),
            Command::IssueChallenges { request, hsm, enrolment, items, seed, beacon } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| apply.issue_challenges(&hsm, items, seed, beacon))
            }
            Command::Seal { sequence, root } => self.seal(*sequence, root),
            Command::Prune { through } => self.prune(*through),
            Command::Restored => self.restored(),
            Command::AcknowledgeAlert { alert, by, note } => self.acknowledge_alert(*alert, by, note),
            Command::DeclareMigration { what, from, to, valid_for, by } => {
                self.declare_migration(what, (from, to), *valid_for, by)
            }
            Command::Tick { receiving_since } => silence::tick(self, *receiving_since),
            Command::ReportSkew { request, hsm, enrolment, created } => {
                // Not `once`: this is no answer to the request, which may be in time yet.
                match self.enrolled(hsm, *enrolment)? {
                    Some(hsm) => clock::skewed(self, &hsm, request, *created),
                    None => Ok(unenrolled()),
                }
            }
            Command::PlaceWebhook { webhook, after } => self.place_webhook(webhook, *after),
            Command::AdvanceWebhook { webhook, placed, through } => self.advance_webhook(webhook, (*placed, *through)),
            Command::CopyKeys { request, hsm, enrolment, to, keys } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| apply.copy_keys(&hsm, to, keys))
            }
            Command::ConfigureEvidence(terms) => {
                self.put(key::ONLY, terms)?;
                Ok(Outcome::Done)
            }
            Command::IssueEvidenceChallenge { request, hsm, enrolment, key, nonce } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| {
                    apply.issue_evidence_challenge(&hsm, key.as_ref(), nonce)
                })
            }
            Command::PresentEvidence { request, hsm, enrolment, nonce, evidence, verdict } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| {
                    apply.present_evidence(&hsm, nonce, evidence, verdict)
                })
            }
            Command::AllowDevice { hsm, device, valid_for, by } => {
                self.allow_device(hsm, device.as_deref(), *valid_for, by)
            }
            Command::OfferCredential { request, hsm, enrolment, device, secret, endorsement, offer } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| {
                    apply.offer_credential(&hsm, (device, secret, endorsement), offer)
                })
            }
            Command::AnswerCredential { request, hsm, enrolment, answer } => {
                self.once(request, (hsm, *enrolment), |apply, hsm| apply.answer_credential(&hsm, answer))
            }
        }
    }

    pub(in crate::ledger) fn state(&self) -> State<'_> {
        State(self.tables)
    }

    pub(in crate::ledger) fn put<R: Row>(&mut self, key: &[u8], row: &R) -> Result<(), Fault> {
        state::put(self.tables, key, row)
    }

    pub(in crate::ledger) fn remove<R: Row>(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.tables.remove(R::TABLE, key)
    }

    /// Lets a row be forgotten from `at` on.
    pub(in crate::ledger) fn forget_at(&mut self, at: Timestamp, table: Table, row: &[u8]) -> Result<(), Fault> {
        self.tables.put(Table::Due, &key::due(at, table, row), &[])
    }

    fn configure(&mut self, configuration: &Configuration) -> Result<Outcome, Fault> {
        let current: Option<Configuration> = self.state().get(key::ONLY)?;
        if let Some(current) = current
            && current.audience != configuration.audience
        {
            return Ok(refuse(
                ProblemKind::Forbidden,
                format!(
                    "this data belongs to manager {} of trust domain {}, and every enrolment and fingerprint in it with \
                     it; use those names, or another data directory",
                    current.audience.manager, current.audience.trust_domain
                ),
            ));
        }
        self.put(key::ONLY, configuration)?;
        self.remember_verifying_keys(configuration)?;
        Ok(Outcome::Done)
    }

    /// The HSM, if the enrolment is in force under which its signature was verified: that was before the command was
    /// ordered, and whoever has the identity of an enrolment that is over must not act under the next one.
    pub(in crate::ledger) fn enrolled(&self, hsm: &HsmId, enrolment: u32) -> Result<Option<HsmRow>, Fault> {
        Ok(self.state().hsm(hsm)?.filter(|hsm| hsm.revision == enrolment))
    }

    /// Runs `action` for an HSM's signed request, unless the same request was answered before: then gives
    /// the recorded answer.
    fn once(
        &mut self,
        request: &Digest,
        (hsm, enrolment): (&HsmId, u32),
        action: impl FnOnce(&mut Self, HsmRow) -> Result<Outcome, Fault>,
    ) -> Result<Outcome, Fault> {
        let Some(hsm) = self.enrolled(hsm, enrolment)? else { return Ok(unenrolled()) };
        if let Some(RequestRow(outcome)) = self.state().get(&request.0)? {
            return Ok(outcome);
        }
        let outcome = action(self, hsm)?;
        self.put(&request.0, &RequestRow(outcome.clone()))?;
        self.forget_at(self.moment.at.plus(REQUEST_RETENTION), Table::Requests, &request.0)?;
        Ok(outcome)
    }
}
