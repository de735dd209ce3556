//! The terms of a sharing, and its shares.

use std::{collections::BTreeSet, fmt, sync::Arc};

use curve25519_dalek::{RistrettoPoint, Scalar};
use keywitness_circuits::{
    HsmId, KeyId, Statement, TrustDomain,
    codec::{Canonical, Reader, Writer},
    share_correctness::{
        Commitments, Instance, MAX_HOLDERS, MIN_THRESHOLD, Scheme, ShareCorrectness, Witness, blinding_generator,
    },
};
use zeroize::{Zeroize, Zeroizing};

use crate::{Error, polynomial::lagrange_at_zero, seal::SealingKey};

/// What a sharing is for. One key has one purpose: a key that evaluates a pseudorandom function for whoever asks would
/// decrypt for them, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Purpose {
    /// Threshold signing.
    Sign,
    /// Threshold decryption.
    Decrypt,
    /// A threshold pseudorandom function.
    Evaluate,
    /// The secret itself is handed to its owner.
    Reveal,
}

impl Purpose {
    /// Every purpose, in code order.
    pub const ALL: [Self; 4] = [Self::Sign, Self::Decrypt, Self::Evaluate, Self::Reveal];

    const fn code(self) -> u8 {
        match self {
            Self::Sign => 1,
            Self::Decrypt => 2,
            Self::Evaluate => 3,
            Self::Reveal => 4,
        }
    }
}

impl Canonical for Purpose {
    const WHAT: &'static str = "purpose of a sharing";
    fn write(&self, writer: &mut Writer) {
        writer.u8(self.code());
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, keywitness_circuits::Error> {
        let code = reader.u8()?;
        Self::ALL.into_iter().find(|purpose| purpose.code() == code).ok_or(reader.error("no purpose has this code"))
    }
}

/// Which sharing: of which key, for what, at which epoch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SharingId {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The shared key.
    pub key: KeyId,
    /// What it is for.
    pub purpose: Purpose,
    /// Rises with every new sharing of the key; shares of two epochs never mix.
    pub epoch: u32,
}

impl Canonical for SharingId {
    const WHAT: &'static str = "sharing id";
    fn write(&self, writer: &mut Writer) {
        writer.value(&self.trust_domain).value(&self.key).value(&self.purpose).u32(self.epoch);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, keywitness_circuits::Error> {
        Ok(Self { trust_domain: reader.value()?, key: reader.value()?, purpose: reader.value()?, epoch: reader.u32()? })
    }
}

/// One holder of a sharing. `K` is the key that its share is encrypted to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member<K = SealingKey> {
    /// Where the polynomial is evaluated: 1 to [`MAX_HOLDERS`].
    pub index: u16,
    /// The holder.
    pub holder: HsmId,
    /// Its public key, as it was enrolled: whoever checks a dealing compares.
    pub key: K,
}

impl<K: Canonical> Canonical for Member<K> {
    const WHAT: &'static str = "member of a sharing";
    fn write(&self, writer: &mut Writer) {
        writer.u16(self.index).value(&self.holder).value(&self.key);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, keywitness_circuits::Error> {
        Ok(Self { index: reader.u16()?, holder: reader.value()?, key: reader.value()? })
    }
}

/// Who deals what to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms<K = SealingKey> {
    /// Which sharing.
    pub sharing: SharingId,
    /// The dealer.
    pub dealer: HsmId,
    /// How many shares reconstruct the secret, t.
    pub threshold: u16,
    /// The holders, by rising index.
    pub members: Vec<Member<K>>,
}

impl<K: Canonical> Terms<K> {
    /// Checks the terms.
    ///
    /// # Errors
    /// [`Error::Terms`] unless 2 ≤ t ≤ n ≤ [`MAX_HOLDERS`], the indices are 1 to [`MAX_HOLDERS`] and rise, and holders and
    /// keys are distinct: one HSM with two shares would count twice towards the threshold.
    pub fn check(&self) -> Result<(), Error> {
        if self.threshold < MIN_THRESHOLD || usize::from(self.threshold) > self.members.len() {
            return Err(Error::Terms("the threshold must be 2 to the number of members"));
        }
        if self.members.iter().any(|member| !(1..=MAX_HOLDERS).contains(&member.index)) {
            return Err(Error::Terms("an index must be 1 to 1024"));
        }
        if !self.members.is_sorted_by(|a, b| a.index < b.index) {
            return Err(Error::Terms("the members' indices must rise"));
        }
        let holders: BTreeSet<&HsmId> = self.members.iter().map(|member| &member.holder).collect();
        let keys: BTreeSet<Vec<u8>> = self.members.iter().map(|member| member.key.to_bytes()).collect();
        if holders.len() != self.members.len() || keys.len() != self.members.len() {
            return Err(Error::Terms("two members are one holder, or have one key"));
        }
        Ok(())
    }

    /// The member with this index.
    ///
    /// # Errors
    /// [`Error::NotAMember`]
    pub fn member(&self, index: u16) -> Result<&Member<K>, Error> {
        self.members.iter().find(|member| member.index == index).ok_or(Error::NotAMember)
    }

    /// The member that is this holder.
    ///
    /// # Errors
    /// [`Error::NotAMember`]
    pub fn member_named(&self, holder: &HsmId) -> Result<&Member<K>, Error> {
        self.members.iter().find(|member| member.holder == *holder).ok_or(Error::NotAMember)
    }

    pub(crate) fn indices(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.index).collect()
    }
}

impl<K: Canonical> Canonical for Terms<K> {
    const WHAT: &'static str = "terms of a sharing";

    fn write(&self, writer: &mut Writer) {
        writer.value(&self.sharing).value(&self.dealer).u16(self.threshold).u16(self.members.len() as u16);
        for member in &self.members {
            writer.value(member);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, keywitness_circuits::Error> {
        let (sharing, dealer, threshold, count) = (reader.value()?, reader.value()?, reader.u16()?, reader.u16()?);
        if count > MAX_HOLDERS {
            return Err(reader.error("there are more than 1024 members"));
        }
        let members = (0..count).map(|_| reader.value()).collect::<Result<Vec<_>, _>>()?;
        let terms = Self { sharing, dealer, threshold, members };
        terms.check().map_err(|_| reader.error("they contradict themselves"))?;
        Ok(terms)
    }
}

/// What opens a commitment: a scalar, and under Pedersen's scheme its blinding. A secret, or a share of one.
///
/// Wiped on drop, never printed, never copied.
pub struct Opening {
    pub(crate) value: Zeroizing<Scalar>,
    pub(crate) blinding: Option<Zeroizing<Scalar>>,
}

impl Opening {
    /// A uniform secret, with uniform blinding under Pedersen's scheme.
    pub fn random(scheme: Scheme) -> Self {
        let random = || Zeroizing::new(Scalar::random(&mut rand::rngs::OsRng));
        Self { value: random(), blinding: (scheme == Scheme::Pedersen).then(random) }
    }

    /// A given secret with a uniform blinding: for a secret that could be guessed.
    ///
    /// # Errors
    /// [`Error::Refused`] for an encoding that is not canonical.
    pub fn blinded(value: &[u8; 32]) -> Result<Self, Error> {
        let value = Self::from_bytes(Scheme::Feldman, value)?.value;
        Ok(Self { value, blinding: Self::random(Scheme::Pedersen).blinding })
    }

    /// Reads an opening: 32 bytes for Feldman, scalar ‖ blinding (64 bytes) for Pedersen; canonical.
    ///
    /// # Errors
    /// [`Error::Refused`] for another length, or a scalar that is not below the group order.
    pub fn from_bytes(scheme: Scheme, bytes: &[u8]) -> Result<Self, Error> {
        // The statement's witness has the same form; it is the judge of what is canonical.
        Witness::new(scheme, bytes)?;
        let mut halves = bytes.chunks_exact(32).map(|half| {
            let mut array = Zeroizing::new([0; 32]);
            array.copy_from_slice(half);
            let mut scalar = Scalar::from_bytes_mod_order(*array);
            let held = Zeroizing::new(scalar);
            scalar.zeroize();
            held
        });
        let value = halves.next().unwrap_or_default();
        Ok(Self { value, blinding: halves.next() })
    }

    /// The encoding that [`Self::from_bytes`] reads, and `share_correctness` proves.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(64));
        bytes.extend_from_slice(self.value.as_bytes());
        if let Some(blinding) = &self.blinding {
            bytes.extend_from_slice(blinding.as_bytes());
        }
        bytes
    }

    /// Which commitments it opens.
    pub const fn scheme(&self) -> Scheme {
        if self.blinding.is_some() { Scheme::Pedersen } else { Scheme::Feldman }
    }

    /// The commitment that it opens, in constant time.
    pub fn commitment(&self) -> [u8; 32] {
        let point = RistrettoPoint::mul_base(&self.value);
        let point = self.blinding.as_ref().map_or(point, |blinding| point + blinding_generator() * **blinding);
        point.compress().to_bytes()
    }

    /// The statement's witness.
    ///
    /// # Errors
    /// Never.
    pub fn witness(&self) -> Result<Witness, Error> {
        Ok(Witness::new(self.scheme(), &self.to_bytes())?)
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opening({:?}, secret)", self.scheme())
    }
}

/// One holder's share.
#[derive(Debug)]
pub struct Share {
    /// Where the polynomial was evaluated.
    pub index: u16,
    /// Its value there.
    pub opening: Opening,
}

/// Checks a share against the commitments of its dealing.
///
/// # Errors
/// [`Error::Refused`] when the commitments fix another share for this index, or none.
pub fn verify_share(commitments: &Arc<Commitments>, trust_domain: &TrustDomain, share: &Share) -> Result<(), Error> {
    let instance = Instance::new(commitments.clone(), share.index)?;
    instance.public_share()?;
    Ok(ShareCorrectness::holds(trust_domain, &instance, &share.opening.witness()?)?)
}

/// Interpolates the secret from at least `threshold` shares. Without the commitments a wrong share cannot be seen: the
/// secret is then another. Where they are known, use [`reconstruct_checked`].
///
/// # Errors
/// [`Error::TooFewShares`], [`Error::DuplicateIndex`], [`Error::MixedSchemes`]; [`Error::Terms`] for an index of 0 or above
/// [`MAX_HOLDERS`].
pub fn reconstruct(threshold: u16, shares: &[Share]) -> Result<Opening, Error> {
    interpolate(threshold, &shares.iter().collect::<Vec<_>>(), Vec::new())
}

/// A secret, and the shares that were left out because the commitments do not fix them.
#[derive(Debug)]
pub struct Reconstructed {
    /// The secret, which opens C_0.
    pub secret: Opening,
    /// The indices of the wrong shares.
    pub culprits: Vec<u16>,
}

/// Reconstructs the secret from those shares that the commitments fix, and names the others.
///
/// # Errors
/// As [`reconstruct`]; [`Error::TooFewShares`] names the culprits.
pub fn reconstruct_checked(
    commitments: &Arc<Commitments>,
    trust_domain: &TrustDomain,
    shares: &[Share],
) -> Result<Reconstructed, Error> {
    let (good, bad): (Vec<&Share>, Vec<&Share>) =
        shares.iter().partition(|share| verify_share(commitments, trust_domain, share).is_ok());
    let culprits: Vec<u16> = bad.iter().map(|share| share.index).collect();
    let secret = interpolate(commitments.threshold(), &good, culprits.clone())?;
    Ok(Reconstructed { secret, culprits })
}

fn interpolate(threshold: u16, shares: &[&Share], culprits: Vec<u16>) -> Result<Opening, Error> {
    let mut indices = BTreeSet::new();
    for share in shares {
        if !(1..=MAX_HOLDERS).contains(&share.index) {
            return Err(Error::Terms("an index must be 1 to 1024"));
        }
        if !indices.insert(share.index) {
            return Err(Error::DuplicateIndex(share.index));
        }
    }
    if threshold < MIN_THRESHOLD || shares.len() < usize::from(threshold) {
        return Err(Error::TooFewShares { have: shares.len(), need: threshold.max(MIN_THRESHOLD), culprits });
    }
    let blinded = shares.iter().filter(|share| share.opening.blinding.is_some()).count();
    if blinded != 0 && blinded != shares.len() {
        return Err(Error::MixedSchemes);
    }
    let used: Vec<u16> = shares.iter().map(|share| share.index).collect();
    let weights = lagrange_at_zero(&used);
    let mut value = Zeroizing::new(Scalar::ZERO);
    let mut blinding = Zeroizing::new(Scalar::ZERO);
    for (share, weight) in shares.iter().zip(&weights) {
        *value += weight * *share.opening.value;
        if let Some(part) = &share.opening.blinding {
            *blinding += weight * **part;
        }
    }
    Ok(Opening { value, blinding: (blinded != 0).then_some(blinding) })
}
