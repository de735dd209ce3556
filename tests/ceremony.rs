//! A trusted setup through the program, from its first contribution to keys that attest with what it made.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use keywitness_circuits::params::Groth16Parameters;

use crate::support::{Manager, keywitness, keywitness_json};

const BEACON: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn ceremony(directory: &Path, arguments: &[&str]) -> serde_json::Value {
    keywitness_json(directory, &[&["ceremony"], arguments].concat())
}

/// Exit code and words of a step that is refused.
fn refused(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let output = keywitness(directory, &[&["ceremony"], arguments].concat());
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn digest(answer: &serde_json::Value) -> String {
    answer["digest"].as_str().unwrap().to_owned()
}

#[test]
fn a_ceremony_makes_parameters_that_attest() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let path = |name: &str| data.join(name).to_str().unwrap().to_owned();
    let (file, parameters) = (path("ceremony.kw"), path("made"));
    let file = file.as_str();
    ceremony(data, &["init", file]);
    assert_eq!(refused(data, &["init", file]).0, 4, "a ceremony is not begun anew over another");
    let beacon = ["beacon", file, "--value", BEACON, "--log2-rounds", "10"];
    let (exit, words) = refused(data, &beacon);
    assert!((exit, words.contains("nobody has contributed")) == (1, true), "{words}");

    std::fs::write(path("entropy"), b"dice: 3 1 4 1 5").unwrap();
    let entropy = path("entropy");
    let mut digests = Vec::new();
    for phase in 1..=2 {
        let alice = ceremony(data, &["contribute", file, "--name", "alice", "--entropy-file", &entropy]);
        let bob = ceremony(data, &["contribute", file, "--name", "bob"]);
        let end = ceremony(data, &beacon);
        assert!([&alice, &bob, &end].iter().all(|answer| answer["phase"] == phase), "{alice} {bob} {end}");
        digests.extend([digest(&alice), digest(&bob), digest(&end)]);
        if phase == 1 {
            let (exit, words) = refused(data, &["finish", file, "--output", &parameters]);
            assert!((exit, words.contains("not finished")) == (1, true), "{words}");
        }
    }
    let expect: Vec<&str> = digests.iter().flat_map(|digest| ["--expect", digest.as_str()]).collect();
    let verified = ceremony(data, &[&["verify", file], expect.as_slice()].concat());
    let listed: Vec<_> = verified["contributions"].as_array().unwrap().iter().map(digest).collect();
    assert_eq!((listed, verified["closed"].as_bool()), (digests.clone(), Some(true)));
    let (exit, words) = refused(data, &["verify", file, "--expect", &"0".repeat(64)]);
    assert!((exit, words.contains("left out")) == (1, true), "{words}");
    assert_eq!(refused(data, &["contribute", file, "--name", "carol"]).0, 1, "it is closed");
    let made = ceremony(data, &["finish", file, "--output", &parameters]);
    assert_eq!(made["ceremony"].as_str().unwrap(), digests[5]);
    assert_eq!(refused(data, &["finish", file, "--output", &parameters]).0, 4, "nothing is written over");

    tampered_files_are_refused(data, file);
    keys_attest_with(data, file, &parameters, made["parameters"].as_str().unwrap());
}

fn tampered_files_are_refused(data: &Path, file: &str) {
    let bytes = std::fs::read(file).unwrap();
    let changed = data.join("changed");
    let flipped = |index: usize| {
        let mut changed = bytes.clone();
        changed[index] ^= 1;
        changed
    };
    let middle = bytes.len() / 2;
    let trailing = [bytes.as_slice(), &[0]].concat();
    for tampered in [flipped(0), flipped(middle), flipped(bytes.len() - 1), bytes[..middle].to_vec(), trailing] {
        std::fs::write(&changed, tampered).unwrap();
        for step in ["verify", "contribute", "finish"] {
            let more: &[&str] = match step {
                "contribute" => &["--name", "mallory"],
                "finish" => &["--output", "never"],
                _ => &[],
            };
            let (exit, words) = refused(data, &[&[step, changed.to_str().unwrap()], more].concat());
            assert!((exit, words.contains("damaged")) == (1, true), "{step}: {words}");
        }
    }
    assert_eq!(refused(data, &["verify", "/no/such/file"]).0, 4);
}

/// A symmetric key is proven with the parameters, by an HSM that checks them against the ceremony first.
fn keys_attest_with(data: &Path, file: &str, parameters: &str, pin: &str) {
    let flags = ["--suites", "groth16-bn254", "--groth16-parameters", parameters, "--pin-parameters", pin];
    let manager = Manager::start(&flags);
    let path = |name: &str| data.join(name).to_str().unwrap().to_owned();
    let (store, key_file, token) = (path("store"), path("store.key"), path("token"));
    let unlock = ["--store", &store, "--key-file", &key_file];
    let generate = ["key", "generate", "--key", "storage-1", "--algorithm", "aes256"];
    assert!(keywitness(data, &[&generate[..], &unlock].concat()).status.success());
    let invited = keywitness(&manager.data, &["join-token", "--cluster", "payments", "--hsm", "hsm-1"]);
    std::fs::write(&token, &invited.stdout).unwrap();
    let attest = |parameters: &str| {
        let flags = ["attest", "--hsm", "hsm-1", "--join-token-file", &token, "--groth16-ceremony", file];
        let flags = [&flags[..], &["--groth16-parameters", parameters], &unlock].concat();
        keywitness(&manager.data, &[&["--json"], flags.as_slice()].concat())
    };
    // Parameters that somebody else made are not proven with.
    Groth16Parameters::develop().unwrap().write(Path::new(&path("other"))).unwrap();
    let output = attest(&path("other"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!((output.status.code(), words.contains("not the ceremony's")) == (Some(1), true), "{words}");
    // Nor are any that only say that they come from a ceremony.
    let flags = ["attest", "--hsm", "hsm-1", "--join-token-file", &token, "--groth16-parameters", parameters];
    let output = keywitness(&manager.data, &[&flags[..], &unlock].concat());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains("--groth16-ceremony"), "{words}");
    let output = attest(parameters);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let records: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 2, "a proof in each suite: {records}");
    assert!(Path::new(&format!("{file}.checked")).exists());
}

/// Runs snarkjs, which `./test` installs.
fn snarkjs(directory: &Path, arguments: &[&str]) {
    let program = std::env::var("KEYWITNESS_TEST_SNARKJS").expect("./test sets KEYWITNESS_TEST_SNARKJS");
    let mut command = Command::new(program);
    command.arg("powersoftau").args(arguments).current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    // Where snarkjs asks for randomness.
    let _ = child.stdin.take().unwrap().write_all(b"a line of entropy\n");
    assert!(child.wait().unwrap().success(), "snarkjs {arguments:?}");
}

#[test]
fn phase_1_may_come_from_snarkjs() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    snarkjs(data, &["new", "bn128", "10", "new.ptau"]);
    snarkjs(data, &["contribute", "new.ptau", "first.ptau", "--name=first", "-e=one"]);
    snarkjs(data, &["beacon", "first.ptau", "raw.ptau", BEACON, "10", "-n=beacon"]);
    snarkjs(data, &["prepare", "phase2", "raw.ptau", "prepared.ptau"]);
    let path = |name: &str| data.join(name).to_str().unwrap().to_owned();
    let begin = |ptau: &str, file: &str| ceremony(data, &["init", &path(file), "--ptau", &path(ptau)]);
    let (raw, prepared) = (begin("raw.ptau", "one.kw"), begin("prepared.ptau", "two.kw"));
    assert_eq!(raw, prepared, "the same powers begin the same ceremony");

    let file = path("one.kw");
    ceremony(data, &["contribute", &file, "--name", "alice"]);
    ceremony(data, &["beacon", &file, "--value", BEACON, "--log2-rounds", "10"]);
    let verified = ceremony(data, &["verify", &file]);
    assert_eq!(verified["ptau"]["contributions"], 2, "{verified}");
    ceremony(data, &["finish", &file, "--output", &path("made")]);

    let mut bytes = std::fs::read(path("raw.ptau")).unwrap();
    // One of the powers that are taken from a file twice as large.
    let middle = bytes.len() / 8;
    bytes[middle] ^= 1;
    std::fs::write(path("changed.ptau"), bytes).unwrap();
    let (exit, words) = refused(data, &["init", &path("three.kw"), "--ptau", &path("changed.ptau")]);
    assert!((exit, words.contains("tau in G")) == (1, true), "{words}");
    // The file of a beginning, whose powers are all 1, makes no sound key; its H query would be the identity.
    assert_eq!(refused(data, &["init", &path("four.kw"), "--ptau", &path("new.ptau")]).0, 1);
}

#[test]
fn the_help_tells_the_whole_walk() {
    let directory = tempfile::tempdir().unwrap();
    let help = keywitness(directory.path(), &["ceremony", "--help"]).stdout;
    let help = String::from_utf8_lossy(&help);
    for step in ["init", "contribute", "beacon", "verify", "finish"] {
        assert!(help.contains(&format!("keywitness ceremony {step}")), "{step}");
        let own = keywitness(directory.path(), &["ceremony", step, "--help"]);
        assert!(own.status.success() && own.stdout.len() > 200, "{step}");
    }
}
