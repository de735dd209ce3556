//! Batches: each item comes to what it would have come to alone, and harms none of the others.

use std::{collections::BTreeSet, thread};

use keywitness_circuits::{Envelope, KeyAlgorithm, Nonce, codec::Canonical};
use keywitness_verifier::wire::{
    AttestAnswer, AttestationState, AttestedAnswer, AttestedRequest, Challenge, ChallengeAnswer, ChallengeBatchRequest,
    ChallengeRequest, EventKind, KeyQuery, MAX_BATCH_ENVELOPES, MAX_BATCH_KEYS, Problem, ProblemKind, Record,
    RevocationTarget, join_envelopes,
};

use crate::service::testing::{Caller, TestHsm, TestKey, World, refused, submit};

/// Asks for a challenge for each key, in one request.
fn challenges(world: &World, hsm: &TestHsm, keys: &[TestKey]) -> Vec<Result<Challenge, Problem>> {
    let items = keys.iter().map(ask).collect();
    let answer = world.manager.challenges(&hsm.call(world), &ChallengeBatchRequest { items }).unwrap();
    answer.items.into_iter().map(ChallengeAnswer::into_result).collect()
}

fn ask(key: &TestKey) -> ChallengeRequest {
    ChallengeRequest { statement: key.kind().name().to_owned(), keys: vec![key.key.clone()] }
}

fn send(world: &World, envelopes: &[Envelope]) -> Vec<Result<Vec<Record>, Problem>> {
    let encoded: Vec<_> = envelopes.iter().map(Canonical::to_bytes).collect();
    send_bytes(world, &encoded)
}

fn send_bytes(world: &World, envelopes: &[Vec<u8>]) -> Vec<Result<Vec<Record>, Problem>> {
    let body = join_envelopes(envelopes.iter().map(Vec::as_slice));
    let answer = world.manager.attest_batch(None, &body).unwrap();
    assert_eq!(answer.items.len(), envelopes.len());
    answer.items.into_iter().map(AttestAnswer::into_result).collect()
}

/// Enrolled keys of several algorithms.
fn keys(world: &World, hsm: &TestHsm, count: u8) -> Vec<TestKey> {
    let algorithms = [KeyAlgorithm::Ed25519, KeyAlgorithm::Ristretto255, KeyAlgorithm::P256, KeyAlgorithm::Secp256k1];
    let keys = (0..count).zip(algorithms.into_iter().cycle());
    keys.map(|(number, algorithm)| {
        let key = TestKey::new(&format!("k{number}"), algorithm, 1 + number % 15);
        hsm.enrol_key(world, &key).unwrap();
        key
    })
    .collect()
}

/// The right answer to each challenge.
fn answers(world: &World, hsm: &TestHsm, keys: &[TestKey]) -> Vec<Envelope> {
    let given = challenges(world, hsm, keys);
    keys.iter().zip(given).map(|(key, challenge)| hsm.answer(world, "eu", key, &challenge.unwrap())).collect()
}

/// Something of each kind of batch, right and wrong.
pub(crate) fn bustle(world: &World) {
    let hsm = world.hsm("hsm-batch", "eu");
    let held = keys(world, &hsm, 4);
    let unknown = ["unknown", "other"].map(|name| TestKey::ed25519(name, 3));
    let asked: Vec<_> = held.iter().chain(&unknown).cloned().collect();
    let given = challenges(world, &hsm, &asked);
    assert_eq!(given.iter().filter(|given| given.is_err()).count(), 2);
    let mut envelopes = answers(world, &hsm, &held);
    envelopes[1].proof = vec![0; 64];
    let context = envelopes[1].context.clone();
    envelopes[1] = hsm.forge(&held[1], context);
    assert_eq!(send(world, &envelopes).iter().filter(|answer| answer.is_ok()).count(), 3);
}

#[test]
fn challenges_of_one_request_differ_and_each_is_for_its_own_key() {
    let world = World::on_disk();
    let hsm = world.hsm("hsm-1", "eu");
    let held = keys(&world, &hsm, 8);
    let envelopes = answers(&world, &hsm, &held);
    let nonces: BTreeSet<_> = envelopes.iter().map(|envelope| envelope.context.challenge).collect();
    assert_eq!(nonces.len(), held.len());
    let records = send(&world, &envelopes);
    for (record, key) in records.iter().zip(&held) {
        assert_eq!(record.as_ref().unwrap()[0].key, key.key);
    }
    let status = world.manager.status(&Caller::in_process()).unwrap();
    assert!(status.keys.iter().all(|key| key.state == AttestationState::Attested));
    assert!(world.alerts().is_empty());
}

#[test]
fn an_item_that_is_refused_costs_its_neighbours_nothing() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let held = keys(&world, &hsm, 4);
    let (cluster, key) = ("eu".parse().unwrap(), held[1].key.key.clone());
    world.revoke(RevocationTarget::Key { cluster, key });
    let strange = ChallengeRequest { statement: "no-such-kind/1".to_owned(), keys: vec![held[0].key.clone()] };
    let twice = ChallengeRequest { keys: vec![held[3].key.clone(), held[3].key.clone()], ..ask(&held[3]) };
    let items = vec![ask(&held[0]), ask(&held[1]), strange, twice, ask(&TestKey::ed25519("other", 1)), ask(&held[2])];
    let answer = world.manager.challenges(&hsm.call(&world), &ChallengeBatchRequest { items }).unwrap();
    let kinds: Vec<_> =
        answer.items.into_iter().map(|item| item.into_result().map(drop).map_err(|problem| problem.kind())).collect();
    let expected = [
        Ok(()),
        Err(Some(ProblemKind::KeyRevoked)),
        Err(Some(ProblemKind::UnknownStatement)),
        Err(Some(ProblemKind::Malformed)),
        Err(Some(ProblemKind::UnknownKey)),
        Ok(()),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn the_same_request_sent_again_gets_the_same_challenges() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let request = ChallengeBatchRequest { items: keys(&world, &hsm, 5).iter().map(ask).collect() };
    let caller = hsm.call(&world);
    let first = world.manager.challenges(&caller, &request).unwrap();
    world.advance(5);
    assert_eq!(world.manager.challenges(&caller, &request).unwrap(), first);
    assert_ne!(world.manager.challenges(&hsm.call(&world), &request).unwrap(), first);
}

#[test]
fn four_thousand_challenges_in_one_request_and_no_more() {
    let world = World::on_disk();
    let hsm = world.hsm("hsm-1", "eu");
    let key = |number: usize| TestKey::new(&format!("k{number}"), KeyAlgorithm::Ristretto255, 1);
    let held: Vec<_> = (0..=MAX_BATCH_KEYS).map(key).collect();
    thread::scope(|scope| {
        for some in held.chunks(256) {
            let (world, hsm) = (&world, &hsm);
            scope.spawn(move || some.iter().for_each(|key| hsm.enrol_key(world, key).unwrap()));
        }
    });
    let batch = |count: usize| ChallengeBatchRequest { items: held[..count].iter().map(ask).collect() };
    for wrong in [batch(0), batch(MAX_BATCH_KEYS + 1)] {
        refused(world.manager.challenges(&hsm.call(&world), &wrong), ProblemKind::Malformed);
    }
    let nobody = ChallengeBatchRequest { items: vec![ChallengeRequest { keys: Vec::new(), ..ask(&held[0]) }] };
    refused(world.manager.challenges(&hsm.call(&world), &nobody), ProblemKind::Malformed);
    let given = world.manager.challenges(&hsm.call(&world), &batch(MAX_BATCH_KEYS)).unwrap();
    let challenges: Vec<_> = given.items.into_iter().map(|item| item.into_result().unwrap()).collect();
    assert_eq!(challenges.iter().map(|given| given.nonce).collect::<BTreeSet<_>>().len(), MAX_BATCH_KEYS);
    // Any of them can be answered, once.
    for place in [0, 1, MAX_BATCH_KEYS - 1] {
        let envelope = hsm.answer(&world, "eu", &held[place], &challenges[place]);
        submit(&world, &envelope).unwrap();
    }
    // What is due is forgotten no more slowly than it comes.
    world.advance(100_000);
    world.manager.challenges(&hsm.call(&world), &batch(MAX_BATCH_KEYS)).unwrap();
    let left = world.store.view().unwrap().range(crate::ledger::Table::Challenges, &[], &[], usize::MAX).unwrap();
    assert_eq!(left.len(), MAX_BATCH_KEYS);
}

#[test]
fn a_bad_envelope_in_the_middle_is_refused_alone() {
    let world = World::on_disk();
    let hsm = world.hsm("hsm-1", "eu");
    let held = keys(&world, &hsm, 8);
    let mut envelopes = answers(&world, &hsm, &held);
    envelopes[3] = hsm.forge(&held[3], envelopes[3].context.clone());
    // Not this HSM's signature: nobody's failure.
    envelopes[5].signature = [0; 64];
    let mut encoded: Vec<_> = envelopes.iter().map(Canonical::to_bytes).collect();
    encoded[6].push(0);
    let strangers = world.manager.unauthenticated();
    let outcomes = send_bytes(&world, &encoded);
    for (place, outcome) in outcomes.into_iter().enumerate() {
        match place {
            3 => drop(refused(outcome, ProblemKind::ProofRefused)),
            5 => drop(refused(outcome, ProblemKind::Unauthenticated)),
            6 => drop(refused(outcome, ProblemKind::Malformed)),
            _ => assert_eq!(outcome.unwrap()[0].key, held[place].key),
        }
    }
    assert_eq!(world.manager.unauthenticated(), strangers + 2);
    // Those that could not be authenticated consumed nothing: their challenges are still good.
    assert!(send(&world, &[hsm.answer_again(&held[5], &envelopes[5])]).remove(0).is_ok());
}

#[test]
fn a_batch_sent_again_gets_its_recorded_outcomes_and_changes_nothing() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let held = keys(&world, &hsm, 6);
    let mut envelopes = answers(&world, &hsm, &held);
    envelopes[2] = hsm.forge(&held[2], envelopes[2].context.clone());
    let first = send(&world, &envelopes);
    let (events, log) = (world.events().len(), commands(&world));
    world.advance(7);
    assert_eq!(send(&world, &envelopes), first);
    envelopes.reverse();
    assert_eq!(send(&world, &envelopes), first.into_iter().rev().collect::<Vec<_>>());
    assert_eq!((world.events().len(), commands(&world)), (events, log));
}

fn commands(world: &World) -> usize {
    let rows = world.store.view().unwrap();
    rows.range(crate::ledger::Table::Commands, &[], &[], usize::MAX).unwrap().len()
}

#[test]
fn one_challenge_answered_twice_in_a_batch_counts_once() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    // Schnorr proofs are randomised: every answer has other bytes.
    let key = TestKey::new("k", KeyAlgorithm::Ristretto255, 1);
    hsm.enrol_key(&world, &key).unwrap();
    let challenge = challenges(&world, &hsm, std::slice::from_ref(&key)).remove(0).unwrap();
    let (first, second) = (hsm.answer(&world, "eu", &key, &challenge), hsm.answer(&world, "eu", &key, &challenge));
    // The very same bytes twice are one answer; other bytes are a replay.
    let mut outcomes = send(&world, &[first.clone(), first.clone(), second]);
    refused(outcomes.pop().unwrap(), ProblemKind::ChallengeConsumed);
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(outcomes[0].as_ref().unwrap()[0].envelope, first.digest());
    assert!(matches!(world.alerts()[..], [EventKind::Replay { .. }]));
}

#[test]
fn hsms_mixed_in_one_batch_are_judged_each_by_itself() {
    let world = World::new();
    let (one, other) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "eu"));
    let key = TestKey::ed25519("k", 1);
    for hsm in [&one, &other] {
        hsm.enrol_key(&world, &key).unwrap();
    }
    let (mine, theirs) =
        (answers(&world, &one, std::slice::from_ref(&key)), answers(&world, &other, std::slice::from_ref(&key)));
    // A third one answers the challenge that the first was given.
    let stolen = challenges(&world, &one, std::slice::from_ref(&key)).remove(0).unwrap();
    let thief = other.answer(&world, "eu", &key, &stolen);
    let mut outcomes = send(&world, &[thief, mine[0].clone(), theirs[0].clone()]);
    assert_eq!(outcomes.pop().unwrap().unwrap()[0].hsm, other.id);
    assert_eq!(outcomes.pop().unwrap().unwrap()[0].hsm, one.id);
    refused(outcomes.pop().unwrap(), ProblemKind::ForeignChallenge);
}

#[test]
fn a_challenge_of_a_batch_is_good_for_its_own_key_alone() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let (a, b) = (TestKey::ed25519("a", 1), TestKey::ed25519("b", 2));
    for key in [&a, &b] {
        hsm.enrol_key(&world, key).unwrap();
    }
    let given = challenges(&world, &hsm, &[a.clone(), b.clone()]);
    let crossed = hsm.answer(&world, "eu", &a, given[1].as_ref().unwrap());
    let right = hsm.answer(&world, "eu", &a, given[0].as_ref().unwrap());
    let mut outcomes = send(&world, &[crossed, right]);
    assert_eq!(outcomes.pop().unwrap().unwrap()[0].key, a.key);
    refused(outcomes.pop().unwrap(), ProblemKind::ContextMismatch);
}

#[test]
fn bodies_that_are_no_batches_are_refused_whole() {
    let world = World::new();
    for body in [Vec::new(), vec![0; 3], vec![0, 0, 0, 1], vec![0; 4 * (MAX_BATCH_ENVELOPES + 1)]] {
        let counted = world.manager.unauthenticated();
        refused(world.manager.attest_batch(None, &body), ProblemKind::Malformed);
        assert_eq!(world.manager.unauthenticated(), counted + 1);
    }
}

#[test]
fn a_revoked_hsm_gets_no_batch_and_one_request_is_one_attempt() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let request = ChallengeBatchRequest { items: keys(&world, &hsm, 8).iter().map(ask).collect() };
    world.revoke_hsm(&hsm);
    world.advance(100);
    for attempt in 1..=5 {
        refused(world.manager.challenges(&hsm.call(&world), &request), ProblemKind::HsmRevoked);
        assert_eq!(world.alerts().len(), usize::from(attempt == 5), "{attempt}");
    }
}

#[test]
fn thousands_of_keys_are_asked_about_in_one_call() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let held = keys(&world, &hsm, 4);
    send(&world, &answers(&world, &hsm, &held[..3]));
    let query = |key: &str| KeyQuery { key: key.parse().unwrap(), cluster: None, hsm: None, max_age: None };
    let asked: Vec<_> = ["k0", "k3", "none"].into_iter().map(query).cycle().take(MAX_BATCH_KEYS).collect();
    let answer = world.manager.attested_batch(&Caller::in_process(), &AttestedRequest { keys: asked.clone() }).unwrap();
    assert_eq!((answer.now, answer.keys.len()), (world.now(), MAX_BATCH_KEYS));
    for (place, found) in answer.keys.into_iter().enumerate() {
        match (place % 3, found) {
            (2, AttestedAnswer::Problem(problem)) => assert_eq!(problem.kind(), Some(ProblemKind::NotFound)),
            (which, AttestedAnswer::Key(status)) => {
                // The same as is said of one key alone.
                let alone = world.manager.attested(&Caller::in_process(), &asked[place]).unwrap();
                assert_eq!((status.cluster, status.attested), (alone.cluster, alone.attested));
                assert_eq!(status.attested, which == 0);
                let (brief, full) = (&status.hsms[0], &alone.hsms[0]);
                assert_eq!((&brief.hsm, brief.epoch, brief.state), (&full.hsm, full.key.epoch, full.state));
                assert_eq!(brief.expires_at, full.statements[0].expires_at);
            }
            (_, AttestedAnswer::Problem(problem)) => panic!("{problem}"),
        }
    }
    for count in [0, MAX_BATCH_KEYS + 1] {
        let wrong = AttestedRequest { keys: vec![query("k0"); count] };
        refused(world.manager.attested_batch(&Caller::in_process(), &wrong), ProblemKind::Malformed);
    }
}

#[test]
fn a_batch_that_was_never_given_is_unknown() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let held = keys(&world, &hsm, 2);
    let mut given: Vec<_> = challenges(&world, &hsm, &held).into_iter().map(Result::unwrap).collect();
    given[0].nonce = Nonce::random();
    let envelopes: Vec<_> = held.iter().zip(&given).map(|(key, given)| hsm.answer(&world, "eu", key, given)).collect();
    let mut outcomes = send(&world, &envelopes);
    outcomes.pop().unwrap().unwrap();
    refused(outcomes.pop().unwrap(), ProblemKind::UnknownChallenge);
}
