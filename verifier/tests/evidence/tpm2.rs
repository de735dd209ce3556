//! TPM 2.0: samples of swtpm, and credentials between ours, tpm2-tools and what the specification says a TPM does.

use std::collections::BTreeMap;

use aws_lc_rs::{
    cipher::{AES_128, DecryptingKey, DecryptionContext, UnboundCipherKey},
    hmac,
    iv::FixedLength,
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use keywitness_circuits::{Digest, Timestamp};
use keywitness_verifier::evidence::{
    Binding, Bytes, EvidenceError, EvidencePolicy, Format, Register, Tpm2Policy, Trust, tpm2::Credential,
};
use keywitness_verifier::token::Tier;
use p256::{
    PublicKey, SecretKey,
    elliptic_curve::sec1::{FromEncodedPoint as _, ToEncodedPoint as _},
    pkcs8::DecodePrivateKey as _,
};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256};
use sha2::{Digest as _, Sha256};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::support::{Case, params, refused, root, sha256};

/// The samples' certificates are in force from 21 November 2026.
const NOW: Timestamp = Timestamp(1_800_000_000);

macro_rules! samples {
    ($kind:literal) => {
        Samples {
            attestation_key: include_bytes!(concat!("tpm2/", $kind, ".ak-public")),
            name: include_bytes!(concat!("tpm2/", $kind, ".ak-name")),
            quote: include_bytes!(concat!("tpm2/", $kind, ".quote")),
            quote_signature: include_bytes!(concat!("tpm2/", $kind, ".quote-signature")),
            pcrs: include_bytes!(concat!("tpm2/", $kind, ".pcrs")),
            key: [
                include_bytes!(concat!("tpm2/", $kind, ".certify")),
                include_bytes!(concat!("tpm2/", $kind, ".certify-signature")),
                include_bytes!(concat!("tpm2/", $kind, ".key-public")),
                include_bytes!(concat!("tpm2/", $kind, ".key-spki.der")),
            ],
            loose: [
                include_bytes!(concat!("tpm2/", $kind, ".loose-certify")),
                include_bytes!(concat!("tpm2/", $kind, ".loose-certify-signature")),
                include_bytes!(concat!("tpm2/", $kind, ".loose-public")),
                include_bytes!(concat!("tpm2/", $kind, ".loose-spki.der")),
            ],
            endorsement: include_bytes!(concat!("tpm2/", $kind, ".ek-certificate.der")),
            storage: include_bytes!(concat!("tpm2/", $kind, ".ek-public")),
            credential: include_bytes!(concat!("tpm2/", $kind, ".credential")),
            soft_key: include_bytes!(concat!("tpm2/", $kind, ".soft-key.der")),
        }
    };
}

/// What `tpm2/make.sh` made with one kind of key.
struct Samples {
    attestation_key: &'static [u8],
    name: &'static [u8],
    quote: &'static [u8],
    quote_signature: &'static [u8],
    pcrs: &'static [u8],
    /// TPMS_ATTEST, TPMT_SIGNATURE, TPMT_PUBLIC and SubjectPublicKeyInfo.
    key: [&'static [u8]; 4],
    loose: [&'static [u8]; 4],
    endorsement: &'static [u8],
    storage: &'static [u8],
    credential: &'static [u8],
    soft_key: &'static [u8],
}

const AUTHORITY: &[u8] = include_bytes!("tpm2/ca.der");

fn both() -> [Samples; 2] {
    [samples!("ecc"), samples!("rsa")]
}

impl Samples {
    fn case(&self) -> Case {
        let parts =
            [self.attestation_key, self.quote, self.quote_signature, self.pcrs, self.key[0], self.key[1], self.key[2]];
        let pcrs = self.boot();
        Case {
            policy: EvidencePolicy {
                tpm2: Some(Tpm2Policy { pcrs, ..Tpm2Policy::default() }),
                ..EvidencePolicy::default()
            },
            format: Format::Tpm2,
            parts: parts.map(<[u8]>::to_vec).to_vec(),
            context: Digest(*include_bytes!("tpm2/context.bin")),
            key: Some(self.key[3].to_vec()),
            device: Some(format!("tpm2:{}", Bytes(self.name.to_vec()))),
            now: NOW,
        }
    }

    /// The PCRs of what boots, as they were quoted: 0, 2, 4 and 7 of 0, 1, 2, 4 and 7.
    fn boot(&self) -> BTreeMap<Register, Vec<Bytes>> {
        let value = |at: usize| vec![Bytes(self.pcrs[32 * at..32 * (at + 1)].to_vec())];
        BTreeMap::from([
            (Register(0), value(0)),
            (Register(2), value(2)),
            (Register(4), value(3)),
            (Register(7), value(4)),
        ])
    }

    fn policy(&self) -> Tpm2Policy {
        Tpm2Policy { trust: Trust { roots: vec![sha256(AUTHORITY)], ..Trust::default() }, ..Tpm2Policy::default() }
    }

    fn chain(&self) -> Vec<u8> {
        [self.endorsement, AUTHORITY].concat()
    }
}

#[test]
fn a_quote_and_a_certified_key_are_appraised() {
    for samples in both() {
        let mut case = samples.case();
        let appraisal = case.appraise().unwrap();
        assert_eq!((appraisal.binding(), appraisal.tier()), (Binding::Context, Tier::Affirming));
        let (trust, facts) = (appraisal.trust(), appraisal.facts());
        assert_eq!((trust.instance_identity, trust.executables, trust.storage_opaque), (2, 3, 2));
        assert_eq!((facts.extractable, facts.never_extractable, facts.local), (Some(false), Some(true), Some(true)));
        assert_eq!(facts.measurements.len(), 5);
        // Every byte of every part is signed, or is the signature, or is hashed into what is.
        for part in 0..7 {
            case.withstands_flips(part, 1);
            case.withstands_cuts(part, 3);
        }
        let context = case.context;
        case.context = sha256(b"another claim");
        assert_eq!(case.appraise().unwrap_err(), EvidenceError::WrongContext("extraData"));
        case.context = context;
        case.device = None;
        assert!(matches!(case.appraise(), Err(EvidenceError::WrongDevice { .. })), "any TPM at all is accepted");
    }
}

#[test]
fn a_listed_device_needs_no_enrolment() {
    let [samples, other] = both();
    let mut case = samples.case();
    let device = case.device.take().unwrap();
    case.policy.tpm2.as_mut().unwrap().trust.devices = vec![device];
    assert_eq!(case.appraise().unwrap().trust().instance_identity, 2);
    case.parts = other.case().parts;
    assert!(matches!(case.appraise(), Err(EvidenceError::WrongDevice { .. })));
}

#[test]
fn a_quote_without_a_key_says_nothing_of_storage() {
    for samples in both() {
        let mut case = samples.case();
        for part in &mut case.parts[4..] {
            part.clear();
        }
        let appraisal = case.appraise().unwrap();
        assert_eq!((appraisal.trust().storage_opaque, appraisal.facts().local), (0, None));
        // Half a certification is none.
        case.parts[4] = samples.key[0].to_vec();
        case.appraise().unwrap_err();
    }
}

#[test]
fn a_wrong_key_is_refused() {
    for samples in both() {
        let mut case = samples.case();
        case.key = Some(samples.loose[3].to_vec());
        assert_eq!(case.appraise().unwrap_err(), EvidenceError::WrongKey);
        case.key = None;
        assert_eq!(case.appraise().unwrap_err(), EvidenceError::WrongKey);
        case.key = Some(b"no key".to_vec());
        case.appraise().unwrap_err();
        // The certification of one key with the public area of another.
        let mut case = samples.case();
        case.parts[6] = samples.loose[2].to_vec();
        refused(case.appraise(), "another key than the one given");
        // A key that the TPM lets go.
        let mut case = samples.case();
        case.parts.splice(4.., samples.loose[..3].iter().map(|part| part.to_vec()));
        case.key = Some(samples.loose[3].to_vec());
        refused(case.appraise(), "may leave the TPM");
        // A key that signs for others is no attestation key, though its certification says so.
        let mut case = samples.case();
        case.parts[0] = samples.key[2].to_vec();
        refused(case.appraise(), "signs more than the TPM's statements");
        // A storage key is none.
        case.parts[0] = samples.storage.to_vec();
        case.appraise().unwrap_err();
        // Quote and certification in each other's place: each is signed, and is not what it should be.
        let mut case = samples.case();
        case.parts.swap(1, 4);
        case.parts.swap(2, 5);
        refused(case.appraise(), "is a certification");
    }
    // What one TPM key signed is not another's.
    let [ecc, rsa] = both();
    let mut case = ecc.case();
    case.parts[0] = rsa.attestation_key.to_vec();
    case.appraise().unwrap_err();
}

#[test]
fn pcrs_must_have_the_listed_values() {
    for samples in both() {
        let mut case = samples.case();
        let section = case.policy.tpm2.as_mut().unwrap();
        section.pcrs.insert(Register(0), vec![Bytes(vec![1; 32]), Bytes(vec![0; 32])]);
        case.appraise().unwrap();
        case.policy.tpm2.as_mut().unwrap().pcrs.insert(Register(1), vec![Bytes(vec![1; 32])]);
        let error = case.appraise().unwrap_err();
        assert_eq!(error, EvidenceError::Measurement(format!("PCR 1 is {}", "00".repeat(32))));
        case.last_is_the_measurement();
        // One that is not quoted at all.
        case.policy.tpm2.as_mut().unwrap().pcrs = BTreeMap::from([(Register(9), vec![Bytes(vec![0; 32])])]);
        refused(case.appraise(), "PCR 9 is not quoted");
        // What is compared must cover what boots, or nothing is said of it.
        let said = |case: &Case| (case.appraise().unwrap().trust().executables, case.appraise().unwrap().tier());
        case.policy.tpm2.as_mut().unwrap().pcrs = samples.boot();
        assert_eq!(said(&case), (3, Tier::Affirming));
        for missing in [0, 2, 4, 7] {
            case.policy.tpm2.as_mut().unwrap().pcrs.remove(&Register(missing));
            assert_eq!(said(&case), (0, Tier::Warning));
            case.policy.tpm2.as_mut().unwrap().pcrs = samples.boot();
        }
        case.policy.tpm2.as_mut().unwrap().pcrs.clear();
        assert_eq!((said(&case), case.appraise().unwrap().trust().configuration), ((0, Tier::Warning), 36));
        // Fewer or other values than were quoted.
        case.parts[3].truncate(128);
        refused(case.appraise(), "not those that the quote is of");
        case.parts[3] = [&samples.pcrs[128..], &samples.pcrs[..128]].concat();
        refused(case.appraise(), "not those that the quote is of");
    }
}

#[test]
fn endorsement_needs_a_chain_to_a_named_root() {
    for samples in both() {
        let policy = samples.policy();
        policy.endorse(&samples.chain(), NOW).unwrap();
        let refused = |policy: &Tpm2Policy, chain: &[u8], now| policy.endorse(chain, now).unwrap_err().to_string();
        assert!(refused(&Tpm2Policy::default(), &samples.chain(), NOW).contains("not a trusted root"));
        assert!(refused(&policy, samples.endorsement, NOW).contains("a leaf and a root"));
        assert!(refused(&policy, &samples.chain(), Timestamp(0)).contains("not in force yet"));
        assert!(refused(&policy, &samples.chain(), Timestamp(5_000_000_000)).contains("expired"));
        for at in (0..samples.endorsement.len()).step_by(3) {
            let mut chain = samples.chain();
            chain[at] ^= 1;
            policy.endorse(&chain, NOW).unwrap_err();
        }
        let mut revoking = samples.policy();
        let key = X509Certificate::from_der(samples.endorsement).unwrap().1;
        revoking.trust.revoked = vec![sha256(key.public_key().raw)];
        assert!(refused(&revoking, &samples.chain(), NOW).contains("revoked"));
    }
    // A certificate for something else, under a root that is trusted.
    let root = root(&PKCS_ECDSA_P256_SHA256);
    let mut server = params("server");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server = root.issue(&PKCS_ECDSA_P256_SHA256, server);
    let policy =
        Tpm2Policy { trust: Trust { roots: vec![root.digest()], ..Trust::default() }, ..Tpm2Policy::default() };
    assert!(policy.endorse(&server.chain(), NOW).unwrap_err().to_string().contains("not of an endorsement key"));
}

fn hmac_of(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &parts.concat()).as_ref().to_vec()
}

/// Takes a buffer with its length before it.
fn buffer<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let (length, rest) = bytes.split_at(2);
    let (buffer, rest) = rest.split_at(usize::from(u16::from_be_bytes([length[0], length[1]])));
    *bytes = rest;
    buffer
}

/// What TPM2_ActivateCredential does with an endorsement key in software, of which `soft_key` is the DER.
fn activate(samples: &Samples, name: &[u8], mut blob: &[u8], mut secret: &[u8]) -> Option<Vec<u8>> {
    let mut secret = buffer(&mut secret);
    let seed = if let Ok(key) = SecretKey::from_pkcs8_der(samples.soft_key) {
        let (x, y) = (buffer(&mut secret), buffer(&mut secret));
        let point = p256::EncodedPoint::from_affine_coordinates(x.into(), y.into(), false);
        let shared = PublicKey::from_encoded_point(&point).unwrap().to_projective() * *key.to_nonzero_scalar();
        let x_of = |point: p256::AffinePoint| point.to_encoded_point(false).x().unwrap().to_vec();
        let own = x_of(*key.public_key().as_affine());
        Sha256::digest([&1u32.to_be_bytes(), x_of(shared.to_affine()).as_slice(), b"IDENTITY\0", x, &own].concat())
            .to_vec()
    } else {
        let key = OaepPrivateDecryptingKey::new(PrivateDecryptingKey::from_pkcs8(samples.soft_key).unwrap()).unwrap();
        let mut seed = vec![0; key.min_output_size()];
        key.decrypt(&OAEP_SHA256_MGF1SHA256, secret, &mut seed, Some(b"IDENTITY\0")).unwrap().to_vec()
    };
    let mut object = buffer(&mut blob);
    let integrity = buffer(&mut object);
    let integrity_key = hmac_of(&seed, &[&1u32.to_be_bytes(), b"INTEGRITY\0", &256u32.to_be_bytes()]);
    if integrity != hmac_of(&integrity_key, &[object, name]) {
        return None;
    }
    let storage = hmac_of(&seed, &[&1u32.to_be_bytes(), b"STORAGE\0", name, &128u32.to_be_bytes()]);
    let key = DecryptingKey::cfb128(UnboundCipherKey::new(&AES_128, &storage[..16]).unwrap()).unwrap();
    let mut identity = object.to_vec();
    key.decrypt(&mut identity, DecryptionContext::Iv128(FixedLength::from([0; 16]))).unwrap();
    Some(buffer(&mut identity.as_slice()).to_vec())
}

#[test]
fn a_credential_of_tpm2_tools_opens_as_the_specification_says() {
    for samples in both() {
        // Magic and version, then TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
        let mut rest = samples.credential.strip_prefix(&[0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1]).unwrap();
        let start = rest;
        buffer(&mut rest);
        let opened = activate(&samples, samples.name, start, rest).unwrap();
        assert_eq!(opened, include_bytes!("tpm2/secret.bin"));
    }
}

/// An endorsement by our own authority of the samples' software key.
fn endorsed(samples: &Samples) -> (Tpm2Policy, Vec<u8>) {
    let root = root(&PKCS_ECDSA_P256_SHA256);
    let mut certificate = params("EK");
    certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    let key = KeyPair::try_from(samples.soft_key).unwrap();
    let leaf = root.certify(key, certificate);
    let policy =
        Tpm2Policy { trust: Trust { roots: vec![root.digest()], ..Trust::default() }, ..Tpm2Policy::default() };
    (policy, leaf.chain())
}

#[test]
fn our_credential_opens_for_the_right_tpm_and_key_alone() {
    for samples in both() {
        let (policy, chain) = endorsed(&samples);
        let endorsement = policy.endorse(&chain, NOW).unwrap();
        let challenge = || endorsement.challenge(samples.attestation_key).unwrap();
        let open = |credential: &Credential| activate(&samples, samples.name, &credential.blob, &credential.secret);

        let (credential, pending) = challenge();
        let answer = open(&credential).unwrap();
        let device = pending.answered(&answer).unwrap().device().to_owned();
        assert_eq!(device, samples.case().device.unwrap());

        // Another key's Name: the TPM refuses.
        assert_eq!(activate(&samples, &[7; 34], &credential.blob, &credential.secret), None);
        // The answer to another challenge, and none.
        let (_, pending) = challenge();
        pending.answered(&answer).unwrap_err();
        let (_, pending) = challenge();
        pending.answered(&[]).unwrap_err();
        // A key that signs for others, or that decrypts.
        endorsement.challenge(samples.key[2]).unwrap_err();
        endorsement.challenge(samples.storage).unwrap_err();
    }
}
