//! What is in force in a worker: it is made as any, and then tries what it must not.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::{fs::OpenOptionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::Command,
};

use keywitness_circuits::Nonce;
use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

use super::{confine, confine::Enforced, descriptors};
use crate::{
    files,
    signer::{SignerError, Spec, at},
};

/// What a process of the signer cannot do here.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Examination {
    /// How much of landlock is in force.
    pub landlock: Enforced,
    /// Its own directory can be read and written.
    pub own_directory: bool,
    /// A file elsewhere is refused.
    pub files_refused: bool,
    /// A socket is refused.
    pub sockets_refused: bool,
    /// Starting a program is refused.
    pub programs_refused: bool,
    /// Nobody of the same user looks into its memory, and it leaves no core dump.
    pub not_dumpable: bool,
    /// It gains no privileges by starting programs.
    pub no_new_privileges: bool,
    /// The kernel filters its system calls.
    pub filtered: bool,
    /// Memory is locked, in kilobytes.
    pub locked_kilobytes: u64,
}

impl Examination {
    /// Whether all of it is in force.
    pub fn is_whole(&self) -> bool {
        let Self { own_directory, files_refused, sockets_refused, programs_refused, .. } = *self;
        let refused = files_refused && sockets_refused && programs_refused;
        own_directory && refused && self.not_dumpable && self.no_new_privileges && self.filtered
    }
}

/// Shuts this process in as a worker, tries what it must not be able to do, and tells. The process is of no use afterwards.
///
/// # Errors
/// Where the directory cannot be made.
pub fn examine(spec: &Spec) -> Result<Examination, SignerError> {
    descriptors::close_inherited();
    files::private_directory(&spec.directory).map_err(at(&spec.directory))?;
    let elsewhere: PathBuf = std::env::current_exe().map_err(at(Path::new("this program")))?;
    // Nobody can lay something there beforehand.
    let new_file = std::env::temp_dir().join(format!("keywitness-examination-{}", Nonce::random()));
    let status_file = Path::new("/proc/self/status");
    let mut status = File::open(status_file).map_err(at(status_file))?;
    confine::harden();
    let (landlock, _) = confine::shut_in(spec);
    confine::lock_memory();
    let own = files::write_private(&spec.directory, "examination", b"");
    let own = own.and_then(|()| std::fs::remove_file(spec.directory.join("examination")));
    let mut text = String::new();
    status.read_to_string(&mut text).map_err(at(status_file))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let cores = getrlimit(Resource::Core).current == Some(0);
    Ok(Examination {
        landlock,
        own_directory: own.is_ok(),
        files_refused: File::open(&elsewhere).is_err() && !can_be_made(&new_file),
        sockets_refused: UnixDatagram::unbound().is_err() && std::net::TcpListener::bind("127.0.0.1:0").is_err(),
        programs_refused: Command::new(&elsewhere).arg("--version").spawn().is_err(),
        not_dumpable: cores && dumpable_behavior().is_ok_and(|dumpable| dumpable == DumpableBehavior::NotDumpable),
        no_new_privileges: field("NoNewPrivs") == 1,
        filtered: field("Seccomp") == 2,
        locked_kilobytes: field("VmLck"),
    })
}

/// Whether a new file can be made at a path; it is removed again. What is there already stays, and no link is followed.
fn can_be_made(path: &Path) -> bool {
    if OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).is_err() {
        return false;
    }
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "a file of the examination is left behind; remove it");
    }
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_could_be_made_is_gone_and_what_was_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        assert!(can_be_made(&at("new")) && !at("new").exists());
        std::fs::write(at("old"), "kept").unwrap();
        std::os::unix::fs::symlink(at("old"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("target"), at("dangling")).unwrap();
        for there in ["old", "link", "dangling", "nowhere/new"] {
            assert!(!can_be_made(&at(there)), "{there}");
        }
        assert_eq!(std::fs::read_to_string(at("old")).unwrap(), "kept");
        assert!(at("link").is_symlink() && at("dangling").is_symlink() && !at("target").exists());
    }
}
