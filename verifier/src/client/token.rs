//! Verification tokens, what they rest on, and the keys that sign them.

use jsonwebtoken::jwk::JwkSet;

use super::{Caller, ClientError, ManagerClient};
use crate::{
    bundle,
    wire::{self, path},
};

impl ManagerClient {
    /// The keys that sign verification tokens. Anyone.
    pub fn jwks(&self) -> Result<JwkSet, ClientError> {
        self.get(Caller::Anyone, path::JWKS)
    }

    /// Asks for a verification token. Client.
    pub fn token(&self, request: &wire::TokenRequest) -> Result<wire::TokenResponse, ClientError> {
        self.send(Caller::Bearer, "POST", path::TOKENS, request)
    }

    /// What a token rests on, for whoever will check it without the manager. Client or auditor.
    pub fn bundle(&self, request: &bundle::BundleRequest) -> Result<bundle::Bundle, ClientError> {
        self.send(Caller::Bearer, "POST", path::BUNDLES, request)
    }

    /// Makes another token key. Operator.
    pub fn rotate_token_key(&self, request: &wire::TokenKeyRequest) -> Result<wire::TokenKey, ClientError> {
        self.send(Caller::Bearer, "POST", path::TOKEN_KEYS, request)
    }

    /// The token keys. Operator.
    pub fn token_keys(&self) -> Result<wire::TokenKeys, ClientError> {
        self.get(Caller::Bearer, path::TOKEN_KEYS)
    }
}
