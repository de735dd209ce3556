//! Operations that a client asks of an attested HSM over its channel, and how the answer is checked.

use ed25519_dalek::{Signer as _, Verifier as _};
use keywitness_circuits::{
    Digest, Error, HsmId, KeyAlgorithm, Timestamp, TrustDomain,
    codec::Writer,
    key_knowledge::{Instance, eddsa},
    transcript::label,
};
use serde::{Deserialize, Serialize};

use crate::{
    channel::{self, AnswerKey, ChannelError},
    identity::{IdentityKey, NotAuthentic},
    token::VerifiedToken,
    wire::{Base64, KeyRef},
};

/// Path of an HSM's channel.
pub const PATH: &str = "/v1/operations";

/// Longest sealed request that an HSM reads, in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;

/// How old a request may be, in seconds.
pub const MAX_AGE: u64 = 60;

/// A client's signing key for operations, derived from its credential. An HSM is given its public half alone: what
/// one HSM learns of a client is of no use at the manager or at another HSM.
pub struct ClientKey(ed25519_dalek::SigningKey);

impl ClientKey {
    /// Derives the key.
    pub fn from_credential(secret: &str) -> Self {
        let seed = zeroize::Zeroizing::new(Digest::of(label::CLIENT_KEY, secret.as_bytes()).0);
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// What an HSM's operator allows.
    ///
    /// # Errors
    /// With a probability of 2^-250.
    pub fn public(&self) -> Result<IdentityKey, Error> {
        IdentityKey::from_bytes(self.0.verifying_key().to_bytes())
    }
}

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OperationRequest {
    /// The client's public key, which the HSM's operator has allowed.
    pub client: IdentityKey,
    /// When the request was made.
    pub created: Timestamp,
    /// What to do.
    pub operation: Operation,
    /// Ed25519 signature of the client's key over trust domain, HSM, time and operation.
    pub signature: Base64,
}

impl OperationRequest {
    /// Signs a request to one HSM.
    ///
    /// # Errors
    /// As [`ClientKey::public`].
    pub fn sign(
        client: &ClientKey,
        trust_domain: &TrustDomain,
        hsm: &HsmId,
        created: Timestamp,
        operation: Operation,
    ) -> Result<Self, Error> {
        let message = operation.signed_message(trust_domain, hsm, created);
        let signature = Base64(client.0.sign(&message).to_bytes().to_vec());
        Ok(Self { client: client.public()?, created, operation, signature })
    }

    /// Signs a request of an HSM to another one: its identity key is the client's, and `sign` signs with it.
    ///
    /// # Errors
    /// What signing says.
    pub fn sign_as<E>(
        identity: IdentityKey,
        (trust_domain, hsm): (&TrustDomain, &HsmId),
        created: Timestamp,
        operation: Operation,
        sign: impl FnOnce(&[u8]) -> Result<[u8; 64], E>,
    ) -> Result<Self, E> {
        let signature = Base64(sign(&operation.signed_message(trust_domain, hsm, created))?.to_vec());
        Ok(Self { client: identity, created, operation, signature })
    }

    /// What an answer can be bound to: the digest of everything that is signed.
    pub fn digest(&self, trust_domain: &TrustDomain, hsm: &HsmId) -> Digest {
        self.operation.digest(trust_domain, hsm, self.created)
    }

    /// Whether it was made within [`MAX_AGE`] seconds of `now`, before or after.
    pub fn is_recent(&self, now: Timestamp) -> bool {
        now.since(self.created).max(self.created.since(now)) <= MAX_AGE
    }

    /// Checks that the client it names made it, for this HSM.
    ///
    /// # Errors
    /// [`NotAuthentic`]
    pub fn check(&self, trust_domain: &TrustDomain, hsm: &HsmId) -> Result<(), NotAuthentic> {
        let message = self.operation.signed_message(trust_domain, hsm, self.created);
        let signature = self.signature.0.as_slice().try_into().map_err(|_| NotAuthentic)?;
        self.client.check(&message, signature)
    }
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
    /// Give copies of keys: asked by another HSM of the cluster, with its identity key.
    Copy {
        /// Who asks.
        hsm: HsmId,
        /// Its channel key (X25519), to which the copies are sealed.
        channel_key: Digest,
        /// Of which keys: at most [`crate::wire::MAX_TRANSFER`].
        keys: Vec<KeyRef>,
    },
}

impl Operation {
    fn digest(&self, trust_domain: &TrustDomain, hsm: &HsmId, created: Timestamp) -> Digest {
        let mut writer = Writer::default();
        writer.value(trust_domain).value(hsm).value(&created);
        match self {
            Self::Sign { key, message } => {
                writer.u8(0).value(&key.key).u32(key.epoch).bytes(&message.0);
            }
            Self::Copy { hsm, channel_key, keys } => {
                writer.u8(1).value(hsm).value(channel_key).u32(keys.len() as u32);
                for key in keys {
                    writer.value(&key.key).u32(key.epoch);
                }
            }
        }
        Digest::of(label::OPERATION, &writer.into_bytes())
    }

    fn signed_message(&self, trust_domain: &TrustDomain, hsm: &HsmId, created: Timestamp) -> Vec<u8> {
        [label::OPERATION.as_bytes(), &[0], &self.digest(trust_domain, hsm, created).0].concat()
    }
}

/// What the HSM answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationAnswer {
    /// 64 bytes: (R, s) or (r, s), each big-endian for ECDSA.
    Signature(Base64),
    /// Copies of keys: a [`crate::transfer::Transfer`] in its canonical encoding.
    Keys(Base64),
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
    client: &ClientKey,
    message: &[u8],
    now: Timestamp,
) -> Result<(Vec<u8>, Pending), OperationError> {
    let appraisal = token.appraisal();
    let attestation = &appraisal.attestation;
    let no_signer = OperationError::NotASigningKey(attestation.algorithm);
    let akpub = appraisal.ear_veraison_key_attestation.as_ref().ok_or(no_signer)?.akpub.0.clone();
    let operation = Operation::Sign { key: attestation.key.clone(), message: Base64(message.to_vec()) };
    let (trust_domain, hsm) = (&attestation.trust_domain, &attestation.hsm);
    let request =
        OperationRequest::sign(client, trust_domain, hsm, now, operation).map_err(|_| OperationError::Malformed)?;
    let plain = serde_json::to_vec(&request).map_err(|_| OperationError::Malformed)?;
    let (sealed, answer) = channel::seal_request(trust_domain, hsm, &token.channel_key(), &plain)?;
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
            OperationAnswer::Keys(_) => Err(OperationError::Malformed),
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
    if message.starts_with(label::RESERVED_PREFIX.as_bytes()) {
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
    fn a_request_is_its_clients_for_one_hsm() {
        let (domain, hsm): (TrustDomain, HsmId) = ("acme.example".parse().unwrap(), "hsm-1".parse().unwrap());
        let client = ClientKey::from_credential("kw_client_x");
        let key = KeyRef { key: "k".parse().unwrap(), epoch: 1 };
        let operation = Operation::Sign { key: key.clone(), message: Base64(b"hello".to_vec()) };
        let request = OperationRequest::sign(&client, &domain, &hsm, Timestamp(5), operation).unwrap();
        assert_eq!(request.client, client.public().unwrap());
        request.check(&domain, &hsm).unwrap();
        request.check(&domain, &"hsm-2".parse().unwrap()).unwrap_err();
        request.check(&"other.example".parse().unwrap(), &hsm).unwrap_err();
        let other = Operation::Sign { key: KeyRef { epoch: 2, ..key }, message: Base64(b"hello".to_vec()) };
        for changed in [
            OperationRequest { created: Timestamp(6), ..request.clone() },
            OperationRequest { operation: other, ..request.clone() },
            OperationRequest { client: ClientKey::from_credential("y").public().unwrap(), ..request.clone() },
            OperationRequest { signature: Base64(vec![0; 64]), ..request.clone() },
            OperationRequest { signature: Base64(vec![]), ..request },
        ] {
            changed.check(&domain, &hsm).unwrap_err();
        }
    }

    #[test]
    fn the_protocols_own_messages_are_told_apart() {
        check_message(b"hello").unwrap();
        check_message(b"keywitness").unwrap();
        check_message(b"keywitness/v1/attest\0").unwrap_err();
        check_message(b"keywitness/").unwrap_err();
    }
}
