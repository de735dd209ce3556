//! Reading ahead after a start: what tokens are made of comes into memory once, and not page by page while clients wait.

use std::ops::ControlFlow;

use super::Manager;
use crate::ledger::{Fault, Rows, Table};

/// What a token is made of: what a key is, which HSMs hold it, what was proven of it, and where its status is told.
const WARMED: [Table; 4] = [Table::Keys, Table::Holders, Table::Records, Table::StatusIndexes];

/// How many rows are read in one step.
const STEP_ROWS: usize = 1_024;

/// How far it was read.
pub(crate) struct Warming {
    /// The tables that are left, and where in the first of them to go on.
    tables: std::slice::Iter<'static, Table>,
    table: Option<Table>,
    next: Vec<u8>,
    /// How many bytes of rows may still be read: more would drive out what was read first.
    room: usize,
}

impl Warming {
    /// The beginning: at most `bytes` of rows are read.
    pub(crate) fn new(bytes: usize) -> Self {
        let mut tables = WARMED.iter();
        Self { table: tables.next().copied(), tables, next: Vec::new(), room: bytes }
    }

    /// Reads some rows; whether there are more.
    fn step(&mut self, rows: &dyn Rows) -> Result<bool, Fault> {
        let Some(table) = self.table else { return Ok(false) };
        let (mut read, mut last) = (0, None);
        let start = std::mem::take(&mut self.next);
        rows.visit(table, &[], &start, &mut |key, value| {
            self.room = self.room.saturating_sub(key.len() + value.len());
            read += 1;
            if read < STEP_ROWS && self.room > 0 {
                return Ok(ControlFlow::Continue(()));
            }
            last = Some(key.to_vec());
            Ok(ControlFlow::Break(()))
        })?;
        match last {
            Some(mut key) => {
                key.push(0);
                self.next = key;
            }
            None => self.table = self.tables.next().copied(),
        }
        Ok(self.room > 0 && self.table.is_some())
    }
}

impl Manager {
    /// Goes on reading; whether there is more to read.
    pub(crate) fn read_ahead(&self, warming: &mut Warming) -> bool {
        self.ledger.view().and_then(|rows| warming.step(rows.as_ref())).unwrap_or_else(|fault| {
            tracing::debug!(%fault, "the store is not read ahead");
            false
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::ledger::{Memory, Tables as _, tables::Visit};

    /// Notes what is read.
    struct Noted(Memory, RefCell<Vec<(Table, Vec<u8>)>>);

    impl Rows for Noted {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
            self.0.get(table, key)
        }

        fn visit(&self, table: Table, prefix: &[u8], start: &[u8], each: &mut Visit<'_>) -> Result<(), Fault> {
            self.0.visit(table, prefix, start, &mut |key, value| {
                self.1.borrow_mut().push((table, key.to_vec()));
                each(key, value)
            })
        }
    }

    fn read(cache: usize) -> Vec<(Table, Vec<u8>)> {
        let mut memory = Memory::default();
        for number in 0..(2 * STEP_ROWS as u32 + 5) {
            memory.put(Table::Keys, &number.to_be_bytes(), &[0; 6]).unwrap();
        }
        memory.put(Table::Holders, b"holder", b"").unwrap();
        memory.put(Table::StatusIndexes, b"index", b"").unwrap();
        memory.put(Table::Commands, b"nothing", b"that tokens need").unwrap();
        let (noted, mut warming) = (Noted(memory, RefCell::default()), Warming::new(cache));
        while warming.step(&noted).unwrap() {}
        noted.1.into_inner()
    }

    #[test]
    fn every_row_that_tokens_need_is_read_once_and_no_more_than_memory_holds() {
        let all = read(usize::MAX);
        assert_eq!(all.len(), 2 * STEP_ROWS + 5 + 2);
        assert!(all.is_sorted_by(|one, next| one < next));
        // Ten bytes a row.
        assert_eq!(read(10 * 100).len(), 100);
        assert_eq!(read(0).len(), 1);
    }
}
