//! Keys from token to token, and what is tried on the way.

use keywitness_verifier::transfer::{Described, SealedKey, Terms};

use super::*;

const SHARED: [u8; 32] = [0x5a; 32];

fn terms() -> Terms {
    Terms {
        trust_domain: name("acme.example"),
        cluster: name("payments"),
        from: name("hsm-1"),
        to: name("hsm-2"),
        request: Digest([7; 32]),
    }
}

/// Puts a wrapping key into a token, as its operator does.
fn provision(token: &Token, value: &[u8], more: &[Attribute]) {
    let mut attributes = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Value(value.to_vec()),
        Attribute::Label(WRAPPING.into()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Derive(false),
    ];
    attributes.retain(|one| more.iter().all(|other| other.attribute_type() != one.attribute_type()));
    attributes.extend_from_slice(more);
    raw(token).create_object(&attributes).unwrap();
}

/// Two HSMs whose tokens share a wrapping key.
fn pair() -> [(TempDir, TokenStore); 2] {
    let made = [fresh_store(), fresh_store()];
    made.iter().for_each(|(_, store)| provision(store.token(), &SHARED, &[]));
    made
}

fn made(store: &TokenStore, text: &str, algorithm: KeyAlgorithm) -> (KeyRef, Vec<Instance>) {
    if algorithm.is_cmac() {
        import_aes(store.token(), &key(text, 1), &[7; 32][..algorithm.secret_len()], &[Attribute::Extractable(true)]);
    } else {
        store.generate_as(&name(text), algorithm, Placement::New, true).unwrap();
    }
    (key(text, 1), store.instances(&key(text, 1), &name("acme.example"), &[]).unwrap())
}

fn copy(from: &TokenStore, to: &TokenStore, key: &KeyRef) -> Result<SealedKey, StoreError> {
    from.copy_key(key, &terms(), &to.channel_key())
}

#[test]
fn a_key_goes_from_token_to_token_and_proves_there_what_it_proved() {
    let [(_one, giver), (_two, taker)] = pair();
    let parameters = Parameters::transparent();
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Secp256k1] {
        let (own, instances) = made(&giver, algorithm.name(), algorithm);
        let sealed = copy(&giver, &taker, &own).unwrap();
        let taken = taker.take_key(&sealed, &terms(), &instances).unwrap();
        assert_eq!(taken.key, own);
        assert!(taken.attributes.origin == KeyOrigin::Imported && !taken.attributes.extractable, "{taken:?}");
        let told = taken.attributes.token.as_ref().unwrap();
        let generated = giver.keys().into_iter().find(|held| held.key == own).unwrap().attributes.token.unwrap();
        assert!(told.sensitive && !told.mechanisms.numbers().is_empty() && told.mechanisms == generated.mechanisms);
        assert_eq!(taker.instances(&own, &name("acme.example"), &[]).unwrap(), instances, "{algorithm}");
        assert!(taker.keys().contains(&taken));
        let claim = context(&taker, &own, &instances[0]);
        taker.prove(&parameters, &claim, &instances[0].to_bytes(), &own).unwrap();
        assert_eq!(taker.take_key(&sealed, &terms(), &instances).unwrap(), taken, "again");
        assert!(matches!(copy(&taker, &giver, &own), Err(StoreError::TokenKeyStays(_))), "it goes no further");
    }
    assert!(taker.software().keys().is_empty());
    let wrapping = taker.token().keys().unwrap().into_iter().find(|held| held.key.key.as_str() == WRAPPING).unwrap();
    assert!(wrapping.refusal.unwrap().contains("wraps"));
}

/// SoftHSM does not tell the length of an AES key that it unwrapped: nobody would find the key under its algorithm.
#[test]
fn a_key_that_the_token_would_not_know_afterwards_is_not_taken() {
    let [(_one, giver), (_two, taker)] = pair();
    for algorithm in [KeyAlgorithm::Aes128Cmac, KeyAlgorithm::Aes256Cmac] {
        let (own, instances) = made(&giver, algorithm.name(), algorithm);
        let before = raw(taker.token()).find_objects(&[]).unwrap().len();
        let taken = taker.take_key(&copy(&giver, &taker, &own).unwrap(), &terms(), &instances);
        assert!(matches!(refused(taken), TokenError::Refused { why, .. } if why.contains("CKA_VALUE_LEN")));
        assert_eq!(raw(taker.token()).find_objects(&[]).unwrap().len(), before);
    }
}

#[test]
fn what_may_not_leave_a_token_stays() {
    let [(_one, giver), (_two, taker)] = pair();
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Ed25519, KeyAlgorithm::Aes128Cmac] {
        let made = giver.generate(&name(algorithm.name()), algorithm, Placement::New).unwrap();
        let refused = copy(&giver, &taker, &made.key);
        assert!(matches!(&refused, Err(StoreError::TokenKeyStays(key)) if *key == made.key), "{refused:?}");
    }
    // The wrapping key wraps not itself, and the identity does not travel.
    copy(&giver, &taker, &key(WRAPPING, 1)).unwrap_err();
    let (directory, token) = (tempfile::tempdir().unwrap(), fresh());
    provision(&token, &SHARED, &[]);
    token.generate(&key(IDENTITY, 1), KeyAlgorithm::Ed25519, true).unwrap();
    let hsm = TokenStore::new(create(&directory.path().join("store")), token, None).unwrap();
    assert!(matches!(copy(&hsm, &taker, &key(IDENTITY, 1)), Err(StoreError::TokenKeyStays(_))));
}

#[test]
fn a_copy_that_is_not_the_clusters_key_leaves_nothing_behind() {
    let [(_one, giver), (_two, taker)] = pair();
    let (own, instances) = made(&giver, "k", KeyAlgorithm::P256);
    let (mac, tags) = made(&giver, "mac", KeyAlgorithm::Aes128Cmac);
    let (_, others) = made(&giver, "other", KeyAlgorithm::P256);
    let objects = || raw(taker.token()).find_objects(&[]).unwrap().len();
    let before = objects();
    let sealed = copy(&giver, &taker, &own).unwrap();
    let refuse = |sealed: &SealedKey, terms: &Terms, expected: &[Instance]| {
        let refused = taker.take_key(sealed, terms, expected);
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(objects(), before, "nothing is left in the token");
    };
    refuse(&sealed, &terms(), &others);
    refuse(&sealed, &terms(), &tags);
    refuse(&sealed, &terms(), &[]);
    refuse(&sealed, &terms(), &[instances.clone(), others].concat());
    refuse(&sealed, &Terms { to: name("hsm-3"), ..terms() }, &instances);
    // Wrapped bytes that were changed, and another key's under this one's name.
    let wrapped = |key: &KeyRef| giver.token().wrap(key).unwrap();
    let forged = |described: &Described, wrapped: &[u8]| {
        SealedKey::seal(&terms(), described.clone(), &taker.channel_key(), wrapped).unwrap()
    };
    let mut changed = wrapped(&own);
    changed[9] ^= 1;
    refuse(&forged(&sealed.described, &changed), &terms(), &instances);
    refuse(&forged(&sealed.described, &wrapped(&mac)), &terms(), &instances);
    refuse(&forged(&sealed.described, b""), &terms(), &instances);
    let as_software = KeyAttributes { token: None, ..sealed.described.attributes.clone() };
    refuse(
        &forged(&Described { attributes: as_software, ..sealed.described.clone() }, &wrapped(&own)),
        &terms(),
        &instances,
    );
    assert!(taker.keys().is_empty());
    taker.take_key(&sealed, &terms(), &instances).unwrap();

    // Another key of that name stays.
    taker.generate(&name("mac"), KeyAlgorithm::Aes128Cmac, Placement::New).unwrap();
    let refused = taker.take_key(&copy(&giver, &taker, &mac).unwrap(), &terms(), &tags);
    assert!(matches!(refused, Err(StoreError::KeyDiffers(_))), "{refused:?}");
}

#[test]
fn a_wrapping_key_wraps_and_does_nothing_else() {
    let [(_one, giver), (_two, taker)] = pair();
    let (own, instances) = made(&giver, "k", KeyAlgorithm::P256);
    let sealed = copy(&giver, &taker, &own).unwrap();

    let none = fresh_store().1;
    made(&none, "k", KeyAlgorithm::P256);
    assert!(matches!(refused(copy(&none, &taker, &own)), TokenError::NoWrappingKey { .. }));
    for more in [
        Attribute::Decrypt(true),
        Attribute::Encrypt(true),
        Attribute::Sign(true),
        Attribute::Derive(true),
        Attribute::Extractable(true),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
    ] {
        let (_directory, store) = fresh_store();
        provision(store.token(), &SHARED, std::slice::from_ref(&more));
        made(&store, "k", KeyAlgorithm::P256);
        assert!(matches!(refused(copy(&store, &taker, &own)), TokenError::NoWrappingKey { .. }), "{more:?}");
    }
    // Two of them are none, and another one than the giver's opens nothing.
    let (_directory, twice) = fresh_store();
    [SHARED, [1; 32]].iter().for_each(|value| provision(twice.token(), value, &[]));
    made(&twice, "k", KeyAlgorithm::P256);
    assert!(matches!(refused(copy(&twice, &taker, &own)), TokenError::NoWrappingKey { .. }));
    let (_directory, other) = fresh_store();
    provision(other.token(), &[1; 32], &[]);
    copy(&giver, &other, &own).and_then(|sealed| other.take_key(&sealed, &terms(), &instances)).unwrap_err();
    assert!(other.keys().is_empty());

    // A store without a token says what it lacks.
    let directory = tempfile::tempdir().unwrap();
    let software = create(&directory.path().join("store"));
    let to_software = giver.copy_key(&own, &terms(), &software.channel_key()).unwrap();
    assert!(matches!(software.take_key(&to_software, &terms(), &instances), Err(StoreError::NeedsToken(_))));
    taker.take_key(&sealed, &terms(), &instances).unwrap();
}
