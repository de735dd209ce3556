//! Evidence of where HSMs and keys live: challenges, appraisals, devices, and what they come to in a token.

use keywitness_circuits::{Digest, HsmId, Nonce, Timestamp};
use keywitness_verifier::{
    evidence::{Binding, Evidence, Format, Summary, TrustVector},
    token::{EvidenceClaim, Tier},
    wire::{
        Base64, CredentialAnswer, CredentialOffer, Device, DeviceRequest, EndorsementRequest, EvidenceChallenge,
        EvidenceChallengeRequest, EvidenceOverview, EvidenceRecord, EvidenceStanding, EvidenceSubmission, HsmEvidence,
        KeyRef, Problem, ProblemKind,
    },
};
use sha2::{Digest as _, Sha256};

use super::{
    Manager,
    access::{Caller, HsmCaller},
    unexpected,
};
use crate::{
    ledger::{
        Command, Fault, Outcome,
        apply::evidence::{asked, may_enrol, printable},
        state::{
            HsmRow, KeyRow, RequestRow, State,
            evidence::{EvidenceRow, GoodEvidence, Json},
            key,
        },
    },
    limits::Source,
};

/// How many requests one piece of evidence costs an HSM: it is kept, and may be long.
const COST: usize = 16;

/// Longest name of a device, in characters.
const MAX_DEVICE: usize = 256;

/// The AR4SI claims of a token that rests on this evidence, if any.
///
/// The HSM is known, by its identity key, whatever its device. One that should have given evidence and has not keeps back what it runs on.
pub(crate) fn vector(found: Option<&TrustVector>, missing: bool) -> TrustVector {
    let vector = TrustVector { instance_identity: TrustVector::AFFIRMING, ..found.copied().unwrap_or_default() };
    if missing {
        return TrustVector { configuration: vector.configuration.max(TrustVector::CONFIGURATION_UNSEEN), ..vector };
    }
    vector
}

/// Where a key lives, as far as evidence says: a proof shows access alone.
pub(crate) const fn residence(found: Option<&Summary>) -> &'static str {
    match found {
        None => "not-evidenced",
        Some(Summary { names_key: true, .. }) => "key",
        Some(_) => "platform",
    }
}

/// What says where a key lives, as of now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Residence {
    /// The evidence that counts, of the key or of the HSM.
    pub(super) counts: Option<Counted>,
    /// Whether the cluster must give evidence, and none counts.
    pub(super) missing: bool,
}

/// Evidence that counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Counted {
    /// What it says.
    pub(super) summary: Summary,
    /// Until when it counts.
    pub(super) expires_at: Timestamp,
}

impl Counted {
    /// Where both count: the key's, with what the HSM's warns of. The HSM's stands for it, if it affirms and the key's warns of nothing
    /// but that no challenge is in it. What affirms is of one piece of evidence alone, as bundles show it.
    fn of_both(platform: Self, mut key: Self) -> Self {
        let affirms = |trust: TrustVector| trust.tier() == Tier::Affirming;
        let trust = key.summary.trust;
        let unasked = key.summary.binding == Binding::Key
            && affirms(TrustVector { configuration: TrustVector::AFFIRMING, ..trust });
        if unasked && affirms(platform.summary.trust) {
            return platform;
        }
        key.summary.trust = trust.with_warnings_of(&platform.summary.trust);
        key
    }
}

impl Residence {
    /// Of a key in an HSM.
    pub(super) fn of(state: State<'_>, hsm: &HsmRow, about: &KeyRef, now: Timestamp) -> Result<Self, Fault> {
        let Some(terms) = state.evidence_terms()? else { return Ok(Self::default()) };
        let key = state.evidence_standing(&terms, hsm, Some(about), now)?;
        let platform = state.evidence_standing(&terms, hsm, None, now)?;
        // What was refused of a key is lost for the key; what was refused of the HSM, or whose device fell, is for all of it.
        let against = platform.is_against() || key.standing == EvidenceStanding::Revoked;
        let counted = |GoodEvidence { appraisal: Json(summary), at, .. }: &GoodEvidence| Counted {
            summary: summary.clone(),
            expires_at: at.plus(terms.max_age),
        };
        let counts = match (platform.counts().map(counted), key.counts().map(counted)) {
            _ if against => None,
            (Some(platform), Some(key)) => Some(Counted::of_both(platform, key)),
            (platform, key) => key.or(platform),
        };
        let missing = counts.is_none() && terms.required.of(&hsm.cluster);
        Ok(Self { counts, missing })
    }

    /// What a token says of it.
    pub(super) fn name(&self) -> &'static str {
        residence(self.counts.as_ref().map(|counted| &counted.summary))
    }

    pub(super) fn vector(&self) -> TrustVector {
        vector(self.counts.as_ref().map(|counted| &counted.summary.trust), self.missing)
    }

    pub(super) fn claim(&self) -> Option<EvidenceClaim> {
        let Counted { summary, expires_at, .. } = self.counts.as_ref()?;
        Some(claim(summary, *expires_at))
    }
}

/// What a token says of evidence.
pub(crate) fn claim(summary: &Summary, expires_at: Timestamp) -> EvidenceClaim {
    let Summary { format, evidence, binding, at, facts, .. } = summary.clone();
    EvidenceClaim {
        format,
        digest: evidence,
        binding,
        vendor: facts.vendor,
        device: facts.device,
        extractable: facts.extractable,
        appraised_at: at,
        expires_at,
    }
}

/// What a request for a credential came to.
fn offered(outcome: Outcome) -> Result<CredentialOffer, Problem> {
    match outcome {
        Outcome::Credential(offer) => Ok(offer),
        Outcome::Refused(problem) => Err(problem),
        other => Err(unexpected(&other)),
    }
}

impl Manager {
    /// Gives a challenge that evidence of the calling HSM, or of a key in it, is to be bound to.
    ///
    /// # Errors
    /// `forbidden` where no evidence is accepted; `unknown-key`; `malformed` for a key without a public key; `hsm-revoked`.
    pub fn evidence_challenge(
        &self,
        caller: &HsmCaller,
        request: &EvidenceChallengeRequest,
    ) -> Result<EvidenceChallenge, Problem> {
        let (digest, hsm, enrolment) = (*caller.request(), caller.hsm().clone(), caller.enrolment());
        let (key, nonce) = (request.key.clone(), Nonce::random());
        match self.submit(Command::IssueEvidenceChallenge { request: digest, hsm, enrolment, key, nonce })? {
            Outcome::EvidenceChallenge(given) => Ok(given),
            other => Err(unexpected(&other)),
        }
    }

    /// Appraises evidence of the calling HSM, and keeps what it comes to.
    ///
    /// # Errors
    /// `evidence-refused`, which is recorded, and has the HSM suspended where something runs there that is not listed; `forbidden`
    /// where no evidence is accepted; `unknown-challenge`, `foreign-challenge`, `challenge-consumed`, `challenge-expired`;
    /// `malformed`; `hsm-revoked`; `too-many-requests`, also where much of it was refused just before.
    pub fn submit_evidence(
        &self,
        caller: &HsmCaller,
        submission: &EvidenceSubmission,
    ) -> Result<EvidenceRecord, Problem> {
        let EvidenceSubmission { nonce, evidence: Base64(evidence) } = submission;
        self.spend_more(caller, COST + evidence.len() / 1024)?;
        let read = |rows: &dyn crate::ledger::Rows| {
            let state = State(rows);
            let now = self.now(state)?;
            if let Some(RequestRow(outcome)) = state.get(&caller.request().0)? {
                return Ok::<_, Problem>(Err(outcome));
            }
            let hsm: HsmRow = state.need(&key::hsm(caller.hsm()))?;
            Ok(Ok((asked(state, &hsm, nonce, now)??, now)))
        };
        let outcome = match read(self.ledger.view()?.as_ref())? {
            Err(outcome) => outcome,
            Ok((asked, now)) => {
                let source = Source::Hsm(caller.hsm().clone());
                self.limits.hear_evidence(&source, now)?;
                if let Err(error) = <Evidence as keywitness_circuits::codec::Canonical>::from_bytes(evidence) {
                    return Err(Problem::new(ProblemKind::Malformed, error.to_string()));
                }
                let verdict = asked.appraise(evidence, now);
                if let Err(refusal) = &verdict.found {
                    tracing::warn!(hsm = %caller.hsm(), why = %refusal.why, "evidence refused");
                    self.limits.mistake(&source);
                    self.limits.refused_evidence(&source, evidence.len(), now);
                }
                let (request, hsm, enrolment) = (*caller.request(), caller.hsm().clone(), caller.enrolment());
                let (nonce, evidence, verdict) = (*nonce, evidence.clone(), Box::new(verdict));
                self.ledger.submit(Command::PresentEvidence { request, hsm, enrolment, nonce, evidence, verdict })?
            }
        };
        match outcome {
            Outcome::Done => self.evidence_record(caller, nonce),
            Outcome::Refused(problem) => Err(problem),
            other => Err(unexpected(&other)),
        }
    }

    /// What was recorded of the evidence that answered a challenge, or of newer evidence of the same.
    fn evidence_record(&self, caller: &HsmCaller, nonce: &Nonce) -> Result<EvidenceRecord, Problem> {
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let challenge: crate::ledger::state::evidence::EvidenceChallengeRow = state.need(&nonce.0)?;
        let row: EvidenceRow = state.need(&key::about(caller.hsm(), challenge.key.as_ref()))?;
        let gone = || Problem::new(ProblemKind::Unavailable, "what was recorded changed since; ask for the state");
        let (good, terms) = (row.good.ok_or_else(gone)?, state.evidence_terms()?.ok_or_else(gone)?);
        Ok(good.record(caller.hsm(), challenge.key, &terms))
    }

    /// Lets an HSM enrol its device, once, for some time. For operators. Its evidence is held to that device from then on; and an HSM
    /// that was suspended for what ran there is reinstated by its first good evidence after that.
    ///
    /// # Errors
    /// `not-found` for an HSM that is not enrolled, or out of the caller's scope; `malformed`, also for a device whose evidence is of
    /// keys alone; `forbidden` where no evidence is accepted.
    pub fn allow_device(&self, caller: &Caller, request: &DeviceRequest) -> Result<(), Problem> {
        let DeviceRequest { hsm, device, valid_for } = request.clone();
        if device.as_ref().is_some_and(|name| name.is_empty() || name.chars().count() > MAX_DEVICE) {
            let why = format!("name the device as evidence does, in 1 to {MAX_DEVICE} characters");
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        let of_keys = |name: &String| {
            Format::ALL.iter().any(|format| !format.can_enrol() && name.starts_with(&format!("{format}:")))
        };
        if device.as_ref().is_some_and(of_keys) {
            let why = "no HSM is enrolled with such a device, whose evidence is of keys: list it in the evidence policy, under \
                       trust.devices";
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        self.within(caller, &hsm)?;
        match self.submit_for(caller, Command::AllowDevice { hsm, device, valid_for, by: caller.name().to_owned() })? {
            Outcome::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn within(&self, caller: &Caller, hsm: &HsmId) -> Result<(), Problem> {
        let known = State(self.ledger.view()?.as_ref()).hsm(hsm)?;
        if known.is_some_and(|known| caller.scope().includes(&known.cluster)) {
            return Ok(());
        }
        Err(Problem::new(
            ProblemKind::NotFound,
            format!("no HSM named {hsm} is enrolled in this credential's clusters"),
        ))
    }

    /// Makes a credential that only the TPM can open which holds both the endorsement key and the attestation key. For an HSM whose
    /// operator lets it enrol its device.
    ///
    /// # Errors
    /// `forbidden` without leave; `evidence-refused` for certificates that the policy does not trust, for a key that is no
    /// attestation key, and where evidence of another format told of something that is not listed; `hsm-revoked`.
    pub fn device_credential(
        &self,
        caller: &HsmCaller,
        request: &EndorsementRequest,
    ) -> Result<CredentialOffer, Problem> {
        self.spend_more(caller, COST)?;
        let refused = |why: String| Problem::new(ProblemKind::EvidenceRefused, printable(&why));
        let (device, secret, endorsement, offer) = {
            let rows = self.ledger.view()?;
            let state = State(rows.as_ref());
            // Whoever sends these bytes again pays nothing, and has nothing sealed again.
            if let Some(RequestRow(outcome)) = state.get(&caller.request().0)? {
                return offered(outcome);
            }
            let (now, hsm) = (self.now(state)?, state.need::<HsmRow>(&key::hsm(caller.hsm()))?);
            let device = keywitness_verifier::evidence::tpm2::device_of(&request.attestation_key.0)
                .map_err(|error| refused(error.to_string()))?;
            may_enrol(state, &hsm, &device, now)??;
            let policy = state.evidence_terms()?.map(|terms| terms.policy()).transpose()?.flatten();
            let section = policy.and_then(|policy| policy.tpm2);
            let section = section.ok_or_else(|| refused("the evidence policy has no section tpm2".to_owned()))?;
            let endorsement = section.endorse(&request.chain.0, now).map_err(|error| refused(error.to_string()))?;
            let sealed =
                endorsement.challenge(&request.attestation_key.0).map_err(|error| refused(error.to_string()))?;
            let ((secret, device), keys) = (sealed.1.into_parts(), endorsement.keys().to_vec());
            (device, secret, keys, CredentialOffer { blob: Base64(sealed.0.blob), secret: Base64(sealed.0.secret) })
        };
        let (request, hsm, enrolment) = (*caller.request(), caller.hsm().clone(), caller.enrolment());
        let command = Command::OfferCredential { request, hsm, enrolment, device, secret, endorsement, offer };
        offered(self.ledger.submit(command)?)
    }

    /// Enrols the device that opened the credential.
    ///
    /// # Errors
    /// `unknown-challenge` where none waits; `evidence-refused` for a wrong answer, after which a new credential is needed;
    /// `forbidden` once the leave is over.
    pub fn answer_credential(&self, caller: &HsmCaller, answer: &CredentialAnswer) -> Result<Device, Problem> {
        self.spend_more(caller, COST)?;
        let answer = Digest(Sha256::digest(&answer.answer.0).into());
        let (request, hsm, enrolment) = (*caller.request(), caller.hsm().clone(), caller.enrolment());
        self.done(Command::AnswerCredential { request, hsm, enrolment, answer })?;
        let device = State(self.ledger.view()?.as_ref()).device(caller.hsm())?.described();
        device.ok_or_else(|| Problem::new(ProblemKind::Unavailable, "the device was given up since"))
    }

    /// How the evidence of each HSM in the caller's clusters stands. For operators, viewers and auditors.
    ///
    /// # Errors
    /// Only where the ledger cannot be read.
    pub fn evidence_overview(&self, caller: &Caller) -> Result<EvidenceOverview, Problem> {
        self.spend_overview(caller)?;
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let now = self.now(state)?;
        let Some(terms) = state.evidence_terms()? else {
            return Ok(EvidenceOverview { now, accepted: false, max_age: 0, hsms: Vec::new() });
        };
        let mut hsms = Vec::new();
        for hsm in state.all::<HsmRow>(&[])?.into_iter().filter(|hsm| caller.scope().includes(&hsm.cluster)) {
            let found = state.evidence_standing(&terms, &hsm, None, now)?;
            let device = state.device(&hsm.hsm)?;
            let (mut keys, mut demoted) = (0, 0);
            for row in state.all::<KeyRow>(&key::hsm(&hsm.hsm))? {
                let named = state.evidence_standing(&terms, &hsm, Some(&row.key), now)?;
                keys += u64::from(named.counts().is_some());
                demoted += u64::from(Residence::of(state, &hsm, &row.key, now)?.missing);
            }
            hsms.push(HsmEvidence {
                required: terms.required.of(&hsm.cluster),
                standing: found.standing,
                refusal: found.refusal,
                newest: found.good.map(|good| good.record(&hsm.hsm, None, &terms)),
                device: device.described(),
                may_enrol_until: device.open(now).map(|leave| leave.until),
                keys,
                demoted,
                hsm: hsm.hsm,
                cluster: hsm.cluster,
            });
        }
        Ok(EvidenceOverview { now, accepted: terms.accepts(), max_age: terms.max_age, hsms })
    }
}
