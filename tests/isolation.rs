//! An HSM's keys in a process of their own: what it cannot do there, what happens when it is killed, and who can look into it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use keywitness_verifier::wire::JoinTokenRequest;
use serde_json::Value;

use crate::support::{Manager, Running, eventually, keywitness, keywitness_json, program, program_in};

/// The processes of a part of an agent whose store is here.
fn processes(part: &str, store: &Path) -> Vec<u32> {
    let spec = format!("\"store\":\"{}\"", store.display());
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_part = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.iter().any(|word| word == part) && words.iter().any(|word| word.contains(&spec))
    };
    processes.filter(is_part).collect()
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().split_whitespace().next().unwrap().to_owned()
}

/// A user with no files, as whom root runs a program.
const NOBODY: u32 = 65534;

/// An HSM whose agent runs, as another user where root runs the tests.
struct Agent {
    directory: tempfile::TempDir,
    user: Option<u32>,
}

impl Agent {
    /// Makes a store with some keys, and a join token.
    fn new(manager: &Manager, keys: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let user = rustix::process::geteuid().is_root().then_some(NOBODY);
        let request =
            JoinTokenRequest { cluster: "payments".parse().unwrap(), hsm: None, reenrol: false, valid_for: 60 };
        fs::write(directory.path().join("token"), manager.operator().join_token(&request).unwrap().secret).unwrap();
        let agent = Self { directory, user };
        for (key, algorithm) in keys {
            let (store, key_file) = (agent.path("store"), agent.path("store.key"));
            let make = ["key", "generate", "--store", &store, "--key-file", &key_file, "--key", key];
            keywitness_json(agent.directory.path(), &[&make[..], &["--algorithm", algorithm]].concat());
        }
        if let Some(user) = user {
            for entry in fs::read_dir(agent.directory.path()).unwrap() {
                std::os::unix::fs::chown(entry.unwrap().path(), Some(user), Some(user)).unwrap();
            }
            std::os::unix::fs::chown(agent.directory.path(), Some(user), Some(user)).unwrap();
        }
        agent
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn of_user(&self, mut command: Command) -> Command {
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Its agent, which writes what it says to a file.
    fn start(&self, manager: &Manager, more: &[&str]) -> Running {
        let address = manager.anonymous().base().to_owned();
        let mut command = Command::new(program_in(self.directory.path()));
        command.args(["--data", &self.path(""), "agent", "--manager", &address, "--store", &self.path("store")]);
        command.args(["--key-file", &self.path("store.key"), "--hsm", "hsm-1"]);
        command.args(["--join-token-file", &self.path("token"), "--channel", "127.0.0.1:0"]).args(more);
        let said = fs::OpenOptions::new().append(true).create(true).open(self.path("said")).unwrap();
        command.stderr(Stdio::from(said));
        Running::spawn(self.of_user(command))
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("said")).unwrap_or_default()
    }

    fn worker(&self) -> u32 {
        eventually("the proving process", || match processes("--work", &self.store())[..] {
            [pid] => Some(pid),
            _ => None,
        })
    }

    /// How often it told that a key was attested.
    fn attested(&self) -> usize {
        self.said().lines().filter(|line| line.starts_with("attested ")).count()
    }
}

/// What a doctor found not to be in force.
fn missing(found: &Value) -> BTreeSet<&str> {
    let findings = found["protections"].as_array().unwrap();
    findings.iter().filter(|one| one["in_force"] == false).map(|one| one["protection"].as_str().unwrap()).collect()
}

#[test]
fn a_proving_process_is_shut_in() {
    let data = tempfile::tempdir().unwrap();
    let found = keywitness_json(data.path(), &["agent", "doctor"]);
    assert_eq!((found["whole"].as_bool(), missing(&found)), (Some(true), BTreeSet::new()), "{found}");
    assert!(found["protections"].as_array().unwrap().len() >= 24, "{found}");
    let table = keywitness(data.path(), &["agent", "doctor"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("it cannot start a program") && !table.contains(" NO "), "{table}");
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0, "nothing is left behind");
}

/// The doctor looks at a process: where that is not confined, it says so.
#[test]
fn an_unconfined_process_is_found_out() {
    let data = tempfile::tempdir().unwrap();
    let output = keywitness(data.path(), &["--json", "agent", "doctor", "--unconfined"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let missing = missing(&found);
    for what in [
        "it cannot read other files",
        "it cannot write elsewhere",
        "it cannot make a socket",
        "it cannot start a program",
        "it cannot signal another process",
        "it cannot run what it wrote",
        "it cannot make rare system calls",
        "it cannot make system calls by a second number",
        "the agent cannot write elsewhere",
        "the agent cannot start a program",
        "the agent cannot reach other programs by a socket",
        "its system calls are filtered",
    ] {
        assert!(missing.contains(what), "{what}: {found}");
    }
    for finding in found["protections"].as_array().unwrap().iter().filter(|one| one["in_force"] == false) {
        assert!(finding["advice"].as_str().is_some_and(|advice| advice.len() > 20), "{finding}");
    }
}

/// A PKCS#11 library is left what it may need, and no more than that.
#[test]
fn a_library_s_process_is_shut_in_less_and_the_doctor_says_so() {
    let data = tempfile::tempdir().unwrap();
    let output = keywitness(data.path(), &["--json", "agent", "doctor", "--for-pkcs11-module", "/nonexistent.so"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let left = [
        "it cannot read other files",
        "it cannot write elsewhere",
        "it cannot make a socket",
        "it cannot run what it wrote",
    ];
    assert_eq!((output.status.code(), missing(&found)), (Some(1), BTreeSet::from(left)), "{found}");
}

/// What a library does as it is loaded, in its thread too: it makes a file where it may, and two where it may not.
const LIBRARY: &str = r#"
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>
static void make(const char *path) { int file = open(path, O_CREAT | O_WRONLY, 0600); if (file >= 0) close(file); }
static void *of_thread(void *nothing) { make(ELSEWHERE "/thread"); return nothing; }
__attribute__((constructor)) static void loaded(void) {
    pthread_t thread;
    make(LEFT "/loaded");
    make(ELSEWHERE "/loaded");
    if (pthread_create(&thread, 0, of_thread, 0) == 0) pthread_join(thread, 0);
}
unsigned long C_GetFunctionList(void **list) { return 5; }
"#;

/// Its threads would keep what they had before: landlock holds one thread.
#[test]
fn a_library_is_shut_in_before_it_is_loaded() {
    let manager = Manager::start(&[]);
    let agent = Agent::new(&manager, &[("signing-1", "ed25519")]);
    let elsewhere = tempfile::tempdir_in("/tmp").unwrap();
    let (left, source, module) = (agent.path("left"), agent.path("module.c"), agent.path("module.so"));
    fs::create_dir(&left).unwrap();
    for open in [Path::new(&left), elsewhere.path()] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::write(&source, LIBRARY).unwrap();
    let define = |name: &str, path: &Path| format!("-D{name}=\"{}\"", path.display());
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-pthread", "-o", &module, &source]);
    compiler.args([define("LEFT", Path::new(&left)), define("ELSEWHERE", elsewhere.path())]);
    assert!(compiler.status().unwrap().success());
    let pin = agent.path("pin");
    fs::write(&pin, "1234").unwrap();
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();
    if let Some(user) = agent.user {
        std::os::unix::fs::chown(&pin, Some(user), Some(user)).unwrap();
    }
    let token =
        ["--pkcs11-module", &module, "--pkcs11-token", "none", "--pkcs11-pin-file", &pin, "--pkcs11-path", &left];
    let mut running = agent.start(&manager, &token);
    eventually("the agent's end", || (!running.is_running()).then_some(()));
    assert!(Path::new(&left).join("loaded").exists(), "it was loaded: {}", agent.said());
    let made: Vec<_> = fs::read_dir(elsewhere.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(made.is_empty(), "{made:?}");
}

#[test]
fn a_killed_proving_process_is_replaced_and_nothing_is_lost() {
    let manager = Manager::start(&[]);
    let agent = Agent::new(&manager, &[("signing-1", "ed25519"), ("storage-1", "aes256")]);
    let mut running = agent.start(&manager, &[]);
    eventually("two records", || (agent.attested() >= 2).then_some(()));
    let before = fs::read(agent.store()).unwrap();
    for _ in 0..3 {
        let old = agent.worker();
        kill("-9", old);
        eventually("another one", || (agent.worker() != old).then_some(()));
    }
    running.terminate();
    eventually("its end", || {
        (processes("--work", &agent.store()).is_empty() && processes("--supervise", &agent.store()).is_empty())
            .then_some(())
    });
    assert_eq!(fs::read(agent.store()).unwrap(), before, "the store's file");
    assert!(!agent.directory.path().join("store.new").exists());
    // Killed while it proves, again and again: the keys are attested by those that follow.
    let done = agent.attested();
    let running = agent.start(&manager, &["--attest-at-start"]);
    for _ in 0..3 {
        kill("-9", agent.worker());
    }
    eventually("two records more", || (agent.attested() >= done + 2).then_some(()));
    assert_eq!(manager.fraud(), []);
    // With the agent killed, the processes that it started are gone, and let go of the store.
    drop(running);
    let gone = || processes("--work", &agent.store()).is_empty().then_some(());
    eventually("the proving process's end", gone);
    keywitness_json(
        agent.directory.path(),
        &[
            "key",
            "generate",
            "--store",
            &agent.path("store"),
            "--key-file",
            &agent.path("store.key"),
            "--key",
            "one-more",
            "--algorithm",
            "p256",
        ],
    );
}

#[test]
fn no_other_process_of_the_user_looks_into_it_and_it_leaves_no_core() {
    let manager = Manager::start(&[]);
    let agent = Agent::new(&manager, &[("signing-1", "ed25519")]);
    let running = agent.start(&manager, &[]);
    eventually("a record", || (agent.attested() >= 1).then_some(()));
    // The agent itself, each of its threads: no program is started by it, and no local socket made.
    for task in fs::read_dir(format!("/proc/{}/task", running.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
    }
    let worker = agent.worker();
    let [supervisor] = processes("--supervise", &agent.store())[..] else { panic!("no supervisor") };
    for pid in [worker, supervisor] {
        // The kernel gives what is not dumpable to root.
        assert_eq!(fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid(), 0);
        for file in ["mem", "environ", "maps", "fd", "auxv"] {
            let look = format!("test -e /proc/{pid} && ls /proc/{pid}/{file} && head -c 1 /proc/{pid}/{file}");
            let mut shell = Command::new("sh");
            shell.args(["-c", &look]);
            let looked = agent.of_user(shell).output().unwrap();
            // As root, only a process that gave that up is kept from it.
            if agent.user.is_some() || !rustix::process::geteuid().is_root() {
                assert!(!looked.status.success() && looked.stdout.len() <= file.len() + 16, "{file}: {looked:?}");
            }
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);
        assert_eq!(field(pid, "NoNewPrivs"), "1");
    }
    assert_eq!(field(worker, "Seccomp"), "2");
    // Standard ones, lanes, the store's lock, and no socket of any network.
    let descriptors = fs::read_dir(format!("/proc/{worker}/fd")).map_or(0, Iterator::count);
    assert!(descriptors <= 3 + 8 + 2, "{descriptors}");
    kill("-ABRT", worker);
    let told = eventually("word of the crash", || {
        agent.said().lines().find(|line| line.contains("SIGABRT")).map(ToOwned::to_owned)
    });
    assert!(!told.contains("core dumped"), "{told}");
}

/// What takes the agent's process over reads neither store nor key file. The agent itself shows that: it cannot open them.
#[test]
fn the_agent_gives_up_the_store_s_file_and_what_came_in_its_environment() {
    let manager = Manager::start(&[]);
    let agent = Agent::new(&manager, &[]);
    let (store, data) = (agent.path("other"), agent.directory.path());
    let passphrase = "correct horse battery";
    let mut make =
        program(data, &["key", "generate", "--store", &store, "--key", "signing-1", "--algorithm", "ed25519"]);
    assert!(make.env("KEYWITNESS_PASSPHRASE", passphrase).output().unwrap().status.success());
    let address = manager.anonymous().base().to_owned();
    let token = agent.path("token");
    let flags = ["agent", "--manager", &address, "--store", &store, "--hsm", "hsm-2", "--join-token-file", &token];
    let mut command = program(data, &flags);
    command.env("KEYWITNESS_PASSPHRASE", passphrase);
    let running = Running::spawn(command);
    let part = |part| {
        eventually("a process", || match processes(part, Path::new(&store))[..] {
            [pid] => Some(pid),
            _ => None,
        })
    };
    let worker = part("--work");
    // Opened with the passphrase, and so is the one that follows.
    kill("-9", worker);
    eventually("another one", || (part("--work") != worker).then_some(()));
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for pid in [running.id(), part("--supervise"), part("--work")] {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(!String::from_utf8_lossy(&environment).contains("correct horse"), "{pid}");
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&line).contains("correct horse"), "{pid}");
    }
}

#[test]
fn where_isolation_is_required_and_not_whole_the_agent_does_not_start() {
    let manager = Manager::start(&[]);
    let agent = Agent::new(&manager, &[("signing-1", "ed25519")]);
    let mut running = agent.start(&manager, &["--isolation", "required"]);
    eventually("a record", || (agent.attested() >= 1).then_some(()));
    running.terminate();
    // A process that is not confined is told of, and goes on only where that is let.
    let mut running = agent.start(&manager, &["--isolation", "required", "--unconfined"]);
    eventually("the agent's end", || (!running.is_running()).then_some(()));
    let said = agent.said();
    for what in ["isolation is required", "files: it was left out", "system calls: it was left out", "landlock"] {
        assert!(said.contains(what), "{what}: {said}");
    }
    let (done, _running) = (agent.attested(), agent.start(&manager, &["--unconfined", "--attest-at-start"]));
    eventually("a record more", || (agent.attested() > done).then_some(()));
    assert!(agent.said().contains("the proving process goes on less protected"));
}
