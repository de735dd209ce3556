//! 64 slots as one rank-1 constraint system, and the context once.

use std::sync::OnceLock;

use ark_bn254::{Bn254, Fr};
use ark_groth16::Proof;
use ark_relations::{
    gr1cs::{ConstraintSynthesizer, ConstraintSystemRef, SynthesisError},
    utils::matrix::Matrix,
};

use crate::{
    Error,
    key_knowledge::{
        groth16::circuit::{self, Context, SLOT_CONSTRAINTS, SLOT_VARIABLES, Slot},
        many::{ManyInputs, SLOTS},
        symmetric::KeyLimbs,
    },
    params::Groth16Parameters,
};

/// Rank-1 constraints: those of the slots, and 2 for the context.
pub(crate) const CONSTRAINTS: usize = SLOTS * SLOT_CONSTRAINTS + 2;
/// The constant, the public inputs and the witness, with 2 variables of the context.
pub(crate) const VARIABLES: usize = 1 + ManyInputs::<Fr>::COUNT + SLOTS * SLOT_VARIABLES + 2;

/// The circuit of many keys; empty while a key is set up.
#[derive(Default)]
pub(crate) struct ManyCircuit<'a> {
    pub(super) assignment: Option<(&'a ManyInputs<Fr>, &'a [KeyLimbs<Fr>])>,
}

impl ConstraintSynthesizer<Fr> for ManyCircuit<'_> {
    fn generate_constraints(self, cs: ConstraintSystemRef<Fr>) -> Result<(), SynthesisError> {
        let public = |slot: usize| self.assignment.and_then(|(public, _)| public.slots.get(slot));
        let context = Context::inputs(&cs, public(0).map(|slot| slot.context))?;
        let slots: Vec<_> = (0..SLOTS).map(|slot| Slot::inputs(&cs, public(slot))).collect::<Result<_, _>>()?;
        for (index, slot) in slots.into_iter().enumerate() {
            slot.constrain(&cs, self.assignment.and_then(|(_, limbs)| limbs.get(index)))?;
        }
        context.constrain()
    }
}

/// The constraint matrices A, B and C, which are the same for every proof.
pub(crate) fn matrices() -> Result<&'static [Matrix<Fr>], Error> {
    static MATRICES: OnceLock<Option<Vec<Matrix<Fr>>>> = OnceLock::new();
    let synthesize = || circuit::lay_out(ManyCircuit::default());
    MATRICES.get_or_init(synthesize).as_deref().ok_or(Error::WitnessRefused("the circuit could not be laid out"))
}

/// The values of every variable: the constant, the public inputs, the witness.
pub(super) fn assignment(public: &ManyInputs<Fr>, limbs: &[KeyLimbs<Fr>]) -> Result<Vec<Fr>, SynthesisError> {
    circuit::evaluate(ManyCircuit { assignment: Some((public, limbs)) }, VARIABLES)
}

/// Makes a proof; `limbs` must satisfy the relation, or the proof will not verify.
pub(super) fn prove_row(
    keys: &Groth16Parameters,
    public: &ManyInputs<Fr>,
    limbs: &[KeyLimbs<Fr>],
) -> Result<Proof<Bn254>, Error> {
    let values = assignment(public, limbs).map_err(|_| circuit::REFUSED)?;
    circuit::prove_assignment(keys, values)
}
