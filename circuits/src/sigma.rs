//! Sigma protocols beside the statements: one secret x behind one or several points, image_i = x·base_i.
//!
//! With one base it is Schnorr's proof that a logarithm is known (1991), with two Chaum and Pedersen's that two
//! logarithms are equal (CRYPTO 1992). Proof (R_1 … R_N, z): R_i = ρ·base_i, c = challenge(label, group, binding, bases,
//! images, R), z = ρ + c·x. Verified by z·base_i = R_i + c·image_i for every i. Special-sound, perfectly zero-knowledge
//! for an honest verifier, non-interactive in the random-oracle model; whole statement and binding are absorbed
//! before R (Bernhard, Pereira, Warinschi 2012). These proofs are bound to a digest of the caller's, not to a claim context.

use curve25519_dalek::{
    RistrettoPoint, Scalar,
    constants::RISTRETTO_BASEPOINT_POINT,
    traits::{IsIdentity, VartimeMultiscalarMul},
};
use p256::elliptic_curve::{Group, ops::LinearCombination, sec1::ToEncodedPoint};

use crate::{
    Digest, Error,
    combination::{multiply, weights},
    key_knowledge::schnorr::{P256, Ristretto255, SchnorrGroup},
    transcript::SchnorrTranscript,
};

/// What these protocols need of a group beyond Schnorr's.
pub trait SigmaGroup: SchnorrGroup {
    /// G.
    fn generator() -> Self::Point;
    /// The canonical encoding of a point that is not the identity; none for the identity.
    fn encode(point: &Self::Point) -> Option<Vec<u8>>;
    /// k·P, in constant time.
    fn times(point: &Self::Point, k: &Self::Scalar) -> Self::Point;
    /// Whether z·base = r + c·image. For public values only.
    fn relates(z: &Self::Scalar, base: &Self::Point, r: &Self::Point, c: &Self::Scalar, image: &Self::Point) -> bool;
}

impl SigmaGroup for Ristretto255 {
    fn generator() -> RistrettoPoint {
        RISTRETTO_BASEPOINT_POINT
    }
    fn encode(point: &RistrettoPoint) -> Option<Vec<u8>> {
        (!point.is_identity()).then(|| point.compress().to_bytes().to_vec())
    }
    fn times(point: &RistrettoPoint, k: &Scalar) -> RistrettoPoint {
        point * k
    }
    fn relates(z: &Scalar, base: &RistrettoPoint, r: &RistrettoPoint, c: &Scalar, image: &RistrettoPoint) -> bool {
        RistrettoPoint::vartime_multiscalar_mul([*z, -c], [base, image]) == *r
    }
}

impl SigmaGroup for P256 {
    fn generator() -> p256::ProjectivePoint {
        p256::ProjectivePoint::GENERATOR
    }
    fn encode(point: &p256::ProjectivePoint) -> Option<Vec<u8>> {
        let identity: bool = point.is_identity().into();
        (!identity).then(|| point.to_affine().to_encoded_point(true).as_bytes().to_vec())
    }
    fn times(point: &p256::ProjectivePoint, k: &p256::Scalar) -> p256::ProjectivePoint {
        point * k
    }
    fn relates(
        z: &p256::Scalar,
        base: &p256::ProjectivePoint,
        r: &p256::ProjectivePoint,
        c: &p256::Scalar,
        image: &p256::ProjectivePoint,
    ) -> bool {
        p256::ProjectivePoint::lincomb(base, z, image, &-c) == *r
    }
}

/// One scalar relates each base to its image.
pub struct Claim<G: SigmaGroup, const N: usize> {
    bases: [G::Point; N],
    images: [G::Point; N],
    transcript: SchnorrTranscript,
}

/// A proof that was read.
struct Opened<G: SigmaGroup, const N: usize> {
    commitments: [G::Point; N],
    challenge: G::Scalar,
    response: G::Scalar,
}

impl<G: SigmaGroup, const N: usize> Claim<G, N> {
    /// Bytes of a proof.
    pub const PROOF_LEN: usize = N * G::POINT_LEN + 32;

    /// The claim that image_i = x·base_i for one x, under a label of [`crate::transcript::label`] and bound to `binding`.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] where a base or an image is the identity.
    pub fn new(label: &'static str, binding: &Digest, pairs: [(G::Point, G::Point); N]) -> Result<Self, Error> {
        let mut encoded = Vec::with_capacity(2 * N);
        for (base, image) in &pairs {
            for point in [base, image] {
                encoded.push(G::encode(point).ok_or(Error::WrongInstance("a point of the claim is the identity"))?);
            }
        }
        let transcript = SchnorrTranscript::of_logarithm(label, G::NAME, binding, &encoded);
        Ok(Self { bases: pairs.map(|(base, _)| base), images: pairs.map(|(_, image)| image), transcript })
    }

    /// Reads a proof and derives its challenge.
    fn open(&self, proof: &[u8]) -> Result<Opened<G, N>, Error> {
        let malformed = |why| Error::malformed("proof of a logarithm", why);
        if proof.len() != Self::PROOF_LEN {
            return Err(malformed("it has the wrong length"));
        }
        let (encoded, response) = proof.split_at(N * G::POINT_LEN);
        let mut commitments = self.bases;
        for (to, bytes) in commitments.iter_mut().zip(encoded.chunks_exact(G::POINT_LEN)) {
            *to = G::point_from_bytes(bytes).ok_or(malformed("a commitment is not a usable point"))?;
        }
        let response = G::scalar_from_bytes(response).ok_or(malformed("its response is not a canonical scalar"))?;
        let challenge = G::scalar_from_uniform(&self.transcript.clone().challenge(encoded));
        Ok(Opened { commitments, challenge, response })
    }

    /// Checks a proof.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::ProofRefused`]
    pub fn verify(&self, proof: &[u8]) -> Result<(), Error> {
        let Opened { commitments, challenge: c, response: z } = self.open(proof)?;
        let mut equations = self.bases.iter().zip(&commitments).zip(&self.images);
        if equations.all(|((base, r), image)| G::relates(&z, base, r, &c, image)) {
            Ok(())
        } else {
            Err(Error::ProofRefused)
        }
    }

    /// Proves the claim from x. A proof verifies if and only if x relates every pair.
    #[cfg(feature = "prove")]
    pub fn prove(&self, secret: &G::Scalar) -> Vec<u8> {
        use zeroize::Zeroizing;
        let encoded = Zeroizing::new(G::scalar_to_bytes(secret));
        let nonce = self.transcript.hedged_nonce(&*encoded, &mut rand::rngs::OsRng);
        let rho = Zeroizing::new(G::scalar_from_uniform(&nonce));
        // The base of a claim is not the identity, so its multiple by a nonce is not either, but for 2^-250.
        let mut proof: Vec<u8> =
            self.bases.iter().flat_map(|base| G::encode(&G::times(base, &rho)).unwrap_or_default()).collect();
        let c = G::scalar_from_uniform(&self.transcript.clone().challenge(&proof));
        proof.extend_from_slice(&G::scalar_to_bytes(&G::respond(&rho, &c, secret)));
        proof
    }
}

/// Checks many proofs on ristretto255 by one multiplication: each equation weighted by 128 random bits, so that a set with
/// a bad proof passes with a probability of 2^-128. Does not say which proof is bad.
///
/// # Errors
/// [`Error::Malformed`], also for an empty set; [`Error::ProofRefused`].
pub fn verify_batch<const N: usize>(proofs: &[(Claim<Ristretto255, N>, &[u8])]) -> Result<(), Error> {
    let Some((first, _)) = proofs.first() else { return Err(Error::malformed("batch of proofs", "it is empty")) };
    let (mut scalars, mut points) = (Vec::new(), Vec::new());
    // A base that the claims have in common, such as the generator, is one term.
    let mut common = [Scalar::ZERO; N];
    for ((claim, proof), weights) in proofs.iter().zip(weights(N * proofs.len()).chunks_exact(N)) {
        let Opened { commitments, challenge: c, response: z } = claim.open(proof)?;
        let terms = claim.bases.iter().zip(&commitments).zip(&claim.images).zip(weights);
        for ((((base, r), image), weight), (shared, sum)) in terms.zip(first.bases.iter().zip(&mut common)) {
            let weight = Scalar::from(*weight);
            scalars.extend([weight, weight * c]);
            points.extend([*r, *image]);
            if base == shared {
                *sum -= weight * z;
            } else {
                scalars.push(-weight * z);
                points.push(*base);
            }
        }
    }
    scalars.extend(common);
    points.extend(first.bases);
    if multiply(&scalars, &points).is_identity() { Ok(()) } else { Err(Error::ProofRefused) }
}

#[cfg(all(test, feature = "prove"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::transcript::label;

    const BINDING: Digest = Digest([3; 32]);

    fn ristretto(secret: u64, other: u64) -> Pairs<RistrettoPoint> {
        let (g, h) = (RISTRETTO_BASEPOINT_POINT, RISTRETTO_BASEPOINT_POINT * Scalar::from(77u8));
        [(g, g * Scalar::from(secret)), (h, h * Scalar::from(other))]
    }

    fn p256(secret: u64, other: u64) -> Pairs<p256::ProjectivePoint> {
        let (g, h) = (P256::generator(), P256::generator() * p256::Scalar::from(77u64));
        [(g, g * p256::Scalar::from(secret)), (h, h * p256::Scalar::from(other))]
    }

    type Pairs<P> = [(P, P); 2];

    fn refuses<G: SigmaGroup>(
        pairs: fn(u64, u64) -> Pairs<G::Point>,
        scalar: fn(u64) -> G::Scalar,
        label: &'static str,
    ) {
        let claim = |binding, pairs| Claim::<G, 2>::new(label, binding, pairs).unwrap();
        let honest = claim(&BINDING, pairs(5, 5));
        let proof = honest.prove(&scalar(5));
        assert_eq!(proof.len(), Claim::<G, 2>::PROOF_LEN);
        honest.verify(&proof).unwrap();
        assert_ne!(proof, honest.prove(&scalar(5)), "nonces are hedged");
        for at in 0..proof.len() {
            let mut changed = proof.clone();
            changed[at] ^= 1;
            assert!(honest.verify(&changed).is_err(), "byte {at}");
        }
        assert!(honest.verify(&proof[1..]).is_err());
        assert!(honest.verify(&[&proof[..], &[0]].concat()).is_err());
        // Another binding, another label, another statement, unequal logarithms.
        assert!(claim(&Digest([4; 32]), pairs(5, 5)).verify(&proof).is_err());
        assert!(Claim::<G, 2>::new(label::SCHNORR, &BINDING, pairs(5, 5)).unwrap().verify(&proof).is_err());
        assert!(claim(&BINDING, pairs(6, 6)).verify(&proof).is_err());
        for secret in [5, 6] {
            let unequal = claim(&BINDING, pairs(5, 6));
            assert_eq!(unequal.verify(&unequal.prove(&scalar(secret))), Err(Error::ProofRefused));
        }
        let [first, (base, image)] = pairs(5, 5);
        let swapped = claim(&BINDING, [(base, image), first]);
        assert!(swapped.verify(&proof).is_err());
        let [_, (_, zero)] = pairs(5, 0);
        assert!(Claim::<G, 2>::new(label, &BINDING, [first, (base, zero)]).is_err(), "identity");
        let one = Claim::<G, 1>::new(label, &BINDING, [first]).unwrap();
        one.verify(&one.prove(&scalar(5))).unwrap();
        assert_eq!(one.verify(&one.prove(&scalar(6))), Err(Error::ProofRefused));
    }

    #[test]
    fn equality_of_logarithms() {
        refuses::<Ristretto255>(ristretto, Scalar::from, label::PUBLIC_SHARE);
        refuses::<P256>(p256, p256::Scalar::from, label::COMPLAINT_POINT);
    }

    #[test]
    fn a_batch_accepts_what_single_checks_accept() {
        let claim = |secret, other| {
            Claim::<Ristretto255, 2>::new(label::PUBLIC_SHARE, &BINDING, ristretto(secret, other)).unwrap()
        };
        let proofs: Vec<Vec<u8>> = (1..20).map(|secret| claim(secret, secret).prove(&Scalar::from(secret))).collect();
        let set = || (1..20).map(|secret| claim(secret, secret)).zip(proofs.iter().map(Vec::as_slice));
        verify_batch(&set().collect::<Vec<_>>()).unwrap();
        assert!(verify_batch::<2>(&[]).is_err());
        let mut one_bad = set().collect::<Vec<_>>();
        one_bad[7].0 = claim(8, 9);
        assert_eq!(verify_batch(&one_bad), Err(Error::ProofRefused));
        let mut crossed = set().collect::<Vec<_>>();
        (crossed[3].1, crossed[4].1) = (&proofs[4], &proofs[3]);
        assert_eq!(verify_batch(&crossed), Err(Error::ProofRefused));
    }

    #[test]
    fn a_batch_over_bases_of_each_claim_sees_errors_that_cancel() {
        let under = |secret: u64| {
            let (g, h) = (RISTRETTO_BASEPOINT_POINT, RISTRETTO_BASEPOINT_POINT * Scalar::from(70 + secret));
            let pairs = [(g, g * Scalar::from(secret)), (h, h * Scalar::from(secret))];
            Claim::<Ristretto255, 2>::new(label::PUBLIC_SHARE, &BINDING, pairs).unwrap()
        };
        let mut proofs: Vec<Vec<u8>> = (1..5).map(|secret| under(secret).prove(&Scalar::from(secret))).collect();
        let check = |proofs: &[Vec<u8>]| {
            verify_batch(&(1..5).map(under).zip(proofs.iter().map(Vec::as_slice)).collect::<Vec<_>>())
        };
        check(&proofs).unwrap();
        for (proof, by) in [(0, Scalar::ONE), (2, -Scalar::ONE)] {
            let response = Scalar::from_canonical_bytes(proofs[proof][64..].try_into().unwrap()).unwrap();
            proofs[proof][64..].copy_from_slice((response + by).as_bytes());
        }
        assert_eq!(check(&proofs), Err(Error::ProofRefused));
    }
}
