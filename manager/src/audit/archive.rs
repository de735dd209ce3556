//! An archive: a directory with a log's openings, as they were fetched, and the newest checkpoint.
//!
//! `openings` holds one record after another: length of the opening (4 bytes, big endian), the first 8 bytes of its SHA-256, and
//! the opening ([`Opening::to_bytes`]). The checksum tells damage from lies; against lies there is the checkpoint, which
//! commits to every entry. The file only grows, and a record that a crash cut short is cut off when fetching goes on.
//!
//! Where the first openings are gone, `snapshot` holds the state that the log seals after some entry, and `openings` begins with the
//! next. `consistency` then has the proof (JSON) that the log begins with the tree that its auditor knew.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use keywitness_verifier::log::{MAX_OPENING, Opening};
use sha2::{Digest as _, Sha256};

use crate::ledger::{
    log::Entry,
    seal::{SNAPSHOT_HEADER, snapshot_sequence},
};

/// Longest record that is read, in bytes.
const MAX_RECORD: usize = 2 * MAX_OPENING + 64;

const HEADER: usize = 12;

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The openings end in the midst of a record.
    #[error("the archive ends in the midst of entry {0}; fetch again, which goes on from entry {before}", before = .0 - 1)]
    Truncated(u64),
    /// A record is damaged.
    #[error("entry {0} of the archive is damaged: its checksum is wrong; fetch it again into another directory")]
    Damaged(u64),
    /// The snapshot is none.
    #[error("the archive's snapshot is none: it does not begin as one; fetch it again into another directory")]
    Snapshot,
    /// A record is no entry.
    #[error("entry {0} of the archive cannot be read: {1}")]
    Unreadable(u64, String),
}

/// An archive's directory.
#[derive(Clone, Debug)]
pub struct Archive(PathBuf);

impl Archive {
    /// The archive in a directory, which is made if there is none.
    ///
    /// # Errors
    /// [`ArchiveError::File`]
    pub fn create(directory: impl Into<PathBuf>) -> Result<Self, ArchiveError> {
        let directory = directory.into();
        match std::fs::create_dir_all(&directory) {
            Ok(()) => Ok(Self(directory)),
            Err(error) => Err(ArchiveError::File { path: directory, error }),
        }
    }

    /// The archive that is in a directory.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// The file with the openings.
    pub fn openings(&self) -> PathBuf {
        self.0.join("openings")
    }

    /// The file with the newest checkpoint, a signed note.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }

    /// The file with the sealed state that the openings begin after, where they do not begin with the first.
    pub fn snapshot(&self) -> PathBuf {
        self.0.join("snapshot")
    }

    /// The file with a consistency proof, as JSON.
    pub fn consistency(&self) -> PathBuf {
        self.0.join("consistency")
    }

    /// The number of the entry that the openings begin after: 0, or that of the snapshot.
    ///
    /// # Errors
    /// [`ArchiveError::File`]; [`ArchiveError::Snapshot`].
    pub fn base(&self) -> Result<u64, ArchiveError> {
        let path = self.snapshot();
        let mut header = Vec::with_capacity(SNAPSHOT_HEADER);
        let read = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            opened => opened.and_then(|file| file.take(SNAPSHOT_HEADER as u64).read_to_end(&mut header)),
        };
        match read {
            Err(error) => Err(ArchiveError::File { path, error }),
            Ok(_) => snapshot_sequence(&header).filter(|sequence| *sequence > 0).ok_or(ArchiveError::Snapshot),
        }
    }

    /// Reads the entries from the first on that the archive has.
    ///
    /// # Errors
    /// [`ArchiveError::File`]
    pub fn entries(&self) -> Result<Entries, ArchiveError> {
        let path = self.openings();
        let file = File::open(&path).map_err(|error| ArchiveError::File { path: path.clone(), error })?;
        Ok(Entries { file: BufReader::with_capacity(1 << 20, file), path, sequence: self.base()?, length: 0 })
    }

    /// Opens the openings to append to them, after cutting off a record that is not whole.
    ///
    /// # Errors
    /// [`ArchiveError::File`], and what is wrong with the entries that are there.
    pub fn append(&self) -> Result<Appender, ArchiveError> {
        let path = self.openings();
        let failed = |error| ArchiveError::File { path: path.clone(), error };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let mut entries = self.entries()?;
        loop {
            match entries.read_bytes() {
                Ok(Some(_)) => {}
                Ok(None) | Err(ArchiveError::Truncated(_)) => break,
                Err(error) => return Err(error),
            }
        }
        let Entries { sequence, length, .. } = entries;
        file.set_len(length).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Appender { file: BufWriter::new(file), path, sequence })
    }
}

/// Reads entries.
pub struct Entries {
    file: BufReader<File>,
    path: PathBuf,
    /// Number of the newest entry that was read.
    sequence: u64,
    /// Bytes of whole records that were read.
    length: u64,
}

impl Entries {
    fn read_bytes(&mut self) -> Result<Option<Vec<u8>>, ArchiveError> {
        let number = self.sequence + 1;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveError::Truncated(number),
            _ => ArchiveError::File { path: self.path.clone(), error },
        };
        let mut header = Vec::with_capacity(HEADER);
        Read::by_ref(&mut self.file).take(HEADER as u64).read_to_end(&mut header).map_err(failed)?;
        if header.is_empty() {
            return Ok(None);
        }
        let Some((length, checksum)) = header.split_first_chunk().filter(|(_, rest)| rest.len() == 8) else {
            return Err(ArchiveError::Truncated(number));
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_RECORD {
            return Err(ArchiveError::Damaged(number));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes).map_err(failed)?;
        if checksum != self::checksum(&bytes) {
            return Err(ArchiveError::Damaged(number));
        }
        self.sequence = number;
        self.length += (HEADER + length) as u64;
        Ok(Some(bytes))
    }
}

impl Iterator for Entries {
    type Item = Result<Opening, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.read_bytes().transpose()?;
        Some(bytes.and_then(|bytes| read(self.sequence, &bytes)))
    }
}

/// Reads one record.
fn read(number: u64, bytes: &[u8]) -> Result<Opening, ArchiveError> {
    let unreadable = |why: &str| ArchiveError::Unreadable(number, why.to_owned());
    match Opening::read(bytes).map_err(|error| unreadable(&error.to_string()))? {
        (_, [_, ..]) => Err(unreadable("something follows it")),
        (opening, []) if opening.sequence != number => Err(unreadable("it has another number")),
        (opening, []) => Ok(opening),
    }
}

/// Appends entries.
pub struct Appender {
    file: BufWriter<File>,
    path: PathBuf,
    sequence: u64,
}

impl Appender {
    /// Number of the newest entry that is there.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Appends the next opening.
    ///
    /// # Errors
    /// [`ArchiveError::Unreadable`] for one of another number, or too long a one; [`ArchiveError::File`].
    pub fn push(&mut self, opening: &Opening) -> Result<(), ArchiveError> {
        let number = self.sequence + 1;
        let unreadable = |why: &str| ArchiveError::Unreadable(number, why.to_owned());
        if opening.sequence != number {
            return Err(unreadable("another was sent in its place"));
        }
        let bytes = opening.to_bytes();
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length as usize <= MAX_RECORD);
        let length = length.ok_or_else(|| unreadable("it is too long"))?;
        let mut write = || {
            self.file.write_all(&length.to_be_bytes())?;
            self.file.write_all(&checksum(&bytes))?;
            self.file.write_all(&bytes)
        };
        write().map_err(|error| ArchiveError::File { path: self.path.clone(), error })?;
        self.sequence = number;
        Ok(())
    }

    /// Brings what was appended to the disk.
    ///
    /// # Errors
    /// [`ArchiveError::File`]
    pub fn flush(&mut self) -> Result<(), ArchiveError> {
        let failed = |error| ArchiveError::File { path: self.path.clone(), error };
        self.file.flush().map_err(failed)?;
        self.file.get_ref().sync_data().map_err(failed)
    }
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    Sha256::digest(bytes).first_chunk().copied().unwrap_or_default()
}

/// The command and its outcome that an opening shows, from their one encoding.
///
/// # Errors
/// [`ArchiveError::Unreadable`] for what no manager of this version writes.
pub fn entry_of(opening: &Opening) -> Result<Entry, ArchiveError> {
    Entry::try_from(opening).map_err(|fault| ArchiveError::Unreadable(opening.sequence, fault.to_string()))
}

/// Writes a file whole or not at all.
///
/// # Errors
/// [`ArchiveError::File`]
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
    let write = || {
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| ArchiveError::File { path: path.to_owned(), error })
}
