//! Evidence of where HSMs and keys live, and the devices that HSMs are enrolled with.

use super::{Caller, ClientError, HsmSigner, ManagerClient};
use crate::wire::{self, path};

impl ManagerClient {
    /// What evidence is to be bound to. HSM.
    pub fn evidence_challenge(
        &self,
        hsm: &dyn HsmSigner,
        request: &wire::EvidenceChallengeRequest,
    ) -> Result<wire::EvidenceChallenge, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::EVIDENCE_CHALLENGES, request)
    }

    /// Has evidence appraised. HSM.
    pub fn submit_evidence(
        &self,
        hsm: &dyn HsmSigner,
        submission: &wire::EvidenceSubmission,
    ) -> Result<wire::EvidenceRecord, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::EVIDENCE, submission)
    }

    /// Asks for a credential that the TPM of an endorsement key alone can open. HSM.
    pub fn device_credential(
        &self,
        hsm: &dyn HsmSigner,
        request: &wire::EndorsementRequest,
    ) -> Result<wire::CredentialOffer, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::DEVICE_CREDENTIALS, request)
    }

    /// Enrols the device that opened the credential. HSM.
    pub fn answer_credential(
        &self,
        hsm: &dyn HsmSigner,
        answer: &wire::CredentialAnswer,
    ) -> Result<wire::Device, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::DEVICE_ANSWERS, answer)
    }

    /// Lets an HSM enrol its device. Operator.
    pub fn allow_device(&self, request: &wire::DeviceRequest) -> Result<(), ClientError> {
        self.send(Caller::Bearer, "POST", path::DEVICES, request)
    }

    /// How the evidence of every HSM stands. Operator, viewer or auditor.
    pub fn evidence(&self) -> Result<wire::EvidenceOverview, ClientError> {
        self.get(Caller::Bearer, path::EVIDENCE)
    }
}
