//! The only room that knows redb.
//!
//! Every table of the ledger is one redb table of bytes. A transaction commits in two phases and is flushed
//! before its outcomes are told: two phases, because strangers choose part of what is stored, and redb's
//! one-phase commit rests on a checksum that a stranger could aim at.

use std::{
    cell::OnceCell,
    fs::{self, File, OpenOptions, rename},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use crate::ledger::{Fault, Rows, Store, Table, Tables, tables::Visit};

/// The version of what this build writes.
pub const SCHEMA: u64 = 5;

/// Where the version is.
const SCHEMA_TABLE: TableDefinition<'static, &str, u64> = TableDefinition::new("schema");
const SCHEMA_KEY: &str = "version";

/// Name of the file in a data directory.
pub const FILE: &str = "manager.redb";

/// How many bytes of the file are held in memory at most, unless the operator says otherwise.
pub const CACHE: usize = 256 << 20;

/// Table codes are below this.
const CODES: usize = 64;
const _: () = {
    let mut tables = Table::ALL;
    while let [table, rest @ ..] = tables {
        assert!((table.code() as usize) < CODES, "a table's code is too high");
        tables = rest;
    }
};

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
    drop(Redb::over(&draft, CACHE)?);
    rename(&draft, path).map_err(failed)?;
    directory.sync_all().map_err(failed)
}

/// Opens the database wherever it is.
type Opener = dyn Fn(&Builder) -> Result<Database, redb::DatabaseError> + Send + Sync;

/// A redb database, usually a file.
///
/// Commits save the allocator's state with the rest (redb's quick repair), so that a start after a crash reads a
/// few pages and not the whole file.
pub struct Redb {
    name: String,
    cache: usize,
    opener: Box<Opener>,
    /// None while it is being recovered.
    database: RwLock<Option<Database>>,
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

    /// Opens the file at `path`, or makes it, and holds at most `cache` bytes of it in memory.
    ///
    /// # Errors
    /// As [`Redb::open`].
    pub fn open_with(path: &Path, cache: usize) -> Result<Self, Fault> {
        make(path)?;
        Self::over(path, cache)
    }

    fn over(path: &Path, cache: usize) -> Result<Self, Fault> {
        let (name, path) = (path.display().to_string(), path.to_owned());
        Self::through(name, cache, Box::new(move |builder| builder.create(&path)))
    }

    /// A database that `opener` opens, now and whenever it is recovered.
    fn through(name: String, cache: usize, opener: Box<Opener>) -> Result<Self, Fault> {
        let store = Self { name, cache, opener, database: RwLock::new(None) };
        store.recover()?;
        Ok(store)
    }

    fn check_schema(&self) -> Result<(), Fault> {
        let transaction = self.begin()?;
        {
            let mut table = transaction.open_table(SCHEMA_TABLE).map_err(failed)?;
            let found = table.get(SCHEMA_KEY).map_err(failed)?.map(|version| version.value());
            match found {
                Some(found) if found > SCHEMA => return Err(Fault::NewerSchema { found, supported: SCHEMA }),
                Some(found) if found < SCHEMA => {
                    let why = "use another data directory, or the keywitness that wrote it";
                    return Err(Fault::Storage(format!("the data has the old schema version {found}; {why}")));
                }
                // Written every time: that shows that the store takes writes.
                _ => drop(table.insert(SCHEMA_KEY, SCHEMA).map_err(failed)?),
            }
        }
        for table in Table::ALL {
            transaction.open_table(definition(*table)).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    fn with<T>(&self, action: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, Fault> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        action(database.as_ref().ok_or_else(|| Fault::Storage("it is being recovered".to_owned()))?)
    }

    fn begin(&self) -> Result<WriteTransaction, Fault> {
        let mut transaction = self.with(|database| database.begin_write().map_err(failed))?;
        transaction.set_durability(Durability::Immediate).map_err(failed)?;
        transaction.set_two_phase_commit(true);
        transaction.set_quick_repair(true);
        Ok(transaction)
    }
}

impl Store for Redb {
    fn write(&self, change: &mut dyn FnMut(&mut dyn Tables) -> Result<(), Fault>) -> Result<(), Fault> {
        let transaction = self.begin()?;
        change(&mut Writing::new(&transaction))?;
        transaction.commit().map_err(|error| Fault::Unsettled(redb::Error::from(error).to_string()))
    }

    fn view(&self) -> Result<Box<dyn Rows>, Fault> {
        let transaction = self.with(|database| database.begin_read().map_err(failed))?;
        Ok(Box::new(Reading { transaction, tables: Opened::default() }))
    }

    fn recover(&self) -> Result<(), Fault> {
        {
            let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
            // The old one is closed first, and with it its lock.
            *database = None;
            let mut builder = Builder::new();
            builder.set_cache_size(self.cache);
            *database = Some((self.opener)(&builder).map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => {
                    Fault::Storage(format!("{} is in use: another manager runs on this directory", self.name))
                }
                error => Fault::Storage(format!("{}: {error}", self.name)),
            })?);
        }
        self.check_schema()
    }
}

/// The tables that a transaction has opened so far, by code: each is opened once, when it is first asked for.
struct Opened<T>([OnceCell<T>; CODES]);

impl<T> Default for Opened<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceCell::new()))
    }
}

impl<T> Opened<T> {
    fn cell(&self, table: Table) -> Result<&OnceCell<T>, Fault> {
        self.0.get(usize::from(table.code())).ok_or_else(|| unopened(table))
    }

    fn get(&self, table: Table, open: impl FnOnce() -> Result<T, redb::TableError>) -> Result<&T, Fault> {
        let cell = self.cell(table)?;
        if let Some(opened) = cell.get() {
            return Ok(opened);
        }
        let opened = open().map_err(failed)?;
        Ok(cell.get_or_init(|| opened))
    }

    fn get_mut(&mut self, table: Table, open: impl FnOnce() -> Result<T, redb::TableError>) -> Result<&mut T, Fault> {
        self.get(table, open)?;
        let cell = self.0.get_mut(usize::from(table.code()));
        cell.and_then(OnceCell::get_mut).ok_or_else(|| unopened(table))
    }
}

fn unopened(table: Table) -> Fault {
    Fault::Storage(format!("table {} cannot be opened", table.name()))
}

type Bytes = &'static [u8];

fn get(table: &impl ReadableTable<Bytes, Bytes>, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    Ok(table.get(key).map_err(failed)?.map(|value| value.value().to_vec()))
}

fn visit(
    table: &impl ReadableTable<Bytes, Bytes>,
    prefix: &[u8],
    start: &[u8],
    each: &mut Visit<'_>,
) -> Result<(), Fault> {
    for row in table.range(start.max(prefix)..).map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        if !key.value().starts_with(prefix) || each(key.value(), value.value())?.is_break() {
            break;
        }
    }
    Ok(())
}

struct Reading {
    transaction: ReadTransaction,
    tables: Opened<ReadOnlyTable<Bytes, Bytes>>,
}

impl Reading {
    fn table(&self, table: Table) -> Result<&ReadOnlyTable<Bytes, Bytes>, Fault> {
        self.tables.get(table, || self.transaction.open_table(definition(table)))
    }
}

impl Rows for Reading {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        get(self.table(table)?, key)
    }

    fn visit(&self, table: Table, prefix: &[u8], start: &[u8], each: &mut Visit<'_>) -> Result<(), Fault> {
        visit(self.table(table)?, prefix, start, each)
    }
}

/// Tables of a transaction that is undone when it is dropped without a commit.
struct Writing<'t> {
    transaction: &'t WriteTransaction,
    tables: Opened<redb::Table<'t, Bytes, Bytes>>,
}

impl<'t> Writing<'t> {
    fn new(transaction: &'t WriteTransaction) -> Self {
        Self { transaction, tables: Opened::default() }
    }

    fn table(&self, table: Table) -> Result<&redb::Table<'t, Bytes, Bytes>, Fault> {
        self.tables.get(table, || self.transaction.open_table(definition(table)))
    }

    fn table_mut(&mut self, table: Table) -> Result<&mut redb::Table<'t, Bytes, Bytes>, Fault> {
        self.tables.get_mut(table, || self.transaction.open_table(definition(table)))
    }
}

impl Rows for Writing<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        get(self.table(table)?, key)
    }

    fn visit(&self, table: Table, prefix: &[u8], start: &[u8], each: &mut Visit<'_>) -> Result<(), Fault> {
        visit(self.table(table)?, prefix, start, each)
    }
}

impl Tables for Writing<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.table_mut(table)?.insert(key, value).map_err(failed)?;
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Fault> {
        self.table_mut(table)?.remove(key).map_err(failed)?;
        Ok(())
    }
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
        let transaction = store.begin().unwrap();
        transaction.open_table(SCHEMA_TABLE).unwrap().insert(SCHEMA_KEY, SCHEMA + 1).unwrap();
        transaction.commit().unwrap();
        drop(store);
        let Err(fault) = Redb::open(&path) else { panic!("newer data was opened") };
        assert_eq!(fault, Fault::NewerSchema { found: SCHEMA + 1, supported: SCHEMA });
        assert!(fault.to_string().contains("upgrade"));
    }

    #[test]
    fn older_data_is_refused_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let store = Redb::open(&path).unwrap();
        let transaction = store.begin().unwrap();
        transaction.open_table(SCHEMA_TABLE).unwrap().insert(SCHEMA_KEY, SCHEMA - 1).unwrap();
        transaction.commit().unwrap();
        drop(store);
        let Err(Fault::Storage(why)) = Redb::open(&path) else { panic!("older data was opened") };
        assert!(why.contains(&format!("old schema version {}", SCHEMA - 1)), "{why}");
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
