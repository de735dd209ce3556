//! The relation as a rank-1 constraint system. A verifier needs only the verifying key.

use std::sync::OnceLock;

use ark_crypto_primitives::sponge::{constraints::CryptographicSpongeVar, poseidon::constraints::PoseidonSpongeVar};
use ark_ff::{One, UniformRand};
use ark_groth16::ProvingKey;
use ark_r1cs_std::{
    alloc::AllocVar,
    eq::EqGadget,
    fields::{FieldVar, fp::FpVar},
};
use ark_relations::{
    gr1cs::{
        ConstraintSynthesizer, ConstraintSystem, ConstraintSystemRef, OptimizationGoal, R1CS_PREDICATE_LABEL,
        SynthesisError, SynthesisMode,
    },
    utils::matrix::Matrix,
};
use rand::rngs::OsRng;

use super::*;
use crate::key_knowledge::symmetric::KeyLimbs;

/// Rank-1 constraints: 256 for bits, 243 for Poseidon, 2 for the length, 1 for F, 2 for the context.
pub(crate) const CONSTRAINTS: usize = 504;
/// The constant, the public inputs and the witness.
pub(crate) const VARIABLES: usize = 508;

/// The circuit; empty while a key is set up.
#[derive(Default)]
pub(crate) struct KeyCircuit {
    pub(super) assignment: Option<(PublicInputs<Fr>, KeyLimbs<Fr>)>,
}

impl KeyCircuit {
    fn public(&self, input: fn(&PublicInputs<Fr>) -> Fr) -> Result<Fr, SynthesisError> {
        self.assignment.as_ref().map(|(public, _)| input(public)).ok_or(SynthesisError::AssignmentMissing)
    }

    /// A number below 2^bits, as the sum of bits that are each constrained to be 0 or 1.
    ///
    /// The last bit is given all that remains of the limb, so that a limb out of range is refused by
    /// its constraint and is never cut short on the way in.
    pub(super) fn number(
        &self,
        cs: &ConstraintSystemRef<Fr>,
        bits: usize,
        limb: fn(&KeyLimbs<Fr>) -> Fr,
    ) -> Result<FpVar<Fr>, SynthesisError> {
        let limb = self.assignment.as_ref().map(|(_, limbs)| limb(limbs).into_bigint());
        let mut variables = Vec::with_capacity(bits);
        let mut weights = Vec::with_capacity(bits);
        let mut weight = Fr::one();
        for index in 0..bits {
            let bit = FpVar::new_witness(cs.clone(), || {
                let limb = limb.ok_or(SynthesisError::AssignmentMissing)?;
                if index + 1 < bits {
                    return Ok(Fr::from(limb.get_bit(index)));
                }
                Fr::from_bigint(limb >> index as u32).ok_or(SynthesisError::Unsatisfiable)
            })?;
            bit.square_equals(&bit)?;
            variables.push(bit);
            weights.push(FpVar::Constant(weight));
            weight.double_in_place();
        }
        FpVar::inner_product(&variables, &weights)
    }
}

impl ConstraintSynthesizer<Fr> for KeyCircuit {
    fn generate_constraints(self, cs: ConstraintSystemRef<Fr>) -> Result<(), SynthesisError> {
        let input = |input: fn(&PublicInputs<Fr>) -> Fr| FpVar::new_input(cs.clone(), || self.public(input));
        let fingerprint = input(|public| public.fingerprint)?;
        let domain = input(|public| public.domain)?;
        let has_mid = input(|public| public.has_mid)?;
        let has_top = input(|public| public.has_top)?;
        let c0 = input(|public| public.context[0])?;
        let c1 = input(|public| public.context[1])?;

        let low = self.number(&cs, 128, |limbs| limbs.low)?;
        let mid = self.number(&cs, 64, |limbs| limbs.mid)?;
        let top = self.number(&cs, 64, |limbs| limbs.top)?;
        let zero = FpVar::Constant(Fr::ZERO);
        (FpVar::one() - has_mid).mul_equals(&mid, &zero)?;
        (FpVar::one() - has_top).mul_equals(&top, &zero)?;

        let high = mid + top * Fr::from_number(1 << 64);
        let mut sponge = PoseidonSpongeVar::new(cs.clone(), &POSEIDON);
        *sponge.state.first_mut().ok_or(SynthesisError::Unsatisfiable)? = domain;
        sponge.absorb(&vec![low, high])?;
        let output = sponge.squeeze_field_elements(1)?;
        output.first().ok_or(SynthesisError::Unsatisfiable)?.enforce_equal(&fingerprint)?;

        // An input in no constraint could be changed by anyone who sees a proof.
        let _ = (c0.square()?, c1.square()?);
        Ok(())
    }
}

/// The constraint matrices A, B and C, which are the same for every proof.
pub(crate) fn matrices() -> Result<&'static [Matrix<Fr>], Error> {
    static MATRICES: OnceLock<Option<Vec<Matrix<Fr>>>> = OnceLock::new();
    let synthesize = || {
        let cs = ConstraintSystem::new_ref();
        cs.set_optimization_goal(OptimizationGoal::Constraints);
        cs.set_mode(SynthesisMode::Setup);
        KeyCircuit::default().generate_constraints(cs.clone()).ok()?;
        cs.finalize();
        cs.to_matrices().ok()?.remove(R1CS_PREDICATE_LABEL)
    };
    MATRICES.get_or_init(synthesize).as_deref().ok_or(Error::WitnessRefused("the circuit could not be laid out"))
}

/// The values of every variable: the constant, the public inputs, the witness.
pub(super) fn assignment(public: PublicInputs<Fr>, limbs: KeyLimbs<Fr>) -> Result<Vec<Fr>, SynthesisError> {
    let cs = ConstraintSystem::new_ref();
    cs.set_mode(SynthesisMode::Prove { construct_matrices: false, generate_lc_assignments: false });
    KeyCircuit { assignment: Some((public, limbs)) }.generate_constraints(cs.clone())?;
    let mut system = cs.into_inner().ok_or(SynthesisError::MissingCS)?;
    let mut witness = std::mem::take(&mut system.assignments.witness_assignment);
    let mut all = Vec::with_capacity(VARIABLES);
    all.extend_from_slice(&system.assignments.instance_assignment);
    all.extend_from_slice(&witness);
    witness.zeroize();
    Ok(all)
}

/// Makes a proof; `limbs` must satisfy the relation, or the proof will not verify.
pub(super) fn prove_row(
    key: &ProvingKey<Bn254>,
    public: PublicInputs<Fr>,
    limbs: KeyLimbs<Fr>,
) -> Result<Proof<Bn254>, Error> {
    if key.a_query.len() != VARIABLES {
        return Err(Error::MissingParameters("Groth16 proving"));
    }
    let refused = |_| Error::WitnessRefused("the circuit could not be filled in");
    let mut values = assignment(public, limbs).map_err(refused)?;
    let (r, s) = (Fr::rand(&mut OsRng), Fr::rand(&mut OsRng));
    let inputs = PublicInputs::<Fr>::COUNT + 1;
    let proof = Snark::create_proof_with_reduction_and_matrices(key, r, s, matrices()?, inputs, CONSTRAINTS, &values);
    values.zeroize();
    proof.map_err(refused)
}
