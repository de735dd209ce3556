//! The engine: one order, one outcome, nothing acknowledged is lost.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Barrier;

use keywitness_circuits::Nonce;
use keywitness_verifier::wire::{AttestationState, EventKind, ProblemKind, RevocationTarget};

use super::{
    Command, Memory, Rows, Table,
    log::{self, Submission, entries},
    state::State,
    tables::Row,
};
use crate::{
    service::{
        testing::{Caller, TestHsm, TestKey, World, refused, submit},
        tests::{batch, evidence, many, rules, sharing, standing, statements},
    },
    store::{FILE, Redb},
};

fn rows(rows: &dyn Rows, table: Table) -> Vec<Row> {
    rows.range(table, &[], &[], usize::MAX).unwrap()
}

/// Something of everything, right and wrong.
fn bustle(world: &World) -> (TestHsm, TestKey) {
    let (hsm, other) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "us"));
    let key = TestKey::ed25519("k", 1);
    for (hsm, cluster) in [(&hsm, "eu"), (&other, "us")] {
        hsm.enrol_key(world, &key).unwrap();
        hsm.attest(world, cluster, &key).unwrap();
        world.advance(-3);
    }
    for _ in 0..6 {
        hsm.fail(world, "eu", &key);
        world.advance(1);
    }
    let stolen = hsm.challenge(world, &key).unwrap();
    refused(submit(world, &other.answer(world, "us", &key, &stolen)), ProblemKind::ForeignChallenge);
    world.revoke_hsm(&other);
    world.advance(90_000);
    for _ in 0..4 {
        refused(other.challenge(world, &key), ProblemKind::HsmRevoked);
    }
    hsm.attest(world, "eu", &key).unwrap();
    let (third, drifted) = (world.hsm("hsm-3", "eu"), TestKey::ed25519("k", 2));
    third.enrol_key(world, &drifted).unwrap();
    third.attest(world, "eu", &drifted).unwrap();
    // Both go on with it after the grace.
    world.advance(601);
    hsm.attest(world, "eu", &key).unwrap();
    third.attest(world, "eu", &drifted).unwrap();
    let revoked = TestKey::ed25519("revoked", 5);
    hsm.enrol_key(world, &revoked).unwrap();
    let (cluster, key_id) = ("eu".parse().unwrap(), revoked.key.key);
    world.revoke(RevocationTarget::Key { cluster, key: key_id });
    let restored = Submission { salt: Nonce::random(), command: Command::Restored };
    world.store.write(&mut |tables| log::execute(tables, restored.clone(), world.now()).map(drop)).unwrap();
    for command in [
        Command::PlaceWebhook { webhook: "pager".into(), after: 1 },
        Command::AdvanceWebhook { webhook: "pager".into(), placed: 1, through: 3 },
        Command::AdvanceWebhook { webhook: "pager".into(), placed: 2, through: 4 },
    ] {
        let submission = Submission { salt: Nonce::random(), command };
        world.store.write(&mut |tables| log::execute(tables, submission.clone(), world.now()).map(drop)).unwrap();
    }
    world.advance(1);
    (hsm, key)
}

#[test]
fn replaying_the_log_gives_the_same_tables_byte_for_byte() {
    let world = sharing::bustle(World::on_disk());
    statements::bustle(&world);
    many::bustle(&world);
    standing::bustle(&world);
    rules::bustle(&world);
    batch::bustle(&world);
    bustle(&world);
    // Its challenges are forgotten after a day, which the others let pass.
    evidence::bustle(&world);
    // More than a tile of the log, a seal, and openings that are deleted behind it.
    while entries(world.store.view().unwrap().as_ref(), 0, usize::MAX).unwrap().len() < 260 {
        world.join_token("eu", None);
    }
    let sealed = world.manager.seal(&Caller::in_process()).unwrap();
    let mut log = entries(world.store.view().unwrap().as_ref(), 0, usize::MAX).unwrap();
    assert_eq!(world.manager.prune(&Caller::in_process(), sealed.sequence).unwrap(), sealed.sequence);
    let disk = world.store.view().unwrap();
    log.extend(entries(disk.as_ref(), log.len() as u64, usize::MAX).unwrap());
    let mut memory = Memory::default();
    assert!(log.len() > 30);
    for (before, entry) in log.iter().enumerate() {
        assert_eq!(State(&memory).head().unwrap().sequence, before as u64);
        let (outcome, _) = log::execute(&mut memory, entry.submission.clone(), entry.at).unwrap();
        assert_eq!(outcome, entry.outcome);
    }
    for table in Table::ALL {
        assert_eq!(rows(disk.as_ref(), *table), rows(&memory, *table), "{}", table.name());
        // What was never written to would be equal for nothing.
        assert!(!rows(&memory, *table).is_empty(), "{} is empty", table.name());
    }
    // One leaf for each command, and each different.
    let mut leaves: Vec<_> = rows(&memory, Table::Leaves).into_iter().map(|(_, hash)| hash).collect();
    leaves.sort_unstable();
    leaves.dedup();
    assert_eq!(leaves.len(), log.len());
}

#[test]
fn time_never_goes_back_and_numbers_have_no_gaps() {
    let world = World::new();
    bustle(&world);
    let view = world.store.view().unwrap();
    let log = entries(view.as_ref(), 0, usize::MAX).unwrap();
    assert!(log.is_sorted_by_key(|entry| entry.at));
    assert_eq!(State(view.as_ref()).head().unwrap().sequence, log.len() as u64);
    assert_eq!(entries(view.as_ref(), 3, 2).unwrap(), log[3..5]);
}

#[test]
fn no_secret_is_in_the_store() {
    let world = World::new();
    let token = world.join_token("eu", None);
    TestHsm::new("hsm-1").enrol(&world, &token).unwrap();
    let operator = std::fs::read_to_string(world.manager.operator_credential_path()).unwrap();
    let view = world.store.view().unwrap();
    for secret in [token.as_bytes(), operator.trim().as_bytes()] {
        for table in Table::ALL {
            for (key, value) in rows(view.as_ref(), *table) {
                assert!(![key, value].iter().any(|bytes| bytes.windows(secret.len()).any(|window| window == secret)));
            }
        }
    }
}

/// A copy of the file of a running manager is what a loss of power would leave.
#[test]
fn what_was_acknowledged_is_there_without_a_graceful_close() {
    let world = World::on_disk();
    let (hsm, key) = bustle(&world);
    let record = hsm.attest(&world, "eu", &key).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join(FILE);
    std::fs::copy(world.directory.path().join(FILE), &copy).unwrap();
    let copy = Redb::open(&copy).unwrap();
    let (left, right) = (super::Store::view(&copy).unwrap(), world.store.view().unwrap());
    for table in Table::ALL {
        assert_eq!(rows(left.as_ref(), *table), rows(right.as_ref(), *table));
    }
    let records = State(left.as_ref()).all::<super::state::RecordRow>(&[]).unwrap();
    assert!(records.iter().any(|row| row.record == record));
}

#[test]
fn reopening_resumes() {
    let world = World::on_disk();
    let (hsm, key) = bustle(&world);
    let before = rows(world.store.view().unwrap().as_ref(), Table::Commands).len();
    let world = world.reopen();
    // The same configuration and credential: opening again changes nothing.
    assert_eq!(rows(world.store.view().unwrap().as_ref(), Table::Commands).len(), before);
    assert!(world.manager.alive());
    hsm.attest(&world, "eu", &key).unwrap();
    assert_eq!(world.manager.status(&Caller::in_process()).unwrap().keys[0].state, AttestationState::Attested);
}

#[test]
fn two_answers_race_for_one_challenge_and_one_wins() {
    let world = World::on_disk();
    let hsm = world.hsm("hsm-1", "eu");
    // Schnorr proofs are randomised: every answer has other bytes.
    let key = TestKey::new("k", keywitness_circuits::KeyAlgorithm::P256, 1);
    hsm.enrol_key(&world, &key).unwrap();
    for _ in 0..5 {
        let alerts = world.alerts().len();
        let challenge = hsm.challenge(&world, &key).unwrap();
        let envelopes: Vec<_> = (0..4).map(|_| hsm.answer(&world, "eu", &key, &challenge)).collect();
        let (barrier, shared) = (Barrier::new(envelopes.len()), &world);
        let results: Vec<_> = std::thread::scope(|scope| {
            let race = |envelope| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    submit(shared, envelope)
                })
            };
            let racers: Vec<_> = envelopes.iter().map(race).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 3));
        for result in lost {
            refused(result, ProblemKind::ChallengeConsumed);
        }
        let winner = won[0].as_ref().unwrap().envelope;
        let row = State(world.store.view().unwrap().as_ref()).challenge(&challenge.nonce).unwrap().unwrap();
        assert_eq!(row.consumed.unwrap().envelope, winner);
        let replays = |kind: &&EventKind| matches!(kind, EventKind::Replay { .. });
        assert_eq!(world.alerts()[alerts..].iter().filter(replays).count(), 1);
    }
}

#[test]
fn the_same_answer_from_many_threads_is_one_answer() {
    let world = World::on_disk();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    let challenge = hsm.challenge(&world, &key).unwrap();
    let envelope = hsm.answer(&world, "eu", &key, &challenge);
    let records: Vec<_> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..8).map(|_| scope.spawn(|| submit(&world, &envelope).unwrap())).collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    assert!(records.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(world.alerts().is_empty());
}

#[test]
fn another_trust_domain_cannot_open_the_data() {
    let world = World::on_disk();
    let directory = world.directory.path().to_owned();
    let World { manager, store, directory: keep, .. } = world;
    drop(manager);
    drop(store);
    let mut config = crate::Config::new(&directory, "other.example".parse().unwrap(), "m1".parse().unwrap());
    config.suites = vec![keywitness_circuits::Suite::Halo2Pasta];
    let clock = std::sync::Arc::new(crate::SystemClock);
    let opened = crate::Manager::open(config, keywitness_circuits::Parameters::transparent(), clock);
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("acme.example"), "{error}");
    drop(keep);
}
