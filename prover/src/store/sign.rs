//! Signatures that a key makes for a client.

use ed25519_dalek::Signer;
use keywitness_circuits::KeyAlgorithm;
use keywitness_verifier::operation::check_message;

use super::StoreError;

/// Signs `message`: 64 bytes, (R, s) or (r, s) with low s.
///
/// The check against the protocol's own messages comes first, whatever the key: an Ed25519 key's attestation *is* a
/// signature, and a client could otherwise ask for one.
pub(super) fn sign(algorithm: KeyAlgorithm, secret: &[u8], message: &[u8]) -> Result<[u8; 64], StoreError> {
    check_message(message).map_err(|_| StoreError::ReservedMessage)?;
    let unusable = |_| StoreError::Unreadable("it is out of range");
    match algorithm {
        KeyAlgorithm::Ed25519 => ed25519(secret, message),
        KeyAlgorithm::P256 => {
            let key = p256::ecdsa::SigningKey::from_slice(secret).map_err(unusable)?;
            let signature: p256::ecdsa::Signature = key.try_sign(message).map_err(unusable)?;
            Ok(signature.normalize_s().unwrap_or(signature).to_bytes().into())
        }
        KeyAlgorithm::Secp256k1 => {
            let key = k256::ecdsa::SigningKey::from_slice(secret).map_err(unusable)?;
            let signature: k256::ecdsa::Signature = key.try_sign(message).map_err(unusable)?;
            Ok(signature.normalize_s().unwrap_or(signature).to_bytes().into())
        }
        KeyAlgorithm::Ristretto255
        | KeyAlgorithm::Ristretto255Share
        | KeyAlgorithm::Ristretto255BlindedShare
        | KeyAlgorithm::Aes128
        | KeyAlgorithm::Aes192
        | KeyAlgorithm::Aes256
        | KeyAlgorithm::HmacSha256
        | KeyAlgorithm::Aes128Cmac
        | KeyAlgorithm::Aes192Cmac
        | KeyAlgorithm::Aes256Cmac => Err(StoreError::NotASigningKey(algorithm)),
    }
}

/// Signs any message with an Ed25519 seed. Only for [`sign`], and for the identity key.
pub(super) fn ed25519(seed: &[u8], message: &[u8]) -> Result<[u8; 64], StoreError> {
    let seed = seed.try_into().map_err(|_| StoreError::Unreadable("a seed has 32 bytes"))?;
    Ok(ed25519_dalek::SigningKey::from_bytes(seed).sign(message).to_bytes())
}
