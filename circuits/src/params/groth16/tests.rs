//! Parameter files as they should be, and every other kind.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::*;
use crate::Kind;

fn file(parameters: &Groth16Parameters) -> Vec<u8> {
    sealed(parameters.body())
}

fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    let digest = Digest::of(label::PARAMETERS, &body);
    body.extend_from_slice(&digest.0);
    body
}

fn why(bytes: &[u8]) -> String {
    Groth16Parameters::parse(bytes).err().unwrap()
}

#[test]
fn a_file_comes_back_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("groth16.params");
    let (made, new) = Groth16Parameters::read_or_develop(&path).unwrap();
    assert!(new);
    let (read, new) = Groth16Parameters::read_or_develop(&path).unwrap();
    assert!(!new);
    assert_eq!(read.origin(), Origin::Development);
    assert_eq!((read.digest(), read.verifying_key_digest()), (made.digest(), made.verifying_key_digest()));
    assert_eq!(read.proving_key(), made.proving_key());

    let ceremony = Groth16Parameters { origin: Origin::Ceremony(Digest([7; 32])), ..made };
    let ceremony = Groth16Parameters::from_keys(Groth16Circuit::OneKey, ceremony.origin, ceremony.proving).unwrap();
    ceremony.write(&path).unwrap();
    let read = Groth16Parameters::read(&path).unwrap();
    assert_eq!((read.origin(), read.digest()), (Origin::Ceremony(Digest([7; 32])), ceremony.digest()));
    assert_ne!(read.digest(), made.file_digest);
    // A late writer that may not replace leaves what is there; nothing partial stays behind.
    assert!(!ceremony.persist(&path, false).unwrap());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn an_unusable_file_is_refused_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("groth16.params");
    assert!(matches!(Groth16Parameters::read(&path), Err(Error::Parameters(_))));
    std::fs::write(&path, b"no parameters").unwrap();
    let Err(Error::Parameters(message)) = Groth16Parameters::read(&path) else { panic!("it was read") };
    assert!(message.contains("delete it and start again, or fetch it again"), "{message}");
    assert!(Groth16Parameters::read_or_develop(&path).is_err());
}

#[test]
fn damage_is_found() {
    let parameters = Groth16Parameters::develop().unwrap();
    let bytes = file(&parameters);
    Groth16Parameters::parse(&bytes).unwrap();
    for index in (0..bytes.len()).step_by(4099).chain([bytes.len() - 1]) {
        let mut changed = bytes.clone();
        changed[index] ^= 1;
        assert!(why(&changed).contains("damaged"));
    }
    for length in [0, 31, 32, 100, bytes.len() - 1] {
        Groth16Parameters::parse(&bytes[..length]).err().unwrap();
    }
    assert!(why(&[bytes.as_slice(), &[0]].concat()).contains("damaged"));
}

#[test]
fn a_file_with_the_right_digest_is_still_checked() {
    let parameters = Groth16Parameters::develop().unwrap();
    let body = parameters.body();
    assert!(why(&sealed([body.as_slice(), &[0]].concat())).contains("follow"));
    let mut magic = body.clone();
    magic[0] ^= 1;
    assert!(why(&sealed(magic)).contains("no parameter file"));
    let mut circuit = body.clone();
    circuit[14] ^= 1;
    assert!(why(&sealed(circuit)).contains("another circuit"));

    let name = Kind::KeyKnowledgeGroth16.name().len();
    let origin = 8 + 2 + 4 + name;
    let mut changed = body.clone();
    changed[origin] = 2;
    assert!(why(&sealed(changed)).contains("origin"));

    // The verifying key: a point off its curve or subgroup. The proving key: a point off its curve.
    let verifying = origin + 1 + 4;
    for index in [verifying, verifying + 32, body.len() - 1] {
        let mut changed = body.clone();
        changed[index] ^= 1;
        assert!(Groth16Parameters::parse(&sealed(changed)).is_err(), "byte {index}");
    }
    // A proving key that belongs to another verifying key.
    let other = Groth16Parameters::develop().unwrap();
    let mixed = Groth16Parameters { proving: ProvingKey { vk: other.proving.vk, ..parameters.proving }, ..other };
    let mut bytes = mixed.body();
    bytes.splice(verifying..verifying + compressed(&mixed.proving.vk).len(), compressed(&parameters.prepared.vk));
    assert!(Groth16Parameters::parse(&sealed(bytes)).is_err());
}

#[test]
fn a_key_that_takes_away_the_proofs_randomness_is_refused() {
    let mut key = Groth16Parameters::develop().unwrap().proving;
    (key.beta_g1, key.delta_g1) = Default::default();
    key.b_g1_query.fill(Default::default());
    let parameters = Groth16Parameters::from_keys(Groth16Circuit::OneKey, Origin::Development, key).unwrap();
    assert!(why(&file(&parameters)).contains("proving key is malformed"));
}

#[test]
fn a_key_of_another_shape_is_refused() {
    let parameters = Groth16Parameters::develop().unwrap();
    let mut proving = parameters.proving.clone();
    proving.l_query.pop();
    assert!(Groth16Parameters::from_keys(Groth16Circuit::OneKey, Origin::Development, proving).is_err());
    let mut verifying = parameters.prepared.vk.clone();
    verifying.gamma_abc_g1.pop();
    assert!(read_verifying_key(Groth16Circuit::OneKey, &compressed(&verifying)).is_err());
}

#[test]
fn a_verifying_key_alone_verifies_and_no_more() {
    let made = Groth16Parameters::develop().unwrap();
    let bytes = made.verifying_key();
    let alone = Groth16Parameters::for_verifying(Origin::Development, &bytes).unwrap();
    assert_eq!(alone.verifying_key_digest(), made.verifying_key_digest());
    assert_eq!(alone.verifying_key(), bytes);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("groth16.params");
    assert_eq!(alone.write(&path), Err(Error::MissingParameters("Groth16 proving")));
    assert!(!path.exists());
    for wrong in [&bytes[..bytes.len() - 1], &[bytes.as_slice(), &[0]].concat(), &[]] {
        assert!(Groth16Parameters::for_verifying(Origin::Development, wrong).is_err());
    }
}

#[test]
fn tables_are_made_in_a_pool_whose_threads_wait_for_them() {
    use std::{
        sync::{Arc, mpsc},
        time::Duration,
    };
    // A thread of the pool that makes tables takes up other work while it waits: here work that needs the same tables.
    let made = Groth16Parameters::develop().unwrap().to_bytes();
    for pause in 0..8 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let keys = Arc::new(Groth16Parameters::from_bytes(&made).unwrap());
        let (sender, receiver) = mpsc::channel();
        for _ in 0..4 {
            let (keys, sender) = (Arc::clone(&keys), sender.clone());
            pool.spawn(move || sender.send(keys.prover().is_ok()).unwrap());
            std::thread::sleep(Duration::from_millis(pause));
        }
        for _ in 0..4 {
            assert!(receiver.recv_timeout(Duration::from_secs(60)).unwrap());
        }
    }
}
