//! Keys, challenges and records.

use keywitness_circuits::{ClusterId, Digest, Fingerprint, HsmId, KeyAttributes, KeyId, Kind, Nonce, Timestamp};
use serde::{Deserialize, Serialize};

use super::Base64;

/// Enrols one key of an HSM: from then on the HSM's claims are checked against exactly this.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnrolKeyRequest {
    /// The key's name.
    pub key: KeyId,
    /// Its epoch, 1 for the first; a rotated key gets a higher one.
    pub epoch: u32,
    /// What the store says about it.
    pub attributes: KeyAttributes,
    /// Canonical encodings of its instances: the public key, or one fingerprint for each suite.
    pub instances: Vec<Base64>,
}

/// A key at an epoch.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct KeyRef {
    /// The key.
    pub key: KeyId,
    /// Its epoch.
    pub epoch: u32,
}

/// Asks for a challenge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChallengeRequest {
    /// Name of the statement kind that will be proven.
    pub statement: String,
    /// The keys that the claim will speak of, each once: 1 to 64 where the kind proves many, else exactly one.
    pub keys: Vec<KeyRef>,
}

/// A single-use challenge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Challenge {
    /// The challenge itself.
    pub nonce: Nonce,
    /// When it stops being accepted.
    pub expires_at: Timestamp,
    /// The claim's `not_before`.
    pub not_before: Timestamp,
    /// The claim's `not_after`: when the record will expire.
    pub not_after: Timestamp,
    /// For a tagged key, the beacon of the round: unpredictable, and the same for every HSM of the trust domain.
    #[serde(default)]
    pub beacon: Option<Nonce>,
}

/// What an accepted envelope is answered with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttestResponse {
    /// One record for each key of the claim, in the claim's order.
    pub records: Vec<Record>,
}

/// An attestation record: the HSM proved the key under the statement.
///
/// A proof of many keys makes one for each, which counts as that of [`Kind::single`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Who proved.
    pub hsm: HsmId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Which enrolment of it.
    pub enrolment: u32,
    /// What was proven to be known.
    pub key: KeyRef,
    /// Under which statement.
    pub statement: Kind,
    /// Digest of the verifying key.
    pub verifying_key: Digest,
    /// The key's fingerprint in the statement's suite.
    pub fingerprint: Fingerprint,
    /// Digest of the envelope.
    pub envelope: Digest,
    /// When the manager accepted the proof.
    pub proven_at: Timestamp,
    /// When the record expires.
    pub expires_at: Timestamp,
}
