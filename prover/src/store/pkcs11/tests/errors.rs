//! Errors of a token, a PIN that changes, and handles that come to mean another key.

use std::cell::Cell;

use cryptoki::context::Function;

use super::*;

/// How often a call is made that answers `code`, where the login ends meanwhile and where it does not.
fn attempts(token: &Token, code: RvError, over: bool) -> u32 {
    let made = Cell::new(0);
    let failed = token.pool.with_session(|_, session| {
        made.set(made.get() + 1);
        if over && made.get() == 1 {
            token.call("ending the login", session.logout())?;
        }
        token.call("signing", Err::<(), _>(Error::Pkcs11(code, Function::Sign)))
    });
    assert!(matches!(failed, Err(TokenError::Call { doing: "signing", .. })), "{failed:?}");
    made.get()
}

/// One bad key must not end the login that all keys are used under: what may mean anything is the key's own while the token is there.
#[test]
fn a_key_that_fails_ends_no_login() {
    let token = fresh();
    for code in [RvError::GeneralError, RvError::FunctionFailed, RvError::DeviceError] {
        let error =
            TokenError::Call { token: String::new(), doing: "signing", source: Error::Pkcs11(code, Function::Sign) };
        assert_eq!(error.gone(), error::Gone::Perhaps, "{code:?}");
        assert_eq!(attempts(&token, code, false), 1, "{code:?}: the login stays");
        assert_eq!(attempts(&token, code, true), 2, "{code:?}: a login that is over is renewed");
    }
    token.generate(&key("k", 1), KeyAlgorithm::Ed25519, false).unwrap();
}

#[test]
fn a_pin_that_changed_is_tried_once() {
    let (_directory, store) = fresh_store();
    let own = store.generate(&name("k"), KeyAlgorithm::Ed25519, Placement::New).unwrap().key;
    let session = raw(store.token());
    session.set_pin(&AuthPin::from(PIN), &AuthPin::from("another horse")).unwrap();
    session.logout().unwrap();
    drop(session);
    let first = refused(store.sign(&own, b"message"));
    assert!(matches!(&first, TokenError::Stranded { why, .. } if why.contains("is wrong")), "{first}");
    for _ in 0..3 {
        let next = refused(store.sign(&own, b"message"));
        assert!(matches!(&next, TokenError::NoLoginAgain { .. }) && !next.may_pass(), "{next}");
    }
}

/// A token that uses a handle again: what was found as one key is another one, whose attributes nobody can change either.
fn under_anothers_handle(token: &Token, own: &KeyRef, other: &KeyRef) {
    let other = handle(token, other);
    let planted = token.pool.with_session(|connection, session| {
        let mut known = token.lookup(session, own)?;
        known.handle = other;
        connection.keep(Arc::new(known));
        Ok(())
    });
    planted.unwrap();
}

#[test]
fn a_client_gets_no_signature_of_another_key() {
    let (_directory, store) = fresh_store();
    for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::P256, KeyAlgorithm::Secp256k1] {
        let place = |which: &str| {
            let text = format!("{}-{which}", algorithm.name());
            store.generate(&name(&text), algorithm, Placement::New).unwrap().key
        };
        let (own, other) = (place("own"), place("other"));
        let spki = |key: &KeyRef| {
            let instance = store.instances(key, &name("acme.example"), &[]).unwrap().remove(0);
            instance.spki().unwrap().unwrap()
        };
        let (of_own, of_other) = (spki(&own), spki(&other));
        assert_ne!(of_own, of_other);

        under_anothers_handle(store.token(), &own, &other);
        // What the token signs there is the other's.
        let strange = match algorithm {
            KeyAlgorithm::Ed25519 => store.token().eddsa(&own, b"pay 100").unwrap(),
            _ => store.token().ecdsa(&own, algorithm, &sha256(b"pay 100")).unwrap(),
        };
        assert!(verify_signature(algorithm, &of_other, b"pay 100", &strange), "{algorithm}");
        let given = store.sign(&own, b"pay 100").unwrap();
        assert!(verify_signature(algorithm, &of_own, b"pay 100", &given), "{algorithm}: the key was looked for anew");

        // Where even that finds another public key beside it, nothing is given.
        let session = raw(store.token());
        let named = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Label(own.key.as_str().into())];
        session.destroy_object(session.find_objects(&named).unwrap()[0]).unwrap();
        let public = [
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(object::key_type(algorithm)),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::Label(own.key.as_str().into()),
            Attribute::Id(object::id_of(1)),
            Attribute::EcParams(object::curve(algorithm).unwrap().to_vec()),
            Attribute::EcPoint(object::point(algorithm, &of_other).unwrap()),
        ];
        session.create_object(&public).unwrap();
        assert_eq!(spki(&own), of_other, "{algorithm}: the token says so now");
        let error = refused(store.sign(&own, b"pay 100"));
        assert!(matches!(error, TokenError::NoPublicKey { .. }), "{algorithm}: {error}");
        store.sign(&other, b"pay 100").unwrap();
    }
}

fn sha256(message: &[u8]) -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(message).into()
}
