//! What looks like fraud: rules, alerts, and the migrations that are no fraud.

use std::{fmt, str::FromStr};

use keywitness_circuits::{ClusterId, Digest, Error, Fingerprint, HsmId, KeyId, Timestamp};
use serde::{Deserialize, Serialize};

use super::KeyRef;

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// A rule that looks for fraud, or for what could hide it.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Rule {
            $($(#[$doc])* $variant,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name: also that of its event.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

rules! {
    /// One fingerprint was proven in HSMs of two clusters, and no migration was declared.
    ForeignCluster = "foreign-cluster";
    /// One key at one epoch keeps being proven with two fingerprints inside a cluster.
    Drift = "drift";
    /// One tagged key was proven with two tags of one beacon.
    TagsDiffer = "tags-differ";
    /// A dealer dealt a bad share.
    FaultyDealing = "faulty-dealing";
    /// A holder complained of a good share.
    UnfoundedComplaint = "unfounded-complaint";
    /// One HSM keeps failing.
    RepeatedFailures = "repeated-failures";
    /// Many HSMs fail at once: more likely the manager or its parameters than all of them.
    FleetFailures = "fleet-failures";
    /// A consumed challenge came back with different bytes.
    Replay = "replay";
    /// One HSM proves one key faster than any agent does.
    ImpossiblePace = "impossible-pace";
    /// Something revoked keeps attesting.
    RevokedPersists = "revoked-persists";
    /// The clock of one HSM differs from the manager's, while others' do not.
    ClockSkew = "clock-skew";
    /// The clocks of all HSMs that call differ from the manager's.
    ManagerClock = "manager-clock";
    /// An HSM has proven nothing for long after its last record expired.
    SilentHsm = "silent-hsm";
    /// An HSM's evidence is its own and genuine, and says that something runs there which the evidence policy does not list.
    ForeignMeasurement = "foreign-measurement";
    /// An HSM enrolled the device with which another HSM is enrolled.
    SharedDevice = "shared-device";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Rule {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.iter().copied().find(|rule| rule.name() == text);
        found.ok_or(Error::Malformed { what: "fraud rule", why: "no rule has this name" })
    }
}

/// What happens when a rule fires, besides its event. Each does what those before it do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing: the event stands in the outbox.
    Note,
    /// An alert is raised, for a person to acknowledge.
    Alert,
    /// The HSM that the alert is about is suspended, with every key in it and nothing elsewhere, until an operator
    /// reinstates it.
    Quarantine,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Alert => "alert",
            Self::Quarantine => "quarantine",
        })
    }
}

/// Whom an alert is about. Of two HSMs that prove one thing, the later: never the earlier holder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// This manager: its clock, its parameters, or the way to it.
    Manager,
    /// An HSM.
    Hsm(HsmId),
    /// One key in one HSM.
    Key {
        /// The HSM.
        hsm: HsmId,
        /// The key.
        key: KeyRef,
    },
}

impl Subject {
    /// The HSM, if it is about one.
    pub const fn hsm(&self) -> Option<&HsmId> {
        match self {
            Self::Manager => None,
            Self::Hsm(hsm) | Self::Key { hsm, .. } => Some(hsm),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manager => f.write_str("this manager"),
            Self::Hsm(hsm) => write!(f, "HSM {hsm}"),
            Self::Key { hsm, key } => write!(f, "key {} @{} in HSM {hsm}", key.key, key.epoch),
        }
    }
}

/// Something in the log that an alert rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// Number of the command in the log, where it is still known.
    pub sequence: Option<u64>,
    /// Digest of the envelope, signed request or complaint that it carries, where it carries one.
    pub digest: Option<Digest>,
}

/// An alert.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Alert {
    /// Its number, from 1.
    pub number: u64,
    /// The rule that fired.
    pub rule: Rule,
    /// When.
    pub at: Timestamp,
    /// Whom it is about.
    pub subject: Subject,
    /// Number of its event, which has the details.
    pub event: u64,
    /// What it rests on.
    pub evidence: Vec<Evidence>,
    /// What was done.
    pub action: Action,
    /// Who has seen to it; none while it is open.
    pub acknowledged: Option<Acknowledgement>,
}

/// That a person has seen to an alert.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The name of the credential.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// What they found.
    pub note: String,
}

/// Acknowledges an alert.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct AcknowledgeRequest {
    /// What was found, in the operator's words.
    #[serde(default)]
    pub note: String,
}

/// Which alerts are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct AlertQuery {
    /// Only open or only acknowledged ones.
    #[serde(default)]
    pub state: Option<AlertState>,
    /// Those after this number.
    #[serde(default)]
    pub after: u64,
}

/// Whether somebody has seen to an alert.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlertState {
    /// Nobody has.
    Open,
    /// Somebody has.
    Acknowledged,
}

/// Some alerts, in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AlertPage {
    /// At most 1,000.
    pub alerts: Vec<Alert>,
    /// What to ask for next, as `after`; none where no more match.
    pub next: Option<u64>,
}

/// Longest migration, in seconds: 30 days.
pub const MAX_MIGRATION: u64 = 30 * 24 * 60 * 60;

/// What moves from one cluster to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Migrant {
    /// The key of this name, at every epoch.
    Key(KeyId),
    /// What has this fingerprint, under whatever name.
    Fingerprint(Fingerprint),
}

/// Declares a migration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MigrationRequest {
    /// What moves.
    pub what: Migrant,
    /// The cluster that has it.
    pub from: ClusterId,
    /// The cluster that will have it.
    pub to: ClusterId,
    /// How long both may have it, in seconds; at most [`MAX_MIGRATION`].
    pub valid_for: u64,
}

/// A declared migration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Migration {
    /// Its number, from 1.
    pub number: u64,
    /// What moves.
    pub what: Migrant,
    /// The cluster that has it.
    pub from: ClusterId,
    /// The cluster that will have it.
    pub to: ClusterId,
    /// Since when.
    pub declared_at: Timestamp,
    /// When it is over: who proves it in the old cluster from then on is alerted about.
    pub until: Timestamp,
    /// The name of the credential.
    pub by: String,
}

/// The migrations that are under way, or ended not long ago.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Migrations {
    /// In the order of their declaration.
    pub migrations: Vec<Migration>,
}
