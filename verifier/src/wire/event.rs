//! What can happen, and be told: events in order.

use keywitness_circuits::{ClusterId, Digest, Fingerprint, HsmId, Nonce, Timestamp};
use serde::{Deserialize, Serialize};

use super::{KeyRef, ProblemKind, Reason, RevocationTarget};

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Position in the outbox, from 1.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
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
}

impl EventKind {
    /// Whether this is a fraud event.
    pub const fn is_fraud(&self) -> bool {
        match self {
            Self::HsmEnrolled { .. }
            | Self::SharingEnrolled { .. }
            | Self::Revoked { .. }
            | Self::Suspended { .. }
            | Self::Reinstated { .. } => false,
            Self::ForeignCluster { .. }
            | Self::Drift { .. }
            | Self::TagsDiffer { .. }
            | Self::FaultyDealing { .. }
            | Self::UnfoundedComplaint { .. }
            | Self::RepeatedFailures { .. }
            | Self::Replay { .. }
            | Self::RevokedPersists { .. } => true,
        }
    }
}

/// Some events, in order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EventPage {
    /// The events after the number that was asked for, at most 1,000.
    pub events: Vec<Event>,
}
