//! Key derivation in halo2 (PLONKish arithmetic, inner-product commitments) on the Pasta curves.
//!
//! Field, hash and transcript as in `key_knowledge/halo2.rs`. Each of the twelve cells of the instance column is copied
//! into a gate, so that none is free.

use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner, Value},
    pasta::Fp,
    plonk::{Circuit, ConstraintSystem, Constraints, Error as PlonkError, Selector},
    poly::Rotation,
};

use super::{
    Instance, KeyDerivation,
    relation::{Expansion, PublicInputs},
};
use crate::{
    Error, Kind, Parameters, ProofSystem,
    context::HashedContext,
    gadgets::{
        canonical::CanonicalConfig,
        halo2::{Cell, KeyConfig, Lane, LengthRows},
    },
    key_knowledge::symmetric::SuiteField,
    params::{Halo2Circuit, Halo2Keys, Halo2Opened},
};

/// The circuit has 2^K rows.
pub(crate) const K: u32 = 9;
/// Bytes of every proof.
pub const PROOF_LEN: usize = 2464;

/// The keys of this circuit.
pub(crate) static KEYS: Halo2Keys<DerivationCircuit> = Halo2Keys::new();

/// Rows of the instance column.
const MASTER: usize = 0;
const DERIVED: usize = 4;
const KDF: [usize; 2] = [8, 9];
const CONTEXT: [usize; 2] = [10, 11];

/// Columns and gates.
#[derive(Clone)]
pub(crate) struct DerivationConfig {
    key: KeyConfig,
    canonical: CanonicalConfig,
    choose: Selector,
}

impl DerivationConfig {
    fn configure(meta: &mut ConstraintSystem<Fp>) -> Self {
        let key = KeyConfig::configure(meta);
        let canonical = CanonicalConfig::configure(meta, &key);
        // | mid     | top     | low  |
        // | has_mid | has_top | high |
        let choose = meta.selector();
        let columns = key.state;
        meta.create_gate("choose", |meta| {
            let selector = meta.query_selector(choose);
            let [mid, top, low] = columns.map(|column| meta.query_advice(column, Rotation::cur()));
            let [has_mid, has_top, high] = columns.map(|column| meta.query_advice(column, Rotation::next()));
            let shift = Fp::from_number(1 << 64);
            Constraints::with_selector(
                selector,
                [
                    ("low = mid + 2^64 top", mid.clone() + top.clone() * shift - low),
                    ("high has what the key has", has_mid * mid + has_top * top * shift - high),
                ],
            )
        });
        Self { key, canonical, choose }
    }

    /// Bytes 16..32 of the derived key, out of the low half of z2.
    fn choose(
        &self,
        mut layouter: impl Layouter<Fp>,
        low: &Cell,
        expansion: Option<&Expansion>,
    ) -> Result<Cell, PlonkError> {
        let part = |part: fn(&Expansion) -> Fp| expansion.map_or(Value::unknown(), |all| Value::known(part(all)));
        let mid = self.key.number(layouter.namespace(|| "mid"), Lane::Sum, part(|all| all.mid), 64)?;
        let top = self.key.number(layouter.namespace(|| "top"), Lane::State, part(|all| all.top), 64)?;
        let [a, b, c] = self.key.state;
        layouter.assign_region(
            || "choose",
            |mut region| {
                self.choose.enable(&mut region, 0)?;
                let mid = mid.copy_advice(|| "mid", &mut region, a, 0)?;
                let top = top.copy_advice(|| "top", &mut region, b, 0)?;
                low.copy_advice(|| "low", &mut region, c, 0)?;
                let public = self.key.public;
                let has_mid = region.assign_advice_from_instance(|| "has_mid", public, DERIVED + 2, a, 1)?;
                let has_top = region.assign_advice_from_instance(|| "has_top", public, DERIVED + 3, b, 1)?;
                let chosen = |has: &Cell, part: &Cell| has.value().copied() * part.value().copied();
                let shift = Value::known(Fp::from_number(1 << 64));
                let high = chosen(&has_mid, &mid) + chosen(&has_top, &top) * shift;
                region.assign_advice(|| "high", c, 1, || high)
            },
        )
    }
}

/// The relation as a circuit. The public inputs come from the instance column alone.
#[derive(Default)]
pub(crate) struct DerivationCircuit {
    expansion: Option<Expansion>,
}

impl Halo2Circuit for DerivationCircuit {
    const KIND: Kind = Kind::KeyDerivationHalo2;
    const K: u32 = K;
    const PUBLIC: usize = PublicInputs::COUNT;
    const PROOF_LEN: usize = PROOF_LEN;
}

impl Circuit<Fp> for DerivationCircuit {
    type Config = DerivationConfig;
    type FloorPlanner = SimpleFloorPlanner;

    fn without_witnesses(&self) -> Self {
        Self::default()
    }

    fn configure(meta: &mut ConstraintSystem<Fp>) -> DerivationConfig {
        DerivationConfig::configure(meta)
    }

    fn synthesize(&self, config: DerivationConfig, mut layouter: impl Layouter<Fp>) -> Result<(), PlonkError> {
        let expansion = self.expansion.as_ref();
        let rows = LengthRows { has_mid: MASTER + 2, has_top: MASTER + 3 };
        let master = config.key.key(layouter.namespace(|| "master"), expansion.map(|all| &all.master), rows)?;
        config.key.bind(layouter.namespace(|| "context"), CONTEXT)?;
        let [master_domain, derived_domain] =
            [MASTER + 1, DERIVED + 1].map(|row| config.key.public_cell(layouter.namespace(|| "d"), row));
        let [kdf_1, kdf_2] = KDF.map(|row| config.key.public_cell(layouter.namespace(|| "kappa"), row));

        let of_master = |domain| [domain, master.low.clone(), master.high.clone()];
        let fingerprint = config.key.hash(layouter.namespace(|| "F of the master"), of_master(master_domain?))?;
        layouter.constrain_instance(fingerprint.cell(), config.key.public, MASTER)?;

        let z1 = config.key.hash(layouter.namespace(|| "z1"), of_master(kdf_1?))?;
        let z2 = config.key.hash(layouter.namespace(|| "z2"), of_master(kdf_2?))?;
        // The lanes are chosen so that both fill up evenly.
        let (canonical, key) = (&config.canonical, &config.key);
        let first = expansion.map(|all| &all.first);
        let low = canonical.low_half(key, layouter.namespace(|| "first"), Lane::State, &z1, first)?;
        let second = expansion.map(|all| &all.second);
        let rest = canonical.low_half(key, layouter.namespace(|| "second"), Lane::Sum, &z2, second)?;
        let high = config.choose(layouter.namespace(|| "high"), &rest, expansion)?;

        let fingerprint = config.key.hash(layouter.namespace(|| "F of the derived"), [derived_domain?, low, high])?;
        layouter.constrain_instance(fingerprint.cell(), config.key.public, DERIVED)
    }
}

/// The proof system.
pub struct DerivationHalo2;

impl ProofSystem for DerivationHalo2 {
    type Statement = KeyDerivation;
    type Opened = Halo2Opened;
    const KIND: Kind = Kind::KeyDerivationHalo2;

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
        use crate::key_knowledge::symmetric::KeyLimbs;
        let public = PublicInputs::new(context, instance)?;
        let expansion = Expansion::new(KeyLimbs::new(witness.algorithm, &witness.master)?, public.kdf);
        public.check(&expansion)?;
        KEYS.prove(DerivationCircuit { expansion: Some(expansion) }, &public.row())
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
    use crate::{
        KeyAlgorithm,
        key_derivation::{Witness, relation::PublicKey, tests as common},
    };

    fn proven(master: KeyAlgorithm, derived: KeyAlgorithm) -> (PublicInputs, Vec<u8>) {
        let (context, instance, witness) = common::claim(master, derived);
        let proof = DerivationHalo2::prove(&Parameters::default(), &context, &instance, &witness).unwrap();
        DerivationHalo2::verify(&Parameters::default(), &context, &instance, &proof).unwrap();
        (PublicInputs::new(&context, &instance).unwrap(), proof)
    }

    fn accepted(public: &PublicInputs, expansion: Expansion) -> bool {
        let circuit = DerivationCircuit { expansion: Some(expansion) };
        MockProver::run(K, &circuit, vec![public.row().to_vec()]).unwrap().verify().is_ok()
    }

    #[test]
    fn verifying_key_is_pinned() {
        let digest = KEYS.verifying_key_digest();
        assert_eq!(digest.to_string(), "a4d66a1845cc1f868ac97b2458cb8828b75c8069f1505c9757c7b1b2be895a6e");
    }

    #[test]
    fn no_smaller_circuit_fits() {
        let (public, expansion) = common::satisfied(KeyAlgorithm::Aes256, KeyAlgorithm::Aes256);
        let circuit = DerivationCircuit { expansion: Some(expansion) };
        assert!(MockProver::run(K - 1, &circuit, vec![public.row().to_vec()]).is_err());
    }

    #[test]
    fn circuit_accepts_what_holds() {
        for (master, derived) in common::pairs() {
            let (public, expansion) = common::satisfied(master, derived);
            assert!(accepted(&public, expansion), "{derived} from {master}");
        }
    }

    #[test]
    fn every_public_input_binds() {
        let (public, proof) = proven(KeyAlgorithm::Aes256, KeyAlgorithm::Aes192);
        assert_eq!(proof.len(), PROOF_LEN);
        for row in 0..PublicInputs::COUNT {
            let mut changed = public.row();
            changed[row] += Fp::ONE;
            assert_eq!(KEYS.verify(&changed, &proof), Err(Error::ProofRefused), "row {row}");
        }
        let PublicKey { has_top, .. } = public.derived;
        assert_eq!(has_top, Fp::ZERO);
        let [one, two] = public.kdf;
        let exchanged = PublicInputs { kdf: [two, one], ..public };
        assert_eq!(KEYS.verify(&exchanged.row(), &proof), Err(Error::ProofRefused));
    }

    #[test]
    fn a_witness_that_does_not_hold_is_refused() {
        let (context, instance, _) = common::claim(KeyAlgorithm::Aes128, KeyAlgorithm::Aes128);
        let other = Witness::new(KeyAlgorithm::Aes128, &[9; 16]).unwrap();
        let refused = DerivationHalo2::prove(&Parameters::default(), &context, &instance, &other);
        assert!(matches!(refused, Err(Error::WitnessRefused(_))));
    }
}
