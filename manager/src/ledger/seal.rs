//! A root over the whole state, and the state as a stream of bytes that the root is the hash of.
//!
//! The stream: `MAGIC`, the number of the command after which the state is (8 bytes), then every row of every state
//! table in the order of table codes and keys (table code, length of the key in 4 bytes, key, length of the value in 4
//! bytes, value), and a byte 0xff. Numbers are big-endian. A snapshot is the stream and its SHA-256, which is the root.

use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
};

use keywitness_circuits::Digest;
use keywitness_verifier::log::StateSeal;
use sha2::{Digest as _, Sha256};

use super::{
    state::State,
    tables::{Fault, Rows, Table, Tables},
};

/// What a stream begins with: it also keeps the hash apart from every other.
const MAGIC: &[u8; 20] = b"keywitness-state-v1\n";

const END: u8 = 0xff;

/// Longest key or value that is read, in bytes.
const MAX_PART: usize = 16 * 1024 * 1024;

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read or written.
    #[error("the snapshot cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// The state cannot be read or written.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It is no snapshot, or is damaged.
    #[error("this is no whole snapshot: {0}")]
    Malformed(&'static str),
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a snapshot of the state, one row at a time, and gives its root.
///
/// # Errors
/// [`SnapshotError`]
pub fn write_snapshot(rows: &dyn Rows, out: impl Write) -> Result<StateSeal, SnapshotError> {
    let sequence = State(rows).head()?.sequence;
    let mut out = Hashing { inner: out, hash: Sha256::new() };
    out.write_all(MAGIC)?;
    out.write_all(&sequence.to_be_bytes())?;
    for table in Table::ALL.iter().filter(|table| table.is_state()) {
        let mut failed = None;
        rows.visit(*table, &[], &[], &mut |key, value| {
            let mut write = || {
                out.write_all(&[table.code()])?;
                for part in [key, value] {
                    let length = u32::try_from(part.len()).map_err(io::Error::other)?;
                    out.write_all(&length.to_be_bytes())?;
                    out.write_all(part)?;
                }
                Ok::<_, io::Error>(())
            };
            failed = write().err();
            Ok(if failed.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
    out.write_all(&[END])?;
    let root = Digest(out.hash.finalize().into());
    out.inner.write_all(&root.0)?;
    out.inner.flush()?;
    Ok(StateSeal { sequence, root })
}

/// The root over a state.
///
/// # Errors
/// [`Fault`]
pub fn state_root(rows: &dyn Rows) -> Result<StateSeal, Fault> {
    write_snapshot(rows, io::sink()).map_err(|error| match error {
        SnapshotError::Fault(fault) => fault,
        error => Fault::Storage(error.to_string()),
    })
}

struct Reading<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Reading<R> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut array = [0; N];
        self.inner.read_exact(&mut array)?;
        self.hash.update(array);
        Ok(array)
    }

    fn part(&mut self) -> Result<Vec<u8>, SnapshotError> {
        let length = u32::from_be_bytes(self.array()?);
        if length as usize > MAX_PART {
            return Err(SnapshotError::Malformed("a row is too long"));
        }
        // Grows with what really is there, not with what is announced.
        let mut part = Vec::new();
        Read::by_ref(&mut self.inner).take(length.into()).read_to_end(&mut part)?;
        if part.len() != length as usize {
            return Err(SnapshotError::Malformed("it ends too early"));
        }
        self.hash.update(&part);
        Ok(part)
    }
}

/// Length of what [`snapshot_sequence`] reads, in bytes.
pub(crate) const SNAPSHOT_HEADER: usize = MAGIC.len() + size_of::<u64>();

/// The number of the command that a snapshot says it was made after, from its first [`SNAPSHOT_HEADER`] bytes.
pub(crate) fn snapshot_sequence(header: &[u8]) -> Option<u64> {
    let number = header.strip_prefix(MAGIC)?.first_chunk()?;
    Some(u64::from_be_bytes(*number))
}

/// Reads a snapshot into empty tables, and gives its root: which the caller compares with one that a log's checkpoint
/// commits to, before it believes a row.
///
/// # Errors
/// [`SnapshotError`]; what was read until then is of no use.
pub fn read_snapshot(from: impl Read, tables: &mut dyn Tables) -> Result<StateSeal, SnapshotError> {
    let mut from = Reading { inner: from, hash: Sha256::new() };
    if from.array()? != *MAGIC {
        return Err(SnapshotError::Malformed("it does not begin as one"));
    }
    let sequence = u64::from_be_bytes(from.array()?);
    let mut before: Option<(u8, Vec<u8>)> = None;
    loop {
        let [code] = from.array()?;
        if code == END {
            break;
        }
        let table = Table::ALL.iter().find(|table| table.code() == code && table.is_state());
        let table = *table.ok_or(SnapshotError::Malformed("it has a table that is not of the state"))?;
        let (key, value) = (from.part()?, from.part()?);
        tables.put(table, &key, &value)?;
        let here = (code, key);
        if before.is_some_and(|before| before >= here) {
            return Err(SnapshotError::Malformed("its rows are not in order"));
        }
        before = Some(here);
    }
    let root = Digest(from.hash.finalize().into());
    let mut end = Vec::new();
    from.inner.take(33).read_to_end(&mut end)?;
    if end != root.0 {
        return Err(SnapshotError::Malformed("its checksum is wrong"));
    }
    if State(tables).head()?.sequence != sequence {
        return Err(SnapshotError::Malformed("it is of another command than it says"));
    }
    Ok(StateSeal { sequence, root })
}
