//! The data directory: where things are, and how small secret files are written and read.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context;
use keywitness_circuits::{Timestamp, params::Groth16Circuit};

/// The data directory's layout.
pub(crate) struct Data<'a>(pub(crate) &'a Path);

impl Data<'_> {
    pub(crate) fn parameters(&self) -> PathBuf {
        self.parameters_of(Groth16Circuit::OneKey)
    }
    pub(crate) fn parameters_of(&self, circuit: Groth16Circuit) -> PathBuf {
        self.0.join(match circuit {
            Groth16Circuit::OneKey => "groth16-parameters",
            Groth16Circuit::ManyKeys => "groth16-many-parameters",
        })
    }
    pub(crate) fn ceremony_of(&self, circuit: Groth16Circuit) -> PathBuf {
        self.0.join(match circuit {
            Groth16Circuit::OneKey => "groth16-ceremony",
            Groth16Circuit::ManyKeys => "groth16-many-ceremony",
        })
    }
    pub(crate) fn manager(&self) -> PathBuf {
        self.0.join("manager")
    }
    pub(crate) fn signer(&self) -> PathBuf {
        self.0.join(keywitness_manager::settings::SIGNER)
    }
    pub(crate) fn manager_settings(&self) -> PathBuf {
        self.0.join("manager.toml")
    }
    pub(crate) fn manager_ca(&self) -> PathBuf {
        self.manager().join(keywitness_manager::tls::CA_FILE)
    }
    pub(crate) fn operator_credential(&self) -> PathBuf {
        self.manager().join("operator.credential")
    }
    pub(crate) fn client_credential(&self) -> PathBuf {
        self.0.join("client.credential")
    }
    pub(crate) fn viewer_credential(&self) -> PathBuf {
        self.0.join("viewer.credential")
    }
    pub(crate) fn manager_address(&self) -> PathBuf {
        self.0.join("manager.address")
    }
    pub(crate) fn hsm(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    pub(crate) fn manager_lock(&self) -> PathBuf {
        self.0.join("manager.lock")
    }
}

/// Makes a directory that only its owner can enter.
pub(crate) fn make_dir(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}; choose another place with --data DIR", path.display()))
}

/// Holds a lock file until dropped, or the process ends: one manager to a data directory.
pub(crate) fn lock(path: &Path) -> anyhow::Result<fs::File> {
    let file = fs::File::create(path)
        .with_context(|| format!("cannot write {}; choose another place with --data DIR", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => anyhow::bail!(
            "a manager is already running on this data directory ({} is locked); stop it, or give --data DIR",
            path.display()
        ),
    }
}

/// Refuses to write files into the directory of another user, who could not read them.
pub(crate) fn ensure_own(directory: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let owner = fs::metadata(directory).with_context(|| directory.display().to_string())?.uid();
    anyhow::ensure!(
        owner == rustix::process::geteuid().as_raw(),
        "{} belongs to user {owner}, who could not read what this writes: run it as that user (runuser -u USER -- keywitness ...)",
        directory.display()
    );
    Ok(())
}

/// Whether some process holds a lock file.
pub(crate) fn is_locked(path: &Path) -> bool {
    fs::File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
}

/// Opens a file that only its owner can read, to be written later, when this process may make none here any more.
pub(crate) fn open_private(path: &Path) -> anyhow::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let options = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    options.with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a file, or standard input where its name is `-`.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        return Ok(bytes);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The same of a file from strangers, which is refused where it is longer.
pub(crate) fn read_at_most(path: &Path, most: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = most as u64 + 1;
    if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        let read = fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
        read.with_context(|| format!("cannot read {}", path.display()))?;
    }
    if bytes.len() > most {
        return Err(crate::output::No(format!("{} is longer than {most} bytes", path.display())).into());
    }
    Ok(bytes)
}

/// Reads a one-line file.
pub(crate) fn read_line(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Reads a time: RFC 3339 in UTC (`2026-01-31T12:00:00Z`), a date, whose first second is meant, or seconds since 1970.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Timestamp(seconds));
    }
    let date = text.len() == "2026-01-31".len();
    let whole = if date { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let time = humantime::parse_rfc3339(&whole).map_err(|error| {
        format!("write a time as 2026-01-31T12:00:00Z (UTC), 2026-01-31, or in seconds since 1970: {error}")
    })?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| "times begin with 1970".to_owned())?;
    Ok(Timestamp(since.as_secs()))
}

/// This machine's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(since.map_or(0, |duration| duration.as_secs()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_people_and_as_machines_write_it() {
        for (text, seconds) in [
            ("0", 0),
            ("1700000000", 1_700_000_000),
            ("2023-11-14T22:13:20Z", 1_700_000_000),
            ("2023-11-14T22:13:20.5Z", 1_700_000_000),
            ("2023-11-14", 1_699_920_000),
        ] {
            assert_eq!(time(text).unwrap(), Timestamp(seconds), "{text}");
            assert_eq!(time(&crate::output::time(Timestamp(seconds))).unwrap(), Timestamp(seconds));
        }
        for wrong in
            ["", "yesterday", "2023-13-01", "2023-11-14T22:13:20+02:00", "2023-11-14 22:13", "-1", "1969-12-31"]
        {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert!(time("noon").unwrap_err().contains("2026-01-31T12:00:00Z"));
    }
}
