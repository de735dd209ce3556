//! Claims of many keys: one proof, one envelope, one record for each key or for none.

use keywitness_circuits::{
    ClaimContext, Digest, Envelope, Instance, KeyClaim, Kind, codec::Canonical, key_knowledge::many, registry,
};
use keywitness_verifier::wire::{
    AttestationState, Challenge, ChallengeRequest, EventKind, HsmKeyStatus, KeyQuery, KeyRef, Problem, ProblemKind,
    Record, RevocationTarget,
};

use crate::{
    ledger::log::entries,
    service::testing::{Caller, TestHsm, TestKey, World, parameters, refused, submit_many},
};

const MANY: Kind = Kind::ManyKeysHalo2;

fn keys(count: u8) -> Vec<TestKey> {
    (1..=count).map(|number| TestKey::aes256(&format!("aes-{number:02}"), number)).collect()
}

/// An HSM that has enrolled `count` keys.
fn scene(count: u8) -> (World, TestHsm, Vec<TestKey>) {
    let world = World::new();
    let (hsm, keys) = (world.hsm("hsm-1", "eu"), keys(count));
    keys.iter().for_each(|key| hsm.enrol_key(&world, key).unwrap());
    (world, hsm, keys)
}

fn ask_for(world: &World, hsm: &TestHsm, kind: Kind, keys: Vec<KeyRef>) -> Result<Challenge, Problem> {
    world.manager.challenge(&hsm.call(world), &ChallengeRequest { statement: kind.name().to_owned(), keys })
}

fn ask(world: &World, hsm: &TestHsm, keys: &[TestKey]) -> Challenge {
    ask_for(world, hsm, MANY, keys.iter().map(|key| key.key.clone()).collect()).unwrap()
}

fn instance(keys: &[TestKey]) -> Instance {
    let part = |key: &TestKey| (key.attributes.algorithm, key.instance().fingerprint().unwrap());
    many::Instance::new(&keys.iter().map(part).collect::<Vec<_>>()).unwrap().into()
}

/// The claim that an honest HSM makes: of `keys`, in this order.
fn claim(world: &World, hsm: &TestHsm, keys: &[TestKey], challenge: &Challenge) -> (ClaimContext, Instance) {
    let instance = instance(keys);
    let name = |key: &TestKey| {
        let KeyRef { key: name, epoch } = key.key.clone();
        KeyClaim { key: name, epoch, attributes: key.attributes.digest() }
    };
    let context = ClaimContext {
        statement: MANY.name().to_owned(),
        verifying_key: registry::verifying_key(&parameters(), MANY).unwrap(),
        keys: keys.iter().map(name).collect(),
        instance: instance.digest(),
        ..hsm.context(world, "eu", &keys[0], challenge)
    };
    (context, instance)
}

/// Seals a claim with a proof that proves nothing.
fn forge(hsm: &TestHsm, (context, instance): (ClaimContext, Instance)) -> Envelope {
    Envelope::seal(context, instance.to_bytes(), vec![0; 64], |message| hsm.sign(message))
}

fn seal(hsm: &TestHsm, keys: &[TestKey], (context, instance): (ClaimContext, Instance)) -> Envelope {
    let witness = many::Witness::new(keys.iter().map(TestKey::witness).collect()).into();
    let instance = instance.to_bytes();
    let proof = registry::prove(&parameters(), &context, &instance, &witness).unwrap();
    Envelope::seal(context, instance, proof, |message| hsm.sign(message))
}

/// Enrols keys in an HSM and attests them in one proof.
pub(crate) fn attest_together(world: &World, hsm: &TestHsm, cluster: &str, keys: &[TestKey]) {
    keys.iter().for_each(|key| hsm.enrol_key(world, key).unwrap());
    let (mut context, instance) = claim(world, hsm, keys, &ask(world, hsm, keys));
    context.cluster = cluster.parse().unwrap();
    submit_many(world, &seal(hsm, keys, (context, instance))).unwrap();
}

fn status(world: &World, key: &TestKey) -> HsmKeyStatus {
    let query = KeyQuery { key: key.key.key.clone(), cluster: None, hsm: None, max_age: None };
    world.manager.attested(&Caller::in_process(), &query).unwrap().hsms.remove(0)
}

#[track_caller]
fn all(world: &World, keys: &[TestKey], state: AttestationState) {
    for key in keys {
        assert_eq!(status(world, key).state, state, "{}", key.key.key);
    }
}

/// How many commands, and so leaves, the log has.
fn log(world: &World) -> usize {
    entries(world.store.view().unwrap().as_ref(), 0, usize::MAX).unwrap().len()
}

/// An accepted claim of many keys, and a refused one.
pub(crate) fn bustle(world: &World) {
    let (hsm, keys) = (world.hsm("hsm-many", "eu"), keys(3));
    keys.iter().for_each(|key| hsm.enrol_key(world, key).unwrap());
    let challenge = ask(world, &hsm, &keys);
    submit_many(world, &seal(&hsm, &keys, claim(world, &hsm, &keys, &challenge))).unwrap();
    let challenge = ask(world, &hsm, &keys);
    refused(submit_many(world, &forge(&hsm, claim(world, &hsm, &keys, &challenge))), ProblemKind::ProofRefused);
}

fn assert_records(world: &World, hsm: &TestHsm, keys: &[TestKey], envelope: &Envelope, records: &[Record]) {
    assert_eq!(records.len(), keys.len());
    for (record, key) in records.iter().zip(keys) {
        let expected = Record {
            hsm: hsm.id.clone(),
            cluster: "eu".parse().unwrap(),
            enrolment: 1,
            key: key.key.clone(),
            // What it was proven under, not what it stands for.
            statement: MANY,
            verifying_key: registry::verifying_key(&parameters(), MANY).unwrap(),
            fingerprint: key.instance().fingerprint().unwrap(),
            envelope: envelope.digest(),
            proven_at: world.now(),
            expires_at: world.now().plus(600),
        };
        assert_eq!(*record, expected);
    }
}

#[test]
fn one_claim_attests_sixty_four_keys_and_each_counts_by_itself() {
    let (world, hsm, keys) = scene(64);
    let challenge = ask(&world, &hsm, &keys);
    let right = seal(&hsm, &keys, claim(&world, &hsm, &keys, &challenge));
    all(&world, &keys, AttestationState::Unproven);
    let before = log(&world);
    let records = submit_many(&world, &right).unwrap();
    assert_records(&world, &hsm, &keys, &right, &records);
    all(&world, &keys, AttestationState::Attested);
    assert_eq!(status(&world, &keys[63]).statements[0].kind, Kind::KeyKnowledgeHalo2);
    // One leaf for the envelope, which names its keys; the same bytes again add none.
    world.advance(5);
    assert_eq!(submit_many(&world, &right).unwrap(), records);
    assert_eq!(log(&world), before + 1);

    // The proof is bound to its challenge: no other claim can use it.
    let other = ask(&world, &hsm, &keys);
    let (context, instance) = claim(&world, &hsm, &keys, &other);
    let copied = Envelope::seal(context, instance.to_bytes(), right.proof.clone(), |message| hsm.sign(message));
    refused(submit_many(&world, &copied), ProblemKind::ProofRefused);
    all(&world, &keys, AttestationState::Failing);
    // A key that is proven alone is attested again, whatever its company was.
    hsm.attest(&world, "eu", &keys[0]).unwrap();
    all(&world, &keys[..1], AttestationState::Attested);
    all(&world, &keys[1..], AttestationState::Failing);
    assert!(world.alerts().is_empty());

    // Other bytes for a challenge that was answered.
    refused(submit_many(&world, &forge(&hsm, claim(&world, &hsm, &keys, &challenge))), ProblemKind::ChallengeConsumed);
    assert!(matches!(world.alerts()[..], [EventKind::Replay { first, .. }] if first == right.digest()));
}

#[test]
fn a_challenge_names_each_key_once_and_none_that_is_not_attested_so() {
    let (world, hsm, keys) = scene(3);
    let other = world.hsm("hsm-2", "eu");
    let theirs = TestKey::aes256("theirs", 77);
    other.enrol_key(&world, &theirs).unwrap();
    let signing = TestKey::ed25519("signing", 5);
    hsm.enrol_key(&world, &signing).unwrap();
    let (first, second) = (keys[0].key.clone(), keys[1].key.clone());
    let ask = |kind, keys: &[&KeyRef]| ask_for(&world, &hsm, kind, keys.iter().map(|key| (*key).clone()).collect());
    refused(ask(MANY, &[]), ProblemKind::Malformed);
    let twice = refused(ask(MANY, &[&first, &second, &first]), ProblemKind::Malformed);
    assert!(twice.detail.contains("key aes-01 at epoch 1 is named twice"), "{twice}");
    refused(ask(MANY, &vec![&first; 65]), ProblemKind::Malformed);
    refused(ask(Kind::KeyKnowledgeHalo2, &[&first, &second]), ProblemKind::Malformed);
    refused(ask(Kind::ManyKeysGroth16, &[&first]), ProblemKind::UnknownStatement);
    refused(ask(MANY, &[&first, &theirs.key]), ProblemKind::UnknownKey);
    refused(ask(MANY, &[&first, &KeyRef { epoch: 2, ..second.clone() }]), ProblemKind::UnknownKey);
    let unfit = refused(ask(MANY, &[&first, &signing.key]), ProblemKind::UnknownStatement);
    assert!(unfit.detail.contains("key signing is a ed25519 key"), "{unfit}");
    ask(MANY, &[&first]).unwrap();

    let target = RevocationTarget::Key { cluster: "eu".parse().unwrap(), key: second.key.clone() };
    world.revoke(target);
    let revoked = refused(ask(MANY, &[&first, &second]), ProblemKind::KeyRevoked);
    assert!(revoked.detail.contains("key aes-02"), "{revoked}");
    // The same material under another name.
    let alias = TestKey::aes256("alias", 2);
    refused(hsm.enrol_key(&world, &alias), ProblemKind::KeyRevoked);
    ask(MANY, &[&first, &keys[2].key]).unwrap();
    world.revoke_hsm(&hsm);
    refused(ask(MANY, &[&first, &keys[2].key]), ProblemKind::HsmRevoked);
}

#[test]
fn a_claim_that_differs_from_the_challenge_in_any_key_is_refused_as_a_whole() {
    let (world, hsm, keys) = scene(3);
    let foreign = TestKey::aes256("aes-02", 99);
    let swapped = [keys[1].clone(), keys[0].clone(), keys[2].clone()];
    let replaced = [keys[0].clone(), foreign, keys[2].clone()];
    let longer = [keys.clone(), vec![keys[0].clone()]].concat();
    let renamed = [keys[0].clone(), keys[1].epoch(2, 2), keys[2].clone()];
    type Change<'a> = Box<dyn Fn(&Challenge) -> (ClaimContext, Instance) + 'a>;
    let of = |keys: &'static str, list: Vec<TestKey>| -> (&str, Change<'_>) {
        let (world, hsm) = (&world, &hsm);
        (keys, Box::new(move |challenge| claim(world, hsm, &list, challenge)))
    };
    let with = |what: &'static str, change: fn(&mut ClaimContext)| -> (&str, Change<'_>) {
        let (world, hsm, keys) = (&world, &hsm, &keys);
        let changed = move |challenge: &Challenge| {
            let (mut context, instance) = claim(world, hsm, keys, challenge);
            change(&mut context);
            (context, instance)
        };
        (what, Box::new(changed))
    };
    let instance_of = |what: &'static str, list: &[TestKey]| -> (&str, Change<'_>) {
        let (world, hsm, keys, instance) = (&world, &hsm, &keys, instance(list));
        let changed = move |challenge: &Challenge| {
            let (context, _) = claim(world, hsm, keys, challenge);
            (ClaimContext { instance: instance.digest(), ..context }, instance.clone())
        };
        (what, Box::new(changed))
    };
    let changes = [
        of("another order", swapped.to_vec()),
        of("a key left out", keys[..2].to_vec()),
        of("a key more", longer),
        of("another key's fingerprint", replaced.to_vec()),
        of("another epoch", renamed.to_vec()),
        instance_of("fingerprints in another order", &swapped),
        instance_of("another key's fingerprint alone", &replaced),
        with("attributes", |context| context.keys[1].attributes = Digest([0; 32])),
        with("an epoch", |context| context.keys[2].epoch = 2),
        with("the single statement", |context| {
            context.statement = Kind::KeyKnowledgeHalo2.name().to_owned();
        }),
    ];
    for (number, (what, change)) in changes.iter().enumerate() {
        let challenge = ask(&world, &hsm, &keys);
        let problem = refused(submit_many(&world, &forge(&hsm, change(&challenge))), ProblemKind::ContextMismatch);
        assert!(problem.detail.contains("field"), "{what}: {problem}");
        all(&world, &keys, AttestationState::Failing);
        // One attempt, whatever the number of keys: the fifth raises the alarm.
        assert_eq!(world.alerts().len(), usize::from(number >= 4), "{what}");
    }
    let challenge = ask(&world, &hsm, &keys);
    refused(submit_many(&world, &forge(&hsm, claim(&world, &hsm, &swapped, &challenge))), ProblemKind::ContextMismatch);
    let right = forge(&hsm, claim(&world, &hsm, &keys, &challenge));
    refused(submit_many(&world, &right), ProblemKind::ChallengeConsumed);
}

#[test]
fn a_refused_proof_is_one_failed_attempt_and_stands_against_each_key() {
    let (world, hsm, keys) = scene(20);
    for attempt in 1..=6 {
        let challenge = ask(&world, &hsm, &keys);
        let wrong = forge(&hsm, claim(&world, &hsm, &keys, &challenge));
        let problem = refused(submit_many(&world, &wrong), ProblemKind::ProofRefused);
        assert_eq!(submit_many(&world, &wrong).unwrap_err(), problem);
        all(&world, &keys, AttestationState::Failing);
        assert_eq!(status(&world, &keys[19]).failure.unwrap().problem, ProblemKind::ProofRefused);
        assert_eq!(world.alerts().len(), usize::from(attempt >= 5));
    }
    assert!(matches!(world.alerts()[0], EventKind::RepeatedFailures { failures: 5, .. }));
}

#[test]
fn what_happens_between_challenge_and_claim_decides() {
    let (world, hsm, keys) = scene(3);
    // A key gets another epoch: what was asked about is attested, and the newest epoch is not.
    let challenge = ask(&world, &hsm, &keys);
    let mut rotated = TestKey::aes256("aes-02", 42);
    rotated.key = KeyRef { epoch: 2, ..keys[1].key.clone() };
    hsm.enrol_key(&world, &rotated).unwrap();
    let right = seal(&hsm, &keys, claim(&world, &hsm, &keys, &challenge));
    let records = submit_many(&world, &right).unwrap();
    assert_eq!(records[1].key.epoch, 1);
    all(&world, &[keys[0].clone(), keys[2].clone()], AttestationState::Attested);
    all(&world, &keys[1..2], AttestationState::Unproven);

    // Too late: shown, and held against nobody.
    let challenge = ask(&world, &hsm, &keys);
    let late = forge(&hsm, claim(&world, &hsm, &keys, &challenge));
    world.advance(60);
    refused(submit_many(&world, &late), ProblemKind::ChallengeExpired);
    all(&world, &keys[..1], AttestationState::Attested);

    // Another HSM that shares the keys answers in its own name.
    let other = world.hsm("hsm-2", "eu");
    let challenge = ask(&world, &hsm, &keys);
    let (mut context, instance) = claim(&world, &hsm, &keys, &challenge);
    context.hsm = other.id.clone();
    refused(submit_many(&world, &forge(&other, (context, instance))), ProblemKind::ForeignChallenge);
    all(&world, &keys[..1], AttestationState::Attested);
    assert!(world.alerts().is_empty());

    // A key is revoked: the refusal names it, and the others can be claimed without it.
    let challenge = ask(&world, &hsm, &keys);
    world.revoke(RevocationTarget::Key { cluster: "eu".parse().unwrap(), key: keys[2].key.key.clone() });
    let problem =
        refused(submit_many(&world, &forge(&hsm, claim(&world, &hsm, &keys, &challenge))), ProblemKind::KeyRevoked);
    assert!(problem.detail.ends_with("this stops aes-03"), "{problem}");
    all(&world, &keys[..1], AttestationState::Failing);
    all(&world, &keys[2..], AttestationState::Revoked);
    hsm.attest(&world, "eu", &keys[0]).unwrap();
    all(&world, &keys[..1], AttestationState::Attested);
    assert!(world.alerts().is_empty());
}
