//! Symmetric keys in Groth16 on BN254 (Groth, EUROCRYPT 2016).
//!
//! The fingerprint is Poseidon (Grassi et al., USENIX Security 2021) over the scalar field with t = 3,
//! rate 2, x^5, 8 full and 57 partial rounds, and the constants of the paper's Grain LFSR, which are also
//! circomlib's. One permutation of (d, low, high); the output is the first rate element. The capacity
//! element starts as the domain d, as in the paper's domain separation by initial capacity.
//!
//! BN254 gives about 100 bits of security (Kim, Barbulescu 2016), and whoever knows the secrets of the
//! setup can forge proofs.

mod batch;
#[cfg(feature = "prove")]
mod circuit;
mod encoding;
pub mod many;
mod miller;
mod msm;
#[cfg(feature = "prove")]
mod prover;
mod shape;

use std::sync::LazyLock;

use ark_bn254::{Bn254, Fr};
use ark_crypto_primitives::sponge::{
    CryptographicSponge, FieldBasedCryptographicSponge,
    poseidon::{PoseidonConfig, PoseidonSponge, find_poseidon_ark_and_mds},
};
use ark_ff::{AdditiveGroup, BigInteger, PrimeField};
use ark_groth16::Proof;
use zeroize::Zeroize;

use super::{
    Instance, KeyKnowledge,
    symmetric::{PublicInputs, SuiteField},
};
use crate::{Error, Kind, Parameters, ProofSystem, Suite, context::HashedContext, params::Groth16Parameters};

pub(crate) use batch::Verifier;
#[cfg(any(all(test, feature = "prove"), feature = "peers"))]
pub(crate) use circuit::KeyCircuit;
#[cfg(feature = "peers")]
pub(crate) use circuit::assignment;
pub(crate) use encoding::{decode, encode};
#[cfg(feature = "prove")]
pub(crate) use prover::Prover;
pub use shape::Groth16Circuit;

/// Bytes of every proof: A and C in G1, B in G2, compressed.
pub const PROOF_LEN: usize = 128;

/// ark-groth16, on our curve.
pub(crate) type Snark = ark_groth16::Groth16<Bn254>;

static POSEIDON: LazyLock<PoseidonConfig<Fr>> = LazyLock::new(|| {
    let (full, partial, rate) = (8, 57, 2);
    let (constants, matrix) =
        find_poseidon_ark_and_mds(Fr::MODULUS_BIT_SIZE.into(), rate, full as u64, partial as u64, 0);
    PoseidonConfig::new(full, partial, 5, matrix, constants, rate, 1)
});

impl SuiteField for Fr {
    const SUITE: Suite = Suite::Groth16Bn254;

    fn from_uniform(bytes: &[u8; 64]) -> Self {
        Self::from_le_bytes_mod_order(bytes)
    }
    fn from_number(number: u128) -> Self {
        Self::from(number)
    }
    fn from_canonical(bytes: &[u8; 32]) -> Option<Self> {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().ok()?);
        }
        Self::from_bigint(ark_ff::BigInt(words))
    }
    fn to_canonical(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (byte, value) in bytes.iter_mut().zip(self.into_bigint().to_bytes_le()) {
            *byte = value;
        }
        bytes
    }
    fn hash(domain: Self, low: Self, high: Self) -> Self {
        let mut sponge = PoseidonSponge::new(&POSEIDON);
        if let Some(capacity) = sponge.state.first_mut() {
            *capacity = domain;
        }
        sponge.absorb(&vec![low, high]);
        let output = sponge.squeeze_native_field_elements(1).first().copied();
        sponge.state.zeroize();
        output.unwrap_or(Self::ZERO)
    }
    fn wipe(&mut self) {
        self.zeroize();
    }
}

/// A proof whose points were checked, with its public inputs.
pub struct Opened {
    proof: Proof<Bn254>,
    row: Vec<Fr>,
}

/// Checks proofs of the keys' circuit; refuses an empty set.
fn check_all(keys: &Groth16Parameters, proofs: &[&Opened]) -> Result<(), Error> {
    let proofs: Vec<_> = proofs.iter().map(|opened| (&opened.proof, opened.row.as_slice())).collect();
    if keys.verifier().check(&proofs) { Ok(()) } else { Err(Error::ProofRefused) }
}

#[cfg(all(test, feature = "prove"))]
fn verify_row(parameters: &Parameters, public: &PublicInputs<Fr>, proof: &[u8]) -> Result<(), Error> {
    verify_points(parameters.groth16()?, &public.row(), &decode(proof)?)
}

#[cfg(all(test, feature = "prove"))]
fn verify_points(keys: &Groth16Parameters, row: &[Fr], proof: &Proof<Bn254>) -> Result<(), Error> {
    check_all(keys, &[&Opened { proof: proof.clone(), row: row.to_vec() }])
}

/// The proof system.
pub struct Groth16;

impl ProofSystem for Groth16 {
    type Statement = KeyKnowledge;
    type Opened = Opened;
    const KIND: Kind = Kind::KeyKnowledgeGroth16;

    fn open(_: &Parameters, context: &HashedContext<'_>, instance: &Instance, proof: &[u8]) -> Result<Opened, Error> {
        let public = PublicInputs::new(context.context(), instance)?;
        Ok(Opened { proof: decode(proof)?, row: public.row().to_vec() })
    }

    fn check(parameters: &Parameters, proofs: &[&Opened]) -> Result<(), Error> {
        check_all(parameters.groth16()?, proofs)
    }

    #[cfg(feature = "prove")]
    fn prove(
        parameters: &Parameters,
        context: &crate::ClaimContext,
        instance: &Instance,
        witness: &super::Witness,
    ) -> Result<Vec<u8>, Error> {
        let public = PublicInputs::new(context, instance)?;
        let limbs = super::symmetric::KeyLimbs::new(witness.algorithm(), witness.secret())?;
        public.check(&limbs)?;
        let proof = circuit::prove_row(parameters.groth16()?, public, limbs)?;
        Ok(encode(&proof))
    }
}

#[cfg(all(test, feature = "prove"))]
pub(crate) mod soundness;

#[cfg(all(test, feature = "prove"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use ark_bn254::{Fq, G1Affine, G2Affine};
    use ark_ff::{BigInt, MontFp, One};
    use ark_relations::gr1cs::{ConstraintSynthesizer, ConstraintSystem};

    use super::*;
    use crate::{
        KeyAlgorithm,
        key_knowledge::symmetric::{KeyLimbs, tests as common},
    };

    static PARAMETERS: LazyLock<Parameters> =
        LazyLock::new(|| Parameters::default().with_groth16(Groth16Parameters::develop().unwrap()));

    fn proven(algorithm: KeyAlgorithm) -> (PublicInputs<Fr>, Vec<u8>) {
        let (context, instance, witness) = common::claim(Kind::KeyKnowledgeGroth16, Suite::Groth16Bn254, algorithm);
        let proof = Groth16::prove(&PARAMETERS, &context, &instance, &witness).unwrap();
        Groth16::verify(&PARAMETERS, &context, &instance, &proof).unwrap();
        (PublicInputs::new(&context, &instance).unwrap(), proof)
    }

    fn accepted(public: PublicInputs<Fr>, limbs: KeyLimbs<Fr>) -> bool {
        let cs = ConstraintSystem::new_ref();
        circuit::KeyCircuit { assignment: Some((public, limbs)) }.generate_constraints(cs.clone()).unwrap();
        cs.is_satisfied().unwrap()
    }

    #[test]
    fn poseidon_is_circomlibs() {
        // github.com/iden3/circomlib, circuits/poseidon_constants.circom and test/poseidoncircuit.js, t = 3.
        let hex = |element: Fr| data_encoding::HEXLOWER.encode(&element.into_bigint().to_bytes_be());
        assert_eq!(hex(POSEIDON.ark[0][0]), "0ee9a592ba9a9518d05986d656f40c2114c4993c11bb29938d21d47304cd8e6e");
        let mut sponge = PoseidonSponge::<Fr>::new(&POSEIDON);
        sponge.absorb(&vec![Fr::from(1), Fr::from(2)]);
        let output = sponge.squeeze_native_field_elements(1);
        assert_eq!(hex(sponge.state[0]), "115cc0f5e7d690413df64c6b9662e9cf2a3617f2743245519e19607a4417189a");
        assert_eq!(output[0], sponge.state[1]);
        assert_eq!(output[0], Fr::hash(Fr::ZERO, Fr::from(1), Fr::from(2)));
    }

    #[test]
    fn reduction_and_encoding_are_little_endian() {
        let mut bytes = [0; 64];
        bytes[32] = 1;
        let expected: Fr = MontFp!("6350874878119819312338956282401532410528162663560392320966563075034087161851");
        assert_eq!(Fr::from_uniform(&bytes), expected);
        assert_eq!(Fr::from_canonical(&expected.to_canonical()), Some(expected));
        let modulus: [u8; 32] = Fr::MODULUS.to_bytes_le().try_into().unwrap();
        assert_eq!(Fr::from_canonical(&modulus), None);
    }

    #[test]
    fn shape_is_pinned() {
        let matrices = circuit::matrices().unwrap();
        assert_eq!(matrices.iter().map(Vec::len).collect::<Vec<_>>(), [circuit::CONSTRAINTS; 3]);
        let (public, limbs) = common::satisfied(KeyAlgorithm::Aes256);
        assert_eq!(circuit::assignment(public, limbs).unwrap().len(), circuit::VARIABLES);
        assert_eq!((circuit::CONSTRAINTS, circuit::VARIABLES, Groth16Circuit::OneKey.domain()), (504, 508, 512));
    }

    #[test]
    fn circuit_refuses_every_strategy() {
        for algorithm in common::ALGORITHMS {
            let (public, limbs) = common::satisfied(algorithm);
            assert!(accepted(public, limbs), "{algorithm}");
        }
        for (name, public, limbs) in common::strategies() {
            assert!(!accepted(public, limbs), "{name}");
        }
    }

    #[test]
    fn proofs_of_every_length_verify() {
        for algorithm in common::ALGORITHMS {
            assert_eq!(proven(algorithm).1.len(), PROOF_LEN);
        }
    }

    #[test]
    fn every_public_input_binds() {
        for algorithm in [KeyAlgorithm::Aes128, KeyAlgorithm::Aes256] {
            let (public, proof) = proven(algorithm);
            let one = Fr::one();
            let [c0, c1] = public.context;
            for changed in [
                PublicInputs { fingerprint: public.fingerprint + one, ..public },
                PublicInputs { domain: public.domain + one, ..public },
                PublicInputs { has_mid: one - public.has_mid, ..public },
                PublicInputs { has_top: one - public.has_top, ..public },
                PublicInputs { context: [c0 + one, c1], ..public },
                PublicInputs { context: [c0, c1 + one], ..public },
                PublicInputs { context: [c1, c0], ..public },
            ] {
                assert_eq!(verify_row(&PARAMETERS, &changed, &proof), Err(Error::ProofRefused));
            }
        }
    }

    #[test]
    fn a_witness_that_does_not_hold_is_refused() {
        let (context, instance, _) =
            common::claim(Kind::KeyKnowledgeGroth16, Suite::Groth16Bn254, KeyAlgorithm::Aes128);
        let other = super::super::Witness::new(KeyAlgorithm::Aes128, &[9; 16]).unwrap();
        assert!(matches!(Groth16::prove(&PARAMETERS, &context, &instance, &other), Err(Error::WitnessRefused(_))));
        // Forced past the check, the prover's output does not verify.
        for (name, public, limbs) in common::strategies() {
            if let Ok(proof) = circuit::prove_row(PARAMETERS.groth16().unwrap(), public, limbs) {
                assert!(verify_row(&PARAMETERS, &public, &encode(&proof)).is_err(), "{name}");
            }
        }
    }

    #[test]
    fn mutated_proofs_are_refused() {
        let (public, proof) = proven(KeyAlgorithm::Aes256);
        let refused = |bytes: &[u8]| verify_row(&PARAMETERS, &public, bytes).is_err();
        for index in 0..PROOF_LEN {
            for flip in [0x01, 0x40, 0x80] {
                let mut changed = proof.clone();
                changed[index] ^= flip;
                assert!(refused(&changed), "byte {index}");
            }
        }
        assert!((0..PROOF_LEN).all(|length| refused(&proof[..length])));
        assert!(refused(&[proof.as_slice(), &[0]].concat()));
        assert!(refused(&[0; PROOF_LEN]) && refused(&[0xff; PROOF_LEN]));

        let parsed = decode(&proof).unwrap();
        let (zero1, zero2) = (G1Affine::identity(), G2Affine::identity());
        for identity in [
            Proof { a: zero1, ..parsed.clone() },
            Proof { b: zero2, ..parsed.clone() },
            Proof { c: zero1, ..parsed.clone() },
        ] {
            assert!(matches!(decode(&encode(&identity)), Err(Error::Malformed { .. })));
        }
    }

    #[test]
    fn an_encoding_that_is_not_canonical_is_refused() {
        let (public, proof) = proven(KeyAlgorithm::Aes256);
        let keys = PARAMETERS.groth16().unwrap();
        let mut tried = [false; 4];
        let mut parsed = decode(&proof).unwrap();
        while tried != [true; 4] {
            parsed = Snark::rerandomize_proof(&keys.prepared().vk, &parsed, &mut rand::rngs::OsRng);
            let proof = encode(&parsed);
            verify_row(&PARAMETERS, &public, &proof).unwrap();
            // A, both halves of B, and C. The two flags share the last byte of a point.
            for (part, tried) in tried.iter_mut().enumerate() {
                let mut changed = proof.clone();
                let coordinate = &mut changed[32 * part..32 * (part + 1)];
                let flags = if part == 1 { 0 } else { coordinate[31] & 0xc0 };
                coordinate[31] ^= flags;
                let mut words = [0; 4];
                for (word, chunk) in words.iter_mut().zip(coordinate.chunks_exact(8)) {
                    *word = u64::from_le_bytes(chunk.try_into().unwrap());
                }
                let mut number = BigInt(words);
                let room = if part == 1 { 256 } else { 254 };
                if number.add_with_carry(&Fq::MODULUS) || number.num_bits() > room {
                    continue;
                }
                coordinate.copy_from_slice(&number.to_bytes_le());
                coordinate[31] |= flags;
                assert!(matches!(decode(&changed), Err(Error::Malformed { .. })));
                *tried = true;
            }
        }
    }

    #[test]
    fn a_point_outside_the_subgroup_is_refused() {
        let (_, proof) = proven(KeyAlgorithm::Aes256);
        let parsed = decode(&proof).unwrap();
        let outside = (1_u64..)
            .filter_map(|x| G2Affine::get_point_from_x_unchecked(x.into(), false))
            .find(|point| !point.is_in_correct_subgroup_assuming_on_curve())
            .unwrap();
        assert!(decode(&encode(&Proof { b: outside, ..parsed })).is_err());
    }
}
