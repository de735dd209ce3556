//! A holder's share under Feldman commitments: Schnorr's proof of knowledge of the logarithm of S = Σ x^k·C_k.
//!
//! Proof (R, z), 64 bytes: R = ρ·G, c = challenge(kind, context, sharing, x, R), z = ρ + c·s. Verified by
//! z·G = R + c·S (Schnorr 1991; strong Fiat-Shamir as in Bernhard, Pereira, Warinschi 2012).

use curve25519_dalek::Scalar;

use super::{Instance, Opened, Scheme, ShareCorrectness, batch};
use crate::{
    Digest, Error, Kind, Parameters, ProofSystem,
    context::HashedContext,
    key_knowledge::schnorr::{Ristretto255, SchnorrGroup},
    transcript::SchnorrTranscript,
};

/// Bytes of a proof.
pub const PROOF_LEN: usize = 64;

/// The proof system.
pub struct Feldman;

fn transcript(context: &Digest, instance: &Instance) -> SchnorrTranscript {
    SchnorrTranscript::of_share(Feldman::KIND.name(), context, &instance.sharing_digest(), instance.index())
}

impl ProofSystem for Feldman {
    type Statement = ShareCorrectness;
    type Opened = Opened;
    const KIND: Kind = Kind::ShareCorrectnessFeldman;

    fn open(_: &Parameters, context: &HashedContext<'_>, instance: &Instance, proof: &[u8]) -> Result<Opened, Error> {
        if instance.commitments().scheme() != Scheme::Feldman {
            return Err(Error::WrongInstance("the commitments are not Feldman's"));
        }
        let malformed = |why| Error::malformed("Feldman share proof", why);
        if proof.len() != PROOF_LEN {
            return Err(malformed("it has the wrong length"));
        }
        let (commitment, response) = proof.split_at(32);
        let r = Ristretto255::point_from_bytes(commitment).ok_or(malformed("its commitment is not a usable point"))?;
        let z = Ristretto255::scalar_from_bytes(response).ok_or(malformed("its response is not a canonical scalar"))?;
        let c = Ristretto255::scalar_from_uniform(&transcript(context.digest(), instance).challenge(commitment));
        let (instance, blinding) = (instance.clone(), Scalar::ZERO);
        Ok(Opened { instance, commitment: r, challenge: c, response: z, blinding })
    }

    fn check(_: &Parameters, proofs: &[&Opened]) -> Result<(), Error> {
        batch::check(proofs)
    }

    #[cfg(feature = "prove")]
    fn prove(
        _: &Parameters,
        context: &crate::ClaimContext,
        instance: &Instance,
        witness: &super::Witness,
    ) -> Result<Vec<u8>, Error> {
        use crate::Statement as _;
        ShareCorrectness::holds(&context.trust_domain, instance, witness)?;
        Ok(respond(context, instance, &witness.share))
    }
}

/// Runs the prover's side for whatever `share` is: a proof verifies if and only if the share is the instance's.
#[cfg(feature = "prove")]
pub(super) fn respond(context: &crate::ClaimContext, instance: &Instance, share: &Scalar) -> Vec<u8> {
    use zeroize::Zeroizing;
    let transcript = transcript(&context.digest(), instance);
    let nonce = transcript.hedged_nonce(share.as_bytes(), &mut rand::rngs::OsRng);
    let rho = Zeroizing::new(Ristretto255::scalar_from_uniform(&nonce));
    let commitment = Ristretto255::base_times(&rho);
    let c = Ristretto255::scalar_from_uniform(&transcript.challenge(&commitment));
    let z = Ristretto255::respond(&rho, &c, share);
    [commitment.as_slice(), z.as_bytes()].concat()
}
