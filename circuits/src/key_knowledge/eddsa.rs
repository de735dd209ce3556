//! Ed25519 keys: the proof is an EdDSA signature over the claim, which *is* a key-prefixed Schnorr
//! proof of knowledge (R, s).
//!
//! Verification is the cofactored equation 8·s·B = 8·R + 8·c·A with canonical encodings of A, R and s
//! (RFC 8032, section 5.1.7; Chalkias, Garillot, Nikolaenko 2020), the same in single and batch checks.
//! A must be free of torsion and not the identity, so that one key has one encoding and one meaning.

use std::collections::HashMap;

use curve25519_dalek::{
    EdwardsPoint, Scalar, constants::ED25519_BASEPOINT_POINT, edwards::CompressedEdwardsY, traits::IsIdentity,
};
use sha2::{Digest as _, Sha512};

use super::{Instance, KeyKnowledge};
use crate::{
    Digest, Error, Kind, Parameters, ProofSystem,
    combination::{multiply, weights},
    context::HashedContext,
    transcript::label,
};

/// EdDSA over the context, for an Ed25519 key.
pub struct Ed25519;

/// The message that an Ed25519 key signs to attest itself: the label, a zero byte, the context digest.
pub fn attest_message(context: &crate::ClaimContext) -> Vec<u8> {
    message(&context.digest())
}

fn message(context: &Digest) -> Vec<u8> {
    [label::ATTEST.as_bytes(), &[0], &context.0].concat()
}

/// Decodes a point from its one encoding (RFC 8032, section 5.1.3): y below p, and no sign where x is zero.
fn decode_canonical(bytes: &[u8]) -> Option<EdwardsPoint> {
    let compressed = CompressedEdwardsY::from_slice(bytes).ok()?;
    let [first, middle @ .., last] = compressed.as_bytes();
    let y_is =
        |low: u8, fill: u8, high: u8| *first == low && middle.iter().all(|byte| *byte == fill) && last & 0x7f == high;
    // p = 2^255 - 19; x is zero where y is 1 or p - 1.
    let below_p = *first < 0xed || middle.iter().any(|byte| *byte != 0xff) || last & 0x7f != 0x7f;
    let signed_zero = last >> 7 == 1 && (y_is(1, 0, 0) || y_is(0xec, 0xff, 0x7f));
    if below_p && !signed_zero { compressed.decompress() } else { None }
}

/// Decodes a public key; refuses non-canonical encodings, torsion and the identity.
pub fn decode_public_key(bytes: &[u8]) -> Option<EdwardsPoint> {
    decode_canonical(bytes).filter(|point| !point.is_identity() && point.is_torsion_free())
}

/// Whether `signature` is `public_key`'s over `message`, by the cofactored equation.
///
/// The key is one that [`decode_public_key`] has accepted, at enrolment or when its instance was read: its torsion is
/// not looked at again.
pub fn verify_signature(public_key: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
    let opened = decode_canonical(public_key).and_then(|a| Opened::read(public_key, &a, message, signature));
    opened.is_some_and(|opened| opened.holds())
}

/// A signature (R, s) that was read, with its challenge c and its public key A.
pub struct Opened {
    r: EdwardsPoint,
    s: Scalar,
    c: Scalar,
    a: EdwardsPoint,
    /// A, encoded: signatures of one key have one term for it.
    key: Vec<u8>,
}

impl Opened {
    fn read(key: &[u8], a: &EdwardsPoint, message: &[u8], signature: &[u8; 64]) -> Option<Self> {
        let (r_bytes, s_bytes) = signature.split_at(32);
        let r = decode_canonical(r_bytes)?;
        let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(s_bytes.try_into().ok()?))?;
        let hash = Sha512::new().chain_update(r_bytes).chain_update(key).chain_update(message).finalize();
        Some(Self { r, s, c: Scalar::from_bytes_mod_order_wide(&hash.into()), a: *a, key: key.to_vec() })
    }

    fn holds(&self) -> bool {
        let residue = EdwardsPoint::vartime_double_scalar_mul_basepoint(&self.c, &-self.a, &self.s) - self.r;
        residue.mul_by_cofactor().is_identity()
    }
}

/// 8·(Σ w_i·R_i + Σ_A (Σ_{i of A} w_i·c_i)·A - (Σ w_i·s_i)·B) = 0. Torsion in an R vanishes here as it does alone; A has
/// none, so that its scalars may be reduced modulo the prime order.
fn hold_together(proofs: &[&Opened]) -> bool {
    let mut base = Scalar::ZERO;
    let (mut scalars, mut points) = (Vec::with_capacity(2 * proofs.len() + 1), Vec::new());
    points.reserve_exact(2 * proofs.len() + 1);
    let mut keys: HashMap<&[u8], (Scalar, EdwardsPoint)> = HashMap::with_capacity(proofs.len());
    for (Opened { r, s, c, a, key }, weight) in proofs.iter().zip(weights(proofs.len())) {
        let weight = Scalar::from(weight);
        base -= weight * s;
        scalars.push(weight);
        points.push(*r);
        keys.entry(key).or_insert((Scalar::ZERO, *a)).0 += weight * c;
    }
    let (sums, keys): (Vec<_>, Vec<_>) = keys.into_values().unzip();
    scalars.extend(sums);
    points.extend(keys);
    scalars.push(base);
    points.push(ED25519_BASEPOINT_POINT);
    multiply(&scalars, &points).mul_by_cofactor().is_identity()
}

/// The public key of a 32-byte seed.
pub(super) fn public_key(seed: &[u8]) -> Option<Vec<u8>> {
    let seed: &[u8; 32] = seed.try_into().ok()?;
    Some(ed25519_dalek::SigningKey::from_bytes(seed).verifying_key().to_bytes().to_vec())
}

impl ProofSystem for Ed25519 {
    type Statement = KeyKnowledge;
    type Opened = Opened;
    const KIND: Kind = Kind::KeyKnowledgeEd25519;

    fn open(_: &Parameters, context: &HashedContext<'_>, instance: &Instance, proof: &[u8]) -> Result<Opened, Error> {
        const NO_KEY: Error = Error::WrongInstance("an Ed25519 proof needs an Ed25519 key");
        let Instance::PublicKey { bytes, point, .. } = instance else { return Err(NO_KEY) };
        let malformed = |why| Error::malformed("EdDSA proof", why);
        let signature = proof.try_into().map_err(|_| malformed("it is not 64 bytes long"))?;
        Opened::read(bytes, point.edwards().ok_or(NO_KEY)?, &message(context.digest()), signature)
            .ok_or(malformed("R or s is not the canonical encoding of anything"))
    }

    fn check(_: &Parameters, proofs: &[&Opened]) -> Result<(), Error> {
        let holds = match proofs {
            [] => false,
            [alone] => alone.holds(),
            _ => hold_together(proofs),
        };
        if holds { Ok(()) } else { Err(Error::ProofRefused) }
    }

    #[cfg(feature = "prove")]
    fn prove(
        _: &Parameters,
        context: &crate::ClaimContext,
        _: &Instance,
        witness: &super::Witness,
    ) -> Result<Vec<u8>, Error> {
        use ed25519_dalek::Signer;
        let seed = witness.secret().try_into().map_err(|_| Error::WitnessRefused("a seed has 32 bytes"))?;
        Ok(ed25519_dalek::SigningKey::from_bytes(seed).sign(&attest_message(context)).to_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use curve25519_dalek::constants::EIGHT_TORSION;

    use super::*;

    #[test]
    fn one_encoding_for_each_point() {
        let by_encoding_again = |bytes: &[u8; 32]| {
            let compressed = CompressedEdwardsY(*bytes);
            compressed.decompress().filter(|point| point.compress() == compressed)
        };
        let mut encodings: Vec<[u8; 32]> = EIGHT_TORSION.iter().map(|point| point.compress().to_bytes()).collect();
        // Around 0 and p, and up to 2^255 - 1.
        for low in 0..=255 {
            for (fill, high) in [(0, 0), (0xff, 0x7f)] {
                let mut bytes = [fill; 32];
                (bytes[0], bytes[31]) = (low, high);
                encodings.push(bytes);
            }
        }
        encodings.extend((0..64u64).map(|n| (ED25519_BASEPOINT_POINT * Scalar::from(n + 2)).compress().to_bytes()));
        let mut refused = 0;
        for bytes in &encodings {
            for sign in [0, 0x80] {
                let mut bytes = *bytes;
                bytes[31] ^= sign;
                assert_eq!(decode_canonical(&bytes), by_encoding_again(&bytes), "{bytes:02x?}");
                refused += usize::from(decode_canonical(&bytes).is_none());
            }
        }
        // Two signs without an x, and every y from p to 2^255 - 1 with either sign.
        assert!(refused >= 2 + 2 * 19);
    }

    /// Signs with the commitment r·B + torsion.
    fn opened(secret: u64, torsion: &EdwardsPoint, message: &[u8]) -> Opened {
        let (a, r) = (Scalar::from(secret), Scalar::from(secret * 1_000_003));
        let (public, commitment) = (ED25519_BASEPOINT_POINT * a, ED25519_BASEPOINT_POINT * r + torsion);
        let (key, r_bytes) = (public.compress().to_bytes(), commitment.compress().to_bytes());
        let hash = Sha512::new().chain_update(r_bytes).chain_update(key).chain_update(message).finalize();
        let s = r + Scalar::from_bytes_mod_order_wide(&hash.into()) * a;
        let signature = [r_bytes, s.to_bytes()].concat();
        Opened::read(&key, &public, message, &signature.try_into().unwrap()).unwrap()
    }

    #[test]
    fn torsion_in_a_commitment_is_accepted_alone_and_in_company() {
        for (at, torsion) in EIGHT_TORSION.iter().enumerate() {
            let proofs: Vec<_> = (1..8).map(|secret| opened(secret, &EIGHT_TORSION[at], b"claim")).collect();
            assert!(proofs.iter().all(Opened::holds));
            for count in 2..=proofs.len() {
                assert!(hold_together(&proofs.iter().take(count).collect::<Vec<_>>()), "{torsion:?}");
            }
            let other = opened(9, torsion, b"another claim");
            let wrong = Opened { s: other.s + Scalar::ONE, ..other };
            assert!(!wrong.holds() && !hold_together(&[&proofs[0], &wrong]));
        }
    }

    #[test]
    fn keys_of_small_order_or_with_torsion_are_refused() {
        for torsion in &EIGHT_TORSION[1..] {
            assert!(decode_public_key(&torsion.compress().to_bytes()).is_none());
            let mixed = ED25519_BASEPOINT_POINT * Scalar::from(5u8) + torsion;
            assert!(decode_public_key(&mixed.compress().to_bytes()).is_none());
        }
        assert!(decode_public_key(&EdwardsPoint::default().compress().to_bytes()).is_none());
        let usable = ED25519_BASEPOINT_POINT * Scalar::from(5u8);
        assert_eq!(decode_public_key(&usable.compress().to_bytes()), Some(usable));
    }
}
