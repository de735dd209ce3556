//! The tables that a replay works on.

use crate::ledger::tables::{Fault, Memory, Rows, Table, Tables, Visit};

/// Tables that hold the log itself: the replay reads it from the archive, and keeps no second copy.
const LOG: [Table; 4] = [Table::Commands, Table::Leaves, Table::Events, Table::Subtrees];

/// Tables in memory, but for those that hold the log itself: the archive has it, and no command reads it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch(Memory);

impl Rows for Scratch {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        self.0.get(table, key)
    }

    fn visit(&self, table: Table, prefix: &[u8], start: &[u8], each: &mut Visit<'_>) -> Result<(), Fault> {
        self.0.visit(table, prefix, start, each)
    }
}

impl Tables for Scratch {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        if LOG.contains(&table) { Ok(()) } else { self.0.put(table, key, value) }
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Fault> {
        self.0.remove(table, key)
    }
}
