//! The only room that knows redb.
//!
//! Every table of the ledger is one redb table of bytes. A transaction commits in two phases and is flushed
//! before its outcomes are told: two phases, because strangers choose part of what is stored, and redb's
//! one-phase commit rests on a checksum that a stranger could aim at.

pub mod backup;
#[cfg(test)]
mod faults;
mod migrate;
mod quiet;
mod transaction;

use std::{
    fs::{self, File, OpenOptions, rename},
    io,
    mem::replace,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{Builder, Database, Durability, ReadableDatabase, TableDefinition, WriteTransaction};
use transaction::{Reading, Writing};

use crate::ledger::{Fault, Rows, Store, Table, Tables};

/// The version of what this build writes.
pub const SCHEMA: u64 = 7;

/// Where the version is.
const SCHEMA_TABLE: TableDefinition<'static, &str, u64> = TableDefinition::new("schema");
const SCHEMA_KEY: &str = "version";

/// What is written and removed again to find out whether a store takes writes.
const PROBE_TABLE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("probe");
const PROBE_BYTES: usize = if cfg!(test) { 1 << 20 } else { 16 << 20 };

/// Name of the file in a data directory.
pub const FILE: &str = "manager.redb";

/// How many bytes of the file are held in memory at most, unless the operator says otherwise.
pub const CACHE: usize = 768 << 20;

const fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

fn failed(error: impl Into<redb::Error>) -> Fault {
    Fault::Storage(error.into().to_string())
}

/// The name under which a file is made.
fn draft_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.draft"))
}

/// Makes the file at `path`, private and with its schema, if there is none: under another name first, so that
/// whenever this is killed, either a whole database is there or none.
fn make(path: &Path) -> Result<(), Fault> {
    let failed = |error: io::Error| Fault::Storage(format!("{}: {error}", path.display()));
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // One process at a time makes it: nobody removes another's draft, or puts its own over another's file.
    let directory = File::open(directory).map_err(failed)?;
    directory.lock().map_err(failed)?;
    let draft = draft_of(path);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    if fs::exists(path).map_err(failed)? {
        return Ok(());
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
    drop(Redb::over(&draft, &draft.display().to_string(), CACHE)?);
    rename(&draft, path).map_err(failed)?;
    directory.sync_all().map_err(failed)
}

/// Where a database is.
trait Medium: Send + Sync {
    /// Opens the database, or makes it.
    fn open(&self, builder: &Builder) -> Result<Database, redb::DatabaseError>;

    /// After a failure: makes sure that what is read next is what is really there.
    fn settle(&self) -> io::Result<()>;
}

/// A database in a file.
struct InFile(PathBuf);

impl Medium for InFile {
    fn open(&self, builder: &Builder) -> Result<Database, redb::DatabaseError> {
        builder.create(&self.0)
    }

    /// Pages that could not be written back stay in the page cache and count as clean: a reader would take for durable
    /// what is not. So they are dropped, and the disk is asked.
    fn settle(&self) -> io::Result<()> {
        let file = File::open(&self.0)?;
        file.sync_all()?;
        Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
    }
}

/// A redb database, usually a file.
///
/// Commits save the allocator's state with the rest (redb's quick repair), so that a start after a crash reads a
/// few pages and not the whole file.
pub struct Redb {
    name: String,
    cache: usize,
    medium: Box<dyn Medium>,
    /// None while it is being recovered.
    database: RwLock<Option<Database>>,
    /// It was read whole since something failed that was more than a trial.
    checked: AtomicBool,
}

impl Redb {
    /// Opens the file at `path`, or makes it.
    ///
    /// # Errors
    /// [`Fault::NewerSchema`] for data that a newer program wrote; [`Fault::Storage`] where the file cannot
    /// be opened, as while another process has it open.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        Self::open_with(path, CACHE)
    }

    /// Opens the file at `path`, or makes it, and holds at most `cache` bytes of it in memory. Data that an older
    /// program wrote is copied to a file beside it, named after its schema, before it is migrated.
    ///
    /// # Errors
    /// As [`Redb::open`].
    pub fn open_with(path: &Path, cache: usize) -> Result<Self, Fault> {
        make(path)?;
        let store = Self::closed(path, cache);
        let mut database = store.connect()?;
        if let Some(found) = schema(&database)?.filter(|found| migrate::can_migrate(*found)) {
            drop(database);
            let copy = path.with_extension(format!("schema-{found}.redb"));
            tracing::warn!(copy = %copy.display(), "the data has the old schema {found}: it is copied, then migrated");
            keep_copy(path, &copy).map_err(|error| Fault::Storage(format!("{}: {error}", copy.display())))?;
            database = store.connect()?;
        }
        check_schema(&database)?;
        store.place(Some(database));
        Ok(store)
    }

    fn closed(path: &Path, cache: usize) -> Self {
        Self {
            name: path.display().to_string(),
            cache,
            medium: Box::new(InFile(path.to_owned())),
            database: RwLock::new(None),
            checked: AtomicBool::new(false),
        }
    }

    /// As [`Redb::open_with`], of a file of this schema, which errors call `name`.
    fn over(path: &Path, name: &str, cache: usize) -> Result<Self, Fault> {
        let store = Self { name: name.to_owned(), ..Self::closed(path, cache) };
        let database = store.connect()?;
        check_schema(&database)?;
        store.place(Some(database));
        Ok(store)
    }

    /// Reads everything, and compares it with its checksums. Whether nothing had to be repaired.
    fn check_integrity(&mut self) -> Result<bool, Fault> {
        let database = self.database.get_mut().unwrap_or_else(PoisonError::into_inner);
        database.as_mut().ok_or(Fault::Recovering)?.check_integrity().map_err(failed)
    }

    /// Puts `database` where readers and the writer find it; none while it is being recovered.
    fn place(&self, database: Option<Database>) {
        let before = replace(&mut *self.database.write().unwrap_or_else(PoisonError::into_inner), database);
        // To close one may take long on a disk that fails, and panic.
        let _closed = quiet::guarded(|| drop(before));
    }

    /// Opens what no other may have open.
    fn connect(&self) -> Result<Database, Fault> {
        let mut builder = Builder::new();
        builder.set_cache_size(self.cache);
        // redb panics at what it does not expect in a file.
        let opened = quiet::guarded(|| self.medium.open(&builder)).ok_or_else(|| self.damaged())?;
        opened.map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                Fault::Storage(format!("{} is in use: another manager runs on this directory", self.name))
            }
            error => Fault::Storage(format!("{}: {error}", self.name)),
        })
    }

    fn damaged(&self) -> Fault {
        Fault::Storage(format!("{} is damaged: restore a backup", self.name))
    }

    fn with<T>(&self, action: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, Fault> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        action(database.as_ref().ok_or(Fault::Recovering)?)
    }
}

/// The schema that the data has; none in a database that was just made.
fn schema(database: &Database) -> Result<Option<u64>, Fault> {
    match database.begin_read().map_err(failed)?.open_table(SCHEMA_TABLE) {
        Ok(table) => Ok(table.get(SCHEMA_KEY).map_err(failed)?.map(|version| version.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Migrates what an older program wrote, and makes the tables that are not there. All of it, or nothing.
fn check_schema(database: &Database) -> Result<(), Fault> {
    let found = schema(database)?;
    let transaction = begin(database)?;
    if let Some(found) = found {
        migrate::migrate(found, &mut Writing::new(&transaction))?;
    }
    transaction.open_table(SCHEMA_TABLE).map_err(failed)?.insert(SCHEMA_KEY, SCHEMA).map_err(failed)?;
    for table in Table::ALL {
        transaction.open_table(definition(*table)).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// Whether there is room for more than the largest group of commands: who is let in again is not to be refused at once.
fn probe(database: &Database) -> Result<(), Fault> {
    let transaction = begin(database)?;
    let filler = vec![0xa5; PROBE_BYTES];
    transaction.open_table(PROBE_TABLE).map_err(failed)?.insert("", filler.as_slice()).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    let transaction = begin(database)?;
    transaction.delete_table(PROBE_TABLE).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn begin(database: &Database) -> Result<WriteTransaction, Fault> {
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_durability(Durability::Immediate).map_err(failed)?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Ok(transaction)
}

impl Store for Redb {
    fn write(&self, change: &mut dyn FnMut(&mut dyn Tables) -> Result<(), Fault>) -> Result<(), Fault> {
        let transaction = self.with(begin)?;
        change(&mut Writing::new(&transaction))?;
        transaction.commit().map_err(|error| Fault::Unsettled(redb::Error::from(error).to_string()))
    }

    fn view(&self) -> Result<Box<dyn Rows>, Fault> {
        let transaction = self.with(|database| database.begin_read().map_err(failed))?;
        Ok(Box::new(Reading::new(transaction)))
    }

    /// It is read whole and compared with its checksums before anything is written. While the disk is still full, readers have
    /// it between two attempts.
    fn recover(&self) -> Result<(), Fault> {
        self.place(None);
        self.medium.settle().map_err(|error| Fault::Storage(format!("{}: {error}", self.name)))?;
        let mut database = self.connect()?;
        if !self.checked.load(Ordering::Acquire) {
            let intact =
                quiet::guarded(|| database.check_integrity()).ok_or_else(|| self.damaged())?.map_err(failed)?;
            if !intact {
                tracing::warn!("the store was repaired");
            }
            self.checked.store(true, Ordering::Release);
        }
        let written = quiet::guarded(|| probe(&database)).unwrap_or_else(|| Err(self.damaged()));
        if let Err(fault) = written {
            // One that failed at writing reads no more: another one does.
            let _closed = quiet::guarded(|| drop(database));
            self.place(Some(self.connect()?));
            return Err(fault);
        }
        self.checked.store(false, Ordering::Release);
        self.place(Some(database));
        Ok(())
    }
}

/// Copies a file that nobody writes, whole or not at all.
fn keep_copy(from: &Path, to: &Path) -> io::Result<()> {
    let draft = draft_of(to);
    fs::copy(from, &draft)?;
    File::open(&draft)?.sync_all()?;
    rename(&draft, to)?;
    File::open(to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn newer_data_is_refused_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let store = Redb::open(&path).unwrap();
        let transaction = store.with(begin).unwrap();
        transaction.open_table(SCHEMA_TABLE).unwrap().insert(SCHEMA_KEY, SCHEMA + 1).unwrap();
        transaction.commit().unwrap();
        drop(store);
        let Err(fault) = Redb::open(&path) else { panic!("newer data was opened") };
        assert_eq!(fault, Fault::NewerSchema { found: SCHEMA + 1, supported: SCHEMA });
        assert!(fault.to_string().contains("upgrade"));
    }

    #[test]
    fn data_from_before_the_oldest_migration_is_refused_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let store = Redb::open(&path).unwrap();
        let transaction = store.with(begin).unwrap();
        transaction.open_table(SCHEMA_TABLE).unwrap().insert(SCHEMA_KEY, 4).unwrap();
        transaction.commit().unwrap();
        drop(store);
        let Err(Fault::Storage(why)) = Redb::open(&path) else { panic!("older data was opened") };
        assert!(why.contains("old schema version 4"), "{why}");
    }

    #[test]
    fn a_file_that_was_being_made_when_the_process_was_killed_is_made_anew_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::write(draft_of(&path), vec![0; 8192]).unwrap();
        drop(Redb::open(&path).unwrap());
        assert!(!draft_of(&path).exists());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Left over beside a whole file, it is removed, and the file stays what it is.
        let whole = fs::read(&path).unwrap();
        fs::write(draft_of(&path), b"partial").unwrap();
        make(&path).unwrap();
        assert!(!draft_of(&path).exists());
        assert_eq!(fs::read(&path).unwrap(), whole);
        Redb::open(&path).unwrap();
    }

    #[test]
    fn a_reader_that_stays_does_not_hold_up_a_recovery() {
        let directory = tempfile::tempdir().unwrap();
        let store = Redb::open(&directory.path().join(FILE)).unwrap();
        store.write(&mut |tables| tables.put(Table::Hsms, b"a", b"row")).unwrap();
        let reader = store.view().unwrap();
        store.recover().unwrap();
        assert_eq!(store.view().unwrap().get(Table::Hsms, b"a").unwrap().as_deref(), Some(b"row".as_slice()));
        drop(reader);
        store.write(&mut |tables| tables.put(Table::Hsms, b"b", b"row")).unwrap();
    }

    #[test]
    fn a_failed_change_is_undone_and_ranges_stay_inside_their_prefix() {
        let directory = tempfile::tempdir().unwrap();
        let store = Redb::open(&directory.path().join(FILE)).unwrap();
        store
            .write(&mut |tables| {
                for key in [b"a\0".as_slice(), b"a\0b", b"ab\0", b"b\0"] {
                    tables.put(Table::Hsms, key, b"row")?;
                }
                Ok(())
            })
            .unwrap();
        let undone = store.write(&mut |tables| {
            tables.put(Table::Hsms, b"c\0", b"")?;
            Err(Fault::Busy)
        });
        assert_eq!(undone, Err(Fault::Busy));
        let rows = store.view().unwrap();
        assert_eq!(rows.get(Table::Hsms, b"c\0").unwrap(), None);
        let found = rows.range(Table::Hsms, b"a\0", b"", usize::MAX).unwrap();
        assert_eq!(found.iter().map(|row| row.0.as_slice()).collect::<Vec<_>>(), [b"a\0".as_slice(), b"a\0b"]);
        assert_eq!(rows.range(Table::Hsms, b"", b"ab", 1).unwrap().len(), 1);
    }
}
