//! Evidence of where the HSM and its keys live, given anew before the manager no longer counts it.
//!
//! It goes its own way: whatever becomes of it, keys are attested.

use std::{collections::BTreeMap, time::Duration};

use keywitness_circuits::{Digest, Timestamp, codec::Canonical};
use keywitness_verifier::{
    client::ClientError,
    evidence::EvidenceContext,
    wire::{
        Base64, CredentialAnswer, EndorsementRequest, EvidenceChallengeRequest, EvidenceRecord, EvidenceSubmission,
        KeyRef, ProblemKind,
    },
};

use super::{
    Agent, AgentError, AgentEvent,
    attest::{Session, insist},
    error::printable,
    timetable,
};
use crate::{
    clock::Stop,
    provider::{EvidenceSource, ProviderError},
    store::{StoreError, current_keys},
};

/// Longest wait before evidence is tried again, in seconds.
const LONGEST: u64 = 60;

/// Why an HSM gave no evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceFailure {
    /// The agent cannot work.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manager refuses, or does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The device gives none.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The manager's answer is about something else.
    #[error("the manager answered with a record of other evidence")]
    ForeignRecord,
}

/// A key to give evidence of, or the HSM, and what names the key to a device.
type About = Option<(KeyRef, Vec<u8>)>;

impl Agent {
    /// Gives evidence of the HSM, and of its keys that have a public key if `keys`, and again at half the age that the manager
    /// counts it for, until `stop` is raised.
    pub fn give_evidence(&self, source: &mut dyn EvidenceSource, keys: bool, stop: &Stop) {
        let mut due: BTreeMap<Option<KeyRef>, (Timestamp, u32)> = BTreeMap::new();
        while !stop.is_stopped() {
            let now = self.clock.now();
            let subjects = match self.subjects(keys) {
                Ok(subjects) => subjects,
                Err(error) => {
                    tracing::warn!(error = printable(&error), "no evidence can be given now");
                    stop.wait(Duration::from_secs(LONGEST));
                    continue;
                }
            };
            due.retain(|due, _| subjects.iter().any(|about| about.as_ref().map(|(key, _)| key) == due.as_ref()));
            for about in subjects {
                let name = about.as_ref().map(|(key, _)| key.clone());
                let (at, failures) = due.get(&name).copied().unwrap_or_default();
                if at > now || stop.is_stopped() {
                    continue;
                }
                let next = match self.give_once(source, &about, stop) {
                    Ok(record) => {
                        let life = record.expires_at.since(record.appraisal.at);
                        (self.observer)(&AgentEvent::EvidenceGiven { record: &record });
                        (self.clock.now().plus(life / 2), 0)
                    }
                    Err(error) => {
                        let failures = failures.saturating_add(1);
                        let wait = timetable::back_off(failures, LONGEST, &mut rand::thread_rng());
                        tracing::warn!(error = printable(&error), wait, "no evidence was given");
                        let retry_at = self.clock.now().plus(wait);
                        (self.observer)(&AgentEvent::EvidenceFailed { key: name.as_ref(), error: &error, retry_at });
                        (retry_at, failures)
                    }
                };
                due.insert(name, next);
            }
            let next = due.values().map(|(at, _)| at.since(self.clock.now())).min().unwrap_or(LONGEST);
            // New keys are looked for meanwhile.
            stop.wait(Duration::from_secs(next.clamp(1, LONGEST / 4)));
        }
    }

    /// The HSM, and the keys that a device could name.
    fn subjects(&self, keys: bool) -> Result<Vec<About>, EvidenceFailure> {
        let mut subjects = vec![None];
        if !keys {
            return Ok(subjects);
        }
        let enrolled = self.enrolled()?;
        let suites = self.info(&enrolled.audience)?.suites;
        for entry in current_keys(&*self.store) {
            let instances = self.store.instances(&entry.key, &enrolled.audience.trust_domain, &suites)?;
            let spki = instances.first().and_then(|instance| instance.spki().ok().flatten());
            subjects.extend(spki.map(|spki| Some((entry.key, spki))));
        }
        Ok(subjects)
    }

    /// Gives evidence of one thing, once; enrols the device before that, where an operator lets the HSM and its device is a TPM.
    ///
    /// # Errors
    /// [`EvidenceFailure`]
    fn give_once(
        &self,
        source: &mut dyn EvidenceSource,
        about: &About,
        stop: &Stop,
    ) -> Result<EvidenceRecord, EvidenceFailure> {
        let enrolled = self.enrolled()?;
        let info = self.info(&enrolled.audience)?;
        let session = self.session(&enrolled, &info, stop);
        let key = about.as_ref().map(|(key, _)| key.clone());
        let request = EvidenceChallengeRequest { key: key.clone() };
        let mut challenge = insist(stop, || self.client.evidence_challenge(&session, &request))?;
        if challenge.enrol && self.enrol_tpm(&session, source)? {
            challenge = insist(stop, || self.client.evidence_challenge(&session, &request))?;
        }
        // Made of what this HSM knows itself: a manager that asks for another's evidence gets its own.
        let context = EvidenceContext {
            trust_domain: enrolled.audience.trust_domain.clone(),
            manager: enrolled.audience.manager.clone(),
            cluster: enrolled.enrolment.cluster.clone(),
            hsm: enrolled.enrolment.hsm.clone(),
            enrolment: enrolled.enrolment.revision,
            identity_key: Digest::from(self.store.identity()),
            key: key.clone(),
            nonce: challenge.nonce,
        };
        let spki = about.as_ref().map(|(_, spki)| spki.as_slice());
        let evidence = source.evidence(&context.digest(), spki)?;
        let submission = EvidenceSubmission { nonce: challenge.nonce, evidence: Base64(evidence.to_bytes()) };
        let record = insist(stop, || self.client.submit_evidence(&session, &submission))?;
        let ours = (&record.hsm, record.enrolment, &record.key, &record.appraisal.evidence);
        if ours != (&context.hsm, context.enrolment, &key, &evidence.digest()) {
            return Err(EvidenceFailure::ForeignRecord);
        }
        Ok(record)
    }

    /// Has the TPM open a credential, by which it is enrolled. False for a device that is no TPM: its evidence alone enrols it.
    fn enrol_tpm(&self, session: &Session<'_>, source: &mut dyn EvidenceSource) -> Result<bool, EvidenceFailure> {
        let endorsement = match source.endorsement() {
            Ok(endorsement) => endorsement,
            Err(ProviderError::Refused(why)) => {
                tracing::info!(why, "the device has no endorsement key: its evidence enrols it");
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let request = EndorsementRequest {
            chain: Base64(endorsement.chain),
            attestation_key: Base64(endorsement.attestation_key),
        };
        let offer = insist(session.stop, || self.client.device_credential(session, &request))?;
        let answer = source.activate(&offer.blob.0, &offer.secret.0)?;
        let answer = CredentialAnswer { answer: Base64(answer) };
        match insist(session.stop, || self.client.answer_credential(session, &answer)) {
            Ok(device) => {
                tracing::info!(device = device.device, "the device is enrolled");
                Ok(true)
            }
            // The answer was lost, and what it was for is done.
            Err(error) if error.problem_kind() == Some(ProblemKind::UnknownChallenge) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}
