//! The signer in processes of its own: what it can do there, what happens when it is killed, and who may call it.

use std::{
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use keywitness_manager::{
    settings::SIGNER,
    signer::{Signer, process::Remote},
};
use keywitness_verifier::wire::TokenAlgorithm;

use crate::support::{Manager, Running, eventually, keywitness_json, program_in};

/// The processes of a part of the signer whose directory is here.
fn processes(part: &str, directory: &Path) -> Vec<u32> {
    let spec = format!("\"directory\":\"{}\"", directory.display());
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_part = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.iter().any(|word| word == part) && words.iter().any(|word| word.contains(&spec))
    };
    processes.filter(is_part).collect()
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn a_signer_is_shut_in() {
    let data = tempfile::tempdir().unwrap();
    let found = keywitness_json(data.path(), &["signer", "--doctor"]);
    for what in [
        "own_directory",
        "files_refused",
        "sockets_refused",
        "programs_refused",
        "not_dumpable",
        "no_new_privileges",
        "filtered",
    ] {
        assert_eq!(found[what], true, "{what}: {found}");
    }
}

#[test]
fn a_killed_signer_is_replaced_and_ends_with_its_manager() {
    let mut manager = Manager::start(&[]);
    let directory = manager.data.join(SIGNER);
    let client = manager.operator();
    let [supervisor] = processes("--supervise", &directory)[..] else { panic!("no supervisor") };
    let mut worker = processes("--work", &directory);
    let asking = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let (mut answered, mut away, mut last) = (0, 0, 0);
            while asking.load(Ordering::SeqCst) {
                let request = keywitness_verifier::wire::JoinTokenRequest {
                    cluster: "payments".parse().unwrap(),
                    hsm: None,
                    reenrol: false,
                    valid_for: 60,
                };
                // The log grows, and each checkpoint is another one to sign.
                client.join_token(&request).unwrap();
                match client.checkpoint() {
                    Ok(note) => {
                        let size: u64 = note.text().lines().nth(1).unwrap().parse().unwrap();
                        assert!(size > last);
                        (answered, last) = (answered + 1, size);
                    }
                    Err(error) => {
                        assert!(error.to_string().contains("cannot sign now"), "{error}");
                        away += 1;
                    }
                }
            }
            (answered, away)
        });
        for _ in 0..3 {
            let [old] = worker[..] else { panic!("{worker:?}") };
            kill(old);
            worker = eventually("another worker", || {
                let now = processes("--work", &directory);
                (now.len() == 1 && now[0] != old).then_some(now)
            });
        }
        eventually("a checkpoint", || manager.anonymous().checkpoint().ok());
        asking.store(false, Ordering::SeqCst);
        let (answered, _) = asked.join().unwrap();
        assert!(answered > 0);
    });
    assert_eq!(processes("--supervise", &directory), [supervisor]);
    // No key is in the manager's own directory, and the signer is gone as soon as its manager is.
    for name in ["token-key.pem", "log-key.pem", "log-checkpoint"] {
        assert!(!manager.data.join("manager").join(name).exists());
    }
    assert!(directory.join("log-key.pem").exists() && directory.join("log-checkpoint").exists());
    manager.kill();
    let gone = || {
        (processes("--work", &directory).is_empty() && processes("--supervise", &directory).is_empty()).then_some(())
    };
    eventually("the signer's end", gone);
    manager.restart();
    manager.anonymous().checkpoint().unwrap();
}

/// A user with no files, as whom root runs a program.
const NOBODY: u32 = 65534;

/// A directory of that user, with a copy of the program that it can run.
fn of_nobody() -> Option<(tempfile::TempDir, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let program = program_in(directory.path());
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    Some((directory, program))
}

#[test]
fn another_user_s_signer_lets_in_whom_it_was_told_to() {
    let Some((directory, program)) = of_nobody() else { return };
    let socket = directory.path().join("socket");
    let listen = |more: &[&str]| {
        let _ = fs::remove_file(&socket);
        let mut command = Command::new(&program);
        command.args(["--data", directory.path().to_str().unwrap(), "signer", "--listen", socket.to_str().unwrap()]);
        command.args(["--set", "manager.trust-domain=acme.example"]).args(more).uid(NOBODY).gid(NOBODY);
        let running = Running::spawn(command);
        eventually("the socket", || socket.exists().then_some(()));
        running
    };
    // root is a user like any other here.
    let stranger = listen(&[]);
    assert!(Remote::connect(&socket).is_err());
    drop(stranger);
    let _signer = listen(&["--allow-user", "0"]);
    let remote = eventually("the signer", || Remote::connect(&socket).ok());
    let kid = remote.make(TokenAlgorithm::Es256).unwrap().kid().unwrap();
    let key = directory.path().join(SIGNER).join(format!("token-key-{kid}.pem"));
    let metadata = fs::metadata(&key).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (NOBODY, 0o600));
    drop(remote);
    // And a manager signs by it.
    let manager =
        Manager::start(&["--set", "signer.mode=socket", "--set", &format!("signer.socket={}", socket.display())]);
    manager.anonymous().checkpoint().unwrap();
    assert!(!manager.data.join(SIGNER).exists());
}

#[test]
fn nobody_of_the_same_user_looks_into_a_signer() {
    let Some((directory, program)) = of_nobody() else { return };
    let data = directory.path().join("data");
    let mut command = Command::new(&program);
    command.args([
        "--data",
        data.to_str().unwrap(),
        "manager",
        "--listen",
        "127.0.0.1:0",
        "--trust-domain",
        "acme.example",
    ]);
    command.args(["--suites", "halo2-pasta"]).uid(NOBODY).gid(NOBODY);
    let _manager = Running::spawn(command);
    let signer = data.join(SIGNER);
    let worker = eventually("a worker", || processes("--work", &signer).first().copied());
    eventually("the manager", || {
        fs::read_to_string(data.join("manager.address")).ok().filter(|text| text.contains("http"))
    });
    for part in ["mem", "environ", "maps"] {
        let path = format!("/proc/{worker}/{part}");
        // What belongs to the process's user where it may be looked into belongs to root where it may not (proc(5)).
        assert_eq!(fs::metadata(&path).unwrap().uid(), 0, "{path}");
        let mut look = Command::new("head");
        look.args(["-c", "1", &path]).uid(NOBODY).gid(NOBODY).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(!look.status().unwrap().success(), "{path}");
    }
}
