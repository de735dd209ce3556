//! What an appraisal says, for records and tokens.

use std::{collections::BTreeMap, fmt};

use data_encoding::HEXLOWER_PERMISSIVE;
use keywitness_circuits::{Digest, Error, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Format, TrustVector};

/// Bytes that are written in hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub Vec<u8>);

impl TryFrom<String> for Bytes {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map(Self)
            .map_err(|_| Error::Malformed { what: "hexadecimal text", why: "it is not hexadecimal" })
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.to_string()
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER_PERMISSIVE.encode(&self.0))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How far evidence is bound to the claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Binding {
    /// What the device signed carries the claim context's digest: the device answered this challenge.
    Context,
    /// What the device signed names the claimed key, and no claim: the key was made or seen there at some time. Freshness
    /// comes from the claim's own proof alone.
    Key,
}

/// What evidence says, for records and tokens. What it does not say is absent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Facts {
    /// Who made the device and vouches for it.
    pub vendor: String,
    /// One name for the device for as long as it keeps its identity: the format, a colon, and what its vendor knows it by. None
    /// where the evidence does not tell one device from another; no HSM is enrolled with such a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Version of the firmware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// Measurements of what runs, by the vendor's names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub measurements: BTreeMap<String, Bytes>,
    /// Whether the key could leave the device, wrapped or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extractable: Option<bool>,
    /// Whether the key was never extractable since it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub never_extractable: Option<bool>,
    /// Whether the key was made in the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<bool>,
    /// Whether a debugger may look in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug: Option<bool>,
    /// The vendor's word on the patch level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcb_status: Option<String>,
    /// The vendor's security advisories that apply.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advisories: Vec<String>,
    /// When the device signed, by its own clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<Timestamp>,
}

/// What is kept of an appraisal. Anyone who has the evidence and the policy can come to it again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The evidence's format.
    pub format: Format,
    /// [`super::Evidence::digest`]
    pub evidence: Digest,
    /// [`super::EvidenceContext::digest`], or that of a claim without evidence.
    pub context: Digest,
    /// When it was appraised.
    pub at: Timestamp,
    /// How far it is bound to that context.
    pub binding: Binding,
    /// The trustworthiness claims.
    pub trust: TrustVector,
    /// Whether what the device signed names the key. Other evidence is of the platform alone.
    pub names_key: bool,
    /// What it says.
    pub facts: Facts,
}
