//! Miller loops of the optimal ate pairing on BN254 (Vercauteren, eprint 2008/096), many pairs in step.
//!
//! The multiples of all G2 points are followed in affine coordinates, with one inversion for each step of all of them
//! (Montgomery's trick), and the squarings are shared. A line is divided by y of the G1 point, so that its constant is
//! 1 and a multiplication with it takes 10 products in Fq2 where it takes 13 otherwise; the final exponentiation
//! takes such factors away.

use ark_bn254::{Bn254, Config, Fq, Fq2, Fq12, Fq12Config, G1Affine, G2Affine};
use ark_ec::{AffineRepr, bn::BnConfig, pairing::MillerLoopOutput};
use ark_ff::{Field, Fp12Config, One, serial_batch_inversion_and_mul};

/// A pair (P, Q), on its way through the loop.
struct Pair {
    /// -x/y of P.
    x: Fq,
    /// 1/y of P.
    y: Fq,
    q: G2Affine,
    /// The multiple of Q.
    t: G2Affine,
}

/// The product of the pairs' Miller loops, up to factors that the final exponentiation takes away. Points are of their
/// prime-order groups; a pair with the identity counts as 1.
pub(crate) fn product(pairs: impl Iterator<Item = (G1Affine, G2Affine)>) -> MillerLoopOutput<Bn254> {
    let pairs: Vec<_> = pairs.filter(|(p, q)| !p.is_zero() && !q.is_zero()).collect();
    let mut inverses: Vec<Fq> = pairs.iter().map(|(p, _)| p.y).collect();
    serial_batch_inversion_and_mul(&mut inverses, &Fq::ONE);
    let pairs = pairs.iter().zip(inverses);
    let mut pairs: Vec<Pair> = pairs.map(|((p, q), y)| Pair { x: -p.x * y, y, q: *q, t: *q }).collect();
    let mut value = Fq12::one();
    for digit in Config::ATE_LOOP_COUNT.iter().rev().skip(1) {
        value.square_in_place();
        double(&mut pairs, &mut value);
        match digit {
            1 => add(&mut pairs, &mut value, |q| q),
            -1 => add(&mut pairs, &mut value, |q| -q),
            _ => {}
        }
    }
    add(&mut pairs, &mut value, frobenius);
    add(&mut pairs, &mut value, |q| -frobenius(frobenius(q)));
    MillerLoopOutput(value)
}

/// Doubles every multiple, and multiplies with the tangents there. No point has order 2.
fn double(pairs: &mut [Pair], value: &mut Fq12) {
    let mut slopes: Vec<Fq2> = pairs.iter().map(|pair| pair.t.y + pair.t.y).collect();
    serial_batch_inversion_and_mul(&mut slopes, &Fq2::ONE);
    for (pair, slope) in pairs.iter_mut().zip(slopes) {
        let square = pair.t.x.square();
        let other = pair.t.x;
        step(pair, value, slope * (square + square + square), other);
    }
}

/// Adds a point to every multiple, and multiplies with the lines through both. The points of order r have other
/// multiples here than the two themselves and their negatives.
fn add(pairs: &mut [Pair], value: &mut Fq12, other: impl Fn(G2Affine) -> G2Affine) {
    let others: Vec<G2Affine> = pairs.iter().map(|pair| other(pair.q)).collect();
    let mut slopes: Vec<Fq2> = pairs.iter().zip(&others).map(|(pair, other)| other.x - pair.t.x).collect();
    serial_batch_inversion_and_mul(&mut slopes, &Fq2::ONE);
    for ((pair, slope), other) in pairs.iter_mut().zip(slopes).zip(others) {
        let slope = slope * (other.y - pair.t.y);
        step(pair, value, slope, other.x);
    }
}

/// Multiplies with the line of this slope through the multiple, and replaces the multiple by the negative of the line's
/// third point; `other` is x of the second.
fn step(pair: &mut Pair, value: &mut Fq12, slope: Fq2, other: Fq2) {
    let G2Affine { x, y, .. } = pair.t;
    // 1 + (c0 + c1·v)·w
    let (mut c0, mut c1) = (slope, slope * x - y);
    c0.mul_assign_by_fp(&pair.x);
    c1.mul_assign_by_fp(&pair.y);
    let (mut from_c1, mut from_c0) = (value.c1, value.c0);
    from_c1.mul_by_01(&c0, &c1);
    from_c0.mul_by_01(&c0, &c1);
    Fq12Config::mul_fp6_by_nonresidue_in_place(&mut from_c1);
    value.c0 += from_c1;
    value.c1 += from_c0;
    let third = slope.square() - x - other;
    pair.t = G2Affine::new_unchecked(third, slope * (x - third) - y);
}

/// The p-power Frobenius on the twist.
fn frobenius(mut point: G2Affine) -> G2Affine {
    point.x.conjugate_in_place();
    point.y.conjugate_in_place();
    point.x *= Config::TWIST_MUL_BY_Q_X;
    point.y *= Config::TWIST_MUL_BY_Q_Y;
    point
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ark_bn254::{G1Projective, G2Projective};
    use ark_ec::{CurveGroup, pairing::Pairing};
    use ark_ff::UniformRand;
    use rand::rngs::OsRng;

    use super::*;

    #[test]
    fn pairings_are_those_of_the_library() {
        for length in [0, 1, 2, 5, 9] {
            let point = |_| {
                let (p, q) = (G1Projective::rand(&mut OsRng), G2Projective::rand(&mut OsRng));
                (p.into_affine(), q.into_affine())
            };
            let mut pairs: Vec<_> = (0..length).map(point).collect();
            if let [first, second, third, .., last] = pairs.as_mut_slice() {
                first.0 = G1Affine::identity();
                second.1 = G2Affine::identity();
                *last = *third;
            }
            let (left, right): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
            let ours = Bn254::final_exponentiation(product(pairs.into_iter())).unwrap();
            assert_eq!(ours, Bn254::multi_pairing(left, right));
        }
    }
}
