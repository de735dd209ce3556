//! Schnorr proofs on ristretto255 beside ed25519-dalek's batch verification.
//!
//! Both sides have keys decompressed and messages (here: digests of contexts) hashed beforehand. Both decode every
//! commitment, derive every challenge, and check one random linear combination with weights of 128 bits.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use keywitness_circuits::{
    Error, KeyAlgorithm, Parameters, ProofSystem, Suite,
    context::HashedContext,
    key_knowledge::{
        Instance, Witness,
        schnorr::{Ristretto255, Schnorr},
    },
};
use rand::{RngCore as _, rngs::OsRng};
use rayon::prelude::*;

use crate::{
    claims,
    harness::{Comparison, Row, Side},
};

type System = Schnorr<Ristretto255>;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row::new("schnorr-batch", 1.0, |mode| {
            let proofs = mode.size(1024, 8);
            compare(format!("{proofs} Schnorr proofs, each of another enrolled key"), proofs, proofs)
        }),
        Row::new("schnorr-audit", 1.4, |mode| {
            let (proofs, keys) = (mode.size(16_384, 16), mode.size(2_048, 2));
            compare(format!("audit: {proofs} Schnorr proofs of {keys} enrolled keys"), proofs, keys)
        }),
    ]
}

fn compare(operation: String, proofs: usize, keys: usize) -> Comparison {
    Comparison {
        operation,
        peer: "ed25519-dalek verify_batch".to_owned(),
        unit: "proof",
        ours: ours(proofs, keys),
        peers: dalek(proofs, keys),
        batch: true,
    }
}

/// A proof with what it is bound to.
#[derive(Clone)]
struct Proven {
    context: HashedContext<'static>,
    instance: Instance,
    proof: Vec<u8>,
}

/// Opens and checks all of them.
fn verify(proofs: &[Proven]) -> Result<(), Error> {
    let parameters = Parameters::transparent();
    let open = |Proven { context, instance, proof }: &Proven| System::open(&parameters, context, instance, proof);
    let opened = proofs.par_iter().with_min_len(64).map(open).collect::<Result<Vec<_>, Error>>()?;
    System::check(&parameters, &opened.iter().collect::<Vec<_>>())
}

/// Verification of proofs that take turns with the keys.
pub(crate) fn ours(proofs: usize, keys: usize) -> Side {
    let proofs = prove(proofs, keys);
    refuses_bad(&mut proofs.clone());
    let number = proofs.len();
    Side::new(number, move || verify(&proofs).unwrap())
}

fn refuses_bad(proofs: &mut [Proven]) {
    let last = proofs.len() - 1;
    proofs[last].proof[32] ^= 1;
    assert_eq!(verify(proofs), Err(Error::ProofRefused), "a response was changed");
    proofs[last].proof[32] ^= 1;
    if last > 0 {
        (proofs[0].context, proofs[last].context) = (proofs[last].context, proofs[0].context);
        assert_eq!(verify(proofs), Err(Error::ProofRefused), "two contexts were exchanged");
    }
}

fn prove(proofs: usize, keys: usize) -> Vec<Proven> {
    let (parameters, domain) = (Parameters::transparent(), claims::trust_domain());
    let keys: Vec<(Witness, Instance)> = (0..keys)
        .map(|_| {
            let mut secret = [0; 32];
            OsRng.fill_bytes(&mut secret[..31]);
            let witness = Witness::new(KeyAlgorithm::Ristretto255, &secret).unwrap();
            let instance = witness.instance(&domain, Suite::PublicKey).unwrap();
            (witness, instance)
        })
        .collect();
    (0..proofs)
        .map(|number| {
            let (witness, instance) = &keys[number % keys.len()];
            let context = claims::context(&parameters, System::KIND, 1, instance.digest(), number);
            let proof = System::prove(&parameters, &context, instance, witness).unwrap();
            Proven { context: claims::hashed(context), instance: instance.clone(), proof }
        })
        .collect()
}

/// ed25519-dalek's batch verification of signatures of 32 bytes.
pub(crate) fn dalek(signatures: usize, keys: usize) -> Side {
    let signing: Vec<SigningKey> = (0..keys).map(|_| SigningKey::generate(&mut OsRng)).collect();
    let messages: Vec<[u8; 32]> = (0..signatures)
        .map(|number| {
            let mut message = [7; 32];
            message[..8].copy_from_slice(&(number as u64).to_le_bytes());
            message
        })
        .collect();
    let key = |number: usize| &signing[number % keys];
    let mut signed: Vec<Signature> = (0..signatures).map(|number| key(number).sign(&messages[number])).collect();
    let keys: Vec<VerifyingKey> = (0..signatures).map(|number| key(number).verifying_key()).collect();
    let verify = move |signed: &[Signature]| {
        let messages: Vec<&[u8]> = messages.iter().map(<[u8; 32]>::as_slice).collect();
        ed25519_dalek::verify_batch(&messages, signed, &keys)
    };
    let good = signed[0];
    signed[0] = SigningKey::from_bytes(&[9; 32]).sign(b"another");
    assert!(verify(&signed).is_err(), "a foreign signature");
    signed[0] = good;
    Side::new(signatures, move || verify(&signed).unwrap())
}
