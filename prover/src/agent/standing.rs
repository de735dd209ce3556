//! What the manager last said of this HSM and its keys: an agent and its channel share it, so that the channel uses
//! no key whose attestation is not in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use keywitness_circuits::{KeyId, Timestamp};
use keywitness_verifier::{
    identity::MAX_SKEW,
    wire::{KeyRef, Record},
};

#[derive(Default)]
struct Known {
    hsm_revoked: bool,
    revoked_keys: BTreeSet<KeyId>,
    /// From when the newest record of each key is in force, and when it expires. A key that signs is proven under one statement.
    in_force: BTreeMap<KeyRef, (Timestamp, Timestamp)>,
}

/// Which keys are attested and which are revoked, as far as this HSM was told.
#[derive(Default)]
pub struct Standing(RwLock<Known>);

impl Standing {
    /// Nothing is attested, and nothing is revoked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the HSM is revoked.
    pub fn hsm_revoked(&self) -> bool {
        self.read().hsm_revoked
    }

    /// Whether the key, or the whole HSM, is revoked.
    pub fn is_revoked(&self, key: &KeyId) -> bool {
        let known = self.read();
        known.hsm_revoked || known.revoked_keys.contains(key)
    }

    /// Whether an attestation of the key, at this very epoch, is in force at `now`.
    pub fn is_attested(&self, key: &KeyRef, now: Timestamp) -> bool {
        let known = self.read();
        let revoked = known.hsm_revoked || known.revoked_keys.contains(&key.key);
        !revoked && known.in_force.get(key).is_some_and(|(from, until)| *from <= now && now < *until)
    }

    /// The manager says that the HSM is revoked: none of its records is in force any more.
    pub fn revoke_hsm(&self) {
        let mut known = self.write();
        known.hsm_revoked = true;
        known.in_force.clear();
    }

    /// The manager says that the key is revoked: none of its records is in force any more.
    pub fn revoke_key(&self, key: &KeyId) {
        let mut known = self.write();
        known.revoked_keys.insert(key.clone());
        known.in_force.retain(|attested, _| attested.key != *key);
    }

    /// The manager accepted a proof of the record's key: neither it nor the HSM is revoked any more.
    pub fn accept(&self, record: &Record) {
        let mut known = self.write();
        known.hsm_revoked = false;
        known.revoked_keys.remove(&record.key.key);
        known.in_force.insert(record.key.clone(), (Timestamp(0), record.expires_at));
    }

    /// A record from before this agent started, unless a newer one is known: one of the future is not in force yet. Takes no revocation back.
    pub(crate) fn remember(&self, key: &KeyRef, proven_at: Timestamp, expires_at: Timestamp) {
        let from = Timestamp(proven_at.0.saturating_sub(MAX_SKEW));
        self.write().in_force.entry(key.clone()).or_insert((from, expires_at));
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
