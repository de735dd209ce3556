//! Polynomials over ristretto255's scalar field, and interpolation.

use curve25519_dalek::Scalar;
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

/// 1 / Π_{j≠i} (x_i - x_j): the weights of the dual of the Reed-Solomon code with these points. The indices are distinct.
pub(crate) fn inverse_differences(indices: &[u16]) -> Vec<Scalar> {
    let difference = |a: u16, b: u16| {
        if a > b { Scalar::from(a - b) } else { -Scalar::from(b - a) }
    };
    let others = |i: &u16| indices.iter().filter(|j| *j != i).map(|j| difference(*i, *j)).product();
    let mut products: Vec<Scalar> = indices.iter().map(others).collect();
    Scalar::batch_invert(&mut products);
    products
}

#[cfg(all(test, feature = "prove"))]
mod tests {
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
    }
}
