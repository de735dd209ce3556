//! Public dealings of group secrets: SCRAPE (Cascudo, David, ACNS 2017, eprint 2017/216).
//!
//! The dealer draws a polynomial p of degree below t and publishes, for each holder with index x and key pk = sk·H, the
//! commitment v = p(x)·G and the encrypted share p(x)·pk, with a proof that both have one logarithm (Chaum, Pedersen 1992). The
//! group secret is p(0)·H. Everyone checks everything before any holder has acted:
//!
//! - **degree**: for a random word c of the dual code, Σ c_i·v_i = 0 (section 2.2 there; n multiplications, not n·t). Points
//!   that lie on no polynomial of degree below t pass with a probability of 2^-252, because c is drawn by the checker. A
//!   degree that is lower yet is not excluded: a dealer knows the secret anyhow, and may hand it to fewer;
//! - **shares**: all proofs in one batch, which wrong proofs pass with a probability of 2^-128.
//!
//! A holder decrypts to p(x)·H and proves that it did; any t decrypted shares give p(0)·H by Lagrange. Fewer reveal nothing
//! about it under decisional Diffie-Hellman in the random-oracle model (Theorem 1 there; indistinguishability of secrets).
//! What is reconstructed is a point and not a scalar: it serves encryption keys and beacons, not threshold signing.

use std::collections::BTreeSet;

use curve25519_dalek::{
    RistrettoPoint, Scalar,
    traits::{IsIdentity, VartimeMultiscalarMul},
};
use keywitness_circuits::{
    Digest,
    codec::{Canonical, Reader, Writer},
    combination::multiply,
    key_knowledge::{
        eddsa,
        schnorr::{Ristretto255, SchnorrGroup},
    },
    share_correctness::blinding_generator,
    sigma::{Claim, SigmaGroup, verify_batch},
    transcript::label,
};
use keywitness_verifier::identity::IdentityKey;
use zeroize::Zeroizing;

use crate::{
    Error, Terms,
    polynomial::{dual_word, lagrange_at_zero},
};

/// Bytes of a proof of equal logarithms on ristretto255.
const PROOF: usize = Claim::<Ristretto255, 2>::PROOF_LEN;

/// A ristretto255 point that is not the identity, with its encoding.
#[derive(Clone, Copy)]
pub struct GroupPoint {
    encoded: [u8; 32],
    point: RistrettoPoint,
}

impl PartialEq for GroupPoint {
    fn eq(&self, other: &Self) -> bool {
        // Encodings are canonical.
        self.encoded == other.encoded
    }
}

impl Eq for GroupPoint {}

impl std::fmt::Debug for GroupPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("GroupPoint").field(&self.encoded).finish()
    }
}

impl GroupPoint {
    /// Checks an encoded point.
    ///
    /// # Errors
    /// [`Error::Refused`] for an encoding that is not canonical, and for the identity.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Ok(<Self as Canonical>::from_bytes(bytes)?)
    }

    /// The encoding.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.encoded
    }

    fn encode(point: &RistrettoPoint) -> Result<Self, Error> {
        if point.is_identity() {
            let (what, why) = (Self::WHAT, "it is the identity");
            return Err(Error::Refused(keywitness_circuits::Error::Malformed { what, why }));
        }
        Ok(Self { encoded: point.compress().to_bytes(), point: *point })
    }

    const fn point(&self) -> RistrettoPoint {
        self.point
    }
}

impl Canonical for GroupPoint {
    const WHAT: &'static str = "ristretto255 point";
    fn write(&self, writer: &mut Writer) {
        writer.array(&self.encoded);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, keywitness_circuits::Error> {
        let bytes: [u8; 32] = reader.array()?;
        match Ristretto255::point_from_bytes(&bytes) {
            Some(point) => Ok(Self { encoded: bytes, point }),
            None => Err(reader.error("it is not canonical, or it is the identity")),
        }
    }
}

/// A holder's key pair for public dealings: pk = sk·H. Wiped on drop, never printed.
///
/// A holder proves its key at enrolment as any other; a key that its holder does not know only denies it its share.
pub struct GroupKey {
    secret: Zeroizing<Scalar>,
    public: GroupPoint,
}

impl GroupKey {
    /// Makes a key pair.
    pub fn generate() -> Self {
        loop {
            if let Ok(key) = Self::from_bytes(Scalar::random(&mut rand::rngs::OsRng).as_bytes()) {
                return key;
            }
        }
    }

    /// Reads a private key: a canonical scalar that is not zero.
    ///
    /// # Errors
    /// [`Error::Refused`]
    pub fn from_bytes(secret: &[u8]) -> Result<Self, Error> {
        let range = keywitness_circuits::Error::WitnessRefused("the key is zero or not below the group order");
        let secret = Ristretto255::secret_from_bytes(secret).ok_or(Error::Refused(range))?;
        let public = GroupPoint::encode(&(blinding_generator() * *secret))?;
        Ok(Self { secret, public })
    }

    /// The private key's bytes.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes())
    }

    /// The public key.
    pub const fn public(&self) -> &GroupPoint {
        &self.public
    }

    /// Decrypts the share of `index` and proves it. Check the dealing before.
    ///
    /// # Errors
    /// [`Error::NotAMember`] unless the dealing names this key for that index.
    #[cfg(feature = "prove")]
    pub fn decrypt(&self, dealing: &PublicDealing, index: u16) -> Result<DecryptedShare, Error> {
        let (member, share) = dealing.share(index)?;
        if member.key != self.public {
            return Err(Error::NotAMember);
        }
        let inverse = Zeroizing::new(self.secret.invert());
        let point = GroupPoint::encode(&(share.encrypted.point() * *inverse))?;
        let digest = dealing.digest();
        let proof = decryption(&digest, index, &self.public, &point, &share.encrypted)?.prove(&self.secret);
        let proof = proof.try_into().map_err(|_| Error::NotAMember)?;
        Ok(DecryptedShare { dealing: digest, index, point, proof })
    }
}

impl std::fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GroupKey({:?}, secret)", self.public)
    }
}

/// What the dealer publishes for one holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicShare {
    /// v = p(x)·G.
    pub commitment: GroupPoint,
    /// p(x)·pk.
    pub encrypted: GroupPoint,
    /// Proof that log_G v = log_pk of the encrypted share.
    pub proof: [u8; 96],
}

/// One dealer's public dealing. At most 270 KiB, for 1024 members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicDealing {
    terms: Terms<GroupPoint>,
    shares: Vec<PublicShare>,
    signature: [u8; 64],
}

/// A decrypted share, with the proof of its decryption.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecryptedShare {
    /// [`PublicDealing::digest`].
    pub dealing: Digest,
    /// The holder's index.
    pub index: u16,
    /// p(x)·H.
    pub point: GroupPoint,
    /// Proof that log_H pk = log of the encrypted share to the base of this point.
    pub proof: [u8; 96],
}

/// A group secret, and the decrypted shares that were left out because their proofs do not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Combined {
    /// p(0)·H.
    pub secret: GroupPoint,
    /// The indices of the wrong decryptions.
    pub culprits: Vec<u16>,
}

fn bound(label: &'static str, digest: &Digest, index: u16) -> Digest {
    let mut writer = Writer::default();
    writer.value(digest).u16(index);
    Digest::of(label, &writer.into_bytes())
}

fn encryption(
    terms: &Digest,
    index: u16,
    key: &GroupPoint,
    commitment: &GroupPoint,
    encrypted: &GroupPoint,
) -> Result<Claim<Ristretto255, 2>, Error> {
    let pairs = [(Ristretto255::generator(), commitment.point()), (key.point(), encrypted.point())];
    Ok(Claim::new(label::PUBLIC_SHARE, &bound(label::PUBLIC_SHARE, terms, index), pairs)?)
}

fn decryption(
    dealing: &Digest,
    index: u16,
    key: &GroupPoint,
    decrypted: &GroupPoint,
    encrypted: &GroupPoint,
) -> Result<Claim<Ristretto255, 2>, Error> {
    let pairs = [(*blinding_generator(), key.point()), (decrypted.point(), encrypted.point())];
    Ok(Claim::new(label::DECRYPTED_SHARE, &bound(label::DECRYPTED_SHARE, dealing, index), pairs)?)
}

/// Whether points p_i are p(x_i)·G for a polynomial p of degree below `threshold`: their inner product with a random word of
/// the dual code is zero. Others pass with a probability of 2^-252. One multiplication of n points, and n·(n - t) additions
/// of unreduced products before it; uses the rayon pool it is called in.
///
/// The indices rise from 1 to at most [`crate::MAX_HOLDERS`], as [`Terms::check`] has them, and are as many as the points; with
/// others the answer is no.
pub fn on_one_polynomial(indices: &[u16], threshold: u16, points: &[RistrettoPoint]) -> bool {
    let rising = indices.is_sorted_by(|one, next| one < next);
    let fit = indices.iter().all(|index| (1..=crate::MAX_HOLDERS).contains(index));
    if !rising || !fit {
        return false;
    }
    let word = dual_word(indices, threshold.into());
    indices.len() == points.len() && word.is_none_or(|word| multiply(&word, points).is_identity())
}

impl PublicDealing {
    /// Deals a uniform group secret. `sign` signs with the dealer's identity key. The secret is known to the dealer: a
    /// secret that nobody knows is the sum of several dealers' secrets.
    ///
    /// # Errors
    /// [`Error::Terms`]
    #[cfg(feature = "prove")]
    pub fn deal(terms: Terms<GroupPoint>, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> Result<(Self, GroupPoint), Error> {
        use crate::polynomial::Polynomial;
        terms.check()?;
        let secret = Zeroizing::new(Scalar::random(&mut rand::rngs::OsRng));
        let polynomial = Polynomial::random(&secret, terms.threshold);
        let dealing = Self::deal_polynomial(terms, &polynomial, sign)?;
        Ok((dealing, GroupPoint::encode(&(blinding_generator() * *secret))?))
    }

    /// Deals the values of `polynomial`, whatever its degree.
    #[cfg(feature = "prove")]
    fn deal_polynomial(
        terms: Terms<GroupPoint>,
        polynomial: &crate::polynomial::Polynomial,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Result<Self, Error> {
        let digest = Self::terms_digest(&terms);
        let share = |member: &crate::Member<GroupPoint>| {
            let value = polynomial.at(member.index);
            let commitment = GroupPoint::encode(&RistrettoPoint::mul_base(&value))?;
            let encrypted = GroupPoint::encode(&(member.key.point() * *value))?;
            let proof = encryption(&digest, member.index, &member.key, &commitment, &encrypted)?.prove(&value);
            let proof = proof.try_into().map_err(|_| Error::NotAMember)?;
            Ok(PublicShare { commitment, encrypted, proof })
        };
        let shares = terms.members.iter().map(share).collect::<Result<Vec<_>, Error>>()?;
        let mut dealing = Self { terms, shares, signature: [0; 64] };
        dealing.signature = sign(&dealing.signed_message());
        Ok(dealing)
    }

    fn terms_digest(terms: &Terms<GroupPoint>) -> Digest {
        Digest::of(label::PUBLIC_DEALING_TERMS, &terms.to_bytes())
    }

    /// Who deals what to whom.
    pub const fn terms(&self) -> &Terms<GroupPoint> {
        &self.terms
    }

    /// Digest of everything that the dealer has signed: names this dealing.
    pub fn digest(&self) -> Digest {
        let mut writer = Writer::default();
        writer.value(&Self::terms_digest(&self.terms));
        self.shares.iter().for_each(|share| {
            writer.value(share);
        });
        Digest::of(label::PUBLIC_DEALING, &writer.into_bytes())
    }

    fn signed_message(&self) -> Vec<u8> {
        [label::PUBLIC_DEALING.as_bytes(), &[0], &self.digest().0].concat()
    }

    fn share(&self, index: u16) -> Result<(&crate::Member<GroupPoint>, &PublicShare), Error> {
        let mut pairs = self.terms.members.iter().zip(&self.shares);
        pairs.find(|(member, _)| member.index == index).ok_or(Error::NotAMember)
    }

    /// Checks the whole dealing. Whoever calls compares terms, dealer and members' keys with what was agreed and enrolled.
    ///
    /// # Errors
    /// [`Error::NotAuthentic`], which says nothing about the dealer; [`Error::WrongEncryptedShares`] with the indices, and
    /// [`Error::WrongDegree`], which convict it.
    pub fn check(&self, dealer: &IdentityKey) -> Result<(), Error> {
        if !eddsa::verify_signature(&dealer.to_bytes(), &self.signed_message(), &self.signature) {
            return Err(Error::NotAuthentic(self.terms.dealer.clone()));
        }
        self.check_encryptions()?;
        self.check_degree()
    }

    /// Whether every encrypted share is the committed one: all proofs in one batch.
    ///
    /// # Errors
    /// [`Error::WrongEncryptedShares`] with the indices.
    pub fn check_encryptions(&self) -> Result<(), Error> {
        let digest = Self::terms_digest(&self.terms);
        let claims = self.terms.members.iter().zip(&self.shares).map(|(member, share)| {
            let claim = encryption(&digest, member.index, &member.key, &share.commitment, &share.encrypted)?;
            Ok((claim, share.proof.as_slice()))
        });
        let claims = claims.collect::<Result<Vec<_>, Error>>()?;
        if verify_batch(&claims).is_err() {
            let bad = claims.iter().zip(&self.terms.members).filter(|((claim, proof), _)| claim.verify(proof).is_err());
            return Err(Error::WrongEncryptedShares(bad.map(|(_, member)| member.index).collect()));
        }
        Ok(())
    }

    /// Whether the commitments lie on a polynomial of degree below t.
    ///
    /// # Errors
    /// [`Error::WrongDegree`]
    pub fn check_degree(&self) -> Result<(), Error> {
        let points: Vec<RistrettoPoint> = self.shares.iter().map(|share| share.commitment.point()).collect();
        if on_one_polynomial(&self.terms.indices(), self.terms.threshold, &points) {
            Ok(())
        } else {
            Err(Error::WrongDegree)
        }
    }

    /// Checks one decrypted share.
    ///
    /// # Errors
    /// [`Error::OtherDealing`], [`Error::NotAMember`]; [`Error::Refused`] for a wrong decryption.
    pub fn check_decryption(&self, share: &DecryptedShare) -> Result<(), Error> {
        self.check_under(&self.digest(), share)
    }

    fn check_under(&self, digest: &Digest, share: &DecryptedShare) -> Result<(), Error> {
        if share.dealing != *digest {
            return Err(Error::OtherDealing);
        }
        let (member, dealt) = self.share(share.index)?;
        let claim = decryption(digest, share.index, &member.key, &share.point, &dealt.encrypted)?;
        Ok(claim.verify(&share.proof)?)
    }

    /// Reconstructs the group secret p(0)·H from the decrypted shares whose proofs hold, and names the others.
    ///
    /// # Errors
    /// [`Error::DuplicateIndex`]; [`Error::TooFewShares`], with the culprits.
    pub fn combine(&self, shares: &[DecryptedShare]) -> Result<Combined, Error> {
        let digest = self.digest();
        let (good, bad): (Vec<&DecryptedShare>, Vec<&DecryptedShare>) =
            shares.iter().partition(|share| self.check_under(&digest, share).is_ok());
        let culprits: Vec<u16> = bad.iter().map(|share| share.index).collect();
        let mut seen = BTreeSet::new();
        if let Some(twice) = good.iter().find(|share| !seen.insert(share.index)) {
            return Err(Error::DuplicateIndex(twice.index));
        }
        let need = self.terms.threshold;
        let Some(used) = good.get(..need.into()) else {
            return Err(Error::TooFewShares { have: good.len(), need, culprits });
        };
        let indices: Vec<u16> = used.iter().map(|share| share.index).collect();
        let points: Vec<RistrettoPoint> = used.iter().map(|share| share.point.point()).collect();
        let secret = RistrettoPoint::vartime_multiscalar_mul(lagrange_at_zero(&indices), points);
        Ok(Combined { secret: GroupPoint::encode(&secret)?, culprits })
    }
}

impl Canonical for PublicShare {
    const WHAT: &'static str = "public share";
    fn write(&self, writer: &mut Writer) {
        writer.value(&self.commitment).value(&self.encrypted).array(&self.proof);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, keywitness_circuits::Error> {
        let (commitment, encrypted): (GroupPoint, GroupPoint) = (reader.value()?, reader.value()?);
        let proof: [u8; PROOF] = reader.array()?;
        Ok(Self { commitment, encrypted, proof })
    }
}

impl Canonical for PublicDealing {
    const WHAT: &'static str = "public dealing";
    fn write(&self, writer: &mut Writer) {
        writer.value(&self.terms);
        for share in &self.shares {
            writer.value(share);
        }
        writer.array(&self.signature);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, keywitness_circuits::Error> {
        let terms: Terms<GroupPoint> = reader.value()?;
        let shares = terms.members.iter().map(|_| reader.value()).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { terms, shares, signature: reader.array()? })
    }
}

impl Canonical for DecryptedShare {
    const WHAT: &'static str = "decrypted share";
    fn write(&self, writer: &mut Writer) {
        writer.value(&self.dealing).u16(self.index).value(&self.point).array(&self.proof);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, keywitness_circuits::Error> {
        Ok(Self { dealing: reader.value()?, index: reader.u16()?, point: reader.value()?, proof: reader.array()? })
    }
}

#[cfg(all(test, feature = "prove"))]
#[path = "public_tests.rs"]
mod tests;
