#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{fs, path::PathBuf};

use keywitness_circuits::{
    ClaimContext, Digest, KeyAlgorithm, KeyClaim, KeyOrigin, Nonce, Parameters, Suite, Timestamp, codec::Canonical,
    context, key_knowledge::eddsa, registry, transcript::label,
};
use keywitness_verifier::{operation::verify_signature, wire::KeyRef};
use tempfile::TempDir;

use super::*;
use crate::testing::{CHEAP, create, enrolled_store, generated, membership, name, passphrase, store_of};

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    (directory, path)
}

fn key(text: &str, epoch: u32) -> KeyRef {
    KeyRef { key: name(text), epoch }
}

fn open(path: &std::path::Path, text: &str) -> Result<SoftwareStore, StoreError> {
    SoftwareStore::open(path, &passphrase(text), Access::Read)
}

#[test]
fn everything_is_there_after_opening_again() {
    let (directory, store) = store_of(generated());
    let path = directory.path().join("store");
    let reopened = open(&path, "correct horse").unwrap();
    assert_eq!(reopened.keys(), store.keys());
    assert_eq!(reopened.keys().len(), generated().count());
    assert_eq!(reopened.identity(), store.identity());
    assert_eq!(reopened.channel_key(), store.channel_key());
    assert_eq!(reopened.membership(), Some(membership()));
    for entry in store.keys().iter().filter(|entry| entry.attributes.algorithm.symmetric_bits().is_none()) {
        let instances = |store: &SoftwareStore| store.instances(&entry.key, &name("acme.example"), &[]).unwrap();
        assert_eq!(instances(&reopened), instances(&store));
    }
}

#[test]
fn a_wrong_passphrase_or_other_means_do_not_open() {
    let (directory, path) = directory();
    drop(create(&path));
    assert!(matches!(open(&path, "wrong horse"), Err(StoreError::DoesNotOpen { .. })));
    let key_file = directory.path().join("key");
    create_key_file(&key_file).unwrap();
    let error = SoftwareStore::open(&path, &Unlock::KeyFile(key_file), Access::Read).unwrap_err();
    assert!(matches!(error, StoreError::WrongMeans { needed: "passphrase", .. }), "{error}");
    assert!(matches!(
        SoftwareStore::create_with(&directory.path().join("other"), &passphrase("short"), CHEAP),
        Err(StoreError::ShortPassphrase(8))
    ));
}

#[test]
fn a_key_file_opens_and_must_be_private() {
    let (directory, path) = directory();
    let (key_file, other) = (directory.path().join("key"), directory.path().join("other"));
    create_key_file(&key_file).unwrap();
    create_key_file(&other).unwrap();
    let before = fs::read(&key_file).unwrap();
    assert!(matches!(create_key_file(&key_file), Err(StoreError::Exists(_))));
    assert_eq!(fs::read(&key_file).unwrap(), before);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no temporary file stays");
    let empty = directory.path().join("empty");
    fs::write(&empty, []).unwrap();
    let error = create_key_file(&empty).unwrap_err();
    assert!(matches!(error, StoreError::EmptyKeyFile(_)) && error.to_string().contains("remove it"), "{error}");
    assert!(fs::read(&empty).unwrap().is_empty());
    #[cfg(unix)]
    {
        fs::set_permissions(&empty, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let error = SoftwareStore::open(&path, &Unlock::KeyFile(empty.clone()), Access::Read);
        assert!(error.is_err());
        let error = SoftwareStore::create(&path, &Unlock::KeyFile(empty)).unwrap_err();
        assert!(matches!(error, StoreError::EmptyKeyFile(_)), "{error}");
    }
    let unlock = Unlock::KeyFile(key_file.clone());
    let identity = SoftwareStore::create(&path, &unlock).unwrap().identity();
    assert_eq!(SoftwareStore::open(&path, &unlock, Access::Write).unwrap().identity(), identity);
    let error = SoftwareStore::open(&path, &Unlock::KeyFile(other.clone()), Access::Read).unwrap_err();
    assert!(matches!(error, StoreError::DoesNotOpen { means: "key file", .. }));
    fs::write(&other, [7; 33]).unwrap();
    let error = SoftwareStore::open(&path, &Unlock::KeyFile(other), Access::Read).unwrap_err();
    assert!(matches!(error, StoreError::NotAKeyFile(_)));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&key_file, fs::Permissions::from_mode(mode)).unwrap();
            let error = SoftwareStore::open(&path, &unlock, Access::Read).unwrap_err();
            assert!(matches!(error, StoreError::KeyFileTooOpen { .. }), "{error}");
            assert!(error.to_string().contains("chmod 600"));
        }
    }
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let (_directory, path) = directory();
    let store = create(&path);
    store.generate(&name("signing"), KeyAlgorithm::Ed25519, Placement::New).unwrap();
    drop(store);
    let good = fs::read(&path).unwrap();
    assert!(open(&path, "correct horse").is_ok());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert!(open(&path, "correct horse").is_err(), "byte {at}");
    }
}

#[test]
fn a_cut_or_lengthened_file_is_refused() {
    let (_directory, path) = directory();
    drop(create(&path));
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        assert!(open(&path, "correct horse").is_err(), "length {length}");
    }
    fs::write(&path, [good.as_slice(), &[0]].concat()).unwrap();
    assert!(matches!(open(&path, "correct horse"), Err(StoreError::NotAStore { .. })));
}

#[test]
fn a_file_cannot_ask_for_more_than_a_passphrase_is_worth() {
    let (_directory, path) = directory();
    drop(create(&path));
    let good = fs::read(&path).unwrap();
    // Memory, passes and lanes stand behind magic, version and means.
    for field in [19, 23, 27] {
        let mut bad = good.clone();
        bad[field..field + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        fs::write(&path, &bad).unwrap();
        assert!(matches!(open(&path, "correct horse"), Err(StoreError::Excessive(_))), "field {field}");
    }
    let mut later = good;
    later[17] = 2;
    fs::write(&path, &later).unwrap();
    assert!(matches!(open(&path, "correct horse"), Err(StoreError::UnknownVersion { version: 2, .. })));
}

#[test]
fn one_process_writes_and_others_may_read() {
    let (_directory, path) = directory();
    let writer = create(&path);
    assert!(matches!(
        SoftwareStore::open(&path, &passphrase("correct horse"), Access::Write),
        Err(StoreError::InUse(_))
    ));
    assert!(matches!(
        SoftwareStore::create_with(&path, &passphrase("correct horse"), CHEAP),
        Err(StoreError::InUse(_))
    ));
    let reader = open(&path, "correct horse").unwrap();
    assert!(matches!(
        reader.generate(&name("signing"), KeyAlgorithm::Ed25519, Placement::New),
        Err(StoreError::ReadOnly)
    ));
    drop(writer);
    assert!(SoftwareStore::open(&path, &passphrase("correct horse"), Access::Write).is_ok());
    assert!(matches!(
        SoftwareStore::create_with(&path, &passphrase("correct horse"), CHEAP),
        Err(StoreError::Exists(_))
    ));
}

#[test]
fn a_write_that_fails_changes_nothing() {
    let (directory, path) = directory();
    let store = create(&path);
    // A directory in the place of the temporary file: the write fails, for root too.
    let obstacle = directory.path().join("store.new");
    fs::create_dir(&obstacle).unwrap();
    assert!(store.generate(&name("signing"), KeyAlgorithm::Ed25519, Placement::New).is_err());
    assert!(store.set_membership(membership()).is_err());
    assert!(store.keys().is_empty() && store.membership().is_none());
    fs::remove_dir(&obstacle).unwrap();
    store.generate(&name("signing"), KeyAlgorithm::Ed25519, Placement::New).unwrap();
    assert_eq!(open(&path, "correct horse").unwrap().keys(), store.keys());
}

#[test]
fn a_left_over_of_a_crash_is_no_obstacle() {
    let (directory, path) = directory();
    let store = create(&path);
    fs::write(directory.path().join("store.new"), b"half a store").unwrap();
    store.set_membership(membership()).unwrap();
    assert_eq!(open(&path, "correct horse").unwrap().membership(), Some(membership()));
}

#[test]
fn epochs_rise_only_when_asked() {
    let (_directory, path) = directory();
    let store = create(&path);
    let id = name("signing");
    let place = |placement, algorithm| store.generate(&id, algorithm, placement);
    assert!(matches!(place(Placement::Rotate, KeyAlgorithm::P256), Err(StoreError::NothingToRotate(_))));
    assert_eq!(place(Placement::New, KeyAlgorithm::P256).unwrap().key.epoch, 1);
    assert!(matches!(place(Placement::New, KeyAlgorithm::P256), Err(StoreError::KeyExists(_))));
    assert!(matches!(place(Placement::Rotate, KeyAlgorithm::Ed25519), Err(StoreError::OtherAlgorithm { .. })));
    assert_eq!(place(Placement::Rotate, KeyAlgorithm::P256).unwrap().key.epoch, 2);
    let imported = store.import(&id, KeyAlgorithm::P256, b"\x01an uneven secret of 32 bytes:-)", Placement::Rotate);
    let imported = imported.unwrap();
    assert_eq!((imported.key.epoch, imported.attributes.origin), (3, KeyOrigin::Imported));
    assert_eq!(store.keys().len(), 3);
    assert_eq!(current_keys(&store), [imported]);
}

#[test]
fn a_cluster_shares_a_key_and_nothing_else() {
    let (directory, path) = directory();
    let (first, second) = (create(&path), create(&directory.path().join("second")));
    let entry = first.generate(&name("signing"), KeyAlgorithm::Secp256k1, Placement::New).unwrap();
    let copy = first.export_to(&entry.key, &second).unwrap();
    assert_eq!(copy.key, entry.key);
    assert_eq!(copy.attributes.origin, KeyOrigin::Imported);
    assert_eq!(first.export_to(&entry.key, &second).unwrap(), copy, "once more changes nothing");
    assert_eq!(first.export_to(&entry.key, &first).unwrap(), entry);
    let domain = name("acme.example");
    assert_eq!(first.instances(&entry.key, &domain, &[]).unwrap(), second.instances(&entry.key, &domain, &[]).unwrap());
    assert_ne!(first.identity(), second.identity());
    assert_ne!(first.channel_key(), second.channel_key());

    let third = create(&directory.path().join("third"));
    third.generate(&name("signing"), KeyAlgorithm::Secp256k1, Placement::New).unwrap();
    assert!(matches!(first.export_to(&entry.key, &third), Err(StoreError::KeyDiffers(_))));
    assert!(matches!(first.export_to(&key("other", 1), &third), Err(StoreError::NoSuchKey(_))));
}

#[test]
fn a_share_is_not_generated() {
    let (_directory, store) = enrolled_store();
    for algorithm in KeyAlgorithm::ALL.into_iter().filter(|algorithm| algorithm.is_share()) {
        let made = store.generate(&name("share"), algorithm, Placement::New);
        assert!(matches!(made, Err(StoreError::ShareIsDealt(_))), "{algorithm}");
        assert!(sign::sign(algorithm, &vec![1; algorithm.secret_len()], b"pay 100").is_err(), "{algorithm}");
    }
}

#[test]
fn signatures_verify_and_are_low_s() {
    let (_directory, store) = store_of(generated());
    for algorithm in generated() {
        let key = key(algorithm.name(), 1);
        for message in [b"".as_slice(), b"pay 100", b"keywitnes"] {
            let signature = match algorithm {
                KeyAlgorithm::Ed25519 | KeyAlgorithm::P256 | KeyAlgorithm::Secp256k1 => {
                    store.sign(&key, message).unwrap()
                }
                _ => {
                    assert!(matches!(store.sign(&key, message), Err(StoreError::NotASigningKey(_))));
                    continue;
                }
            };
            let instance = store.instances(&key, &name("acme.example"), &[]).unwrap().remove(0);
            let spki = instance.spki().unwrap().unwrap();
            assert!(verify_signature(algorithm, &spki, message, &signature), "{algorithm}");
            assert!(!verify_signature(algorithm, &spki, b"pay 200", &signature), "{algorithm}");
            match algorithm {
                KeyAlgorithm::P256 => {
                    assert!(p256::ecdsa::Signature::from_slice(&signature).unwrap().normalize_s().is_none());
                }
                KeyAlgorithm::Secp256k1 => {
                    assert!(k256::ecdsa::Signature::from_slice(&signature).unwrap().normalize_s().is_none());
                }
                _ => {}
            }
        }
    }
}

pub(crate) fn context(kind: keywitness_circuits::Kind, key: &KeyRef, instance: &[u8]) -> ClaimContext {
    let attributes = Digest([1; 32]);
    ClaimContext {
        statement: kind.name().to_owned(),
        verifying_key: registry::verifying_key(&Parameters::transparent(), kind).unwrap(),
        trust_domain: name("acme.example"),
        manager: name("manager-1"),
        cluster: name("cluster-1"),
        hsm: name("hsm-1"),
        enrolment: 1,
        keys: vec![KeyClaim { key: key.key.clone(), epoch: key.epoch, attributes }],
        instance: context::instance_digest(instance),
        challenge: Nonce([2; 32]),
        not_before: Timestamp(100),
        not_after: Timestamp(200),
        checkpoint: None,
        evidence: None,
    }
}

#[test]
fn no_client_gets_an_attestation_signed() {
    let (_directory, store) = store_of(generated());
    let signing = key("ed25519", 1);
    let instance = store.instances(&signing, &name("acme.example"), &[]).unwrap().remove(0);
    let context = context(instance.kind().unwrap(), &signing, &instance.to_bytes());
    let message = eddsa::attest_message(&context);
    for algorithm in generated() {
        assert!(matches!(store.sign(&key(algorithm.name(), 1), &message), Err(StoreError::ReservedMessage)));
    }
    assert!(matches!(store.sign(&signing, label::RESERVED_PREFIX.as_bytes()), Err(StoreError::ReservedMessage)));
}

#[test]
fn proofs_verify_and_only_for_the_key_that_the_context_names() {
    let (_directory, store) = enrolled_store();
    let parameters = Parameters::transparent();
    for algorithm in generated().filter(|algorithm| algorithm.symmetric_bits().is_none()) {
        let own = key(algorithm.name(), 1);
        let instance = store.instances(&own, &name("acme.example"), &[Suite::Halo2Pasta]).unwrap().remove(0);
        let encoded = instance.to_bytes();
        let context = context(instance.kind().unwrap(), &own, &encoded);
        let proof = store.prove(&parameters, &context, &encoded, &own).unwrap();
        assert!(registry::verify(&parameters, &context, &encoded, &proof).is_ok());
        let other = if algorithm == KeyAlgorithm::P256 { key("secp256k1", 1) } else { key("p256", 1) };
        assert!(matches!(store.prove(&parameters, &context, &encoded, &other), Err(StoreError::ForeignClaim)));
    }
}

#[test]
fn nothing_secret_is_printed() {
    let (directory, store) = enrolled_store();
    let secret = b"\x01an uneven secret of 32 bytes:-)";
    store.import(&name("imported"), KeyAlgorithm::Aes256, secret, Placement::New).unwrap();
    let printed = format!("{store:?} {:?}", passphrase("correct horse"));
    assert!(!printed.contains("uneven") && !printed.contains("horse") && !printed.contains("1, 97, 110"));
    let bytes = fs::read(directory.path().join("store")).unwrap();
    assert!(!bytes.windows(8).any(|window| window == &secret[4..12] || window == b"imported"), "at rest");
}

#[test]
fn every_write_takes_a_fresh_nonce() {
    let (_directory, path) = directory();
    let store = create(&path);
    let nonce = || fs::read(&path).unwrap()[47..71].to_vec();
    let first = nonce();
    store.set_membership(membership()).unwrap();
    let second = nonce();
    store.set_membership(membership()).unwrap();
    assert!(first != second && second != nonce() && first != nonce());
}
