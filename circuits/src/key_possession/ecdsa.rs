//! ECDSA over the claim (FIPS 186-5, section 6.4; SEC 1, section 4.1), as a token signs it: SHA-256 is taken outside, and
//! the token is given the hash.
//!
//! Of the two signatures (r, s) and (r, n - s) the one with the lower s alone is a proof.

use std::marker::PhantomData;

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::{Instance, KeyPossession};
use crate::{
    ClaimContext, Digest, Error, KeyAlgorithm, Kind, Parameters, ProofSystem, context::HashedContext,
    key_knowledge::PublicPoint, transcript::label,
};

/// Bytes of a proof: r and s, big-endian.
pub const PROOF_LEN: usize = 64;

/// What a key signs to attest itself: SHA-256 of the label, a zero byte and the context digest.
pub fn attest_hash(context: &ClaimContext) -> [u8; 32] {
    hash(&context.digest())
}

fn hash(context: &Digest) -> [u8; 32] {
    let message = Sha256::new().chain_update(label::POSSESSION.as_bytes()).chain_update([0]);
    message.chain_update(context.0).finalize().into()
}

/// A curve with ECDSA.
pub trait EcdsaCurve {
    /// The kind that proves possession of this curve's keys.
    const KIND: Kind;
    /// A signature that was read.
    type Signature: Send + Sync;
    /// A public key.
    type Key: Send + Sync;

    /// Reads (r, s): both from 1 to n - 1, of any of the two signatures with one r.
    fn read(bytes: &[u8]) -> Option<Self::Signature>;
    /// The signature with the lower s; none where it is that one.
    fn lowered(signature: &Self::Signature) -> Option<Self::Signature>;
    /// r and s, big-endian.
    fn encoded(signature: &Self::Signature) -> [u8; PROOF_LEN];
    /// The key of a point on this curve.
    fn key(point: &PublicPoint) -> Option<Self::Key>;
    /// Whether the signature is the key's over `hash`.
    fn holds(key: &Self::Key, hash: &[u8; 32], signature: &Self::Signature) -> bool;
    /// Signs `hash` with the nonce of RFC 6979.
    #[cfg(feature = "prove")]
    fn sign(secret: &[u8], hash: &[u8; 32]) -> Option<Self::Signature>;
}

macro_rules! curve {
    ($(#[$doc:meta])* $curve:ident, $krate:ident, $accessor:ident, $kind:ident) => {
        $(#[$doc])*
        pub struct $curve;

        impl EcdsaCurve for $curve {
            const KIND: Kind = Kind::$kind;
            type Signature = $krate::ecdsa::Signature;
            type Key = $krate::ecdsa::VerifyingKey;

            fn read(bytes: &[u8]) -> Option<Self::Signature> {
                Self::Signature::from_slice(bytes).ok()
            }
            fn lowered(signature: &Self::Signature) -> Option<Self::Signature> {
                signature.normalize_s()
            }
            fn encoded(signature: &Self::Signature) -> [u8; PROOF_LEN] {
                signature.to_bytes().into()
            }
            fn key(point: &PublicPoint) -> Option<Self::Key> {
                Self::Key::from_affine(point.$accessor()?.to_affine()).ok()
            }
            fn holds(key: &Self::Key, hash: &[u8; 32], signature: &Self::Signature) -> bool {
                key.verify_prehash(hash, signature).is_ok()
            }
            #[cfg(feature = "prove")]
            fn sign(secret: &[u8], hash: &[u8; 32]) -> Option<Self::Signature> {
                use p256::ecdsa::signature::hazmat::PrehashSigner;
                $krate::ecdsa::SigningKey::from_slice(secret).ok()?.sign_prehash(hash).ok()
            }
        }
    };
}

curve!(
    /// NIST P-256 (SP 800-186).
    P256,
    p256,
    p256,
    KeyPossessionP256
);
curve!(
    /// secp256k1 (SEC 2).
    Secp256k1,
    k256,
    secp256k1,
    KeyPossessionSecp256k1
);

/// The signature with the lower s of a signature as a token makes it: r and s, 32 bytes each.
///
/// # Errors
/// [`Error::Malformed`] where that is none of this algorithm.
pub fn normalised(algorithm: KeyAlgorithm, signature: &[u8]) -> Result<[u8; PROOF_LEN], Error> {
    fn of<C: EcdsaCurve>(signature: &[u8]) -> Option<[u8; PROOF_LEN]> {
        let signature = C::read(signature)?;
        Some(C::encoded(&C::lowered(&signature).unwrap_or(signature)))
    }
    let lowered = match algorithm {
        KeyAlgorithm::P256 => of::<P256>(signature),
        KeyAlgorithm::Secp256k1 => of::<Secp256k1>(signature),
        _ => None,
    };
    lowered.ok_or(Error::malformed("ECDSA signature", "r or s is not from 1 to n - 1"))
}

/// A proof that was read, with its key and the hash that was signed.
pub struct Opened<C: EcdsaCurve> {
    key: C::Key,
    hash: [u8; 32],
    signature: C::Signature,
}

/// The proof system, for keys on `C`.
pub struct Ecdsa<C>(PhantomData<C>);

impl<C: EcdsaCurve> ProofSystem for Ecdsa<C> {
    type Statement = KeyPossession;
    type Opened = Opened<C>;
    const KIND: Kind = C::KIND;

    fn open(
        _: &Parameters,
        context: &HashedContext<'_>,
        instance: &Instance,
        proof: &[u8],
    ) -> Result<Opened<C>, Error> {
        const NO_KEY: Error = Error::WrongInstance("an ECDSA proof needs a public key of its curve");
        let malformed = |why| Error::malformed("ECDSA proof", why);
        if proof.len() != PROOF_LEN {
            return Err(malformed("it is not 64 bytes long"));
        }
        let signature = C::read(proof).ok_or(malformed("r or s is not from 1 to n - 1"))?;
        if C::lowered(&signature).is_some() {
            return Err(malformed("its s is the higher one of two"));
        }
        let key = instance.point().and_then(C::key).ok_or(NO_KEY)?;
        Ok(Opened { key, hash: hash(context.digest()), signature })
    }

    /// Each exactly, on all threads: there is no combination of signatures whose points have only an x.
    fn check(_: &Parameters, proofs: &[&Opened<C>]) -> Result<(), Error> {
        let holds = |Opened { key, hash, signature }: &Opened<C>| C::holds(key, hash, signature);
        let all = match proofs {
            [] => false,
            [alone] => holds(alone),
            _ => proofs.par_iter().all(|opened| holds(opened)),
        };
        if all { Ok(()) } else { Err(Error::ProofRefused) }
    }

    #[cfg(feature = "prove")]
    fn prove(_: &Parameters, context: &ClaimContext, _: &Instance, witness: &super::Witness) -> Result<Vec<u8>, Error> {
        let signature = C::sign(witness.secret(), &attest_hash(context));
        let signature = signature.ok_or(Error::WitnessRefused("the scalar is out of range"))?;
        Ok(C::encoded(&C::lowered(&signature).unwrap_or(signature)).to_vec())
    }
}
