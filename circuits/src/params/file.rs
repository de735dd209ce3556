//! How a parameter or ceremony file is written: whole or not at all.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Writes `bytes` to `path`. Gives whether they were written; they are not where the file exists already and
/// may not be replaced. Whoever reads sees the old file or the new one, and after a crash too.
pub(crate) fn persist(path: &Path, bytes: &[u8], replace: bool) -> io::Result<bool> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let partial = directory.join(format!(".parameters-{:016x}.partial", rand::random::<u64>()));
    let store = || {
        let mut file = File::options().write(true).create_new(true).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        let stored = if replace {
            std::fs::rename(&partial, path).map(|()| true)
        } else {
            match std::fs::hard_link(&partial, path) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                // A file system without links.
                Err(_) => std::fs::rename(&partial, path).map(|()| true),
            }
        }?;
        File::open(directory)?.sync_all()?;
        Ok(stored)
    };
    let result = store();
    // Gone already where it was renamed.
    let _ = std::fs::remove_file(&partial);
    result
}
