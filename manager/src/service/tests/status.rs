//! What the newest evidence comes to.

use keywitness_circuits::{KeyAlgorithm, KeyId, Suite};
use keywitness_verifier::wire::{
    AttestationState, EventKind, HsmKeyStatus, KeyQuery, ProblemKind, RevocationTarget, RevokeRequest,
};

use crate::service::testing::{Caller, TestHsm, TestKey, World, refused};

fn query(key: &TestKey) -> KeyQuery {
    KeyQuery { key: key.key.key.clone(), cluster: None, hsm: None, max_age: None }
}

fn only(world: &World, query: &KeyQuery) -> HsmKeyStatus {
    let mut status = world.manager.attested(&Caller::in_process(), query).unwrap();
    assert_eq!(status.hsms.len(), 1);
    assert_eq!(status.attested, status.hsms[0].state == AttestationState::Attested);
    status.hsms.remove(0)
}

#[test]
fn a_record_ages_expires_and_is_renewed() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    assert_eq!(only(&world, &query(&key)).state, AttestationState::Unproven);
    hsm.attest(&world, "eu", &key).unwrap();
    let young = KeyQuery { max_age: Some(100), ..query(&key) };
    world.advance(100);
    assert_eq!(only(&world, &young).state, AttestationState::Attested);
    world.advance(1);
    assert_eq!(only(&world, &young).state, AttestationState::Stale);
    assert_eq!(only(&world, &query(&key)).state, AttestationState::Attested);
    world.advance(499);
    assert_eq!(only(&world, &young).state, AttestationState::Expired);
    hsm.attest(&world, "eu", &key).unwrap();
    assert_eq!(only(&world, &young).state, AttestationState::Attested);
}

#[test]
fn the_newest_evidence_decides_even_within_one_second() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    hsm.fail(&world, "eu", &key);
    assert_eq!(only(&world, &query(&key)).state, AttestationState::Failing);
    for _ in 0..3 {
        hsm.attest(&world, "eu", &key).unwrap();
        assert_eq!(only(&world, &query(&key)).failure, None);
        hsm.fail(&world, "eu", &key);
        let status = only(&world, &query(&key));
        assert_eq!(status.state, AttestationState::Failing);
        let failure = status.failure.unwrap();
        assert_eq!((failure.at, failure.problem), (world.now(), ProblemKind::ProofRefused));
    }
}

#[test]
fn only_the_newest_epoch_counts() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    hsm.attest(&world, "eu", &key).unwrap();
    let rotated = key.epoch(2, 2);
    hsm.enrol_key(&world, &rotated).unwrap();
    let status = only(&world, &query(&key));
    assert_eq!((status.key.epoch, status.state), (2, AttestationState::Unproven));
    hsm.attest(&world, "eu", &key).unwrap();
    assert_eq!(only(&world, &query(&key)).state, AttestationState::Unproven);
    hsm.attest(&world, "eu", &rotated).unwrap();
    assert_eq!(only(&world, &query(&key)).state, AttestationState::Attested);
    assert_eq!(world.manager.status(&Caller::in_process()).unwrap().keys.len(), 1);
}

#[test]
fn a_name_in_several_clusters_needs_its_cluster() {
    let world = World::new();
    for (hsm, cluster, seed) in [("hsm-1", "eu", 1), ("hsm-2", "us", 2)] {
        let (key, hsm) = (TestKey::ed25519("k", seed), world.hsm(hsm, cluster));
        hsm.enrol_key(&world, &key).unwrap();
        // An enrolment alone takes no name from a cluster that proved the key.
        if seed == 2 {
            assert_eq!(only(&world, &query(&key)).hsm.as_str(), "hsm-1");
        }
        hsm.attest(&world, cluster, &key).unwrap();
    }
    let any = query(&TestKey::ed25519("k", 1));
    refused(world.manager.attested(&Caller::in_process(), &any), ProblemKind::AmbiguousKey);
    let eu = KeyQuery { cluster: Some("eu".parse().unwrap()), ..any.clone() };
    assert_eq!(only(&world, &eu).hsm.as_str(), "hsm-1");
    let hsm = KeyQuery { hsm: Some("hsm-2".parse().unwrap()), ..any.clone() };
    assert_eq!(only(&world, &hsm).cluster.as_str(), "us");
    let nobody = KeyQuery { hsm: Some("hsm-1".parse().unwrap()), cluster: Some("us".parse().unwrap()), ..any };
    refused(world.manager.attested(&Caller::in_process(), &nobody), ProblemKind::NotFound);
}

#[test]
fn a_name_is_no_prefix_of_another() {
    let world = World::new();
    let hsm = world.hsm("h", "c");
    for (name, seed) in [("k", 1), ("k1", 2), ("k-1", 3)] {
        hsm.enrol_key(&world, &TestKey::ed25519(name, seed)).unwrap();
    }
    let other = world.hsm("h1", "c");
    other.enrol_key(&world, &TestKey::ed25519("k1", 2)).unwrap();
    assert_eq!(only(&world, &query(&TestKey::ed25519("k", 1))).key.key.as_str(), "k");
    assert_eq!(
        world.manager.attested(&Caller::in_process(), &query(&TestKey::ed25519("k1", 2))).unwrap().hsms.len(),
        2
    );
    assert_eq!(world.manager.status(&Caller::in_process()).unwrap().keys.len(), 4);
}

/// A symmetric key, enrolled in both suites that its trust domain requires.
fn in_both_suites() -> (World, TestHsm, [TestKey; 2]) {
    let world = World::of_both_suites();
    let hsm = world.hsm("hsm-1", "eu");
    let halo2 = TestKey::new("a", KeyAlgorithm::Aes256, 1);
    let groth16 = halo2.in_suite(Suite::Groth16Bn254);
    let mut request = halo2.request();
    refused(world.manager.enrol_key(&hsm.call(&world), &request), ProblemKind::Malformed);
    request.instances.extend(groth16.request().instances);
    world.manager.enrol_key(&hsm.call(&world), &request).unwrap();
    (world, hsm, [halo2, groth16])
}

#[test]
fn a_symmetric_key_needs_every_required_suite() {
    let (world, hsm, [halo2, groth16]) = in_both_suites();
    assert_eq!(only(&world, &query(&halo2)).statements.len(), 2);
    hsm.attest(&world, "eu", &halo2).unwrap();
    assert_eq!(only(&world, &query(&halo2)).state, AttestationState::Unproven);
    hsm.attest(&world, "eu", &groth16).unwrap();
    assert_eq!(only(&world, &query(&halo2)).state, AttestationState::Attested);
    assert!(world.alerts().is_empty());
}

#[test]
fn a_failure_in_one_suite_is_not_hidden_by_a_success_in_the_other() {
    let (world, hsm, [halo2, groth16]) = in_both_suites();
    hsm.attest(&world, "eu", &halo2).unwrap();
    hsm.attest(&world, "eu", &groth16).unwrap();
    hsm.fail(&world, "eu", &groth16);
    hsm.attest(&world, "eu", &halo2).unwrap();
    assert_eq!(only(&world, &query(&halo2)).state, AttestationState::Failing);
    hsm.attest(&world, "eu", &groth16).unwrap();
    assert_eq!(only(&world, &query(&halo2)).state, AttestationState::Attested);
}

#[test]
fn a_revocation_is_told_once_stays_and_hits_one_cluster() {
    let world = World::new();
    let (eu, us) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "us"));
    let (key, other) = (TestKey::ed25519("k", 1), TestKey::ed25519("k", 2));
    eu.enrol_key(&world, &key).unwrap();
    us.enrol_key(&world, &other).unwrap();
    eu.attest(&world, "eu", &key).unwrap();
    us.attest(&world, "us", &other).unwrap();
    let target = RevocationTarget::Key { cluster: "eu".parse().unwrap(), key: key.key.key.clone() };
    let revoke = |target: &RevocationTarget, reason: &str| {
        world.manager.revoke(&Caller::in_process(), &RevokeRequest { target: target.clone(), reason: reason.into() })
    };
    let first = revoke(&target, "leaked").unwrap();
    world.advance(10);
    assert_eq!(revoke(&target, "again").unwrap(), first);
    let nothing = RevocationTarget::Key { cluster: "eu".parse().unwrap(), key: "typo".parse::<KeyId>().unwrap() };
    refused(revoke(&nothing, ""), ProblemKind::NotFound);
    refused(revoke(&RevocationTarget::Hsm("typo".parse().unwrap()), ""), ProblemKind::NotFound);
    refused(revoke(&target, &"long ".repeat(200)), ProblemKind::Malformed);
    let status = world.manager.status(&Caller::in_process()).unwrap();
    assert_eq!(status.revocations, [first]);
    let states: Vec<_> = status.keys.iter().map(|key| key.state).collect();
    assert_eq!(states, [AttestationState::Revoked, AttestationState::Attested]);
    let revoked = |kind: &EventKind| matches!(kind, EventKind::Revoked { .. });
    assert_eq!(world.events().iter().filter(|kind| revoked(kind)).count(), 1);
    let world = world.reopen();
    assert_eq!(world.manager.status(&Caller::in_process()).unwrap().keys[0].state, AttestationState::Revoked);
}

#[test]
fn events_come_in_pages_after_a_number() {
    let world = World::new();
    for number in 1..=3 {
        world.hsm(&format!("hsm-{number}"), "eu");
    }
    let numbers = |after| {
        world
            .manager
            .events(&Caller::in_process(), after)
            .unwrap()
            .events
            .iter()
            .map(|event| event.number)
            .collect::<Vec<_>>()
    };
    assert_eq!(numbers(0), [1, 2, 3]);
    assert_eq!(numbers(2), [3]);
    assert!(numbers(3).is_empty() && numbers(u64::MAX).is_empty());
    assert_eq!(world.manager.status(&Caller::in_process()).unwrap().events, 3);
}
