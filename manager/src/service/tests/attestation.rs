//! Challenges and envelopes: what is accepted, and what each kind of wrong gets.

use keywitness_circuits::{Digest, Envelope, KeyAlgorithm, Nonce, Timestamp, codec::Canonical};
use keywitness_verifier::wire::{
    AttestationState, Challenge, ChallengeRequest, KeyQuery, KeyRef, ProblemKind, RevocationTarget,
};

use crate::service::testing::{Caller, TestHsm, TestKey, World, refused, submit};

fn state_of(world: &World, key: &TestKey, hsm: &TestHsm) -> AttestationState {
    let query = KeyQuery { key: key.key.key.clone(), cluster: None, hsm: Some(hsm.id.clone()), max_age: None };
    world.manager.attested(&Caller::in_process(), &query).unwrap().hsms[0].state
}

fn scene() -> (World, TestHsm, TestKey) {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    (world, hsm, key)
}

/// Everything but the log's own bookkeeping, to see that nothing was consumed, counted or logged.
fn snapshot(world: &World) -> Vec<(crate::ledger::Table, Vec<crate::ledger::tables::Row>)> {
    let rows = world.store.view().unwrap();
    let all = |table: &crate::ledger::Table| (*table, rows.range(*table, &[], &[], usize::MAX).unwrap());
    crate::ledger::Table::ALL.iter().map(all).collect()
}

#[test]
fn every_statement_with_a_native_proof_attests() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::Ristretto255, KeyAlgorithm::P256, KeyAlgorithm::Secp256k1] {
        let key = TestKey::new(algorithm.name(), algorithm, 3);
        hsm.enrol_key(&world, &key).unwrap();
        assert_eq!(state_of(&world, &key, &hsm), AttestationState::Unproven);
        let record = hsm.attest(&world, "eu", &key).unwrap();
        assert_eq!((record.proven_at, record.expires_at), (world.now(), world.now().plus(600)));
        assert_eq!(record.fingerprint, key.instance().fingerprint().unwrap());
        assert_eq!(state_of(&world, &key, &hsm), AttestationState::Attested);
    }
    assert!(world.alerts().is_empty());
}

#[test]
fn challenges_are_given_for_what_is_enrolled_and_repeated_for_the_same_request() {
    let (world, hsm, key) = scene();
    let ask = |statement: &str, keys: Vec<KeyRef>| {
        let request = ChallengeRequest { statement: statement.to_owned(), keys };
        world.manager.challenge(&hsm.call(&world), &request)
    };
    let kind = key.kind().name();
    refused(ask("key-knowledge/none/1", vec![key.key.clone()]), ProblemKind::UnknownStatement);
    refused(ask("key-knowledge/groth16-bn254/1", vec![key.key.clone()]), ProblemKind::UnknownStatement);
    refused(ask("key-knowledge/p256-schnorr/1", vec![key.key.clone()]), ProblemKind::UnknownStatement);
    refused(ask(kind, vec![]), ProblemKind::Malformed);
    refused(ask(kind, vec![key.key.clone(), key.key.clone()]), ProblemKind::Malformed);
    refused(ask(kind, vec![key.key.clone(); 65]), ProblemKind::Malformed);
    refused(ask(kind, vec![KeyRef { epoch: 2, ..key.key.clone() }]), ProblemKind::UnknownKey);
    let request = ChallengeRequest { statement: kind.to_owned(), keys: vec![key.key.clone()] };
    let caller = hsm.call(&world);
    let first = world.manager.challenge(&caller, &request).unwrap();
    assert_eq!(first.expires_at, world.now().plus(60));
    assert_eq!((first.not_before, first.not_after), (world.now(), world.now().plus(600)));
    world.advance(5);
    assert_eq!(world.manager.challenge(&caller, &request).unwrap(), first);
    assert_ne!(hsm.challenge(&world, &key).unwrap().nonce, first.nonce);
    assert!(world.alerts().is_empty());
}

#[test]
fn what_cannot_be_read_or_authenticated_leaves_no_trace() {
    let (world, hsm, key) = scene();
    let challenge = hsm.challenge(&world, &key).unwrap();
    let right = hsm.answer(&world, "eu", &key, &challenge);
    let before = snapshot(&world);
    refused(world.manager.attest(b"noise"), ProblemKind::Malformed);
    refused(world.manager.attest(&[right.to_bytes(), vec![0]].concat()), ProblemKind::Malformed);
    let mut unsigned = right.clone();
    unsigned.signature[0] ^= 1;
    refused(submit(&world, &unsigned), ProblemKind::Unauthenticated);
    let mut renamed = right.clone();
    renamed.context.hsm = "hsm-9".parse().unwrap();
    refused(submit(&world, &renamed), ProblemKind::Unauthenticated);
    assert_eq!(snapshot(&world), before);
    assert_eq!(world.manager.unauthenticated(), 4);
    submit(&world, &right).unwrap();
}

#[test]
fn another_hsm_of_the_cluster_cannot_attest_in_an_hsms_name() {
    let (world, hsm, key) = scene();
    let other = world.hsm("hsm-2", "eu");
    other.enrol_key(&world, &key).unwrap();
    let challenge = hsm.challenge(&world, &key).unwrap();
    // hsm-2 knows the shared key and the challenge, and signs with the only identity it has.
    let forged = other.seal(&key, hsm.context(&world, "eu", &key, &challenge));
    refused(submit(&world, &forged), ProblemKind::Unauthenticated);
    submit(&world, &hsm.answer(&world, "eu", &key, &challenge)).unwrap();
}

#[test]
fn the_same_envelope_again_gets_the_recorded_outcome_and_no_event() {
    let (world, hsm, key) = scene();
    let challenge = hsm.challenge(&world, &key).unwrap();
    let right = hsm.answer(&world, "eu", &key, &challenge);
    let record = submit(&world, &right).unwrap();
    world.advance(1000);
    let before = snapshot(&world);
    assert_eq!(submit(&world, &right).unwrap(), record);
    let challenge = hsm.challenge(&world, &key).unwrap();
    let wrong = hsm.forge(&key, hsm.context(&world, "eu", &key, &challenge));
    let problem = refused(submit(&world, &wrong), ProblemKind::ProofRefused);
    let events = world.events();
    for _ in 0..10 {
        assert_eq!(submit(&world, &wrong).unwrap_err(), problem);
    }
    assert_eq!(world.events(), events);
    assert_ne!(snapshot(&world), before);
    assert!(world.alerts().is_empty());
}

/// A wrong answer of each kind: the refusal, the challenge consumed, the failure recorded.
fn assert_consumed(world: &World, hsm: &TestHsm, key: &TestKey, challenge: &Challenge) {
    assert_eq!(state_of(world, key, hsm), AttestationState::Failing);
    let right = hsm.answer(world, "eu", key, challenge);
    refused(submit(world, &right), ProblemKind::ChallengeConsumed);
    hsm.attest(world, "eu", key).unwrap();
    assert_eq!(state_of(world, key, hsm), AttestationState::Attested);
}

#[test]
fn a_context_that_differs_in_any_field_is_refused_and_consumes_the_challenge() {
    type Change = fn(&mut keywitness_circuits::ClaimContext);
    let changes: [(&str, ProblemKind, Change); 16] = [
        ("statement", ProblemKind::UnknownStatement, |context| context.statement = "key-knowledge/none/1".to_owned()),
        ("statement", ProblemKind::ContextMismatch, |context| {
            context.statement = "key-knowledge/p256-schnorr/1".to_owned();
        }),
        ("verifying_key", ProblemKind::ContextMismatch, |context| context.verifying_key = Digest([1; 32])),
        ("trust_domain", ProblemKind::ContextMismatch, |context| {
            context.trust_domain = "evil.example".parse().unwrap()
        }),
        ("manager", ProblemKind::ContextMismatch, |context| context.manager = "m2".parse().unwrap()),
        ("cluster", ProblemKind::ContextMismatch, |context| context.cluster = "us".parse().unwrap()),
        ("enrolment", ProblemKind::ContextMismatch, |context| context.enrolment = 2),
        ("keys", ProblemKind::ContextMismatch, |context| context.keys[0].key = "other".parse().unwrap()),
        ("keys", ProblemKind::ContextMismatch, |context| context.keys[0].epoch = 2),
        ("keys", ProblemKind::ContextMismatch, |context| context.keys[0].attributes = Digest([1; 32])),
        ("keys", ProblemKind::ContextMismatch, |context| context.keys.push(context.keys[0].clone())),
        ("instance", ProblemKind::ContextMismatch, |context| context.instance = Digest([1; 32])),
        ("not_before", ProblemKind::ContextMismatch, |context| context.not_before = Timestamp(1)),
        ("not_after", ProblemKind::ContextMismatch, |context| context.not_after = context.not_after.plus(1)),
        ("checkpoint", ProblemKind::ContextMismatch, |context| context.checkpoint = Some(Digest([1; 32]))),
        ("evidence", ProblemKind::ContextMismatch, |context| context.evidence = Some(Digest([1; 32]))),
    ];
    for (field, kind, change) in changes {
        let (world, hsm, key) = scene();
        let challenge = hsm.challenge(&world, &key).unwrap();
        let mut context = hsm.context(&world, "eu", &key, &challenge);
        change(&mut context);
        let problem = refused(submit(&world, &hsm.forge(&key, context)), kind);
        if kind == ProblemKind::ContextMismatch {
            assert!(problem.detail.contains(field), "{field}: {problem}");
        }
        assert_consumed(&world, &hsm, &key, &challenge);
    }
}

#[test]
fn a_challenge_that_was_never_given_counts_against_the_sender() {
    let (world, hsm, key) = scene();
    hsm.attest(&world, "eu", &key).unwrap();
    let mut challenge = hsm.challenge(&world, &key).unwrap();
    challenge.nonce = Nonce::random();
    refused(submit(&world, &hsm.answer(&world, "eu", &key, &challenge)), ProblemKind::UnknownChallenge);
    assert_eq!(state_of(&world, &key, &hsm), AttestationState::Failing);
}

#[test]
fn the_instance_is_the_enrolled_one_and_never_the_messages_word() {
    let (world, hsm, key) = scene();
    let other = TestKey::ed25519("k", 2);
    let challenge = hsm.challenge(&world, &key).unwrap();
    // A sound proof of another key, under the name and challenge of the enrolled one.
    let claim = hsm.seal(&other, hsm.context(&world, "eu", &other, &challenge));
    let problem = refused(submit(&world, &claim), ProblemKind::ContextMismatch);
    assert!(problem.detail.contains("instance"));
    assert_consumed(&world, &hsm, &key, &challenge);
    // The digest of the enrolled instance, over the bytes of another.
    let challenge = hsm.challenge(&world, &key).unwrap();
    let claim = hsm.forge(&other, hsm.context(&world, "eu", &key, &challenge));
    refused(submit(&world, &claim), ProblemKind::ContextMismatch);
    assert_consumed(&world, &hsm, &key, &challenge);
}

#[test]
fn a_wrong_proof_and_a_late_answer_consume_their_challenge() {
    let (world, hsm, key) = scene();
    let challenge = hsm.challenge(&world, &key).unwrap();
    let context = hsm.context(&world, "eu", &key, &challenge);
    refused(submit(&world, &hsm.forge(&key, context)), ProblemKind::ProofRefused);
    assert_consumed(&world, &hsm, &key, &challenge);
    // Late when the last record has expired too.
    world.advance(600);
    let challenge = hsm.challenge(&world, &key).unwrap();
    let (in_time, late) = (hsm.context(&world, "eu", &key, &challenge), challenge.expires_at);
    world.advance(late.since(world.now()) as i64);
    refused(submit(&world, &hsm.forge(&key, in_time)), ProblemKind::ChallengeExpired);
    assert_consumed(&world, &hsm, &key, &challenge);
}

#[test]
fn another_hsms_challenge_costs_the_sender_and_stays_the_owners() {
    let (world, owner, key) = scene();
    let thief = world.hsm("hsm-2", "eu");
    thief.enrol_key(&world, &key).unwrap();
    owner.attest(&world, "eu", &key).unwrap();
    thief.attest(&world, "eu", &key).unwrap();
    let challenge = owner.challenge(&world, &key).unwrap();
    refused(submit(&world, &thief.answer(&world, "eu", &key, &challenge)), ProblemKind::ForeignChallenge);
    assert_eq!(state_of(&world, &key, &thief), AttestationState::Failing);
    // The owner answers it yet, once.
    let right = owner.answer(&world, "eu", &key, &challenge);
    let record = submit(&world, &right).unwrap();
    assert_eq!((&record.hsm, record.envelope), (&owner.id, right.digest()));
    assert_eq!(submit(&world, &right).unwrap(), record);
    assert_eq!(state_of(&world, &key, &owner), AttestationState::Attested);
    refused(
        submit(&world, &thief.forge(&key, thief.context(&world, "eu", &key, &challenge))),
        ProblemKind::ForeignChallenge,
    );
    assert!(world.alerts().is_empty());
}

#[test]
fn what_is_revoked_gets_no_challenge_and_no_record() {
    let (world, hsm, key) = scene();
    let other = world.hsm("hsm-2", "eu");
    other.enrol_key(&world, &key).unwrap();
    let (mine, pending) = (other.challenge(&world, &key).unwrap(), hsm.challenge(&world, &key).unwrap());
    world.revoke_hsm(&hsm);
    refused(submit(&world, &hsm.answer(&world, "eu", &key, &pending)), ProblemKind::HsmRevoked);
    refused(hsm.challenge(&world, &key), ProblemKind::HsmRevoked);
    assert_eq!(state_of(&world, &key, &hsm), AttestationState::Revoked);
    world.revoke(RevocationTarget::Key { cluster: "eu".parse().unwrap(), key: key.key.key.clone() });
    refused(submit(&world, &other.answer(&world, "eu", &key, &mine)), ProblemKind::KeyRevoked);
    refused(other.challenge(&world, &key), ProblemKind::KeyRevoked);
    // Every epoch is revoked, those to come too.
    refused(other.enrol_key(&world, &key.epoch(2, 2)), ProblemKind::KeyRevoked);
    assert_eq!(state_of(&world, &key, &other), AttestationState::Revoked);
}

#[test]
fn an_old_copy_of_an_envelope_harms_nobody_once_it_is_forgotten() {
    let (world, hsm, key) = scene();
    let challenge = hsm.challenge(&world, &key).unwrap();
    let old: Envelope = hsm.answer(&world, "eu", &key, &challenge);
    let record = submit(&world, &old).unwrap();
    let mut known = true;
    for _ in 0..60 {
        world.advance(3600);
        hsm.attest(&world, "eu", &key).unwrap();
        match submit(&world, &old) {
            Ok(same) => assert!(known && same == record),
            problem => {
                known = false;
                refused(problem, ProblemKind::UnknownChallenge);
            }
        }
        assert_eq!(state_of(&world, &key, &hsm), AttestationState::Attested);
    }
    assert!(!known && world.alerts().is_empty());
}
