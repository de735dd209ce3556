//! The low half of a field element, taken from its one decomposition below the modulus.
//!
//! p = 2^254 + t with t < 2^126. Nearly every element z has two decompositions into 255 bits, z itself and z + p, and
//! their low halves differ. As in Zcash Orchard's circuits, the higher one is refused by a comparison with t.

use ff::{Field, PrimeField};
use halo2_proofs::{
    circuit::{Layouter, Value},
    pasta::Fp,
    plonk::{ConstraintSystem, Constraints, Error as PlonkError, Expression, Selector},
    poly::Rotation,
};

use super::halo2::{Cell, KeyConfig, Lane};

/// t = p - 2^254.
pub(crate) const T_P: u128 = 45_560_315_531_419_706_090_280_762_371_685_220_353;

/// Bits 0..128 of an element's canonical number.
pub(crate) fn low_bits(element: Fp) -> u128 {
    half(&zeroize::Zeroizing::new(element.to_repr()), 0)
}

/// 16 of the bytes as a little-endian number.
fn half(bytes: &[u8; 32], skip: usize) -> u128 {
    bytes.iter().skip(skip).take(16).rev().fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
}

/// `low + 2^128·middle + 2^254·top`, one way to write an element; not yet known to be the canonical one.
///
/// Wiped on drop, as far as the library allows.
pub(crate) struct Split {
    /// Bits 0..128.
    pub(crate) low: Fp,
    /// Bits 128..254.
    pub(crate) middle: Fp,
    /// Bit 254.
    pub(crate) top: Fp,
}

impl Split {
    /// The canonical way to write `element`.
    #[cfg(any(test, feature = "prove"))]
    pub(crate) fn of(element: Fp) -> Self {
        Self::of_bytes(&zeroize::Zeroizing::new(element.to_repr()))
    }

    /// The parts of a number below 2^255, in little-endian bytes.
    #[cfg(any(test, feature = "prove"))]
    fn of_bytes(bytes: &[u8; 32]) -> Self {
        let (number, high) = (Fp::from_u128, half(bytes, 16));
        Self { low: number(half(bytes, 0)), middle: number(high & ((1 << 126) - 1)), top: number(high >> 126) }
    }

    /// `top·(low + 2^128 - t)`: below 2^128 where top is 0, or where top is 1 and low is below t.
    fn slack(&self) -> Fp {
        self.top * (self.low + room())
    }

    /// The relation that [`CanonicalConfig::low_half`] constrains, natively.
    #[cfg(any(test, feature = "prove"))]
    pub(crate) fn check(&self, element: Fp) -> Result<(), &'static str> {
        let fits = |byte: u8, bits: usize| u16::from(byte) < 1 << bits.min(8);
        let below = |number: Fp, bits: usize| {
            number.to_repr().iter().enumerate().all(|(at, byte)| fits(*byte, bits.saturating_sub(8 * at)))
        };
        let clauses = [
            (below(self.low, 128), "the low half has more than 128 bits"),
            (below(self.middle, 126), "the middle part has more than 126 bits"),
            (
                self.low + two_to_128() * self.middle + two_to_254() * self.top == element,
                "the parts are not the element's",
            ),
            (self.top * (Fp::ONE - self.top) == Fp::ZERO, "the top bit is no bit"),
            (self.top * self.middle == Fp::ZERO, "the parts make a number above the modulus"),
            (below(self.slack(), 128), "the parts make a number that is not below the modulus"),
        ];
        clauses.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err(why))
    }
}

impl Drop for Split {
    fn drop(&mut self) {
        for part in [&mut self.low, &mut self.middle, &mut self.top] {
            *part = Fp::ZERO;
            std::hint::black_box(part);
        }
    }
}

fn two_to_128() -> Fp {
    Fp::from_u128(1 << 127).double()
}

fn two_to_254() -> Fp {
    -Fp::from_u128(T_P)
}

/// 2^128 - t.
fn room() -> Fp {
    two_to_128() - Fp::from_u128(T_P)
}

/// The gate of a canonical decomposition, over the columns of [`KeyConfig`].
#[derive(Clone)]
pub(crate) struct CanonicalConfig {
    gate: Selector,
}

impl CanonicalConfig {
    /// Adds the gate.
    pub(crate) fn configure(meta: &mut ConstraintSystem<Fp>, config: &KeyConfig) -> Self {
        // | z   | low   | middle |
        // | top | slack |        |
        let gate = meta.selector();
        let [a, b, c] = config.state;
        meta.create_gate("canonical", |meta| {
            let selector = meta.query_selector(gate);
            let [z, low, middle] = [a, b, c].map(|column| meta.query_advice(column, Rotation::cur()));
            let [top, slack] = [a, b].map(|column| meta.query_advice(column, Rotation::next()));
            let one = Expression::Constant(Fp::ONE);
            let sum = low.clone() + middle.clone() * two_to_128() + top.clone() * two_to_254();
            Constraints::with_selector(
                selector,
                [
                    ("z = low + 2^128 middle + 2^254 top", sum - z),
                    ("top is a bit", top.clone() * (one - top.clone())),
                    ("nothing in the middle above 2^254", top.clone() * middle),
                    ("slack = top (low + 2^128 - t)", top * (low + Expression::Constant(room())) - slack),
                ],
            )
        });
        Self { gate }
    }

    /// Bits 0..128 of `z`. The range check of the comparison with t runs in `lane`.
    pub(crate) fn low_half(
        &self,
        config: &KeyConfig,
        mut layouter: impl Layouter<Fp>,
        lane: Lane,
        z: &Cell,
        split: Option<&Split>,
    ) -> Result<Cell, PlonkError> {
        let part = |part: fn(&Split) -> Fp| split.map_or(Value::unknown(), |split| Value::known(part(split)));
        let low = config.number(layouter.namespace(|| "low"), Lane::Sum, part(|split| split.low), 128)?;
        let middle = config.number(layouter.namespace(|| "middle"), Lane::Sum, part(|split| split.middle), 126)?;
        let slack = config.number(layouter.namespace(|| "slack"), lane, part(Split::slack), 128)?;
        let [a, b, c] = config.state;
        layouter.assign_region(
            || "canonical",
            |mut region| {
                self.gate.enable(&mut region, 0)?;
                z.copy_advice(|| "z", &mut region, a, 0)?;
                low.copy_advice(|| "low", &mut region, b, 0)?;
                middle.copy_advice(|| "middle", &mut region, c, 0)?;
                region.assign_advice(|| "top", a, 1, || part(|split| split.top))?;
                slack.copy_advice(|| "slack", &mut region, b, 1)
            },
        )?;
        Ok(low)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use halo2_proofs::{circuit::SimpleFloorPlanner, dev::MockProver, plonk::Circuit};

    use super::*;

    /// The other way to write `element` in 255 bits, where there is one: as `element + p`.
    pub(crate) fn plus_modulus(element: Fp) -> Option<Split> {
        let mut sum = [0; 32];
        let mut carry = 1; // p = (p - 1) + 1.
        for ((byte, a), b) in sum.iter_mut().zip(element.to_repr()).zip((-Fp::ONE).to_repr()) {
            carry += u16::from(a) + u16::from(b);
            (*byte, carry) = (carry as u8, carry >> 8);
        }
        (sum[31] < 0x80).then(|| Split::of_bytes(&sum))
    }

    #[derive(Default)]
    struct Half {
        split: Option<Split>,
    }

    impl Circuit<Fp> for Half {
        type Config = (KeyConfig, CanonicalConfig);
        type FloorPlanner = SimpleFloorPlanner;

        fn without_witnesses(&self) -> Self {
            Self::default()
        }

        fn configure(meta: &mut ConstraintSystem<Fp>) -> Self::Config {
            let config = KeyConfig::configure(meta);
            let canonical = CanonicalConfig::configure(meta, &config);
            (config, canonical)
        }

        fn synthesize(
            &self,
            (config, canonical): Self::Config,
            mut layouter: impl Layouter<Fp>,
        ) -> Result<(), PlonkError> {
            let z = config.public_cell(layouter.namespace(|| "z"), 0)?;
            let low =
                canonical.low_half(&config, layouter.namespace(|| "half"), Lane::State, &z, self.split.as_ref())?;
            layouter.constrain_instance(low.cell(), config.public, 1)
        }
    }

    /// What the native relation and the circuit say, which must be the same.
    fn accepted(z: Fp, split: Split) -> bool {
        let (native, low) = (split.check(z).is_ok(), split.low);
        let circuit = Half { split: Some(split) };
        let proven = MockProver::run(8, &circuit, vec![vec![z, low]]).unwrap().verify().is_ok();
        assert_eq!(native, proven);
        proven
    }

    fn edges() -> Vec<Fp> {
        let t = Fp::from_u128(T_P);
        let of = |number: u64| Fp::from(number);
        let mut edges = vec![t, t - of(1), t + of(1), two_to_128(), two_to_128() - of(1), two_to_254()];
        edges.extend([two_to_254() - of(1), two_to_254() + of(1), -of(1), -of(2), -t, -t - of(1), -t - t - of(1)]);
        edges.extend([of(0), of(1), two_to_128() - t, Fp::from_u128(0x5eed).square().square().square().square()]);
        edges
    }

    #[test]
    fn the_canonical_decomposition_is_accepted_and_the_other_refused() {
        assert_eq!(two_to_254(), (0..254).fold(Fp::ONE, |power, _| power.double()));
        let mut refused = 0;
        for z in edges() {
            assert!(accepted(z, Split::of(z)), "{z:?}");
            if let Some(other) = plus_modulus(z) {
                assert!(!accepted(z, other), "{z:?} + p");
                refused += 1;
            }
        }
        assert!(refused > 8);
    }

    #[test]
    fn every_clause_is_needed() {
        let (five, one) = (Fp::from(5), Fp::ONE);
        let z = two_to_128() * Fp::from(77) + five;
        let parts = |low, middle, top| Split { low, middle, top };
        // A low half that is too large, or negative; the sum is kept.
        assert!(!accepted(z, parts(five + two_to_128(), Fp::from(76), Fp::ZERO)));
        assert!(!accepted(z, parts(five - two_to_128(), Fp::from(78), Fp::ZERO)));
        // z + p with its highest bit left in the middle.
        let other = plus_modulus(z).unwrap();
        assert!(!accepted(z, parts(other.low, other.middle + Fp::from_u128(1 << 126), Fp::ZERO)));
        // Another element's parts.
        assert!(!accepted(z, parts(five + one, Fp::from(77), Fp::ZERO)));
        // A top that is no bit, chosen so that the slack is small.
        let top = Fp::from(9) * (five + room()).invert().unwrap();
        assert!(!accepted(five + top * two_to_254(), parts(five, Fp::ZERO, top)));
        // 5 + p: the middle is empty, and only the comparison with t refuses. One below t it accepts.
        assert!(!accepted(five, parts(five + Fp::from_u128(T_P), Fp::ZERO, one)));
        assert!(!accepted(Fp::ZERO, parts(Fp::from_u128(T_P), Fp::ZERO, one)));
        assert!(accepted(-one, parts(Fp::from_u128(T_P - 1), Fp::ZERO, one)));
        // 2^128 + 5 + 2^254, whose low half is below t: only the empty middle refuses.
        assert!(!accepted(two_to_254() + z, parts(five, Fp::from(77), one)));
    }
}
