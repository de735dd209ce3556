//! TPM 2.0: TPM2_Quote of PCRs and TPM2_Certify of the claimed key, both signed by an attestation key (TCG TPM 2.0 Library,
//! Parts 1 to 3).
//!
//! A restricted signing key signs nothing that begins as a TPM's own statements do but those statements, so a quote cannot be
//! forged with it. That the attestation key is in a genuine TPM is shown once, at enrolment, by [`Credential`]; its Name is
//! the device from then on.
//!
//! The claim is the quote's `extraData`: the 32 bytes of the context's digest. The certification says of a key what never changes
//! (where it lives, and that it cannot leave), and needs no freshness.

mod credential;
mod structures;

use std::collections::BTreeMap;

use keywitness_circuits::{Digest, Timestamp};
use sha2::{Digest as _, Sha256};

pub use credential::{Activated, Credential, Endorsement, Pending};

use self::structures::{Attest, Attested, Attributes, Public};
use super::{
    Binding, Bytes, EvidenceError, Facts, Findings, Format, Register, Subject, Tpm2Policy, TrustVector, Verifier,
};

fn malformed(why: &'static str) -> EvidenceError {
    EvidenceError::malformed("TPM evidence", why)
}

/// A key that attests: made in the TPM, which it cannot leave; signs the TPM's own statements alone.
fn is_attestation_key(attributes: Attributes) -> bool {
    attributes.has(
        Attributes::FIXED_TPM
            | Attributes::FIXED_PARENT
            | Attributes::SENSITIVE_DATA_ORIGIN
            | Attributes::RESTRICTED
            | Attributes::SIGN,
    ) && !attributes.has(Attributes::DECRYPT)
}

/// The device's name: `tpm2:`, and the Name of its attestation key.
fn device(name: [u8; 34]) -> String {
    format!("tpm2:{}", Bytes(name.to_vec()))
}

/// The name of the device whose attestation key has this TPMT_PUBLIC.
///
/// # Errors
/// [`EvidenceError::Malformed`] for what is no public area of an RSA or P-256 key with SHA-256.
pub fn device_of(attestation_key: &[u8]) -> Result<String, EvidenceError> {
    Ok(device(Public::read(attestation_key)?.name()))
}

/// Whether this device's attestation key is among `keys`: each is the SHA-256 in its Name, with which the device's name ends.
pub fn is_among(named: &str, keys: &[Digest]) -> bool {
    let name = |key: &Digest| [structures::SHA256.to_be_bytes().as_slice(), &key.0].concat();
    keys.iter().any(|key| named.strip_prefix("tpm2:") == Some(Bytes(name(key)).to_string().as_str()))
}

/// The parts, in the order of [`Format::Tpm2`].
struct Parts<'a> {
    attestation_key: Public<'a>,
    quote: &'a [u8],
    pcrs: &'a [u8],
    /// Certification, and the key.
    key: Option<(&'a [u8], Public<'a>)>,
}

impl<'a> Parts<'a> {
    /// Reads the parts and checks both signatures.
    fn read(parts: &'a [Vec<u8>]) -> Result<Self, EvidenceError> {
        let [attestation_key, quote, quote_signature, pcrs, certify, certify_signature, key] = parts else {
            return Err(malformed("it is not seven parts"));
        };
        let attestation_key = Public::read(attestation_key)?;
        if !is_attestation_key(attestation_key.attributes) {
            return Err(EvidenceError::refused(
                "the attestation key may leave the TPM, or signs more than the TPM's statements",
            ));
        }
        attestation_key.check(quote, quote_signature, "TPM quote")?;
        let key = if certify.is_empty() && certify_signature.is_empty() && key.is_empty() {
            None
        } else {
            attestation_key.check(certify, certify_signature, "TPM certification")?;
            Some((certify.as_slice(), Public::read(key)?))
        };
        Ok(Self { attestation_key, quote, pcrs, key })
    }
}

/// The PCRs of what boots (TCG PC Client Platform Firmware Profile, on the use of PCRs): the firmware, the drivers that it loads, the
/// boot loader, and the settings of Secure Boot, which say who may sign these.
const BOOT: [Register; 4] = [Register(0), Register(2), Register(4), Register(7)];

impl Tpm2Policy {
    /// Whether all that boots is compared.
    fn covers_boot(&self) -> bool {
        BOOT.iter().all(|pcr| self.pcrs.contains_key(pcr))
    }

    /// The quoted PCRs: all that the policy names.
    fn quoted(&self, digest: &[u8], selected: &[u8], values: &[u8]) -> Result<BTreeMap<u8, Bytes>, EvidenceError> {
        if values.len() != selected.len() * 32 || Sha256::digest(values).as_slice() != digest {
            return Err(EvidenceError::refused("the PCRs given are not those that the quote is of"));
        }
        let pcrs: BTreeMap<_, _> =
            selected.iter().copied().zip(values.chunks(32).map(|value| Bytes(value.to_vec()))).collect();
        match self.pcrs.keys().find(|pcr| !pcrs.contains_key(&pcr.0)) {
            Some(pcr) => Err(EvidenceError::refused(format!("PCR {} is not quoted", pcr.0))),
            None => Ok(pcrs),
        }
    }

    /// A PCR whose value is not listed.
    fn mismatch(&self, pcrs: &BTreeMap<u8, Bytes>) -> Option<String> {
        let listed = |(pcr, accepted): (&Register, &Vec<Bytes>)| {
            let value = pcrs.get(&pcr.0).filter(|value| !accepted.contains(value))?;
            Some(format!("PCR {} is {value}", pcr.0))
        };
        self.pcrs.iter().find_map(listed)
    }

    /// Whether the certified key is the claimed one, and made where it lives.
    fn certified(&self, parts: &Parts<'_>, subject: &Subject<'_>) -> Result<Option<bool>, EvidenceError> {
        let Some((certify, key)) = &parts.key else { return Ok(None) };
        let Attested::Certify { name } = Attest::read(certify)?.attested else {
            return Err(malformed("what should certify the key is a quote"));
        };
        if name != key.name() {
            return Err(EvidenceError::refused("the certification is of another key than the one given"));
        }
        let claimed = subject.key.ok_or(EvidenceError::WrongKey)?;
        if !key.is_key(claimed)? {
            return Err(EvidenceError::WrongKey);
        }
        if !key.attributes.has(Attributes::FIXED_TPM | Attributes::FIXED_PARENT) {
            return Err(EvidenceError::refused("the key may leave the TPM"));
        }
        let local = key.attributes.has(Attributes::SENSITIVE_DATA_ORIGIN);
        if local || self.allow_imported {
            Ok(Some(local))
        } else {
            Err(EvidenceError::refused("the key was not made in the TPM"))
        }
    }
}

impl Verifier for Tpm2Policy {
    fn format(&self) -> Format {
        Format::Tpm2
    }

    fn devices(&self) -> &[String] {
        &self.trust.devices
    }

    fn verify(&self, parts: &[Vec<u8>], subject: &Subject<'_>, _now: Timestamp) -> Result<Findings, EvidenceError> {
        let parts = Parts::read(parts)?;
        let device = device(parts.attestation_key.name());
        if is_among(&device, &self.trust.revoked) {
            return Err(EvidenceError::refused("the attestation key is revoked: enrol another device"));
        }
        if subject.device != Some(&device) && !self.trust.devices.contains(&device) {
            return Err(EvidenceError::WrongDevice { found: device });
        }
        let quote = Attest::read(parts.quote)?;
        let Attested::Quote { pcrs: selected, digest } = quote.attested else {
            return Err(malformed("what should quote the PCRs is a certification"));
        };
        let pcrs = self.quoted(digest, &selected, parts.pcrs)?;
        let local = self.certified(&parts, subject)?;
        if quote.extra != subject.context.0 {
            return Err(EvidenceError::WrongContext("extraData"));
        }
        let trust = TrustVector {
            hardware: TrustVector::AFFIRMING,
            executables: if self.covers_boot() { TrustVector::APPROVED_BOOT } else { 0 },
            configuration: if self.covers_boot() { 0 } else { TrustVector::CONFIGURATION_UNSEEN },
            storage_opaque: match local {
                None => 0,
                Some(true) => TrustVector::AFFIRMING,
                Some(false) => TrustVector::WARNING,
            },
            ..TrustVector::default()
        };
        let facts = Facts {
            vendor: "TPM 2.0".to_owned(),
            device: Some(device),
            firmware: Some(format!("{:016x}", quote.firmware)),
            measurements: pcrs.iter().map(|(pcr, value)| (format!("pcr{pcr}"), value.clone())).collect(),
            extractable: local.map(|_| false),
            never_extractable: local,
            local,
            ..Facts::default()
        };
        let mismatch = self.mismatch(&pcrs);
        Ok(Findings { binding: Binding::Context, trust, facts, names_key: local.is_some(), mismatch })
    }
}
