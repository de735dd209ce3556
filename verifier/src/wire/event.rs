//! What can happen, and be told: events in order.

use keywitness_circuits::{ClusterId, Digest, Fingerprint, HsmId, Kind, Nonce, Timestamp};
use serde::{Deserialize, Serialize};

use super::{KeyRef, Migration, ProblemKind, Reason, RevocationTarget, Rule};

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Position in the outbox, from 1.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// Number of the alert that it raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<u64>,
    /// What, in words: where it is told. Never stored.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl Event {
    /// This event, with what happened in words.
    #[must_use]
    pub fn in_words(self) -> Self {
        Self { text: self.kind.to_string(), ..self }
    }
}

/// One side of a fraud event: who proved what, and the envelope that is the evidence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sighting {
    /// The HSM.
    pub hsm: HsmId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The key.
    pub key: KeyRef,
    /// The proven fingerprint.
    pub fingerprint: Fingerprint,
    /// Digest of the envelope.
    pub envelope: Digest,
}

/// What can happen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// An HSM was enrolled.
    HsmEnrolled {
        /// The HSM.
        hsm: HsmId,
        /// Its cluster.
        cluster: ClusterId,
        /// Which enrolment of it.
        revision: u32,
    },
    /// A sharing was enrolled.
    SharingEnrolled {
        /// The key that is shared.
        key: KeyRef,
        /// Who dealt it.
        dealer: HsmId,
        /// How many shares restore the key.
        threshold: u32,
        /// How many shares there are.
        shares: u32,
    },
    /// Something was revoked.
    Revoked {
        /// What.
        target: RevocationTarget,
        /// Why.
        reason: Reason,
        /// Who decided.
        by: String,
    },
    /// Something was suspended.
    Suspended {
        /// What.
        target: RevocationTarget,
        /// Why.
        reason: Reason,
        /// Who decided.
        by: String,
    },
    /// Something that was suspended counts again, or a revoked key's name may be used again.
    Reinstated {
        /// What.
        target: RevocationTarget,
        /// Why.
        reason: Reason,
        /// Who decided.
        by: String,
    },
    /// Fraud: one fingerprint was proven in HSMs of different clusters.
    ForeignCluster {
        /// The earlier holder.
        earlier: Sighting,
        /// The later one.
        later: Sighting,
    },
    /// Fraud: one key at one epoch was proven with two fingerprints inside a cluster.
    Drift {
        /// The earlier proof.
        earlier: Sighting,
        /// The later one.
        later: Sighting,
    },
    /// Fraud: one tagged key was proven with two tags of one beacon: at least one of the two HSMs does not hold it.
    TagsDiffer {
        /// The earlier proof.
        earlier: Sighting,
        /// The later one.
        later: Sighting,
        /// The beacon.
        beacon: Nonce,
    },
    /// Fraud: a dealer dealt a bad share, as its holder's complaint proves.
    FaultyDealing {
        /// The dealer.
        dealer: HsmId,
        /// The key that was to be shared.
        key: KeyRef,
        /// Who complained.
        holder: HsmId,
        /// Digest of the complaint.
        complaint: Digest,
    },
    /// Fraud: a holder complained of a share that is good.
    UnfoundedComplaint {
        /// Who complained.
        holder: HsmId,
        /// The key that is shared.
        key: KeyRef,
        /// Digest of the complaint.
        complaint: Digest,
    },
    /// Fraud: an HSM keeps failing.
    RepeatedFailures {
        /// The HSM.
        hsm: HsmId,
        /// How many failures within the window.
        failures: u32,
        /// The window, in seconds.
        window: u64,
        /// What was wrong the last time.
        last: ProblemKind,
        /// Digest of the last failing envelope.
        envelope: Digest,
    },
    /// Fraud: a consumed challenge came back with different bytes.
    Replay {
        /// The HSM.
        hsm: HsmId,
        /// The challenge.
        challenge: Nonce,
        /// Digest of the envelope that consumed it.
        first: Digest,
        /// Digest of the envelope that came after.
        second: Digest,
    },
    /// Fraud: something revoked keeps attesting.
    RevokedPersists {
        /// The HSM.
        hsm: HsmId,
        /// What is revoked.
        target: RevocationTarget,
        /// How many attempts since the revocation.
        attempts: u32,
    },
    /// Fraud, or a fault of this manager: many HSMs keep failing at once.
    FleetFailures {
        /// The HSMs.
        hsms: Vec<HsmId>,
        /// The window, in seconds.
        window: u64,
    },
    /// Fraud: an HSM proves one key faster than any agent does.
    ImpossiblePace {
        /// The HSM.
        hsm: HsmId,
        /// The key.
        key: KeyRef,
        /// The statement.
        statement: Kind,
        /// How many proofs were accepted within the window.
        proofs: u32,
        /// The window, in seconds.
        window: u64,
        /// Digest of the last envelope.
        envelope: Digest,
    },
    /// Fraud: the clock of an HSM keeps differing from the manager's, while another HSM's does not.
    ClockSkew {
        /// The HSM.
        hsm: HsmId,
        /// By how many seconds the HSM's clock is ahead.
        ahead: i64,
        /// How many requests of it were refused for that within the window.
        requests: u32,
        /// The window, in seconds.
        window: u64,
    },
    /// Fraud, or a fault of this manager: every HSM that calls has another time than the manager.
    ManagerClock {
        /// The HSMs.
        hsms: Vec<HsmId>,
        /// By how many seconds the clock of the last of them is ahead.
        ahead: i64,
        /// The window, in seconds.
        window: u64,
    },
    /// Fraud: an HSM has proven nothing for long after its last record expired.
    SilentHsm {
        /// The HSM.
        hsm: HsmId,
        /// When it last proved something.
        last_proof: Timestamp,
        /// When its last record expired.
        expired_at: Timestamp,
    },
    /// Somebody has seen to an alert.
    AlertAcknowledged {
        /// The alert.
        acknowledged: u64,
        /// The name of the credential.
        by: String,
        /// What they found.
        note: String,
    },
    /// A migration was declared.
    MigrationDeclared {
        /// The migration.
        migration: Migration,
    },
    /// One fingerprint was proven in two clusters, as a declared migration allows.
    MigrationSighting {
        /// The holder in the old cluster.
        earlier: Sighting,
        /// The one in the new cluster.
        later: Sighting,
        /// The migration.
        migration: u64,
    },
    /// An HSM was allowed to give copies of its keys to another HSM of its cluster.
    KeysCopied {
        /// Who has them.
        from: HsmId,
        /// Who may have copies.
        to: HsmId,
        /// The cluster of both.
        cluster: ClusterId,
        /// The keys.
        keys: Vec<KeyRef>,
    },
    /// Fraud: evidence of an HSM says that something runs there which the evidence policy does not list.
    ForeignMeasurement {
        /// The HSM.
        hsm: HsmId,
        /// Its device, if it has one.
        device: Option<String>,
        /// What runs there.
        found: String,
        /// Digest of the evidence.
        evidence: Digest,
    },
    /// An HSM enrolled its device, as an operator let it.
    DeviceEnrolled {
        /// The HSM.
        hsm: HsmId,
        /// The device, as evidence names it.
        device: String,
        /// The operator.
        by: String,
    },
    /// Fraud: two HSMs are enrolled with one device, so that evidence does not tell which of them has what.
    SharedDevice {
        /// Who enrolled it now.
        hsm: HsmId,
        /// Who had enrolled it.
        earlier: HsmId,
        /// The device, as evidence names it.
        device: String,
    },
}

impl EventKind {
    /// The rule that raises it, if one does.
    pub const fn rule(&self) -> Option<Rule> {
        Some(match self {
            Self::HsmEnrolled { .. }
            | Self::SharingEnrolled { .. }
            | Self::Revoked { .. }
            | Self::Suspended { .. }
            | Self::Reinstated { .. }
            | Self::AlertAcknowledged { .. }
            | Self::MigrationDeclared { .. }
            | Self::MigrationSighting { .. }
            | Self::DeviceEnrolled { .. }
            | Self::KeysCopied { .. } => return None,
            Self::ForeignMeasurement { .. } => Rule::ForeignMeasurement,
            Self::SharedDevice { .. } => Rule::SharedDevice,
            Self::ForeignCluster { .. } => Rule::ForeignCluster,
            Self::Drift { .. } => Rule::Drift,
            Self::TagsDiffer { .. } => Rule::TagsDiffer,
            Self::FaultyDealing { .. } => Rule::FaultyDealing,
            Self::UnfoundedComplaint { .. } => Rule::UnfoundedComplaint,
            Self::RepeatedFailures { .. } => Rule::RepeatedFailures,
            Self::FleetFailures { .. } => Rule::FleetFailures,
            Self::Replay { .. } => Rule::Replay,
            Self::ImpossiblePace { .. } => Rule::ImpossiblePace,
            Self::RevokedPersists { .. } => Rule::RevokedPersists,
            Self::ClockSkew { .. } => Rule::ClockSkew,
            Self::ManagerClock { .. } => Rule::ManagerClock,
            Self::SilentHsm { .. } => Rule::SilentHsm,
        })
    }

    /// Whether this is a fraud event.
    pub const fn is_fraud(&self) -> bool {
        self.rule().is_some()
    }
}

/// Some events, in order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EventPage {
    /// The events after the number that was asked for, at most 1,000.
    pub events: Vec<Event>,
}
