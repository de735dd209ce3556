//! Many symmetric keys of one HSM in one proof: [`super::KeyKnowledge`] for 1 to 64 keys at once, in either SNARK suite.
//!
//! The circuits have [`SLOTS`] slots, and in each the relation of one key. A slot without a key opens a public filler,
//! the key of zeros under the domain zero, which no algorithm of any trust domain has: it says nothing, and takes no
//! constraint that a prover could switch. Which slots hold keys follows from the instance alone, and the verifier
//! computes every public input itself.

pub mod halo2;

use std::fmt;

#[cfg(feature = "prove")]
use super::symmetric::KeyLimbs;
use super::symmetric::{self, PublicInputs, SuiteField};
use crate::{
    ClaimContext, Digest, Error, Fingerprint, KeyAlgorithm, Kind, Statement, Suite, TrustDomain,
    codec::{Canonical, Reader, Writer},
    context::{self, MAX_KEYS},
};

/// Keys that one proof has room for.
pub const SLOTS: usize = MAX_KEYS;

/// The first byte of an instance.
pub const CODE: u8 = 8;

/// The statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ManyKeys;

/// The public part: 1 to 64 symmetric keys by their fingerprints in one suite, in the order of the claim's keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    suite: Suite,
    keys: Vec<(KeyAlgorithm, Digest)>,
}

impl Instance {
    /// An instance, checked.
    ///
    /// # Errors
    /// [`Error::Malformed`] for no key or more than [`SLOTS`], for fingerprints of several suites, and for what
    /// [`symmetric::check_fingerprint`] refuses.
    pub fn new(keys: &[(KeyAlgorithm, Fingerprint)]) -> Result<Self, Error> {
        let malformed = |why| Error::malformed("instance of many keys", why);
        let Some((_, Fingerprint { suite, .. })) = keys.first() else { return Err(malformed("it has no key")) };
        if keys.len() > SLOTS {
            return Err(malformed("it has more than 64 keys"));
        }
        for (algorithm, fingerprint) in keys {
            if fingerprint.suite != *suite {
                return Err(malformed("its fingerprints are of several suites"));
            }
            symmetric::check_fingerprint(*algorithm, fingerprint)?;
        }
        Ok(Self { suite: *suite, keys: keys.iter().map(|(algorithm, print)| (*algorithm, print.bytes)).collect() })
    }

    /// The suite of every fingerprint.
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// The kind that proves this instance.
    pub const fn kind(&self) -> Option<Kind> {
        match self.suite {
            Suite::Groth16Bn254 => Some(Kind::ManyKeysGroth16),
            Suite::Halo2Pasta => Some(Kind::ManyKeysHalo2),
            Suite::PublicKey | Suite::Halo2PastaTag => None,
        }
    }

    /// Algorithm and fingerprint of each key, in the order of the claim's keys.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (KeyAlgorithm, Fingerprint)> + '_ {
        self.keys.iter().map(|(algorithm, bytes)| (*algorithm, Fingerprint { suite: self.suite, bytes: *bytes }))
    }

    /// The instance of each key alone, in the same order.
    pub fn singles(&self) -> impl ExactSizeIterator<Item = super::Instance> + '_ {
        self.keys().map(|(algorithm, fingerprint)| super::Instance::Symmetric { algorithm, fingerprint })
    }

    /// Digest of the canonical encoding, as a claim context carries it.
    pub fn digest(&self) -> Digest {
        context::instance_digest(&self.to_bytes())
    }
}

impl Canonical for Instance {
    const WHAT: &'static str = "instance of many keys";

    fn write(&self, writer: &mut Writer) {
        // `new` has bounded the number.
        writer.u8(CODE).u16(self.keys.len() as u16);
        for (algorithm, fingerprint) in self.keys() {
            writer.value(&algorithm).value(&fingerprint);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        if reader.u8()? != CODE {
            return Err(reader.error("no form of instance has this code"));
        }
        let count = usize::from(reader.u16()?);
        if count > SLOTS {
            return Err(reader.error("it has more than 64 keys"));
        }
        let keys = (0..count).map(|_| Ok((reader.value()?, reader.value()?))).collect::<Result<Vec<_>, Error>>()?;
        Self::new(&keys)
    }
}

/// The secret part: each key, in the order of the instance.
///
/// Wiped on drop, never printed, never copied.
pub struct Witness {
    keys: Vec<super::Witness>,
}

impl Witness {
    /// The keys of one proof.
    pub const fn new(keys: Vec<super::Witness>) -> Self {
        Self { keys }
    }

    /// Each key, in the order of the instance.
    pub fn keys(&self) -> &[super::Witness] {
        &self.keys
    }

    /// The instance that these keys prove.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] for an asymmetric key, [`Error::Malformed`] as [`Instance::new`].
    pub fn instance(&self, trust_domain: &TrustDomain, suite: Suite) -> Result<Instance, Error> {
        let fingerprint = |key: &super::Witness| {
            Ok((key.algorithm(), symmetric::fingerprint(trust_domain, key.algorithm(), suite, &key.secret)?))
        };
        Instance::new(&self.keys.iter().map(fingerprint).collect::<Result<Vec<_>, Error>>()?)
    }

    /// The limbs of every slot: the keys, then fillers.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] for an asymmetric key.
    #[cfg(feature = "prove")]
    pub(crate) fn limbs<F: SuiteField>(&self) -> Result<Vec<KeyLimbs<F>>, Error> {
        let mut limbs = Vec::with_capacity(SLOTS);
        for key in &self.keys {
            limbs.push(KeyLimbs::new(key.algorithm(), key.secret())?);
        }
        limbs.resize_with(SLOTS.max(limbs.len()), KeyLimbs::filler);
        Ok(limbs)
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Witness({} keys, secret)", self.keys.len())
    }
}

impl Statement for ManyKeys {
    type Instance = Instance;
    type Witness = Witness;

    /// # Errors
    /// [`Error::WitnessRefused`] for another number of keys, [`Error::KeysRefused`] names every key that fails.
    fn holds(trust_domain: &TrustDomain, instance: &Instance, witness: &Witness) -> Result<(), Error> {
        if witness.keys.len() != instance.keys.len() {
            return Err(Error::WitnessRefused("there are more or fewer secrets than keys"));
        }
        let holds = |(single, key): (super::Instance, _)| super::KeyKnowledge::holds(trust_domain, &single, key);
        let outcomes = instance.singles().zip(&witness.keys).map(holds).enumerate();
        let culprits: Vec<usize> = outcomes.filter_map(|(slot, outcome)| outcome.err().map(|_| slot)).collect();
        if culprits.is_empty() { Ok(()) } else { Err(Error::KeysRefused { culprits }) }
    }
}

/// The public inputs of both circuits: the context's two halves, then the inputs of each slot.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ManyInputs<F> {
    /// One for each slot, all with the same context.
    pub(crate) slots: Vec<PublicInputs<F>>,
}

impl<F: SuiteField> ManyInputs<F> {
    /// Inputs of the context.
    pub(crate) const SHARED: usize = 2;
    /// Inputs of a slot: F, d, has_mid, has_top.
    pub(crate) const EACH: usize = 4;
    /// How many there are.
    pub(crate) const COUNT: usize = Self::SHARED + SLOTS * Self::EACH;

    /// The public inputs of a claim.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] for fingerprints of another suite.
    pub(crate) fn new(context: &ClaimContext, instance: &Instance) -> Result<Self, Error> {
        let digest = context.digest().limbs().map(F::from_number);
        let mut slots = Vec::with_capacity(SLOTS);
        // Keys of one algorithm have one domain, which takes a hash to compute.
        let mut known: Vec<(KeyAlgorithm, F)> = Vec::new();
        for (algorithm, fingerprint) in instance.keys() {
            let found = known.iter().find(|(other, _)| *other == algorithm).map(|(_, domain)| *domain);
            let domain = found.unwrap_or_else(|| symmetric::domain(&context.trust_domain, algorithm));
            if found.is_none() {
                known.push((algorithm, domain));
            }
            slots.push(PublicInputs::under_domain(domain, algorithm, &fingerprint, digest)?);
        }
        slots.resize(SLOTS, PublicInputs::filler(digest));
        Ok(Self { slots })
    }

    /// The inputs in the order of both circuits: c0, c1, then F, d, has_mid, has_top of each slot.
    pub(crate) fn row(&self) -> Vec<F> {
        let context = self.slots.first().into_iter().flat_map(|slot| slot.context);
        let each = self.slots.iter().flat_map(|slot| [slot.fingerprint, slot.domain, slot.has_mid, slot.has_top]);
        context.chain(each).collect()
    }

    /// The relation, natively. What the circuits accept must be exactly this.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] names the clause that fails first.
    #[cfg(feature = "prove")]
    pub(crate) fn check(&self, limbs: &[KeyLimbs<F>]) -> Result<(), Error> {
        if limbs.len() != self.slots.len() {
            return Err(Error::WitnessRefused("there are more or fewer secrets than slots"));
        }
        self.slots.iter().zip(limbs).try_for_each(|(slot, limbs)| slot.check(limbs))
    }
}
