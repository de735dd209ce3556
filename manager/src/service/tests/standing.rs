//! Revocation, suspension, reinstatement and return, on every way that leads to a record or a token.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use keywitness_circuits::{Nonce, Timestamp};
use keywitness_verifier::wire::{
    AttestationState, EventKind, JoinTokenRequest, KeyQuery, ProblemKind, Reason, ReasonCode, ReinstateRequest,
    Revocation, RevocationTarget, RevokeRequest, Standing, TokenRequest,
};

use crate::{
    ledger::state::State,
    service::testing::{Caller, TestHsm, TestKey, World, refused, submit},
};

fn key_target(key: &TestKey) -> RevocationTarget {
    RevocationTarget::Key { cluster: "eu".parse().unwrap(), key: key.key.key.clone() }
}

fn because(target: &RevocationTarget) -> RevokeRequest {
    RevokeRequest { target: target.clone(), reason: Reason::new(ReasonCode::Fraud, "seen open") }
}

fn suspend(world: &World, target: &RevocationTarget) -> Revocation {
    world.manager.suspend(&Caller::in_process(), &because(target)).unwrap()
}

fn reinstate(world: &World, target: &RevocationTarget) -> Result<(), keywitness_verifier::wire::Problem> {
    let reason = Reason::from("looked at");
    world.manager.reinstate(&Caller::in_process(), &ReinstateRequest { target: target.clone(), reason })
}

fn query(key: &TestKey, hsm: &TestHsm) -> KeyQuery {
    KeyQuery { key: key.key.key.clone(), cluster: None, hsm: Some(hsm.id.clone()), max_age: None }
}

fn state_of(world: &World, key: &TestKey, hsm: &TestHsm) -> AttestationState {
    world.manager.attested(&Caller::in_process(), &query(key, hsm)).unwrap().hsms[0].state
}

fn token(
    world: &World,
    key: &TestKey,
    hsm: &TestHsm,
) -> Result<keywitness_verifier::wire::TokenResponse, keywitness_verifier::wire::Problem> {
    let request = TokenRequest {
        query: query(key, hsm),
        audience: "shop".to_owned(),
        nonce: Nonce::random(),
        form: Default::default(),
    };
    world.manager.issue_token(&Caller::in_process(), &request)
}

fn invite_again(world: &World, hsm: &str, cluster: &str) -> Result<String, keywitness_verifier::wire::Problem> {
    let request = JoinTokenRequest {
        cluster: cluster.parse().unwrap(),
        hsm: Some(hsm.parse().unwrap()),
        reenrol: true,
        valid_for: 600,
    };
    Ok(world.manager.create_join_token(&Caller::in_process(), &request)?.secret)
}

fn standing(world: &World, hsm: &TestHsm, at: Timestamp) -> Standing {
    let view = world.store.view().unwrap();
    let state = State(view.as_ref());
    state.standing(&state.hsm(&hsm.id).unwrap().unwrap(), None, at).unwrap()
}

/// Rows of every kind that this subject has.
pub(crate) fn bustle(world: &World) {
    let (hsm, key) = (world.hsm("back-1", "back"), TestKey::ed25519("back", 9));
    hsm.enrol_key(world, &key).unwrap();
    let target = RevocationTarget::Hsm(hsm.id.clone());
    suspend(world, &target);
    reinstate(world, &target).unwrap();
    world.revoke(target);
    let again = TestHsm::new("back-1");
    again.enrol(world, &invite_again(world, "back-1", "back").unwrap()).unwrap();
}

#[test]
fn a_suspension_stops_everything_until_it_is_lifted() {
    let world = World::new();
    let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    hsm.enrol_key(&world, &key).unwrap();
    hsm.attest(&world, "eu", &key).unwrap();
    let cluster = RevocationTarget::Cluster("eu".parse().unwrap());
    for target in [RevocationTarget::Hsm(hsm.id.clone()), key_target(&key), cluster] {
        // A challenge that is out when the suspension comes.
        let pending = hsm.challenge(&world, &key).unwrap();
        let suspended = suspend(&world, &target);
        assert_eq!((suspended.standing, suspended.reason.code), (Standing::Suspended, ReasonCode::Fraud));
        assert_eq!(suspend(&world, &target), suspended, "again changes nothing");
        let answer = hsm.answer(&world, "eu", &key, &pending);
        refused(submit(&world, &answer), ProblemKind::Suspended);
        refused(hsm.challenge(&world, &key), ProblemKind::Suspended);
        refused(hsm.enrol_key(&world, &key.epoch(2, 2)), ProblemKind::Suspended);
        refused(token(&world, &key, &hsm), ProblemKind::Suspended);
        assert_eq!(state_of(&world, &key, &hsm), AttestationState::Suspended);
        assert_eq!(world.manager.status(&Caller::in_process()).unwrap().revocations, [suspended]);
        reinstate(&world, &target).unwrap();
        refused(reinstate(&world, &target), ProblemKind::NotFound);
        assert_eq!(state_of(&world, &key, &hsm), AttestationState::Attested, "its records count again");
        token(&world, &key, &hsm).unwrap();
        refused(submit(&world, &answer), ProblemKind::Suspended);
        hsm.attest(&world, "eu", &key).unwrap();
    }
    assert!(world.alerts().is_empty(), "what is suspended is not accused for trying");
}

#[test]
fn a_suspended_cluster_lets_nobody_in() {
    let world = World::new();
    let early = world.join_token("eu", None);
    world.hsm("hsm-1", "eu");
    let cluster = RevocationTarget::Cluster("eu".parse().unwrap());
    suspend(&world, &cluster);
    refused(TestHsm::new("hsm-2").enrol(&world, &early), ProblemKind::Suspended);
    reinstate(&world, &cluster).unwrap();
    TestHsm::new("hsm-2").enrol(&world, &early).unwrap();
    world.revoke(cluster.clone());
    let invitation = JoinTokenRequest { cluster: "eu".parse().unwrap(), hsm: None, reenrol: false, valid_for: 60 };
    refused(world.manager.create_join_token(&Caller::in_process(), &invitation).map(drop), ProblemKind::HsmRevoked);
    refused(reinstate(&world, &cluster), ProblemKind::Forbidden);
    let typo = RevocationTarget::Cluster("typo".parse().unwrap());
    refused(world.manager.suspend(&Caller::in_process(), &because(&typo)), ProblemKind::NotFound);
}

#[test]
fn a_revoked_hsm_returns_by_an_explicit_invitation_and_under_another_identity_only() {
    let world = World::new();
    let (old, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    old.enrol_key(&world, &key).unwrap();
    old.attest(&world, "eu", &key).unwrap();
    let issued = token(&world, &key, &old).unwrap();
    let target = RevocationTarget::Hsm(old.id.clone());
    world.revoke(target.clone());
    world.advance(10);
    refused(reinstate(&world, &target), ProblemKind::HsmRevoked);
    // An invitation that does not say so brings nobody back.
    let plain = world.join_token("eu", None);
    refused(TestHsm::new("hsm-1").enrol(&world, &plain), ProblemKind::AlreadyEnrolled);
    refused(invite_again(&world, "hsm-1", "us"), ProblemKind::NotFound);
    refused(invite_again(&world, "hsm-2", "eu"), ProblemKind::NotFound);
    let again = invite_again(&world, "hsm-1", "eu").unwrap();
    refused(old.enrol(&world, &again), ProblemKind::AlreadyEnrolled);
    let half = TestHsm { channel: old.channel, ..TestHsm::new("hsm-1") };
    refused(half.enrol(&world, &again), ProblemKind::AlreadyEnrolled);
    let new = TestHsm::new("hsm-1");
    let enrolment = new.enrol(&world, &again).unwrap();
    assert_eq!(enrolment.revision, 2);
    assert_eq!(new.enrol(&world, &again).unwrap(), enrolment, "whoever lost the answer asks again");
    // The old identity is nobody, and never comes back.
    assert!(
        world
            .manager
            .authenticate(crate::service::access::SignedRequest {
                authorization: &old.authorization(&world, "POST", "/", b""),
                method: "POST",
                path: "/",
                body: b"",
            })
            .is_err()
    );
    refused(old.enrol(&world, &again), ProblemKind::JoinTokenRefused);
    let third = invite_again(&world, "hsm-1", "eu").unwrap();
    refused(old.enrol(&world, &third), ProblemKind::AlreadyEnrolled);
    // No record of the old enrolment counts; the key is attested anew.
    assert_eq!(state_of(&world, &key, &new), AttestationState::Unproven);
    refused(token(&world, &key, &new), ProblemKind::NotAttested);
    let pending = new.challenge(&world, &key).unwrap();
    let mut context = new.context(&world, "eu", &key, &pending);
    context.enrolment = 2;
    submit(&world, &new.seal(&key, context)).unwrap();
    assert_ne!(token(&world, &key, &new).unwrap().token, issued.token);
    assert!(world.events().iter().any(|event| matches!(event, EventKind::HsmEnrolled { revision: 2, .. })));
}

#[test]
fn a_revoked_keys_name_returns_with_other_material_at_the_next_epoch_only() {
    let world = World::new();
    let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    hsm.enrol_key(&world, &key).unwrap();
    hsm.attest(&world, "eu", &key).unwrap();
    world.revoke(key_target(&key));
    refused(hsm.enrol_key(&world, &key.epoch(2, 2)), ProblemKind::KeyRevoked);
    reinstate(&world, &key_target(&key)).unwrap();
    refused(reinstate(&world, &key_target(&key)), ProblemKind::NotFound);
    assert_eq!(state_of(&world, &key, &hsm), AttestationState::Revoked);
    refused(hsm.challenge(&world, &key), ProblemKind::KeyRevoked);
    refused(hsm.enrol_key(&world, &key.epoch(2, 1)), ProblemKind::KeyRevoked);
    refused(hsm.enrol_key(&world, &TestKey::ed25519("alias", 1)), ProblemKind::KeyRevoked);
    let next = key.epoch(2, 2);
    hsm.enrol_key(&world, &next).unwrap();
    hsm.attest(&world, "eu", &next).unwrap();
    assert_eq!(state_of(&world, &next, &hsm), AttestationState::Attested);
    assert!(world.manager.status(&Caller::in_process()).unwrap().revocations.is_empty());
    // And it can be suspended and revoked like any other.
    suspend(&world, &key_target(&key));
    refused(token(&world, &next, &hsm), ProblemKind::Suspended);
    world.revoke(key_target(&key));
    refused(token(&world, &next, &hsm), ProblemKind::KeyRevoked);
}

#[test]
fn nothing_counts_that_was_proven_under_a_revoked_verifying_key() {
    let world = World::new();
    let (hsm, key, other) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1), TestKey::aes256("aes", 7));
    for key in [&key, &other] {
        hsm.enrol_key(&world, key).unwrap();
        hsm.attest(&world, "eu", key).unwrap();
    }
    let pending = hsm.challenge(&world, &key).unwrap();
    let unsound = world.manager.trust_domain().statements.into_iter().find(|one| one.kind == key.kind()).unwrap();
    let target = RevocationTarget::VerifyingKey(unsound.verifying_key);
    world.manager.revoke(&Caller::in_process(), &because(&target)).unwrap();
    refused(submit(&world, &hsm.answer(&world, "eu", &key, &pending)), ProblemKind::VerifyingKeyRevoked);
    refused(hsm.challenge(&world, &key), ProblemKind::VerifyingKeyRevoked);
    assert_eq!(state_of(&world, &key, &hsm), AttestationState::Unproven);
    refused(token(&world, &key, &hsm), ProblemKind::NotAttested);
    assert_eq!(state_of(&world, &other, &hsm), AttestationState::Attested);
    token(&world, &other, &hsm).unwrap();
    refused(reinstate(&world, &target), ProblemKind::Forbidden);
    let unknown = RevocationTarget::VerifyingKey(keywitness_circuits::Digest([9; 32]));
    refused(world.manager.revoke(&Caller::in_process(), &because(&unknown)), ProblemKind::NotFound);
    assert!(world.alerts().is_empty(), "whoever proves what was asked for is honest");
}

#[test]
fn how_it_stood_at_any_time_is_remembered() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let target = RevocationTarget::Hsm(hsm.id.clone());
    let mut expected = Vec::new();
    for change in ["suspend", "reinstate", "suspend", "revoke"] {
        world.advance(10);
        match change {
            "suspend" => drop(suspend(&world, &target)),
            "reinstate" => reinstate(&world, &target).unwrap(),
            _ => world.revoke(target.clone()),
        }
        expected.push((world.now(), standing(&world, &hsm, world.now())));
    }
    let states: Vec<_> = expected.iter().map(|(_, standing)| *standing).collect();
    assert_eq!(states, [Standing::Suspended, Standing::Active, Standing::Suspended, Standing::Revoked]);
    world.advance(10);
    for (at, was) in &expected {
        assert_eq!(standing(&world, &hsm, *at), *was);
        assert_eq!(standing(&world, &hsm, Timestamp(at.0 + 9)), *was);
    }
    assert_eq!(standing(&world, &hsm, Timestamp(expected[0].0.0 - 1)), Standing::Active);
    // The next enrolment begins unburdened; the revoked one stays revoked.
    let back = TestHsm::new("hsm-1");
    back.enrol(&world, &invite_again(&world, "hsm-1", "eu").unwrap()).unwrap();
    assert_eq!(standing(&world, &back, world.now()), Standing::Active);
    let view = world.store.view().unwrap();
    let episodes = State(view.as_ref()).episodes(&target).unwrap();
    assert_eq!(episodes.len(), 3);
    assert_eq!(episodes[2].standing(1, world.now()), Standing::Revoked);
}

#[test]
fn whoever_persists_after_a_second_revocation_is_told_again() {
    let world = World::new();
    let (mut hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    hsm.enrol_key(&world, &key).unwrap();
    let persists = |kind: &EventKind| matches!(kind, EventKind::RevokedPersists { .. });
    for times in 1..=2 {
        // Tried while the last revocation stood, or a moment after this one: neither counts.
        world.revoke(RevocationTarget::Hsm(hsm.id.clone()));
        world.advance(61);
        for attempt in 1..=6 {
            refused(hsm.challenge(&world, &key), ProblemKind::HsmRevoked);
            let told = world.alerts().into_iter().filter(persists).count();
            assert_eq!(told, if attempt < 5 { times - 1 } else { times }, "{times}: {attempt}");
        }
        hsm = TestHsm::new("hsm-1");
        hsm.enrol(&world, &invite_again(&world, "hsm-1", "eu").unwrap()).unwrap();
    }
}
