//! What processes give up, on Linux: landlock(7), seccomp(2), prctl(2). Where the kernel knows no such thing, the process says so
//! in its log and goes on.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, Signal},
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::signer::Spec;

/// The newest landlock whose rights are asked for; of older ones, as many as there are.
const NEWEST: ABI = ABI::V6;

/// How much of what was asked for the kernel enforces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforced {
    /// All of it.
    Fully,
    /// What this kernel knows.
    Partly,
    /// Nothing.
    Not,
}

fn told(what: &str, result: Result<(), impl std::fmt::Display>) {
    if let Err(error) = result {
        tracing::warn!(%error, what, "the signer goes on less protected");
    }
}

/// Gives up core dumps, being looked into by others of the same user, new privileges, and life after the parent.
pub(super) fn harden() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Who may not set limits may have been given this one.
    if rustix::process::getrlimit(Resource::Core) != none {
        told("core dumps", rustix::process::setrlimit(Resource::Core, none));
    }
    told("memory", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable));
    told("privileges", rustix::thread::set_no_new_privs(true));
}

/// From now on this process ends with the one that started it.
pub(super) fn end_with_parent() {
    told("parent", rustix::process::set_parent_process_death_signal(Some(Signal::KILL)));
}

/// Keeps all that is in memory now out of swap.
pub(super) fn lock_memory() {
    if mlockall(MlockAllFlags::CURRENT).is_err() {
        tracing::warn!("keys may reach swap, for memory cannot be locked: raise the limit (LimitMEMLOCK, ulimit -l)");
    }
}

/// Leaves a worker its own directory, no network, and no way to start or look into a process. A PKCS#11 library, whose needs are
/// its vendor's, may read files, write where it is allowed to, and use the network if it is allowed to.
pub(super) fn shut_in(spec: &Spec) -> (Enforced, bool) {
    let own = AccessFs::from_read(NEWEST) & !AccessFs::Execute | AccessFs::from_write(ABI::V3);
    let own = own & !(AccessFs::MakeDir | AccessFs::MakeSym | AccessFs::MakeBlock | AccessFs::MakeChar);
    let mut rules = vec![(spec.directory.clone(), own)];
    let mut network = false;
    if let Some(config) = &spec.pkcs11 {
        rules.push((PathBuf::from("/"), AccessFs::from_read(NEWEST)));
        rules.extend(config.paths.iter().map(|path| (path.clone(), AccessFs::from_all(NEWEST))));
        network = config.network;
    }
    let files = enforce(rules, !network, Scope::Signal | Scope::AbstractUnixSocket);
    if files != Enforced::Fully {
        tracing::warn!(?files, "the kernel's landlock does not hold the signer to its directory");
    }
    let calls = filter(network);
    if let Err(error) = &calls {
        tracing::warn!(%error, "the kernel's seccomp does not keep the signer from the network and other processes");
    }
    (files, calls.is_ok())
}

/// Denies this process the signer's directory, and to write outside `writable`. Called while the process has one thread: those
/// that it has already would keep what they have.
pub fn keep_out(signer: &Path, writable: &[PathBuf]) -> Enforced {
    let count = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    // Those of what was done before may be about to end.
    let ended = (0..100).any(|_| {
        count() <= 1 || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            false
        }
    });
    if !ended {
        let threads = count();
        tracing::warn!(threads, "the manager's threads that run already keep their access to the signer's directory");
    }
    let read = AccessFs::from_read(NEWEST) | AccessFs::IoctlDev;
    let mut rules: Vec<_> = all_but(signer).into_iter().map(|path| (path, read)).collect();
    // Names of files are no secret.
    rules.push((PathBuf::from("/"), AccessFs::ReadDir.into()));
    rules.push((PathBuf::from("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile));
    rules.extend(writable.iter().map(|path| (path.clone(), AccessFs::from_all(NEWEST))));
    let enforced = enforce(rules, false, Scope::Signal.into());
    if enforced == Enforced::Not {
        tracing::warn!(
            "the kernel has no landlock: a manager that is taken over can read the signer's directory. Run the signer as \
             another user (signer.socket)"
        );
    }
    enforced
}

/// Everything beside a directory and beside those above it.
fn all_but(directory: &Path) -> Vec<PathBuf> {
    let Ok(directory) = directory.canonicalize() else { return Vec::new() };
    let above = directory.ancestors().skip(1).filter_map(|above| std::fs::read_dir(above).ok());
    let entries = above.flatten().filter_map(|entry| Some(entry.ok()?.path()));
    // A link may lead to it, or to one above it.
    let leads_there = |path: &PathBuf| path.canonicalize().map_or(true, |target| directory.starts_with(target));
    entries.filter(|path| !leads_there(path)).collect()
}

fn enforce(rules: Vec<(PathBuf, BitFlags<AccessFs>)>, no_network: bool, scopes: BitFlags<Scope>) -> Enforced {
    let restrict = || -> Result<RulesetStatus, RulesetError> {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
        let mut ruleset = ruleset.handle_access(AccessFs::from_all(NEWEST))?.scope(scopes)?;
        if no_network {
            ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
        }
        let rules = rules.iter().flat_map(|(path, rights)| path_beneath_rules([path], *rights));
        Ok(ruleset
            .create()?
            .add_rules(rules.collect::<Vec<Result<PathBeneath<PathFd>, RulesetError>>>())?
            .restrict_self()?
            .ruleset)
    };
    match restrict() {
        Ok(RulesetStatus::FullyEnforced) => Enforced::Fully,
        Ok(RulesetStatus::PartiallyEnforced) => Enforced::Partly,
        Ok(RulesetStatus::NotEnforced) => Enforced::Not,
        Err(error) => {
            tracing::warn!(%error, "landlock refused");
            Enforced::Not
        }
    }
}

/// Calls that a signer never makes, and what took it over would.
const NEVER: [i64; 20] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_memfd_create,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
];

/// Calls that make or use a socket by an address.
const NETWORK: [i64; 4] = [libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen];

/// Has the kernel refuse those calls (EPERM), of every thread.
fn filter(network: bool) -> Result<(), seccompiler::Error> {
    let addressed = NETWORK.into_iter().filter(|_| !network);
    let rules: BTreeMap<i64, Vec<_>> = NEVER.into_iter().chain(addressed).map(|call| (call, Vec::new())).collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?;
    seccompiler::apply_filter_all_threads(&BpfProgram::try_from(filter)?)
}
