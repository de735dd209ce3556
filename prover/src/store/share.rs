//! Shares in a store: dealing a key to other HSMs, and keeping what was dealt to this one.
//!
//! A share is kept as a key, under the shared key's name and its index. Its secret is followed by the encoding of its
//! instance, which holds the commitments that the share is proven against and which the share alone does not give.

use hpke::{Kem as _, Serializable as _, kem::DhP256HkdfSha256};
use keywitness_circuits::{
    ClusterId, Digest, HsmId, KeyAlgorithm, KeyAttributes, KeyOrigin,
    codec::Canonical,
    share_correctness::{Instance, Scheme, Witness},
    transcript::label,
};
use keywitness_custody::{Complaint, Dealing, Error as CustodyError, HolderKey, Opening, Terms};
use keywitness_isolation::LockedBytes;
use keywitness_verifier::{
    identity::IdentityKey,
    wire::{KeyRef, share_name},
};
use zeroize::Zeroizing;

use super::{KeyEntry, KeyStore, SoftwareStore, StoreError, content::StoredKey};

/// What became of a share that was dealt to this HSM.
#[derive(Debug)]
pub enum Received {
    /// It was here already.
    Known,
    /// It is what the dealing says, and is kept.
    Kept(KeyEntry),
    /// It is not; here is what shows that to everyone.
    Bad(Box<Complaint>),
}

impl SoftwareStore {
    /// The key that shares are sealed to: RFC 9180's `DeriveKeyPair` of a labelled digest of the channel secret, so that
    /// a store made before there were shares can hold them.
    pub(super) fn holder_key(&self) -> Result<HolderKey, StoreError> {
        let seed = self.content().channel.expose(|secret| Zeroizing::new(Digest::of(label::SEALING_KEY, secret).0));
        let (secret, _) = DhP256HkdfSha256::derive_keypair(&*seed);
        Ok(HolderKey::from_bytes(&Zeroizing::new(secret.to_bytes()))?)
    }

    /// A share that is kept here, with its instance; none for any other key.
    pub(super) fn held_share(&self, key: &KeyRef) -> Result<Option<(Instance, Witness)>, StoreError> {
        let read = |held: &StoredKey| {
            let algorithm = held.attributes.algorithm;
            if !algorithm.is_share() {
                return Ok(None);
            }
            held.secret.expose(|bytes| {
                let unreadable = StoreError::Unreadable("a share is kept with its instance");
                let (share, instance) = bytes.split_at_checked(algorithm.secret_len()).ok_or(unreadable)?;
                let instance = Instance::from_bytes(instance)?;
                let witness = Witness::new(instance.commitments().scheme(), share)?;
                Ok(Some((instance, witness)))
            })
        };
        self.with_key(key, read)?
    }

    pub(super) fn deal_key(&self, key: &KeyRef, terms: Terms, scheme: Scheme) -> Result<Dealing, StoreError> {
        let opening = self.with_key(key, |held| {
            let algorithm = held.attributes.algorithm;
            if algorithm != KeyAlgorithm::Ristretto255 {
                return Err(StoreError::NotDealt(algorithm));
            }
            held.secret.expose(|secret| match scheme {
                Scheme::Feldman => Ok(Opening::from_bytes(scheme, secret)?),
                Scheme::Pedersen => {
                    Ok(Opening::blinded(secret.try_into().map_err(|_| StoreError::NotDealt(algorithm))?)?)
                }
            })
        })??;
        self.signing(|sign| Ok(Dealing::deal(terms, &opening, sign)?))
    }

    pub(super) fn take_share(
        &self,
        dealing: &Dealing,
        dealer: &IdentityKey,
        cluster: &ClusterId,
    ) -> Result<Received, StoreError> {
        let membership = self.membership().ok_or(StoreError::NotEnrolled)?;
        let shared = &dealing.terms().sharing;
        if shared.trust_domain != membership.audience.trust_domain {
            return Err(StoreError::ForeignClaim);
        }
        let (name, index) = named(dealing, &membership.hsm, cluster)?;
        dealing.check(dealer)?;
        if self.content().keys.iter().any(|held| held.key == name) {
            // Another key of that name must not hide what was dealt.
            let same = self.held_share(&name)?.is_some_and(|(held, _)| Ok(held) == dealing.instance(index));
            return if same { Ok(Received::Known) } else { Err(StoreError::KeyExists(name.key)) };
        }
        let key = self.holder_key()?;
        let share = match dealing.open(&membership.hsm, &key) {
            Ok(share) => share,
            Err(CustodyError::BadShare(_)) => {
                let complain = |sign: &mut dyn FnMut(&[u8]) -> [u8; 64]| {
                    Ok(Complaint::make(dealing, dealer, &membership.hsm, &key, sign)?)
                };
                return Ok(Received::Bad(Box::new(self.signing(complain)?)));
            }
            Err(error) => return Err(error.into()),
        };
        let instance = dealing.instance(index)?;
        let algorithm = instance.algorithm();
        let attributes = KeyAttributes::new(algorithm, KeyOrigin::Imported, true);
        let mut secret = share.opening.to_bytes();
        let encoded = instance.to_bytes();
        // Grown by hand, so that no copy of the share is left behind.
        let mut kept = Zeroizing::new(Vec::with_capacity(secret.len() + encoded.len()));
        kept.append(&mut secret);
        kept.extend_from_slice(&encoded);
        let held = StoredKey { key: name, attributes, secret: LockedBytes::new(&kept), derivation: None };
        Ok(Received::Kept(self.insert(held)?))
    }

    /// Runs what signs with the identity key; a signature that could not be made is an error, not a signature.
    fn signing<T>(
        &self,
        action: impl FnOnce(&mut dyn FnMut(&[u8]) -> [u8; 64]) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut failure = None;
        let result = action(&mut |message| {
            self.sign_with_identity(message).unwrap_or_else(|error| {
                failure = Some(error);
                [0; 64]
            })
        })?;
        failure.map_or(Ok(result), Err)
    }
}

/// Which key a dealing gives `holder`.
pub(super) fn named(dealing: &Dealing, holder: &HsmId, cluster: &ClusterId) -> Result<(KeyRef, u16), StoreError> {
    let index = dealing.terms().member_named(holder)?.index;
    let shared = &dealing.terms().sharing;
    let key =
        share_name(&shared.key, cluster, index).ok_or(StoreError::Unreadable("the share's name would be too long"))?;
    Ok((KeyRef { key, epoch: shared.epoch }, index))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use ed25519_dalek::{Signer as _, SigningKey};
    use keywitness_custody::{Member, Purpose, SharingId};

    use super::*;
    use crate::testing::{create, enrolled_store, name};

    fn dealer() -> SigningKey {
        SigningKey::from_bytes(&[9; 32])
    }

    fn sign(message: &[u8]) -> [u8; 64] {
        dealer().sign(message).to_bytes()
    }

    /// A dealing with a share for the store's HSM, and one for another.
    fn dealing(store: &SoftwareStore, secret: u8) -> Dealing {
        let keys = [store.sealing_key().unwrap(), *HolderKey::generate().public()];
        let member = |(at, key)| Member { index: at as u16 + 1, holder: name(["hsm-1", "hsm-2"][at]), key };
        let terms = Terms {
            sharing: SharingId {
                trust_domain: name("acme.example"),
                key: name("root"),
                purpose: Purpose::Sign,
                epoch: 1,
            },
            dealer: name("dealer"),
            threshold: 2,
            members: keys.into_iter().enumerate().map(member).collect(),
        };
        let mut bytes = [0; 32];
        bytes[0] = secret;
        Dealing::deal(terms, &Opening::from_bytes(Scheme::Feldman, &bytes).unwrap(), sign).unwrap()
    }

    fn receive(store: &SoftwareStore, dealing: &Dealing) -> Result<Received, StoreError> {
        let identity = IdentityKey::from_bytes(dealer().verifying_key().to_bytes()).unwrap();
        store.receive_share(dealing, &identity, &name("payments"))
    }

    #[test]
    fn a_share_is_kept_once_and_stays_where_it_was_dealt() {
        let (directory, store) = enrolled_store();
        let dealt = dealing(&store, 3);
        let Received::Kept(entry) = receive(&store, &dealt).unwrap() else { panic!("it was not kept") };
        assert_eq!(entry.key, KeyRef { key: name("root.payments.1"), epoch: 1 });
        assert!(matches!(receive(&store, &dealt), Ok(Received::Known)));
        let expected = dealt.instance(1).unwrap().into();
        assert_eq!(store.instances(&entry.key, &name("acme.example"), &[]).unwrap(), [expected]);
        let other = create(&directory.path().join("other"));
        assert!(matches!(store.export_to(&entry.key, &other), Err(StoreError::ShareStays(_))));
    }

    #[test]
    fn another_key_of_its_name_does_not_hide_a_share() {
        let (_directory, store) = enrolled_store();
        receive(&store, &dealing(&store, 3)).unwrap();
        assert!(matches!(receive(&store, &dealing(&store, 4)), Err(StoreError::KeyExists(_))));
    }

    #[test]
    fn a_bad_share_is_complained_about_and_not_kept() {
        let (_directory, store) = enrolled_store();
        let honest = dealing(&store, 3);
        let (before, mut bytes) = (store.keys(), honest.to_bytes());
        // The first share's ciphertext: found by where a dealing that is read back gives another verdict on it.
        let holder = store.holder_key().unwrap();
        let end = bytes.len() - 64;
        let spoilt = (0..end).rev().find_map(|at| {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let read = Dealing::from_bytes(&changed).ok()?;
            let digest = read.digest();
            let message = [label::DEALING.as_bytes(), &[0], &digest.0].concat();
            changed[end..].copy_from_slice(&sign(&message));
            let read = Dealing::from_bytes(&changed).ok()?;
            let identity = IdentityKey::from_bytes(dealer().verifying_key().to_bytes()).unwrap();
            let bad = read.check(&identity).is_ok() && read.open(&name("hsm-1"), &holder).is_err();
            bad.then_some(changed)
        });
        bytes = spoilt.unwrap();
        let Received::Bad(complaint) = receive(&store, &Dealing::from_bytes(&bytes).unwrap()).unwrap() else {
            panic!("a bad share was kept")
        };
        assert_eq!((complaint.index, complaint.holder), (1, name("hsm-1")));
        assert_eq!(store.keys(), before);
    }
}
