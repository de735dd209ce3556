//! YubiHSM 2: a certificate that a device made, and others of that shape, under a root of our own.

use keywitness_verifier::evidence::{
    Binding, EvidenceError, EvidencePolicy, Format, Trust, YubiHsm2Policy, freshness_label,
};
use keywitness_verifier::token::Tier;
use p256::ecdsa::Signature;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::support::{Case, Certified, NOW, authority, context, extension, params, refused, root, sha256};

struct Statement {
    firmware: [u8; 3],
    serial: u32,
    origin: u8,
    capabilities: u64,
    label: String,
}

impl Default for Statement {
    fn default() -> Self {
        Self { firmware: [2, 4, 0], serial: 0x0001_2345, origin: 1, capabilities: 1 << 7, label: "signing".to_owned() }
    }
}

impl Statement {
    /// Yubico's extensions, as a device encodes them.
    fn params(&self) -> CertificateParams {
        let mut params = params("YubiHSM Attestation id:0x0003");
        let integer = |value: &[u8]| [&[2, value.len() as u8], value].concat();
        let serial = self.serial.to_be_bytes();
        let mut add = |arc, value: &[u8]| {
            params.custom_extensions.push(extension(&[1, 3, 6, 1, 4, 1, 41482, 4, arc], value));
        };
        add(1, &[&[4, 3], self.firmware.as_slice()].concat());
        add(2, &integer(&serial[serial.iter().take_while(|byte| **byte == 0).count()..]));
        add(3, &[3, 2, 0, self.origin]);
        add(4, &[3, 3, 0, 0, 1]);
        add(5, &[&[3, 9, 0], self.capabilities.to_be_bytes().as_slice()].concat());
        add(6, &integer(&[3]));
        add(9, &[&[12, self.label.len() as u8], self.label.as_bytes()].concat());
        params
    }
}

struct Device {
    root: Certified,
    /// Signs attestations; its certificate has the serial number.
    attestation: Certified,
}

impl Device {
    fn new() -> Self {
        let root = root(&PKCS_ECDSA_P256_SHA256);
        let intermediate = root.issue(&PKCS_ECDSA_P256_SHA256, authority("YubiHSM sub-authority"));
        let mut device = params("YubiHSM Attestation (00074565)");
        device.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        device.custom_extensions.push(extension(&[1, 3, 6, 1, 4, 1, 41482, 4, 2], &[2, 3, 1, 0x23, 0x45]));
        let attestation = intermediate.issue(&PKCS_ECDSA_P256_SHA256, device);
        Self { root, attestation }
    }

    fn attest(&self, statement: &Statement) -> Certified {
        self.attestation.issue(&PKCS_ECDSA_P256_SHA256, statement.params())
    }

    fn case(&self, statement: &Statement, fresh: Option<&Statement>) -> Case {
        let key = self.attest(statement);
        let trust = Trust { roots: vec![self.root.digest()], ..Trust::default() };
        Case {
            policy: EvidencePolicy {
                yubihsm2: Some(YubiHsm2Policy { trust, ..YubiHsm2Policy::default() }),
                ..EvidencePolicy::default()
            },
            format: Format::YubiHsm2,
            parts: vec![
                key.der.clone(),
                fresh.map(|fresh| self.attest(fresh).der).unwrap_or_default(),
                self.attestation.chain(),
            ],
            context: context(),
            key: Some(key.key.subject_public_key_info()),
            device: Some("yubihsm2:74565".to_owned()),
            now: NOW,
        }
    }
}

fn fresh() -> Statement {
    Statement { label: freshness_label(&context()), ..Statement::default() }
}

#[test]
fn a_key_with_another_made_for_the_claim_is_appraised() {
    assert_eq!(freshness_label(&context()).len(), 40);
    let mut case = Device::new().case(&Statement::default(), Some(&fresh()));
    let appraisal = case.appraise().unwrap();
    assert_eq!((appraisal.binding(), appraisal.tier()), (Binding::Context, Tier::Affirming));
    assert_eq!(appraisal.facts().firmware.as_deref(), Some("2.4.0"));
    assert_eq!(appraisal.facts().serial.as_deref(), Some("74565"));
    assert_eq!((appraisal.facts().extractable, appraisal.facts().local), (Some(false), Some(true)));
    // Every bit of the first certificate: also of what no signature covers.
    for at in 0..case.parts[0].len() * 8 {
        let mut parts = case.parts.clone();
        parts[0][at / 8] ^= 1 << (at % 8);
        assert!(case.appraise_parts(parts).is_err(), "a flip of bit {at} is accepted");
    }
    for part in 0..3 {
        case.withstands_flips(part, 5);
        case.withstands_cuts(part, 37);
    }
    case.withstands_elsewhere_and_elsewhen();
    case.key = Some(sha256(b"another key").0.to_vec());
    assert_eq!(case.appraise().unwrap_err(), EvidenceError::WrongKey);
    case.key = None;
    refused(case.appraise(), "asymmetric keys alone");
}

#[test]
fn a_key_alone_is_accepted_only_when_allowed_and_is_a_warning() {
    let mut case = Device::new().case(&Statement::default(), None);
    refused(case.appraise(), "made for the claim");
    case.policy.yubihsm2.as_mut().unwrap().allow_unbound = true;
    let appraisal = case.appraise().unwrap();
    assert_eq!((appraisal.binding(), appraisal.tier()), (Binding::Key, Tier::Warning));
    assert_eq!(appraisal.trust().configuration, 36);
    // It is good for any claim: that is what the binding says.
    case.context = sha256(b"another claim");
    assert_eq!(case.appraise().unwrap().binding(), Binding::Key);
}

#[test]
fn a_key_made_for_the_claim_elsewhere_binds_nothing() {
    let device = Device::new();
    let outcome = |statement: Statement| device.case(&Statement::default(), Some(&statement)).appraise();
    refused(outcome(Statement { serial: 99, ..fresh() }), "not of the serial number");
    refused(outcome(Statement { origin: 2, ..fresh() }), "not made in the claimed key's device");
    let other = Statement { label: freshness_label(&sha256(b"another claim")), ..Statement::default() };
    assert!(matches!(outcome(other), Err(EvidenceError::WrongContext(_))));
    // Another device's certificate under this device's chain.
    let mut case = device.case(&Statement::default(), None);
    case.parts[1] = Device::new().attest(&fresh()).der;
    refused(case.appraise(), "signature does not verify");
}

#[test]
fn keys_that_came_from_outside_or_may_leave_are_refused_by_default() {
    let device = Device::new();
    for (statement, why) in [
        (Statement { origin: 2, ..Statement::default() }, "not made in the device"),
        (Statement { origin: 0x11, ..Statement::default() }, "not made in the device"),
        (Statement { capabilities: 1 << 16, ..Statement::default() }, "under a wrap key"),
    ] {
        let mut case = device.case(&statement, Some(&fresh()));
        refused(case.appraise(), why);
        let section = case.policy.yubihsm2.as_mut().unwrap();
        (section.allow_imported, section.allow_exportable) = (true, true);
        assert_eq!(case.appraise().unwrap().tier(), Tier::Warning);
    }
    let mut case = device.case(&Statement::default(), Some(&fresh()));
    case.policy.yubihsm2.as_mut().unwrap().least_firmware = [2, 4, 1];
    refused(case.appraise(), "firmware is older");
    case.policy.yubihsm2.as_mut().unwrap().least_firmware = [2, 4, 0];
    assert_eq!(case.appraise().unwrap().trust().executables, 2);
}

#[test]
fn a_certificate_without_the_devices_extensions_is_refused() {
    let device = Device::new();
    for missing in [0, 1, 2, 4, 6] {
        let mut params = Statement::default().params();
        params.custom_extensions.remove(missing);
        let key = device.attestation.issue(&PKCS_ECDSA_P256_SHA256, params);
        let mut case = device.case(&Statement::default(), Some(&fresh()));
        case.key = Some(key.key.subject_public_key_info());
        case.parts[0] = key.der;
        refused(case.appraise(), "missing");
    }
    // Yubico's own root, when the policy names none.
    let mut case = device.case(&Statement::default(), Some(&fresh()));
    case.policy.yubihsm2.as_mut().unwrap().trust.roots.clear();
    refused(case.appraise(), "not a trusted root");
}

#[test]
fn a_key_that_the_device_attested_attests_nothing() {
    let device = Device::new();
    // The attested key signs certificates of its own, with the device's extensions in them; whatever its own certificate says.
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let mut params = Statement::default().params();
        params.is_ca = is_ca;
        // Under a device whose certificate sets no length, so that nothing but its own checks stands in the way.
        let unbounded = device.root.issue(&PKCS_ECDSA_P256_SHA256, authority("device"));
        let attested = unbounded.issue(&PKCS_ECDSA_P256_SHA256, params);
        let forged = attested.issue(&PKCS_ECDSA_P256_SHA256, Statement::default().params());
        let mut case = device.case(&Statement::default(), Some(&fresh()));
        case.key = Some(forged.key.subject_public_key_info());
        case.parts[0] = forged.der.clone();
        case.parts[1] = attested.issue(&PKCS_ECDSA_P256_SHA256, fresh().params()).der;
        case.parts[2] = attested.chain();
        let error = case.appraise().unwrap_err().to_string();
        assert!(error.contains("not an authority's") || error.contains("is a user's"), "{error}");
    }
}

/// The other form of an ECDSA signature: (r, n - s) for (r, s). It verifies as well.
fn other_form(der: &[u8]) -> Vec<u8> {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let signature = Signature::from_der(&certificate.signature_value.data).unwrap();
    let (r, s) = signature.split_scalars();
    let signature = Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).unwrap().to_der();
    let length = |bytes: usize| [0x82, (bytes >> 8) as u8, bytes as u8];
    let bits = [&[3, signature.as_bytes().len() as u8 + 1, 0], signature.as_bytes()].concat();
    // SEQUENCE { ecdsa-with-SHA256 }.
    let algorithm = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let body = [certificate.tbs_certificate.as_ref(), &algorithm, &bits].concat();
    [[0x30].as_slice(), &length(body.len()), &body].concat()
}

#[test]
fn another_form_of_a_signature_is_no_way_around_revocation() {
    let device = Device::new();
    let mut case = device.case(&Statement::default(), Some(&fresh()));
    let first = &device.attestation.der;
    let other = other_form(first);
    assert_ne!(&other, first);
    case.parts[2] = [other, case.parts[2][first.len()..].to_vec()].concat();
    case.appraise().unwrap();
    case.policy.yubihsm2.as_mut().unwrap().trust.revoked = vec![device.attestation.key_digest()];
    refused(case.appraise(), "key is revoked");
}

#[test]
fn a_device_key_of_another_use_attests_nothing() {
    for (usages, good) in
        [(vec![], true), (vec![KeyUsagePurpose::KeyCertSign], true), (vec![KeyUsagePurpose::DigitalSignature], false)]
    {
        let mut device = Device::new();
        let intermediate = device.root.issue(&PKCS_ECDSA_P256_SHA256, authority("YubiHSM sub-authority"));
        let mut certificate = params("YubiHSM Attestation (00074565)");
        certificate.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        certificate.custom_extensions.push(extension(&[1, 3, 6, 1, 4, 1, 41482, 4, 2], &[2, 3, 1, 0x23, 0x45]));
        certificate.key_usages = usages;
        device.attestation = intermediate.issue(&PKCS_ECDSA_P256_SHA256, certificate);
        let case = device.case(&Statement::default(), Some(&fresh()));
        if good {
            case.appraise().unwrap();
        } else {
            refused(case.appraise(), "may not sign certificates");
        }
    }
}

/// Of an RSA key of device 20783176, under Yubico's root. It was made for nobody's claim.
fn real() -> Case {
    let certificate = include_bytes!("yubihsm2/key.der");
    let key = X509Certificate::from_der(certificate).unwrap().1.public_key().raw.to_vec();
    Case {
        policy: EvidencePolicy {
            yubihsm2: Some(YubiHsm2Policy { allow_unbound: true, ..YubiHsm2Policy::default() }),
            ..EvidencePolicy::default()
        },
        format: Format::YubiHsm2,
        parts: vec![certificate.to_vec(), Vec::new(), include_bytes!("yubihsm2/device.der").to_vec()],
        context: context(),
        key: Some(key),
        device: Some("yubihsm2:20783176".to_owned()),
        now: NOW,
    }
}

#[test]
fn a_real_certificate_is_appraised_under_yubicos_root() {
    let mut case = real();
    let appraisal = case.appraise().unwrap();
    assert_eq!((appraisal.binding(), appraisal.names_key()), (Binding::Key, true));
    assert_eq!(appraisal.facts().serial.as_deref(), Some("20783176"));
    assert_eq!((appraisal.facts().local, appraisal.facts().extractable), (Some(true), Some(false)));
    case.withstands_flips(0, 1);
    case.withstands_cuts(0, 97);
    case.withstands_flips(2, 7);
    case.withstands_cuts(2, 211);
    case.policy.yubihsm2.as_mut().unwrap().trust.devices = vec!["yubihsm2:20783177".to_owned()];
    assert!(matches!(case.appraise(), Err(EvidenceError::WrongDevice { .. })));
    case.policy.yubihsm2.as_mut().unwrap().trust.devices.clear();
    // It was not made for the claim: as the second certificate, its label is the last thing that is wrong.
    case.parts[1] = case.parts[0].clone();
    assert!(matches!(case.appraise(), Err(EvidenceError::WrongContext(_))));
}
