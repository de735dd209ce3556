//! What is in force in a worker: it is made as any, and then tries what it must not.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use keywitness_circuits::Nonce;
use keywitness_isolation::{
    Enforced, confine,
    examine::{can_be_made, field, program_refused, sockets_refused},
    process,
};
use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

use super::worker::shut_in;
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
    process::close_inherited();
    files::private_directory(&spec.directory).map_err(at(&spec.directory))?;
    let elsewhere: PathBuf = std::env::current_exe().map_err(at(Path::new("this program")))?;
    // Nobody can lay something there beforehand.
    let new_file = std::env::temp_dir().join(format!("keywitness-examination-{}", Nonce::random()));
    let status_file = Path::new("/proc/self/status");
    let mut status = File::open(status_file).map_err(at(status_file))?;
    confine::harden().warn("the signer");
    let landlock = shut_in(spec);
    confine::lock_memory().warn("the signer");
    let own = files::write_private(&spec.directory, "examination", b"");
    let own = own.and_then(|()| std::fs::remove_file(spec.directory.join("examination")));
    let mut text = String::new();
    status.read_to_string(&mut text).map_err(at(status_file))?;
    let cores = getrlimit(Resource::Core).current == Some(0);
    Ok(Examination {
        landlock,
        own_directory: own.is_ok(),
        files_refused: File::open(&elsewhere).is_err() && !can_be_made(&new_file),
        sockets_refused: sockets_refused(),
        programs_refused: program_refused(&elsewhere),
        not_dumpable: cores && dumpable_behavior().is_ok_and(|dumpable| dumpable == DumpableBehavior::NotDumpable),
        no_new_privileges: field(&text, "NoNewPrivs") == 1,
        filtered: field(&text, "Seccomp") == 2,
        locked_kilobytes: field(&text, "VmLck"),
    })
}
