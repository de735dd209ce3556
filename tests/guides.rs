//! The guides' commands work: every block marked `sh test` is run, in order, against the program itself.

use std::{fs, io::Write, path::Path, process::Command};

/// The blocks of a guide that are marked, one after the other.
fn script(guide: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(guide)).unwrap();
    let blocks: Vec<_> = text.split("```sh test\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() > 3, "{guide} has only {} marked blocks", blocks.len());
    blocks.concat()
}

/// Runs a guide in a directory of its own, with the manager stopped at its end whatever happens.
fn run(guide: &str) {
    let directory = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_keywitness"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut file = fs::File::create(directory.path().join("guide.sh")).unwrap();
    // Where a guide starts something that stays, it ends with the guide.
    let head = "set -eu\ntrap 'jobs -p | while read -r job; do kill \"$job\" 2>/dev/null || true; done' EXIT\n";
    write!(file, "{head}{}", script(guide)).unwrap();
    drop(file);
    // A guide that waits for something in vain ends as well.
    let output = Command::new("timeout")
        .args(["400", "bash", "guide.sh"])
        .current_dir(directory.path())
        .env("PATH", path)
        .env("HOME", directory.path())
        .env_remove("KEYWITNESS_DATA")
        .output()
        .unwrap();
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{guide}: {}\n{}", told(&output.stdout), told(&output.stderr));
}

#[test]
fn the_operators_guide_works() {
    run("operators-guide.md");
}

#[test]
fn the_auditors_guide_works() {
    run("auditors-guide.md");
}

#[test]
fn the_guide_to_fraud_works() {
    run("fraud.md");
}
