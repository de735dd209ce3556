//! What each statement kind costs, one proof at a time, beside a peer in the same run: `cargo bench --bench statements`.
//! With `-- --quick` everything runs once.
//!
//! Medians of wall time on whatever else this machine is doing: trust the ratios, not the absolutes.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    hint::black_box,
    sync::LazyLock,
    time::{Duration, Instant},
};

use comfy_table::{Table, presets};
use ed25519_dalek::Signer as _;
use keywitness_circuits::{
    ClaimContext, Instance, KeyAlgorithm, KeyAttributes, KeyClaim, KeyOrigin, Kind, Nonce, Parameters, Suite,
    Timestamp, TrustDomain, Witness,
    codec::Canonical,
    context, key_derivation, key_knowledge, key_possession,
    params::Groth16Parameters,
    registry,
    share_correctness::{self, Commitments, Scheme},
    sharing_of_key, tagged_key,
};
use keywitness_verifier::operation;
use rand::rngs::OsRng;

static QUICK: LazyLock<bool> = LazyLock::new(|| std::env::args().any(|argument| argument == "--quick"));

/// Median of several runs, each long enough to be timed.
fn median(mut work: impl FnMut()) -> Duration {
    let (runs, at_least) = if *QUICK { (1, 0) } else { (15, 20) };
    if !*QUICK {
        work();
    }
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let (start, mut rounds) = (Instant::now(), 0u32);
            while rounds == 0 || start.elapsed() < Duration::from_millis(at_least) {
                work();
                rounds += 1;
            }
            start.elapsed() / rounds
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// A verification that everybody knows, on the same curve; none where the peers are our own building blocks.
fn peer(algorithm: KeyAlgorithm) -> Option<(&'static str, Duration)> {
    let message = [7; 32];
    let secret = [5; 32];
    match algorithm {
        KeyAlgorithm::Ed25519 | KeyAlgorithm::Ristretto255 => {
            let key = ed25519_dalek::SigningKey::from_bytes(&secret);
            let signature = key.sign(&message);
            Some((
                "ed25519-dalek verify_strict",
                median(|| {
                    key.verifying_key().verify_strict(black_box(&message), &signature).unwrap();
                }),
            ))
        }
        KeyAlgorithm::P256 => {
            use p256::{ecdsa::signature::Signer as _, pkcs8::EncodePublicKey as _};
            let key = p256::ecdsa::SigningKey::from_slice(&secret).unwrap();
            let signature: p256::ecdsa::Signature = key.sign(&message);
            let spki = key.verifying_key().to_public_key_der().unwrap().to_vec();
            Some((
                "p256 ECDSA verify",
                median(|| {
                    assert!(operation::verify_signature(algorithm, &spki, &message, &signature.to_bytes()));
                }),
            ))
        }
        KeyAlgorithm::Secp256k1 => {
            use k256::{ecdsa::signature::Signer as _, pkcs8::EncodePublicKey as _};
            let key = k256::ecdsa::SigningKey::from_slice(&secret).unwrap();
            let signature: k256::ecdsa::Signature = key.sign(&message);
            let spki = key.verifying_key().to_public_key_der().unwrap().to_vec();
            Some((
                "k256 ECDSA verify",
                median(|| {
                    assert!(operation::verify_signature(algorithm, &spki, &message, &signature.to_bytes()));
                }),
            ))
        }
        _ => None,
    }
}

/// Something to prove: a row of the table.
struct Subject {
    /// What tells it from others of its kind; empty where there is one.
    form: &'static str,
    kind: Kind,
    algorithm: KeyAlgorithm,
    instance: Instance,
    witness: Witness,
}

const KEY: &str = "k";
const BEACON: Nonce = Nonce([6; 32]);

fn trust_domain() -> TrustDomain {
    "acme.example".parse().unwrap()
}

/// Keys, known or as shares, derived and tagged.
fn subjects() -> Vec<Subject> {
    let algorithms = [
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::Ristretto255,
        KeyAlgorithm::P256,
        KeyAlgorithm::Secp256k1,
        KeyAlgorithm::Aes256,
    ];
    let kinds = |algorithm: &KeyAlgorithm| {
        let algorithm = *algorithm;
        algorithm.kinds(&[Suite::Halo2Pasta, Suite::Groth16Bn254]).into_iter().map(move |kind| (kind, algorithm))
    };
    let mut subjects: Vec<_> =
        algorithms.iter().flat_map(kinds).map(|(kind, algorithm)| known(kind, algorithm)).collect();
    subjects.extend([KeyAlgorithm::P256, KeyAlgorithm::Secp256k1].map(possessed));
    subjects.extend([shared("3 of 5", 3), shared("t = 67", 67), tagged(), derived(), sharing(), many(64)]);
    subjects
}

fn known(kind: Kind, algorithm: KeyAlgorithm) -> Subject {
    let suite = match kind {
        Kind::KeyKnowledgeHalo2 => Suite::Halo2Pasta,
        Kind::KeyKnowledgeGroth16 => Suite::Groth16Bn254,
        _ => Suite::PublicKey,
    };
    let witness = key_knowledge::Witness::new(algorithm, &[5; 32]).unwrap();
    let instance = witness.instance(&trust_domain(), suite).unwrap().into();
    Subject { form: "", kind, algorithm, instance, witness: witness.into() }
}

fn possessed(algorithm: KeyAlgorithm) -> Subject {
    let witness = key_possession::Witness::new(algorithm, &[5; 32]).unwrap();
    let instance = witness.instance(&trust_domain()).unwrap();
    Subject { form: "", kind: instance.kind(), algorithm, instance: instance.into(), witness: witness.into() }
}

/// The share at 3 of a dealing with t coefficients.
fn shared(form: &'static str, threshold: u8) -> Subject {
    use curve25519_dalek::{RistrettoPoint, Scalar};
    let polynomial: Vec<Scalar> = (1..=threshold).map(Scalar::from).collect();
    let points = polynomial.iter().map(|a| RistrettoPoint::mul_base(a).compress().to_bytes()).collect();
    let share = polynomial.iter().rev().fold(Scalar::ZERO, |sum, a| sum * Scalar::from(3u8) + a);
    let commitments = Commitments::new(Scheme::Feldman, points).unwrap();
    let instance = share_correctness::Instance::new(commitments, 3).unwrap();
    Subject {
        form,
        kind: Kind::ShareCorrectnessFeldman,
        algorithm: instance.algorithm(),
        instance: instance.into(),
        witness: share_correctness::Witness::new(Scheme::Feldman, share.as_bytes()).unwrap().into(),
    }
}

fn tagged() -> Subject {
    let algorithm = KeyAlgorithm::Aes256Cmac;
    let witness = tagged_key::Witness::of_key(algorithm, &[5; 32], &trust_domain(), &BEACON).unwrap();
    let instance = witness.instance(&trust_domain(), algorithm, &BEACON).unwrap().into();
    Subject { form: "", kind: Kind::TaggedKeyHalo2, algorithm, instance, witness: witness.into() }
}

fn derived() -> Subject {
    let algorithm = KeyAlgorithm::Aes256;
    let witness = key_derivation::Witness::new(algorithm, &[5; 32]).unwrap();
    let target = key_derivation::Target { key: KEY.parse().unwrap(), algorithm, epoch: 1 };
    let instance = witness.instance(&trust_domain(), &target).unwrap().into();
    Subject { form: "", kind: Kind::KeyDerivationHalo2, algorithm, instance, witness: witness.into() }
}

fn sharing() -> Subject {
    let (algorithm, points) = (KeyAlgorithm::Aes256, [1, 2, 3, 4, 5]);
    let (instance, witness, _) =
        sharing_of_key::Witness::deal(algorithm, &[5; 32], &trust_domain(), 3, &points, &mut OsRng).unwrap();
    Subject {
        form: "3 of 5",
        kind: Kind::SharingOfKeyHalo2,
        algorithm,
        instance: instance.into(),
        witness: witness.into(),
    }
}

/// Keys of one HSM in one proof.
fn many(count: u8) -> Subject {
    let algorithm = KeyAlgorithm::Aes256;
    let key = |byte| key_knowledge::Witness::new(algorithm, &[byte; 32]).unwrap();
    let witness = key_knowledge::many::Witness::new((0..count).map(key).collect());
    let instance = witness.instance(&trust_domain(), Suite::Groth16Bn254).unwrap().into();
    Subject { form: "64 keys", kind: Kind::ManyKeysGroth16, algorithm, instance, witness: witness.into() }
}

fn claim(parameters: &Parameters, kind: Kind, algorithm: KeyAlgorithm, keys: usize, instance: &[u8]) -> ClaimContext {
    let origin = if kind == Kind::KeyDerivationHalo2 { KeyOrigin::Derived } else { KeyOrigin::Generated };
    let attributes = KeyAttributes::new(algorithm, origin, false);
    ClaimContext {
        statement: kind.name().to_owned(),
        verifying_key: registry::verifying_key(parameters, kind).unwrap(),
        trust_domain: trust_domain(),
        manager: "manager-1".parse().unwrap(),
        cluster: "payments".parse().unwrap(),
        hsm: "hsm-1".parse().unwrap(),
        enrolment: 1,
        keys: vec![KeyClaim { key: KEY.parse().unwrap(), epoch: 1, attributes: attributes.digest() }; keys],
        instance: context::instance_digest(instance),
        challenge: Nonce([7; 32]),
        not_before: Timestamp(0),
        not_after: Timestamp(1),
        checkpoint: None,
        evidence: None,
    }
}

fn main() {
    let parameters = Parameters::transparent()
        .with_groth16(Groth16Parameters::develop().unwrap())
        .with_groth16_many(Groth16Parameters::develop_many().unwrap());
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["statement kind", "proof bytes", "prove", "verify", "peer", "peer's time", "peer / verify"]);
    for Subject { form, kind, algorithm, instance, witness } in subjects() {
        let (keys, instance) = (instance.keys(), instance.to_bytes());
        let context = claim(&parameters, kind, algorithm, keys, &instance);
        let make = || registry::prove(&parameters, &context, &instance, &witness).unwrap();
        let proof = make();
        let prove = median(|| {
            black_box(make());
        });
        let verify = median(|| {
            black_box(registry::verify(&parameters, &context, &instance, &proof).unwrap());
        });
        // Only a proof about one public key has a signature for a peer.
        let peer = if proof.len() < 256 && form.is_empty() { peer(algorithm) } else { None };
        let (name, time, ratio) = match peer {
            Some((name, time)) => {
                (name, format!("{time:.1?}"), format!("{:.2}x", time.as_secs_f64() / verify.as_secs_f64()))
            }
            None => ("-", "-".to_owned(), "-".to_owned()),
        };
        let label = if form.is_empty() { kind.to_string() } else { format!("{kind}, {form}") };
        let times = [prove, verify].map(|time| format!("{time:.1?}"));
        let [prove, verify] = times;
        table.add_row([label, proof.len().to_string(), prove, verify, name.to_owned(), time, ratio]);
    }
    println!("{table}");
}
