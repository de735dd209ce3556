//! What the manager last said about revocation: an agent and its channel share it, so that neither uses what
//! is revoked.

use std::{
    collections::BTreeSet,
    sync::{PoisonError, RwLock},
};

use keywitness_circuits::KeyId;

#[derive(Default)]
struct Revoked {
    hsm: bool,
    keys: BTreeSet<KeyId>,
}

/// Whether the HSM and its keys are revoked, as far as this HSM was told.
#[derive(Default)]
pub struct Standing(RwLock<Revoked>);

impl Standing {
    /// Nothing is revoked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the HSM is revoked.
    pub fn hsm_revoked(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).hsm
    }

    /// Whether the key, or the whole HSM, is revoked.
    pub fn is_revoked(&self, key: &KeyId) -> bool {
        let revoked = self.0.read().unwrap_or_else(PoisonError::into_inner);
        revoked.hsm || revoked.keys.contains(key)
    }

    /// The manager says that the HSM is revoked.
    pub fn revoke_hsm(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).hsm = true;
    }

    /// The manager says that the key is revoked.
    pub fn revoke_key(&self, key: &KeyId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).keys.insert(key.clone());
    }

    /// The manager accepted a proof of the key: neither it nor the HSM is revoked any more.
    pub fn accept(&self, key: &KeyId) {
        let mut revoked = self.0.write().unwrap_or_else(PoisonError::into_inner);
        revoked.hsm = false;
        revoked.keys.remove(key);
    }
}
