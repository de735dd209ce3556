//! Audit bundles: one file that shows, on a machine which has never seen the manager, what a token rested on at a time.
//!
//! A bundle holds the token, the openings of the log's entries that the token rests on (each HSM's and key's enrolment, the
//! challenge, the attestation with its envelope) with their places in the log under one signed checkpoint, the keys that
//! sign tokens, and the status list. Nothing in it is to be believed: whoever checks it holds all of it against trust
//! anchors. So the identity key and the instance come from the log, never from the bundle's word.
//!
//! No configuration is in it: which verifying keys count is for the trust anchors to say.

use jsonwebtoken::jwk::JwkSet;
use keywitness_circuits::{Digest, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::wire::Base64;

/// The one format that this build writes and reads.
pub const FORMAT: &str = "keywitness-bundle/1";

/// Longest bundle that is read, in bytes.
pub const MAX_BUNDLE: usize = 16 * 1024 * 1024;

/// What shows that a token was right.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// [`FORMAT`].
    pub format: String,
    /// When it was made: the time as of which it is checked, where no other is asked for.
    pub as_of: Timestamp,
    /// The verification token.
    pub token: String,
    /// The manager's key set.
    pub keys: JwkSet,
    /// The status list that the token names, as it was at `as_of`: signed after the token was issued, and not after `as_of`.
    pub status_list: String,
    /// What the token rests on.
    pub entries: Vec<BundledEntry>,
}

/// An entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledEntry {
    /// Its opening.
    pub opening: Base64,
    /// Its place in the log (C2SP tlog-proof), under the checkpoint that all entries of the bundle share.
    pub proof: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    bundle: Bundle,
    /// SHA-256 of the bundle's JSON: tells damage from lies.
    sha256: Digest,
}

impl Bundle {
    /// The bundle as a file.
    pub fn to_file(&self) -> Vec<u8> {
        let file = File { sha256: self.digest(), bundle: self.clone() };
        // Structs of strings and numbers have a JSON encoding.
        let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads a file that [`Self::to_file`] has written, to the byte.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn from_file(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_BUNDLE {
            return Err(format!("a bundle has at most {MAX_BUNDLE} bytes"));
        }
        let file: File = serde_json::from_slice(bytes).map_err(|error| format!("this is no audit bundle: {error}"))?;
        if file.bundle.format != FORMAT {
            return Err(format!("the bundle has format {:?}, and this program reads {FORMAT:?}", file.bundle.format));
        }
        if file.sha256 != file.bundle.digest() || file.bundle.to_file() != bytes {
            return Err("the bundle is damaged: it is not what its checksum was made of".to_owned());
        }
        Ok(file.bundle)
    }

    fn digest(&self) -> Digest {
        Digest(Sha256::digest(serde_json::to_vec(self).unwrap_or_default()).into())
    }
}

/// Asks for a bundle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BundleRequest {
    /// A verification token of this manager, in force.
    pub token: String,
    /// How many witnesses must have cosigned the checkpoint that the bundle rests on.
    #[serde(default)]
    pub cosignatures: usize,
}
