//! Operations that a client asks of an attested HSM over its channel, and how the answer is checked.

use ed25519_dalek::Verifier as _;
use keywitness_circuits::{
    Error, HsmId, KeyAlgorithm, Timestamp, TrustDomain,
    key_knowledge::{Instance, eddsa},
};
use serde::{Deserialize, Serialize};

use crate::{
    channel::{self, AnswerKey, ChannelError},
    token::VerifiedToken,
    wire::{Base64, KeyRef},
};

/// Path of an HSM's channel.
pub const PATH: &str = "/v1/operations";

/// Longest sealed request that an HSM reads, in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;

/// How old a request may be, in seconds.
pub const MAX_AGE: u64 = 60;

/// What a client asks.
#[derive(Serialize, Deserialize)]
pub struct OperationRequest {
    /// The client's credential, which the HSM's operator has allowed.
    pub credential: String,
    /// When the request was made.
    pub created: Timestamp,
    /// What to do.
    pub operation: Operation,
}

/// An operation on a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Sign a message: Ed25519 (RFC 8032), or ECDSA with SHA-256 for P-256 and secp256k1.
    Sign {
        /// With which key.
        key: KeyRef,
        /// What.
        message: Base64,
    },
}

/// What the HSM answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationAnswer {
    /// 64 bytes: (R, s) or (r, s), each big-endian for ECDSA.
    Signature(Base64),
    /// Why not.
    Refused(String),
}

/// Why an operation's answer is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// The answer does not come from the holder of the channel key that the token names.
    #[error("the answer does not come from the HSM that the token names")]
    Channel(#[from] ChannelError),
    /// The answer cannot be read.
    #[error("the answer cannot be read")]
    Malformed,
    /// The HSM refused.
    #[error("the HSM refused: {0}")]
    Refused(String),
    /// The token's key is not one that signs.
    #[error("a {0} key does not sign")]
    NotASigningKey(KeyAlgorithm),
    /// The signature is wrong.
    #[error("the signature does not verify under the attested key")]
    Signature,
}

/// A request on its way, and what is needed to check its answer.
pub struct Pending {
    answer: AnswerKey,
    algorithm: KeyAlgorithm,
    akpub: Vec<u8>,
    message: Vec<u8>,
}

/// Seals a request to sign `message` to the HSM that `token` names. Gives the bytes to send to [`PATH`].
///
/// # Errors
/// [`OperationError::NotASigningKey`], or [`OperationError::Channel`] for an unusable channel key.
pub fn request_signature(
    token: &VerifiedToken,
    credential: &str,
    message: &[u8],
    now: Timestamp,
) -> Result<(Vec<u8>, Pending), OperationError> {
    let appraisal = token.appraisal();
    let attestation = &appraisal.attestation;
    let no_signer = OperationError::NotASigningKey(attestation.algorithm);
    let akpub = appraisal.ear_veraison_key_attestation.as_ref().ok_or(no_signer)?.akpub.0.clone();
    let request = OperationRequest {
        credential: credential.to_owned(),
        created: now,
        operation: Operation::Sign { key: attestation.key.clone(), message: Base64(message.to_vec()) },
    };
    let plain = zeroize::Zeroizing::new(serde_json::to_vec(&request).map_err(|_| OperationError::Malformed)?);
    let (sealed, answer) =
        channel::seal_request(&attestation.trust_domain, &attestation.hsm, &token.channel_key(), &plain)?;
    Ok((sealed, Pending { answer, algorithm: attestation.algorithm, akpub, message: message.to_vec() }))
}

impl Pending {
    /// Opens the answer and checks the signature under the attested key.
    ///
    /// # Errors
    /// Every way in which the answer can be wrong is its own [`OperationError`].
    pub fn check(self, sealed: &[u8]) -> Result<Vec<u8>, OperationError> {
        let answer = self.answer.open(sealed)?;
        match serde_json::from_slice(&answer).map_err(|_| OperationError::Malformed)? {
            OperationAnswer::Refused(why) => Err(OperationError::Refused(why)),
            OperationAnswer::Signature(Base64(signature)) => {
                if verify_signature(self.algorithm, &self.akpub, &self.message, &signature) {
                    Ok(signature)
                } else {
                    Err(OperationError::Signature)
                }
            }
        }
    }
}

/// Opens a sealed request at the HSM.
///
/// # Errors
/// [`OperationError::Channel`], [`OperationError::Malformed`]
pub fn open_request(
    trust_domain: &TrustDomain,
    hsm: &HsmId,
    channel_secret: &[u8; 32],
    sealed: &[u8],
) -> Result<(OperationRequest, AnswerKey), OperationError> {
    let (plain, answer) = channel::open_request(trust_domain, hsm, channel_secret, sealed)?;
    let plain = zeroize::Zeroizing::new(plain);
    Ok((serde_json::from_slice(&plain).map_err(|_| OperationError::Malformed)?, answer))
}

/// Whether `signature` is the key's over `message`. `spki` is the DER SubjectPublicKeyInfo of a token.
pub fn verify_signature(algorithm: KeyAlgorithm, spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    check_signature(algorithm, spki, message, signature).unwrap_or(false)
}

fn check_signature(algorithm: KeyAlgorithm, spki: &[u8], message: &[u8], signature: &[u8]) -> Option<bool> {
    use p256::pkcs8::DecodePublicKey;
    Some(match algorithm {
        KeyAlgorithm::Ed25519 => {
            let (_, public_key) = spki.split_at_checked(spki.len().checked_sub(32)?)?;
            let instance = Instance::public_key(algorithm, public_key).ok()?;
            instance.spki().ok()?? == spki && eddsa::verify_signature(public_key, message, signature.try_into().ok()?)
        }
        KeyAlgorithm::P256 => {
            let key = p256::ecdsa::VerifyingKey::from_public_key_der(spki).ok()?;
            key.verify(message, &p256::ecdsa::Signature::from_slice(signature).ok()?).is_ok()
        }
        KeyAlgorithm::Secp256k1 => {
            let key = k256::ecdsa::VerifyingKey::from_public_key_der(spki).ok()?;
            key.verify(message, &k256::ecdsa::Signature::from_slice(signature).ok()?).is_ok()
        }
        _ => return None,
    })
}

/// A message that begins as the protocol's own do: an HSM never signs one for a client, or a client could
/// have it make an attestation.
///
/// # Errors
/// [`Error::Malformed`] for such a message.
pub fn check_message(message: &[u8]) -> Result<(), Error> {
    if message.starts_with(keywitness_circuits::transcript::label::RESERVED_PREFIX.as_bytes()) {
        return Err(Error::Malformed {
            what: "message",
            why: "messages that begin with keywitness/ are the protocol's own",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use ed25519_dalek::Signer as _;
    use p256::pkcs8::EncodePublicKey as _;

    use super::*;

    /// A key of each signing algorithm, with its signature over `message`.
    fn signed(message: &[u8]) -> [(KeyAlgorithm, Vec<u8>, Vec<u8>); 3] {
        let ed25519 = ed25519_dalek::SigningKey::from_bytes(&[5; 32]);
        let public = Instance::public_key(KeyAlgorithm::Ed25519, ed25519.verifying_key().as_bytes()).unwrap();
        let p256 = p256::ecdsa::SigningKey::from_slice(&[5; 32]).unwrap();
        let k256 = k256::ecdsa::SigningKey::from_slice(&[5; 32]).unwrap();
        let (first, second): (p256::ecdsa::Signature, k256::ecdsa::Signature) =
            (p256.sign(message), k256.sign(message));
        let spki = |der: p256::pkcs8::Document| der.to_vec();
        [
            (KeyAlgorithm::Ed25519, public.spki().unwrap().unwrap(), ed25519.sign(message).to_bytes().to_vec()),
            (KeyAlgorithm::P256, spki(p256.verifying_key().to_public_key_der().unwrap()), first.to_bytes().to_vec()),
            (
                KeyAlgorithm::Secp256k1,
                spki(k256.verifying_key().to_public_key_der().unwrap()),
                second.to_bytes().to_vec(),
            ),
        ]
    }

    #[test]
    fn a_signature_holds_for_its_key_algorithm_and_message() {
        let cases = signed(b"hello");
        for (algorithm, spki, signature) in &cases {
            assert!(verify_signature(*algorithm, spki, b"hello", signature), "{algorithm}");
            assert!(!verify_signature(*algorithm, spki, b"hullo", signature), "{algorithm}");
            for at in 0..signature.len() {
                let mut changed = signature.clone();
                changed[at] ^= 1;
                assert!(!verify_signature(*algorithm, spki, b"hello", &changed), "{algorithm}: byte {at}");
            }
            for (other, foreign, _) in cases.iter().filter(|(other, ..)| other != algorithm) {
                assert!(!verify_signature(*other, spki, b"hello", signature), "{algorithm} as {other}");
                assert!(!verify_signature(*algorithm, foreign, b"hello", signature), "{algorithm}");
            }
            for noise in [&[][..], &signature[..63], &[0; 64], &[0xff; 64]] {
                assert!(!verify_signature(*algorithm, spki, b"hello", noise), "{algorithm}");
            }
            assert!(!verify_signature(*algorithm, &[], b"hello", signature), "{algorithm}");
        }
        assert!(!verify_signature(KeyAlgorithm::Aes256, &cases[0].1, b"hello", &cases[0].2));
    }

    #[test]
    fn the_protocols_own_messages_are_told_apart() {
        check_message(b"hello").unwrap();
        check_message(b"keywitness").unwrap();
        check_message(b"keywitness/v1/attest\0").unwrap_err();
        check_message(b"keywitness/").unwrap_err();
    }
}
