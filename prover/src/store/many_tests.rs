//! Several keys in one proof: only those that are attested by knowledge of them, and none in another's place.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use keywitness_circuits::{
    Digest, Error, Instance, KeyAlgorithm, KeyClaim, Kind, Parameters, Suite, codec::Canonical, key_knowledge::many,
};
use keywitness_verifier::wire::KeyRef;

use super::{tests::context, *};
use crate::testing::{name, store_of};

fn key(text: &str) -> KeyRef {
    KeyRef { key: name(text), epoch: 1 }
}

/// What a store with these algorithms says to a claim about `keys`, whose instance is made of `shown`.
fn prove(store: &SoftwareStore, claimed: &[KeyRef], shown: &[KeyRef], keys: &[KeyRef]) -> Result<Vec<u8>, StoreError> {
    let part = |key: &KeyRef| {
        let instance = store.instances(key, &name("acme.example"), &[Suite::Halo2Pasta]).unwrap().remove(0);
        (instance.algorithm().unwrap(), instance.fingerprint().unwrap())
    };
    let parts: Vec<_> = shown.iter().map(part).collect();
    let instance = Instance::from(many::Instance::new(&parts).unwrap()).to_bytes();
    let mut context = context(Kind::ManyKeysHalo2, &claimed[0], &instance);
    let claim = |key: &KeyRef| KeyClaim { key: key.key.clone(), epoch: key.epoch, attributes: Digest([1; 32]) };
    context.keys = claimed.iter().map(claim).collect();
    store.prove_many(&Parameters::transparent(), &context, &instance, keys)
}

#[test]
fn each_key_stands_in_its_own_place() {
    let (_directory, store) = store_of([KeyAlgorithm::Aes128, KeyAlgorithm::Aes256, KeyAlgorithm::HmacSha256]);
    let (one, two, three) = (key("aes128"), key("aes256"), key("hmac-sha256"));
    let right = [one.clone(), two.clone(), three.clone()];
    let swapped = [one.clone(), three.clone(), two.clone()];
    let foreign = |result| assert!(matches!(result, Err(StoreError::ForeignClaim)));
    foreign(prove(&store, &right, &right, &swapped));
    foreign(prove(&store, &swapped, &right, &right));
    foreign(prove(&store, &right, &right, &right[..2]));
    foreign(prove(&store, &right[..2], &right[..2], &right));
    let missing = [one, two, key("missing")];
    assert!(matches!(prove(&store, &missing, &right, &missing), Err(StoreError::NoSuchKey(_))));
    // Names agree, and the instance is of other keys: they are named, and nothing is proven.
    let Err(StoreError::Proof(Error::KeysRefused { culprits })) = prove(&store, &right, &swapped, &right) else {
        panic!()
    };
    assert_eq!(culprits, [1, 2]);
}

#[test]
fn no_other_key_is_proven_in_company() {
    let algorithms = [KeyAlgorithm::Aes128, KeyAlgorithm::Aes256, KeyAlgorithm::Aes256Cmac, KeyAlgorithm::Ed25519];
    let (_directory, store) = store_of(algorithms);
    store
        .derive(&name("aes256"), &name("derived"), KeyAlgorithm::Aes256, &name("acme.example"), Placement::New)
        .unwrap();
    let shown = [key("aes128"), key("aes256")];
    for other in ["derived", "aes256-cmac", "ed25519"] {
        let keys = [key("aes128"), key(other)];
        let result = prove(&store, &keys, &shown, &keys);
        assert!(matches!(result, Err(StoreError::ForeignClaim)), "{other}: {result:?}");
    }
}
