//! Taking trust back: for good, or until an operator has looked.

use std::{fmt, str::FromStr};

use keywitness_circuits::{ClusterId, Digest, Error, HsmId, KeyId, Timestamp};
use serde::{Deserialize, Serialize};

use super::KeyRef;

/// What is revoked or suspended.
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
    /// A cluster: every HSM and every key in it.
    Cluster(ClusterId),
    /// A verifying key, by its digest: every proof under it, because the circuit was found unsound.
    VerifyingKey(Digest),
}

impl fmt::Display for RevocationTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hsm(hsm) => write!(f, "HSM {hsm}"),
            Self::Key { cluster, key } => write!(f, "key {key} of {cluster}"),
            Self::Sharing { cluster, key } => {
                write!(f, "the sharing of key {} of {cluster}, epoch {}", key.key, key.epoch)
            }
            Self::Cluster(cluster) => write!(f, "cluster {cluster}"),
            Self::VerifyingKey(digest) => write!(f, "verifying key {digest}"),
        }
    }
}

/// Why, as a machine reads it; the names of RFC 5280, section 5.3.1, where it has one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReasonCode {
    /// Nobody says.
    #[default]
    Unspecified,
    /// Somebody else may know the key.
    KeyCompromise,
    /// Another takes its place.
    Superseded,
    /// It is no longer used.
    Cessation,
    /// Whoever held it may no longer.
    PrivilegeWithdrawn,
    /// The circuit proves less than it says.
    CircuitUnsound,
    /// It did what no honest HSM does.
    Fraud,
}

impl ReasonCode {
    /// Every code.
    pub const ALL: [Self; 7] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::Superseded,
        Self::Cessation,
        Self::PrivilegeWithdrawn,
        Self::CircuitUnsound,
        Self::Fraud,
    ];
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::Superseded => "superseded",
            Self::Cessation => "cessation",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
            Self::CircuitUnsound => "circuit-unsound",
            Self::Fraud => "fraud",
        })
    }
}

impl FromStr for ReasonCode {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|code| code.to_string() == text).ok_or(Error::Malformed {
            what: "reason code",
            why: "use key-compromise, superseded, cessation, privilege-withdrawn, circuit-unsound, fraud or unspecified",
        })
    }
}

/// Why: a code for machines, and words for people.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reason {
    /// The code.
    #[serde(default)]
    pub code: ReasonCode,
    /// The words.
    pub text: String,
}

impl Reason {
    /// A reason with a code.
    pub fn new(code: ReasonCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self::new(ReasonCode::Unspecified, text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            ReasonCode::Unspecified => f.pad(&self.text),
            code if self.text.is_empty() => code.fmt(f),
            code => write!(f, "{} ({code})", self.text),
        }
    }
}

/// How something stands. The greater is the worse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Nothing is against it.
    #[default]
    Active,
    /// Nothing of it counts until it is reinstated.
    Suspended,
    /// Nothing of it counts any more.
    Revoked,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        })
    }
}

/// Revokes or suspends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RevokeRequest {
    /// What.
    pub target: RevocationTarget,
    /// Why.
    pub reason: Reason,
}

/// Ends a suspension, or lets a revoked key's name be used again from the next epoch on, with other material.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReinstateRequest {
    /// What.
    pub target: RevocationTarget,
    /// Why.
    pub reason: Reason,
}

/// A revocation or suspension in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Revocation {
    /// What.
    pub target: RevocationTarget,
    /// Suspended or revoked.
    pub standing: Standing,
    /// Why.
    pub reason: Reason,
    /// Who decided.
    pub by: String,
    /// Since when.
    pub at: Timestamp,
    /// Where the name came back since: the last enrolment of the HSM, or the last epoch of the key, that it still hits.
    #[serde(default)]
    pub through: Option<u32>,
}

impl Revocation {
    /// Whether it hits this enrolment of an HSM or this epoch of a key.
    pub fn hits(&self, number: u32) -> bool {
        self.through.is_none_or(|last| number <= last)
    }
}
