//! Whether keys are attested, and everything at a glance.

use std::fmt;

use keywitness_circuits::{ClusterId, Error, HsmId, KeyAlgorithm, KeyId, Kind, Timestamp, TrustDomain};
use serde::{Deserialize, Serialize};

use super::{KeyRef, ProblemKind, Revocation, WebhookHealth};

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
    /// The key, the HSM or its cluster is suspended.
    Suspended,
    /// The key, the HSM or its cluster is revoked.
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
            Self::Suspended => "suspended",
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
    /// Whether its cluster must give evidence of where keys live, and none counts for it: its tokens warn, and come after those of
    /// HSMs that do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub demoted: bool,
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
    /// How many alerts were ever raised; to a bounded credential, how many of the newest 1,000 it may see.
    pub alerts: u64,
    /// How many of those nobody has acknowledged.
    #[serde(default)]
    pub open_alerts: u64,
    /// How the checking of proofs goes.
    #[serde(default)]
    pub verification: VerificationStatus,
    /// Who was turned away for asking too often since the manager started, the most recent first; at most 64 of them.
    /// Shown to whoever may see every cluster.
    #[serde(default)]
    pub limited: Vec<LimitedCaller>,
    /// How the delivery to each webhook goes. Shown to whoever may see every cluster.
    #[serde(default)]
    pub webhooks: Vec<WebhookHealth>,
}

/// A caller that was turned away for asking too often.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LimitedCaller {
    /// Who: an HSM, a credential's id, or an address.
    pub caller: String,
    /// How often.
    pub refused: u64,
    /// When last.
    pub last_at: Timestamp,
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
