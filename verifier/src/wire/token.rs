//! Asking for verification tokens.

use std::{fmt, str::FromStr};

use keywitness_circuits::{Error, HsmId, Nonce, Timestamp};
use serde::{Deserialize, Serialize};

use super::KeyQuery;
use crate::token::Profile;

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
    /// How the token is written.
    #[serde(flatten)]
    pub form: TokenForm,
}

/// How a token is written and signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TokenForm {
    /// The names of its claims.
    #[serde(default)]
    pub profile: Profile,
    /// What signs it.
    #[serde(default)]
    pub alg: TokenAlgorithm,
}

/// A signature algorithm of tokens (RFC 7518, RFC 8037).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum TokenAlgorithm {
    /// ECDSA over P-256 with SHA-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl TokenAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 2] = [Self::Es256, Self::EdDsa];
}

impl fmt::Display for TokenAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        })
    }
}

impl FromStr for TokenAlgorithm {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let same = |algorithm: &Self| algorithm.to_string().eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(same).ok_or(Error::Malformed { what: "algorithm", why: "use ES256 or EdDSA" })
    }
}

/// Makes another token key, which takes over once every checker can know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenKeyRequest {
    /// What it signs with.
    pub alg: TokenAlgorithm,
}

/// What a token key is for now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenKeyState {
    /// Published, and signs from a later time on.
    Next,
    /// Signs.
    Active,
    /// Signs no more, and is published until all that it signed has expired.
    Retiring,
    /// Is published no more.
    Retired,
}

/// A key that signs, will sign or has signed tokens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenKey {
    /// Its name: the thumbprint of RFC 7638.
    pub kid: String,
    /// What it signs with.
    pub alg: TokenAlgorithm,
    /// What it is for now.
    pub state: TokenKeyState,
    /// From when it signs.
    pub signs_from: Timestamp,
    /// From when another signs.
    pub signs_until: Option<Timestamp>,
    /// From when it is published no more.
    pub published_until: Option<Timestamp>,
}

/// The token keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenKeys {
    /// Oldest first.
    pub keys: Vec<TokenKey>,
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
