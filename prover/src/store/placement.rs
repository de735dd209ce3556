//! Names and epochs of new keys.

use keywitness_circuits::{KeyAlgorithm, KeyId};

use super::{KeyEntry, StoreError};

/// Where a new key goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// A name that the store does not have yet; epoch 1.
    New,
    /// The next epoch of a key that is there.
    Rotate,
}

impl Placement {
    /// The epoch of a new key where `newest` is what the store has of that name.
    pub(super) fn epoch(
        self,
        key: &KeyId,
        algorithm: KeyAlgorithm,
        newest: Option<KeyEntry>,
    ) -> Result<u32, StoreError> {
        match (self, newest) {
            (Self::New, None) => Ok(1),
            (Self::New, Some(_)) => Err(StoreError::KeyExists(key.clone())),
            (Self::Rotate, None) => Err(StoreError::NothingToRotate(key.clone())),
            (Self::Rotate, Some(newest)) if newest.attributes.algorithm != algorithm => {
                Err(StoreError::OtherAlgorithm { key: key.clone(), known: newest.attributes.algorithm })
            }
            // A token's key may have any epoch.
            (Self::Rotate, Some(newest)) => newest.key.epoch.checked_add(1).ok_or(StoreError::KeyExists(key.clone())),
        }
    }
}
