//! Evidence of where HSMs and keys live, and the devices that HSMs are enrolled with.

use keywitness_circuits::{ClusterId, Digest, HsmId, Nonce, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Base64, KeyRef};
use crate::evidence::Summary;

/// Longest body with evidence, in bytes: of [`crate::evidence::MAX_EVIDENCE`] in base64url, with what stands around it.
pub const MAX_EVIDENCE_BODY: usize = 192 * 1024;

/// Asks what evidence is to be bound to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EvidenceChallengeRequest {
    /// The key that it will be about; none where it is about the HSM.
    pub key: Option<KeyRef>,
}

/// A challenge for one piece of evidence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EvidenceChallenge {
    /// The challenge.
    pub nonce: Nonce,
    /// When it stops being accepted.
    pub expires_at: Timestamp,
    /// How long evidence counts, in seconds.
    pub max_age: u64,
    /// Whether an operator lets this HSM enrol its device now.
    pub enrol: bool,
}

/// Evidence that answers a challenge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EvidenceSubmission {
    /// The challenge.
    pub nonce: Nonce,
    /// [`crate::evidence::Evidence`], in its canonical encoding.
    pub evidence: Base64,
}

/// Evidence that was appraised and found good.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EvidenceRecord {
    /// The HSM.
    pub hsm: HsmId,
    /// Which enrolment of it.
    pub enrolment: u32,
    /// The key that it is about; none where it is about the HSM.
    pub key: Option<KeyRef>,
    /// What it says.
    pub appraisal: Summary,
    /// Until when it counts.
    pub expires_at: Timestamp,
}

/// Lets an HSM enrol its device: the one by which its evidence is known from then on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// The HSM.
    pub hsm: HsmId,
    /// The only device that it may enrol, as evidence names it; any when none.
    pub device: Option<String>,
    /// How long it may, in seconds.
    pub valid_for: u64,
}

/// The device of an HSM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its name, as evidence has it.
    pub device: String,
    /// Of a TPM: the keys of the endorsement key's certificates, by the SHA-256 of their SubjectPublicKeyInfo.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endorsement: Vec<Digest>,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// The operator who let it.
    pub by: String,
}

/// The certificates of a TPM's endorsement key, and the attestation key that it is to vouch for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndorsementRequest {
    /// DER, one after the other, from the endorsement key's to the root.
    pub chain: Base64,
    /// TPMT_PUBLIC of the attestation key.
    pub attestation_key: Base64,
}

/// What TPM2_ActivateCredential takes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CredentialOffer {
    /// TPM2B_ID_OBJECT.
    pub blob: Base64,
    /// TPM2B_ENCRYPTED_SECRET.
    pub secret: Base64,
}

/// What TPM2_ActivateCredential gave.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CredentialAnswer {
    /// The secret.
    pub answer: Base64,
}

/// How the evidence of an HSM, or of a key in it, stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceStanding {
    /// The newest is good, and young enough.
    Good,
    /// There is none, or none of this enrolment and device.
    Missing,
    /// The newest that was good is too old.
    Stale,
    /// The newest was refused.
    Refused,
    /// A key that vouches for the device was revoked since.
    Revoked,
}

impl std::fmt::Display for EvidenceStanding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Refused => "refused",
            Self::Revoked => "revoked",
        })
    }
}

/// The evidence of one HSM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HsmEvidence {
    /// The HSM.
    pub hsm: HsmId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Whether its cluster must give evidence.
    pub required: bool,
    /// How the evidence of the HSM itself stands.
    pub standing: EvidenceStanding,
    /// Why the newest was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The newest that was good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<EvidenceRecord>,
    /// Its device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// Until when it may enrol a device, where an operator lets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_enrol_until: Option<Timestamp>,
    /// For how many keys in it the newest evidence names the key, is good, and is young enough.
    pub keys: u64,
    /// How many keys in it are demoted: they must have evidence, and none counts.
    pub demoted: u64,
}

/// The evidence of every HSM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EvidenceOverview {
    /// The manager's time.
    pub now: Timestamp,
    /// Whether the manager accepts evidence at all.
    pub accepted: bool,
    /// How long evidence counts, in seconds.
    pub max_age: u64,
    /// One entry for each HSM.
    pub hsms: Vec<HsmEvidence>,
}
