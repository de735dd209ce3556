#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use keywitness_circuits::{
    Error, Instance, KeyAlgorithm, Kind, Nonce, Parameters, Suite, codec::Canonical, registry, tagged_key,
};
use keywitness_verifier::wire::KeyRef;

use super::{tests::context, *};
use crate::testing::{create, name, store_of};

const BEACON: Nonce = Nonce([8; 32]);

fn key(algorithm: KeyAlgorithm) -> KeyRef {
    KeyRef { key: name(algorithm.name()), epoch: 1 }
}

fn cmac_keys() -> impl Iterator<Item = KeyAlgorithm> {
    KeyAlgorithm::ALL.into_iter().filter(|algorithm| algorithm.is_cmac())
}

#[test]
fn a_cmac_key_answers_a_beacon() {
    let (_directory, store) = store_of(cmac_keys());
    let (domain, parameters) = (name("acme.example"), Parameters::transparent());
    for algorithm in cmac_keys() {
        let own = key(algorithm);
        // Whatever the suites: the key itself has no fingerprint in any.
        for suites in [&[][..], &[Suite::Halo2Pasta, Suite::Groth16Bn254]] {
            assert_eq!(store.instances(&own, &domain, suites).unwrap().len(), 1);
        }
        let enrolled = store.instances(&own, &domain, &[]).unwrap().remove(0);
        let Instance::TaggedKey(round) = store.tagged_instance(&own, &domain, &BEACON).unwrap() else { panic!() };
        assert_eq!(Instance::from(round.identifier()), enrolled);
        assert_eq!((round.algorithm(), round.beacon()), (algorithm, Some(&BEACON)));
        let encoded = round.to_bytes();
        let context = context(Kind::TaggedKeyHalo2, &own, &encoded);
        let proof = store.prove(&parameters, &context, &encoded, &own).unwrap();
        assert!(registry::verify(&parameters, &context, &encoded, &proof).is_ok());
        assert!(matches!(store.sign(&own, b"pay 100"), Err(StoreError::NotASigningKey(_))));
    }
}

#[test]
fn nothing_but_a_round_s_own_tags_is_proven() {
    let (_directory, store) = store_of([KeyAlgorithm::Aes128Cmac, KeyAlgorithm::Aes256Cmac, KeyAlgorithm::Aes256]);
    let own = key(KeyAlgorithm::Aes128Cmac);
    let prove = |instance: &Instance| {
        let encoded = instance.to_bytes();
        let context = context(Kind::TaggedKeyHalo2, &own, &encoded);
        store.prove(&Parameters::transparent(), &context, &encoded, &own)
    };
    let of = |key: &KeyRef, domain| store.tagged_instance(key, &name(domain), &BEACON).unwrap();
    // The enrolled form, another key's tags, tags of another trust domain, another key's fingerprint.
    let enrolled = store.instances(&own, &name("acme.example"), &[]).unwrap().remove(0);
    assert!(matches!(prove(&enrolled), Err(StoreError::Proof(Error::WrongInstance(_)))));
    let other = of(&key(KeyAlgorithm::Aes256Cmac), "acme.example");
    assert!(matches!(prove(&other), Err(StoreError::Proof(Error::WitnessRefused(_)))));
    assert!(matches!(prove(&of(&own, "other.example")), Err(StoreError::Proof(Error::WitnessRefused(_)))));
    let aes = key(KeyAlgorithm::Aes256);
    let foreign = store.instances(&aes, &name("acme.example"), &[Suite::Halo2Pasta]).unwrap().remove(0);
    assert!(matches!(prove(&foreign), Err(StoreError::Proof(Error::WrongInstance(_)))));
    let none = store.tagged_instance(&aes, &name("acme.example"), &BEACON);
    assert!(matches!(none, Err(StoreError::NotACmacKey(KeyAlgorithm::Aes256))));
}

#[test]
fn stores_that_share_a_key_agree_and_others_do_not() {
    let (directory, first) = store_of([KeyAlgorithm::Aes192Cmac]);
    let (second, third) = (create(&directory.path().join("second")), create(&directory.path().join("third")));
    let own = key(KeyAlgorithm::Aes192Cmac);
    first.export_to(&own, &second).unwrap();
    third.generate(&own.key, KeyAlgorithm::Aes192Cmac, Placement::New).unwrap();
    let round = |store: &SoftwareStore, beacon| store.tagged_instance(&own, &name("acme.example"), &beacon).unwrap();
    assert_eq!(round(&first, BEACON), round(&second, BEACON));
    let tag = |instance| match instance {
        Instance::TaggedKey(instance) => *instance.round_tag().unwrap(),
        _ => panic!(),
    };
    let (ours, theirs) = (round(&first, BEACON), round(&third, BEACON));
    assert_ne!(ours.fingerprint().unwrap(), theirs.fingerprint().unwrap());
    assert_ne!(tag(ours.clone()), tag(theirs));
    assert_ne!(tag(ours), tag(round(&first, Nonce([9; 32]))));
}

#[test]
fn an_imported_key_computes_the_tags_that_a_token_would() {
    let (_directory, store) = store_of([]);
    let secret = *b"an uneven secret";
    let own = key(KeyAlgorithm::Aes128Cmac);
    store.import(&own.key, KeyAlgorithm::Aes128Cmac, &secret, Placement::New).unwrap();
    let domain = name("acme.example");
    let mac = |message: &[u8]| tagged_key::cmac(KeyAlgorithm::Aes128Cmac, &secret, message).unwrap();
    let (identifier, round) =
        (mac(&tagged_key::identifier_message(&domain)), mac(&tagged_key::round_message(&domain, &BEACON)));
    let tags = tagged_key::Witness::from_tags(&identifier, &round);
    let expected = tags.instance(&domain, KeyAlgorithm::Aes128Cmac, &BEACON).unwrap();
    assert_eq!(store.tagged_instance(&own, &domain, &BEACON).unwrap(), expected.into());
    let weak = store.import(&name("weak"), KeyAlgorithm::Aes128Cmac, &[7; 16], Placement::New);
    assert!(matches!(weak, Err(StoreError::WeakKey(_))));
}
