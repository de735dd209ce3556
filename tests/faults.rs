//! The machine under a manager misbehaves: its disk is full, its clock is set.

use std::{fs, process::Command};

use keywitness_circuits::KeyAlgorithm;
use keywitness_manager::{
    ledger::Store,
    store::{FILE, Redb, backup},
};
use keywitness_verifier::{
    client::ClientError,
    wire::{Credential, CredentialId, CredentialRequest, ProblemKind, Readiness, Role},
};

use crate::support::{Hsm, Key, Manager, eventually, now, problem};

const KEY: Key = Key { name: "k", algorithm: KeyAlgorithm::Ristretto255, secret: 7 };

/// No file of the process can become longer than this; as long as it likes without one.
fn limit_files(manager: &Manager, bytes: Option<u64>) {
    let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
    let arguments = ["--pid", &manager.id().to_string(), &format!("--fsize={limit}:")].map(str::to_owned);
    assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
}

/// A write of some kilobytes.
fn write(manager: &Manager, number: usize) -> Result<Credential, ClientError> {
    let clusters = (0..64).map(|cluster| format!("{number}.{cluster:02}{}", "x".repeat(55)).parse().unwrap()).collect();
    let request = CredentialRequest::new(format!("holder {number}"), Role::Viewer);
    manager.operator().credential(&CredentialRequest { clusters: Some(clusters), ..request })
}

/// Status and body of an answer to anyone.
fn get(manager: &Manager, path: &str) -> (u16, String) {
    let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
    let mut answer = agent.get(format!("{}{path}", manager.anonymous().base())).call().unwrap();
    (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
}

/// What an answer is, once there is one: until then, 503 and a time to come back.
fn in_the_end<T>(what: &str, ask: impl Fn() -> Result<T, ClientError>) -> T {
    eventually(what, || match ask() {
        Ok(answer) => Some(answer),
        Err(refusal) => {
            assert!(refusal.problem_kind() == Some(ProblemKind::Unavailable), "{what}: {refusal}");
            assert!(refusal.retry_after().is_some_and(|seconds| seconds > 0), "{what}: 503 says when to come back");
            None
        }
    })
}

#[test]
fn on_a_full_disk_writes_are_refused_reads_go_on_and_room_is_used_at_once() {
    // The signal would end the process before the write could fail; its own log may be a file, too.
    let mut manager = Manager::start_by(Some("trap '' XFSZ; exec \"$@\" 2>/dev/null".to_owned()), &[]);
    let hsm = Hsm::enrol(&manager, "payments", "hsm-1");
    hsm.enrol_key(&KEY);
    let record = hsm.attest(&KEY).unwrap();
    let client = manager.with_role(Role::Client);
    let challenge = hsm.challenge(&KEY).unwrap();
    let envelope = hsm.envelope(&KEY, hsm.context(&KEY, &challenge));

    limit_files(&manager, Some(fs::metadata(manager.data.join("manager").join(FILE)).unwrap().len()));
    let mut written: Vec<CredentialId> = Vec::new();
    let refusal = loop {
        match write(&manager, written.len()) {
            Ok(credential) => written.push(credential.id),
            Err(refusal) => break refusal,
        }
        assert!(written.len() < 10_000, "the disk never filled up");
    };
    let ClientError::Problem(told) = &refusal else { panic!("{refusal}") };
    assert_eq!((told.kind(), told.status), (Some(ProblemKind::Unavailable), 503), "{told}");
    assert!(refusal.retry_after().is_some_and(|seconds| seconds > 0), "503 says when to come back");
    // Whoever attests is told so, and nothing is consumed.
    assert_eq!(problem(hsm.client.attest(&envelope)), ProblemKind::Unavailable);
    assert_eq!(problem(write(&manager, 999_999).map(drop)), ProblemKind::Unavailable);
    assert_eq!(get(&manager, "/healthz").0, 503);
    let (status, body) = get(&manager, "/readyz");
    let readiness: Readiness = serde_json::from_str(&body).unwrap();
    assert!(status == 503 && readiness.checks.iter().any(|check| check.name == "ledger" && !check.ok), "{body}");
    // Whoever asks is answered, by what was written, but for the moments in which the store is tried again.
    let listed = |manager: &Manager| {
        let known = in_the_end("the credentials", || manager.operator().credentials()).credentials;
        written.iter().filter(|id| !known.iter().any(|one| one.id == **id)).count()
    };
    for _ in 0..20 {
        assert_eq!(listed(&manager), 0);
        let status = in_the_end("the records", || client.status());
        assert_eq!(status.keys[0].statements[0].proven_at, Some(record.proven_at));
        in_the_end("the checkpoint", || manager.anonymous().checkpoint());
        in_the_end("the token keys", || manager.anonymous().jwks());
    }
    assert_eq!(problem(write(&manager, 999_999).map(drop)), ProblemKind::Unavailable);

    limit_files(&manager, None);
    eventually("the disk to be used again", || write(&manager, 999_999).ok());
    assert_eq!((get(&manager, "/healthz").0, get(&manager, "/readyz").0), (200, 200));
    hsm.client.attest(&envelope).unwrap();
    hsm.attest(&KEY).unwrap();
    manager.kill_and_restart();
    assert_eq!(listed(&manager), 0);
    assert!(manager.fraud().is_empty());
    manager.kill();
    let store = Redb::open(&manager.data.join("manager").join(FILE)).unwrap();
    backup::check(store.view().unwrap().as_ref(), &mut |_| ()).unwrap();
}

#[test]
fn a_clock_that_is_set_back_and_forth_ends_nothing() {
    let library = std::env::var("KEYWITNESS_TEST_FAKETIME").expect("./test sets KEYWITNESS_TEST_FAKETIME");
    let directory = tempfile::tempdir().unwrap();
    let offset = directory.path().join("offset");
    let step = |seconds: i64| fs::write(&offset, format!("{seconds:+}")).unwrap();
    step(0);
    // Only what can be set is wrong: the time since boot is not.
    let shell = format!(
        "export LD_PRELOAD='{library}' FAKETIME_TIMESTAMP_FILE='{}' FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1; \
         export KEYWITNESS_LOG=off; exec \"$@\"",
        offset.display()
    );
    let mut manager = Manager::start_by(Some(shell), &[]);
    let hsm = Hsm::enrol(&manager, "payments", "hsm-1");
    hsm.enrol_key(&KEY);
    let year = 365 * 24 * 60 * 60;
    for seconds in [year, -year, 3600, -3600, 90, -90] {
        let challenge = hsm.challenge(&KEY).unwrap();
        step(seconds);
        let (status, body) = get(&manager, "/readyz");
        assert!(status == 200 && body.contains("stepped"), "{seconds}: {body}");
        // What was open is still open, nothing is expired, and time goes on as it did.
        hsm.client.attest(&hsm.envelope(&KEY, hsm.context(&KEY, &challenge))).unwrap();
        let record = hsm.attest(&KEY).unwrap();
        assert!(record.proven_at.0.abs_diff(now().0) <= 15, "{seconds}: {record:?}");
        step(0);
        assert!(!get(&manager, "/readyz").1.contains("stepped"), "{seconds}");
        hsm.attest(&KEY).unwrap();
    }
    // A start believes the clock. Behind what was written, time stands still until the clock has caught up.
    let before = hsm.attest(&KEY).unwrap();
    step(-3600);
    manager.kill_and_restart();
    assert!(manager.operator().status().unwrap().now >= before.proven_at);
    assert!(manager.fraud().is_empty());
}
