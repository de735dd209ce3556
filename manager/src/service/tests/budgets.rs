//! What work costs, and whom.

use keywitness_circuits::{Timestamp, codec::Canonical};
use keywitness_verifier::wire::{
    AttestAnswer, AttestedRequest, ChallengeBatchRequest, ChallengeRequest, CredentialRequest, KeyQuery, ProblemKind,
    ReinstateRequest, RevocationTarget, RevokeRequest, Role, join_envelopes,
};

use crate::{
    ledger::Table,
    limits::{Budget, LimitsConfig, Source},
    service::{
        access::SignedRequest,
        testing::{Caller, TestKey, World, refused, submit},
    },
};

/// Budgets that hardly come back.
fn world(hsm: u32, address: u32) -> World {
    let (hsm, address) = (Budget::new(hsm, 1), Budget::new(address, 1));
    World::with_config(|config| {
        config.limits = LimitsConfig { hsm, address, loopback: true, credential: hsm, ..LimitsConfig::default() };
    })
}

fn address() -> Source {
    Source::address("127.0.0.1".parse().unwrap())
}

fn commands(world: &World) -> usize {
    world.store.view().unwrap().range(Table::Commands, &[], &[], usize::MAX).unwrap().len()
}

#[test]
fn published_envelopes_brought_again_cost_their_hsm_nothing_and_write_nothing() {
    let world = world(200, 100_000);
    let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    hsm.enrol_key(&world, &key).unwrap();
    let challenge = hsm.challenge(&world, &key).unwrap();
    let envelope = hsm.answer(&world, "eu", &key, &challenge);
    submit(&world, &envelope).unwrap();
    let (bytes, log) = (envelope.to_bytes(), commands(&world));
    let batch = join_envelopes((0..1_024).map(|_| &bytes[..]));
    let bring = || {
        for _ in 0..3 {
            let items = world.manager.attest_batch(Some(&address()), &batch).unwrap().items;
            assert_eq!(items.len(), 1_024);
            drop(submit(&world, &envelope));
        }
    };
    bring();
    // Long after, when nobody remembers the challenge: refused each time, and neither counted nor written.
    world.advance(1_000_000);
    hsm.challenge(&world, &key).unwrap();
    world.advance(1_000_000);
    hsm.challenge(&world, &key).unwrap();
    let forgotten = commands(&world);
    bring();
    assert_eq!((log + 2, forgotten), (forgotten, commands(&world)));
    assert_ne!(world.now(), Timestamp(0));
    refused(submit(&world, &envelope), ProblemKind::UnknownChallenge);
    for _ in 0..50 {
        hsm.try_call(&world).unwrap();
    }
    assert!(world.manager.limits().limited().is_empty());
}

#[test]
fn a_signed_request_that_comes_again_or_long_after_costs_its_hsm_nothing() {
    let world = world(20, 100_000);
    let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    hsm.enrol_key(&world, &key).unwrap();
    let authorization = hsm.authorization(&world, "POST", "/kept", b"");
    let kept = SignedRequest { authorization: &authorization, method: "POST", path: "/kept", body: b"" };
    let ask = ChallengeRequest { statement: key.kind().name().to_owned(), keys: vec![key.key.clone()] };
    let first = world.manager.challenge(&world.manager.authenticate(kept).unwrap(), &ask).unwrap();
    for _ in 0..100 {
        let again = world.manager.challenge(&world.manager.authenticate(kept).unwrap(), &ask).unwrap();
        assert_eq!(again.nonce, first.nonce);
    }
    world.advance(1_000);
    for _ in 0..100 {
        refused(world.manager.authenticate(kept).map(drop), ProblemKind::ClockSkew);
    }
    hsm.attest(&world, "eu", &key).unwrap();
    assert!(world.manager.limits().limited().is_empty());
}

#[test]
fn who_is_suspended_or_was_revoked_a_moment_ago_pays_no_fine() {
    let world = world(60, 100_000);
    let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    hsm.enrol_key(&world, &key).unwrap();
    let target = RevocationTarget::Hsm(hsm.id.clone());
    let decided = RevokeRequest { target: target.clone(), reason: "a drill".into() };
    let under_way = hsm.answer(&world, "eu", &key, &hsm.challenge(&world, &key).unwrap());
    world.manager.suspend(&Caller::in_process(), &decided).unwrap();
    refused(submit(&world, &under_way), ProblemKind::Suspended);
    let reason = "it was a drill".into();
    world.manager.reinstate(&Caller::in_process(), &ReinstateRequest { target, reason }).unwrap();
    world.advance(1);
    let under_way = hsm.answer(&world, "eu", &key, &hsm.challenge(&world, &key).unwrap());
    world.manager.revoke(&Caller::in_process(), &decided).unwrap();
    refused(submit(&world, &under_way), ProblemKind::HsmRevoked);
    for _ in 0..40 {
        hsm.try_call(&world).unwrap();
    }
}

#[test]
fn forged_envelopes_of_one_batch_cost_their_address_a_mistake_each() {
    let world = world(1_000, 2_000);
    let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    hsm.enrol_key(&world, &key).unwrap();
    let mut envelope = hsm.answer(&world, "eu", &key, &hsm.challenge(&world, &key).unwrap());
    let forged: Vec<_> = (0..=255_u8)
        .map(|byte| {
            envelope.signature = [byte; 64];
            envelope.to_bytes()
        })
        .collect();
    let body = join_envelopes(forged.iter().map(Vec::as_slice));
    let answer = world.manager.attest_batch(Some(&address()), &body).unwrap();
    let kinds: Vec<_> =
        answer.items.into_iter().map(|item| AttestAnswer::into_result(item).unwrap_err().kind()).collect();
    let looked_at = kinds.iter().filter(|kind| **kind == Some(ProblemKind::Unauthenticated)).count();
    // What is left after one request each pays for so many mistakes, and one is not paid whole.
    assert!((30..=40).contains(&looked_at), "{looked_at}");
    assert!(kinds[looked_at..].iter().all(|kind| *kind == Some(ProblemKind::TooManyRequests)));
    refused(world.manager.attest_batch(Some(&address()), &body), ProblemKind::TooManyRequests);
}

#[test]
fn a_batch_costs_as_many_requests_as_it_names_keys() {
    let world = world(100, 1_000);
    let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    hsm.enrol_key(&world, &key).unwrap();
    let ask = |name: String| {
        let key = TestKey::ed25519(&name, 1);
        ChallengeRequest { statement: key.kind().name().to_owned(), keys: vec![key.key] }
    };
    let batch = ChallengeBatchRequest { items: (0..60).map(|number| ask(format!("k{number}"))).collect() };
    world.manager.challenges(&hsm.call(&world), &batch).unwrap();
    let (caller, log) = (hsm.call(&world), commands(&world));
    refused(world.manager.challenges(&caller, &batch), ProblemKind::TooManyRequests);
    assert_eq!(commands(&world), log);
    let request = CredentialRequest::new("someone", Role::Client);
    let secret = world.manager.create_credential(&Caller::in_process(), &request).unwrap().secret;
    let client = world.manager.authorise(&secret, &[Role::Client]).unwrap();
    let query = KeyQuery { key: "k".parse().unwrap(), cluster: None, hsm: None, max_age: None };
    let many = AttestedRequest { keys: vec![query; 60] };
    world.manager.attested_batch(&client, &many).unwrap();
    refused(world.manager.attested_batch(&client, &many), ProblemKind::TooManyRequests);
}
