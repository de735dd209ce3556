//! logAttestationEvent: what the agent did, one JSON object a line, appended and made durable.
//!
//! After a restart the agent reads here when its records expire. A line that a crash tore is passed over. At its size
//! cap the file becomes `<name>.1`, in place of the one before; both are read.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use keywitness_circuits::{Digest, HsmId, Kind, Timestamp};
use keywitness_verifier::{
    identity::MAX_SKEW,
    wire::{Enrolment, KeyRef, MAX_RECORD_TTL, ProblemKind, Record},
};
use serde::{Deserialize, Serialize};

use super::timetable::Task;
use crate::store::{StoreError, beside, private, sync_directory};

/// Size at which a journal is turned over, in bytes, unless it is one of many keys.
pub const DEFAULT_MAX_SIZE: u64 = 4 * 1024 * 1024;

/// Bytes of an entry with names of usual length, and room for failures between successes.
const ENTRY_SIZE: u64 = 768;

/// How an attestation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The manager made a record.
    Attested,
    /// The manager refused.
    Refused,
    /// There was no answer.
    Unanswered,
    /// The agent did not send anything.
    NotSent,
}

/// One attempt to attest a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When it ended, by the agent's clock.
    pub at: Timestamp,
    /// The HSM.
    pub hsm: HsmId,
    /// Which enrolment of it.
    pub enrolment: u32,
    /// The key and its epoch.
    #[serde(flatten)]
    pub key: KeyRef,
    /// The statement kind.
    pub kind: Kind,
    /// How it ended.
    pub outcome: Ending,
    /// The manager's word for its refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemKind>,
    /// What went wrong, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Digest of the envelope, where one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Digest>,
    /// When the manager accepted the proof, by its clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_at: Option<Timestamp>,
    /// When the record expires, by the manager's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Which way a copy of a key went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Copied {
    /// To another HSM.
    Given,
    /// From another HSM.
    Received,
}

/// A copy of a key that was given or received.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyEntry {
    /// When, by the agent's clock.
    pub at: Timestamp,
    /// This HSM.
    pub hsm: HsmId,
    /// Which enrolment of it.
    pub enrolment: u32,
    /// Which way it went.
    pub copied: Copied,
    /// The other HSM.
    pub peer: HsmId,
    /// The key and its epoch.
    #[serde(flatten)]
    pub key: KeyRef,
}

impl Entry {
    /// An attempt that the manager recorded.
    pub fn attested(at: Timestamp, record: &Record) -> Self {
        Self {
            at,
            hsm: record.hsm.clone(),
            enrolment: record.enrolment,
            key: record.key.clone(),
            kind: record.statement,
            outcome: Ending::Attested,
            problem: None,
            detail: None,
            envelope: Some(record.envelope),
            proven_at: Some(record.proven_at),
            expires_at: Some(record.expires_at),
        }
    }

    /// How many seconds the record lasts, if there is one.
    pub fn lifetime(&self) -> Option<u64> {
        Some(self.expires_at?.since(self.proven_at?))
    }

    /// Whether it is of a record that a manager makes: one that lasts a day at most, and began when the entry says that its attempt ended. Who
    /// writes to the journal makes no record of a hundred years by that.
    fn is_credible(&self) -> bool {
        let latest = self.at.plus(MAX_RECORD_TTL + MAX_SKEW);
        self.lifetime().is_some_and(|lifetime| lifetime <= MAX_RECORD_TTL)
            && self.expires_at.is_some_and(|expires_at| expires_at <= latest)
    }
}

/// A journal that is open for appending.
pub struct Journal {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
}

impl Journal {
    /// Opens or creates the journal at `path`, which only its owner can read.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path, max_size: u64) -> Result<Self, StoreError> {
        let file = open(path).map_err(StoreError::io(path))?;
        let mut journal = Self { path: path.to_owned(), file, size: 0, max_size };
        journal.end_torn_line().map_err(StoreError::io(path))?;
        sync_directory(path)?;
        Ok(journal)
    }

    /// A crash may have left part of a line: ends it, so that the next entry stands on a line of its own.
    fn end_torn_line(&mut self) -> io::Result<()> {
        self.size = self.file.seek(SeekFrom::End(0))?;
        if self.size > 0 {
            let mut last = [0];
            self.file.seek(SeekFrom::End(-1))?;
            self.file.read_exact(&mut last)?;
            if last != *b"\n" {
                self.file.write_all(b"\n")?;
                self.size += 1;
            }
        }
        Ok(())
    }

    /// Lets the journal grow to the size of so many entries, so that two of its files hold the newest record of each.
    pub fn make_room(&mut self, entries: usize) {
        self.max_size = self.max_size.max((entries as u64).saturating_mul(ENTRY_SIZE));
    }

    /// Appends entries, durably.
    ///
    /// # Errors
    /// What the file system says.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        for entry in entries {
            self.write(entry)?;
        }
        self.sync()
    }

    /// Appends that a copy was given or received, durably.
    ///
    /// # Errors
    /// What the file system says.
    pub fn append_copy(&mut self, entry: &CopyEntry) -> Result<(), StoreError> {
        self.write(entry)?;
        self.sync()
    }

    fn write(&mut self, entry: &impl Serialize) -> Result<(), StoreError> {
        let mut line = serde_json::to_vec(entry).map_err(|_| StoreError::Sealing("a journal entry has no encoding"))?;
        line.push(b'\n');
        if self.size > 0 && self.size + line.len() as u64 > self.max_size {
            self.sync()?;
            self.turn_over()?;
        }
        self.file.write_all(&line).map_err(StoreError::io(&self.path))?;
        self.size += line.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(StoreError::io(&self.path))
    }

    fn turn_over(&mut self) -> Result<(), StoreError> {
        fs::rename(&self.path, beside(&self.path, ".1")).map_err(StoreError::io(&self.path))?;
        // Written alone: an agent that gave up its store's file reads no file that is made beside that later.
        let new = private(OpenOptions::new().append(true).create(true)).open(&self.path);
        self.file = new.map_err(StoreError::io(&self.path))?;
        self.size = 0;
        sync_directory(&self.path)
    }
}

fn open(path: &Path) -> io::Result<File> {
    private(OpenOptions::new().read(true).append(true).create(true)).open(path)
}

/// Every entry of the journal at `path` that can be read, oldest first. None where there is no journal.
///
/// # Errors
/// What the file system says.
pub fn read(path: &Path) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    for path in [beside(path, ".1"), path.to_owned()] {
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(StoreError::io(&path))?,
        };
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for line in lines {
            match serde_json::from_slice(line) {
                Ok(entry) => entries.push(entry),
                Err(_) if serde_json::from_slice::<CopyEntry>(line).is_ok() => {}
                Err(error) => tracing::warn!(path = %path.display(), %error, "passing over a line of the journal"),
            }
        }
    }
    Ok(entries)
}

/// The newest record of each key and kind that this very enrolment made, unless a revocation came after it.
pub fn newest_records(entries: Vec<Entry>, enrolment: &Enrolment) -> BTreeMap<Task, Entry> {
    let mut records = BTreeMap::new();
    let ours = |entry: &Entry| entry.hsm == enrolment.hsm && entry.enrolment == enrolment.revision;
    for entry in entries.into_iter().filter(ours) {
        match (entry.outcome, entry.problem) {
            (Ending::Attested, _) if !entry.is_credible() => {
                tracing::warn!(key = %entry.key, "passing over an entry of the journal: no record lasts as long as it says");
            }
            (Ending::Attested, _) => {
                records.insert(Task { kind: entry.kind.single(), key: entry.key.clone() }, entry);
            }
            (_, Some(ProblemKind::HsmRevoked)) => records.clear(),
            (_, Some(ProblemKind::KeyRevoked)) => records.retain(|task: &Task, _| task.key.key != entry.key.key),
            _ => {}
        }
    }
    records
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::name;

    fn entry(at: u64) -> Entry {
        Entry {
            at: Timestamp(at),
            hsm: name("hsm-1"),
            enrolment: 3,
            key: KeyRef { key: name("signing"), epoch: 2 },
            kind: Kind::KeyKnowledgeEd25519,
            outcome: Ending::Attested,
            problem: None,
            detail: None,
            envelope: Some(Digest([3; 32])),
            proven_at: Some(Timestamp(at)),
            expires_at: Some(Timestamp(at + 60)),
        }
    }

    fn refused(at: u64) -> Entry {
        let problem = Some(ProblemKind::ProofRefused);
        Entry { outcome: Ending::Refused, problem, envelope: None, proven_at: None, expires_at: None, ..entry(at) }
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        assert!(read(&path).unwrap().is_empty());
        Journal::open(&path, 10_000).unwrap().append(&[entry(1)]).unwrap();
        Journal::open(&path, 10_000).unwrap().append(&[refused(2)]).unwrap();
        assert_eq!(read(&path).unwrap(), [entry(1), refused(2)]);
        let line = fs::read_to_string(&path).unwrap();
        assert!(line.contains(r#""key":"signing","epoch":2"#) && line.contains(r#""outcome":"attested""#), "{line}");
    }

    #[test]
    fn a_torn_last_line_costs_that_line_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        for entry in [entry(1), entry(2)] {
            Journal::open(&path, 10_000).unwrap().append(&[entry]).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        let first_line = whole.len() / 2;
        for length in first_line..whole.len() - 1 {
            fs::write(&path, whole.split_at(length).0).unwrap();
            assert_eq!(read(&path).unwrap(), [entry(1)], "length {length}");
            Journal::open(&path, 10_000).unwrap().append(&[entry(3)]).unwrap();
            assert_eq!(read(&path).unwrap(), [entry(1), entry(3)], "length {length}");
        }
        // Only the line's end is missing: the entry is whole.
        fs::write(&path, whole.split_at(whole.len() - 1).0).unwrap();
        Journal::open(&path, 10_000).unwrap().append(&[entry(3)]).unwrap();
        assert_eq!(read(&path).unwrap(), [entry(1), entry(2), entry(3)]);
    }

    #[test]
    fn a_full_journal_is_turned_over_and_the_newest_records_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::open(&path, 1000).unwrap();
        for at in 0..100 {
            journal.append(&[entry(at)]).unwrap();
        }
        let kept = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
        assert!(kept.sum::<u64>() <= 2000);
        journal.append(&[refused(100)]).unwrap();
        let entries = read(&path).unwrap();
        assert!(entries.len() > 2 && entries.len() < 12);
        let enrolment = Enrolment { hsm: name("hsm-1"), cluster: name("cluster-1"), revision: 3 };
        let records = newest_records(entries.clone(), &enrolment);
        assert_eq!(records.values().collect::<Vec<_>>(), [&entry(99)]);
        assert!(newest_records(entries.clone(), &Enrolment { hsm: name("hsm-2"), ..enrolment.clone() }).is_empty());
        assert!(newest_records(entries, &Enrolment { revision: 4, ..enrolment }).is_empty());
    }

    #[test]
    fn a_record_that_no_manager_makes_takes_no_other_s_place() {
        let enrolment = Enrolment { hsm: name("hsm-1"), cluster: name("cluster-1"), revision: 3 };
        let century = 100 * 365 * MAX_RECORD_TTL;
        let newest = |change: fn(Entry, u64) -> Entry| {
            let entries = vec![entry(1000), change(entry(1001), century)];
            newest_records(entries, &enrolment).into_values().collect::<Vec<_>>()
        };
        assert_eq!(newest(|entry, _| entry), [entry(1001)]);
        let changes: [fn(Entry, u64) -> Entry; 4] = [
            |entry, century| Entry { expires_at: Some(entry.at.plus(century)), ..entry },
            |entry, _| Entry { expires_at: Some(entry.at.plus(MAX_RECORD_TTL + 1)), ..entry },
            |entry, century| Entry {
                proven_at: Some(entry.at.plus(century)),
                expires_at: Some(entry.at.plus(century + 60)),
                ..entry
            },
            |entry, _| Entry { expires_at: None, ..entry },
        ];
        for change in changes {
            assert_eq!(newest(change), [entry(1000)]);
        }
    }

    #[test]
    fn a_revocation_ends_the_records_before_it() {
        let enrolment = Enrolment { hsm: name("hsm-1"), cluster: name("cluster-1"), revision: 3 };
        let newest = |entries| newest_records(entries, &enrolment).into_values().collect::<Vec<_>>();
        let key = |key: &str| KeyRef { key: name(key), epoch: 1 };
        let other = Entry { key: key("other"), ..entry(1) };
        let revoked = |problem| Entry { problem: Some(problem), ..refused(2) };
        let before = || vec![entry(1), other.clone()];
        assert_eq!(newest([before(), vec![refused(2)]].concat()).len(), 2);
        assert_eq!(newest([before(), vec![revoked(ProblemKind::KeyRevoked)]].concat()), std::slice::from_ref(&other));
        assert!(newest([before(), vec![revoked(ProblemKind::HsmRevoked)]].concat()).is_empty());
        let back = vec![revoked(ProblemKind::HsmRevoked), entry(3)];
        assert_eq!(newest([before(), back].concat()), [entry(3)]);
    }
}
