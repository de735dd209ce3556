//! The unit for systemd: systemd itself finds nothing wrong with it, where it is there, and it gives little away.

use std::{fs, path::Path, process::Command};

fn unit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd/keywitness-manager.service");
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_unit_is_hardened() {
    let unit = unit();
    for line in [
        "Type=notify",
        "Restart=on-failure",
        "User=keywitness",
        "StateDirectory=keywitness",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "MemoryDenyWriteExecute=yes",
        "SystemCallFilter=@system-service",
        "LimitCORE=0",
        "UMask=0077",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line} is not in the unit");
    }
    // Every variable of the environment that it sets, or tells how to set, is one that the program reads.
    let example = crate::support::keywitness(Path::new("."), &["config", "example"]).stdout;
    let told = String::from_utf8(example).unwrap();
    let variables = unit.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix("Environment="));
    for variable in variables.flat_map(|line| line.split(' ')).filter_map(|pair| pair.split('=').next()) {
        let setting = variable.strip_prefix("KEYWITNESS_MANAGER_").map(|rest| rest.split_once('_').unwrap());
        let known = match setting {
            None => ["KEYWITNESS_DATA", "KEYWITNESS_CONFIG"].contains(&variable),
            Some((section, name)) => {
                let section = format!("[{}]", section.to_lowercase());
                let rest = told.split_once(&section).unwrap_or_else(|| panic!("{variable}")).1;
                let name = format!("#{} = ", name.to_lowercase().replace('_', "-"));
                rest.split("\n[").next().unwrap().contains(&name)
            }
        };
        assert!(known, "{variable}");
    }
}

#[test]
fn systemd_takes_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("systemd-analyze is not here: only the unit's lines were checked");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keywitness-manager.service");
    // systemd looks whether the program is there.
    fs::write(&path, unit().replace("/usr/bin/keywitness", env!("CARGO_BIN_EXE_keywitness"))).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let about_ours = told.lines().filter(|line| line.contains("keywitness-manager.service")).collect::<Vec<_>>();
    assert!(about_ours.is_empty(), "{about_ours:?}");
    // Exposure in tenths, of 100: what is left is that it may speak to any address, and under a dynamic user.
    let review = ["security", "--offline=true", "--threshold=15", "--no-pager"];
    let output = Command::new("systemd-analyze").args(review).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
