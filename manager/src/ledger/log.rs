//! The log around [`apply`](super::apply::apply()): sequence numbers, leaves, the outbox, and forgetting.

use std::ops::ControlFlow;

use keywitness_circuits::{Digest, Nonce, Timestamp};
use keywitness_verifier::{log::Opening, wire::Event};
use serde::{Deserialize, Serialize};

use super::{
    apply::{Moment, apply},
    command::{Command, Outcome},
    fraud, merkle,
    state::{self, State, corrupt, decode, encode, key},
    tables::{Fault, Rows, Table, Tables},
};

/// How many rows one command forgets at most, and how many more for each challenge that it gives: more than it lets be
/// forgotten later, so that what is due never piles up.
const FORGET: usize = 16;
const FORGET_OF_CHALLENGE: usize = 2;

fn forgets(command: &Command) -> usize {
    match command {
        Command::IssueChallenges { items, .. } => FORGET + FORGET_OF_CHALLENGE * items.len(),
        _ => FORGET,
    }
}

/// A command on its way into the log, with what hides its leaf from whoever sees the leaf alone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Submission {
    /// Drawn before the command is ordered.
    pub salt: Nonce,
    /// The command.
    pub command: Command,
}

/// A command in the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When it was applied.
    pub at: Timestamp,
    /// The command and its salt.
    pub submission: Submission,
    /// What it came to.
    pub outcome: Outcome,
}

impl Entry {
    /// The entry's opening: what its hash in the log is of.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] for what cannot be encoded.
    pub fn opening(&self, sequence: u64) -> Result<Opening, Fault> {
        let Self { at, submission: Submission { salt, command }, outcome } = self;
        let (command, outcome) = (encode(Table::Commands, command)?, encode(Table::Commands, outcome)?);
        Ok(Opening { sequence, salt: *salt, at: *at, command, outcome })
    }
}

impl TryFrom<&Opening> for Entry {
    type Error = Fault;

    /// Reads what [`Entry::opening`] wrote, and nothing else.
    fn try_from(opening: &Opening) -> Result<Self, Fault> {
        let submission = Submission { salt: opening.salt, command: decode(Table::Commands, &opening.command)? };
        let entry = Self { at: opening.at, submission, outcome: decode(Table::Commands, &opening.outcome)? };
        if entry.opening(opening.sequence)? == *opening {
            Ok(entry)
        } else {
            Err(corrupt(Table::Commands, "an opening is not canonical"))
        }
    }
}

/// The log's entry of a command: the hash of its opening.
pub(crate) fn leaf(sequence: u64, entry: &Entry) -> Result<Digest, Fault> {
    Ok(entry.opening(sequence)?.entry())
}

/// Applies one command and writes it, its leaf and its events, with everything it changed.
///
/// `clock` may go backwards; the time of a command never does.
///
/// # Errors
/// [`Fault`]; the caller undoes everything.
pub fn execute(
    tables: &mut dyn Tables,
    submission: Submission,
    clock: Timestamp,
) -> Result<(Outcome, Vec<Event>), Fault> {
    let mut head = State(tables).head()?;
    let at = clock.max(head.at);
    let sequence = head.sequence + 1;
    forget(tables, at, forgets(&submission.command))?;
    let (outcome, happened) = apply(tables, &submission.command, Moment { at, sequence })?;
    let events = fraud::numbered(&mut head, happened, at);
    for event in &events {
        let bytes = serde_json::to_vec(event).map_err(|error| corrupt(Table::Events, error))?;
        tables.put(Table::Events, &key::number(event.number), &bytes)?;
    }
    let entry = Entry { at, submission, outcome };
    let leaf = leaf(sequence, &entry)?;
    tables.put(Table::Leaves, &key::number(sequence), &leaf.0)?;
    merkle::append(tables, sequence, &leaf)?;
    tables.put(Table::Commands, &key::number(sequence), &encode(Table::Commands, &entry)?)?;
    (head.sequence, head.at) = (sequence, at);
    state::put(tables, key::ONLY, &head)?;
    Ok((entry.outcome, events))
}

/// Removes rows that are due, at most `limit`.
fn forget(tables: &mut dyn Tables, at: Timestamp, limit: usize) -> Result<(), Fault> {
    let short = || corrupt(Table::Due, "a key is too short");
    let mut dues = Vec::new();
    tables.visit(Table::Due, &[], &[], &mut |due, _| {
        let time = due.first_chunk().ok_or_else(short)?;
        if u64::from_be_bytes(*time) > at.0 || dues.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        dues.push(due.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    for due in dues {
        let (code, row) = due.get(size_of::<u64>()..).and_then(<[u8]>::split_first).ok_or_else(short)?;
        if let Some(table) = Table::ALL.iter().find(|table| table.code() == *code) {
            tables.remove(*table, row)?;
        }
        tables.remove(Table::Due, &due)?;
    }
    Ok(())
}

/// The log's entries after number `after`, at most `limit`.
///
/// # Errors
/// [`Fault`]
pub fn entries(rows: &dyn Rows, after: u64, limit: usize) -> Result<Vec<Entry>, Fault> {
    let start = key::number(after.saturating_add(1));
    let found = rows.range(Table::Commands, &[], &start, limit)?;
    found.iter().map(|(_, value)| decode(Table::Commands, value)).collect()
}

/// The events after number `after`, at most `limit`.
///
/// # Errors
/// [`Fault`]
pub fn events(rows: &dyn Rows, after: u64, limit: usize) -> Result<Vec<Event>, Fault> {
    let start = key::number(after.saturating_add(1));
    let found = rows.range(Table::Events, &[], &start, limit)?;
    found
        .iter()
        .map(|(_, value)| serde_json::from_slice(value).map_err(|error| corrupt(Table::Events, error)))
        .collect()
}
