//! Tags in halo2 (PLONKish arithmetic, inner-product commitments) on the Pasta curves.
//!
//! Field, hash and transcript as in `key_knowledge/halo2.rs`. One instance column holds f0, fβ, d0, dβ, c0, c1, and
//! each of its cells is copied into a gate, so that none is free.

use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner, Value},
    pasta::Fp,
    plonk::{Circuit, ConstraintSystem, Error as PlonkError},
};

use super::{Instance, PublicInputs, TagElements, TaggedKey};
use crate::{
    Error, Kind, Parameters, ProofSystem,
    context::HashedContext,
    gadgets::halo2::{KeyConfig, Lane},
    params::{Halo2Circuit, Halo2Keys, Halo2Opened},
};

/// The circuit has 2^K rows.
pub(crate) const K: u32 = 8;
/// Bytes of every proof.
pub const PROOF_LEN: usize = 2400;

/// The keys of this circuit.
pub(crate) static KEYS: Halo2Keys<TagCircuit> = Halo2Keys::new();

/// The relation as a circuit. The public inputs come from the instance column alone.
#[derive(Default)]
pub(crate) struct TagCircuit {
    tags: Option<TagElements>,
}

impl Halo2Circuit for TagCircuit {
    const KIND: Kind = Kind::TaggedKeyHalo2;
    const K: u32 = K;
    const PUBLIC: usize = 6;
    const PROOF_LEN: usize = PROOF_LEN;
}

impl Circuit<Fp> for TagCircuit {
    type Config = KeyConfig;
    type FloorPlanner = SimpleFloorPlanner;

    fn without_witnesses(&self) -> Self {
        Self::default()
    }

    fn configure(meta: &mut ConstraintSystem<Fp>) -> KeyConfig {
        KeyConfig::configure(meta)
    }

    fn synthesize(&self, config: KeyConfig, mut layouter: impl Layouter<Fp>) -> Result<(), PlonkError> {
        let value = |tag: fn(&TagElements) -> Fp| match &self.tags {
            Some(tags) => Value::known(tag(tags)),
            None => Value::unknown(),
        };
        let identifier = config.number(layouter.namespace(|| "T0"), Lane::Sum, value(|tags| tags.identifier), 128)?;
        let round = config.number(layouter.namespace(|| "T beta"), Lane::State, value(|tags| tags.round), 128)?;
        config.bind(layouter.namespace(|| "context"), [4, 5])?;
        for (row, tag) in [(0, identifier), (1, round)] {
            let domain = config.public_cell(layouter.namespace(|| "domain"), row + 2)?;
            let zero = config.constant(layouter.namespace(|| "zero"), Fp::zero())?;
            let fingerprint = config.hash(layouter.namespace(|| "fingerprint"), [domain, tag, zero])?;
            layouter.constrain_instance(fingerprint.cell(), config.public, row)?;
        }
        Ok(())
    }
}

/// The proof system.
pub struct TaggedHalo2;

impl ProofSystem for TaggedHalo2 {
    type Statement = TaggedKey;
    type Opened = Halo2Opened;
    const KIND: Kind = Kind::TaggedKeyHalo2;

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
        let tags = TagElements::from(witness);
        public.check(&tags)?;
        KEYS.prove(TagCircuit { tags: Some(tags) }, &public.row())
    }
}

#[cfg(all(test, feature = "prove"))]
pub(crate) mod soundness;

#[cfg(all(test, feature = "prove"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use ff::Field;
    use halo2_proofs::dev::MockProver;

    use super::*;
    use crate::tagged_key::{Witness, tests as common};

    fn proven() -> (PublicInputs, Vec<u8>) {
        let (context, instance, witness) = common::claim();
        let proof = TaggedHalo2::prove(&Parameters::default(), &context, &instance, &witness).unwrap();
        TaggedHalo2::verify(&Parameters::default(), &context, &instance, &proof).unwrap();
        (PublicInputs::new(&context, &instance).unwrap(), proof)
    }

    fn accepted(public: &PublicInputs, tags: TagElements) -> bool {
        let circuit = TagCircuit { tags: Some(tags) };
        MockProver::run(K, &circuit, vec![public.row().to_vec()]).unwrap().verify().is_ok()
    }

    #[test]
    fn verifying_key_is_pinned() {
        let digest = KEYS.verifying_key_digest();
        assert_eq!(digest.to_string(), "5188b0fb9e917793a5b5309272e92bf334a26c6dbc87867d415daccd2893f9fb");
    }

    #[test]
    fn no_smaller_circuit_fits() {
        let (public, tags) = common::satisfied();
        let circuit = TagCircuit { tags: Some(tags) };
        assert!(MockProver::run(K - 1, &circuit, vec![public.row().to_vec()]).is_err());
    }

    #[test]
    fn circuit_accepts_what_holds() {
        let (public, tags) = common::satisfied();
        assert!(accepted(&public, tags));
    }

    #[test]
    fn every_public_input_binds() {
        let (public, proof) = proven();
        assert_eq!(proof.len(), PROOF_LEN);
        let one = Fp::ONE;
        let [c0, c1] = public.context;
        for changed in [
            PublicInputs { identifier: public.identifier + one, ..public },
            PublicInputs { round: public.round + one, ..public },
            PublicInputs { identifier: public.round, round: public.identifier, ..public },
            PublicInputs { identifier_domain: public.identifier_domain + one, ..public },
            PublicInputs { round_domain: public.round_domain + one, ..public },
            PublicInputs { context: [c0 + one, c1], ..public },
            PublicInputs { context: [c0, c1 + one], ..public },
            PublicInputs { context: [c1, c0], ..public },
        ] {
            assert_eq!(KEYS.verify(&changed.row(), &proof), Err(Error::ProofRefused));
        }
    }

    #[test]
    fn a_witness_that_does_not_hold_is_refused() {
        let (context, instance, _) = common::claim();
        let other = Witness::from_tags(&[9; 16], &[9; 16]);
        let refused = TaggedHalo2::prove(&Parameters::default(), &context, &instance, &other);
        assert!(matches!(refused, Err(Error::WitnessRefused(_))));
    }

    #[test]
    fn the_enrolled_form_is_neither_proven_nor_verified() {
        let (context, instance, witness) = common::claim();
        let enrolled = instance.identifier();
        let parameters = Parameters::default();
        let proof = TaggedHalo2::prove(&parameters, &context, &instance, &witness).unwrap();
        let refusals = [
            TaggedHalo2::prove(&parameters, &context, &enrolled, &witness).map(drop),
            TaggedHalo2::verify(&parameters, &context, &enrolled, &proof),
        ];
        assert!(refusals.iter().all(|refusal| matches!(refusal, Err(Error::WrongInstance(_)))));
    }
}
