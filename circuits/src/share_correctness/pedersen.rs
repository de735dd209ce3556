//! A holder's share under Pedersen commitments: Okamoto's proof of knowledge of a representation of S = Σ x^k·C_k in
//! the bases G and H.
//!
//! Proof (R, z_s, z_r), 96 bytes: R = ρ·G + σ·H, c = challenge(kind, context, sharing, x, R), z_s = ρ + c·s,
//! z_r = σ + c·r. Verified by z_s·G + z_r·H = R + c·S (Okamoto, CRYPTO 1992).

use super::{Instance, Opened, Scheme, ShareCorrectness, batch};
use crate::{
    Digest, Error, Kind, Parameters, ProofSystem,
    context::HashedContext,
    key_knowledge::schnorr::{Ristretto255, SchnorrGroup},
    transcript::SchnorrTranscript,
};

/// Bytes of a proof.
pub const PROOF_LEN: usize = 96;

/// The proof system.
pub struct Pedersen;

fn transcript(context: &Digest, instance: &Instance) -> SchnorrTranscript {
    SchnorrTranscript::of_share(Pedersen::KIND.name(), context, &instance.sharing_digest(), instance.index())
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
        let (response, blinding) = (scalar(z_s)?, scalar(z_r)?);
        let challenge =
            Ristretto255::scalar_from_uniform(&transcript(context.digest(), instance).challenge(commitment));
        Ok(Opened { instance: instance.clone(), commitment: r, challenge, response, blinding })
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
        let blinding = witness.blinding.as_ref().ok_or(Error::WitnessRefused("the share has no blinding"))?;
        Ok(respond(context, instance, &witness.share, blinding))
    }
}

/// Runs the prover's side for whatever the scalars are: a proof verifies if and only if they open the instance's point.
#[cfg(feature = "prove")]
pub(super) fn respond(
    context: &crate::ClaimContext,
    instance: &Instance,
    share: &curve25519_dalek::Scalar,
    blinding: &curve25519_dalek::Scalar,
) -> Vec<u8> {
    use curve25519_dalek::RistrettoPoint;
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
    let commitment = (RistrettoPoint::mul_base(&rho) + super::blinding_generator() * *sigma).compress().to_bytes();
    let c = Ristretto255::scalar_from_uniform(&transcript.challenge(&commitment));
    let (z_s, z_r) = (Ristretto255::respond(&rho, &c, share), Ristretto255::respond(&sigma, &c, blinding));
    [commitment, z_s.to_bytes(), z_r.to_bytes()].concat()
}
