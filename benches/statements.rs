//! What each statement kind costs, beside a peer in the same run: `cargo bench`.
//!
//! Medians of wall time on whatever else this machine is doing: trust the ratios, not the absolutes.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use comfy_table::{Table, presets};
use ed25519_dalek::Signer as _;
use keywitness_circuits::{
    ClaimContext, KeyAlgorithm, KeyAttributes, KeyClaim, KeyOrigin, Kind, Nonce, Parameters, Suite, Timestamp,
    codec::Canonical, context, key_knowledge::Witness, params::Groth16Parameters, registry,
};
use keywitness_verifier::operation;

/// Median of several runs, each long enough to be timed.
fn median(mut work: impl FnMut()) -> Duration {
    work();
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let (start, mut rounds) = (Instant::now(), 0u32);
            while rounds == 0 || start.elapsed() < Duration::from_millis(20) {
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

fn main() {
    let parameters = Parameters::transparent().with_groth16(Groth16Parameters::develop().unwrap());
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["statement kind", "proof bytes", "prove", "verify", "peer", "peer's time", "peer / verify"]);
    let algorithms = [
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::Ristretto255,
        KeyAlgorithm::P256,
        KeyAlgorithm::Secp256k1,
        KeyAlgorithm::Aes256,
    ];
    for algorithm in algorithms {
        for kind in algorithm.kinds(&[Suite::Halo2Pasta, Suite::Groth16Bn254]) {
            let suite = match kind {
                Kind::KeyKnowledgeHalo2 => Suite::Halo2Pasta,
                Kind::KeyKnowledgeGroth16 => Suite::Groth16Bn254,
                _ => Suite::PublicKey,
            };
            let witness = Witness::new(algorithm, &[5; 32]).unwrap();
            let trust_domain = "acme.example".parse().unwrap();
            let instance = witness.instance(&trust_domain, suite).unwrap().to_bytes();
            let attributes = KeyAttributes { algorithm, origin: KeyOrigin::Generated, extractable: false };
            let context = ClaimContext {
                statement: kind.name().to_owned(),
                verifying_key: registry::verifying_key(&parameters, kind).unwrap(),
                trust_domain,
                manager: "manager-1".parse().unwrap(),
                cluster: "payments".parse().unwrap(),
                hsm: "hsm-1".parse().unwrap(),
                enrolment: 1,
                keys: vec![KeyClaim { key: "k".parse().unwrap(), epoch: 1, attributes: attributes.digest() }],
                instance: context::instance_digest(&instance),
                challenge: Nonce([7; 32]),
                not_before: Timestamp(0),
                not_after: Timestamp(1),
                checkpoint: None,
                evidence: None,
            };
            let witness = witness.into();
            let make = || registry::prove(&parameters, &context, &instance, &witness).unwrap();
            let proof = make();
            let prove = median(|| {
                black_box(make());
            });
            let verify = median(|| {
                black_box(registry::verify(&parameters, &context, &instance, &proof).unwrap());
            });
            let (name, time, ratio) = match peer(algorithm) {
                Some((name, time)) => (
                    name.to_owned(),
                    format!("{time:.1?}"),
                    format!("{:.2}x", time.as_secs_f64() / verify.as_secs_f64()),
                ),
                None => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
            };
            table.add_row([
                kind.to_string(),
                proof.len().to_string(),
                format!("{prove:.1?}"),
                format!("{verify:.1?}"),
                name,
                time,
                ratio,
            ]);
        }
    }
    println!("{table}");
}
