//! The HSM's side of the channel: opens a client's sealed request, decides, uses the key, seals the answer.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
};

use keywitness_circuits::{KeyId, codec::Canonical};
use keywitness_verifier::{
    identity::IdentityKey,
    operation::{MAX_AGE, Operation, OperationAnswer, OperationRequest},
    transfer::Transfer,
    wire::{Base64, KeyRef},
};

use crate::{
    agent::Standing,
    clock::Clock,
    store::{KeyStore, Membership, StoreError},
};

/// The request does not open with this HSM's channel key, or is not a request. Nothing more is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request does not open")]
pub struct Unopenable;

/// Gives copies of the HSM's keys to other HSMs of its cluster.
pub trait Giver: Send + Sync {
    /// Whether the HSM's operator has named this identity key as one that may have copies.
    fn gives_to(&self, identity: &IdentityKey) -> bool;

    /// Gives the copies that are asked for, by a request whose signature and age were checked.
    ///
    /// # Errors
    /// Why not, for the HSM that asks.
    fn give(&self, request: &OperationRequest) -> Result<Transfer, String>;
}

/// Answers the clients that the HSM's operator allows.
///
/// Who asks and what is asked is inside the sealed request, and so is every refusal in the sealed answer: whoever
/// watches the line learns neither. A request that comes twice within its age is decided twice, and each answer is sealed
/// under a nonce of its own; signatures are deterministic, so a second one tells the client nothing new.
///
/// A key is used only while its attestation is in force, as far as the HSM's agent knows.
pub struct Channel {
    store: Arc<dyn KeyStore>,
    standing: Arc<Standing>,
    clock: Arc<dyn Clock>,
    clients: RwLock<HashSet<IdentityKey>>,
    giver: Option<Arc<dyn Giver>>,
}

impl Channel {
    /// A channel to the keys of `store`, which nobody may use yet. `standing` comes from the HSM's agent.
    pub fn new(store: Arc<dyn KeyStore>, standing: Arc<Standing>, clock: Arc<dyn Clock>) -> Self {
        Self { store, standing, clock, clients: RwLock::default(), giver: None }
    }

    /// This channel, over which other HSMs of the cluster may ask for copies of keys.
    #[must_use]
    pub fn with_giver(self, giver: Arc<dyn Giver>) -> Self {
        Self { giver: Some(giver), ..self }
    }

    /// Allows the client that signs with this key.
    pub fn allow(&self, client: IdentityKey) {
        self.clients.write().unwrap_or_else(PoisonError::into_inner).insert(client);
    }

    /// Allows these clients, and no others.
    pub fn allow_only(&self, clients: impl IntoIterator<Item = IdentityKey>) {
        *self.clients.write().unwrap_or_else(PoisonError::into_inner) = clients.into_iter().collect();
    }

    /// No longer allows it.
    pub fn forbid(&self, client: &IdentityKey) {
        self.clients.write().unwrap_or_else(PoisonError::into_inner).remove(client);
    }

    /// Answers one sealed request with one sealed answer.
    ///
    /// # Errors
    /// [`Unopenable`]
    pub fn answer(&self, sealed: &[u8]) -> Result<Vec<u8>, Unopenable> {
        let membership = self.store.membership().ok_or(Unopenable)?;
        let opened = self.store.open_request(&membership.audience.trust_domain, &membership.hsm, sealed);
        let (request, answer_key) = opened.map_err(|_| Unopenable)?;
        let answer = self.decide(&membership, &request);
        let plain = serde_json::to_vec(&answer).map_err(|_| Unopenable)?;
        answer_key.seal(&plain).map_err(|_| Unopenable)
    }

    fn decide(&self, membership: &Membership, request: &OperationRequest) -> OperationAnswer {
        let answer = match &request.operation {
            Operation::Sign { key, message } => {
                let allowed = self.clients.read().unwrap_or_else(PoisonError::into_inner).contains(&request.client);
                self.check(membership, request, allowed).and_then(|()| self.sign(key, &message.0))
            }
            Operation::Copy { .. } => {
                let giver = self.giver.as_ref().filter(|giver| giver.gives_to(&request.client));
                self.check(membership, request, giver.is_some()).and_then(|()| {
                    let transfer = giver
                        .map_or_else(|| Err("this HSM gives no copies".to_owned()), |giver| giver.give(request))?;
                    Ok(OperationAnswer::Keys(Base64(transfer.to_bytes())))
                })
            }
        };
        answer.unwrap_or_else(OperationAnswer::Refused)
    }

    /// Who asks, and when.
    fn check(&self, membership: &Membership, request: &OperationRequest, allowed: bool) -> Result<(), String> {
        if !allowed {
            return Err("this client is not allowed to use the HSM's keys".to_owned());
        }
        let signed = request.check(&membership.audience.trust_domain, &membership.hsm);
        signed.map_err(|_| "the request does not carry its client's signature".to_owned())?;
        if !request.is_recent(self.clock.now()) {
            return Err(format!("the request was not made within {MAX_AGE} seconds of the HSM's clock"));
        }
        Ok(())
    }

    fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<OperationAnswer, String> {
        if self.standing.is_revoked(&key.key) {
            return Err(format!("key {} is revoked", key.key));
        }
        if self.newest_epoch(&key.key) > Some(key.epoch) {
            return Err(format!("key {} was rotated; ask for a new token", key.key));
        }
        if !self.standing.is_attested(key, self.clock.now()) {
            return Err(format!("this HSM has no attestation of key {} in force", key.key));
        }
        match self.store.sign(key, message) {
            Ok(signature) => Ok(OperationAnswer::Signature(Base64(signature.to_vec()))),
            Err(error @ (StoreError::NoSuchKey(_) | StoreError::NotASigningKey(_) | StoreError::ReservedMessage)) => {
                Err(error.to_string())
            }
            Err(error) => {
                tracing::error!(%error, key = %key.key, "the store does not sign");
                Err("the key store failed".to_owned())
            }
        }
    }

    fn newest_epoch(&self, key: &KeyId) -> Option<u32> {
        self.store.keys().into_iter().filter(|entry| entry.key.key == *key).map(|entry| entry.key.epoch).max()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU64, Ordering};

    use keywitness_circuits::{KeyAlgorithm, Timestamp};
    use keywitness_verifier::{
        channel,
        operation::{ClientKey, verify_signature},
    };

    use super::*;
    use crate::{
        Placement,
        testing::{attested, enrolled_store, membership, name, record},
    };

    const NOW: Timestamp = Timestamp(1_000_000);
    const EXPIRY: Timestamp = Timestamp(1_000_600);

    pub(crate) fn client_key(credential: &str) -> IdentityKey {
        ClientKey::from_credential(credential).public().unwrap()
    }

    pub(crate) fn sign_request(key: &str, epoch: u32, credential: &str, created: Timestamp) -> OperationRequest {
        let key = KeyRef { key: name(key), epoch };
        let operation = Operation::Sign { key, message: Base64(b"pay 100".to_vec()) };
        let (domain, hsm) = (membership().audience.trust_domain, membership().hsm);
        OperationRequest::sign(&ClientKey::from_credential(credential), &domain, &hsm, created, operation).unwrap()
    }

    /// Seals `request` for the store's HSM, has `deliver` answer it, and opens the answer.
    pub(crate) fn ask(
        store: &dyn KeyStore,
        request: &OperationRequest,
        deliver: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) -> OperationAnswer {
        let (domain, hsm) = (membership().audience.trust_domain, membership().hsm);
        let plain = serde_json::to_vec(request).unwrap();
        let (sealed, answer) = channel::seal_request(&domain, &hsm, &store.channel_key(), &plain).unwrap();
        serde_json::from_slice(&answer.open(&deliver(sealed)).unwrap()).unwrap()
    }

    fn refusal(answer: OperationAnswer) -> String {
        match answer {
            OperationAnswer::Refused(why) => why,
            OperationAnswer::Signature(_) | OperationAnswer::Keys(_) => panic!("answered"),
        }
    }

    #[test]
    fn an_allowed_client_gets_a_signature_and_nobody_else() {
        let (_directory, store) = enrolled_store();
        let standing = attested(&*store, EXPIRY);
        let channel = Channel::new(store.clone(), Arc::clone(&standing), Arc::new(|| NOW));
        channel.allow(client_key("kw_client_known"));
        let secret = "kw_client_known";
        let ask = |key, epoch, credential: &str, created| {
            ask(&*store, &sign_request(key, epoch, credential, created), |sealed| channel.answer(&sealed).unwrap())
        };

        for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::P256, KeyAlgorithm::Secp256k1] {
            let OperationAnswer::Signature(signature) = ask(algorithm.name(), 1, secret, NOW) else { panic!() };
            let key = KeyRef { key: name(algorithm.name()), epoch: 1 };
            let instance = store.instances(&key, &name("acme.example"), &[]).unwrap().remove(0);
            assert!(verify_signature(algorithm, &instance.spki().unwrap().unwrap(), b"pay 100", &signature.0));
        }

        assert!(refusal(ask("ed25519", 1, "kw_client_other", NOW)).contains("not allowed"));
        for created in [Timestamp(NOW.0 - MAX_AGE - 1), NOW.plus(MAX_AGE + 1), Timestamp(0), Timestamp(u64::MAX)] {
            assert!(refusal(ask("ed25519", 1, secret, created)).contains("within 60 seconds"));
        }
        assert!(matches!(ask("ed25519", 1, secret, NOW.plus(MAX_AGE)), OperationAnswer::Signature(_)));
        for (key, epoch) in [("missing", 1), ("ed25519", 2)] {
            assert!(refusal(ask(key, epoch, secret, NOW)).contains("no attestation"));
            standing.remember(&KeyRef { key: name(key), epoch }, NOW, EXPIRY);
        }
        assert!(refusal(ask("missing", 1, secret, NOW)).contains("no key missing"));
        assert!(refusal(ask("ed25519", 2, secret, NOW)).contains("no key ed25519 at epoch 2"));
        assert!(refusal(ask("aes256", 1, secret, NOW)).contains("does not sign"));

        channel.forbid(&client_key(secret));
        assert!(refusal(ask("p256", 1, secret, NOW)).contains("not allowed"));
    }

    #[test]
    fn an_allowed_client_has_to_sign_for_itself_and_this_hsm() {
        let (_directory, store) = enrolled_store();
        let channel = Channel::new(store.clone(), attested(&*store, EXPIRY), Arc::new(|| NOW));
        channel.allow(client_key("kw_client_known"));
        let ask = |request: &OperationRequest| ask(&*store, request, |sealed| channel.answer(&sealed).unwrap());
        let good = sign_request("p256", 1, "kw_client_known", NOW);
        assert!(matches!(ask(&good), OperationAnswer::Signature(_)));
        let other = sign_request("p256", 1, "kw_client_other", NOW);
        let elsewhere = OperationRequest::sign(
            &ClientKey::from_credential("kw_client_known"),
            &membership().audience.trust_domain,
            &name("hsm-2"),
            NOW,
            good.operation.clone(),
        );
        for forged in [
            OperationRequest { client: good.client, ..other },
            OperationRequest { created: NOW.plus(1), ..good.clone() },
            OperationRequest { signature: Base64(Vec::new()), ..good },
            elsewhere.unwrap(),
        ] {
            assert!(refusal(ask(&forged)).contains("does not carry its client's signature"));
        }
    }

    #[test]
    fn a_key_is_used_only_while_its_attestation_is_in_force() {
        let (_directory, store) = enrolled_store();
        let standing = Arc::new(Standing::new());
        let now = Arc::new(AtomicU64::new(NOW.0));
        let clock = Arc::clone(&now);
        let clock = Arc::new(move || Timestamp(clock.load(Ordering::Relaxed)));
        let channel = Channel::new(store.clone(), Arc::clone(&standing), clock);
        channel.allow(client_key("kw_client_known"));
        let ask = |key, epoch| {
            let request = sign_request(key, epoch, "kw_client_known", Timestamp(now.load(Ordering::Relaxed)));
            ask(&*store, &request, |sealed| channel.answer(&sealed).unwrap())
        };
        let signs = |key, epoch| matches!(ask(key, epoch), OperationAnswer::Signature(_));
        let unattested = |key, epoch| {
            assert_eq!(refusal(ask(key, epoch)), format!("this HSM has no attestation of key {key} in force"));
        };

        unattested("p256", 1);
        standing.accept(&record("p256", 1, EXPIRY));
        assert!(signs("p256", 1));
        unattested("ed25519", 1);
        standing.accept(&record("ed25519", 1, EXPIRY));

        now.store(EXPIRY.0 - 1, Ordering::Relaxed);
        assert!(signs("p256", 1));
        now.store(EXPIRY.0, Ordering::Relaxed);
        unattested("p256", 1);
        standing.accept(&record("p256", 1, EXPIRY.plus(600)));
        assert!(signs("p256", 1));
        standing.remember(&KeyRef { key: name("p256"), epoch: 1 }, Timestamp(0), Timestamp(1));
        assert!(signs("p256", 1), "an old record does not replace a new one");

        standing.revoke_key(&name("p256"));
        assert!(refusal(ask("p256", 1)).contains("revoked"));
        standing.accept(&record("ed25519", 1, EXPIRY.plus(600)));
        assert!(signs("ed25519", 1));
        assert!(refusal(ask("p256", 1)).contains("revoked"), "that key still is");
        standing.revoke_hsm();
        assert!(refusal(ask("ed25519", 1)).contains("revoked"));
        standing.accept(&record("p256", 1, EXPIRY.plus(600)));
        assert!(signs("p256", 1));
        unattested("ed25519", 1);

        store.generate(&name("p256"), KeyAlgorithm::P256, Placement::Rotate).unwrap();
        assert!(refusal(ask("p256", 1)).contains("rotated"));
        unattested("p256", 2);
        standing.accept(&record("p256", 2, EXPIRY.plus(600)));
        assert!(signs("p256", 2));
    }

    #[test]
    fn what_does_not_open_gets_no_answer() {
        let (_directory, store) = enrolled_store();
        let channel = Channel::new(store.clone(), Arc::default(), Arc::new(|| NOW));
        for garbage in [b"".as_slice(), &[0; 31], &[7; 200]] {
            assert_eq!(channel.answer(garbage), Err(Unopenable));
        }
        let (domain, key) = (name("acme.example"), store.channel_key());
        let seal = |hsm: &str, plain: &[u8]| channel::seal_request(&domain, &name(hsm), &key, plain).unwrap().0;
        let good = serde_json::to_vec(&sign_request("p256", 1, "x", NOW)).unwrap();
        assert_eq!(channel.answer(&seal("hsm-2", &good)), Err(Unopenable), "sealed under another name");
        assert_eq!(channel.answer(&seal("hsm-1", b"{}")), Err(Unopenable), "not a request");
        assert!(channel.answer(&seal("hsm-1", &good)).is_ok());
    }
}
