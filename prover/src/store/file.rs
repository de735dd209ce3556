//! Files of secrets: who may read them, who may write them, and writes that survive a crash.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rand::RngCore;
use zeroize::Zeroizing;

use super::StoreError;

/// Bytes of a key file.
pub(super) const KEY_FILE: usize = 32;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Creates a key file: 32 random bytes that only its owner can read.
///
/// # Errors
/// [`StoreError::Exists`] rather than write over anything; [`StoreError::EmptyKeyFile`] where a crash of an older build
/// left an empty one.
pub fn create_key_file(path: &Path) -> Result<(), StoreError> {
    let mut key = Zeroizing::new([0; KEY_FILE]);
    rand::rngs::OsRng.fill_bytes(&mut *key);
    // The name appears with the whole key under it, or not at all. No two creators share a temporary file.
    let temporary = beside(path, &format!(".{:016x}.new", rand::rngs::OsRng.next_u64()));
    let linked = write_private(&temporary, &*key).and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let empty = fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0);
            return Err(if empty { StoreError::EmptyKeyFile } else { StoreError::Exists }(path.to_owned()));
        }
        other => other.map_err(StoreError::io(path))?,
    }
    removed.map_err(StoreError::io(temporary))?;
    sync_directory(path)
}

/// Reads a key file that nobody but its owner can read.
pub(super) fn read_key_file(path: &Path) -> Result<Zeroizing<[u8; KEY_FILE]>, StoreError> {
    let mut file = File::open(path).map_err(StoreError::io(path))?;
    check_private(&file, path)?;
    let mut key = Zeroizing::new([0; KEY_FILE]);
    if file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0) {
        return Err(StoreError::EmptyKeyFile(path.to_owned()));
    }
    let complete = file.read_exact(&mut *key).is_ok();
    let ends = matches!(file.read(&mut [0]), Ok(0));
    if complete && ends { Ok(key) } else { Err(StoreError::NotAKeyFile(path.to_owned())) }
}

/// Reads a whole file of at most 16 MiB.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let file = File::open(path).map_err(StoreError::io(path))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(StoreError::io(path))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(StoreError::NotAStore { path: path.to_owned(), why: "it is longer than any store" });
    }
    Ok(bytes)
}

/// Replaces `path` by `bytes`: after a crash either the old or the new file is there, whole.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = beside(path, ".new");
    let written = write_private(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    written.map_err(StoreError::io(path))?;
    sync_directory(path)
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A left-over of a crash may be there; whoever writes holds the lock.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private(OpenOptions::new().write(true).create_new(true)).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a name that was created or replaced durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    #[cfg(unix)]
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(StoreError::io(parent))?;
    #[cfg(not(unix))]
    let _ = parent;
    Ok(())
}

/// How long a store is waited for whose process ends.
const PARTING: Duration = Duration::from_secs(1);

/// Holds the right to write a store; given back on drop, or when the process ends however it ends.
///
/// The lock is on a file of its own, since every write replaces the store's.
pub(super) struct WriteLock {
    _file: File,
}

impl WriteLock {
    /// Takes the lock. A process that was killed, or has ended this moment, takes a while to let go of its own.
    pub(super) fn take(store: &Path) -> Result<Self, StoreError> {
        let path = beside(store, ".lock");
        let file = private(OpenOptions::new().write(true).create(true).truncate(false)).open(&path);
        let file = file.map_err(StoreError::io(&path))?;
        let asked = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if asked.elapsed() < PARTING => thread::sleep(PARTING / 20),
                Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(store.to_owned())),
                Err(TryLockError::Error(error)) => return Err(StoreError::io(path)(error)),
            }
        }
    }
}

/// `path` with `suffix` after its last component.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// New files can be read and written by their owner alone.
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Refuses a file that others may read or write.
pub(super) fn check_private(file: &File, path: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    {
        let metadata = file.metadata().map_err(StoreError::io(path))?;
        let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777;
        if mode & 0o077 != 0 {
            return Err(StoreError::KeyFileTooOpen { path: path.to_owned(), mode });
        }
    }
    #[cfg(not(unix))]
    let _ = (file, path);
    Ok(())
}
