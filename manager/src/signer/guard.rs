//! What stands before the keys: each signs what it is for, and nothing else.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use keywitness_circuits::Digest;
use keywitness_verifier::{
    log::{Algorithm, Checkpoint, Note, VerifierKey},
    wire::TokenAlgorithm,
};

use super::{Keys, PublicKey, Signer, SignerError, jose, log::SignedLog};

/// Most token keys. Rotation makes a few a year; whoever asks for more fills a disk.
const MAX_KEYS: usize = 1024;

/// A signer over keys, in this process.
pub struct Guard {
    keys: Box<dyn Keys>,
    key: VerifierKey,
    log: Mutex<SignedLog>,
    making: Mutex<()>,
}

impl Guard {
    /// Opens the signer for the log of an origin, over these keys; `directory` has the checkpoint that was signed last.
    ///
    /// # Errors
    /// [`SignerError`] where the log has no key and none can be made, and where that checkpoint is not this key's.
    pub fn open(keys: Box<dyn Keys>, directory: &Path, origin: &str) -> Result<Self, SignerError> {
        let public = keys.log_key()?;
        let key = VerifierKey::new(origin, Algorithm::Ed25519, &public);
        let key = key.map_err(|error| SignerError::Failed(format!("the log's key: {error}")))?;
        let log = Mutex::new(SignedLog::open(directory, &key, keys.marks_log_key())?);
        Ok(Self { keys, key, log, making: Mutex::new(()) })
    }

    fn log(&self) -> MutexGuard<'_, SignedLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signer for Guard {
    fn keys(&self) -> Result<Vec<PublicKey>, SignerError> {
        Ok(self.keys.list())
    }

    fn make(&self, algorithm: TokenAlgorithm) -> Result<PublicKey, SignerError> {
        let _one = self.making.lock();
        if self.keys.list().len() >= MAX_KEYS {
            return Err(SignerError::Refused(format!("there are {MAX_KEYS} token keys; remove old ones")));
        }
        self.keys.make(algorithm)
    }

    fn sign(&self, kid: &str, message: &[u8]) -> Result<[u8; 64], SignerError> {
        let algorithm = self.keys.algorithm(kid).ok_or_else(|| SignerError::UnknownKey(kid.to_owned()))?;
        jose::check(kid, algorithm, message)?;
        self.keys.sign(kid, message)
    }

    fn log_key(&self) -> VerifierKey {
        self.key.clone()
    }

    fn newest(&self) -> Result<Option<Note>, SignerError> {
        Ok(self.log().newest().cloned())
    }

    fn sign_checkpoint(&self, checkpoint: &Checkpoint, consistency: &[Digest]) -> Result<Note, SignerError> {
        self.log().sign(self.keys.as_ref(), &self.key, checkpoint, consistency)
    }
}
