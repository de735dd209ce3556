//! What processes give up, on Linux: landlock(7), prctl(2), resource limits, and with [`crate::calls`] seccomp(2). What the kernel
//! or the container refuses is a [`Gap`]; the process goes on, unless whoever called decides otherwise.

use std::{
    fmt,
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
use serde::{Deserialize, Serialize};

use crate::calls::{Calls, restrict};

/// The newest landlock whose rights are asked for; of older ones, as many as there are.
const NEWEST: ABI = ABI::V6;

/// How much of what was asked for the kernel enforces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforced {
    /// All of it.
    Fully,
    /// What this kernel knows.
    Partly,
    /// Nothing.
    Not,
}

/// A protection that can be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// The process leaves no core dump.
    CoreDumps,
    /// Others of the same user do not look into its memory.
    Memory,
    /// It gains no privileges by starting programs.
    Privileges,
    /// It ends with the process that started it.
    Parent,
    /// It reaches its own files alone.
    Files,
    /// It makes the system calls that it needs, and no others.
    Calls,
    /// Its secrets are kept out of swap.
    Swap,
}

impl Protection {
    /// What an operator can do where it is missing.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::CoreDumps => "let the process lower its limits (RLIMIT_CORE), or set LimitCORE=0",
            Self::Memory => "let the process call prctl(PR_SET_DUMPABLE), and run nothing else as its user",
            Self::Privileges => "let the process call prctl(PR_SET_NO_NEW_PRIVS), or set NoNewPrivileges=yes",
            Self::Parent => "let the process call prctl(PR_SET_PDEATHSIG)",
            Self::Files => {
                "run Linux 6.12 or later with landlock among its security modules (lsm=landlock,...), in a container whose \
                 filter of system calls lets landlock pass"
            }
            Self::Calls => {
                "run a kernel with CONFIG_SECCOMP_FILTER, in a container that lets a process filter its own calls"
            }
            Self::Swap => {
                "raise the limit on locked memory (LimitMEMLOCK=infinity, ulimit -l unlimited), or turn swap off"
            }
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CoreDumps => "core dumps",
            Self::Memory => "memory",
            Self::Privileges => "privileges",
            Self::Parent => "parent",
            Self::Files => "files",
            Self::Calls => "system calls",
            Self::Swap => "swap",
        })
    }
}

/// A protection that is not in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gap {
    /// Which.
    pub protection: Protection,
    /// What the operating system says.
    pub why: String,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.protection, self.why)
    }
}

/// The protections that are not in force.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gaps(pub Vec<Gap>);

impl Gaps {
    fn note(&mut self, protection: Protection, result: Result<(), impl fmt::Display>) {
        if let Err(error) = result {
            self.0.push(Gap { protection, why: error.to_string() });
        }
    }

    /// How much of landlock holds.
    fn files(&mut self, enforced: Result<Enforced, RulesetError>) -> Enforced {
        let files = enforced.as_ref().map_or(Enforced::Not, |enforced| *enforced);
        let note = match enforced {
            Ok(Enforced::Fully) => Ok(()),
            Ok(Enforced::Partly) => Err("the kernel's landlock is older than all that is asked of it".to_owned()),
            Ok(Enforced::Not) => Err("the kernel has no landlock".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        self.note(Protection::Files, note);
        files
    }

    /// These and those.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Says each in the log, of this process.
    pub fn warn(&self, who: &str) {
        for Gap { protection, why } in &self.0 {
            tracing::warn!(%protection, why, advice = protection.advice(), "{who} goes on less protected");
        }
    }
}

/// Gives up core dumps, being looked into by others of the same user, and new privileges.
pub fn harden() -> Gaps {
    let mut gaps = conceal();
    gaps.note(Protection::Privileges, rustix::thread::set_no_new_privs(true));
    gaps
}

/// Gives up core dumps, and being looked into by others of the same user.
pub fn conceal() -> Gaps {
    let mut gaps = Gaps::default();
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Who may not set limits may have been given this one.
    if rustix::process::getrlimit(Resource::Core) != none {
        gaps.note(Protection::CoreDumps, rustix::process::setrlimit(Resource::Core, none));
    }
    let hidden = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    gaps.note(Protection::Memory, hidden);
    gaps
}

/// From now on this process ends with the thread that started it.
pub fn end_with_parent() -> Gaps {
    let mut gaps = Gaps::default();
    gaps.note(Protection::Parent, rustix::process::set_parent_process_death_signal(Some(Signal::KILL)));
    gaps
}

/// Keeps all that is in memory now out of swap.
pub fn lock_memory() -> Gaps {
    let mut gaps = Gaps::default();
    gaps.note(Protection::Swap, mlockall(MlockAllFlags::CURRENT));
    gaps
}

/// Keeps all that will ever be in memory out of swap, where no limit stands against it; else, memory that is asked for
/// later would be refused at the limit.
pub fn lock_memory_for_good() -> Gaps {
    let mut gaps = Gaps::default();
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if !swaps.is_empty() && swaps.lines().count() <= 1 {
        // Nothing is swapped on this machine.
        return gaps;
    }
    let unlimited = rustix::process::getrlimit(Resource::Memlock).current.is_none() || may_lock_all();
    let locked = match unlimited {
        true => mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
            .map_err(|error| error.to_string()),
        false => Err("what a proof works on can be swapped, for the limit on locked memory is low".to_owned()),
    };
    gaps.note(Protection::Swap, locked);
    gaps
}

/// Whether limits on locked memory do not hold for this process (CAP_IPC_LOCK).
fn may_lock_all() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

/// What a process may do below a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Read files.
    Read,
    /// Read files, load and run them.
    Load,
    /// Read, make, replace and remove files, but make no directories, links or devices, and run nothing.
    Own,
    /// Everything.
    All,
}

impl Place {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Self::Read => AccessFs::from_read(NEWEST) & !AccessFs::Execute,
            Self::Load => AccessFs::from_read(NEWEST),
            Self::Own => {
                let own = AccessFs::from_read(NEWEST) & !AccessFs::Execute | AccessFs::from_write(ABI::V3);
                own & !(AccessFs::MakeDir | AccessFs::MakeSym | AccessFs::MakeBlock | AccessFs::MakeChar)
            }
            Self::All => AccessFs::from_all(NEWEST),
        }
    }
}

/// What a process keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// The files that it reaches. What is not there when the process is shut in stays out of reach.
    pub places: Vec<(PathBuf, Place)>,
    /// Whether it uses the network.
    pub network: bool,
    /// The system calls that it makes.
    pub calls: Calls,
}

impl Profile {
    /// Leaves this process these files and system calls, and no more. Threads that it has already keep the files that they have.
    pub fn shut_in(&self) -> (Enforced, Gaps) {
        let mut gaps = Gaps::default();
        let rules = self.places.iter().map(|(path, place)| (path.clone(), place.rights())).collect();
        let network = if self.network { BitFlags::empty() } else { AccessNet::from_all(NEWEST) };
        let scopes = Scope::Signal | Scope::AbstractUnixSocket;
        let files = gaps.files(enforce(AccessFs::from_all(NEWEST), rules, network, scopes));
        gaps.note(Protection::Calls, restrict(self.calls, self.network));
        (files, gaps)
    }
}

/// Waits a moment until this process has one thread: those of what was done before may be about to end.
fn alone() -> Result<(), usize> {
    let count = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    for _ in 0..100 {
        if count() <= 1 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(count())
}

/// Whether this process has one thread: others would keep what they have.
pub fn single_thread() -> Gaps {
    let mut gaps = Gaps::default();
    gaps.note(
        Protection::Files,
        alone().map_err(|threads| format!("{threads} threads run already, and keep their rights")),
    );
    gaps
}

fn warn_of_threads() {
    if let Err(threads) = alone() {
        tracing::warn!(threads, "threads that run already keep their access to the files of secrets");
    }
}

/// Denies this process a directory, and to write outside `writable`. Called while the process has one thread: those
/// that it has already would keep what they have.
pub fn keep_out(directory: &Path, writable: &[PathBuf]) -> Enforced {
    warn_of_threads();
    let read = AccessFs::from_read(NEWEST) | AccessFs::IoctlDev;
    // What is not there cannot be told from the rest: nothing is left then.
    let hidden = directory.canonicalize().map(|hidden| vec![hidden]);
    let mut rules: Vec<_> =
        hidden.map(|hidden| all_but(&hidden)).unwrap_or_default().into_iter().map(|path| (path, read)).collect();
    // Names of files are no secret.
    rules.push((PathBuf::from("/"), AccessFs::ReadDir.into()));
    rules.push((PathBuf::from("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile));
    rules.extend(writable.iter().map(|path| (path.clone(), AccessFs::from_all(NEWEST))));
    told(enforce(AccessFs::from_all(NEWEST), rules, BitFlags::empty(), Scope::Signal.into()))
}

/// What a process that speaks to the network gives up once everything that it needs is started: to read the files of secrets at these
/// paths, and whatever is made later directly in a directory above one of them; to write, but below `writable`; to start a program; to make a
/// socket of this machine; and to look into, or signal, any process that it does not start from now on. Called while the process has one
/// thread: those that it has already would keep what they have.
pub fn hide(secrets: &[PathBuf], writable: &[PathBuf]) -> (Enforced, Gaps) {
    let mut gaps = Gaps::default();
    let hidden: Vec<_> = secrets.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let read = |path| (path, AccessFs::ReadFile.into());
    let mut rules: Vec<_> = all_but(&hidden).into_iter().map(read).collect();
    if hidden.is_empty() {
        rules.push((PathBuf::from("/"), AccessFs::ReadFile.into()));
    }
    let write = AccessFs::from_write(NEWEST) & !(AccessFs::Refer | AccessFs::IoctlDev);
    let special =
        AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeSock | AccessFs::MakeFifo | AccessFs::MakeSym;
    rules.extend(writable.iter().map(|path| (path.clone(), write & !special)));
    rules.push((PathBuf::from("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile));
    // Nothing moves to another directory, where it could be read.
    let handled = AccessFs::ReadFile | AccessFs::Execute | AccessFs::Refer | write;
    let files = gaps.files(enforce(handled, rules, BitFlags::empty(), Scope::Signal.into()));
    gaps.note(Protection::Calls, restrict(Calls::Network, true));
    (files, gaps)
}

fn told(enforced: Result<Enforced, RulesetError>) -> Enforced {
    enforced.unwrap_or_else(|error| {
        tracing::warn!(%error, "landlock refused");
        Enforced::Not
    })
}

/// Everything beside these canonical paths and beside the directories above them.
fn all_but(hidden: &[PathBuf]) -> Vec<PathBuf> {
    let mut above: Vec<&Path> = hidden.iter().flat_map(|path| path.ancestors().skip(1)).collect();
    above.sort_unstable();
    above.dedup();
    let entries = above.into_iter().filter_map(|above| std::fs::read_dir(above).ok());
    let entries = entries.flatten().filter_map(|entry| Some(entry.ok()?.path()));
    // A link may lead to one, or to what is above one.
    let leads_there = |path: &PathBuf| {
        path.canonicalize().map_or(true, |target| hidden.iter().any(|hidden| hidden.starts_with(&target)))
    };
    entries.filter(|path| !leads_there(path)).collect()
}

fn enforce(
    handled: BitFlags<AccessFs>,
    rules: Vec<(PathBuf, BitFlags<AccessFs>)>,
    network: BitFlags<AccessNet>,
    scopes: BitFlags<Scope>,
) -> Result<Enforced, RulesetError> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let mut ruleset = ruleset.handle_access(handled)?.scope(scopes)?;
    if !network.is_empty() {
        ruleset = ruleset.handle_access(network)?;
    }
    let rules = rules.iter().flat_map(|(path, rights)| path_beneath_rules([path], *rights));
    let status = ruleset
        .create()?
        .add_rules(rules.collect::<Vec<Result<PathBeneath<PathFd>, RulesetError>>>())?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partly,
        RulesetStatus::NotEnforced => Enforced::Not,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::ErrorKind;

    use super::*;
    use crate::examine::{Attempt, Known};

    /// Landlock holds a thread, so that a test can give up what a process gives up.
    fn held(test: impl FnOnce() + Send) {
        std::thread::scope(|scope| scope.spawn(test).join().unwrap());
    }

    #[test]
    fn hidden_files_are_not_read_by_any_way_and_others_are_as_before() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::create_dir(at("hsm")).unwrap();
        std::fs::create_dir(at("open")).unwrap();
        for (name, text) in [("hsm/store", "sealed"), ("hsm/store.key", "key"), ("hsm/journal", "lines")] {
            std::fs::write(at(name), text).unwrap();
        }
        std::os::unix::fs::symlink(at("hsm/store.key"), at("link")).unwrap();
        held(|| {
            let secrets = [at("hsm/store"), at("hsm/store.key"), at("nothing")];
            assert_eq!(hide(&secrets, &[at("hsm"), at("open")]), (Enforced::Fully, Gaps::default()));
            for name in ["hsm/store", "hsm/store.key", "link", "open/../hsm/store.key"] {
                assert_eq!(std::fs::read(at(name)).unwrap_err().kind(), ErrorKind::PermissionDenied, "{name}");
            }
            // Nor by another name, or in another place.
            assert!(std::fs::hard_link(at("hsm/store.key"), at("open/key")).is_err());
            assert!(std::fs::rename(at("hsm/store.key"), at("open/key")).is_err());
            std::fs::rename(at("hsm/store.key"), at("hsm/other")).unwrap();
            assert!(std::fs::read(at("hsm/other")).is_err());
            // What replaces it is no more readable.
            std::fs::write(at("hsm/store.new"), "later").unwrap();
            std::fs::rename(at("hsm/store.new"), at("hsm/store")).unwrap();
            assert!(std::fs::read(at("hsm/store")).is_err());
            assert_eq!(std::fs::read_to_string(at("hsm/journal")).unwrap(), "lines");
            std::fs::rename(at("hsm/journal"), at("hsm/journal.1")).unwrap();
            std::fs::write(at("open/new"), "free").unwrap();
            assert_eq!(std::fs::read_to_string(at("open/new")).unwrap(), "free");
        });
        assert_eq!(std::fs::read_to_string(at("hsm/other")).unwrap(), "key");
    }

    #[test]
    fn with_nothing_to_hide_everything_is_read() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        std::fs::write(&file, "text").unwrap();
        held(|| {
            hide(&[place.path().join("nothing")], &[]);
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
        });
    }

    /// Who has taken over what speaks to the network asks no other program of this machine to read the store for him.
    #[test]
    fn what_speaks_to_the_network_reaches_no_program_and_writes_nowhere_else() {
        use std::{
            io::{Read, Write},
            net::{TcpListener, TcpStream, ToSocketAddrs},
            os::unix::net::{UnixListener, UnixStream},
        };
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::create_dir(at("own")).unwrap();
        std::fs::create_dir(at("other")).unwrap();
        std::fs::write(at("other/crontab"), "").unwrap();
        let _daemon = UnixListener::bind(at("daemon")).unwrap();
        let known = Known::find(&at("own")).unwrap();
        // The test is of the thread's limits: before them, all of this works.
        drop(UnixStream::connect(at("daemon")).unwrap());
        let attempts = Attempt::OF_NETWORK;
        assert!(attempts.iter().any(|attempt| !attempt.is_refused(&known)));
        held(|| {
            hide(&[], &[at("own")]);
            let done: Vec<_> = attempts.into_iter().filter(|attempt| !attempt.is_refused(&known)).collect();
            assert_eq!(done, []);
            assert!(UnixStream::connect(at("daemon")).is_err());
            assert!(std::fs::write(at("other/crontab"), "* * * * * cat store").is_err());
            assert!(std::fs::OpenOptions::new().append(true).open(at("other/crontab")).is_err());
            assert!(std::fs::remove_file(at("other/crontab")).is_err());
            // Nor does it let another user at what it cannot read.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            assert!(std::fs::set_permissions(at("other/crontab"), open).is_err());
            assert!(std::os::unix::fs::chown(at("other/crontab"), Some(1), None).is_err());
            assert!(std::fs::File::create(at("other/new")).is_err() && std::fs::create_dir(at("new")).is_err());
            // What it is for works: its own files, names, the network, threads, a waker's pair of streams.
            std::fs::write(at("own/journal"), "lines").unwrap();
            std::fs::rename(at("own/journal"), at("own/journal.1")).unwrap();
            assert!(("localhost", 80).to_socket_addrs().unwrap().next().is_some());
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let other = std::thread::spawn(move || TcpStream::connect(address).unwrap().write_all(b"hello").unwrap());
            let mut text = String::new();
            listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
            other.join().unwrap();
            assert_eq!(text, "hello");
            let (mut one, mut two) = UnixStream::pair().unwrap();
            one.write_all(b"wake").unwrap();
            two.read_exact(&mut [0; 4]).unwrap();
        });
    }

    #[test]
    fn each_protection_says_what_to_do() {
        let gaps = Gaps(vec![Gap { protection: Protection::Swap, why: "no".to_owned() }]);
        assert_eq!(gaps.0.first().unwrap().to_string(), "swap: no");
        assert!(Protection::Swap.advice().contains("LimitMEMLOCK"));
    }
}
