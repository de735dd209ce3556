//! Key objects: their names, what their attributes say, and which keys may be attested.

use std::sync::{Arc, Mutex, atomic::AtomicBool};

use cryptoki::{
    mechanism::MechanismType,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use k256::{elliptic_curve::sec1::ToEncodedPoint, pkcs8::DecodePublicKey};
use keywitness_circuits::{
    Digest, Error, KeyAlgorithm, KeyAttributes, KeyOrigin, Mechanisms, TokenAttributes, registry::DecodedInstance,
};
use keywitness_verifier::wire::KeyRef;
use serde::{Deserialize, Serialize};

/// Curve edwards25519 as CKA_EC_PARAMS names it: PrintableString "edwards25519" (PKCS#11 3.0, section 2.3.5).
pub(super) const EDWARDS25519: [u8; 14] = *b"\x13\x0cedwards25519";

/// The same by object identifier: id-Ed25519 (RFC 8410), and the older 1.3.6.1.4.1.11591.15.1.
const ED25519_OIDS: [&[u8]; 2] =
    [&[0x06, 0x03, 0x2b, 0x65, 0x70], &[0x06, 0x09, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01]];

/// P-256 as CKA_EC_PARAMS names it: object identifier 1.2.840.10045.3.1.7.
const P256: [u8; 10] = *b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";

/// secp256k1: object identifier 1.3.132.0.10.
const SECP256K1: [u8; 7] = *b"\x06\x05\x2b\x81\x04\x00\x0a";

/// Tag of a DER OCTET STRING.
const OCTET_STRING: u8 = 0x04;

/// CKA_EC_PARAMS of the curve of an asymmetric algorithm whose keys are used in a token.
pub(super) fn curve(algorithm: KeyAlgorithm) -> Option<&'static [u8]> {
    match algorithm {
        KeyAlgorithm::Ed25519 => Some(&EDWARDS25519),
        KeyAlgorithm::P256 => Some(&P256),
        KeyAlgorithm::Secp256k1 => Some(&SECP256K1),
        _ => None,
    }
}

/// The type of the key objects of an algorithm.
pub(super) const fn key_type(algorithm: KeyAlgorithm) -> KeyType {
    match algorithm {
        KeyAlgorithm::Ed25519 => KeyType::EC_EDWARDS,
        KeyAlgorithm::P256 | KeyAlgorithm::Secp256k1 => KeyType::EC,
        _ => KeyType::AES,
    }
}

/// The only mechanism that keys of this algorithm are used with in a token; none for one whose keys are not.
pub(super) fn mechanism(algorithm: KeyAlgorithm) -> Option<MechanismType> {
    match algorithm {
        KeyAlgorithm::Ed25519 => Some(MechanismType::EDDSA),
        KeyAlgorithm::P256 | KeyAlgorithm::Secp256k1 => Some(MechanismType::ECDSA),
        _ if algorithm.is_cmac() => Some(MechanismType::AES_CMAC),
        _ => None,
    }
}

/// A key inside a token, and what the token says about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenKey {
    /// Name and epoch: CKA_LABEL and CKA_ID.
    pub key: KeyRef,
    /// What it is for: EdDSA, ECDSA on some curve, or AES-CMAC with a key of some size.
    pub algorithm: KeyAlgorithm,
    /// Generated in the token (CKA_LOCAL), or brought in from outside.
    pub origin: KeyOrigin,
    /// Whether the key can leave the token wrapped, or, unless it is sensitive, in plain (CKA_EXTRACTABLE).
    pub extractable: bool,
    /// What else the token says: CKA_SENSITIVE, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_ALLOWED_MECHANISMS.
    pub token: TokenAttributes,
    /// Why the key is not attested, where it is not.
    pub refusal: Option<String>,
}

impl TokenKey {
    /// Names of the mechanisms that it is used with, as far as the token keeps a list: `CKM_ECDSA`.
    pub fn mechanisms(&self) -> Vec<String> {
        let name =
            |number: &u32| MechanismType::try_from(std::ffi::c_ulong::from(*number)).map(|known| known.to_string());
        let numbers = self.token.mechanisms.numbers().iter();
        numbers.map(|number| name(number).unwrap_or_else(|_| format!("{number:#x}"))).collect()
    }

    /// What a claim says about the key.
    pub fn attributes(&self) -> KeyAttributes {
        let token = Some(self.token.clone());
        KeyAttributes { token, ..KeyAttributes::new(self.algorithm, self.origin, self.extractable) }
    }
}

/// What is read of every key object. A token that knows no such attribute leaves it out.
const READ: [AttributeType; 19] = [
    AttributeType::Label,
    AttributeType::Id,
    AttributeType::KeyType,
    AttributeType::EcParams,
    AttributeType::ValueLen,
    AttributeType::Extractable,
    AttributeType::Sensitive,
    AttributeType::AlwaysSensitive,
    AttributeType::NeverExtractable,
    AttributeType::Local,
    AttributeType::Sign,
    AttributeType::Encrypt,
    AttributeType::Decrypt,
    AttributeType::Wrap,
    AttributeType::Unwrap,
    AttributeType::Derive,
    AttributeType::AlwaysAuthenticate,
    AttributeType::AllowedMechanisms,
    AttributeType::Modifiable,
];

/// A key object that was found, and what is known of it since.
pub(super) struct Known {
    pub(super) handle: ObjectHandle,
    class: ObjectClass,
    label: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
    pub(super) key: TokenKey,
    /// Digest of its attributes.
    pub(super) attributes: Digest,
    /// Whether nobody can change its attributes (CKA_MODIFIABLE).
    fixed: bool,
    /// Its public key, as it was read last.
    pub(super) public: Mutex<Option<DecodedInstance>>,
    /// Whether a proof of it was verified under that public key since it was found.
    pub(super) proven: Arc<AtomicBool>,
}

/// Which of a token's keys are used.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyChoice {
    /// Those with this label (CKA_LABEL).
    pub label: Option<String>,
    /// Those with this CKA_ID. One whose label is no key name is named `id-` and the hexadecimal digits.
    pub id: Option<Vec<u8>>,
}

impl KeyChoice {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// The name of the key with the chosen CKA_ID, where its label is none.
    fn name(&self) -> Option<String> {
        self.id.as_ref().map(|id| format!("id-{}", data_encoding::HEXLOWER.encode(id)))
    }
}

/// What is said of an object that is no key of ours.
pub(super) struct Foreign(pub(super) String);

/// The token's private and secret keys, of those that are chosen; those of that name alone, where one is given.
///
/// # Errors
/// Where the token does not answer. An object that cannot be read is a [`Foreign`] one.
pub(super) fn keys(
    session: &Session,
    choice: &KeyChoice,
    name: Option<&str>,
) -> Result<(Vec<Known>, Vec<Foreign>), cryptoki::error::Error> {
    let (mut found, mut foreign) = (Vec::new(), Vec::new());
    let named_by_id = name.is_some() && choice.name().as_deref() == name;
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::SECRET_KEY] {
        let mut template = vec![Attribute::Token(true), Attribute::Class(class)];
        let label = choice.label.as_deref().or(name.filter(|_| !named_by_id));
        template.extend(label.map(|label| Attribute::Label(label.into())));
        template.extend(choice.id.clone().map(Attribute::Id));
        for handle in session.find_objects(&template)? {
            match read(session, choice, (handle, class)) {
                Ok(Ok(known)) if name.is_none_or(|name| known.key.key.key.as_str() == name) => found.push(known),
                Ok(Ok(_)) => {}
                Ok(Err(other)) => foreign.push(other),
                Err(error) => foreign.push(Foreign(format!("an object that cannot be read ({error:?})"))),
            }
        }
    }
    found.sort_by(|one, other| one.key.key.cmp(&other.key.key));
    Ok((found, foreign))
}

fn read(
    session: &Session,
    choice: &KeyChoice,
    (handle, class): (ObjectHandle, ObjectClass),
) -> Result<Result<Known, Foreign>, cryptoki::error::Error> {
    let attributes = Attributes(session.get_attributes(handle, &READ)?);
    Ok(describe(class, choice, &attributes).map(|(id, key)| {
        let (digest, fixed) = (key.attributes().digest(), attributes.is(&Attribute::Modifiable(false)));
        let label = attributes.find(|attribute| match attribute {
            Attribute::Label(label) => Some(label.clone()),
            _ => None,
        });
        Known {
            handle,
            class,
            label,
            id,
            attributes: digest,
            key,
            fixed,
            public: Mutex::default(),
            proven: Arc::default(),
        }
    }))
}

impl Known {
    /// Whether it is the same object, and the token says the same of it.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.handle == other.handle && self.key == other.key && self.id == other.id
    }

    /// Whether the object is still what it was. Nobody can change what is fixed.
    ///
    /// # Errors
    /// Where it cannot be read, as one that was removed.
    pub(super) fn is_unchanged(&self, session: &Session, choice: &KeyChoice) -> Result<bool, cryptoki::error::Error> {
        if self.fixed {
            return Ok(true);
        }
        let now = read(session, choice, (self.handle, self.class))?;
        Ok(now.is_ok_and(|now| self.is_same(&now)))
    }
}

/// A key's attributes, as far as the token told them. What it did not tell counts as the worse answer.
struct Attributes(Vec<Attribute>);

impl Attributes {
    fn find<T>(&self, pick: impl Fn(&Attribute) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(pick)
    }

    /// Whether a flag is said to be set.
    fn is(&self, flag: &Attribute) -> bool {
        self.0.contains(flag)
    }

    /// The mechanisms that the key is used with; none where it may be used with any, as far as the token says.
    fn allowed(&self) -> Option<Vec<MechanismType>> {
        self.find(|attribute| match attribute {
            Attribute::AllowedMechanisms(list) if !list.is_empty() => Some(list.clone()),
            _ => None,
        })
    }

    /// What a claim is bound to beside origin and extractability.
    ///
    /// # Errors
    /// More mechanisms than a claim names.
    fn told(&self) -> Result<TokenAttributes, Error> {
        const TOO_LARGE: Error = Error::Malformed { what: "mechanism", why: "its number has more than 4 bytes" };
        let numbers = self.allowed().unwrap_or_default().into_iter().map(|mechanism| u32::try_from(*mechanism));
        let numbers = numbers.collect::<Result<Vec<_>, _>>();
        Ok(TokenAttributes {
            sensitive: self.is(&Attribute::Sensitive(true)),
            always_sensitive: self.is(&Attribute::AlwaysSensitive(true)),
            never_extractable: self.is(&Attribute::NeverExtractable(true)),
            mechanisms: Mechanisms::new(numbers.map_err(|_| TOO_LARGE)?)?,
        })
    }
}

/// A key object's CKA_ID, and the key.
fn describe(
    class: ObjectClass,
    choice: &KeyChoice,
    attributes: &Attributes,
) -> Result<(Option<Vec<u8>>, TokenKey), Foreign> {
    let label = attributes.find(|attribute| match attribute {
        Attribute::Label(label) => Some(String::from_utf8_lossy(label).into_owned()),
        _ => None,
    });
    let label = label.unwrap_or_default();
    let name = label.parse().ok().or_else(|| choice.name()?.parse().ok());
    let Some(name) = name else { return Err(Foreign(format!("{label:?} (its label is no key name)"))) };
    let Some(algorithm) = algorithm(class, attributes) else {
        return Err(Foreign(format!("{label:?} (of another algorithm)")));
    };
    let id = attributes.find(|attribute| match attribute {
        Attribute::Id(id) => Some(id.clone()),
        _ => None,
    });
    let local = attributes.is(&Attribute::Local(true));
    let key = TokenKey {
        key: KeyRef { key: name, epoch: epoch(id.as_deref()) },
        algorithm,
        origin: if local { KeyOrigin::Generated } else { KeyOrigin::Imported },
        extractable: !attributes.is(&Attribute::Extractable(false)),
        token: attributes.told().map_err(|error| Foreign(format!("{label:?} ({error})")))?,
        refusal: refusal(algorithm, attributes),
    };
    Ok((id, key))
}

fn algorithm(class: ObjectClass, attributes: &Attributes) -> Option<KeyAlgorithm> {
    let key_type = attributes.find(|attribute| match attribute {
        Attribute::KeyType(key_type) => Some(*key_type),
        _ => None,
    })?;
    if class == ObjectClass::PRIVATE_KEY {
        let named = attributes.find(|attribute| match attribute {
            Attribute::EcParams(parameters) => Some(parameters.clone()),
            _ => None,
        })?;
        let known = |algorithm: KeyAlgorithm| {
            let older = algorithm == KeyAlgorithm::Ed25519 && ED25519_OIDS.contains(&named.as_slice());
            self::key_type(algorithm) == key_type && (curve(algorithm) == Some(&named) || older)
        };
        return KeyAlgorithm::ALL.into_iter().find(|algorithm| known(*algorithm));
    }
    if class == ObjectClass::SECRET_KEY && key_type == KeyType::AES {
        let length = attributes.find(|attribute| match attribute {
            Attribute::ValueLen(length) => usize::try_from(**length).ok(),
            _ => None,
        })?;
        return KeyAlgorithm::ALL.into_iter().find(|algorithm| algorithm.is_cmac() && algorithm.secret_len() == length);
    }
    None
}

/// Why a key of these attributes is not used.
///
/// A CMAC key does nothing but CMAC: ECB, CBC with a chosen IV and CTR each compute the block cipher on chosen blocks,
/// and E_k(0) gives the CMAC's subkeys away (RFC 4493, section 2.3); unwrapping and derivation hide the same. A token
/// whose keys carry a list of allowed mechanisms must list CMAC alone, since CBC-MAC needs no flag but CKA_SIGN; of a
/// token without such lists only the flags are seen.
fn refusal(algorithm: KeyAlgorithm, attributes: &Attributes) -> Option<String> {
    if !attributes.is(&Attribute::Sign(true)) {
        return Some("it may not sign (CKA_SIGN)".to_owned());
    }
    if attributes.is(&Attribute::AlwaysAuthenticate(true)) {
        return Some("it wants the PIN at each use (CKA_ALWAYS_AUTHENTICATE)".to_owned());
    }
    let allowed = attributes.allowed();
    if !algorithm.is_cmac() {
        let able = allowed.is_none_or(|list| mechanism(algorithm).is_some_and(|own| list.contains(&own)));
        let own = if algorithm == KeyAlgorithm::Ed25519 { "EdDSA" } else { "ECDSA" };
        return (!able).then(|| format!("{own} is not among its allowed mechanisms"));
    }
    let uses = [
        (Attribute::Encrypt(false), "encrypt"),
        (Attribute::Decrypt(false), "decrypt"),
        (Attribute::Wrap(false), "wrap"),
        (Attribute::Unwrap(false), "unwrap"),
        (Attribute::Derive(false), "derive"),
    ];
    let more: Vec<_> = uses.iter().filter(|(never, _)| !attributes.is(never)).map(|(_, what)| *what).collect();
    if !more.is_empty() {
        return Some(format!(
            "it may also {}, which would give away what its CMACs rest on; a key that is attested does CMAC and nothing \
             else",
            more.join(", ")
        ));
    }
    let only = allowed.is_none_or(|list| list.iter().all(|allowed| Some(*allowed) == mechanism(algorithm)));
    (!only).then(|| "its allowed mechanisms are not AES-CMAC alone".to_owned())
}

/// The epoch that a CKA_ID stands for: four bytes, big-endian and not zero, or else 1.
fn epoch(id: Option<&[u8]>) -> u32 {
    let number = id.and_then(|id| id.try_into().ok()).map(u32::from_be_bytes);
    number.filter(|epoch| *epoch != 0).unwrap_or(1)
}

/// The CKA_ID of an epoch.
pub(super) fn id_of(epoch: u32) -> Vec<u8> {
    epoch.to_be_bytes().to_vec()
}

/// The public key that stands beside a private key, as an instance encodes it: that of the one public object with its label
/// and CKA_ID.
pub(super) fn public_key(
    session: &Session,
    found: &Known,
) -> Result<Result<Vec<u8>, &'static str>, cryptoki::error::Error> {
    let algorithm = found.key.algorithm;
    let [handle] = *public_objects(session, found)? else { return Ok(Err("there is not exactly one")) };
    let attributes = session.get_attributes(handle, &[AttributeType::EcPoint])?;
    let point = attributes.into_iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(point) => Some(point),
        _ => None,
    });
    let encoded = point.and_then(|point| encoded(algorithm, &point));
    Ok(encoded.ok_or("its CKA_EC_POINT is no point of its curve"))
}

fn public_objects(session: &Session, found: &Known) -> Result<Vec<ObjectHandle>, cryptoki::error::Error> {
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(key_type(found.key.algorithm)),
    ];
    template.extend(found.label.clone().map(Attribute::Label));
    template.extend(found.id.clone().map(Attribute::Id));
    session.find_objects(&template)
}

/// The objects that make up a key: itself, and its public key.
pub(super) fn beside(session: &Session, found: &Known) -> Result<Vec<ObjectHandle>, cryptoki::error::Error> {
    let public = if curve(found.key.algorithm).is_some() { public_objects(session, found)? } else { Vec::new() };
    Ok([&[found.handle], public.as_slice()].concat())
}

/// A CKA_EC_POINT as an instance encodes it: 32 bytes of edwards25519, else a compressed SEC1 point. It comes in a DER OCTET
/// STRING (PKCS#11 3.0), or bare, as some tokens give it; its length tells which.
fn encoded(algorithm: KeyAlgorithm, point: &[u8]) -> Option<Vec<u8>> {
    // An uncompressed point, or a compressed one.
    let lengths = if algorithm == KeyAlgorithm::Ed25519 { [32, 32] } else { [65, 33] };
    let bare = match point {
        [OCTET_STRING, length, rest @ ..] if lengths.contains(&rest.len()) && usize::from(*length) == rest.len() => {
            rest
        }
        _ => point,
    };
    if !lengths.contains(&bare.len()) {
        return None;
    }
    match algorithm {
        KeyAlgorithm::Ed25519 => Some(bare.to_vec()),
        KeyAlgorithm::P256 => {
            Some(p256::PublicKey::from_sec1_bytes(bare).ok()?.to_encoded_point(true).as_bytes().to_vec())
        }
        KeyAlgorithm::Secp256k1 => {
            Some(k256::PublicKey::from_sec1_bytes(bare).ok()?.to_encoded_point(true).as_bytes().to_vec())
        }
        _ => None,
    }
}

/// The CKA_EC_POINT of a SubjectPublicKeyInfo: of ECDSA uncompressed, in a DER OCTET STRING.
pub(super) fn point(algorithm: KeyAlgorithm, spki: &[u8]) -> Option<Vec<u8>> {
    let bare = match algorithm {
        KeyAlgorithm::Ed25519 => spki.split_at_checked(spki.len().checked_sub(32)?)?.1.to_vec(),
        KeyAlgorithm::P256 => {
            p256::PublicKey::from_public_key_der(spki).ok()?.to_encoded_point(false).as_bytes().to_vec()
        }
        KeyAlgorithm::Secp256k1 => {
            k256::PublicKey::from_public_key_der(spki).ok()?.to_encoded_point(false).as_bytes().to_vec()
        }
        _ => return None,
    };
    let length = u8::try_from(bare.len()).ok().filter(|length| *length < 0x80)?;
    Some([&[OCTET_STRING, length], bare.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn an_id_of_four_bytes_is_an_epoch_and_any_other_is_the_first() {
        assert_eq!(epoch(None), 1);
        assert_eq!(epoch(Some(&[])), 1);
        assert_eq!(epoch(Some(&[0, 0, 0, 0])), 1);
        assert_eq!(epoch(Some(&[7; 20])), 1);
        assert_eq!(epoch(Some(&[0, 0, 1, 2])), 258);
        for number in [1, 2, u32::MAX] {
            assert_eq!(epoch(Some(&id_of(number))), number);
        }
    }

    #[test]
    fn points_come_wrapped_or_bare() {
        let of = |point: &[u8]| encoded(KeyAlgorithm::Ed25519, point);
        let point: Vec<u8> = (0..32).collect();
        let wrapped = [&[OCTET_STRING, 32], point.as_slice()].concat();
        assert_eq!(of(&point), Some(point.clone()));
        assert_eq!(of(&wrapped), Some(point.clone()));
        assert_eq!(of(&wrapped[..33]), None);
        assert_eq!(of(&[wrapped.as_slice(), &[0]].concat()), None);
        // A bare point that begins as the wrapper does.
        let odd = [&[OCTET_STRING, 32], &point[..30]].concat();
        assert_eq!(of(&odd), Some(odd.clone()));
    }

    #[test]
    fn points_of_ecdsa_are_compressed_whatever_form_they_come_in() {
        let check = |algorithm, whole: &[u8], short: &[u8]| {
            for point in [whole, short] {
                let wrapped = [&[OCTET_STRING, point.len() as u8], point].concat();
                assert_eq!(encoded(algorithm, point).as_deref(), Some(short));
                assert_eq!(encoded(algorithm, &wrapped).as_deref(), Some(short));
                for cut in [&wrapped[..wrapped.len() - 1], &point[1..], &[0x04; 65], &[]] {
                    assert_eq!(encoded(algorithm, cut), None, "{algorithm}: {cut:02x?}");
                }
            }
        };
        let key = p256::SecretKey::from_slice(&[5; 32]).unwrap().public_key();
        check(KeyAlgorithm::P256, key.to_encoded_point(false).as_bytes(), key.to_encoded_point(true).as_bytes());
        let key = k256::SecretKey::from_slice(&[5; 32]).unwrap().public_key();
        check(KeyAlgorithm::Secp256k1, key.to_encoded_point(false).as_bytes(), key.to_encoded_point(true).as_bytes());
    }

    #[test]
    fn what_a_token_does_not_say_counts_as_the_worse_answer() {
        let silent = Attributes(vec![
            Attribute::Label(b"k".to_vec()),
            Attribute::KeyType(KeyType::EC_EDWARDS),
            Attribute::EcParams(EDWARDS25519.to_vec()),
        ]);
        let (_, key) = describe(ObjectClass::PRIVATE_KEY, &KeyChoice::all(), &silent).map_err(|other| other.0).unwrap();
        assert_eq!((key.origin, key.extractable), (KeyOrigin::Imported, true));
        assert_eq!(key.token, TokenAttributes::default());
        assert!(key.refusal.is_some());
    }

    #[test]
    fn a_cmac_key_does_nothing_else() {
        let cmac = |more: &[Attribute]| {
            let mut attributes = vec![Attribute::Sign(true)];
            attributes.extend_from_slice(more);
            refusal(KeyAlgorithm::Aes128Cmac, &Attributes(attributes))
        };
        let none = [
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
        ];
        assert_eq!(cmac(&none), None);
        for (at, what) in ["encrypt", "decrypt", "wrap", "unwrap", "derive"].into_iter().enumerate() {
            let mut silent = none.to_vec();
            silent.remove(at);
            assert!(cmac(&silent).unwrap().contains(what), "{what}");
        }
        let listed =
            |list: &[MechanismType]| cmac(&[&none[..], &[Attribute::AllowedMechanisms(list.to_vec())]].concat());
        assert_eq!(listed(&[MechanismType::AES_CMAC]), None);
        assert!(listed(&[MechanismType::AES_CMAC, MechanismType::AES_ECB]).is_some());
    }
}
