//! A key store whose keys live in a token, beside a software store for the HSM's identity.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use keywitness_circuits::{
    ClaimContext, ClusterId, Error, HsmId, Instance, KeyAlgorithm, KeyAttributes, KeyId, KeyOrigin, Nonce, Parameters,
    Suite, TrustDomain, codec::Canonical, key_knowledge::eddsa, key_possession::ecdsa, registry, tagged_key,
};
use keywitness_custody::{Dealing, Scheme, SealingKey, Terms};
use keywitness_verifier::{
    channel::AnswerKey,
    identity::IdentityKey,
    operation::{self, OperationError, OperationRequest, verify_signature},
    transfer::{self, Described, SealedKey},
    wire::KeyRef,
};
use sha2::{Digest as _, Sha256};

use super::{Held, OTHERS_SIGNATURE, Token, TokenError, TokenKey, wrap::Arrival};
use crate::store::{KeyEntry, KeyStore, Membership, Placement, Received, SoftwareStore, StoreError, share};

/// The label of the key that is an HSM's identity wherever a token has it.
pub const IDENTITY: &str = "keywitness-identity";

/// A token's keys and a software store's.
///
/// The software store keeps the channel key and the membership, the identity key unless the token does, and may hold keys of its
/// own. The two hold no key of the same name and epoch.
#[derive(Debug)]
pub struct TokenStore {
    software: SoftwareStore,
    token: Arc<Token>,
    /// The token's keys as it listed them last.
    listed: Mutex<Vec<TokenKey>>,
}

impl TokenStore {
    /// Joins a token to a software store. The HSM's identity is the token's Ed25519 key of the label `identity`, or [`IDENTITY`] if
    /// the token has that, or else the file's own.
    ///
    /// # Errors
    /// [`TokenError::Refused`] where both hold a key of one name and epoch, or where the identity is no key for that;
    /// [`TokenError::NoSuchKey`]; where the token does not answer.
    pub fn new(software: SoftwareStore, mut token: Token, identity: Option<&KeyId>) -> Result<Self, StoreError> {
        let identity = token.take_identity(identity)?;
        let listed = token.keys()?;
        let known = software.keys();
        if let Some(twice) = listed.iter().find(|key| known.iter().any(|entry| entry.key == key.key)) {
            return Err(TokenError::Refused {
                key: twice.key.clone(),
                why: format!("both token {} and the store's file hold it", token.label()),
            }
            .into());
        }
        let token = Arc::new(token);
        let software = match identity {
            None => software,
            Some(identity) => {
                let signer = Arc::clone(&token);
                software.with_identity(identity, Box::new(move |message| signer.sign_as_identity(&identity, message)))
            }
        };
        Ok(Self { software, token, listed: Mutex::new(listed) })
    }

    /// The token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The software store.
    pub const fn software(&self) -> &SoftwareStore {
        &self.software
    }

    /// Generates a key in the token. A key of the software store can be rotated into it.
    ///
    /// # Errors
    /// [`TokenError::NoSuchAlgorithm`], [`StoreError::KeyExists`], [`StoreError::NothingToRotate`],
    /// [`StoreError::OtherAlgorithm`], [`StoreError::IdentityStays`]; where the token does not answer.
    pub fn generate(&self, key: &KeyId, algorithm: KeyAlgorithm, placement: Placement) -> Result<TokenKey, StoreError> {
        self.generate_as(key, algorithm, placement, false)
    }

    /// As [`Self::generate`], of a key that may leave the token wrapped where it is `extractable`: other HSMs of the cluster can be given
    /// it.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_as(
        &self,
        key: &KeyId,
        algorithm: KeyAlgorithm,
        placement: Placement,
        extractable: bool,
    ) -> Result<TokenKey, StoreError> {
        self.refresh()?;
        if key.as_str() == IDENTITY {
            let fresh = self.software.membership().is_none() && placement == Placement::New;
            if !fresh || algorithm != KeyAlgorithm::Ed25519 {
                return Err(StoreError::IdentityStays);
            }
        }
        let newest = self.keys().into_iter().rfind(|entry| entry.key.key == *key);
        let epoch = placement.epoch(key, algorithm, newest)?;
        self.token.generate(&KeyRef { key: key.clone(), epoch }, algorithm, extractable)
    }

    /// Removes a key from where it is.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`], [`StoreError::IdentityStays`]; where store or token cannot be changed.
    pub fn delete(&self, key: &KeyRef) -> Result<(), StoreError> {
        if self.is_software(key) {
            return self.software.delete(key);
        }
        self.token.delete(key)
    }

    /// Asks the token for its keys.
    fn refresh(&self) -> Result<(), StoreError> {
        let keys = self.token.keys()?;
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// The identity key signs neither claims about itself nor clients' messages.
    fn check_no_identity(&self, key: &KeyRef) -> Result<(), StoreError> {
        if self.token.is_identity(key) { Err(StoreError::NoSuchKey(key.clone())) } else { Ok(()) }
    }

    fn is_software(&self, key: &KeyRef) -> bool {
        self.software.holds(key)
    }
}

/// The statements about a token's keys: which instances a key has, and how the token proves one.
impl TokenStore {
    fn token_instances(&self, key: &KeyRef, trust_domain: &TrustDomain) -> Result<Vec<Instance>, StoreError> {
        let algorithm = self.token.held(key)?.algorithm;
        if !algorithm.is_cmac() {
            return Ok(vec![self.token.public_key(key)?.instance().clone()]);
        }
        let tag = self.token.cmac(key, &tagged_key::identifier_message(trust_domain))?;
        Ok(vec![tagged_key::Instance::enrolled(trust_domain, algorithm, &tag)?.into()])
    }

    /// Whether a key of the token is one that is expected, by its fingerprint.
    fn proves_one_of(
        &self,
        key: &KeyRef,
        trust_domain: &TrustDomain,
        expected: &[Instance],
    ) -> Result<bool, StoreError> {
        let ours = self.token_instances(key, trust_domain)?;
        let same = |one: &Instance, other: &Instance| matches!((one.fingerprint(), other.fingerprint()), (Ok(one), Ok(other)) if one == other);
        Ok(!expected.is_empty() && expected.iter().all(|expected| ours.iter().any(|own| same(own, expected))))
    }

    /// The tags that a CMAC key computes in the round that `beacon` opens.
    fn tags(
        &self,
        key: &KeyRef,
        trust_domain: &TrustDomain,
        beacon: &Nonce,
    ) -> Result<tagged_key::Witness, StoreError> {
        let identifier = self.token.cmac(key, &tagged_key::identifier_message(trust_domain))?;
        let round = self.token.cmac(key, &tagged_key::round_message(trust_domain, beacon))?;
        Ok(tagged_key::Witness::from_tags(&identifier, &round))
    }

    /// The tags of the round that `instance` names, opened in zero knowledge.
    fn prove_tagged(
        &self,
        parameters: &Parameters,
        context: &ClaimContext,
        instance: &[u8],
        key: &KeyRef,
    ) -> Result<Vec<u8>, StoreError> {
        let wrong = |why| StoreError::from(Error::WrongInstance(why));
        let Instance::TaggedKey(round) = Instance::from_bytes(instance)? else {
            return Err(wrong("the key is attested by its tags alone"));
        };
        let beacon = round.beacon().ok_or(wrong("it names no beacon that the key could answer"))?;
        let tags = self.tags(key, &context.trust_domain, beacon)?;
        Ok(registry::prove(parameters, context, instance, &tags.into())?)
    }

    /// EdDSA or ECDSA over the context, as `key_knowledge` asks of an Ed25519 key and `key_possession` of others. The context
    /// is checked before the token signs. The first signature of a key under a login is verified before it is handed out, which shows that
    /// the public key beside it is its own; the manager verifies every one, and an agent those that it is told to.
    fn prove_signing(
        &self,
        parameters: &Parameters,
        context: &ClaimContext,
        instance: &[u8],
        (key, held): (&KeyRef, Held),
    ) -> Result<Vec<u8>, StoreError> {
        let own = held.public.map_or_else(|| self.token.public_key(key), Ok)?;
        let kind = own.instance().kind().ok_or(StoreError::ForeignClaim)?;
        let about_it = context.statement == kind.name() && context.instance == *own.digest();
        if !about_it || own.instance().to_bytes() != instance {
            return Err(StoreError::ForeignClaim);
        }
        if context.verifying_key != registry::verifying_key(parameters, kind)? {
            return Err(Error::WrongVerifyingKey.into());
        }
        let signature = match held.algorithm {
            KeyAlgorithm::Ed25519 => self.token.eddsa(key, &eddsa::attest_message(context))?,
            algorithm => self.token.ecdsa(key, algorithm, &ecdsa::attest_hash(context))?,
        };
        if !held.proven.load(Ordering::Relaxed) {
            let opened = registry::open(parameters, context, &own, &signature)?;
            registry::verify_all(&[&opened])?;
            held.proven.store(true, Ordering::Relaxed);
        }
        Ok(signature.to_vec())
    }

    /// A client's message signed; nothing where the signature is not under the public key beside the key.
    fn sign_verified(&self, key: &KeyRef, message: &[u8]) -> Result<Option<[u8; 64]>, StoreError> {
        let held = self.token.held(key)?;
        let signature = match held.algorithm {
            KeyAlgorithm::Ed25519 => self.token.eddsa(key, message)?,
            algorithm @ (KeyAlgorithm::P256 | KeyAlgorithm::Secp256k1) => {
                self.token.ecdsa(key, algorithm, &Sha256::digest(message).into())?
            }
            algorithm => return Err(StoreError::NotASigningKey(algorithm)),
        };
        let own = held.public.map_or_else(|| self.token.public_key(key), Ok)?;
        let spki = own.instance().spki()?.unwrap_or_default();
        Ok(verify_signature(held.algorithm, &spki, message, &signature).then_some(signature))
    }
}

impl KeyStore for TokenStore {
    fn identity(&self) -> IdentityKey {
        self.software.identity()
    }

    fn sign_with_identity(&self, message: &[u8]) -> Result<[u8; 64], StoreError> {
        self.software.sign_with_identity(message)
    }

    fn parallel(&self) -> usize {
        self.token.parallel()
    }

    fn channel_key(&self) -> [u8; 32] {
        self.software.channel_key()
    }

    fn master(&self, key: &KeyRef) -> Option<KeyRef> {
        self.software.master(key)
    }

    fn sealing_key(&self) -> Result<SealingKey, StoreError> {
        self.software.sealing_key()
    }

    fn deal(&self, key: &KeyRef, terms: Terms, scheme: Scheme) -> Result<Dealing, StoreError> {
        self.software.deal(key, terms, scheme)
    }

    fn receive_share(
        &self,
        dealing: &Dealing,
        dealer: &IdentityKey,
        cluster: &ClusterId,
    ) -> Result<Received, StoreError> {
        // A share must not take the place of a key of the token.
        if let Some(membership) = self.software.membership() {
            let (name, _) = share::named(dealing, &membership.hsm, cluster)?;
            if self.token.keys()?.iter().any(|key| key.key.key == name.key) {
                return Err(StoreError::KeyExists(name.key));
            }
        }
        self.software.receive_share(dealing, dealer, cluster)
    }

    fn copy_key(&self, key: &KeyRef, terms: &transfer::Terms, channel_key: &[u8; 32]) -> Result<SealedKey, StoreError> {
        if self.is_software(key) {
            return self.software.copy_key(key, terms, channel_key);
        }
        let wrapped = self.token.wrap(key)?;
        let attributes = KeyAttributes { origin: KeyOrigin::Imported, ..self.token.key(key)?.attributes() };
        let described = Described { key: key.clone(), attributes, master: None };
        let sealed = SealedKey::seal(terms, described, channel_key, &wrapped);
        sealed.map_err(|_| StoreError::Unreadable("the other HSM's channel key is not usable"))
    }

    fn take_key(
        &self,
        copy: &SealedKey,
        terms: &transfer::Terms,
        expected: &[Instance],
    ) -> Result<KeyEntry, StoreError> {
        let Described { key, attributes, .. } = &copy.described;
        let wrapped = attributes.token.is_some();
        let held = self.token.keys()?.into_iter().find(|held| held.key == *key);
        if wrapped && self.is_software(key) || !wrapped && held.is_some() {
            return Err(StoreError::KeyDiffers(key.clone()));
        }
        if !wrapped {
            return self.software.take_key(copy, terms, expected);
        }
        let arrived = match held {
            // Taking it again changes nothing.
            Some(held) if self.proves_one_of(key, &terms.trust_domain, expected)? => held,
            Some(_) => return Err(StoreError::KeyDiffers(key.clone())),
            None => {
                let wrapped = self.software.open_copy(copy, terms)?;
                let (algorithm, trust_domain) = (attributes.algorithm, &terms.trust_domain);
                self.token.unwrap_key(&Arrival { key, algorithm, wrapped: &wrapped, trust_domain, expected })?
            }
        };
        Ok(KeyEntry { key: key.clone(), attributes: arrived.attributes() })
    }

    fn open_request(
        &self,
        trust_domain: &TrustDomain,
        hsm: &HsmId,
        sealed: &[u8],
    ) -> Result<(OperationRequest, AnswerKey), OperationError> {
        self.software.open_request(trust_domain, hsm, sealed)
    }

    fn membership(&self) -> Option<Membership> {
        self.software.membership()
    }

    fn set_membership(&self, membership: Membership) -> Result<(), StoreError> {
        self.software.set_membership(membership)
    }

    /// The software store's keys and the token's, without those that are refused. Where the token does not answer, its
    /// keys are those that it listed last, so that attesting them fails, and is told, rather than not happen.
    fn keys(&self) -> Vec<KeyEntry> {
        if let Err(error) = self.refresh() {
            tracing::warn!(%error, "the token does not list its keys");
        }
        let mut entries = self.software.keys();
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let usable =
            listed.iter().filter(|key| key.refusal.is_none() && entries.iter().all(|known| known.key != key.key));
        let of_token: Vec<_> =
            usable.map(|key| KeyEntry { key: key.key.clone(), attributes: key.attributes() }).collect();
        entries.extend(of_token);
        entries.sort_by(|one, other| one.key.cmp(&other.key));
        entries
    }

    fn instances(
        &self,
        key: &KeyRef,
        trust_domain: &TrustDomain,
        suites: &[Suite],
    ) -> Result<Vec<Instance>, StoreError> {
        if self.is_software(key) {
            return self.software.instances(key, trust_domain, suites);
        }
        self.token_instances(key, trust_domain)
    }

    fn tagged_instance(
        &self,
        key: &KeyRef,
        trust_domain: &TrustDomain,
        beacon: &Nonce,
    ) -> Result<Instance, StoreError> {
        if self.is_software(key) {
            return self.software.tagged_instance(key, trust_domain, beacon);
        }
        let algorithm = self.token.held(key)?.algorithm;
        if !algorithm.is_cmac() {
            return Err(StoreError::NotACmacKey(algorithm));
        }
        Ok(self.tags(key, trust_domain, beacon)?.instance(trust_domain, algorithm, beacon)?.into())
    }

    fn prove(
        &self,
        parameters: &Parameters,
        context: &ClaimContext,
        instance: &[u8],
        key: &KeyRef,
    ) -> Result<Vec<u8>, StoreError> {
        if self.is_software(key) {
            return self.software.prove(parameters, context, instance, key);
        }
        self.check_no_identity(key)?;
        let claim = match context.keys.as_slice() {
            [claim] if claim.key == key.key && claim.epoch == key.epoch => claim,
            _ => return Err(StoreError::ForeignClaim),
        };
        let held = self.token.held(key)?;
        if claim.attributes != held.attributes {
            return Err(StoreError::AttributesChanged(key.clone()));
        }
        if held.algorithm.is_cmac() {
            self.prove_tagged(parameters, context, instance, key)
        } else {
            self.prove_signing(parameters, context, instance, (key, held))
        }
    }

    /// No key of a token gives the knowledge that a proof of many keys needs: only software keys are proven so.
    fn prove_many(
        &self,
        parameters: &Parameters,
        context: &ClaimContext,
        instance: &[u8],
        keys: &[KeyRef],
    ) -> Result<Vec<u8>, StoreError> {
        if !keys.iter().all(|key| self.is_software(key)) {
            return Err(StoreError::ForeignClaim);
        }
        self.software.prove_many(parameters, context, instance, keys)
    }

    /// As of a software key: the protocol's own messages are refused first, since an attestation of such a key *is* a
    /// signature, of SHA-256 of a message of the protocol where it is by ECDSA. Every signature is verified before it is given: the token
    /// may have given the key's handle to another one since it was found, which is then looked for anew.
    fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<[u8; 64], StoreError> {
        operation::check_message(message).map_err(|_| StoreError::ReservedMessage)?;
        if self.is_software(key) {
            return self.software.sign(key, message);
        }
        self.check_no_identity(key)?;
        if let Some(signature) = self.sign_verified(key, message)? {
            return Ok(signature);
        }
        self.token.forget(key)?;
        let signature = self.sign_verified(key, message)?;
        signature.ok_or_else(|| TokenError::NoPublicKey { key: key.clone(), why: OTHERS_SIGNATURE }.into())
    }
}
