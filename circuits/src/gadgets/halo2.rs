//! Symmetric keys, their fingerprints and the claim context, as parts of circuits over the Pallas base field.
//!
//! Two of a circuit's columns take range checks; Poseidon is Zcash Orchard's P128Pow5T3. Everything public comes from
//! one instance column, and is copied from it cell by cell.

use ff::{Field, PrimeField};
use halo2_gadgets::{
    poseidon::{Hash, Pow5Chip, Pow5Config},
    utilities::decompose_running_sum::RunningSumConfig,
};
use halo2_poseidon::{ConstantLength, P128Pow5T3};
use halo2_proofs::{
    circuit::{AssignedCell, Layouter, Value},
    pasta::Fp,
    plonk::{
        Advice, Column, ConstraintSystem, Constraints, Error as PlonkError, Expression, Instance as Public, Selector,
    },
    poly::Rotation,
};

use crate::key_knowledge::symmetric::KeyLimbs;

/// Bits of one window of a range check.
pub(crate) const WINDOW: usize = 2;

/// A cell that holds a field element.
pub(crate) type Cell = AssignedCell<Fp, Fp>;

/// Which column a range check runs in. Two checks in different columns share rows.
#[derive(Clone, Copy)]
pub(crate) enum Lane {
    /// A column of its own.
    Sum,
    /// The first column of Poseidon's state.
    State,
}

/// The rows of the instance column that say how long a key is.
#[derive(Clone, Copy)]
pub(crate) struct LengthRows {
    /// Whether the key has bytes 16..24: 0 or 1.
    pub(crate) has_mid: usize,
    /// Whether the key has bytes 24..32: 0 or 1.
    pub(crate) has_top: usize,
}

/// A symmetric key in range: `low` below 2^128, and `high = mid + 2^64·top` below 2^128.
pub(crate) struct KeyCells {
    /// Bytes 0..16.
    pub(crate) low: Cell,
    /// Bytes 16..32.
    pub(crate) high: Cell,
}

/// Columns and gates.
#[derive(Clone)]
pub(crate) struct KeyConfig {
    poseidon: Pow5Config<Fp, 3, 2>,
    /// Poseidon's state; free between its regions.
    pub(crate) state: [Column<Advice>; 3],
    /// The column of [`Lane::Sum`].
    pub(crate) sum: Column<Advice>,
    /// Everything public.
    pub(crate) public: Column<Public>,
    sum_range: RunningSumConfig<Fp, WINDOW>,
    state_range: RunningSumConfig<Fp, WINDOW>,
    length: Selector,
    square: Selector,
}

impl KeyConfig {
    /// Lays out the columns and gates that every circuit over symmetric keys has.
    pub(crate) fn configure(meta: &mut ConstraintSystem<Fp>) -> Self {
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

        Self { poseidon, state, sum, public, sum_range, state_range, length, square }
    }

    /// A number below 2^bits, `bits` a multiple of [`WINDOW`].
    pub(crate) fn number(
        &self,
        mut layouter: impl Layouter<Fp>,
        lane: Lane,
        number: Value<Fp>,
        bits: usize,
    ) -> Result<Cell, PlonkError> {
        let range = match lane {
            Lane::Sum => self.sum_range,
            Lane::State => self.state_range,
        };
        layouter.assign_region(
            || "number",
            |mut region| {
                let sums = range.witness_decompose(&mut region, 0, number, true, bits, bits / WINDOW)?;
                sums.first().cloned().ok_or(PlonkError::Synthesis)
            },
        )
    }

    /// A symmetric key of the length that the instance column says.
    pub(crate) fn key(
        &self,
        mut layouter: impl Layouter<Fp>,
        limbs: Option<&KeyLimbs<Fp>>,
        rows: LengthRows,
    ) -> Result<KeyCells, PlonkError> {
        let limb = |limb: fn(&KeyLimbs<Fp>) -> Fp| limbs.map_or(Value::unknown(), |limbs| Value::known(limb(limbs)));
        let low = self.number(layouter.namespace(|| "low"), Lane::Sum, limb(|limbs| limbs.low), 128)?;
        let mid = self.number(layouter.namespace(|| "mid"), Lane::Sum, limb(|limbs| limbs.mid), 64)?;
        let top = self.number(layouter.namespace(|| "top"), Lane::State, limb(|limbs| limbs.top), 64)?;
        let [a, b, c] = self.state;
        let high = layouter.assign_region(
            || "length",
            |mut region| {
                self.length.enable(&mut region, 0)?;
                mid.copy_advice(|| "mid", &mut region, a, 0)?;
                top.copy_advice(|| "top", &mut region, b, 0)?;
                region.assign_advice_from_instance(|| "has_mid", self.public, rows.has_mid, a, 1)?;
                region.assign_advice_from_instance(|| "has_top", self.public, rows.has_top, b, 1)?;
                region.assign_advice(|| "high", c, 0, || limb(KeyLimbs::high))
            },
        )?;
        Ok(KeyCells { low, high })
    }

    /// A copy of a row of the instance column.
    pub(crate) fn public_cell(&self, mut layouter: impl Layouter<Fp>, row: usize) -> Result<Cell, PlonkError> {
        layouter.assign_region(
            || "public",
            |mut region| region.assign_advice_from_instance(|| "public", self.public, row, self.sum, 0),
        )
    }

    /// A cell that holds `constant` in every proof.
    pub(crate) fn constant(&self, mut layouter: impl Layouter<Fp>, constant: Fp) -> Result<Cell, PlonkError> {
        layouter.assign_region(
            || "constant",
            |mut region| region.assign_advice_from_constant(|| "constant", self.sum, 0, constant),
        )
    }

    /// Puts each of `rows` into a gate: an input in no constraint could be changed by anyone who sees a proof.
    pub(crate) fn bind(&self, mut layouter: impl Layouter<Fp>, rows: [usize; 2]) -> Result<(), PlonkError> {
        let [a, b, _] = self.state;
        layouter.assign_region(
            || "context",
            |mut region| {
                for (offset, row) in rows.into_iter().enumerate() {
                    self.square.enable(&mut region, offset)?;
                    let limb = region.assign_advice_from_instance(|| "c", self.public, row, a, offset)?;
                    region.assign_advice(|| "c^2", b, offset, || limb.value().map(Field::square))?;
                }
                Ok(())
            },
        )
    }

    /// Poseidon of exactly `L` elements.
    pub(crate) fn hash<const L: usize>(
        &self,
        layouter: impl Layouter<Fp>,
        message: [Cell; L],
    ) -> Result<Cell, PlonkError> {
        hash(&self.poseidon, layouter, message)
    }
}

/// Poseidon of exactly `L` elements, in the columns of `poseidon`.
pub(crate) fn hash<const L: usize>(
    poseidon: &Pow5Config<Fp, 3, 2>,
    mut layouter: impl Layouter<Fp>,
    message: [Cell; L],
) -> Result<Cell, PlonkError> {
    let hash = Hash::<_, _, P128Pow5T3, ConstantLength<L>, 3, 2>::init(
        Pow5Chip::construct(poseidon.clone()),
        layouter.namespace(|| "sponge"),
    )?;
    hash.hash(layouter.namespace(|| "hash"), message)
}
