//! A manager that is killed again and again while HSMs attest.

use std::{
    collections::HashSet,
    os::unix::fs::{MetadataExt as _, chown},
    thread,
    time::Duration,
};

use keywitness_circuits::{Envelope, KeyAlgorithm};
use keywitness_manager::{
    ledger::Store,
    store::{FILE, Redb, backup},
};
use keywitness_verifier::{
    log::{CheckpointPolicy, VerifiedCheckpoint, verify_consistency},
    wire::{Challenge, ProblemKind, Record},
};

use crate::support::{Hsm, Key, Manager, problem};

const KEY: Key = Key { name: "k", algorithm: KeyAlgorithm::Ristretto255, secret: 7 };

/// What an HSM was told of one attestation; nothing where the manager died before it answered.
struct Attempt {
    challenge: Challenge,
    envelope: Envelope,
    record: Option<Record>,
}

/// Attests until nobody answers.
fn attest_until_it_dies(hsm: &Hsm) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    loop {
        let challenge = match hsm.challenge(&KEY) {
            Ok(challenge) => challenge,
            Err(error) => {
                assert_eq!(error.problem_kind(), None, "{error}");
                return attempts;
            }
        };
        let envelope = hsm.envelope(&KEY, hsm.context(&KEY, &challenge));
        let answer = hsm.client.attest(&envelope);
        let died = answer.as_ref().is_err_and(|error| error.problem_kind().is_none());
        assert!(died || answer.is_ok(), "{answer:?}");
        let record = answer.ok().map(|mut answer| answer.records.remove(0));
        attempts.push(Attempt { challenge, envelope, record });
        if died {
            return attempts;
        }
    }
}

/// The newest checkpoint that the manager published, under the key that it had at first.
fn published(manager: &Manager, policy: &CheckpointPolicy) -> VerifiedCheckpoint {
    policy.verify(&manager.anonymous().checkpoint().unwrap()).unwrap()
}

/// What was published before is the beginning of what is published now.
fn check_prefix(manager: &Manager, old: &VerifiedCheckpoint, new: &VerifiedCheckpoint) {
    let (old, new) = (old.tree(), new.tree());
    let proof = manager.anonymous().consistency(old.0, new.0).unwrap();
    verify_consistency(old, new, &proof.hashes).unwrap();
}

fn kill_while_busy(kills: u64) {
    let mut manager = Manager::start(&[]);
    let mut hsms = ["hsm-a", "hsm-b", "hsm-c"].map(|name| Hsm::enrol(&manager, "payments", name));
    hsms.iter().for_each(|hsm| hsm.enrol_key(&KEY));
    let policy = CheckpointPolicy::log_alone(manager.anonymous().log_key().unwrap().log.parse().unwrap()).unwrap();
    let first = published(&manager, &policy);
    let mut told = [Vec::new(), Vec::new(), Vec::new()];
    for kill in 0..kills {
        let attempts = thread::scope(|scope| {
            let busy = hsms.each_ref().map(|hsm| scope.spawn(|| attest_until_it_dies(hsm)));
            // Another moment each time, in the middle of whatever goes on.
            thread::sleep(Duration::from_millis(20 + kill * 13 % 97));
            let before = published(&manager, &policy);
            manager.kill();
            (busy.map(|thread| thread.join().unwrap()), before)
        });
        let (attempts, before) = attempts;
        manager.restart();
        let after = published(&manager, &policy);
        check_prefix(&manager, &before, &after);
        check_prefix(&manager, &first, &after);
        for ((hsm, attempts), told) in hsms.iter_mut().zip(attempts).zip(&mut told) {
            hsm.client = manager.anonymous();
            for attempt in attempts.into_iter().rev().take(4) {
                // Sent again, each comes to what it came to, or would have come to.
                let record = hsm.client.attest(&attempt.envelope).unwrap().records.remove(0);
                assert!(attempt.record.as_ref().is_none_or(|told| *told == record), "kill {kill}");
                told.push(Attempt { record: Some(record), ..attempt });
            }
        }
    }
    // Everything is there to the end, and no challenge can be answered a second time.
    for (hsm, told) in hsms.iter().zip(&told) {
        assert!(told.len() as u64 >= kills / 2, "there was no load");
        for Attempt { envelope, record, .. } in told {
            assert_eq!(hsm.client.attest(envelope).unwrap().records.first(), record.as_ref());
        }
        let Attempt { challenge, .. } = told.last().unwrap();
        let again = hsm.envelope(&KEY, hsm.context(&KEY, challenge));
        assert_eq!(problem(hsm.client.attest(&again)), ProblemKind::ChallengeConsumed);
    }
    let nonces: HashSet<_> = told.iter().flatten().map(|attempt| attempt.challenge.nonce.0).collect();
    assert_eq!(nonces.len(), told.iter().flatten().count(), "a challenge was given twice");
    // A leaf for each command, each opening that of its leaf, no gap among events.
    manager.kill();
    let store = Redb::open(&manager.data.join("manager").join(FILE)).unwrap();
    backup::check(store.view().unwrap().as_ref(), &mut |_| ()).unwrap();
}

#[test]
fn killed_while_busy_it_loses_nothing_that_it_acknowledged() {
    kill_while_busy(10);
}

#[test]
#[ignore = "takes a minute"]
fn killed_sixty_times_while_busy_it_loses_nothing_that_it_acknowledged() {
    kill_while_busy(60);
}

#[test]
fn a_backup_of_a_running_manager_is_restored_on_another_machine() {
    use crate::support::{keywitness, keywitness_json};
    let manager = Manager::start(&[]);
    let hsm = Hsm::enrol(&manager, "payments", "hsm-a");
    hsm.enrol_key(&KEY);
    hsm.attest(&KEY).unwrap();
    let open = hsm.challenge(&KEY).unwrap();
    let made = keywitness_json(&manager.data, &["backup"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let from = made["file"].as_str().unwrap();
    let restored = keywitness_json(elsewhere.path(), &["restore", "--from", from]);
    assert_eq!(restored["sequence"].as_u64().unwrap(), made["sequence"].as_u64().unwrap() + 1);
    let again = keywitness(elsewhere.path(), &["restore", "--from", from]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
    keywitness_json(elsewhere.path(), &["compact"]);
    // Who is root writes nothing into another user's directory that this one could not read.
    let kept = elsewhere.path().join("manager");
    let owner = std::fs::metadata(&kept).unwrap().uid();
    if chown(&kept, Some(owner + 1), None).is_ok() {
        for command in [&["compact"][..], &["backup"]] {
            let refused = keywitness(elsewhere.path(), command);
            let told = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && told.contains("run it as that user"), "{told}");
        }
        chown(&kept, Some(owner), None).unwrap();
    }
    let offline = keywitness_json(elsewhere.path(), &["backup"]);
    assert_eq!(offline["sequence"], restored["sequence"]);
    // The manager that was copied answers the challenge; the restored one would not.
    hsm.client.attest(&hsm.envelope(&KEY, hsm.context(&KEY, &open))).unwrap();
    let store = Redb::open(&elsewhere.path().join("manager").join(FILE)).unwrap();
    let row = keywitness_manager::ledger::state::State(store.view().unwrap().as_ref()).challenge(&open.nonce);
    assert!(row.unwrap().unwrap().expires_at <= crate::support::now());
}
