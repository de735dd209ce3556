//! What leaves by webhooks, and how that goes.

use keywitness_circuits::{ClusterId, ManagerId, Timestamp, TrustDomain};
use serde::{Deserialize, Serialize};

use super::{Alert, Event, Rule};

/// The header that names a message: the same whenever it is sent again (Standard Webhooks 1.0.0, "Webhook headers").
pub const WEBHOOK_ID: &str = "webhook-id";
/// The header with the time of the attempt, in seconds since the Unix epoch.
pub const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signature: `v1a,` and an Ed25519 signature in base64.
pub const WEBHOOK_SIGNATURE: &str = "webhook-signature";

/// The bytes that a webhook's signature is of (Standard Webhooks 1.0.0, "Signature scheme").
///
/// An identifier begins with `kw_` and holds no full stop, so that these bytes are never the signing input of a JWS, whose
/// first part decodes to a JSON object.
pub fn webhook_signed(id: &str, timestamp: Timestamp, body: &[u8]) -> Vec<u8> {
    [format!("{id}.{}.", timestamp.0).as_bytes(), body].concat()
}

/// The body of a webhook's message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Notification {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: NotificationKind,
    /// When that happened.
    pub timestamp: Timestamp,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The manager that tells it.
    pub manager: ManagerId,
    /// The webhook that it is for: nobody else should take it.
    pub webhook: String,
    /// What happened.
    pub data: NotificationData,
}

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotificationKind {
    /// An alert was raised.
    Alert,
    /// Something happened that raised none.
    Event,
    /// An operator asked for a test.
    Test,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct NotificationData {
    /// The alert, as it was raised: whether somebody has seen to it since, the manager knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<Alert>,
    /// The event; left out where the webhook is for some clusters and the event names others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
}

/// How the delivery to one webhook goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WebhookHealth {
    /// Its name in the configuration.
    pub name: String,
    /// Every event up to this number was delivered, or is not for it.
    pub delivered: u64,
    /// How many events came after that.
    pub behind: u64,
    /// When the event happened that could not be delivered yet; none where the latest attempt went well.
    pub waiting_since: Option<Timestamp>,
    /// When the first of the latest failures was, since the manager started.
    pub failing_since: Option<Timestamp>,
    /// How many attempts in a row have failed.
    pub failures: u32,
}

/// A webhook, for operators.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Webhook {
    /// How it goes.
    #[serde(flatten)]
    pub health: WebhookHealth,
    /// Scheme, host and port; the rest of its address may be a secret.
    pub origin: String,
    /// What it is told.
    pub sends: Sends,
    /// Only what these rules find; every rule where there are none.
    pub rules: Vec<Rule>,
    /// Only what concerns these clusters; every cluster where none are named.
    pub clusters: Option<Vec<ClusterId>>,
    /// Why the latest attempt failed.
    pub error: Option<String>,
}

/// Every webhook.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Webhooks {
    /// In the order of the configuration.
    pub webhooks: Vec<Webhook>,
    /// The key that signs for them now: `whpk_` and an Ed25519 public key in base64. `/.well-known/jwks.json` has it too,
    /// with the one before and the one after it.
    pub public_key: Option<String>,
}

/// What a webhook is told. Each is told what those before it are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sends {
    /// Alerts that suspended an HSM.
    Quarantines,
    /// Every alert.
    #[default]
    Alerts,
    /// Whatever a rule found, even where it is only noted.
    Fraud,
    /// Every event.
    Events,
}

impl Sends {
    /// Every choice, by its name in the configuration.
    pub const ALL: [(&'static str, Self); 4] = [
        ("quarantines", Self::Quarantines),
        ("alerts", Self::Alerts),
        ("fraud", Self::Fraud),
        ("events", Self::Events),
    ];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quarantines => "quarantines",
            Self::Alerts => "alerts",
            Self::Fraud => "fraud",
            Self::Events => "events",
        }
    }
}

/// Has a webhook be told again, or skips what it cannot take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WebhookReplay {
    /// Everything after the event of this number is to be delivered.
    pub after: u64,
}

/// How a test went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WebhookTest {
    /// Whether the receiver took it.
    pub delivered: bool,
    /// Why it did not.
    pub error: Option<String>,
}
