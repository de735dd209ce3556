//! What can be asked of the ledger, and what it answers.

use std::cell::Cell;

use keywitness_circuits::{ClusterId, Digest, HsmId, KeyAttributes, Kind, Nonce, Suite, Timestamp};
use keywitness_verifier::{
    evidence::Summary,
    identity::{Audience, IdentityKey},
    wire::{
        Alert, Challenge, ChallengeRequest, ComplaintVerdict, CredentialId, CredentialOffer, Enrolment,
        EvidenceChallenge, KeyRef, Migrant, Migration, Problem, ProblemKind, Reason, Record, Revocation,
        RevocationTarget, Role, StatementInfo, TokenAlgorithm,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    apply::challenges::nonces,
    fraud::policy::FraudPolicy,
    state::{
        SharingId,
        evidence::{EvidenceTerms, Json},
    },
};

/// The policy that deterministic rules read: part of the state, so that a replay reads the same.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// The trust domain and its manager; never change once set.
    pub audience: Audience,
    /// The suites in which a symmetric key must be proven.
    pub suites: Vec<Suite>,
    /// The statement kinds in force, with the verifying key of each.
    pub statements: Vec<StatementInfo>,
    /// Digest of the Groth16 parameters' file, where a statement uses them.
    pub groth16_parameters: Option<Digest>,
    /// How long a record lasts, in seconds.
    pub record_ttl: u64,
    /// How long a challenge can be answered, in seconds.
    pub challenge_ttl: u64,
    /// What the fraud rules go by.
    pub fraud: FraudPolicy,
    /// How long a beacon round lasts, in seconds.
    pub beacon_period: u64,
}

impl Configuration {
    /// The verifying key in force for a kind; none where the kind is not in force.
    pub fn verifying_key(&self, kind: Kind) -> Option<Digest> {
        self.statements.iter().find(|statement| statement.kind == kind).map(|statement| statement.verifying_key)
    }

    /// Whether a record was made under the verifying key that is in force for its statement.
    pub fn still_accepts(&self, record: &Record) -> bool {
        self.verifying_key(record.statement) == Some(record.verifying_key)
    }
}

/// What checking a proof came to, before its command was ordered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// The proof verifies, in the envelope's context.
    Proven,
    /// It does not.
    Refused,
    /// It was not looked at, since the envelope was wrong already.
    Unchecked,
}

/// One change of the state. Carries everything random; names secrets by their digests only.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Sets the policy.
    Configure(Configuration),
    /// Makes a bearer credential valid, for every cluster and without an end. Written up to schema version 5.
    AddCredential {
        /// Digest of the secret.
        digest: Digest,
        /// Who holds it.
        name: String,
        /// What it may be used for.
        role: Role,
    },
    /// Makes a join token valid.
    AddJoinToken {
        /// Digest of the secret.
        digest: Digest,
        /// The cluster that the HSM will belong to.
        cluster: ClusterId,
        /// The only HSM that may use it.
        hsm: Option<HsmId>,
        /// Whether it enrols that HSM again, with another identity.
        reenrol: bool,
        /// When it stops working.
        expires_at: Timestamp,
    },
    /// Enrols an HSM whose signature was checked.
    EnrolHsm {
        /// Digest of the join token.
        join_token: Digest,
        /// The name it takes.
        hsm: HsmId,
        /// Its identity key.
        identity_key: IdentityKey,
        /// Its X25519 channel key.
        channel_key: Digest,
    },
    /// Enrols a key of an HSM that signed the request.
    EnrolKey {
        /// Digest of the signed request.
        request: Digest,
        /// Who asks.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// The key at its epoch.
        key: KeyRef,
        /// What the store says about it.
        attributes: KeyAttributes,
        /// Canonical encodings of its instances.
        instances: Vec<Vec<u8>>,
    },
    /// Says where the channel of an HSM is that signed the request.
    AnnounceChannel {
        /// Digest of the signed request.
        request: Digest,
        /// Who asks.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// Base URL.
        url: String,
    },
    /// Says which key shares are sealed to that are dealt to an HSM that signed the request.
    AnnounceSealingKey {
        /// Digest of the signed request.
        request: Digest,
        /// Who asks.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// A P-256 public key, compressed SEC1.
        key: Vec<u8>,
    },
    /// Enrols the sharing that an HSM dealt, which signed the request; the dealing's own signature and proofs were checked.
    EnrolSharing {
        /// Digest of the signed request.
        request: Digest,
        /// The dealer.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// The dealing, canonically encoded.
        dealing: Vec<u8>,
    },
    /// Enters a complaint that was judged, of an HSM that signed the request.
    Complain {
        /// Digest of the signed request.
        request: Digest,
        /// Who complains.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// About a share of which sharing.
        sharing: SharingId,
        /// The complaint, canonically encoded.
        complaint: Vec<u8>,
        /// What judging it came to.
        verdict: ComplaintVerdict,
    },
    /// Gives a challenge to an HSM that signed the request.
    IssueChallenge {
        /// Digest of the signed request.
        request: Digest,
        /// Who asks.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// Name of the statement kind.
        statement: String,
        /// What the claim will speak of.
        keys: Vec<KeyRef>,
        /// The challenge, drawn before.
        nonce: Nonce,
        /// The beacon of the next round, drawn before: used where the claim needs one and the round is over.
        beacon: Nonce,
    },
    /// Judges an envelope whose identity signature verifies.
    Attest {
        /// The envelope's bytes.
        envelope: Vec<u8>,
        /// Its digest.
        digest: Digest,
        /// Whose identity key verified it.
        hsm: HsmId,
        /// Under which enrolment of that HSM it was verified.
        enrolment: u32,
        /// What checking the proof came to.
        verdict: Verdict,
    },
    /// Revokes.
    Revoke {
        /// What.
        target: RevocationTarget,
        /// Why.
        reason: Reason,
        /// Who decided.
        by: String,
    },
    /// Suspends, until reinstated.
    Suspend {
        /// What.
        target: RevocationTarget,
        /// Why.
        reason: Reason,
        /// Who decided.
        by: String,
    },
    /// Ends a suspension, or frees a revoked key's name for the next epoch.
    Reinstate {
        /// What.
        target: RevocationTarget,
        /// Why.
        reason: Reason,
        /// Who decided.
        by: String,
    },
    /// Makes a bearer credential valid.
    GrantCredential {
        /// Digest of the secret.
        digest: Digest,
        /// Who holds it.
        name: String,
        /// What it may be used for.
        role: Role,
        /// The clusters that it is good for; every cluster when none.
        clusters: Option<Vec<ClusterId>>,
        /// When it stops working by itself.
        expires_at: Option<Timestamp>,
    },
    /// Withdraws a bearer credential.
    WithdrawCredential {
        /// Which.
        id: CredentialId,
    },
    /// Does what a credential's holder asked for, if the credential is still in force.
    OnBehalf {
        /// Who asked.
        by: CredentialId,
        /// What for; not on behalf of another.
        #[serde(deserialize_with = "nested")]
        command: Box<Command>,
    },
    /// Gives challenges, each for its own statement and keys, to an HSM that signed the request.
    IssueChallenges {
        /// Digest of the signed request.
        request: Digest,
        /// Who asks.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// What each claim will speak of.
        items: Vec<ChallengeRequest>,
        /// Drawn before: all the challenges follow from it by a hash.
        seed: Nonce,
        /// The beacon of the next round, drawn before: used where a claim needs one and the round is over.
        beacon: Nonce,
    },
    /// Enters a root over the whole state after an earlier command.
    Seal {
        /// Number of that command.
        sequence: u64,
        /// The root.
        root: Digest,
    },
    /// Deletes some of the oldest openings.
    Prune {
        /// None after this number, which is not after the newest seal.
        through: u64,
    },
    /// Goes on from a backup: voids what could be used once, since nobody knows whether it was.
    Restored,
    /// Publishes a key that signs tokens after an overlap.
    AddTokenKey {
        /// Its name.
        kid: String,
        /// What it signs with.
        algorithm: TokenAlgorithm,
        /// Its public part.
        public: Vec<u8>,
        /// After how many seconds it signs, where another signs now.
        overlap: u64,
        /// For how many seconds after that the other stays published.
        keep: u64,
    },
    /// Notes that somebody has seen to an alert.
    AcknowledgeAlert {
        /// Its number.
        alert: u64,
        /// The name of the credential.
        by: String,
        /// What they found.
        note: String,
    },
    /// Lets what one cluster has be proven in another too, for some time.
    DeclareMigration {
        /// What moves.
        what: Migrant,
        /// The cluster that has it.
        from: ClusterId,
        /// The cluster that will have it.
        to: ClusterId,
        /// How long both may have it, in seconds.
        valid_for: u64,
        /// The name of the credential.
        by: String,
    },
    /// Looks at the deadlines that have come.
    Tick {
        /// Since when the manager has been able to hear HSMs without a break.
        receiving_since: Timestamp,
    },
    /// Notes that an HSM signed a request at a time that is too far from the manager's.
    ReportSkew {
        /// Digest of the signed request.
        request: Digest,
        /// Who signed it.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// When, by its clock.
        created: Timestamp,
    },
    /// Has a webhook be told again from an event on, or skips what it cannot take; names one that is new.
    PlaceWebhook {
        /// Its name in the configuration.
        webhook: String,
        /// Everything after this event is to be delivered.
        after: u64,
    },
    /// Notes up to where a webhook was told: the attempts themselves leave no trace here, and many deliveries may share
    /// one note.
    AdvanceWebhook {
        /// Its name in the configuration.
        webhook: String,
        /// How often it had been placed when that was sent.
        placed: u32,
        /// Everything up to this event was delivered, or is not for it.
        through: u64,
    },
    /// Lets an HSM that signed the request give copies of its keys to another HSM of its cluster.
    CopyKeys {
        /// Digest of the signed request.
        request: Digest,
        /// Who has the keys.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// Who may have copies.
        to: HsmId,
        /// The keys.
        keys: Vec<KeyRef>,
    },
    /// Sets what evidence must be.
    ConfigureEvidence(EvidenceTerms),
    /// Gives a challenge for evidence to an HSM that signed the request.
    IssueEvidenceChallenge {
        /// Digest of the signed request.
        request: Digest,
        /// Who asks.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// The key that the evidence will be about.
        key: Option<KeyRef>,
        /// The challenge, drawn before.
        nonce: Nonce,
    },
    /// Takes evidence that was appraised, of an HSM that signed the request.
    PresentEvidence {
        /// Digest of the signed request.
        request: Digest,
        /// Whose it is.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// The challenge that it answers.
        nonce: Nonce,
        /// The evidence, canonically encoded.
        evidence: Vec<u8>,
        /// What appraising it came to.
        verdict: Box<EvidenceVerdict>,
    },
    /// Lets an HSM enrol its device.
    AllowDevice {
        /// The HSM.
        hsm: HsmId,
        /// The only device that it may enrol.
        device: Option<String>,
        /// How long it may, in seconds.
        valid_for: u64,
        /// Who decided.
        by: String,
    },
    /// Offers a credential to the TPM of an HSM that signed the request. The certificates of its endorsement key were checked.
    OfferCredential {
        /// Digest of the signed request.
        request: Digest,
        /// Who asks.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// The device that a right answer shows.
        device: String,
        /// SHA-256 of what is in the credential.
        secret: Digest,
        /// The keys that vouch for the TPM.
        endorsement: Vec<Digest>,
        /// The credential.
        offer: CredentialOffer,
    },
    /// Enrols the device of an HSM that signed the request, and brings what was in the credential.
    AnswerCredential {
        /// Digest of the signed request.
        request: Digest,
        /// Who answers.
        hsm: HsmId,
        /// Under which enrolment of that HSM its signature was verified.
        enrolment: u32,
        /// SHA-256 of the answer.
        answer: Digest,
    },
}

/// What appraising evidence came to, before its command was ordered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EvidenceVerdict {
    /// As of when it was appraised.
    pub at: Timestamp,
    /// Digest of what it was held against: the challenge, the device and the policy.
    pub against: Digest,
    /// What it says, or why it was refused.
    pub found: Result<Json<Summary>, EvidenceRefusal>,
}

/// Why evidence was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EvidenceRefusal {
    /// In words.
    pub why: String,
    /// What runs there that is not listed, where nothing else is wrong.
    pub measured: Option<String>,
}

/// How deep commands are nested at most in what is read: archives come from strangers, and reading must not run out of
/// stack. More than one level is refused by `apply`.
const MAX_NESTED: usize = 4;

fn nested<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Box<Command>, D::Error> {
    thread_local!(static DEPTH: Cell<usize> = const { Cell::new(0) });
    struct Level;
    impl Drop for Level {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get().saturating_sub(1));
        }
    }
    DEPTH.set(DEPTH.get() + 1);
    let _level = Level;
    if DEPTH.get() > MAX_NESTED {
        return Err(serde::de::Error::custom("commands are nested too deeply"));
    }
    Box::deserialize(from)
}

impl Command {
    /// The command itself, whoever asked for it.
    pub fn bare(&self) -> &Self {
        match self {
            Self::OnBehalf { command, .. } => command.bare(),
            command => command,
        }
    }

    /// The command's name, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Configure(_) => "configure",
            Self::AddCredential { .. } => "add-credential",
            Self::AddJoinToken { .. } => "add-join-token",
            Self::EnrolHsm { .. } => "enrol-hsm",
            Self::EnrolKey { .. } => "enrol-key",
            Self::AnnounceChannel { .. } => "announce-channel",
            Self::AnnounceSealingKey { .. } => "announce-sealing-key",
            Self::EnrolSharing { .. } => "enrol-sharing",
            Self::Complain { .. } => "complain",
            Self::IssueChallenge { .. } => "issue-challenge",
            Self::Attest { .. } => "attest",
            Self::Revoke { .. } => "revoke",
            Self::Suspend { .. } => "suspend",
            Self::Reinstate { .. } => "reinstate",
            Self::GrantCredential { .. } => "grant-credential",
            Self::WithdrawCredential { .. } => "withdraw-credential",
            Self::OnBehalf { command, .. } => command.name(),
            Self::IssueChallenges { .. } => "issue-challenges",
            Self::Seal { .. } => "seal",
            Self::Prune { .. } => "prune",
            Self::Restored => "restored",
            Self::AddTokenKey { .. } => "add-token-key",
            Self::AcknowledgeAlert { .. } => "acknowledge-alert",
            Self::DeclareMigration { .. } => "declare-migration",
            Self::Tick { .. } => "tick",
            Self::ReportSkew { .. } => "report-skew",
            Self::PlaceWebhook { .. } => "place-webhook",
            Self::AdvanceWebhook { .. } => "advance-webhook",
            Self::CopyKeys { .. } => "copy-keys",
            Self::ConfigureEvidence(_) => "configure-evidence",
            Self::IssueEvidenceChallenge { .. } => "issue-evidence-challenge",
            Self::PresentEvidence { .. } => "present-evidence",
            Self::AllowDevice { .. } => "allow-device",
            Self::OfferCredential { .. } => "offer-credential",
            Self::AnswerCredential { .. } => "answer-credential",
        }
    }

    /// About how many bytes the command has.
    pub const fn weight(&self) -> usize {
        let payload = match self {
            Self::Attest { envelope, .. } => envelope.len(),
            Self::EnrolSharing { dealing, .. } => dealing.len(),
            Self::PresentEvidence { evidence, .. } => evidence.len(),
            // Each item writes rows of about this size.
            Self::IssueChallenges { items, .. } => 256 * items.len(),
            _ => 0,
        };
        payload + 512
    }
}

/// What a command came to. The same bytes sent again come to the same outcome.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, with nothing to say.
    Done,
    /// An HSM is enrolled.
    Enrolled(Enrolment),
    /// A challenge was given.
    Challenge(Challenge),
    /// A proof was accepted: one record for each key of the claim, in the claim's order.
    Recorded(Vec<Record>),
    /// A complaint was judged.
    Judged(ComplaintVerdict),
    /// A revocation or suspension is in force.
    Revoked(Revocation),
    /// Refused.
    Refused(Problem),
    /// Challenges were given, but for those items that were refused.
    Challenges(ChallengesGiven),
    /// An alert, as it stands.
    Alert(Box<Alert>),
    /// A migration was declared.
    Migration(Box<Migration>),
    /// A challenge for evidence was given.
    EvidenceChallenge(EvidenceChallenge),
    /// A credential was offered.
    Credential(CredentialOffer),
}

/// What a batch of challenges came to. Says no more than what does not follow from the request, since it is kept twice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChallengesGiven {
    /// What all the challenges follow from.
    pub seed: Nonce,
    /// When they were given: their claims' `not_before`.
    pub at: Timestamp,
    /// When they stop being accepted.
    pub expires_at: Timestamp,
    /// Their claims' `not_after`.
    pub not_after: Timestamp,
    /// The beacon of those that need one.
    pub beacon: Option<Nonce>,
    /// Why items were refused, and which: the same reason once.
    pub refused: Vec<(ProblemKind, String, Vec<u32>)>,
}

impl ChallengesGiven {
    /// The challenge of each item, in order; those of items that were refused are nobody's.
    pub fn nonces(&self) -> impl Iterator<Item = Nonce> + use<> {
        nonces(&self.seed)
    }
}
