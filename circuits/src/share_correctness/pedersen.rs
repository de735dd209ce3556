//! A holder's share under Pedersen commitments: Okamoto's proof of knowledge of a representation of S = Σ x^k·C_k in
//! the bases G and H.
//!
//! Proof (R, z_s, z_r), 96 bytes: R = ρ·G + σ·H, c = challenge(kind, context, instance, x, S, R), z_s = ρ + c·s,
//! z_r = σ + c·r. Verified by z_s·G + z_r·H = R + c·S (Okamoto, CRYPTO 1992).

use curve25519_dalek::{RistrettoPoint, Scalar, constants::RISTRETTO_BASEPOINT_POINT, traits::VartimeMultiscalarMul};

use super::{Instance, Scheme, ShareCorrectness, blinding_generator};
use crate::{
    Digest, Error, Kind, Parameters, ProofSystem,
    context::HashedContext,
    key_knowledge::schnorr::{Ristretto255, SchnorrGroup},
    transcript::SchnorrTranscript,
};

/// Bytes of a proof.
pub const PROOF_LEN: usize = 96;

/// A proof (R, z_s, z_r) that was read, with its challenge c and S.
pub struct Opened {
    r: RistrettoPoint,
    z_s: Scalar,
    z_r: Scalar,
    c: Scalar,
    share: RistrettoPoint,
}

impl Opened {
    fn holds(&self) -> bool {
        let bases = [RISTRETTO_BASEPOINT_POINT, *blinding_generator(), self.share];
        RistrettoPoint::vartime_multiscalar_mul([self.z_s, self.z_r, -self.c], bases) == self.r
    }
}

/// The proof system.
pub struct Pedersen;

fn transcript(context: &Digest, instance: &Instance) -> SchnorrTranscript {
    let (index, point) = (instance.index(), instance.public_share());
    SchnorrTranscript::of_share(Pedersen::KIND.name(), context, &instance.digest(), index, point)
}

impl ProofSystem for Pedersen {
    type Statement = ShareCorrectness;
    type Opened = Opened;
    const KIND: Kind = Kind::ShareCorrectnessPedersen;

    fn open(_: &Parameters, context: &HashedContext<'_>, instance: &Instance, proof: &[u8]) -> Result<Opened, Error> {
        if instance.commitments().scheme() != Scheme::Pedersen {
            return Err(Error::WrongInstance("the commitments are not Pedersen's"));
        }
        let malformed = |why| Error::malformed("Pedersen share proof", why);
        if proof.len() != PROOF_LEN {
            return Err(malformed("it has the wrong length"));
        }
        let (commitment, responses) = proof.split_at(32);
        let r = Ristretto255::point_from_bytes(commitment).ok_or(malformed("its commitment is not a usable point"))?;
        let (z_s, z_r) = responses.split_at(32);
        let scalar =
            |bytes| Ristretto255::scalar_from_bytes(bytes).ok_or(malformed("a response is not a canonical scalar"));
        let (z_s, z_r) = (scalar(z_s)?, scalar(z_r)?);
        let c = Ristretto255::scalar_from_uniform(&transcript(context.digest(), instance).challenge(commitment));
        Ok(Opened { r, z_s, z_r, c, share: *instance.point })
    }

    fn check(_: &Parameters, proofs: &[&Opened]) -> Result<(), Error> {
        if !proofs.is_empty() && proofs.iter().all(|opened| opened.holds()) { Ok(()) } else { Err(Error::ProofRefused) }
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
        let blinding = witness.blinding.as_ref().ok_or(Error::WitnessRefused("the share has no blinding"))?;
        Ok(respond(context, instance, &witness.share, blinding))
    }
}

/// Runs the prover's side for whatever the scalars are: a proof verifies if and only if they open the instance's point.
#[cfg(feature = "prove")]
pub(super) fn respond(
    context: &crate::ClaimContext,
    instance: &Instance,
    share: &Scalar,
    blinding: &Scalar,
) -> Vec<u8> {
    use zeroize::Zeroizing;
    let transcript = transcript(&context.digest(), instance);
    let mut secret = Zeroizing::new([0; 64]);
    secret.iter_mut().zip(share.as_bytes().iter().chain(blinding.as_bytes())).for_each(|(to, from)| *to = *from);
    let nonces = transcript.hedged_nonce::<128>(&*secret, &mut rand::rngs::OsRng);
    let (first, second) = nonces.split_at(64);
    let nonce = |half: &[u8]| {
        let mut wide = Zeroizing::new([0; 64]);
        wide.copy_from_slice(half);
        Zeroizing::new(Ristretto255::scalar_from_uniform(&wide))
    };
    let (rho, sigma) = (nonce(first), nonce(second));
    let commitment = (RistrettoPoint::mul_base(&rho) + blinding_generator() * *sigma).compress().to_bytes();
    let c = Ristretto255::scalar_from_uniform(&transcript.challenge(&commitment));
    let (z_s, z_r) = (Ristretto255::respond(&rho, &c, share), Ristretto255::respond(&sigma, &c, blinding));
    [commitment, z_s.to_bytes(), z_r.to_bytes()].concat()
}
