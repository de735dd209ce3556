//! Tokens as a signer sees them: public keys, headers, and what a token key may sign.

use std::{collections::HashMap, fmt};

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use keywitness_verifier::{
    token::{TYPE, status::STATUS_LIST_TYPE},
    wire::TokenAlgorithm,
};
use serde::{Serialize, de::IgnoredAny};
use serde_json::json;

use super::{Signer, SignerError};

/// The media types (`typ`) of all that a token key signs. A signature under one of them can stand for nothing else.
pub const TYPES: [&str; 2] = [TYPE, STATUS_LIST_TYPE];

/// Longest message, in bytes: twice what a status list that does not compress takes.
pub(super) const MAX_MESSAGE: usize = 128 * 1024;

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

/// The one header of a type under a key, encoded.
fn header(media_type: &str, algorithm: TokenAlgorithm, kid: &str) -> String {
    /// A struct, whose members are written in their order whatever a JSON object's are.
    #[derive(Serialize)]
    struct Header<'a> {
        alg: TokenAlgorithm,
        kid: &'a str,
        typ: &'a str,
    }
    // Text and names alone: that has an encoding.
    let header = serde_json::to_vec(&Header { alg: algorithm, kid, typ: media_type }).unwrap_or_default();
    BASE64URL_NOPAD.encode(&header)
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
    let input = signing_input((kid, algorithm), media_type, claims)?;
    let signature = signer.sign(kid, input.as_bytes())?;
    Ok(compact(input, &signature))
}

/// What is signed of a JWS: its encoded header and claims (RFC 7515, section 5.1).
///
/// # Errors
/// [`SignerError::Failed`] for claims that are not JSON.
pub(crate) fn signing_input(
    (kid, algorithm): (&str, TokenAlgorithm),
    media_type: &str,
    claims: &impl Serialize,
) -> Result<String, SignerError> {
    let claims = serde_json::to_vec(claims).map_err(|error| SignerError::Failed(error.to_string()))?;
    Ok(format!("{}.{}", header(media_type, algorithm, kid), BASE64URL_NOPAD.encode(&claims)))
}

/// A compact JWS of its signing input and signature.
pub(crate) fn compact(mut input: String, signature: &[u8; 64]) -> String {
    input.push('.');
    BASE64URL_NOPAD.encode_append(signature, &mut input);
    input
}

/// Refuses whatever is neither the signing input of a JWS of one of [`TYPES`], under the very header that [`jws`] writes for this
/// key, over one JSON object; nor, for an EdDSA key, a message to a webhook. The two never begin alike. So a token key signs no
/// checkpoint, no certificate and no challenge of another protocol.
///
/// # Errors
/// [`SignerError::Refused`]
pub(super) fn check(kid: &str, algorithm: TokenAlgorithm, message: &[u8]) -> Result<(), SignerError> {
    let refused = |why: &str| Err(SignerError::Refused(why.to_owned()));
    if message.len() > MAX_MESSAGE {
        return refused("the message is longer than any token or status list");
    }
    let Ok(text) = std::str::from_utf8(message) else { return refused("the message is not text") };
    if algorithm == TokenAlgorithm::EdDsa && is_to_webhook(text) {
        return Ok(());
    }
    let Some((found, claims)) = text.split_once('.') else { return refused("this is no signing input of a JWS") };
    if !TYPES.iter().any(|media_type| found == header(media_type, algorithm, kid)) {
        return refused("the header is not that of a token or status list under this key");
    }
    // Canonical base64: no padding, no stray bits.
    let Ok(claims) = BASE64URL_NOPAD.decode(claims.as_bytes()) else { return refused("the claims are not base64url") };
    if is_object(&claims) { Ok(()) } else { refused("the claims are no JSON object") }
}

fn is_object(json: &[u8]) -> bool {
    serde_json::from_slice::<HashMap<String, IgnoredAny>>(json).is_ok()
}

/// Whether this is what a webhook's signature is of (Standard Webhooks 1.0.0): `kw_` and the rest of an identifier, seconds,
/// one JSON object, with full stops between them.
fn is_to_webhook(text: &str) -> bool {
    let mut parts = text.splitn(3, '.');
    let (Some(id), Some(seconds), Some(body)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let is_id = id.starts_with("kw_") && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let canonical = seconds.parse::<u64>().is_ok_and(|number| number.to_string() == seconds);
    is_id && canonical && is_object(body.as_bytes())
}
