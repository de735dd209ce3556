//! A holder that was dealt a bad share shows it to everyone.
//!
//! The complaint is the Diffie-Hellman point D = sk·enc of the holder's key and the sealed share's ephemeral key, and a proof
//! that log_G pk = log_enc D (Chaum, Pedersen, CRYPTO 1992). With D anyone runs HPKE's key schedule, opens the ciphertext and
//! sees what the dealer sent. Either the dealer is at fault, or the complaint is false; there is no third outcome for a
//! complaint that its holder has signed.
//!
//! A complaint publishes the share, good or bad; one about a good share is therefore refused before it is made.

use keywitness_circuits::{
    Digest, HsmId,
    codec::{Canonical, Reader, Writer},
    key_knowledge::{eddsa, schnorr::P256},
    sigma::{Claim, SigmaGroup},
    transcript::label,
};
use keywitness_verifier::identity::IdentityKey;

use crate::{
    Dealing, Error, Member, Opening, Share,
    dealing::SealedShare,
    seal::{open_with_point, point},
    sharing::verify_share,
};

/// Bytes of the proof of equal logarithms.
const PROOF: usize = Claim::<P256, 2>::PROOF_LEN;

/// A holder's claim that its share is bad.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// [`Dealing::digest`] of what it is about.
    pub dealing: Digest,
    /// The holder's index.
    pub index: u16,
    /// The holder.
    pub holder: HsmId,
    /// D, compressed.
    pub point: [u8; 33],
    /// Proof that log_G pk = log_enc D.
    pub proof: [u8; 98],
    /// Ed25519 signature of the holder's identity key: nobody complains in another's name.
    pub signature: [u8; 64],
}

/// Who is at fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The dealer dealt a bad share.
    DealerFaulty {
        /// The dealer.
        dealer: HsmId,
        /// Whose share it was.
        index: u16,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The complaint is false.
    ComplaintFalse {
        /// Who complained.
        complainer: HsmId,
        /// About which share.
        index: u16,
        /// What is wrong with the complaint.
        why: Falsehood,
    },
}

/// What is wrong with a share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The ciphertext does not open.
    DoesNotOpen,
    /// It opens to something that is not the canonical encoding of a share.
    NotAShare,
    /// It opens to another share than the commitments fix.
    NotTheCommittedShare,
    /// The commitments fix a share that everybody knows: its public point is the identity.
    PublicShareIsIdentity,
}

/// What is wrong with a complaint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Falsehood {
    /// The point is not proven to be the Diffie-Hellman point of this share.
    PointNotProven,
    /// The share is good.
    ShareIsGood,
}

/// The claim that `dh` is the Diffie-Hellman point of this member and this sealed share of this dealing.
fn claim(dealing: &Digest, member: &Member, sealed: &SealedShare, dh: &[u8; 33]) -> Result<Claim<P256, 2>, Error> {
    let mut writer = Writer::default();
    writer.value(dealing).value(member);
    let bound = Digest::of(label::COMPLAINT_POINT, &writer.into_bytes());
    let pairs = [(P256::generator(), member.key.point()?), (point(&sealed.enc)?, point(dh)?)];
    Ok(Claim::new(label::COMPLAINT_POINT, &bound, pairs)?)
}

/// What the point opens: the fault of the dealer, or none.
fn fault(dealing: &Dealing, member: &Member, dh: &p256::ProjectivePoint) -> Result<Option<Fault>, Error> {
    if dealing.fixes_nothing(member.index) {
        return Ok(Some(Fault::PublicShareIsIdentity));
    }
    let (sealed, info, aad) = dealing.sealed_share(member)?;
    let Some(plaintext) = open_with_point(dh, &sealed.enc, &member.key, &info, &aad, &sealed.ciphertext) else {
        return Ok(Some(Fault::DoesNotOpen));
    };
    let Ok(opening) = Opening::from_bytes(dealing.commitments().scheme(), &plaintext) else {
        return Ok(Some(Fault::NotAShare));
    };
    let share = Share { index: member.index, opening };
    let trust_domain = &dealing.terms().sharing.trust_domain;
    Ok(verify_share(dealing.commitments(), trust_domain, &share).is_err().then_some(Fault::NotTheCommittedShare))
}

impl Complaint {
    /// Complains about the share that `dealing` has for `holder`. `sign` signs with the holder's identity key.
    ///
    /// # Errors
    /// As [`Dealing::check`]: a dealing that does not pass is refused as a whole, and its points must not be answered with a
    /// Diffie-Hellman point. [`Error::NotAMember`]; [`Error::NothingToComplainAbout`] where the share is good.
    #[cfg(feature = "prove")]
    pub fn make(
        dealing: &Dealing,
        dealer: &IdentityKey,
        holder: &HsmId,
        key: &crate::HolderKey,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Result<Self, Error> {
        dealing.check(dealer)?;
        let member = dealing.terms().member_named(holder)?;
        if member.key != *key.public() {
            return Err(Error::NotAMember);
        }
        let (sealed, ..) = dealing.sealed_share(member)?;
        let dh = P256::times(&point(&sealed.enc)?, key.secret());
        if fault(dealing, member, &dh)?.is_none() {
            return Err(Error::NothingToComplainAbout(member.index));
        }
        Self::publish(dealing, member, key, &dh, sign)
    }

    /// Publishes `dh` as the Diffie-Hellman point, whatever it is.
    #[cfg(feature = "prove")]
    fn publish(
        dealing: &Dealing,
        member: &Member,
        key: &crate::HolderKey,
        dh: &p256::ProjectivePoint,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Result<Self, Error> {
        let (digest, (sealed, ..)) = (dealing.digest(), dealing.sealed_share(member)?);
        let encoded = crate::seal::encode(dh)?;
        let proof = claim(&digest, member, sealed, &encoded)?.prove(key.secret());
        let mut complaint = Self {
            dealing: digest,
            index: member.index,
            holder: member.holder.clone(),
            point: encoded,
            proof: proof.try_into().map_err(|_| Error::BadShare(member.index))?,
            signature: [0; 64],
        };
        complaint.signature = sign(&complaint.signed_message());
        Ok(complaint)
    }

    fn signed_message(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.value(&self.dealing).u16(self.index).value(&self.holder).array(&self.point).array(&self.proof);
        let digest = Digest::of(label::COMPLAINT, &writer.into_bytes());
        [label::COMPLAINT.as_bytes(), &[0], &digest.0].concat()
    }

    /// Judges the complaint from public data alone: `dealer` and `holder` are the enrolled identity keys.
    ///
    /// # Errors
    /// Where nobody can be blamed: [`Error::OtherDealing`], [`Error::NotAMember`], [`Error::NotAuthentic`] for a complaint or
    /// a dealing that its alleged author has not signed. [`Error::NotSealedByDealer`], which convicts the dealer.
    pub fn judge(&self, dealing: &Dealing, dealer: &IdentityKey, holder: &IdentityKey) -> Result<Verdict, Error> {
        if self.dealing != dealing.digest() {
            return Err(Error::OtherDealing);
        }
        let member = dealing.terms().member(self.index)?;
        if member.holder != self.holder {
            return Err(Error::NotAMember);
        }
        if !eddsa::verify_signature(&holder.to_bytes(), &self.signed_message(), &self.signature) {
            return Err(Error::NotAuthentic(self.holder.clone()));
        }
        dealing.check(dealer)?;
        let wrong = |why| Ok(Verdict::ComplaintFalse { complainer: member.holder.clone(), index: self.index, why });
        let (sealed, ..) = dealing.sealed_share(member)?;
        let proven = claim(&self.dealing, member, sealed, &self.point).and_then(|claim| Ok(claim.verify(&self.proof)?));
        let (Ok(()), Ok(dh)) = (proven, point(&self.point)) else { return wrong(Falsehood::PointNotProven) };
        match fault(dealing, member, &dh)? {
            None => wrong(Falsehood::ShareIsGood),
            Some(fault) => {
                let dealer = dealing.terms().dealer.clone();
                Ok(Verdict::DealerFaulty { dealer, index: self.index, fault })
            }
        }
    }
}

impl Canonical for Complaint {
    const WHAT: &'static str = "complaint";

    fn write(&self, writer: &mut Writer) {
        writer.value(&self.dealing).u16(self.index).value(&self.holder);
        writer.array(&self.point).array(&self.proof).array(&self.signature);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, keywitness_circuits::Error> {
        let (dealing, index, holder) = (reader.value()?, reader.u16()?, reader.value()?);
        let (dh, proof): ([u8; 33], [u8; PROOF]) = (reader.array()?, reader.array()?);
        if point(&dh).is_err() {
            return Err(reader.error("its point is not a point of P-256"));
        }
        Ok(Self { dealing, index, holder, point: dh, proof, signature: reader.array()? })
    }
}

#[cfg(all(test, feature = "prove"))]
#[path = "complaint_tests.rs"]
mod tests;
