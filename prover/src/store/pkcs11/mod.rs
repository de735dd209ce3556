//! Keys inside a PKCS#11 token: a hardware security module, a smart card, or SoftHSM.
//!
//! A [`Token`] is one slot of one library. Its keys are found by name: CKA_LABEL is the [`KeyId`], and a CKA_ID of four
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
mod slot;
mod store;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
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
    Instance, KeyAlgorithm, key_knowledge,
    key_possession::{self, ecdsa},
};
use keywitness_verifier::wire::KeyRef;
use zeroize::Zeroizing;

use super::StoreError;
pub use error::TokenError;
use object::Found;
pub use object::TokenKey;
pub use pin::Pin;
use slot::Place;
pub use slot::TokenChoice;
pub use store::TokenStore;

/// Most sessions that are kept open for later calls.
const IDLE_SESSIONS: usize = 8;

/// One PKCS#11 token, logged in.
///
/// Each call takes a session of its own, so that threads can call at once. The login lasts as long as the value; a token
/// that goes away in the meantime has to be opened again.
pub struct Token {
    place: Place,
    idle: Mutex<Vec<Session>>,
    /// Keeps the login alive.
    _login: Mutex<Session>,
}

impl Token {
    /// Opens a token of the PKCS#11 library at `library`, and logs in: one attempt.
    ///
    /// The library's code runs inside this process.
    ///
    /// # Errors
    /// [`TokenError::Library`], [`TokenError::NoToken`], [`TokenError::AmbiguousToken`], [`TokenError::WrongPin`],
    /// [`TokenError::PinLocked`], [`TokenError::FinalTry`], [`TokenError::AlreadyOpen`]
    pub fn open(library: &Path, choice: &TokenChoice, pin: &Pin) -> Result<Self, StoreError> {
        let place = slot::find(library, choice)?;
        let login = place.log_in(pin)?;
        Ok(Self { place, idle: Mutex::default(), _login: Mutex::new(login) })
    }

    /// The token's label.
    pub fn label(&self) -> &str {
        &self.place.label
    }

    /// Every key whose name and algorithm are ones of ours, in order of name and epoch; those that are refused, too.
    ///
    /// # Errors
    /// Where the token does not answer.
    pub fn keys(&self) -> Result<Vec<TokenKey>, StoreError> {
        let (found, _) = self.with_session(|session| self.call("listing keys", object::keys(session, None)))?;
        let mut keys: Vec<_> = found.into_iter().map(|found| found.key).collect();
        let names: Vec<_> = keys.iter().map(|key| key.key.clone()).collect();
        for key in &mut keys {
            if names.iter().filter(|name| **name == key.key).count() > 1 {
                key.refusal = Some("several keys have its name and epoch".to_owned());
            }
        }
        Ok(keys)
    }

    /// Generates a key that cannot leave the token and does nothing but sign, or make CMACs.
    ///
    /// # Errors
    /// [`TokenError::NoSuchAlgorithm`], [`StoreError::KeyExists`]; where the token makes no such keys.
    pub fn generate(&self, key: &KeyRef, algorithm: KeyAlgorithm) -> Result<TokenKey, StoreError> {
        let mechanism = object::mechanism(algorithm).ok_or(TokenError::NoSuchAlgorithm(algorithm))?;
        if self.keys()?.iter().any(|known| known.key == *key) {
            return Err(StoreError::KeyExists(key.key.clone()));
        }
        let doing = "generating a key";
        let session = self.call(doing, self.place.library.open_rw_session(self.place.slot))?;
        let mut template = template(key, algorithm, mechanism);
        let made = match make(&session, key, algorithm, &template) {
            Err(Error::Pkcs11(RvError::AttributeTypeInvalid, _)) => {
                template.retain(|attribute| !OPTIONAL.contains(&attribute.attribute_type()));
                make(&session, key, algorithm, &template)
            }
            made => made,
        };
        self.call(doing, made)?;
        Ok(self.lookup(&session, key)?.key)
    }

    /// What the token says about a key.
    ///
    /// # Errors
    /// [`TokenError::NoSuchKey`], [`TokenError::AmbiguousKey`], or where the token does not answer.
    pub fn key(&self, key: &KeyRef) -> Result<TokenKey, StoreError> {
        Ok(self.with_session(|session| self.lookup(session, key))?.key)
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

    /// The instance of a key that signs, from the public key object beside it: of an ECDSA key, of which a token proves
    /// possession alone, that of `key_possession`.
    fn public_key(&self, key: &KeyRef) -> Result<Instance, StoreError> {
        let (algorithm, bytes) = self.with_session(|session| {
            let found = self.usable(session, key, |algorithm| object::curve(algorithm).is_some())?;
            let point = self.call("reading a public key", object::public_key(session, &found))?;
            let point = point.map_err(|why| TokenError::NoPublicKey { key: key.clone(), why })?;
            Ok((found.key.algorithm, point))
        })?;
        Ok(match algorithm {
            KeyAlgorithm::Ed25519 => key_knowledge::Instance::public_key(algorithm, &bytes)?.into(),
            _ => key_possession::Instance::public_key(algorithm, &bytes)?.into(),
        })
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
        let made = self.with_session(|session| {
            let found = self.usable(session, key, suits)?;
            self.call(doing, session.sign(mechanism, found.handle, message)).map(Zeroizing::new)
        });
        Ok(made?)
    }

    fn usable(
        &self,
        session: &Session,
        key: &KeyRef,
        suits: impl Fn(KeyAlgorithm) -> bool,
    ) -> Result<Found, TokenError> {
        let found = self.lookup(session, key)?;
        match &found.key.refusal {
            _ if !suits(found.key.algorithm) => {
                Err(TokenError::WrongAlgorithm { key: key.clone(), algorithm: found.key.algorithm })
            }
            Some(why) => Err(TokenError::Refused { key: key.clone(), why: why.clone() }),
            None => Ok(found),
        }
    }

    fn lookup(&self, session: &Session, key: &KeyRef) -> Result<Found, TokenError> {
        let doing = "looking for a key";
        let (mut found, _) = self.call(doing, object::keys(session, Some(key.key.as_str())))?;
        found.retain(|found| found.key.key == *key);
        match (found.pop(), found.is_empty()) {
            (Some(found), true) => Ok(found),
            (Some(_), false) => Err(TokenError::AmbiguousKey { token: self.label().to_owned(), key: key.clone() }),
            (None, _) => {
                let (keys, foreign) = self.call(doing, object::keys(session, None))?;
                let keys = keys.iter().map(|found| format!("{} at epoch {}", found.key.key.key, found.key.key.epoch));
                let there = keys.chain(foreign.into_iter().map(|other| other.0)).collect();
                Err(TokenError::NoSuchKey { token: self.label().to_owned(), key: key.clone(), there })
            }
        }
    }

    /// Lends a session. One on which something failed is closed, since an operation may be under way on it.
    fn with_session<R>(&self, work: impl FnOnce(&Session) -> Result<R, TokenError>) -> Result<R, TokenError> {
        let idle = self.idle().pop();
        let session = match idle {
            Some(session) => session,
            None => self.call("opening a session", self.place.library.open_ro_session(self.place.slot))?,
        };
        let result = work(&session)?;
        let mut idle = self.idle();
        if idle.len() < IDLE_SESSIONS {
            idle.push(session);
        }
        Ok(result)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(&self, doing: &'static str, result: Result<T, Error>) -> Result<T, TokenError> {
        result.map_err(|source| TokenError::Call { token: self.label().to_owned(), doing, source })
    }

    fn exactly<const N: usize>(&self, doing: &'static str, bytes: &[u8]) -> Result<[u8; N], TokenError> {
        let length = bytes.len();
        bytes.try_into().map_err(|_| TokenError::WrongLength { token: self.label().to_owned(), doing, length })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("label", &self.label())
            .field("slot", &self.place.slot.id())
            .finish_non_exhaustive()
    }
}

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
