//! Schnorr proofs of knowledge of a discrete logarithm, made non-interactive over merlin, for keys on
//! ristretto255, P-256 and secp256k1.
//!
//! Proof (R, s): R = r·G, c = challenge(group, context, X, R), s = r + c·x. Verified by s·G = R + c·X
//! (Schnorr 1991; strong Fiat-Shamir as in Bernhard, Pereira, Warinschi 2012). The (R, s) form, and not
//! (c, s), is what can be checked in batches.

mod weierstrass;

use std::{
    collections::HashMap,
    marker::PhantomData,
    ops::{Add, Mul, Sub},
};

use curve25519_dalek::{
    RistrettoPoint, constants::RISTRETTO_BASEPOINT_POINT, ristretto::CompressedRistretto, traits::IsIdentity,
};
use k256::elliptic_curve::{
    Field, PrimeField,
    generic_array::GenericArray,
    group::Curve,
    hash2curve::FromOkm,
    ops::LinearCombination,
    sec1::{FromEncodedPoint, ToEncodedPoint},
};
use zeroize::{Zeroize, Zeroizing};

use super::{Instance, KeyKnowledge, PublicPoint};
use crate::{
    Error, Kind, Parameters, ProofSystem,
    combination::{multiply, weights},
    context::HashedContext,
    transcript::SchnorrTranscript,
};

/// A prime-order group with canonical encodings.
pub trait SchnorrGroup {
    /// The kind that proves knowledge of this group's keys.
    const KIND: Kind;
    /// The group's name in the transcript.
    const NAME: &'static str;
    /// Bytes of an encoded point.
    const POINT_LEN: usize;
    /// Integers modulo the group order.
    type Scalar: Copy
        + Zeroize
        + From<u128>
        + Add<Output = Self::Scalar>
        + Sub<Output = Self::Scalar>
        + Mul<Output = Self::Scalar>
        + Send
        + Sync;
    /// Group elements.
    type Point: Copy + Send + Sync;

    /// Reduces uniform bytes, with a bias below 2^-120.
    fn scalar_from_uniform(bytes: &[u8; 64]) -> Self::Scalar;
    /// Decodes a canonical scalar.
    fn scalar_from_bytes(bytes: &[u8]) -> Option<Self::Scalar>;
    /// Encodes a scalar in 32 bytes.
    fn scalar_to_bytes(scalar: &Self::Scalar) -> [u8; 32];
    /// `r + c·x`, in constant time.
    fn respond(r: &Self::Scalar, c: &Self::Scalar, x: &Self::Scalar) -> Self::Scalar;
    /// Decodes a canonical point; refuses the identity.
    fn point_from_bytes(bytes: &[u8]) -> Option<Self::Point>;
    /// `k·G` encoded, in constant time.
    fn base_times(k: &Self::Scalar) -> Vec<u8>;
    /// Whether `s·G = R + c·X`. For public values only.
    fn equation_holds(s: &Self::Scalar, r: &Self::Point, c: &Self::Scalar, x: &Self::Point) -> bool;
    /// Whether `k·G + Σ scalars_i·points_i` is the identity. For public values only.
    fn vanishes(k: &Self::Scalar, scalars: Vec<Self::Scalar>, points: Vec<Self::Point>) -> bool;
    /// The point of a public key in this group.
    fn decoded(point: &PublicPoint) -> Option<&Self::Point>;
    /// Whether a scalar is zero, in constant time but for the answer.
    fn is_zero(scalar: &Self::Scalar) -> bool;

    /// Decodes a secret key: canonical and not zero.
    fn secret_from_bytes(bytes: &[u8]) -> Option<Zeroizing<Self::Scalar>> {
        let scalar = Zeroizing::new(Self::scalar_from_bytes(bytes)?);
        if Self::is_zero(&scalar) { None } else { Some(scalar) }
    }

    /// The public key of a secret.
    fn public_key(secret: &[u8]) -> Option<Vec<u8>> {
        Self::secret_from_bytes(secret).map(|scalar| Self::base_times(&scalar))
    }
}

/// ristretto255 (RFC 9496).
pub struct Ristretto255;

impl SchnorrGroup for Ristretto255 {
    const KIND: Kind = Kind::KeyKnowledgeRistretto255;
    const NAME: &'static str = "ristretto255";
    const POINT_LEN: usize = 32;
    type Scalar = curve25519_dalek::Scalar;
    type Point = RistrettoPoint;

    fn scalar_from_uniform(bytes: &[u8; 64]) -> Self::Scalar {
        Self::Scalar::from_bytes_mod_order_wide(bytes)
    }
    fn scalar_from_bytes(bytes: &[u8]) -> Option<Self::Scalar> {
        Self::Scalar::from_canonical_bytes(bytes.try_into().ok()?).into()
    }
    fn scalar_to_bytes(scalar: &Self::Scalar) -> [u8; 32] {
        scalar.to_bytes()
    }
    fn respond(r: &Self::Scalar, c: &Self::Scalar, x: &Self::Scalar) -> Self::Scalar {
        r + c * x
    }
    fn point_from_bytes(bytes: &[u8]) -> Option<Self::Point> {
        CompressedRistretto::from_slice(bytes).ok()?.decompress().filter(|point| !point.is_identity())
    }
    fn base_times(k: &Self::Scalar) -> Vec<u8> {
        RistrettoPoint::mul_base(k).compress().to_bytes().to_vec()
    }
    fn equation_holds(s: &Self::Scalar, r: &Self::Point, c: &Self::Scalar, x: &Self::Point) -> bool {
        RistrettoPoint::vartime_double_scalar_mul_basepoint(&-c, x, s) == *r
    }
    fn vanishes(k: &Self::Scalar, mut scalars: Vec<Self::Scalar>, mut points: Vec<Self::Point>) -> bool {
        scalars.push(*k);
        points.push(RISTRETTO_BASEPOINT_POINT);
        multiply(&scalars, &points).is_identity()
    }
    fn decoded(point: &PublicPoint) -> Option<&Self::Point> {
        point.ristretto()
    }
    fn is_zero(scalar: &Self::Scalar) -> bool {
        *scalar == Self::Scalar::ZERO
    }
}

macro_rules! weierstrass {
    ($(#[$doc:meta])* $group:ident, $curve:ident, $arkworks:ident, $accessor:ident, $kind:ident, $name:literal) => {
        $(#[$doc])*
        pub struct $group;

        impl SchnorrGroup for $group {
            const KIND: Kind = Kind::$kind;
            const NAME: &'static str = $name;
            const POINT_LEN: usize = 33;
            type Scalar = $curve::Scalar;
            type Point = $curve::ProjectivePoint;

            fn scalar_from_uniform(bytes: &[u8; 64]) -> Self::Scalar {
                // RFC 9380's reduction of 48 uniform bytes.
                let (okm, _) = bytes.split_at(48);
                Self::Scalar::from_okm(GenericArray::from_slice(okm))
            }
            fn scalar_from_bytes(bytes: &[u8]) -> Option<Self::Scalar> {
                let bytes: [u8; 32] = bytes.try_into().ok()?;
                Self::Scalar::from_repr(bytes.into()).into()
            }
            fn scalar_to_bytes(scalar: &Self::Scalar) -> [u8; 32] {
                scalar.to_repr().into()
            }
            fn respond(r: &Self::Scalar, c: &Self::Scalar, x: &Self::Scalar) -> Self::Scalar {
                r + &(c * x)
            }
            fn point_from_bytes(bytes: &[u8]) -> Option<Self::Point> {
                if bytes.len() != Self::POINT_LEN {
                    return None;
                }
                let encoded = $curve::EncodedPoint::from_bytes(bytes).ok()?;
                let point: Option<$curve::PublicKey> = $curve::PublicKey::from_encoded_point(&encoded).into();
                point.map(|key| key.to_projective())
            }
            fn base_times(k: &Self::Scalar) -> Vec<u8> {
                ($curve::ProjectivePoint::GENERATOR * k).to_affine().to_encoded_point(true).as_bytes().to_vec()
            }
            fn equation_holds(s: &Self::Scalar, r: &Self::Point, c: &Self::Scalar, x: &Self::Point) -> bool {
                $curve::ProjectivePoint::lincomb(&$curve::ProjectivePoint::GENERATOR, s, x, &-c) == *r
            }
            fn vanishes(k: &Self::Scalar, mut scalars: Vec<Self::Scalar>, mut points: Vec<Self::Point>) -> bool {
                scalars.push(*k);
                points.push($curve::ProjectivePoint::GENERATOR);
                let mut affine = vec![$curve::AffinePoint::IDENTITY; points.len()];
                $curve::ProjectivePoint::batch_normalize(&points, &mut affine);
                // Neither R nor X nor G is the identity, so each has coordinates.
                let coordinates = affine.iter().map(|point| {
                    let encoded = point.to_encoded_point(false);
                    [encoded.x(), encoded.y()].map(|coordinate| coordinate.copied().unwrap_or_default().into())
                });
                let scalars = scalars.iter().map(|scalar| scalar.to_repr().into());
                weierstrass::vanishes::<$arkworks::Config>(scalars, coordinates)
            }
            fn decoded(point: &PublicPoint) -> Option<&Self::Point> {
                point.$accessor()
            }
            fn is_zero(scalar: &Self::Scalar) -> bool {
                scalar.is_zero().into()
            }
        }
    };
}

weierstrass!(
    /// NIST P-256 (SP 800-186).
    P256,
    p256,
    ark_secp256r1,
    p256,
    KeyKnowledgeP256,
    "p256"
);
weierstrass!(
    /// secp256k1 (SEC 2).
    Secp256k1,
    k256,
    ark_secp256k1,
    secp256k1,
    KeyKnowledgeSecp256k1,
    "secp256k1"
);

/// A proof (R, s) that was read, with its challenge c and its public key X.
pub struct Opened<G: SchnorrGroup> {
    r: G::Point,
    s: G::Scalar,
    c: G::Scalar,
    x: G::Point,
    /// X, encoded: proofs of one key have one term for it.
    key: Vec<u8>,
}

/// The proof system, for keys in `G`.
pub struct Schnorr<G>(PhantomData<G>);

impl<G: SchnorrGroup> ProofSystem for Schnorr<G> {
    type Statement = KeyKnowledge;
    type Opened = Opened<G>;
    const KIND: Kind = G::KIND;

    fn open(
        _: &Parameters,
        context: &HashedContext<'_>,
        instance: &Instance,
        proof: &[u8],
    ) -> Result<Opened<G>, Error> {
        const NO_KEY: Error = Error::WrongInstance("a Schnorr proof needs a public key of its group");
        let Instance::PublicKey { bytes, point, .. } = instance else { return Err(NO_KEY) };
        let malformed = |why| Error::malformed("Schnorr proof", why);
        if proof.len() != G::POINT_LEN + 32 {
            return Err(malformed("it has the wrong length"));
        }
        let (commitment, response) = proof.split_at(G::POINT_LEN);
        let r = G::point_from_bytes(commitment).ok_or(malformed("its commitment is not a usable point"))?;
        let s = G::scalar_from_bytes(response).ok_or(malformed("its response is not a canonical scalar"))?;
        let x = *G::decoded(point).ok_or(NO_KEY)?;
        let transcript = SchnorrTranscript::new(G::NAME, context.digest(), bytes);
        let c = G::scalar_from_uniform(&transcript.challenge(commitment));
        Ok(Opened { r, s, c, x, key: bytes.clone() })
    }

    /// Σ w_i·R_i + Σ_X (Σ_{i of X} w_i·c_i)·X = (Σ w_i·s_i)·G.
    fn check(_: &Parameters, proofs: &[&Opened<G>]) -> Result<(), Error> {
        let holds = match proofs {
            [] => false,
            [Opened { r, s, c, x, .. }] => G::equation_holds(s, r, c, x),
            _ => {
                let mut base = G::Scalar::from(0);
                let (mut scalars, mut points) = (Vec::with_capacity(2 * proofs.len() + 1), Vec::new());
                points.reserve_exact(2 * proofs.len() + 1);
                let mut keys: HashMap<&[u8], (G::Scalar, G::Point)> = HashMap::with_capacity(proofs.len());
                for (Opened { r, s, c, x, key }, weight) in proofs.iter().zip(weights(proofs.len())) {
                    let weight = G::Scalar::from(weight);
                    base = base - weight * *s;
                    scalars.push(weight);
                    points.push(*r);
                    let (sum, _) = keys.entry(key).or_insert((G::Scalar::from(0), *x));
                    *sum = *sum + weight * *c;
                }
                let (sums, keys): (Vec<_>, Vec<_>) = keys.into_values().unzip();
                scalars.extend(sums);
                points.extend(keys);
                G::vanishes(&base, scalars, points)
            }
        };
        if holds { Ok(()) } else { Err(Error::ProofRefused) }
    }

    #[cfg(feature = "prove")]
    fn prove(
        _: &Parameters,
        context: &crate::ClaimContext,
        instance: &Instance,
        witness: &super::Witness,
    ) -> Result<Vec<u8>, Error> {
        let Instance::PublicKey { bytes: public_key, .. } = instance else {
            return Err(Error::WrongInstance("a Schnorr proof needs a public key"));
        };
        let x = G::secret_from_bytes(witness.secret()).ok_or(Error::WitnessRefused("the scalar is out of range"))?;
        let transcript = SchnorrTranscript::new(G::NAME, &context.digest(), public_key);
        let nonce = transcript.hedged_nonce(witness.secret(), &mut rand::rngs::OsRng);
        let r = Zeroizing::new(G::scalar_from_uniform(&nonce));
        let commitment = G::base_times(&r);
        let c = G::scalar_from_uniform(&transcript.challenge(&commitment));
        let s = G::respond(&r, &c, &x);
        Ok([commitment.as_slice(), &G::scalar_to_bytes(&s)].concat())
    }
}
