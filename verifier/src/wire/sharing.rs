//! Sharings: who can hold shares, dealings, and complaints about them.

use keywitness_circuits::{ClusterId, Digest, HsmId, KeyId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Base64, KeyRef, Revocation};
use crate::identity::IdentityKey;

/// Says to which key shares are sealed that are dealt to an HSM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealingKeyAnnouncement {
    /// A P-256 public key, compressed SEC1.
    pub key: Base64,
}

/// An HSM that can hold shares.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// The HSM.
    pub hsm: HsmId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The key that shares are sealed to: P-256, compressed SEC1. The manager's word; a dealer who does not take it
    /// compares it with what the HSM's operator reads off the HSM.
    pub sealing_key: Base64,
}

/// Every HSM that can hold shares.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holders {
    /// In the order of their names.
    pub holders: Vec<Holder>,
}

/// Enrols a sharing: from then on its holders can attest their shares.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnrolSharingRequest {
    /// The dealing, in its canonical encoding, signed by the dealer.
    pub dealing: Base64,
}

/// A sharing, without its shares.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sharing {
    /// The key that is shared, at its epoch.
    pub key: KeyRef,
    /// The dealer's cluster, which the key belongs to.
    pub cluster: ClusterId,
    /// Who dealt it.
    pub dealer: HsmId,
    /// How many shares restore the key.
    pub threshold: u16,
    /// One entry for each share.
    pub shares: Vec<ShareStatus>,
    /// Digest of the dealing.
    pub dealing: Digest,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// Why its shares count no more: an operator revoked it, or its dealer was convicted of a bad share.
    pub revocation: Option<Revocation>,
}

/// One share of a sharing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShareStatus {
    /// The index at which the polynomial is evaluated.
    pub index: u16,
    /// Who holds it.
    pub holder: HsmId,
    /// The key id under which the holder attests it.
    pub key: KeyId,
}

/// The key id of a share: the shared key's, its cluster's, and the index, between full stops. None where that is too long
/// for a name.
pub fn share_name(key: &KeyId, cluster: &ClusterId, index: u16) -> Option<KeyId> {
    format!("{key}.{cluster}.{index}").parse().ok()
}

/// Dealings with a share for the HSM that asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dealings {
    /// The dealings.
    pub dealings: Vec<Dealt>,
}

/// A dealing, and who signed it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dealt {
    /// The dealing, in its canonical encoding.
    pub dealing: Base64,
    /// The dealer's identity key, as it is enrolled.
    pub dealer: IdentityKey,
    /// The dealer's cluster, which the shared key belongs to.
    pub cluster: ClusterId,
}

/// Complains about a share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ComplaintRequest {
    /// The complaint, in its canonical encoding.
    pub complaint: Base64,
}

/// What a complaint came to. Anyone can come to the same from the dealing and the complaint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComplaintVerdict {
    /// The dealer dealt a bad share.
    DealerFaulty {
        /// Who.
        dealer: HsmId,
        /// What is wrong with the share.
        fault: String,
    },
    /// The share is good, or the complaint proves nothing.
    Unfounded {
        /// Who complained.
        complainer: HsmId,
        /// Why the complaint does not hold.
        why: String,
    },
}
