//! P-256 and secp256k1 keys, which a token attests by signing; and the attributes that claims are bound to.

use keywitness_circuits::Shown;
use sha2::{Digest as _, Sha256};

use super::*;

const SIGNERS: [KeyAlgorithm; 2] = [KeyAlgorithm::P256, KeyAlgorithm::Secp256k1];

#[test]
fn an_ecdsa_key_shows_possession_and_signs_for_clients() {
    let (_directory, store) = fresh_store();
    let parameters = Parameters::transparent();
    for algorithm in SIGNERS {
        let made = store.generate(&name(algorithm.name()), algorithm, Placement::New).unwrap();
        let instance = store.instances(&made.key, &name("acme.example"), &[]).unwrap().remove(0);
        assert_eq!(instance.kind().map(Kind::shows), Some(Shown::Possession));
        assert_eq!(made.attributes().kinds(&[]), [instance.kind().unwrap()]);
        let mut halves = [false; 2];
        for round in 0..16 {
            let claim = ClaimContext { challenge: Nonce([round; 32]), ..context(&store, &made.key, &instance) };
            let proof = store.prove(&parameters, &claim, &instance.to_bytes(), &made.key).unwrap();
            let verified = registry::verify(&parameters, &claim, &instance.to_bytes(), &proof).unwrap();
            assert_eq!(*verified.instance(), instance);
            // The token makes either of the two signatures; what leaves the store is the one with the lower s.
            let raw = store.token().use_key(&made.key, |_| true, &Mechanism::Ecdsa, "signing", &[round; 32]).unwrap();
            halves[usize::from(raw[32] >= 0x80)] = true;
        }
        assert_eq!(halves, [true, true], "{algorithm}: both signatures were seen");

        let spki = instance.spki().unwrap().unwrap();
        let signature = store.sign(&made.key, b"pay 100").unwrap();
        assert!(verify_signature(algorithm, &spki, b"pay 100", &signature));
        assert!(!verify_signature(algorithm, &spki, b"pay 200", &signature));
        assert!(signature[32] < 0x80);
    }
}

/// A client that could have the token sign what an attestation signs could attest in the HSM's name.
#[test]
fn no_client_gets_a_proof_of_possession() {
    let (_directory, store) = fresh_store();
    let parameters = Parameters::transparent();
    let made = store.generate(&name("signing"), KeyAlgorithm::P256, Placement::New).unwrap();
    let instance = store.instances(&made.key, &name("acme.example"), &[]).unwrap().remove(0);
    let claim = context(&store, &made.key, &instance);
    let whole = [label::POSSESSION.as_bytes(), &[0], &claim.digest().0].concat();
    assert_eq!(Sha256::digest(&whole).as_slice(), ecdsa::attest_hash(&claim), "this is what is signed");
    for message in [whole.as_slice(), label::RESERVED_PREFIX.as_bytes(), label::POSSESSION.as_bytes()] {
        assert!(matches!(store.sign(&made.key, message), Err(StoreError::ReservedMessage)));
    }
    // The hash in place of the message is hashed once more: what comes back is no proof.
    let signature = store.sign(&made.key, &ecdsa::attest_hash(&claim)).unwrap();
    assert!(registry::verify(&parameters, &claim, &instance.to_bytes(), &signature).is_err());
    // An Ed25519 key signs no message of the other kind of attestation either.
    let other = store.generate(&name("other"), KeyAlgorithm::Ed25519, Placement::New).unwrap();
    assert!(matches!(store.sign(&other.key, &whole), Err(StoreError::ReservedMessage)));
}

#[test]
fn a_key_is_proven_under_its_own_statement_alone() {
    let (_directory, store) = fresh_store();
    let parameters = Parameters::transparent();
    let made = store.generate(&name("signing"), KeyAlgorithm::P256, Placement::New).unwrap();
    let instance = store.instances(&made.key, &name("acme.example"), &[]).unwrap().remove(0);
    let good = context(&store, &made.key, &instance);
    for other in [Kind::KeyKnowledgeP256, Kind::KeyPossessionSecp256k1, Kind::KeyKnowledgeEd25519] {
        let verifying_key = registry::verifying_key(&parameters, other).unwrap();
        let claim = ClaimContext { statement: other.name().to_owned(), verifying_key, ..good.clone() };
        let proof = store.prove(&parameters, &claim, &instance.to_bytes(), &made.key);
        assert!(matches!(proof, Err(StoreError::ForeignClaim)), "{other}: {proof:?}");
    }
    // The same point as the instance of knowledge: not what the token proves.
    let spki = instance.spki().unwrap().unwrap();
    let known = key_knowledge::Instance::public_key(KeyAlgorithm::P256, &{
        use p256::{elliptic_curve::sec1::ToEncodedPoint, pkcs8::DecodePublicKey};
        p256::PublicKey::from_public_key_der(&spki).unwrap().to_encoded_point(true).as_bytes().to_vec()
    });
    let known = Instance::from(known.unwrap());
    let claim = context(&store, &made.key, &known);
    assert!(matches!(store.prove(&parameters, &claim, &known.to_bytes(), &made.key), Err(StoreError::ForeignClaim)));
}

/// A key that SoftHSM lets others change.
fn changeable(token: &Token, own: &KeyRef, algorithm: KeyAlgorithm) -> ObjectHandle {
    let mut made = template(own, algorithm, object::mechanism(algorithm).unwrap());
    let loose = [AttributeType::Modifiable, AttributeType::Sensitive, AttributeType::Extractable];
    made.retain(|attribute| !loose.contains(&attribute.attribute_type()));
    made.extend([Attribute::Modifiable(true), Attribute::Sensitive(false), Attribute::Extractable(true)]);
    make(&raw(token), own, algorithm, &made).unwrap();
    handle(token, own)
}

#[test]
fn a_claim_names_the_attributes_that_the_token_tells_now() {
    let (_directory, store) = fresh_store();
    let parameters = Parameters::transparent();
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Ed25519] {
        let own = key(algorithm.name(), 1);
        let object = changeable(store.token(), &own, algorithm);
        let instance = store.instances(&own, &name("acme.example"), &[]).unwrap().remove(0);
        let before = context(&store, &own, &instance);
        store.prove(&parameters, &before, &instance.to_bytes(), &own).unwrap();

        let told = store.token().key(&own).unwrap();
        assert!(told.extractable && !told.token.sensitive && !told.token.never_extractable);
        raw(store.token()).update_attributes(object, &[Attribute::Sensitive(true)]).unwrap();
        let refused = store.prove(&parameters, &before, &instance.to_bytes(), &own);
        assert!(matches!(&refused, Err(StoreError::AttributesChanged(key)) if *key == own), "{refused:?}");
        let after = context(&store, &own, &instance);
        assert_ne!(after.keys, before.keys);
        store.prove(&parameters, &after, &instance.to_bytes(), &own).unwrap();
        // It is sensitive now, and was not always.
        let told = store.token().key(&own).unwrap().token;
        assert!(told.sensitive && !told.always_sensitive);
        // What the claim would rather say than what is.
        let mut better = after.clone();
        let flattering = KeyAttributes { extractable: false, ..store.token().key(&own).unwrap().attributes() };
        better.keys[0].attributes = flattering.digest();
        let refused = store.prove(&parameters, &better, &instance.to_bytes(), &own);
        assert!(matches!(refused, Err(StoreError::AttributesChanged(_))), "{refused:?}");
    }
}

#[test]
fn a_key_on_another_curve_or_for_other_mechanisms_is_told_and_not_used() {
    let (_directory, store) = fresh_store();
    let session = raw(store.token());
    let pair = |label: &str, curve: &[u8], more: &[Attribute]| {
        let public = [
            Attribute::Label(label.into()),
            Attribute::Token(true),
            Attribute::Verify(true),
            Attribute::EcParams(curve.to_vec()),
        ];
        let private =
            [Attribute::Label(label.into()), Attribute::Token(true), Attribute::Private(true), Attribute::Sign(true)];
        let private = [&private[..], more].concat();
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap()
    };
    // P-384, which no statement is about.
    pair("p384", b"\x06\x05\x2b\x81\x04\x00\x22", &[]);
    let p256 = object::curve(KeyAlgorithm::P256).unwrap();
    pair("hashed", p256, &[Attribute::AllowedMechanisms(vec![MechanismType::ECDSA_SHA256])]);
    pair("free", p256, &[]);
    let keys = store.token().keys().unwrap();
    let refusals: Vec<_> = keys.iter().map(|key| (key.key.key.as_str(), key.refusal.as_deref())).collect();
    assert_eq!(refusals, [("free", None), ("hashed", Some("ECDSA is not among its allowed mechanisms"))]);
    assert!(matches!(refused(store.sign(&key("hashed", 1), b"message")), TokenError::Refused { .. }));
    store.sign(&key("free", 1), b"message").unwrap();
    assert_eq!(keys[0].token.mechanisms.numbers(), [0; 0]);
    let error = refused(store.sign(&key("p384", 1), b"message")).to_string();
    assert!(error.contains("\"p384\" (of another algorithm)"), "{error}");
}
