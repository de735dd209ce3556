//! Copies of keys between two agents over real connections, with managers that lie.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    net::TcpListener,
    sync::{Arc, Mutex, atomic::AtomicUsize, mpsc},
};

use keywitness_circuits::{
    Digest, Instance, KeyAlgorithm, KeyAttributes, KeyOrigin, Suite, codec::Canonical, key_knowledge, key_possession,
};
use keywitness_verifier::{
    identity::IdentityKey,
    wire::{Base64, Enrolment, KeyRef, MissingKey, Peer, Peers, ProblemKind, TransferGrant, TransferRequest, path},
};
use tempfile::TempDir;

use super::{
    copies::agree,
    loopback_tests::{agent, challenge_of, info, manager, record as recorded, refusal},
    *,
};
use crate::{
    Channel, Membership, Placement, RunningServer, SoftwareStore,
    channel::Giver,
    testing::{audience, create, name, record},
};

/// What the giver's manager grants, given the truth.
type Grant = fn(TransferGrant) -> Option<TransferGrant>;

/// What the taker's manager says, given the truth.
type Told = fn(&mut Peers);

/// An HSM that has a key, one that has none, and what each one's manager says.
struct Case {
    _directories: [TempDir; 2],
    giver: Arc<Agent>,
    taker: Agent,
    given: Arc<SoftwareStore>,
    taken: Arc<SoftwareStore>,
    /// What the taker's manager says.
    truth: Arc<Mutex<Peers>>,
    told: Arc<Mutex<Heard>>,
    _channel: RunningServer,
}

/// What the taker told of: keys that it left out, and how often an HSM failed it.
#[derive(Default)]
struct Heard {
    left_out: Vec<(KeyRef, LeftOut)>,
    failures: usize,
}

fn key() -> KeyRef {
    KeyRef { key: name("wrapping"), epoch: 1 }
}

/// Another key of the giver, which is not attested, and which the manager lets nobody have.
fn other() -> KeyRef {
    KeyRef { key: name("other"), epoch: 1 }
}

fn store(hsm: &str) -> (TempDir, Arc<SoftwareStore>) {
    let directory = tempfile::tempdir().unwrap();
    let store = create(&directory.path().join("store"));
    let enrolment = Enrolment { hsm: name(hsm), cluster: name("cluster-1"), revision: 1 };
    store.set_membership(Membership { audience: audience(), hsm: name(hsm), enrolment: Some(enrolment) }).unwrap();
    (directory, Arc::new(store))
}

fn peer(hsm: &str, store: &SoftwareStore, channel_url: Option<String>) -> Peer {
    let channel_key = Digest(store.channel_key());
    Peer { hsm: name(hsm), enrolment: 1, identity: store.identity(), channel_key, channel_url }
}

fn json(value: &impl serde::Serialize) -> Option<(u16, serde_json::Value)> {
    Some((200, serde_json::to_value(value).unwrap()))
}

fn trusting(peers: Vec<IdentityKey>) -> AgentConfig {
    AgentConfig { peers, ..AgentConfig::default() }
}

impl Case {
    fn new(grant: Grant, told: Told) -> Self {
        let ((first, given), (second, taken)) = (store("hsm-1"), store("hsm-2"));
        given.generate(&key().key, KeyAlgorithm::Aes256, Placement::New).unwrap();
        given.generate(&other().key, KeyAlgorithm::Aes256, Placement::New).unwrap();
        let honest = TransferGrant { cluster: name("cluster-1"), to: peer("hsm-2", &taken, None) };
        let base = manager(move |asked, body| match asked {
            path::TRANSFERS => {
                let request: TransferRequest = serde_json::from_slice(body).unwrap();
                assert_eq!(request.to, name("hsm-2"));
                if request.keys.contains(&other()) {
                    return refusal(ProblemKind::KeyRevoked);
                }
                assert!(request.keys.iter().all(|asked| asked.key == key().key));
                grant(honest.clone()).map_or_else(|| refusal(ProblemKind::Suspended), |grant| json(&grant))
            }
            _ => info(),
        });
        let giver = Arc::new(agent(given.clone(), &base, trusting(vec![taken.identity()])));
        giver.standing().accept(&record("wrapping", 1, SystemClock.now().plus(600)));
        let channel = Channel::new(given.clone(), giver.standing(), Arc::new(SystemClock)).with_giver(giver.clone());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let channel = crate::serve(Arc::new(channel), listener).unwrap();

        let url = format!("http://{}", channel.address());
        let suites = [Suite::Halo2Pasta];
        let instances = given.instances(&key(), &audience().trust_domain, &suites).unwrap();
        let mut truth = Peers {
            cluster: name("cluster-1"),
            peers: vec![peer("hsm-1", &given, Some(url))],
            missing: vec![MissingKey {
                key: key(),
                attributes: given.keys()[1].attributes.clone(),
                instances: instances.iter().map(|instance| Base64(instance.to_bytes())).collect(),
                master: None,
                holders: vec![name("hsm-1")],
            }],
        };
        told(&mut truth);
        let truth = Arc::new(Mutex::new(truth));
        let says = Arc::clone(&truth);
        let base = manager(move |asked, _| if asked == path::PEERS { json(&*lock(&says)) } else { info() });
        let heard = Arc::new(Mutex::new(Heard::default()));
        let hears = Arc::clone(&heard);
        let observer: Observer = Arc::new(move |event| match event {
            AgentEvent::KeyLeftOut { key, why, .. } => lock(&hears).left_out.push(((*key).clone(), *why)),
            AgentEvent::CopiesFailed { .. } => lock(&hears).failures += 1,
            _ => {}
        });
        let taker = agent(taken.clone(), &base, trusting(vec![given.identity()])).with_observer(observer);
        Self { _directories: [first, second], giver, taker, given, taken, truth, told: heard, _channel: channel }
    }

    /// The giver rotates the key. Gives what the manager then says of the new epoch.
    fn rotate(&self) -> MissingKey {
        let next = self.given.generate(&key().key, KeyAlgorithm::Aes256, Placement::Rotate).unwrap();
        self.giver.standing().accept(&record("wrapping", 2, SystemClock.now().plus(600)));
        let instances = self.given.instances(&next.key, &audience().trust_domain, &[Suite::Halo2Pasta]).unwrap();
        let instances = instances.iter().map(|instance| Base64(instance.to_bytes())).collect();
        MissingKey { key: next.key, attributes: next.attributes, instances, master: None, holders: vec![name("hsm-1")] }
    }

    fn left_out(&self) -> Vec<(KeyRef, LeftOut)> {
        lock(&self.told).left_out.clone()
    }

    /// What the taker has, after it asked.
    fn fetched(&self) -> Vec<KeyRef> {
        let (enrolled, stop) = (self.taker.enrolled().unwrap(), Stop::new());
        let info = self.taker.info(&enrolled.audience).unwrap();
        self.taker.fetch_copies(&self.taker.session(&enrolled, &info, &stop)).unwrap();
        self.taken.keys().into_iter().map(|entry| entry.key).collect()
    }
}

fn stranger() -> IdentityKey {
    let (_directory, store) = store("stranger");
    store.identity()
}

fn strange_channel() -> Digest {
    Digest(keywitness_verifier::channel::generate_key().1)
}

#[test]
fn a_copy_comes_once_and_is_the_clusters_key() {
    let case = Case::new(Some, |_| ());
    assert_eq!(case.fetched(), [key()]);
    assert_eq!(case.fetched(), [key()], "again");
    // What either operator takes back holds from then on.
    let case = Case::new(Some, |_| ());
    case.giver.set_peers([]);
    assert_eq!(case.fetched(), []);
    case.giver.set_peers([case.taken.identity()]);
    case.taker.set_peers([]);
    assert_eq!(case.fetched(), []);
}

#[test]
fn a_manager_that_lies_to_the_giver_gets_no_copy_and_lets_nobody_have_one() {
    let lies: [Grant; 5] = [
        |_| None,
        |truth| Some(TransferGrant { to: Peer { channel_key: strange_channel(), ..truth.to }, ..truth }),
        |truth| Some(TransferGrant { to: Peer { identity: stranger(), ..truth.to }, ..truth }),
        |truth| Some(TransferGrant { to: Peer { hsm: name("hsm-3"), ..truth.to }, ..truth }),
        |truth| Some(TransferGrant { cluster: name("cluster-2"), ..truth }),
    ];
    for lie in lies {
        assert_eq!(Case::new(lie, |_| ()).fetched(), []);
    }
}

#[test]
fn a_manager_that_lies_to_the_taker_has_no_wrong_key_taken() {
    let lies: [Told; 6] = [
        // Somebody that no operator has named.
        |told| told.peers[0].identity = stranger(),
        // A channel key of the manager's own, or of nobody.
        |told| told.peers[0].channel_key = strange_channel(),
        |told| told.peers[0].channel_key = Digest([0; 32]),
        |told| told.peers[0].channel_url = Some("http://127.0.0.1:9".to_owned()),
        // Another key than the one that comes.
        |told| told.missing[0].instances[0].0[30] ^= 1,
        |told| told.missing[0].instances.clear(),
    ];
    for lie in lies {
        assert_eq!(Case::new(Some, lie).fetched(), []);
    }
}

#[test]
fn a_key_is_given_only_while_it_is_attested() {
    let case = Case::new(Some, |_| ());
    case.giver.standing().revoke_key(&key().key);
    assert_eq!(case.fetched(), []);
    case.giver.standing().accept(&record("wrapping", 1, SystemClock.now().plus(600)));
    assert_eq!(case.fetched(), [key()]);
}

/// One of another cluster's making, of a token, or of a name that is not there any more: it is left out, and the rest comes.
#[test]
fn a_key_that_is_not_given_holds_up_no_other() {
    let both: Told = |told| {
        let (asked, ghost) = (told.missing[0].clone(), KeyRef { key: name("ghost"), epoch: 1 });
        for key in [ghost, other()] {
            told.missing.insert(0, MissingKey { key, ..asked.clone() });
        }
    };
    let case = Case::new(Some, both);
    assert_eq!(case.fetched(), [key()]);
    // Nor one that the manager refuses, whatever it is asked for with.
    let case = Case::new(Some, both);
    case.giver.standing().accept(&record("other", 1, SystemClock.now().plus(600)));
    assert_eq!(case.fetched(), [key()]);
    let misses = lock(&case.taker.copying).misses.clone();
    assert_eq!(misses[&other()][&name("hsm-1")], 1);
    assert_eq!(misses.len(), 2);
    assert_eq!(case.fetched(), [key()]);
    assert_eq!(lock(&case.taker.copying).misses[&other()][&name("hsm-1")], 2);
    // Another key than the cluster's does not either.
    let wrong: Told = |told| {
        let mut missing = MissingKey { key: other(), ..told.missing[0].clone() };
        missing.instances[0].0[30] ^= 1;
        told.missing.insert(0, missing);
    };
    assert_eq!(Case::new(Some, wrong).fetched(), [key()]);
}

/// Any HSM of the cluster can make an epoch: it replaces no other HSM's keys by that.
#[test]
fn a_new_epoch_of_a_key_is_taken_only_where_the_operator_says_so() {
    let case = Case::new(Some, |_| ());
    assert_eq!(case.fetched(), [key()]);
    let next = case.rotate();
    let second = next.key.clone();
    lock(&case.truth).missing = vec![next];
    assert_eq!((case.fetched(), case.fetched()), (vec![key()], vec![key()]));
    assert_eq!(case.left_out(), [(second.clone(), LeftOut::Rotation)], "told once");
    assert!(lock(&case.taker.copying).misses.is_empty(), "it was not asked for");
    case.taker.set_take_rotations(true);
    assert_eq!(case.fetched(), [key(), second]);
}

/// Nor is an earlier one taken beside the one that is held.
#[test]
fn an_earlier_epoch_of_a_key_is_taken_only_where_the_operator_says_so() {
    let case = Case::new(Some, |_| ());
    let first = lock(&case.truth).missing.clone();
    let next = case.rotate();
    let second = next.key.clone();
    lock(&case.truth).missing = vec![next];
    assert_eq!(case.fetched(), std::slice::from_ref(&second));
    lock(&case.truth).missing = first;
    assert_eq!((case.fetched(), case.fetched()), (vec![second.clone()], vec![second]));
    assert_eq!(case.left_out(), [(key(), LeftOut::Rotation)], "told once");
}

/// Nor does it decide which epoch an HSM begins with that has none, be it a later one or an earlier one.
#[test]
fn of_several_epochs_none_is_taken_unless_all_are() {
    let case = Case::new(Some, |_| ());
    let next = case.rotate();
    let second = next.key.clone();
    lock(&case.truth).missing.push(next);
    assert_eq!(case.fetched(), []);
    assert_eq!(case.left_out(), [(key(), LeftOut::Epochs), (second.clone(), LeftOut::Epochs)]);
    case.taker.set_take_rotations(true);
    assert_eq!(case.fetched(), [key(), second]);
}

#[test]
fn a_key_that_the_cluster_disputes_is_not_taken() {
    // HSMs are asked in the order of their names: this one before the honest one.
    let disputed: Told = |told| {
        told.peers.push(Peer { hsm: name("a-hostile-one"), ..told.peers[0].clone() });
        let mut own = MissingKey { holders: vec![name("a-hostile-one")], ..told.missing[0].clone() };
        own.instances[0].0[30] ^= 1;
        told.missing.insert(0, own);
    };
    let case = Case::new(Some, disputed);
    assert_eq!((case.fetched(), case.fetched()), (vec![], vec![]));
    assert_eq!(case.left_out(), [(key(), LeftOut::Disputed)], "told once");
    assert_eq!(lock(&case.told).failures, 0, "nobody was asked");
    // Not even where every epoch is taken.
    case.taker.set_take_rotations(true);
    assert_eq!(case.fetched(), []);
    // One that no operator has named disputes nothing.
    let unnamed = Case::new(Some, disputed);
    lock(&unnamed.truth).peers[1].identity = stranger();
    assert_eq!(unnamed.fetched(), [key()]);
    assert_eq!(unnamed.left_out(), []);
    // Nor does one that says less of the same key.
    let less = Case::new(Some, disputed);
    lock(&less.truth).missing[0].instances.clear();
    less.fetched();
    assert_eq!(less.left_out(), []);
}

/// A token's key and its copy outside of one are shown by different statements.
#[test]
fn keys_with_one_public_key_are_no_dispute() {
    let said = |instance: Instance| MissingKey {
        key: key(),
        attributes: KeyAttributes::new(KeyAlgorithm::P256, KeyOrigin::Generated, true),
        instances: vec![Base64(instance.to_bytes())],
        master: None,
        holders: vec![name("hsm-1")],
    };
    let domain = audience().trust_domain;
    let inside =
        |seed| key_possession::Witness::new(KeyAlgorithm::P256, &[seed; 32]).unwrap().instance(&domain).unwrap();
    let outside = |seed| key_knowledge::Witness::new(KeyAlgorithm::P256, &[seed; 32]).unwrap();
    let outside = |seed| outside(seed).instance(&domain, Suite::PublicKey).unwrap();
    let (one, other) = (said(inside(7).into()), said(outside(7).into()));
    assert_ne!(one.instances, other.instances);
    assert!(agree(&one, &other) && agree(&other, &one));
    assert!(!agree(&one, &said(outside(8).into())) && !agree(&one, &said(inside(8).into())));
}

/// A key for each of so many, which all are the giver's.
fn many(told: &mut Peers) {
    let asked = told.missing[0].clone();
    let key = |number| KeyRef { key: name(&format!("key-{number:02}")), epoch: 1 };
    told.missing = (0..70).map(|number| MissingKey { key: key(number), ..asked.clone() }).collect();
}

#[test]
fn an_hsm_that_does_not_answer_is_asked_once_and_then_left_alone_for_a_while() {
    let mut case = Case::new(Some, |told| {
        many(told);
        told.peers[0].channel_url = Some("http://127.0.0.1:9".to_owned());
    });
    let time = Arc::new(AtomicU64::new(SystemClock.now().0));
    let clock = Arc::clone(&time);
    case.taker = case.taker.with_clock(Arc::new(move || Timestamp(clock.load(Ordering::Relaxed))));
    let failures = |case: &Case| lock(&case.told).failures;
    case.fetched();
    assert_eq!(failures(&case), 1, "of three requests, the first");
    case.fetched();
    assert_eq!(failures(&case), 1, "it is left alone");
    // The first rest lasts two seconds at most, the second one at least a second.
    time.fetch_add(2, Ordering::Relaxed);
    case.fetched();
    case.fetched();
    assert_eq!(failures(&case), 2);
    // Who gives a wrong answer is left alone, too; who withholds keys is asked for the others.
    let mut case = Case::new(Some, |told| {
        many(told);
        told.peers[0].channel_key = strange_channel();
    });
    case.taker = case.taker.with_clock(Arc::new(|| Timestamp(1_000_000)));
    case.fetched();
    case.fetched();
    assert_eq!(failures(&case), 1);
    let case = Case::new(Some, many);
    case.fetched();
    assert_eq!(failures(&case), 70);
}

/// A peer that takes a request and does not answer it.
#[test]
fn an_hsm_that_holds_a_request_up_makes_no_attestation_late() {
    let (_first, given) = store("hsm-1");
    given.generate(&key().key, KeyAlgorithm::Aes256, Placement::New).unwrap();
    let (_second, taken) = store("hsm-2");
    let signing: keywitness_circuits::KeyId = name("signing");
    taken.generate(&signing, KeyAlgorithm::Ed25519, Placement::New).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (release, released) = mpsc::channel::<()>();
    let asked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&asked);
    let slow = std::thread::spawn(move || {
        let _held = listener.accept().unwrap();
        seen.store(true, Ordering::Relaxed);
        // Until the test is over.
        assert!(released.recv().is_err());
    });
    let instances = given.instances(&key(), &audience().trust_domain, &[Suite::Halo2Pasta]).unwrap();
    let truth = Peers {
        cluster: name("cluster-1"),
        peers: vec![peer("hsm-1", &given, Some(url))],
        missing: vec![MissingKey {
            key: key(),
            attributes: given.keys()[0].attributes.clone(),
            instances: instances.iter().map(|instance| Base64(instance.to_bytes())).collect(),
            master: None,
            holders: vec![name("hsm-1")],
        }],
    };
    let base = manager(move |target, body| match target {
        path::TRUST_DOMAIN => info(),
        path::PEERS => json(&truth),
        path::CHALLENGES => challenge_of(3),
        path::ATTESTATIONS => recorded(body),
        _ => Some((204, serde_json::Value::Null)),
    });
    let stop = Stop::new();
    let (raise, meanwhile) = (stop.clone(), AtomicUsize::new(0));
    let failed = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&failed);
    let observer: Observer = Arc::new(move |event| match event {
        // The second since the request began.
        AgentEvent::Attested { .. }
            if asked.load(Ordering::Relaxed) && meanwhile.fetch_add(1, Ordering::Relaxed) == 1 =>
        {
            raise.stop();
        }
        AgentEvent::CopiesFailed { .. } => {
            fails.store(true, Ordering::Relaxed);
            raise.stop();
        }
        _ => {}
    });
    let agent = Arc::new(agent(taken, &base, trusting(vec![given.identity()])).with_observer(observer));
    let (copying, halt) = (Arc::clone(&agent), stop.clone());
    let copying = std::thread::spawn(move || copying.copy_keys(&halt));
    agent.run(&stop).unwrap();
    assert!(!failed.load(Ordering::Relaxed), "the request was over before the key was attested again");
    drop(release);
    slow.join().unwrap();
    copying.join().unwrap();
}

#[test]
fn where_one_holder_gives_nothing_the_next_time_another_is_asked() {
    let case = Case::new(Some, |told| {
        let dead = Peer {
            hsm: name("a-dead-one"),
            channel_url: Some("http://127.0.0.1:9".to_owned()),
            ..told.peers[0].clone()
        };
        told.peers.push(dead);
        told.missing[0].holders.insert(0, name("a-dead-one"));
    });
    assert_eq!(case.fetched(), []);
    assert_eq!(case.fetched(), [key()]);
}

#[test]
fn a_request_is_answered_once_and_none_from_before_the_start() {
    let case = Case::new(Some, |_| ());
    let now = SystemClock.now();
    let ask = |created| case.taken.ask_copies(&name("hsm-1"), &[key()], created).unwrap();
    let request = ask(now);
    assert_eq!(case.giver.give(&request).unwrap().copies.len(), 1);
    // As it was recorded on the line.
    assert!(case.giver.give(&request).unwrap_err().contains("answered already"));
    assert!(case.giver.give(&ask(Timestamp(case.giver.started().0 - 1))).unwrap_err().contains("was started"));
    // So many of one HSM are remembered, until they are too old to be answered, and no more are answered.
    let mut answered = super::giving::Answered::default();
    let mut once = |number: u32, at: Timestamp| {
        let asked = KeyRef { epoch: number, ..key() };
        answered.once(&case.taken.ask_copies(&name("hsm-1"), &[asked], now).unwrap(), now, at)
    };
    (0..64).for_each(|number| once(number, now).unwrap());
    assert!(once(63, now).unwrap_err().contains("answered already"));
    assert!(once(64, now.plus(60)).unwrap_err().contains("64 requests"));
    once(64, now.plus(61)).unwrap();
    assert!(once(64, now).unwrap_err().contains("answered already"));
}
