//! Tables of bytes: all that the state asks of a store.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, PoisonError, RwLock},
};

/// Why the ledger or its store failed. Never the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The store failed.
    #[error("the store failed: {0}")]
    Storage(String),
    /// The store failed while it made changes durable.
    #[error("the store failed while it wrote, so the change may or may not have been made: {0}; send the same again")]
    Unsettled(String),
    /// A row cannot be read.
    #[error("a row of table {table} cannot be read: {why}; the data directory is damaged")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The data was written by a newer program.
    #[error(
        "the data has schema version {found}, and this program reads up to {supported}: \
         it was written by a newer keywitness; upgrade this one, or use another data directory"
    )]
    NewerSchema {
        /// What the data says.
        found: u64,
        /// What this build reads.
        supported: u64,
    },
    /// The store failed a moment ago.
    #[error("the store is being recovered")]
    Recovering,
    /// Too many commands wait.
    #[error("too many changes wait to be written")]
    Busy,
    /// The ledger has stopped.
    #[error("the ledger has stopped")]
    Stopped,
}

macro_rules! tables {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal;)*) => {
        /// Every table.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Table {
            $($(#[$doc])* $variant = $code,)*
        }

        impl Table {
            /// Every table, in code order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The table's name in a store.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The table's code in a row that names another row.
            pub const fn code(self) -> u8 {
                self as u8
            }
        }
    };
}

tables! {
    /// One row: how far the ledger is.
    Head = 0, "head";
    /// One row: the policy in force.
    Configuration = 1, "configuration";
    /// Digest of a bearer credential -> who may use it for what.
    Credentials = 2, "credentials";
    /// Digest of a join token -> what it allows.
    JoinTokens = 3, "join-tokens";
    /// HSM -> its enrolment.
    Hsms = 4, "hsms";
    /// Identity key -> HSM.
    Identities = 5, "identities";
    /// HSM, key, epoch -> what was enrolled.
    Keys = 6, "keys";
    /// Key, cluster, HSM: who enrolled a key.
    Holders = 7, "holders";
    /// Nonce -> challenge.
    Challenges = 8, "challenges";
    /// Digest of a signed request -> its outcome.
    Requests = 9, "requests";
    /// Digest of an envelope -> its outcome.
    Outcomes = 10, "outcomes";
    /// HSM, key, epoch, kind -> the newest accepted proof.
    Records = 11, "records";
    /// HSM, key, epoch, kind -> the newest failure.
    Failures = 12, "failures";
    /// HSM -> its latest failures.
    FailureWindows = 13, "failure-windows";
    /// Target -> what stands against it now.
    Revocations = 14, "revocations";
    /// Target, HSM -> attempts since the revocation.
    RevokedAttempts = 15, "revoked-attempts";
    /// Fingerprint, cluster, HSM -> where a fingerprint was proven first.
    Sightings = 16, "sightings";
    /// Cluster, key, epoch, suite -> who proved it first.
    FirstProofs = 17, "first-proofs";
    /// Cluster, key, epoch, suite, HSM: who was seen to differ from the first proof.
    Drifts = 18, "drifts";
    /// Time, table, key: rows that may be forgotten from that time on.
    Due = 19, "due";
    /// Sequence number -> time, salt, command and outcome.
    Commands = 20, "commands";
    /// Sequence number -> leaf hash.
    Leaves = 21, "leaves";
    /// Number -> event, as JSON: the outbox.
    Events = 22, "events";
    /// Fingerprint, or fingerprint and cluster where nobody there had proven it -> the revocation of a key that it is of.
    RevokedFingerprints = 23, "revoked-fingerprints";
    /// One row: the beacon round that is open.
    Beacons = 24, "beacons";
    /// HSM, key, epoch -> the tags that the HSM has shown of it, in the latest beacon rounds.
    Tags = 25, "tags";
    /// Cluster, key, epoch -> its sharing.
    Sharings = 26, "sharings";
    /// Holder, share, epoch, cluster -> the sharing that it was dealt in.
    Shareholders = 27, "shareholders";
    /// Target, sequence number -> one revocation or suspension of it, and how it ended.
    Standings = 28, "standings";
    /// Status index -> the key that the status lists' entry speaks of, and what it rests on.
    StatusEntries = 29, "status-entries";
    /// HSM, key, epoch -> its status index.
    StatusIndexes = 30, "status-indexes";
    /// One row: how far the status lists are.
    StatusHead = 31, "status-head";
    /// Digest of a verifying key that was ever in force -> its statement.
    VerifyingKeys = 32, "verifying-keys";
    /// Sequence number -> a key that signs tokens.
    TokenKeys = 33, "token-keys";
    /// Number -> alert.
    Alerts = 36, "alerts";
    /// One row: how many alerts and migrations there are.
    FraudCounts = 37, "fraud-counts";
    /// Number -> declared migration.
    Migrations = 38, "migrations";
    /// Fingerprint, cluster, HSM: a holder in the old cluster of a migration, and when it must have stopped.
    MigrationNotes = 39, "migration-notes";
    /// What rules watch: a tag, then what the rule counts by.
    FraudWatches = 40, "fraud-watches";
    /// Time, what: what is looked at once that time has come.
    Deadlines = 41, "deadlines";
    /// One row: the log's Merkle tree, as far as it must be known to go on.
    Frontier = 44, "log-frontier";
    /// Level, index -> the hash of a perfect subtree of height 8·level of the log's Merkle tree, from level 1 on.
    Subtrees = 45, "log-subtrees";
    /// Sequence number -> the root over the state after that command.
    Seals = 46, "log-seals";
    /// One row: up to where openings were deleted.
    Retention = 47, "log-retention";
    /// One row: the latest restoration from a backup.
    Restorations = 50, "restorations";
    /// Digest of a bearer credential -> its terms.
    CredentialTerms = 52, "credential-terms";
    /// Webhook -> up to which event its receiver was told.
    Webhooks = 58, "webhooks";
    /// One row: what evidence of where keys live must be.
    EvidenceTerms = 60, "evidence-terms";
    /// Nonce -> a challenge for evidence.
    EvidenceChallenges = 61, "evidence-challenges";
    /// HSM, or HSM, key, epoch -> the newest evidence of it.
    Evidence = 62, "evidence";
    /// HSM -> its device.
    Devices = 63, "devices";
}

impl Table {
    /// Whether its rows are what the manager decides by, and so what a seal of the state covers: all but the log itself
    /// and the outbox, which grow with every command and are read by none.
    pub const fn is_state(self) -> bool {
        !matches!(self, Self::Commands | Self::Leaves | Self::Events | Self::Subtrees)
    }
}

/// A row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// What looks at rows, key and value, and says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Fault> + 'a;

/// Tables that can be read.
pub trait Rows {
    /// One row's value.
    ///
    /// # Errors
    /// [`Fault`] where the store cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fault>;

    /// Shows `each` the rows whose keys begin with `prefix` and are not below `start`, in key order, until it says
    /// that it has seen enough. Holds one row at a time, however many there are.
    ///
    /// # Errors
    /// What `each` returned, or [`Fault`] where the store cannot be read.
    fn visit(&self, table: Table, prefix: &[u8], start: &[u8], each: &mut Visit<'_>) -> Result<(), Fault>;

    /// At most `limit` rows whose keys begin with `prefix` and are not below `start`, in key order.
    ///
    /// # Errors
    /// [`Fault`] where the store cannot be read.
    fn range(&self, table: Table, prefix: &[u8], start: &[u8], limit: usize) -> Result<Vec<Row>, Fault> {
        let mut rows = Vec::new();
        if limit == 0 {
            return Ok(rows);
        }
        self.visit(table, prefix, start, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(rows)
    }
}

/// Tables that can be changed.
pub trait Tables: Rows {
    /// Writes a row, over any row of the same key.
    ///
    /// # Errors
    /// [`Fault`] where the store cannot be written.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Fault>;

    /// Removes a row, if it is there.
    ///
    /// # Errors
    /// [`Fault`] where the store cannot be written.
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Fault>;
}

/// Something that keeps tables.
pub trait Store: Send + Sync {
    /// Runs `change` in one transaction: durable when this returns `Ok`, and undone when it returns what `change`
    /// returned, or [`Fault::Storage`].
    ///
    /// # Errors
    /// What `change` returned; [`Fault::Storage`] where the transaction could not begin; [`Fault::Unsettled`] where
    /// nobody can say whether it was made before the store was recovered.
    fn write(&self, change: &mut dyn FnMut(&mut dyn Tables) -> Result<(), Fault>) -> Result<(), Fault>;

    /// The state after the newest transaction.
    ///
    /// # Errors
    /// [`Fault::Storage`]
    fn view(&self) -> Result<Box<dyn Rows>, Fault>;

    /// Makes the store usable again after a [`Fault`] of storage: afterwards it has every transaction that was
    /// told to be durable, and is known to take writes.
    ///
    /// # Errors
    /// [`Fault::Storage`] while it is still broken.
    fn recover(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// Tables in memory: for tests, and to replay a ledger.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl Rows for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.0.get(&(table, key.to_vec())).cloned())
    }

    fn visit(&self, table: Table, prefix: &[u8], start: &[u8], each: &mut Visit<'_>) -> Result<(), Fault> {
        let rows = self.0.range((table, start.max(prefix).to_vec())..);
        for ((_, key), value) in rows.take_while(|((of, key), _)| *of == table && key.starts_with(prefix)) {
            if each(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Rows for Arc<Memory> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        Memory::get(self, table, key)
    }

    fn visit(&self, table: Table, prefix: &[u8], start: &[u8], each: &mut Visit<'_>) -> Result<(), Fault> {
        Memory::visit(self, table, prefix, start, each)
    }
}

impl Tables for Memory {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.0.insert((table, key.to_vec()), value.to_vec());
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Fault> {
        self.0.remove(&(table, key.to_vec()));
        Ok(())
    }
}

/// A store in memory, which forgets everything when it is dropped.
#[derive(Default)]
pub struct MemoryStore(RwLock<Arc<Memory>>);

impl Store for MemoryStore {
    fn write(&self, change: &mut dyn FnMut(&mut dyn Tables) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Memory::clone(&current);
        change(&mut next)?;
        *current = Arc::new(next);
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn Rows>, Fault> {
        Ok(Box::new(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))))
    }
}
