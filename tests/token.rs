//! Keys inside a PKCS#11 token, attested by the program as people run it: SoftHSM in a directory of its own.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::support::{Manager, Running, eventually, program};

pub(crate) const PIN: &str = "6 correct horses";

/// A SoftHSM with one token, and an HSM's store beside it.
pub(crate) struct TokenHsm {
    directory: TempDir,
    pub(crate) library: String,
}

impl TokenHsm {
    pub(crate) fn new() -> Self {
        let library = std::env::var("KEYWITNESS_TEST_SOFTHSM").expect("./test sets KEYWITNESS_TEST_SOFTHSM");
        let hsm = Self { directory: tempfile::tempdir().unwrap(), library };
        std::fs::create_dir(hsm.directory.path().join("tokens")).unwrap();
        std::fs::write(hsm.path("softhsm2.conf"), format!("directories.tokendir = {}\n", hsm.path("tokens"))).unwrap();
        std::fs::write(hsm.path("pin"), PIN).unwrap();
        private(&hsm.path("pin"));
        let flags = ["--init-token", "--free", "--label", "vault", "--so-pin", "security officer", "--pin", PIN];
        let made = hsm.with_token(Command::new("softhsm2-util").args(flags)).stdout(Stdio::null()).status().unwrap();
        assert!(made.success());
        hsm
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn with_token<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
    }

    pub(crate) fn store(&self) -> Vec<String> {
        ["--store", &self.path("store"), "--key-file", &self.path("store.key")].map(str::to_owned).to_vec()
    }

    /// A command line of the program that names store and token, with the PIN in a file.
    pub(crate) fn command(&self, data: &Path, arguments: &[&str]) -> Command {
        let mut command = program(data, arguments);
        command.args(self.store()).args(["--pkcs11-module", &self.library, "--pkcs11-token", "vault"]);
        command.args(["--pkcs11-pin-file", &self.path("pin")]);
        self.with_token(&mut command);
        command
    }

    pub(crate) fn json(&self, data: &Path, arguments: &[&str]) -> serde_json::Value {
        let output = self.command(data, &[&["--json"], arguments].concat()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

pub(crate) fn private(path: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn exit(mut command: Command) -> (i32, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status.code().unwrap(), words(&output))
}

#[test]
fn a_key_in_a_token_is_attested_and_used() {
    let manager = Manager::start(&["--record-ttl", "20s", "--challenge-ttl", "10s"]);
    let data = manager.data.as_path();
    let hsm = TokenHsm::new();
    let generate = ["key", "generate", "--key", "signing-1", "--algorithm", "ed25519"];
    assert_eq!(exit(hsm.command(data, &generate)), (0, String::new()));
    let mut listed = hsm.json(data, &["key", "list"]);
    let digest = listed[0].as_object_mut().unwrap().remove("attributes_digest").unwrap();
    assert_eq!(digest.as_str().unwrap().len(), 64);
    assert_eq!(
        listed,
        serde_json::json!([{
            "key": "signing-1", "epoch": 1, "place": "token vault", "never_extractable": true, "refusal": null,
            "attributes": {
                "algorithm": "ed25519", "origin": "generated", "extractable": false,
                "token": {
                    "sensitive": true, "always_sensitive": true, "never_extractable": true, "mechanisms": [0x1057],
                },
            },
        }])
    );

    // Attested once.
    let join_token = hsm.path("join-token");
    let invited = program(data, &["join-token", "--cluster", "payments", "--hsm", "hsm-1"]).output().unwrap();
    std::fs::write(&join_token, &invited.stdout).unwrap();
    let reports = hsm.json(data, &["attest", "--hsm", "hsm-1", "--join-token-file", &join_token]);
    assert_eq!(reports[0]["record"]["key"]["key"], "signing-1", "{reports}");
    assert_eq!(reports[0]["statement"], "key-knowledge/ed25519-eddsa/1", "{reports}");

    // The client's token says so, and is checked before it is printed.
    let credential = program(data, &["--json", "credential", "--role", "client", "--name", "shop"]).output().unwrap();
    let credential: serde_json::Value = serde_json::from_slice(&credential.stdout).unwrap();
    std::fs::write(data.join("client.credential"), credential["secret"].as_str().unwrap()).unwrap();
    private(data.join("client.credential").to_str().unwrap());
    let (code, said) = exit(program(data, &["token", "--key", "signing-1", "--hsm", "hsm-1"]));
    assert_eq!(code, 0, "{said}");

    // The agent keeps it attested, and has the token sign for the client: the program checks the signature under the
    // attested key.
    let client = credential["client_key"].as_str().unwrap();
    let flags = ["agent", "--hsm", "hsm-1", "--channel", "127.0.0.1:0", "--allow-client", client];
    let _agent = Running::spawn(hsm.command(data, &flags));
    eventually("a signature by the token", || {
        program(data, &["sign", "--key", "signing-1", "--message", "hello"])
            .output()
            .unwrap()
            .status
            .success()
            .then_some(())
    });
    let first = reports[0]["record"]["proven_at"].as_u64().unwrap();
    eventually("a later record than the first one's life", || {
        let status = manager.operator().status().unwrap();
        let proven = status.keys[0].statements[0].proven_at.unwrap().0;
        (proven > first + 20).then_some(())
    });
    assert!(manager.fraud().is_empty());
}

#[test]
fn an_ecdsa_key_in_a_token_shows_possession_and_the_clients_token_says_so() {
    let manager = Manager::start(&[]);
    let data = manager.data.as_path();
    let hsm = TokenHsm::new();
    for algorithm in ["p256", "secp256k1"] {
        let generate = ["key", "generate", "--key", algorithm, "--algorithm", algorithm];
        assert_eq!(exit(hsm.command(data, &generate)), (0, String::new()));
    }
    let listed = hsm.command(data, &["key", "list"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("p256 at epoch 1: always was sensitive; CKM_ECDSA; attributes "), "{listed}");

    let join_token = hsm.path("join-token");
    let invited = program(data, &["join-token", "--cluster", "payments", "--hsm", "hsm-1"]).output().unwrap();
    std::fs::write(&join_token, &invited.stdout).unwrap();
    let reports = hsm.json(data, &["attest", "--hsm", "hsm-1", "--join-token-file", &join_token]);
    let shown: Vec<_> =
        reports.as_array().unwrap().iter().map(|report| report["statement"].as_str().unwrap()).collect();
    assert_eq!(shown, ["key-possession/p256-ecdsa/1", "key-possession/secp256k1-ecdsa/1"], "{reports}");
    assert_eq!(reports[0]["record"]["statement"], "key-possession/p256-ecdsa/1", "{reports}");

    let credential = program(data, &["--json", "credential", "--role", "client", "--name", "shop"]).output().unwrap();
    let credential: serde_json::Value = serde_json::from_slice(&credential.stdout).unwrap();
    std::fs::write(data.join("client.credential"), credential["secret"].as_str().unwrap()).unwrap();
    private(data.join("client.credential").to_str().unwrap());
    for key in ["p256", "secp256k1"] {
        let (code, said) = exit(program(data, &["token", "--key", key, "--hsm", "hsm-1"]));
        assert!(code == 0 && said.contains("possession (a signature, no proof of knowledge) shown at "), "{said}");
    }

    // A client has a message signed by the key, and checks the signature under what was attested.
    let client = credential["client_key"].as_str().unwrap();
    let flags = ["agent", "--hsm", "hsm-1", "--channel", "127.0.0.1:0", "--allow-client", client];
    let _agent = Running::spawn(hsm.command(data, &flags));
    eventually("a signature by the token", || {
        let signed = program(data, &["sign", "--key", "secp256k1", "--message", "hello"]).output().unwrap();
        signed.status.success().then_some(())
    });
    assert!(manager.fraud().is_empty());
}

#[test]
fn a_cmac_key_in_a_token_answers_the_beacon() {
    let manager = Manager::start(&[]);
    let data = manager.data.as_path();
    let hsm = TokenHsm::new();
    assert_eq!(exit(hsm.command(data, &["key", "generate", "--key", "mac", "--algorithm", "aes256-cmac"])).0, 0);
    let join_token = hsm.path("join-token");
    let invited = program(data, &["join-token", "--cluster", "payments", "--hsm", "hsm-1"]).output().unwrap();
    std::fs::write(&join_token, &invited.stdout).unwrap();
    let reports = hsm.json(data, &["attest", "--hsm", "hsm-1", "--join-token-file", &join_token]);
    assert_eq!(reports[0]["statement"], "tagged-key/halo2-pasta/1", "{reports}");
    let status = manager.operator().status().unwrap();
    assert!(status.keys[0].statements[0].agreement.unwrap().is_self_asserted());
    assert!(manager.fraud().is_empty());
}

#[test]
fn the_key_is_in_the_token_and_nowhere_else() {
    let directory = tempfile::tempdir().unwrap();
    let (data, hsm) = (directory.path(), TokenHsm::new());
    let generate = ["key", "generate", "--key", "signing-1", "--algorithm", "ed25519"];
    assert_eq!(exit(hsm.command(data, &generate)).0, 0);
    let (code, said) = exit(hsm.command(data, &generate));
    assert!(code == 4 && said.contains("exists already"), "{said}");
    assert_eq!(exit(hsm.command(data, &[&generate[..], &["--rotate"]].concat())).0, 0);
    assert_eq!(hsm.json(data, &["key", "list"]).as_array().unwrap().len(), 2);

    // The store's file has none of it.
    let alone = program(data, &["--json", "key", "list"]).args(hsm.store()).output().unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&alone.stdout).unwrap(), serde_json::json!([]));
    // A token makes no keys of an algorithm that it is not asked to prove, and takes none from outside.
    let other = ["key", "generate", "--key", "k", "--algorithm", "ristretto255"];
    let (code, said) = exit(hsm.command(data, &other));
    assert!(code == 4 && said.contains("ed25519"), "{said}");
    let import = ["key", "import", "--key", "k", "--algorithm", "ed25519", "--file", &hsm.path("pin")];
    let (code, said) = exit(hsm.command(data, &import));
    assert!(code == 4 && said.contains("not imported into a token"), "{said}");
}

#[test]
fn a_wrong_pin_or_token_is_told_plainly() {
    let directory = tempfile::tempdir().unwrap();
    let (data, hsm) = (directory.path(), TokenHsm::new());
    let named = |token: &str, pin: Option<&str>| {
        let mut command = program(data, &["key", "generate", "--key", "k", "--algorithm", "ed25519"]);
        command.args(hsm.store()).args(["--pkcs11-module", &hsm.library, "--pkcs11-token", token]);
        hsm.with_token(&mut command).env_remove("KEYWITNESS_PKCS11_PIN");
        if let Some(pin) = pin {
            command.env("KEYWITNESS_PKCS11_PIN", pin);
        }
        exit(command)
    };
    for _ in 0..4 {
        let (code, said) = named("vault", Some("a wrong PIN"));
        assert!(code == 4 && said.contains("the PIN of token vault is wrong"), "{said}");
        assert!(!said.contains("a wrong PIN"), "a PIN is not repeated: {said}");
    }
    assert!(!Path::new(&hsm.path("store")).exists(), "a wrong PIN leaves no store behind");
    let (code, said) = named("vualt", Some(PIN));
    assert!(code == 4 && said.contains("no token labelled \"vualt\"") && said.contains("\"vault\""), "{said}");
    let (code, said) = named("vault", None);
    assert!(code == 4 && said.contains("KEYWITNESS_PKCS11_PIN"), "{said}");
    assert_eq!(named("vault", Some(PIN)).0, 0, "the token is not locked");

    let mut no_token = program(data, &["key", "list"]);
    no_token.args(hsm.store()).args(["--pkcs11-module", &hsm.library]);
    let (code, said) = exit(no_token);
    assert!(code == 4 && said.contains("name the token"), "{said}");
    let mut no_library = program(data, &["key", "list"]);
    no_library.args(hsm.store()).args(["--pkcs11-module", "/nowhere.so", "--pkcs11-token", "vault"]);
    no_library.env("KEYWITNESS_PKCS11_PIN", PIN);
    let (code, said) = exit(no_library);
    assert!(code == 4 && said.contains("/nowhere.so cannot be used"), "{said}");
}

#[test]
fn an_unknown_key_is_answered_with_those_that_are_there() {
    let manager = Manager::start(&[]);
    let data = manager.data.as_path();
    let hsm = TokenHsm::new();
    assert_eq!(exit(hsm.command(data, &["key", "generate", "--key", "signing-1", "--algorithm", "ed25519"])).0, 0);
    let join_token = hsm.path("join-token");
    let invited = program(data, &["join-token", "--cluster", "payments", "--hsm", "hsm-1"]).output().unwrap();
    std::fs::write(&join_token, &invited.stdout).unwrap();
    let attest = ["attest", "--hsm", "hsm-1", "--join-token-file", &join_token, "--key", "signing-2"];
    let (code, said) = exit(hsm.command(data, &attest));
    assert!(code == 1 && said.contains("it has signing-1"), "{said}");
}
