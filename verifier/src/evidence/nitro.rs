//! AWS Nitro Enclaves: the attestation document, a COSE_Sign1 (RFC 9052) over CBOR, signed with ES384 by a certificate that
//! the document carries with its chain. Format: aws/aws-nitro-enclaves-nsm-api, `docs/attestation_process.md`.
//!
//! The claim is the document's `nonce`: exactly the 32 bytes of the context's digest.

use std::collections::BTreeMap;

use aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED;
use ciborium::Value;
use coset::{CborSerializable as _, CoseSign1, HeaderBuilder, iana::Algorithm};
use keywitness_circuits::{Digest, Timestamp};

use super::{
    Binding, Bytes, EvidenceError, Facts, Findings, Format, NitroPolicy, Register, Subject, TrustVector, Verifier,
    x509::{self, Authority},
};

/// `aws.nitro-enclaves`, Root-G1, valid to 2049; AWS publishes this fingerprint.
const ROOT: Digest = Digest([
    0x64, 0x1a, 0x03, 0x21, 0xa3, 0xe2, 0x44, 0xef, 0xe4, 0x56, 0x46, 0x31, 0x95, 0xd6, 0x06, 0x31, 0x7e, 0xd7, 0xcd,
    0xcc, 0x3c, 0x17, 0x56, 0xe0, 0x98, 0x93, 0xf3, 0xc6, 0x8f, 0x79, 0xbb, 0x5b,
]);

/// Oldest document where the policy says nothing, in seconds.
const MAX_AGE: u64 = 5 * 60;

/// How far the enclave's clock may run before ours, in seconds.
const SKEW: u64 = 60;

/// The PCR of the enclave's image.
const IMAGE: Register = Register(0);

/// Most PCRs of a document (NSM has 32).
const MAX_PCRS: usize = 32;

fn malformed(why: &'static str) -> EvidenceError {
    EvidenceError::malformed("Nitro document", why)
}

/// The payload's fields.
struct Document {
    module: String,
    timestamp: u64,
    pcrs: BTreeMap<u8, Bytes>,
    certificate: Vec<u8>,
    cabundle: Vec<Vec<u8>>,
    public_key: Option<Vec<u8>>,
    nonce: Option<Vec<u8>>,
}

impl Document {
    fn read(payload: &[u8]) -> Result<Self, EvidenceError> {
        let mut rest = payload;
        let value: Value = ciborium::from_reader(&mut rest).map_err(|_| malformed("its payload is not CBOR"))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow its payload"));
        }
        let mut fields = BTreeMap::new();
        for (name, value) in value.into_map().map_err(|_| malformed("its payload is not a map"))? {
            let name = name.into_text().map_err(|_| malformed("a field's name is not text"))?;
            if fields.insert(name, value).is_some() {
                return Err(malformed("a field is there twice"));
            }
        }
        let mut take = |name: &str| fields.remove(name);
        let bytes = |value: Option<Value>| value.and_then(|value| value.into_bytes().ok());
        let optional = |value: Option<Value>, why| match value {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.into_bytes().map(Some).map_err(|_| malformed(why)),
        };
        if take("digest").and_then(|value| value.into_text().ok()).as_deref() != Some("SHA384") {
            return Err(malformed("its PCRs are not of SHA384"));
        }
        let document = Self {
            module: take("module_id")
                .and_then(|value| value.into_text().ok())
                .ok_or(malformed("module_id is not text"))?,
            timestamp: take("timestamp")
                .and_then(|value| value.into_integer().ok())
                .and_then(|value| u64::try_from(value).ok())
                .ok_or(malformed("timestamp is not a number"))?,
            pcrs: Self::pcrs(take("pcrs"))?,
            certificate: bytes(take("certificate")).ok_or(malformed("certificate is not bytes"))?,
            cabundle: take("cabundle")
                .and_then(|value| value.into_array().ok())
                .and_then(|bundle| bundle.into_iter().map(|one| one.into_bytes().ok()).collect())
                .ok_or(malformed("cabundle is not an array of bytes"))?,
            public_key: optional(take("public_key"), "public_key is not bytes")?,
            nonce: optional(take("nonce"), "nonce is not bytes")?,
        };
        optional(take("user_data"), "user_data is not bytes")?;
        if fields.is_empty() { Ok(document) } else { Err(malformed("it has a field that is not known")) }
    }

    fn pcrs(value: Option<Value>) -> Result<BTreeMap<u8, Bytes>, EvidenceError> {
        let entries = value.and_then(|value| value.into_map().ok()).ok_or(malformed("pcrs is not a map"))?;
        let mut pcrs = BTreeMap::new();
        for (index, value) in entries {
            let index = index.into_integer().ok().and_then(|index| u8::try_from(index).ok());
            let value = value.into_bytes().ok().filter(|value| value.len() == 48);
            let (Some(index), Some(value)) = (index, value) else {
                return Err(malformed("a PCR is not a number with 48 bytes"));
            };
            if pcrs.len() == MAX_PCRS || pcrs.insert(index, Bytes(value)).is_some() {
                return Err(malformed("it has a PCR twice, or more than 32"));
            }
        }
        Ok(pcrs)
    }

    /// The chain from the leaf up: the bundle has its root first.
    fn chain(&self) -> Vec<u8> {
        let mut chain = self.certificate.clone();
        for certificate in self.cabundle.iter().rev() {
            chain.extend_from_slice(certificate);
        }
        chain
    }

    /// The instance: what precedes the enclave's own name, which changes at every start.
    fn instance(&self) -> &str {
        self.module.split_once("-enc").map_or(self.module.as_str(), |(instance, _)| instance)
    }

    /// In debug mode an enclave's measurements are zero.
    fn is_debug(&self) -> bool {
        [0, 1, 2].iter().all(|index| self.pcrs.get(index).is_none_or(|pcr| pcr.0.iter().all(|byte| *byte == 0)))
    }
}

impl NitroPolicy {
    /// The listed enclaves that this one is.
    fn listed<'a>(&'a self, pcrs: &'a BTreeMap<u8, Bytes>) -> impl Iterator<Item = &'a BTreeMap<Register, Bytes>> {
        let is =
            |wanted: &BTreeMap<Register, Bytes>| wanted.iter().all(|(index, value)| pcrs.get(&index.0) == Some(value));
        self.measurements.iter().filter(move |wanted| !wanted.is_empty() && is(wanted))
    }
}

impl Verifier for NitroPolicy {
    fn format(&self) -> Format {
        Format::Nitro
    }

    fn devices(&self) -> &[String] {
        &self.trust.devices
    }

    fn verify(&self, parts: &[Vec<u8>], subject: &Subject<'_>, now: Timestamp) -> Result<Findings, EvidenceError> {
        let [document] = parts else { return Err(malformed("it is not one part")) };
        let signed = CoseSign1::from_slice(document).map_err(|_| malformed("it is not a COSE_Sign1"))?;
        let algorithm = HeaderBuilder::new().algorithm(Algorithm::ES384).build();
        if signed.protected.header != algorithm || !signed.unprotected.is_empty() {
            return Err(malformed("its headers are not ES384 alone"));
        }
        let document = Document::read(signed.payload.as_deref().unwrap_or_default())?;

        let chain = document.chain();
        let chain = x509::read(&chain)?;
        x509::verify(&chain, &self.trust, &[ROOT], Authority::Declared, now)?;
        let leaf = chain.first().ok_or(malformed("it has no certificate"))?;
        x509::check(&ECDSA_P384_SHA384_FIXED, leaf.key(), &signed.tbs_data(&[]), &signed.signature, "Nitro document")?;

        let signed_at = Timestamp(document.timestamp / 1000);
        let max_age = if self.max_age == 0 { MAX_AGE } else { self.max_age };
        if now.since(signed_at) > max_age || signed_at.since(now) > SKEW {
            return Err(EvidenceError::refused("the document is older than the policy allows, or from the future"));
        }
        let debug = document.is_debug();
        if debug && !self.allow_debug {
            return Err(EvidenceError::refused("the enclave runs in debug mode"));
        }
        if self.measurements.is_empty() {
            return Err(EvidenceError::refused("it lists no measurement, so that no enclave is accepted"));
        }
        if let (Some(named), Some(claimed)) = (&document.public_key, subject.key)
            && named != claimed
        {
            return Err(EvidenceError::WrongKey);
        }
        if document.nonce.as_deref() != Some(&subject.context.0) {
            return Err(EvidenceError::WrongContext("nonce"));
        }
        let is_listed = self.listed(&document.pcrs).next().is_some();
        let mismatch = (!is_listed).then(|| "the enclave's PCRs are not among the measurements".to_owned());
        // PCR 0 is of the whole image; in debug mode it is zeros.
        let covered = !debug && self.listed(&document.pcrs).any(|wanted| wanted.contains_key(&IMAGE));
        let names_key = document.public_key.is_some() && subject.key.is_some();
        let trust = TrustVector {
            hardware: TrustVector::AFFIRMING,
            executables: if covered { TrustVector::AFFIRMING } else { 0 },
            configuration: match (debug, covered) {
                (true, _) => TrustVector::WARNING,
                (false, true) => TrustVector::AFFIRMING,
                (false, false) => TrustVector::CONFIGURATION_UNSEEN,
            },
            ..TrustVector::default()
        };
        let facts = Facts {
            vendor: "Amazon Web Services".to_owned(),
            device: Some(format!("nitro:{}", document.instance())),
            serial: Some(document.module.clone()),
            measurements: document.pcrs.iter().map(|(index, value)| (format!("pcr{index}"), value.clone())).collect(),
            debug: Some(debug),
            signed_at: Some(signed_at),
            ..Facts::default()
        };
        Ok(Findings { binding: Binding::Context, trust, facts, names_key, mismatch })
    }
}
