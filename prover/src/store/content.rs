//! What a store file holds, in memory and encoded.

use keywitness_circuits::{KeyAttributes, KeyOrigin, TrustDomain, codec::Canonical};
use keywitness_isolation::LockedBytes;
use keywitness_verifier::wire::KeyRef;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{KeyEntry, Membership, StoreError};

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
    /// A seed, a scalar or a symmetric key; of a share, the share and then the encoding of its instance.
    #[serde(with = "locked")]
    pub(super) secret: LockedBytes,
    /// The master that a derived key comes from, and the trust domain that it was derived for; of format 1 by a list
    /// behind everything else.
    #[serde(skip)]
    pub(super) derivation: Option<Derivation>,
}

/// Where a derived key comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Derivation {
    /// The master key, at the epoch it had.
    pub(super) master: KeyRef,
    /// The trust domain that the derivation names.
    pub(super) trust_domain: TrustDomain,
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
            match self.write(&mut buffer) {
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(buffer);
                }
                Err(postcard::Error::SerializeBufferFull) => capacity *= 2,
                Err(_) => return Err(StoreError::Sealing("its content has no encoding")),
            }
        }
    }

    fn write(&self, buffer: &mut [u8]) -> postcard::Result<usize> {
        let length = postcard::to_slice(self, buffer)?.len();
        let derived = |held: &StoredKey| held.derivation.clone().map(|derivation| (held.key.clone(), derivation));
        let derivations: Vec<_> = self.keys.iter().filter_map(derived).collect();
        if derivations.is_empty() {
            return Ok(length);
        }
        let rest = buffer.get_mut(length..).unwrap_or_default();
        Ok(length + postcard::to_slice(&derivations, rest)?.len())
    }

    /// Reads an encoding that was authenticated. A list of derivations follows it where there are derived keys: stores
    /// that have none are as they were before keys could be derived.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut content, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        if !rest.is_empty() {
            let (derivations, rest) = postcard::take_from_bytes::<Vec<(KeyRef, Derivation)>>(rest).ok()?;
            if !rest.is_empty() {
                return None;
            }
            for (key, derivation) in derivations {
                content.keys.iter_mut().find(|held| held.key == key)?.derivation = Some(derivation);
            }
        }
        let sound = |held: &StoredKey| (held.attributes.origin == KeyOrigin::Derived) == held.derivation.is_some();
        content.keys.iter().all(sound).then_some(content)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use keywitness_circuits::KeyAlgorithm;

    use super::*;

    fn key(name: &str) -> KeyRef {
        KeyRef { key: name.parse().unwrap(), epoch: 1 }
    }

    fn held(name: &str, derivation: Option<Derivation>) -> StoredKey {
        let origin = if derivation.is_some() { KeyOrigin::Derived } else { KeyOrigin::Generated };
        let attributes = KeyAttributes::new(KeyAlgorithm::Aes128, origin, true);
        StoredKey { key: key(name), attributes, secret: LockedBytes::new(&[7; 16]), derivation }
    }

    fn content(keys: Vec<StoredKey>) -> Content {
        Content { identity: LockedBytes::new(&[1; 32]), channel: LockedBytes::new(&[2; 32]), membership: None, keys }
    }

    #[test]
    fn a_store_without_derived_keys_reads_as_before() {
        let plain = content(vec![held("a", None)]);
        let encoded = plain.encode().unwrap();
        let mut buffer = [0; 512];
        assert_eq!(**encoded, *postcard::to_slice(&plain, &mut buffer).unwrap());
        let read = Content::decode(&encoded).unwrap();
        assert_eq!(read.keys.iter().map(StoredKey::entry).collect::<Vec<_>>(), [plain.keys.first().unwrap().entry()]);
    }

    #[test]
    fn every_derived_key_says_where_it_comes_from_and_no_other_does() {
        let derivation = Derivation { master: key("a"), trust_domain: "acme.example".parse().unwrap() };
        let both = content(vec![held("a", None), held("b", Some(derivation.clone()))]);
        let encoded = both.encode().unwrap();
        let read = Content::decode(&encoded).unwrap();
        assert_eq!(
            read.keys.into_iter().map(|held| held.derivation).collect::<Vec<_>>(),
            [None, Some(derivation.clone())]
        );
        // Cut off, followed by something, missing, for a key that is not there, for one that is not derived.
        assert!(Content::decode(encoded.split_last().unwrap().1).is_none());
        assert!(Content::decode(&[encoded.as_slice(), &[0]].concat()).is_none());
        let mut buffer = [0; 512];
        let bare = postcard::to_slice(&both, &mut buffer).unwrap().to_vec();
        assert!(Content::decode(&bare).is_none());
        for wrong in [key("c"), key("a")] {
            let list = postcard::to_stdvec(&vec![(key("b"), derivation.clone()), (wrong, derivation.clone())]).unwrap();
            assert!(Content::decode(&[bare.clone(), list].concat()).is_none());
        }
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
