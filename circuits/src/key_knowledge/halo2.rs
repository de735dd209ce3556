//! Symmetric keys in halo2 (PLONKish arithmetic, inner-product commitments) on the Pasta curves.
//!
//! The circuit lives over the Pallas base field and its commitments over Vesta. The fingerprint is
//! Zcash Orchard's Poseidon (P128Pow5T3) with constant input length 3, over (d, low, high).
//!
//! One instance column holds F, d, has_mid, has_top, c0, c1. The transcript absorbs the verifying key and
//! the commitment to that column before the first challenge (strong Fiat-Shamir), and each of its cells
//! is copied into a gate, so that none is free.

use ff::{Field, FromUniformBytes, PrimeField};
use halo2_gadgets::{
    poseidon::{Hash, Pow5Chip, Pow5Config},
    utilities::decompose_running_sum::RunningSumConfig,
};
use halo2_poseidon::{self as poseidon, ConstantLength, P128Pow5T3};
#[cfg(feature = "prove")]
use halo2_proofs::transcript::Blake2bWrite;
use halo2_proofs::{
    circuit::{AssignedCell, Layouter, SimpleFloorPlanner, Value},
    pasta::{EqAffine, Fp},
    plonk::{
        Advice, Circuit, Column, ConstraintSystem, Constraints, Error as PlonkError, Expression, Instance as Public,
        Selector, SingleVerifier, verify_proof,
    },
    poly::Rotation,
    transcript::{Blake2bRead, Challenge255},
};

use super::{
    Instance, KeyKnowledge,
    symmetric::{KeyLimbs, PublicInputs, SuiteField},
};
use crate::{ClaimContext, Error, Kind, Parameters, ProofSystem, Suite};

/// The circuit has 2^K rows.
pub(crate) const K: u32 = 7;
/// Bytes of every proof.
pub const PROOF_LEN: usize = 2336;
/// Bits of one window of a range check.
const WINDOW: usize = 2;

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

/// Columns and gates.
#[derive(Clone)]
pub(crate) struct Config {
    poseidon: Pow5Config<Fp, 3, 2>,
    state: [Column<Advice>; 3],
    sum: Column<Advice>,
    public: Column<Public>,
    sum_range: RunningSumConfig<Fp, WINDOW>,
    state_range: RunningSumConfig<Fp, WINDOW>,
    length: Selector,
    square: Selector,
}

/// The relation as a circuit. The public inputs come from the instance column alone.
#[derive(Default)]
pub(crate) struct KeyCircuit {
    limbs: Option<KeyLimbs<Fp>>,
}

impl KeyCircuit {
    fn limb(&self, limb: fn(&KeyLimbs<Fp>) -> Fp) -> Value<Fp> {
        self.limbs.as_ref().map_or(Value::unknown(), |limbs| Value::known(limb(limbs)))
    }
}

impl Circuit<Fp> for KeyCircuit {
    type Config = Config;
    type FloorPlanner = SimpleFloorPlanner;

    fn without_witnesses(&self) -> Self {
        Self::default()
    }

    fn configure(meta: &mut ConstraintSystem<Fp>) -> Config {
        let state = [(); 3].map(|()| meta.advice_column());
        let [a, b, c] = state;
        let (partial_sbox, sum) = (meta.advice_column(), meta.advice_column());
        let rc_a = [(); 3].map(|()| meta.fixed_column());
        let rc_b = [(); 3].map(|()| meta.fixed_column());
        let public = meta.instance_column();
        meta.enable_equality(public);
        // Poseidon uses this column for padding and round constants in its own regions; constants go below.
        let [constants, ..] = rc_b;
        meta.enable_constant(constants);

        let poseidon = Pow5Chip::configure::<P128Pow5T3>(meta, state, partial_sbox, rc_a, rc_b);
        let q_sum = meta.selector();
        let sum_range = RunningSumConfig::configure(meta, q_sum, sum);
        let q_state = meta.selector();
        let state_range = RunningSumConfig::configure(meta, q_state, a);

        // | mid     | top     | high |
        // | has_mid | has_top |      |
        let length = meta.selector();
        meta.create_gate("length", |meta| {
            let selector = meta.query_selector(length);
            let [mid, top, high] = [a, b, c].map(|column| meta.query_advice(column, Rotation::cur()));
            let [has_mid, has_top] = [a, b].map(|column| meta.query_advice(column, Rotation::next()));
            let one = Expression::Constant(Fp::ONE);
            Constraints::with_selector(
                selector,
                [
                    ("high = mid + 2^64 top", mid.clone() + top.clone() * Fp::from_u128(1 << 64) - high),
                    ("no middle bytes below 192 bits", (one.clone() - has_mid) * mid),
                    ("no top bytes below 256 bits", (one - has_top) * top),
                ],
            )
        });

        // | c0 | c0^2 |
        let square = meta.selector();
        meta.create_gate("context", |meta| {
            let selector = meta.query_selector(square);
            let [limb, squared] = [a, b].map(|column| meta.query_advice(column, Rotation::cur()));
            Constraints::with_selector(selector, [("square", limb.clone() * limb - squared)])
        });

        Config { poseidon, state, sum, public, sum_range, state_range, length, square }
    }

    fn synthesize(&self, config: Config, mut layouter: impl Layouter<Fp>) -> Result<(), PlonkError> {
        let [a, b, c] = config.state;
        let mut in_range = |name, range: RunningSumConfig<Fp, WINDOW>, limb, bits: usize| {
            layouter.assign_region(
                || name,
                |mut region| {
                    let sums = range.witness_decompose(&mut region, 0, limb, true, bits, bits / WINDOW)?;
                    sums.first().cloned().ok_or(PlonkError::Synthesis)
                },
            )
        };
        let low = in_range("low", config.sum_range, self.limb(|limbs| limbs.low), 128)?;
        let mid = in_range("mid", config.sum_range, self.limb(|limbs| limbs.mid), 64)?;
        let top = in_range("top", config.state_range, self.limb(|limbs| limbs.top), 64)?;

        let domain = layouter.assign_region(
            || "domain",
            |mut region| region.assign_advice_from_instance(|| "d", config.public, 1, config.sum, 0),
        )?;
        let high: AssignedCell<Fp, Fp> = layouter.assign_region(
            || "length",
            |mut region| {
                config.length.enable(&mut region, 0)?;
                mid.copy_advice(|| "mid", &mut region, a, 0)?;
                top.copy_advice(|| "top", &mut region, b, 0)?;
                region.assign_advice_from_instance(|| "has_mid", config.public, 2, a, 1)?;
                region.assign_advice_from_instance(|| "has_top", config.public, 3, b, 1)?;
                region.assign_advice(|| "high", c, 0, || self.limb(KeyLimbs::high))
            },
        )?;
        layouter.assign_region(
            || "context",
            |mut region| {
                for (offset, row) in [(0, 4), (1, 5)] {
                    config.square.enable(&mut region, offset)?;
                    let limb = region.assign_advice_from_instance(|| "c", config.public, row, a, offset)?;
                    region.assign_advice(|| "c^2", b, offset, || limb.value().map(Field::square))?;
                }
                Ok(())
            },
        )?;

        let hash = Hash::<_, _, P128Pow5T3, ConstantLength<3>, 3, 2>::init(
            Pow5Chip::construct(config.poseidon),
            layouter.namespace(|| "sponge"),
        )?;
        let fingerprint = hash.hash(layouter.namespace(|| "fingerprint"), [domain, low, high])?;
        layouter.constrain_instance(fingerprint.cell(), config.public, 0)
    }
}

/// The proof system.
pub struct Halo2;

fn verify_row(parameters: &Parameters, public: &PublicInputs<Fp>, proof: &[u8]) -> Result<(), Error> {
    if proof.len() != PROOF_LEN {
        return Err(Error::malformed("halo2 proof", "it has the wrong length"));
    }
    let keys = parameters.halo2();
    // Reading refuses points and scalars that are not canonical, and the identity.
    let mut transcript = Blake2bRead::<_, EqAffine, Challenge255<_>>::init(proof);
    let strategy = SingleVerifier::new(keys.commitment());
    verify_proof(keys.commitment(), keys.verifying_key(), strategy, &[&[&public.row()]], &mut transcript)
        .map_err(|_| Error::ProofRefused)
}

#[cfg(feature = "prove")]
fn prove_row(parameters: &Parameters, public: &PublicInputs<Fp>, limbs: KeyLimbs<Fp>) -> Result<Vec<u8>, Error> {
    use halo2_proofs::plonk::create_proof;
    use rand_halo2::{rand_core::UnwrapErr, rngs::SysRng};

    let keys = parameters.halo2();
    let mut transcript = Blake2bWrite::<_, EqAffine, Challenge255<_>>::init(Vec::with_capacity(PROOF_LEN));
    let circuit = KeyCircuit { limbs: Some(limbs) };
    create_proof(
        keys.commitment(),
        keys.proving_key(),
        &[circuit],
        &[&[&public.row()]],
        UnwrapErr(SysRng),
        &mut transcript,
    )
    .map_err(|_| Error::WitnessRefused("the circuit could not be filled in"))?;
    Ok(transcript.finalize())
}

impl ProofSystem for Halo2 {
    type Statement = KeyKnowledge;
    const KIND: Kind = Kind::KeyKnowledgeHalo2;

    fn verify(parameters: &Parameters, context: &ClaimContext, instance: &Instance, proof: &[u8]) -> Result<(), Error> {
        verify_row(parameters, &PublicInputs::new(context, instance)?, proof)
    }

    #[cfg(feature = "prove")]
    fn prove(
        parameters: &Parameters,
        context: &ClaimContext,
        instance: &Instance,
        witness: &super::Witness,
    ) -> Result<Vec<u8>, Error> {
        let public = PublicInputs::new(context, instance)?;
        let limbs = KeyLimbs::new(witness.algorithm(), witness.secret())?;
        public.check(&limbs)?;
        prove_row(parameters, &public, limbs)
    }
}

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
        let digest = Parameters::default().halo2().verifying_key_digest();
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
                assert_eq!(verify_row(&Parameters::default(), &changed, &proof), Err(Error::ProofRefused));
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
            if let Ok(proof) = prove_row(&parameters, &public, limbs) {
                assert!(verify_row(&parameters, &public, &proof).is_err(), "{name}");
            }
        }
    }

    #[test]
    fn mutated_proofs_are_refused() {
        let (public, proof) = proven(KeyAlgorithm::Aes256);
        let refused = |bytes: &[u8]| verify_row(&Parameters::default(), &public, bytes).is_err();
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
                assert!(verify_row(&Parameters::default(), &public, &changed).is_err(), "chunk at {index}");
            }
        }
    }
}
