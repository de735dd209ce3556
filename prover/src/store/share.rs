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
use keywitness_verifier::{
    identity::IdentityKey,
    wire::{KeyRef, share_name},
};
use zeroize::Zeroizing;

use super::{KeyEntry, KeyStore, SoftwareStore, StoreError, content::StoredKey};
use crate::memory::LockedBytes;

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
        let attributes = KeyAttributes { algorithm, origin: KeyOrigin::Imported, extractable: true };
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
