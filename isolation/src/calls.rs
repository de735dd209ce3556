//! Which system calls a process makes: seccomp(2). What it does not make is refused with EPERM.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// The system calls that are left to a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Calls {
    /// Those of a list: what threads that compute, read and write files and answer on sockets they have already need. No
    /// socket, process or program is made, no memory becomes code, and no other process is touched. Applied while the process has one thread.
    Listed,
    /// All but those of a list: for libraries of others, which may do what nobody knows. They start no program, look into
    /// no process, set no other's limits, type into no terminal, and make no socket unless the network is left to them. Applied to every thread.
    AllBut,
    /// All but those, sockets of this machine, and what lets others at a file: for what speaks to the network. Applied while the process has one thread.
    Network,
}

/// Calls that a process with secrets never makes, and what took it over would.
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

/// Requests of ioctl(2) that type into a terminal, TIOCSTI and TIOCLINUX: a shell that has it too would run what is typed. The numbers are the
/// same on every architecture that there are filters for.
pub(crate) const TYPING: [u32; 2] = [0x5412, 0x541c];

/// Calls that make or use a socket by an address.
const NETWORK: [i64; 4] = [libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen];

/// Calls that let others at a file, which landlock leaves alone.
const RIGHTS: [i64; 9] = [
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    SETXATTRAT,
];

/// Younger calls, whose numbers are the same on every architecture.
const FCHMODAT2: i64 = 452;
const SETXATTRAT: i64 = 463;

/// Older forms of the same, which other architectures never had.
#[cfg(target_arch = "x86_64")]
const OLDER_RIGHTS: [i64; 3] = [libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_RIGHTS: [i64; 0] = [];

/// Calls whose arguments do not matter.
const PLAIN: [i64; 64] = [
    // Descriptors that it has, and files that landlock leaves it.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_getcwd,
    // Sockets that it was given.
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_ppoll,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_mlockall,
    libc::SYS_memfd_secret,
    // Threads, time, randomness.
    libc::SYS_futex,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_membarrier,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_geteuid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
];

/// Older forms of the same, which other architectures never had.
#[cfg(target_arch = "x86_64")]
const OLDER: [i64; 12] = [
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_link,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_nanosleep,
    libc::SYS_time,
    libc::SYS_gettimeofday,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: [i64; 0] = [];

/// A call that is made with this argument alone, or with these of its bits.
struct Narrowed {
    call: i64,
    argument: u8,
    length: SeccompCmpArgLen,
    compare: SeccompCmpOp,
    value: u64,
}

/// Calls whose arguments tell what is harmless.
fn narrowed() -> Vec<Narrowed> {
    let bits = |call, argument, mask: libc::c_int, value: libc::c_int| Narrowed {
        call,
        argument,
        length: SeccompCmpArgLen::Qword,
        compare: SeccompCmpOp::MaskedEq(mask.unsigned_abs().into()),
        value: value.unsigned_abs().into(),
    };
    // The kernel takes half of the register.
    let number = |call, argument, value: u32| Narrowed {
        call,
        argument,
        length: SeccompCmpArgLen::Dword,
        compare: SeccompCmpOp::Eq,
        value: value.into(),
    };
    vec![
        // No memory becomes code.
        bits(libc::SYS_mmap, 2, libc::PROT_EXEC, 0),
        bits(libc::SYS_mprotect, 2, libc::PROT_EXEC, 0),
        // Threads, and no processes.
        bits(libc::SYS_clone, 0, libc::CLONE_THREAD, libc::CLONE_THREAD),
        // A thread's name, and nothing that was given up before.
        number(libc::SYS_prctl, 0, libc::PR_SET_NAME.unsigned_abs()),
        // Aborting: signals to itself alone.
        number(libc::SYS_tgkill, 0, std::process::id()),
        // Limits are read: no new ones are given, by a pointer to them.
        Narrowed { length: SeccompCmpArgLen::Qword, ..number(libc::SYS_prlimit64, 2, 0) },
    ]
}

/// Has the kernel refuse what is not left to this process.
///
/// # Errors
/// What seccompiler says: nothing is refused then, or too little.
pub(crate) fn restrict(calls: Calls, network: bool) -> Result<(), seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let make = |rules, otherwise, matched| {
        let filter = SeccompFilter::new(rules, otherwise, matched, arch)?;
        BpfProgram::try_from(filter)
    };
    match calls {
        Calls::AllBut => {
            let addressed = NETWORK.into_iter().filter(|_| !network);
            let mut rules = any(NEVER.into_iter().chain(addressed));
            rules.extend(other_programs()?);
            seccompiler::apply_filter_all_threads(&renumbered())?;
            seccompiler::apply_filter_all_threads(&make(rules, SeccompAction::Allow, refused)?)
        }
        Calls::Network => {
            let mut rules = any(NEVER.into_iter().chain(RIGHTS).chain(OLDER_RIGHTS));
            rules.extend(local_sockets()?);
            rules.extend(other_programs()?);
            seccompiler::apply_filter(&renumbered())?;
            seccompiler::apply_filter(&make(rules, SeccompAction::Allow, refused)?)
        }
        Calls::Listed => {
            let mut rules = any(PLAIN.into_iter().chain(OLDER));
            for Narrowed { call, argument, length, compare, value } in narrowed() {
                let condition = SeccompCondition::new(argument, length, compare, value)?;
                rules.entry(call).or_default().push(SeccompRule::new(vec![condition])?);
            }
            // A filter cannot read what clone3 is given, so that it is as if the kernel did not have it: then the C library
            // makes threads by clone. Of two filters the stricter one counts.
            let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
            let no_clone3 = make(any([libc::SYS_clone3]), SeccompAction::Allow, absent)?;
            let listed = make(rules, refused, SeccompAction::Allow)?;
            // In this order: the list leaves no call that adds a filter.
            seccompiler::apply_filter(&no_clone3)?;
            seccompiler::apply_filter(&listed)
        }
    }
}

/// The second number that x86-64 has for each call (x32, bit 30), under which it passes a list of what is refused. A list of
/// what is allowed knows none of them.
pub(crate) const SECOND_NUMBERS: i64 = 0x4000_0000;

/// Refuses every call by such a number, as a filter beside the one that names calls.
fn renumbered() -> BpfProgram {
    let step = |code: u32, (jt, jf), k| sock_filter { code: code as u16, jt, jf, k };
    vec![
        // seccomp_data's first field is the number.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (0, 0), 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, (0, 1), SECOND_NUMBERS as u32),
        step(libc::BPF_RET | libc::BPF_K, (0, 0), libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
        step(libc::BPF_RET | libc::BPF_K, (0, 0), libc::SECCOMP_RET_ALLOW),
    ]
}

/// What other programs of the same user are reached by, without a socket: their terminal, and their limits.
fn other_programs() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::Error> {
    // The kernel takes half of each register.
    let condition =
        |argument, compare, value: u32| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value.into());
    let typing = TYPING.map(|request| SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, request)?]));
    let own = [0, std::process::id()].map(|pid| condition(0, SeccompCmpOp::Ne, pid));
    let other = SeccompRule::new(own.into_iter().collect::<Result<_, _>>()?)?;
    Ok(BTreeMap::from([
        (libc::SYS_ioctl, typing.into_iter().collect::<Result<_, _>>()?),
        (libc::SYS_prlimit64, vec![other]),
    ]))
}

/// What makes a socket by which other programs of this machine are reached: any but an Internet socket, or one that asks the kernel for
/// addresses; and pairs that are not streams, since one end of such a pair can be led elsewhere.
fn local_sockets() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::Error> {
    let condition = |argument, compare, value: libc::c_int| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value.unsigned_abs().into())
    };
    let families = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let other = families.map(|family| condition(0, SeccompCmpOp::Ne, family)).into_iter().collect::<Result<_, _>>()?;
    let kinds = (0..=KINDS)
        .filter(|kind| *kind != libc::SOCK_STREAM)
        .map(|kind| SeccompRule::new(vec![condition(1, SeccompCmpOp::MaskedEq(KINDS.unsigned_abs().into()), kind)?]));
    Ok(BTreeMap::from([
        (libc::SYS_socket, vec![SeccompRule::new(other)?]),
        (libc::SYS_socketpair, kinds.collect::<Result<_, _>>()?),
    ]))
}

/// The bits of a socket's type that are its kind (`SOCK_TYPE_MASK` of the kernel).
const KINDS: libc::c_int = 0xf;

/// Rules that these calls match with any argument.
fn any(calls: impl IntoIterator<Item = i64>) -> BTreeMap<i64, Vec<SeccompRule>> {
    calls.into_iter().map(|call| (call, Vec::new())).collect()
}
