//! A proof's encoding: A and C in G1, B in G2, each its x coordinate, little-endian, with the sign of y in the top
//! bit of the last byte. It is ark-serialize's compressed encoding, read with a third of its work.

use ark_bn254::{Bn254, Config, Fq, Fq2, G1Affine, G2Affine, G2Projective};
use ark_ec::{AdditiveGroup, bn::BnConfig, short_weierstrass::SWCurveConfig};
use ark_ff::{BigInt, Field, MontFp, One, PrimeField, Zero};
use ark_groth16::Proof;
use ark_serialize::CanonicalSerialize;

use super::PROOF_LEN;
use crate::Error;

/// The flag of the greater y of two.
const GREATER: u8 = 0x80;
/// The flag of the identity, which no proof holds.
const IDENTITY: u8 = 0x40;
/// The curve's parameter x, with p = 36x^4 + 36x^3 + 24x^2 + 6x + 1.
const X: u64 = 4_965_661_367_192_848_881;
const HALF: Fq = MontFp!("10944121435919637611123202872628637544348155578648911831344518947322613104292");

/// Decodes a proof: points on their curves, in their subgroups, in their one encoding, none the identity.
pub(crate) fn decode(bytes: &[u8]) -> Result<Proof<Bn254>, Error> {
    let malformed = |why| Error::malformed("Groth16 proof", why);
    let bytes: &[u8; PROOF_LEN] = bytes.try_into().map_err(|_| malformed("it has the wrong length"))?;
    let (parts, _) = bytes.as_chunks::<32>();
    let [a, b0, b1, c] = parts else { return Err(malformed("it has the wrong length")) };
    let points = || Some(Proof { a: g1(a)?, b: g2(b0, b1)?, c: g1(c)? });
    points().ok_or(malformed("its points are not usable"))
}

pub(crate) fn encode(proof: &Proof<Bn254>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PROOF_LEN);
    proof.serialize_compressed(&mut bytes).expect("a vector takes every write");
    bytes
}

/// A point of G1, which is the whole curve.
fn g1(bytes: &[u8; 32]) -> Option<G1Affine> {
    let (x, greater) = flagged(bytes)?;
    let y = sqrt(ark_bn254::g1::Config::add_b(x.square() * x))?;
    Some(G1Affine::new_unchecked(x, if (y > -y) == greater { y } else { -y }))
}

/// A point of G2.
fn g2(c0: &[u8; 32], c1: &[u8; 32]) -> Option<G2Affine> {
    let (c1, greater) = flagged(c1)?;
    let x = Fq2::new(coordinate(*c0)?, c1);
    let y = sqrt2(ark_bn254::g2::Config::add_b(x.square() * x))?;
    let point = G2Affine::new_unchecked(x, if (y > -y) == greater { y } else { -y });
    in_g2(&point).then_some(point)
}

/// A coordinate and the sign in its last byte. There are no points with y = 0, as both curves' orders are odd.
fn flagged(bytes: &[u8; 32]) -> Option<(Fq, bool)> {
    let mut bytes = *bytes;
    let [.., last] = &mut bytes;
    let flags = *last & (GREATER | IDENTITY);
    *last ^= flags;
    if flags & IDENTITY != 0 { None } else { Some((coordinate(bytes)?, flags == GREATER)) }
}

/// A number below the modulus.
fn coordinate(bytes: [u8; 32]) -> Option<Fq> {
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    Fq::from_bigint(BigInt(words))
}

/// a^((p - 3) / 4), the inverse of a's root up to its sign: p = 3 mod 4.
fn inverse_root(a: Fq) -> Fq {
    const EXPONENT: BigInt<4> = Fq::MODULUS_MINUS_ONE_DIV_TWO.divide_by_2_round_down();
    a.pow(EXPONENT)
}

fn sqrt(a: Fq) -> Option<Fq> {
    let root = a * inverse_root(a);
    (root.square() == a).then_some(root)
}

/// A square root in Fq2 = Fq(u), u^2 = -1, by the complex method (Adj, Rodríguez-Henríquez, eprint 2012/685, section 4)
/// with one power for each of its root, its Legendre symbol and its inverse.
fn sqrt2(a: Fq2) -> Option<Fq2> {
    if a.c1.is_zero() {
        return a.sqrt();
    }
    let half = (a.c0 + sqrt(a.c0.square() + a.c1.square())?) * HALF;
    let inverse = inverse_root(half);
    let root = half * inverse;
    let other = a.c1 * HALF * inverse;
    // root · inverse is the Legendre symbol of `half`: 1 or -1, since `half` is 0 only where c1 is.
    let root = if (root * inverse).is_one() { Fq2::new(root, other) } else { Fq2::new(-other, root) };
    (root.square() == a).then_some(root)
}

/// Whether a point of the twist lies in G2: whether (x + 1)P + ψ(xP) + ψ²(xP) = ψ³(2xP) (El Housni, Guillevic,
/// Piellard, eprint 2022/348, section 3).
///
/// It holds in G2, where ψ is the multiplication by p. As ψ² - tψ + p = 0, it holds outside only for points of an
/// order that divides the resultant of this polynomial and X² - tX + p. That is prime to the cofactor 2p - r, so
/// there are none.
fn in_g2(point: &G2Affine) -> bool {
    let (bits, triple) = (u128::from(X), 3 * u128::from(X));
    let mut multiple = G2Projective::zero();
    // The digits of (3x - x) / 2 where only one of the two has a bit: x in non-adjacent form.
    for place in (1..u128::BITS - triple.leading_zeros()).rev() {
        multiple.double_in_place();
        match (triple >> place & 1, bits >> place & 1) {
            (1, 0) => multiple += point,
            (0, 1) => multiple -= point,
            _ => {}
        }
    }
    let once = psi(multiple);
    let twice = psi(once);
    multiple + point + once + twice == psi(twice).double()
}

/// The endomorphism ψ of the twist: untwist, Frobenius, twist.
fn psi(mut point: G2Projective) -> G2Projective {
    for coordinate in [&mut point.x, &mut point.y, &mut point.z] {
        coordinate.conjugate_in_place();
    }
    point.x *= Config::TWIST_MUL_BY_Q_X;
    point.y *= Config::TWIST_MUL_BY_Q_Y;
    point
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use ark_bn254::{Fr, G1Projective};
    use ark_ec::{AffineRepr, CurveConfig, CurveGroup, PrimeGroup};
    use ark_ff::UniformRand;
    use ark_serialize::CanonicalDeserialize;
    use rand::{Rng, rngs::OsRng};

    use super::*;

    /// The library's reading, and its encoding again, which must be the same.
    fn by_the_library(bytes: &[u8]) -> Option<Proof<Bn254>> {
        let proof = Proof::<Bn254>::deserialize_compressed(bytes).ok()?;
        let identity = proof.a.is_zero() || proof.b.is_zero() || proof.c.is_zero();
        (!identity && encode(&proof) == bytes).then_some(proof)
    }

    fn random() -> Proof<Bn254> {
        let point = || G1Projective::rand(&mut OsRng).into_affine();
        Proof { a: point(), b: G2Projective::rand(&mut OsRng).into_affine(), c: point() }
    }

    /// Points of the twist, nearly none of them in G2.
    fn on_the_twist() -> impl Iterator<Item = G2Affine> {
        (1_u64..).filter_map(|x| {
            let x = if x % 3 == 0 { Fq2::from(x) } else { Fq2::new(Fq::from(x), Fq::from(x + 1)) };
            G2Affine::get_point_from_x_unchecked(x, x.c0 == x.c1)
        })
    }

    #[test]
    fn the_same_is_accepted_as_by_the_library() {
        let (mut accepted, mut refused) = (0, 0);
        let mut compare = |bytes: &[u8]| {
            let expected = by_the_library(bytes);
            assert_eq!(decode(bytes).ok(), expected, "{bytes:?}");
            if expected.is_some() { accepted += 1 } else { refused += 1 }
        };
        for _ in 0..20 {
            let bytes = encode(&random());
            compare(&bytes);
            for _ in 0..8 {
                let mut changed = bytes.clone();
                changed[OsRng.gen_range(0..PROOF_LEN)] ^= 1 << OsRng.gen_range(0..8);
                compare(&changed);
            }
            // Every setting of every flag, and a coordinate with the modulus added.
            for last in [31, 63, 95, 127] {
                for flags in [0x40, 0x80, 0xc0] {
                    let mut changed = bytes.clone();
                    changed[last] ^= flags;
                    compare(&changed);
                }
                let mut changed = bytes.clone();
                changed[last - 31..=last].fill(0);
                for byte in [0, 0x40, 0x80, 0xc0] {
                    changed[last] = byte;
                    compare(&changed);
                }
            }
        }
        for point in on_the_twist().take(10) {
            compare(&encode(&Proof { b: point, ..random() }));
            compare(&encode(&Proof { b: point.clear_cofactor(), ..random() }));
        }
        for length in [0, 127, 129] {
            assert!(decode(&vec![0; length]).is_err());
        }
        assert!(accepted > 40 && refused > 40);
    }

    #[test]
    fn exactly_the_points_of_g2_pass() {
        // A factor of the cofactor, the others of which are greater.
        const SMALL: u64 = 10_069;
        let cofactor = ark_bn254::g2::Config::COFACTOR;
        let outside = |point: G2Affine| {
            assert!(!in_g2(&point) && !point.mul_bigint(Fr::MODULUS).is_zero());
        };
        for point in on_the_twist().take(6) {
            outside(point);
            assert!(in_g2(&point.clear_cofactor()));
            // Of an order that divides the cofactor, and the sum of such a point and one of G2.
            let torsion = point.mul_bigint(Fr::MODULUS);
            assert!(torsion.mul_bigint(cofactor).is_zero());
            outside(torsion.into_affine());
            outside((torsion + point.clear_cofactor()).into_affine());
            let by = cofactor_over(SMALL);
            let smallest = torsion.mul_bigint(by);
            assert!(smallest.mul_bigint([SMALL]).is_zero());
            if !smallest.is_zero() {
                outside(smallest.into_affine());
                outside((smallest + G2Projective::rand(&mut OsRng)).into_affine());
            }
        }
    }

    fn cofactor_over(divisor: u64) -> [u64; 4] {
        let mut quotient = [0; 4];
        let mut rest = 0_u128;
        for (place, word) in ark_bn254::g2::Config::COFACTOR.iter().enumerate().rev() {
            let value = (rest << 64) | u128::from(*word);
            quotient[place] = (value / u128::from(divisor)) as u64;
            rest = value % u128::from(divisor);
        }
        assert_eq!(rest, 0);
        quotient
    }

    #[test]
    fn roots_are_roots() {
        for _ in 0..20 {
            let value = Fq2::rand(&mut OsRng);
            assert_eq!(sqrt2(value).is_some(), value.sqrt().is_some());
            for square in [value.square(), Fq2::new(value.c0, Fq::ZERO), Fq2::new(Fq::ZERO, value.c1), Fq2::ZERO] {
                let expected = square.sqrt();
                assert_eq!(sqrt2(square).is_some(), expected.is_some());
                assert!(sqrt2(square).is_none_or(|root| root.square() == square));
            }
            assert_eq!(sqrt(value.c0).is_some(), value.c0.legendre().is_qr());
            assert_eq!(sqrt(value.c0.square()).unwrap().square(), value.c0.square());
        }
    }
}
