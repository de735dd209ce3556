//! Polynomials over ristretto255's scalar field, and interpolation.

use std::{collections::BTreeSet, sync::LazyLock};

use curve25519_dalek::Scalar;
use keywitness_circuits::{
    power_sums::{evaluate, scale},
    share_correctness::MAX_HOLDERS,
};
#[cfg(feature = "prove")]
use zeroize::Zeroizing;

/// A secret polynomial, lowest coefficient first. Wiped on drop.
#[cfg(feature = "prove")]
pub(crate) struct Polynomial(Zeroizing<Vec<Scalar>>);

#[cfg(feature = "prove")]
impl Polynomial {
    /// A polynomial of degree below `threshold` with this value at 0 and otherwise uniform.
    pub(crate) fn random(constant: &Scalar, threshold: u16) -> Self {
        let mut coefficients = Zeroizing::new(Vec::with_capacity(threshold.into()));
        coefficients.push(*constant);
        coefficients.extend((1..threshold).map(|_| Scalar::random(&mut rand::rngs::OsRng)));
        Self(coefficients)
    }

    /// The value at x.
    pub(crate) fn at(&self, x: u16) -> Zeroizing<Scalar> {
        let x = Scalar::from(x);
        let mut sum = Zeroizing::new(Scalar::ZERO);
        for coefficient in self.0.iter().rev() {
            *sum = *sum * x + coefficient;
        }
        sum
    }

    /// The coefficients, lowest first.
    pub(crate) fn coefficients(&self) -> &[Scalar] {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn from_coefficients(coefficients: Vec<Scalar>) -> Self {
        Self(Zeroizing::new(coefficients))
    }
}

/// Lagrange's coefficients at 0: λ_i = Π_{j≠i} x_j / (x_j - x_i). The indices are distinct and not zero.
pub(crate) fn lagrange_at_zero(indices: &[u16]) -> Vec<Scalar> {
    let inverses = inverse_differences(indices);
    let product: Scalar = indices.iter().map(|x| Scalar::from(*x)).product();
    let mut own: Vec<Scalar> = indices.iter().map(|x| Scalar::from(*x)).collect();
    Scalar::batch_invert(&mut own);
    // Π (0 - x_j) / (x_i - x_j): the signs of numerator and denominator's differences cancel in pairs.
    let sign = if indices.len().is_multiple_of(2) { -Scalar::ONE } else { Scalar::ONE };
    inverses.iter().zip(&own).map(|(inverse, own)| sign * product * own * inverse).collect()
}

/// 1 / k! for k below [`MAX_HOLDERS`].
static INVERSE_FACTORIALS: LazyLock<Vec<Scalar>> = LazyLock::new(|| {
    let factorials = (0..MAX_HOLDERS).scan(Scalar::ONE, |product, k| {
        *product *= Scalar::from(k.max(1));
        Some(*product)
    });
    let mut inverses: Vec<Scalar> = factorials.collect();
    Scalar::batch_invert(&mut inverses);
    inverses
});

/// 1 / Π_{j≠i} (x_i - x_j): the weights of the dual of the Reed-Solomon code with these points. The indices are distinct and
/// 1 to [`MAX_HOLDERS`].
///
/// Over all indices from 1 to N, the largest, the product is (-1)^(N - x)·(x - 1)!·(N - x)!; the factors of those that are no
/// member's are taken out again. Nothing is inverted, and members with the indices 1 to n cost three products each.
pub(crate) fn inverse_differences(indices: &[u16]) -> Vec<Scalar> {
    let last = indices.iter().copied().max().unwrap_or(0);
    let members: BTreeSet<u16> = indices.iter().copied().collect();
    let gaps: Vec<u16> = (1..last).filter(|x| !members.contains(x)).collect();
    let inverse = |k: u16| INVERSE_FACTORIALS.get(usize::from(k)).copied().unwrap_or_default();
    let weight = |x: &u16| {
        let product = scale(&(inverse(x - 1) * inverse(last - x)), gaps.iter().map(|gap| x.abs_diff(*gap)));
        let negative = usize::from(last - x) + gaps.iter().filter(|gap| *gap > x).count();
        if negative.is_multiple_of(2) { product } else { -product }
    };
    indices.iter().map(weight).collect()
}

/// A uniform word of the dual of the Reed-Solomon code of dimension `threshold` with these points: c_i = f(x_i) / Π_{j≠i}
/// (x_i - x_j), f uniform of degree at most n - t - 1. Σ c_i·p(x_i) = 0 for every p of degree below t. None where n ≤ t: any
/// values lie on such a p. The indices are distinct and 1 to [`MAX_HOLDERS`].
pub(crate) fn dual_word(indices: &[u16], threshold: usize) -> Option<Vec<Scalar>> {
    let f: Vec<Scalar> = (threshold..indices.len()).map(|_| Scalar::random(&mut rand::rngs::OsRng)).collect();
    if f.is_empty() {
        return None;
    }
    let weights = inverse_differences(indices);
    Some(weights.iter().zip(evaluate(&f, indices)).map(|(weight, value)| weight * value).collect())
}

#[cfg(all(test, feature = "prove"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_threshold_of_points_gives_the_constant(
            threshold in 2u16..12,
            indices in proptest::collection::btree_set(1u16..=1024, 12),
        ) {
            let constant = Scalar::random(&mut rand::rngs::OsRng);
            let polynomial = Polynomial::random(&constant, threshold);
            let indices: Vec<u16> = indices.into_iter().collect();
            for count in [usize::from(threshold), 12] {
                let (used, _) = indices.split_at(count);
                let values = used.iter().map(|x| *polynomial.at(*x));
                let sum: Scalar = lagrange_at_zero(used).iter().zip(values).map(|(l, y)| l * y).sum();
                prop_assert_eq!(sum, constant);
            }
            // One fewer gives something else.
            let (used, _) = indices.split_at(usize::from(threshold) - 1);
            let values = used.iter().map(|x| *polynomial.at(*x));
            let sum: Scalar = lagrange_at_zero(used).iter().zip(values).map(|(l, y)| l * y).sum();
            prop_assert_ne!(sum, constant);
        }

        #[test]
        fn weights_of_the_dual_code_are_inverse_products(
            indices in proptest::collection::btree_set(prop_oneof![1u16..=12, 1u16..=1024], 1..12),
        ) {
            let indices: Vec<u16> = indices.into_iter().rev().collect();
            for (x, weight) in indices.iter().zip(inverse_differences(&indices)) {
                let others = indices.iter().filter(|other| *other != x);
                let product: Scalar = others.map(|other| Scalar::from(*x) - Scalar::from(*other)).product();
                prop_assert_eq!(product * weight, Scalar::ONE);
            }
        }
    }

    #[test]
    fn words_of_the_dual_code_vanish_on_the_code_alone() {
        let all: Vec<u16> = (1..=1024).collect();
        for (indices, threshold) in [(&[2, 5, 8, 1024][..], 2), (&[1, 2, 3], 2), (&all, 683)] {
            let word = dual_word(indices, threshold).unwrap();
            let inner = |bound: usize| {
                let polynomial = Polynomial::random(&Scalar::from(7u8), bound as u16);
                word.iter().zip(indices).map(|(c, x)| c * *polynomial.at(*x)).sum::<Scalar>()
            };
            assert_eq!(inner(threshold), Scalar::ZERO);
            assert_ne!(inner(threshold + 1), Scalar::ZERO);
        }
        assert!(dual_word(&[1, 2], 2).is_none());
    }
}
