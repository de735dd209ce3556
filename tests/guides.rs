//! The guides' commands work: every block of a guide that is marked `sh test` is run, in order, in one shell.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

/// Guides whose commands are run.
const GUIDES: [&str; 1] = ["auditors-guide.md"];

/// The commands of a guide.
fn commands(guide: &str) -> String {
    let mut commands = String::new();
    let mut within = false;
    for line in guide.lines() {
        match line {
            "```sh test" => within = true,
            "```" => within = false,
            line if within => commands += &format!("{line}\n"),
            _ => {}
        }
    }
    commands
}

#[test]
fn every_command_of_a_guide_works() {
    for name in GUIDES {
        let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap();
        let commands = commands(&guide);
        assert!(commands.contains("keywitness"), "{name} has no commands");
        let directory = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_keywitness")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        // What the guide starts in the background ends with the shell, and the shell is the head of a process group.
        let script =
            format!("set -eu\ntrap 'trap - TERM; kill 0' EXIT\n{commands}\ntrap - EXIT\nkill $(jobs -p); wait\n");
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(directory.path())
            .env("PATH", path)
            .stdin(Stdio::null())
            .process_group(0)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{name}: {}\n{}\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
    }
}
