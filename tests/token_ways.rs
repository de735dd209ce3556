//! Tokens by URI, the HSM's identity in one, keys removed from one, and a token that goes away and comes back.

use std::{fs, path::Path, process::Command};

use crate::{
    support::{Manager, Running, eventually, program},
    token::{PIN, TokenHsm, exit, private},
};

/// The token's URI, with the PIN from there.
fn uri(hsm: &TokenHsm, selectors: &str, pin: &str) -> String {
    format!("pkcs11:token=vault{selectors}?module-path={}&pin-source={pin}", hsm.library)
}

/// A command line that names the token by its URI alone.
fn by_uri(hsm: &TokenHsm, arguments: &[&str], uri: &str) -> Command {
    let mut command = program(Path::new("/nonexistent"), arguments);
    command.args(["--store", uri]).env_remove("KEYWITNESS_PKCS11_PIN");
    hsm.with_token(&mut command);
    command
}

fn names(listed: &serde_json::Value) -> Vec<&str> {
    listed.as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap()).collect()
}

fn generate(hsm: &TokenHsm, data: &Path, key: &str, algorithm: &str) {
    assert_eq!(exit(hsm.command(data, &["key", "generate", "--key", key, "--algorithm", algorithm])).0, 0);
}

#[test]
fn a_token_is_named_by_its_uri() {
    let directory = tempfile::tempdir().unwrap();
    let (data, hsm) = (directory.path(), TokenHsm::new());
    for (key, algorithm) in [("one", "ed25519"), ("two", "p256")] {
        generate(&hsm, data, key, algorithm);
    }
    let list = |uri: &str| {
        let output = by_uri(&hsm, &["--json", "key", "list"], uri).env("OTHER_PIN", PIN).output().unwrap();
        assert!(output.status.success(), "{uri}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let file = format!("file:{}", hsm.path("pin"));
    assert_eq!(names(&list(&uri(&hsm, "", &file))), ["one", "two"]);
    assert_eq!(names(&list(&uri(&hsm, "", "env:OTHER_PIN"))), ["one", "two"]);
    assert_eq!(names(&list(&uri(&hsm, ";object=two", &file))), ["two"]);
    assert_eq!(names(&list(&uri(&hsm, ";id=%00%00%00%01;object=one", &file))), ["one"]);
    assert_eq!(names(&list(&uri(&hsm, ";id=%07", &file))), [""; 0]);
    let digest = list(&uri(&hsm, ";object=two", &file))[0]["attributes_digest"].clone();
    assert_eq!(digest.as_str().unwrap().len(), 64);

    let refused = |uri: &str, why: &str| {
        let (code, said) = exit(by_uri(&hsm, &["key", "list"], uri));
        assert!(code != 0 && said.contains(why), "{uri}: {said}");
        assert!(!said.contains(PIN), "a PIN is not repeated: {said}");
    };
    let encoded = PIN.replace(' ', "%20");
    let with_pin = format!("pkcs11:token=vault?module-path={}&pin-value={encoded}", hsm.library);
    refused(&with_pin, "a PIN is no argument");
    assert!(!exit(by_uri(&hsm, &["key", "list"], &with_pin)).1.contains(&encoded));
    refused(&uri(&hsm, "", "env:OTHER_PIN"), "OTHER_PIN");
    refused(&uri(&hsm, "", "prompt:"), "no terminal");
    refused(&uri(&hsm, ";serial=0000", &file), "with the serial number \"0000\"");
    refused("pkcs11:token=vault", "module-path");
    refused(&format!("pkcs11:?module-path={}&pin-source={file}", hsm.library), "name the token");
    // What an HSM is, a token alone does not say.
    let (code, said) = exit(by_uri(&hsm, &["attest", "--hsm", "hsm-1"], &uri(&hsm, "", &file)));
    assert!(code != 0 && said.contains("--store FILE"), "{said}");
}

#[test]
fn a_key_is_removed_after_a_question() {
    let directory = tempfile::tempdir().unwrap();
    let (data, hsm) = (directory.path(), TokenHsm::new());
    for (key, algorithm) in [("goes", "p256"), ("stays", "ed25519")] {
        generate(&hsm, data, key, algorithm);
    }
    let soft = ["key", "generate", "--key", "soft", "--algorithm", "aes256"];
    assert!(program(data, &soft).args(hsm.store()).output().unwrap().status.success());
    let delete = |key: &str, more: &[&str]| exit(hsm.command(data, &[&["key", "delete", "--key", key], more].concat()));
    let (code, said) = delete("goes", &[]);
    assert!(code != 0 && said.contains("--yes"), "{said}");
    assert_eq!(names(&hsm.json(data, &["key", "list"])).len(), 3, "nothing was removed unasked");
    assert_eq!(delete("goes", &["--yes"]), (0, String::new()));
    assert_eq!(delete("soft", &["--yes", "--epoch", "1"]), (0, String::new()));
    assert_eq!(names(&hsm.json(data, &["key", "list"])), ["stays"]);
    let (code, said) = delete("goes", &["--yes"]);
    assert!(code != 0 && said.contains("there is no key goes"), "{said}");
    let alone = uri(&hsm, "", &format!("file:{}", hsm.path("pin")));
    assert_eq!(exit(by_uri(&hsm, &["key", "delete", "--key", "stays", "--yes"], &alone)), (0, String::new()));
    assert!(names(&hsm.json(data, &["key", "list"])).is_empty());
}

#[test]
fn an_hsm_whose_identity_is_in_the_token_enrols_and_attests() {
    let manager = Manager::start(&[]);
    let data = manager.data.as_path();
    let hsm = TokenHsm::new();
    for key in ["keywitness-identity", "signing-1"] {
        generate(&hsm, data, key, "ed25519");
    }
    let identity = hsm.json(data, &["key", "identity"])["identity_key"].clone();
    let of_file = program(data, &["key", "identity"]).args(hsm.store()).output().unwrap();
    assert_ne!(String::from_utf8_lossy(&of_file.stdout).trim(), identity.as_str().unwrap());

    let join_token = hsm.path("join-token");
    let invited = program(data, &["join-token", "--cluster", "payments", "--hsm", "hsm-1"]).output().unwrap();
    fs::write(&join_token, &invited.stdout).unwrap();
    let attest = ["attest", "--hsm", "hsm-1", "--join-token-file", &join_token, "--envelopes", &hsm.path("envelopes")];
    let reports = hsm.json(data, &attest);
    assert_eq!(reports.as_array().unwrap().len(), 1, "the identity is not attested: {reports}");
    assert_eq!(reports[0]["record"]["key"]["key"], "signing-1", "{reports}");
    // Anybody checks the envelope under the token's key.
    let envelope = fs::read_dir(hsm.path("envelopes")).unwrap().next().unwrap().unwrap().path();
    let verify = |key: &str| {
        let arguments = ["verify", "envelope", envelope.to_str().unwrap(), "--identity-key", key];
        program(data, &arguments).output().unwrap()
    };
    let verified = verify(identity.as_str().unwrap());
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    assert!(!verify(String::from_utf8_lossy(&of_file.stdout).trim()).status.success());

    // Without the token the store speaks in another name, and the manager does not listen.
    let soft = ["key", "generate", "--key", "soft", "--algorithm", "ed25519"];
    assert!(program(data, &soft).args(hsm.store()).output().unwrap().status.success());
    let alone = program(data, &["attest", "--hsm", "hsm-1", "--key", "soft"]).args(hsm.store()).output().unwrap();
    assert!(!alone.status.success(), "{}", String::from_utf8_lossy(&alone.stdout));
    // The identity stays, for whoever has no more than the token too.
    let delete = ["key", "delete", "--key", "keywitness-identity", "--yes"];
    let alone = uri(&hsm, "", &format!("file:{}", hsm.path("pin")));
    for (code, said) in [exit(hsm.command(data, &delete)), exit(by_uri(&hsm, &delete, &alone))] {
        assert!(code != 0 && said.contains("identity"), "{said}");
    }
    assert_eq!(hsm.json(data, &["key", "identity"])["identity_key"], identity);
    assert!(manager.fraud().is_empty());
}

/// Each try counts: whoever starts it again is told by the code that nobody should.
#[test]
fn an_agent_whose_pin_is_refused_ends_for_good() {
    let manager = Manager::start(&[]);
    let (data, hsm) = (manager.data.as_path(), TokenHsm::new());
    generate(&hsm, data, "signing-1", "ed25519");
    fs::write(hsm.path("pin"), "a wrong PIN").unwrap();
    for isolation in ["preferred", "off"] {
        let flags = ["agent", "--isolation", isolation, "--hsm", "hsm-1"];
        let (code, said) = exit(hsm.command(data, &flags));
        assert!(code == 9 && said.contains("PIN"), "{isolation}: {code}: {said}");
    }
}

/// The token's directory is the token: what takes it away takes the token out.
#[test]
fn an_agent_goes_on_when_its_token_is_back() {
    let manager = Manager::start(&["--record-ttl", "20s", "--challenge-ttl", "10s"]);
    let data = manager.data.as_path();
    let hsm = TokenHsm::new();
    generate(&hsm, data, "signing-1", "p256");
    let join_token = hsm.path("join-token");
    let invited = program(data, &["join-token", "--cluster", "payments", "--hsm", "hsm-1"]).output().unwrap();
    fs::write(&join_token, &invited.stdout).unwrap();
    let credential = program(data, &["--json", "credential", "--role", "client", "--name", "shop"]).output().unwrap();
    let credential: serde_json::Value = serde_json::from_slice(&credential.stdout).unwrap();
    fs::write(data.join("client.credential"), credential["secret"].as_str().unwrap()).unwrap();
    private(data.join("client.credential").to_str().unwrap());
    let client = credential["client_key"].as_str().unwrap();
    let flags = [
        "agent",
        "--hsm",
        "hsm-1",
        "--join-token-file",
        &join_token,
        "--channel",
        "127.0.0.1:0",
        "--allow-client",
        client,
    ];
    let mut agent = Running::spawn(hsm.command(data, &flags));
    let signed =
        || program(data, &["sign", "--key", "signing-1", "--message", "hello"]).output().unwrap().status.success();
    let proven = || manager.operator().status().unwrap().keys[0].statements[0].proven_at.unwrap().0;
    eventually("a signature", || signed().then_some(()));

    for _ in 0..2 {
        let slot = fs::read_dir(hsm.path("tokens")).unwrap().next().unwrap().unwrap().path();
        fs::rename(&slot, hsm.path("taken-out")).unwrap();
        assert!(!signed(), "the token is gone");
        assert!(agent.is_running(), "the agent waits");
        let before = proven();
        fs::rename(hsm.path("taken-out"), &slot).unwrap();
        eventually("a signature after the token came back", || signed().then_some(()));
        eventually("a record after the token came back", || (proven() > before).then_some(()));
    }
    assert!(agent.is_running());
    assert!(manager.fraud().is_empty(), "{:?}", manager.fraud());
}
