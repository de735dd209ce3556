//! Deterministic one-way tags of keys. Two fingerprints are compared only within one suite.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    Digest, Error, KeyAlgorithm, TrustDomain,
    codec::{Canonical, Reader, Writer},
    transcript::label,
};

/// What a fingerprint is computed with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// SHA-256 of an asymmetric key's SubjectPublicKeyInfo.
    PublicKey,
    /// Poseidon over the Pallas base field, proven with halo2 on the Pasta curves. Transparent: no ceremony.
    Halo2Pasta,
    /// Poseidon over the BN254 scalar field, proven with Groth16. About 100 bits of security; needs a ceremony.
    Groth16Bn254,
    /// Poseidon over the Pallas base field of a tag that the key computed, never of the key itself: says nothing
    /// about, and is never compared with, a fingerprint of a key.
    Halo2PastaTag,
}

impl Suite {
    /// Every suite, in code order.
    pub const ALL: [Self; 4] = [Self::PublicKey, Self::Halo2Pasta, Self::Groth16Bn254, Self::Halo2PastaTag];

    /// The name used in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PublicKey => "public-key",
            Self::Halo2Pasta => "halo2-pasta",
            Self::Groth16Bn254 => "groth16-bn254",
            Self::Halo2PastaTag => "halo2-pasta-tag",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::PublicKey => 0,
            Self::Halo2Pasta => 1,
            Self::Groth16Bn254 => 2,
            Self::Halo2PastaTag => 3,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A one-way tag of a key: 32 bytes under a suite.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Fingerprint {
    /// What the bytes were computed with.
    pub suite: Suite,
    /// The tag. For a SNARK suite, a field element, little-endian and canonical.
    pub bytes: Digest,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.suite, self.bytes)
    }
}

impl Canonical for Fingerprint {
    const WHAT: &'static str = "fingerprint";
    fn write(&self, writer: &mut Writer) {
        writer.u8(self.suite.code()).value(&self.bytes);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let code = reader.u8()?;
        let suite =
            Suite::ALL.into_iter().find(|suite| suite.code() == code).ok_or(reader.error("no suite has this code"))?;
        Ok(Self { suite, bytes: reader.value()? })
    }
}

/// What separates a symmetric key's fingerprint from those of other trust domains, algorithms and sizes:
/// 64 uniform bytes, which each suite reduces into its field.
pub fn domain(trust_domain: &TrustDomain, algorithm: KeyAlgorithm) -> [u8; 64] {
    use sha2::Digest as _;
    let mut writer = Writer::default();
    writer.value(trust_domain).bytes(algorithm.name().as_bytes()).u16(algorithm.symmetric_bits().unwrap_or(0));
    sha2::Sha512::new()
        .chain_update(label::FINGERPRINT)
        .chain_update([0])
        .chain_update(writer.into_bytes())
        .finalize()
        .into()
}
