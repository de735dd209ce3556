//! YubiHSM 2: an X.509 certificate that the device makes of one of its keys, signed by its attestation key, whose certificate
//! Yubico signs (<https://developers.yubico.com/YubiHSM2/Concepts/Attestation.html>). Yubico's extensions say what the key is.
//!
//! A certificate carries no nonce, but the label of the object, which whoever makes a key chooses. So freshness is a second
//! certificate, of a key made for the claim with [`freshness_label`] for its label: the device that holds the claimed key
//! answered this challenge. Without it, the certificate binds the key and nothing else, and is good for ever.

use data_encoding::BASE64URL_NOPAD;
use keywitness_circuits::{Digest, Timestamp};
use x509_parser::asn1_rs::{BitString, FromDer, OctetString, Oid, Utf8String, oid};

use super::{
    Binding, EvidenceError, Facts, Findings, Format, Subject, TrustVector, Verifier, YubiHsm2Policy,
    x509::{self, Authority, Certificate},
};

/// Yubico YubiHSM Root CA, valid to 2071.
const ROOT: Digest = Digest([
    0x09, 0x4a, 0x3a, 0xc4, 0x93, 0xc2, 0xbd, 0xcd, 0x65, 0xa5, 0x4b, 0xdf, 0x40, 0x19, 0x0f, 0x52, 0xbb, 0x03, 0xf7,
    0x15, 0x63, 0x97, 0xa3, 0xfc, 0x69, 0xd8, 0xaa, 0x9a, 0x39, 0x2f, 0xb7, 0x24,
]);

const FIRMWARE: Oid<'static> = oid!(1.3.6.1.4.1.41482.4.1);
const SERIAL: Oid<'static> = oid!(1.3.6.1.4.1.41482.4.2);
const ORIGIN: Oid<'static> = oid!(1.3.6.1.4.1.41482.4.3);
const CAPABILITIES: Oid<'static> = oid!(1.3.6.1.4.1.41482.4.5);
const LABEL: Oid<'static> = oid!(1.3.6.1.4.1.41482.4.9);

/// Origins: made in the device, put in, put in under a wrap key.
const GENERATED: u8 = 0x01;
/// Capability `exportable-under-wrap`.
const EXPORTABLE: u64 = 1 << 16;

/// The label of a key that is made to bind a device to the claim: the first 30 bytes of the context's digest in base64url, which
/// fill the 40 bytes that a label has.
pub fn freshness_label(context: &Digest) -> String {
    BASE64URL_NOPAD.encode(context.0.get(..30).unwrap_or_default())
}

/// Exactly one value of a type.
fn one<'a, T: FromDer<'a>>(bytes: &'a [u8]) -> Option<T> {
    T::from_der(bytes).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, value)| value)
}

/// What the device says of a key.
struct Statement {
    firmware: [u8; 3],
    serial: u32,
    origin: u8,
    capabilities: u64,
    label: String,
}

impl Statement {
    fn read(certificate: &Certificate<'_>) -> Result<Self, EvidenceError> {
        let read = || {
            let bits =
                |oid| certificate.extension(oid).and_then(one::<BitString<'_>>).filter(|bits| bits.unused_bits == 0);
            Some(Self {
                firmware: one::<OctetString<'_>>(certificate.extension(&FIRMWARE)?)?.as_ref().try_into().ok()?,
                serial: one::<u32>(certificate.extension(&SERIAL)?)?,
                origin: *bits(&ORIGIN)?.data.first()?,
                capabilities: u64::from_be_bytes(bits(&CAPABILITIES)?.data.as_ref().try_into().ok()?),
                label: one::<Utf8String<'_>>(certificate.extension(&LABEL)?)?.string(),
            })
        };
        read().ok_or_else(|| {
            EvidenceError::malformed(
                "YubiHSM certificate",
                "an extension of firmware, serial, origin, capabilities or label is missing",
            )
        })
    }
}

/// That the attestation key is the device's own, and the device the one that the statement names.
///
/// A key that was attested, and may attest in its turn, signs whatever its user wants, with any extensions; its certificate has
/// the extensions of a key, as a device's has not.
fn is_of_the_device(statement: &Statement, device: &Certificate<'_>) -> Result<(), EvidenceError> {
    if device.extension(&CAPABILITIES).is_some() || device.extension(&LABEL).is_some() {
        return Err(EvidenceError::refused("the attestation key is a user's, not the device's own: attest with key 0"));
    }
    if device.extension(&SERIAL).and_then(one::<u32>) == Some(statement.serial) {
        Ok(())
    } else {
        Err(EvidenceError::refused("the device's certificate is not of the serial number that the key's names"))
    }
}

impl YubiHsm2Policy {
    /// Checks one certificate under the device's chain, and reads what the device says of the key.
    fn attested<T>(
        &self,
        certificate: &[u8],
        chain: &[u8],
        now: Timestamp,
        then: impl FnOnce(Statement, &Certificate<'_>) -> Result<T, EvidenceError>,
    ) -> Result<T, EvidenceError> {
        let whole = [certificate, chain].concat();
        let whole = x509::read(&whole)?;
        x509::verify(&whole, &self.trust, &[ROOT], Authority::WithoutUsage, now)?;
        let [leaf, device, ..] = whole.as_slice() else {
            return Err(EvidenceError::malformed("YubiHSM certificate", "it is missing"));
        };
        let statement = Statement::read(leaf)?;
        is_of_the_device(&statement, device)?;
        then(statement, leaf)
    }

    fn accept(&self, statement: &Statement) -> Result<(), EvidenceError> {
        let refused = |why: &str| Err(EvidenceError::refused(why));
        if statement.firmware < self.least_firmware {
            return refused("the device's firmware is older than the policy allows");
        }
        if statement.origin != GENERATED && !self.allow_imported {
            return refused("the key was not made in the device");
        }
        if statement.capabilities & EXPORTABLE != 0 && !self.allow_exportable {
            return refused("the key may leave the device under a wrap key");
        }
        Ok(())
    }

    /// Whether a second certificate binds the device to the claim.
    fn bind(
        &self,
        fresh: &[u8],
        chain: &[u8],
        statement: &Statement,
        subject: &Subject<'_>,
        now: Timestamp,
    ) -> Result<Binding, EvidenceError> {
        if fresh.is_empty() {
            return if self.allow_unbound {
                Ok(Binding::Key)
            } else {
                Err(EvidenceError::refused(
                    "there is no key made for the claim: the certificate says nothing of when it was made",
                ))
            };
        }
        self.attested(fresh, chain, now, |second, _| {
            if second.serial != statement.serial || second.origin != GENERATED {
                return Err(EvidenceError::refused(
                    "the key made for the claim was not made in the claimed key's device",
                ));
            }
            if second.label != freshness_label(subject.context) {
                return Err(EvidenceError::WrongContext("label of the key made for the claim"));
            }
            Ok(Binding::Context)
        })
    }
}

impl Verifier for YubiHsm2Policy {
    fn format(&self) -> Format {
        Format::YubiHsm2
    }

    fn devices(&self) -> &[String] {
        &self.trust.devices
    }

    fn verify(&self, parts: &[Vec<u8>], subject: &Subject<'_>, now: Timestamp) -> Result<Findings, EvidenceError> {
        let [certificate, fresh, chain] = parts else {
            return Err(EvidenceError::malformed("YubiHSM certificate", "it is not three parts"));
        };
        let key = subject.key.ok_or_else(|| EvidenceError::refused("a YubiHSM attests asymmetric keys alone"))?;
        let statement = self.attested(certificate, chain, now, |statement, leaf| {
            if leaf.spki() == key { Ok(statement) } else { Err(EvidenceError::WrongKey) }
        })?;
        self.accept(&statement)?;
        let binding = self.bind(fresh, chain, &statement, subject, now)?;

        let exportable = statement.capabilities & EXPORTABLE != 0;
        let local = statement.origin == GENERATED;
        let trust = TrustVector {
            hardware: TrustVector::AFFIRMING,
            configuration: TrustVector::AFFIRMING,
            executables: if self.least_firmware == [0; 3] { 0 } else { TrustVector::AFFIRMING },
            storage_opaque: if exportable || !local { TrustVector::WARNING } else { TrustVector::AFFIRMING },
            ..TrustVector::default()
        };
        let [major, minor, patch] = statement.firmware;
        let facts = Facts {
            vendor: "Yubico".to_owned(),
            device: Some(format!("yubihsm2:{}", statement.serial)),
            serial: Some(statement.serial.to_string()),
            firmware: Some(format!("{major}.{minor}.{patch}")),
            extractable: Some(exportable),
            local: Some(local),
            ..Facts::default()
        };
        Ok(Findings { binding, trust, facts, names_key: true, mismatch: None })
    }
}
