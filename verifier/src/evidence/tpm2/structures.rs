//! The TPM's structures (TCG TPM 2.0 Library, Part 2), read totally: what is not of the few kinds that attest is refused.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use sha2::{Digest as _, Sha256};

use super::super::{
    EvidenceError,
    x509::{self, P256, PublicKey, trim},
};

/// TPM_ALG_ID.
const RSA: u16 = 0x0001;
pub(super) const SHA256: u16 = 0x000b;
const NULL: u16 = 0x0010;
const RSASSA: u16 = 0x0014;
const ECDSA: u16 = 0x0018;
const ECC: u16 = 0x0023;
/// TPM_ECC_NIST_P256.
const NIST_P256: u16 = 0x0003;

/// TPM_GENERATED_VALUE: what begins everything that a TPM signs of itself, and nothing that it signs for others.
const GENERATED: u32 = 0xff54_4347;
const ATTEST_CERTIFY: u16 = 0x8017;
const ATTEST_QUOTE: u16 = 0x8018;

/// Most bytes of a sized buffer.
const MAX_BUFFER: usize = 1024;

fn malformed(what: &'static str, why: &'static str) -> EvidenceError {
    EvidenceError::malformed(what, why)
}

/// Big-endian integers and buffers with a 16-bit length.
struct Cursor<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], EvidenceError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(malformed(self.what, "it ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    fn integer(&mut self, length: usize) -> Result<u64, EvidenceError> {
        Ok(self.take(length)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn u8(&mut self) -> Result<u8, EvidenceError> {
        self.integer(1).map(|value| value as u8)
    }

    fn u16(&mut self) -> Result<u16, EvidenceError> {
        self.integer(2).map(|value| value as u16)
    }

    fn u32(&mut self) -> Result<u32, EvidenceError> {
        self.integer(4).map(|value| value as u32)
    }

    fn buffer(&mut self) -> Result<&'a [u8], EvidenceError> {
        let length = usize::from(self.u16()?);
        if length > MAX_BUFFER {
            return Err(malformed(self.what, "a buffer is too long"));
        }
        self.take(length)
    }

    fn finish(self) -> Result<(), EvidenceError> {
        if self.rest.is_empty() { Ok(()) } else { Err(malformed(self.what, "bytes follow its end")) }
    }
}

/// TPMA_OBJECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attributes(pub(super) u32);

impl Attributes {
    pub(super) const FIXED_TPM: u32 = 1 << 1;
    pub(super) const FIXED_PARENT: u32 = 1 << 4;
    pub(super) const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    pub(super) const RESTRICTED: u32 = 1 << 16;
    pub(super) const DECRYPT: u32 = 1 << 17;
    pub(super) const SIGN: u32 = 1 << 18;

    pub(super) const fn has(self, all: u32) -> bool {
        self.0 & all == all
    }
}

/// The key of a TPMT_PUBLIC.
#[derive(PartialEq, Eq, Debug)]
enum Unique<'a> {
    Rsa {
        modulus: &'a [u8],
        exponent: u32,
    },
    /// On P-256: `04`, x, y.
    Ecc([u8; 65]),
}

/// TPMT_PUBLIC of an RSA or P-256 key whose name algorithm is SHA-256.
pub(super) struct Public<'a> {
    bytes: &'a [u8],
    pub(super) attributes: Attributes,
    unique: Unique<'a>,
}

/// Left-padded to 32 bytes.
fn padded(bytes: &[u8]) -> Option<[u8; 32]> {
    let bytes = trim(bytes);
    let mut padded = [0; 32];
    padded.get_mut(32usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(padded)
}

impl<'a> Public<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, EvidenceError> {
        let what = "TPMT_PUBLIC";
        let mut cursor = Cursor { what, rest: bytes };
        let kind = cursor.u16()?;
        if cursor.u16()? != SHA256 {
            return Err(malformed(what, "its name algorithm is not SHA-256"));
        }
        let attributes = Attributes(cursor.u32()?);
        let _policy = cursor.buffer()?;
        // TPMT_SYM_DEF_OBJECT: of a storage key alone.
        if cursor.u16()? != NULL {
            let (_bits, _mode) = (cursor.u16()?, cursor.u16()?);
        }
        let unique = match kind {
            RSA => Self::rsa(&mut cursor)?,
            ECC => Self::ecc(&mut cursor)?,
            _ => return Err(malformed(what, "it is neither of RSA nor of an elliptic curve")),
        };
        cursor.finish()?;
        Ok(Self { bytes, attributes, unique })
    }

    /// TPMT_RSA_SCHEME and TPMT_ECC_SCHEME, where none or one with a hash is set.
    fn scheme(cursor: &mut Cursor<'a>, signing: u16) -> Result<(), EvidenceError> {
        match cursor.u16()? {
            NULL => Ok(()),
            scheme if scheme == signing && cursor.u16()? == SHA256 => Ok(()),
            _ => Err(malformed(cursor.what, "its scheme is neither RSASSA nor ECDSA with SHA-256")),
        }
    }

    fn rsa(cursor: &mut Cursor<'a>) -> Result<Unique<'a>, EvidenceError> {
        Self::scheme(cursor, RSASSA)?;
        let bits = cursor.u16()?;
        let exponent = cursor.u32()?;
        let modulus = cursor.buffer()?;
        if modulus.len() * 8 != usize::from(bits) || bits < 2048 || modulus.first().is_none_or(|byte| *byte < 0x80) {
            return Err(malformed(cursor.what, "its modulus is not of its length, or under 2048 bits"));
        }
        // Part 2, 12.2.3.5: zero stands for 2^16 + 1.
        Ok(Unique::Rsa { modulus, exponent: if exponent == 0 { 0x1_0001 } else { exponent } })
    }

    fn ecc(cursor: &mut Cursor<'a>) -> Result<Unique<'a>, EvidenceError> {
        Self::scheme(cursor, ECDSA)?;
        let curve = cursor.u16()?;
        // TPMT_KDF_SCHEME.
        if cursor.u16()? != NULL {
            let _hash = cursor.u16()?;
        }
        let (x, y) = (padded(cursor.buffer()?), padded(cursor.buffer()?));
        let (NIST_P256, Some(x), Some(y)) = (curve, x, y) else {
            return Err(malformed(cursor.what, "it is not a point of P-256"));
        };
        let mut point = [4; 65];
        for (to, from) in point.iter_mut().skip(1).zip(x.iter().chain(&y)) {
            *to = *from;
        }
        Ok(Unique::Ecc(point))
    }

    /// The Name: its algorithm, and the hash of the whole public area (Part 1, section 16).
    pub(super) fn name(&self) -> [u8; 34] {
        let mut name = [0; 34];
        let digest = Sha256::digest(self.bytes);
        for (to, from) in name.iter_mut().zip(SHA256.to_be_bytes().iter().chain(&digest)) {
            *to = *from;
        }
        name
    }

    /// Whether this is the key whose SubjectPublicKeyInfo is `spki`.
    pub(super) fn is_key(&self, spki: &[u8]) -> Result<bool, EvidenceError> {
        Ok(match (PublicKey::from_spki(spki)?, &self.unique) {
            (PublicKey::Ec { curve, point }, Unique::Ecc(own)) => curve == P256 && point == own,
            (PublicKey::Rsa { modulus, exponent }, Unique::Rsa { modulus: own, exponent: own_exponent }) => {
                modulus == *own && exponent == trim(&own_exponent.to_be_bytes())
            }
            _ => false,
        })
    }

    /// Checks a TPMT_SIGNATURE of this key over `message`.
    pub(super) fn check(&self, message: &[u8], signature: &[u8], what: &'static str) -> Result<(), EvidenceError> {
        let mut cursor = Cursor { what: "TPMT_SIGNATURE", rest: signature };
        let (scheme, hash) = (cursor.u16()?, cursor.u16()?);
        if hash != SHA256 {
            return Err(malformed("TPMT_SIGNATURE", "its hash is not SHA-256"));
        }
        match (scheme, &self.unique) {
            (RSASSA, Unique::Rsa { modulus, exponent }) => {
                let signature = cursor.buffer()?;
                cursor.finish()?;
                let exponent = exponent.to_be_bytes();
                RsaPublicKeyComponents { n: *modulus, e: trim(&exponent) }
                    .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                    .map_err(|_| EvidenceError::Signature(what))
            }
            (ECDSA, Unique::Ecc(point)) => {
                let (r, s) = (cursor.buffer()?, cursor.buffer()?);
                cursor.finish()?;
                // One spelling of a number: as a TPM writes it, in 32 bytes.
                let (Ok(r), Ok(s)) = (<[u8; 32]>::try_from(r), <[u8; 32]>::try_from(s)) else {
                    return Err(malformed("TPMT_SIGNATURE", "a half is not 32 bytes long"));
                };
                x509::check(&ECDSA_P256_SHA256_FIXED, point, message, &[r, s].concat(), what)
            }
            _ => Err(malformed("TPMT_SIGNATURE", "its scheme is not that of the key")),
        }
    }
}

/// What a TPMS_ATTEST attests.
pub(super) enum Attested<'a> {
    /// Digest of the PCRs selected in the SHA-256 bank, in rising order.
    Quote { pcrs: Vec<u8>, digest: &'a [u8] },
    /// Name of a key.
    Certify { name: &'a [u8] },
}

/// TPMS_ATTEST.
pub(super) struct Attest<'a> {
    /// The caller's qualifying data.
    pub(super) extra: &'a [u8],
    /// Firmware version, obfuscated unless the key is of the endorsement hierarchy.
    pub(super) firmware: u64,
    pub(super) attested: Attested<'a>,
}

impl<'a> Attest<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, EvidenceError> {
        let what = "TPMS_ATTEST";
        let mut cursor = Cursor { what, rest: bytes };
        if cursor.u32()? != GENERATED {
            return Err(malformed(what, "it does not begin with TPM_GENERATED_VALUE"));
        }
        let kind = cursor.u16()?;
        let _qualified_signer = cursor.buffer()?;
        let extra = cursor.buffer()?;
        // TPMS_CLOCK_INFO: clock, resetCount, restartCount, safe.
        let (_clock, _resets) = (cursor.integer(8)?, cursor.integer(8)?);
        if cursor.u8()? > 1 {
            return Err(malformed(what, "safe is neither 0 nor 1"));
        }
        let firmware = cursor.integer(8)?;
        let attested = match kind {
            ATTEST_QUOTE => Self::quote(&mut cursor)?,
            ATTEST_CERTIFY => {
                let name = cursor.buffer()?;
                let _qualified_name = cursor.buffer()?;
                Attested::Certify { name }
            }
            _ => return Err(malformed(what, "it is neither a quote nor a certification")),
        };
        cursor.finish()?;
        Ok(Self { extra, firmware, attested })
    }

    fn quote(cursor: &mut Cursor<'a>) -> Result<Attested<'a>, EvidenceError> {
        if cursor.u32()? != 1 || cursor.u16()? != SHA256 {
            return Err(malformed(cursor.what, "it is not a quote of the SHA-256 bank alone"));
        }
        let length = usize::from(cursor.u8()?);
        let selected = cursor.take(length)?;
        let pcrs = (0..=u8::MAX)
            .filter(|pcr| selected.get(usize::from(pcr / 8)).is_some_and(|byte| byte >> (pcr % 8) & 1 == 1))
            .collect();
        Ok(Attested::Quote { pcrs, digest: cursor.buffer()? })
    }
}
