//! Sums of multiples of points: Pippenger's buckets, filled and added in affine coordinates.
//!
//! Scalars are cut into signed digits of c bits. A point goes, with its digit's sign, into the bucket of the digit's
//! value, and the points of one bucket are added in pairs, halving their number with one inversion for all buckets
//! (Montgomery's trick): 6 multiplications an addition where projective coordinates take 10. Bits, zeros and
//! other small scalars need no treatment of their own: they have few digits.
//!
//! Where the bases are fixed, their multiples by 2^(c·g·j) are kept as levels j = 0, 1, ..., so that only g sets of
//! buckets remain of the ⌈255/c⌉ that there are without (Brickell, Gordon, McCurley, Wilson, EUROCRYPT 1992).
//!
//! All of it takes a time that depends on the scalars.

use std::ops::Range;

use ark_bn254::Fr;
use ark_ec::{
    AdditiveGroup, AffineRepr, CurveGroup,
    short_weierstrass::{Affine, Bucket, Projective, SWCurveConfig},
};
use ark_ff::{BigInt, BigInteger, Field, PrimeField, Zero, serial_batch_inversion_and_mul};
use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

/// A scalar below the group's order, as an integer.
pub(crate) type Scalar = BigInt<4>;

/// Bits of a scalar after it or its negative is taken, whichever is smaller, and one for the last digit's carry.
const BITS: usize = 254;
/// Points that the levels of one [`Bases`] may hold: 4 MiB in G1, 8 MiB in G2, unless one level has more.
const MAX_POINTS: usize = 1 << 16;
/// Points that are put into buckets together, unless one set of buckets takes more.
const CHUNK: usize = 1 << 14;

/// Points that scalars are multiplied with.
pub(crate) struct Bases<P: SWCurveConfig> {
    /// Places of those that are not the identity, which are the columns of `points`.
    kept: Vec<usize>,
    /// Level by level.
    points: Vec<Affine<P>>,
    /// c, the bits of a digit: 3 to 14.
    width: usize,
    /// g, the sets of buckets.
    sets: usize,
}

impl<P: SWCurveConfig<ScalarField = Fr>> Bases<P> {
    /// Points that are used once.
    pub(crate) fn once(points: &[Affine<P>]) -> Self {
        let (kept, points) = not_identity(points);
        let (width, sets) = shape(points.len(), 1);
        Self { kept, points, width, sets }
    }

    /// Points that are used often: as many levels are made as [`MAX_POINTS`] allows. `full` of them are expected
    /// to come with scalars of full size, the others with small ones.
    pub(crate) fn fixed(points: &[Affine<P>], full: usize) -> Self {
        let most = (MAX_POINTS / points.len().max(1)).max(1);
        let (width, sets) = shape(full, most);
        Self::with_shape(points, width, sets)
    }

    fn with_shape(points: &[Affine<P>], width: usize, sets: usize) -> Self {
        let (kept, points) = not_identity(points);
        let levels = BITS.div_ceil(width).div_ceil(sets);
        let mut shifted: Vec<Projective<P>> = points.iter().map(|point| point.into_group()).collect();
        let mut all = points;
        for _ in 1..levels {
            shifted.par_iter_mut().for_each(|point| {
                for _ in 0..width * sets {
                    point.double_in_place();
                }
            });
            all.extend(Projective::normalize_batch(&shifted));
        }
        Self { kept, points: all, width, sets }
    }

    /// The sum of `scalars[i]` times the point i. Where there are fewer scalars, the rest are zero.
    pub(crate) fn sum(&self, scalars: &[Scalar]) -> Projective<P> {
        let digits = self.digits(scalars);
        let columns = self.kept.len().max(1);
        let half = 1 << (self.width - 1);
        let windows: Vec<_> = digits.chunks_exact(columns).enumerate().collect();
        let of_sets = |sets: Range<usize>| {
            let pairs = windows.iter().filter(|(window, _)| sets.contains(&(window % self.sets)));
            let pairs = pairs.flat_map(|(window, digits)| {
                let first = (window % self.sets - sets.start) * half;
                let level = self.points.chunks_exact(columns).nth(window / self.sets).unwrap_or_default();
                digits.iter().zip(level).filter_map(move |(digit, point)| {
                    let bucket = first + usize::from(digit.unsigned_abs()).checked_sub(1)?;
                    Some((bucket, *digit < 0, point))
                })
            });
            Buckets::fill(half * sets.len(), pairs).weighted_sums(half)
        };
        let together = (CHUNK / self.points.len().max(1)).clamp(1, self.sets);
        let ranges = (0..self.sets.div_ceil(together)).into_par_iter();
        let ranges = ranges.map(|range| range * together..((range + 1) * together).min(self.sets));
        let mut sums: Vec<Projective<P>> = ranges.flat_map_iter(of_sets).collect();
        let mut total = Projective::zero();
        for sum in sums.iter().rev() {
            for _ in 0..self.width {
                total.double_in_place();
            }
            total += sum;
        }
        sums.zeroize();
        total
    }

    /// The digits of every kept column's scalar, window by window, lowest first.
    fn digits(&self, scalars: &[Scalar]) -> Zeroizing<Vec<i16>> {
        let (columns, windows) = (self.kept.len(), BITS.div_ceil(self.width));
        let mut digits = Zeroizing::new(vec![0_i16; columns * windows]);
        for (column, place) in self.kept.iter().enumerate() {
            let Some(mut rest) = scalars.get(*place).copied() else { continue };
            let negative = rest > Fr::MODULUS_MINUS_ONE_DIV_TWO;
            if negative {
                let mut positive = Fr::MODULUS;
                positive.sub_with_borrow(&rest);
                rest = positive;
            }
            let mut row = digits.iter_mut().skip(column).step_by(columns);
            let mut carry = 0;
            while !rest.is_zero() || carry != 0 {
                let Some(place) = row.next() else { break };
                let value = low_bits(&rest, self.width) + carry;
                carry = i16::from(value > 1 << (self.width - 1));
                let digit = value - (carry << self.width);
                *place = if negative { -digit } else { digit };
                shift(&mut rest, self.width);
            }
        }
        digits
    }
}

/// The points of all buckets, those of one bucket side by side.
struct Buckets<P: SWCurveConfig> {
    points: Zeroizing<Vec<Affine<P>>>,
    lengths: Vec<usize>,
}

impl<P: SWCurveConfig> Buckets<P> {
    /// Sorts points into the buckets 0 to `count` - 1, negated where the flag says so.
    fn fill<'a>(count: usize, pairs: impl Iterator<Item = (usize, bool, &'a Affine<P>)> + Clone) -> Self {
        let mut lengths = vec![0_usize; count];
        for (bucket, _, _) in pairs.clone() {
            if let Some(length) = lengths.get_mut(bucket) {
                *length += 1;
            }
        }
        let mut end = 0;
        let starts = lengths.iter().map(|length| {
            end += length;
            end - length
        });
        let mut next: Vec<usize> = starts.collect();
        let mut points = Zeroizing::new(vec![Affine::identity(); end]);
        for (bucket, negative, point) in pairs {
            let Some(next) = next.get_mut(bucket) else { continue };
            if let Some(place) = points.get_mut(*next) {
                *place = if negative { -*point } else { *point };
            }
            *next += 1;
        }
        next.zeroize();
        Self { points, lengths }
    }

    /// Adds the points of each bucket in pairs, until there is at most one in each.
    fn add_up(&mut self) {
        while self.lengths.iter().any(|length| *length > 1) {
            let mut inverses = Zeroizing::new(Vec::with_capacity(self.points.len() / 2));
            for_pairs(&self.points, &self.lengths, |pair| inverses.push(denominator(pair)));
            serial_batch_inversion_and_mul(&mut inverses, &P::BaseField::ONE);
            let mut inverses = inverses.iter();
            let mut sums = Zeroizing::new(Vec::with_capacity(self.points.len().div_ceil(2) + self.lengths.len()));
            let mut rest = self.points.as_slice();
            for length in &mut self.lengths {
                let Some((run, tail)) = rest.split_at_checked(*length) else { break };
                rest = tail;
                let before = sums.len();
                let mut pairs = run.chunks_exact(2);
                let added = pairs.by_ref().zip(inverses.by_ref()).filter_map(|(pair, inverse)| add(pair, inverse));
                sums.extend(added);
                sums.extend_from_slice(pairs.remainder());
                *length = sums.len() - before;
            }
            self.points = sums;
        }
    }

    /// For each set of so many buckets, the sum of 1 times the first, 2 times the second, and so on.
    fn weighted_sums(mut self, set: usize) -> Vec<Projective<P>> {
        self.add_up();
        let mut rest = self.points.as_slice();
        let mut sums = Vec::with_capacity(self.lengths.len() / set);
        for lengths in self.lengths.chunks_exact(set) {
            let Some((points, tail)) = rest.split_at_checked(lengths.iter().sum()) else { break };
            rest = tail;
            let (mut running, mut total) = (Bucket::<P>::ZERO, Bucket::<P>::ZERO);
            let mut points = points.iter().rev();
            for length in lengths.iter().rev() {
                points.by_ref().take(*length).for_each(|point| running += point);
                total += &running;
            }
            sums.push(total.into());
            running.zeroize();
            total.zeroize();
        }
        self.lengths.zeroize();
        sums
    }
}

fn for_pairs<P: SWCurveConfig>(mut points: &[Affine<P>], lengths: &[usize], mut each: impl FnMut(&[Affine<P>])) {
    for length in lengths {
        let Some((run, tail)) = points.split_at_checked(*length) else { return };
        run.chunks_exact(2).for_each(&mut each);
        points = tail;
    }
}

/// What the slope of the line through both points is divided by: 0 where they cancel. No point has order 2.
fn denominator<P: SWCurveConfig>(pair: &[Affine<P>]) -> P::BaseField {
    let [left, right] = pair else { return P::BaseField::ZERO };
    let width = right.x - left.x;
    if width.is_zero() { left.y + right.y } else { width }
}

/// Left + right, or none where they cancel; on curves with a = 0.
fn add<P: SWCurveConfig>(pair: &[Affine<P>], inverse: &P::BaseField) -> Option<Affine<P>> {
    let [left, right] = pair else { return None };
    if inverse.is_zero() {
        return None;
    }
    let mut rise = right.y - left.y;
    if left.x == right.x {
        rise = left.x.square();
        rise += rise.double();
    }
    let slope = rise * inverse;
    let x = slope.square() - left.x - right.x;
    Some(Affine::new_unchecked(x, slope * (left.x - x) - left.y))
}

/// Width and number of bucket sets with the least work for so many scalars of full size and at most so many levels.
fn shape(scalars: usize, levels: usize) -> (usize, usize) {
    let shape = |width: usize| {
        let windows = BITS.div_ceil(width);
        let sets = windows.div_ceil(levels.min(windows));
        // A bucket costs about as much as four additions in affine coordinates.
        (windows * scalars + 4 * sets * (1 << (width - 1)), (width, sets))
    };
    (3..=14).map(shape).min().map_or((3, BITS.div_ceil(3)), |(_, shape)| shape)
}

fn not_identity<P: SWCurveConfig>(points: &[Affine<P>]) -> (Vec<usize>, Vec<Affine<P>>) {
    points.iter().enumerate().filter(|(_, point)| !point.is_zero()).map(|(place, point)| (place, *point)).unzip()
}

fn low_bits(value: &Scalar, width: usize) -> i16 {
    let [lowest, ..] = value.0;
    (lowest & ((1 << width) - 1)) as i16
}

fn shift(value: &mut Scalar, width: usize) {
    let [a, b, c, d] = value.0;
    let high = 64 - width;
    value.0 = [(a >> width) | (b << high), (b >> width) | (c << high), (c >> width) | (d << high), d >> width];
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use ark_bn254::{g1, g2};
    use ark_ff::{One, UniformRand};
    use rand::{Rng, rngs::OsRng};

    use super::*;

    fn agrees<P: SWCurveConfig<ScalarField = Fr>>(length: usize) {
        let points: Vec<_> = (0..length).map(|_| Projective::<P>::rand(&mut OsRng)).collect();
        let mut points = Projective::normalize_batch(&points);
        let mut scalars: Vec<Fr> = points
            .iter()
            .map(|_| match OsRng.gen_range(0..6) {
                0 => Fr::zero(),
                1 => Fr::one(),
                2 => -Fr::from(OsRng.r#gen::<u16>()),
                3 => Fr::from(OsRng.r#gen::<u128>()),
                _ => Fr::rand(&mut OsRng),
            })
            .collect();
        if length > 20 {
            // Sums that cancel, sums that double, the identity, the extremes of both signs.
            points[1] = points[0];
            points[3] = -points[2];
            points[4] = Affine::identity();
            (scalars[0], scalars[1]) = (scalars[5], scalars[5]);
            (scalars[2], scalars[3]) = (scalars[6], scalars[6]);
            let half = Fr::from_bigint(Fr::MODULUS_MINUS_ONE_DIV_TWO).unwrap();
            scalars[7..11].copy_from_slice(&[half, half + Fr::one(), -Fr::one(), Fr::from(1_u64 << 63)]);
        }
        let expected: Projective<P> = points.iter().zip(&scalars).map(|(point, scalar)| *point * scalar).sum();
        let integers: Vec<_> = scalars.iter().map(|scalar| scalar.into_bigint()).collect();
        assert_eq!(Bases::once(&points).sum(&integers), expected);
        for width in [3, 4, 7, 14] {
            for levels in [1, 2, 100] {
                let sets = BITS.div_ceil(width).div_ceil(levels);
                assert_eq!(Bases::with_shape(&points, width, sets).sum(&integers), expected, "{width} {levels}");
            }
        }
        // Fewer scalars.
        let some = length / 2;
        let expected: Projective<P> = points.iter().zip(&scalars[..some]).map(|(point, scalar)| *point * scalar).sum();
        assert_eq!(Bases::fixed(&points, length).sum(&integers[..some]), expected);
    }

    #[test]
    fn sums_are_those_of_single_multiples() {
        for length in [0, 1, 2, 21, 60] {
            agrees::<g1::Config>(length);
        }
        agrees::<g2::Config>(24);
    }

    #[test]
    fn sets_that_do_not_fit_together_are_summed_apart() {
        use ark_ec::VariableBaseMSM;
        // Twice 6,000 points fit, three times do not.
        let point = || Projective::<g1::Config>::rand(&mut OsRng);
        let steps = (point(), point());
        let points: Vec<_> = std::iter::successors(Some(steps.0), |last| Some(*last + steps.1)).take(6000).collect();
        let points = Projective::normalize_batch(&points);
        let scalars: Vec<_> = points.iter().map(|_| Fr::rand(&mut OsRng).into_bigint()).collect();
        let expected = Projective::msm_bigint(&points, &scalars);
        assert_eq!(Bases::once(&points).sum(&scalars), expected);
        assert_eq!(Bases::fixed(&points, 6000).sum(&scalars), expected);
    }

    #[test]
    fn equal_scalars_of_one_point_cancel_and_double() {
        let point = Affine::<g1::Config>::generator();
        let bases = Bases::fixed(&[point; 64], 64);
        let scalar = Fr::rand(&mut OsRng);
        assert_eq!(bases.sum(&[scalar.into_bigint(); 64]), point * (scalar * Fr::from(64)));
        let signs: Vec<_> = (0..64).map(|place| if place % 2 == 0 { scalar } else { -scalar }.into_bigint()).collect();
        assert!(bases.sum(&signs).is_zero());
    }
}
