//! What the tests of this crate share.
#![allow(clippy::unwrap_used)]

use std::{path::Path, sync::Arc};

use keywitness_circuits::{ClusterId, Digest, Fingerprint, HsmId, KeyAlgorithm, KeyId, Kind, Suite, Timestamp};
use keywitness_verifier::{
    identity::Audience,
    wire::{Enrolment, KeyRef, Record},
};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::{KeyStore, Membership, PassphraseCost, Placement, SoftwareStore, Standing, Unlock};

/// The least that Argon2 takes: tests guess nothing.
pub(crate) const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 8, passes: 1, lanes: 1 };

pub(crate) fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase(Zeroizing::new(text.to_owned()))
}

pub(crate) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(crate) fn create(path: &Path) -> SoftwareStore {
    SoftwareStore::create_with(path, &passphrase("correct horse"), CHEAP).unwrap()
}

pub(crate) fn audience() -> Audience {
    Audience { trust_domain: name("acme.example"), manager: name("manager-1") }
}

pub(crate) fn membership() -> Membership {
    let (hsm, cluster): (HsmId, ClusterId) = (name("hsm-1"), name("cluster-1"));
    let enrolment = Enrolment { hsm: hsm.clone(), cluster, revision: 3 };
    Membership { audience: audience(), hsm, enrolment: Some(enrolment) }
}

/// An enrolled store with one key of every algorithm that needs no beacon, each named as its algorithm.
pub(crate) fn enrolled_store() -> (TempDir, Arc<SoftwareStore>) {
    store_of(generated().filter(|algorithm| !algorithm.is_cmac()))
}

/// An enrolled store with one key of each of `algorithms`, each named as its algorithm.
pub(crate) fn store_of(algorithms: impl IntoIterator<Item = KeyAlgorithm>) -> (TempDir, Arc<SoftwareStore>) {
    let directory = tempfile::tempdir().unwrap();
    let store = create(&directory.path().join("store"));
    for algorithm in algorithms {
        store.generate(&name::<KeyId>(algorithm.name()), algorithm, Placement::New).unwrap();
    }
    store.set_membership(membership()).unwrap();
    (directory, Arc::new(store))
}

/// Every algorithm that a store generates: a share is dealt.
pub(crate) fn generated() -> impl Iterator<Item = KeyAlgorithm> {
    KeyAlgorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_share())
}

/// The manager's record of a key.
pub(crate) fn record(key: &str, epoch: u32, expires_at: Timestamp) -> Record {
    let Enrolment { hsm, cluster, revision } = membership().enrolment.unwrap();
    Record {
        hsm,
        cluster,
        enrolment: revision,
        key: KeyRef { key: name(key), epoch },
        statement: Kind::KeyKnowledgeP256,
        verifying_key: Digest([1; 32]),
        fingerprint: Fingerprint { suite: Suite::PublicKey, bytes: Digest([3; 32]) },
        envelope: Digest([2; 32]),
        proven_at: Timestamp(0),
        expires_at,
    }
}

/// The standing of an HSM that has every key attested until `expires_at`.
pub(crate) fn attested(store: &dyn KeyStore, expires_at: Timestamp) -> Arc<Standing> {
    let standing = Standing::new();
    for entry in store.keys() {
        standing.accept(&record(entry.key.key.as_str(), entry.key.epoch, expires_at));
    }
    Arc::new(standing)
}
