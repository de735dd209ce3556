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
    clock::{Clock, Stop},
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

/// When evidence is given again: once either clock says so. So a clock that is put back makes it no later, nor does a machine that is paused.
#[derive(Clone, Copy, Default)]
struct Again {
    steady: Timestamp,
    wall: Timestamp,
    failures: u32,
}

impl Again {
    fn after(seconds: u64, failures: u32, clock: &dyn Clock) -> Self {
        Self { steady: clock.steady().plus(seconds), wall: clock.now().plus(seconds), failures }
    }

    /// In so many seconds.
    fn left(&self, clock: &dyn Clock) -> u64 {
        self.steady.since(clock.steady()).min(self.wall.since(clock.now()))
    }
}

/// A key to give evidence of, or the HSM, and what names the key to a device.
type About = Option<(KeyRef, Vec<u8>)>;

impl Agent {
    /// Gives evidence of the HSM, and of its keys that have a public key if `keys`, and again at half the age that the manager
    /// counts it for, until `stop` is raised.
    pub fn give_evidence(&self, source: &mut dyn EvidenceSource, keys: bool, stop: &Stop) {
        let mut due: BTreeMap<Option<KeyRef>, Again> = BTreeMap::new();
        while !stop.is_stopped() {
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
                let known = due.get(&name).copied().unwrap_or_default();
                if known.left(&*self.clock) > 0 || stop.is_stopped() {
                    continue;
                }
                let next = match self.give_once(source, &about, stop) {
                    Ok(record) => {
                        let life = record.expires_at.since(record.appraisal.at);
                        (self.observer)(&AgentEvent::EvidenceGiven { record: &record });
                        Again::after(life / 2, 0, &*self.clock)
                    }
                    Err(error) => {
                        let failures = known.failures.saturating_add(1);
                        let wait = timetable::back_off(failures, LONGEST, &mut rand::thread_rng());
                        tracing::warn!(error = printable(&error), wait, "no evidence was given");
                        let again = Again::after(wait, failures, &*self.clock);
                        let retry_at = again.wall;
                        (self.observer)(&AgentEvent::EvidenceFailed { key: name.as_ref(), error: &error, retry_at });
                        again
                    }
                };
                due.insert(name, next);
            }
            let next = due.values().map(|again| again.left(&*self.clock)).min().unwrap_or(LONGEST);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A steady clock, and one that is set.
    struct Clocks(Timestamp, Timestamp);

    impl Clock for Clocks {
        fn now(&self) -> Timestamp {
            self.1
        }

        fn steady(&self) -> Timestamp {
            self.0
        }
    }

    #[test]
    fn evidence_is_given_in_time_by_both_clocks() {
        let left = |steady, wall| {
            let again = Again::after(100, 0, &Clocks(Timestamp(5000), Timestamp(1_000_000)));
            again.left(&Clocks(Timestamp(steady), Timestamp(wall)))
        };
        assert_eq!(left(5000, 1_000_000), 100);
        assert_eq!(left(5000, 900_000), 100, "put back by a day");
        assert_eq!((left(5099, 900_099), left(5100, 900_100)), (1, 0), "and no later by that");
        assert_eq!(left(5000, 1_000_100), 0, "the machine was paused");
    }
}
