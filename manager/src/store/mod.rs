//! The only room that knows redb.
//!
//! Every table of the ledger is one redb table of bytes. A transaction commits in two phases and is flushed
//! before its outcomes are told: two phases, because strangers choose part of what is stored, and redb's
//! one-phase commit rests on a checksum that a stranger could aim at.

use std::{
    fs::{self, File, OpenOptions, rename},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::ledger::{Fault, Rows, Store, Table, Tables, tables::Row};

/// The version of what this build writes.
pub const SCHEMA: u64 = 5;

/// Where the version is.
const SCHEMA_TABLE: TableDefinition<'static, &str, u64> = TableDefinition::new("schema");
const SCHEMA_KEY: &str = "version";

/// Name of the file in a data directory.
pub const FILE: &str = "manager.redb";

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
    drop(Redb::over(&draft)?);
    rename(&draft, path).map_err(failed)?;
    directory.sync_all().map_err(failed)
}

/// A redb file.
pub struct Redb {
    database: Database,
}

impl Redb {
    /// Opens the file at `path`, or makes it.
    ///
    /// # Errors
    /// [`Fault::NewerSchema`] for data that a newer program wrote; [`Fault::Storage`] where the file cannot
    /// be opened, as while another process has it open.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        make(path)?;
        Self::over(path)
    }

    fn over(path: &Path) -> Result<Self, Fault> {
        let database = Database::create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                Fault::Storage(format!("{} is in use: another manager runs on this directory", path.display()))
            }
            error => Fault::Storage(format!("{}: {error}", path.display())),
        })?;
        let store = Self { database };
        store.check_schema()?;
        Ok(store)
    }

    fn check_schema(&self) -> Result<(), Fault> {
        let transaction = self.begin()?;
        {
            let mut table = transaction.open_table(SCHEMA_TABLE).map_err(failed)?;
            let found = table.get(SCHEMA_KEY).map_err(failed)?.map(|version| version.value());
            match found {
                None => drop(table.insert(SCHEMA_KEY, SCHEMA).map_err(failed)?),
                Some(found) if found > SCHEMA => return Err(Fault::NewerSchema { found, supported: SCHEMA }),
                Some(found) if found < SCHEMA => {
                    let why = "use another data directory, or the keywitness that wrote it";
                    return Err(Fault::Storage(format!("the data has the old schema version {found}; {why}")));
                }
                Some(_) => {}
            }
        }
        for table in Table::ALL {
            transaction.open_table(definition(*table)).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    fn begin(&self) -> Result<WriteTransaction, Fault> {
        let mut transaction = self.database.begin_write().map_err(failed)?;
        transaction.set_durability(Durability::Immediate).map_err(failed)?;
        transaction.set_two_phase_commit(true);
        Ok(transaction)
    }
}

impl Store for Redb {
    fn write(&self, change: &mut dyn FnMut(&mut dyn Tables) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut writing = Writing(self.begin()?);
        change(&mut writing)?;
        writing.0.commit().map_err(failed)
    }

    fn view(&self) -> Result<Box<dyn Rows>, Fault> {
        Ok(Box::new(Reading(self.database.begin_read().map_err(failed)?)))
    }
}

/// Rows of a table that is open.
fn get(table: &impl ReadableTable<&'static [u8], &'static [u8]>, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    Ok(table.get(key).map_err(failed)?.map(|value| value.value().to_vec()))
}

fn range(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    prefix: &[u8],
    start: &[u8],
    limit: usize,
) -> Result<Vec<Row>, Fault> {
    let mut rows = Vec::new();
    for row in table.range(start.max(prefix)..).map_err(failed)?.take(limit) {
        let (key, value) = row.map_err(failed)?;
        if !key.value().starts_with(prefix) {
            break;
        }
        rows.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(rows)
}

struct Reading(ReadTransaction);

impl Rows for Reading {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        get(&self.0.open_table(definition(table)).map_err(failed)?, key)
    }

    fn range(&self, table: Table, prefix: &[u8], start: &[u8], limit: usize) -> Result<Vec<Row>, Fault> {
        range(&self.0.open_table(definition(table)).map_err(failed)?, prefix, start, limit)
    }
}

/// Undone when it is dropped without a commit.
struct Writing(WriteTransaction);

impl Rows for Writing {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        get(&self.0.open_table(definition(table)).map_err(failed)?, key)
    }

    fn range(&self, table: Table, prefix: &[u8], start: &[u8], limit: usize) -> Result<Vec<Row>, Fault> {
        range(&self.0.open_table(definition(table)).map_err(failed)?, prefix, start, limit)
    }
}

impl Tables for Writing {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.0.open_table(definition(table)).map_err(failed)?.insert(key, value).map_err(failed)?;
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Fault> {
        self.0.open_table(definition(table)).map_err(failed)?.remove(key).map_err(failed)?;
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
