//! Copies of keys for other HSMs of the cluster, and from them.

use keywitness_circuits::{
    Instance, KeyAttributes, KeyOrigin, Suite, TrustDomain, key_derivation, key_knowledge, tagged_key,
};
use keywitness_isolation::LockedBytes;
use keywitness_verifier::{
    transfer::{Described, SealedKey, Terms},
    wire::KeyRef,
};
use zeroize::Zeroizing;

use super::{
    KeyEntry, SoftwareStore, StoreError,
    content::{Derivation, StoredKey},
    software::same_bytes,
};

impl SoftwareStore {
    /// Seals a copy of a key to another HSM's channel key. There it will count as imported, or as derived where it is.
    pub(super) fn seal_copy(
        &self,
        key: &KeyRef,
        terms: &Terms,
        channel_key: &[u8; 32],
    ) -> Result<SealedKey, StoreError> {
        self.with_key(key, |held| {
            if held.attributes.algorithm.is_share() {
                return Err(StoreError::ShareStays(key.key.clone()));
            }
            let master = held.derivation.as_ref().map(|derivation| derivation.master.clone());
            let attributes = KeyAttributes { origin: copied(master.is_some()), ..held.attributes.clone() };
            let described = Described { key: key.clone(), attributes, master };
            let sealed = held.secret.expose(|secret| SealedKey::seal(terms, described, channel_key, secret));
            sealed.map_err(|_| StoreError::Unreadable("the other HSM's channel key is not usable"))
        })?
    }

    /// Opens a copy that was sealed to this HSM, and keeps it if it is the key whose instances are `expected`. Taking it again
    /// changes nothing.
    pub(super) fn take_copy(
        &self,
        copy: &SealedKey,
        terms: &Terms,
        expected: &[Instance],
    ) -> Result<KeyEntry, StoreError> {
        let Described { key, attributes, master } = &copy.described;
        let foreign = || StoreError::NotTheKey(key.clone());
        if attributes.token.is_some() {
            return Err(StoreError::NeedsToken(key.clone()));
        }
        if attributes.algorithm.is_share() || attributes.origin != copied(master.is_some()) {
            return Err(foreign());
        }
        let secret = self.open_copy(copy, terms)?;
        let derivation = master.clone().map(|master| Derivation { master, trust_domain: terms.trust_domain.clone() });
        let secret = LockedBytes::new(&secret);
        let held = StoredKey { key: key.clone(), attributes: attributes.clone(), secret, derivation };
        let ours = self.instances_of(&held, &terms.trust_domain)?;
        if expected.is_empty() || !expected.iter().all(|instance| ours.contains(instance)) {
            return Err(foreign());
        }
        let known = self.with_key(key, |known| {
            let same = known.secret.expose(|ours| held.secret.expose(|theirs| same_bytes(ours, theirs)));
            let alike = known.attributes.algorithm == held.attributes.algorithm && known.derivation == held.derivation;
            (same && alike).then(|| known.entry())
        });
        match known {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(StoreError::KeyDiffers(key.clone())),
            Err(_) => self.insert(held),
        }
    }

    /// What was sealed to this HSM.
    pub(super) fn open_copy(&self, copy: &SealedKey, terms: &Terms) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let foreign = || StoreError::NotTheKey(copy.described.key.clone());
        self.content().channel.expose(|secret| {
            let secret = secret.try_into().map_err(|_| foreign())?;
            copy.open(terms, secret).map_err(|_| foreign())
        })
    }

    /// Every instance that a key proves, in every suite, before the store has it.
    fn instances_of(&self, held: &StoredKey, trust_domain: &TrustDomain) -> Result<Vec<Instance>, StoreError> {
        let algorithm = held.attributes.algorithm;
        if let Some(Derivation { master, .. }) = &held.derivation {
            let missing = || StoreError::MasterMissing { key: held.key.clone(), master: master.clone() };
            let target = key_derivation::Target { key: held.key.key.clone(), algorithm, epoch: held.key.epoch };
            let derived = self.with_key(master, |master| {
                let algorithm = master.attributes.algorithm;
                master.secret.expose(|secret| {
                    let derived = key_derivation::derive(trust_domain, algorithm, secret, &target)?;
                    Ok::<_, StoreError>((derived, key_derivation::Witness::new(algorithm, secret)?))
                })
            });
            let (derived, witness) = derived.map_err(|_| missing())??;
            if !held.secret.expose(|secret| same_bytes(secret, &derived)) {
                return Err(StoreError::NotTheKey(held.key.clone()));
            }
            return Ok(vec![witness.instance(trust_domain, &target)?.into()]);
        }
        held.secret.expose(|secret| {
            if algorithm.is_cmac() {
                let tag = tagged_key::cmac(algorithm, secret, &tagged_key::identifier_message(trust_domain))?;
                return Ok(vec![tagged_key::Instance::enrolled(trust_domain, algorithm, &tag)?.into()]);
            }
            let witness = key_knowledge::Witness::new(algorithm, secret)?;
            let suites: &[Suite] = match algorithm.symmetric_bits() {
                None => &[Suite::PublicKey],
                Some(_) => &[Suite::Halo2Pasta, Suite::Groth16Bn254],
            };
            suites.iter().map(|suite| Ok(witness.instance(trust_domain, *suite)?.into())).collect()
        })
    }
}

/// How a copy says that its key came to be.
const fn copied(derived: bool) -> KeyOrigin {
    if derived { KeyOrigin::Derived } else { KeyOrigin::Imported }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use keywitness_circuits::{Digest, KeyAlgorithm};

    use super::*;
    use crate::{
        KeyStore, Placement,
        testing::{create, generated, name},
    };

    const SUITES: [Suite; 2] = [Suite::Halo2Pasta, Suite::Groth16Bn254];

    fn terms() -> Terms {
        Terms {
            trust_domain: name("acme.example"),
            cluster: name("payments"),
            from: name("hsm-1"),
            to: name("hsm-2"),
            request: Digest([7; 32]),
        }
    }

    #[test]
    fn every_key_but_a_share_is_copied_once_and_proves_what_it_proved() {
        let directory = tempfile::tempdir().unwrap();
        let (giver, taker) = (create(&directory.path().join("a")), create(&directory.path().join("b")));
        for algorithm in generated() {
            giver.generate(&name(algorithm.name()), algorithm, Placement::New).unwrap();
        }
        let domain = terms().trust_domain;
        giver.derive(&name("aes256"), &name("derived"), KeyAlgorithm::Aes128, &domain, Placement::New).unwrap();
        // Masters first.
        let mut keys = giver.keys();
        keys.sort_by_key(|entry| entry.attributes.origin == KeyOrigin::Derived);
        for entry in keys {
            let instances = giver.instances(&entry.key, &domain, &SUITES).unwrap();
            let copy = giver.copy_key(&entry.key, &terms(), &taker.channel_key()).unwrap();
            let taken = taker.take_key(&copy, &terms(), &instances).unwrap();
            assert_eq!(taken.key, entry.key);
            assert_ne!(taken.attributes.origin, KeyOrigin::Generated);
            assert_eq!(taker.instances(&entry.key, &domain, &SUITES).unwrap(), instances, "{}", entry.key.key);
            assert_eq!(taker.master(&entry.key), giver.master(&entry.key));
            let before = taker.keys();
            assert_eq!(taker.take_key(&copy, &terms(), &instances).unwrap(), taken, "again");
            assert_eq!(taker.keys(), before);
        }
    }

    #[test]
    fn what_is_not_the_clusters_key_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (giver, taker) = (create(&directory.path().join("a")), create(&directory.path().join("b")));
        let domain = terms().trust_domain;
        for key in ["aes", "other"] {
            giver.generate(&name(key), KeyAlgorithm::Aes256, Placement::New).unwrap();
        }
        giver.derive(&name("aes"), &name("derived"), KeyAlgorithm::Aes128, &domain, Placement::New).unwrap();
        let key = |text: &str| KeyRef { key: name(text), epoch: 1 };
        let instances = |text| giver.instances(&key(text), &domain, &SUITES).unwrap();
        let copy = |text, to: &SoftwareStore| giver.copy_key(&key(text), &terms(), &to.channel_key()).unwrap();
        let refused = |copy: &SealedKey, terms: &Terms, expected: &[Instance]| {
            taker.take_key(copy, terms, expected).unwrap_err().to_string()
        };

        let good = copy("aes", &taker);
        assert!(refused(&good, &terms(), &instances("other")).contains("is not the key"));
        assert!(refused(&good, &terms(), &[]).contains("is not the key"));
        let elsewhere = Terms { to: name("hsm-3"), ..terms() };
        assert!(refused(&good, &elsewhere, &instances("aes")).contains("is not the key"));
        assert!(
            refused(&copy("aes", &giver), &terms(), &instances("aes")).contains("is not the key"),
            "to another HSM"
        );
        let derived = copy("derived", &taker);
        assert!(matches!(
            taker.take_key(&derived, &terms(), &instances("derived")).unwrap_err(),
            StoreError::MasterMissing { .. }
        ));
        assert!(taker.keys().is_empty());

        // Another key under the name stays, and is not written over.
        taker.generate(&name("aes"), KeyAlgorithm::Aes256, Placement::New).unwrap();
        let before = taker.instances(&key("aes"), &domain, &SUITES).unwrap();
        assert!(matches!(taker.take_key(&good, &terms(), &instances("aes")).unwrap_err(), StoreError::KeyDiffers(_)));
        assert_eq!(taker.instances(&key("aes"), &domain, &SUITES).unwrap(), before);
        // Derived, it would not follow from that master.
        assert!(refused(&derived, &terms(), &instances("derived")).contains("is not the key"));
    }
}
