//! Private keys in memory, and in PKCS#8.

use std::{fmt, path::Path};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use ed25519_dalek::Signer as _;
use keywitness_verifier::{
    log::{Algorithm, NoteKey},
    wire::TokenAlgorithm,
};
use p256::pkcs8::{AlgorithmIdentifierRef, LineEnding, ObjectIdentifier, PrivateKeyInfo, SecretDocument};
use zeroize::Zeroizing;

use super::{PublicKey, SignerError, at};
use crate::{error::StartError, files};

/// id-Ed25519 (RFC 8410, section 3).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// A CurvePrivateKey is an OCTET STRING of 32 bytes inside the PKCS#8 one (RFC 8410, section 7).
const CURVE_PRIVATE_KEY: [u8; 2] = [4, 32];

/// A private key. Wiped on drop.
pub(super) enum Secret {
    Es256(EcdsaKeyPair),
    EdDsa(ed25519_dalek::SigningKey),
}

impl Secret {
    pub(super) fn random(algorithm: TokenAlgorithm) -> Result<Self, SignerError> {
        Ok(match algorithm {
            TokenAlgorithm::Es256 => {
                Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?)
            }
            TokenAlgorithm::EdDsa => Self::EdDsa(ed25519_dalek::SigningKey::generate(&mut rand::rngs::OsRng)),
        })
    }

    pub(super) const fn algorithm(&self) -> TokenAlgorithm {
        match self {
            Self::Es256(_) => TokenAlgorithm::Es256,
            Self::EdDsa(_) => TokenAlgorithm::EdDsa,
        }
    }

    pub(super) fn public(&self) -> PublicKey {
        let bytes = match self {
            Self::Es256(key) => key.public_key().as_ref().to_vec(),
            Self::EdDsa(key) => key.verifying_key().to_bytes().to_vec(),
        };
        PublicKey { algorithm: self.algorithm(), bytes }
    }

    fn from_pem(pem: &str) -> Option<Self> {
        let (_, document) = SecretDocument::from_pem(pem).ok().filter(|(label, _)| *label == "PRIVATE KEY")?;
        let info = document.decode_msg::<PrivateKeyInfo<'_>>().ok()?;
        if info.algorithm.oid != ED25519 {
            let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_bytes());
            return key.ok().map(Self::Es256);
        }
        let seed = info.private_key.strip_prefix(&CURVE_PRIVATE_KEY)?.try_into().ok()?;
        Some(Self::EdDsa(ed25519_dalek::SigningKey::from_bytes(seed)))
    }

    fn to_pem(&self) -> Result<Zeroizing<String>, SignerError> {
        let document = match self {
            Self::Es256(key) => SecretDocument::try_from(key.to_pkcs8v1().map_err(failed)?.as_ref()),
            Self::EdDsa(key) => {
                let mut curve_key = Zeroizing::new([0; 34]);
                let (head, seed) = curve_key.split_at_mut(CURVE_PRIVATE_KEY.len());
                head.copy_from_slice(&CURVE_PRIVATE_KEY);
                seed.copy_from_slice(key.as_bytes());
                let algorithm = AlgorithmIdentifierRef { oid: ED25519, parameters: None };
                let info = PrivateKeyInfo::new(algorithm, curve_key.as_slice());
                SecretDocument::encode_msg(&info)
            }
        };
        document.and_then(|document| document.to_pem("PRIVATE KEY", LineEnding::LF)).map_err(failed)
    }

    /// Reads a key's file, if it is there.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, SignerError> {
        files::check_private(path).map_err(at(path))?;
        let Some(pem) = files::read_if_there(path).map_err(at(path))?.map(Zeroizing::new) else { return Ok(None) };
        Self::from_pem(&pem).ok_or_else(|| SignerError::NoKey(path.display().to_string())).map(Some)
    }

    /// Writes it into a file that only its owner reads, and which survives a loss of power.
    pub(super) fn write(&self, directory: &Path, name: &str) -> Result<(), SignerError> {
        files::write_private(directory, name, self.to_pem()?.as_bytes()).map_err(at(&directory.join(name)))
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignerError> {
        match self {
            Self::Es256(key) => {
                let signature = key.sign(&SystemRandom::new(), message).map_err(failed)?;
                signature.as_ref().try_into().map_err(failed)
            }
            Self::EdDsa(key) => Ok(key.sign(message).to_bytes()),
        }
    }
}

fn failed(error: impl fmt::Display) -> SignerError {
    SignerError::Failed(error.to_string())
}

/// Reads the Ed25519 key under a name from a file, or makes one: what a witness signs with, on its own machine.
///
/// # Errors
/// [`StartError`] where the file cannot be read or written, or holds no such key.
pub fn note_key(directory: &Path, file: &str, name: &str, algorithm: Algorithm) -> Result<NoteKey, StartError> {
    let path = directory.join(file);
    let wrong = |why: String| StartError::LogKey { path: path.clone(), why };
    let secret = match Secret::read(&path).map_err(|error| wrong(error.to_string()))? {
        Some(secret) => secret,
        None => {
            let secret = Secret::random(TokenAlgorithm::EdDsa).map_err(|error| wrong(error.to_string()))?;
            secret.write(directory, file).map_err(|error| wrong(error.to_string()))?;
            tracing::info!(path = %path.display(), "made a key that signs for the log");
            secret
        }
    };
    match &secret {
        Secret::EdDsa(key) => NoteKey::new(name, algorithm, key.as_bytes()).map_err(|error| wrong(error.to_string())),
        Secret::Es256(_) => Err(wrong("it is no Ed25519 key in PKCS#8".to_owned())),
    }
}
