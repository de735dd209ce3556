//! Where private keys are, and what they can be asked for. Only a [`Guard`](super::Guard) asks.

use keywitness_verifier::wire::TokenAlgorithm;

use super::{PublicKey, SignerError};

/// Holds private keys, which never leave it.
pub trait Keys: Send + Sync {
    /// The keys that sign tokens.
    fn list(&self) -> Vec<PublicKey>;

    /// What a key signs tokens with, if it is there.
    fn algorithm(&self, kid: &str) -> Option<TokenAlgorithm>;

    /// Makes a key that signs tokens, and keeps it so that it survives a loss of power.
    ///
    /// # Errors
    /// [`SignerError`]
    fn make(&self, algorithm: TokenAlgorithm) -> Result<PublicKey, SignerError>;

    /// Signs with a key that signs tokens.
    ///
    /// # Errors
    /// [`SignerError::UnknownKey`], or what fails.
    fn sign(&self, kid: &str, message: &[u8]) -> Result<[u8; 64], SignerError>;

    /// The public half of the log's Ed25519 key, which is made where there is none.
    ///
    /// # Errors
    /// [`SignerError`]
    fn log_key(&self) -> Result<[u8; 32], SignerError>;

    /// Whether the log's key is made together with a file that says that it has signed nothing.
    fn marks_log_key(&self) -> bool {
        false
    }

    /// Signs with the log's key.
    ///
    /// # Errors
    /// [`SignerError`]
    fn sign_log(&self, message: &[u8]) -> Result<[u8; 64], SignerError>;
}
