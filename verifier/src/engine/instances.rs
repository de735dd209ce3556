//! Decoded instances, kept so that the points of enrolled keys are decompressed once.

use std::collections::{BTreeMap, HashMap};

use keywitness_circuits::{Digest, registry::DecodedInstance};

/// What an entry is taken to need beside its decoded instance, in bytes.
const OVERHEAD: usize = 512;
/// Bytes of a decoded instance for each byte of its encoding, at most: a point of 32 bytes takes 160, and its encoding stays.
const DECODED: usize = 7;

struct Entry {
    instance: DecodedInstance,
    size: usize,
    used: u64,
}

/// A bounded cache of instances by the digest of their encoding; what was used least recently goes first.
///
/// Only instances of claims that verified are put in. Whoever fills it must therefore prove as many statements as there
/// are entries, and all that is lost by it is the time that decoding takes.
pub(super) struct Instances {
    entries: HashMap<Digest, Entry>,
    /// Which entry was used when.
    order: BTreeMap<u64, Digest>,
    clock: u64,
    bytes: usize,
    most: usize,
    most_bytes: usize,
}

impl Instances {
    /// An empty cache for at most so many instances, and about so many bytes.
    pub(super) fn new(most: usize, most_bytes: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), clock: 0, bytes: 0, most, most_bytes }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The instance of that digest, which is now the one used last.
    pub(super) fn get(&mut self, digest: &Digest) -> Option<DecodedInstance> {
        let entry = self.entries.get_mut(digest)?;
        self.order.remove(&entry.used);
        self.clock += 1;
        entry.used = self.clock;
        self.order.insert(self.clock, *digest);
        Some(entry.instance.clone())
    }

    /// Keeps an instance whose encoding has `encoded` bytes.
    pub(super) fn insert(&mut self, instance: DecodedInstance, encoded: usize) {
        let (digest, size) = (*instance.digest(), encoded.saturating_mul(DECODED).saturating_add(OVERHEAD));
        if size > self.most_bytes || self.most == 0 || self.get(&digest).is_some() {
            return;
        }
        while self.entries.len() >= self.most || self.bytes + size > self.most_bytes {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.bytes -= entry.size;
            }
        }
        self.clock += 1;
        self.bytes += size;
        self.order.insert(self.clock, digest);
        self.entries.insert(digest, Entry { instance, size, used: self.clock });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use keywitness_circuits::{Fingerprint, Instance, KeyAlgorithm, Suite, codec::Canonical, key_knowledge};

    use super::*;

    fn instance(number: u8) -> (DecodedInstance, usize) {
        let fingerprint = Fingerprint { suite: Suite::Halo2Pasta, bytes: Digest([number; 32]) };
        let instance: Instance =
            key_knowledge::Instance::Symmetric { algorithm: KeyAlgorithm::Aes256, fingerprint }.into();
        let length = instance.to_bytes().len();
        (instance.into(), length)
    }

    #[test]
    fn what_was_used_least_recently_goes_first() {
        let mut cache = Instances::new(3, 1 << 20);
        let all: Vec<_> = (0..4).map(instance).collect();
        for (instance, length) in all.iter().take(3) {
            cache.insert(instance.clone(), *length);
            cache.insert(instance.clone(), *length);
        }
        let digest = |number: usize| *all.get(number).unwrap().0.digest();
        assert_eq!(cache.get(&digest(0)).unwrap().digest(), &digest(0));
        cache.insert(all.get(3).unwrap().0.clone(), all.get(3).unwrap().1);
        assert_eq!([0, 1, 2, 3].map(|number| cache.get(&digest(number)).is_some()), [true, false, true, true]);
        assert_eq!((cache.len(), cache.order.len()), (3, 3));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let size = DECODED * instance(0).1 + OVERHEAD;
        let mut cache = Instances::new(1000, 5 * size + 1);
        for (instance, length) in (0..50).map(instance) {
            cache.insert(instance, length);
        }
        assert_eq!((cache.len(), cache.bytes), (5, 5 * size));
        cache.insert(instance(99).0, 10 * size);
        assert!(cache.get(instance(99).0.digest()).is_none());
        let mut none = Instances::new(0, 1 << 20);
        none.insert(instance(1).0, 40);
        assert_eq!(none.len(), 0);
    }
}
