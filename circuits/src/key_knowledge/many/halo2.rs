//! Many keys in halo2 (PLONKish arithmetic, inner-product commitments) on the Pasta curves.
//!
//! The relation of [`crate::key_knowledge::halo2`] in each slot, laid out for throughput: a slot takes 15 rows. Its two Poseidon
//! permutations are in rows of S-box inputs (`crate::gadgets::poseidon`), and its limbs in base 4, so that most
//! cells that a proof commits to hold 0 to 3. Of the columns `sums` and `links`:
//!
//! | row | digits | sums | links | Poseidon |
//! |---|---|---|---|---|
//! | 0 | low, lower half: 10 digits | sum | lower half of low | |
//! | 1 | 11 | sum | d | first permutation, of (d, low, capacity) |
//! | 2 | 11 | lower half of low | upper half of low | |
//! | 3 to 5 | low, upper half | sums | | |
//! | 6 | mid: 10 | sum | has_mid | |
//! | 7 | 11 | sum | mid | ends |
//! | 8 | 11 | mid | has_top | second permutation, after high is added |
//! | 9 | top: 10 | sum | top | |
//! | 10, 11 | top: 11 | sum, top | | |
//! | 14 | | | F | ends |
//!
//! In `links` the halves, mid and top are copies from `sums`; d, has_mid, has_top and F are copies from the instance column. Two rows
//! behind the slots put the context into a gate.

use ff::{Field, PrimeField};
use halo2_gadgets::utilities::range_check;
use halo2_proofs::{
    circuit::{AssignedCell, Layouter, Region, SimpleFloorPlanner, Value},
    pasta::Fp,
    plonk::{
        Advice, Circuit, Column, ConstraintSystem, Constraints, Error as PlonkError, Expression, Instance as Public,
        Selector,
    },
    poly::Rotation,
};

use super::{Instance, ManyInputs, ManyKeys, SLOTS};
use crate::{
    Error, Kind, Parameters, ProofSystem,
    context::HashedContext,
    gadgets::poseidon::PoseidonConfig,
    key_knowledge::symmetric::KeyLimbs,
    params::{Halo2Circuit, Halo2Keys, Halo2Opened},
};

/// The keys of the circuit.
pub(crate) static KEYS: Halo2Keys<ManyCircuit<SLOTS>> = Halo2Keys::new();

/// Rows of a slot.
const SLOT: usize = 15;
/// Rows behind the slots.
const CONTEXT: usize = 2;

/// Bits of a digit.
const DIGIT: u32 = 2;
/// Digits of a row; the highest of a number's first row is 0.
const DIGITS: usize = 11;
/// Rows of a number of 64 bits.
const NUMBER: usize = 3;
/// Bits of a number.
const BITS: u32 = 64;
/// Bits that its rows have room for. The two that are too many are 0, which the circuit says and its witness does not.
const SPACE: u32 = DIGIT * (DIGITS * NUMBER) as u32;

/// Columns and gates.
#[derive(Clone)]
pub(crate) struct ManyConfig {
    poseidon: PoseidonConfig,
    digits: [Column<Advice>; DIGITS],
    sums: Column<Advice>,
    links: Column<Advice>,
    public: Column<Public>,
    range: Selector,
    head: Selector,
    tail: Selector,
    first: Selector,
    second: Selector,
    length: Selector,
    output: Selector,
    square: Selector,
}

impl ManyConfig {
    fn configure(meta: &mut ConstraintSystem<Fp>) -> Self {
        let poseidon = PoseidonConfig::configure(meta);
        let digits = [(); DIGITS].map(|()| meta.advice_column());
        let (sums, links, public) = (meta.advice_column(), meta.advice_column(), meta.instance_column());
        meta.enable_equality(sums);
        meta.enable_equality(links);
        meta.enable_equality(public);
        let [range, head, tail, first, second, length, output, square] = [(); 8].map(|()| meta.selector());
        let config =
            Self { poseidon, digits, sums, links, public, range, head, tail, first, second, length, output, square };
        config.digit_gates(meta);
        config.key_gates(meta);
        meta.create_gate("context", |meta| {
            // | c | c^2 |
            let [limb, squared] = [links, sums].map(|column| meta.query_advice(column, Rotation::cur()));
            Constraints::with_selector(meta.query_selector(square), [("square", limb.clone() * limb - squared)])
        });
        config
    }

    /// Numbers of 64 bits: 32 digits in three rows, the highest first.
    fn digit_gates(&self, meta: &mut ConstraintSystem<Fp>) {
        meta.create_gate("digits", |meta| {
            let digits = self.digits.map(|column| range_check(meta.query_advice(column, Rotation::cur()), 1 << DIGIT));
            Constraints::with_selector(meta.query_selector(self.range), digits)
        });
        let sum = |digits: Vec<Expression<Fp>>| {
            let four = Fp::from(1 << DIGIT);
            digits.into_iter().rev().reduce(|sum, digit| sum * four + digit).unwrap_or(Expression::Constant(Fp::ZERO))
        };
        meta.create_gate("a number's first row", |meta| {
            let digits = self.digits.map(|column| meta.query_advice(column, Rotation::cur()));
            let [.., highest] = digits.clone();
            let total = meta.query_advice(self.sums, Rotation::cur());
            Constraints::with_selector(
                meta.query_selector(self.head),
                [("no more than 64 bits", highest), ("sum", sum(digits.to_vec()) - total)],
            )
        });
        meta.create_gate("a number's further rows", |meta| {
            let digits = self.digits.map(|column| meta.query_advice(column, Rotation::cur()));
            let [before, total] = [Rotation::prev(), Rotation::cur()].map(|row| meta.query_advice(self.sums, row));
            let shifted = before * Fp::from(1 << (DIGIT * DIGITS as u32));
            Constraints::with_selector(
                meta.query_selector(self.tail),
                [("sum", shifted + sum(digits.to_vec()) - total)],
            )
        });
    }

    fn key_gates(&self, meta: &mut ConstraintSystem<Fp>) {
        let upper = Fp::from_u128(1 << BITS);
        // Row 1.
        meta.create_gate("first block", |meta| {
            let rows = [Rotation::prev(), Rotation::cur(), Rotation::next()];
            let [lower_half, domain, upper_half] = rows.map(|row| meta.query_advice(self.links, row));
            let [x, y, z] = self.poseidon.input(meta);
            Constraints::with_selector(
                meta.query_selector(self.first),
                [
                    ("the domain", domain - x),
                    ("low = lower half + 2^64 upper half", lower_half + upper_half * upper - y),
                    ("the capacity", z - Expression::Constant(capacity())),
                ],
            )
        });
        // Row 8.
        meta.create_gate("second block", |meta| {
            let [mid, top] = [Rotation::prev(), Rotation::next()].map(|row| meta.query_advice(self.links, row));
            let [a, b, c] = self.poseidon.output(meta, Rotation::prev());
            let [x, y, z] = self.poseidon.input(meta);
            Constraints::with_selector(
                meta.query_selector(self.second),
                [("high = mid + 2^64 top", a + mid + top * upper - x), ("padding", b - y), ("the capacity", c - z)],
            )
        });
        // Rows 6 and 8: | has | and beneath it | part |
        meta.create_gate("length", |meta| {
            let [has, part] = [Rotation::cur(), Rotation::next()].map(|row| meta.query_advice(self.links, row));
            let one = Expression::Constant(Fp::ONE);
            Constraints::with_selector(
                meta.query_selector(self.length),
                [("no bytes that the key does not have", (one - has) * part)],
            )
        });
        // Row 14.
        meta.create_gate("fingerprint", |meta| {
            let fingerprint = meta.query_advice(self.links, Rotation::cur());
            let [out, _, _] = self.poseidon.output(meta, Rotation::cur());
            Constraints::with_selector(meta.query_selector(self.output), [("fingerprint", out - fingerprint)])
        });
    }

    /// A number of 64 bits, from row `offset`.
    fn number(
        &self,
        region: &mut Region<'_, Fp>,
        offset: usize,
        number: Value<u128>,
    ) -> Result<AssignedCell<Fp, Fp>, PlonkError> {
        let bits = DIGIT * DIGITS as u32;
        let mut last = None;
        for (index, row) in (offset..offset + NUMBER).enumerate() {
            self.range.enable(region, row)?;
            if index == 0 {
                self.head.enable(region, row)?
            } else {
                self.tail.enable(region, row)?
            }
            let total = number.map(|number| number >> (bits * (NUMBER - 1 - index) as u32));
            for (place, column) in (0..).zip(self.digits) {
                let digit = total.map(|total| Fp::from_u128((total >> (DIGIT * place)) & ((1 << DIGIT) - 1)));
                region.assign_advice(|| format!("digit {index}.{place}"), column, row, || digit)?;
            }
            last = Some(region.assign_advice(|| "sum", self.sums, row, || total.map(Fp::from_u128))?);
        }
        last.ok_or(PlonkError::Synthesis)
    }

    /// A slot whose inputs F, d, has_mid, has_top begin at `row` of the instance column.
    fn slot(
        &self,
        mut layouter: impl Layouter<Fp>,
        row: usize,
        limbs: Option<&KeyLimbs<Fp>>,
    ) -> Result<(), PlonkError> {
        layouter.assign_region(
            || "slot",
            |mut region| {
                let region = &mut region;
                let limb =
                    |of: fn(&KeyLimbs<Fp>) -> Fp| limbs.map_or(Value::unknown(), |limbs| Value::known(of(limbs)));
                let (low, mid, top) = (limb(|key| key.low), limb(|key| key.mid), limb(|key| key.top));
                let numbers = [
                    (low.map(|low| bits(low, 0, BITS)), "low, lower half", 0),
                    (low.map(|low| bits(low, 8, SPACE)), "low, upper half", 2),
                    (mid.map(|mid| bits(mid, 0, SPACE)), "mid", 7),
                    (top.map(|top| bits(top, 0, SPACE)), "top", 9),
                ];
                for (index, (number, name, link)) in numbers.into_iter().enumerate() {
                    let sum = self.number(region, index * NUMBER, number)?;
                    sum.copy_advice(|| name, region, self.links, link)?;
                }
                let public = |region: &mut Region<'_, Fp>, name: &'static str, input, at| {
                    region.assign_advice_from_instance(|| name, self.public, row + input, self.links, at)
                };
                let domain = public(region, "d", 1, 1)?.value().copied();
                for (name, input, at) in [("F", 0, 14), ("has_mid", 2, 6), ("has_top", 3, 8)] {
                    public(region, name, input, at)?;
                }
                for (on, at) in
                    [(self.first, 1), (self.second, 8), (self.length, 6), (self.length, 8), (self.output, 14)]
                {
                    on.enable(region, at)?;
                }
                let [x, y, z] = self.poseidon.assign(region, 1, [domain, low, Value::known(capacity())])?;
                self.poseidon.assign(region, 8, [x + limb(KeyLimbs::high), y, z])?;
                Ok(())
            },
        )
    }

    /// Puts the context into a gate: an input in no constraint could be changed by anyone who sees a proof.
    fn context(&self, mut layouter: impl Layouter<Fp>) -> Result<(), PlonkError> {
        layouter.assign_region(
            || "context",
            |mut region| {
                for row in [0, 1] {
                    self.square.enable(&mut region, row)?;
                    let limb = region.assign_advice_from_instance(|| "c", self.public, row, self.links, row)?;
                    region.assign_advice(|| "c^2", self.sums, row, || limb.value().map(Field::square))?;
                }
                Ok(())
            },
        )
    }
}

/// The third word that Poseidon begins with, for messages of three elements.
fn capacity() -> Fp {
    Fp::from_u128(3 << 64)
}

/// `count` bits of a limb, from byte `skip` on.
fn bits(limb: Fp, skip: usize, count: u32) -> u128 {
    let kept = limb.to_repr().into_iter().skip(skip).take(16);
    kept.rev().fold(0, |number, byte| (number << 8) | u128::from(byte)) & ((1 << count) - 1)
}

/// The relation as a circuit of `N` slots. The public inputs come from the instance column alone.
pub(crate) struct ManyCircuit<const N: usize> {
    /// Of each slot; none where there is no witness.
    limbs: Vec<KeyLimbs<Fp>>,
}

impl<const N: usize> Default for ManyCircuit<N> {
    fn default() -> Self {
        Self { limbs: Vec::new() }
    }
}

#[cfg(feature = "prove")]
impl<const N: usize> ManyCircuit<N> {
    /// The circuit with a witness in it.
    pub(crate) fn new(limbs: Vec<KeyLimbs<Fp>>) -> Self {
        Self { limbs }
    }
}

impl<const N: usize> Halo2Circuit for ManyCircuit<N> {
    const KIND: Kind = Kind::ManyKeysHalo2;
    const K: u32 = {
        // Rows that a proof blinds, at the end.
        let rows = SLOT * N + CONTEXT + 6;
        rows.next_power_of_two().trailing_zeros()
    };
    const PUBLIC: usize = ManyInputs::<Fp>::COUNT - ManyInputs::<Fp>::EACH * (SLOTS - N);
    const PROOF_LEN: usize = 3488 + 64 * Self::K as usize;
}

impl<const N: usize> Circuit<Fp> for ManyCircuit<N> {
    type Config = ManyConfig;
    type FloorPlanner = SimpleFloorPlanner;

    fn without_witnesses(&self) -> Self {
        Self::default()
    }

    fn configure(meta: &mut ConstraintSystem<Fp>) -> ManyConfig {
        ManyConfig::configure(meta)
    }

    fn synthesize(&self, config: ManyConfig, mut layouter: impl Layouter<Fp>) -> Result<(), PlonkError> {
        for slot in 0..N {
            let row = ManyInputs::<Fp>::SHARED + ManyInputs::<Fp>::EACH * slot;
            config.slot(layouter.namespace(|| format!("slot {slot}")), row, self.limbs.get(slot))?;
        }
        config.context(layouter.namespace(|| "context"))
    }
}

/// The proof system.
pub struct Halo2;

impl ProofSystem for Halo2 {
    type Statement = ManyKeys;
    type Opened = Halo2Opened;
    const KIND: Kind = Kind::ManyKeysHalo2;

    fn open(
        _: &Parameters,
        context: &HashedContext<'_>,
        instance: &Instance,
        proof: &[u8],
    ) -> Result<Halo2Opened, Error> {
        KEYS.open(&ManyInputs::new(context.context(), instance)?.row(), proof)
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
        let public = ManyInputs::new(context, instance)?;
        let limbs = witness.limbs()?;
        public.check(&limbs)?;
        KEYS.prove(ManyCircuit::new(limbs), &public.row())
    }
}

#[cfg(all(test, feature = "prove"))]
pub(crate) mod soundness;
#[cfg(all(test, feature = "prove"))]
pub(crate) mod tests;
