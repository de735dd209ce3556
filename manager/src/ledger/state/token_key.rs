//! The keys that sign tokens: public parts, and when each signs and is published.

use keywitness_circuits::Timestamp;
use keywitness_verifier::wire::{TokenAlgorithm, TokenKey, TokenKeyState};
use serde::{Deserialize, Serialize};

use super::State;
use crate::ledger::tables::Fault;

/// A token key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenKeyRow {
    /// Its name: the thumbprint of RFC 7638.
    pub kid: String,
    /// What it signs with.
    pub algorithm: TokenAlgorithm,
    /// Its public part: an uncompressed SEC1 point, or 32 bytes of Ed25519.
    pub public: Vec<u8>,
    /// From when it signs.
    pub signs_from: Timestamp,
    /// From when another signs.
    pub signs_until: Option<Timestamp>,
    /// From when it is published no more: all that it signed has expired.
    pub published_until: Option<Timestamp>,
}

impl TokenKeyRow {
    /// What it is for at a time.
    pub fn state(&self, at: Timestamp) -> TokenKeyState {
        let over = |end: Option<Timestamp>| end.is_some_and(|end| end <= at);
        if over(self.published_until) {
            TokenKeyState::Retired
        } else if over(self.signs_until) {
            TokenKeyState::Retiring
        } else if self.signs_from <= at {
            TokenKeyState::Active
        } else {
            TokenKeyState::Next
        }
    }

    /// As it is shown.
    pub fn shown(&self, at: Timestamp) -> TokenKey {
        let Self { kid, algorithm, signs_from, signs_until, published_until, .. } = self;
        TokenKey {
            kid: kid.clone(),
            alg: *algorithm,
            state: self.state(at),
            signs_from: *signs_from,
            signs_until: *signs_until,
            published_until: *published_until,
        }
    }
}

impl State<'_> {
    /// Every token key, oldest first.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn token_keys(&self) -> Result<Vec<TokenKeyRow>, Fault> {
        self.all(&[])
    }

    /// The key that signs at a time.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn signing_key(&self, algorithm: TokenAlgorithm, at: Timestamp) -> Result<Option<TokenKeyRow>, Fault> {
        let active = |row: &TokenKeyRow| row.algorithm == algorithm && row.state(at) == TokenKeyState::Active;
        Ok(self.token_keys()?.into_iter().find(active))
    }
}
