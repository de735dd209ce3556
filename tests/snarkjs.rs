//! Proofs that others can check: snarkjs and our own reader accept what we export, and refuse the same forgeries.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::{Manager, keywitness, keywitness_json};

const FILES: [&str; 3] = ["verification_key.json", "public.json", "proof.json"];

fn program() -> PathBuf {
    std::env::var("KEYWITNESS_TEST_SNARKJS").expect("./test sets KEYWITNESS_TEST_SNARKJS").into()
}

/// Whether a `verification_key.json` has the pairing that snarkjs computes.
fn pairing_is_snarkjs(key: &Path) -> bool {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/pairing.mjs");
    let modules = program().join("../..");
    Command::new("node").arg(script).arg(modules).arg(key).status().unwrap().success()
}

/// Whether snarkjs accepts the three files of `folder`.
fn snarkjs(folder: &Path) -> bool {
    let mut command = Command::new(program());
    command.args(["groth16", "verify"]).args(FILES).current_dir(folder).stdin(Stdio::null());
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.success(), words.contains("OK!"), "{words}");
    output.status.success()
}

/// Whether we accept the three files of `folder`; a refusal is an answer, and not a failure.
fn ours(folder: &Path) -> bool {
    let output = keywitness(folder, &["proof", "verify", folder.to_str().unwrap()]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{words}");
    output.status.success()
}

/// Attests a fresh AES key and exports its Groth16 proof; gives the envelope's path.
fn export(manager: &Manager, files: &Path, out: &Path) -> String {
    let path = |name: &str| files.join(name).to_str().unwrap().to_owned();
    let (store, key_file, token, envelopes) = (path("store"), path("store.key"), path("token"), path("envelopes"));
    let unlock = ["--store", &store, "--key-file", &key_file];
    let run = |arguments: &[&str]| {
        let output = keywitness(&manager.data, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run(&[&["key", "generate", "--key", "vault", "--algorithm", "aes256"][..], &unlock].concat());
    std::fs::write(&token, run(&["join-token", "--cluster", "payments", "--hsm", "hsm-1"])).unwrap();
    let attest = ["attest", "--hsm", "hsm-1", "--join-token-file", &token, "--envelopes", &envelopes];
    run(&[&attest[..], &unlock].concat());
    let envelope = path("envelopes/vault-1-key-knowledge-groth16-bn254-1.envelope");
    let halo2 = path("envelopes/vault-1-key-knowledge-halo2-pasta-1.envelope");
    let export = |envelope: &str| {
        keywitness(&manager.data, &["proof", "export", "--envelope", envelope, "--out", out.to_str().unwrap()])
    };
    assert_eq!(export(&halo2).status.code(), Some(1), "snarkjs has no halo2");
    assert!(!out.exists());
    let mut changed = std::fs::read(&envelope).unwrap();
    let proof = changed.len() - 64 - 128;
    changed[proof] ^= 1;
    std::fs::write(path("changed"), changed).unwrap();
    assert_eq!(export(&path("changed")).status.code(), Some(1), "what does not verify is not exported");
    assert!(export(&envelope).status.success());
    envelope
}

#[test]
fn snarkjs_accepts_our_proofs_and_refuses_what_we_refuse() {
    let manager = Manager::start(&["--suites", "groth16-bn254"]);
    let files = tempfile::tempdir().unwrap();
    let out = files.path().join("proof");
    let envelope = export(&manager, files.path(), &out);
    assert!(snarkjs(&out) && ours(&out) && pairing_is_snarkjs(&out.join(FILES[0])));

    let [key, public, proof] =
        FILES.map(|name| -> Value { serde_json::from_slice(&std::fs::read(out.join(name)).unwrap()).unwrap() });
    let verdicts = |name: &str, key: &Value, public: &Value, proof: &Value| {
        let folder = files.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        for (name, value) in FILES.into_iter().zip([key, public, proof]) {
            std::fs::write(folder.join(name), value.to_string()).unwrap();
        }
        (snarkjs(&folder), ours(&folder))
    };
    let swapped = |value: &Value, one: &str, other: &str| {
        let mut changed = value.clone();
        *changed.pointer_mut(one).unwrap() = value.pointer(other).unwrap().clone();
        *changed.pointer_mut(other).unwrap() = value.pointer(one).unwrap().clone();
        assert_ne!(changed, *value);
        changed
    };
    assert_eq!(verdicts("same", &key, &public, &proof), (true, true), "the form of the JSON says nothing");
    let mut tampered = proof.clone();
    tampered["pi_a"] = key["IC"][1].clone();
    assert_eq!(verdicts("tampered", &key, &public, &tampered), (false, false));
    assert_eq!(verdicts("points", &key, &public, &swapped(&proof, "/pi_a", "/pi_c")), (false, false));
    assert_eq!(verdicts("inputs", &key, &swapped(&public, "/4", "/5"), &proof), (false, false));
    let mut surplus = public.clone();
    surplus.as_array_mut().unwrap().push(json!("1"));
    assert_eq!(verdicts("surplus", &key, &surplus, &proof), (false, false));
    let other_key = swapped(&key, "/vk_gamma_2", "/vk_delta_2");
    assert_eq!(verdicts("key", &other_key, &public, &proof), (false, false));
    // Where snarkjs is lax, we are not.
    let mut surplus = proof.clone();
    surplus["note"] = json!("anything");
    assert_eq!(verdicts("field", &key, &public, &surplus), (true, false));
    let mut pairing = key.clone();
    pairing["vk_alphabeta_12"][0][0] = json!(["1", "0"]);
    assert_eq!(verdicts("pairing", &pairing, &public, &proof), (true, false));
    assert!(!pairing_is_snarkjs(&files.path().join("pairing").join(FILES[0])));

    the_files_are_tied_to_key_and_claim(&manager, &out, &envelope);
}

fn the_files_are_tied_to_key_and_claim(manager: &Manager, out: &Path, envelope: &str) {
    let out = out.to_str().unwrap();
    let check = |flags: &[&str]| {
        keywitness(&manager.data, &[&["proof", "verify", out][..], flags].concat()).status.code().unwrap()
    };
    let answer = keywitness_json(&manager.data, &["proof", "verify", out, "--envelope", envelope]);
    let statements = serde_json::to_value(manager.anonymous().trust_domain().unwrap()).unwrap();
    assert!(statements.to_string().contains(answer["verifying_key"].as_str().unwrap()), "the manager's own key");
    assert_eq!(check(&["--verifying-key", answer["verifying_key"].as_str().unwrap()]), 0);
    assert_eq!(check(&["--verifying-key", &"00".repeat(32)]), 1);
    // The same key in another claim.
    let mut other = std::fs::read(envelope).unwrap();
    let hsm = other.windows(5).position(|window| window == b"hsm-1").unwrap();
    other[hsm + 4] = b'2';
    let path = manager.data.join("other.envelope");
    std::fs::write(&path, other).unwrap();
    assert_eq!(check(&["--envelope", path.to_str().unwrap()]), 1);
}
