//! The HSM's identity in a token, keys by id, keys that are removed, and how many calls are made at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use keywitness_circuits::{KeyId, key_knowledge::eddsa::verify_signature as verify_eddsa};

use super::*;

fn identity_of(store: &TokenStore) -> [u8; 32] {
    Digest::from(store.identity()).0
}

/// A store whose token has an Ed25519 key of this label.
fn with_identity(label: &str, named: Option<&str>) -> (TempDir, Result<TokenStore, StoreError>) {
    let directory = tempfile::tempdir().unwrap();
    let (software, token) = (create(&directory.path().join("store")), fresh());
    token.generate(&key(label, 1), KeyAlgorithm::Ed25519, false).unwrap();
    let named: Option<KeyId> = named.map(name);
    (directory, TokenStore::new(software, token, named.as_ref()))
}

#[test]
fn an_identity_in_the_token_signs_what_the_hsm_says() {
    for (label, named) in [(IDENTITY, None), ("hsm-7", Some("hsm-7"))] {
        let (_directory, store) = with_identity(label, named);
        let store = store.unwrap();
        let spki = store.token().public_key(&key(label, 1)).unwrap().instance().spki().unwrap().unwrap();
        assert_eq!(spki[12..], identity_of(&store), "the identity is the token's key");
        assert_eq!(store.identity(), store.software().identity(), "dealings and copies are signed with it too");
        for signer in [&store as &dyn KeyStore, store.software()] {
            let signature = signer.sign_with_identity(b"keywitness/v1/request\0").unwrap();
            assert!(verify_eddsa(&identity_of(&store), b"keywitness/v1/request\0", &signature));
        }

        // It is no key like the others.
        let identity = key(label, 1);
        assert!(store.keys().is_empty(), "it is not attested");
        assert!(store.token().keys().unwrap()[0].refusal.as_ref().unwrap().contains("identity"));
        assert!(matches!(store.sign(&identity, b"message"), Err(StoreError::NoSuchKey(_))));
        let instance = Instance::from(key_knowledge::Instance::public_key(KeyAlgorithm::Ed25519, &spki[12..]).unwrap());
        let claim = context(&store, &identity, &instance);
        let proof = store.prove(&Parameters::transparent(), &claim, &instance.to_bytes(), &identity);
        assert!(matches!(proof, Err(StoreError::NoSuchKey(_))), "{proof:?}");
        assert!(matches!(store.delete(&identity), Err(StoreError::IdentityStays)));
    }
}

#[test]
fn without_a_key_for_it_the_identity_is_the_files() {
    let (_directory, store) = with_identity("signing", None);
    let store = store.unwrap();
    let signature = store.sign_with_identity(b"message").unwrap();
    assert!(verify_eddsa(&identity_of(&store), b"message", &signature));
    assert_eq!(store.keys().len(), 1);
    let (_directory, none) = with_identity("signing", Some("hsm-7"));
    assert!(matches!(refused(none), TokenError::NoSuchKey { .. }));

    let directory = tempfile::tempdir().unwrap();
    let (software, token) = (create(&directory.path().join("store")), fresh());
    token.generate(&key(IDENTITY, 1), KeyAlgorithm::P256, false).unwrap();
    let wrong = TokenStore::new(software, token, None);
    assert!(matches!(refused(wrong), TokenError::WrongAlgorithm { algorithm: KeyAlgorithm::P256, .. }));
}

#[test]
fn an_identity_is_made_before_the_hsm_is_somebodys() {
    let (_directory, store) = fresh_store();
    let place = |placement, algorithm| store.generate(&name(IDENTITY), algorithm, placement);
    assert!(matches!(place(Placement::New, KeyAlgorithm::P256), Err(StoreError::IdentityStays)));
    assert!(matches!(place(Placement::Rotate, KeyAlgorithm::Ed25519), Err(StoreError::IdentityStays)));
    store.set_membership(crate::testing::membership()).unwrap();
    assert!(matches!(place(Placement::New, KeyAlgorithm::Ed25519), Err(StoreError::IdentityStays)));
}

/// Another public key beside the identity: what the token signs would not be that identity's.
#[test]
fn an_identity_with_anothers_public_key_signs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (software, token) = (create(&directory.path().join("store")), fresh());
    token.generate(&key(IDENTITY, 1), KeyAlgorithm::Ed25519, false).unwrap();
    let session = raw(&token);
    let public = session.find_objects(&[Attribute::Class(ObjectClass::PUBLIC_KEY)]).unwrap();
    session.destroy_object(public[0]).unwrap();
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes();
    let object = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::EC_EDWARDS),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::Label(IDENTITY.into()),
        Attribute::Id(object::id_of(1)),
        Attribute::EcParams(object::EDWARDS25519.to_vec()),
        Attribute::EcPoint([&[0x04, 0x20], stranger.as_slice()].concat()),
    ];
    session.create_object(&object).unwrap();
    let store = TokenStore::new(software, token, None).unwrap();
    assert_eq!(identity_of(&store), stranger);
    assert!(matches!(refused(store.sign_with_identity(b"message")), TokenError::NoPublicKey { .. }));
}

#[test]
fn keys_are_chosen_by_label_or_id() {
    let (label, library) = (fresh_label(), library());
    initialize(&label);
    let token = open(&label, PIN).unwrap();
    for text in ["one", "two"] {
        token.generate(&key(text, 1), KeyAlgorithm::Ed25519, false).unwrap();
    }
    // A label that is no key's name, and an ID of somebody else's making.
    let named = [
        Attribute::Label(b"TLS key (2024)".to_vec()),
        Attribute::Id(vec![0xab, 0xcd]),
        Attribute::Token(true),
        Attribute::EcParams(object::curve(KeyAlgorithm::P256).unwrap().to_vec()),
    ];
    raw(&token)
        .generate_key_pair(&Mechanism::EccKeyPairGen, &named, &[&named[..3], &[Attribute::Sign(true)]].concat())
        .unwrap();
    let names = |token: &Token| -> Vec<String> {
        token.keys().unwrap().into_iter().map(|key| key.key.key.to_string()).collect()
    };
    assert_eq!(names(&token), ["one", "two"]);
    drop(token);

    let choose = |label_or_id: KeyChoice| {
        Token::open(&library, &TokenChoice::label(&label), Pin::new(PIN).unwrap()).unwrap().with_keys(label_or_id)
    };
    let one = choose(KeyChoice { label: Some("one".to_owned()), id: None });
    assert_eq!(names(&one), ["one"]);
    assert!(matches!(refused(one.key(&key("two", 1))), TokenError::NoSuchKey { .. }));
    drop(one);
    let by_id = choose(KeyChoice { label: None, id: Some(vec![0xab, 0xcd]) });
    assert_eq!(names(&by_id), ["id-abcd"]);
    let directory = tempfile::tempdir().unwrap();
    let store = TokenStore::new(create(&directory.path().join("store")), by_id, None).unwrap();
    let own = key("id-abcd", 1);
    let instance = store.instances(&own, &name("acme.example"), &[]).unwrap().remove(0);
    let claim = context(&store, &own, &instance);
    store.prove(&Parameters::transparent(), &claim, &instance.to_bytes(), &own).unwrap();
    let signature = store.sign(&own, b"message").unwrap();
    assert!(verify_signature(KeyAlgorithm::P256, &instance.spki().unwrap().unwrap(), b"message", &signature));
}

#[test]
fn a_removed_key_takes_its_public_half_along_and_no_other() {
    let (_directory, store) = fresh_store();
    for (text, algorithm) in
        [("k", KeyAlgorithm::P256), ("mac", KeyAlgorithm::Aes128Cmac), ("stays", KeyAlgorithm::P256)]
    {
        store.generate(&name(text), algorithm, Placement::New).unwrap();
    }
    store.generate(&name("k"), KeyAlgorithm::P256, Placement::Rotate).unwrap();
    store.software().generate(&name("soft"), KeyAlgorithm::Ed25519, Placement::New).unwrap();
    store.sign(&key("k", 1), b"message").unwrap();
    for gone in [key("k", 1), key("mac", 1), key("soft", 1)] {
        store.delete(&gone).unwrap();
        store.delete(&gone).unwrap_err();
    }
    let left: Vec<_> = store.keys().into_iter().map(|entry| (entry.key.key.to_string(), entry.key.epoch)).collect();
    assert_eq!(left, [("k".to_owned(), 2), ("stays".to_owned(), 1)]);
    assert!(matches!(refused(store.sign(&key("k", 1), b"message")), TokenError::NoSuchKey { .. }));
    store.sign(&key("k", 2), b"message").unwrap();
    let publics = raw(store.token()).find_objects(&[Attribute::Class(ObjectClass::PUBLIC_KEY)]).unwrap();
    assert_eq!(publics.len(), 2);
}

#[test]
fn no_more_calls_are_made_at_once_than_there_are_sessions() {
    let token = fresh();
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let rounds = 4 * token.parallel();
    std::thread::scope(|scope| {
        for _ in 0..rounds {
            scope.spawn(|| {
                let counted = token.pool.with_session(|_, session| {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    token.call("asking", session.get_session_info()).map(drop)?;
                    std::thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                });
                counted.unwrap();
            });
        }
    });
    assert_eq!(now.load(Ordering::SeqCst), 0);
    assert!((1..=token.parallel()).contains(&most.load(Ordering::SeqCst)), "{most:?}");
}

/// Another part of the process ends the login: sessions stay, and see no key.
#[test]
fn calls_go_on_after_the_login_is_over() {
    let (_directory, store) = fresh_store();
    let own = store.generate(&name("signing"), KeyAlgorithm::Ed25519, Placement::New).unwrap().key;
    let spki = store.instances(&own, &name("a"), &[]).unwrap().remove(0).spki().unwrap().unwrap();
    let end = || {
        // It may be over already, where another thread has ended it.
        let _ = store.token().pool.with_session(|_, session| {
            let _ = session.logout();
            Ok(())
        });
    };
    for round in 0..3 {
        end();
        let message = [round; 8];
        let signature = store.sign(&own, &message).unwrap();
        assert!(verify_signature(KeyAlgorithm::Ed25519, &spki, &message, &signature));
    }
    // Many at once, while it ends again and again.
    std::thread::scope(|scope| {
        let signers: Vec<_> = (0..4u8)
            .map(|thread| {
                let (store, own, spki) = (&store, &own, &spki);
                scope.spawn(move || {
                    let mut failed = 0;
                    for round in 0..20u8 {
                        match store.sign(own, &[thread, round]) {
                            Ok(signature) => {
                                assert!(verify_signature(KeyAlgorithm::Ed25519, spki, &[thread, round], &signature));
                            }
                            Err(_) => failed += 1,
                        }
                    }
                    failed
                })
            })
            .collect();
        (0..5).for_each(|_| end());
        let failed: u32 = signers.into_iter().map(|signer| signer.join().unwrap()).sum();
        assert!(failed < 40, "{failed} of 80 failed, though each call is made twice");
    });
    store.sign(&own, b"after it").unwrap();
}
