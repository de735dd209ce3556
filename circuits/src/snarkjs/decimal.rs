//! Field elements and points as snarkjs writes them: decimal text, and projective coordinates whose last is one.

use ark_bn254::{Fq, Fq2, Fq12, G1Affine, G2Affine};
use ark_ec::AffineRepr;
use ark_ff::{Field, PrimeField};
use serde::{Deserialize, Serialize};

/// Most digits of a number below 2^256.
const MAX_DIGITS: usize = 78;

/// A number below the modulus of its field, without a sign or leading zeros.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Decimal(String);

impl Decimal {
    pub(super) fn new(element: impl PrimeField) -> Self {
        Self(element.to_string())
    }

    /// The element; none for any other spelling of it.
    pub(super) fn element<F: PrimeField>(&self) -> Option<F> {
        let digits = self.0.len() <= MAX_DIGITS && self.0.bytes().all(|byte| byte.is_ascii_digit());
        // The library reduces what it reads, so that a number at or above the modulus comes back as another text.
        let element = if digits { self.0.parse::<F>().ok()? } else { return None };
        (element.to_string() == self.0).then_some(element)
    }
}

/// An element of Fq2: c0 + c1·u.
pub(super) type Pair = [Decimal; 2];

fn pair(element: &Fq2) -> Pair {
    [Decimal::new(element.c0), Decimal::new(element.c1)]
}

fn unpair([c0, c1]: &Pair) -> Option<Fq2> {
    Some(Fq2::new(c0.element()?, c1.element()?))
}

/// A point of G1: x, y, 1.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Point1([Decimal; 3]);

/// A point of G2: x, y, 1.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Point2([Pair; 3]);

impl Point1 {
    pub(super) fn new(point: &G1Affine) -> Self {
        Self([Decimal::new(point.x), Decimal::new(point.y), Decimal::new(Fq::ONE)])
    }

    /// The point: on the curve, in the subgroup, not the identity.
    pub(super) fn point(&self) -> Option<G1Affine> {
        let [x, y, z] = &self.0;
        let point = G1Affine::new_unchecked(x.element()?, y.element()?);
        usable(z.element::<Fq>()? == Fq::ONE, point.is_zero(), point.is_on_curve(), || {
            point.is_in_correct_subgroup_assuming_on_curve()
        })
        .then_some(point)
    }
}

impl Point2 {
    pub(super) fn new(point: &G2Affine) -> Self {
        Self([pair(&point.x), pair(&point.y), pair(&Fq2::ONE)])
    }

    /// The point: on the curve, in the subgroup, not the identity.
    pub(super) fn point(&self) -> Option<G2Affine> {
        let [x, y, z] = &self.0;
        let point = G2Affine::new_unchecked(unpair(x)?, unpair(y)?);
        usable(unpair(z)? == Fq2::ONE, point.is_zero(), point.is_on_curve(), || {
            point.is_in_correct_subgroup_assuming_on_curve()
        })
        .then_some(point)
    }
}

fn usable(affine: bool, identity: bool, on_curve: bool, in_subgroup: impl FnOnce() -> bool) -> bool {
    affine && !identity && on_curve && in_subgroup()
}

/// An element of Fq12 over Fq6 over Fq2, lowest coefficients first.
pub(super) type Target = [[Pair; 3]; 2];

pub(super) fn target(element: &Fq12) -> Target {
    [&element.c0, &element.c1].map(|half| [&half.c0, &half.c1, &half.c2].map(pair))
}
