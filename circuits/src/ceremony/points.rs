//! Points on their way in and out of files, and the two pairing checks that everything rests on.

use ark_bn254::{Bn254, Fr, G1Affine, G2Affine};
use ark_ec::{
    AffineRepr, CurveGroup, VariableBaseMSM,
    pairing::Pairing,
    short_weierstrass::{Affine, Projective, SWCurveConfig},
};
use ark_ff::{AdditiveGroup, BigInt, One, PrimeField, Zero};
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
use rand::{RngCore, rngs::OsRng};
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::CeremonyError;
use crate::codec::{Reader, Writer};

/// Writes points, uncompressed, as one byte string.
pub(super) fn write<C: SWCurveConfig>(writer: &mut Writer, points: &[Affine<C>]) {
    writer.bytes(&encode(points));
}

pub(super) fn encode<C: SWCurveConfig>(points: &[Affine<C>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for point in points {
        point.serialize_uncompressed(&mut bytes).expect("a vector takes every write");
    }
    bytes
}

/// Reads exactly `count` points, each in its one encoding, and [checks](check) them.
pub(super) fn read<C: SWCurveConfig>(
    reader: &mut Reader<'_>,
    what: &'static str,
    count: usize,
) -> Result<Vec<Affine<C>>, CeremonyError> {
    let size = Affine::<C>::identity().uncompressed_size();
    let bytes = reader.bytes(count * size)?;
    if bytes.len() != count * size {
        return Err(reader.error("a list of points has another length than the circuit asks for").into());
    }
    let points: Vec<_> = bytes
        .par_chunks(size)
        .enumerate()
        .map(|(index, chunk)| {
            let point = Affine::<C>::deserialize_uncompressed_unchecked(chunk).ok();
            let point = point.filter(|point| encode(&[*point]) == chunk);
            point.ok_or(CeremonyError::Point { what, index, why: "it is not encoded canonically" })
        })
        .collect::<Result<_, _>>()?;
    check(what, &points)?;
    Ok(points)
}

/// Checks that every point lies on its curve, in the subgroup of prime order, and is not the identity.
pub(super) fn check<C: SWCurveConfig>(what: &'static str, points: &[Affine<C>]) -> Result<(), CeremonyError> {
    points.par_iter().enumerate().try_for_each(|(index, point)| {
        let why = if point.is_zero() {
            "it is the identity"
        } else if !point.is_on_curve() {
            "it is not on its curve"
        } else if !point.is_in_correct_subgroup_assuming_on_curve() {
            "it is outside the subgroup of prime order"
        } else {
            return Ok(());
        };
        Err(CeremonyError::Point { what, index, why })
    })
}

/// Exactly one point, as [`read`].
pub(super) fn read_one<C: SWCurveConfig>(
    reader: &mut Reader<'_>,
    what: &'static str,
) -> Result<Affine<C>, CeremonyError> {
    let missing = reader.error("a point is missing");
    read(reader, what, 1)?.first().copied().ok_or(missing.into())
}

/// Whether `to` is to `from` in G1 what it is in G2: e(to₁, from₂) = e(from₁, to₂).
pub(super) fn same_ratio(g1: Ratio<G1Affine>, g2: Ratio<G2Affine>) -> bool {
    Bn254::multi_pairing([g1.to, -g1.from], [g2.from, g2.to]).is_zero()
}

/// Two points, of which one is a multiple of the other.
#[derive(Clone, Copy)]
pub(super) struct Ratio<P> {
    pub(super) from: P,
    pub(super) to: P,
}

/// `count` weights of 128 bits from the operating system. A false equation among `count` passes their
/// random combination with probability 2^-128 (Bellare, Garay, Rabin, EUROCRYPT 1998).
pub(super) fn weights(count: usize) -> Vec<Fr> {
    let draw = |_| {
        let mut bytes = [0; 16];
        OsRng.fill_bytes(&mut bytes);
        Fr::from(u128::from_le_bytes(bytes))
    };
    (0..count).map(draw).collect()
}

/// Σ scalarᵢ·pointᵢ; surplus on either side is left out.
pub(super) fn combine<C: SWCurveConfig<ScalarField = Fr>>(points: &[Affine<C>], scalars: &[Fr]) -> Affine<C> {
    let count = points.len().min(scalars.len());
    let (points, scalars) = (points.get(..count).unwrap_or_default(), scalars.get(..count).unwrap_or_default());
    <Affine<C> as AffineRepr>::Group::msm_unchecked(points, scalars).into_affine()
}

/// Σ scalarᵢ·pointᵢ on the thread that it is called in, by Straus's method with windows of 4 bits: the multiplication that
/// [`combine`] uses spreads over the thread pool, and many small ones at once would wait for each other in a deep stack.
pub(super) fn combine_alone<C: SWCurveConfig<ScalarField = Fr>>(terms: &[(Fr, Projective<C>)]) -> Projective<C> {
    let (plain, scaled): (Vec<_>, Vec<_>) = terms.iter().partition(|(scalar, _)| scalar.is_one());
    let multiples =
        |point: &Projective<C>| std::iter::successors(Some(*point), |last| Some(*last + point)).take(15).collect();
    let tables: Vec<(BigInt<4>, Vec<_>)> =
        scaled.iter().map(|(scalar, point)| (scalar.into_bigint(), multiples(point))).collect();
    let mut sum = Projective::<C>::zero();
    for window in (0..64).rev() {
        for _ in 0..if sum.is_zero() { 0 } else { 4 } {
            sum.double_in_place();
        }
        for (BigInt(words), table) in &tables {
            let word = words.get(window / 16).copied().unwrap_or_default();
            let digit = (word >> (4 * (window % 16))) as usize & 15;
            if let Some(multiple) = digit.checked_sub(1).and_then(|index| table.get(index)) {
                sum += multiple;
            }
        }
    }
    plain.into_iter().fold(sum, |sum, (_, point)| sum + point)
}

/// Random combinations of a list without its last point, and without its first, with the same weights: their
/// ratio is x where the list is a geometric series in x.
pub(super) fn steps<C: SWCurveConfig<ScalarField = Fr>>(points: &[Affine<C>]) -> Ratio<Affine<C>> {
    let weights = weights(points.len().saturating_sub(1));
    let shifted = points.get(1..).unwrap_or_default();
    Ratio { from: combine(points, &weights), to: combine(shifted, &weights) }
}

/// Multiplies every point by its own scalar.
pub(super) fn scale<C: SWCurveConfig<ScalarField = Fr>>(points: &mut [Affine<C>], scalars: &Zeroizing<Vec<Fr>>) {
    let scaled: Vec<_> = points.par_iter().zip(scalars.par_iter()).map(|(point, scalar)| *point * scalar).collect();
    for (point, scaled) in points.iter_mut().zip(<Affine<C> as AffineRepr>::Group::normalize_batch(&scaled)) {
        *point = scaled;
    }
}
