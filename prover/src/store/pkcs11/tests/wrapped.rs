//! Keys from token to token, and what is tried on the way.

use keywitness_verifier::transfer::{Described, SealedKey, Terms};
use p256::pkcs8::{DecodePrivateKey, EncodePublicKey};

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

/// A wrapping key, as operators make it.
fn wrapping(value: &[u8], more: &[Attribute]) -> Vec<Attribute> {
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
    attributes
}

/// Puts a wrapping key into a token, as its operator does.
fn provision(token: &Token, value: &[u8], more: &[Attribute]) {
    raw(token).create_object(&wrapping(value, more)).unwrap();
}

/// An HSM whose token has a wrapping key that its security officer made, and trusts.
fn trusting() -> (TempDir, TokenStore) {
    let (directory, label) = (tempfile::tempdir().unwrap(), fresh_label());
    let trusted = wrapping(&SHARED, &[Attribute::Private(false), Attribute::Trusted(true)]);
    initialize_with(&label, |officer| {
        officer.create_object(&trusted).unwrap();
    });
    let software = create(&directory.path().join("store"));
    (directory, TokenStore::new(software, open(&label, PIN).unwrap(), None).unwrap())
}

/// CKA_UNWRAP_TEMPLATE as docs/clusters.md has it. `cryptoki` has no name for it: what the specification calls an array of CK_ATTRIBUTE,
/// each of a type, the address of its value, and the value's length.
fn unwrap_template() -> Attribute {
    static OFF: u8 = 0;
    static ON: u8 = 1;
    // CKA_SENSITIVE, and not CKA_EXTRACTABLE, CKA_DECRYPT, CKA_UNWRAP or CKA_DERIVE.
    let entries = [(0x103, &ON), (0x162, &OFF), (0x105, &OFF), (0x107, &OFF), (0x10c, &OFF)];
    let entry = |(kind, value): (usize, &'static u8)| {
        [kind, std::ptr::from_ref(value).expose_provenance(), 1].map(usize::to_ne_bytes).concat()
    };
    let bytes = entries.into_iter().flat_map(entry).collect();
    Attribute::VendorDefined((AttributeType::VendorDefined(0x4000_0212), bytes))
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

fn wrapping_key(token: &Token) -> ObjectHandle {
    let named = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(WRAPPING.into())];
    raw(token).find_objects(&named).unwrap()[0]
}

/// What whoever has the PIN asks of the token's own library: the wrapped bytes as an object that can be read.
fn read_wrapped(store: &TokenStore, wrapped: &[u8]) -> Result<Vec<u8>, Error> {
    let (session, wrapping) = (raw(store.token()), wrapping_key(store.token()));
    let loose = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ];
    let object = session.unwrap_key(&Mechanism::AesKeyWrapPad, wrapping, wrapped, &loose)?;
    match session.get_attributes(object, &[AttributeType::Value])?.pop() {
        Some(Attribute::Value(value)) => Ok(value),
        other => panic!("{other:?}"),
    }
}

/// Without a template of what is unwrapped, a PIN reads what was wrapped, as docs/clusters.md says; with one it does not, and keys arrive.
#[test]
fn an_unwrap_template_keeps_a_wrapped_key_from_whoever_has_the_pin() {
    let [(_one, giver), (_two, open)] = pair();
    let (own, instances) = made(&giver, "k", KeyAlgorithm::P256);
    let wrapped = giver.token().wrap(&own).unwrap();
    let read = read_wrapped(&open, &wrapped).unwrap();
    // SoftHSM leaves the padding of the wrap behind a generic secret.
    let read = p256::SecretKey::from_pkcs8_der(&read[..2 + usize::from(read[1])]).unwrap();
    let spki = read.public_key().to_public_key_der().unwrap();
    assert_eq!(spki.as_bytes(), instances[0].spki().unwrap().unwrap(), "it is the key");

    let (_directory, kept) = fresh_store();
    provision(kept.token(), &SHARED, &[unwrap_template(), Attribute::Modifiable(false), Attribute::Copyable(false)]);
    let refused = read_wrapped(&kept, &wrapped);
    assert!(matches!(refused, Err(Error::Pkcs11(RvError::TemplateInconsistent, _))), "{refused:?}");
    let (session, wrapping) = (raw(kept.token()), wrapping_key(kept.token()));
    assert!(session.update_attributes(wrapping, &[Attribute::Decrypt(true)]).is_err());
    assert!(session.copy_object(wrapping, &[Attribute::Decrypt(true)]).is_err());
    let taken = kept.take_key(&copy(&giver, &kept, &own).unwrap(), &terms(), &instances).unwrap();
    assert!(!taken.attributes.extractable, "{taken:?}");
}

/// What whoever has the PIN asks of the token's own library: a key wrapped by one that they know.
fn wrap_with_own(store: &TokenStore, key: &KeyRef) -> Result<Vec<u8>, Error> {
    let session = raw(store.token());
    let known = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Value(vec![9; 32]),
        Attribute::Token(false),
        Attribute::Wrap(true),
    ];
    let trusted = session.create_object(&[&known[..], &[Attribute::Trusted(true)]].concat());
    assert!(trusted.is_err(), "trust is the security officer's to give: {trusted:?}");
    let wrapping = session.create_object(&known)?;
    session.wrap_key(&Mechanism::AesKeyWrapPad, wrapping, handle(store.token(), key))
}

#[test]
fn a_key_generated_beside_a_trusted_wrapping_key_is_wrapped_by_no_other() {
    let [(_one, giver), (_two, taker)] = [trusting(), trusting()];
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Secp256k1] {
        let (own, instances) = made(&giver, algorithm.name(), algorithm);
        let refused = wrap_with_own(&giver, &own);
        assert!(matches!(refused, Err(Error::Pkcs11(RvError::KeyNotWrappable, _))), "{algorithm}: {refused:?}");
        let object = handle(giver.token(), &own);
        let loosened = raw(giver.token()).update_attributes(object, &[Attribute::WrapWithTrusted(false)]);
        assert!(loosened.is_err(), "{algorithm}");
        let taken = taker.take_key(&copy(&giver, &taker, &own).unwrap(), &terms(), &instances).unwrap();
        assert!(!taken.attributes.extractable, "{taken:?}");
    }
    let mac = giver.generate_as(&name("mac"), KeyAlgorithm::Aes128Cmac, Placement::New, true).unwrap();
    assert!(matches!(wrap_with_own(&giver, &mac.key), Err(Error::Pkcs11(RvError::KeyNotWrappable, _))));

    // Without that trust any key wraps it.
    let [(_three, other), _] = pair();
    let (own, _) = made(&other, "k", KeyAlgorithm::P256);
    wrap_with_own(&other, &own).unwrap();
}
