//! The sharing of a symmetric key in halo2 on the Pasta curves.
//!
//! Poseidon runs in two lanes of columns side by side. The second does fewer hashes, and its columns, with that of the
//! range checks, evaluate the polynomials between them. Every coefficient is assigned once, in the rows that switch off
//! those beyond the threshold, and copied into each evaluation.

use std::sync::Arc;

use ff::Field;
use halo2_gadgets::poseidon::{Pow5Chip, Pow5Config};
use halo2_poseidon::P128Pow5T3;
use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner, Value},
    pasta::Fp,
    plonk::{Advice, Circuit, Column, ConstraintSystem, Constraints, Error as PlonkError, Expression, Selector},
    poly::Rotation,
};

use super::{
    Instance, MAX_HOLDERS, SharingOfKey,
    relation::{HIGHER, PublicInputs, Secrets},
};
use crate::{
    Error, Kind, Parameters, ProofSystem,
    context::HashedContext,
    gadgets::halo2::{self as gadgets, Cell, KeyConfig, LengthRows},
    params::{Halo2Circuit, Halo2Keys, Halo2Opened},
};

/// The circuit has 2^K rows.
pub(crate) const K: u32 = 11;
/// Bytes of every proof.
pub const PROOF_LEN: usize = 3808;

/// Slots whose commitment is hashed in the first lane; the others take the second.
const FIRST_LANE: usize = 21;

/// The keys of this circuit.
pub(crate) static KEYS: Halo2Keys<SharingCircuit> = Halo2Keys::new();

/// Rows of the instance column: [`PublicInputs::column`].
mod row {
    use super::HIGHER;

    pub(super) const FINGERPRINT: usize = 0;
    pub(super) const DOMAIN: usize = 1;
    pub(super) const HAS_MID: usize = 2;
    pub(super) const HAS_TOP: usize = 3;
    pub(super) const CONTEXT: [usize; 2] = [4, 5];
    pub(super) const ALLOWED: usize = 6;

    /// The first of a slot's rows: x, domain, used, commitment.
    pub(super) const fn slot(slot: usize) -> usize {
        ALLOWED + HIGHER + 4 * slot
    }
}

/// The relation as a circuit. The public inputs come from the instance column alone.
#[derive(Default)]
pub(crate) struct SharingCircuit {
    secrets: Option<Arc<Secrets>>,
    /// Where a test makes the prover slip in Horner's rule: slot, row, polynomial.
    #[cfg(test)]
    slip: Option<[usize; 3]>,
}

impl SharingCircuit {
    #[cfg(feature = "prove")]
    fn new(secrets: &Arc<Secrets>) -> Self {
        Self {
            secrets: Some(Arc::clone(secrets)),
            #[cfg(test)]
            slip: None,
        }
    }

    fn element(&self, element: impl FnOnce(&Secrets) -> Option<Fp>) -> Value<Fp> {
        self.secrets.as_deref().and_then(element).map_or(Value::unknown(), Value::known)
    }

    /// The next sum of Horner's rule.
    fn next(&self, at: [usize; 3], sum: &Cell, x: &Cell, term: &Cell) -> Value<Fp> {
        let next = sum.value().copied() * x.value() + term.value();
        #[cfg(test)]
        if self.slip == Some(at) {
            return next.map(|next| next + Fp::ONE);
        }
        let _ = at;
        next
    }
}

/// Columns and gates.
#[derive(Clone)]
pub(crate) struct SharingConfig {
    key: KeyConfig,
    /// Poseidon's second lane.
    lane: Pow5Config<Fp, 3, 2>,
    /// The second lane's state and then its partial S-box; free between its regions.
    columns: [Column<Advice>; 4],
    degree: Selector,
    step: Selector,
    opening: Selector,
}

/// A coefficient of both polynomials.
struct Coefficient {
    low: Cell,
    high: Cell,
}

impl SharingConfig {
    /// Every coefficient, from the constant terms up, those beyond the threshold zero.
    fn coefficients(
        &self,
        mut layouter: impl Layouter<Fp>,
        circuit: &SharingCircuit,
        constant: Coefficient,
    ) -> Result<Vec<Coefficient>, PlonkError> {
        let [low, high, allowed] = self.key.state;
        layouter.assign_region(
            || "coefficients",
            |mut region| {
                let mut coefficients = vec![Coefficient { low: constant.low.clone(), high: constant.high.clone() }];
                for index in 0..HIGHER {
                    self.degree.enable(&mut region, index)?;
                    let row = row::ALLOWED + index;
                    region.assign_advice_from_instance(|| "allowed", self.key.public, row, allowed, index)?;
                    let value = || circuit.element(|secrets| secrets.low.0.get(index).copied());
                    let low = region.assign_advice(|| "low", low, index, value)?;
                    let value = || circuit.element(|secrets| secrets.high.0.get(index).copied());
                    let high = region.assign_advice(|| "high", high, index, value)?;
                    coefficients.push(Coefficient { low, high });
                }
                Ok(coefficients)
            },
        )
    }

    /// The message that a slot's commitment is the hash of: its domain, both values at its x, its blinder.
    fn share(
        &self,
        mut layouter: impl Layouter<Fp>,
        circuit: &SharingCircuit,
        coefficients: &[Coefficient],
        slot: usize,
    ) -> Result<[Cell; 4], PlonkError> {
        // | x  | low sum      | high sum     | low coefficient | high coefficient |
        // | x  | a_31         | b_31         | a_30            | b_30             |
        // | x  | a_31·x+a_30  | b_31·x+b_30  | a_29            | b_29             |
        // |    | p_low(x)     | p_high(x)    | domain          | blinder          |
        let [low_column, high_column, low_next, high_next] = self.columns;
        let first = row::slot(slot);
        layouter.assign_region(
            || "share",
            |mut region| {
                let mut descending = coefficients.iter().rev();
                let leading = descending.next().ok_or(PlonkError::Synthesis)?;
                let mut low = leading.low.copy_advice(|| "low", &mut region, low_column, 0)?;
                let mut high = leading.high.copy_advice(|| "high", &mut region, high_column, 0)?;
                for (at, coefficient) in descending.enumerate() {
                    self.step.enable(&mut region, at)?;
                    let x = region.assign_advice_from_instance(|| "x", self.key.public, first, self.key.sum, at)?;
                    let low_term = coefficient.low.copy_advice(|| "a", &mut region, low_next, at)?;
                    let high_term = coefficient.high.copy_advice(|| "b", &mut region, high_next, at)?;
                    let next_low = circuit.next([slot, at, 0], &low, &x, &low_term);
                    let next_high = circuit.next([slot, at, 1], &high, &x, &high_term);
                    low = region.assign_advice(|| "low", low_column, at + 1, || next_low)?;
                    high = region.assign_advice(|| "high", high_column, at + 1, || next_high)?;
                }
                let (public, row) = (self.key.public, first + 1);
                let domain = region.assign_advice_from_instance(|| "domain", public, row, low_next, HIGHER)?;
                let value = || circuit.element(|secrets| secrets.blinders.0.get(slot).copied());
                let blinder = region.assign_advice(|| "blinder", high_next, HIGHER, value)?;
                Ok([domain, low, high, blinder])
            },
        )
    }

    /// The slot's public commitment is `hash`, or zero where the slot has no holder.
    fn open(&self, mut layouter: impl Layouter<Fp>, hash: &Cell, slot: usize) -> Result<(), PlonkError> {
        let ([a, b, c], first) = (self.key.state, row::slot(slot));
        layouter.assign_region(
            || "opening",
            |mut region| {
                self.opening.enable(&mut region, 0)?;
                hash.copy_advice(|| "hash", &mut region, a, 0)?;
                region.assign_advice_from_instance(|| "used", self.key.public, first + 2, b, 0)?;
                region.assign_advice_from_instance(|| "commitment", self.key.public, first + 3, c, 0)?;
                Ok(())
            },
        )
    }
}

impl Halo2Circuit for SharingCircuit {
    const KIND: Kind = Kind::SharingOfKeyHalo2;
    const K: u32 = K;
    const PUBLIC: usize = row::slot(MAX_HOLDERS);
    const PROOF_LEN: usize = PROOF_LEN;
}

impl Circuit<Fp> for SharingCircuit {
    type Config = SharingConfig;
    type FloorPlanner = SimpleFloorPlanner;

    fn without_witnesses(&self) -> Self {
        Self::default()
    }

    fn configure(meta: &mut ConstraintSystem<Fp>) -> SharingConfig {
        let key = KeyConfig::configure(meta);
        let columns = [(); 4].map(|()| meta.advice_column());
        let [s0, s1, s2, partial_sbox] = columns;
        meta.enable_equality(partial_sbox);
        let rc_a = [(); 3].map(|()| meta.fixed_column());
        let rc_b = [(); 3].map(|()| meta.fixed_column());
        let lane = Pow5Chip::configure::<P128Pow5T3>(meta, [s0, s1, s2], partial_sbox, rc_a, rc_b);
        let one = Expression::Constant(Fp::ONE);

        // | a_j | b_j | allowed_j |
        let degree = meta.selector();
        meta.create_gate("degree", |meta| {
            let selector = meta.query_selector(degree);
            let [low, high, allowed] = key.state.map(|column| meta.query_advice(column, Rotation::cur()));
            let barred = one - allowed;
            Constraints::with_selector(
                selector,
                [("low polynomial", barred.clone() * low), ("high polynomial", barred * high)],
            )
        });

        // The rows of `SharingConfig::share`.
        let step = meta.selector();
        meta.create_gate("Horner's rule", |meta| {
            let selector = meta.query_selector(step);
            let x = meta.query_advice(key.sum, Rotation::cur());
            let [low, high, a, b] = columns.map(|column| meta.query_advice(column, Rotation::cur()));
            let [next_low, next_high] = [s0, s1].map(|column| meta.query_advice(column, Rotation::next()));
            Constraints::with_selector(
                selector,
                [("low polynomial", low * x.clone() + a - next_low), ("high polynomial", high * x + b - next_high)],
            )
        });

        // | hash | used | commitment |
        let opening = meta.selector();
        meta.create_gate("opening", |meta| {
            let selector = meta.query_selector(opening);
            let [hash, used, commitment] = key.state.map(|column| meta.query_advice(column, Rotation::cur()));
            Constraints::with_selector(selector, [("commitment", used * hash - commitment)])
        });

        SharingConfig { key, lane, columns, degree, step, opening }
    }

    fn synthesize(&self, config: SharingConfig, mut layouter: impl Layouter<Fp>) -> Result<(), PlonkError> {
        let rows = LengthRows { has_mid: row::HAS_MID, has_top: row::HAS_TOP };
        let limbs = self.secrets.as_deref().map(|secrets| &secrets.key);
        let key = config.key.key(layouter.namespace(|| "key"), limbs, rows)?;
        let domain = config.key.public_cell(layouter.namespace(|| "d"), row::DOMAIN)?;
        config.key.bind(layouter.namespace(|| "context"), row::CONTEXT)?;
        let message = [domain, key.low.clone(), key.high.clone()];
        let fingerprint = config.key.hash(layouter.namespace(|| "fingerprint"), message)?;
        layouter.constrain_instance(fingerprint.cell(), config.key.public, row::FINGERPRINT)?;

        let constant = Coefficient { low: key.low, high: key.high };
        let coefficients = config.coefficients(layouter.namespace(|| "coefficients"), self, constant)?;
        for slot in 0..MAX_HOLDERS {
            let mut layouter = layouter.namespace(|| format!("slot {slot}"));
            let message = config.share(layouter.namespace(|| "share"), self, &coefficients, slot)?;
            let hash = if slot < FIRST_LANE {
                config.key.hash(layouter.namespace(|| "commitment"), message)?
            } else {
                gadgets::hash(&config.lane, layouter.namespace(|| "commitment"), message)?
            };
            config.open(layouter.namespace(|| "opening"), &hash, slot)?;
        }
        Ok(())
    }
}

/// The proof system.
pub struct Halo2;

impl ProofSystem for Halo2 {
    type Statement = SharingOfKey;
    type Opened = Halo2Opened;
    const KIND: Kind = Kind::SharingOfKeyHalo2;

    fn open(
        _: &Parameters,
        context: &HashedContext<'_>,
        instance: &Instance,
        proof: &[u8],
    ) -> Result<Halo2Opened, Error> {
        KEYS.open(&PublicInputs::new(context.context(), instance)?.column(), proof)
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
        public.check(&witness.secrets)?;
        KEYS.prove(SharingCircuit::new(&witness.secrets), &public.column())
    }
}

#[cfg(all(test, feature = "prove"))]
pub(crate) mod soundness;
#[cfg(all(test, feature = "prove"))]
mod tests;
