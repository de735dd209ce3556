//! What an agent of thousands of keys costs: `cargo bench --bench agent`, a quarter of an hour; with `-- --quick` a few keys for some seconds.
//!
//! The program itself, agent and proving process, beside a manager of its own, with records of one hour. Processor time and memory are
//! the kernel's counts of the agent and of all that it has started. The work of an hour is even, so that five minutes of it are measured, from when
//! the first renewals are due.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use comfy_table::{Table, presets};
use keywitness_circuits::KeyAlgorithm;
use keywitness_prover::{Placement, SoftwareStore, Unlock, create_key_file};
use keywitness_verifier::{
    client::ManagerClient,
    wire::{AttestationState, JoinTokenRequest},
};
use rand::RngCore;

const PROGRAM: &str = env!("CARGO_BIN_EXE_keywitness");

/// How much is measured.
struct Size {
    signing: usize,
    symmetric: usize,
    ttl: u64,
    window: Duration,
}

/// Ends with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(data: &Path, words: &[&str]) -> Running {
    let mut command = Command::new(PROGRAM);
    command.arg("--data").arg(data).args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

/// Waits for what these processes do, while they run.
fn wait_for<T>(what: &str, by: &mut [&mut Running], mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        for Running(process) in &mut *by {
            assert_eq!(process.try_wait().unwrap(), None, "no {what}: {process:?} has ended");
        }
        assert!(begun.elapsed() < Duration::from_secs(1200), "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A store of so many keys.
fn store(directory: &Path, size: &Size) {
    let key_file = directory.join("store.key");
    create_key_file(&key_file).unwrap();
    let unlock = Unlock::KeyFile(key_file);
    // Sealed anew with each key, which is in memory while it is filled.
    let store = SoftwareStore::create(&directory.join("store"), &unlock).unwrap();
    let keys = (0..size.signing).map(|number| (format!("signing-{number:05}"), KeyAlgorithm::Ed25519));
    let keys = keys.chain((0..size.symmetric).map(|number| (format!("storage-{number:04}"), KeyAlgorithm::Aes256)));
    let material = keys.map(|(name, algorithm)| {
        let mut secret = [0; 32];
        rand::rngs::OsRng.fill_bytes(&mut secret);
        (name.parse().unwrap(), algorithm, secret)
    });
    for (key, algorithm, secret) in material {
        store.import(&key, algorithm, &secret, Placement::New).unwrap();
    }
}

/// A process and all that it has started.
fn family(process: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
    };
    let all: Vec<u32> =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect();
    let mut found = vec![process];
    let mut next = 0;
    while next < found.len() {
        let of = found[next];
        found.extend(all.iter().copied().filter(|pid| parent(*pid) == Some(of)));
        next += 1;
    }
    found
}

/// Seconds of processor time so far. The kernel counts in hundredths (proc(5)).
fn processor(family: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    };
    family.iter().map(of).sum()
}

/// A measure of memory, in MiB.
fn memory(family: &[u32], field: &str) -> f64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap().to_owned();
        line.trim_start_matches(':').trim().split(' ').next().unwrap().parse::<f64>().unwrap() / 1024.0
    };
    family.iter().map(of).sum()
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let size = if quick {
        Size { signing: 100, symmetric: 20, ttl: 120, window: Duration::from_secs(10) }
    } else {
        Size { signing: 10_000, symmetric: 1000, ttl: 3600, window: Duration::from_secs(300) }
    };
    let directory = tempfile::tempdir().unwrap();
    let (data, hsm) = (directory.path().join("data"), directory.path().join("hsm"));
    fs::create_dir(&hsm).unwrap();
    store(&hsm, &size);
    let ttl = format!("{}s", size.ttl);
    let flags = ["manager", "--listen", "127.0.0.1:0", "--trust-domain", "acme.example", "--suites", "halo2-pasta"];
    let mut manager = start(&data, &[&flags[..], &["--record-ttl", &ttl]].concat());
    let address = wait_for("the manager", &mut [&mut manager], || {
        fs::read_to_string(data.join("manager.address")).ok().filter(|text| text.contains("http"))
    });
    let credential = fs::read_to_string(data.join("manager/operator.credential")).unwrap();
    let operator = || ManagerClient::new(address.trim()).unwrap().with_credential(credential.trim());
    let request = JoinTokenRequest { cluster: "payments".parse().unwrap(), hsm: None, reenrol: false, valid_for: 600 };
    fs::write(hsm.join("token"), operator().join_token(&request).unwrap().secret).unwrap();
    let path = |name: &str| hsm.join(name).to_str().unwrap().to_owned();
    let begun = Instant::now();
    let mut agent = start(
        &hsm,
        &[
            "agent",
            "--manager",
            address.trim(),
            "--store",
            &path("store"),
            "--key-file",
            &path("store.key"),
            "--hsm",
            "hsm-1",
            "--join-token-file",
            &path("token"),
        ],
    );
    let keys = size.signing + size.symmetric;
    let attested = || {
        let journal = fs::read_to_string(hsm.join("store.journal")).unwrap_or_default();
        let former = fs::read_to_string(hsm.join("store.journal.1")).unwrap_or_default();
        [former, journal].iter().map(|text| text.matches("\"attested\"").count()).sum::<usize>()
    };
    wait_for("every key", &mut [&mut manager, &mut agent], || (attested() >= keys).then_some(()));
    let (first, ours) = (begun.elapsed(), family(agent.0.id()));
    let spent = processor(&ours);
    // A tenth of a record's life later, the first of them are due.
    std::thread::sleep(Duration::from_secs(size.ttl / 10 + size.ttl / 60));
    let (from, before, begun) = (processor(&ours), attested(), Instant::now());
    std::thread::sleep(size.window);
    let (spent_then, renewed, took) = (processor(&ours) - from, attested() - before, begun.elapsed().as_secs_f64());
    let (peak, resident) = (memory(&ours, "VmHWM"), memory(&ours, "VmRSS"));
    let fresh = operator().status().unwrap().keys.iter().filter(|key| key.state == AttestationState::Attested).count();
    assert_eq!((fresh, family(agent.0.id())), (keys, ours), "every key is fresh, by the processes that began");
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["of an agent and its proving process", "measured", "wanted"]);
    let per_hour = spent_then * 3600.0 / took;
    for [what, measured, wanted] in [
        ["processor time in an hour".to_owned(), format!("{per_hour:.0} s"), "3600 s, one core".to_owned()],
        ["peak of memory".to_owned(), format!("{peak:.0} MiB"), "below 200 MiB".to_owned()],
        ["memory afterwards".to_owned(), format!("{resident:.0} MiB"), "-".to_owned()],
        [
            "from nothing to every key attested".to_owned(),
            format!("{first:.0?}, {spent:.0} s of a core"),
            "-".to_owned(),
        ],
        ["attestations in an hour".to_owned(), format!("{:.0}", renewed as f64 * 3600.0 / took), "-".to_owned()],
    ] {
        table.add_row([what, measured, wanted]);
    }
    println!("{} Ed25519 and {} AES-256 keys, records of {}\n{table}", size.signing, size.symmetric, ttl);
}
