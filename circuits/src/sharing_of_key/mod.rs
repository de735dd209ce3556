//! Statement `sharing_of_key`: *these committed shares are a t-of-n sharing of this symmetric key.*
//!
//! The key is named by its fingerprint. Its two limbs are the constant terms of two polynomials of degree at most
//! t-1 over the Pallas base field (Shamir 1979); holder i has both values at x_i, under a hiding commitment.
//! `spec.md` beside this file has the relation, its argument and its limits.

#[cfg(feature = "prove")]
pub mod dealing;
pub mod halo2;
pub(crate) mod relation;

use std::{fmt, sync::Arc};

use halo2_proofs::pasta::Fp;

use crate::{
    Digest, Error, Fingerprint, KeyAlgorithm, Statement, Suite, TrustDomain,
    codec::{Canonical, Reader, Writer},
    context,
    key_knowledge::symmetric::{self, PublicInputs as KeyInputs, SuiteField},
};
#[cfg(feature = "prove")]
pub use dealing::Opening;
use relation::{Secrets, SharingInputs};

/// Most holders of one sharing, and so the highest threshold: one circuit has room for so many.
pub const MAX_HOLDERS: usize = 32;

/// The first byte of an instance's encoding.
pub(crate) const CODE: u8 = 4;

/// The statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharingOfKey;

/// What is public about one holder's share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommittedShare {
    /// Where the polynomials were evaluated; not zero.
    pub x: u16,
    /// The commitment to both values: a field element, 32 little-endian bytes, canonical.
    pub commitment: Digest,
}

/// The public part: a key, a threshold, and the holders' commitments by ascending x.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    algorithm: KeyAlgorithm,
    fingerprint: Fingerprint,
    threshold: u16,
    shares: Vec<CommittedShare>,
}

impl Instance {
    /// A sharing, checked.
    ///
    /// # Errors
    /// [`Error::Malformed`] unless the fingerprint is a symmetric key's in the suite `halo2-pasta`, there are 1 to
    /// [`MAX_HOLDERS`] shares, the threshold is from 1 to their number, every x is above zero and above the one before
    /// it, and every commitment is canonical.
    pub fn new(
        algorithm: KeyAlgorithm,
        fingerprint: Fingerprint,
        threshold: u16,
        shares: Vec<CommittedShare>,
    ) -> Result<Self, Error> {
        let malformed = |why| Err(Error::malformed(Self::WHAT, why));
        symmetric::check_fingerprint(algorithm, &fingerprint)?;
        if fingerprint.suite != Suite::Halo2Pasta {
            return malformed("the fingerprint is of another suite");
        }
        if !(1..=MAX_HOLDERS).contains(&shares.len()) {
            return malformed("it must have 1 to 32 holders");
        }
        if !(1..=shares.len()).contains(&usize::from(threshold)) {
            return malformed("the threshold must lie between 1 and the number of holders");
        }
        check_points(shares.iter().map(|share| share.x))?;
        if shares.iter().any(|share| Fp::from_canonical(&share.commitment.0).is_none()) {
            return malformed("a commitment is not a canonical field element");
        }
        Ok(Self { algorithm, fingerprint, threshold, shares })
    }

    /// The algorithm of the shared key.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The fingerprint of the shared key.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// How many shares are enough to make the key: the polynomials' degree is below this.
    pub const fn threshold(&self) -> u16 {
        self.threshold
    }

    /// The holders' commitments, by ascending x.
    pub fn shares(&self) -> &[CommittedShare] {
        &self.shares
    }

    /// Digest of the canonical encoding, as a claim context carries it.
    pub fn digest(&self) -> Digest {
        context::instance_digest(&self.to_bytes())
    }
}

/// Refuses points that are zero, or not in strictly ascending order: equal points would make one holder of two.
///
/// # Errors
/// [`Error::Malformed`].
fn check_points(points: impl Iterator<Item = u16>) -> Result<(), Error> {
    let mut last = 0;
    for x in points {
        if x <= last {
            return Err(Error::malformed(Instance::WHAT, "every x must be above zero and above the one before it"));
        }
        last = x;
    }
    Ok(())
}

impl Canonical for Instance {
    const WHAT: &'static str = "sharing-of-key instance";

    fn write(&self, writer: &mut Writer) {
        writer.u8(CODE).value(&self.algorithm).value(&self.fingerprint).u16(self.threshold);
        writer.u16(self.shares.len() as u16);
        for share in &self.shares {
            writer.u16(share.x).value(&share.commitment);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        if reader.u8()? != CODE {
            return Err(reader.error("no form of instance has this code"));
        }
        let (algorithm, fingerprint, threshold) = (reader.value()?, reader.value()?, reader.u16()?);
        let count = usize::from(reader.u16()?);
        if count > MAX_HOLDERS {
            return Err(reader.error("it must have 1 to 32 holders"));
        }
        let share = |_| Ok(CommittedShare { x: reader.u16()?, commitment: reader.value()? });
        let shares = (0..count).map(share).collect::<Result<_, Error>>()?;
        Self::new(algorithm, fingerprint, threshold, shares)
    }
}

/// The secret part: the key, the polynomials' other coefficients and the commitments' blinders.
///
/// Made by `Witness::deal`. Wiped on drop, never printed.
pub struct Witness {
    algorithm: KeyAlgorithm,
    secrets: Arc<Secrets>,
}

impl Witness {
    /// The algorithm of the shared key.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Witness(sharing of {}, secret)", self.algorithm)
    }
}

impl Statement for SharingOfKey {
    type Instance = Instance;
    type Witness = Witness;

    fn holds(trust_domain: &TrustDomain, instance: &Instance, witness: &Witness) -> Result<(), Error> {
        if witness.algorithm != instance.algorithm {
            return Err(Error::WitnessRefused("the secret is of another algorithm than the instance"));
        }
        // The context has no part in what is true of the key and its shares.
        let context = [0, 0].map(Fp::from_number);
        KeyInputs::of_key(trust_domain, instance.algorithm, &instance.fingerprint, context)?
            .check(&witness.secrets.key)?;
        SharingInputs::new(trust_domain, instance)?.check(&witness.secrets)
    }
}

#[cfg(all(test, feature = "prove"))]
mod tests;
