//! What kind of key a claim speaks of, and what its store says about it.

use std::{fmt, str::FromStr};

mod token;

use serde::{Deserialize, Serialize};

use crate::{
    Digest, Error, Kind, Suite,
    codec::{Canonical, Reader, Writer},
    transcript::label,
};
pub use token::{Mechanisms, TokenAttributes};

/// Algorithm and size of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyAlgorithm {
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// A scalar and its multiple of the ristretto255 generator (RFC 9496).
    Ristretto255,
    /// NIST P-256.
    P256,
    /// secp256k1 (SEC 2).
    Secp256k1,
    /// A share of a scalar of ristretto255, under Feldman commitments.
    Ristretto255Share,
    /// A share of a scalar of ristretto255 and its blinding, under Pedersen commitments.
    Ristretto255BlindedShare,
    /// AES with a 128-bit key.
    Aes128,
    /// AES with a 192-bit key.
    Aes192,
    /// AES with a 256-bit key.
    Aes256,
    /// HMAC-SHA-256 with a 256-bit key.
    HmacSha256,
    /// AES-CMAC (RFC 4493) with a 128-bit key that computes nothing else, and may be out of everyone's reach.
    Aes128Cmac,
    /// The same with a 192-bit key (NIST SP 800-38B).
    Aes192Cmac,
    /// The same with a 256-bit key (NIST SP 800-38B).
    Aes256Cmac,
}

impl KeyAlgorithm {
    /// Every algorithm, in code order.
    pub const ALL: [Self; 13] = [
        Self::Ed25519,
        Self::Ristretto255,
        Self::P256,
        Self::Secp256k1,
        Self::Ristretto255Share,
        Self::Ristretto255BlindedShare,
        Self::Aes128,
        Self::Aes192,
        Self::Aes256,
        Self::HmacSha256,
        Self::Aes128Cmac,
        Self::Aes192Cmac,
        Self::Aes256Cmac,
    ];

    /// The name used on the command line, in JSON and in a fingerprint's domain.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Ristretto255 => "ristretto255",
            Self::P256 => "p256",
            Self::Secp256k1 => "secp256k1",
            Self::Ristretto255Share => "ristretto255-share",
            Self::Ristretto255BlindedShare => "ristretto255-blinded-share",
            Self::Aes128 => "aes128",
            Self::Aes192 => "aes192",
            Self::Aes256 => "aes256",
            Self::HmacSha256 => "hmac-sha256",
            Self::Aes128Cmac => "aes128-cmac",
            Self::Aes192Cmac => "aes192-cmac",
            Self::Aes256Cmac => "aes256-cmac",
        }
    }

    /// The code in a canonical encoding.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ed25519 => 1,
            Self::Ristretto255 => 2,
            Self::P256 => 3,
            Self::Secp256k1 => 4,
            Self::Ristretto255Share => 5,
            Self::Ristretto255BlindedShare => 6,
            Self::Aes128 => 16,
            Self::Aes192 => 17,
            Self::Aes256 => 18,
            Self::HmacSha256 => 19,
            Self::Aes128Cmac => 20,
            Self::Aes192Cmac => 21,
            Self::Aes256Cmac => 22,
        }
    }

    /// Bits of a symmetric key; none for an asymmetric one.
    pub const fn symmetric_bits(self) -> Option<u16> {
        match self {
            Self::Aes128 | Self::Aes128Cmac => Some(128),
            Self::Aes192 | Self::Aes192Cmac => Some(192),
            Self::Aes256 | Self::HmacSha256 | Self::Aes256Cmac => Some(256),
            Self::Ed25519
            | Self::Ristretto255
            | Self::P256
            | Self::Secp256k1
            | Self::Ristretto255Share
            | Self::Ristretto255BlindedShare => None,
        }
    }

    /// Whether such a key is a holder's part of another secret. A share is dealt: no store can generate one.
    pub const fn is_share(self) -> bool {
        matches!(self, Self::Ristretto255Share | Self::Ristretto255BlindedShare)
    }

    /// Whether keys of this algorithm compute CMACs and nothing else. They are attested by their tags; the key itself
    /// has no fingerprint in any suite.
    pub const fn is_cmac(self) -> bool {
        matches!(self, Self::Aes128Cmac | Self::Aes192Cmac | Self::Aes256Cmac)
    }

    /// Bits of a symmetric key that is attested by the key itself: none for an asymmetric key, or one that is attested
    /// by its tags.
    pub const fn limb_bits(self) -> Option<u16> {
        if self.is_cmac() { None } else { self.symmetric_bits() }
    }

    /// Bytes of the secret: a seed, a scalar, a scalar and its blinding, or a symmetric key.
    pub const fn secret_len(self) -> usize {
        match (self, self.symmetric_bits()) {
            (_, Some(bits)) => bits as usize / 8,
            (Self::Ristretto255BlindedShare, None) => 64,
            (_, None) => 32,
        }
    }

    /// The statement kinds that attest such a key where a trust domain requires `suites` of symmetric keys.
    pub fn kinds(self, suites: &[Suite]) -> Vec<Kind> {
        match self {
            Self::Ed25519 => vec![Kind::KeyKnowledgeEd25519],
            Self::Ristretto255 => vec![Kind::KeyKnowledgeRistretto255],
            Self::P256 => vec![Kind::KeyKnowledgeP256],
            Self::Secp256k1 => vec![Kind::KeyKnowledgeSecp256k1],
            Self::Ristretto255Share => vec![Kind::ShareCorrectnessFeldman],
            Self::Ristretto255BlindedShare => vec![Kind::ShareCorrectnessPedersen],
            Self::Aes128 | Self::Aes192 | Self::Aes256 | Self::HmacSha256 => suites
                .iter()
                .filter_map(|suite| match suite {
                    Suite::Halo2Pasta => Some(Kind::KeyKnowledgeHalo2),
                    Suite::Groth16Bn254 => Some(Kind::KeyKnowledgeGroth16),
                    Suite::PublicKey | Suite::Halo2PastaTag => None,
                })
                .collect(),
            Self::Aes128Cmac | Self::Aes192Cmac | Self::Aes256Cmac => vec![Kind::TaggedKeyHalo2],
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KeyAlgorithm {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == text).ok_or(Error::malformed(
            "key algorithm",
            "use ed25519, ristretto255, p256, secp256k1, aes128, aes192, aes256, hmac-sha256, aes128-cmac, \
             aes192-cmac, aes256-cmac, ristretto255-share or ristretto255-blinded-share",
        ))
    }
}

impl Canonical for KeyAlgorithm {
    const WHAT: &'static str = "key algorithm";
    fn write(&self, writer: &mut Writer) {
        writer.u8(self.code());
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let code = reader.u8()?;
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.code() == code)
            .ok_or(reader.error("no key algorithm has this code"))
    }
}

/// How a key came into its store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyOrigin {
    /// Generated by the store.
    Generated,
    /// Brought in from outside.
    Imported,
    /// Derived by the store from another of its keys.
    Derived,
}

/// What a store says about a key. Bound into every claim by digest; a *statement of the store*, not proven.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeyAttributes {
    /// Algorithm and size.
    pub algorithm: KeyAlgorithm,
    /// Generated here (CKA_LOCAL of a key in a token), imported, or derived.
    pub origin: KeyOrigin,
    /// Whether the store would hand the key out (CKA_EXTRACTABLE of a key in a token).
    pub extractable: bool,
    /// What else a PKCS#11 token says; none for a key outside of one.
    pub token: Option<TokenAttributes>,
}

impl KeyAttributes {
    /// Attributes of a key that is in no token.
    pub const fn new(algorithm: KeyAlgorithm, origin: KeyOrigin, extractable: bool) -> Self {
        Self { algorithm, origin, extractable, token: None }
    }

    /// The statement kinds that attest such a key where a trust domain requires `suites` of symmetric keys.
    ///
    /// A token signs with an ECDSA key and proves nothing else of it: possession.
    pub fn kinds(&self, suites: &[Suite]) -> Vec<Kind> {
        match (self.origin, &self.token, self.algorithm) {
            // A derived key is attested by its derivation, which proves knowledge of it too.
            (KeyOrigin::Derived, ..) => vec![Kind::KeyDerivationHalo2],
            (_, Some(_), KeyAlgorithm::P256) => vec![Kind::KeyPossessionP256],
            (_, Some(_), KeyAlgorithm::Secp256k1) => vec![Kind::KeyPossessionSecp256k1],
            (KeyOrigin::Generated | KeyOrigin::Imported, _, algorithm) => algorithm.kinds(suites),
        }
    }

    /// The digest that a claim carries.
    pub fn digest(&self) -> Digest {
        Digest::of(label::ATTRIBUTES, &self.to_bytes())
    }

    /// The last flags of an encoding: bit 0 whether the key is extractable, bit 1 whether a token's attributes follow.
    fn flags(&self) -> u8 {
        u8::from(self.extractable) | u8::from(self.token.is_some()) << 1
    }
}

impl Canonical for KeyAttributes {
    const WHAT: &'static str = "key attributes";
    fn write(&self, writer: &mut Writer) {
        writer.value(&self.algorithm);
        writer.u8(match self.origin {
            KeyOrigin::Generated => 0,
            KeyOrigin::Imported => 1,
            KeyOrigin::Derived => 2,
        });
        writer.u8(self.flags());
        if let Some(token) = &self.token {
            writer.value(token);
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let algorithm: KeyAlgorithm = reader.value()?;
        let origin = match reader.u8()? {
            0 => KeyOrigin::Generated,
            1 => KeyOrigin::Imported,
            2 if algorithm.limb_bits().is_some() => KeyOrigin::Derived,
            _ => return Err(reader.error("no key origin has this code")),
        };
        let (extractable, token) = match reader.u8()? {
            flags @ (0 | 1) => (flags == 1, None),
            flags @ (2 | 3) if origin != KeyOrigin::Derived => (flags == 3, Some(reader.value()?)),
            _ => return Err(reader.error("its flags are none that there are")),
        };
        Ok(Self { algorithm, origin, extractable, token })
    }
}
