//! The relation as a rank-1 constraint system. A verifier needs only the verifying key.

use std::sync::OnceLock;

use ark_crypto_primitives::sponge::{constraints::CryptographicSpongeVar, poseidon::constraints::PoseidonSpongeVar};
use ark_ff::{One, UniformRand};
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

/// Rank-1 constraints of a slot: 256 for bits, 243 for Poseidon, 2 for the length, 1 for F.
pub(crate) const SLOT_CONSTRAINTS: usize = 502;
/// Witness variables of a slot: bits, and what Poseidon multiplies.
pub(crate) const SLOT_VARIABLES: usize = 499;
/// Rank-1 constraints: those of a slot, and 2 for the context, with a witness variable each.
pub(crate) const CONSTRAINTS: usize = SLOT_CONSTRAINTS + 2;
/// The constant, the public inputs and the witness.
pub(crate) const VARIABLES: usize = 1 + PublicInputs::<Fr>::COUNT + SLOT_VARIABLES + 2;

/// A number below 2^bits, as the sum of bits that are each constrained to be 0 or 1.
///
/// The last bit is given all that remains of the limb, so that a limb out of range is refused by
/// its constraint and is never cut short on the way in.
pub(super) fn number(cs: &ConstraintSystemRef<Fr>, bits: usize, limb: Option<Fr>) -> Result<FpVar<Fr>, SynthesisError> {
    let limb = limb.map(PrimeField::into_bigint);
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

/// The public inputs of one key.
pub(super) struct Slot {
    fingerprint: FpVar<Fr>,
    domain: FpVar<Fr>,
    has_mid: FpVar<Fr>,
    has_top: FpVar<Fr>,
}

impl Slot {
    /// Allocates the inputs, in the order of [`PublicInputs::row`].
    pub(super) fn inputs(
        cs: &ConstraintSystemRef<Fr>,
        public: Option<&PublicInputs<Fr>>,
    ) -> Result<Self, SynthesisError> {
        let input = |input: fn(&PublicInputs<Fr>) -> Fr| {
            FpVar::new_input(cs.clone(), || public.map(input).ok_or(SynthesisError::AssignmentMissing))
        };
        Ok(Self {
            fingerprint: input(|public| public.fingerprint)?,
            domain: input(|public| public.domain)?,
            has_mid: input(|public| public.has_mid)?,
            has_top: input(|public| public.has_top)?,
        })
    }

    /// The relation of one key, clauses (1) to (6) of spec.md.
    pub(super) fn constrain(
        self,
        cs: &ConstraintSystemRef<Fr>,
        limbs: Option<&KeyLimbs<Fr>>,
    ) -> Result<(), SynthesisError> {
        let low = number(cs, 128, limbs.map(|limbs| limbs.low))?;
        let mid = number(cs, 64, limbs.map(|limbs| limbs.mid))?;
        let top = number(cs, 64, limbs.map(|limbs| limbs.top))?;
        let zero = FpVar::Constant(Fr::ZERO);
        (FpVar::one() - self.has_mid).mul_equals(&mid, &zero)?;
        (FpVar::one() - self.has_top).mul_equals(&top, &zero)?;

        let high = mid + top * Fr::from_number(1 << 64);
        let mut sponge = PoseidonSpongeVar::new(cs.clone(), &POSEIDON);
        *sponge.state.first_mut().ok_or(SynthesisError::Unsatisfiable)? = self.domain;
        sponge.absorb(&vec![low, high])?;
        let output = sponge.squeeze_field_elements(1)?;
        output.first().ok_or(SynthesisError::Unsatisfiable)?.enforce_equal(&self.fingerprint)
    }
}

/// The context's two halves.
pub(super) struct Context([FpVar<Fr>; 2]);

impl Context {
    pub(super) fn inputs(cs: &ConstraintSystemRef<Fr>, context: Option<[Fr; 2]>) -> Result<Self, SynthesisError> {
        let input = |half: fn([Fr; 2]) -> Fr| {
            FpVar::new_input(cs.clone(), || context.map(half).ok_or(SynthesisError::AssignmentMissing))
        };
        Ok(Self([input(|[c0, _]| c0)?, input(|[_, c1]| c1)?]))
    }

    /// An input in no constraint could be changed by anyone who sees a proof.
    pub(super) fn constrain(self) -> Result<(), SynthesisError> {
        self.0.iter().try_for_each(|half| half.square().map(drop))
    }
}

/// The circuit of one key; empty while a key is set up.
#[derive(Default)]
pub(crate) struct KeyCircuit {
    pub(crate) assignment: Option<(PublicInputs<Fr>, KeyLimbs<Fr>)>,
}

impl ConstraintSynthesizer<Fr> for KeyCircuit {
    fn generate_constraints(self, cs: ConstraintSystemRef<Fr>) -> Result<(), SynthesisError> {
        let (public, limbs) = self.assignment.as_ref().map(|(public, limbs)| (public, limbs)).unzip();
        let slot = Slot::inputs(&cs, public)?;
        let context = Context::inputs(&cs, public.map(|public| public.context))?;
        slot.constrain(&cs, limbs)?;
        context.constrain()
    }
}

/// Lays out the constraint matrices A, B and C of a circuit.
pub(super) fn lay_out(circuit: impl ConstraintSynthesizer<Fr>) -> Option<Vec<Matrix<Fr>>> {
    let cs = ConstraintSystem::new_ref();
    cs.set_optimization_goal(OptimizationGoal::Constraints);
    cs.set_mode(SynthesisMode::Setup);
    circuit.generate_constraints(cs.clone()).ok()?;
    cs.finalize();
    cs.to_matrices().ok()?.remove(R1CS_PREDICATE_LABEL)
}

/// The constraint matrices A, B and C, which are the same for every proof.
pub(crate) fn matrices() -> Result<&'static [Matrix<Fr>], Error> {
    static MATRICES: OnceLock<Option<Vec<Matrix<Fr>>>> = OnceLock::new();
    let synthesize = || lay_out(KeyCircuit::default());
    MATRICES.get_or_init(synthesize).as_deref().ok_or(Error::WitnessRefused("the circuit could not be laid out"))
}

/// The values of every variable of a circuit with a witness in it: the constant, the public inputs, the witness.
pub(super) fn evaluate(circuit: impl ConstraintSynthesizer<Fr>, variables: usize) -> Result<Vec<Fr>, SynthesisError> {
    let cs = ConstraintSystem::new_ref();
    cs.set_mode(SynthesisMode::Prove { construct_matrices: false, generate_lc_assignments: false });
    circuit.generate_constraints(cs.clone())?;
    let mut system = cs.into_inner().ok_or(SynthesisError::MissingCS)?;
    let mut witness = std::mem::take(&mut system.assignments.witness_assignment);
    let mut all = Vec::with_capacity(variables);
    all.extend_from_slice(&system.assignments.instance_assignment);
    all.extend_from_slice(&witness);
    witness.zeroize();
    Ok(all)
}

/// The values of every variable: the constant, the public inputs, the witness.
pub(crate) fn assignment(public: PublicInputs<Fr>, limbs: KeyLimbs<Fr>) -> Result<Vec<Fr>, SynthesisError> {
    evaluate(KeyCircuit { assignment: Some((public, limbs)) }, VARIABLES)
}

/// Makes a proof; `limbs` must satisfy the relation, or the proof will not verify.
pub(super) fn prove_row(
    keys: &Groth16Parameters,
    public: PublicInputs<Fr>,
    limbs: KeyLimbs<Fr>,
) -> Result<Proof<Bn254>, Error> {
    prove_assignment(keys, assignment(public, limbs).map_err(|_| REFUSED)?)
}

pub(super) const REFUSED: Error = Error::WitnessRefused("the circuit could not be filled in");

/// Makes a proof from the values of every variable, which it wipes.
pub(super) fn prove_assignment(keys: &Groth16Parameters, mut values: Vec<Fr>) -> Result<Proof<Bn254>, Error> {
    let (r, s) = (Fr::rand(&mut OsRng), Fr::rand(&mut OsRng));
    let proof = keys.prover().and_then(|prover| Ok(prover.prove(keys.circuit().matrices()?, &values, r, s)));
    values.zeroize();
    proof?.ok_or(Error::MissingParameters("Groth16 proving"))
}
