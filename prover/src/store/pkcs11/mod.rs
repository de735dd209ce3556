//! Keys inside a PKCS#11 token: a hardware security module, a smart card, or SoftHSM.
//!
//! A [`Token`] is one token of one library. Its keys are found by name: CKA_LABEL is the [`KeyId`], and a CKA_ID of four
//! bytes, big-endian and not zero, is the epoch; a key with any other CKA_ID, or none, is at epoch 1. [`TokenStore`] puts
//! a token's keys beside those of a software store, which keeps the HSM's identity.
//!
//! Whoever has the PIN can use the keys without Keywitness, for messages of the protocol too: the token keeps the
//! secret in, and the PIN is what must be kept from others.
//!
//! [`KeyId`]: keywitness_circuits::KeyId

mod error;
mod object;
mod pin;
mod pool;
mod slot;
mod store;
#[cfg(test)]
mod tests;
mod uri;
mod wrap;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cryptoki::{
    error::{Error, RvError},
    mechanism::{
        Mechanism, MechanismType,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType},
    session::Session,
    types::Ulong,
};
use keywitness_circuits::{
    Digest, Instance, KeyAlgorithm, KeyId,
    key_knowledge::{self, eddsa},
    key_possession::{self, ecdsa},
    registry::DecodedInstance,
};
use keywitness_verifier::{identity::IdentityKey, wire::KeyRef};
use zeroize::Zeroizing;

use super::StoreError;
pub use error::TokenError;
use object::Known;
pub use object::{KeyChoice, TokenKey};
pub use pin::Pin;
use pool::{Connection, Pool};
pub use slot::TokenChoice;
pub use store::{IDENTITY, TokenStore};
pub use uri::{PinSource, SCHEME, TokenUri};
pub use wrap::WRAPPING;

/// One PKCS#11 token, logged in.
///
/// Each call has a session of its own, so that threads can call at once: at most [`Token::parallel`], where others wait. A token
/// that goes away is logged in to again once it is back.
pub struct Token {
    label: String,
    choice: KeyChoice,
    /// The HSM's identity key, which is no key like the others.
    identity: Option<KeyRef>,
    pool: Pool,
}

impl Token {
    /// Opens a token of the PKCS#11 library at `library`, and logs in: one attempt. The PIN stays in memory, for when the token
    /// comes back after it was gone.
    ///
    /// The library's code runs inside this process.
    ///
    /// # Errors
    /// [`TokenError::Library`], [`TokenError::NoToken`], [`TokenError::AmbiguousToken`], [`TokenError::WrongPin`],
    /// [`TokenError::PinLocked`], [`TokenError::FinalTry`], [`TokenError::AlreadyOpen`]
    pub fn open(library: &Path, choice: &TokenChoice, pin: Pin) -> Result<Self, StoreError> {
        let pool = Pool::open(library.to_owned(), choice, pin)?;
        Ok(Self { label: pool.label(), choice: KeyChoice::all(), identity: None, pool })
    }

    /// The same, with these keys alone.
    #[must_use]
    pub fn with_keys(self, choice: KeyChoice) -> Self {
        Self { choice, ..self }
    }

    /// The token's label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// How many calls it does at once.
    pub const fn parallel(&self) -> usize {
        self.pool.most()
    }

    /// Finds the HSM's identity key: that of the label `named`, which must be there, or else [`IDENTITY`], if it is.
    ///
    /// # Errors
    /// [`TokenError::NoSuchKey`], [`TokenError::AmbiguousKey`], [`TokenError::Refused`], [`TokenError::WrongAlgorithm`]
    fn take_identity(&mut self, named: Option<&KeyId>) -> Result<Option<IdentityKey>, StoreError> {
        let choice = std::mem::take(&mut self.choice);
        let found = self.find_identity(named);
        self.choice = choice;
        let found = found?;
        self.identity = found.as_ref().map(|(key, _)| key.clone());
        Ok(found.map(|(_, identity)| identity))
    }

    fn find_identity(&self, named: Option<&KeyId>) -> Result<Option<(KeyRef, IdentityKey)>, StoreError> {
        let label = named.map_or(IDENTITY, KeyId::as_str);
        let held = self.keys()?.into_iter().filter(|held| held.key.key.as_str() == label).collect::<Vec<_>>();
        let key = match held.as_slice() {
            [] if named.is_none() => return Ok(None),
            [] => KeyRef { key: label.parse()?, epoch: 1 },
            [one] => one.key.clone(),
            [first, ..] => {
                let (token, key) = (self.label.clone(), first.key.clone());
                return Err(TokenError::AmbiguousKey { token, key }.into());
            }
        };
        self.with_key(&key, "looking for the identity key", |_, known| {
            self.fit(known, |algorithm| algorithm == KeyAlgorithm::Ed25519)
        })?;
        let point = self.public_key(&key)?.instance().spki()?.unwrap_or_default();
        let point = point.split_at_checked(point.len().saturating_sub(32)).map_or(&[][..], |(_, point)| point);
        let identity = IdentityKey::from_bytes(self.exactly("reading a public key", point)?)?;
        Ok(Some((key, identity)))
    }

    /// Signs a message of the protocol with the identity key, whose public key `identity` is.
    fn sign_as_identity(&self, identity: &IdentityKey, message: &[u8]) -> Result<[u8; 64], StoreError> {
        let key = self.identity.as_ref().ok_or(StoreError::IdentityStays)?;
        let signature = self.eddsa(key, message)?;
        if !eddsa::verify_signature(&Digest::from(*identity).0, message, &signature) {
            return Err(TokenError::NoPublicKey { key: key.clone(), why: OTHERS_SIGNATURE }.into());
        }
        Ok(signature)
    }

    fn is_identity(&self, key: &KeyRef) -> bool {
        self.identity.as_ref() == Some(key)
    }

    /// Removes a key, and the public key beside it.
    ///
    /// # Errors
    /// [`StoreError::IdentityStays`], [`TokenError::NoSuchKey`], or where the token does not let it go.
    pub fn delete(&self, key: &KeyRef) -> Result<(), StoreError> {
        let doing = "removing a key";
        if self.is_identity(key) {
            return Err(StoreError::IdentityStays);
        }
        Ok(self.pool.with_session(|connection, session| {
            let known = self.lookup(session, key)?;
            let objects = self.call(doing, object::beside(session, &known))?;
            let session = self.writing(connection)?;
            connection.forget(key);
            objects.into_iter().try_for_each(|object| self.call(doing, session.destroy_object(object)))
        })?)
    }

    /// Every key whose name and algorithm are ones of ours, in order of name and epoch; those that are refused, too.
    ///
    /// # Errors
    /// Where the token does not answer.
    pub fn keys(&self) -> Result<Vec<TokenKey>, StoreError> {
        let keys = self.pool.with_session(|connection, session| {
            let (found, _) = self.call("listing keys", object::keys(session, &self.choice, None))?;
            let mut keys: Vec<_> = found.iter().map(|found| found.key.clone()).collect();
            let names: Vec<_> = keys.iter().map(|key| key.key.clone()).collect();
            let alone = |key: &KeyRef| names.iter().filter(|name| *name == key).count() == 1;
            for key in keys.iter_mut().filter(|key| !alone(&key.key)) {
                key.refusal = Some("several keys have its name and epoch".to_owned());
            }
            for key in keys.iter_mut().filter(|key| key.key.key.as_str() == WRAPPING) {
                key.refusal = Some("it wraps keys for other tokens, and is used for nothing else".to_owned());
            }
            for key in keys.iter_mut().filter(|key| self.is_identity(&key.key)) {
                key.refusal = Some("it is this HSM's identity, which signs the protocol's messages alone".to_owned());
            }
            connection.keep_these(found.into_iter().filter(|found| alone(&found.key.key)));
            Ok(keys)
        });
        let mut keys = keys?;
        keys.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(keys)
    }

    /// Generates a key that cannot leave the token, unless wrapped where it is to be `extractable`, and does nothing but sign, or make
    /// CMACs. Where the token has a trusted wrapping key, no other than a trusted one wraps it, if the token knows such keys.
    ///
    /// # Errors
    /// [`TokenError::NoSuchAlgorithm`], [`StoreError::KeyExists`]; where the token makes no such keys.
    pub fn generate(&self, key: &KeyRef, algorithm: KeyAlgorithm, extractable: bool) -> Result<TokenKey, StoreError> {
        let mechanism = object::mechanism(algorithm).ok_or(TokenError::NoSuchAlgorithm(algorithm))?;
        if self.keys()?.iter().any(|known| known.key == *key) {
            return Err(StoreError::KeyExists(key.key.clone()));
        }
        let made = self.pool.with_session(|connection, _| {
            let session = self.writing(connection)?;
            let mut template = template(key, algorithm, mechanism);
            for attribute in &mut template {
                if let Attribute::Extractable(leaves) = attribute {
                    *leaves = extractable;
                }
            }
            if extractable && self.has_trusted_wrapping_key(&session)? {
                template.push(Attribute::WrapWithTrusted(true));
            }
            let mut made = make(&session, key, algorithm, &template);
            for unknown in [&OPTIONAL[..], &[AttributeType::WrapWithTrusted]] {
                if matches!(made, Err(Error::Pkcs11(RvError::AttributeTypeInvalid, _))) {
                    template.retain(|attribute| !unknown.contains(&attribute.attribute_type()));
                    made = make(&session, key, algorithm, &template);
                }
            }
            self.call("generating a key", made)?;
            self.lookup(&session, key)
        });
        Ok(made?.key)
    }

    /// What the token says about a key.
    ///
    /// # Errors
    /// [`TokenError::NoSuchKey`], [`TokenError::AmbiguousKey`], or where the token does not answer.
    pub fn key(&self, key: &KeyRef) -> Result<TokenKey, StoreError> {
        Ok(self.with_key(key, "looking for a key", |_, known| Ok(known.key.clone()))?)
    }

    /// AES-CMAC (RFC 4493) of `message` by a CMAC key: the whole 16 bytes.
    ///
    /// # Errors
    /// [`TokenError::NoSuchKey`], [`TokenError::Refused`] for a key that does more than CMAC,
    /// [`TokenError::WrongAlgorithm`], or where the token does not answer.
    pub fn cmac(&self, key: &KeyRef, message: &[u8]) -> Result<Zeroizing<[u8; 16]>, StoreError> {
        let tag = self.use_key(key, KeyAlgorithm::is_cmac, &Mechanism::AesCMac, "making a CMAC", message)?;
        Ok(Zeroizing::new(self.exactly("making a CMAC", &tag)?))
    }

    /// Signs any message with an Ed25519 key: EdDSA without context or prehash (RFC 8032), 64 bytes.
    ///
    /// For the protocol's own messages, and for clients' after [`check_message`] has let them pass.
    ///
    /// [`check_message`]: keywitness_verifier::operation::check_message
    fn eddsa(&self, key: &KeyRef, message: &[u8]) -> Result<[u8; 64], StoreError> {
        let is_ed25519 = |algorithm| algorithm == KeyAlgorithm::Ed25519;
        let pure = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
        let signature = self.use_key(key, is_ed25519, &pure, "signing", message)?;
        Ok(self.exactly("signing", &signature)?)
    }

    /// Signs a hash of 32 bytes with a P-256 or secp256k1 key: ECDSA, of the two signatures the one with the lower s.
    ///
    /// As [`Self::eddsa`], for hashes of such messages alone.
    fn ecdsa(&self, key: &KeyRef, algorithm: KeyAlgorithm, hash: &[u8; 32]) -> Result<[u8; 64], StoreError> {
        let signature = self.use_key(key, |own| own == algorithm, &Mechanism::Ecdsa, "signing", hash)?;
        Ok(ecdsa::normalised(algorithm, &signature)?)
    }

    /// What is known of a key now. Its public key may not have been read yet.
    fn held(&self, key: &KeyRef) -> Result<Held, TokenError> {
        self.with_key(key, "looking for a key", |_, known| {
            Ok(Held {
                algorithm: known.key.algorithm,
                attributes: known.attributes,
                public: lock(&known.public).clone(),
                proven: Arc::clone(&known.proven),
            })
        })
    }

    /// The instance of a key that signs, read from the public key object beside it: of an ECDSA key, of which a token proves
    /// possession alone, that of `key_possession`.
    fn public_key(&self, key: &KeyRef) -> Result<DecodedInstance, StoreError> {
        let read = self.with_key(key, "reading a public key", |session, known| {
            self.fit(known, |algorithm| object::curve(algorithm).is_some())?;
            let point = self.call("reading a public key", object::public_key(session, known))?;
            let bytes = point.map_err(|why| TokenError::NoPublicKey { key: key.clone(), why })?;
            let algorithm = known.key.algorithm;
            let instance = match algorithm {
                KeyAlgorithm::Ed25519 => key_knowledge::Instance::public_key(algorithm, &bytes).map(Instance::from),
                _ => key_possession::Instance::public_key(algorithm, &bytes).map(Instance::from),
            };
            let instance = instance.map(DecodedInstance::from);
            let read = instance.as_ref().ok().cloned();
            let before = std::mem::replace(&mut *lock(&known.public), read.clone());
            if before.map(|known| *known.digest()) != read.map(|read| *read.digest()) {
                known.proven.store(false, Ordering::Relaxed);
            }
            Ok(instance)
        });
        Ok(read??)
    }

    /// Has the one key of that name and epoch sign or MAC `message`, after a look at its attributes.
    fn use_key(
        &self,
        key: &KeyRef,
        suits: impl Fn(KeyAlgorithm) -> bool,
        mechanism: &Mechanism<'_>,
        doing: &'static str,
        message: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        Ok(self.with_key(key, doing, |session, known| {
            self.fit(known, &suits)?;
            self.call(doing, session.sign(mechanism, known.handle, message)).map(Zeroizing::new)
        })?)
    }

    /// Calls `work` with the one key of that name and epoch: as it was found before, where it has not changed since.
    fn with_key<R>(
        &self,
        key: &KeyRef,
        doing: &'static str,
        work: impl Fn(&Session, &Known) -> Result<R, TokenError>,
    ) -> Result<R, TokenError> {
        self.pool.with_session(|connection, session| {
            if let Some(known) = connection.find(key) {
                let unchanged = self.call(doing, known.is_unchanged(session, &self.choice));
                let done = unchanged.and_then(|same| if same { work(session, &known).map(Some) } else { Ok(None) });
                match done {
                    Ok(Some(done)) => return Ok(done),
                    Ok(None) => {}
                    Err(error) if error.is_stale() => {}
                    Err(error) => return Err(error),
                }
                connection.forget(key);
            }
            let known = Arc::new(self.lookup(session, key)?);
            connection.keep(Arc::clone(&known));
            work(session, &known)
        })
    }

    /// Whether a key is used as `suits` says, and its attributes let it.
    fn fit(&self, known: &Known, suits: impl Fn(KeyAlgorithm) -> bool) -> Result<(), TokenError> {
        let TokenKey { key, algorithm, refusal, .. } = &known.key;
        match refusal {
            _ if !suits(*algorithm) => Err(TokenError::WrongAlgorithm { key: key.clone(), algorithm: *algorithm }),
            Some(why) => Err(TokenError::Refused { key: key.clone(), why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Has a key looked for anew.
    fn forget(&self, key: &KeyRef) -> Result<(), TokenError> {
        self.pool.with_session(|connection, _| {
            connection.forget(key);
            Ok(())
        })
    }

    fn lookup(&self, session: &Session, key: &KeyRef) -> Result<Known, TokenError> {
        let doing = "looking for a key";
        let all = KeyChoice::all();
        let choice = if self.is_identity(key) { &all } else { &self.choice };
        let (mut found, _) = self.call(doing, object::keys(session, choice, Some(key.key.as_str())))?;
        found.retain(|found| found.key.key == *key);
        match (found.pop(), found.is_empty()) {
            (Some(found), true) => Ok(found),
            (Some(_), false) => Err(TokenError::AmbiguousKey { token: self.label().to_owned(), key: key.clone() }),
            (None, _) => {
                let (keys, foreign) = self.call(doing, object::keys(session, &self.choice, None))?;
                let keys = keys.iter().map(|found| format!("{} at epoch {}", found.key.key.key, found.key.key.epoch));
                let there = keys.chain(foreign.into_iter().map(|other| other.0)).collect();
                Err(TokenError::NoSuchKey { token: self.label().to_owned(), key: key.clone(), there })
            }
        }
    }

    /// A session that may change the token.
    fn writing(&self, connection: &Connection) -> Result<Session, TokenError> {
        let place = &connection.place;
        self.call("opening a session", place.library.open_rw_session(place.slot))
    }

    fn call<T>(&self, doing: &'static str, result: Result<T, Error>) -> Result<T, TokenError> {
        result.map_err(|source| TokenError::Call { token: self.label().to_owned(), doing, source })
    }

    fn exactly<const N: usize>(&self, doing: &'static str, bytes: &[u8]) -> Result<[u8; N], TokenError> {
        let length = bytes.len();
        bytes.try_into().map_err(|_| TokenError::WrongLength { token: self.label().to_owned(), doing, length })
    }
}

/// What is known of a key.
struct Held {
    algorithm: KeyAlgorithm,
    /// Digest of its attributes.
    attributes: Digest,
    public: Option<DecodedInstance>,
    proven: Arc<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("label", &self.label()).finish_non_exhaustive()
    }
}

/// What is wrong with a key whose signature is none of the public key beside it.
const OTHERS_SIGNATURE: &str = "it signs as another key than the one beside it";

/// Attributes that narrow a new key further, and that not every token knows.
const OPTIONAL: [AttributeType; 3] =
    [AttributeType::AllowedMechanisms, AttributeType::Copyable, AttributeType::Modifiable];

/// What a new private or secret key may and may not do. Neither its attributes nor a copy's can be changed later.
fn template(key: &KeyRef, algorithm: KeyAlgorithm, mechanism: MechanismType) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Label(key.key.as_str().into()),
        Attribute::Id(object::id_of(key.epoch)),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
        Attribute::Copyable(false),
        Attribute::AllowedMechanisms(vec![mechanism]),
    ];
    if let Some(bits) = algorithm.symmetric_bits() {
        template.extend([
            Attribute::ValueLen(Ulong::new((bits / 8).into())),
            Attribute::Verify(true),
            Attribute::Encrypt(false),
            Attribute::Wrap(false),
        ]);
    }
    template
}

fn make(session: &Session, key: &KeyRef, algorithm: KeyAlgorithm, template: &[Attribute]) -> Result<(), Error> {
    if algorithm.is_cmac() {
        return session.generate_key(&Mechanism::AesKeyGen, template).map(drop);
    }
    let public = [
        Attribute::Label(key.key.as_str().into()),
        Attribute::Id(object::id_of(key.epoch)),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(object::curve(algorithm).unwrap_or_default().to_vec()),
    ];
    let mechanism = match algorithm {
        KeyAlgorithm::Ed25519 => Mechanism::EccEdwardsKeyPairGen,
        _ => Mechanism::EccKeyPairGen,
    };
    session.generate_key_pair(&mechanism, &public, template).map(drop)
}
