//! Statement `key_possession`: *this key signed this claim.*
//!
//! For a P-256 or secp256k1 key inside a token that signs by ECDSA and does nothing else. `spec.md` beside this file
//! says what that shows, and what it does not.

pub mod ecdsa;

use std::fmt;

use crate::{
    Digest, Error, Fingerprint, KeyAlgorithm, Kind, Statement, Suite, TrustDomain,
    codec::{Canonical, Reader, Writer},
    context,
    key_knowledge::{self, PublicPoint},
};

/// The first byte of an instance.
pub(crate) const CODE: u8 = 9;

/// The statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyPossession;

/// The public part: a public key of a curve with ECDSA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance(key_knowledge::Instance);

impl Instance {
    /// A public key, checked: a compressed SEC1 point of 33 bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything but the canonical encoding of a usable point of P-256 or secp256k1.
    pub fn public_key(algorithm: KeyAlgorithm, bytes: &[u8]) -> Result<Self, Error> {
        key_knowledge::Instance::public_key(algorithm, bytes)?.try_into()
    }

    /// The key's algorithm.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.0.algorithm()
    }

    /// The kind that proves this instance.
    pub const fn kind(&self) -> Kind {
        match self.algorithm() {
            KeyAlgorithm::Secp256k1 => Kind::KeyPossessionSecp256k1,
            _ => Kind::KeyPossessionP256,
        }
    }

    /// The key's fingerprint: SHA-256 of its SubjectPublicKeyInfo, as where it is known.
    ///
    /// # Errors
    /// Never.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        self.0.fingerprint()
    }

    /// The DER SubjectPublicKeyInfo (RFC 5480).
    ///
    /// # Errors
    /// Never.
    pub fn spki(&self) -> Result<Option<Vec<u8>>, Error> {
        self.0.spki()
    }

    /// Digest of the canonical encoding, as a claim context carries it.
    pub fn digest(&self) -> Digest {
        context::instance_digest(&self.to_bytes())
    }

    const fn point(&self) -> Option<&PublicPoint> {
        match &self.0 {
            key_knowledge::Instance::PublicKey { point, .. } => Some(point),
            key_knowledge::Instance::Symmetric { .. } => None,
        }
    }
}

impl TryFrom<key_knowledge::Instance> for Instance {
    type Error = Error;

    /// The same key, of which possession is proven and not knowledge.
    fn try_from(known: key_knowledge::Instance) -> Result<Self, Error> {
        match known.algorithm() {
            KeyAlgorithm::P256 | KeyAlgorithm::Secp256k1 => Ok(Self(known)),
            _ => Err(Error::malformed(Self::WHAT, "only P-256 and secp256k1 keys sign by ECDSA")),
        }
    }
}

impl Canonical for Instance {
    const WHAT: &'static str = "key-possession instance";

    fn write(&self, writer: &mut Writer) {
        if let key_knowledge::Instance::PublicKey { algorithm, bytes, .. } = &self.0 {
            writer.u8(CODE).value(algorithm).bytes(bytes);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        if reader.u8()? != CODE {
            return Err(reader.error("no form of instance has this code"));
        }
        Self::public_key(reader.value()?, reader.bytes(33)?)
    }
}

/// The secret part: a scalar. A token keeps it; provers in software have it.
pub struct Witness(key_knowledge::Witness);

impl Witness {
    /// Takes a copy of a scalar, checked for length and range.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`]
    pub fn new(algorithm: KeyAlgorithm, secret: &[u8]) -> Result<Self, Error> {
        match algorithm {
            KeyAlgorithm::P256 | KeyAlgorithm::Secp256k1 => key_knowledge::Witness::new(algorithm, secret).map(Self),
            _ => Err(Error::WitnessRefused("only P-256 and secp256k1 keys sign by ECDSA")),
        }
    }

    /// The instance that this secret proves.
    ///
    /// # Errors
    /// Never for a witness that was made.
    pub fn instance(&self, trust_domain: &TrustDomain) -> Result<Instance, Error> {
        self.0.instance(trust_domain, Suite::PublicKey)?.try_into()
    }

    #[cfg(feature = "prove")]
    fn secret(&self) -> &[u8] {
        self.0.secret()
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Statement for KeyPossession {
    type Instance = Instance;
    type Witness = Witness;

    fn holds(trust_domain: &TrustDomain, instance: &Instance, witness: &Witness) -> Result<(), Error> {
        if witness.0.algorithm() != instance.algorithm() {
            return Err(Error::WitnessRefused("the secret is of another algorithm than the instance"));
        }
        if witness.instance(trust_domain)? == *instance {
            Ok(())
        } else {
            Err(Error::WitnessRefused("the secret belongs to another key"))
        }
    }
}
