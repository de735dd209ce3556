//! Clusters: how far their HSMs agree, and keys that go from one HSM to another.

use std::fmt;

use keywitness_circuits::{ClusterId, Digest, Fingerprint, HsmId, KeyAlgorithm, KeyAttributes, Timestamp};
use serde::{Deserialize, Serialize};

use super::{AttestationState, Base64, KeyRef, Standing};
use crate::identity::IdentityKey;

/// Most keys that one transfer is of.
pub const MAX_TRANSFER: usize = 32;

/// How far the HSMs of a cluster agree on a key. Later ones are worse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coherence {
    /// Every HSM of the cluster has proven the same fingerprint, and each proof is in force.
    #[default]
    Coherent,
    /// Every HSM has proven the same fingerprint, and a proof is no longer in force.
    Stale,
    /// An HSM has not proven the key at its newest epoch, does not have it, or its copy is revoked.
    Partial,
    /// Proofs of different fingerprints, or of different algorithms, are in force.
    Drifting,
}

impl fmt::Display for Coherence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Coherent => "coherent",
            Self::Stale => "stale",
            Self::Partial => "partial",
            Self::Drifting => "drifting",
        })
    }
}

/// Every cluster that the caller may see.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Clusters {
    /// The manager's time.
    pub now: Timestamp,
    /// In the order of their names.
    pub clusters: Vec<ClusterStatus>,
}

/// How far the HSMs of one cluster agree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// That of its worst key.
    pub coherence: Coherence,
    /// Its HSMs, but for revoked ones.
    pub hsms: Vec<ClusterHsm>,
    /// How many keys it has, without shares.
    pub keys: u64,
    /// How many of them are coherent.
    pub coherent: u64,
    /// The keys that are not, worst first: at most 1,000.
    pub incoherent: Vec<ClusterKey>,
}

/// One HSM of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterHsm {
    /// The HSM.
    pub hsm: HsmId,
    /// Whether it is suspended.
    pub standing: Standing,
    /// How many of the cluster's keys it proves now, at their newest epoch.
    pub attested: u64,
    /// When it last proved one of the cluster's keys.
    pub last_proof: Option<Timestamp>,
}

/// A key of a cluster, at the newest epoch that one of its HSMs has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterKey {
    /// The key at that epoch.
    pub key: KeyRef,
    /// Its algorithm.
    pub algorithm: KeyAlgorithm,
    /// How far the HSMs agree.
    pub coherence: Coherence,
    /// One entry for each HSM of the cluster.
    pub copies: Vec<KeyCopy>,
}

/// A key in one HSM of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyCopy {
    /// The HSM.
    pub hsm: HsmId,
    /// What the evidence comes to; none where the HSM has not enrolled the key at this epoch.
    pub state: Option<AttestationState>,
    /// What it has proven, by records that are in force.
    pub fingerprints: Vec<Fingerprint>,
}

/// The other HSMs of the caller's cluster, and keys of theirs that the caller has neither enrolled nor attested since it was enrolled
/// last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Peers {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its other HSMs, but for those that are suspended or revoked.
    pub peers: Vec<Peer>,
    /// Keys that at least one of them attests now and would give, and that the caller has not, masters before what is derived
    /// from them: at most 256, of each HSM as many as of another, and where there are more, others the next time; and what others attest
    /// under their names, at most 256 epochs more, whether they give it or not and whether or not the caller has it. Who gives a key is
    /// before its other holders. HSMs that prove different keys under one name make an entry each, and where more than four do, none.
    pub missing: Vec<MissingKey>,
}

/// Another HSM of the caller's cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// The HSM.
    pub hsm: HsmId,
    /// Which enrolment of it.
    pub enrolment: u32,
    /// Its identity key. The manager's word: an HSM gives its keys to no identity that its own operator has not named.
    pub identity: IdentityKey,
    /// Its X25519 channel key.
    pub channel_key: Digest,
    /// Where its channel is.
    pub channel_url: Option<String>,
}

/// A key of the cluster that the caller has not enrolled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MissingKey {
    /// The key at its epoch.
    pub key: KeyRef,
    /// What its first holder's store says about it.
    pub attributes: KeyAttributes,
    /// Canonical encodings of its instances: what a copy must prove.
    pub instances: Vec<Base64>,
    /// The key that it is derived from.
    pub master: Option<KeyRef>,
    /// Who attests it now.
    pub holders: Vec<HsmId>,
}

/// Asks to be allowed to give copies of keys to another HSM of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TransferRequest {
    /// To which HSM.
    pub to: HsmId,
    /// The keys, which the caller attests: at least one, at most [`MAX_TRANSFER`].
    pub keys: Vec<KeyRef>,
}

/// Allowed: the record of it is in the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TransferGrant {
    /// The cluster of both.
    pub cluster: ClusterId,
    /// Who may have the copies, as it is enrolled now.
    pub to: Peer,
}
