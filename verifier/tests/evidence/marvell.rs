//! Marvell LiquidSecurity: a statement that Google Cloud HSM gave, and others of the shape that a card makes, under roots of our
//! own.

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use keywitness_circuits::Timestamp;
use keywitness_verifier::evidence::{Binding, EvidenceError, EvidencePolicy, Format, MarvellPolicy, Trust};
use keywitness_verifier::token::Tier;
use p256::pkcs8::EncodePublicKey as _;
use rcgen::{IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData as _};

use crate::support::{Case, Certified, NOW, authority, context, params, refused, root};

/// Class, local, sensitive, extractable, never-extractable.
type Flags = [u8; 5];
const PUBLIC: Flags = [2, 1, 0, 1, 0];
const PRIVATE: Flags = [3, 1, 1, 0, 1];

fn object(flags: Flags, material: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let kinds = [0x0, 0x163, 0x103, 0x162, 0x164];
    let attributes: Vec<_> =
        kinds.into_iter().zip(flags.map(|flag| vec![flag])).chain(material.iter().cloned()).collect();
    let mut body = Vec::new();
    for (kind, value) in &attributes {
        body.extend(kind.to_be_bytes());
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(value);
    }
    let mut object = Vec::new();
    for word in [2022, attributes.len() as u32, body.len() as u32] {
        object.extend(word.to_be_bytes());
    }
    [object, body].concat()
}

/// Header of response, 16 bytes that come before, header of information, objects.
fn unsigned(objects: &[Vec<u8>]) -> Vec<u8> {
    let second = if objects.len() > 1 { 8 + objects[0].len() as u16 } else { 0 };
    let info: Vec<u8> = [1, 3, 8, second].into_iter().flat_map(u16::to_be_bytes).collect();
    let body = [info, objects.concat()].concat();
    let total = 16 + 16 + body.len() + 256;
    let header: Vec<u8> = [0, 3, total as u32, body.len() as u32].into_iter().flat_map(u32::to_be_bytes).collect();
    [header, vec![0; 16], body].concat()
}

struct Card {
    partition: Certified,
    manufacturer: Certified,
    owned: Certified,
    owner: Certified,
}

impl Card {
    fn new() -> Self {
        let (manufacturer, owner) = (root(&PKCS_ECDSA_P256_SHA256), root(&PKCS_ECDSA_P256_SHA256));
        // A card's certificates say nothing of authorities.
        let card = manufacturer.issue(&PKCS_ECDSA_P256_SHA256, params("HSM:5.3G1953"));
        let key = || KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let partition = card.certify(key(), params("HSM:5.3G1953:PARTN:1"));
        let copy = KeyPair::try_from(partition.key.serialized_der()).unwrap();
        let mut owned = params("HSM:5.3G1953:PARTN:1");
        owned.is_ca = IsCa::ExplicitNoCa;
        let owned = owner.certify(copy, owned);
        Self { partition, manufacturer, owned, owner }
    }

    fn sign(&self, statement: Vec<u8>) -> Vec<u8> {
        let signature = self.partition.sign(&statement);
        [statement, signature].concat()
    }

    fn case(&self, statement: Vec<u8>, spki: Vec<u8>) -> Case {
        let policy = MarvellPolicy {
            trust: Trust { roots: vec![self.manufacturer.digest()], ..Trust::default() },
            owner_roots: vec![self.owner.digest()],
            ..MarvellPolicy::default()
        };
        Case {
            policy: EvidencePolicy { marvell: Some(policy), ..EvidencePolicy::default() },
            format: Format::Marvell,
            parts: vec![statement, self.partition.chain(), self.owned.chain()],
            context: context(),
            key: Some(spki),
            device: None,
            now: NOW,
        }
    }

    /// A pair with these flags in the private object.
    fn pair(&self, private: Flags) -> Case {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let material = [(0x120, key.der_bytes().to_vec())];
        let statement = self.sign(unsigned(&[object(PUBLIC, &material), object(private, &material)]));
        self.case(statement, key.subject_public_key_info())
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_statement_is_appraised_and_bound_to_the_key_alone() {
    let card = Card::new();
    let mut case = card.pair(PRIVATE);
    let appraisal = case.appraise().unwrap();
    assert_eq!((appraisal.binding(), appraisal.tier()), (Binding::Key, Tier::Warning));
    let (trust, facts) = (appraisal.trust(), appraisal.facts());
    assert_eq!((trust.hardware, trust.storage_opaque, trust.configuration), (2, 2, 36));
    assert_eq!((facts.extractable, facts.never_extractable, facts.local), (Some(false), Some(true), Some(true)));
    assert_eq!(facts.serial.as_deref(), Some("HSM:5.3G1953:PARTN:1"));
    for part in 0..3 {
        case.withstands_flips(part, 5);
        case.withstands_cuts(part, 41);
    }
    case.device = Some("marvell:another".to_owned());
    assert!(matches!(case.appraise(), Err(EvidenceError::WrongDevice { .. })));
    case.device = None;
    case.key = Some(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().subject_public_key_info());
    assert_eq!(case.appraise().unwrap_err(), EvidenceError::WrongKey);
    case.key = None;
    refused(case.appraise(), "check value");
}

#[test]
fn a_packed_statement_is_unpacked_within_bounds() {
    let card = Card::new();
    let mut case = card.pair(PRIVATE);
    let statement = case.parts[0].clone();
    case.parts[0] = gzip(&statement);
    case.appraise().unwrap();
    let mut trailing = gzip(&statement);
    trailing.push(0);
    refused(case.appraise_parts(vec![trailing, case.parts[1].clone(), case.parts[2].clone()]), "follow the gzip");
    // 16 MiB of zeros in 16 KiB.
    let bomb = gzip(&vec![0; 16 << 20]);
    refused(case.appraise_parts(vec![bomb, case.parts[1].clone(), case.parts[2].clone()]), "longer than 64 KiB");
}

#[test]
fn an_rsa_key_is_known_by_modulus_and_exponent() {
    let card = Card::new();
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    // SEQUENCE, INTEGER of 257 bytes with a zero before it, INTEGER 65537.
    let modulus = key.der_bytes()[9..9 + 256].to_vec();
    let statement = |exponent: &[u8]| {
        card.sign(unsigned(&[object(PRIVATE, &[(0x120, modulus.clone()), (0x122, exponent.to_vec())])]))
    };
    let mut case = card.case(statement(&[0, 1, 0, 1]), key.subject_public_key_info());
    case.appraise().unwrap();
    case.parts[0] = statement(&[3]);
    assert_eq!(case.appraise().unwrap_err(), EvidenceError::WrongKey);
}

#[test]
fn keys_that_could_leave_or_came_from_outside_are_refused_by_default() {
    let card = Card::new();
    for (flags, why) in [
        ([3, 1, 1, 1, 1], "extractable"),
        ([3, 1, 1, 0, 0], "extractable"),
        ([3, 1, 0, 0, 1], "extractable"),
        ([3, 0, 1, 0, 1], "not made in the HSM"),
    ] {
        let mut case = card.pair(flags);
        refused(case.appraise(), why);
        let section = case.policy.marvell.as_mut().unwrap();
        (section.allow_extractable, section.allow_imported) = (true, true);
        assert_eq!(case.appraise().unwrap().trust().storage_opaque, 32);
    }
    // The private object counts, whatever the public one says; and a statement must have one.
    refused(card.pair(PUBLIC).appraise(), "not of a private key");
    refused(card.pair([3, 1, 1, 2, 1]).appraise(), "neither 0 nor 1");
}

#[test]
fn both_chains_must_end_in_one_partition_and_in_trusted_roots() {
    let (card, other) = (Card::new(), Card::new());
    let case = card.pair(PRIVATE);
    let mut mixed = card.pair(PRIVATE);
    mixed.parts[2] = other.owned.chain();
    mixed.policy.marvell.as_mut().unwrap().owner_roots.push(other.owner.digest());
    refused(mixed.appraise(), "different partitions");
    for (manufacturer, owner) in [(1, 1), (2, 2), (2, 1)] {
        let parts = vec![case.parts[0].clone(), case.parts[manufacturer].clone(), case.parts[owner].clone()];
        refused(case.appraise_parts(parts), "not a trusted root");
    }
    let mut vendor = card.pair(PRIVATE);
    vendor.policy.marvell.as_mut().unwrap().owner_roots.clear();
    refused(vendor.appraise(), "not a trusted root");
    let mut revoked = card.pair(PRIVATE);
    revoked.policy.marvell.as_mut().unwrap().trust.revoked = vec![card.owned.key_digest()];
    refused(revoked.appraise(), "revoked");
}

#[test]
fn a_card_whose_key_has_another_use_certifies_no_partition() {
    for usages in [vec![KeyUsagePurpose::DigitalSignature], vec![KeyUsagePurpose::KeyCertSign]] {
        let mut card = Card::new();
        let mut certificate = params("HSM:5.3G1953");
        certificate.key_usages = usages;
        // Without `basicConstraints`, even the right use is not an authority's.
        let other = card.manufacturer.issue(&PKCS_ECDSA_P256_SHA256, certificate);
        let key = KeyPair::try_from(card.partition.key.serialized_der()).unwrap();
        card.partition = other.certify(key, params("HSM:5.3G1953:PARTN:1"));
        refused(card.pair(PRIVATE).appraise(), "not an authority's");
    }
    let mut card = Card::new();
    let mut certificate = authority("HSM:5.3G1953");
    certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let other = card.manufacturer.issue(&PKCS_ECDSA_P256_SHA256, certificate);
    let key = KeyPair::try_from(card.partition.key.serialized_der()).unwrap();
    card.partition = other.certify(key, params("HSM:5.3G1953:PARTN:1"));
    refused(card.pair(PRIVATE).appraise(), "may not sign certificates");
}

/// A P-256 key of Google Cloud HSM, on 9 October 2025, under Marvell's root and Google's. The claimed key is the statement's own.
fn real() -> Case {
    let packed: &[u8] = include_bytes!("marvell/ecc.gz");
    let mut statement = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut statement).unwrap();
    // Attribute 0x120, 65 bytes: an uncompressed point.
    let at = statement.windows(8).position(|window| window == [0, 0, 1, 0x20, 0, 0, 0, 65]).unwrap() + 8;
    let point = &statement[at..at + 65];
    let key = p256::PublicKey::from_sec1_bytes(point).unwrap();
    Case {
        policy: EvidencePolicy { marvell: Some(MarvellPolicy::default()), ..EvidencePolicy::default() },
        format: Format::Marvell,
        parts: vec![
            packed.to_vec(),
            include_bytes!("marvell/manufacturer.der").to_vec(),
            include_bytes!("marvell/owner.der").to_vec(),
        ],
        context: context(),
        key: Some(key.to_public_key_der().unwrap().into_vec()),
        device: None,
        now: Timestamp(1_760_000_000),
    }
}

#[test]
fn a_real_statement_is_appraised_under_the_roots_that_are_built_in() {
    let mut case = real();
    let appraisal = case.appraise().unwrap();
    assert_eq!((appraisal.binding(), appraisal.names_key()), (Binding::Key, true));
    let facts = appraisal.facts();
    assert_eq!((facts.extractable, facts.never_extractable, facts.local), (Some(false), Some(true), Some(true)));
    assert_eq!(facts.serial.as_deref(), Some("HSM:5.3G1953-ICM001225:PARTN:1, for FIPS mode"));
    // Unpacked, since an archive has bytes that say nothing. The signature covers every byte before it.
    let mut statement = Vec::new();
    GzDecoder::new(case.parts[0].as_slice()).read_to_end(&mut statement).unwrap();
    case.parts[0] = statement;
    case.withstands_flips(0, 1);
    case.withstands_cuts(0, 97);
    for part in 1..3 {
        case.withstands_flips(part, 3);
        case.withstands_cuts(part, 97);
    }
    // Before the partition was certified, and after Google's root ends.
    for wrong in [1_700_000_000, 1_900_000_000] {
        case.now = Timestamp(wrong);
        assert!(matches!(case.appraise(), Err(EvidenceError::Chain { .. })));
    }
}
