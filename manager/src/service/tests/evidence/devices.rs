//! Devices: enrolled, delisted, revoked, without a name; and that no other device gets an HSM out of its suspension.

use std::collections::BTreeMap;

use keywitness_circuits::{Digest, Nonce};
use keywitness_verifier::{
    evidence::{
        Bytes, Evidence, EvidenceContext, EvidencePolicy, Format, MAX_EVIDENCE, Register, Tpm2Policy, Trust,
        YubiHsm2Policy, freshness_label, tpm2,
    },
    wire::{
        Base64, CredentialOffer, DeviceRequest, EndorsementRequest, EvidenceChallenge, EvidenceRecord,
        EvidenceStanding, KeyRef, Problem, ProblemKind,
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SignatureAlgorithm, SigningKey as _,
};
use sha2::{Digest as _, Sha256};

use super::{
    BAD, GOOD, accept, allow, challenge, chips, context, generate, give, params, said, site, standing, submit,
};
use crate::{
    audit::tests::log_of,
    ledger::{Command, Outcome, apply::evidence::printable, state::evidence::Required},
    service::testing::{Caller, TestHsm, TestKey, World, refused},
};

fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Software that says what a TPM with this attestation key would.
struct Tpm {
    key: KeyPair,
    public: Vec<u8>,
}

/// A buffer with its length before it.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [(bytes.len() as u16).to_be_bytes().as_slice(), bytes].concat()
}

impl Tpm {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let (x, y) = key.public_key_raw()[1..].split_at(32);
        // fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign.
        let attributes: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 18;
        let start = [&[0, 0x23, 0, 0x0b], attributes.to_be_bytes().as_slice(), &[0, 0]].concat();
        // No symmetric algorithm; ECDSA with SHA-256; P-256; no key derivation.
        let scheme = [0, 0x10, 0, 0x18, 0, 0x0b, 0, 0x03, 0, 0x10];
        let public = [start.as_slice(), &scheme, &sized(x), &sized(y)].concat();
        Self { key, public }
    }

    fn device(&self) -> String {
        tpm2::device_of(&self.public).unwrap()
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let der = self.key.sign(message).unwrap();
        let half = |at: usize| {
            let bytes = &der[at + 2..at + 2 + usize::from(der[at + 1])];
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            sized(&[vec![0; 32 - bytes.len()], bytes.to_vec()].concat())
        };
        [[0, 0x18, 0, 0x0b].as_slice(), &half(2), &half(4 + usize::from(der[3]))].concat()
    }

    /// A quote of PCR 0.
    fn evidence(&self, context: &Digest, measured: u8) -> Evidence {
        let values = vec![measured; 32];
        let start = [&[0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 0], sized(&context.0).as_slice(), &[0; 25]].concat();
        let selected = [0, 0, 0, 1, 0, 0x0b, 3, 1, 0, 0];
        let quote = [start.as_slice(), &selected, &sized(&sha256(&values).0)].concat();
        let signature = self.signature(&quote);
        Evidence::new(Format::Tpm2, vec![self.public.clone(), quote, signature, values, vec![], vec![], vec![]])
            .unwrap()
    }

    fn give(&self, world: &World, hsm: &TestHsm, measured: u8) -> Result<EvidenceRecord, Problem> {
        let given = challenge(world, hsm, None)?;
        submit(world, hsm, &given, &self.evidence(&context(world, hsm, 1, &given), measured))
    }

    /// Enrols it, as by a credential that it opened.
    fn activate(&self, world: &World, hsm: &TestHsm) -> Outcome {
        let request = || Digest(Nonce::random().0);
        let (hsm, enrolment, secret) = (hsm.id.clone(), 1, sha256(b"secret"));
        let offer = Command::OfferCredential {
            request: request(),
            hsm: hsm.clone(),
            enrolment,
            device: self.device(),
            secret,
            endorsement: vec![sha256(b"an endorsement key")],
            offer: CredentialOffer { blob: Base64(vec![]), secret: Base64(vec![]) },
        };
        match world.manager.ledger.submit(offer).unwrap() {
            Outcome::Credential(_) => {
                let answer = Command::AnswerCredential { request: request(), hsm, enrolment, answer: secret };
                world.manager.ledger.submit(answer).unwrap()
            }
            other => other,
        }
    }
}

/// A policy that lists these TPMs.
fn policy(tpms: &[&Tpm]) -> EvidencePolicy {
    let trust = Trust { devices: tpms.iter().map(|tpm| tpm.device()).collect(), ..Trust::default() };
    let pcrs = BTreeMap::from([(Register(0), vec![Bytes(vec![GOOD; 32])])]);
    EvidencePolicy { tpm2: Some(Tpm2Policy { pcrs, trust, ..Tpm2Policy::default() }), ..EvidencePolicy::default() }
}

/// What an honest HSM's device signs of a key.
fn context_of(world: &World, hsm: &TestHsm, challenge: &EvidenceChallenge, key: KeyRef) -> Digest {
    let audience = world.manager.audience().clone();
    let context = EvidenceContext {
        trust_domain: audience.trust_domain,
        manager: audience.manager,
        cluster: "eu".parse().unwrap(),
        hsm: hsm.id.clone(),
        enrolment: 1,
        identity_key: Digest(hsm.identity.verifying_key().to_bytes()),
        key: Some(key),
        nonce: challenge.nonce,
    };
    context.digest()
}

fn suspended(world: &World, hsm: &TestHsm, key: &TestKey) {
    refused(hsm.challenge(world, key), ProblemKind::Suspended);
}

#[test]
fn a_tpm_does_not_make_up_for_what_another_format_told_of() {
    let (world, hsm, key, [chip, _]) = site(Required::Nobody);
    let tpm = Tpm::new();
    let both = EvidencePolicy { tpm2: policy(&[&tpm]).tpm2, ..chip.policy() };
    accept(&world, Some(&both), Required::Nobody);
    refused(give(&world, &hsm, &chip, BAD), ProblemKind::EvidenceRefused);
    allow(&world, &hsm, None);
    let Outcome::Refused(problem) = tpm.activate(&world, &hsm) else { panic!("a TPM is enrolled") };
    assert_eq!(problem.kind(), Some(ProblemKind::EvidenceRefused));
    assert!(problem.detail.contains("evidence of format sev-snp"), "{problem}");
    // Nor does its evidence, though the policy lists it.
    refused(tpm.give(&world, &hsm, GOOD), ProblemKind::EvidenceRefused);
    assert_eq!(standing(&world, &hsm).device, None);
    suspended(&world, &hsm, &key);
    give(&world, &hsm, &chip, GOOD).unwrap();
    hsm.challenge(&world, &key).unwrap();
}

#[test]
fn what_was_good_before_counts_no_more_once_a_tpm_is_enrolled_again() {
    let (world, hsm, key, _) = site(Required::Nobody);
    let tpm = Tpm::new();
    accept(&world, Some(&policy(&[])), Required::Nobody);
    allow(&world, &hsm, None);
    assert_eq!(tpm.activate(&world, &hsm), Outcome::Done);
    tpm.give(&world, &hsm, GOOD).unwrap();
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Good);
    // What is not listed comes with evidence of a key, so that the HSM's own stays the newest of its kind.
    let given = challenge(&world, &hsm, Some(key.key.clone())).unwrap();
    let evidence = tpm.evidence(&context_of(&world, &hsm, &given, key.key.clone()), BAD);
    refused(submit(&world, &hsm, &given, &evidence), ProblemKind::EvidenceRefused);
    suspended(&world, &hsm, &key);
    // A credential says which TPM it is, and nothing of what runs there.
    allow(&world, &hsm, None);
    assert_eq!(tpm.activate(&world, &hsm), Outcome::Done);
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Missing);
    suspended(&world, &hsm, &key);
    tpm.give(&world, &hsm, GOOD).unwrap();
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Good);
    hsm.challenge(&world, &key).unwrap();
}

#[test]
fn a_suspension_ends_by_the_format_that_began_it() {
    let (world, hsm, key, [chip, _]) = site(Required::Nobody);
    let tpm = Tpm::new();
    let both = EvidencePolicy { tpm2: policy(&[]).tpm2, ..chip.policy() };
    accept(&world, Some(&both), Required::Nobody);
    allow(&world, &hsm, None);
    assert_eq!(tpm.activate(&world, &hsm), Outcome::Done);
    refused(tpm.give(&world, &hsm, BAD), ProblemKind::EvidenceRefused);
    allow(&world, &hsm, None);
    assert_eq!(tpm.activate(&world, &hsm), Outcome::Done);
    // Enrolled again, it withholds its quote, and a chip takes its place.
    allow(&world, &hsm, None);
    give(&world, &hsm, &chip, GOOD).unwrap();
    suspended(&world, &hsm, &key);
    allow(&world, &hsm, None);
    assert_eq!(tpm.activate(&world, &hsm), Outcome::Done);
    tpm.give(&world, &hsm, GOOD).unwrap();
    hsm.challenge(&world, &key).unwrap();
}

#[test]
fn a_tpm_that_is_listed_no_more_is_believed_no_more() {
    let (world, hsm, _, _) = site(Required::Nobody);
    let (tpm, other) = (Tpm::new(), Tpm::new());
    accept(&world, Some(&policy(&[&tpm])), Required::Nobody);
    allow(&world, &hsm, None);
    tpm.give(&world, &hsm, GOOD).unwrap();
    assert_eq!(standing(&world, &hsm).device.unwrap().device, tpm.device());
    // An empty list is of no TPM, and another's is of that one, which the HSM is not enrolled with.
    let cases: [(&[&Tpm], &Tpm); 3] = [(&[], &tpm), (&[&other], &tpm), (&[&other], &other)];
    for (listed, shown) in cases {
        accept(&world, Some(&policy(listed)), Required::Nobody);
        let problem = refused(shown.give(&world, &hsm, GOOD), ProblemKind::EvidenceRefused);
        assert!(problem.detail.contains(&tpm.device()), "{problem}");
        assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Refused);
    }
    allow(&world, &hsm, None);
    other.give(&world, &hsm, GOOD).unwrap();
    assert_eq!(standing(&world, &hsm).device.unwrap().device, other.device());
    // One that opened a credential needs no list, until its attestation key is revoked.
    let mut nothing_listed = policy(&[]);
    accept(&world, Some(&nothing_listed), Required::Nobody);
    allow(&world, &hsm, None);
    assert_eq!(tpm.activate(&world, &hsm), Outcome::Done);
    tpm.give(&world, &hsm, GOOD).unwrap();
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Good);
    nothing_listed.tpm2.as_mut().unwrap().trust.revoked = vec![sha256(&tpm.public)];
    accept(&world, Some(&nothing_listed), Required::Nobody);
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Revoked);
    let problem = refused(tpm.give(&world, &hsm, GOOD), ProblemKind::EvidenceRefused);
    assert!(problem.detail.contains("the attestation key is revoked"), "{problem}");
}

#[test]
fn an_hsm_whose_device_has_no_name_recovers_and_one_whose_device_had_does_not_hide_it() {
    let (world, hsm, key, _) = site(Required::Nobody);
    let [hidden, named] = chips([0, 1]);
    accept(&world, Some(&hidden.policy()), Required::Nobody);
    assert_eq!(give(&world, &hsm, &hidden, GOOD).unwrap().appraisal.facts.device, None);
    refused(give(&world, &hsm, &hidden, BAD), ProblemKind::EvidenceRefused);
    refused(give(&world, &hsm, &hidden, GOOD), ProblemKind::EvidenceRefused);
    // An operator who names a device waits for that one.
    allow(&world, &hsm, Some(named.device()));
    refused(give(&world, &hsm, &hidden, GOOD), ProblemKind::EvidenceRefused);
    suspended(&world, &hsm, &key);
    allow(&world, &hsm, None);
    give(&world, &hsm, &hidden, GOOD).unwrap();
    hsm.challenge(&world, &key).unwrap();
    let after = standing(&world, &hsm);
    assert_eq!((after.standing, after.device, after.may_enrol_until), (EvidenceStanding::Good, None, None));

    allow(&world, &hsm, None);
    give(&world, &hsm, &named, GOOD).unwrap();
    refused(give(&world, &hsm, &named, BAD), ProblemKind::EvidenceRefused);
    allow(&world, &hsm, None);
    let problem = refused(give(&world, &hsm, &hidden, GOOD), ProblemKind::EvidenceRefused);
    assert!(problem.detail.contains("does not say which device"), "{problem}");
    suspended(&world, &hsm, &key);
    give(&world, &hsm, &named, GOOD).unwrap();
    hsm.challenge(&world, &key).unwrap();
}

/// A YubiHSM of serial number 74565, under a root of its own.
struct YubiHsm {
    root: Digest,
    device: (CertificateParams, KeyPair),
    above: Vec<u8>,
}

/// An Ed25519 public key.
struct Public([u8; 32]);

impl PublicKeyData for Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

fn yubico(arc: u64, value: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 41482, 4, arc], value.to_vec())
}

impl YubiHsm {
    fn new() -> Self {
        let mut authority = params("root");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = generate();
        let certificate = authority.self_signed(&root).unwrap().der().to_vec();
        let mut device = params("YubiHSM Attestation (00074565)");
        device.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        device.custom_extensions.push(yubico(2, &[2, 3, 1, 0x23, 0x45]));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let der = device.signed_by(&key, &Issuer::from_params(&authority, &root)).unwrap().der().to_vec();
        Self { root: sha256(&certificate), device: (device, key), above: [der, certificate].concat() }
    }

    /// The certificate of a key that was made there, and cannot leave.
    fn certify(&self, public: [u8; 32], label: &str) -> Vec<u8> {
        let mut leaf = params("YubiHSM Attestation id:0x0003");
        let label = [&[12, label.len() as u8], label.as_bytes()].concat();
        // Firmware, serial number, origin, capabilities, label.
        let values: [(u64, &[u8]); 5] = [
            (1, &[4, 3, 2, 4, 0]),
            (2, &[2, 3, 1, 0x23, 0x45]),
            (3, &[3, 2, 0, 1]),
            (5, &[3, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1 << 7]),
            (9, &label),
        ];
        for (arc, value) in values {
            leaf.custom_extensions.push(yubico(arc, value));
        }
        let (device, key) = &self.device;
        leaf.signed_by(&Public(public), &Issuer::from_params(device, key)).unwrap().der().to_vec()
    }

    fn give(&self, world: &World, hsm: &TestHsm, key: &TestKey) -> Result<EvidenceRecord, Problem> {
        let given = challenge(world, hsm, Some(key.key.clone()))?;
        let label = freshness_label(&context_of(world, hsm, &given, key.key.clone()));
        let spki = key.instance().spki().unwrap().unwrap();
        let public = spki[spki.len() - 32..].try_into().unwrap();
        let parts = vec![self.certify(public, "signing"), self.certify([9; 32], &label), self.above.clone()];
        submit(world, hsm, &given, &Evidence::new(Format::YubiHsm2, parts).unwrap())
    }
}

#[test]
fn a_device_that_nobody_can_enrol_is_bound_by_the_list_alone() {
    let (world, hsm, key, [chip, _]) = site(Required::Nobody);
    let yubihsm = YubiHsm::new();
    let accepted = |devices: &[&str]| {
        let devices = devices.iter().map(|device| (*device).to_owned()).collect();
        let trust = Trust { roots: vec![yubihsm.root], devices, ..Trust::default() };
        let section = YubiHsm2Policy { trust, ..YubiHsm2Policy::default() };
        accept(&world, Some(&EvidencePolicy { yubihsm2: Some(section), ..chip.policy() }), Required::Nobody);
    };
    for devices in [&[][..], &["yubihsm2:74565"]] {
        accepted(devices);
        allow(&world, &hsm, None);
        give(&world, &hsm, &chip, GOOD).unwrap();
        assert_eq!(standing(&world, &hsm).device.unwrap().device, chip.device());
        let record = yubihsm.give(&world, &hsm, &key).unwrap();
        assert_eq!(record.appraisal.facts.device.as_deref(), Some("yubihsm2:74565"));
        assert_eq!(said(&world, &key).1, "key");
    }
    accepted(&["yubihsm2:1"]);
    let problem = refused(yubihsm.give(&world, &hsm, &key), ProblemKind::EvidenceRefused);
    assert!(problem.detail.contains("of device yubihsm2:74565"), "{problem}");
    assert_eq!(said(&world, &key).1, "platform");
    // No operator waits in vain.
    let request = DeviceRequest { hsm: hsm.id.clone(), device: Some("yubihsm2:74565".to_owned()), valid_for: 60 };
    let problem = refused(world.manager.allow_device(&Caller::in_process(), &request), ProblemKind::Malformed);
    assert!(problem.detail.contains("trust.devices"), "{problem}");
}

#[test]
fn whatever_evidence_says_a_refusal_is_one_short_line() {
    let (world, hsm, _, [chip, _]) = site(Required::Nobody);
    let mut authority = params(&format!("\u{1b}[31m\n{}", "x".repeat(5000)));
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (root, key) = (generate(), generate());
    let certificate = authority.self_signed(&root).unwrap().der().to_vec();
    let leaf = params("VCEK").signed_by(&key, &Issuer::from_params(&authority, &root)).unwrap().der().to_vec();
    let given = challenge(&world, &hsm, None).unwrap();
    let good = chip.evidence(&context(&world, &hsm, 1, &given), GOOD);
    let parts = vec![good.parts()[0].clone(), [leaf, certificate].concat()];
    let evidence = Evidence::new(Format::SevSnp, parts).unwrap();
    let problem = refused(submit(&world, &hsm, &given, &evidence), ProblemKind::EvidenceRefused);
    assert!(problem.detail.contains("certificate chain"), "{problem}");
    let kept = standing(&world, &hsm).refusal.unwrap();
    for text in [&problem.detail, &kept] {
        assert!(text.chars().count() <= 300 && !text.contains(char::is_control), "{text}");
    }
    assert_eq!(printable("\"a\" \\ b'\n\u{1b}\u{202e}"), "\"a\" \\ b'\\n\\u{1b}\\u{202e}");
    assert_eq!(printable(&"\0".repeat(1000)).chars().count(), 299);
    assert_eq!(printable(&"y".repeat(299)), "y".repeat(299));
}

#[test]
fn a_credential_that_is_asked_for_again_is_not_made_again() {
    let world = World::new();
    // The samples' certificates are in force then.
    world.advance(100_000_000);
    let (hsm, [chip]) = (world.hsm("hsm-1", "eu"), chips([1]));
    let sample = |name: &str| {
        std::fs::read(format!("{}/../verifier/tests/evidence/tpm2/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let authority = sample("ca.der");
    let trust = Trust { roots: vec![sha256(&authority)], ..Trust::default() };
    let section = Tpm2Policy { trust, ..Tpm2Policy::default() };
    accept(&world, Some(&EvidencePolicy { tpm2: Some(section), ..EvidencePolicy::default() }), Required::Nobody);
    allow(&world, &hsm, None);
    let request = EndorsementRequest {
        chain: Base64([sample("ecc.ek-certificate.der"), authority].concat()),
        attestation_key: Base64(sample("ecc.ak-public")),
    };
    let caller = hsm.call(&world);
    let first = world.manager.device_credential(&caller, &request).unwrap();
    let before = log_of(&world).len();
    assert_eq!(world.manager.device_credential(&caller, &request).unwrap(), first);
    assert_eq!(log_of(&world).len(), before);
    // Nothing is looked at that it was made of, all of which may be gone.
    accept(&world, Some(&chip.policy()), Required::Nobody);
    assert_eq!(world.manager.device_credential(&caller, &request).unwrap(), first);
    refused(world.manager.device_credential(&hsm.call(&world), &request), ProblemKind::EvidenceRefused);
}

#[test]
fn refused_evidence_fills_no_log() {
    let (world, hsm, _, [chip, _]) = site(Required::Nobody);
    let noise = Evidence::new(Format::SevSnp, vec![vec![0; MAX_EVIDENCE / 2]; 2]).unwrap();
    for _ in 0..8 {
        let given = challenge(&world, &hsm, None).unwrap();
        refused(submit(&world, &hsm, &given, &noise), ProblemKind::EvidenceRefused);
    }
    let given = challenge(&world, &hsm, None).unwrap();
    let before = log_of(&world).len();
    let good = chip.evidence(&context(&world, &hsm, 1, &given), GOOD);
    for evidence in [&noise, &good] {
        let problem = refused(submit(&world, &hsm, &given, evidence), ProblemKind::TooManyRequests);
        assert!((1..=5).contains(&problem.retry_after.unwrap()), "{problem:?}");
    }
    assert_eq!(log_of(&world).len(), before);
    let other = world.hsm("hsm-2", "eu");
    give(&world, &other, &chip, GOOD).unwrap();
    // Its challenge is not used up.
    world.advance(5);
    submit(&world, &hsm, &given, &good).unwrap();
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Good);
}
