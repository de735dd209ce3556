//! What a store file holds, in memory and encoded.

use keywitness_circuits::{KeyAttributes, codec::Canonical};
use keywitness_verifier::wire::KeyRef;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{KeyEntry, Membership, StoreError};
use crate::memory::LockedBytes;

/// Everything that a store keeps.
#[derive(Serialize, Deserialize)]
pub(super) struct Content {
    /// Seed of the identity key (Ed25519).
    #[serde(with = "locked")]
    pub(super) identity: LockedBytes,
    /// The channel key's secret (X25519).
    #[serde(with = "locked")]
    pub(super) channel: LockedBytes,
    /// Which HSM this is.
    pub(super) membership: Option<Membership>,
    /// The keys, in order of name and epoch.
    pub(super) keys: Vec<StoredKey>,
}

/// One key at one epoch.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredKey {
    /// Name and epoch.
    pub(super) key: KeyRef,
    /// What the store says about it; encoded canonically, so that the order of an enum is no part of the format.
    #[serde(with = "canonical")]
    pub(super) attributes: KeyAttributes,
    /// A seed, a scalar or a symmetric key.
    #[serde(with = "locked")]
    pub(super) secret: LockedBytes,
}

impl StoredKey {
    /// The key without its secret.
    pub(super) fn entry(&self) -> KeyEntry {
        KeyEntry { key: self.key.clone(), attributes: self.attributes.clone() }
    }
}

impl Content {
    /// The encoding, in a buffer that is wiped and never grows, so that it leaves no copy behind.
    pub(super) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let mut capacity = 4096 + 256 * self.keys.len();
        loop {
            let mut buffer = Zeroizing::new(vec![0; capacity]);
            match postcard::to_slice(self, &mut buffer).map(|written| written.len()) {
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(buffer);
                }
                Err(postcard::Error::SerializeBufferFull) => capacity *= 2,
                Err(_) => return Err(StoreError::Sealing("its content has no encoding")),
            }
        }
    }

    /// Reads an encoding that was authenticated.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(content, _)| content)
    }
}

/// Secrets go straight between locked memory and a wiped buffer.
mod locked {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::LockedBytes;

    pub(super) fn serialize<S: Serializer>(secret: &LockedBytes, serializer: S) -> Result<S::Ok, S::Error> {
        secret.expose(|bytes| serializer.serialize_bytes(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LockedBytes, D::Error> {
        <&[u8]>::deserialize(deserializer).map(LockedBytes::new)
    }
}

mod canonical {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use super::Canonical;

    pub(super) fn serialize<T: Canonical, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&value.to_bytes())
    }

    pub(super) fn deserialize<'de, T: Canonical, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        T::from_bytes(<&[u8]>::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
