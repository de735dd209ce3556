//! One harness for every registered statement kind. It iterates over `Kind::ALL`, so that a new kind is
//! attacked the moment it exists.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock},
};

use keywitness_circuits::{
    ClaimContext, Digest, Error, Instance, KeyAlgorithm, KeyAttributes, KeyClaim, KeyOrigin, Kind, Mechanisms, Nonce,
    Parameters, Shown, Suite, Timestamp, TokenAttributes, TrustDomain, Witness,
    codec::Canonical,
    context, key_derivation, key_knowledge,
    key_possession::{self, ecdsa},
    params::Groth16Parameters,
    registry,
    share_correctness::{self, Commitments, Scheme},
    sharing_of_key, tagged_key,
};
use proptest::prelude::*;
use rand::rngs::OsRng;

/// Made once: development parameters take a moment.
pub(crate) fn parameters() -> &'static Parameters {
    static PARAMETERS: OnceLock<Parameters> = OnceLock::new();
    PARAMETERS.get_or_init(|| {
        let one = Parameters::transparent().with_groth16(Groth16Parameters::develop().unwrap());
        one.with_groth16_many(Groth16Parameters::develop_many().unwrap())
    })
}

pub(crate) struct Case {
    pub(crate) context: ClaimContext,
    pub(crate) instance: Vec<u8>,
    witness: Witness,
}

/// A key, its instance and its secret: what differs from statement to statement.
struct Subject {
    attributes: KeyAttributes,
    instance: Instance,
    witness: Witness,
}

/// What a token says about a key that signs by ECDSA alone.
fn in_token() -> TokenAttributes {
    let mechanisms = Mechanisms::new([0x1041]).unwrap();
    TokenAttributes { sensitive: true, always_sensitive: true, never_extractable: true, mechanisms }
}

/// A key that `kind` attests; another `secret` makes another key.
fn subject(kind: Kind, secret: u8, trust_domain: &TrustDomain) -> Subject {
    let key = |algorithm, suite| {
        let bytes: Vec<u8> = (0..32).map(|i| if i == 31 { 1 } else { secret ^ i }).collect();
        let witness = key_knowledge::Witness::new(algorithm, &bytes).unwrap();
        let attributes = KeyAttributes::new(algorithm, KeyOrigin::Generated, false);
        let instance = witness.instance(trust_domain, suite).unwrap();
        Subject { attributes, instance: instance.into(), witness: witness.into() }
    };
    let possessed = |algorithm| {
        let bytes: Vec<u8> = (0..32).map(|i| if i == 31 { 1 } else { secret ^ i }).collect();
        let witness = key_possession::Witness::new(algorithm, &bytes).unwrap();
        let attributes =
            KeyAttributes { token: Some(in_token()), ..KeyAttributes::new(algorithm, KeyOrigin::Generated, false) };
        Subject { attributes, instance: witness.instance(trust_domain).unwrap().into(), witness: witness.into() }
    };
    match kind {
        Kind::KeyPossessionP256 => possessed(KeyAlgorithm::P256),
        Kind::KeyPossessionSecp256k1 => possessed(KeyAlgorithm::Secp256k1),
        Kind::KeyDerivationHalo2 => {
            let (key, algorithm) = ("signing".parse().unwrap(), KeyAlgorithm::Aes192);
            let target = key_derivation::Target { key, algorithm, epoch: 1 };
            let witness = key_derivation::Witness::new(KeyAlgorithm::Aes256, &[secret; 32]).unwrap();
            let attributes = KeyAttributes::new(algorithm, KeyOrigin::Derived, false);
            let instance = witness.instance(trust_domain, &target).unwrap();
            Subject { attributes, instance: instance.into(), witness: witness.into() }
        }
        Kind::TaggedKeyHalo2 => {
            let algorithm = KeyAlgorithm::Aes256Cmac;
            let witness = tagged_key::Witness::of_key(algorithm, &[secret; 32], trust_domain, &Nonce([6; 32])).unwrap();
            let attributes = KeyAttributes::new(algorithm, KeyOrigin::Generated, false);
            let instance = witness.instance(trust_domain, algorithm, &Nonce([6; 32])).unwrap();
            Subject { attributes, instance: instance.into(), witness: witness.into() }
        }
        Kind::KeyKnowledgeEd25519 => key(KeyAlgorithm::Ed25519, Suite::PublicKey),
        Kind::KeyKnowledgeRistretto255 => key(KeyAlgorithm::Ristretto255, Suite::PublicKey),
        Kind::KeyKnowledgeP256 => key(KeyAlgorithm::P256, Suite::PublicKey),
        Kind::KeyKnowledgeSecp256k1 => key(KeyAlgorithm::Secp256k1, Suite::PublicKey),
        Kind::KeyKnowledgeHalo2 => key(KeyAlgorithm::Aes256, Suite::Halo2Pasta),
        Kind::KeyKnowledgeGroth16 => key(KeyAlgorithm::Aes256, Suite::Groth16Bn254),
        Kind::ManyKeysGroth16 => many_keys(Suite::Groth16Bn254, secret, trust_domain),
        Kind::ManyKeysHalo2 => many_keys(Suite::Halo2Pasta, secret, trust_domain),
        Kind::ShareCorrectnessFeldman => share(Scheme::Feldman, secret),
        Kind::ShareCorrectnessPedersen => share(Scheme::Pedersen, secret),
        Kind::SharingOfKeyHalo2 => {
            let (algorithm, points) = (KeyAlgorithm::Aes256, [1, 2, 3, 5, 8]);
            let (instance, witness, _) =
                sharing_of_key::Witness::deal(algorithm, &[secret; 32], trust_domain, 3, &points, &mut OsRng).unwrap();
            let attributes = KeyAttributes::new(algorithm, KeyOrigin::Generated, false);
            Subject { attributes, instance: instance.into(), witness: witness.into() }
        }
    }
}

/// Three keys in one proof, each of another length.
fn many_keys(suite: Suite, secret: u8, trust_domain: &TrustDomain) -> Subject {
    let key = |(index, algorithm): (u8, KeyAlgorithm)| {
        key_knowledge::Witness::new(algorithm, &vec![secret ^ (index << 6); algorithm.secret_len()]).unwrap()
    };
    let algorithms = [KeyAlgorithm::Aes256, KeyAlgorithm::Aes128, KeyAlgorithm::Aes192];
    let witness = key_knowledge::many::Witness::new((0..).zip(algorithms).map(key).collect());
    let instance = witness.instance(trust_domain, suite).unwrap();
    let attributes = KeyAttributes::new(KeyAlgorithm::Aes256, KeyOrigin::Generated, false);
    Subject { attributes, instance: instance.into(), witness: witness.into() }
}

/// The third share of a dealing with threshold 3, whose polynomials begin with `secret`.
fn share(scheme: Scheme, secret: u8) -> Subject {
    use curve25519_dalek::{RistrettoPoint, Scalar};
    let [f, g] = [[secret, 21, 22], [secret ^ 0x80, 31, 32]].map(|polynomial| polynomial.map(Scalar::from));
    let commit = |(a, b): (&Scalar, &Scalar)| match scheme {
        Scheme::Feldman => RistrettoPoint::mul_base(a),
        Scheme::Pedersen => RistrettoPoint::mul_base(a) + share_correctness::blinding_generator() * b,
    };
    let points = f.iter().zip(&g).map(|pair| commit(pair).compress().to_bytes()).collect();
    let at = |polynomial: [Scalar; 3]| {
        polynomial.iter().rev().fold(Scalar::ZERO, |sum, a| sum * Scalar::from(3u8) + a).to_bytes()
    };
    let (bytes, length) = ([at(f), at(g)].concat(), if scheme == Scheme::Feldman { 32 } else { 64 });
    let instance = share_correctness::Instance::new(Commitments::new(scheme, points).unwrap(), 3).unwrap();
    let algorithm = instance.algorithm();
    Subject {
        attributes: KeyAttributes::new(algorithm, KeyOrigin::Imported, false),
        instance: instance.into(),
        witness: share_correctness::Witness::new(scheme, &bytes[..length]).unwrap().into(),
    }
}

pub(crate) fn case(kind: Kind, secret: u8) -> Case {
    let trust_domain: TrustDomain = "acme.example".parse().unwrap();
    let Subject { attributes, instance, witness } = subject(kind, secret, &trust_domain);
    let keys = instance.keys();
    let instance = instance.to_bytes();
    let context = ClaimContext {
        statement: kind.name().to_owned(),
        verifying_key: registry::verifying_key(parameters(), kind).unwrap(),
        trust_domain,
        manager: "manager-1".parse().unwrap(),
        cluster: "payments".parse().unwrap(),
        hsm: "hsm-1".parse().unwrap(),
        enrolment: 1,
        keys: vec![KeyClaim { key: "signing".parse().unwrap(), epoch: 1, attributes: attributes.digest() }; keys],
        instance: context::instance_digest(&instance),
        challenge: Nonce([7; 32]),
        not_before: Timestamp(1_000),
        not_after: Timestamp(2_000),
        checkpoint: None,
        evidence: None,
    };
    Case { context, instance, witness }
}

impl Case {
    /// An honest proof. One about many keys takes a second, so that those are made once for each claim.
    pub(crate) fn prove(&self) -> Vec<u8> {
        static MADE: Mutex<BTreeMap<Digest, Vec<u8>>> = Mutex::new(BTreeMap::new());
        let make = || registry::prove(parameters(), &self.context, &self.instance, &self.witness).unwrap();
        if self.context.keys.len() == 1 {
            return make();
        }
        MADE.lock().unwrap().entry(self.context.digest()).or_insert_with(make).clone()
    }
}

pub(crate) fn verify(context: &ClaimContext, instance: &[u8], proof: &[u8]) -> Result<(), Error> {
    registry::verify(parameters(), context, instance, proof).map(drop)
}

type Change = (&'static str, fn(&mut ClaimContext));

/// Every field of the context, changed alone. Written out field by field: a field that is added to the
/// context without a line here fails to compile in [`every_field`].
const CHANGES: [Change; 17] = [
    ("statement", |c| c.statement = "key-knowledge/none/1".to_owned()),
    ("verifying key", |c| c.verifying_key = Digest([9; 32])),
    ("trust domain", |c| c.trust_domain = "other.example".parse().unwrap()),
    ("manager", |c| c.manager = "manager-2".parse().unwrap()),
    ("cluster", |c| c.cluster = "archive".parse().unwrap()),
    ("hsm", |c| c.hsm = "hsm-2".parse().unwrap()),
    ("enrolment", |c| c.enrolment += 1),
    ("key id", |c| c.keys[0].key = "other".parse().unwrap()),
    ("key epoch", |c| c.keys[0].epoch += 1),
    ("key attributes", |c| c.keys[0].attributes = Digest([9; 32])),
    ("another key", |c| c.keys.push(c.keys[0].clone())),
    ("instance", |c| c.instance = Digest([9; 32])),
    ("challenge", |c| c.challenge = Nonce([8; 32])),
    ("not before", |c| c.not_before = Timestamp(1_001)),
    ("not after", |c| c.not_after = Timestamp(2_001)),
    ("checkpoint", |c| c.checkpoint = Some(Digest([9; 32]))),
    ("evidence", |c| c.evidence = Some(Digest([9; 32]))),
];

/// Names every field, so that the compiler asks for a change when one is added.
fn every_field(context: &ClaimContext) -> usize {
    let ClaimContext {
        statement: _,
        verifying_key: _,
        trust_domain: _,
        manager: _,
        cluster: _,
        hsm: _,
        enrolment: _,
        keys: _,
        instance: _,
        challenge: _,
        not_before: _,
        not_after: _,
        checkpoint: _,
        evidence: _,
    } = context;
    // `keys` has four changes: three in one claim, and a second claim.
    14 + 3
}

#[test]
fn a_valid_proof_verifies() {
    for kind in Kind::ALL {
        let case = case(kind, 3);
        let verified = registry::verify(parameters(), &case.context, &case.instance, &case.prove()).unwrap();
        assert_eq!(verified.kind(), kind);
        assert_eq!(*verified.context(), case.context.digest());
        assert_eq!(verified.instance().to_bytes(), case.instance);
    }
}

#[test]
fn every_field_of_the_context_is_bound() {
    for kind in Kind::ALL {
        let case = case(kind, 3);
        let proof = case.prove();
        assert_eq!(every_field(&case.context), CHANGES.len());
        for (field, change) in CHANGES {
            let mut changed = case.context.clone();
            change(&mut changed);
            assert_ne!(changed.digest(), case.context.digest(), "{kind}: {field} is not in the digest");
            assert!(verify(&changed, &case.instance, &proof).is_err(), "{kind}: {field} is not bound");
        }
    }
}

#[test]
fn the_proof_alone_binds_the_context() {
    // The registry's own checks aside: for the fields that it does not look at, only the proof can refuse.
    for kind in Kind::ALL {
        let case = case(kind, 3);
        let mut changed = case.context.clone();
        changed.hsm = "hsm-2".parse().unwrap();
        assert_eq!(verify(&changed, &case.instance, &case.prove()), Err(Error::ProofRefused), "{kind}");
    }
}

#[test]
fn a_changed_proof_is_refused() {
    for kind in Kind::ALL {
        let case = case(kind, 3);
        let proof = case.prove();
        let step = (proof.len() / 64).max(1);
        for at in (0..proof.len()).step_by(step).chain([proof.len() - 1]) {
            for bit in [0x01, 0x80] {
                let mut changed = proof.clone();
                changed[at] ^= bit;
                assert!(verify(&case.context, &case.instance, &changed).is_err(), "{kind}: byte {at}");
            }
        }
        let mut longer = proof.clone();
        longer.push(0);
        for wrong in [&[][..], &proof[..proof.len() - 1], &longer, &vec![0; proof.len()], &vec![0xff; proof.len()]] {
            assert!(verify(&case.context, &case.instance, wrong).is_err(), "{kind}: length {}", wrong.len());
        }
    }
}

#[test]
fn a_foreign_key_is_refused() {
    for kind in Kind::ALL {
        let (ours, theirs) = (case(kind, 3), case(kind, 4));
        // Their instance under our proof.
        let mut context = ours.context.clone();
        context.instance = context::instance_digest(&theirs.instance);
        assert_eq!(verify(&context, &theirs.instance, &ours.prove()), Err(Error::ProofRefused), "{kind}");
        // The prover refuses a witness that does not hold.
        let refused = registry::prove(parameters(), &context, &theirs.instance, &ours.witness);
        assert!(matches!(refused, Err(Error::WitnessRefused(_) | Error::KeysRefused { .. })), "{kind}");
    }
}

#[test]
fn a_proof_of_one_kind_is_none_of_another() {
    for kind in Kind::ALL {
        let proof = case(kind, 3).prove();
        for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
            let case = case(other, 3);
            assert!(verify(&case.context, &case.instance, &proof).is_err(), "{kind} as {other}");
            let mut context = case.context.clone();
            context.statement = kind.name().to_owned();
            context.verifying_key = registry::verifying_key(parameters(), kind).unwrap();
            assert!(verify(&context, &case.instance, &proof).is_err(), "{kind} for an instance of {other}");
        }
    }
}

#[test]
fn an_instance_has_one_encoding() {
    for kind in Kind::ALL {
        let case = case(kind, 3);
        let mut longer = case.instance.clone();
        longer.push(0);
        assert!(Instance::from_bytes(&longer).is_err(), "{kind}: trailing byte");
        for length in 0..case.instance.len() {
            assert!(Instance::from_bytes(&case.instance[..length]).is_err(), "{kind}: {length} bytes");
        }
    }
}

#[test]
fn unusable_public_keys_are_refused() {
    let mut small_order = [0; 32];
    small_order[0] = 1; // The identity of edwards25519.
    let mut torsion = [0; 32]; // y = 0: a point of order 4.
    torsion[31] = 0;
    let not_canonical = {
        let mut bytes = [0xff; 32]; // y = p, the encoding of 0 that is not canonical.
        bytes[0] = 0xed;
        bytes[31] = 0x7f;
        bytes
    };
    for bytes in [small_order, torsion, not_canonical] {
        assert!(key_knowledge::Instance::public_key(KeyAlgorithm::Ed25519, &bytes).is_err());
    }
    // A key plus a point of order 8 is on the curve, canonical, and not free of torsion.
    use curve25519_dalek::{EdwardsPoint, Scalar, constants::EIGHT_TORSION};
    let mixed = EdwardsPoint::mul_base(&Scalar::from(7u8)) + EIGHT_TORSION[1];
    assert!(key_knowledge::Instance::public_key(KeyAlgorithm::Ed25519, mixed.compress().as_bytes()).is_err());
    assert!(key_knowledge::Instance::public_key(KeyAlgorithm::Ristretto255, &[0; 32]).is_err());
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Secp256k1] {
        for bytes in [&[0][..], &[2; 33], &[4; 65], &[0; 33]] {
            let usable = key_knowledge::Instance::public_key(algorithm, bytes).is_ok();
            assert!(!usable || bytes.len() == 33, "{algorithm}: {} bytes", bytes.len());
        }
        assert!(key_knowledge::Instance::public_key(algorithm, &[0; 33]).is_err());
    }
}

#[test]
fn a_response_that_is_not_canonical_is_refused() {
    // s + order is the same response modulo the order, in another encoding.
    let order: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    for kind in [Kind::KeyKnowledgeEd25519, Kind::KeyKnowledgeRistretto255, Kind::ShareCorrectnessFeldman] {
        let case = case(kind, 3);
        let mut proof = case.prove();
        let mut carry = 0u16;
        for (byte, add) in proof[32..].iter_mut().zip(order) {
            carry += u16::from(*byte) + u16::from(add);
            *byte = carry as u8;
            carry >>= 8;
        }
        assert!(verify(&case.context, &case.instance, &proof).is_err(), "{kind}");
    }
}

#[test]
fn an_eddsa_proof_is_a_signature_that_others_accept() {
    let case = case(Kind::KeyKnowledgeEd25519, 3);
    let Instance::KeyKnowledge(key_knowledge::Instance::PublicKey { bytes, .. }) =
        Instance::from_bytes(&case.instance).unwrap()
    else {
        panic!()
    };
    let key = ed25519_dalek::VerifyingKey::from_bytes(&bytes.try_into().unwrap()).unwrap();
    let signature = ed25519_dalek::Signature::from_slice(&case.prove()).unwrap();
    let message = keywitness_circuits::key_knowledge::eddsa::attest_message(&case.context);
    key.verify_strict(&message, &signature).unwrap();
}

/// Which of the two signatures with one r a proof is not: (r, n - s).
fn higher(kind: Kind, proof: &[u8]) -> Vec<u8> {
    use k256::elliptic_curve::PrimeField as _;
    let (r, s) = proof.split_at(32);
    let s: [u8; 32] = s.try_into().unwrap();
    let negated: [u8; 32] = match kind {
        Kind::KeyPossessionP256 => (-p256::Scalar::from_repr(s.into()).unwrap()).to_repr().into(),
        _ => (-k256::Scalar::from_repr(s.into()).unwrap()).to_repr().into(),
    };
    [r, &negated].concat()
}

const POSSESSION: [Kind; 2] = [Kind::KeyPossessionP256, Kind::KeyPossessionSecp256k1];

#[test]
fn of_two_signatures_one_is_a_proof() {
    for kind in POSSESSION {
        for secret in 1..9 {
            let case = case(kind, secret);
            let proof = case.prove();
            let other = higher(kind, &proof);
            assert!(
                matches!(verify(&case.context, &case.instance, &other), Err(Error::Malformed { .. })),
                "{kind}: the higher s is refused where it is read"
            );
            let algorithm = Instance::from_bytes(&case.instance).unwrap().algorithm().unwrap();
            assert_eq!(ecdsa::normalised(algorithm, &other).unwrap().as_slice(), proof);
            assert_eq!(ecdsa::normalised(algorithm, &proof).unwrap().as_slice(), proof);
            for wrong in [&proof[..63], &[0; 64], &[0xff; 64], &[]] {
                ecdsa::normalised(algorithm, wrong).unwrap_err();
            }
            ecdsa::normalised(KeyAlgorithm::Ed25519, &proof).unwrap_err();
        }
    }
}

#[test]
fn a_possession_proof_is_a_signature_that_others_accept() {
    use k256::ecdsa::signature::Verifier as _;
    use p256::pkcs8::DecodePublicKey as _;
    for kind in POSSESSION {
        let case = case(kind, 3);
        let (proof, spki) = (case.prove(), Instance::spki_of_read(&case.instance).unwrap().unwrap());
        // What was hashed begins with the reserved prefix, so that no client's message is it.
        let message = [b"keywitness/v1/possession\0", case.context.digest().0.as_slice()].concat();
        keywitness_verifier::operation::check_message(&message).unwrap_err();
        let accepted = match kind {
            Kind::KeyPossessionP256 => p256::ecdsa::VerifyingKey::from_public_key_der(&spki)
                .unwrap()
                .verify(&message, &p256::ecdsa::Signature::from_slice(&proof).unwrap()),
            _ => k256::ecdsa::VerifyingKey::from_public_key_der(&spki)
                .unwrap()
                .verify(&message, &k256::ecdsa::Signature::from_slice(&proof).unwrap()),
        };
        accepted.unwrap();
    }
}

#[test]
fn possession_and_knowledge_of_one_key_are_different_claims() {
    for (possessed, known) in POSSESSION.into_iter().zip([Kind::KeyKnowledgeP256, Kind::KeyKnowledgeSecp256k1]) {
        let (one, other) = (case(possessed, 3), case(known, 3));
        let [first, second] = [&one, &other].map(|case| Instance::from_bytes(&case.instance).unwrap());
        assert_eq!(first.fingerprint(), second.fingerprint(), "it is one key");
        assert_ne!(first.digest(), second.digest());
        assert_eq!((possessed.shows(), known.shows()), (Shown::Possession, Shown::Knowledge));
        for (case, proof, instance) in [
            (&one, other.prove(), &one.instance),
            (&other, one.prove(), &other.instance),
            (&one, one.prove(), &other.instance),
        ] {
            assert!(verify(&case.context, instance, &proof).is_err());
        }
        // The statement's name alone does not make the one of the other.
        let mut context = one.context.clone();
        context.statement = known.name().to_owned();
        context.verifying_key = registry::verifying_key(parameters(), known).unwrap();
        assert!(verify(&context, &one.instance, &one.prove()).is_err());
    }
    for (algorithm, bytes) in [(KeyAlgorithm::Ed25519, [3; 32]), (KeyAlgorithm::Ristretto255, [0; 32])] {
        key_possession::Instance::public_key(algorithm, &bytes).unwrap_err();
        key_possession::Witness::new(algorithm, &[1; 32]).unwrap_err();
    }
}

#[test]
fn nonces_are_hedged() {
    for kind in [
        Kind::KeyKnowledgeRistretto255,
        Kind::KeyKnowledgeP256,
        Kind::KeyKnowledgeSecp256k1,
        Kind::ShareCorrectnessFeldman,
        Kind::ShareCorrectnessPedersen,
    ] {
        let case = case(kind, 3);
        assert_ne!(case.prove(), case.prove(), "{kind}: two proofs share their nonce");
    }
}

#[test]
fn two_trust_domains_cannot_link_a_symmetric_key() {
    for suite in [Suite::Halo2Pasta, Suite::Groth16Bn254] {
        let witness = key_knowledge::Witness::new(KeyAlgorithm::Aes256, &[5; 32]).unwrap();
        let in_domain = |name: &str| witness.instance(&name.parse().unwrap(), suite).unwrap().fingerprint().unwrap();
        assert_ne!(in_domain("acme.example"), in_domain("other.example"));
        let other = key_knowledge::Witness::new(KeyAlgorithm::HmacSha256, &[5; 32]).unwrap();
        let as_hmac = other.instance(&"acme.example".parse().unwrap(), suite).unwrap().fingerprint().unwrap();
        assert_ne!(in_domain("acme.example"), as_hmac);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reading_never_panics_and_is_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(envelope) = keywitness_circuits::Envelope::from_bytes(&bytes) {
            prop_assert_eq!(envelope.to_bytes(), bytes);
        }
    }

    #[test]
    fn an_envelope_survives_its_encoding(enrolment: u32, before: u64, after: u64, proof in proptest::collection::vec(any::<u8>(), 0..200), flip in 0usize..400) {
        let case = case(Kind::KeyKnowledgeRistretto255, 3);
        let context = ClaimContext { enrolment, not_before: Timestamp(before), not_after: Timestamp(after), ..case.context };
        let envelope = keywitness_circuits::Envelope::seal(context, case.instance, proof, |_| [1; 64]);
        let bytes = envelope.to_bytes();
        prop_assert_eq!(&keywitness_circuits::Envelope::from_bytes(&bytes).unwrap(), &envelope);
        // Another encoding is another envelope, or none.
        let mut changed = bytes.clone();
        let at = flip % bytes.len();
        changed[at] ^= 1;
        if let Ok(other) = keywitness_circuits::Envelope::from_bytes(&changed) {
            prop_assert_ne!(other, envelope);
        }
    }
}
