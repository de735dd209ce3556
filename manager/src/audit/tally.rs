//! What an audit counted.

use std::collections::{BTreeMap, BTreeSet};

use keywitness_circuits::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

/// What was seen in a log, and checked.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Entries by command.
    pub commands: BTreeMap<String, u64>,
    /// Entries whose outcome is a refusal, as it should be.
    pub refusals: u64,
    /// Identity signatures that verify.
    pub signatures: u64,
    /// Proofs, by statement kind.
    pub proofs: BTreeMap<String, ProofTally>,
    /// Verifying keys that the auditor was not given parameters for.
    pub unknown_keys: BTreeSet<Digest>,
    /// State roots that were recomputed.
    pub seals: u64,
    /// Time of the first entry.
    pub first: Option<Timestamp>,
    /// Time of the last entry.
    pub last: Option<Timestamp>,
}

/// What became of the proofs of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ProofTally {
    /// Accepted, and they verify.
    pub verified: u64,
    /// Refused, and they do not verify.
    pub refused: u64,
    /// Of envelopes that were refused before their proof was looked at.
    pub not_judged: u64,
    /// Made under a verifying key that the auditor has no parameters for.
    pub unchecked: u64,
}

impl Tally {
    /// How many entries were replayed.
    pub fn entries(&self) -> u64 {
        self.commands.values().sum()
    }

    /// How many proofs were checked again.
    pub fn checked(&self) -> u64 {
        self.proofs.values().map(|kind| kind.verified + kind.refused).sum()
    }

    /// How many proofs could not be checked.
    pub fn unchecked(&self) -> u64 {
        self.proofs.values().map(|kind| kind.unchecked).sum()
    }

    /// Adds what was counted of proofs elsewhere.
    pub(super) fn add_proofs(&mut self, other: Self) {
        self.signatures += other.signatures;
        self.unknown_keys.extend(other.unknown_keys);
        for (kind, more) in other.proofs {
            let counts = self.proofs.entry(kind).or_default();
            counts.verified += more.verified;
            counts.refused += more.refused;
            counts.not_judged += more.not_judged;
            counts.unchecked += more.unchecked;
        }
    }
}
