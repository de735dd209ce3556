//! The program, as people and scripts run it.

use std::{
    collections::BTreeSet,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use keywitness_circuits::Nonce;
use keywitness_verifier::client::ManagerClient;

use crate::support::{Manager, Running, eventually, keywitness, keywitness_json, now};

fn code(data: &Path, arguments: &[&str]) -> (i32, String) {
    let output = keywitness(data, arguments);
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn pairs(status: &serde_json::Value) -> BTreeSet<(String, String)> {
    let keys = status["keys"].as_array().unwrap().iter();
    keys.filter(|key| key["state"] == "attested")
        .map(|key| (key["hsm"].as_str().unwrap().to_owned(), key["key"]["key"].as_str().unwrap().to_owned()))
        .collect()
}

/// When each required statement of each key was proven last.
fn proven(status: &serde_json::Value) -> Vec<u64> {
    let keys = status["keys"].as_array().unwrap().iter();
    let statements = keys.flat_map(|key| key["statements"].as_array().unwrap());
    statements.map(|statement| statement["proven_at"].as_u64().unwrap_or(0)).collect()
}

#[test]
fn up_attests_everything_and_remembers_it() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let first = keywitness_json(data, &["up", "--once", "--port", "0"]);
    assert_eq!(pairs(&first["status"]).len(), 15, "three HSMs, five keys each: {first}");
    let kinds: BTreeSet<_> = first["status"]["keys"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|key| key["statements"].as_array().unwrap())
        .map(|statement| statement["kind"].as_str().unwrap())
        .collect();
    for system in ["ed25519-eddsa", "p256-schnorr", "secp256k1-schnorr", "halo2-pasta", "groth16-bn254"] {
        assert!(kinds.iter().any(|kind| kind.contains(system)), "{system} does not occur: {kinds:?}");
    }
    assert_eq!(first["status"]["alerts"], 0);
    assert!(first["operation"]["signature"].as_str().is_some_and(|text| !text.is_empty()));

    // Started again: enrolments and records are those of before, and nothing looks like fraud.
    let begun = now().0;
    let mut up = Running::start(data, &["up", "--port", "0"]);
    let status = eventually("the second start's records", || {
        assert!(up.is_running());
        let output = keywitness(data, &["--json", "status"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        // An HSM signs once it has attested in this run.
        let anew = proven(&status).iter().all(|at| *at >= begun);
        (pairs(&status).len() == 15 && anew).then_some(status)
    });
    assert_eq!(status["alerts"], 0);
    assert_eq!(status["events"], first["status"]["events"], "no HSM enrolled anew");

    a_token_verifies_in_python(data);
    a_token_verifies_as_the_documents_say(data);
    tokens_are_checked_offline(data);
    signatures_come_from_attested_keys(data);
    a_revoked_key_is_refused(data);

    // One data directory, one `up`.
    let (exit, words) = code(data, &["up", "--once", "--port", "0"]);
    assert_eq!(exit, 4, "{words}");
    assert!(words.contains("already"), "{words}");
    assert!(up.terminate().success());
    // An address that was left behind is not used: a credential would go to whoever has that port now.
    let (exit, words) = code(data, &["status"]);
    assert!((exit, words.contains("no manager runs")) == (4, true), "{words}");

    // Killed, and started again: what was revoked still is.
    let mut up = Running::start(data, &["up", "--port", "0"]);
    eventually("the third start", || keywitness(data, &["status"]).status.success().then_some(()));
    up.kill();
    let _up = Running::start(data, &["up", "--port", "0"]);
    eventually("the fourth start", || keywitness(data, &["status"]).status.success().then_some(()));
    assert_eq!(code(data, &["token", "--key", "signing-1"]).0, 1);
}

fn address(data: &Path) -> ManagerClient {
    ManagerClient::new(std::fs::read_to_string(data.join("manager.address")).unwrap().trim()).unwrap()
}

fn python(request: &serde_json::Value) -> (bool, String) {
    let program = std::env::var("KEYWITNESS_TEST_PYTHON").expect("./test sets KEYWITNESS_TEST_PYTHON");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/verify_token.py");
    let mut peer = Command::new(program).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    peer.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let output = peer.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn a_token_verifies_in_python(data: &Path) {
    let nonce = Nonce::random().to_string();
    let answer = keywitness_json(data, &["token", "--key", "storage-1", "--audience", "shop", "--nonce", &nonce]);
    let client = address(data);
    let info = client.trust_domain().unwrap();
    let request = serde_json::json!({
        "token": answer["token"],
        "jwks": client.jwks().unwrap(),
        "audience": "shop",
        "issuer": format!("urn:keywitness:{}:{}", info.trust_domain, info.manager),
        "nonce": nonce,
    });
    assert_eq!(python(&request), (true, "storage-1".to_owned()));
    let other = |field: &str, value: serde_json::Value| {
        let mut changed = request.clone();
        changed[field] = value;
        python(&changed)
    };
    assert!(other("audience", "bank".into()).1.starts_with("InvalidAudienceError"));
    assert!(other("issuer", "urn:keywitness:evil.example:m".into()).1.starts_with("InvalidIssuerError"));
    let token = answer["token"].as_str().unwrap();
    let (head, signature) = token.rsplit_once('.').unwrap();
    let swapped: String = signature.chars().rev().collect();
    assert!(other("token", format!("{head}.{swapped}").into()).1.starts_with("InvalidSignatureError"));
    assert!(!other("jwks", serde_json::json!({ "keys": [] })).0);
}

/// The programs of docs/tokens.md, as they stand there, with a status list.
fn a_token_verifies_as_the_documents_say(data: &Path) {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tokens.md")).unwrap();
    let blocks = |language: &str| -> String {
        let fenced = document.split("\n```").filter_map(|part| part.strip_prefix(&format!("{language}\n")));
        fenced.collect::<Vec<_>>().join("\n")
    };
    let nonce = Nonce::random().to_string();
    let answer = keywitness_json(data, &["token", "--key", "storage-1", "--audience", "shop", "--nonce", &nonce]);
    let client = address(data);
    let info = client.trust_domain().unwrap();
    let issuer = format!("urn:keywitness:{}:{}", info.trust_domain, info.manager);
    let reference = &answer["claims"]["status"]["status_list"];
    let list = ureq::get(reference["uri"].as_str().unwrap()).call().unwrap().body_mut().read_to_string().unwrap();
    let request = serde_json::json!({ "token": answer["token"], "jwks": client.jwks().unwrap(), "audience": "shop",
        "issuer": issuer, "nonce": nonce, "statusList": list });
    let run = |program: &str, flags: &[&str], text: &str, request: &serde_json::Value| {
        let mut peer = Command::new(program);
        peer.args(flags).arg(text).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut peer = peer.spawn().unwrap();
        peer.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
        peer.wait().unwrap().success()
    };
    let javascript = blocks("javascript")
        + "\nimport { readFileSync } from 'node:fs'; const r = JSON.parse(readFileSync(0)); check(r.token, r.jwks, r);";
    let python = "import json, sys\nr = json.load(sys.stdin)\ntoken, jwks, nonce, status_list = r['token'], r['jwks'], \
                  r['nonce'], r['statusList']\n"
        .to_owned() + &blocks("python").replace("urn:keywitness:acme.example:manager-1", &issuer);
    let peer = std::env::var("KEYWITNESS_TEST_PYTHON").expect("./test sets KEYWITNESS_TEST_PYTHON");
    for (program, flags, text) in
        [("node", &["--input-type=module", "-e"][..], &javascript), (peer.as_str(), &["-c"][..], &python)]
    {
        assert!(run(program, flags, text, &request), "{program}");
        for (field, value) in [("nonce", "other".into()), ("jwks", serde_json::json!({ "keys": [] }))] {
            let mut changed = request.clone();
            changed[field] = value;
            assert!(!run(program, flags, text, &changed), "{program} {field}");
        }
    }
}

fn tokens_are_checked_offline(data: &Path) {
    let nonce = Nonce::random().to_string();
    let answer = keywitness_json(data, &["token", "--key", "signing-1", "--audience", "shop", "--nonce", &nonce]);
    assert!(answer["expires_at"].as_u64().unwrap() <= now().0 + 300);
    let client = address(data);
    let trust_domain = client.trust_domain().unwrap().trust_domain.to_string();
    let files = tempfile::tempdir().unwrap();
    let (token, jwks) = (files.path().join("token"), files.path().join("jwks"));
    std::fs::write(&token, answer["token"].as_str().unwrap()).unwrap();
    std::fs::write(&jwks, serde_json::to_vec(&client.jwks().unwrap()).unwrap()).unwrap();
    let (token, jwks) = (token.to_str().unwrap(), jwks.to_str().unwrap());
    let check = |domain: &str, audience: &str, nonce: &str| {
        let flags = ["--jwks", jwks, "--trust-domain", domain, "--audience", audience, "--nonce", nonce];
        code(files.path(), &[&["verify", "token", token][..], &flags].concat())
    };
    assert_eq!(check(&trust_domain, "shop", &nonce).0, 0);
    assert_eq!(check("evil.example", "shop", &nonce).0, 1);
    assert_eq!(check(&trust_domain, "bank", &nonce).0, 1);
    assert_eq!(check(&trust_domain, "shop", &Nonce::random().to_string()).0, 1);
}

fn signatures_come_from_attested_keys(data: &Path) {
    for key in ["signing-1", "tls-1", "wallet-1"] {
        for hsm in ["hsm-1", "hsm-2", "hsm-3"] {
            let answer = keywitness_json(data, &["sign", "--key", key, "--hsm", hsm, "--message", "hello"]);
            assert_eq!(answer["hsm"], hsm);
        }
    }
    // A symmetric key does not sign, and no key signs what the protocol itself says.
    let (exit, words) = code(data, &["sign", "--key", "storage-1", "--message", "hello"]);
    assert_eq!(exit, 1, "{words}");
    let (exit, words) = code(data, &["sign", "--key", "signing-1", "--message", "keywitness/v1/attest"]);
    assert_eq!(exit, 1, "{words}");
    assert!(words.contains("keywitness/"), "{words}");
}

fn a_revoked_key_is_refused(data: &Path) {
    let revoke = ["revoke", "--cluster", "payments", "--key", "signing-1", "--reason", "a test"];
    assert_eq!(code(data, &revoke).0, 0);
    assert_eq!(code(data, &revoke).0, 0, "revoking again is no error");
    let (exit, words) = code(data, &["token", "--key", "signing-1"]);
    assert_eq!(exit, 1);
    assert!(words.contains("revoked"), "{words}");
    assert_eq!(code(data, &["sign", "--key", "signing-1", "--message", "hello"]).0, 1);
    assert_eq!(code(data, &["status", "--key", "signing-1"]).0, 1);
    assert_eq!(code(data, &["status", "--key", "tls-1"]).0, 0);
    let (exit, _) = code(data, &["revoke", "--hsm", "hsm-9", "--reason", "none"]);
    assert_eq!(exit, 1, "an HSM that does not exist");
}

#[test]
fn agents_join_a_manager_of_their_own() {
    let manager = Manager::start(&["--record-ttl", "20s", "--challenge-ttl", "10s", "--tls", "always"]);
    let data = manager.data.as_path();
    let secrets = tempfile::tempdir().unwrap();
    let path = |name: &str| secrets.path().join(name).to_str().unwrap().to_owned();
    let (store, key_file, token) = (path("store"), path("store.key"), path("token"));
    let unlock = ["--store", &store, "--key-file", &key_file];
    let key = |arguments: &[&str]| code(data, &[&["key"][..], arguments, &unlock].concat());

    assert_eq!(key(&["generate", "--key", "signing-1", "--algorithm", "ed25519"]), (0, String::new()));
    assert_eq!(key(&["generate", "--key", "vault", "--algorithm", "aes128"]).0, 0);
    std::fs::write(path("weak"), [7; 16]).unwrap();
    assert_eq!(key(&["import", "--key", "weak", "--algorithm", "aes128", "--file", &path("weak")]).0, 4);
    std::fs::write(path("hex"), "c0ffee00112233445566778899aabbccddeeff0123456789abcdef0123456789\n").unwrap();
    assert_eq!(key(&["import", "--key", "wallet", "--algorithm", "secp256k1", "--file", &path("hex")]).0, 0);
    let listed = keywitness_json(data, &[&["key", "list"][..], &unlock].concat());
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert!(!listed.to_string().contains("c0ffee"), "a list shows no secret");

    let invited = keywitness(data, &["join-token", "--cluster", "payments", "--hsm", "hsm-1"]);
    std::fs::write(&token, &invited.stdout).unwrap();
    let attest = ["attest", "--hsm", "hsm-1", "--join-token-file", &token];
    let answer = keywitness_json(data, &[&attest[..], &unlock].concat());
    assert_eq!(answer.as_array().unwrap().len(), 3, "{answer}");
    let operator = data.join("manager/operator.credential");
    let operator = operator.to_str().unwrap();
    let status = || keywitness_json(data, &["status", "--credential-file", operator]);
    assert_eq!(pairs(&status()).len(), 3);

    // The agent keeps them fresh beyond the records' life.
    let agent = ["agent", "--hsm", "hsm-1", "--channel", "127.0.0.1:0", "--proving-threads", "1"];
    let _agent = Running::start(data, &[&agent[..], &unlock].concat());
    let start = now();
    eventually("re-attestation of every key", || {
        let status = status();
        assert_eq!(pairs(&status).len(), 3, "a key lapsed: {status}");
        proven(&status).iter().all(|at| *at > start.0 + 5).then_some(())
    });
    assert!(manager.fraud().is_empty());
}

#[test]
fn bad_input_is_told_from_a_no() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    assert_eq!(code(data, &["nonsense"]).0, 2);
    assert_eq!(code(data, &["token"]).0, 2);
    assert_eq!(code(data, &["revoke", "--reason", "x"]).0, 2);
    assert_eq!(code(data, &["token", "--key", "UPPER"]).0, 2);
    let (exit, words) = code(data, &["token", "--key", "k"]);
    assert_eq!(exit, 4);
    assert!(words.contains("keywitness up"), "{words}");
    let production = tempfile::tempdir().unwrap();
    std::fs::write(production.path().join("manager.toml"), "[manager]\ntrust-domain = \"bank.example\"\n").unwrap();
    let (exit, words) = code(production.path(), &["up", "--once", "--port", "0"]);
    assert!(exit == 4 && words.contains("demonstration"), "{exit}: {words}");
    assert!(!production.path().join("groth16-parameters").exists() && !production.path().join("manager").exists());
    std::fs::write(data.join("c"), "kw_client_x").unwrap();
    let credential = data.join("c");
    let away = ["status", "--manager", "http://127.0.0.1:1", "--credential-file", credential.to_str().unwrap()];
    let mode = |mode| std::fs::set_permissions(&credential, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let (exit, words) = code(data, &away);
    assert!(exit == 4 && words.contains("chmod 600"), "{exit}: {words}");
    mode(0o600);
    assert_eq!(code(data, &away).0, 3);
    assert_eq!(
        code(data, &["status", "--manager", "http://192.0.2.1", "--credential-file", credential.to_str().unwrap()]).0,
        4
    );
    let (store, key_file) = (data.join("store"), data.join("store.key"));
    let unlock = ["--store", store.to_str().unwrap(), "--key-file", key_file.to_str().unwrap()];
    let (exit, words) = code(data, &[&["key", "list"][..], &unlock].concat());
    assert!((exit, words.contains("key generate")) == (4, true), "{words}");
    assert_eq!(code(data, &[&["key", "generate", "--key", "k", "--algorithm", "ed25519"][..], &unlock].concat()).0, 0);
    std::fs::write(data.join("token"), "kw_join_x").unwrap();
    let token = data.join("token");
    let join =
        ["attest", "--manager", "http://127.0.0.1:1", "--hsm", "h", "--join-token-file", token.to_str().unwrap()];
    assert_eq!(code(data, &[&join[..], &unlock].concat()).0, 3, "an agent whose manager is away");
    let (exit, words) = code(
        data,
        &[
            "manager",
            "--listen",
            "0.0.0.0:0",
            "--trust-domain",
            "acme.example",
            "--suites",
            "halo2-pasta",
            "--tls",
            "off",
        ],
    );
    assert_eq!(exit, 2);
    assert!(words.contains("plain HTTP"), "{words}");
    for command in [
        "up",
        "manager",
        "join-token",
        "credential",
        "agent",
        "key",
        "attest",
        "status",
        "token",
        "sign",
        "revoke",
        "verify",
        "proof",
    ] {
        let help = keywitness(data, &[command, "--help"]);
        assert!(help.status.success() && help.stdout.len() > 200, "{command} --help teaches nothing");
    }
    let help = keywitness(data, &["up", "--help"]).stdout;
    assert!(String::from_utf8_lossy(&help).contains("Ctrl-C"), "the long help is shown");
}

#[test]
fn development_parameters_are_refused_beyond_loopback() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let listen = ["manager", "--listen", "0.0.0.0:0", "--trust-domain", "acme.example", "--allow-plaintext"];
    let (exit, words) = code(data, &listen);
    assert_eq!(exit, 4, "{words}");
    assert!(words.contains("could forge proofs"), "{words}");
}

/// What a manager would refuse at its start, `config check` says before; and it writes nothing.
#[test]
fn settings_that_a_manager_would_refuse_are_not_sound() {
    let data = tempfile::tempdir().unwrap();
    let check = |flags: &[&str]| {
        let named = ["manager.trust-domain=acme.example"];
        let sets = named.iter().chain(flags).flat_map(|flag| ["--set", flag]);
        let output = keywitness(data.path(), &["config", "check"].into_iter().chain(sets).collect::<Vec<_>>());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let beyond = "listen.address=0.0.0.0:8443";
    let (code, said) = check(&[beyond, "verification.suites=halo2-pasta,groth16-bn254"]);
    assert!(code == Some(2) && said.contains("there are no Groth16 parameters here"), "{said}");
    assert_eq!(check(&[beyond, "verification.suites=halo2-pasta"]).0, Some(0));
    assert_eq!(check(&["verification.suites=halo2-pasta,groth16-bn254"]).0, Some(0));
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
}

#[test]
fn where_no_manager_runs_that_is_said_before_a_credential_is_asked_for() {
    let data = tempfile::tempdir().unwrap();
    for command in ["status", "alerts"] {
        let said = String::from_utf8(keywitness(data.path(), &[command]).stderr).unwrap();
        assert!(said.contains("no manager runs on this data directory"), "{said}");
    }
}
