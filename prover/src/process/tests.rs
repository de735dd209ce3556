#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use keywitness_circuits::{
    Digest, Instance, KeyAlgorithm, Kind, Nonce, Parameters, Suite, Timestamp, TrustDomain, codec::Canonical, registry,
    transcript::label,
};
use keywitness_custody::Scheme;
use keywitness_isolation::{LockedBytes, process::pairs, send_sockets};
use keywitness_verifier::{
    channel,
    operation::{Operation, OperationError, OperationRequest},
    transfer,
    wire::{Base64, Enrolment, KeyRef},
};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::{
    Remote, Secrets,
    error::Failure,
    examine::Witnessed,
    protocol::{Answer, MAX_FRAME, Request, read, receive},
    rules::Rules,
    serve::{Served, serve, tell},
};
use crate::{
    KeyStore, Placement, SoftwareStore, StoreError,
    channel::tests::sign_request,
    store::current_keys,
    testing::{enrolled_store, generated, membership, name, store_of},
};

/// A worker's part, in threads: lanes to a store, until one is closed or `kill` is called.
struct Worker(Vec<UnixStream>);

impl Worker {
    fn start(control: &UnixStream, served: Result<Served, StoreError>) -> Self {
        let (ours, theirs) = pairs(2).unwrap();
        send_sockets(control, &theirs).unwrap();
        let kept = ours.iter().map(|lane| lane.try_clone().unwrap()).collect();
        match served.map(Arc::new) {
            Ok(served) => ours.into_iter().for_each(|lane| {
                let served = Arc::clone(&served);
                std::thread::spawn(move || serve(&served, lane));
            }),
            Err(error) => drop(std::thread::spawn(move || tell(error, ours))),
        }
        Self(kept)
    }

    fn kill(self) {
        self.0.iter().for_each(|lane| lane.shutdown(std::net::Shutdown::Both).unwrap());
    }
}

/// Several workers serve one store, as those do that follow each other.
struct Shared(Arc<SoftwareStore>);

macro_rules! shared {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl KeyStore for Shared {
            $(fn $name(&self, $($argument: $type),*) -> $answer { self.0.$name($($argument),*) })*
        }
    };
}

shared! {
    identity() -> keywitness_verifier::identity::IdentityKey;
    sign_with_identity(message: &[u8]) -> Result<[u8; 64], StoreError>;
    channel_key() -> [u8; 32];
    open_request(trust_domain: &TrustDomain, hsm: &keywitness_circuits::HsmId, sealed: &[u8])
        -> Result<(OperationRequest, channel::AnswerKey), OperationError>;
    membership() -> Option<crate::Membership>;
    set_membership(membership: crate::Membership) -> Result<(), StoreError>;
    keys() -> Vec<crate::KeyEntry>;
    instances(key: &KeyRef, trust_domain: &TrustDomain, suites: &[Suite]) -> Result<Vec<Instance>, StoreError>;
    tagged_instance(key: &KeyRef, trust_domain: &TrustDomain, beacon: &Nonce) -> Result<Instance, StoreError>;
    master(key: &KeyRef) -> Option<KeyRef>;
    sealing_key() -> Result<keywitness_custody::SealingKey, StoreError>;
    deal(key: &KeyRef, terms: keywitness_custody::Terms, scheme: Scheme) -> Result<keywitness_custody::Dealing, StoreError>;
    receive_share(
        dealing: &keywitness_custody::Dealing,
        dealer: &keywitness_verifier::identity::IdentityKey,
        cluster: &keywitness_circuits::ClusterId
    ) -> Result<crate::store::Received, StoreError>;
    copy_key(key: &KeyRef, terms: &transfer::Terms, channel_key: &[u8; 32]) -> Result<transfer::SealedKey, StoreError>;
    take_key(copy: &transfer::SealedKey, terms: &transfer::Terms, expected: &[Instance])
        -> Result<crate::KeyEntry, StoreError>;
    prove(parameters: &Parameters, context: &keywitness_circuits::ClaimContext, instance: &[u8], key: &KeyRef)
        -> Result<Vec<u8>, StoreError>;
    prove_many(parameters: &Parameters, context: &keywitness_circuits::ClaimContext, instance: &[u8], keys: &[KeyRef])
        -> Result<Vec<u8>, StoreError>;
    sign(key: &KeyRef, message: &[u8]) -> Result<[u8; 64], StoreError>;
}

pub(super) const NOW: Timestamp = Timestamp(1_000_000);

pub(super) fn rules() -> Rules {
    Rules { unsteady: false, peers: Vec::new(), sharing: None, clock: Arc::new(|| NOW) }
}

fn served_by(store: &Arc<SoftwareStore>, rules: Rules) -> Served {
    let witnessed = Witnessed::new(std::path::Path::new("/nonexistent"));
    Served::new(Box::new(Shared(Arc::clone(store))), Parameters::transparent(), witnessed, rules)
}

fn served(store: &Arc<SoftwareStore>) -> Served {
    served_by(store, rules())
}

pub(super) fn remote_by(store: &Arc<SoftwareStore>, rules: Rules) -> Remote {
    let (control, end) = UnixStream::pair().unwrap();
    Worker::start(&end, Ok(served_by(store, rules)));
    Remote::over(control, None).unwrap()
}

pub(super) fn remote(store: &Arc<SoftwareStore>) -> Remote {
    remote_by(store, rules())
}

pub(super) fn domain() -> TrustDomain {
    membership().audience.trust_domain
}

/// A claim of one key, as an agent makes it.
pub(super) fn claim(
    store: &dyn KeyStore,
    key: &str,
    kind: Kind,
) -> (keywitness_circuits::ClaimContext, Vec<u8>, KeyRef) {
    let entry = current_keys(store).into_iter().find(|entry| entry.key.key == name(key)).unwrap();
    let instance = store.instances(&entry.key, &domain(), &[]).unwrap().remove(0).to_bytes();
    let context = crate::store::tests::context(kind, &entry.key, &instance);
    let context = keywitness_circuits::ClaimContext { not_before: NOW, not_after: NOW.plus(3600), ..context };
    (context, instance, entry.key)
}

#[test]
fn a_store_in_another_process_answers_as_the_store_does() {
    let (_directory, store) = enrolled_store();
    let there = remote(&store);
    assert_eq!((there.identity(), there.channel_key()), (store.identity(), store.channel_key()));
    assert_eq!(there.membership(), store.membership());
    assert_eq!(there.keys(), store.keys());
    assert_eq!(there.sealing_key().unwrap(), store.sealing_key().unwrap());
    for entry in store.keys() {
        let suites = [Suite::PublicKey, Suite::Halo2Pasta, Suite::Groth16Bn254];
        let instances = there.instances(&entry.key, &domain(), &suites).unwrap();
        assert_eq!(instances, store.instances(&entry.key, &domain(), &suites).unwrap());
        assert_eq!(there.master(&entry.key), None);
    }
    let message = [label::REQUEST.as_bytes(), &[0; 33]].concat();
    assert_eq!(there.sign_with_identity(&message).unwrap(), store.sign_with_identity(&message).unwrap());
    let enrolled =
        |store: &dyn KeyStore| store.sign_enrolment(&membership().audience, "kw_join_x", &name("hsm-1")).unwrap();
    assert_eq!(enrolled(&there), enrolled(&*store));
    let ed25519 = KeyRef { key: name("ed25519"), epoch: 1 };
    assert_eq!(there.sign(&ed25519, b"hello").unwrap(), store.sign(&ed25519, b"hello").unwrap());
    for (key, kind) in [("ed25519", Kind::KeyKnowledgeEd25519), ("p256", Kind::KeyKnowledgeP256)] {
        let (context, instance, key) = claim(&there, key, kind);
        let proof = there.prove(&Parameters::transparent(), &context, &instance, &key).unwrap();
        registry::verify(&Parameters::transparent(), &context, &instance, &proof).unwrap();
    }
    let enrolment = membership().enrolment.map(|enrolment| Enrolment { revision: 9, ..enrolment });
    let other = crate::Membership { enrolment, ..membership() };
    there.set_membership(other.clone()).unwrap();
    assert_eq!((there.membership(), store.membership()), (Some(other.clone()), Some(other)));
}

#[test]
fn refusals_arrive_as_they_were() {
    let (_directory, store) = enrolled_store();
    let there = remote(&store);
    let key = |key, epoch| KeyRef { key: name(key), epoch };
    assert!(
        matches!(there.sign(&key("missing", 1), b""), Err(StoreError::NoSuchKey(named)) if named == key("missing", 1))
    );
    assert!(matches!(there.sign(&key("aes256", 1), b""), Err(StoreError::NotASigningKey(KeyAlgorithm::Aes256))));
    assert!(matches!(there.sign(&key("p256", 1), b"keywitness/x"), Err(StoreError::ReservedMessage)));
    let beacon = there.tagged_instance(&key("p256", 1), &domain(), &Nonce([1; 32]));
    assert!(matches!(beacon, Err(StoreError::NotACmacKey(KeyAlgorithm::P256))));
    let (context, instance, _) = claim(&there, "p256", Kind::KeyKnowledgeP256);
    let foreign = there.prove(&Parameters::transparent(), &context, &instance, &key("ed25519", 1));
    assert!(matches!(foreign, Err(StoreError::ForeignClaim)));
    // What has no form of its own says the same in words.
    let wrong = there.prove(&Parameters::transparent(), &context, b"not an instance", &key("p256", 1));
    let here = store.prove(&Parameters::transparent(), &context, b"not an instance", &key("p256", 1));
    assert_eq!(wrong.unwrap_err().to_string(), here.unwrap_err().to_string());
}

#[test]
fn clients_requests_are_opened_and_answered() {
    let (_directory, store) = enrolled_store();
    let there = remote(&store);
    let request = sign_request("p256", 1, "kw_client_known", Timestamp(1));
    let plain = serde_json::to_vec(&request).unwrap();
    let hsm = name("hsm-1");
    let (sealed, answer_key) = channel::seal_request(&domain(), &hsm, &there.channel_key(), &plain).unwrap();
    let (opened, key) = there.open_request(&domain(), &hsm, &sealed).unwrap();
    assert_eq!(opened, request);
    assert_eq!(answer_key.open(&key.seal(b"answer").unwrap()).unwrap(), b"answer");
    assert!(matches!(there.open_request(&domain(), &hsm, &sealed[1..]), Err(OperationError::Channel(_))));
    let (sealed, _) = channel::seal_request(&domain(), &hsm, &there.channel_key(), b"{}").unwrap();
    assert!(matches!(there.open_request(&domain(), &hsm, &sealed), Err(OperationError::Malformed)));
}

#[test]
fn a_process_that_dies_is_followed_by_another_and_its_keys_are_known_meanwhile() {
    let (_directory, store) = enrolled_store();
    let (control, end) = UnixStream::pair().unwrap();
    let mut worker = Worker::start(&end, Ok(served(&store)));
    let there = Arc::new(Remote::over(control, None).unwrap());
    let (keys, ed25519) = (there.keys(), KeyRef { key: name("ed25519"), epoch: 1 });
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..3_u8)
        .map(|caller| {
            let (there, stop, key) = (Arc::clone(&there), Arc::clone(&stop), ed25519.clone());
            std::thread::spawn(move || {
                let mut signed = Vec::new();
                for number in 0_u32.. {
                    let message = [&[caller][..], &number.to_be_bytes()].concat();
                    match there.sign(&key, &message) {
                        Ok(signature) => signed.push((message, signature)),
                        Err(StoreError::Away(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
                signed
            })
        })
        .collect();
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        worker.kill();
        worker = Worker::start(&end, Ok(served(&store)));
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        // Each answer is to the very request of its caller.
        for (message, signature) in caller.join().unwrap() {
            assert_eq!(store.sign(&ed25519, &message).unwrap(), signature);
        }
    }
    worker.kill();
    drop(end);
    assert_eq!(there.keys(), keys);
    assert!(matches!(there.sign(&ed25519, b"x"), Err(StoreError::Away(_))));
}

#[test]
fn a_process_that_cannot_open_the_store_says_why_and_another_hsms_store_is_refused() {
    let (control, end) = UnixStream::pair().unwrap();
    Worker::start(&end, Err(StoreError::Process("the passphrase is wrong".to_owned())));
    assert_eq!(Remote::over(control, None).err().unwrap().to_string(), "the passphrase is wrong");
    let ((_one, store), (_other, another)) = (store_of([KeyAlgorithm::P256]), store_of([KeyAlgorithm::P256]));
    let (control, end) = UnixStream::pair().unwrap();
    let worker = Worker::start(&end, Ok(served(&store)));
    let there = Remote::over(control, None).unwrap();
    worker.kill();
    Worker::start(&end, Ok(served(&another)));
    let error = there.sign(&KeyRef { key: name("p256"), epoch: 1 }, b"x").unwrap_err().to_string();
    assert!(error.contains("another HSM's"), "{error}");
}

#[test]
fn derived_keys_name_their_masters_and_rotated_ones_are_listed() {
    let (_directory, store) = store_of([KeyAlgorithm::Aes256]);
    store.derive(&name("aes256"), &name("derived"), KeyAlgorithm::Aes128, &domain(), Placement::New).unwrap();
    let there = remote(&store);
    let key = |key| KeyRef { key: name(key), epoch: 1 };
    assert_eq!(there.master(&key("derived")), Some(key("aes256")));
    assert_eq!(there.master(&key("aes256")), None);
    assert_eq!(there.keys(), there.keys());
}

/// Sends bytes to a worker, and reads all that comes back.
fn answers(bytes: &[u8]) -> (Vec<u8>, bool) {
    let (_directory, store) = store_of([]);
    let served = served(&store);
    let (mut lane, end) = UnixStream::pair().unwrap();
    let running = std::thread::spawn(move || serve(&served, end));
    // The other end may close before it has read all of it.
    let _ = lane.write_all(bytes);
    let _ = lane.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = lane.read_to_end(&mut answer);
    (answer, running.join().unwrap().is_ok())
}

#[test]
fn garbage_is_not_answered_and_ends_the_lane() {
    assert_eq!(answers(b""), (Vec::new(), true));
    let frame = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat();
    for garbage in [
        vec![0],
        vec![0; 4],
        u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes().to_vec(),
        frame(&[0, 0]),
        frame(&[99]),
        frame(&[1, 0xff, 0xff, 0xff, 0xff]),
        frame(&[5, 0, 0, 0, 1, b'a', 0, 0, 0, 1]),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        assert_eq!(answers(&garbage), (Vec::new(), false), "{garbage:?}");
    }
    // What came before it was answered.
    let mut mixed = frame(&[7]);
    mixed.extend([0xff; 8]);
    let (answer, whole) = answers(&mixed);
    assert!(!whole && matches!(receive::<Answer>(&mut answer.as_slice()).unwrap(), Some(Answer::SealingKey(_))));
}

#[test]
fn what_opens_a_store_travels_and_nothing_else_does() {
    let secrets = Secrets { passphrase: Some(Zeroizing::new("correct horse".to_owned())), pin: None };
    let bytes = secrets.encode().unwrap();
    let read = |bytes: &[u8]| Secrets::decode(&LockedBytes::new(bytes));
    let back = read(&bytes).unwrap();
    assert_eq!(back.passphrase.unwrap().as_str(), "correct horse");
    assert!(back.pin.is_none());
    for wrong in [&bytes[1..], &bytes[..4], &[&bytes[..], &[0]].concat(), &[2, 0], &[1, 0, 0, 0, 1, 0xff, 0]] {
        assert!(read(wrong).is_err());
    }
    let long = Secrets { passphrase: Some(Zeroizing::new("x".repeat(2000))), pin: None };
    assert!(long.encode().is_err());
}

#[test]
fn every_algorithm_s_key_is_listed() {
    let (_directory, store) = store_of(generated());
    assert_eq!(remote(&store).keys(), store.keys());
}

proptest! {
    #[test]
    fn reading_is_total_and_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..200), tag in 0_u8..20) {
        let bytes = [&[tag], bytes.as_slice()].concat();
        if let Ok(request) = read::<Request>(&bytes) {
            prop_assert_eq!(request.to_bytes(), bytes.clone());
        }
        if let Ok(answer) = read::<Answer>(&bytes) {
            prop_assert_eq!(answer.to_bytes(), bytes);
        }
    }

    #[test]
    fn what_is_written_is_read(text in ".{0,40}", epoch: u32, message in proptest::collection::vec(any::<u8>(), 0..60)) {
        let key = KeyRef { key: name("a-key"), epoch };
        let requests = [
            Request::Sign { key: key.clone(), message: message.clone() },
            Request::Instances { key: key.clone(), trust_domain: domain(), suites: vec![Suite::Halo2PastaTag] },
            Request::SetMembership(membership()),
        ];
        for request in requests {
            let bytes = request.to_bytes();
            prop_assert_eq!(read::<Request>(&bytes).unwrap().to_bytes(), bytes);
        }
        let operation = Operation::Copy { hsm: name("h"), channel_key: Digest([1; 32]), keys: vec![key.clone()] };
        let (_directory, store) = store_of([]);
        let client = store.identity();
        let signature = Base64(message);
        let opened = OperationRequest { client, created: Timestamp(7), operation, signature };
        let answers = [
            Answer::Failed(Failure(StoreError::Process(text.clone()))),
            Answer::Failed(Failure(StoreError::NoSuchKey(key))),
            Answer::Failed(Failure(keywitness_circuits::Error::KeysRefused { culprits: vec![0, 63] }.into())),
            Answer::Proof(text.into_bytes()),
            Answer::Opened(Box::new(opened), channel::AnswerKey::from_bytes(&[9; 64])),
        ];
        for answer in answers {
            let bytes = answer.to_bytes();
            prop_assert_eq!(read::<Answer>(&bytes).unwrap().to_bytes(), bytes);
        }
    }
}
