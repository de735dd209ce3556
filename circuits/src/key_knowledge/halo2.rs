//! Symmetric keys in halo2 (PLONKish arithmetic, inner-product commitments) on the Pasta curves.
//!
//! The circuit lives over the Pallas base field and its commitments over Vesta. The fingerprint is
//! Zcash Orchard's Poseidon (P128Pow5T3) with constant input length 3, over (d, low, high).
//!
//! One instance column holds F, d, has_mid, has_top, c0, c1. The transcript absorbs the verifying key and
//! the commitment to that column before the first challenge (strong Fiat-Shamir), and each of its cells
//! is copied into a gate, so that none is free.

use ff::{Field, FromUniformBytes, PrimeField};
use halo2_poseidon::{self as poseidon, ConstantLength, P128Pow5T3};
use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner},
    pasta::Fp,
    plonk::{Circuit, ConstraintSystem, Error as PlonkError},
};

use super::{
    Instance, KeyKnowledge,
    symmetric::{KeyLimbs, PublicInputs, SuiteField},
};
use crate::{
    Error, Kind, Parameters, ProofSystem, Suite,
    context::HashedContext,
    gadgets::halo2::{KeyConfig, LengthRows},
    params::{Halo2Circuit, Halo2Keys, Halo2Opened},
};

/// The circuit has 2^K rows.
pub(crate) const K: u32 = 7;
/// Bytes of every proof.
pub const PROOF_LEN: usize = 2336;

/// The keys of this circuit.
pub(crate) static KEYS: Halo2Keys<KeyCircuit> = Halo2Keys::new();

impl SuiteField for Fp {
    const SUITE: Suite = Suite::Halo2Pasta;

    fn from_uniform(bytes: &[u8; 64]) -> Self {
        Self::from_uniform_bytes(bytes)
    }
    fn from_number(number: u128) -> Self {
        Self::from_u128(number)
    }
    fn from_canonical(bytes: &[u8; 32]) -> Option<Self> {
        Self::from_repr(*bytes).into()
    }
    fn to_canonical(self) -> [u8; 32] {
        self.to_repr()
    }
    fn hash(domain: Self, low: Self, high: Self) -> Self {
        poseidon::Hash::<_, P128Pow5T3, ConstantLength<3>, 3, 2>::init().hash([domain, low, high])
    }
    fn wipe(&mut self) {
        // The library's elements cannot be wiped through `zeroize`; this keeps the write from being elided.
        *self = Self::ZERO;
        std::hint::black_box(self);
    }
}

/// The relation as a circuit. The public inputs come from the instance column alone.
#[derive(Default)]
pub(crate) struct KeyCircuit {
    limbs: Option<KeyLimbs<Fp>>,
}

#[cfg(any(all(test, feature = "prove"), feature = "peers"))]
impl KeyCircuit {
    /// The circuit with a witness in it.
    pub(crate) fn new(limbs: KeyLimbs<Fp>) -> Self {
        Self { limbs: Some(limbs) }
    }
}

impl Halo2Circuit for KeyCircuit {
    const KIND: Kind = Kind::KeyKnowledgeHalo2;
    const K: u32 = K;
    const PUBLIC: usize = PublicInputs::<Fp>::COUNT;
    const PROOF_LEN: usize = PROOF_LEN;
}

impl Circuit<Fp> for KeyCircuit {
    type Config = KeyConfig;
    type FloorPlanner = SimpleFloorPlanner;

    fn without_witnesses(&self) -> Self {
        Self::default()
    }

    fn configure(meta: &mut ConstraintSystem<Fp>) -> KeyConfig {
        KeyConfig::configure(meta)
    }

    fn synthesize(&self, config: KeyConfig, mut layouter: impl Layouter<Fp>) -> Result<(), PlonkError> {
        let rows = LengthRows { has_mid: 2, has_top: 3 };
        let key = config.key(layouter.namespace(|| "key"), self.limbs.as_ref(), rows)?;
        let domain = config.public_cell(layouter.namespace(|| "d"), 1)?;
        config.bind(layouter.namespace(|| "context"), [4, 5])?;
        let fingerprint = config.hash(layouter.namespace(|| "fingerprint"), [domain, key.low, key.high])?;
        layouter.constrain_instance(fingerprint.cell(), config.public, 0)
    }
}

/// The proof system.
pub struct Halo2;

impl ProofSystem for Halo2 {
    type Statement = KeyKnowledge;
    type Opened = Halo2Opened;
    const KIND: Kind = Kind::KeyKnowledgeHalo2;

    fn open(
        _: &Parameters,
        context: &HashedContext<'_>,
        instance: &Instance,
        proof: &[u8],
    ) -> Result<Halo2Opened, Error> {
        KEYS.open(&PublicInputs::new(context.context(), instance)?.row(), proof)
    }

    fn check(_: &Parameters, proofs: &[&Halo2Opened]) -> Result<(), Error> {
        KEYS.check(proofs)
    }

    #[cfg(feature = "prove")]
    fn prove(
        _: &Parameters,
        context: &crate::ClaimContext,
        instance: &Instance,
        witness: &super::Witness,
    ) -> Result<Vec<u8>, Error> {
        let public = PublicInputs::new(context, instance)?;
        let limbs = KeyLimbs::new(witness.algorithm(), witness.secret())?;
        public.check(&limbs)?;
        KEYS.prove(KeyCircuit { limbs: Some(limbs) }, &public.row())
    }
}

#[cfg(all(test, feature = "prove"))]
mod soundness;

#[cfg(all(test, feature = "prove"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use halo2_proofs::{dev::MockProver, pasta::Fq};

    use super::*;
    use crate::{
        KeyAlgorithm,
        key_knowledge::{Witness, symmetric::tests as common},
    };

    fn proven(algorithm: KeyAlgorithm) -> (PublicInputs<Fp>, Vec<u8>) {
        let parameters = Parameters::default();
        let (context, instance, witness) = common::claim(Kind::KeyKnowledgeHalo2, Suite::Halo2Pasta, algorithm);
        let proof = Halo2::prove(&parameters, &context, &instance, &witness).unwrap();
        Halo2::verify(&parameters, &context, &instance, &proof).unwrap();
        (PublicInputs::new(&context, &instance).unwrap(), proof)
    }

    fn accepted(row: &[Fp; 6], limbs: KeyLimbs<Fp>) -> bool {
        let circuit = KeyCircuit { limbs: Some(limbs) };
        MockProver::run(K, &circuit, vec![row.to_vec()]).unwrap().verify().is_ok()
    }

    #[test]
    fn verifying_key_is_pinned() {
        let digest = KEYS.verifying_key_digest();
        assert_eq!(digest.to_string(), "72baba5d14b40dc9309f5e4a78314ee8c160b3c81f9c7657572c6823bac55469");
    }

    #[test]
    fn no_smaller_circuit_fits() {
        let (public, limbs) = common::satisfied(KeyAlgorithm::Aes256);
        let circuit = KeyCircuit { limbs: Some(limbs) };
        assert!(MockProver::run(K - 1, &circuit, vec![public.row().to_vec()]).is_err());
    }

    #[test]
    fn circuit_refuses_every_strategy() {
        for algorithm in common::ALGORITHMS {
            let (public, limbs) = common::satisfied::<Fp>(algorithm);
            assert!(accepted(&public.row(), limbs), "{algorithm}");
        }
        for (name, public, limbs) in common::strategies() {
            assert!(!accepted(&public.row(), limbs), "{name}");
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
            let one = Fp::ONE;
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
                assert_eq!(KEYS.verify(&changed.row(), &proof), Err(Error::ProofRefused));
            }
        }
    }

    #[test]
    fn a_witness_that_does_not_hold_is_refused() {
        let parameters = Parameters::default();
        let (context, instance, _) = common::claim(Kind::KeyKnowledgeHalo2, Suite::Halo2Pasta, KeyAlgorithm::Aes128);
        let other = Witness::new(KeyAlgorithm::Aes128, &[9; 16]).unwrap();
        assert!(matches!(Halo2::prove(&parameters, &context, &instance, &other), Err(Error::WitnessRefused(_))));
        // Forced past the check, the prover's output does not verify.
        for (name, public, limbs) in common::strategies() {
            if let Ok(proof) = KEYS.prove(KeyCircuit { limbs: Some(limbs) }, &public.row()) {
                assert!(KEYS.verify(&public.row(), &proof).is_err(), "{name}");
            }
        }
    }

    #[test]
    fn mutated_proofs_are_refused() {
        let (public, proof) = proven(KeyAlgorithm::Aes256);
        let refused = |bytes: &[u8]| KEYS.verify(&public.row(), bytes).is_err();
        for index in (0..PROOF_LEN).step_by(32) {
            for (offset, flip) in [(0, 0x01), (31, 0x80)] {
                let mut changed = proof.clone();
                changed[index + offset] ^= flip;
                assert!(refused(&changed), "byte {}", index + offset);
            }
            for chunk in [[0; 32], [0xff; 32]] {
                let mut changed = proof.clone();
                changed[index..index + 32].copy_from_slice(&chunk);
                assert!(refused(&changed), "chunk at {index}");
            }
        }
        assert!((0..PROOF_LEN).all(|length| refused(&proof[..length])));
        assert!(refused(&[proof.as_slice(), &[0]].concat()));
    }

    #[test]
    fn an_encoding_that_is_not_canonical_is_refused() {
        fn add(bytes: &mut [u8], number: &[u8; 32]) {
            let mut carry = 0;
            for (byte, addend) in bytes.iter_mut().zip(number) {
                let sum = u16::from(*byte) + u16::from(*addend) + carry;
                (*byte, carry) = (sum as u8, sum >> 8);
            }
        }
        let plus_one = |mut minus_one: [u8; 32]| {
            minus_one[0] += 1;
            minus_one
        };
        let (public, proof) = proven(KeyAlgorithm::Aes256);
        // A point's x lies in Fq beneath a sign bit, a scalar in Fp. Both always have room for one more modulus.
        for (modulus, sign) in [
            (plus_one((-Fp::ONE).to_repr()), 0),
            (plus_one((-Fq::ONE).to_repr()), 0x80),
            (plus_one((-Fq::ONE).to_repr()), 0),
        ] {
            for index in (0..PROOF_LEN).step_by(32) {
                let mut changed = proof.clone();
                let chunk = &mut changed[index..index + 32];
                let kept = chunk[31] & sign;
                chunk[31] ^= kept;
                add(chunk, &modulus);
                chunk[31] ^= kept;
                assert!(KEYS.verify(&public.row(), &changed).is_err(), "chunk at {index}");
            }
        }
    }
}
