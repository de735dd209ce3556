//! Fraud events: each for its cause, once, and none for honest work.

use keywitness_circuits::ClaimContext;
use keywitness_verifier::wire::{EventKind, ProblemKind, RevocationTarget};

use crate::service::testing::{TestKey, World, refused, submit};

#[test]
fn a_long_honest_run_raises_nothing() {
    let world = World::new();
    let hsms = [world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "eu"), world.hsm("hsm-3", "eu")];
    let mut key = TestKey::ed25519("k", 1);
    for round in 0..40_u32 {
        if round % 10 == 0 && round > 0 {
            // The cluster rotates, one HSM after the other.
            key = key.epoch(round / 10 + 1, u8::try_from(round / 10).unwrap() + 1);
        }
        for hsm in &hsms {
            hsm.enrol_key(&world, &key).unwrap();
            let challenge = hsm.challenge(&world, &key).unwrap();
            let envelope = hsm.answer(&world, "eu", &key, &challenge);
            let record = submit(&world, &envelope).unwrap();
            // The reply was lost: the same envelope is sent again.
            assert_eq!(submit(&world, &envelope).unwrap(), record);
        }
        world.advance(300);
    }
    // Each HSM was just about to attest when the key was revoked.
    let challenges: Vec<_> = hsms.iter().map(|hsm| hsm.challenge(&world, &key).unwrap()).collect();
    world.revoke(RevocationTarget::Key { cluster: "eu".parse().unwrap(), key: key.key.key.clone() });
    world.advance(2);
    for (hsm, challenge) in hsms.iter().zip(&challenges) {
        refused(submit(&world, &hsm.answer(&world, "eu", &key, challenge)), ProblemKind::KeyRevoked);
        refused(hsm.challenge(&world, &key), ProblemKind::KeyRevoked);
    }
    assert!(world.alerts().is_empty());
}

#[test]
fn one_fingerprint_in_two_clusters_is_told_once_and_only_when_proven() {
    let world = World::new();
    let key = TestKey::ed25519("k", 1);
    let (first, second) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "us"));
    first.enrol_key(&world, &key).unwrap();
    second.enrol_key(&world, &key).unwrap();
    let earlier = first.attest(&world, "eu", &key).unwrap();
    second.fail(&world, "us", &key);
    assert!(world.alerts().is_empty());
    let later = second.attest(&world, "us", &key).unwrap();
    let alerts = world.alerts();
    let [EventKind::ForeignCluster { earlier: found, later: new }] = alerts.as_slice() else { panic!("{alerts:?}") };
    assert_eq!((&found.hsm, found.envelope), (&first.id, earlier.envelope));
    assert_eq!((&new.hsm, new.envelope), (&second.id, later.envelope));
    for _ in 0..3 {
        first.attest(&world, "eu", &key).unwrap();
        second.attest(&world, "us", &key).unwrap();
    }
    assert_eq!(world.alerts().len(), 1);
    // A further HSM of the second cluster is a further cause, told once.
    let third = world.hsm("hsm-3", "us");
    third.enrol_key(&world, &key).unwrap();
    third.attest(&world, "us", &key).unwrap();
    third.attest(&world, "us", &key).unwrap();
    assert_eq!(world.alerts().len(), 2);
}

#[test]
fn two_fingerprints_of_one_key_at_one_epoch_are_drift() {
    let world = World::new();
    let (first, second) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "eu"));
    let (key, other) = (TestKey::ed25519("k", 1), TestKey::ed25519("k", 2));
    first.enrol_key(&world, &key).unwrap();
    second.enrol_key(&world, &other).unwrap();
    for round in 0..6 {
        first.attest(&world, "eu", &key).unwrap();
        second.attest(&world, "eu", &other).unwrap();
        // Ten minutes of grace: an enrolment that went wrong is corrected by the next epoch.
        assert_eq!(world.alerts().len(), usize::from(round >= 2), "{round}");
        world.advance(300);
    }
    let alerts = world.alerts();
    let [EventKind::Drift { earlier, later }] = alerts.as_slice() else { panic!("{alerts:?}") };
    assert_eq!((&earlier.hsm, &later.hsm), (&first.id, &second.id));
    // Nobody is suspended, and the next epoch, rotated one HSM after the other, is no drift.
    let (rotated, unchanged) = (key.epoch(2, 3), other);
    first.enrol_key(&world, &rotated).unwrap();
    first.attest(&world, "eu", &rotated).unwrap();
    second.attest(&world, "eu", &unchanged).unwrap();
    second.enrol_key(&world, &rotated).unwrap();
    second.attest(&world, "eu", &rotated).unwrap();
    assert_eq!(world.alerts().len(), 1);
}

#[test]
fn repeated_failures_are_told_once_in_a_window() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    for failures in 1..=12 {
        hsm.fail(&world, "eu", &key);
        assert_eq!(world.alerts().len(), usize::from(failures >= 5), "{failures}");
    }
    assert!(matches!(world.alerts()[0], EventKind::RepeatedFailures { failures: 5, window: 600, .. }));
    world.advance(600);
    for failures in 1..=5 {
        hsm.fail(&world, "eu", &key);
        assert_eq!(world.alerts().len(), 1 + usize::from(failures == 5));
    }
    // Nobody is suspended for it.
    hsm.attest(&world, "eu", &key).unwrap();
}

#[test]
fn rare_failures_are_no_fraud() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    for _ in 0..20 {
        hsm.fail(&world, "eu", &key);
        world.advance(150);
    }
    assert!(world.alerts().is_empty());
}

#[test]
fn other_bytes_for_a_consumed_challenge_are_a_replay_told_once() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    let challenge = hsm.challenge(&world, &key).unwrap();
    let first = hsm.answer(&world, "eu", &key, &challenge);
    submit(&world, &first).unwrap();
    let second = hsm.forge(&key, hsm.context(&world, "eu", &key, &challenge));
    for _ in 0..3 {
        refused(submit(&world, &second), ProblemKind::ChallengeConsumed);
    }
    let third = hsm.forge(&key, ClaimContext { enrolment: 7, ..hsm.context(&world, "eu", &key, &challenge) });
    refused(submit(&world, &third), ProblemKind::ChallengeConsumed);
    let replay = EventKind::Replay {
        hsm: hsm.id.clone(),
        challenge: challenge.nonce,
        first: first.digest(),
        second: second.digest(),
    };
    assert_eq!(world.alerts(), [replay]);
}

#[test]
fn whoever_persists_after_a_revocation_is_told_once() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    let pending = hsm.challenge(&world, &key).unwrap();
    world.revoke_hsm(&hsm);
    for _ in 0..10 {
        refused(hsm.challenge(&world, &key), ProblemKind::HsmRevoked);
    }
    world.advance(60);
    refused(hsm.challenge(&world, &key), ProblemKind::HsmRevoked);
    assert!(world.alerts().is_empty());
    world.advance(1);
    let envelope = hsm.answer(&world, "eu", &key, &pending);
    // Expired by now, which is looked at first: one failure, and no attempt with something revoked.
    refused(submit(&world, &envelope), ProblemKind::ChallengeExpired);
    for attempt in 1..=8 {
        let request = keywitness_verifier::wire::ChallengeRequest {
            statement: key.kind().name().to_owned(),
            keys: vec![key.key.clone()],
        };
        let caller = hsm.call(&world);
        let refusal = refused(world.manager.challenge(&caller, &request), ProblemKind::HsmRevoked);
        // The same request again is the same attempt.
        assert_eq!(world.manager.challenge(&caller, &request).unwrap_err(), refusal);
        assert_eq!(world.alerts().len(), usize::from(attempt >= 5), "{attempt}");
    }
    let target = RevocationTarget::Hsm(hsm.id.clone());
    assert_eq!(world.alerts(), [EventKind::RevokedPersists { hsm: hsm.id.clone(), target, attempts: 5 }]);
}

#[test]
fn asking_now_and_then_whether_a_revocation_stands_is_honest() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    world.revoke_hsm(&hsm);
    for _ in 0..24 {
        world.advance(3600);
        refused(hsm.challenge(&world, &key), ProblemKind::HsmRevoked);
    }
    assert!(world.alerts().is_empty());
}
