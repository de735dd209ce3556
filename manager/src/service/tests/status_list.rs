//! Status lists and token keys, as a relying party sees them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use keywitness_circuits::{Nonce, Suite, Timestamp, codec::Canonical};
use keywitness_verifier::{
    token::{Expected, LEGACY_PROFILE, Profile, TokenError, VerifiedToken, status, verify},
    wire::{
        Base64, JoinTokenRequest, KeyQuery, ProblemKind, Reason, ReinstateRequest, RevocationTarget, RevokeRequest,
        Standing, TokenAlgorithm, TokenForm, TokenKeyState, TokenRequest,
    },
};

use crate::{
    ledger::state::{KeyRow, State, StatusEntryRow, StatusIndexRow, key},
    service::testing::{Caller, TestHsm, TestKey, World, refused, submit},
};

fn token(world: &World, key: &TestKey, form: TokenForm) -> String {
    let query = KeyQuery { key: key.key.key.clone(), cluster: None, hsm: None, max_age: None };
    let request = TokenRequest { query, audience: "shop".to_owned(), nonce: Nonce([1; 32]), form };
    world.manager.issue_token(&Caller::in_process(), &request).unwrap().token
}

fn check(world: &World, token: &str) -> Result<VerifiedToken, TokenError> {
    let trust_domain = "acme.example".parse().unwrap();
    let expected = Expected { trust_domain: &trust_domain, audience: "shop", nonce: Some(&Nonce([1; 32])) };
    verify(token, &world.manager.jwks().unwrap(), &expected, world.now())
}

/// How a token stands by the status list of now, or as of a time.
fn look_up(world: &World, token: &VerifiedToken, time: Option<Timestamp>) -> Standing {
    let claim = &token.claims().status.as_ref().unwrap().status_list;
    let number = claim.uri.rsplit('/').next().unwrap().parse().unwrap();
    let list = world.manager.status_list(number, time).unwrap();
    let now = time.unwrap_or_else(|| world.now());
    status(token, &list, &world.manager.jwks().unwrap(), None, now).unwrap().0
}

fn scene() -> (World, TestHsm, TestKey) {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    // Some other entry comes first.
    hsm.enrol_key(&world, &TestKey::ed25519("first", 3)).unwrap();
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    hsm.attest(&world, "eu", &key).unwrap();
    (world, hsm, key)
}

fn because(target: &RevocationTarget) -> RevokeRequest {
    RevokeRequest { target: target.clone(), reason: "lost".into() }
}

#[test]
fn a_list_says_at_once_and_for_any_time_before_how_a_token_stands() {
    let (world, hsm, key) = scene();
    let issued = check(&world, &token(&world, &key, TokenForm::default())).unwrap();
    assert_eq!(look_up(&world, &issued, None), Standing::Active);
    let target = RevocationTarget::Hsm(hsm.id.clone());
    let operator = Caller::in_process();
    world.advance(10);
    let suspended = world.now();
    world.manager.suspend(&operator, &because(&target)).unwrap();
    assert_eq!(look_up(&world, &issued, None), Standing::Suspended);
    world.advance(10);
    let reinstated = world.now();
    let again = ReinstateRequest { target: target.clone(), reason: Reason::from("looked at") };
    world.manager.reinstate(&operator, &again).unwrap();
    assert_eq!(look_up(&world, &issued, None), Standing::Active);
    world.advance(10);
    let revoked = world.now();
    world.revoke(target);
    assert_eq!(look_up(&world, &issued, None), Standing::Revoked);
    world.advance(10);
    for (at, was) in [
        (suspended.0 - 1, Standing::Active),
        (suspended.0, Standing::Suspended),
        (reinstated.0 - 1, Standing::Suspended),
        (reinstated.0, Standing::Active),
        (revoked.0, Standing::Revoked),
    ] {
        assert_eq!(look_up(&world, &issued, Some(Timestamp(at))), was, "{at}");
    }
    refused(world.manager.status_list(0, Some(world.now().plus(1))), ProblemKind::Malformed);
    refused(world.manager.status_list(1, None), ProblemKind::NotFound);
    refused(world.manager.status_list(u64::MAX, None), ProblemKind::NotFound);
}

#[test]
fn an_entry_rests_on_every_instance_of_its_key() {
    let (mut world, halo2) = (World::new(), TestKey::aes256("aes", 7));
    let (hsm, groth16) = (world.hsm("hsm-1", "eu"), halo2.in_suite(Suite::Groth16Bn254));
    hsm.enrol_key(&world, &halo2).unwrap();
    world = world.reopen_with(vec![Suite::Halo2Pasta, Suite::Groth16Bn254]);
    // The key has an entry for the new suite's verifying key, before it has an instance in that suite.
    hsm.attest(&world, "eu", &halo2).unwrap();
    let mut request = halo2.request();
    request.instances.push(Base64(groth16.instance().to_bytes()));
    for _ in 0..2 {
        world.manager.enrol_key(&hsm.call(&world), &request).unwrap();
        let view = world.store.view().unwrap();
        let (state, place) = (State(view.as_ref()), key::epoch(&hsm.id, &halo2.key));
        let index = state.need::<StatusIndexRow>(&place).unwrap().index;
        let entry: StatusEntryRow = state.need(&key::number(index)).unwrap();
        let row: KeyRow = state.need(&place).unwrap();
        let rests = state.grounds(&state.hsm(&hsm.id).unwrap().unwrap(), &row).unwrap();
        assert_eq!((index, row.instances.len()), (2, 2), "one more entry, and no other when nothing is new");
        assert!(rests.iter().all(|ground| entry.grounds.contains(ground)), "{entry:?}");
    }
}

#[test]
fn a_token_of_a_revoked_enrolment_stays_invalid_when_the_hsm_returns() {
    let (world, hsm, key) = scene();
    let old = check(&world, &token(&world, &key, TokenForm::default())).unwrap();
    world.revoke_hsm(&hsm);
    let invitation =
        JoinTokenRequest { cluster: "eu".parse().unwrap(), hsm: Some(hsm.id.clone()), reenrol: true, valid_for: 60 };
    let join = world.manager.create_join_token(&Caller::in_process(), &invitation).unwrap().secret;
    let back = TestHsm::new("hsm-1");
    back.enrol(&world, &join).unwrap();
    let pending = back.challenge(&world, &key).unwrap();
    let mut context = back.context(&world, "eu", &key, &pending);
    context.enrolment = 2;
    submit(&world, &back.seal(&key, context)).unwrap();
    let new = check(&world, &token(&world, &key, TokenForm::default())).unwrap();
    assert_eq!(look_up(&world, &old, None), Standing::Revoked);
    assert_eq!(look_up(&world, &new, None), Standing::Active);
}

#[test]
fn a_token_that_rests_on_an_unsound_circuit_is_invalid_and_its_neighbours_are_not() {
    let (world, hsm, key) = scene();
    let other = TestKey::aes256("aes", 7);
    hsm.enrol_key(&world, &other).unwrap();
    hsm.attest(&world, "eu", &other).unwrap();
    let [broken, sound] = [&key, &other].map(|key| check(&world, &token(&world, key, TokenForm::default())).unwrap());
    let unsound = broken.appraisal().attestation.statements[0].verifying_key;
    world.revoke(RevocationTarget::VerifyingKey(unsound));
    assert_eq!(look_up(&world, &broken, None), Standing::Revoked);
    assert_eq!(look_up(&world, &sound, None), Standing::Active);
}

#[test]
fn a_list_is_kept_until_something_changes_or_half_its_life_is_over() {
    let (world, hsm, _) = scene();
    let list = || world.manager.status_list(0, None).unwrap();
    let first = list();
    world.advance(29);
    assert_eq!(list(), first);
    world.advance(1);
    let second = list();
    assert_ne!(second, first);
    world.revoke_hsm(&hsm);
    assert_ne!(list(), second);
}

#[test]
fn keys_rotate_with_an_overlap_and_no_token_is_ever_without_its_key() {
    let (world, hsm, key) = scene();
    let operator = Caller::in_process();
    let kid_of = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let before = token(&world, &key, TokenForm::default());
    let made = world.manager.rotate_token_key(&operator, TokenAlgorithm::Es256).unwrap();
    assert_eq!(made.state, TokenKeyState::Next);
    // It is published before it signs anything.
    assert!(world.manager.jwks().unwrap().find(&made.kid).is_some());
    assert_eq!(kid_of(&token(&world, &key, TokenForm::default())), kid_of(&before));
    world.advance(299);
    hsm.attest(&world, "eu", &key).unwrap();
    let last = token(&world, &key, TokenForm::default());
    assert_eq!(kid_of(&last), kid_of(&before));
    world.advance(1);
    let first = token(&world, &key, TokenForm::default());
    assert_eq!(kid_of(&first), made.kid);
    check(&world, &first).unwrap();
    check(&world, &last).unwrap();
    world.advance(359);
    assert!(matches!(check(&world, &last), Err(TokenError::Expired(_))), "its key is known to its end");
    world.advance(1);
    assert!(matches!(check(&world, &last), Err(TokenError::UnknownKey(_))));
    let states: Vec<_> = world.manager.token_keys(&operator).unwrap().keys.iter().map(|key| key.state).collect();
    assert_eq!(states, [TokenKeyState::Retired, TokenKeyState::Active, TokenKeyState::Active]);
    // A restart knows them all again.
    hsm.attest(&world, "eu", &key).unwrap();
    let world = world.reopen();
    assert_eq!(kid_of(&token(&world, &key, TokenForm::default())), made.kid);
}

#[test]
fn tokens_come_in_both_forms_and_under_both_algorithms() {
    let (world, _, key) = scene();
    for profile in [Profile::Ear04, Profile::Legacy] {
        for alg in TokenAlgorithm::ALL {
            let issued = token(&world, &key, TokenForm { profile, alg });
            check(&world, &issued).unwrap();
            assert_eq!(
                format!("{:?}", jsonwebtoken::decode_header(&issued).unwrap().alg).to_uppercase(),
                alg.to_string().to_uppercase()
            );
            let claims = jsonwebtoken::dangerous::insecure_decode::<serde_json::Value>(&issued).unwrap().claims;
            assert_eq!(claims["eat_profile"] == LEGACY_PROFILE, profile == Profile::Legacy);
            let name = if profile == Profile::Legacy { "ear.status" } else { "ear_status" };
            assert_eq!(claims["submods"]["k"][name], "affirming");
        }
    }
}
