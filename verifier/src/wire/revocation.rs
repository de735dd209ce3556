//! Taking trust back.

use std::fmt;

use keywitness_circuits::{ClusterId, HsmId, KeyId, Timestamp};
use serde::{Deserialize, Serialize};

use super::KeyRef;

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
