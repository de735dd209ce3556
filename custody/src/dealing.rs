//! A dealing: commitments to a polynomial, and each holder's share sealed to it.
//!
//! Feldman (FOCS 1987) or Pedersen (CRYPTO 1991). The degree is below the threshold by form, because there are as many
//! commitments as the threshold says. What anyone can check of a dealing is checked by [`Dealing::check`]; what only a
//! holder can see is shown to everyone by a [`crate::Complaint`].
//!
//! **Why the dealer proves that it knows each ephemeral key.** A holder that complains publishes the Diffie-Hellman point of
//! its key with the sealed share's ephemeral key. A dealer that copied an ephemeral key out of *another* dealer's message would
//! so be given the point that opens that message. The proof, bound to the terms, the commitments and the index, shows that the
//! dealer could have computed the point itself: publishing it tells nobody anything but the share that is complained about.

use std::sync::Arc;

use curve25519_dalek::traits::IsIdentity;
use keywitness_circuits::{
    Digest, HsmId,
    codec::{Canonical, Reader, Writer},
    key_knowledge::{eddsa, schnorr::P256},
    share_correctness::{Commitments, Instance, Scheme},
    sigma::{Claim, SigmaGroup},
    transcript::label,
};
use keywitness_verifier::identity::IdentityKey;

use crate::{
    Error, HolderKey, Member, Opening, Share, Terms,
    seal::{TAG, point},
    sharing::verify_share,
};

/// Bytes of the proof that the dealer knows an ephemeral key.
const POSSESSION: usize = Claim::<P256, 1>::PROOF_LEN;

/// One share, sealed to its holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedShare {
    /// The dealer's ephemeral key, compressed.
    pub enc: [u8; 33],
    /// Proof that the dealer knows it.
    pub possession: [u8; 65],
    /// 48 bytes (Feldman) or 80 (Pedersen).
    pub ciphertext: Vec<u8>,
}

/// One dealer's message for one sharing. At most 340 KiB, for 1024 members and a threshold of 1024.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dealing {
    terms: Terms,
    commitments: Arc<Commitments>,
    sealed: Vec<SealedShare>,
    signature: [u8; 64],
}

/// Bytes of a share's ciphertext.
const fn ciphertext_len(scheme: Scheme) -> usize {
    match scheme {
        Scheme::Feldman => 32 + TAG,
        Scheme::Pedersen => 64 + TAG,
    }
}

/// Digest of terms and commitments: what sealed shares are bound to.
fn header_digest(terms: &Terms, commitments: &Commitments) -> Digest {
    let mut writer = Writer::default();
    writer.value(terms).value(commitments);
    Digest::of(label::DEALING_TERMS, &writer.into_bytes())
}

/// HPKE's info and associated data of one share.
fn binding(terms: &Terms, header: &Digest, member: &Member) -> (Vec<u8>, Vec<u8>) {
    let (mut info, mut aad) = (Writer::default(), Writer::default());
    info.bytes(label::SEALED_SHARE.as_bytes()).value(header).value(&terms.sharing).value(&terms.dealer);
    aad.u16(member.index).value(&member.holder);
    (info.into_bytes(), aad.into_bytes())
}

/// The claim that the dealer knows the logarithm of `enc`.
fn possession(header: &Digest, index: u16, enc: &[u8; 33]) -> Result<Claim<P256, 1>, Error> {
    let mut writer = Writer::default();
    writer.value(header).u16(index);
    let bound = Digest::of(label::SEALED_SHARE, &writer.into_bytes());
    Ok(Claim::new(label::SEALED_SHARE, &bound, [(P256::generator(), point(enc)?)])?)
}

impl Dealing {
    /// Deals `secret` under `terms`. `sign` signs with the dealer's identity key.
    ///
    /// The first coefficient is the secret and, under Pedersen's scheme, its blinding, so that C_0 is
    /// `secret.commitment()`; the others are uniform.
    ///
    /// # Errors
    /// [`Error::Terms`]; [`Error::Refused`] for a secret of zero.
    #[cfg(feature = "prove")]
    pub fn deal(terms: Terms, secret: &Opening, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> Result<Self, Error> {
        use crate::polynomial::Polynomial;
        terms.check()?;
        let polynomial = Polynomial::random(&secret.value, terms.threshold);
        let blinding = secret.blinding.as_ref().map(|blinding| Polynomial::random(blinding, terms.threshold));
        Self::deal_polynomials(terms, &polynomial, blinding.as_ref(), |_, opening| opening, sign)
    }

    /// Deals the values of these polynomials, as `handed` changes them before they are sealed.
    #[cfg(feature = "prove")]
    pub(crate) fn deal_polynomials(
        terms: Terms,
        polynomial: &crate::polynomial::Polynomial,
        blinding: Option<&crate::polynomial::Polynomial>,
        handed: impl Fn(u16, Opening) -> Opening,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Result<Self, Error> {
        use zeroize::Zeroizing;
        let opening = |value, blinding| Opening { value: Zeroizing::new(value), blinding };
        let scheme = if blinding.is_some() { Scheme::Pedersen } else { Scheme::Feldman };
        let points = polynomial.coefficients().iter().enumerate().map(|(k, a)| {
            let b = blinding.and_then(|blinding| blinding.coefficients().get(k).copied()).map(Zeroizing::new);
            opening(*a, b).commitment()
        });
        let commitments = Arc::new(Commitments::new(scheme, points.collect())?);
        let header = header_digest(&terms, &commitments);
        let seal = |member: &Member| {
            let x = member.index;
            let share = handed(x, opening(*polynomial.at(x), blinding.map(|blinding| blinding.at(x))));
            let ephemeral = HolderKey::generate();
            let enc = *ephemeral.public().as_bytes();
            let (info, aad) = binding(&terms, &header, member);
            let ciphertext = crate::seal::seal_from(&ephemeral, &member.key, &info, &aad, &share.to_bytes())?;
            let proof = possession(&header, x, &enc)?.prove(ephemeral.secret());
            let possession = proof.try_into().map_err(|_| Error::NotSealedByDealer(x))?;
            Ok(SealedShare { enc, possession, ciphertext })
        };
        let sealed = terms.members.iter().map(seal).collect::<Result<Vec<_>, Error>>()?;
        let mut dealing = Self { terms, commitments, sealed, signature: [0; 64] };
        dealing.signature = sign(&dealing.signed_message());
        Ok(dealing)
    }

    /// Who deals what to whom.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The commitments, C_0 to C_{t-1}.
    pub const fn commitments(&self) -> &Arc<Commitments> {
        &self.commitments
    }

    /// Digest of everything that the dealer has signed: names this dealing.
    pub fn digest(&self) -> Digest {
        let mut writer = Writer::default();
        writer.value(&header_digest(&self.terms, &self.commitments));
        for sealed in &self.sealed {
            writer.array(&sealed.enc).array(&sealed.possession).bytes(&sealed.ciphertext);
        }
        Digest::of(label::DEALING, &writer.into_bytes())
    }

    fn signed_message(&self) -> Vec<u8> {
        [label::DEALING.as_bytes(), &[0], &self.digest().0].concat()
    }

    /// Checks everything that anyone can: the dealer's signature, and that the dealer knows each ephemeral key. Whoever
    /// calls compares terms, dealer and members' keys with what was agreed and enrolled.
    ///
    /// # Errors
    /// [`Error::NotAuthentic`], which says nothing about the dealer; [`Error::NotSealedByDealer`], which convicts it.
    pub fn check(&self, dealer: &IdentityKey) -> Result<(), Error> {
        if !eddsa::verify_signature(&dealer.to_bytes(), &self.signed_message(), &self.signature) {
            return Err(Error::NotAuthentic(self.terms.dealer.clone()));
        }
        let header = header_digest(&self.terms, &self.commitments);
        for (member, sealed) in self.terms.members.iter().zip(&self.sealed) {
            let claim = possession(&header, member.index, &sealed.enc)?;
            claim.verify(&sealed.possession).map_err(|_| Error::NotSealedByDealer(member.index))?;
        }
        Ok(())
    }

    /// Whether two authentic dealings contradict each other: one dealer, one sharing, and not the same message. Both
    /// together convict the dealer of having told its holders different things.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn contradicts(&self, other: &Self, dealer: &IdentityKey) -> Result<bool, Error> {
        self.check(dealer)?;
        other.check(dealer)?;
        let one = self.terms.sharing == other.terms.sharing && self.terms.dealer == other.terms.dealer;
        Ok(one && self.digest() != other.digest())
    }

    /// What the holder of `index` proves with `share_correctness`.
    ///
    /// # Errors
    /// [`Error::NotAMember`]; [`Error::Refused`] where the dealing fixes no usable share for this index.
    pub fn instance(&self, index: u16) -> Result<Instance, Error> {
        self.terms.member(index)?;
        let instance = Instance::new(self.commitments.clone(), index)?;
        instance.public_share()?;
        Ok(instance)
    }

    /// Opens and checks the share of the holder with this name and key. Call [`Self::check`] before.
    ///
    /// # Errors
    /// [`Error::NotAMember`]; [`Error::BadShare`], upon which the holder complains.
    pub fn open(&self, holder: &HsmId, key: &HolderKey) -> Result<Share, Error> {
        let member = self.terms.member_named(holder)?;
        if member.key != *key.public() {
            return Err(Error::NotAMember);
        }
        let (sealed, info, aad) = self.sealed_share(member)?;
        let plaintext = key.open(&sealed.enc, &info, &aad, &sealed.ciphertext);
        let bad = Error::BadShare(member.index);
        let opening = Opening::from_bytes(self.commitments.scheme(), &plaintext.ok_or(bad.clone())?);
        let share = Share { index: member.index, opening: opening.map_err(|_| bad.clone())? };
        verify_share(&self.commitments, &self.terms.sharing.trust_domain, &share).map_err(|_| bad)?;
        Ok(share)
    }

    /// A member's sealed share, with HPKE's info and associated data.
    pub(crate) fn sealed_share(&self, member: &Member) -> Result<(&SealedShare, Vec<u8>, Vec<u8>), Error> {
        let position = self.terms.members.iter().position(|other| other == member);
        let sealed = position.and_then(|at| self.sealed.get(at)).ok_or(Error::NotAMember)?;
        let (info, aad) = binding(&self.terms, &header_digest(&self.terms, &self.commitments), member);
        Ok((sealed, info, aad))
    }

    /// Whether the commitments give this index a share that could be anyone's: its public point is the identity.
    pub(crate) fn fixes_nothing(&self, index: u16) -> bool {
        self.commitments.evaluate(index).is_identity()
    }

    #[cfg(all(test, feature = "prove"))]
    pub(crate) fn parts(&mut self) -> (&mut Terms, &mut Vec<SealedShare>, &mut [u8; 64]) {
        (&mut self.terms, &mut self.sealed, &mut self.signature)
    }

    #[cfg(all(test, feature = "prove"))]
    pub(crate) fn prove_possession(&self, index: u16, ephemeral: &HolderKey) -> [u8; 65] {
        let header = header_digest(&self.terms, &self.commitments);
        let claim = possession(&header, index, ephemeral.public().as_bytes()).expect("a key is a point");
        claim.prove(ephemeral.secret()).try_into().expect("proofs have one length")
    }

    #[cfg(all(test, feature = "prove"))]
    pub(crate) fn sign_again(&mut self, sign: impl FnOnce(&[u8]) -> [u8; 64]) {
        self.signature = sign(&self.signed_message());
    }
}

impl Canonical for Dealing {
    const WHAT: &'static str = "dealing";

    fn write(&self, writer: &mut Writer) {
        writer.value(&self.terms).value(&*self.commitments);
        for sealed in &self.sealed {
            writer.array(&sealed.enc).array(&sealed.possession).bytes(&sealed.ciphertext);
        }
        writer.array(&self.signature);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, keywitness_circuits::Error> {
        let (terms, commitments): (Terms, Commitments) = (reader.value()?, reader.value()?);
        if commitments.threshold() != terms.threshold {
            return Err(reader.error("it has another number of commitments than its threshold says"));
        }
        let length = ciphertext_len(commitments.scheme());
        let mut sealed = Vec::with_capacity(terms.members.len());
        for _ in &terms.members {
            let (enc, possession): ([u8; 33], [u8; POSSESSION]) = (reader.array()?, reader.array()?);
            let ciphertext = reader.bytes(length)?.to_vec();
            if ciphertext.len() != length {
                return Err(reader.error("a sealed share has the wrong length"));
            }
            if point(&enc).is_err() {
                return Err(reader.error("an ephemeral key is not a point"));
            }
            sealed.push(SealedShare { enc, possession, ciphertext });
        }
        Ok(Self { terms, commitments: commitments.into(), sealed, signature: reader.array()? })
    }
}

#[cfg(all(test, feature = "prove"))]
#[path = "dealing_tests.rs"]
mod tests;
