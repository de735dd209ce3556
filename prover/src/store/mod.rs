//! Where keys live.
//!
//! [`KeyStore`] is the seam between the agent and whatever holds keys; [`SoftwareStore`] holds them in one
//! encrypted file, [`TokenStore`] in a PKCS#11 token beside such a file. A store belongs to one HSM: it keeps that HSM's identity key, its channel key and its
//! [`Membership`] in a trust domain.

mod content;
mod copy;
#[cfg(test)]
mod derived_tests;
mod error;
mod exchange;
mod file;
pub mod import;
#[cfg(test)]
mod many_tests;
pub mod pkcs11;
mod placement;
mod seal;
mod share;
mod sign;
mod software;
#[cfg(test)]
mod tagged_tests;
#[cfg(test)]
pub(crate) mod tests;

use keywitness_circuits::{
    ClaimContext, ClusterId, HsmId, Instance, KeyAttributes, KeyId, Nonce, Parameters, Suite, Timestamp, TrustDomain,
};
use keywitness_custody::{Dealing, Scheme, SealingKey, Terms};
use keywitness_verifier::{
    channel::AnswerKey,
    identity::{Audience, EnrolmentParts, IdentityKey},
    operation::{OperationError, OperationRequest},
    transfer::{self, SealedKey, Transfer, Withheld},
    wire::{Enrolment, KeyRef},
};
use serde::{Deserialize, Serialize};

pub use error::StoreError;
pub use file::create_key_file;
pub(crate) use file::{beside, private, sync_directory};
pub use pkcs11::{
    IDENTITY, KeyChoice, Pin, PinSource, SCHEME, Token, TokenChoice, TokenError, TokenKey, TokenStore, TokenUri,
    WRAPPING,
};
pub use placement::Placement;
pub use seal::{PassphraseCost, Unlock};
pub use share::Received;
pub use software::{Access, SoftwareStore};

/// A key that a store holds, without its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyEntry {
    /// Name and epoch.
    pub key: KeyRef,
    /// What the store says about it.
    pub attributes: KeyAttributes,
}

/// Which HSM a store belongs to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Membership {
    /// The manager that the HSM enrols with; it speaks to no other.
    pub audience: Audience,
    /// The HSM's name.
    pub hsm: HsmId,
    /// The manager's answer. None while an enrolment was begun and its answer has not arrived.
    pub enrolment: Option<Enrolment>,
}

/// Whatever holds keys, and an HSM's identity.
///
/// Secrets never leave a store through this trait: it signs, proves and opens with them.
pub trait KeyStore: Send + Sync {
    /// The HSM's public identity key.
    fn identity(&self) -> IdentityKey;

    /// Signs one of the protocol's own messages with the identity key. A store in another process signs envelopes and
    /// requests to the manager so, and nothing else.
    ///
    /// # Errors
    /// Where the store cannot sign now, or does not sign such a message.
    fn sign_with_identity(&self, message: &[u8]) -> Result<[u8; 64], StoreError>;

    /// How many proofs or signatures it makes at once, where callers ask from as many threads.
    fn parallel(&self) -> usize {
        1
    }

    /// Signs the enrolment of this HSM, with its identity key and its channel key, under the name `hsm`.
    ///
    /// # Errors
    /// As [`Self::sign_with_identity`].
    fn sign_enrolment(&self, audience: &Audience, join_token: &str, hsm: &HsmId) -> Result<[u8; 64], StoreError> {
        let (identity_key, channel_key) = (&self.identity(), &self.channel_key());
        EnrolmentParts { audience, join_token, hsm, identity_key, channel_key }
            .try_sign(|message| self.sign_with_identity(message))
    }

    /// The HSM's public X25519 channel key.
    fn channel_key(&self) -> [u8; 32];

    /// Opens a client's request with the channel key.
    ///
    /// # Errors
    /// [`OperationError::Channel`], [`OperationError::Malformed`]
    fn open_request(
        &self,
        trust_domain: &TrustDomain,
        hsm: &HsmId,
        sealed: &[u8],
    ) -> Result<(OperationRequest, AnswerKey), OperationError>;

    /// How often what holds the secrets has been replaced since the start, where that is another process.
    fn restarts(&self) -> u64 {
        0
    }

    /// Which HSM this is, once its enrolment has begun.
    fn membership(&self) -> Option<Membership>;

    /// Records which HSM this is, durably.
    ///
    /// # Errors
    /// Where the store cannot be written.
    fn set_membership(&self, membership: Membership) -> Result<(), StoreError>;

    /// Every key at every epoch, in order.
    fn keys(&self) -> Vec<KeyEntry>;

    /// A key's instances in `trust_domain`: its public key, or one fingerprint for each SNARK suite of `suites`, or, for
    /// a key that computes CMACs, the enrolled form of its tagged instance.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`], or what the fingerprint's computation says.
    fn instances(
        &self,
        key: &KeyRef,
        trust_domain: &TrustDomain,
        suites: &[Suite],
    ) -> Result<Vec<Instance>, StoreError>;

    /// The instance of a key that computes CMACs, in the form of the round that `beacon` opens: what the key proves in
    /// that round.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`], [`StoreError::NotACmacKey`], or that the key cannot be used now.
    fn tagged_instance(&self, key: &KeyRef, trust_domain: &TrustDomain, beacon: &Nonce)
    -> Result<Instance, StoreError>;

    /// The key that a derived key is derived from; none for any other key.
    fn master(&self, key: &KeyRef) -> Option<KeyRef>;

    /// The public key that shares are sealed to which are dealt to this HSM.
    ///
    /// # Errors
    /// Where the store cannot read its secrets.
    fn sealing_key(&self) -> Result<SealingKey, StoreError>;

    /// Deals a ristretto255 key under `terms`, signed with the identity key.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`], [`StoreError::NotDealt`], or what the terms lack.
    fn deal(&self, key: &KeyRef, terms: Terms, scheme: Scheme) -> Result<Dealing, StoreError>;

    /// Opens the share that `dealing`, signed by `dealer` of `cluster`, has for this HSM, and keeps it as a key; complains
    /// where it is bad.
    ///
    /// # Errors
    /// Where the dealing is not authentic or has no share for this HSM, or the share cannot be kept.
    fn receive_share(
        &self,
        dealing: &Dealing,
        dealer: &IdentityKey,
        cluster: &ClusterId,
    ) -> Result<Received, StoreError>;

    /// Asks the HSM `from` for copies of keys: a signed request of now, to which copies for this HSM's channel key are the answer.
    /// A store in another process goes by its own clock.
    ///
    /// # Errors
    /// [`StoreError::NotEnrolled`]; where the store cannot sign now.
    fn ask_copies(&self, from: &HsmId, keys: &[KeyRef], now: Timestamp) -> Result<OperationRequest, StoreError> {
        exchange::ask(self, from, keys, now)
    }

    /// Gives an HSM the copies that it asked for, but for those that are withheld and those that this store cannot give, of
    /// which it says why. A store in another process goes by its own clock, and gives to its peers alone.
    ///
    /// # Errors
    /// [`StoreError::NotGiven`] for a request that is not its sender's, not to this HSM, or too old.
    fn give_copies(
        &self,
        request: &OperationRequest,
        withheld: &[Withheld],
        now: Timestamp,
    ) -> Result<Transfer, StoreError> {
        exchange::give(self, request, withheld, now)
    }

    /// Takes a key out of what `giver` gave, as [`Self::take_key`] does. A store in another process takes from its peers alone, what
    /// it asked for itself.
    ///
    /// # Errors
    /// As [`Self::take_key`].
    fn take_copy(
        &self,
        transfer: &Transfer,
        giver: &IdentityKey,
        key: &KeyRef,
        expected: &[Instance],
    ) -> Result<KeyEntry, StoreError> {
        exchange::take(self, (transfer, giver), key, expected)
    }

    /// Seals a copy of a key to the channel key of another HSM, whose right to it was checked. A store in another process
    /// does so for [`Self::give_copies`] alone.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`]; [`StoreError::ShareStays`] and [`StoreError::TokenKeyStays`] for what is not copied.
    fn copy_key(&self, key: &KeyRef, terms: &transfer::Terms, channel_key: &[u8; 32]) -> Result<SealedKey, StoreError>;

    /// Opens a copy that was sealed to this HSM under `terms`, and keeps it if it is the key whose canonical instances are
    /// `expected`. Taking it again changes nothing. A store in another process does so for [`Self::take_copy`] alone.
    ///
    /// # Errors
    /// [`StoreError::NotTheKey`], [`StoreError::KeyDiffers`] where the store has another key of that name and epoch,
    /// [`StoreError::MasterMissing`]; what the file system says.
    fn take_key(
        &self,
        copy: &SealedKey,
        terms: &transfer::Terms,
        expected: &[Instance],
    ) -> Result<KeyEntry, StoreError>;

    /// Proves the claim that `context` makes about `instance`, a canonical encoding. The context names the same key.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`], or what the proof system says.
    fn prove(
        &self,
        parameters: &Parameters,
        context: &ClaimContext,
        instance: &[u8],
        key: &KeyRef,
    ) -> Result<Vec<u8>, StoreError>;

    /// Proves one claim that `context` makes about several symmetric keys, each attested by knowledge of it: `instance`,
    /// a canonical encoding, and the context name the same keys in the same order.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`], [`StoreError::ForeignClaim`] for keys that this store cannot prove so, or what the
    /// proof system says: [`keywitness_circuits::Error::KeysRefused`] names the keys that are not those of the instance,
    /// before any work is done.
    fn prove_many(
        &self,
        parameters: &Parameters,
        context: &ClaimContext,
        instance: &[u8],
        keys: &[KeyRef],
    ) -> Result<Vec<u8>, StoreError>;

    /// Signs a client's message: Ed25519 (RFC 8032), or ECDSA with SHA-256 and low s, as 64 bytes.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`], [`StoreError::NotASigningKey`], and [`StoreError::ReservedMessage`] for a message
    /// that begins as the protocol's own do.
    fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<[u8; 64], StoreError>;
}

/// The newest epoch of every key: what is attested and used.
pub fn current_keys(store: &dyn KeyStore) -> Vec<KeyEntry> {
    let mut newest = std::collections::BTreeMap::<KeyId, KeyEntry>::new();
    for entry in store.keys() {
        let known = newest.get(&entry.key.key).map_or(0, |known| known.key.epoch);
        if entry.key.epoch >= known {
            newest.insert(entry.key.key.clone(), entry);
        }
    }
    newest.into_values().collect()
}
