#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use keywitness_circuits::{
    Error, Instance, KeyAlgorithm, KeyOrigin, Kind, Parameters, Suite, TrustDomain, codec::Canonical, key_derivation,
    registry,
};
use keywitness_verifier::wire::KeyRef;

use super::{tests::context, *};
use crate::testing::{create, name, passphrase, store_of};

fn key(text: &str, epoch: u32) -> KeyRef {
    KeyRef { key: name(text), epoch }
}

fn home() -> TrustDomain {
    name("acme.example")
}

fn derive(store: &SoftwareStore, text: &str, placement: Placement) -> Result<KeyEntry, StoreError> {
    store.derive(&name("aes256"), &name(text), KeyAlgorithm::Aes192, &home(), placement)
}

fn derivation(store: &SoftwareStore, key: &KeyRef) -> key_derivation::Instance {
    // Whatever the suites: the derivation is proven in one.
    match store.instances(key, &home(), &[Suite::Groth16Bn254]).unwrap().as_slice() {
        [Instance::KeyDerivation(instance)] => instance.clone(),
        _ => panic!(),
    }
}

#[test]
fn a_derived_key_is_proven_to_come_from_its_master() {
    let (directory, store) = store_of([KeyAlgorithm::Aes256]);
    let entry = derive(&store, "storage", Placement::New).unwrap();
    assert_eq!((&entry.key, entry.attributes.origin), (&key("storage", 1), KeyOrigin::Derived));
    let reopened = SoftwareStore::open(&directory.path().join("store"), &passphrase("correct horse"), Access::Read);
    let store = reopened.unwrap();
    let instance = derivation(&store, &entry.key);
    let master = store.instances(&key("aes256", 1), &home(), &[Suite::Halo2Pasta]).unwrap().remove(0);
    assert_eq!(instance.master(), master.fingerprint().unwrap());
    let encoded = instance.to_bytes();
    let context = context(Kind::KeyDerivationHalo2, &entry.key, &encoded);
    let proof = store.prove(&Parameters::transparent(), &context, &encoded, &entry.key).unwrap();
    assert!(registry::verify(&Parameters::transparent(), &context, &encoded, &proof).is_ok());
    // Another trust domain has no such key, and another key no such proof.
    assert!(store.instances(&entry.key, &name("other.example"), &[Suite::Halo2Pasta]).is_err());
    let foreign = store.prove(&Parameters::transparent(), &context, &encoded, &key("aes256", 1));
    assert!(matches!(foreign, Err(StoreError::ForeignClaim)));
}

#[test]
fn epochs_names_and_masters_make_different_keys() {
    let (_directory, store) = store_of([KeyAlgorithm::Aes256]);
    derive(&store, "storage", Placement::New).unwrap();
    derive(&store, "archive", Placement::New).unwrap();
    assert!(matches!(derive(&store, "storage", Placement::New), Err(StoreError::KeyExists(_))));
    let second = derive(&store, "storage", Placement::Rotate).unwrap();
    assert_eq!(second.key, key("storage", 2));
    store.generate(&name("aes256"), KeyAlgorithm::Aes256, Placement::Rotate).unwrap();
    let third = derive(&store, "storage", Placement::Rotate).unwrap();
    let instances =
        [&key("storage", 1), &key("archive", 1), &second.key, &third.key].map(|key| derivation(&store, key));
    let mut fingerprints = instances.each_ref().map(|instance| instance.fingerprint()).to_vec();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 4);
    assert!(instances[0].master() == instances[2].master() && instances[2].master() != instances[3].master());
}

#[test]
fn a_rotation_keeps_where_a_key_comes_from() {
    let (_directory, store) = store_of([KeyAlgorithm::Aes256, KeyAlgorithm::Aes192, KeyAlgorithm::Ed25519]);
    derive(&store, "storage", Placement::New).unwrap();
    let (storage, aes192) = (name("storage"), KeyAlgorithm::Aes192);
    let other = |result: Result<KeyEntry, StoreError>| matches!(result, Err(StoreError::OtherDerivation(_)));
    assert!(other(store.generate(&storage, aes192, Placement::Rotate)));
    assert!(other(store.derive(&name("aes192"), &storage, aes192, &home(), Placement::Rotate)));
    assert!(other(store.derive(&name("aes256"), &storage, aes192, &name("other.example"), Placement::Rotate)));
    assert!(other(store.derive(&name("aes256"), &name("aes192"), aes192, &home(), Placement::Rotate)));
    let absent = store.derive(&name("absent"), &name("new"), aes192, &home(), Placement::New);
    assert!(matches!(absent, Err(StoreError::NoSuchMaster(_))));
    for (master, algorithm) in [("ed25519", aes192), ("aes256", KeyAlgorithm::Ed25519)] {
        let refused = store.derive(&name(master), &name("new"), algorithm, &home(), Placement::New);
        assert!(matches!(refused, Err(StoreError::Proof(Error::WitnessRefused(_)))), "{algorithm} from {master}");
    }
    assert_eq!(store.keys().len(), 4);
}

#[test]
fn a_cluster_shares_a_derived_key_with_its_master() {
    let (directory, first) = store_of([KeyAlgorithm::Aes256]);
    let second = create(&directory.path().join("second"));
    let derived = derive(&first, "storage", Placement::New).unwrap().key;
    assert!(matches!(first.export_to(&derived, &second), Err(StoreError::MasterMissing { .. })));
    first.export_to(&key("aes256", 1), &second).unwrap();
    let copy = first.export_to(&derived, &second).unwrap();
    assert_eq!(copy.attributes.origin, KeyOrigin::Derived);
    assert_eq!(first.export_to(&derived, &second).unwrap(), copy, "once more changes nothing");
    assert_eq!(derivation(&second, &derived), derivation(&first, &derived));
    // Without a copy: whoever has the master derives the same.
    let third = create(&directory.path().join("third"));
    first.export_to(&key("aes256", 1), &third).unwrap();
    derive(&third, "storage", Placement::New).unwrap();
    assert_eq!(derivation(&third, &derived), derivation(&first, &derived));
}
