//! The units for systemd: systemd itself finds nothing wrong with them, where it is there, and they give little away.

use std::{fs, path::Path, process::Command};

/// The units of daemons, each with the exposure that systemd may find, in tenths of 100.
///
/// What is left of the manager's is that it may speak to any address, and under a user that is made for it.
const UNITS: [(&str, u32); 2] = [("keywitness-manager.service", 15), ("keywitness-agent@.service", 15)];

fn unit(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd").join(name)).unwrap()
}

fn has(unit: &str, lines: &[&str]) {
    for line in lines {
        assert!(unit.lines().any(|found| found == *line), "{line} is not in the unit");
    }
}

#[test]
fn the_units_are_hardened() {
    for (name, _) in UNITS {
        has(
            &unit(name),
            &[
                "Type=notify",
                "Restart=on-failure",
                "NoNewPrivileges=yes",
                "CapabilityBoundingSet=",
                "ProtectSystem=strict",
                "MemoryDenyWriteExecute=yes",
                "LimitCORE=0",
                "UMask=0077",
            ],
        );
    }
    let unit = unit("keywitness-manager.service");
    has(&unit, &["User=keywitness", "StateDirectory=keywitness", "SystemCallFilter=@system-service"]);
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
fn the_agent_s_unit_reloads_and_does_not_try_again_what_cannot_succeed() {
    let unit = unit("keywitness-agent@.service");
    has(
        &unit,
        &[
            "ExecStart=/usr/bin/keywitness agent --settings %E/keywitness/agent-%i.toml",
            "ExecReload=kill -HUP $MAINPID",
            "After=network-online.target time-sync.target",
            "RestartPreventExitStatus=2 5 6 8 9",
            // What passes by itself, or what another user of the machine does, ends no agent for good.
            "StartLimitIntervalSec=0",
            "RestartSec=10",
            "DynamicUser=yes",
            "LimitMEMLOCK=infinity",
        ],
    );
}

#[test]
fn systemd_takes_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("systemd-analyze is not here: only the units' lines were checked");
        return;
    }
    for (name, exposure) in UNITS {
        let directory = tempfile::tempdir().unwrap();
        // A template is looked at as an instance of it.
        let instance = name.replace('@', "@hsm-1");
        let path = directory.path().join(&instance);
        // systemd looks whether the program is there.
        fs::write(&path, unit(name).replace("/usr/bin/keywitness", env!("CARGO_BIN_EXE_keywitness"))).unwrap();
        let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let about_ours = told.lines().filter(|line| line.contains(&instance)).collect::<Vec<_>>();
        assert!(about_ours.is_empty(), "{about_ours:?}");
        let review = ["security", "--offline=true", &format!("--threshold={exposure}"), "--no-pager"];
        let output = Command::new("systemd-analyze").args(review).arg(&path).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
}
