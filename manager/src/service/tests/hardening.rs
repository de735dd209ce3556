//! What a hostile member, or a stranger, tried against the manager.

use keywitness_circuits::{ClaimContext, Digest, KeyAlgorithm, Nonce, Suite, codec::Canonical};
use keywitness_verifier::{
    token::{Expected, verify},
    wire::{
        AttestationState, Base64, EventKind, KeyQuery, Problem, ProblemKind, RevocationTarget, TokenRequest,
        TokenResponse,
    },
};

use crate::{
    ledger::{
        Table,
        state::{FailureWindow, State, key},
        tables::Row,
    },
    service::testing::{Caller, TestHsm, TestKey, World, refused, submit},
};

fn tables(world: &World) -> Vec<Vec<Row>> {
    let rows = world.store.view().unwrap();
    Table::ALL.iter().map(|table| rows.range(*table, &[], &[], usize::MAX).unwrap()).collect()
}

fn query(key: &TestKey) -> KeyQuery {
    KeyQuery { key: key.key.key.clone(), cluster: None, hsm: None, max_age: None }
}

fn request(query: KeyQuery) -> TokenRequest {
    TokenRequest { query, audience: "a".to_owned(), nonce: Nonce::random(), form: Default::default() }
}

fn token(world: &World, query: KeyQuery) -> Result<TokenResponse, Problem> {
    world.manager.issue_token(&Caller::in_process(), &request(query))
}

fn state_of(world: &World, key: &TestKey, hsm: &TestHsm) -> AttestationState {
    let query = KeyQuery { hsm: Some(hsm.id.clone()), ..query(key) };
    world.manager.attested(&Caller::in_process(), &query).unwrap().hsms[0].state
}

fn revoke_key(world: &World, cluster: &str, key: &TestKey) {
    world.revoke(RevocationTarget::Key { cluster: cluster.parse().unwrap(), key: key.key.key.clone() });
}

/// An HSM that enrols and attests a key.
fn holder(world: &World, name: &str, key: &TestKey) -> TestHsm {
    let hsm = world.hsm(name, "eu");
    hsm.enrol_key(world, key).unwrap();
    hsm.attest(world, "eu", key).unwrap();
    hsm
}

#[test]
fn strangers_enrolments_change_no_table() {
    let world = World::new();
    let (used, bound, usable) =
        (world.join_token("eu", None), world.join_token("eu", Some("hsm-9")), world.join_token("eu", None));
    let owner = TestHsm::new("hsm-1");
    let enrolment = owner.enrol(&world, &used).unwrap();
    let (stranger, twin) = (TestHsm::new("hsm-2"), TestHsm::new("hsm-1"));
    let before = tables(&world);
    for number in 0..20 {
        let unknown = format!("kw_join_{number}");
        for token in [&unknown, &used, &bound] {
            refused(stranger.enrol(&world, token), ProblemKind::JoinTokenRefused);
        }
        refused(twin.enrol(&world, &usable), ProblemKind::AlreadyEnrolled);
        let low = TestHsm { channel: [0; 32], ..TestHsm::new("hsm-3") };
        refused(low.enrol(&world, &usable), ProblemKind::Malformed);
        assert_eq!(owner.enrol(&world, &used).unwrap(), enrolment);
        assert_eq!(owner.enrol(&world, &unknown).unwrap(), enrolment);
    }
    assert_eq!(tables(&world), before);
    assert_eq!(world.manager.unauthenticated(), 100);
    world.advance(600);
    refused(stranger.enrol(&world, &usable), ProblemKind::JoinTokenRefused);
    assert_eq!(tables(&world), before);
}

#[test]
fn an_hsm_that_enrols_again_uses_up_the_token_and_stays_in_its_cluster() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let (same, other) = (world.join_token("eu", None), world.join_token("us", None));
    refused(hsm.enrol(&world, &other), ProblemKind::JoinTokenRefused);
    hsm.enrol(&world, &same).unwrap();
    refused(TestHsm::new("hsm-2").enrol(&world, &same), ProblemKind::JoinTokenRefused);
    TestHsm::new("hsm-3").enrol(&world, &other).unwrap();
}

#[test]
fn no_epoch_is_left_out() {
    let world = World::new();
    let (first, second, elsewhere) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "eu"), world.hsm("hsm-3", "us"));
    let key = TestKey::ed25519("k", 1);
    refused(first.enrol_key(&world, &key.epoch(2, 1)), ProblemKind::KeyConflict);
    first.enrol_key(&world, &key).unwrap();
    for epoch in [3, 4_000_000_000, u32::MAX] {
        refused(second.enrol_key(&world, &key.epoch(epoch, 7)), ProblemKind::KeyConflict);
    }
    first.enrol_key(&world, &key.epoch(2, 2)).unwrap();
    // Whoever joins later begins with the cluster's epoch; another cluster has epochs of its own.
    second.enrol_key(&world, &key.epoch(2, 2)).unwrap();
    second.enrol_key(&world, &key.epoch(3, 3)).unwrap();
    refused(elsewhere.enrol_key(&world, &key.epoch(2, 9)), ProblemKind::KeyConflict);
}

#[test]
fn no_unnamed_token_goes_to_a_member_that_deviates() {
    // Another key at a higher epoch.
    let world = World::new();
    let key = TestKey::ed25519("k", 1);
    let honest = holder(&world, "hsm-1", &key);
    world.advance(1);
    let evil = holder(&world, "evil", &key.epoch(2, 7));
    assert_eq!(token(&world, query(&key)).unwrap().hsm, honest.id);
    // The greatest age that is asked for hides nobody.
    world.advance(100);
    evil.attest(&world, "eu", &key.epoch(2, 7)).unwrap();
    refused(token(&world, KeyQuery { max_age: Some(50), ..query(&key) }), ProblemKind::NotAttested);
    let named = KeyQuery { hsm: Some(evil.id.clone()), ..query(&key) };
    assert_eq!(token(&world, named).unwrap().hsm, evil.id);

    // Another key at the same epoch.
    for key in [TestKey::ed25519("k", 1), TestKey::new("s", KeyAlgorithm::P256, 1)] {
        let world = World::new();
        let honest = holder(&world, "hsm-1", &key);
        world.advance(1);
        let evil = holder(&world, "evil", &key.epoch(1, 7));
        let problem = refused(token(&world, query(&key)), ProblemKind::DisputedKey);
        assert!(problem.detail.contains("name the HSM") && problem.detail.contains("revoke"), "{problem}");
        let named = KeyQuery { hsm: Some(honest.id.clone()), ..query(&key) };
        assert_eq!(token(&world, named).unwrap().hsm, honest.id);
        // Nor when the honest record has just expired.
        world.advance(599);
        evil.attest(&world, "eu", &key.epoch(1, 7)).unwrap();
        world.advance(10);
        assert_eq!(state_of(&world, &key, &honest), AttestationState::Expired);
        refused(token(&world, query(&key)), ProblemKind::DisputedKey);
        world.revoke_hsm(&evil);
        honest.attest(&world, "eu", &key).unwrap();
        assert_eq!(token(&world, query(&key)).unwrap().hsm, honest.id);
    }

    // Another key at the epoch that the honest HSM has left.
    let world = World::new();
    let honest = holder(&world, "hsm-1", &key);
    honest.enrol_key(&world, &key.epoch(2, 2)).unwrap();
    honest.attest(&world, "eu", &key.epoch(2, 2)).unwrap();
    holder(&world, "evil", &key.epoch(1, 7));
    refused(token(&world, query(&key)), ProblemKind::DisputedKey);
}

#[test]
fn a_rotation_goes_from_the_old_epoch_to_the_new_one() {
    let world = World::new();
    let (key, next) = (TestKey::ed25519("k", 1), TestKey::ed25519("k", 1).epoch(2, 2));
    let hsms = ["hsm-1", "hsm-2", "hsm-3"].map(|name| holder(&world, name, &key));
    for (rotated, hsm) in hsms.iter().enumerate() {
        world.advance(1);
        hsm.enrol_key(&world, &next).unwrap();
        hsm.attest(&world, "eu", &next).unwrap();
        let chosen = token(&world, query(&key)).unwrap().hsm;
        let position = hsms.iter().position(|hsm| hsm.id == chosen).unwrap();
        assert_eq!(position <= rotated, rotated >= 1, "{rotated}: {chosen}");
    }
}

#[test]
fn revoked_material_stays_revoked_under_any_name_and_in_any_cluster() {
    let world = World::new();
    let (key, alias, late) = (TestKey::ed25519("k", 1), TestKey::ed25519("alias", 1), TestKey::ed25519("late", 1));
    let (here, there) = (holder(&world, "hsm-1", &key), world.hsm("hsm-2", "us"));
    here.enrol_key(&world, &alias).unwrap();
    here.attest(&world, "eu", &alias).unwrap();
    there.enrol_key(&world, &alias).unwrap();
    let pending = there.challenge(&world, &alias).unwrap();
    // The key was rotated since: its old epoch is revoked with it.
    here.enrol_key(&world, &key.epoch(2, 2)).unwrap();
    here.attest(&world, "eu", &key.epoch(2, 2)).unwrap();
    revoke_key(&world, "eu", &key);
    assert_eq!(state_of(&world, &alias, &here), AttestationState::Revoked);
    refused(token(&world, KeyQuery { hsm: Some(here.id.clone()), ..query(&alias) }), ProblemKind::KeyRevoked);
    refused(submit(&world, &there.answer(&world, "us", &alias, &pending)), ProblemKind::KeyRevoked);
    refused(there.challenge(&world, &alias), ProblemKind::KeyRevoked);
    refused(there.enrol_key(&world, &TestKey::ed25519("new", 2)), ProblemKind::KeyRevoked);
    world.advance(61);
    for _ in 0..5 {
        refused(there.enrol_key(&world, &late), ProblemKind::KeyRevoked);
        world.advance(1);
    }
    let persists = |kind: &EventKind| matches!(kind, EventKind::RevokedPersists { hsm, .. } if *hsm == there.id);
    assert_eq!(world.alerts().iter().filter(|kind| persists(kind)).count(), 1);
    there.enrol_key(&world, &TestKey::ed25519("new", 3)).unwrap();
}

#[test]
fn a_copy_of_anothers_public_key_does_not_have_it_revoked() {
    let world = World::new();
    let victim = TestKey::ed25519("ca", 1);
    let owner = holder(&world, "hsm-1", &victim);
    let (evil, bait) = (world.hsm("evil", "us"), TestKey::ed25519("bait", 1));
    evil.enrol_key(&world, &bait).unwrap();
    revoke_key(&world, "us", &bait);
    assert_eq!(state_of(&world, &victim, &owner), AttestationState::Attested);
    assert_eq!(token(&world, query(&victim)).unwrap().hsm, owner.id);
}

#[test]
fn what_nobody_proved_in_a_cluster_is_revoked_in_that_cluster_alone() {
    let world = World::new();
    // Enrolled, and not proven yet; nor does anybody else prove it before the copy is revoked.
    let (owner, victim) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("ca", 1));
    owner.enrol_key(&world, &victim).unwrap();
    let (evil, bait, alias) = (world.hsm("evil", "us"), TestKey::ed25519("bait", 1), TestKey::ed25519("alias", 1));
    evil.enrol_key(&world, &bait).unwrap();
    revoke_key(&world, "us", &bait);
    owner.attest(&world, "eu", &victim).unwrap();
    assert_eq!(state_of(&world, &victim, &owner), AttestationState::Attested);
    assert_eq!(token(&world, query(&victim)).unwrap().hsm, owner.id);
    world.hsm("hsm-2", "eu").enrol_key(&world, &TestKey::ed25519("late", 1)).unwrap();
    // Where it was claimed, it is gone under every name and in every HSM.
    refused(evil.enrol_key(&world, &alias), ProblemKind::KeyRevoked);
    refused(world.hsm("hsm-3", "us").enrol_key(&world, &alias), ProblemKind::KeyRevoked);
    // Its owner's own revocation holds everywhere, since it was proven there.
    revoke_key(&world, "eu", &victim);
    refused(world.hsm("hsm-4", "asia").enrol_key(&world, &alias), ProblemKind::KeyRevoked);
}

#[test]
fn late_answers_are_shown_and_counted_against_nobody() {
    let world = World::new();
    let key = TestKey::ed25519("k", 1);
    let hsm = holder(&world, "hsm-1", &key);
    let late = || {
        let challenge = hsm.challenge(&world, &key).unwrap();
        let envelope = hsm.answer(&world, "eu", &key, &challenge);
        world.advance(60);
        refused(submit(&world, &envelope), ProblemKind::ChallengeExpired);
    };
    for _ in 0..8 {
        late();
    }
    let status = world.manager.attested(&Caller::in_process(), &query(&key)).unwrap().hsms.remove(0);
    assert_eq!(status.state, AttestationState::Attested);
    assert_eq!(status.failure.unwrap().problem, ProblemKind::ChallengeExpired);
    assert!(world.alerts().is_empty());
    // It hides no failure that counts.
    hsm.attest(&world, "eu", &key).unwrap();
    hsm.fail(&world, "eu", &key);
    late();
    assert_eq!(state_of(&world, &key, &hsm), AttestationState::Failing);
}

#[test]
fn envelopes_for_another_manager_change_nothing_here() {
    let world = World::new();
    let key = TestKey::ed25519("k", 1);
    let hsm = holder(&world, "hsm-1", &key);
    let challenge = hsm.challenge(&world, &key).unwrap();
    let context = hsm.context(&world, "eu", &key, &challenge);
    let before = tables(&world);
    for number in 0..6 {
        let challenge = Nonce([number; 32]);
        let manager = ClaimContext { manager: "m2".parse().unwrap(), challenge, ..context.clone() };
        let domain = ClaimContext { trust_domain: "other.example".parse().unwrap(), challenge, ..context.clone() };
        for context in [manager, domain] {
            refused(submit(&world, &hsm.forge(&key, context)), ProblemKind::UnknownChallenge);
        }
    }
    assert_eq!(tables(&world), before);
    assert_eq!(state_of(&world, &key, &hsm), AttestationState::Attested);
    // One for this manager still counts.
    let unknown = ClaimContext { challenge: Nonce([9; 32]), ..context };
    refused(submit(&world, &hsm.forge(&key, unknown)), ProblemKind::UnknownChallenge);
    assert_eq!(state_of(&world, &key, &hsm), AttestationState::Failing);
}

#[test]
fn a_suite_is_added_at_the_same_epoch_and_changes_nothing_that_is_enrolled() {
    let mut world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let halo2 = TestKey::new("a", KeyAlgorithm::Aes256, 1);
    let groth16 = halo2.in_suite(Suite::Groth16Bn254);
    hsm.enrol_key(&world, &halo2).unwrap();
    world = world.reopen_with(vec![Suite::Halo2Pasta, Suite::Groth16Bn254]);
    let both = |first: &TestKey, second: &TestKey| {
        let mut request = first.request();
        request.instances.push(Base64(second.instance().to_bytes()));
        request
    };
    let other = halo2.epoch(1, 2);
    refused(world.manager.enrol_key(&hsm.call(&world), &both(&other, &groth16)), ProblemKind::KeyConflict);
    world.manager.enrol_key(&hsm.call(&world), &both(&halo2, &groth16)).unwrap();
    assert_eq!(world.manager.attested(&Caller::in_process(), &query(&halo2)).unwrap().hsms[0].statements.len(), 2);
    // Once there, it stays.
    let changed = both(&halo2, &other.in_suite(Suite::Groth16Bn254));
    refused(world.manager.enrol_key(&hsm.call(&world), &changed), ProblemKind::KeyConflict);
    hsm.attest(&world, "eu", &halo2).unwrap();
    hsm.attest(&world, "eu", &groth16).unwrap();

    // A token says which of its statements rest on parameters for development.
    let request = request(query(&halo2));
    let response = world.manager.issue_token(&Caller::in_process(), &request).unwrap();
    let trust_domain = "acme.example".parse().unwrap();
    let expected = Expected { trust_domain: &trust_domain, audience: "a", nonce: Some(&request.nonce) };
    let verified = verify(&response.token, &world.manager.jwks().unwrap(), &expected, world.now()).unwrap();
    for statement in &verified.appraisal().attestation.statements {
        assert_eq!(statement.development_parameters, statement.fingerprint.suite == Suite::Groth16Bn254);
        assert_ne!(statement.envelope, Digest([0; 32]));
    }
}

#[test]
fn who_answers_under_what_was_in_force_is_not_blamed() {
    let mut world = World::of_both_suites();
    let (hsm, halo2) = (world.hsm("hsm-1", "eu"), TestKey::aes256("a", 1));
    let groth16 = halo2.in_suite(Suite::Groth16Bn254);
    let mut request = halo2.request();
    request.instances.push(Base64(groth16.instance().to_bytes()));
    world.manager.enrol_key(&hsm.call(&world), &request).unwrap();
    let failed = |world: &World| {
        let view = world.store.view().unwrap();
        State(view.as_ref()).get::<FailureWindow>(&key::hsm(&hsm.id)).unwrap().is_some()
    };
    let answer = hsm.answer(&world, "eu", &groth16, &hsm.challenge(&world, &groth16).unwrap());
    world = world.reopen_with(vec![Suite::Halo2Pasta]);
    refused(submit(&world, &answer), ProblemKind::UnknownStatement);
    assert!(!failed(&world));
    // A verifying key that never was in force is the sender's own.
    let mut context = hsm.context(&world, "eu", &halo2, &hsm.challenge(&world, &halo2).unwrap());
    context.verifying_key = Digest([9; 32]);
    refused(submit(&world, &hsm.forge(&halo2, context)), ProblemKind::ContextMismatch);
    assert!(failed(&world));
}
