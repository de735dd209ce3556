//! Copies of keys as a store decides about them: what it asks for, what it gives, and what it takes.
//!
//! Everything that a copy is bound to is the store's own: its membership, its channel key, and a request that was signed. Which identities are peers
//! is for whoever the operator told: the agent, and the proving process.

use keywitness_circuits::{Digest, HsmId, Instance, Timestamp};
use keywitness_verifier::{
    identity::IdentityKey,
    operation::{Operation, OperationRequest},
    transfer::{Terms, Transfer, Withheld},
    wire::{KeyRef, MAX_TRANSFER},
};

use super::{KeyEntry, KeyStore, Membership, StoreError};

/// As [`KeyStore::ask_copies`].
pub(super) fn ask<S: KeyStore + ?Sized>(
    store: &S,
    from: &HsmId,
    keys: &[KeyRef],
    now: Timestamp,
) -> Result<OperationRequest, StoreError> {
    let Membership { audience, hsm, .. } = store.membership().ok_or(StoreError::NotEnrolled)?;
    let channel_key = Digest(store.channel_key());
    let operation = Operation::Copy { hsm, channel_key, keys: keys.to_vec() };
    let sign = |message: &[u8]| store.sign_with_identity(message);
    OperationRequest::sign_as(store.identity(), (&audience.trust_domain, from), now, operation, sign)
}

/// As [`KeyStore::give_copies`].
pub(super) fn give<S: KeyStore + ?Sized>(
    store: &S,
    request: &OperationRequest,
    withheld: &[Withheld],
    now: Timestamp,
) -> Result<Transfer, StoreError> {
    let Membership { audience, hsm, enrolment } = store.membership().ok_or(StoreError::NotEnrolled)?;
    let cluster = enrolment.ok_or(StoreError::NotEnrolled)?.cluster;
    let domain = &audience.trust_domain;
    let Operation::Copy { hsm: to, channel_key, keys } = &request.operation else {
        return Err(StoreError::NotGiven("this is no request for copies"));
    };
    request
        .check(domain, &hsm)
        .map_err(|_| StoreError::NotGiven("the request is not its sender's, or not to this HSM"))?;
    if !request.is_recent(now) {
        return Err(StoreError::NotGiven("the request was not made within a minute of this HSM's clock"));
    }
    if !(1..=MAX_TRANSFER).contains(&keys.len()) {
        return Err(StoreError::NotGiven("the request is of no key, or of too many"));
    }
    let request = request.digest(domain, &hsm);
    let terms = Terms { trust_domain: domain.clone(), cluster, from: hsm, to: to.clone(), request };
    let (mut copies, mut kept) = (Vec::with_capacity(keys.len()), Vec::new());
    for key in keys {
        if let Some(withheld) = withheld.iter().find(|withheld| withheld.key == *key) {
            kept.push(withheld.clone());
            continue;
        }
        match store.copy_key(key, &terms, &channel_key.0) {
            Ok(copy) => copies.push(copy),
            // The other keys are not held up by one that cannot be given.
            Err(error) => kept.push(Withheld::new(key.clone(), &error.to_string())),
        }
    }
    Transfer::sign(terms, copies, kept, |message| store.sign_with_identity(message))
}

/// As [`KeyStore::take_copy`].
pub(super) fn take<S: KeyStore + ?Sized>(
    store: &S,
    (transfer, giver): (&Transfer, &IdentityKey),
    key: &KeyRef,
    expected: &[Instance],
) -> Result<KeyEntry, StoreError> {
    let Membership { audience, hsm, enrolment } = store.membership().ok_or(StoreError::NotEnrolled)?;
    let cluster = enrolment.ok_or(StoreError::NotEnrolled)?.cluster;
    let Terms { from, request, .. } = transfer.terms.clone();
    let terms = Terms { trust_domain: audience.trust_domain, cluster, from, to: hsm, request };
    let foreign = || StoreError::NotTheKey(key.clone());
    transfer.check(giver, &terms).map_err(|_| foreign())?;
    let copy = transfer.copies.iter().find(|copy| copy.described.key == *key).ok_or_else(foreign)?;
    store.take_key(copy, &terms, expected)
}
