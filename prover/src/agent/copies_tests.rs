//! Copies of keys between two agents over real connections, with managers that lie.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{net::TcpListener, sync::Arc};

use keywitness_circuits::{Digest, KeyAlgorithm, Suite, codec::Canonical};
use keywitness_verifier::{
    identity::IdentityKey,
    wire::{Base64, Enrolment, KeyRef, MissingKey, Peer, Peers, ProblemKind, TransferGrant, TransferRequest, path},
};
use tempfile::TempDir;

use super::{
    loopback_tests::{agent, info, manager, refusal},
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
    taken: Arc<SoftwareStore>,
    _channel: RunningServer,
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
                assert_eq!(request.keys, [key()]);
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
        let base = manager(move |asked, _| if asked == path::PEERS { json(&truth) } else { info() });
        let taker = agent(taken.clone(), &base, trusting(vec![given.identity()]));
        Self { _directories: [first, second], giver, taker, taken, _channel: channel }
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
    let misses = lock(&case.taker.copy_misses).clone();
    assert_eq!(misses[&other()][&name("hsm-1")], 1);
    assert_eq!(misses.len(), 2);
    assert_eq!(case.fetched(), [key()]);
    assert_eq!(lock(&case.taker.copy_misses)[&other()][&name("hsm-1")], 2);
    // Another key than the cluster's does not either.
    let wrong: Told = |told| {
        let mut missing = MissingKey { key: other(), ..told.missing[0].clone() };
        missing.instances[0].0[30] ^= 1;
        told.missing.insert(0, missing);
    };
    assert_eq!(Case::new(Some, wrong).fetched(), [key()]);
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
