//! Letting people, HSMs and their channels in.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
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

/// Names a credential, and says nothing of its secret: the first 8 bytes of the digest under which it is kept, as 16
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CredentialId([u8; 8]);

impl CredentialId {
    /// The credential that is kept under `digest`.
    pub fn of(digest: &Digest) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = digest.0;
        Self([a, b, c, d, e, f, g, h])
    }

    /// What the digest begins with.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for CredentialId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or(Error::Malformed { what: "credential's id", why: "use 16 hexadecimal digits, lower case" })
    }
}

impl From<CredentialId> for String {
    fn from(id: CredentialId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for CredentialId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

/// Asks for a credential.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CredentialRequest {
    /// Who will hold it; shown where credentials are listed.
    pub name: String,
    /// What it may be used for.
    pub role: Role,
    /// The clusters that it is good for, 1 to 64; every cluster when absent.
    #[serde(default)]
    pub clusters: Option<Vec<ClusterId>>,
    /// How long it is good, in seconds; until it is withdrawn when absent.
    #[serde(default)]
    pub valid_for: Option<u64>,
}

impl CredentialRequest {
    /// Asks for a credential for every cluster, without an end.
    pub fn new(name: impl Into<String>, role: Role) -> Self {
        Self { name: name.into(), role, clusters: None, valid_for: None }
    }
}

/// A bearer credential. Shown once; the manager keeps only its digest.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The secret: `authorization: Bearer <secret>`.
    pub secret: String,
    /// What it may be used for.
    pub role: Role,
    /// Its name where credentials are listed and withdrawn.
    pub id: CredentialId,
    /// When it stops working, if it does by itself.
    pub expires_at: Option<Timestamp>,
}

/// What is known of a credential: everything but its secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CredentialInfo {
    /// Its name.
    pub id: CredentialId,
    /// Who holds it.
    pub name: String,
    /// What it may be used for.
    pub role: Role,
    /// The clusters that it is good for; every cluster when absent.
    pub clusters: Option<Vec<ClusterId>>,
    /// When it was made, if the manager noted it: since schema version 6.
    pub created_at: Option<Timestamp>,
    /// The operator who made it; none for the first.
    pub created_by: Option<CredentialId>,
    /// When it stops working, if it does by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was withdrawn, if it was.
    pub withdrawn_at: Option<Timestamp>,
    /// The operator who withdrew it.
    pub withdrawn_by: Option<CredentialId>,
}

/// Every credential, in the order of ids.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CredentialList {
    /// The credentials that the caller may see.
    pub credentials: Vec<CredentialInfo>,
}

/// Asks for a join token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinTokenRequest {
    /// The cluster that the HSM will belong to.
    pub cluster: ClusterId,
    /// The only HSM that may use it; any name when absent.
    pub hsm: Option<HsmId>,
    /// Enrol this HSM again, with another identity: the only way back for one that is revoked. Needs `hsm`.
    #[serde(default)]
    pub reenrol: bool,
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

/// Asks for a client certificate, with which an HSM shows on each connection who it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// A fresh P-256 public key of the HSM for TLS alone: SPKI, DER (RFC 5480).
    pub public_key: Base64,
}

/// A client certificate for `urn:keywitness:<trust domain>:hsm:<HSM>`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HsmCertificate {
    /// The certificate, DER (RFC 5280).
    pub certificate: Base64,
    /// When it ends.
    pub expires_at: Timestamp,
}
