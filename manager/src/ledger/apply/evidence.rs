//! Evidence of where HSMs and keys live, and the devices that HSMs are enrolled with.
//!
//! Evidence is appraised before its command is ordered, under the policy in force, and the command carries both; an audit appraises
//! it again. What it says counts from here on: [`State::evidence_standing`].

use keywitness_circuits::{Digest, HsmId, Instance, Nonce, Timestamp, codec::Canonical};
use keywitness_verifier::{
    evidence::{Binding, Evidence, EvidenceContext, EvidenceError, EvidencePolicy, Format, Subject, Summary},
    wire::{
        Action, CredentialOffer, EventKind, EvidenceChallenge, KeyRef, Problem, ProblemKind, Reason, ReasonCode,
        RevocationTarget, Rule, Standing,
    },
};
use sha2::{Digest as _, Sha256};

use super::{Apply, RETENTION, refuse, revocation};
use crate::ledger::{
    command::{EvidenceRefusal, EvidenceVerdict, Outcome},
    fraud,
    state::{
        HsmRow, KeyRow, State, encode,
        evidence::{
            DeviceLeave, DeviceOffer, DeviceRow, EnrolledDevice, EvidenceChallengeRow, EvidenceRow, EvidenceTerms,
            GoodEvidence, Json, Pardon, RefusedEvidence,
        },
        key,
    },
    tables::{Fault, Table},
};

/// How long a credential can be answered, in seconds.
const OFFER: u64 = 600;

/// Longest leave to enrol a device, in seconds: a week.
const LONGEST_LEAVE: u64 = 7 * 24 * 60 * 60;

/// How old an appraisal may be when it is applied, in seconds.
const LATE: u64 = 300;

/// Longest reason that is kept of a refusal, in characters: some of them come from whoever gave the evidence.
const LONGEST_REASON: usize = 300;

const NOT_ACCEPTED: &str =
    "this manager accepts no evidence: name a policy in its settings, evidence.policy (docs/evidence.md)";

/// What evidence that answers a challenge is held against.
pub(crate) struct Asked {
    challenge: EvidenceChallengeRow,
    context: EvidenceContext,
    /// SubjectPublicKeyInfo of the key that it is about.
    spki: Option<Vec<u8>>,
    terms: EvidenceTerms,
    policy: EvidencePolicy,
    device: DeviceRow,
    /// Whether one of the keys that vouch for the enrolled device is revoked.
    revoked: bool,
    /// The devices that it may be of, each any where it is none; one after the other.
    devices: Vec<Option<String>>,
    /// Digest of all that.
    against: Digest,
}

/// The terms, if evidence is accepted.
fn terms(state: State<'_>) -> Result<Result<(EvidenceTerms, EvidencePolicy), Problem>, Fault> {
    let Some(terms) = state.evidence_terms()? else { return Ok(Err(not_accepted())) };
    Ok(terms.policy()?.map(|policy| (terms, policy)).ok_or_else(not_accepted))
}

/// A reason on one line, without what a terminal would take for commands, and no longer than it may be.
pub(crate) fn printable(why: &str) -> String {
    let mut text = String::new();
    let mut length = 0;
    for c in why.chars() {
        let escaped = match c {
            '\'' | '"' | '\\' => String::from(c),
            _ => c.escape_debug().to_string(),
        };
        length += escaped.chars().count();
        if length >= LONGEST_REASON {
            text.push('…');
            break;
        }
        text.push_str(&escaped);
    }
    text
}

fn not_accepted() -> Problem {
    Problem::new(ProblemKind::Forbidden, NOT_ACCEPTED)
}

/// The refusal of a revoked HSM. One that is suspended may show that it is as it should be.
fn revoked(state: State<'_>, hsm: &HsmRow) -> Result<Option<Problem>, Fault> {
    let revoked = state.revocation(hsm, [])?.filter(|revocation| revocation.standing == Standing::Revoked);
    Ok(revoked.as_ref().map(revocation::problem))
}

/// The public key that evidence of a key must name.
fn public_key(row: &KeyRow) -> Option<Vec<u8>> {
    row.instances.first().and_then(|instance| Instance::spki_of_read(&instance.bytes).ok().flatten())
}

/// What evidence must be that answers this challenge now.
pub(crate) fn asked(
    state: State<'_>,
    hsm: &HsmRow,
    nonce: &Nonce,
    at: Timestamp,
) -> Result<Result<Asked, Problem>, Fault> {
    let wrong = |kind, why: &str| Ok(Err(Problem::new(kind, why)));
    let (terms, policy) = match terms(state)? {
        Ok(terms) => terms,
        Err(problem) => return Ok(Err(problem)),
    };
    if let Some(problem) = revoked(state, hsm)? {
        return Ok(Err(problem));
    }
    let Some(challenge) = state.get::<EvidenceChallengeRow>(&nonce.0)? else {
        return wrong(ProblemKind::UnknownChallenge, "no such challenge for evidence was given; ask for another one");
    };
    if (&challenge.hsm, challenge.enrolment) != (&hsm.hsm, hsm.revision) {
        return wrong(
            ProblemKind::ForeignChallenge,
            "the challenge was given to another HSM, or to an enrolment before",
        );
    }
    if challenge.consumed {
        return wrong(ProblemKind::ChallengeConsumed, "the challenge was answered already; ask for another one");
    }
    if challenge.expires_at <= at {
        return wrong(ProblemKind::ChallengeExpired, "the challenge has expired; ask for another one");
    }
    let spki = match &challenge.key {
        None => None,
        Some(named) => match public_key(&state.need(&key::epoch(&hsm.hsm, named))?) {
            Some(spki) => Some(spki),
            None => return wrong(ProblemKind::Malformed, "the key has no public key that a device could name"),
        },
    };
    let device = state.device(&hsm.hsm)?;
    let enrolled = device.device.as_ref().filter(|_| device.void.is_none()).map(|enrolled| enrolled.device.clone());
    let devices: Vec<_> = match (device.open(at), enrolled) {
        (Some(leave), enrolled) => std::iter::once(leave.device.clone()).chain(enrolled.map(Some)).collect(),
        (None, _) if device.void.is_some() => {
            let why = "what ran at this HSM was not what the evidence policy lists: repair it, and have an operator let it \
                       enrol its device again (keywitness evidence enrol)";
            return wrong(ProblemKind::EvidenceRefused, why);
        }
        (None, enrolled) => vec![enrolled],
    };
    let configuration = state.configuration()?;
    let context = EvidenceContext {
        trust_domain: configuration.audience.trust_domain,
        manager: configuration.audience.manager,
        cluster: hsm.cluster.clone(),
        hsm: hsm.hsm.clone(),
        enrolment: hsm.revision,
        identity_key: hsm.identity_key,
        key: challenge.key.clone(),
        nonce: *nonce,
    };
    let revoked = device.device.as_ref().is_some_and(|enrolled| terms.revoke(enrolled));
    let all = (context.digest(), &spki, &devices, (&device.device, device.void), revoked, &terms);
    let against = Digest(Sha256::digest(encode(Table::EvidenceChallenges, &all)?).into());
    Ok(Ok(Asked { challenge, context, spki, terms, policy, device, revoked, devices, against }))
}

impl Asked {
    /// Appraises evidence as of `at`. Pure: an audit comes to the same.
    pub(crate) fn appraise(&self, evidence: &[u8], at: Timestamp) -> EvidenceVerdict {
        let found = self.found(evidence, at).map(Json).map_err(|EvidenceRefusal { why, measured }| EvidenceRefusal {
            why: printable(&why),
            measured: measured.as_deref().map(printable),
        });
        EvidenceVerdict { at, against: self.against, found }
    }

    /// The devices that evidence of a format may be of, each any where it is none; one after the other.
    fn devices_of(&self, format: Format, at: Timestamp) -> Result<Vec<Option<String>>, EvidenceRefusal> {
        if !format.can_enrol() {
            return Ok(vec![None]);
        }
        if format != Format::Tpm2 {
            return Ok(self.devices.clone());
        }
        // A TPM is genuine by a credential, or because the policy lists it now: never because an operator lets the HSM enrol one.
        let Some(own) = self.device.device.as_ref().filter(|_| self.device.void.is_none()) else {
            return Ok(vec![None]);
        };
        let section = self.policy.tpm2.as_ref();
        let is_listed = section.is_some_and(|section| section.trust.devices.contains(&own.device));
        if is_listed || !own.endorsement.is_empty() {
            return Ok(vec![Some(own.device.clone())]);
        }
        if self.device.open(at).is_some() {
            return Ok(vec![None]);
        }
        let why = format!(
            "the HSM is enrolled with {}, which is no TPM that the evidence policy lists: enrol one",
            own.device
        );
        Err(EvidenceRefusal { why, measured: None })
    }

    fn found(&self, evidence: &[u8], at: Timestamp) -> Result<Summary, EvidenceRefusal> {
        let refused = |why: String| EvidenceRefusal { why, measured: None };
        let evidence = Evidence::from_bytes(evidence).map_err(|error| refused(error.to_string()))?;
        let context = self.context.digest();
        if self.device.void.is_some_and(|voided| voided != evidence.format()) {
            return Err(refused(
                "it is of another format than that which told of something that is not listed".to_owned(),
            ));
        }
        let devices = self.devices_of(evidence.format(), at)?;
        let mut result = Err(refused("it may be of no device".to_owned()));
        for device in &devices {
            let subject = Subject { context: &context, key: self.spki.as_deref(), device: device.as_deref() };
            let of_another = |error: &EvidenceError| matches!(error, EvidenceError::WrongDevice { .. });
            let appraised = self.policy.appraise(&evidence, &subject, at);
            let another = appraised.as_ref().is_err_and(of_another);
            result = appraised.map(|appraisal| appraisal.summary()).map_err(|error| EvidenceRefusal {
                why: error.to_string(),
                measured: match error {
                    EvidenceError::Measurement(what) => Some(what),
                    _ => None,
                },
            });
            if !another {
                break;
            }
        }
        let found = result?;
        if self.spki.is_some() && !found.names_key {
            return Err(refused("it does not name the key that it should be about".to_owned()));
        }
        let own = self.device.device.as_ref().map(|enrolled| enrolled.device.as_str());
        if found.facts.device.is_none() && own.is_some() {
            return Err(refused("it does not say which device it is of, and the HSM was enrolled with one".to_owned()));
        }
        if self.revoked && found.facts.device.as_deref() == own {
            return Err(refused("a key that vouches for this TPM was revoked: enrol another device".to_owned()));
        }
        Ok(found)
    }

    /// The leave under which this evidence enrols its device. Of one without a name, nothing more than that it was repaired.
    fn enrols(&self, summary: &Summary, at: Timestamp) -> Option<(DeviceLeave, Option<String>)> {
        if self.challenge.key.is_some() || summary.binding != Binding::Context {
            return None;
        }
        let leave = self.device.open(at)?.clone();
        let Some(device) = summary.facts.device.clone() else {
            let repaired = self.device.void.is_some() && self.device.device.is_none() && leave.device.is_none();
            return repaired.then_some((leave, None));
        };
        let known =
            self.device.void.is_none() && self.device.device.as_ref().is_some_and(|enrolled| enrolled.device == device);
        let allowed = leave.device.as_ref().is_none_or(|only| *only == device);
        (!known && allowed).then_some((leave, Some(device)))
    }
}

impl Apply<'_> {
    pub(super) fn issue_evidence_challenge(
        &mut self,
        hsm: &HsmRow,
        about: Option<&KeyRef>,
        nonce: &Nonce,
    ) -> Result<Outcome, Fault> {
        let (state, at) = (self.state(), self.moment.at);
        let terms = match terms(state)? {
            Ok((terms, _)) => terms,
            Err(problem) => return Ok(Outcome::Refused(problem)),
        };
        if let Some(problem) = revoked(state, hsm)? {
            return Ok(Outcome::Refused(problem));
        }
        if let Some(about) = about {
            let Some(row) = state.get::<KeyRow>(&key::epoch(&hsm.hsm, about))? else {
                return Ok(refuse(ProblemKind::UnknownKey, format!("{} has not enrolled key {about}", hsm.hsm)));
            };
            if public_key(&row).is_none() {
                let why = format!("key {about} has no public key that a device could name: give evidence of the HSM");
                return Ok(refuse(ProblemKind::Malformed, why));
            }
        }
        let enrol = state.device(&hsm.hsm)?.open(at).is_some();
        let expires_at = at.plus(state.configuration()?.challenge_ttl);
        let (enrolment, key) = (hsm.revision, about.cloned());
        let row = EvidenceChallengeRow { hsm: hsm.hsm.clone(), enrolment, key, expires_at, consumed: false };
        self.put(&nonce.0, &row)?;
        self.forget_at(expires_at.plus(RETENTION), Table::EvidenceChallenges, &nonce.0)?;
        let max_age = terms.max_age;
        Ok(Outcome::EvidenceChallenge(EvidenceChallenge { nonce: *nonce, expires_at, max_age, enrol }))
    }

    pub(super) fn present_evidence(
        &mut self,
        hsm: &HsmRow,
        nonce: &Nonce,
        evidence: &[u8],
        verdict: &EvidenceVerdict,
    ) -> Result<Outcome, Fault> {
        let (at, sequence) = (self.moment.at, self.moment.sequence);
        let asked = match asked(self.state(), hsm, nonce, at)? {
            Ok(asked) => asked,
            Err(problem) => return Ok(Outcome::Refused(problem)),
        };
        let changed = "the state changed while this evidence was being appraised; give new evidence";
        let in_time = verdict.at <= at && at.since(verdict.at) <= LATE;
        if !in_time || verdict.against != asked.against {
            return Ok(refuse(ProblemKind::Unavailable, changed));
        }
        self.put(&nonce.0, &EvidenceChallengeRow { consumed: true, ..asked.challenge.clone() })?;
        let place = key::about(&hsm.hsm, asked.challenge.key.as_ref());
        let mut row: EvidenceRow = self.state().get(&place)?.unwrap_or_default();
        match &verdict.found {
            Ok(appraisal) => {
                let section = asked.terms.section(appraisal.0.format).unwrap_or(Digest([0; 32]));
                row.good =
                    Some(GoodEvidence { enrolment: hsm.revision, appraisal: appraisal.clone(), section, at, sequence });
                self.put(&place, &row)?;
                if let Some((leave, device)) = asked.enrols(&appraisal.0, at) {
                    self.enrol_device(&hsm.hsm, device.map(|device| (device, Vec::new())), leave.by)?;
                }
                if asked.challenge.key.is_none() && appraisal.0.binding == Binding::Context {
                    self.pardon(&hsm.hsm, appraisal.0.format)?;
                }
                Ok(Outcome::Done)
            }
            Err(EvidenceRefusal { why, measured }) => {
                row.refused = Some(RefusedEvidence { enrolment: hsm.revision, why: why.clone(), at, sequence });
                self.put(&place, &row)?;
                if let (Some(found), Ok(evidence)) = (measured, Evidence::from_bytes(evidence)) {
                    self.foreign_measurement(hsm, &evidence, found)?;
                }
                Ok(refuse(ProblemKind::EvidenceRefused, why))
            }
        }
    }

    /// What runs there is not listed: the HSM is suspended, as the rule has it, and none of its evidence counts before its device
    /// is enrolled again.
    fn foreign_measurement(&mut self, hsm: &HsmRow, evidence: &Evidence, found: &str) -> Result<(), Fault> {
        let place = key::hsm(&hsm.hsm);
        let mut row = self.state().device(&hsm.hsm)?;
        let device = row.device.as_ref().map(|enrolled| enrolled.device.clone());
        let settings = fraud::settings(self.state(), Rule::ForeignMeasurement)?;
        if settings.is_some_and(|settings| settings.action == Action::Quarantine) {
            let (void, voided_at) = (Some(evidence.format()), Some(self.moment.sequence));
            row = DeviceRow { device: row.device, leave: None, offer: None, void, voided_at, pardon: None };
            self.put(&place, &row)?;
        }
        let evidence = evidence.digest();
        let event = EventKind::ForeignMeasurement { hsm: hsm.hsm.clone(), device, found: found.to_owned(), evidence };
        fraud::measured(self, &hsm.hsm, evidence, event)
    }

    /// Ends the suspension by the rule on measurements once the device was enrolled again and its evidence, of the format that told of
    /// something else, is good.
    fn pardon(&mut self, hsm: &HsmId, good: Format) -> Result<(), Fault> {
        let row = self.state().device(hsm)?;
        let Some(Pardon { by, .. }) = row.pardon.clone().filter(|pardon| pardon.format == good) else { return Ok(()) };
        self.put(&key::hsm(hsm), &DeviceRow { pardon: None, ..row })?;
        let target = RevocationTarget::Hsm(hsm.clone());
        let suspended = self.bar(&target)?.suspended;
        if suspended.is_some_and(|suspension| suspension.by == fraud::author(Rule::ForeignMeasurement)) {
            let reason = Reason::new(ReasonCode::Fraud, "its device was enrolled again, and its evidence is good");
            self.reinstate(&target, &reason, &by)?;
        }
        Ok(())
    }

    /// Uses up a leave: from now on, the HSM's device is this one, with the keys that vouch for it.
    fn enrol_device(&mut self, hsm: &HsmId, device: Option<(String, Vec<Digest>)>, by: String) -> Result<(), Fault> {
        let (row, enrolled_at) = (self.state().device(hsm)?, self.moment.at);
        let pardon = row.void.map(|format| Pardon { by: by.clone(), format }).or(row.pardon);
        let enrolled = device.clone().map(|(device, endorsement)| {
            let by = by.clone();
            EnrolledDevice { device, endorsement, enrolled_at, by }
        });
        let (device, void, voided_at) = (device.map(|(name, _)| name), None, row.voided_at);
        self.put(&key::hsm(hsm), &DeviceRow { device: enrolled, leave: None, offer: None, void, voided_at, pardon })?;
        let Some(device) = device else { return Ok(()) };
        self.events.push(EventKind::DeviceEnrolled { hsm: hsm.clone(), device: device.clone(), by });
        fraud::enrolled(self, hsm, &device)
    }

    pub(super) fn allow_device(
        &mut self,
        hsm: &HsmId,
        device: Option<&str>,
        valid_for: u64,
        by: &str,
    ) -> Result<Outcome, Fault> {
        if let Err(problem) = terms(self.state())? {
            return Ok(Outcome::Refused(problem));
        }
        if self.state().hsm(hsm)?.is_none() {
            return Ok(refuse(ProblemKind::NotFound, format!("no HSM named {hsm} is enrolled")));
        }
        if !(1..=LONGEST_LEAVE).contains(&valid_for) {
            return Ok(refuse(ProblemKind::Malformed, format!("give the HSM 1 to {LONGEST_LEAVE} seconds")));
        }
        let row = self.state().device(hsm)?;
        let leave =
            DeviceLeave { device: device.map(str::to_owned), until: self.moment.at.plus(valid_for), by: by.to_owned() };
        self.put(&key::hsm(hsm), &DeviceRow { leave: Some(leave), offer: None, ..row })?;
        Ok(Outcome::Done)
    }

    pub(super) fn offer_credential(
        &mut self,
        hsm: &HsmRow,
        (device, secret, endorsement): (&str, &Digest, &[Digest]),
        offer: &CredentialOffer,
    ) -> Result<Outcome, Fault> {
        let row = self.state().device(&hsm.hsm)?;
        if let Err(problem) = may_enrol(self.state(), hsm, device, self.moment.at)? {
            return Ok(Outcome::Refused(problem));
        }
        let pending = DeviceOffer {
            enrolment: hsm.revision,
            device: device.to_owned(),
            secret: *secret,
            endorsement: endorsement.to_vec(),
            until: self.moment.at.plus(OFFER),
        };
        self.put(&key::hsm(&hsm.hsm), &DeviceRow { offer: Some(pending), ..row })?;
        Ok(Outcome::Credential(offer.clone()))
    }

    pub(super) fn answer_credential(&mut self, hsm: &HsmRow, answer: &Digest) -> Result<Outcome, Fault> {
        let (row, at) = (self.state().device(&hsm.hsm)?, self.moment.at);
        let waiting = row.offer.clone().filter(|offer| offer.enrolment == hsm.revision && offer.until > at);
        let Some(offer) = waiting else {
            return Ok(refuse(ProblemKind::UnknownChallenge, "no credential waits to be opened; ask for one"));
        };
        if let Err(problem) = may_enrol(self.state(), hsm, &offer.device, at)? {
            return Ok(Outcome::Refused(problem));
        }
        if offer.secret != *answer {
            self.put(&key::hsm(&hsm.hsm), &DeviceRow { offer: None, ..row })?;
            let why = "the answer is not what the credential holds: another TPM has the attestation key";
            return Ok(refuse(ProblemKind::EvidenceRefused, why));
        }
        let by = row.leave.map(|leave| leave.by).unwrap_or_default();
        self.enrol_device(&hsm.hsm, Some((offer.device, offer.endorsement)), by)?;
        Ok(Outcome::Done)
    }
}

/// Whether an HSM may enrol this TPM now, by a credential.
pub(crate) fn may_enrol(
    state: State<'_>,
    hsm: &HsmRow,
    device: &str,
    at: Timestamp,
) -> Result<Result<(), Problem>, Fault> {
    if let Err(problem) = terms(state)? {
        return Ok(Err(problem));
    }
    if let Some(problem) = revoked(state, hsm)? {
        return Ok(Err(problem));
    }
    let row = state.device(&hsm.hsm)?;
    let Some(leave) = row.open(at) else {
        let why = format!("no operator lets HSM {} enrol a device now (keywitness evidence enrol)", hsm.hsm);
        return Ok(Err(Problem::new(ProblemKind::Forbidden, why)));
    };
    if leave.device.as_ref().is_some_and(|only| only != device) {
        let why = format!("the operator lets HSM {} enrol another device than {device}", hsm.hsm);
        return Ok(Err(Problem::new(ProblemKind::Forbidden, why)));
    }
    if let Some(voided) = row.void.filter(|voided| *voided != Format::Tpm2) {
        let why = format!(
            "evidence of format {voided} told of something that is not listed: a TPM does not make up for that"
        );
        return Ok(Err(Problem::new(ProblemKind::EvidenceRefused, why)));
    }
    Ok(Ok(()))
}
