//! Sums of scalars times powers of small integers, modulo the order ℓ of ristretto255.
//!
//! Where the equations that are checked together speak of a polynomial's value at a holder's index x, their combination needs
//! Σ v_i·x_i^k for every k: n·t products of a scalar and a small integer. They are summed here as integers, and reduced
//! modulo ℓ once in six steps and not in each.
//!
//! Everything here is for public values: time depends on them.

use curve25519_dalek::Scalar;
use rayon::prelude::*;

/// An integer that stands for itself modulo ℓ: four limbs, the lowest first, below 2^254.
type Residue = [u64; 4];

/// Sums of products, limb by limb: Σ sums\[j\]·2^(64·j).
type Sums = [u128; 4];

/// δ, where ℓ = 2^252 + δ: below 2^125.
const DELTA: [u64; 2] = [0x5812_631a_5cf5_d3ed, 0x14de_f9de_a2f7_9cd6];

/// ℓ, the order of the group.
const ORDER: Residue = [DELTA[0], DELTA[1], 0, 1 << 60];

/// Most powers of x between two reductions.
const STEP: usize = 6;

/// x^step is at most this, and so x^(step - 1) is at most 2^50.
const LARGEST_FACTOR: u64 = 1 << 60;

/// Products of a limb below 2^64 and a factor of at most 2^50 that a sum of 128 bits has room for.
const MOST_TERMS: usize = 1 << 14;

/// Below this many products another thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 16;

fn residue(scalar: &Scalar) -> Residue {
    let mut limbs = [0; 4];
    for (limb, bytes) in limbs.iter_mut().zip(scalar.as_bytes().chunks_exact(8)) {
        *limb = bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    }
    limbs
}

fn scalar(residue: &Residue) -> Scalar {
    let mut bytes = [0; 32];
    for (to, limb) in bytes.chunks_exact_mut(8).zip(residue) {
        to.copy_from_slice(&limb.to_le_bytes());
    }
    Scalar::from_bytes_mod_order(bytes)
}

/// Adds a residue times a factor, without a reduction and without an overflow: see [`MOST_TERMS`].
fn add_product(sums: &mut Sums, residue: &Residue, factor: u64) {
    for (sum, limb) in sums.iter_mut().zip(residue) {
        *sum = sum.wrapping_add(u128::from(*limb).wrapping_mul(u128::from(factor)));
    }
}

/// The scalar that sums stand for, whatever they are.
fn reduce(sums: &Sums) -> Scalar {
    let (mut bytes, mut carry) = ([0; 64], 0_u128);
    let (low, high) = bytes.split_at_mut(32);
    for (to, sum) in low.chunks_exact_mut(8).zip(sums) {
        // Both halves are kept apart, so that the addition cannot overflow.
        let limb = (carry & u128::from(u64::MAX)) + (sum & u128::from(u64::MAX));
        to.copy_from_slice(&(limb as u64).to_le_bytes());
        carry = (carry >> 64) + (sum >> 64) + (limb >> 64);
    }
    for (to, byte) in high.iter_mut().zip(carry.to_le_bytes()) {
        *to = byte;
    }
    Scalar::from_bytes_mod_order_wide(&bytes)
}

/// A residue for sums below 2^126 each that stand for less than 2^316.
///
/// With the value q·2^252 + r, q < 2^64: 2^252 = -δ modulo ℓ, and q·δ < 2^189 < ℓ, so that r + ℓ - q·δ is not negative and
/// is below 2^252 + ℓ < 2^254.
fn fold(sums: &Sums) -> Residue {
    let (mut limbs, mut carry) = ([0_u64; 4], 0_u128);
    for (limb, sum) in limbs.iter_mut().zip(sums) {
        let sum = sum.wrapping_add(carry);
        *limb = sum as u64;
        carry = sum >> 64;
    }
    let [a, b, c, d] = limbs;
    let q = u128::from(d >> 60 | (carry as u64) << 4);
    let low = q * u128::from(DELTA[0]);
    let high = q * u128::from(DELTA[1]) + (low >> 64);
    let taken = [low as u64, high as u64, (high >> 64) as u64, 0];
    let mut folded = [a, b, c, d & ((1 << 60) - 1)];
    let mut carry = 0_i128;
    for ((limb, order), taken) in folded.iter_mut().zip(ORDER).zip(taken) {
        let sum = carry + i128::from(*limb) + i128::from(order) - i128::from(taken);
        *limb = sum as u64;
        carry = sum >> 64;
    }
    folded
}

/// A residue times a factor of at most 2^60.
fn times(residue: &Residue, factor: u64) -> Residue {
    let mut sums = [0; 4];
    add_product(&mut sums, residue, factor);
    fold(&sums)
}

/// How many steps x may be multiplied with itself between two reductions: x^step ≤ 2^60.
fn step(largest: u16) -> usize {
    let fits = |step: &usize| u64::from(largest).checked_pow(*step as u32).is_some_and(|power| power <= LARGEST_FACTOR);
    (1..=STEP).rev().find(fits).unwrap_or(1)
}

/// Σ v_i·x_i^k for k from 0 to `count` - 1, of terms (x_i, v_i).
///
/// This is the product of a transposed Vandermonde matrix and a vector, in n·count additions of unreduced products. Uses
/// the rayon pool it is called in.
pub fn power_sums(terms: &[(u16, Scalar)], count: usize) -> Vec<Scalar> {
    let threads = if terms.len().saturating_mul(count) < WORTH_A_THREAD { 1 } else { rayon::current_num_threads() };
    let size = terms.len().div_ceil(threads).clamp(1, MOST_TERMS);
    let zero = || vec![Scalar::ZERO; count];
    let add = |mut sums: Vec<Scalar>, others: Vec<Scalar>| {
        sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
        sums
    };
    if terms.len() <= size {
        return chunk_power_sums(terms, count);
    }
    terms.par_chunks(size).map(|chunk| chunk_power_sums(chunk, count)).reduce(zero, add)
}

/// [`power_sums`] of at most [`MOST_TERMS`] terms.
fn chunk_power_sums(terms: &[(u16, Scalar)], count: usize) -> Vec<Scalar> {
    let step = step(terms.iter().map(|(x, _)| *x).max().unwrap_or(0));
    // v_i·x_i^k at the last k that was a multiple of the step, and x_i^(k mod step).
    let mut running: Vec<(Residue, u64)> = terms.iter().map(|(_, value)| (residue(value), 1)).collect();
    let mut sums = Vec::with_capacity(count);
    for k in 0..count {
        if k > 0 {
            for ((value, power), (x, _)) in running.iter_mut().zip(terms) {
                *power = power.wrapping_mul(u64::from(*x));
                if k % step == 0 {
                    *value = times(value, *power);
                    *power = 1;
                }
            }
        }
        let mut sum = [0; 4];
        running.iter().for_each(|(value, power)| add_product(&mut sum, value, *power));
        sums.push(reduce(&sum));
    }
    sums
}

/// f(x) for each x, where f has these coefficients, the lowest first. Uses the rayon pool it is called in.
pub fn evaluate(coefficients: &[Scalar], points: &[u16]) -> Vec<Scalar> {
    let step = step(points.iter().copied().max().unwrap_or(0));
    let coefficients: Vec<Residue> = coefficients.iter().map(residue).collect();
    let at = |x: &u16| {
        let mut powers = [1; STEP + 1];
        let mut power = 1_u64;
        for to in powers.iter_mut().take(step + 1).skip(1) {
            power = power.wrapping_mul(u64::from(*x));
            *to = power;
        }
        let mut value = [0; 4];
        for chunk in coefficients.chunks(step).rev() {
            // The value times at most 2^60, and at most six residues times at most 2^50.
            let mut sums = [0; 4];
            add_product(&mut sums, &value, power);
            chunk.iter().zip(powers).for_each(|(coefficient, power)| add_product(&mut sums, coefficient, power));
            value = fold(&sums);
        }
        scalar(&value)
    };
    if coefficients.len().saturating_mul(points.len()) < WORTH_A_THREAD {
        points.iter().map(at).collect()
    } else {
        points.par_iter().with_min_len(64).map(at).collect()
    }
}

/// A scalar times small integers.
pub fn scale(value: &Scalar, factors: impl IntoIterator<Item = u16>) -> Scalar {
    let (mut value, mut factor) = (residue(value), 1_u64);
    for next in factors {
        if factor > LARGEST_FACTOR >> 16 {
            value = times(&value, factor);
            factor = 1;
        }
        factor *= u64::from(next);
    }
    scalar(&times(&value, factor))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn any_scalar() -> impl Strategy<Value = Scalar> {
        prop_oneof![
            any::<[u8; 32]>().prop_map(Scalar::from_bytes_mod_order),
            any::<u8>().prop_map(Scalar::from),
            any::<u8>().prop_map(|small| -Scalar::from(small)),
        ]
    }

    fn any_index() -> impl Strategy<Value = u16> {
        prop_oneof![0..=1024_u16, Just(1024), Just(u16::MAX), any::<u16>()]
    }

    fn power(x: u16, k: usize) -> Scalar {
        (0..k).map(|_| Scalar::from(x)).product()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn sums_of_powers_are_those_of_the_field(terms in vec((any_index(), any_scalar()), 0..9), count in 0usize..20) {
            let expected = (0..count).map(|k| terms.iter().map(|(x, v)| v * power(*x, k)).sum::<Scalar>());
            prop_assert_eq!(power_sums(&terms, count), expected.collect::<Vec<_>>());
        }

        #[test]
        fn values_of_polynomials_are_those_of_the_field(
            coefficients in vec(any_scalar(), 0..20), points in vec(any_index(), 0..9),
        ) {
            let at = |x: &u16| coefficients.iter().rev().fold(Scalar::ZERO, |sum, a| sum * Scalar::from(*x) + a);
            prop_assert_eq!(evaluate(&coefficients, &points), points.iter().map(at).collect::<Vec<_>>());
        }

        #[test]
        fn scaling_is_multiplication(value in any_scalar(), factors in vec(any_index(), 0..20)) {
            let expected = factors.iter().fold(value, |product, factor| product * Scalar::from(*factor));
            prop_assert_eq!(scale(&value, factors), expected);
        }

        #[test]
        fn folding_keeps_its_bound_and_the_residue(limbs in any::<[u64; 4]>(), extremes in any::<[bool; 4]>(), factor in 0..=LARGEST_FACTOR) {
            let mut limbs = limbs;
            limbs.iter_mut().zip(extremes).filter(|(_, extreme)| *extreme).for_each(|(limb, _)| *limb = u64::MAX);
            limbs[3] >>= 2;
            let folded = times(&limbs, factor);
            prop_assert!(folded[3] < 1 << 62);
            prop_assert_eq!(scalar(&folded), scalar(&limbs) * Scalar::from(factor));
        }
    }

    #[test]
    fn the_largest_sums_do_not_overflow() {
        // Every limb of the residue as large as it can be, the largest factor, the most terms.
        let largest = [u64::MAX, u64::MAX, u64::MAX, u64::MAX >> 2];
        let mut sums = [0_u128; 4];
        for _ in 0..MOST_TERMS {
            for (sum, limb) in sums.iter_mut().zip(largest) {
                *sum = sum.checked_add(u128::from(limb) * (1 << 50)).unwrap();
            }
        }
        let expected = scalar(&largest) * Scalar::from(1_u64 << 50) * Scalar::from(MOST_TERMS as u64);
        assert_eq!(reduce(&sums), expected);
        // A step of the evaluation.
        let mut sums = [0_u128; 4];
        for factor in [1 << 60, 1, 1 << 10, 1 << 20, 1 << 30, 1 << 40, 1 << 50] {
            for (sum, limb) in sums.iter_mut().zip(largest) {
                *sum = sum.checked_add(u128::from(limb) * factor).unwrap();
            }
        }
        assert!(sums.iter().all(|sum| *sum < 1 << 126));
        assert_eq!(scalar(&fold(&sums)), reduce(&sums));
        assert!(fold(&sums)[3] < 1 << 62);
        assert_eq!(reduce(&[u128::MAX; 4]), (0..4).map(|j| Scalar::from(u128::MAX) * power(256, 8 * j)).sum());
    }

    #[test]
    fn many_terms_are_summed_in_parts() {
        let terms: Vec<(u16, Scalar)> =
            (0..20_000_u32).map(|i| ((i % 1024) as u16 + 1, -Scalar::from(i + 1))).collect();
        let sums = power_sums(&terms, 8);
        for k in [0, 5, 6, 7] {
            assert_eq!(sums[k], terms.iter().map(|(x, v)| v * power(*x, k)).sum());
        }
    }
}
