//! The key that signs verification tokens: ES256, made at the first start, kept in the data directory.

use std::{fmt, path::Path};

use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet, KeyAlgorithm, PublicKeyUse, ThumbprintHash},
};
use keywitness_verifier::token::{Claims, TYPE};
use p256::{
    SecretKey,
    pkcs8::{EncodePrivateKey, LineEnding},
};

use crate::{error::StartError, files};

/// Name of the key's file in a data directory: PKCS#8, PEM, mode 0600.
pub const FILE: &str = "token-key.pem";

/// Signs verification tokens.
pub struct Signer {
    key: EncodingKey,
    public: Jwk,
    kid: String,
}

impl Signer {
    /// Reads the key of a data directory, or makes one.
    ///
    /// # Errors
    /// [`StartError`] where the file cannot be read or written, or holds no ES256 key.
    pub fn open(directory: &Path) -> Result<Self, StartError> {
        let path = directory.join(FILE);
        let io = |error| StartError::File { path: path.clone(), error };
        if let Some(pem) = files::read_if_there(&path).map_err(io)? {
            return Self::from_pem(pem.as_bytes());
        }
        let pem = SecretKey::random(&mut rand::rngs::OsRng)
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|error| StartError::TokenKey(error.to_string()))?;
        files::write_private(directory, FILE, pem.as_bytes()).map_err(io)?;
        tracing::info!(path = %path.display(), "made a key that signs verification tokens");
        Self::from_pem(pem.as_bytes())
    }

    fn from_pem(pem: &[u8]) -> Result<Self, StartError> {
        let wrong = |error: jsonwebtoken::errors::Error| StartError::TokenKey(error.to_string());
        let key = EncodingKey::from_ec_pem(pem).map_err(wrong)?;
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).map_err(wrong)?;
        let kid = public.thumbprint(ThumbprintHash::SHA256).map_err(wrong)?;
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        public.common.key_algorithm = Some(KeyAlgorithm::ES256);
        Ok(Self { key, public, kid })
    }

    /// Signs a token's claims.
    ///
    /// # Errors
    /// Where the claims cannot be encoded.
    pub fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.key)
    }

    /// The public keys (RFC 7517).
    pub fn jwks(&self) -> JwkSet {
        JwkSet { keys: vec![self.public.clone()] }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}, secret)", self.kid)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_private_and_named_by_its_thumbprint() {
        let directory = tempfile::tempdir().unwrap();
        let signer = Signer::open(directory.path()).unwrap();
        let mode = std::fs::metadata(directory.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Signer::open(directory.path()).unwrap().kid, signer.kid);
        let jwks = serde_json::to_value(signer.jwks()).unwrap();
        let key = &jwks["keys"][0];
        for (field, value) in [("kty", "EC"), ("crv", "P-256"), ("use", "sig"), ("alg", "ES256"), ("kid", &signer.kid)]
        {
            assert_eq!(key[field], value);
        }
        // RFC 7638: SHA-256 of the required members, in lexicographic order, without white space.
        use sha2::Digest as _;
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, key["x"], key["y"]);
        let thumbprint = data_encoding::BASE64URL_NOPAD.encode(&sha2::Sha256::digest(canonical));
        assert_eq!(signer.kid, thumbprint);
        assert!(!format!("{signer:?}").contains("BEGIN"));
    }
}
