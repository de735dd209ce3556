//! Dealers and holders for tests.
#![allow(clippy::unwrap_used)]

use ed25519_dalek::{Signer as _, SigningKey};
use keywitness_circuits::HsmId;
use keywitness_verifier::identity::IdentityKey;

use crate::{HolderKey, Member, Purpose, SealingKey, SharingId, Terms, public::GroupPoint};

/// An HSM with its identity key and its sealing key.
pub(crate) struct Node {
    pub(crate) id: HsmId,
    signing: SigningKey,
    pub(crate) key: HolderKey,
}

impl Node {
    pub(crate) fn new(name: &str) -> Self {
        let signing = SigningKey::generate(&mut rand::rngs::OsRng);
        Self { id: name.parse().unwrap(), signing, key: HolderKey::generate() }
    }

    pub(crate) fn identity(&self) -> IdentityKey {
        IdentityKey::from_bytes(self.signing.verifying_key().to_bytes()).unwrap()
    }

    pub(crate) fn sign(&self) -> impl Fn(&[u8]) -> [u8; 64] {
        |message| self.signing.sign(message).to_bytes()
    }
}

pub(crate) fn nodes(count: usize) -> Vec<Node> {
    (1..=count).map(|i| Node::new(&format!("holder-{i}"))).collect()
}

pub(crate) fn sharing(epoch: u32) -> SharingId {
    let (trust_domain, key) = ("acme.example".parse().unwrap(), "vault".parse().unwrap());
    SharingId { trust_domain, key, purpose: Purpose::Sign, epoch }
}

/// Terms with indices 2, 5, 8, …
pub(crate) fn terms(dealer: &Node, holders: &[Node], threshold: u16) -> Terms<SealingKey> {
    let member = |(i, node): (usize, &Node)| Member {
        index: 3 * i as u16 + 2,
        holder: node.id.clone(),
        key: *node.key.public(),
    };
    let members = holders.iter().enumerate().map(member).collect();
    Terms { sharing: sharing(1), dealer: dealer.id.clone(), threshold, members }
}

/// Terms of a public dealing, with indices 2, 5, 8, …
pub(crate) fn public_terms(dealer: &Node, keys: &[crate::GroupKey], threshold: u16) -> Terms<GroupPoint> {
    let member = |(i, key): (usize, &crate::GroupKey)| Member {
        index: 3 * i as u16 + 2,
        holder: format!("holder-{i}").parse().unwrap(),
        key: *key.public(),
    };
    let members = keys.iter().enumerate().map(member).collect();
    Terms { sharing: sharing(1), dealer: dealer.id.clone(), threshold, members }
}
