//! AWS Nitro: a document of 6 January 2025, and our own under a root of our own.

use std::collections::BTreeMap;

use ciborium::{Value, cbor};
use coset::{CborSerializable as _, CoseSign1, CoseSign1Builder, HeaderBuilder, iana::Algorithm};
use keywitness_circuits::Timestamp;
use keywitness_verifier::evidence::{
    Binding, Bytes, EvidenceError, EvidencePolicy, Format, NitroPolicy, Register, Trust,
};
use keywitness_verifier::token::Tier;
use rcgen::{KeyUsagePurpose, PKCS_ECDSA_P384_SHA384};

use crate::support::{Case, Certified, NOW, authority, context, params, refused, root};

const DOCUMENT: &[u8] = include_bytes!("nitro/attestation.cose");
/// When it was signed.
const SIGNED: Timestamp = Timestamp(1_736_179_625);

fn with(policy: NitroPolicy) -> EvidencePolicy {
    EvidencePolicy { nitro: Some(policy), ..EvidencePolicy::default() }
}

/// The real document, under AWS's root. It carries no claim, so the last check refuses it: whatever is wrong besides is found
/// before.
fn real() -> Case {
    let payload = CoseSign1::from_slice(DOCUMENT).unwrap().payload.unwrap();
    let payload: Value = ciborium::from_reader(payload.as_slice()).unwrap();
    let pcrs = payload.as_map().unwrap().iter().find(|(name, _)| name.as_text() == Some("pcrs")).unwrap().1.clone();
    let pcr0 = pcrs
        .as_map()
        .unwrap()
        .iter()
        .find(|(index, _)| *index == Value::from(0))
        .unwrap()
        .1
        .as_bytes()
        .unwrap()
        .clone();
    // It was made for tests, in debug mode.
    let allow_debug = pcr0.iter().all(|byte| *byte == 0);
    let measurements = vec![BTreeMap::from([(Register(0), Bytes(pcr0))])];
    Case {
        policy: with(NitroPolicy { measurements, allow_debug, ..NitroPolicy::default() }),
        format: Format::Nitro,
        parts: vec![DOCUMENT.to_vec()],
        context: context(),
        key: None,
        device: None,
        now: SIGNED,
    }
}

#[test]
fn a_real_document_is_good_but_of_no_claim() {
    let mut case = real();
    assert_eq!(case.appraise().unwrap_err(), EvidenceError::WrongContext("nonce"));
    // Every byte of it is signed, or is the signature.
    case.flip(0, 13, |at, outcome| {
        let error = outcome.unwrap_err();
        assert_ne!(error, EvidenceError::WrongContext("nonce"), "a flip at byte {at} is not seen");
    });
    case.withstands_cuts(0, 101);
    // A minute after the leaf certificate ended, and years later.
    for now in [SIGNED.0 - 3600, SIGNED.0 + 4 * 3600, 1_900_000_000] {
        case.now = Timestamp(now);
        assert!(matches!(case.appraise(), Err(EvidenceError::Chain { .. })));
    }
    case.now = SIGNED.plus(10 * 60);
    refused(case.appraise(), "older than the policy allows");
    case.now = SIGNED;
    // Which enclave it is comes after.
    case.policy.nitro.as_mut().unwrap().measurements = vec![BTreeMap::from([(Register(0), Bytes(vec![7; 48]))])];
    assert_eq!(case.appraise().unwrap_err(), EvidenceError::WrongContext("nonce"));
    case.policy.nitro.as_mut().unwrap().measurements.clear();
    refused(case.appraise(), "lists no measurement");
    let section = case.policy.nitro.as_mut().unwrap();
    section.trust.roots = vec![context()];
    refused(case.appraise(), "not a trusted root");
}

struct Enclave {
    leaf: Certified,
    root: Certified,
}

impl Enclave {
    fn new() -> Self {
        let root = root(&PKCS_ECDSA_P384_SHA384);
        let zone = root.issue(&PKCS_ECDSA_P384_SHA384, authority("zone"));
        let leaf = zone.issue(&PKCS_ECDSA_P384_SHA384, params("enclave"));
        Self { leaf, root }
    }

    fn payload(&self) -> Vec<(String, Value)> {
        let whole = self.leaf.chain();
        let zone = whole[self.leaf.der.len()..whole.len() - self.root.der.len()].to_vec();
        let pcrs = (0..3).map(|index| (Value::from(index), Value::Bytes(vec![index as u8 + 1; 48]))).collect();
        let fields = [
            ("module_id", cbor!("i-0123-enc4567").unwrap()),
            ("digest", cbor!("SHA384").unwrap()),
            ("timestamp", Value::from(NOW.0 * 1000)),
            ("pcrs", Value::Map(pcrs)),
            ("certificate", Value::Bytes(self.leaf.der.clone())),
            ("cabundle", Value::Array(vec![Value::Bytes(self.root.der.clone()), Value::Bytes(zone)])),
            ("public_key", Value::Null),
            ("user_data", Value::Null),
            ("nonce", Value::Bytes(context().0.to_vec())),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn document(&self, payload: Vec<(String, Value)>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let map = payload.into_iter().map(|(name, value)| (Value::Text(name), value)).collect();
        ciborium::into_writer(&Value::Map(map), &mut bytes).unwrap();
        CoseSign1Builder::new()
            .protected(HeaderBuilder::new().algorithm(Algorithm::ES384).build())
            .payload(bytes)
            .create_signature(&[], |message| self.leaf.sign_fixed(message))
            .build()
            .to_vec()
            .unwrap()
    }

    fn with(&self, name: &str, value: Value) -> Vec<u8> {
        let mut payload = self.payload();
        payload.iter_mut().find(|(field, _)| field == name).unwrap().1 = value;
        self.document(payload)
    }

    fn case(&self) -> Case {
        let measurements = vec![BTreeMap::from([(Register(0), Bytes(vec![1; 48])), (Register(2), Bytes(vec![3; 48]))])];
        let trust = Trust { roots: vec![self.root.digest()], ..Trust::default() };
        Case {
            policy: with(NitroPolicy { measurements, trust, ..NitroPolicy::default() }),
            format: Format::Nitro,
            parts: vec![self.document(self.payload())],
            context: context(),
            key: None,
            device: Some("nitro:i-0123".to_owned()),
            now: NOW,
        }
    }
}

#[test]
fn a_document_of_the_claim_is_appraised() {
    let mut case = Enclave::new().case();
    let appraisal = case.appraise().unwrap();
    assert_eq!((appraisal.binding(), appraisal.tier()), (Binding::Context, Tier::Affirming));
    assert_eq!(appraisal.facts().debug, Some(false));
    assert_eq!(appraisal.facts().serial.as_deref(), Some("i-0123-enc4567"));
    assert_eq!(appraisal.trust().instance_identity, 2);
    case.withstands_flips(0, 7);
    case.withstands_elsewhere_and_elsewhen();
    case.policy.nitro.as_mut().unwrap().measurements = vec![BTreeMap::from([(Register(0), Bytes(vec![7; 48]))])];
    case.last_is_the_measurement();
}

#[test]
fn a_document_of_a_wrong_enclave_is_refused() {
    let enclave = Enclave::new();
    let case = enclave.case();
    let outcome = |name: &str, value| case.appraise_parts(vec![enclave.with(name, value)]);
    let pcrs = |values: [u8; 3]| {
        Value::Map((0..3).map(|index| (Value::from(index as u8), Value::Bytes(vec![values[index]; 48]))).collect())
    };
    refused(outcome("pcrs", pcrs([0, 0, 0])), "debug mode");
    refused(outcome("pcrs", pcrs([1, 2, 4])), "not among the measurements");
    refused(outcome("timestamp", Value::from((NOW.0 + 120) * 1000)), "from the future");
    refused(outcome("timestamp", Value::from((NOW.0 - 301) * 1000)), "older than");
    refused(outcome("digest", cbor!("SHA256").unwrap()), "SHA384");
    refused(outcome("nonce", Value::Null), "nonce");
    refused(outcome("nonce", Value::Bytes(vec![])), "nonce");
    refused(outcome("user_data", Value::from(1)), "user_data");
    // The context in another field is not the claim.
    let mut payload = enclave.payload();
    payload.iter_mut().find(|(name, _)| name == "user_data").unwrap().1 = Value::Bytes(context().0.to_vec());
    payload.iter_mut().find(|(name, _)| name == "nonce").unwrap().1 = Value::Null;
    refused(case.appraise_parts(vec![enclave.document(payload)]), "nonce");
    // A field twice, or unknown.
    for extra in ["nonce", "nonces"] {
        let mut payload = enclave.payload();
        payload.push((extra.to_owned(), Value::Bytes(context().0.to_vec())));
        case.appraise_parts(vec![enclave.document(payload)]).unwrap_err();
    }
}

#[test]
fn a_named_key_must_be_the_claimed_one() {
    let enclave = Enclave::new();
    let mut case = enclave.case();
    case.parts = vec![enclave.with("public_key", Value::Bytes(b"a key".to_vec()))];
    case.appraise().unwrap();
    case.key = Some(b"a key".to_vec());
    case.appraise().unwrap();
    case.key = Some(b"b key".to_vec());
    assert_eq!(case.appraise().unwrap_err(), EvidenceError::WrongKey);
}

#[test]
fn debug_is_accepted_only_when_listed_and_allowed_and_is_a_warning() {
    let enclave = Enclave::new();
    let mut case = enclave.case();
    let zeros = Value::Map((0..3).map(|index| (Value::from(index), Value::Bytes(vec![0; 48]))).collect());
    case.parts = vec![enclave.with("pcrs", zeros)];
    let section = case.policy.nitro.as_mut().unwrap();
    section.allow_debug = true;
    section.measurements = vec![BTreeMap::new()];
    // An entry without a PCR accepts nothing.
    refused(case.appraise(), "not among the measurements");
    case.policy.nitro.as_mut().unwrap().measurements = vec![BTreeMap::from([(Register(0), Bytes(vec![0; 48]))])];
    let appraisal = case.appraise().unwrap();
    assert_eq!((appraisal.tier(), appraisal.facts().debug), (Tier::Warning, Some(true)));
    assert_eq!(appraisal.trust().executables, 0);
}

#[test]
fn a_chain_that_is_not_an_authoritys_is_refused() {
    let mut enclave = Enclave::new();
    // The leaf of one enclave certifies another.
    let forged = enclave.leaf.issue(&PKCS_ECDSA_P384_SHA384, params("forged"));
    let bundle = |certificates: Vec<Vec<u8>>| Value::Array(certificates.into_iter().map(Value::Bytes).collect());
    let whole = enclave.leaf.chain();
    let zone = whole[enclave.leaf.der.len()..whole.len() - enclave.root.der.len()].to_vec();
    let certificates = vec![enclave.root.der.clone(), zone.clone(), enclave.leaf.der.clone()];
    let case = enclave.case();
    enclave.leaf = forged;
    let document = |bundle| {
        let mut payload = enclave.payload();
        payload.iter_mut().find(|(name, _)| name == "cabundle").unwrap().1 = bundle;
        enclave.document(payload)
    };
    refused(case.appraise_parts(vec![document(bundle(certificates))]), "not an authority's");
    // The same, with the link left out; and with no root.
    refused(case.appraise_parts(vec![document(bundle(vec![enclave.root.der.clone(), zone.clone()]))]), "issuer");
    refused(case.appraise_parts(vec![document(bundle(vec![zone]))]), "not a trusted root");
    refused(case.appraise_parts(vec![document(bundle(vec![]))]), "a leaf and a root");
}

#[test]
fn a_revoked_certificate_is_refused_wherever_it_stands() {
    let enclave = Enclave::new();
    for revoked in [&enclave.leaf, &enclave.root] {
        let mut case = enclave.case();
        case.policy.nitro.as_mut().unwrap().trust.revoked = vec![revoked.key_digest()];
        refused(case.appraise(), "key is revoked");
    }
}

#[test]
fn executables_are_affirmed_by_the_image_alone() {
    let mut case = Enclave::new().case();
    let said = |case: &Case| {
        let appraisal = case.appraise().unwrap();
        (appraisal.trust().executables, appraisal.trust().configuration, appraisal.tier())
    };
    assert_eq!(said(&case), (2, 2, Tier::Affirming));
    let listed = |pcr: u8| BTreeMap::from([(Register(pcr), Bytes(vec![pcr + 1; 48]))]);
    for pcr in [1, 2] {
        case.policy.nitro.as_mut().unwrap().measurements = vec![listed(pcr)];
        assert_eq!(said(&case), (0, 36, Tier::Warning));
    }
    // Another image that is listed beside it changes nothing.
    let other = BTreeMap::from([(Register(0), Bytes(vec![9; 48]))]);
    case.policy.nitro.as_mut().unwrap().measurements.push(other);
    assert_eq!(said(&case), (0, 36, Tier::Warning));
    case.policy.nitro.as_mut().unwrap().measurements.push(listed(0));
    assert_eq!(said(&case), (2, 2, Tier::Affirming));
}

#[test]
fn an_authority_must_say_that_its_key_signs_certificates() {
    let root = root(&PKCS_ECDSA_P384_SHA384);
    for (usages, why) in [
        (vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature], None),
        (vec![KeyUsagePurpose::DigitalSignature], Some("may not sign certificates")),
        (vec![], Some("may not sign certificates")),
    ] {
        let mut zone = authority("zone");
        zone.key_usages = usages;
        let leaf = root.issue(&PKCS_ECDSA_P384_SHA384, zone).issue(&PKCS_ECDSA_P384_SHA384, params("enclave"));
        let case = Enclave { leaf, root: root.again() }.case();
        match why {
            Some(why) => refused(case.appraise(), why),
            None => drop(case.appraise().unwrap()),
        }
    }
}
