//! Keys that go from token to token: wrapped inside the one, unwrapped inside the other, in plain nowhere on the way.
//!
//! Both tokens have the same AES key labelled [`WRAPPING`], which their operators put there, and which wraps and unwraps and does nothing
//! else. AES key wrap with padding (RFC 5649; CKM_AES_KEY_WRAP_PAD).
//!
//! That alone does not keep such a key from whoever has the PIN of either token: C_UnwrapKey makes of what was wrapped an object as its
//! caller describes it, one that is not sensitive too, and C_WrapKey wraps a key that may leave with any wrapping key of its caller's.
//! What does is the operators': CKA_UNWRAP_TEMPLATE on the wrapping key, which cannot be read through our PKCS#11 crate, and CKA_TRUSTED,
//! with which keys are generated that no other key wraps.

use cryptoki::{
    error::{Error, RvError},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use keywitness_circuits::{Instance, KeyAlgorithm, TrustDomain, key_possession::ecdsa, tagged_key};
use keywitness_verifier::{operation::verify_signature, wire::KeyRef};
use rand::{RngCore, rngs::OsRng};
use sha2::{Digest as _, Sha256};

use super::{OPTIONAL, Token, TokenError, TokenKey, object, template};
use crate::store::StoreError;

/// The label of the key that wraps.
pub const WRAPPING: &str = "keywitness-wrap";

/// What a wrapping key does, and what it must not.
const DOES: [AttributeType; 2] = [AttributeType::Wrap, AttributeType::Unwrap];
const NEVER: [AttributeType; 6] = [
    AttributeType::Encrypt,
    AttributeType::Decrypt,
    AttributeType::Sign,
    AttributeType::Verify,
    AttributeType::Derive,
    AttributeType::Extractable,
];

/// A key that was wrapped for this token, and what it has to be.
pub(super) struct Arrival<'a> {
    pub(super) key: &'a KeyRef,
    pub(super) algorithm: KeyAlgorithm,
    pub(super) wrapped: &'a [u8],
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) expected: &'a [Instance],
}

impl Token {
    /// Wraps a key that may leave the token.
    ///
    /// # Errors
    /// [`StoreError::TokenKeyStays`] for one that may not; [`TokenError::NoWrappingKey`]; where the token does not wrap it.
    pub(super) fn wrap(&self, key: &KeyRef) -> Result<Vec<u8>, StoreError> {
        let wrapped = self.with_key(key, "wrapping a key", |session, known| {
            let TokenKey { extractable, .. } = known.key;
            if !extractable || self.is_identity(key) {
                return Ok(None);
            }
            self.fit(known, |_| true)?;
            let wrapping = self.wrapping_key(session)?;
            let wrapped = session.wrap_key(&Mechanism::AesKeyWrapPad, wrapping, known.handle);
            self.call("wrapping a key", wrapped).map(Some)
        });
        wrapped?.ok_or_else(|| StoreError::TokenKeyStays(key.clone()))
    }

    /// Unwraps a key into the token, sensitive and never to leave it again, if it proves what is expected. That is seen from a copy
    /// which lasts as long as a session, so that nothing else is ever found under the key's name.
    ///
    /// # Errors
    /// [`StoreError::NotTheKey`]; [`TokenError::NoWrappingKey`]; [`TokenError::Refused`] where the token would not know the key
    /// afterwards; where it does not unwrap it.
    pub(super) fn unwrap_key(&self, arrival: &Arrival<'_>) -> Result<TokenKey, StoreError> {
        let foreign = || StoreError::NotTheKey(arrival.key.clone());
        let Some(public) = public_key(arrival) else { return Err(foreign()) };
        let kept = self.pool.with_session(|connection, _| {
            let place = &connection.place;
            // What is made in it, whole or in part, ends with it.
            let trial = self.call("opening a session", place.library.open_ro_session(place.slot))?;
            let wrapping = self.wrapping_key(&trial)?;
            let (seen, narrow) = match self.arrive(&trial, wrapping, arrival, (false, true)) {
                Ok(seen) => (seen, true),
                Err(error) if is_of_template(&error) => {
                    (self.arrive(&trial, wrapping, arrival, (false, false))?, false)
                }
                Err(error) => return Err(error),
            };
            self.check_length(&trial, seen, arrival)?;
            if !self.proves(&trial, seen, arrival, &public)? {
                return Ok(None);
            }
            drop(trial);
            let session = self.writing(connection)?;
            let private = self.arrive(&session, self.wrapping_key(&session)?, arrival, (true, narrow))?;
            let object = public.bytes.as_ref().map(|bytes| public_object(arrival, bytes));
            let made =
                object.map(|object| self.call("making a public key", session.create_object(&object))).transpose();
            let known = made.as_ref().ok().map(|_| self.lookup(&session, arrival.key));
            match (made, known) {
                (Ok(_), Some(Ok(known))) => Ok(Some(known)),
                (made, known) => {
                    // What nobody finds would be in the way, and of no use.
                    for object in [Some(private), made.as_ref().ok().copied().flatten()].into_iter().flatten() {
                        self.call("removing a key", session.destroy_object(object))?;
                    }
                    made?;
                    known.transpose()
                }
            }
        });
        Ok(kept?.ok_or_else(foreign)?.key)
    }

    /// A key is known by its length; SoftHSM 2.6 does not tell that of an AES key that it unwrapped.
    fn check_length(&self, session: &Session, handle: ObjectHandle, arrival: &Arrival<'_>) -> Result<(), TokenError> {
        if !arrival.algorithm.is_cmac() {
            return Ok(());
        }
        let told = session.get_attributes(handle, &[AttributeType::ValueLen]).unwrap_or_default();
        let length = told.iter().find_map(|attribute| match attribute {
            Attribute::ValueLen(length) => usize::try_from(**length).ok(),
            _ => None,
        });
        if length == Some(arrival.algorithm.secret_len()) {
            return Ok(());
        }
        let why = "this token does not say how long a key is that it unwrapped (CKA_VALUE_LEN)".to_owned();
        Err(TokenError::Refused { key: arrival.key.clone(), why })
    }

    /// Whether there is a wrapping key that the token's security officer trusts (CKA_TRUSTED).
    pub(super) fn has_trusted_wrapping_key(&self, session: &Session) -> Result<bool, TokenError> {
        let handle = match self.wrapping_key(session) {
            Err(TokenError::NoWrappingKey { .. }) => return Ok(false),
            found => found?,
        };
        let told = session.get_attributes(handle, &[AttributeType::Trusted]);
        Ok(self.call("looking for the wrapping key", told)?.contains(&Attribute::Trusted(true)))
    }

    /// The one key that wraps, as it should be.
    fn wrapping_key(&self, session: &Session) -> Result<ObjectHandle, TokenError> {
        let doing = "looking for the wrapping key";
        let refused = |why: String| TokenError::NoWrappingKey { token: self.label().to_owned(), why };
        let template = [
            Attribute::Token(true),
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Label(WRAPPING.into()),
        ];
        let found = self.call(doing, session.find_objects(&template))?;
        let [handle] = *found else { return Err(refused(format!("it has {} of that label", found.len()))) };
        let flags = self.call(doing, session.get_attributes(handle, &[&DOES[..], &NEVER[..]].concat()))?;
        let is = |kind: AttributeType, wanted: bool| {
            flags.iter().any(|flag| flag.attribute_type() == kind && on(flag) == Some(wanted))
        };
        if !DOES.into_iter().all(|kind| is(kind, true)) {
            return Err(refused("it may not wrap and unwrap (CKA_WRAP, CKA_UNWRAP)".to_owned()));
        }
        match NEVER.into_iter().find(|kind| !is(*kind, false)) {
            None => Ok(handle),
            Some(more) => Err(refused(format!("it may do more than wrap and unwrap ({more})"))),
        }
    }

    /// Unwraps a key for a while or for good, as narrow as one that is generated, or as narrow as the token takes it.
    fn arrive(
        &self,
        session: &Session,
        wrapping: ObjectHandle,
        arrival: &Arrival<'_>,
        (stays, narrow): (bool, bool),
    ) -> Result<ObjectHandle, TokenError> {
        let mut template = arrival_template(arrival, stays);
        if !narrow {
            template.retain(|attribute| !OPTIONAL.contains(&attribute.attribute_type()));
        }
        let made = session.unwrap_key(&Mechanism::AesKeyWrapPad, wrapping, arrival.wrapped, &template);
        self.call("unwrapping a key", made)
    }

    /// Whether a key proves what it has to: the tag that identifies it, or a signature under the expected public key.
    fn proves(
        &self,
        session: &Session,
        handle: ObjectHandle,
        arrival: &Arrival<'_>,
        public: &Public,
    ) -> Result<bool, TokenError> {
        let sign = |mechanism: &Mechanism<'_>, message: &[u8]| {
            self.call("trying a key", session.sign(mechanism, handle, message))
        };
        let Some(spki) = &public.spki else {
            let tag = sign(&Mechanism::AesCMac, &tagged_key::identifier_message(arrival.trust_domain))?;
            let tag = self.exactly("making a CMAC", &tag)?;
            let proven = tagged_key::Instance::enrolled(arrival.trust_domain, arrival.algorithm, &tag);
            return Ok(proven.is_ok_and(|proven| arrival.expected.contains(&proven.into())));
        };
        let mut message = [0; 32];
        OsRng.fill_bytes(&mut message);
        let signature = match arrival.algorithm {
            KeyAlgorithm::Ed25519 => sign(&Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)), &message)?,
            algorithm => {
                let raw = sign(&Mechanism::Ecdsa, &Sha256::digest(message))?;
                ecdsa::normalised(algorithm, &raw).map(|signature| signature.to_vec()).unwrap_or_default()
            }
        };
        Ok(verify_signature(arrival.algorithm, spki, &message, &signature))
    }
}

/// Whether a token refuses what a new key is to be like, and not the key.
const fn is_of_template(error: &TokenError) -> bool {
    matches!(
        error,
        TokenError::Call {
            source: Error::Pkcs11(
                RvError::AttributeTypeInvalid | RvError::AttributeReadOnly | RvError::TemplateInconsistent,
                _
            ),
            ..
        }
    )
}

/// The public half of what is expected; nothing of it for a key that makes CMACs.
struct Public {
    spki: Option<Vec<u8>>,
    /// As CKA_EC_POINT has it.
    bytes: Option<Vec<u8>>,
}

/// None where one thing is not expected, or not of that algorithm.
fn public_key(arrival: &Arrival<'_>) -> Option<Public> {
    let Arrival { algorithm, expected: [expected], .. } = arrival else { return None };
    if expected.algorithm() != Some(*algorithm) {
        return None;
    }
    match expected {
        Instance::TaggedKey(_) if algorithm.is_cmac() => Some(Public { spki: None, bytes: None }),
        Instance::KeyKnowledge(_) | Instance::KeyPossession(_) => {
            let spki = expected.spki().ok()??;
            Some(Public { bytes: Some(object::point(*algorithm, &spki)?), spki: Some(spki) })
        }
        _ => None,
    }
}

fn on(flag: &Attribute) -> Option<bool> {
    match flag {
        Attribute::Wrap(on)
        | Attribute::Unwrap(on)
        | Attribute::Encrypt(on)
        | Attribute::Decrypt(on)
        | Attribute::Sign(on)
        | Attribute::Verify(on)
        | Attribute::Derive(on)
        | Attribute::Extractable(on) => Some(*on),
        _ => None,
    }
}

/// As of a key that is generated, for a while or for good.
fn arrival_template(arrival: &Arrival<'_>, stays: bool) -> Vec<Attribute> {
    let Arrival { key, algorithm, .. } = arrival;
    let mechanism = object::mechanism(*algorithm);
    let mut made: Vec<Attribute> = mechanism.map(|mechanism| template(key, *algorithm, mechanism)).unwrap_or_default();
    // Its length comes with it.
    made.retain(|attribute| !matches!(attribute, Attribute::Token(_) | Attribute::ValueLen(_)));
    made.push(Attribute::Token(stays));
    made.push(Attribute::Class(if algorithm.is_cmac() { ObjectClass::SECRET_KEY } else { ObjectClass::PRIVATE_KEY }));
    made.push(Attribute::KeyType(object::key_type(*algorithm)));
    // SoftHSM sets one after the other, and after this one none.
    made.sort_by_key(|attribute| matches!(attribute, Attribute::Modifiable(_)));
    made
}

fn public_object(arrival: &Arrival<'_>, point: &[u8]) -> Vec<Attribute> {
    let Arrival { key, algorithm, .. } = arrival;
    vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(object::key_type(*algorithm)),
        Attribute::Label(key.key.as_str().into()),
        Attribute::Id(object::id_of(key.epoch)),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(object::curve(*algorithm).unwrap_or_default().to_vec()),
        Attribute::EcPoint(point.to_vec()),
    ]
}
