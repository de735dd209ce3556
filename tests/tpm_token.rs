//! A second PKCS#11 module: libtpm2-pkcs11, whose keys are in a TPM, which swtpm is; reached through tpm2-abrmd over a message bus
//! of the test's own.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    support::{Manager, Running, eventually, program},
    token::{private, words},
};

const PIN: &str = "a TPM's PIN";

struct Tpm {
    directory: TempDir,
    _running: [Running; 3],
}

impl Tpm {
    /// Starts a TPM with nothing in it, and makes a token with one P-256 key by the module's own tool.
    fn new() -> Self {
        // Sockets have short names.
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for name in ["state", "store"] {
            fs::create_dir(path(name)).unwrap();
        }
        let mut swtpm = Command::new("swtpm");
        swtpm.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
        swtpm.arg(format!("dir={}", path("state"))).arg("--server").arg(format!("type=unixio,path={}", path("tpm")));
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={}", path("tpm.ctrl")));
        swtpm.stderr(Stdio::null());
        let swtpm = Running::spawn(swtpm);
        let mut bus = Command::new("dbus-daemon");
        bus.args(["--session", "--nofork", "--address"]).arg(format!("unix:path={}", path("bus")));
        let bus = Running::spawn(bus);
        eventually("a TPM and a bus", || {
            ["tpm", "bus"].iter().all(|name| Path::new(&path(name)).exists()).then_some(())
        });
        let mut manager = Command::new("tpm2-abrmd");
        manager.args(["--session", "--allow-root", "--tcti"]).arg(format!("swtpm:path={}", path("tpm")));
        manager.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", path("bus"))).stderr(Stdio::null());
        let manager = Running::spawn(manager);
        let tpm = Self { directory, _running: [swtpm, bus, manager] };
        let has_owner =
            ["--session", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.NameHasOwner"];
        eventually("the TPM's resource manager", || {
            let mut ask = Command::new("dbus-send");
            let answer = tpm.at(&mut ask).args(has_owner).arg("string:com.intel.tss2.Tabrmd").output().unwrap();
            String::from_utf8_lossy(&answer.stdout).contains("true").then_some(())
        });
        let store = tpm.path("store");
        tpm.tool(&["init", "--path", &store]);
        let token = ["addtoken", "--pid", "1", "--label", "vault", "--sopin", "security officer", "--userpin", PIN];
        tpm.tool(&[&token[..], &["--path", &store]].concat());
        let key = ["addkey", "--algorithm", "ecc256", "--label", "vault", "--userpin", PIN, "--key-label", "signing-1"];
        tpm.tool(&[&key[..], &["--path", &store]].concat());
        tpm
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// With what leads to this TPM.
    fn at<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let bus = format!("unix:path={}", self.path("bus"));
        command.env("DBUS_SESSION_BUS_ADDRESS", bus).env("TPM2_PKCS11_STORE", self.path("store"));
        command.env("TPM2_PKCS11_TCTI", "tabrmd:bus_type=session").env("TPM2TOOLS_TCTI", "tabrmd:bus_type=session")
    }

    fn tool(&self, arguments: &[&str]) {
        let mut tool = Command::new("tpm2_ptool");
        let made = self.at(tool.args(arguments)).output().unwrap();
        assert!(made.status.success(), "tpm2_ptool {}: {}", arguments[0], words(&made));
    }

    fn uri(&self) -> String {
        let library = std::env::var("KEYWITNESS_TEST_TPM2_PKCS11").expect("./test sets KEYWITNESS_TEST_TPM2_PKCS11");
        format!("pkcs11:token=vault?module-path={library}&pin-source=env:TPM_PIN")
    }

    fn json(&self, data: &Path, arguments: &[&str]) -> serde_json::Value {
        let mut command = program(data, &[&["--json"], arguments].concat());
        let output = self.at(&mut command).args(["--store", &self.uri()]).env("TPM_PIN", PIN).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn a_key_in_a_tpm_shows_possession() {
    let tpm = Tpm::new();
    let manager = Manager::start(&[]);
    let data = manager.data.as_path();
    let listed = tpm.json(data, &["key", "list"]);
    let attributes = &listed[0]["attributes"];
    assert_eq!((&listed[0]["key"], &listed[0]["refusal"]), (&"signing-1".into(), &serde_json::Value::Null), "{listed}");
    assert_eq!((&attributes["origin"], &attributes["extractable"]), (&"generated".into(), &false.into()), "{listed}");
    let told = &attributes["token"];
    assert_eq!((&told["always_sensitive"], &told["never_extractable"]), (&true.into(), &true.into()), "{listed}");
    assert!(told["mechanisms"].as_array().unwrap().contains(&0x1041.into()), "ECDSA is allowed: {listed}");

    let (file, key_file) = (tpm.path("hsm-store"), tpm.path("hsm-store.key"));
    let of_file = ["--store", &file, "--key-file", &key_file];
    let make = ["key", "generate", "--key", "soft", "--algorithm", "ed25519"];
    assert!(program(data, &[&make[..], &of_file[..]].concat()).output().unwrap().status.success());
    let join_token = tpm.path("join-token");
    let invited = program(data, &["join-token", "--cluster", "payments", "--hsm", "hsm-1"]).output().unwrap();
    fs::write(&join_token, &invited.stdout).unwrap();
    private(&join_token);
    let attest = ["attest", "--hsm", "hsm-1", "--join-token-file", &join_token];
    let reports = tpm.json(data, &[&attest[..], &of_file[..]].concat());
    let of_tpm = reports.as_array().unwrap().iter().find(|report| report["key"]["key"] == "signing-1").unwrap();
    assert_eq!(of_tpm["record"]["statement"], "key-possession/p256-ecdsa/1", "{reports}");
    assert!(manager.fraud().is_empty());
}
