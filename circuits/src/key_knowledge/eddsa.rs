//! Ed25519 keys: the proof is an EdDSA signature over the claim, which *is* a key-prefixed Schnorr
//! proof of knowledge (R, s).
//!
//! Verification is the cofactored equation 8·s·B = 8·R + 8·c·A with canonical encodings of A, R and s
//! (RFC 8032, section 5.1.7; Chalkias, Garillot, Nikolaenko 2020), the same in single and batch checks.
//! A must be free of torsion and not the identity, so that one key has one encoding and one meaning.

use curve25519_dalek::{EdwardsPoint, Scalar, edwards::CompressedEdwardsY, traits::IsIdentity};
use sha2::{Digest as _, Sha512};

use super::{Instance, KeyKnowledge};
use crate::{ClaimContext, Error, Kind, Parameters, ProofSystem, transcript::label};

/// EdDSA over the context, for an Ed25519 key.
pub struct Ed25519;

/// The message that an Ed25519 key signs to attest itself: the label, a zero byte, the context digest.
pub fn attest_message(context: &ClaimContext) -> Vec<u8> {
    [label::ATTEST.as_bytes(), &[0], &context.digest().0].concat()
}

fn decode_canonical(bytes: &[u8]) -> Option<EdwardsPoint> {
    let compressed = CompressedEdwardsY::from_slice(bytes).ok()?;
    compressed.decompress().filter(|point| point.compress() == compressed)
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
    check(public_key, message, signature).unwrap_or(false)
}

fn check(public_key: &[u8], message: &[u8], signature: &[u8; 64]) -> Option<bool> {
    let (r_bytes, s_bytes) = signature.split_at(32);
    let public = decode_canonical(public_key)?;
    let r = decode_canonical(r_bytes)?;
    let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(s_bytes.try_into().ok()?))?;
    let hash = Sha512::new().chain_update(r_bytes).chain_update(public_key).chain_update(message).finalize();
    let c = Scalar::from_bytes_mod_order_wide(&hash.into());
    let residue = EdwardsPoint::vartime_double_scalar_mul_basepoint(&c, &-public, &s) - r;
    Some(residue.mul_by_cofactor().is_identity())
}

/// The public key of a 32-byte seed.
pub(super) fn public_key(seed: &[u8]) -> Option<Vec<u8>> {
    let seed: &[u8; 32] = seed.try_into().ok()?;
    Some(ed25519_dalek::SigningKey::from_bytes(seed).verifying_key().to_bytes().to_vec())
}

impl ProofSystem for Ed25519 {
    type Statement = KeyKnowledge;
    const KIND: Kind = Kind::KeyKnowledgeEd25519;

    fn verify(_: &Parameters, context: &ClaimContext, instance: &Instance, proof: &[u8]) -> Result<(), Error> {
        let Instance::PublicKey { bytes, .. } = instance else {
            return Err(Error::WrongInstance("an Ed25519 proof needs a public key"));
        };
        let signature = proof.try_into().map_err(|_| Error::malformed("EdDSA proof", "it is not 64 bytes long"))?;
        if verify_signature(bytes, &attest_message(context), signature) { Ok(()) } else { Err(Error::ProofRefused) }
    }

    #[cfg(feature = "prove")]
    fn prove(_: &Parameters, context: &ClaimContext, _: &Instance, witness: &super::Witness) -> Result<Vec<u8>, Error> {
        use ed25519_dalek::Signer;
        let seed = witness.secret().try_into().map_err(|_| Error::WitnessRefused("a seed has 32 bytes"))?;
        Ok(ed25519_dalek::SigningKey::from_bytes(seed).sign(&attest_message(context)).to_bytes().to_vec())
    }
}
