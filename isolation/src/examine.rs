//! What is in force in a process: it tries what it must not be able to do, and another process looks at it from outside.
#![allow(unsafe_code)]

use std::{
    fmt, fs,
    fs::{File, OpenOptions},
    io,
    os::unix::{fs::OpenOptionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    ptr,
};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
    net::{AddressFamily, SocketFlags, SocketType},
};
use serde::{Deserialize, Serialize};

use crate::{
    calls::{SECOND_NUMBERS, TYPING},
    confine::Protection,
    memory::page_size,
};

/// What whoever took a process over would try. None of it changes anything where it works.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attempt {
    /// Read files that are not its own: users, this program, other processes.
    ReadFiles,
    /// Make a file elsewhere.
    WriteFiles,
    /// Make a socket: of a network, of this machine, of the kernel.
    MakeSocket,
    /// Start a program.
    StartProgram,
    /// Look into another process: ptrace(2), process_vm_readv(2).
    LookIntoProcess,
    /// Send a signal to another process.
    SignalProcess,
    /// Have memory that is written and run.
    RunData,
    /// Make calls that a process with secrets has no use for: unshare(2), bpf(2), io_uring_setup(2); ioctl(2) that types into a terminal,
    /// prlimit(2) of another process.
    RareCalls,
    /// Make calls by the second numbers that x86-64 has for them (x32).
    SecondNumbers,
    /// Make a socket by which another program of this machine is reached.
    ReachPrograms,
}

impl Attempt {
    /// What a process with secrets does not.
    pub const ALL: [Self; 9] = [
        Self::ReadFiles,
        Self::WriteFiles,
        Self::MakeSocket,
        Self::StartProgram,
        Self::LookIntoProcess,
        Self::SignalProcess,
        Self::RunData,
        Self::RareCalls,
        Self::SecondNumbers,
    ];

    /// What a process that speaks to the network does not.
    pub const OF_NETWORK: [Self; 7] = [
        Self::WriteFiles,
        Self::StartProgram,
        Self::ReachPrograms,
        Self::LookIntoProcess,
        Self::SignalProcess,
        Self::RareCalls,
        Self::SecondNumbers,
    ];

    /// What refuses it.
    pub const fn protection(self) -> Protection {
        match self {
            Self::ReadFiles | Self::WriteFiles | Self::SignalProcess => Protection::Files,
            _ => Protection::Calls,
        }
    }

    /// Tries it, in this process. Whether it was refused.
    pub fn is_refused(self, known: &Known) -> bool {
        match self {
            Self::ReadFiles => known.files.iter().all(|path| File::open(path).is_err()),
            Self::WriteFiles => !can_be_made(&known.new_file),
            Self::MakeSocket => sockets_refused(),
            Self::StartProgram => program_refused(&known.program),
            Self::LookIntoProcess => looking_refused(known.other),
            Self::SignalProcess => refused(libc::SYS_kill, [known.other.into(), 0, 0, 0]),
            Self::RunData => code_refused(),
            Self::RareCalls => {
                refused(libc::SYS_unshare, [0; 4])
                    && [libc::SYS_bpf, libc::SYS_io_uring_setup].into_iter().all(|call| refused(call, [0; 4]))
                    // No terminal is there, no process has that number, and no limits are at that address.
                    && TYPING.into_iter().all(|request| refused(libc::SYS_ioctl, [-1, request.into(), 0, 0]))
                    && refused(libc::SYS_prlimit64, [i32::MAX.into(), 0, 1, 0])
            }
            Self::SecondNumbers => refused(SECOND_NUMBERS | libc::SYS_getpid, [0; 4]),
            Self::ReachPrograms => programs_unreachable(),
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadFiles => "read other files",
            Self::WriteFiles => "write elsewhere",
            Self::MakeSocket => "make a socket",
            Self::StartProgram => "start a program",
            Self::LookIntoProcess => "look into another process",
            Self::SignalProcess => "signal another process",
            Self::RunData => "run what it wrote",
            Self::RareCalls => "make rare system calls",
            Self::SecondNumbers => "make system calls by a second number",
            Self::ReachPrograms => "reach other programs by a socket",
        })
    }
}

/// What a process finds out before it is shut in, for trying later.
#[derive(Clone, Debug)]
pub struct Known {
    files: Vec<PathBuf>,
    new_file: PathBuf,
    program: PathBuf,
    other: u32,
}

impl Known {
    /// What is tried is not in `own`, a directory of the process.
    ///
    /// # Errors
    /// Where this process does not know its own program.
    pub fn find(own: &Path) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let own = own.canonicalize().unwrap_or_else(|_| own.to_owned());
        let elsewhere = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from("/dev/shm")];
        let elsewhere = elsewhere.into_iter().find(|place| !own.starts_with(place) && place.is_dir());
        // Nobody can lay something there beforehand.
        let name = format!("keywitness-examination-{:016x}{:016x}", random(), random());
        let other = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get().unsigned_abs());
        let files = ["/etc/passwd", "/etc/hosts", "/proc/self/mem", "/proc/self/environ"].map(PathBuf::from);
        let files = files.into_iter().filter(|path| File::open(path).is_ok()).chain([program.clone()]).collect();
        let new_file = elsewhere.unwrap_or_else(|| PathBuf::from("/")).join(name);
        Ok(Self { files, new_file, program, other })
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Whether a new file can be made at a path; it is removed again. What is there already stays, and no link is followed.
pub fn can_be_made(path: &Path) -> bool {
    if OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).is_err() {
        return false;
    }
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "a file of the examination is left behind; remove it");
    }
    true
}

/// Whether every kind of socket is refused.
pub fn sockets_refused() -> bool {
    let made = |family| rustix::net::socket(family, SocketType::RAW, None).is_ok();
    UnixDatagram::unbound().is_err()
        && std::net::TcpListener::bind("127.0.0.1:0").is_err()
        && std::net::UdpSocket::bind("127.0.0.1:0").is_err()
        && !made(AddressFamily::NETLINK)
}

/// Whether every socket is refused that leads to other programs of this machine, or to its host's.
fn programs_unreachable() -> bool {
    let made = |family, kind| rustix::net::socket(family, kind, None).is_ok();
    let kinds = [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET];
    let pair = |kind| rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).is_ok();
    !kinds.into_iter().any(|kind| made(AddressFamily::UNIX, kind) || made(AddressFamily::VSOCK, kind))
        && ![SocketType::DGRAM, SocketType::SEQPACKET].into_iter().any(pair)
}

/// Whether starting a program is refused.
pub fn program_refused(program: &Path) -> bool {
    let none = || Stdio::null();
    match Command::new(program).arg("--version").stdin(none()).stdout(none()).stderr(none()).spawn() {
        Err(_) => true,
        Ok(mut child) => {
            let _ = child.wait();
            false
        }
    }
}

/// Makes a system call that does nothing where it is let, and tells whether it was not: EPERM.
fn refused(call: i64, [a, b, c, d]: [i64; 4]) -> bool {
    // SAFETY: with these arguments the calls give an error, or do nothing.
    let result = unsafe { libc::syscall(call, a, b, c, d) };
    result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

fn looking_refused(other: u32) -> bool {
    let other = i64::from(other);
    // Who is not traced is not found (ESRCH), and where nothing is read nothing is (success), unless that is refused.
    let peek = [libc::PTRACE_PEEKDATA.into(), other, 0, 0];
    refused(libc::SYS_ptrace, peek) && refused(libc::SYS_process_vm_readv, [other, 0, 0, 0])
}

fn code_refused() -> bool {
    let page = page_size();
    let rights = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
    // SAFETY: a new mapping, at an address of the kernel's choice, which nobody uses and which goes again.
    unsafe {
        match mmap_anonymous(ptr::null_mut(), page, rights, MapFlags::PRIVATE) {
            Err(_) => true,
            Ok(memory) => munmap(memory, page).is_err(),
        }
    }
}

/// What a process shows to one that looks at it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outside {
    /// It gains no privileges by starting programs.
    pub no_new_privileges: bool,
    /// The kernel filters its system calls.
    pub filtered: bool,
    /// It may leave no core dump.
    pub no_core: bool,
    /// Whoever looks cannot open its memory.
    pub memory_refused: bool,
    /// Memory that is locked, in kilobytes.
    pub locked_kilobytes: u64,
    /// Memory that is there, in kilobytes.
    pub resident_kilobytes: u64,
}

/// Looks at a process.
///
/// # Errors
/// Where it is not there, or shows nothing of itself.
pub fn look_at(pid: u32) -> io::Result<Outside> {
    let of = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let status = fs::read_to_string(of("status"))?;
    let limits = fs::read_to_string(of("limits")).unwrap_or_default();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    Ok(Outside {
        no_new_privileges: field(&status, "NoNewPrivs") == 1,
        filtered: field(&status, "Seccomp") == 2,
        no_core: core.is_some_and(|limits| limits.split_whitespace().take(2).all(|limit| limit == "0")),
        memory_refused: File::open(of("mem")).is_err(),
        locked_kilobytes: field(&status, "VmLck"),
        resident_kilobytes: field(&status, "VmRSS"),
    })
}

/// A number of `/proc/PID/status` (proc(5)); zero where there is none.
pub fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        calls::Calls,
        confine::{Place, Profile},
    };

    #[test]
    fn a_file_that_could_be_made_is_gone_and_what_was_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        assert!(can_be_made(&at("new")) && !at("new").exists());
        fs::write(at("old"), "kept").unwrap();
        std::os::unix::fs::symlink(at("old"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("target"), at("dangling")).unwrap();
        for there in ["old", "link", "dangling", "nowhere/new"] {
            assert!(!can_be_made(&at(there)), "{there}");
        }
        assert_eq!(fs::read_to_string(at("old")).unwrap(), "kept");
        assert!(at("link").is_symlink() && at("dangling").is_symlink() && !at("target").exists());
    }

    /// What is tried is really tried: where nothing is confined, it works.
    #[test]
    fn an_unconfined_process_is_found_out() {
        let known = Known::find(Path::new("/nonexistent")).unwrap();
        for attempt in Attempt::ALL.into_iter().chain([Attempt::ReachPrograms]) {
            // A machine may refuse a user without privileges to look into what the tests were started by.
            if attempt != Attempt::LookIntoProcess {
                assert!(!attempt.is_refused(&known), "{attempt}");
            }
        }
        let found = look_at(std::process::id()).unwrap();
        assert!(!found.filtered && !found.memory_refused);
        assert!(look_at(u32::MAX).is_err());
    }

    /// Who has taken over what speaks to the network reaches no program of its user without a socket either.
    #[test]
    fn what_speaks_to_the_network_sets_no_other_s_limits_and_types_into_no_terminal() {
        use rustix::{
            io::Errno,
            process::{Pid, Resource, Rlimit, getpid, getrlimit, prlimit},
        };
        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&other);
        let limit = move || prlimit(Some(pid), Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        // The other half of a register says nothing to the kernel.
        let halves = |value: i64| [value, value + (1 << 32)];
        let typing = || TYPING.into_iter().flat_map(|request| halves(request.into()));
        let types = |request| refused(libc::SYS_ioctl, [-1, request, 0, 0]);
        // The test is of the thread's limits: before them, a limit is set, and what is missing is a terminal alone.
        limit().unwrap();
        assert!(!typing().any(types));
        let confined = move || {
            crate::confine::hide(&[], &[]);
            assert_eq!(limit(), Err(Errno::PERM));
            for named in halves(pid.as_raw_nonzero().get().into()) {
                assert!(refused(libc::SYS_prlimit64, [named, 0, 1, 0]));
            }
            assert!(typing().all(types));
            // Its own limits it sets as before, and it asks terminals for what changes nothing.
            let own = getrlimit(Resource::Cpu);
            for itself in [None, Some(getpid())] {
                prlimit(itself, Resource::Cpu, own).unwrap();
            }
            let window_size = 0x5413;
            assert!(!types(window_size));
        };
        std::thread::scope(|scope| scope.spawn(confined).join().unwrap());
        drop(other.stdin.take());
        other.wait().unwrap();
    }

    /// Both filters and landlock hold the thread that takes them on, so that the others of the tests go on.
    #[test]
    fn a_confined_thread_is_refused_everything_and_computes() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().to_owned();
        let confined = move || {
            let mut known = Known::find(&own).unwrap();
            known.new_file = PathBuf::from("/dev/shm/keywitness-examination-of-a-test");
            let profile = Profile { places: vec![(own.clone(), Place::Own)], network: false, calls: Calls::Listed };
            let (_, gaps) = profile.shut_in();
            assert_eq!(gaps.0, []);
            let not_refused: Vec<_> = Attempt::ALL.into_iter().filter(|attempt| !attempt.is_refused(&known)).collect();
            assert_eq!(not_refused, []);
            // What it is for works: files of its own, threads, memory.
            assert!(can_be_made(&own.join("new")));
            fs::write(own.join("one"), [7; 10_000]).unwrap();
            fs::rename(own.join("one"), own.join("two")).unwrap();
            File::open(&own).unwrap().sync_all().unwrap();
            assert_eq!(fs::read(own.join("two")).unwrap().len(), 10_000);
            let threads: Vec<_> = (0..4_u64)
                .map(|number| {
                    let name = format!("thread-{number}");
                    std::thread::Builder::new().name(name).spawn(move || vec![number; 1 << 20].iter().sum::<u64>())
                })
                .collect();
            let sums = threads.into_iter().map(|thread| thread.unwrap().join().unwrap()).sum::<u64>();
            assert_eq!(sums, 6 << 20);
            assert!(crate::LockedBytes::new(&[7; 200_000]).expose(|bytes| bytes.iter().all(|byte| *byte == 7)));
        };
        std::thread::spawn(confined).join().unwrap();
    }
}
