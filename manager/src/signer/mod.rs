//! What signs for the manager: tokens and status lists, and the log's checkpoints.
//!
//! No caller sees a private key. The keys are in files ([`FileKeys`]) or in a PKCS#11 token ([`TokenKeys`]); a [`Guard`]
//! in front of them signs nothing but what each key is for, and no log that is not a continuation of the one before.
//! A guard runs in this process, or in one of its own ([`process`]), where a manager that was taken over cannot go round it.

mod error;
mod files;
mod guard;
mod jose;
mod keys;
mod log;
mod pkcs11;
pub mod process;
mod secret;
#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};

use keywitness_circuits::Digest;
use keywitness_verifier::{
    log::{Checkpoint, Note, VerifierKey},
    wire::TokenAlgorithm,
};
use serde::{Deserialize, Serialize};

pub use error::SignerError;
pub use files::{FILE, FileKeys, LOG_FILE, adopt};
pub use guard::Guard;
pub use jose::{PublicKey, TYPES, jws};
pub(crate) use jose::{compact, signing_input};
pub use keys::Keys;
pub use log::NEWEST;
pub use pkcs11::{Pkcs11Config, TokenKeys};
pub use secret::note_key;

/// Whatever signs for the manager.
pub trait Signer: Send + Sync {
    /// The keys that sign tokens.
    ///
    /// # Errors
    /// [`SignerError`]
    fn keys(&self) -> Result<Vec<PublicKey>, SignerError>;

    /// Makes a key that signs tokens, and keeps it so that it survives a loss of power.
    ///
    /// # Errors
    /// [`SignerError`]
    fn make(&self, algorithm: TokenAlgorithm) -> Result<PublicKey, SignerError>;

    /// Signs with a token key: the signing input of a JWS (RFC 7515, section 5.1) of one of [`TYPES`] whose header names this key,
    /// or, with an EdDSA key, a message to a webhook. 64 bytes: R and S of ECDSA (RFC 7518, section 3.4) or an Ed25519 signature.
    ///
    /// # Errors
    /// [`SignerError`]
    fn sign(&self, kid: &str, message: &[u8]) -> Result<[u8; 64], SignerError>;

    /// As [`Self::sign`], for a caller that may not wait: none where that takes more than a moment, or fails.
    fn sign_at_once(&self, _kid: &str, _message: &[u8]) -> Option<[u8; 64]> {
        None
    }

    /// The key that signs the log's checkpoints.
    fn log_key(&self) -> VerifierKey;

    /// The checkpoint that was signed last.
    ///
    /// # Errors
    /// [`SignerError`]
    fn newest(&self) -> Result<Option<Note>, SignerError>;

    /// Signs a checkpoint, with a proof that its tree begins with that of [`Self::newest`].
    ///
    /// # Errors
    /// [`SignerError`]; [`SignerError::Fork`] where it does not.
    fn sign_checkpoint(&self, checkpoint: &Checkpoint, consistency: &[Digest]) -> Result<Note, SignerError>;
}

/// Where keys are, and whose log they sign.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Where key files are, and what was signed last.
    pub directory: PathBuf,
    /// The log's origin.
    pub origin: String,
    /// The token that holds the keys; files where there is none.
    pub pkcs11: Option<Pkcs11Config>,
}

impl Spec {
    /// The same, for a process that works in another directory.
    ///
    /// # Errors
    /// [`SignerError::Failed`] where this process's own directory is unknown.
    pub fn absolute(mut self) -> Result<Self, SignerError> {
        let absolute = |path: &mut PathBuf| {
            *path = std::path::absolute(&*path).map_err(at(path))?;
            Ok::<_, SignerError>(())
        };
        absolute(&mut self.directory)?;
        if let Some(config) = &mut self.pkcs11 {
            absolute(&mut config.module)?;
            absolute(&mut config.pin_file)?;
            config.paths.iter_mut().try_for_each(absolute)?;
        }
        Ok(self)
    }

    /// Opens the keys, in this process.
    ///
    /// # Errors
    /// [`SignerError`], which says what to do.
    pub fn open(&self) -> Result<Guard, SignerError> {
        let keys: Box<dyn Keys> = match &self.pkcs11 {
            Some(config) => Box::new(TokenKeys::open(config, &self.origin)?),
            None => Box::new(FileKeys::open(&self.directory)?),
        };
        Guard::open(keys, &self.directory, &self.origin)
    }

    /// Opens a PKCS#11 token's library, which wants files and perhaps the network, before this process gives those up.
    fn keys_of_token(&self) -> Result<Option<Box<dyn Keys>>, SignerError> {
        let open = |config| TokenKeys::open(config, &self.origin);
        Ok(self.pkcs11.as_ref().map(open).transpose()?.map(|keys| Box::new(keys) as Box<dyn Keys>))
    }
}

/// A path and what failed there.
fn at(path: &Path) -> impl Fn(std::io::Error) -> SignerError {
    move |error| SignerError::Failed(format!("{}: {error}", path.display()))
}
