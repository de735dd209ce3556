//! Keys in files of the data directory: PKCS#8, PEM, mode 0600.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use ed25519_dalek::Signer as _;
use keywitness_verifier::wire::TokenAlgorithm;
use p256::pkcs8::{
    AlgorithmIdentifierRef, DecodePrivateKey, EncodePrivateKey, LineEnding, ObjectIdentifier, PrivateKeyInfo,
    SecretDocument,
};

use super::{PublicKey, Signer, SignerError};
use crate::files;

/// Name of the first ES256 key's file.
pub const FILE: &str = "token-key.pem";

/// What the other keys' files are called: this, the key's name, `.pem`.
const PREFIX: &str = "token-key-";

/// id-Ed25519 (RFC 8410, section 3).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// A CurvePrivateKey is an OCTET STRING of 32 bytes inside the PKCS#8 one (RFC 8410, section 7).
const CURVE_PRIVATE_KEY: [u8; 2] = [4, 32];

enum Secret {
    Es256(p256::ecdsa::SigningKey),
    EdDsa(ed25519_dalek::SigningKey),
}

impl Secret {
    fn random(algorithm: TokenAlgorithm) -> Self {
        let mut random = rand::rngs::OsRng;
        match algorithm {
            TokenAlgorithm::Es256 => Self::Es256(p256::ecdsa::SigningKey::random(&mut random)),
            TokenAlgorithm::EdDsa => Self::EdDsa(ed25519_dalek::SigningKey::generate(&mut random)),
        }
    }

    fn public(&self) -> PublicKey {
        match self {
            Self::Es256(key) => PublicKey {
                algorithm: TokenAlgorithm::Es256,
                bytes: key.verifying_key().to_encoded_point(false).as_bytes().to_vec(),
            },
            Self::EdDsa(key) => {
                PublicKey { algorithm: TokenAlgorithm::EdDsa, bytes: key.verifying_key().to_bytes().to_vec() }
            }
        }
    }

    fn from_pem(pem: &str) -> Option<Self> {
        if let Ok(key) = p256::SecretKey::from_pkcs8_pem(pem) {
            return Some(Self::Es256(key.into()));
        }
        let (label, document) = SecretDocument::from_pem(pem).ok()?;
        let info = document.decode_msg::<PrivateKeyInfo<'_>>().ok()?;
        let seed = info.private_key.strip_prefix(&CURVE_PRIVATE_KEY)?.try_into().ok()?;
        let right = label == "PRIVATE KEY" && info.algorithm.oid == ED25519;
        right.then(|| Self::EdDsa(ed25519_dalek::SigningKey::from_bytes(seed)))
    }

    fn to_pem(&self) -> Result<impl AsRef<[u8]> + use<>, SignerError> {
        let failed = |error: &dyn fmt::Display| SignerError::Failed(error.to_string());
        match self {
            Self::Es256(key) => p256::SecretKey::from(key.as_nonzero_scalar())
                .to_pkcs8_pem(LineEnding::LF)
                .map_err(|error| failed(&error)),
            Self::EdDsa(key) => {
                let mut curve_key = zeroize::Zeroizing::new([0; 34]);
                let (head, seed) = curve_key.split_at_mut(CURVE_PRIVATE_KEY.len());
                head.copy_from_slice(&CURVE_PRIVATE_KEY);
                seed.copy_from_slice(key.as_bytes());
                let algorithm = AlgorithmIdentifierRef { oid: ED25519, parameters: None };
                let info = PrivateKeyInfo::new(algorithm, curve_key.as_slice());
                let document = SecretDocument::encode_msg(&info).map_err(|error| failed(&error))?;
                document.to_pem("PRIVATE KEY", LineEnding::LF).map_err(|error| failed(&error))
            }
        }
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        match self {
            Self::Es256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_bytes().into()
            }
            Self::EdDsa(key) => key.sign(message).to_bytes(),
        }
    }
}

/// Signs in this process, with keys in files.
pub struct FileSigner {
    directory: PathBuf,
    keys: RwLock<BTreeMap<String, Arc<Secret>>>,
}

impl FileSigner {
    /// Reads the keys of a data directory; there may be none yet.
    ///
    /// # Errors
    /// [`SignerError`] where a file cannot be read, or holds no key.
    pub fn open(directory: &Path) -> Result<Self, SignerError> {
        let failed = |error: std::io::Error| SignerError::Failed(format!("{}: {error}", directory.display()));
        let mut keys = BTreeMap::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) =
                name.to_str().filter(|name| *name == FILE || (name.starts_with(PREFIX) && name.ends_with(".pem")))
            else {
                continue;
            };
            let path = directory.join(name);
            let pem = zeroize::Zeroizing::new(std::fs::read_to_string(&path).map_err(failed)?);
            let secret = Secret::from_pem(&pem).ok_or_else(|| SignerError::NoKey(path.display().to_string()))?;
            keys.insert(secret.public().kid()?, Arc::new(secret));
        }
        Ok(Self { directory: directory.to_owned(), keys: RwLock::new(keys) })
    }
}

impl Signer for FileSigner {
    fn keys(&self) -> Vec<PublicKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).values().map(|secret| secret.public()).collect()
    }

    fn make(&self, algorithm: TokenAlgorithm) -> Result<PublicKey, SignerError> {
        let secret = Secret::random(algorithm);
        let public = secret.public();
        let kid = public.kid()?;
        let name = format!("{PREFIX}{kid}.pem");
        let failed = |error| SignerError::Failed(format!("{}: {error}", self.directory.join(&name).display()));
        files::write_private(&self.directory, &name, secret.to_pem()?.as_ref()).map_err(failed)?;
        tracing::info!(%algorithm, kid, "made a key that signs tokens");
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(kid, Arc::new(secret));
        Ok(public)
    }

    fn sign(&self, kid: &str, message: &[u8]) -> Result<[u8; 64], SignerError> {
        let secret = self.keys.read().unwrap_or_else(PoisonError::into_inner).get(kid).cloned();
        Ok(secret.ok_or_else(|| SignerError::UnknownKey(kid.to_owned()))?.sign(message))
    }
}

impl fmt::Debug for FileSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileSigner({}, secret)", self.directory.display())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_private_found_again_and_named_by_their_thumbprint() {
        let directory = tempfile::tempdir().unwrap();
        let signer = FileSigner::open(directory.path()).unwrap();
        for algorithm in TokenAlgorithm::ALL {
            let public = signer.make(algorithm).unwrap();
            let kid = public.kid().unwrap();
            let path = directory.path().join(format!("{PREFIX}{kid}.pem"));
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let again = FileSigner::open(directory.path()).unwrap();
            assert!(again.keys().contains(&public));
            let signature = again.sign(&kid, b"message").unwrap();
            match algorithm {
                TokenAlgorithm::Es256 => {
                    use p256::ecdsa::signature::Verifier as _;
                    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&public.bytes).unwrap();
                    key.verify(b"message", &p256::ecdsa::Signature::from_slice(&signature).unwrap()).unwrap();
                }
                TokenAlgorithm::EdDsa => {
                    let key: [u8; 32] = public.bytes.as_slice().try_into().unwrap();
                    let key = ed25519_dalek::VerifyingKey::from_bytes(&key).unwrap();
                    key.verify_strict(b"message", &ed25519_dalek::Signature::from_bytes(&signature)).unwrap();
                }
            }
            let jwk = serde_json::to_value(public.jwk().unwrap()).unwrap();
            assert_eq!(
                (&jwk["kid"], &jwk["use"], &jwk["alg"]),
                (&kid.into(), &"sig".into(), &algorithm.to_string().into())
            );
        }
        assert!(matches!(signer.sign("none", b""), Err(SignerError::UnknownKey(_))));
        assert!(!format!("{signer:?}").contains("BEGIN"));
        std::fs::write(directory.path().join(FILE), "noise").unwrap();
        assert!(matches!(FileSigner::open(directory.path()), Err(SignerError::NoKey(_))));
    }
}
