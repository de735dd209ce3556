//! Trust anchors: what an auditor knows of a manager from elsewhere, and holds everything else against.

use std::collections::BTreeSet;

use jsonwebtoken::jwk::{Jwk, JwkSet, ThumbprintHash};
use keywitness_circuits::{Digest, ManagerId, TrustDomain};
use keywitness_verifier::identity::Audience;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Accepted;

/// A file of trust anchors, in JSON. It is to be compared over another channel than the one that it came over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchors {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Its manager.
    pub manager: ManagerId,
    /// The key that signs the log's checkpoints, as a note verifier key: `name+hash+key`.
    pub log: String,
    /// The keys of witnesses, as note verifier keys.
    #[serde(default)]
    pub witnesses: Vec<String>,
    /// How many of the witnesses must have cosigned a checkpoint.
    #[serde(default)]
    pub cosignatures: usize,
    /// Thumbprints (RFC 7638, SHA-256) of the keys that sign tokens and status lists.
    pub token_keys: BTreeSet<String>,
    /// Digests of the verifying keys that proofs may be made under.
    pub verifying_keys: BTreeSet<Digest>,
}

impl Anchors {
    /// Reads anchors.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let anchors: Self = serde_json::from_slice(bytes).map_err(|error| format!("the trust anchors: {error}"))?;
        if anchors.cosignatures > anchors.witnesses.len() {
            return Err(format!(
                "the trust anchors ask for {} cosignatures, and name {} witnesses",
                anchors.cosignatures,
                anchors.witnesses.len()
            ));
        }
        if anchors.verifying_keys.is_empty() {
            return Err("the trust anchors accept no verifying key, so that no proof can count".to_owned());
        }
        Ok(anchors)
    }

    /// Digest of the anchors.
    pub fn digest(&self) -> Digest {
        // A struct of strings and numbers has a JSON encoding.
        Digest(Sha256::digest(serde_json::to_vec(self).unwrap_or_default()).into())
    }

    /// The manager.
    pub fn audience(&self) -> Audience {
        Audience { trust_domain: self.trust_domain.clone(), manager: self.manager.clone() }
    }

    /// What a replay holds configurations against.
    pub fn accepted(&self) -> Accepted {
        let verifying_keys = self.verifying_keys.iter().copied().collect();
        Accepted { audience: Some(self.audience()), verifying_keys }
    }

    /// Those of a set of keys that are anchored, each under its thumbprint as name, whatever name it came with.
    pub fn anchored(&self, keys: &JwkSet) -> JwkSet {
        let anchored = keys.keys.iter().filter_map(|key| {
            let name = thumbprint(key)?;
            let mut key = self.token_keys.contains(&name).then(|| key.clone())?;
            key.common.key_id = Some(name);
            Some(key)
        });
        JwkSet { keys: anchored.collect() }
    }
}

/// The thumbprint of a key (RFC 7638, SHA-256).
pub fn thumbprint(key: &Jwk) -> Option<String> {
    key.thumbprint(ThumbprintHash::SHA256).ok()
}
