//! The manager's API: what travels, with no I/O.
//!
//! Bodies are JSON, but for an envelope, which travels in its canonical encoding. Digests are
//! hexadecimal, other bytes base64url without padding, times seconds since the Unix epoch.

mod access;
mod attestation;
mod backup;
mod batch;
mod cluster;
mod event;
mod evidence;
mod fraud;
mod health;
mod log;
pub mod path;
mod problem;
mod revocation;
mod sentence;
mod sharing;
mod status;
mod token;
mod webhook;

pub use access::{
    CertificateRequest, ChannelAnnouncement, Credential, CredentialId, CredentialInfo, CredentialList,
    CredentialRequest, EnrolRequest, Enrolment, HsmCertificate, JoinToken, JoinTokenRequest, Role, new_secret,
    secret_digest,
};
pub use attestation::{AttestResponse, Challenge, ChallengeRequest, EnrolKeyRequest, KeyRef, Record};
pub use backup::Backup;
pub use batch::{
    AttestAnswer, AttestBatch, AttestedAnswer, AttestedBatch, AttestedRequest, BriefHsm, BriefStatus, ChallengeAnswer,
    ChallengeBatch, ChallengeBatchRequest, ENVELOPES_TYPE, MAX_BATCH_BODY, MAX_BATCH_ENVELOPES, MAX_BATCH_KEYS,
    join_envelopes, split_envelopes,
};
pub use cluster::{
    ClusterHsm, ClusterKey, ClusterStatus, Clusters, Coherence, KeyCopy, MAX_TRANSFER, MissingKey, Peer, Peers,
    TransferGrant, TransferRequest,
};
pub use event::{Event, EventKind, EventPage, Sighting};
pub use evidence::{
    CredentialAnswer, CredentialOffer, Device, DeviceRequest, EndorsementRequest, EvidenceChallenge,
    EvidenceChallengeRequest, EvidenceOverview, EvidenceRecord, EvidenceStanding, EvidenceSubmission, HsmEvidence,
    MAX_EVIDENCE_BODY,
};
pub use fraud::{
    AcknowledgeRequest, Acknowledgement, Action, Alert, AlertPage, AlertQuery, AlertState, Evidence, MAX_MIGRATION,
    Migrant, Migration, MigrationRequest, Migrations, Rule, Subject,
};
pub use health::{Check, Readiness};
pub use log::{ConsistencyProof, InclusionProof, LogKey, Retained, SealInfo, Seals};
pub use problem::{Problem, ProblemKind};
pub use revocation::{Reason, ReasonCode, ReinstateRequest, Revocation, RevocationTarget, RevokeRequest, Standing};
pub use sentence::rfc3339;
pub use sharing::{
    ComplaintRequest, ComplaintVerdict, Dealings, Dealt, EnrolSharingRequest, Holder, Holders, SealingKeyAnnouncement,
    ShareStatus, Sharing, share_name,
};
pub use status::{
    Agreement, AttestationState, Failure, HsmKeyStatus, KeyQuery, KeyStatus, LimitedCaller, StatementStatus, Status,
    VerificationStatus,
};
pub use token::{
    TokenAlgorithm, TokenForm, TokenKey, TokenKeyRequest, TokenKeyState, TokenKeys, TokenRequest, TokenResponse,
};
pub use webhook::{
    Notification, NotificationData, NotificationKind, Sends, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP, Webhook,
    WebhookHealth, WebhookReplay, WebhookTest, Webhooks, webhook_signed,
};

use data_encoding::BASE64URL_NOPAD;
use keywitness_circuits::{Digest, Error, Kind, ManagerId, Suite, TrustDomain};
use serde::{Deserialize, Serialize};

/// Media type of an envelope.
pub const ENVELOPE_TYPE: &str = "application/vnd.keywitness.envelope";

/// Longest life of a record, in seconds: a day. A manager gives no longer one, and an agent makes no claim for longer.
pub const MAX_RECORD_TTL: u64 = 24 * 60 * 60;

/// Longest request body that the manager reads, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// Bytes that travel as base64url without padding.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Base64(pub Vec<u8>);

impl TryFrom<String> for Base64 {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        BASE64URL_NOPAD.decode(text.as_bytes()).map(Self).map_err(|_| Error::Malformed {
            what: "base64url text",
            why: "it is not canonical base64url without padding",
        })
    }
}

impl From<Base64> for String {
    fn from(bytes: Base64) -> Self {
        BASE64URL_NOPAD.encode(&bytes.0)
    }
}

/// What a trust domain is, and what its manager asks for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TrustDomainInfo {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The manager that answers: the audience of claims.
    pub manager: ManagerId,
    /// The suites in which a symmetric key must be proven.
    pub suites: Vec<Suite>,
    /// The statement kinds in force, with the verifying key of each.
    pub statements: Vec<StatementInfo>,
    /// How long a record lasts, in seconds.
    pub record_ttl: u64,
    /// How long a challenge can be answered, in seconds.
    pub challenge_ttl: u64,
    /// Whether Groth16 parameters were made by one party, for development.
    pub development_parameters: bool,
}

/// A statement kind in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatementInfo {
    /// The kind.
    pub kind: Kind,
    /// Digest of its verifying key.
    pub verifying_key: Digest,
}
