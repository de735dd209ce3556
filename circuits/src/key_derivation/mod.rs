//! Statement `key_derivation`: *I know the master key behind one fingerprint, and the key behind the other is derived
//! from it, under this name, for this epoch.*
//!
//! `spec.md` beside this file has the relation, its argument and its limits.

pub mod halo2;
mod relation;
#[cfg(test)]
mod tests;

use std::fmt;

use halo2_proofs::pasta::Fp;
use zeroize::Zeroizing;

use crate::{
    Digest, Error, Fingerprint, KeyAlgorithm, KeyId, Kind, Statement, Suite, TrustDomain,
    codec::{Canonical, Reader, Writer},
    gadgets::canonical::low_bits,
    key_knowledge::symmetric::{self, KeyLimbs, SuiteField},
    transcript::label,
};

/// The statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyDerivation;

/// Which key is derived. Another name, algorithm or epoch makes another key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The derived key's name.
    pub key: KeyId,
    /// Its algorithm: AES or HMAC.
    pub algorithm: KeyAlgorithm,
    /// Its epoch.
    pub epoch: u32,
}

impl Canonical for Target {
    const WHAT: &'static str = "derived key";
    fn write(&self, writer: &mut Writer) {
        writer.value(&self.key).value(&self.algorithm).u32(self.epoch);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { key: reader.value()?, algorithm: reader.value()?, epoch: reader.u32()? })
    }
}

/// κ1 and κ2: what separates the two outputs for one target from each other and from everything else that is hashed.
fn kdf_domains(trust_domain: &TrustDomain, master_algorithm: KeyAlgorithm, target: &Target) -> [Fp; 2] {
    use sha2::Digest as _;
    [1, 2].map(|output| {
        let mut writer = Writer::default();
        writer.value(trust_domain).value(&master_algorithm).value(target).u8(output);
        let hash = sha2::Sha512::new().chain_update(label::KEY_DERIVATION).chain_update([0]);
        Fp::from_uniform(&hash.chain_update(writer.into_bytes()).finalize().into())
    })
}

/// The key derivation function: the key of `target`, from a master key.
///
/// The low 128 bits of H(κ1; master) are bytes 0..16, those of H(κ2; master) bytes 16..32, of which an AES-192 key has
/// the low 64 bits. All big-endian.
///
/// # Errors
/// [`Error::WitnessRefused`] for an algorithm without fingerprints of keys, or a master key of the wrong length.
pub fn derive(
    trust_domain: &TrustDomain,
    master_algorithm: KeyAlgorithm,
    master_key: &[u8],
    target: &Target,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let master = KeyLimbs::<Fp>::new(master_algorithm, master_key)?;
    let length = match target.algorithm.limb_bits() {
        Some(bits) => usize::from(bits / 8),
        None => return Err(Error::WitnessRefused("keys of that algorithm are not derived")),
    };
    let [first, second] = kdf_domains(trust_domain, master_algorithm, target)
        .map(|domain| Zeroizing::new(low_bits(master.fingerprint(domain))));
    // The low 64 bits of the second output come first, so that they are the middle part of a key of any length.
    let mut key = Zeroizing::new(Vec::with_capacity(32));
    key.extend_from_slice(&first.to_be_bytes());
    key.extend_from_slice(&(*second as u64).to_be_bytes());
    key.extend_from_slice(&((*second >> 64) as u64).to_be_bytes());
    key.truncate(length);
    Ok(key)
}

/// The public part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    master_algorithm: KeyAlgorithm,
    master: Digest,
    target: Target,
    derived: Digest,
}

impl Instance {
    const CODE: u8 = 7;

    /// The master key's algorithm.
    pub const fn master_algorithm(&self) -> KeyAlgorithm {
        self.master_algorithm
    }

    /// The master key's fingerprint, in the suite `halo2-pasta`. Whether that key is attested is for the caller to ask.
    pub const fn master(&self) -> Fingerprint {
        Fingerprint { suite: Suite::Halo2Pasta, bytes: self.master }
    }

    /// Which key is derived.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// The derived key's epoch.
    pub const fn epoch(&self) -> u32 {
        self.target.epoch
    }

    /// The derived key's algorithm.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.target.algorithm
    }

    /// The derived key's fingerprint.
    pub const fn fingerprint(&self) -> Fingerprint {
        Fingerprint { suite: Suite::Halo2Pasta, bytes: self.derived }
    }

    /// The kind that proves this instance.
    pub const fn kind(&self) -> Kind {
        Kind::KeyDerivationHalo2
    }
}

impl Canonical for Instance {
    const WHAT: &'static str = "key-derivation instance";

    fn write(&self, writer: &mut Writer) {
        writer.u8(Self::CODE).value(&self.master_algorithm).value(&self.master);
        writer.value(&self.target).value(&self.derived);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        if reader.u8()? != Self::CODE {
            return Err(reader.error("no form of instance has this code"));
        }
        let instance = Self {
            master_algorithm: reader.value()?,
            master: reader.value()?,
            target: reader.value()?,
            derived: reader.value()?,
        };
        symmetric::check_fingerprint(instance.master_algorithm, &instance.master())?;
        symmetric::check_fingerprint(instance.algorithm(), &instance.fingerprint())?;
        Ok(instance)
    }
}

/// The secret part: the master key. Wiped on drop, never printed, never copied.
pub struct Witness {
    algorithm: KeyAlgorithm,
    master: Zeroizing<Vec<u8>>,
}

impl Witness {
    /// Takes a copy of a master key.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] for an algorithm without fingerprints of keys, or a wrong length.
    pub fn new(master_algorithm: KeyAlgorithm, master_key: &[u8]) -> Result<Self, Error> {
        KeyLimbs::<Fp>::new(master_algorithm, master_key)?;
        Ok(Self { algorithm: master_algorithm, master: Zeroizing::new(master_key.to_vec()) })
    }

    /// The instance that this master key proves of `target`.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] where the target's algorithm is none that is derived.
    pub fn instance(&self, trust_domain: &TrustDomain, target: &Target) -> Result<Instance, Error> {
        let fingerprint = |algorithm, key: &[u8]| {
            Ok::<_, Error>(symmetric::fingerprint(trust_domain, algorithm, Suite::Halo2Pasta, key)?.bytes)
        };
        let derived = derive(trust_domain, self.algorithm, &self.master, target)?;
        Ok(Instance {
            master_algorithm: self.algorithm,
            master: fingerprint(self.algorithm, &self.master)?,
            target: target.clone(),
            derived: fingerprint(target.algorithm, &derived)?,
        })
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Witness({} master, secret)", self.algorithm)
    }
}

impl Statement for KeyDerivation {
    type Instance = Instance;
    type Witness = Witness;

    fn holds(trust_domain: &TrustDomain, instance: &Instance, witness: &Witness) -> Result<(), Error> {
        if witness.algorithm != instance.master_algorithm {
            return Err(Error::WitnessRefused("the secret is of another algorithm than the master key"));
        }
        if witness.instance(trust_domain, &instance.target)? == *instance {
            Ok(())
        } else {
            Err(Error::WitnessRefused("the secret is another master key, or the derived key is not its own"))
        }
    }
}
