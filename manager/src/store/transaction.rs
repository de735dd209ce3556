//! Tables of one redb transaction.

use std::cell::OnceCell;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, WriteTransaction};

use super::{definition, failed};
use crate::ledger::{Fault, Rows, Table, Tables, tables::Visit};

/// Table codes are below this.
const CODES: usize = 64;
const _: () = {
    let mut tables = Table::ALL;
    while let [table, rest @ ..] = tables {
        assert!((table.code() as usize) < CODES, "a table's code is too high");
        tables = rest;
    }
};

/// The tables that a transaction has opened so far, by code: each is opened once, when it is first asked for. Boxed,
/// because most transactions open few.
struct Opened<T>([OnceCell<Box<T>>; CODES]);

impl<T> Default for Opened<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceCell::new()))
    }
}

impl<T> Opened<T> {
    fn cell(&self, table: Table) -> Result<&OnceCell<Box<T>>, Fault> {
        self.0.get(usize::from(table.code())).ok_or_else(|| unopened(table))
    }

    fn get(&self, table: Table, open: impl FnOnce() -> Result<T, redb::TableError>) -> Result<&T, Fault> {
        let cell = self.cell(table)?;
        if let Some(opened) = cell.get() {
            return Ok(opened);
        }
        let opened = Box::new(open().map_err(failed)?);
        Ok(cell.get_or_init(|| opened))
    }

    fn get_mut(&mut self, table: Table, open: impl FnOnce() -> Result<T, redb::TableError>) -> Result<&mut T, Fault> {
        self.get(table, open)?;
        let cell = self.0.get_mut(usize::from(table.code()));
        cell.and_then(OnceCell::get_mut).map(Box::as_mut).ok_or_else(|| unopened(table))
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

/// Tables as they were when the transaction began.
pub(super) struct Reading {
    transaction: ReadTransaction,
    tables: Opened<ReadOnlyTable<Bytes, Bytes>>,
}

impl Reading {
    pub(super) fn new(transaction: ReadTransaction) -> Self {
        Self { transaction, tables: Opened::default() }
    }

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
pub(super) struct Writing<'t> {
    transaction: &'t WriteTransaction,
    tables: Opened<redb::Table<'t, Bytes, Bytes>>,
}

impl<'t> Writing<'t> {
    pub(super) fn new(transaction: &'t WriteTransaction) -> Self {
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
