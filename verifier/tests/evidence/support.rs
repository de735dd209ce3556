//! Certificates of our own, faults, and what every format must stand.

use keywitness_circuits::{Digest, Timestamp};
use keywitness_verifier::evidence::{Appraisal, Evidence, EvidenceError, EvidencePolicy, Format, Subject};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SignatureAlgorithm, SigningKey as _, date_time_ymd,
};
use sha2::{Digest as _, Sha256};

/// 14 November 2023.
pub(crate) const NOW: Timestamp = Timestamp(1_700_000_000);

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

pub(crate) fn context() -> Digest {
    sha256(b"the context of a claim")
}

pub(crate) fn subject<'a>(context: &'a Digest, key: Option<&'a [u8]>) -> Subject<'a> {
    Subject { context, key, device: None }
}

/// A certificate with its key, and the chain above it up to the root, in DER.
pub(crate) struct Certified {
    pub(crate) der: Vec<u8>,
    pub(crate) key: KeyPair,
    params: CertificateParams,
    above: Vec<u8>,
}

/// In force from 2020 to 2040.
pub(crate) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params
}

/// Of an authority.
pub(crate) fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

pub(crate) fn extension(oid: &[u64], value: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(oid, value.to_vec())
}

pub(crate) fn root(algorithm: &'static SignatureAlgorithm) -> Certified {
    let (key, params) = (KeyPair::generate_for(algorithm).unwrap(), authority("root"));
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Certified { der, key, params, above: Vec::new() }
}

impl Certified {
    pub(crate) fn issue(&self, algorithm: &'static SignatureAlgorithm, params: CertificateParams) -> Self {
        self.certify(KeyPair::generate_for(algorithm).unwrap(), params)
    }

    pub(crate) fn certify(&self, key: KeyPair, params: CertificateParams) -> Self {
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        Self { der, key, params, above: self.chain() }
    }

    /// The same certificate and key.
    pub(crate) fn again(&self) -> Self {
        let key = KeyPair::try_from(self.key.serialized_der()).unwrap();
        Self { der: self.der.clone(), key, params: self.params.clone(), above: self.above.clone() }
    }

    /// From this certificate to the root.
    pub(crate) fn chain(&self) -> Vec<u8> {
        [self.der.clone(), self.above.clone()].concat()
    }

    pub(crate) fn digest(&self) -> Digest {
        sha256(&self.der)
    }

    pub(crate) fn key_digest(&self) -> Digest {
        sha256(&self.key.subject_public_key_info())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(message).unwrap()
    }

    /// An ECDSA P-384 signature as r and s of 48 bytes.
    pub(crate) fn sign_fixed(&self, message: &[u8]) -> Vec<u8> {
        let der = self.sign(message);
        let number = |at: usize| {
            let bytes = &der[at + 2..at + 2 + usize::from(der[at + 1])];
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            [vec![0; 48 - bytes.len()], bytes.to_vec()].concat()
        };
        [number(2), number(4 + usize::from(der[3]))].concat()
    }
}

/// Evidence, a policy that accepts it, and what it is about.
pub(crate) struct Case {
    pub(crate) policy: EvidencePolicy,
    pub(crate) format: Format,
    pub(crate) parts: Vec<Vec<u8>>,
    pub(crate) context: Digest,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) device: Option<String>,
    pub(crate) now: Timestamp,
}

impl Case {
    pub(crate) fn appraise(&self) -> Result<Appraisal, EvidenceError> {
        self.appraise_parts(self.parts.clone())
    }

    pub(crate) fn appraise_parts(&self, parts: Vec<Vec<u8>>) -> Result<Appraisal, EvidenceError> {
        let subject = Subject { context: &self.context, key: self.key.as_deref(), device: self.device.as_deref() };
        self.policy.appraise(&Evidence::new(self.format, parts).unwrap(), &subject, self.now)
    }

    /// Flips a bit in every `step`th byte of a part, and gives each outcome to `judge`.
    pub(crate) fn flip(
        &self,
        part: usize,
        step: usize,
        mut judge: impl FnMut(usize, Result<Appraisal, EvidenceError>),
    ) {
        for at in (0..self.parts[part].len()).step_by(step) {
            let mut parts = self.parts.clone();
            parts[part][at] ^= 1 << (at % 8);
            judge(at, self.appraise_parts(parts));
        }
    }

    /// Every flip is refused.
    pub(crate) fn withstands_flips(&self, part: usize, step: usize) {
        self.appraise().unwrap();
        self.flip(part, step, |at, outcome| assert!(outcome.is_err(), "part {part}: a flip at byte {at} is accepted"));
    }

    /// No prefix of a part, and nothing after it, is accepted.
    pub(crate) fn withstands_cuts(&self, part: usize, step: usize) {
        for length in (0..self.parts[part].len()).step_by(step) {
            let mut parts = self.parts.clone();
            parts[part].truncate(length);
            assert!(self.appraise_parts(parts).is_err(), "part {part}: its first {length} bytes are accepted");
        }
        let mut parts = self.parts.clone();
        parts[part].push(0);
        assert!(self.appraise_parts(parts).is_err(), "part {part}: a byte after it is accepted");
    }

    /// Another claim, and times before and after all certificates, are refused.
    pub(crate) fn withstands_elsewhere_and_elsewhen(&mut self) {
        let (context, now) = (self.context, self.now);
        self.context = sha256(b"another claim");
        assert!(matches!(self.appraise(), Err(EvidenceError::WrongContext(_))));
        self.context = context;
        for wrong in [0, 4_000_000_000] {
            self.now = Timestamp(wrong);
            self.appraise().unwrap_err();
        }
        self.now = now;
        let device = self.device.replace("another:device".to_owned());
        assert!(matches!(self.appraise(), Err(EvidenceError::WrongDevice { .. })));
        self.device = device;
    }
}

impl Case {
    /// What runs there is not listed, and that is told only when nothing else is wrong: it has an HSM suspended.
    pub(crate) fn last_is_the_measurement(&mut self) {
        assert!(matches!(self.appraise(), Err(EvidenceError::Measurement(_))));
        let context = std::mem::replace(&mut self.context, sha256(b"another claim"));
        assert!(matches!(self.appraise(), Err(EvidenceError::WrongContext(_))));
        self.context = context;
        let device = self.device.replace("another:device".to_owned());
        assert!(matches!(self.appraise(), Err(EvidenceError::WrongDevice { .. })));
        self.device = device;
        assert!(matches!(self.appraise(), Err(EvidenceError::Measurement(_))));
    }
}

pub(crate) fn refused(outcome: Result<Appraisal, EvidenceError>, why: &str) {
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
}
