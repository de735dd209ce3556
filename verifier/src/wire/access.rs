//! Letting people, HSMs and their channels in.

use std::{fmt, str::FromStr};

use keywitness_circuits::{ClusterId, Digest, Error, HsmId, Nonce, Timestamp, transcript::label};
use serde::{Deserialize, Serialize};

use super::Base64;
use crate::identity::IdentityKey;

/// What a bearer credential may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Invites HSMs, makes credentials, revokes.
    Operator,
    /// Asks whether keys are attested, and for verification tokens.
    Client,
    /// Looks, and changes nothing.
    Viewer,
    /// Reads the log with its openings, and witnesses it; sees everything, and changes nothing.
    Auditor,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Operator, Self::Client, Self::Viewer, Self::Auditor];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Operator => "operator",
            Self::Client => "client",
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
        })
    }
}

impl FromStr for Role {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|role| role.to_string() == text)
            .ok_or(Error::Malformed { what: "role", why: "use operator, client, viewer or auditor" })
    }
}

/// The digest under which a bearer secret (credential or join token) is kept.
pub fn secret_digest(secret: &str) -> Digest {
    Digest::of(label::CREDENTIAL, secret.as_bytes())
}

/// Makes a bearer secret: `kw_<kind>_` and 256 random bits.
pub fn new_secret(kind: &str) -> String {
    format!("kw_{kind}_{}", Nonce::random())
}

/// Asks for a credential.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CredentialRequest {
    /// Who will hold it; shown in events.
    pub name: String,
    /// What it may be used for.
    pub role: Role,
}

/// A bearer credential. Shown once; the manager keeps only its digest.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The secret: `authorization: Bearer <secret>`.
    pub secret: String,
    /// What it may be used for.
    pub role: Role,
}

/// Asks for a join token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinTokenRequest {
    /// The cluster that the HSM will belong to.
    pub cluster: ClusterId,
    /// The only HSM that may use it; any name when absent.
    pub hsm: Option<HsmId>,
    /// How long it can be used, in seconds.
    pub valid_for: u64,
}

/// A single-use join token. Shown once; the manager keeps only its digest.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The secret.
    pub secret: String,
    /// When it stops working.
    pub expires_at: Timestamp,
}

/// Enrols an HSM's identity key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The single-use join token.
    pub join_token: String,
    /// The name the HSM takes.
    pub hsm: HsmId,
    /// Its public identity key.
    pub identity_key: IdentityKey,
    /// Its public X25519 channel key.
    pub channel_key: Digest,
    /// [`crate::identity::EnrolmentParts`] signed by the identity key: 64 bytes.
    pub signature: Base64,
}

/// An HSM's place in the trust domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Enrolment {
    /// The HSM.
    pub hsm: HsmId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Which enrolment of that HSM.
    pub revision: u32,
}

/// Says where an HSM's channel can be reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChannelAnnouncement {
    /// Base URL, `http://host:port`.
    pub url: String,
}
