//! Against SoftHSM, a PKCS#11 library in software.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::PathBuf;

use cmac::{Cmac, Mac};
use cryptoki::{
    mechanism::MechanismType,
    object::{KeyType, ObjectClass, ObjectHandle},
    session::UserType,
    types::AuthPin,
};
use data_encoding::HEXLOWER_PERMISSIVE;
use keywitness_circuits::{
    ClaimContext, Digest, KeyAttributes, KeyClaim, KeyOrigin, Kind, Nonce, Parameters, Timestamp, TokenAttributes,
    codec::Canonical, context, key_knowledge::eddsa, registry, transcript::label,
};
use keywitness_verifier::operation::verify_signature;
use rand::{Rng, RngCore};
use tempfile::TempDir;

mod errors;
mod identity;
mod possession;
mod wrapped;

use super::*;
use crate::{
    store::{KeyStore, Placement, SoftwareStore},
    testing::{create, name},
};

const PIN: &str = "correct horse";

const ALGORITHMS: [KeyAlgorithm; 6] = [
    KeyAlgorithm::Ed25519,
    KeyAlgorithm::P256,
    KeyAlgorithm::Secp256k1,
    KeyAlgorithm::Aes128Cmac,
    KeyAlgorithm::Aes192Cmac,
    KeyAlgorithm::Aes256Cmac,
];

fn library() -> PathBuf {
    assert!(std::env::var("SOFTHSM2_CONF").is_ok(), "./test sets SOFTHSM2_CONF: these tests make tokens");
    PathBuf::from(std::env::var("KEYWITNESS_TEST_SOFTHSM").expect("./test sets KEYWITNESS_TEST_SOFTHSM"))
}

/// Makes a token.
fn initialize(token_label: &str) {
    initialize_with(token_label, |_| {});
}

/// Makes a token in which its security officer does something.
fn initialize_with(token_label: &str, more: impl FnOnce(&Session)) {
    let made = slot::with_library(&library(), |library| {
        let taken = library.get_slots_with_initialized_token().unwrap();
        let free = library.get_all_slots().unwrap().into_iter().find(|slot| !taken.contains(slot)).unwrap();
        let officer = AuthPin::from("security officer");
        library.init_token(free, &officer, token_label).unwrap();
        let session = library.open_rw_session(free).unwrap();
        session.login(UserType::So, Some(&officer)).unwrap();
        session.init_pin(&AuthPin::from(PIN)).unwrap();
        more(&session);
        Ok(())
    });
    made.unwrap();
}

fn fresh_label() -> String {
    format!("token-{:016x}", rand::thread_rng().next_u64())
}

fn open(token_label: &str, pin: &str) -> Result<Token, StoreError> {
    Token::open(&library(), &TokenChoice::label(token_label), Pin::new(pin).unwrap())
}

fn fresh() -> Token {
    let label = fresh_label();
    initialize(&label);
    open(&label, PIN).unwrap()
}

fn fresh_store() -> (TempDir, TokenStore) {
    let directory = tempfile::tempdir().unwrap();
    let software = create(&directory.path().join("store"));
    (directory, TokenStore::new(software, fresh(), None).unwrap())
}

fn key(text: &str, epoch: u32) -> KeyRef {
    KeyRef { key: name(text), epoch }
}

fn raw(token: &Token) -> Session {
    token.pool.with_session(|connection, _| token.writing(connection)).unwrap()
}

fn handle(token: &Token, key: &KeyRef) -> ObjectHandle {
    token.lookup(&raw(token), key).unwrap().handle
}

/// Brings an AES key of known value in from outside.
fn import_aes(token: &Token, key: &KeyRef, value: &[u8], more: &[Attribute]) {
    let mut attributes = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Value(value.to_vec()),
        Attribute::Label(key.key.as_str().into()),
        Attribute::Id(object::id_of(key.epoch)),
        Attribute::Token(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ];
    for never in [
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ] {
        if more.iter().all(|other| other.attribute_type() != never.attribute_type()) {
            attributes.push(never);
        }
    }
    attributes.retain(|one| more.iter().all(|other| other.attribute_type() != one.attribute_type()));
    attributes.extend_from_slice(more);
    raw(token).create_object(&attributes).unwrap();
}

fn refused(result: Result<impl Sized, StoreError>) -> TokenError {
    match result.err() {
        Some(StoreError::Token(error)) => error,
        other => panic!("not a token's refusal: {other:?}"),
    }
}

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(text.replace(' ', "").as_bytes()).unwrap()
}

#[test]
fn keys_are_generated_inside_and_stay_there() {
    let token = fresh();
    for algorithm in ALGORITHMS {
        let made = token.generate(&key(algorithm.name(), 1), algorithm, false).unwrap();
        assert_eq!((made.algorithm, made.origin, made.refusal.as_ref()), (algorithm, KeyOrigin::Generated, None));
        let TokenAttributes { sensitive, always_sensitive, never_extractable, mechanisms } = &made.token;
        assert!(!made.extractable && *sensitive && *always_sensitive && *never_extractable, "{made:?}");
        let own = object::mechanism(algorithm).map(|own| u32::try_from(*own).unwrap());
        assert_eq!(mechanisms.numbers(), own.as_slice());
        assert!(matches!(token.generate(&made.key, algorithm, false), Err(StoreError::KeyExists(_))));
    }
    assert_eq!(token.generate(&key("ed25519", 7), KeyAlgorithm::Ed25519, false).unwrap().key.epoch, 7);
    assert_eq!(token.keys().unwrap().len(), 7);

    let session = raw(&token);
    let wrapping = session
        .generate_key(
            &Mechanism::AesKeyGen,
            &[Attribute::ValueLen(32.into()), Attribute::Token(false), Attribute::Wrap(true)],
        )
        .unwrap();
    for algorithm in ALGORITHMS {
        let object = handle(&token, &key(algorithm.name(), 1));
        assert!(session.get_attributes(object, &[AttributeType::Value]).unwrap().is_empty(), "{algorithm:?}");
        let wrapped = session.wrap_key(&Mechanism::AesKeyWrapPad, wrapping, object);
        assert!(matches!(wrapped, Err(Error::Pkcs11(RvError::KeyUnextractable, _))), "{wrapped:?}");
        // Nor can it be made to do more than it may, itself or as a copy.
        for more in [Attribute::Extractable(true), Attribute::Encrypt(true), Attribute::Decrypt(true)] {
            assert!(session.update_attributes(object, std::slice::from_ref(&more)).is_err(), "{algorithm:?} {more:?}");
            assert!(session.copy_object(object, &[more]).is_err(), "{algorithm:?}");
        }
        let allowed = session.get_attributes(object, &[AttributeType::AllowedMechanisms]).unwrap();
        assert_eq!(allowed, [Attribute::AllowedMechanisms(vec![object::mechanism(algorithm).unwrap()])]);
    }
    let aes = handle(&token, &key("aes128-cmac", 1));
    assert!(session.encrypt(&Mechanism::AesEcb, aes, &[0; 16]).is_err());
}

#[test]
fn cmacs_are_those_of_rfc_4493() {
    let token = fresh();
    let known = key("rfc4493", 1);
    import_aes(&token, &known, &hex("2b7e151628aed2a6abf7158809cf4f3c"), &[]);
    let message = hex("6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51 \
                       30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710");
    for (length, tag) in [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (40, "dfa66747de9ae63030ca32611497c827"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ] {
        assert_eq!(token.cmac(&known, &message[..length]).unwrap().as_slice(), hex(tag), "{length} bytes");
    }
    let listed = token.keys().unwrap().remove(0);
    assert_eq!((listed.algorithm, listed.origin), (KeyAlgorithm::Aes128Cmac, KeyOrigin::Imported));
    assert!(!listed.extractable && !listed.token.never_extractable);
}

#[test]
fn cmacs_of_every_size_are_those_of_another_implementation() {
    let token = fresh();
    let mut random = rand::thread_rng();
    let secret: [u8; 32] = random.r#gen();
    import_aes(&token, &key("k", 1), &secret[..16], &[]);
    import_aes(&token, &key("k", 2), &secret[..24], &[]);
    import_aes(&token, &key("k", 3), &secret, &[]);
    for length in [0, 1, 15, 16, 17, 31, 32, 33, 300, 5000] {
        let mut message = vec![0; length];
        random.fill_bytes(&mut message);
        let small = Cmac::<aes::Aes128>::new_from_slice(&secret[..16]).unwrap().chain_update(&message);
        let middle = Cmac::<aes::Aes192>::new_from_slice(&secret[..24]).unwrap().chain_update(&message);
        let large = Cmac::<aes::Aes256>::new_from_slice(&secret).unwrap().chain_update(&message);
        let expected = [small.finalize().into_bytes(), middle.finalize().into_bytes(), large.finalize().into_bytes()];
        for (epoch, expected) in (1..).zip(expected) {
            let tag = token.cmac(&key("k", epoch), &message).unwrap();
            assert_eq!(tag.as_slice(), expected.as_slice(), "{length} bytes, epoch {epoch}");
        }
    }
}

#[test]
fn an_aes_key_that_does_more_than_cmac_is_refused() {
    let (_directory, store) = fresh_store();
    let token = store.token();
    for (at, more) in [
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
        Attribute::Derive(true),
        Attribute::Sign(false),
        Attribute::AllowedMechanisms(vec![MechanismType::AES_CMAC, MechanismType::AES_ECB]),
    ]
    .into_iter()
    .enumerate()
    {
        let own = key(&format!("k-{at}"), 1);
        let value: [u8; 16] = rand::random();
        if more == Attribute::Sign(false) {
            let never = [Attribute::Verify(true)];
            import_aes(token, &own, &value, &never);
            raw(token).update_attributes(handle(token, &own), std::slice::from_ref(&more)).unwrap();
        } else {
            import_aes(token, &own, &value, std::slice::from_ref(&more));
        }
        let error = refused(token.cmac(&own, b"message"));
        assert!(matches!(error, TokenError::Refused { .. }), "{more:?}: {error}");
        assert!(token.keys().unwrap()[at].refusal.is_some(), "{more:?}");
    }
    assert!(refused(token.cmac(&key("k-0", 1), b"message")).to_string().contains("may also encrypt"));
    assert!(store.keys().is_empty(), "no key that is refused is offered for attestation");
}

/// A claim about a token's key, as the agent makes it.
fn context(store: &TokenStore, key: &KeyRef, instance: &Instance) -> ClaimContext {
    let kind = instance.kind().unwrap();
    let attributes = store.token().key(key).unwrap().attributes().digest();
    ClaimContext {
        statement: kind.name().to_owned(),
        verifying_key: registry::verifying_key(&Parameters::transparent(), kind).unwrap(),
        trust_domain: name("acme.example"),
        manager: name("manager-1"),
        cluster: name("cluster-1"),
        hsm: name("hsm-1"),
        enrolment: 1,
        keys: vec![KeyClaim { key: key.key.clone(), epoch: key.epoch, attributes }],
        instance: context::instance_digest(&instance.to_bytes()),
        challenge: Nonce([2; 32]),
        not_before: Timestamp(100),
        not_after: Timestamp(200),
        checkpoint: None,
        evidence: None,
    }
}

#[test]
fn an_ed25519_key_attests_itself_and_signs_for_clients() {
    let (_directory, store) = fresh_store();
    let made = store.generate(&name("signing"), KeyAlgorithm::Ed25519, Placement::New).unwrap();
    let entry = store.keys().remove(0);
    assert_eq!((&entry.key, &entry.attributes), (&made.key, &made.attributes()));
    assert!(!entry.attributes.extractable && entry.attributes.origin == KeyOrigin::Generated);

    let parameters = Parameters::transparent();
    let instance = store.instances(&made.key, &name("acme.example"), &[]).unwrap().remove(0);
    let claim = context(&store, &made.key, &instance);
    let proof = store.prove(&parameters, &claim, &instance.to_bytes(), &made.key).unwrap();
    assert!(registry::verify(&parameters, &claim, &instance.to_bytes(), &proof).is_ok());

    let signature = store.sign(&made.key, b"pay 100").unwrap();
    let spki = instance.spki().unwrap().unwrap();
    assert!(verify_signature(KeyAlgorithm::Ed25519, &spki, b"pay 100", &signature));
    assert!(!verify_signature(KeyAlgorithm::Ed25519, &spki, b"pay 200", &signature));
    for reserved in [eddsa::attest_message(&claim), label::RESERVED_PREFIX.as_bytes().to_vec()] {
        assert!(matches!(store.sign(&made.key, &reserved), Err(StoreError::ReservedMessage)));
    }
}

#[test]
fn the_token_signs_no_claim_but_one_about_its_own_key() {
    let (_directory, store) = fresh_store();
    let place = |text: &str| store.generate(&name(text), KeyAlgorithm::Ed25519, Placement::New).unwrap().key;
    let (own, other) = (place("own"), place("other"));
    let instance = |key: &KeyRef| store.instances(key, &name("acme.example"), &[]).unwrap().remove(0);
    let parameters = Parameters::transparent();
    let prove = |claim: &ClaimContext, named: &Instance, key| store.prove(&parameters, claim, &named.to_bytes(), key);
    let good = context(&store, &own, &instance(&own));
    assert!(prove(&good, &instance(&own), &own).is_ok());

    let foreign = |result| assert!(matches!(result, Err(StoreError::ForeignClaim)), "{result:?}");
    foreign(prove(&good, &instance(&own), &other));
    foreign(prove(&good, &instance(&other), &own));
    foreign(prove(&context(&store, &own, &instance(&other)), &instance(&other), &own));
    foreign(prove(&context(&store, &own, &instance(&other)), &instance(&own), &own));
    let mut changed = good.clone();
    changed.keys[0].epoch = 2;
    foreign(prove(&changed, &instance(&own), &own));
    changed.keys.clear();
    foreign(prove(&changed, &instance(&own), &own));
    let mut changed = good.clone();
    changed.statement = Kind::KeyKnowledgeP256.name().to_owned();
    foreign(prove(&changed, &instance(&own), &own));
    let mut changed = good;
    changed.verifying_key = Digest([9; 32]);
    assert!(matches!(prove(&changed, &instance(&own), &own), Err(StoreError::Proof(_))));
}

#[test]
fn another_keys_public_object_under_the_name_is_noticed() {
    let (_directory, store) = fresh_store();
    let made = store.generate(&name("k"), KeyAlgorithm::Ed25519, Placement::New).unwrap();
    let session = raw(store.token());
    let public = session.find_objects(&[Attribute::Class(ObjectClass::PUBLIC_KEY)]).unwrap();
    session.destroy_object(public[0]).unwrap();
    let instances = || store.instances(&made.key, &name("acme.example"), &[]);
    assert!(matches!(refused(instances()), TokenError::NoPublicKey { .. }));

    let stranger = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes();
    let object = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::EC_EDWARDS),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::Label(b"k".to_vec()),
        Attribute::Id(object::id_of(1)),
        Attribute::EcParams(object::EDWARDS25519.to_vec()),
        Attribute::EcPoint([&[0x04, 0x20], stranger.as_slice()].concat()),
    ];
    session.create_object(&object).unwrap();
    let instance = instances().unwrap().remove(0);
    let claim = context(&store, &made.key, &instance);
    let proof = store.prove(&Parameters::transparent(), &claim, &instance.to_bytes(), &made.key);
    assert!(matches!(proof, Err(StoreError::Proof(keywitness_circuits::Error::ProofRefused))), "{proof:?}");
    session.create_object(&object).unwrap();
    assert!(matches!(refused(instances()), TokenError::NoPublicKey { .. }), "two public objects");
}

#[test]
fn threads_sign_at_once() {
    let (_directory, store) = fresh_store();
    let made = store.generate(&name("signing"), KeyAlgorithm::Ed25519, Placement::New).unwrap();
    store.token().generate(&key("mac", 1), KeyAlgorithm::Aes256Cmac, false).unwrap();
    let spki = store.instances(&made.key, &name("acme.example"), &[]).unwrap().remove(0).spki().unwrap().unwrap();
    let tag = store.token().cmac(&key("mac", 1), b"message").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, made, spki, tag) = (&store, &made, &spki, &tag);
            scope.spawn(move || {
                for round in 0..25 {
                    let message = format!("{thread} {round}");
                    let signature = store.sign(&made.key, message.as_bytes()).unwrap();
                    assert!(verify_signature(KeyAlgorithm::Ed25519, spki, message.as_bytes(), &signature));
                    assert_eq!(store.token().cmac(&key("mac", 1), b"message").unwrap(), *tag);
                }
            });
        }
    });
}

#[test]
fn a_removed_key_is_gone_and_the_error_says_what_is_there() {
    let (_directory, store) = fresh_store();
    for text in ["stays", "goes"] {
        store.generate(&name(text), KeyAlgorithm::Ed25519, Placement::New).unwrap();
    }
    assert_eq!(store.keys().len(), 2);
    let gone = key("goes", 1);
    raw(store.token()).destroy_object(handle(store.token(), &gone)).unwrap();
    for result in [store.sign(&gone, b"message").map(drop), store.instances(&gone, &name("a"), &[]).map(drop)] {
        let error = refused(result);
        assert!(matches!(&error, TokenError::NoSuchKey { .. }), "{error}");
        assert!(error.to_string().ends_with("it has stays at epoch 1"), "{error}");
    }
    assert!(store.sign(&key("stays", 1), b"message").is_ok());
    assert_eq!(store.keys().len(), 1);
    raw(store.token())
        .generate_key(
            &Mechanism::AesKeyGen,
            &[Attribute::ValueLen(16.into()), Attribute::Token(true), Attribute::Label(b"Backup Key".to_vec())],
        )
        .unwrap();
    let error = refused(store.token().cmac(&gone, b"message")).to_string();
    assert!(
        error.contains("stays at epoch 1") && error.contains("\"Backup Key\" (its label is no key name)"),
        "{error}"
    );
}

#[test]
fn a_wrong_pin_is_tried_once_and_the_right_one_still_opens() {
    let label = fresh_label();
    initialize(&label);
    let error = refused(open(&label, "wrong horse"));
    assert!(matches!(&error, TokenError::WrongPin(token) if *token == label), "{error}");
    assert!(matches!(refused(open(&label, "x")), TokenError::WrongPin(_)), "of a length that no PIN has");
    let token = open(&label, PIN).unwrap();
    // A second login would not look at its PIN.
    assert!(matches!(refused(open(&label, "wrong horse")), TokenError::AlreadyOpen(_)));
    assert!(matches!(refused(open(&label, PIN)), TokenError::AlreadyOpen(_)));
    token.generate(&key("k", 1), KeyAlgorithm::Ed25519, false).unwrap();
    drop(token);
    assert!(matches!(refused(open(&label, "wrong horse")), TokenError::WrongPin(_)), "the login ended");
    assert_eq!(open(&label, PIN).unwrap().keys().unwrap().len(), 1);
}

#[test]
fn a_token_is_chosen_by_label_or_slot() {
    let (label, twice) = (fresh_label(), fresh_label());
    initialize(&label);
    initialize(&twice);
    initialize(&twice);
    let slot = open(&label, PIN).unwrap().pool.with_session(|connection, _| Ok(connection.place.slot.id())).unwrap();
    let pin = || Pin::new(PIN).unwrap();
    let by_slot = Token::open(&library(), &TokenChoice::slot(slot), pin()).unwrap();
    assert_eq!(by_slot.label(), label);
    let error = refused(open("no such token", PIN));
    assert!(matches!(error, TokenError::NoToken { .. }) && error.to_string().contains(&label), "{error}");
    assert!(matches!(refused(open(&twice, PIN)), TokenError::AmbiguousToken { slots, .. } if slots.len() == 2));
    let error = refused(Token::open(&library(), &TokenChoice::slot(u64::MAX), pin()));
    assert!(matches!(error, TokenError::NoToken { .. }));

    let directory = tempfile::tempdir().unwrap();
    let no_library = directory.path().join("libnone.so");
    for _ in 0..2 {
        let error = refused(Token::open(&no_library, &TokenChoice::slot(0), pin()));
        assert!(matches!(error, TokenError::Library { .. }), "{error}");
        std::fs::write(&no_library, b"not a library").unwrap();
    }
}

#[test]
fn two_keys_of_one_name_are_not_told_apart_and_not_used() {
    let (_directory, store) = fresh_store();
    store.generate(&name("k"), KeyAlgorithm::Ed25519, Placement::New).unwrap();
    make(
        &raw(store.token()),
        &key("k", 1),
        KeyAlgorithm::Ed25519,
        &template(&key("k", 1), KeyAlgorithm::Ed25519, MechanismType::EDDSA),
    )
    .unwrap();
    assert!(matches!(refused(store.sign(&key("k", 1), b"message")), TokenError::AmbiguousKey { .. }));
    assert!(store.token().keys().unwrap().iter().all(|key| key.refusal.is_some()));
    assert!(store.keys().is_empty());
}

#[test]
fn a_key_without_an_id_is_at_epoch_one() {
    let (_directory, store) = fresh_store();
    let own = key("made-elsewhere", 1);
    let without_id = |attribute: &Attribute| attribute.attribute_type() != AttributeType::Id;
    let template: Vec<_> =
        template(&own, KeyAlgorithm::Ed25519, MechanismType::EDDSA).into_iter().filter(without_id).collect();
    let public = [
        Attribute::Label(own.key.as_str().into()),
        Attribute::Token(true),
        Attribute::Verify(true),
        Attribute::EcParams(object::EDWARDS25519.to_vec()),
    ];
    let session = raw(store.token());
    session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &template).unwrap();
    assert_eq!(store.keys()[0].key, own);
    let spki = store.instances(&own, &name("a"), &[]).unwrap().remove(0).spki().unwrap().unwrap();
    let signature = store.sign(&own, b"message").unwrap();
    assert!(verify_signature(KeyAlgorithm::Ed25519, &spki, b"message", &signature));
}

#[test]
fn a_software_key_is_rotated_into_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let software = create(&directory.path().join("store"));
    software.generate(&name("k"), KeyAlgorithm::Ed25519, Placement::New).unwrap();
    software.generate(&name("tls"), KeyAlgorithm::P256, Placement::New).unwrap();
    let store = TokenStore::new(software, fresh(), None).unwrap();
    let place = |text: &str, algorithm, placement| store.generate(&name(text), algorithm, placement);
    assert!(matches!(place("k", KeyAlgorithm::Ed25519, Placement::New), Err(StoreError::KeyExists(_))));
    assert!(matches!(place("x", KeyAlgorithm::Ed25519, Placement::Rotate), Err(StoreError::NothingToRotate(_))));
    let other = place("tls", KeyAlgorithm::Ed25519, Placement::Rotate);
    assert!(matches!(other, Err(StoreError::OtherAlgorithm { known: KeyAlgorithm::P256, .. })));
    assert!(matches!(
        refused(place("new", KeyAlgorithm::Aes256, Placement::New)),
        TokenError::NoSuchAlgorithm(KeyAlgorithm::Aes256)
    ));
    assert_eq!(place("k", KeyAlgorithm::Ed25519, Placement::Rotate).unwrap().key.epoch, 2);
    assert_eq!(place("k", KeyAlgorithm::Ed25519, Placement::Rotate).unwrap().key.epoch, 3);
    let epochs: Vec<_> =
        store.keys().into_iter().map(|entry| (entry.key.epoch, entry.attributes.extractable)).collect();
    assert_eq!(epochs, [(1, true), (2, false), (3, false), (1, true)]);
    for epoch in 1..=3 {
        assert!(store.sign(&key("k", epoch), b"message").is_ok());
    }
    assert!(store.sign(&key("tls", 1), b"message").is_ok());
}

#[test]
fn a_key_that_is_in_two_places_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let software: SoftwareStore = create(&directory.path().join("store"));
    software.generate(&name("k"), KeyAlgorithm::Ed25519, Placement::New).unwrap();
    let token = fresh();
    token.generate(&key("k", 1), KeyAlgorithm::Ed25519, false).unwrap();
    assert!(matches!(refused(TokenStore::new(software, token, None)), TokenError::Refused { .. }));
}

#[test]
fn a_pin_file_is_private_and_a_pin_is_not_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pin");
    let write = |bytes: &[u8]| crate::store::file::replace(&path, bytes).unwrap();
    let label = fresh_label();
    initialize(&label);
    for text in ["correct horse", "correct horse\n", "correct horse\r\n"] {
        write(text.as_bytes());
        let pin = Pin::read(&path).unwrap();
        assert_eq!(format!("{pin:?}"), "Pin(secret)");
        assert!(Token::open(&library(), &TokenChoice::label(label.clone()), pin).is_ok(), "{text:?}");
    }
    for bad in [b"".as_slice(), b"\n", &[0xff; 8], &[b'1'; 256], &[b'1'; 4000]] {
        write(bad);
        let error = refused(Pin::read(&path));
        assert!(matches!(error, TokenError::UnusablePin(_)), "{error}");
        assert!(!error.to_string().contains("11"), "{error}");
    }
    write(&[b'1'; 255]);
    assert!(Pin::read(&path).is_ok());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Pin::read(&path), Err(StoreError::KeyFileTooOpen { mode: 0o640, .. })));
    }
    assert!(matches!(Pin::read(&directory.path().join("none")), Err(StoreError::Io { .. })));
}

#[test]
fn a_cmac_key_answers_a_beacon_with_the_tags_of_a_software_key() {
    let (directory, store) = fresh_store();
    let domain = name("acme.example");
    let secret: [u8; 24] = rand::random();
    let own = key("mac", 1);
    import_aes(store.token(), &own, &secret, &[]);
    let peer = create(&directory.path().join("peer"));
    peer.import(&own.key, KeyAlgorithm::Aes192Cmac, &secret, Placement::New).unwrap();
    assert_eq!(store.keys()[0].attributes.algorithm, KeyAlgorithm::Aes192Cmac);

    let beacon = Nonce([8; 32]);
    let round = store.tagged_instance(&own, &domain, &beacon).unwrap();
    assert_eq!(round, peer.tagged_instance(&own, &domain, &beacon).unwrap());
    let enrolled = store.instances(&own, &domain, &[]).unwrap();
    assert_eq!(enrolled, peer.instances(&own, &domain, &[]).unwrap());

    let parameters = Parameters::transparent();
    let claim = |instance: &Instance| ClaimContext {
        statement: Kind::TaggedKeyHalo2.name().to_owned(),
        verifying_key: registry::verifying_key(&parameters, Kind::TaggedKeyHalo2).unwrap(),
        ..context(&store, &own, instance)
    };
    let proof = store.prove(&parameters, &claim(&round), &round.to_bytes(), &own).unwrap();
    assert!(registry::verify(&parameters, &claim(&round), &round.to_bytes(), &proof).is_ok());
    assert!(store.prove(&parameters, &claim(&enrolled[0]), &enrolled[0].to_bytes(), &own).is_err());
    let elsewhere = store.tagged_instance(&own, &name("other.example"), &beacon).unwrap();
    assert!(store.prove(&parameters, &claim(&elsewhere), &elsewhere.to_bytes(), &own).is_err());

    // No client gets a CMAC out of it, and a signing key answers no beacon.
    assert!(matches!(store.sign(&own, b"message"), Err(StoreError::NotASigningKey(KeyAlgorithm::Aes192Cmac))));
    let signing = store.generate(&name("signing"), KeyAlgorithm::Ed25519, Placement::New).unwrap().key;
    let none = store.tagged_instance(&signing, &domain, &beacon);
    assert!(matches!(none, Err(StoreError::NotACmacKey(KeyAlgorithm::Ed25519))));
}
