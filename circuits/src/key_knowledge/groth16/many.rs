//! Many symmetric keys in one Groth16 proof: the circuit of one key in 64 slots, bound to one context.
//!
//! The public inputs are those of `ManyInputs`, and the verifier computes all of them.

#[cfg(feature = "prove")]
pub(crate) mod circuit;
#[cfg(all(test, feature = "prove"))]
pub(crate) mod tests;

use ark_bn254::Fr;

#[cfg(all(test, feature = "prove"))]
use super::verify_points;
use super::{Opened, check_all, decode};
use crate::{
    Error, Kind, Parameters, ProofSystem,
    context::HashedContext,
    key_knowledge::many::{Instance, ManyInputs, ManyKeys},
};

/// Bytes of every proof, however many keys it has.
pub const PROOF_LEN: usize = super::PROOF_LEN;

#[cfg(all(test, feature = "prove"))]
fn verify_row(parameters: &Parameters, public: &ManyInputs<Fr>, proof: &[u8]) -> Result<(), Error> {
    verify_points(parameters.groth16_many()?, &public.row(), &decode(proof)?)
}

/// The proof system.
pub struct ManyGroth16;

impl ProofSystem for ManyGroth16 {
    type Statement = ManyKeys;
    type Opened = Opened;
    const KIND: Kind = Kind::ManyKeysGroth16;

    fn open(_: &Parameters, context: &HashedContext<'_>, instance: &Instance, proof: &[u8]) -> Result<Opened, Error> {
        let public = ManyInputs::<Fr>::new(context.context(), instance)?;
        Ok(Opened { proof: decode(proof)?, row: public.row() })
    }

    fn check(parameters: &Parameters, proofs: &[&Opened]) -> Result<(), Error> {
        check_all(parameters.groth16_many()?, proofs)
    }

    #[cfg(feature = "prove")]
    fn prove(
        parameters: &Parameters,
        context: &crate::ClaimContext,
        instance: &Instance,
        witness: &crate::key_knowledge::many::Witness,
    ) -> Result<Vec<u8>, Error> {
        let public = ManyInputs::new(context, instance)?;
        let limbs = witness.limbs()?;
        public.check(&limbs)?;
        let proof = circuit::prove_row(parameters.groth16_many()?, &public, &limbs)?;
        Ok(super::encode(&proof))
    }
}
