//! Paths of the API, and who may call them.

/// `GET`, anyone: [`super::TrustDomainInfo`].
pub const TRUST_DOMAIN: &str = "/v1/trust-domain";
/// `GET`, anyone: the keys that sign verification tokens (RFC 7517).
pub const JWKS: &str = "/.well-known/jwks.json";
/// `GET`, anyone: whether the process is alive.
pub const HEALTH: &str = "/healthz";
/// `GET`, anyone: [`super::Readiness`].
pub const READY: &str = "/readyz";
/// `GET`, operator, viewer or auditor: measurements in Prometheus' text format.
pub const METRICS: &str = "/metrics";
/// `GET`, anyone: this API's description, OpenAPI 3.1.
pub const OPENAPI: &str = "/v1/openapi.json";
/// `POST`, operator: [`super::JoinTokenRequest`] to [`super::JoinToken`].
pub const JOIN_TOKENS: &str = "/v1/join-tokens";
/// `POST`, operator: [`super::CredentialRequest`] to [`super::Credential`]. `GET`, operator: [`super::CredentialList`].
pub const CREDENTIALS: &str = "/v1/credentials";
/// `DELETE`, operator: withdraws the credential with this [`super::CredentialId`].
pub const CREDENTIAL: &str = "/v1/credentials/{id}";
/// `POST`, whoever holds a join token: [`super::EnrolRequest`] to [`super::Enrolment`].
pub const HSMS: &str = "/v1/hsms";
/// `PUT`, HSM: [`super::ChannelAnnouncement`].
pub const CHANNEL: &str = "/v1/channel";
/// `POST`, HSM: [`super::EnrolKeyRequest`].
pub const KEYS: &str = "/v1/keys";
/// `POST`, HSM: [`super::CertificateRequest`] to [`super::HsmCertificate`], where the manager speaks TLS.
pub const CERTIFICATES: &str = "/v1/certificates";
/// `PUT`, HSM: [`super::SealingKeyAnnouncement`].
pub const SEALING_KEY: &str = "/v1/sealing-key";
/// `GET`, HSM: [`super::Holders`].
pub const HOLDERS: &str = "/v1/holders";
/// `POST`, HSM: [`super::EnrolSharingRequest`] to [`super::Sharing`]. `GET`, HSM: [`super::Dealings`].
pub const SHARINGS: &str = "/v1/sharings";
/// `GET`, HSM: [`super::Peers`].
pub const PEERS: &str = "/v1/peers";
/// `POST`, HSM: [`super::TransferRequest`] to [`super::TransferGrant`].
pub const TRANSFERS: &str = "/v1/transfers";
/// `POST`, HSM: [`super::EvidenceChallengeRequest`] to [`super::EvidenceChallenge`].
pub const EVIDENCE_CHALLENGES: &str = "/v1/evidence/challenges";
/// `POST`, HSM: [`super::EvidenceSubmission`] to [`super::EvidenceRecord`]. `GET`, operator, viewer or auditor:
/// [`super::EvidenceOverview`].
pub const EVIDENCE: &str = "/v1/evidence";
/// `POST`, operator: [`super::DeviceRequest`].
pub const DEVICES: &str = "/v1/devices";
/// `POST`, HSM: [`super::EndorsementRequest`] to [`super::CredentialOffer`].
pub const DEVICE_CREDENTIALS: &str = "/v1/devices/credentials";
/// `POST`, HSM: [`super::CredentialAnswer`] to [`super::Device`].
pub const DEVICE_ANSWERS: &str = "/v1/devices/answers";
/// `GET`, operator, viewer or auditor: [`super::Clusters`], or `?cluster=` alone.
pub const CLUSTERS: &str = "/v1/clusters";
/// `POST`, HSM: [`super::ComplaintRequest`] to [`super::ComplaintVerdict`].
pub const COMPLAINTS: &str = "/v1/complaints";
/// `POST`, HSM: [`super::ChallengeRequest`] to [`super::Challenge`].
pub const CHALLENGES: &str = "/v1/challenges";
/// `POST`, HSM: an envelope to [`super::AttestResponse`].
pub const ATTESTATIONS: &str = "/v1/attestations";
/// `POST`, HSM: [`super::ChallengeBatchRequest`] to [`super::ChallengeBatch`].
pub const CHALLENGE_BATCHES: &str = "/v1/challenges/batch";
/// `POST`, HSM: envelopes, as [`super::ENVELOPES_TYPE`], to [`super::AttestBatch`].
pub const ATTESTATION_BATCHES: &str = "/v1/attestations/batch";
/// `GET`, any role: [`super::KeyQuery`] to [`super::KeyStatus`]. `POST`, any role:
/// [`super::AttestedRequest`] to [`super::AttestedBatch`].
pub const ATTESTED: &str = "/v1/attested";
/// `GET`, anyone: a status list (draft-ietf-oauth-status-list), by its number after the slash.
pub const STATUS_LISTS: &str = "/v1/status-lists";
/// The same, as a route has it.
pub const STATUS_LIST: &str = "/v1/status-lists/{number}";
/// `POST`, operator: [`super::TokenKeyRequest`] to [`super::TokenKey`]. `GET`, operator: [`super::TokenKeys`].
pub const TOKEN_KEYS: &str = "/v1/token-keys";
/// `POST`, client: [`super::TokenRequest`] to [`super::TokenResponse`].
pub const TOKENS: &str = "/v1/tokens";
/// `POST`, client or auditor: [`crate::bundle::BundleRequest`] to [`crate::bundle::Bundle`].
pub const BUNDLES: &str = "/v1/bundles";
/// `POST`, operator: [`super::RevokeRequest`] to [`super::Revocation`].
pub const REVOCATIONS: &str = "/v1/revocations";
/// `POST`, operator: [`super::RevokeRequest`] to [`super::Revocation`].
pub const SUSPENSIONS: &str = "/v1/suspensions";
/// `POST`, operator: [`super::ReinstateRequest`].
pub const REINSTATEMENTS: &str = "/v1/reinstatements";
/// `POST`, operator of every cluster, no body: makes a [`super::Backup`].
pub const BACKUPS: &str = "/v1/backups";
/// `GET`, any role: [`super::Status`].
pub const STATUS: &str = "/v1/status";
/// `GET`, operator, viewer or auditor: [`super::EventPage`].
pub const EVENTS: &str = "/v1/events";
/// `GET`, anyone: [`super::LogKey`].
pub const LOG_KEY: &str = "/v1/log/key";
/// `GET`, anyone: the newest checkpoint, a signed note (C2SP tlog-tiles).
pub const CHECKPOINT: &str = "/v1/log/checkpoint";
/// `GET`, anyone: the newest checkpoint that `?witnesses=` have cosigned, 1 when left out.
pub const COSIGNED: &str = "/v1/log/cosigned";
/// `GET`, anyone: a tile of hashes or entries (C2SP tlog-tiles).
pub const TILES: &str = "/v1/log/tile/{tile:.*}";
/// `GET`, anyone: `?index=` and `?size=` to [`super::InclusionProof`].
pub const LOG_PROOF: &str = "/v1/log/proof";
/// `GET`, anyone: `?from=` and `?to=` to [`super::ConsistencyProof`].
pub const LOG_CONSISTENCY: &str = "/v1/log/consistency";
/// `GET`, auditor: `?after=` and `?limit=` to a page of openings ([`super::super::log::read_page`]).
pub const OPENINGS: &str = "/v1/log/openings";
/// `POST`, auditor: a checkpoint with a witness's cosignature.
pub const COSIGNATURES: &str = "/v1/log/cosignatures";
/// `POST`, operator: seals the state, to [`super::super::log::StateSeal`]. `GET`, operator or auditor: [`super::Seals`].
pub const SEALS: &str = "/v1/log/seals";
/// `GET`, auditor: the state that a seal is of, in parts from byte `?offset=` on; an empty part ends it.
pub const SNAPSHOT: &str = "/v1/log/snapshots/{sequence}";
/// `POST`, operator: deletes the openings that are old enough, to [`super::Retained`].
pub const RETENTION: &str = "/v1/log/retention";
/// `GET`, operator, viewer or auditor: events as they happen (server-sent events), each a [`super::Event`].
pub const EVENT_STREAM: &str = "/v1/events/stream";
/// `GET`, operator, viewer or auditor: [`super::AlertQuery`] to [`super::AlertPage`].
pub const ALERTS: &str = "/v1/alerts";
/// `GET`, operator, viewer or auditor: [`super::Alert`].
pub const ALERT: &str = "/v1/alerts/{number}";
/// `POST`, operator: [`super::AcknowledgeRequest`] to [`super::Alert`].
pub const ACKNOWLEDGEMENT: &str = "/v1/alerts/{number}/acknowledgement";
/// `POST`, operator: [`super::MigrationRequest`] to [`super::Migration`]. `GET`, operator, viewer or auditor:
/// [`super::Migrations`].
pub const MIGRATIONS: &str = "/v1/migrations";
/// `GET`, operator, viewer or auditor: alerts as they are raised (server-sent events), each a [`super::Alert`].
pub const ALERT_STREAM: &str = "/v1/alerts/stream";
/// `GET`, operator of every cluster: [`super::Webhooks`].
pub const WEBHOOKS: &str = "/v1/webhooks";
/// `POST`, operator of every cluster: [`super::WebhookReplay`] to [`super::Webhook`].
pub const WEBHOOK_REPLAY: &str = "/v1/webhooks/{name}/replay";
/// `POST`, operator of every cluster, no body: sends a test, to [`super::WebhookTest`].
pub const WEBHOOK_TEST: &str = "/v1/webhooks/{name}/test";
