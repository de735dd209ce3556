//! Marvell (Cavium) LiquidSecurity HSMs, as Google Cloud HSM gives their attestations: a header, the attributes of a key or of a
//! pair of keys, and 256 bytes of RSASSA-PKCS1-v1_5 with SHA-256 by the key of the partition, which both the manufacturer and
//! the service's operator certify.
//!
//! There is no nonce, and the user of Google Cloud HSM chooses neither label nor id: a statement is bound to the key alone. Of
//! a pair, the attributes that matter are those of the private object; the public one says `extractable`.

use std::{collections::BTreeMap, io::Read as _};

use aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
use flate2::bufread::GzDecoder;
use keywitness_circuits::{
    Digest, Timestamp,
    codec::{MAX_BYTES, Reader},
};
use sha2::{Digest as _, Sha256};

use super::{
    Binding, EvidenceError, Facts, Findings, Format, MarvellPolicy, Subject, TrustVector, Verifier,
    x509::{self, Authority, PublicKey, trim},
};

/// `localca.liquidsecurity.cavium.com`: of Marvell, on every card. Its own dates ended in 2025; cards that it certified remain.
const MANUFACTURER: Digest = Digest([
    0x97, 0x57, 0x57, 0xf0, 0xd7, 0x66, 0x40, 0xe0, 0x3d, 0x14, 0x76, 0x0f, 0x8f, 0xc9, 0xe3, 0xa5, 0x58, 0x26, 0xfa,
    0x78, 0x07, 0xb2, 0xc3, 0x92, 0xf7, 0x80, 0x1a, 0x95, 0xbd, 0x69, 0xcc, 0x28,
]);

/// `Hawksbill Root v1 prod`: of Google Cloud HSM, valid to 2030.
const OWNER: Digest = Digest([
    0x46, 0xb5, 0xfd, 0x35, 0x1d, 0x56, 0xa0, 0x72, 0x1c, 0xa0, 0xaf, 0xcd, 0x17, 0x31, 0xc0, 0xf7, 0xb7, 0x4e, 0x39,
    0x41, 0xeb, 0x81, 0x8b, 0xfd, 0x0e, 0xc3, 0x6e, 0x29, 0xdf, 0x0d, 0xe0, 0x95,
]);

const SIGNATURE: usize = 256;
/// Most attributes that an object has.
const MAX_ATTRIBUTES: u32 = 256;

const CLASS: u32 = 0x00;
const SENSITIVE: u32 = 0x103;
/// The modulus, or the point of an elliptic curve.
const PUBLIC: u32 = 0x120;
const EXPONENT: u32 = 0x122;
const EXTRACTABLE: u32 = 0x162;
const LOCAL: u32 = 0x163;
const NEVER_EXTRACTABLE: u32 = 0x164;

/// CKO_PRIVATE_KEY.
const PRIVATE_KEY: u8 = 3;

fn malformed(why: &'static str) -> EvidenceError {
    EvidenceError::malformed("Marvell statement", why)
}

/// The statement, unpacked where it is packed with gzip.
fn unpack(part: &[u8]) -> Result<Vec<u8>, EvidenceError> {
    if !part.starts_with(&[0x1f, 0x8b]) {
        return Ok(part.to_vec());
    }
    let mut statement = Vec::new();
    let mut decoder = GzDecoder::new(part);
    let limit = MAX_BYTES as u64 + 1;
    decoder.by_ref().take(limit).read_to_end(&mut statement).map_err(|_| malformed("it is not gzip"))?;
    if statement.len() > MAX_BYTES {
        return Err(malformed("it is longer than 64 KiB"));
    }
    if decoder.get_ref().is_empty() { Ok(statement) } else { Err(malformed("bytes follow the gzip")) }
}

/// An object's attributes.
struct Object<'a>(BTreeMap<u32, &'a [u8]>);

impl<'a> Object<'a> {
    /// Reads an object that fills `bytes`: handle, count, size, then type, length and value of each attribute.
    fn read(bytes: &'a [u8]) -> Result<Self, EvidenceError> {
        let wrong = |_| malformed("an object ends too early");
        let mut reader = Reader::new("object", bytes);
        let _handle = reader.u32().map_err(wrong)?;
        let count = reader.u32().map_err(wrong)?;
        let _size = reader.u32().map_err(wrong)?;
        if count > MAX_ATTRIBUTES {
            return Err(malformed("an object has too many attributes"));
        }
        let mut attributes = BTreeMap::new();
        for _ in 0..count {
            let kind = reader.u32().map_err(wrong)?;
            let value = reader.bytes(MAX_BYTES).map_err(wrong)?;
            if attributes.insert(kind, value).is_some() {
                return Err(malformed("an object has an attribute twice"));
            }
        }
        reader.finish().map_err(|_| malformed("bytes follow an object"))?;
        Ok(Self(attributes))
    }

    fn flag(&self, kind: u32) -> Result<bool, EvidenceError> {
        match self.0.get(&kind) {
            Some([0]) => Ok(false),
            Some([1]) => Ok(true),
            _ => Err(malformed("an attribute is missing, or neither 0 nor 1")),
        }
    }

    fn is_private(&self) -> bool {
        self.0.get(&CLASS).is_some_and(|class| **class == [PRIVATE_KEY])
    }

    /// Whether this is the key whose SubjectPublicKeyInfo is `spki`.
    ///
    /// An elliptic curve is not named: a point that lies on the claimed key's curve is on no other that the HSM has, but by a
    /// chance that nobody can bring about.
    fn is_key(&self, spki: &[u8]) -> Result<bool, EvidenceError> {
        let attribute = |kind| self.0.get(&kind).copied().unwrap_or_default();
        Ok(match PublicKey::from_spki(spki)? {
            PublicKey::Ec { point, .. } => attribute(PUBLIC) == point,
            PublicKey::Rsa { modulus, exponent } => {
                trim(attribute(PUBLIC)) == modulus && trim(attribute(EXPONENT)) == exponent
            }
        })
    }
}

/// The private object of a statement: header of response, header of information with the offsets of one or two objects.
fn private_object(statement: &[u8]) -> Result<Object<'_>, EvidenceError> {
    let wrong = |_| malformed("it ends too early");
    let signed = statement.len().checked_sub(SIGNATURE).and_then(|end| statement.get(..end));
    let signed = signed.ok_or(malformed("it ends too early"))?;
    let mut header = Reader::new("header", signed);
    let (code, _flags) = (header.u32().map_err(wrong)?, header.u32().map_err(wrong)?);
    let (total, size) = (header.u32().map_err(wrong)? as usize, header.u32().map_err(wrong)? as usize);
    if code != 0 || total != statement.len() {
        return Err(malformed("its header is of another answer"));
    }
    let body =
        signed.len().checked_sub(size).and_then(|start| signed.get(start..)).ok_or(malformed("its size is wrong"))?;
    let mut info = Reader::new("information", body);
    let (_version, _flags) = (info.u16().map_err(wrong)?, info.u16().map_err(wrong)?);
    let (first, second) = (usize::from(info.u16().map_err(wrong)?), usize::from(info.u16().map_err(wrong)?));
    let ends = if second == 0 { [(first, size), (0, 0)] } else { [(first, second), (second, size)] };
    let mut found = None;
    for (start, end) in ends.into_iter().filter(|(_, end)| *end != 0) {
        let object = Object::read(body.get(start..end).ok_or(malformed("an object lies outside"))?)?;
        if object.is_private() && found.replace(object).is_some() {
            return Err(malformed("it has two private keys"));
        }
    }
    found.ok_or(malformed("it is not of a private key"))
}

impl Verifier for MarvellPolicy {
    fn format(&self) -> Format {
        Format::Marvell
    }

    fn devices(&self) -> &[String] {
        &self.trust.devices
    }

    fn verify(&self, parts: &[Vec<u8>], subject: &Subject<'_>, now: Timestamp) -> Result<Findings, EvidenceError> {
        let [packed, manufacturer, owner] = parts else { return Err(malformed("it is not three parts")) };
        let claimed = subject.key.ok_or_else(|| {
            EvidenceError::refused("a statement of a symmetric key names only its check value, which does not bind it")
        })?;
        let statement = unpack(packed)?;
        let (manufacturer, owner) = (x509::read(manufacturer)?, x509::read(owner)?);
        x509::verify(&manufacturer, &self.trust, &[MANUFACTURER], Authority::WithoutExtensions, now)?;
        let owners = super::Trust { roots: self.owner_roots.clone(), ..self.trust.clone() };
        x509::verify(&owner, &owners, &[OWNER], Authority::WithoutExtensions, now)?;
        let (Some(partition), Some(owned)) = (manufacturer.first(), owner.first()) else {
            return Err(malformed("it has no certificate"));
        };
        if partition.spki() != owned.spki() {
            return Err(EvidenceError::refused("manufacturer and owner certify different partitions"));
        }
        let (signed, signature) =
            statement.split_at_checked(statement.len().saturating_sub(SIGNATURE)).unwrap_or_default();
        x509::check(&RSA_PKCS1_2048_8192_SHA256, partition.key(), signed, signature, "Marvell statement")?;

        let key = private_object(&statement)?;
        let (extractable, never) = (key.flag(EXTRACTABLE)?, key.flag(NEVER_EXTRACTABLE)?);
        let (local, sensitive) = (key.flag(LOCAL)?, key.flag(SENSITIVE)?);
        if (extractable || !never || !sensitive) && !self.allow_extractable {
            return Err(EvidenceError::refused("the key is or was extractable, or is not sensitive"));
        }
        if !local && !self.allow_imported {
            return Err(EvidenceError::refused("the key was not made in the HSM"));
        }
        if !key.is_key(claimed)? {
            return Err(EvidenceError::WrongKey);
        }
        let kept = never && !extractable && sensitive && local;
        let trust = TrustVector {
            hardware: TrustVector::AFFIRMING,
            storage_opaque: if kept { TrustVector::AFFIRMING } else { TrustVector::WARNING },
            ..TrustVector::default()
        };
        let name = partition.x509.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let facts = Facts {
            vendor: "Marvell".to_owned(),
            device: Some(format!("marvell:{}", Digest(Sha256::digest(partition.spki()).into()))),
            serial: name.map(str::to_owned),
            extractable: Some(extractable),
            never_extractable: Some(never),
            local: Some(local),
            ..Facts::default()
        };
        Ok(Findings { binding: Binding::Key, trust, facts, names_key: true, mismatch: None })
    }
}
