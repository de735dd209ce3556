//! Files that only the manager's user may read, written so that a crash leaves the old or the new content.

use std::{
    fs::{DirBuilder, File, OpenOptions, rename},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

/// Makes a directory that only its owner may enter, if there is none.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file with mode 0600. When this returns, the file survives a loss of power.
pub(crate) fn write_private(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let (target, draft) = (directory.join(name), directory.join(format!(".{name}.draft")));
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    rename(&draft, &target)?;
    File::open(directory)?.sync_all()
}

/// Reads a file, if it is there.
pub(crate) fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Refuses a file with a secret that others may read or write: others than its owner, and than the group where the owner is
/// root. What is no file (a pipe), and what cannot be looked at, is left to whoever opens it.
///
/// # Errors
/// In words for an operator.
pub fn check_private(path: &Path) -> io::Result<()> {
    let Ok(metadata) = std::fs::metadata(path) else { return Ok(()) };
    let others = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    let mode = metadata.mode() & 0o777;
    if !metadata.is_file() || mode & others == 0 {
        return Ok(());
    }
    let why = format!("others than its owner can get at it (mode {mode:03o}), and it holds a secret: chmod 600 it");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_others_can_get_at_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        check_private(&path).unwrap();
        write_private(directory.path(), "secret", b"x").unwrap();
        check_private(&path).unwrap();
        for mode in [0o604, 0o602, 0o620, 0o644, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = check_private(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600") && error.contains(&format!("{mode:03o}")), "{error}");
        }
        let of_root = std::fs::metadata(&path).unwrap().uid() == 0;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(check_private(&path).is_ok(), of_root);
        check_private(directory.path()).unwrap();
    }
}
