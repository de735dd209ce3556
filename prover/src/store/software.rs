//! A key store in one encrypted file.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use keywitness_circuits::{
    ClaimContext, ClusterId, Error, HsmId, Instance, KeyAlgorithm, KeyAttributes, KeyClaim, KeyId, KeyOrigin, Nonce,
    Parameters, Suite, TrustDomain, Witness,
    codec::Canonical,
    key_derivation,
    key_knowledge::{self, many},
    registry, tagged_key,
};
use keywitness_custody::{Dealing, Scheme, SealingKey, Terms};
use keywitness_isolation::LockedBytes;
use keywitness_verifier::{
    channel::{self, AnswerKey},
    identity::IdentityKey,
    operation::{self, OperationError, OperationRequest},
    transfer::{self, SealedKey},
    wire::KeyRef,
};
use rand::{RngCore, rngs::OsRng};
use zeroize::Zeroizing;

use super::{
    KeyEntry, KeyStore, Membership, PassphraseCost, Placement, StoreError, Unlock,
    content::{Content, Derivation, StoredKey},
    file::{self, WriteLock},
    import, seal,
    seal::FileKey,
    share::Received,
    sign,
};

/// What a store is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// To look and to use keys; works beside a process that writes.
    Read,
    /// To change it too; one process at a time.
    Write,
}

/// A software key store: secrets in locked memory, at rest in one encrypted file.
///
/// Its keys can be copied to another store of the cluster ([`SoftwareStore::export_to`]), so its attributes call
/// them extractable. The identity key and the channel key are never copied.
pub struct SoftwareStore {
    path: PathBuf,
    file_key: FileKey,
    identity: IdentityKey,
    channel_key: [u8; 32],
    content: RwLock<Content>,
    lock: Option<WriteLock>,
    /// What signs as the identity, where the file's own key does not.
    signer: Option<IdentitySigner>,
}

/// Signs the protocol's own messages with an identity key that is kept elsewhere.
pub(super) type IdentitySigner = Box<dyn Fn(&[u8]) -> Result<[u8; 64], StoreError> + Send + Sync>;

impl SoftwareStore {
    /// The same store of an HSM whose identity key is kept elsewhere: the file's own is not used.
    #[must_use]
    pub(super) fn with_identity(self, identity: IdentityKey, signer: IdentitySigner) -> Self {
        Self { identity, signer: Some(signer), ..self }
    }

    /// Creates a store with a fresh identity and no keys, opened for writing.
    ///
    /// # Errors
    /// [`StoreError::Exists`] rather than write over a store; [`StoreError::ShortPassphrase`]; what the file system
    /// says.
    pub fn create(path: &Path, unlock: &Unlock) -> Result<Self, StoreError> {
        Self::create_with(path, unlock, PassphraseCost::default())
    }

    /// As [`SoftwareStore::create`], with a passphrase cost of the caller's.
    ///
    /// # Errors
    /// As [`SoftwareStore::create`].
    pub fn create_with(path: &Path, unlock: &Unlock, cost: PassphraseCost) -> Result<Self, StoreError> {
        let lock = WriteLock::take(path)?;
        if path.try_exists().map_err(StoreError::io(path))? {
            return Err(StoreError::Exists(path.to_owned()));
        }
        let file_key = FileKey::create(unlock, cost)?;
        let mut identity = Zeroizing::new([0; 32]);
        OsRng.fill_bytes(&mut *identity);
        let (channel, _) = channel::generate_key();
        let content = Content {
            identity: LockedBytes::new(&*identity),
            channel: LockedBytes::new(&*channel),
            membership: None,
            keys: Vec::new(),
        };
        file::replace(path, &file_key.seal(content.encode()?)?)?;
        Self::assemble(path, file_key, content, Some(lock))
    }

    /// Opens a store.
    ///
    /// # Errors
    /// [`StoreError::InUse`] for writing beside another writer; [`StoreError::DoesNotOpen`] and its kin.
    pub fn open(path: &Path, unlock: &Unlock, access: Access) -> Result<Self, StoreError> {
        let bytes = file::read(path)?;
        let (lock, bytes) = match access {
            Access::Read => (None, bytes),
            // Read again under the lock: the file was there, so that no lock file is left beside nothing.
            Access::Write => (Some(WriteLock::take(path)?), file::read(path)?),
        };
        let (file_key, content) = seal::open(path, &bytes, unlock)?;
        let unreadable = StoreError::NotAStore { path: path.to_owned(), why: "its content cannot be read" };
        let content = Content::decode(&content).ok_or(unreadable)?;
        Self::assemble(path, file_key, content, lock)
    }

    fn assemble(path: &Path, file_key: FileKey, content: Content, lock: Option<WriteLock>) -> Result<Self, StoreError> {
        let damaged = || StoreError::NotAStore { path: path.to_owned(), why: "its identity cannot be read" };
        let identity = content.identity.expose(|seed| {
            let seed = seed.try_into().map_err(|_| damaged())?;
            Ok::<_, StoreError>(ed25519_dalek::SigningKey::from_bytes(seed).verifying_key().to_bytes())
        })?;
        let channel_key = content.channel.expose(channel_public).ok_or_else(damaged)?;
        let identity = IdentityKey::from_bytes(identity)?;
        let (path, content) = (path.to_owned(), RwLock::new(content));
        Ok(Self { path, file_key, identity, channel_key, content, lock, signer: None })
    }

    /// Generates a key.
    ///
    /// # Errors
    /// [`StoreError::KeyExists`], [`StoreError::NothingToRotate`], [`StoreError::OtherAlgorithm`],
    /// [`StoreError::ReadOnly`], [`StoreError::ShareIsDealt`], or what the file system says; then nothing has changed.
    pub fn generate(&self, key: &KeyId, algorithm: KeyAlgorithm, placement: Placement) -> Result<KeyEntry, StoreError> {
        if algorithm.is_share() {
            return Err(StoreError::ShareIsDealt(algorithm));
        }
        self.place(key, algorithm, KeyOrigin::Generated, placement, &generate(algorithm))
    }

    /// Brings a key in from outside; `material` is in any form that [`import::read`] reads.
    ///
    /// # Errors
    /// As [`SoftwareStore::generate`] and [`import::read`].
    pub fn import(
        &self,
        key: &KeyId,
        algorithm: KeyAlgorithm,
        material: &[u8],
        placement: Placement,
    ) -> Result<KeyEntry, StoreError> {
        self.place(key, algorithm, KeyOrigin::Imported, placement, &import::read(algorithm, material)?)
    }

    /// Derives a key from the newest epoch of `master`, for use in `trust_domain`. The key that comes out depends on all
    /// of these, on its name and on its epoch, and on nothing else.
    ///
    /// # Errors
    /// [`StoreError::NoSuchMaster`], [`StoreError::OtherDerivation`] for a rotation that would change where the key
    /// comes from; as [`SoftwareStore::generate`]; what the derivation says of the algorithms.
    pub fn derive(
        &self,
        master: &KeyId,
        key: &KeyId,
        algorithm: KeyAlgorithm,
        trust_domain: &TrustDomain,
        placement: Placement,
    ) -> Result<KeyEntry, StoreError> {
        let newest = self.newest(master).ok_or_else(|| StoreError::NoSuchMaster(master.clone()))?;
        let derivation = Derivation { master: newest.key.clone(), trust_domain: trust_domain.clone() };
        let epoch = self.next_epoch(key, algorithm, placement)?;
        if let Some(known) = self.newest(key) {
            let before = self.with_key(&known.key, |held| held.derivation.clone())?;
            // The master may have been rotated meanwhile, no more.
            if !before.is_some_and(|before| {
                before.master.key == derivation.master.key && before.trust_domain == derivation.trust_domain
            }) {
                return Err(StoreError::OtherDerivation(key.clone()));
            }
        }
        let target = key_derivation::Target { key: key.clone(), algorithm, epoch };
        let secret = self.with_key(&newest.key, |held| {
            let algorithm = held.attributes.algorithm;
            held.secret.expose(|secret| key_derivation::derive(trust_domain, algorithm, secret, &target))
        })??;
        let attributes = KeyAttributes::new(algorithm, KeyOrigin::Derived, true);
        let (key, secret) = (KeyRef { key: key.clone(), epoch }, LockedBytes::new(&secret));
        self.insert(StoredKey { key, attributes, secret, derivation: Some(derivation) })
    }

    /// Copies a key, in memory only, to another store of the cluster; there it counts as imported, or as derived where
    /// it is. Copying it again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`]; [`StoreError::MasterMissing`] for a derived key whose master the other store has not;
    /// [`StoreError::KeyDiffers`] where the other store has another key of that name and epoch; what the file system
    /// says.
    pub fn export_to(&self, key: &KeyRef, other: &Self) -> Result<KeyEntry, StoreError> {
        if self.algorithm(key)?.is_share() {
            return Err(StoreError::ShareStays(key.key.clone()));
        }
        let (attributes, secret, derivation) = self.with_key(key, |held| {
            let origin = if held.derivation.is_some() { KeyOrigin::Derived } else { KeyOrigin::Imported };
            let attributes = KeyAttributes { origin, ..held.attributes.clone() };
            (attributes, held.secret.expose(LockedBytes::new), held.derivation.clone())
        })?;
        if let Some(Derivation { master, .. }) = &derivation
            && !self.shares(master, other)?
        {
            return Err(StoreError::MasterMissing { key: key.clone(), master: master.clone() });
        }
        let known = other.with_key(key, |held| {
            let same = held.secret.expose(|ours| secret.expose(|theirs| same_bytes(ours, theirs)));
            let alike = held.attributes.algorithm == attributes.algorithm && held.derivation == derivation;
            (same && alike).then(|| held.entry())
        });
        match known {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(StoreError::KeyDiffers(key.clone())),
            Err(_) => other.insert(StoredKey { key: key.clone(), attributes, secret, derivation }),
        }
    }

    /// Whether `other` holds the same material under the same name and epoch.
    fn shares(&self, key: &KeyRef, other: &Self) -> Result<bool, StoreError> {
        let ours = self.with_key(key, |held| held.secret.expose(LockedBytes::new))?;
        let same =
            other.with_key(key, |held| ours.expose(|ours| held.secret.expose(|theirs| same_bytes(ours, theirs))));
        Ok(same.unwrap_or(false))
    }

    fn newest(&self, key: &KeyId) -> Option<KeyEntry> {
        self.content().keys.iter().filter(|held| held.key.key == *key).map(StoredKey::entry).next_back()
    }

    fn next_epoch(&self, key: &KeyId, algorithm: KeyAlgorithm, placement: Placement) -> Result<u32, StoreError> {
        placement.epoch(key, algorithm, self.newest(key))
    }

    fn place(
        &self,
        key: &KeyId,
        algorithm: KeyAlgorithm,
        origin: KeyOrigin,
        placement: Placement,
        secret: &[u8],
    ) -> Result<KeyEntry, StoreError> {
        let epoch = self.next_epoch(key, algorithm, placement)?;
        if self.newest(key).is_some_and(|newest| newest.attributes.origin == KeyOrigin::Derived) {
            return Err(StoreError::OtherDerivation(key.clone()));
        }
        let attributes = KeyAttributes::new(algorithm, origin, true);
        let key = KeyRef { key: key.clone(), epoch };
        self.insert(StoredKey { key, attributes, secret: LockedBytes::new(secret), derivation: None })
    }

    pub(super) fn insert(&self, key: StoredKey) -> Result<KeyEntry, StoreError> {
        let entry = key.entry();
        self.change(|content| {
            let place = content.keys.binary_search_by(|held| held.key.cmp(&entry.key));
            match place {
                Ok(_) => Err(StoreError::KeyExists(entry.key.key.clone())),
                Err(at) => {
                    content.keys.insert(at, key);
                    Ok(Box::new(move |content: &mut Content| drop(content.keys.remove(at))) as Undo)
                }
            }
        })?;
        Ok(entry)
    }

    /// Changes the content and writes it; where the write fails, the change is undone.
    fn change(&self, change: impl FnOnce(&mut Content) -> Result<Undo, StoreError>) -> Result<(), StoreError> {
        if self.lock.is_none() {
            return Err(StoreError::ReadOnly);
        }
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        let undo = change(&mut content)?;
        let written = content.encode().and_then(|plain| self.file_key.seal(plain));
        written.and_then(|sealed| file::replace(&self.path, &sealed)).inspect_err(|_| undo(&mut content))
    }

    /// Removes a key, for good.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`], [`StoreError::MasterNeeded`]; what the file system says.
    pub fn delete(&self, key: &KeyRef) -> Result<(), StoreError> {
        self.change(|content| {
            let of_it =
                |held: &&StoredKey| held.derivation.as_ref().is_some_and(|derivation| derivation.master == *key);
            if let Some(derived) = content.keys.iter().find(of_it) {
                return Err(StoreError::MasterNeeded { key: key.clone(), derived: derived.key.clone() });
            }
            let place = content.keys.iter().position(|held| held.key == *key);
            let place = place.ok_or_else(|| StoreError::NoSuchKey(key.clone()))?;
            let removed = content.keys.remove(place);
            Ok(Box::new(move |content: &mut Content| content.keys.insert(place, removed)) as Undo)
        })
    }

    /// Whether the store has this key.
    pub(super) fn holds(&self, key: &KeyRef) -> bool {
        self.content().keys.iter().any(|held| held.key == *key)
    }

    pub(super) fn content(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with_key<R>(&self, key: &KeyRef, use_it: impl FnOnce(&StoredKey) -> R) -> Result<R, StoreError> {
        let content = self.content();
        let held = content.keys.binary_search_by(|held| held.key.cmp(key)).ok().and_then(|at| content.keys.get(at));
        held.map(use_it).ok_or_else(|| StoreError::NoSuchKey(key.clone()))
    }

    /// A key's witness: a wiped copy that lives as long as one computation, so that the store is not held up by it.
    fn witness(&self, key: &KeyRef) -> Result<key_knowledge::Witness, StoreError> {
        let copy = |held: &StoredKey| {
            held.secret.expose(|secret| key_knowledge::Witness::new(held.attributes.algorithm, secret))
        };
        self.with_key(key, copy)?.map_err(StoreError::from)
    }

    /// Puts another secret in a key's place, in memory only, as a fault would.
    #[cfg(test)]
    pub(crate) fn damage(&self, key: &KeyRef) {
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        for held in content.keys.iter_mut().filter(|held| held.key == *key) {
            held.secret = LockedBytes::new(&generate(held.attributes.algorithm));
        }
    }

    /// Says something else of a key than before, in memory only, as a token does where somebody changed or replaced it.
    #[cfg(test)]
    pub(crate) fn restate(&self, key: &KeyRef, change: impl Fn(&mut KeyAttributes)) {
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        content.keys.iter_mut().filter(|held| held.key == *key).for_each(|held| change(&mut held.attributes));
    }

    fn algorithm(&self, key: &KeyRef) -> Result<KeyAlgorithm, StoreError> {
        self.with_key(key, |held| held.attributes.algorithm)
    }

    /// The tags of a key that computes CMACs, for the round that `beacon` opens.
    fn tags(
        &self,
        key: &KeyRef,
        trust_domain: &TrustDomain,
        beacon: &Nonce,
    ) -> Result<tagged_key::Witness, StoreError> {
        let compute = |held: &StoredKey| {
            let algorithm = held.attributes.algorithm;
            if !algorithm.is_cmac() {
                return Err(StoreError::NotACmacKey(algorithm));
            }
            let tags =
                held.secret.expose(|secret| tagged_key::Witness::of_key(algorithm, secret, trust_domain, beacon))?;
            Ok(tags)
        };
        self.with_key(key, compute)?
    }

    /// Where a derived key comes from, with its master's witness; none for any other key.
    fn derivation(&self, key: &KeyRef) -> Result<Option<(Derivation, key_derivation::Witness)>, StoreError> {
        let Some(derivation) = self.with_key(key, |held| held.derivation.clone())? else { return Ok(None) };
        let witness = self.with_key(&derivation.master, |held| {
            held.secret.expose(|secret| key_derivation::Witness::new(held.attributes.algorithm, secret))
        })??;
        Ok(Some((derivation, witness)))
    }

    /// What proves `instance`, a canonical encoding, for a claim in `trust_domain`.
    fn witness_of(&self, key: &KeyRef, trust_domain: &TrustDomain, instance: &[u8]) -> Result<Witness, StoreError> {
        if let Some((_, witness)) = self.derivation(key)? {
            return Ok(witness.into());
        }
        if let Some((_, witness)) = self.held_share(key)? {
            return Ok(witness.into());
        }
        if !self.algorithm(key)?.is_cmac() {
            return Ok(self.witness(key)?.into());
        }
        match Instance::from_bytes(instance)? {
            Instance::TaggedKey(instance) => match instance.beacon() {
                Some(beacon) => Ok(self.tags(key, trust_domain, beacon)?.into()),
                None => Err(Error::WrongInstance("it names no beacon that the key could answer").into()),
            },
            _ => Err(Error::WrongInstance("the key is attested by its tags alone").into()),
        }
    }
}

/// Takes a change back.
type Undo = Box<dyn FnOnce(&mut Content)>;

impl KeyStore for SoftwareStore {
    fn identity(&self) -> IdentityKey {
        self.identity
    }

    fn sign_with_identity(&self, message: &[u8]) -> Result<[u8; 64], StoreError> {
        match &self.signer {
            Some(signer) => signer(message),
            None => self.content().identity.expose(|seed| sign::ed25519(seed, message)),
        }
    }

    fn channel_key(&self) -> [u8; 32] {
        self.channel_key
    }

    fn open_request(
        &self,
        trust_domain: &TrustDomain,
        hsm: &HsmId,
        sealed: &[u8],
    ) -> Result<(OperationRequest, AnswerKey), OperationError> {
        self.content().channel.expose(|secret| {
            let secret = secret.try_into().map_err(|_| OperationError::Malformed)?;
            operation::open_request(trust_domain, hsm, secret, sealed)
        })
    }

    fn membership(&self) -> Option<Membership> {
        self.content().membership.clone()
    }

    fn set_membership(&self, membership: Membership) -> Result<(), StoreError> {
        self.change(|content| {
            let before = content.membership.replace(membership);
            Ok(Box::new(|content: &mut Content| content.membership = before) as Undo)
        })
    }

    fn keys(&self) -> Vec<KeyEntry> {
        self.content().keys.iter().map(StoredKey::entry).collect()
    }

    fn instances(
        &self,
        key: &KeyRef,
        trust_domain: &TrustDomain,
        suites: &[Suite],
    ) -> Result<Vec<Instance>, StoreError> {
        if let Some((derivation, witness)) = self.derivation(key)? {
            if derivation.trust_domain != *trust_domain {
                let why = "the key was derived for another trust domain";
                return Err(Error::WitnessRefused(why).into());
            }
            let algorithm = self.algorithm(key)?;
            let target = key_derivation::Target { key: key.key.clone(), algorithm, epoch: key.epoch };
            return Ok(vec![witness.instance(trust_domain, &target)?.into()]);
        }
        if let Some((instance, _)) = self.held_share(key)? {
            return Ok(vec![instance.into()]);
        }
        let algorithm = self.algorithm(key)?;
        if algorithm.is_cmac() {
            let message = tagged_key::identifier_message(trust_domain);
            let tag =
                self.with_key(key, |held| held.secret.expose(|secret| tagged_key::cmac(algorithm, secret, &message)))??;
            return Ok(vec![tagged_key::Instance::enrolled(trust_domain, algorithm, &tag)?.into()]);
        }
        let witness = self.witness(key)?;
        if witness.algorithm().symmetric_bits().is_none() {
            return Ok(vec![witness.instance(trust_domain, Suite::PublicKey)?.into()]);
        }
        let snarks = suites.iter().filter(|suite| **suite != Suite::PublicKey);
        snarks.map(|suite| Ok(witness.instance(trust_domain, *suite)?.into())).collect()
    }

    fn tagged_instance(
        &self,
        key: &KeyRef,
        trust_domain: &TrustDomain,
        beacon: &Nonce,
    ) -> Result<Instance, StoreError> {
        let tags = self.tags(key, trust_domain, beacon)?;
        Ok(tags.instance(trust_domain, self.algorithm(key)?, beacon)?.into())
    }

    fn master(&self, key: &KeyRef) -> Option<KeyRef> {
        self.with_key(key, |held| held.derivation.as_ref().map(|derivation| derivation.master.clone())).ok().flatten()
    }

    fn sealing_key(&self) -> Result<SealingKey, StoreError> {
        Ok(*self.holder_key()?.public())
    }

    fn deal(&self, key: &KeyRef, terms: Terms, scheme: Scheme) -> Result<Dealing, StoreError> {
        self.deal_key(key, terms, scheme)
    }

    fn receive_share(
        &self,
        dealing: &Dealing,
        dealer: &IdentityKey,
        cluster: &ClusterId,
    ) -> Result<Received, StoreError> {
        self.take_share(dealing, dealer, cluster)
    }

    fn copy_key(&self, key: &KeyRef, terms: &transfer::Terms, channel_key: &[u8; 32]) -> Result<SealedKey, StoreError> {
        self.seal_copy(key, terms, channel_key)
    }

    fn take_key(
        &self,
        copy: &SealedKey,
        terms: &transfer::Terms,
        expected: &[Instance],
    ) -> Result<KeyEntry, StoreError> {
        self.take_copy(copy, terms, expected)
    }

    fn prove(
        &self,
        parameters: &Parameters,
        context: &ClaimContext,
        instance: &[u8],
        key: &KeyRef,
    ) -> Result<Vec<u8>, StoreError> {
        let claimed = |claim: &KeyClaim| claim.key == key.key && claim.epoch == key.epoch;
        if !context.keys.iter().all(claimed) {
            return Err(StoreError::ForeignClaim);
        }
        let witness = self.witness_of(key, &context.trust_domain, instance)?;
        Ok(registry::prove(parameters, context, instance, &witness)?)
    }

    fn prove_many(
        &self,
        parameters: &Parameters,
        context: &ClaimContext,
        instance: &[u8],
        keys: &[KeyRef],
    ) -> Result<Vec<u8>, StoreError> {
        let claimed = |(claim, key): (&KeyClaim, &KeyRef)| claim.key == key.key && claim.epoch == key.epoch;
        if context.keys.len() != keys.len() || !context.keys.iter().zip(keys).all(claimed) {
            return Err(StoreError::ForeignClaim);
        }
        let witness = |key: &KeyRef| {
            let kinds = self.with_key(key, |held| held.attributes.kinds(&[Suite::Halo2Pasta, Suite::Groth16Bn254]))?;
            if kinds.iter().all(|kind| kind.many().is_none()) {
                return Err(StoreError::ForeignClaim);
            }
            self.witness(key)
        };
        let witnesses = keys.iter().map(witness).collect::<Result<Vec<_>, _>>()?;
        Ok(registry::prove(parameters, context, instance, &many::Witness::new(witnesses).into())?)
    }

    fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<[u8; 64], StoreError> {
        self.with_key(key, |held| held.secret.expose(|secret| sign::sign(held.attributes.algorithm, secret, message)))?
    }
}

impl fmt::Debug for SoftwareStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareStore").field("path", &self.path).field("keys", &self.keys()).finish_non_exhaustive()
    }
}

/// Fresh key material: uniform among what the algorithm allows.
fn generate(algorithm: KeyAlgorithm) -> Zeroizing<Vec<u8>> {
    let mut secret = Zeroizing::new(vec![0; algorithm.secret_len()]);
    loop {
        OsRng.fill_bytes(&mut secret);
        if let (KeyAlgorithm::Ristretto255, Some(top)) = (algorithm, secret.last_mut()) {
            // The group order is just above 2^252: half of the numbers below 2^253 are below it.
            *top &= 0x1f;
        }
        // Any number is a symmetric key.
        if algorithm.symmetric_bits().is_some() || key_knowledge::Witness::new(algorithm, &secret).is_ok() {
            return secret;
        }
    }
}

fn channel_public(secret: &[u8]) -> Option<[u8; 32]> {
    use hpke::{Deserializable, Kem, Serializable, kem::X25519HkdfSha256};
    let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(secret).ok()?;
    Some(X25519HkdfSha256::sk_to_pk(&secret).to_bytes().into())
}

/// Comparison whose time tells nothing but the lengths.
pub(super) fn same_bytes(ours: &[u8], theirs: &[u8]) -> bool {
    ours.len() == theirs.len()
        && ours.iter().zip(theirs).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b))) == 0
}
