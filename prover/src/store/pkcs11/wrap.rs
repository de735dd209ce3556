//! Keys that go from token to token: wrapped inside the one, unwrapped inside the other, in plain nowhere.
//!
//! Both tokens have the same AES key labelled [`WRAPPING`], which their operators put there, and which wraps and unwraps and does nothing
//! else: with one that also decrypts, whoever has the PIN could read every key that was ever wrapped. AES key wrap with padding
//! (RFC 5649; CKM_AES_KEY_WRAP_PAD).

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
    /// [`StoreError::NotTheKey`]; [`TokenError::NoWrappingKey`]; where the token does not unwrap it.
    pub(super) fn unwrap_key(&self, arrival: &Arrival<'_>) -> Result<TokenKey, StoreError> {
        let foreign = || StoreError::NotTheKey(arrival.key.clone());
        let Some(public) = public_key(arrival) else { return Err(foreign()) };
        let kept = self.pool.with_session(|connection, session| {
            let wrapping = self.wrapping_key(session)?;
            let seen = self.arrive(session, wrapping, arrival, false)?;
            let proves = self.proves(session, seen, arrival, &public);
            self.call("removing a key", session.destroy_object(seen))?;
            if !proves? {
                return Ok(None);
            }
            let session = self.writing(connection)?;
            let wrapping = self.wrapping_key(&session)?;
            let private = self.arrive(&session, wrapping, arrival, true)?;
            if let Some(bytes) = &public.bytes {
                let made = session.create_object(&public_object(arrival, bytes));
                if let Err(error) = made {
                    // Without its public half it would be in the way, and of no use.
                    self.call("removing a key", session.destroy_object(private))?;
                    return Err(TokenError::Call {
                        token: self.label().to_owned(),
                        doing: "making a public key",
                        source: error,
                    });
                }
            }
            self.lookup(&session, arrival.key).map(Some)
        });
        Ok(kept?.ok_or_else(foreign)?.key)
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

    fn arrive(
        &self,
        session: &Session,
        wrapping: ObjectHandle,
        arrival: &Arrival<'_>,
        stays: bool,
    ) -> Result<ObjectHandle, TokenError> {
        let unwrap =
            |template: &[Attribute]| session.unwrap_key(&Mechanism::AesKeyWrapPad, wrapping, arrival.wrapped, template);
        let mut template = arrival_template(arrival, stays);
        let made = match unwrap(&template) {
            Err(Error::Pkcs11(
                RvError::AttributeTypeInvalid | RvError::AttributeReadOnly | RvError::TemplateInconsistent,
                _,
            )) => {
                template.retain(|attribute| !OPTIONAL.contains(&attribute.attribute_type()));
                unwrap(&template)
            }
            made => made,
        };
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
