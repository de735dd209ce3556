//! Asking for verification tokens.

use keywitness_circuits::{HsmId, Nonce, Timestamp};
use serde::{Deserialize, Serialize};

use super::KeyQuery;

/// Asks for a verification token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenRequest {
    /// The key, its cluster, the HSM and the greatest age that counts.
    #[serde(flatten)]
    pub query: KeyQuery,
    /// Who will check the token.
    pub audience: String,
    /// The client's nonce: comes back in the token.
    pub nonce: Nonce,
}

/// A verification token, and where the HSM it speaks of can be reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenResponse {
    /// The signed token (JWT).
    pub token: String,
    /// When it expires.
    pub expires_at: Timestamp,
    /// The HSM that it speaks of.
    pub hsm: HsmId,
    /// Where that HSM's channel is. Not signed, and need not be: the channel key in the token decides who can answer.
    pub channel_url: Option<String>,
}
