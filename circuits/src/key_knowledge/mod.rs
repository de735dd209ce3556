//! Statement `key_knowledge`: *I know the secret of this key.*
//!
//! For an asymmetric key the instance is the public key; for a symmetric one it is the key's
//! fingerprint. `spec.md` beside this file has the relation, its argument and its limits.

pub mod eddsa;
pub mod groth16;
pub mod halo2;
pub mod many;
mod point;
pub mod schnorr;
pub mod symmetric;

use std::fmt;

use p256::pkcs8::EncodePublicKey;
use zeroize::Zeroizing;

use crate::{
    Digest, Error, Fingerprint, KeyAlgorithm, Kind, Statement, Suite, TrustDomain,
    codec::{Canonical, Reader, Writer},
    context, key_possession,
    transcript::label,
};
pub use point::PublicPoint;
use schnorr::{P256, Ristretto255, SchnorrGroup, Secp256k1};

/// The statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyKnowledge;

/// The public part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instance {
    /// An asymmetric key: checked, canonical, neither identity nor of small order. Only [`Instance::public_key`] makes one, so
    /// that bytes and point belong together.
    #[non_exhaustive]
    PublicKey {
        /// Which curve.
        algorithm: KeyAlgorithm,
        /// 32 bytes (Ed25519, ristretto255) or a compressed SEC1 point of 33.
        bytes: Vec<u8>,
        /// The point that they encode.
        point: PublicPoint,
    },
    /// A symmetric key, by its fingerprint in a SNARK suite.
    Symmetric {
        /// Which algorithm and size.
        algorithm: KeyAlgorithm,
        /// Which suite, and the tag.
        fingerprint: Fingerprint,
    },
}

impl Instance {
    /// A public key, checked.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything but the canonical encoding of a usable point of that curve.
    pub fn public_key(algorithm: KeyAlgorithm, bytes: &[u8]) -> Result<Self, Error> {
        let point = PublicPoint::decode(algorithm, bytes)
            .ok_or(Error::malformed("public key", "it is not the canonical encoding of a usable point"))?;
        Ok(Self::PublicKey { algorithm, bytes: bytes.to_vec(), point })
    }

    /// The key's algorithm.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        match self {
            Self::PublicKey { algorithm, .. } | Self::Symmetric { algorithm, .. } => *algorithm,
        }
    }

    /// The kind that proves this instance, if it is a sensible one.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::PublicKey { algorithm, .. } => algorithm.kinds(&[]).first().copied(),
            Self::Symmetric { algorithm, fingerprint } => algorithm.kinds(&[fingerprint.suite]).first().copied(),
        }
    }

    /// The key's fingerprint: for a public key SHA-256 of its SubjectPublicKeyInfo, or, for
    /// ristretto255, which has none, of a labelled encoding.
    ///
    /// # Errors
    /// Never for an instance that was read or made by this module.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        match self {
            Self::Symmetric { fingerprint, .. } => Ok(*fingerprint),
            Self::PublicKey { algorithm: KeyAlgorithm::Ristretto255, bytes, .. } => {
                Ok(Fingerprint { suite: Suite::PublicKey, bytes: Digest::of(label::RISTRETTO_KEY, bytes) })
            }
            Self::PublicKey { .. } => {
                use sha2::Digest as _;
                let spki = self.spki()?.ok_or(Error::malformed("public key", "it has no SubjectPublicKeyInfo"))?;
                Ok(Fingerprint { suite: Suite::PublicKey, bytes: Digest(sha2::Sha256::digest(spki).into()) })
            }
        }
    }

    /// The DER SubjectPublicKeyInfo (RFC 5280) of an Ed25519, P-256 or secp256k1 key; none for other keys.
    ///
    /// # Errors
    /// Never for an instance that was read or made by this module.
    pub fn spki(&self) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Self::PublicKey { algorithm, bytes, .. } => spki(*algorithm, bytes),
            Self::Symmetric { .. } => Ok(None),
        }
    }

    /// [`Self::spki`] of what is encoded, which has been read before: the work of deciding that a point is usable is not
    /// done again.
    pub(crate) fn read_spki(reader: &mut Reader<'_>) -> Result<Option<Vec<u8>>, Error> {
        match reader.u8()? {
            0 | key_possession::CODE => spki(reader.value()?, reader.bytes(33)?),
            _ => Ok(None),
        }
    }

    /// Digest of the canonical encoding, as a claim context carries it.
    pub fn digest(&self) -> Digest {
        context::instance_digest(&self.to_bytes())
    }
}

fn spki(algorithm: KeyAlgorithm, bytes: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let error = |_| Error::malformed("public key", "it is not a point");
    match algorithm {
        KeyAlgorithm::Ed25519 => {
            // RFC 8410, section 4: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING }.
            let header = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
            Ok(Some([&header, bytes].concat()))
        }
        KeyAlgorithm::P256 => {
            let key = p256::PublicKey::from_sec1_bytes(bytes).map_err(error)?;
            Ok(key.to_public_key_der().ok().map(|der| der.to_vec()))
        }
        KeyAlgorithm::Secp256k1 => {
            let key = k256::PublicKey::from_sec1_bytes(bytes).map_err(error)?;
            Ok(key.to_public_key_der().ok().map(|der| der.to_vec()))
        }
        _ => Ok(None),
    }
}

impl Canonical for Instance {
    const WHAT: &'static str = "key-knowledge instance";

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::PublicKey { algorithm, bytes, .. } => writer.u8(0).value(algorithm).bytes(bytes),
            Self::Symmetric { algorithm, fingerprint } => writer.u8(1).value(algorithm).value(fingerprint),
        };
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match reader.u8()? {
            0 => {
                let algorithm = reader.value()?;
                Self::public_key(algorithm, reader.bytes(33)?)
            }
            1 => {
                let (algorithm, fingerprint): (KeyAlgorithm, Fingerprint) = (reader.value()?, reader.value()?);
                symmetric::check_fingerprint(algorithm, &fingerprint)?;
                Ok(Self::Symmetric { algorithm, fingerprint })
            }
            _ => Err(reader.error("no form of instance has this code")),
        }
    }
}

/// The secret part: a seed (Ed25519), a scalar (the other curves) or a symmetric key.
///
/// Wiped on drop, never printed, never copied.
pub struct Witness {
    algorithm: KeyAlgorithm,
    secret: Zeroizing<Vec<u8>>,
}

impl Witness {
    /// Takes a copy of a secret, checked for length and range.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] for a wrong length, a scalar that is zero or not below the group order, or a share,
    /// which is a witness of [`crate::share_correctness`].
    pub fn new(algorithm: KeyAlgorithm, secret: &[u8]) -> Result<Self, Error> {
        if algorithm.is_share() {
            return Err(Error::WitnessRefused("a share is proven against its dealing, not as a key"));
        }
        if secret.len() != algorithm.secret_len() {
            return Err(Error::WitnessRefused("the secret has the wrong length for its algorithm"));
        }
        let in_range = match algorithm {
            KeyAlgorithm::Ristretto255 => Ristretto255::secret_from_bytes(secret).is_some(),
            KeyAlgorithm::P256 => P256::secret_from_bytes(secret).is_some(),
            KeyAlgorithm::Secp256k1 => Secp256k1::secret_from_bytes(secret).is_some(),
            KeyAlgorithm::Ed25519
            | KeyAlgorithm::Ristretto255Share
            | KeyAlgorithm::Ristretto255BlindedShare
            | KeyAlgorithm::Aes128
            | KeyAlgorithm::Aes192
            | KeyAlgorithm::Aes256
            | KeyAlgorithm::HmacSha256 => true,
            KeyAlgorithm::Aes128Cmac | KeyAlgorithm::Aes192Cmac | KeyAlgorithm::Aes256Cmac => {
                return Err(Error::WitnessRefused("such a key is attested by its tags alone"));
            }
        };
        if !in_range {
            return Err(Error::WitnessRefused("the scalar is zero or not below the group order"));
        }
        Ok(Self { algorithm, secret: Zeroizing::new(secret.to_vec()) })
    }

    /// The key's algorithm.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The secret's bytes.
    #[cfg(feature = "prove")]
    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// The instance that this secret proves. `suite` chooses the fingerprint of a symmetric key and is
    /// ignored for an asymmetric one.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] for a symmetric key with no SNARK suite.
    pub fn instance(&self, trust_domain: &TrustDomain, suite: Suite) -> Result<Instance, Error> {
        let refused = Error::WitnessRefused("the secret has no public key");
        let bytes = match self.algorithm {
            KeyAlgorithm::Ed25519 => eddsa::public_key(&self.secret),
            KeyAlgorithm::Ristretto255 => Ristretto255::public_key(&self.secret),
            KeyAlgorithm::P256 => P256::public_key(&self.secret),
            KeyAlgorithm::Secp256k1 => Secp256k1::public_key(&self.secret),
            KeyAlgorithm::Ristretto255Share | KeyAlgorithm::Ristretto255BlindedShare => None,
            KeyAlgorithm::Aes128 | KeyAlgorithm::Aes192 | KeyAlgorithm::Aes256 | KeyAlgorithm::HmacSha256 => {
                let fingerprint = symmetric::fingerprint(trust_domain, self.algorithm, suite, &self.secret)?;
                return Ok(Instance::Symmetric { algorithm: self.algorithm, fingerprint });
            }
            KeyAlgorithm::Aes128Cmac | KeyAlgorithm::Aes192Cmac | KeyAlgorithm::Aes256Cmac => {
                return Err(Error::WitnessRefused("such a key is attested by its tags alone"));
            }
        };
        Instance::public_key(self.algorithm, &bytes.ok_or(refused)?)
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Witness({}, secret)", self.algorithm)
    }
}

impl Statement for KeyKnowledge {
    type Instance = Instance;
    type Witness = Witness;

    fn holds(trust_domain: &TrustDomain, instance: &Instance, witness: &Witness) -> Result<(), Error> {
        let suite = match instance {
            Instance::PublicKey { .. } => Suite::PublicKey,
            Instance::Symmetric { fingerprint, .. } => fingerprint.suite,
        };
        if witness.algorithm() != instance.algorithm() {
            return Err(Error::WitnessRefused("the secret is of another algorithm than the instance"));
        }
        if witness.instance(trust_domain, suite)? == *instance {
            Ok(())
        } else {
            Err(Error::WitnessRefused("the secret belongs to another key"))
        }
    }
}
