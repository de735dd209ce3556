//! The published description of the API against a manager that runs: schemathesis asks whatever it allows, and what it
//! does not. There is no answer that is not described, no 5xx, no way around a credential.

use std::process::Command;

use keywitness_circuits::KeyAlgorithm;
use keywitness_verifier::wire::{KeyQuery, RevocationTarget, RevokeRequest, Role, TokenRequest, path};

use crate::support::{Hsm, Key, Manager};

/// Nobody is turned away for asking often.
const UNLIMITED: [&str; 7] = [
    "limits.credential-rate=1000000",
    "limits.credential-burst=10000000",
    "limits.overview-rate=1000000",
    "limits.overview-burst=10000000",
    "limits.hsm-rate=1000000",
    "limits.hsm-burst=10000000",
    "limits.mistake=1",
];

/// A manager that has something to tell.
fn with_history() -> (Manager, Hsm) {
    let flags: Vec<&str> = UNLIMITED.into_iter().flat_map(|setting| ["--set", setting]).collect();
    let manager = Manager::start_by(Some("KEYWITNESS_LOG=off exec \"$@\"".to_owned()), &flags);
    let key = Key { name: "k", algorithm: KeyAlgorithm::Ristretto255, secret: 7 };
    let [here, elsewhere] = [("payments", "hsm-1"), ("archive", "hsm-2")].map(|(cluster, name)| {
        let hsm = Hsm::enrol(&manager, cluster, name);
        hsm.enrol_key(&key);
        hsm.attest(&key).unwrap();
        hsm
    });
    assert_eq!(manager.operator().status().unwrap().open_alerts, 1, "one key was proven in two clusters");
    let query = KeyQuery { key: "k".parse().unwrap(), cluster: None, hsm: Some(here.id.clone()), max_age: None };
    let (audience, nonce) = ("shop".to_owned(), keywitness_circuits::Nonce::random());
    let wanted = TokenRequest { query, audience, nonce, form: Default::default() };
    manager.with_role(Role::Client).token(&wanted).unwrap();
    let target = RevocationTarget::Hsm(elsewhere.id);
    manager.operator().revoke(&RevokeRequest { target, reason: "a drill".into() }).unwrap();
    (manager, here)
}

/// Has schemathesis make so many requests for each operation, besides those that its coverage takes: the same ones always
/// where there is a seed.
fn ask(examples: u32, seed: Option<u32>) {
    let (manager, hsm) = with_history();
    let python = std::env::var("KEYWITNESS_TEST_PYTHON").expect("./test sets KEYWITNESS_TEST_PYTHON");
    let address = std::fs::read_to_string(manager.data.join("manager.address")).unwrap();
    let secret = |role: Role| {
        let request = keywitness_verifier::wire::CredentialRequest::new(role.to_string(), role);
        (role.to_string(), manager.operator().credential(&request).unwrap().secret.into())
    };
    let credentials: serde_json::Map<String, serde_json::Value> = Role::ALL.into_iter().map(secret).collect();
    let identity: String = hsm.identity.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let access = serde_json::json!({
        "address": address.trim(),
        "trust_domain": hsm.audience.trust_domain,
        "manager": hsm.audience.manager,
        "credentials": credentials,
        "hsm": { "name": hsm.id, "seed": identity },
    });
    let file = manager.data.join("access.json");
    std::fs::write(&file, access.to_string()).unwrap();
    let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers");
    let output = Command::new(python)
        .current_dir(&manager.data)
        .env("PYTHONPATH", peers)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "api_hooks")
        .env("KEYWITNESS_TEST_ACCESS", &file)
        .args(["-m", "schemathesis.cli", "--config-file", &format!("{peers}/schemathesis.toml"), "run"])
        .arg(format!("{}/v1/openapi.json", address.trim()))
        // Answers that go on for ten minutes.
        .args(["--exclude-path", path::EVENT_STREAM, "--exclude-path", path::ALERT_STREAM])
        .args(["--phases", "coverage,fuzzing", "--max-examples", &examples.to_string()])
        .args(["--generation-database", "none", "--request-timeout", "60", "--suppress-health-check", "all"])
        .args(seed.iter().flat_map(|seed| ["--seed".to_owned(), seed.to_string()]))
        .args(["--warnings", "off", "--no-color", "--continue-on-failure"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("No issues found"), "{told}");
    // It got in: there are credentials now that it made.
    assert!(manager.operator().credentials().unwrap().credentials.len() > 2 + Role::ALL.len());
    assert!(manager.operator().status().is_ok());
}

#[test]
fn schemathesis_finds_nothing_that_is_not_described() {
    ask(10, Some(1));
}

#[test]
#[ignore = "takes minutes"]
fn schemathesis_finds_nothing_that_is_not_described_in_long() {
    ask(200, None);
}
