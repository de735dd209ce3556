//! The manager's API: what travels, with no I/O.
//!
//! Bodies are JSON, but for an envelope, which travels in its canonical encoding. Digests are
//! hexadecimal, other bytes base64url without padding, times seconds since the Unix epoch.

mod event;
mod problem;
mod sharing;

pub use event::{Event, EventKind, EventPage, Sighting};
pub use problem::{Problem, ProblemKind};
pub use sharing::{
    ComplaintRequest, ComplaintVerdict, Dealings, Dealt, EnrolSharingRequest, Holder, Holders, SealingKeyAnnouncement,
    ShareStatus, Sharing, share_name,
};

use std::{fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD;
use keywitness_circuits::{
    ClusterId, Digest, Error, Fingerprint, HsmId, KeyAlgorithm, KeyAttributes, KeyId, Kind, ManagerId, Nonce, Suite,
    Timestamp, TrustDomain, transcript::label,
};
use serde::{Deserialize, Serialize};

use crate::identity::IdentityKey;

/// Media type of an envelope.
pub const ENVELOPE_TYPE: &str = "application/vnd.keywitness.envelope";

/// Longest life of a record, in seconds: a day. A manager gives no longer one, and an agent makes no claim for longer.
pub const MAX_RECORD_TTL: u64 = 24 * 60 * 60;

/// Longest request body that the manager reads, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// Paths of the API.
pub mod path {
    /// `GET`, anyone: [`super::TrustDomainInfo`].
    pub const TRUST_DOMAIN: &str = "/v1/trust-domain";
    /// `GET`, anyone: the keys that sign verification tokens (RFC 7517).
    pub const JWKS: &str = "/.well-known/jwks.json";
    /// `GET`, anyone: whether the process is alive.
    pub const HEALTH: &str = "/healthz";
    /// `POST`, operator: [`super::JoinTokenRequest`] to [`super::JoinToken`].
    pub const JOIN_TOKENS: &str = "/v1/join-tokens";
    /// `POST`, operator: [`super::CredentialRequest`] to [`super::Credential`].
    pub const CREDENTIALS: &str = "/v1/credentials";
    /// `POST`, whoever holds a join token: [`super::EnrolRequest`] to [`super::Enrolment`].
    pub const HSMS: &str = "/v1/hsms";
    /// `PUT`, HSM: [`super::ChannelAnnouncement`].
    pub const CHANNEL: &str = "/v1/channel";
    /// `POST`, HSM: [`super::EnrolKeyRequest`].
    pub const KEYS: &str = "/v1/keys";
    /// `PUT`, HSM: [`super::SealingKeyAnnouncement`].
    pub const SEALING_KEY: &str = "/v1/sealing-key";
    /// `GET`, HSM: [`super::Holders`].
    pub const HOLDERS: &str = "/v1/holders";
    /// `POST`, HSM: [`super::EnrolSharingRequest`] to [`super::Sharing`]. `GET`, HSM: [`super::Dealings`].
    pub const SHARINGS: &str = "/v1/sharings";
    /// `POST`, HSM: [`super::ComplaintRequest`] to [`super::ComplaintVerdict`].
    pub const COMPLAINTS: &str = "/v1/complaints";
    /// `POST`, HSM: [`super::ChallengeRequest`] to [`super::Challenge`].
    pub const CHALLENGES: &str = "/v1/challenges";
    /// `POST`, HSM: an envelope to [`super::AttestResponse`].
    pub const ATTESTATIONS: &str = "/v1/attestations";
    /// `GET`, operator, client or viewer: [`super::KeyQuery`] to [`super::KeyStatus`].
    pub const ATTESTED: &str = "/v1/attested";
    /// `POST`, client: [`super::TokenRequest`] to [`super::TokenResponse`].
    pub const TOKENS: &str = "/v1/tokens";
    /// `POST`, operator: [`super::RevokeRequest`].
    pub const REVOCATIONS: &str = "/v1/revocations";
    /// `GET`, operator, client or viewer: [`super::Status`].
    pub const STATUS: &str = "/v1/status";
    /// `GET`, operator or viewer: [`super::EventPage`].
    pub const EVENTS: &str = "/v1/events";
}

/// Bytes that travel as base64url without padding.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
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

/// What a bearer credential may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Invites HSMs, makes credentials, revokes.
    Operator,
    /// Asks whether keys are attested, and for verification tokens.
    Client,
    /// Looks, and changes nothing.
    Viewer,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Operator => "operator",
            Self::Client => "client",
            Self::Viewer => "viewer",
        })
    }
}

impl FromStr for Role {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Operator, Self::Client, Self::Viewer]
            .into_iter()
            .find(|role| role.to_string() == text)
            .ok_or(Error::Malformed { what: "role", why: "use operator, client or viewer" })
    }
}

/// The digest under which a bearer secret (credential or join token) is kept.
pub fn secret_digest(secret: &str) -> Digest {
    Digest::of(label::CREDENTIAL, secret.as_bytes())
}

/// Makes a bearer secret: `kw_<kind>_` and 256 random bits.
pub fn new_secret(kind: &str) -> String {
    format!("kw_{kind}_{}", Nonce::random())
}

/// Asks for a credential.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CredentialRequest {
    /// Who will hold it; shown in events.
    pub name: String,
    /// What it may be used for.
    pub role: Role,
}

/// A bearer credential. Shown once; the manager keeps only its digest.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The secret: `authorization: Bearer <secret>`.
    pub secret: String,
    /// What it may be used for.
    pub role: Role,
}

/// Asks for a join token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinTokenRequest {
    /// The cluster that the HSM will belong to.
    pub cluster: ClusterId,
    /// The only HSM that may use it; any name when absent.
    pub hsm: Option<HsmId>,
    /// How long it can be used, in seconds.
    pub valid_for: u64,
}

/// A single-use join token. Shown once; the manager keeps only its digest.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The secret.
    pub secret: String,
    /// When it stops working.
    pub expires_at: Timestamp,
}

/// Enrols an HSM's identity key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The single-use join token.
    pub join_token: String,
    /// The name the HSM takes.
    pub hsm: HsmId,
    /// Its public identity key.
    pub identity_key: IdentityKey,
    /// Its public X25519 channel key.
    pub channel_key: Digest,
    /// [`crate::identity::EnrolmentParts`] signed by the identity key: 64 bytes.
    pub signature: Base64,
}

/// An HSM's place in the trust domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Enrolment {
    /// The HSM.
    pub hsm: HsmId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Which enrolment of that HSM.
    pub revision: u32,
}

/// Says where an HSM's channel can be reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChannelAnnouncement {
    /// Base URL, `http://host:port`.
    pub url: String,
}

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

/// Why a key counts as attested, or does not. Derived from the newest evidence each time it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttestationState {
    /// Every required statement is proven, fresh, and nothing newer contradicts it.
    Attested,
    /// A required statement was never proven.
    Unproven,
    /// A required record has expired.
    Expired,
    /// A required record is older than the maximum age that was asked for.
    Stale,
    /// The newest attempt failed.
    Failing,
    /// The key or the HSM is revoked.
    Revoked,
}

impl fmt::Display for AttestationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Attested => "attested",
            Self::Unproven => "unproven",
            Self::Expired => "expired",
            Self::Stale => "stale",
            Self::Failing => "failing",
            Self::Revoked => "revoked",
        })
    }
}

/// Asks whether a key is attested (`IsKeyAttested`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyQuery {
    /// The key.
    pub key: KeyId,
    /// Its cluster; may be left out where only one cluster has a key of that name.
    pub cluster: Option<ClusterId>,
    /// Only in this HSM.
    pub hsm: Option<HsmId>,
    /// Oldest record that counts, in seconds.
    pub max_age: Option<u64>,
}

/// Whether a key is attested, in each HSM that enrolled it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyStatus {
    /// The key.
    pub key: KeyId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Whether at least one HSM attests it now.
    pub attested: bool,
    /// One entry for each HSM.
    pub hsms: Vec<HsmKeyStatus>,
}

/// One key in one HSM, at its newest epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HsmKeyStatus {
    /// The HSM.
    pub hsm: HsmId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The key.
    pub key: KeyRef,
    /// Its algorithm.
    pub algorithm: KeyAlgorithm,
    /// What the evidence comes to.
    pub state: AttestationState,
    /// One entry for each required statement.
    pub statements: Vec<StatementStatus>,
    /// The newest failure, while it is newer than the newest success.
    pub failure: Option<Failure>,
}

/// One required statement of one key in one HSM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatementStatus {
    /// The kind.
    pub kind: Kind,
    /// When it was proven last.
    pub proven_at: Option<Timestamp>,
    /// When the record expires.
    pub expires_at: Option<Timestamp>,
    /// For a tagged key, how far its record is agreed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
}

/// How many HSMs of a cluster, with records in force, have shown the same tags of a key in one beacon round.
///
/// Nothing in a tagged key's proof ties its tags to a key; that others compute the same tag of a beacon that
/// nobody could foresee does, but for HSMs that collude or pass the beacon on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Agreement(u32);

impl Agreement {
    /// Of `hsms`, the HSM itself among them; at least one.
    pub const fn of(hsms: u32) -> Self {
        Self(if hsms == 0 { 1 } else { hsms })
    }

    /// How many HSMs agree; 1 where the HSM stands alone.
    pub const fn hsms(self) -> u32 {
        self.0
    }

    /// Whether the HSM stands alone.
    pub const fn is_self_asserted(self) -> bool {
        self.0 == 1
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_self_asserted() { f.pad("self-asserted") } else { f.pad(&format!("agreed({})", self.0)) }
    }
}

impl From<Agreement> for String {
    fn from(agreement: Agreement) -> Self {
        agreement.to_string()
    }
}

impl TryFrom<String> for Agreement {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        let number = text.strip_prefix("agreed(").and_then(|rest| rest.strip_suffix(')'));
        let agreement = match number {
            Some(number) => number.parse().ok().map(Self),
            None => Some(Self(1)),
        };
        agreement
            .filter(|agreement| agreement.to_string() == text)
            .ok_or(Error::Malformed { what: "agreement", why: "use self-asserted or agreed(n), n at least 2" })
    }
}

/// A failed attempt that was authenticated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// What was wrong.
    pub problem: ProblemKind,
}

/// Asks for a verification token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenRequest {
    /// The key, its cluster, the HSM and the greatest age that counts.
    #[serde(flatten)]
    pub query: KeyQuery,
    /// Who will check the token.
    pub audience: String,
    /// The client's nonce: comes back in the token.
    pub nonce: Nonce,
}

/// A verification token, and where the HSM it speaks of can be reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenResponse {
    /// The signed token (JWT).
    pub token: String,
    /// When it expires.
    pub expires_at: Timestamp,
    /// The HSM that it speaks of.
    pub hsm: HsmId,
    /// Where that HSM's channel is. Not signed, and need not be: the channel key in the token decides who can answer.
    pub channel_url: Option<String>,
}

/// What is revoked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationTarget {
    /// One HSM, with every key it attests.
    Hsm(HsmId),
    /// One key, at every epoch, in every HSM of its cluster.
    Key {
        /// The cluster.
        cluster: ClusterId,
        /// The key.
        key: KeyId,
    },
    /// Every share of one sharing. The key that was shared stays what it is.
    Sharing {
        /// The cluster of the shared key.
        cluster: ClusterId,
        /// The shared key, at the sharing's epoch.
        key: KeyRef,
    },
}

impl fmt::Display for RevocationTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hsm(hsm) => write!(f, "HSM {hsm}"),
            Self::Key { cluster, key } => write!(f, "key {key} of {cluster}"),
            Self::Sharing { cluster, key } => {
                write!(f, "the sharing of key {} of {cluster}, epoch {}", key.key, key.epoch)
            }
        }
    }
}

/// Revokes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RevokeRequest {
    /// What.
    pub target: RevocationTarget,
    /// Why, in the operator's words.
    pub reason: String,
}

/// A revocation in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Revocation {
    /// What.
    pub target: RevocationTarget,
    /// Why.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}

/// Everything a person wants to see at a glance.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The manager's time.
    pub now: Timestamp,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Every key in every HSM.
    pub keys: Vec<HsmKeyStatus>,
    /// Every revocation.
    pub revocations: Vec<Revocation>,
    /// How many events there are.
    pub events: u64,
    /// How many of them are fraud events.
    pub alerts: u64,
    /// How the checking of proofs goes.
    #[serde(default)]
    pub verification: VerificationStatus,
}

/// How the checking of proofs goes, since the manager started.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct VerificationStatus {
    /// Proofs that wait.
    pub queued: u64,
    /// Sets that were checked.
    pub batches: u64,
    /// Proofs in a set, on average.
    pub mean_batch: f64,
    /// Sets that failed and were searched for the bad proof.
    pub splits: u64,
    /// Proofs that were turned away, since too many waited.
    pub busy: u64,
    /// HSMs whose proofs are checked apart, since one was bad.
    pub isolated: u64,
}
