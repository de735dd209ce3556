//! Rows of the fraud rules.

use keywitness_circuits::{HsmId, Timestamp};
use keywitness_verifier::wire::{Alert, Evidence, Migration, Sighting};
use serde::{Deserialize, Serialize};

use super::{Row, key::join};
use crate::ledger::tables::Table;

macro_rules! rows {
    ($($type:ty => $table:ident;)*) => {
        $(impl Row for $type {
            const TABLE: Table = Table::$table;
        })*
    };
}

rows! {
    Alert => Alerts;
    FraudCounts => FraudCounts;
    Migration => Migrations;
    MigrationNote => MigrationNotes;
    DriftWatch => FraudWatches;
    PaceWatch => FraudWatches;
    SkewWatch => FraudWatches;
    FleetWatch => FraudWatches;
    SilenceWatch => FraudWatches;
    Deadline => Deadlines;
}

/// How many alerts and migrations there are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct FraudCounts {
    /// Number of the newest alert.
    pub alerts: u64,
    /// How many of them nobody has acknowledged.
    pub open: u64,
    /// Number of the newest migration.
    pub migrations: u64,
}

/// What a rule has counted within its window, oldest first; never more than its threshold.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Window {
    /// When, and what it was.
    pub seen: Vec<(Timestamp, Evidence)>,
    /// When the rule fired last.
    pub raised: Option<Timestamp>,
}

impl Window {
    /// Counts one more; returns how many there are within `span` seconds, at most `most`.
    pub fn count(&mut self, at: Timestamp, evidence: Evidence, span: u64, most: u32) -> u32 {
        self.seen.push((at, evidence));
        self.seen.retain(|(seen, _)| at.since(*seen) < span);
        let excess = self.seen.len().saturating_sub(most as usize);
        self.seen.drain(..excess);
        u32::try_from(self.seen.len()).unwrap_or(u32::MAX)
    }

    /// Whether the rule has not fired for `span` seconds.
    pub fn quiet(&self, at: Timestamp, span: u64) -> bool {
        self.raised.is_none_or(|raised| at.since(raised) >= span)
    }

    /// What was counted.
    pub fn evidence(&self) -> Vec<Evidence> {
        self.seen.iter().map(|(_, evidence)| *evidence).collect()
    }
}

/// A holder in the old cluster of a migration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MigrationNote {
    /// The migration.
    pub migration: u64,
    /// When the holder must have stopped.
    pub until: Timestamp,
    /// Who proved the same in the new cluster.
    pub other: Sighting,
    /// Number of that proof's command.
    pub sequence: u64,
}

/// An HSM proved another fingerprint than the first proof of the key at the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DriftWatch {
    /// Since when that is known.
    pub since: Timestamp,
}

/// How often a key was proven since a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PaceWatch {
    /// Since when.
    pub since: Timestamp,
    /// How often.
    pub proofs: u32,
    /// What came first.
    pub first: Evidence,
    /// Whether the rule has fired since then.
    pub raised: bool,
}

/// The requests of one HSM that were refused for their time.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct SkewWatch {
    /// The requests.
    pub window: Window,
    /// When the newest of them was made, by the HSM's clock.
    pub created: Timestamp,
    /// By how many seconds the HSM's clock was ahead then.
    pub ahead: i64,
}

/// HSMs that something happened to, each with when it last did.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct FleetWatch {
    /// The HSMs, in the order of the newest event, and what it was.
    pub seen: Vec<(HsmId, Timestamp, Evidence)>,
    /// When the rule fired last.
    pub raised: Option<Timestamp>,
}

impl FleetWatch {
    /// Counts an HSM; returns how many there are within `span` seconds, at most `most`.
    pub fn count(&mut self, hsm: &HsmId, at: Timestamp, evidence: Evidence, span: u64, most: u32) -> u32 {
        self.seen.retain(|(seen, last, _)| seen != hsm && at.since(*last) < span);
        self.seen.push((hsm.clone(), at, evidence));
        let excess = self.seen.len().saturating_sub(most as usize);
        self.seen.drain(..excess);
        u32::try_from(self.seen.len()).unwrap_or(u32::MAX)
    }

    /// Whether the rule has not fired for `span` seconds.
    pub fn quiet(&self, at: Timestamp, span: u64) -> bool {
        self.raised.is_none_or(|raised| at.since(raised) >= span)
    }
}

/// That an HSM is waited for: a deadline stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SilenceWatch;

/// What is looked at once its time has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Deadline {
    /// Whether the HSM has fallen silent.
    Silence(HsmId),
}

/// Keys of [`Table::FraudWatches`]: a tag apart for each kind of row.
pub mod watch {
    use super::{HsmId, join};

    /// That an HSM differs from the first proof: behind a drift's key.
    pub fn drift(drift: &[u8]) -> Vec<u8> {
        [b"drift\0".as_slice(), drift].concat()
    }

    /// How often a key is proven: behind an evidence's key.
    pub fn pace(evidence: &[u8]) -> Vec<u8> {
        [b"pace\0".as_slice(), evidence].concat()
    }

    /// An HSM's clock.
    pub fn skew(hsm: &HsmId) -> Vec<u8> {
        join(&["skew", hsm.as_str()])
    }

    /// HSMs whose clocks differ.
    pub fn clocks() -> Vec<u8> {
        join(&["clocks"])
    }

    /// HSMs that fail.
    pub fn failures() -> Vec<u8> {
        join(&["failures"])
    }

    /// An HSM that is waited for.
    pub fn silence(hsm: &HsmId) -> Vec<u8> {
        join(&["silence", hsm.as_str()])
    }
}
