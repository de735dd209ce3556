//! Every operation of the API: one row each.

use keywitness_verifier::{
    log::OPENINGS_TYPE,
    wire::{ENVELOPE_TYPE, ENVELOPES_TYPE, ProblemKind, path},
};

use super::{Media, Who};

/// A parameter of a path or a query.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Parameter {
    pub(in crate::http) name: &'static str,
    /// `path` or `query`.
    pub(in crate::http) place: &'static str,
    pub(in crate::http) required: bool,
    pub(in crate::http) doc: &'static str,
    /// Name of its schema.
    pub(in crate::http) schema: &'static str,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Operation {
    pub(in crate::http) method: &'static str,
    pub(in crate::http) path: &'static str,
    pub(in crate::http) tag: &'static str,
    pub(in crate::http) summary: &'static str,
    pub(in crate::http) who: Who,
    pub(in crate::http) parameters: &'static [Parameter],
    pub(in crate::http) takes: Media,
    pub(in crate::http) status: u16,
    pub(in crate::http) gives: Media,
    /// Another status with a document of its own: status, schema, when.
    pub(in crate::http) otherwise: Option<(u16, &'static str, &'static str)>,
    problems: &'static [ProblemKind],
}

impl Operation {
    const fn new(method: &'static str, path: &'static str, who: Who, summary: &'static str) -> Self {
        let tag = match who {
            Who::Anyone => "anyone",
            Who::Roles(_) => "people and services",
            Who::Hsm | Who::Body => "HSMs",
        };
        let (takes, gives) = (Media::Nothing, Media::Nothing);
        let (parameters, problems): (&[Parameter], &[ProblemKind]) = (&[], &[]);
        Self { method, path, tag, summary, who, parameters, takes, status: 204, gives, otherwise: None, problems }
    }
    const fn takes(self, takes: Media) -> Self {
        Self { takes, ..self }
    }
    const fn gives(self, gives: Media) -> Self {
        Self { gives, status: 200, ..self }
    }
    const fn asks(self, parameters: &'static [Parameter]) -> Self {
        Self { parameters, ..self }
    }
    /// Problems of this operation's own.
    const fn refuses(self, problems: &'static [ProblemKind]) -> Self {
        Self { problems, ..self }
    }
    const fn or(self, status: u16, schema: &'static str, when: &'static str) -> Self {
        Self { otherwise: Some((status, schema, when)), ..self }
    }

    /// The path without the patterns of its parts, which OpenAPI does not have.
    pub(in crate::http) fn template(&self) -> String {
        self.path.replace(":.*}", "}")
    }

    /// A name for generated clients.
    pub(in crate::http) fn id(&self) -> String {
        let words = self.path.split(|sign: char| !sign.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        std::iter::once(self.method.to_lowercase()).chain(words.map(str::to_owned)).collect::<Vec<_>>().join("_")
    }

    /// Whether this operation answers with such a problem: its own ones, and what follows from who calls and what travels.
    pub(in crate::http) fn refuses_with(&self, kind: ProblemKind) -> bool {
        use ProblemKind as P;
        let reads = self.takes != Media::Nothing;
        let signed = self.who == Who::Hsm;
        match kind {
            P::TooManyRequests | P::Internal | P::Unavailable => true,
            P::Malformed => reads || signed || !self.parameters.is_empty() || self.problems.contains(&kind),
            P::TooLarge => reads || signed,
            P::UnsupportedMediaType => reads,
            P::Unauthenticated => signed || matches!(self.who, Who::Roles(_)) || self.problems.contains(&kind),
            P::ClockSkew => signed,
            P::Forbidden => matches!(self.who, Who::Roles(_)) || self.problems.contains(&kind),
            _ => self.problems.contains(&kind),
        }
    }
}

const fn get(path: &'static str, who: Who, summary: &'static str) -> Operation {
    Operation::new("GET", path, who, summary)
}
const fn post(path: &'static str, who: Who, summary: &'static str) -> Operation {
    Operation::new("POST", path, who, summary)
}
const fn put(path: &'static str, who: Who, summary: &'static str) -> Operation {
    Operation::new("PUT", path, who, summary)
}
const fn delete(path: &'static str, who: Who, summary: &'static str) -> Operation {
    Operation::new("DELETE", path, who, summary)
}
const fn query(name: &'static str, required: bool, schema: &'static str, doc: &'static str) -> Parameter {
    Parameter { name, place: "query", required, doc, schema }
}
const fn part(name: &'static str, schema: &'static str, doc: &'static str) -> Parameter {
    Parameter { name, place: "path", required: true, doc, schema }
}

const AUDITOR: Who = Who::Roles(&["auditor"]);
const OPERATOR_OR_AUDITOR: Who = Who::Roles(&["operator", "auditor"]);
const OPERATOR: Who = Who::Roles(&["operator"]);
const CLIENT: Who = Who::Roles(&["client"]);
const WATCHERS: Who = Who::Roles(&["operator", "viewer", "auditor"]);
const ANY_ROLE: Who = Who::Roles(&["operator", "client", "viewer", "auditor"]);

/// Where a stream goes on (WHATWG HTML, section 9.2.4).
const LAST_EVENT_ID: Parameter = Parameter {
    name: "Last-Event-ID",
    place: "header",
    required: false,
    doc: "The last number that was seen; goes before the query.",
    schema: "Count",
};

/// Media type of bytes.
const BYTES: &str = "application/octet-stream";

/// Problems of whatever an HSM sends that may be revoked.
const OF_HSMS: &[ProblemKind] = &[
    ProblemKind::Forbidden,
    ProblemKind::HsmRevoked,
    ProblemKind::KeyRevoked,
    ProblemKind::Suspended,
    ProblemKind::NotFound,
    ProblemKind::KeyConflict,
    ProblemKind::UnknownStatement,
    ProblemKind::UnknownKey,
];

/// Problems of a transfer of keys.
const OF_TRANSFERS: &[ProblemKind] = &[
    ProblemKind::Forbidden,
    ProblemKind::HsmRevoked,
    ProblemKind::KeyRevoked,
    ProblemKind::Suspended,
    ProblemKind::UnknownKey,
    ProblemKind::NotAttested,
];

/// What is refused of evidence.
const OF_EVIDENCE: &[ProblemKind] = &[
    ProblemKind::HsmRevoked,
    ProblemKind::Forbidden,
    ProblemKind::UnknownKey,
    ProblemKind::UnknownChallenge,
    ProblemKind::ForeignChallenge,
    ProblemKind::ChallengeConsumed,
    ProblemKind::ChallengeExpired,
    ProblemKind::EvidenceRefused,
];

/// Problems of an envelope.
const OF_ENVELOPES: &[ProblemKind] = &[
    ProblemKind::Unauthenticated,
    ProblemKind::HsmRevoked,
    ProblemKind::KeyRevoked,
    ProblemKind::Suspended,
    ProblemKind::UnknownChallenge,
    ProblemKind::ChallengeExpired,
    ProblemKind::ForeignChallenge,
    ProblemKind::ChallengeConsumed,
    ProblemKind::ContextMismatch,
    ProblemKind::UnknownStatement,
    ProblemKind::UnknownKey,
    ProblemKind::ProofRefused,
];

/// Problems of asking about a key.
const OF_KEYS: &[ProblemKind] = &[
    ProblemKind::NotFound,
    ProblemKind::AmbiguousKey,
    ProblemKind::DisputedKey,
    ProblemKind::NotAttested,
    ProblemKind::HsmRevoked,
    ProblemKind::KeyRevoked,
    ProblemKind::Suspended,
];

/// Every operation.
pub(in crate::http) const OPERATIONS: &[Operation] = &[
    get("/", Who::Anyone, "The dashboard").gives(Media::Html),
    get("/docs", Who::Anyone, "This description, for people").gives(Media::Html),
    get(path::OPENAPI, Who::Anyone, "This description").gives(Media::Json("Document")),
    get(path::HEALTH, Who::Anyone, "Whether the process is alive").gives(Media::Text),
    get(path::READY, Who::Anyone, "Whether the manager can serve, and what keeps it from it")
        .gives(Media::Json("Readiness"))
        .or(503, "Readiness", "A check is not passed."),
    get(path::METRICS, WATCHERS, "Measurements, in Prometheus' text format").gives(Media::Text),
    get(path::TRUST_DOMAIN, Who::Anyone, "What the trust domain asks for").gives(Media::Json("TrustDomainInfo")),
    get(path::JWKS, Who::Anyone, "The keys that sign verification tokens (RFC 7517)").gives(Media::Json("JwkSet")),
    post(path::JOIN_TOKENS, OPERATOR, "Invite an HSM")
        .takes(Media::Json("JoinTokenRequest"))
        .gives(Media::Json("JoinToken"))
        .refuses(&[
            ProblemKind::NotFound,
            ProblemKind::AlreadyEnrolled,
            ProblemKind::HsmRevoked,
            ProblemKind::Suspended,
        ]),
    post(path::CREDENTIALS, OPERATOR, "Make a credential")
        .takes(Media::Json("CredentialRequest"))
        .gives(Media::Json("Credential")),
    get(path::CREDENTIALS, OPERATOR, "Every credential, without its secret").gives(Media::Json("CredentialList")),
    delete(path::CREDENTIAL, OPERATOR, "Withdraw a credential")
        .asks(&[part("id", "CredentialId", "Which.")])
        .refuses(&[ProblemKind::NotFound, ProblemKind::LastOperator]),
    post(path::HSMS, Who::Body, "Enrol an HSM, with a join token")
        .takes(Media::Json("EnrolRequest"))
        .gives(Media::Json("Enrolment"))
        .refuses(&[
            ProblemKind::Unauthenticated,
            ProblemKind::JoinTokenRefused,
            ProblemKind::HsmRevoked,
            ProblemKind::Suspended,
            ProblemKind::AlreadyEnrolled,
        ]),
    put(path::CHANNEL, Who::Hsm, "Say where this HSM's channel is")
        .takes(Media::Json("ChannelAnnouncement"))
        .refuses(OF_HSMS),
    post(path::KEYS, Who::Hsm, "Enrol a key").takes(Media::Json("EnrolKeyRequest")).refuses(OF_HSMS),
    post(path::CERTIFICATES, Who::Hsm, "Ask for a client certificate, where the manager speaks TLS")
        .takes(Media::Json("CertificateRequest"))
        .gives(Media::Json("HsmCertificate"))
        .refuses(OF_HSMS),
    put(path::SEALING_KEY, Who::Hsm, "Say to which key shares are sealed")
        .takes(Media::Json("SealingKeyAnnouncement"))
        .refuses(OF_HSMS),
    get(path::HOLDERS, Who::Hsm, "Who can hold shares").gives(Media::Json("Holders")).refuses(OF_HSMS),
    post(path::SHARINGS, Who::Hsm, "Enrol a sharing")
        .takes(Media::Json("EnrolSharingRequest"))
        .gives(Media::Json("Sharing"))
        .refuses(OF_HSMS),
    get(path::SHARINGS, Who::Hsm, "The dealings with a share for this HSM")
        .gives(Media::Json("Dealings"))
        .refuses(OF_HSMS),
    get(path::PEERS, Who::Hsm, "The other HSMs of this HSM's cluster, and keys of theirs that it has not enrolled")
        .gives(Media::Json("Peers"))
        .refuses(OF_HSMS),
    post(path::TRANSFERS, Who::Hsm, "Ask to be allowed to give copies of keys to another HSM of the cluster")
        .takes(Media::Json("TransferRequest"))
        .gives(Media::Json("TransferGrant"))
        .refuses(OF_TRANSFERS),
    post(
        path::EVIDENCE_CHALLENGES,
        Who::Hsm,
        "Ask what evidence of where the HSM, or a key in it, lives is to be bound to",
    )
    .takes(Media::Json("EvidenceChallengeRequest"))
    .gives(Media::Json("EvidenceChallenge"))
    .refuses(OF_EVIDENCE),
    post(path::EVIDENCE, Who::Hsm, "Have evidence appraised")
        .takes(Media::Json("EvidenceSubmission"))
        .gives(Media::Json("EvidenceRecord"))
        .refuses(OF_EVIDENCE),
    get(path::EVIDENCE, WATCHERS, "How the evidence of every HSM stands").gives(Media::Json("EvidenceOverview")),
    post(path::DEVICES, OPERATOR, "Let an HSM enrol its device, once")
        .takes(Media::Json("DeviceRequest"))
        .refuses(&[ProblemKind::NotFound]),
    post(path::DEVICE_CREDENTIALS, Who::Hsm, "Ask for a credential that the TPM of an endorsement key alone can open")
        .takes(Media::Json("EndorsementRequest"))
        .gives(Media::Json("CredentialOffer"))
        .refuses(OF_EVIDENCE),
    post(path::DEVICE_ANSWERS, Who::Hsm, "Enrol the TPM that opened the credential")
        .takes(Media::Json("CredentialAnswer"))
        .gives(Media::Json("Device"))
        .refuses(OF_EVIDENCE),
    get(path::CLUSTERS, WATCHERS, "How far the HSMs of each cluster agree on its keys")
        .asks(&[query("cluster", false, "Name", "Only this cluster.")])
        .gives(Media::Json("Clusters"))
        .refuses(&[ProblemKind::NotFound]),
    post(path::COMPLAINTS, Who::Hsm, "Complain of a share")
        .takes(Media::Json("ComplaintRequest"))
        .gives(Media::Json("ComplaintVerdict"))
        .refuses(OF_HSMS),
    post(path::CHALLENGES, Who::Hsm, "Ask for a challenge")
        .takes(Media::Json("ChallengeRequest"))
        .gives(Media::Json("Challenge"))
        .refuses(OF_HSMS),
    post(path::ATTESTATIONS, Who::Body, "Submit an envelope, which its HSM signed")
        .takes(Media::Bytes(ENVELOPE_TYPE))
        .gives(Media::Json("AttestResponse"))
        .refuses(OF_ENVELOPES),
    get(path::ATTESTED, ANY_ROLE, "Whether a key is attested")
        .asks(&[
            query("key", true, "Name", "The key."),
            query("cluster", false, "Name", "Its cluster; may be left out where one cluster alone has such a key."),
            query("hsm", false, "Name", "Only in this HSM."),
            query("max_age", false, "Seconds", "Oldest record that counts."),
        ])
        .gives(Media::Json("KeyStatus"))
        .refuses(OF_KEYS),
    post(path::TOKENS, CLIENT, "Ask for a verification token")
        .takes(Media::Json("TokenRequest"))
        .gives(Media::Json("TokenResponse"))
        .refuses(OF_KEYS),
    post(path::REVOCATIONS, OPERATOR, "Revoke")
        .takes(Media::Json("RevokeRequest"))
        .gives(Media::Json("Revocation"))
        .refuses(&[ProblemKind::NotFound]),
    post(path::SUSPENSIONS, OPERATOR, "Suspend: revoke for now")
        .takes(Media::Json("RevokeRequest"))
        .gives(Media::Json("Revocation"))
        .refuses(&[ProblemKind::NotFound]),
    post(path::REINSTATEMENTS, OPERATOR, "End a suspension")
        .takes(Media::Json("ReinstateRequest"))
        .refuses(&[ProblemKind::NotFound]),
    post(path::CHALLENGE_BATCHES, Who::Hsm, "Ask for many challenges")
        .takes(Media::Json("ChallengeBatchRequest"))
        .gives(Media::Json("ChallengeBatch"))
        .refuses(OF_HSMS),
    post(path::ATTESTATION_BATCHES, Who::Body, "Submit many envelopes, each of which says whose it is")
        .takes(Media::Bytes(ENVELOPES_TYPE))
        .gives(Media::Json("AttestBatch")),
    post(path::ATTESTED, ANY_ROLE, "Whether many keys are attested")
        .takes(Media::Json("AttestedRequest"))
        .gives(Media::Json("AttestedBatch")),
    get(path::LOG_KEY, Who::Anyone, "The keys that sign for the transparency log").gives(Media::Json("LogKey")),
    get(path::CHECKPOINT, Who::Anyone, "The newest checkpoint: a signed note (C2SP tlog-tiles)").gives(Media::Text),
    get(path::COSIGNED, Who::Anyone, "The newest checkpoint with enough cosignatures")
        .asks(&[query("witnesses", false, "Count", "How many; 1 when left out.")])
        .gives(Media::Text)
        .refuses(&[ProblemKind::NotFound]),
    get(path::TILES, Who::Anyone, "A tile of hashes or entries (C2SP tlog-tiles)")
        .asks(&[part("tile", "Tile", "Level and number, or entries and number.")])
        .gives(Media::Bytes(BYTES))
        .refuses(&[ProblemKind::NotFound]),
    get(path::LOG_PROOF, Who::Anyone, "That an entry is in the tree")
        .asks(&[query("index", true, "Count", "Which entry."), query("size", false, "Count", "Of which tree.")])
        .gives(Media::Json("InclusionProof"))
        .refuses(&[ProblemKind::NotFound]),
    get(path::LOG_CONSISTENCY, Who::Anyone, "That one tree is the beginning of another")
        .asks(&[query("from", true, "Count", "Its size."), query("to", true, "Count", "The other's.")])
        .gives(Media::Json("ConsistencyProof"))
        .refuses(&[ProblemKind::NotFound]),
    get(path::OPENINGS, AUDITOR, "What the log's entries commit to")
        .asks(&[
            query("after", false, "Count", "Only those after this entry."),
            query("limit", false, "Count", "How many at most."),
        ])
        .gives(Media::Bytes(OPENINGS_TYPE))
        .refuses(&[ProblemKind::NotFound]),
    post(path::COSIGNATURES, AUDITOR, "Bring a witness's cosignature")
        .takes(Media::Text)
        .refuses(&[ProblemKind::NotFound, ProblemKind::KeyConflict]),
    post(path::SEALS, OPERATOR, "Seal the state").gives(Media::Json("StateSeal")),
    get(path::SEALS, OPERATOR_OR_AUDITOR, "The seals so far").gives(Media::Json("Seals")),
    get(path::SNAPSHOT, AUDITOR, "The state that a seal is of, in parts; an empty one ends it")
        .asks(&[
            part("sequence", "Count", "The seal's number."),
            query("offset", false, "Count", "From which byte on."),
        ])
        .gives(Media::Bytes(BYTES))
        .refuses(&[ProblemKind::NotFound]),
    post(path::RETENTION, OPERATOR, "Delete the openings that are old enough")
        .gives(Media::Json("Retained"))
        .refuses(&[ProblemKind::Malformed]),
    post(path::BUNDLES, Who::Roles(&["client", "auditor"]), "What proves a record without the manager")
        .takes(Media::Json("BundleRequest"))
        .gives(Media::Json("Bundle"))
        .refuses(OF_KEYS),
    get(path::STATUS_LIST, Who::Anyone, "Which tokens are revoked or suspended: a signed list")
        .asks(&[
            part("number", "Count", "Which list."),
            query("time", false, "Timestamp", "As it was at this time; now when left out."),
        ])
        .gives(Media::Bytes("application/statuslist+jwt"))
        .refuses(&[ProblemKind::NotFound]),
    post(path::TOKEN_KEYS, OPERATOR, "Make another key that signs tokens")
        .takes(Media::Json("TokenKeyRequest"))
        .gives(Media::Json("TokenKey"))
        .refuses(&[ProblemKind::KeyConflict]),
    get(path::TOKEN_KEYS, OPERATOR, "The keys that sign tokens, and those that did").gives(Media::Json("TokenKeys")),
    post(path::BACKUPS, OPERATOR, "Write a backup beside the data").gives(Media::Json("Backup")),
    get(path::STATUS, ANY_ROLE, "Everything at a glance").gives(Media::Json("Status")),
    get(path::EVENTS, WATCHERS, "What happened, in order")
        .asks(&[query("after", false, "Count", "Only events after this number.")])
        .gives(Media::Json("EventPage")),
    get(path::EVENT_STREAM, WATCHERS, "Events as they happen: server-sent events, each with an Event as its data")
        .asks(&[
            query("after", false, "Count", "Only events after this number; those to come when left out."),
            LAST_EVENT_ID,
        ])
        .gives(Media::Bytes("text/event-stream")),
    get(path::ALERT_STREAM, WATCHERS, "Alerts as they are raised: server-sent events, each with an Alert as its data")
        .asks(&[
            query("after", false, "Count", "Only alerts after this number; those to come when left out."),
            LAST_EVENT_ID,
        ])
        .gives(Media::Bytes("text/event-stream")),
    get(path::WEBHOOKS, OPERATOR, "Who is told of alerts by the manager itself, and how that goes")
        .gives(Media::Json("Webhooks")),
    post(path::WEBHOOK_REPLAY, OPERATOR, "Have a webhook be told again from an event on, or skip some")
        .asks(&[part("name", "WebhookName", "Which.")])
        .takes(Media::Json("WebhookReplay"))
        .gives(Media::Json("Webhook"))
        .refuses(&[ProblemKind::NotFound]),
    post(path::WEBHOOK_TEST, OPERATOR, "Send a test to a webhook, and wait for its answer")
        .asks(&[part("name", "WebhookName", "Which.")])
        .gives(Media::Json("WebhookTest"))
        .refuses(&[ProblemKind::NotFound]),
    get(path::ALERTS, WATCHERS, "Alerts, in order")
        .asks(&[
            query("state", false, "AlertState", "Only open or only acknowledged ones."),
            query("after", false, "Count", "Only alerts after this number."),
        ])
        .gives(Media::Json("AlertPage")),
    get(path::ALERT, WATCHERS, "One alert")
        .asks(&[part("number", "Count", "Which.")])
        .gives(Media::Json("Alert"))
        .refuses(&[ProblemKind::NotFound]),
    post(path::ACKNOWLEDGEMENT, OPERATOR, "Say that an alert was seen to")
        .asks(&[part("number", "Count", "Which.")])
        .takes(Media::Json("AcknowledgeRequest"))
        .gives(Media::Json("Alert"))
        .refuses(&[ProblemKind::NotFound]),
    post(path::MIGRATIONS, OPERATOR, "Declare that a key moves to another cluster")
        .takes(Media::Json("MigrationRequest"))
        .gives(Media::Json("Migration"))
        .refuses(&[ProblemKind::NotFound]),
    get(path::MIGRATIONS, WATCHERS, "The migrations that are under way, or ended not long ago")
        .gives(Media::Json("Migrations")),
];
