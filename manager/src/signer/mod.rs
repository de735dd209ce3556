//! What signs tokens and status lists: keys by name, behind one trait, so that no caller ever sees a private key.

mod files;

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use keywitness_verifier::wire::TokenAlgorithm;
use serde::Serialize;
use serde_json::json;

pub use files::{FILE, FileSigner};

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// It has no such key.
    #[error(
        "the signer has no key {0}: restore its file token-key-{0}.pem, or make another key (keywitness token-key rotate)"
    )]
    UnknownKey(String),
    /// A key's file is no key that signs here.
    #[error("{0} is no P-256 or Ed25519 key in PKCS#8; restore it, or remove it to make a new one")]
    NoKey(String),
    /// It cannot be reached, or a file cannot be read or written.
    #[error("the signer failed: {0}")]
    Failed(String),
}

/// A public key that signs tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey {
    /// What it signs with.
    pub algorithm: TokenAlgorithm,
    /// For ES256 an uncompressed SEC1 point, for EdDSA the key's 32 bytes.
    pub bytes: Vec<u8>,
}

impl PublicKey {
    /// The key as a JWK (RFC 7517), named by its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// [`SignerError::Failed`] for bytes that are no such key.
    pub fn jwk(&self) -> Result<Jwk, SignerError> {
        let failed = |error: &dyn fmt::Display| SignerError::Failed(format!("a public key cannot be written: {error}"));
        let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let mut members = match (self.algorithm, self.bytes.as_slice()) {
            (TokenAlgorithm::Es256, [4, point @ ..]) if point.len() == 64 => {
                let (x, y) = point.split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y) })
            }
            (TokenAlgorithm::EdDsa, x) if x.len() == 32 => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(x) }),
            _ => return Err(failed(&"it has another length")),
        };
        let bare: Jwk = serde_json::from_value(members.clone()).map_err(|error| failed(&error))?;
        let kid = bare.thumbprint(ThumbprintHash::SHA256).map_err(|error| failed(&error))?;
        for (name, value) in [("kid", kid), ("use", "sig".to_owned()), ("alg", self.algorithm.to_string())] {
            if let Some(members) = members.as_object_mut() {
                members.insert(name.to_owned(), value.into());
            }
        }
        serde_json::from_value(members).map_err(|error| failed(&error))
    }

    /// The key's name: its thumbprint.
    ///
    /// # Errors
    /// As [`Self::jwk`].
    pub fn kid(&self) -> Result<String, SignerError> {
        let missing = || SignerError::Failed("a key has no name".to_owned());
        self.jwk()?.common.key_id.ok_or_else(missing)
    }
}

/// Whatever holds the private keys. Signs with one of them, by name; they never leave it.
pub trait Signer: Send + Sync {
    /// The keys that it holds.
    fn keys(&self) -> Vec<PublicKey>;

    /// Makes a key, and keeps it so that it survives a loss of power.
    ///
    /// # Errors
    /// [`SignerError::Failed`]
    fn make(&self, algorithm: TokenAlgorithm) -> Result<PublicKey, SignerError>;

    /// Signs a message: 64 bytes, R and S of ECDSA (RFC 7518, section 3.4) or an Ed25519 signature.
    ///
    /// # Errors
    /// [`SignerError`]
    fn sign(&self, kid: &str, message: &[u8]) -> Result<[u8; 64], SignerError>;
}

/// A compact JWS (RFC 7515, section 7.1).
///
/// # Errors
/// [`SignerError`]
pub fn jws(
    signer: &dyn Signer,
    (kid, algorithm): (&str, TokenAlgorithm),
    media_type: &str,
    claims: &impl Serialize,
) -> Result<String, SignerError> {
    let header = json!({ "typ": media_type, "alg": algorithm.to_string(), "kid": kid }).to_string();
    let claims = serde_json::to_vec(claims).map_err(|error| SignerError::Failed(error.to_string()))?;
    let signed = format!("{}.{}", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(&claims));
    let signature = signer.sign(kid, signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

/// Signs whatever a test asks for, with the ES256 key of a directory; made where there is none.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn sign_in_test(directory: &std::path::Path, claims: &impl Serialize) -> String {
    sign_typed_in_test(directory, keywitness_verifier::token::TYPE, claims)
}

/// The same, of any type.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn sign_typed_in_test(directory: &std::path::Path, media_type: &str, claims: &impl Serialize) -> String {
    let signer = FileSigner::open(directory).unwrap();
    let key = signer.keys().into_iter().find(|key| key.algorithm == TokenAlgorithm::Es256);
    let key = key.unwrap_or_else(|| signer.make(TokenAlgorithm::Es256).unwrap());
    jws(&signer, (&key.kid().unwrap(), TokenAlgorithm::Es256), media_type, claims).unwrap()
}
