//! Keys, challenges and envelopes.

use keywitness_circuits::{Envelope, codec::Canonical};
use ureq::http::Request;

use super::{Caller, ClientError, HsmSigner, ManagerClient};
use crate::wire::{self, path};

impl ManagerClient {
    /// Enrols a key. HSM.
    pub fn enrol_key(&self, hsm: &dyn HsmSigner, key: &wire::EnrolKeyRequest) -> Result<(), ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::KEYS, key)
    }

    /// Asks for a challenge. HSM.
    pub fn challenge(
        &self,
        hsm: &dyn HsmSigner,
        request: &wire::ChallengeRequest,
    ) -> Result<wire::Challenge, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::CHALLENGES, request)
    }

    /// Asks for many challenges. HSM.
    pub fn challenges(
        &self,
        hsm: &dyn HsmSigner,
        request: &wire::ChallengeBatchRequest,
    ) -> Result<wire::ChallengeBatch, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::CHALLENGE_BATCHES, request)
    }

    /// Submits an envelope, which authenticates itself.
    pub fn attest(&self, envelope: &Envelope) -> Result<wire::AttestResponse, ClientError> {
        let request = Request::post(format!("{}{}", self.base, path::ATTESTATIONS))
            .header("content-type", wire::ENVELOPE_TYPE)
            .body(envelope.to_bytes());
        self.run(request)
    }

    /// Submits many envelopes, each of which authenticates itself.
    pub fn attest_batch(&self, envelopes: &[Envelope]) -> Result<wire::AttestBatch, ClientError> {
        let encoded: Vec<_> = envelopes.iter().map(Canonical::to_bytes).collect();
        let request = Request::post(format!("{}{}", self.base, path::ATTESTATION_BATCHES))
            .header("content-type", wire::ENVELOPES_TYPE)
            .body(wire::join_envelopes(encoded.iter().map(Vec::as_slice)));
        self.run(request)
    }
}
