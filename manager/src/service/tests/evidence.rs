//! Evidence of where keys live: what it does for an HSM that gives it, and against one that does not.

mod devices;
mod residence;

use keywitness_circuits::{Digest, Nonce, codec::Canonical as _};
use keywitness_verifier::{
    evidence::{Bytes, Evidence, EvidenceContext, EvidencePolicy, Format, SevSnpPolicy, SnpMeasurement, Trust},
    token::{Expected, Tier, TokenError, VerifiedToken, verify, verify_at_any_tier},
    wire::{
        AttestationState, Base64, CredentialAnswer, DeviceRequest, EventKind, EvidenceChallenge,
        EvidenceChallengeRequest, EvidenceRecord, EvidenceStanding, EvidenceSubmission, HsmEvidence, KeyQuery, KeyRef,
        Problem, ProblemKind, TokenRequest,
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, SigningKey as _, date_time_ymd,
};
use sha2::{Digest as _, Sha256};

use crate::{
    audit::tests::{audit, log_of},
    ledger::{
        Command,
        state::evidence::{EvidenceTerms, Required},
    },
    service::testing::{Caller, TestHsm, TestKey, World, refused},
};

/// A chip of AMD's shape, under a root of its own: the simplest device there is, whose report is bytes at offsets.
pub(crate) struct Chip {
    key: KeyPair,
    chain: Vec<u8>,
    root: Digest,
    name: [u8; 64],
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params
}

fn generate() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

/// Chips of one maker, by their names.
pub(crate) fn chips<const N: usize>(names: [u8; N]) -> [Chip; N] {
    let mut authority = params("root");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = generate();
    let certificate = authority.self_signed(&root).unwrap().der().to_vec();
    let issuer = Issuer::from_params(&authority, &root);
    names.map(|name| {
        let mut leaf = params("VCEK");
        let amd = |arcs: &[u64]| [&[1, 3, 6, 1, 4, 1, 3704, 1], arcs].concat();
        for arc in [1, 2, 3, 8] {
            leaf.custom_extensions.push(CustomExtension::from_oid_content(&amd(&[3, arc]), vec![2, 1, 1]));
        }
        leaf.custom_extensions.push(CustomExtension::from_oid_content(&amd(&[4]), vec![name; 64]));
        let key = generate();
        let der = leaf.signed_by(&key, &issuer).unwrap().der().to_vec();
        let root = Digest(Sha256::digest(&certificate).into());
        Chip { key, chain: [der, certificate.clone()].concat(), root, name: [name; 64] }
    })
}

const GOOD: u8 = 9;
const BAD: u8 = 8;
const HOUR: u64 = 3600;

impl Chip {
    /// What the chip's maker is trusted for.
    fn policy(&self) -> EvidencePolicy {
        let trust = Trust { roots: vec![self.root], ..Trust::default() };
        let measurement = Bytes(vec![GOOD; 48]);
        let measurements = vec![SnpMeasurement::Described { measurement, covers_boot: true }];
        let section = SevSnpPolicy { measurements, trust, ..SevSnpPolicy::default() };
        EvidencePolicy { sev_snp: Some(section), ..EvidencePolicy::default() }
    }

    fn device(&self) -> String {
        format!("sev-snp:{}", Bytes(self.name.to_vec()))
    }

    fn evidence(&self, context: &Digest, measured: u8) -> Evidence {
        let mut report = vec![0; 0x4a0];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[2]);
        put(0x34, &[1]);
        for at in [0x38, 0x180, 0x1e0] {
            put(at, &[1, 1, 0, 0, 0, 0, 1, 1]);
        }
        put(0x50, &context.0);
        put(0x90, &[measured; 48]);
        put(0x1a0, &self.name);
        let der = self.key.sign(&report[..0x2a0]).unwrap();
        let number = |at: usize| {
            let bytes = &der[at + 2..at + 2 + usize::from(der[at + 1])];
            let mut little: Vec<u8> = bytes.iter().rev().copied().collect();
            little.resize(48, 0);
            little
        };
        let halves = [number(2), number(4 + usize::from(der[3]))];
        for (half, at) in halves.iter().zip([0x2a0, 0x2a0 + 72]) {
            report[at..at + 48].copy_from_slice(half);
        }
        Evidence::new(Format::SevSnp, vec![report, self.chain.clone()]).unwrap()
    }
}

/// From now on, a manager accepts the evidence of these chips.
fn accept(world: &World, policy: Option<&EvidencePolicy>, required: Required) {
    let terms = EvidenceTerms::new(policy, required, HOUR).unwrap();
    world.manager.ledger.submit(Command::ConfigureEvidence(terms)).unwrap();
}

fn challenge(world: &World, hsm: &TestHsm, key: Option<KeyRef>) -> Result<EvidenceChallenge, Problem> {
    world.manager.evidence_challenge(&hsm.call(world), &EvidenceChallengeRequest { key })
}

/// What an honest HSM's device signs.
fn context(world: &World, hsm: &TestHsm, enrolment: u32, challenge: &EvidenceChallenge) -> Digest {
    let audience = world.manager.audience().clone();
    let context = EvidenceContext {
        trust_domain: audience.trust_domain,
        manager: audience.manager,
        cluster: "eu".parse().unwrap(),
        hsm: hsm.id.clone(),
        enrolment,
        identity_key: Digest(hsm.identity.verifying_key().to_bytes()),
        key: None,
        nonce: challenge.nonce,
    };
    context.digest()
}

fn submit(
    world: &World,
    hsm: &TestHsm,
    challenge: &EvidenceChallenge,
    evidence: &Evidence,
) -> Result<EvidenceRecord, Problem> {
    let submission = EvidenceSubmission { nonce: challenge.nonce, evidence: Base64(evidence.to_bytes()) };
    world.manager.submit_evidence(&hsm.call(world), &submission)
}

fn give(world: &World, hsm: &TestHsm, chip: &Chip, measured: u8) -> Result<EvidenceRecord, Problem> {
    let challenge = challenge(world, hsm, None)?;
    submit(world, hsm, &challenge, &chip.evidence(&context(world, hsm, 1, &challenge), measured))
}

fn allow(world: &World, hsm: &TestHsm, device: Option<String>) {
    let request = DeviceRequest { hsm: hsm.id.clone(), device, valid_for: 600 };
    world.manager.allow_device(&Caller::in_process(), &request).unwrap();
}

fn standing(world: &World, hsm: &TestHsm) -> HsmEvidence {
    let overview = world.manager.evidence_overview(&Caller::in_process()).unwrap();
    overview.hsms.into_iter().find(|found| found.hsm == hsm.id).unwrap()
}

fn token(world: &World, key: &TestKey) -> Result<VerifiedToken, Problem> {
    let query = KeyQuery { key: key.key.key.clone(), cluster: None, hsm: None, max_age: None };
    let nonce = Nonce::random();
    let request = TokenRequest { query, audience: "a".to_owned(), nonce, form: Default::default() };
    let response = world.manager.issue_token(&Caller::in_process(), &request)?;
    let trust_domain = "acme.example".parse().unwrap();
    let expected = Expected { trust_domain: &trust_domain, audience: "a", nonce: Some(&nonce) };
    let (keys, now) = (world.manager.jwks().unwrap(), world.now());
    let token = verify_at_any_tier(&response.token, &keys, &expected, now).unwrap();
    // Whoever asks for no more than the usual gets none that warns.
    let tier = token.appraisal().ear_status;
    match verify(&response.token, &keys, &expected, now) {
        Ok(_) => assert_eq!(tier, Tier::Affirming),
        Err(error) => assert_eq!(error, TokenError::NotAffirming(tier)),
    }
    Ok(token)
}

/// Tier, residence, and whether evidence that should be there is not.
fn said(world: &World, key: &TestKey) -> (Tier, String, bool) {
    let token = token(world, key).unwrap();
    let appraisal = token.appraisal();
    (appraisal.ear_status, appraisal.attestation.residence.clone(), appraisal.attestation.evidence_missing)
}

/// An HSM that attests a key, and a manager that accepts evidence.
fn site(required: Required) -> (World, TestHsm, TestKey, [Chip; 2]) {
    let world = World::new();
    let (hsm, key, chips) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1), chips([1, 2]));
    accept(&world, Some(&chips[0].policy()), required);
    hsm.enrol_key(&world, &key).unwrap();
    hsm.attest(&world, "eu", &key).unwrap();
    (world, hsm, key, chips)
}

/// Something of everything that evidence can come to.
pub(crate) fn bustle(world: &World) {
    let (hsm, other) = (world.hsm("evident-1", "eu"), world.hsm("evident-2", "eu"));
    let [chip, spare] = chips([1, 2]);
    accept(world, Some(&chip.policy()), Required::Clusters(vec!["eu".parse().unwrap()]));
    give(world, &hsm, &chip, GOOD).unwrap();
    allow(world, &hsm, None);
    give(world, &hsm, &chip, GOOD).unwrap();
    refused(give(world, &hsm, &spare, GOOD), ProblemKind::EvidenceRefused);
    refused(give(world, &hsm, &chip, BAD), ProblemKind::EvidenceRefused);
    refused(give(world, &hsm, &chip, GOOD), ProblemKind::EvidenceRefused);
    allow(world, &hsm, Some(spare.device()));
    give(world, &hsm, &spare, GOOD).unwrap();
    let stolen = challenge(world, &hsm, None).unwrap();
    let evidence = chip.evidence(&context(world, &other, 1, &stolen), GOOD);
    refused(submit(world, &other, &stolen, &evidence), ProblemKind::ForeignChallenge);
    world.advance(1);
}

/// An HSM of which good evidence is taken.
pub(crate) fn one_that_is_good(world: &World, hsm: &TestHsm) {
    let [chip] = chips([1]);
    accept(world, Some(&chip.policy()), Required::Nobody);
    give(world, hsm, &chip, GOOD).unwrap();
}

/// An HSM on which something else runs than is listed.
pub(crate) fn one_that_is_not_listed(world: &World) {
    let (hsm, [chip]) = (world.hsm("changed", "eu"), chips([1]));
    accept(world, Some(&chip.policy()), Required::Nobody);
    refused(give(world, &hsm, &chip, BAD), ProblemKind::EvidenceRefused);
}

/// Two HSMs enrol one device.
pub(crate) fn two_of_one_device(world: &World) {
    let ([one, two], [chip]) = ([world.hsm("one", "eu"), world.hsm("two", "eu")], chips([1]));
    accept(world, Some(&chip.policy()), Required::Nobody);
    for hsm in [&one, &two] {
        allow(world, hsm, None);
        give(world, hsm, &chip, GOOD).unwrap();
    }
}

#[test]
fn without_a_policy_evidence_is_refused_with_what_to_do() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let problem = refused(challenge(&world, &hsm, None), ProblemKind::Forbidden);
    assert!(problem.detail.contains("evidence.policy"), "{problem}");
    let request = DeviceRequest { hsm: hsm.id.clone(), device: None, valid_for: 60 };
    refused(world.manager.allow_device(&Caller::in_process(), &request), ProblemKind::Forbidden);
    assert!(!world.manager.evidence_overview(&Caller::in_process()).unwrap().accepted);
}

#[test]
fn good_evidence_is_in_the_token_until_it_is_too_old() {
    let (world, hsm, key, [chip, _]) = site(Required::Nobody);
    assert_eq!(said(&world, &key), (Tier::Affirming, "not-evidenced".to_owned(), false));
    let record = give(&world, &hsm, &chip, GOOD).unwrap();
    assert_eq!((record.expires_at, record.key), (world.now().plus(HOUR), None));
    let token = token(&world, &key).unwrap();
    let appraisal = token.appraisal();
    let vector = &appraisal.ear_trustworthiness_vector;
    assert_eq!((vector["instance-identity"], vector["hardware"], vector["executables"]), (2, 2, 3));
    assert_eq!((appraisal.ear_status, appraisal.attestation.residence.as_str()), (Tier::Affirming, "platform"));
    let claim = appraisal.attestation.evidence.clone().unwrap();
    assert_eq!((claim.digest, claim.device), (record.appraisal.evidence, Some(chip.device())));
    world.advance(HOUR as i64 - 1);
    hsm.attest(&world, "eu", &key).unwrap();
    // A token goes no further than the evidence in it.
    let token = self::token(&world, &key).unwrap();
    assert_eq!(token.claims().exp, world.now().plus(1));
    world.advance(1);
    assert_eq!(said(&world, &key), (Tier::Affirming, "not-evidenced".to_owned(), false));
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Stale);
}

#[test]
fn an_hsm_without_the_evidence_that_its_cluster_must_give_is_demoted() {
    let (world, hsm, key, [chip, _]) = site(Required::Clusters(vec!["eu".parse().unwrap()]));
    assert_eq!(said(&world, &key), (Tier::Warning, "not-evidenced".to_owned(), true));
    assert_eq!(token(&world, &key).unwrap().appraisal().ear_trustworthiness_vector["configuration"], 36);
    let query = KeyQuery { key: key.key.key.clone(), cluster: None, hsm: None, max_age: None };
    let status = world.manager.attested(&Caller::in_process(), &query).unwrap();
    assert!(status.hsms[0].demoted && status.hsms[0].state == AttestationState::Attested);
    // Another HSM that gives evidence goes before it, though its proof is older.
    let other = world.hsm("hsm-2", "eu");
    other.enrol_key(&world, &key).unwrap();
    other.attest(&world, "eu", &key).unwrap();
    give(&world, &other, &chip, GOOD).unwrap();
    world.advance(10);
    hsm.attest(&world, "eu", &key).unwrap();
    assert_eq!(token(&world, &key).unwrap().appraisal().attestation.hsm, other.id);
    give(&world, &hsm, &chip, GOOD).unwrap();
    assert_eq!(token(&world, &key).unwrap().appraisal().attestation.hsm, hsm.id);
    assert_eq!(said(&world, &key), (Tier::Affirming, "platform".to_owned(), false));
    // The newest says how it is.
    refused(give(&world, &hsm, &chips([5])[0], GOOD), ProblemKind::EvidenceRefused);
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Refused);
    assert_eq!(token(&world, &key).unwrap().appraisal().attestation.hsm, other.id);
    // Elsewhere nobody must.
    let (far, own) = (world.hsm("hsm-3", "us"), TestKey::ed25519("far", 2));
    far.enrol_key(&world, &own).unwrap();
    far.attest(&world, "us", &own).unwrap();
    assert_eq!(said(&world, &own), (Tier::Affirming, "not-evidenced".to_owned(), false));
}

#[test]
fn evidence_of_another_claim_hsm_or_time_is_refused() {
    let (world, hsm, key, [chip, spare]) = site(Required::Everyone);
    let other = world.hsm("hsm-2", "eu");
    let given = challenge(&world, &hsm, None).unwrap();
    let good = chip.evidence(&context(&world, &hsm, 1, &given), GOOD);
    // Another HSM's challenge, whatever it is answered with.
    refused(submit(&world, &other, &given, &good), ProblemKind::ForeignChallenge);
    // Another HSM's evidence, enrolment's and nonce's.
    for context in [
        context(&world, &other, 1, &given),
        context(&world, &hsm, 2, &given),
        context(&world, &hsm, 1, &challenge(&world, &hsm, None).unwrap()),
    ] {
        let given = challenge(&world, &hsm, None).unwrap();
        let problem = submit(&world, &hsm, &given, &chip.evidence(&context, GOOD)).unwrap_err();
        assert!(problem.detail.contains("is not of this claim"), "{problem}");
    }
    submit(&world, &hsm, &given, &good).unwrap();
    // The same once more, and for another challenge.
    refused(submit(&world, &hsm, &given, &good), ProblemKind::ChallengeConsumed);
    let next = challenge(&world, &hsm, None).unwrap();
    refused(submit(&world, &hsm, &next, &good), ProblemKind::EvidenceRefused);
    // A challenge that was refused once is used up.
    let late = chip.evidence(&context(&world, &hsm, 1, &next), GOOD);
    refused(submit(&world, &hsm, &next, &late), ProblemKind::ChallengeConsumed);
    let never = EvidenceChallenge { nonce: Nonce::random(), ..next };
    refused(submit(&world, &hsm, &never, &late), ProblemKind::UnknownChallenge);
    let given = challenge(&world, &hsm, None).unwrap();
    world.advance(61);
    let late = chip.evidence(&context(&world, &hsm, 1, &given), GOOD);
    refused(submit(&world, &hsm, &given, &late), ProblemKind::ChallengeExpired);
    // Of another device than the one that was enrolled.
    allow(&world, &hsm, None);
    give(&world, &hsm, &chip, GOOD).unwrap();
    let problem = refused(give(&world, &hsm, &spare, GOOD), ProblemKind::EvidenceRefused);
    assert!(problem.detail.contains(&spare.device()), "{problem}");
    hsm.attest(&world, "eu", &key).unwrap();
    assert!(said(&world, &key).2);
    assert_eq!(world.alerts(), []);
}

#[test]
fn the_same_signed_bytes_come_to_the_same_and_others_in_flight_to_nothing() {
    let (world, hsm, _, [chip, _]) = site(Required::Nobody);
    let given = challenge(&world, &hsm, None).unwrap();
    let evidence = chip.evidence(&context(&world, &hsm, 1, &given), GOOD);
    let submission = EvidenceSubmission { nonce: given.nonce, evidence: Base64(evidence.to_bytes()) };
    let caller = hsm.call(&world);
    let first = world.manager.submit_evidence(&caller, &submission).unwrap();
    let before = log_of(&world).len();
    assert_eq!(world.manager.submit_evidence(&caller, &submission).unwrap(), first);
    assert_eq!(log_of(&world).len(), before);
    // Noise is no evidence, and consumes nothing.
    let given = challenge(&world, &hsm, None).unwrap();
    let noise = EvidenceSubmission { nonce: given.nonce, evidence: Base64(vec![1, 2, 3]) };
    refused(world.manager.submit_evidence(&hsm.call(&world), &noise), ProblemKind::Malformed);
    let evidence = chip.evidence(&context(&world, &hsm, 1, &given), GOOD);
    submit(&world, &hsm, &given, &evidence).unwrap();
}

#[test]
fn what_is_not_listed_suspends_until_the_device_is_enrolled_again() {
    let (world, hsm, key, [chip, spare]) = site(Required::Everyone);
    allow(&world, &hsm, None);
    give(&world, &hsm, &chip, GOOD).unwrap();
    assert_eq!(standing(&world, &hsm).device.unwrap().device, chip.device());
    let problem = refused(give(&world, &hsm, &chip, BAD), ProblemKind::EvidenceRefused);
    assert!(problem.detail.contains("launched with 0808"), "{problem}");
    refused(token(&world, &key), ProblemKind::Suspended);
    refused(hsm.challenge(&world, &key), ProblemKind::Suspended);
    assert_eq!(world.alerts().len(), 1);
    // Repaired it may be: its device must be enrolled again first, and no second alert is raised meanwhile.
    for measured in [GOOD, BAD] {
        let problem = refused(give(&world, &hsm, &chip, measured), ProblemKind::EvidenceRefused);
        assert!(problem.detail.contains("keywitness evidence enrol"), "{problem}");
    }
    assert_eq!(world.alerts().len(), 1);
    // Not repaired: told once more, and the leave is gone.
    allow(&world, &hsm, None);
    refused(give(&world, &hsm, &chip, BAD), ProblemKind::EvidenceRefused);
    refused(give(&world, &hsm, &chip, GOOD), ProblemKind::EvidenceRefused);
    assert_eq!(world.alerts().len(), 2);
    // An operator who names the device lets no other in.
    allow(&world, &hsm, Some(chip.device()));
    refused(give(&world, &hsm, &spare, GOOD), ProblemKind::EvidenceRefused);
    give(&world, &hsm, &chip, GOOD).unwrap();
    hsm.attest(&world, "eu", &key).unwrap();
    assert_eq!(said(&world, &key), (Tier::Affirming, "platform".to_owned(), false));
}

#[test]
fn a_suspension_by_anybody_else_is_not_lifted_by_evidence() {
    let (world, hsm, key, [chip, _]) = site(Required::Nobody);
    let target = keywitness_verifier::wire::RevocationTarget::Hsm(hsm.id.clone());
    let request = keywitness_verifier::wire::RevokeRequest { target, reason: "looked into".into() };
    world.manager.suspend(&Caller::in_process(), &request).unwrap();
    refused(give(&world, &hsm, &chip, BAD), ProblemKind::EvidenceRefused);
    allow(&world, &hsm, None);
    give(&world, &hsm, &chip, GOOD).unwrap();
    refused(hsm.challenge(&world, &key), ProblemKind::Suspended);
    // A revoked one gives none at all.
    world.revoke_hsm(&hsm);
    refused(challenge(&world, &hsm, None), ProblemKind::HsmRevoked);
}

#[test]
fn evidence_of_an_enrolment_before_and_of_a_policy_that_is_gone_counts_no_more() {
    let (world, hsm, key, [chip, _]) = site(Required::Everyone);
    give(&world, &hsm, &chip, GOOD).unwrap();
    assert!(!said(&world, &key).2);
    accept(&world, None, Required::Nobody);
    assert_eq!(said(&world, &key), (Tier::Affirming, "not-evidenced".to_owned(), false));
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Missing);
    accept(&world, Some(&chip.policy()), Required::Everyone);
    assert!(!said(&world, &key).2);
    // A policy that lists something else: what was listed then says nothing now.
    let mut narrower = chip.policy();
    narrower.sev_snp.as_mut().unwrap().measurements = vec![SnpMeasurement::Launch(Bytes(vec![7; 48]))];
    accept(&world, Some(&narrower), Required::Everyone);
    assert!(said(&world, &key).2);
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Stale);
    accept(&world, Some(&chip.policy()), Required::Everyone);
    assert!(!said(&world, &key).2);
    let request = keywitness_verifier::wire::JoinTokenRequest {
        cluster: "eu".parse().unwrap(),
        hsm: Some(hsm.id.clone()),
        reenrol: true,
        valid_for: 600,
    };
    let secret = world.manager.create_join_token(&Caller::in_process(), &request).unwrap().secret;
    let again = TestHsm::new("hsm-1");
    again.enrol(&world, &secret).unwrap();
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Missing);
    let given = challenge(&world, &again, None).unwrap();
    submit(&world, &again, &given, &chip.evidence(&context(&world, &again, 2, &given), GOOD)).unwrap();
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Good);
}

#[test]
fn evidence_of_a_key_must_name_a_key_that_was_enrolled() {
    let (world, hsm, key, [chip, _]) = site(Required::Nobody);
    let unknown = KeyRef { key: "unknown".parse().unwrap(), epoch: 1 };
    refused(challenge(&world, &hsm, Some(unknown)), ProblemKind::UnknownKey);
    let secret = TestKey::aes256("secret", 7);
    hsm.enrol_key(&world, &secret).unwrap();
    refused(challenge(&world, &hsm, Some(secret.key)), ProblemKind::Malformed);
    // A report names no key: it is of the platform, and cannot stand for the key.
    let given = challenge(&world, &hsm, Some(key.key.clone())).unwrap();
    let audience = world.manager.audience().clone();
    let context = EvidenceContext {
        trust_domain: audience.trust_domain,
        manager: audience.manager,
        cluster: "eu".parse().unwrap(),
        hsm: hsm.id.clone(),
        enrolment: 1,
        identity_key: Digest(hsm.identity.verifying_key().to_bytes()),
        key: Some(key.key.clone()),
        nonce: given.nonce,
    };
    let problem =
        refused(submit(&world, &hsm, &given, &chip.evidence(&context.digest(), GOOD)), ProblemKind::EvidenceRefused);
    assert!(problem.detail.contains("does not name the key"), "{problem}");
    // That is lost for the key alone.
    give(&world, &hsm, &chip, GOOD).unwrap();
    assert_eq!(said(&world, &key), (Tier::Affirming, "platform".to_owned(), false));
}

#[test]
fn what_was_refused_long_ago_stands_no_more_than_what_was_good() {
    let (world, hsm, _, [chip, _]) = site(Required::Everyone);
    refused(give(&world, &hsm, &chips([5])[0], GOOD), ProblemKind::EvidenceRefused);
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Refused);
    world.advance(HOUR as i64);
    assert_eq!(standing(&world, &hsm).standing, EvidenceStanding::Missing);
    assert_eq!(standing(&world, &hsm).demoted, 1);
    give(&world, &hsm, &chip, GOOD).unwrap();
    assert_eq!(standing(&world, &hsm).demoted, 0);
}

#[test]
fn a_suspension_that_somebody_takes_over_is_theirs() {
    let (world, hsm, key, [chip, _]) = site(Required::Nobody);
    refused(give(&world, &hsm, &chip, BAD), ProblemKind::EvidenceRefused);
    let target = keywitness_verifier::wire::RevocationTarget::Hsm(hsm.id.clone());
    let request = keywitness_verifier::wire::RevokeRequest { target, reason: "looked into".into() };
    assert_eq!(world.manager.suspend(&Caller::in_process(), &request).unwrap().by, "this process");
    allow(&world, &hsm, None);
    give(&world, &hsm, &chip, GOOD).unwrap();
    refused(hsm.challenge(&world, &key), ProblemKind::Suspended);
}

#[test]
fn a_tpm_is_never_believed_for_an_operators_leave_alone() {
    use keywitness_verifier::evidence::{Tpm2Policy, tpm2};
    // Software that says that it is a TPM: the verifier's sample, of a real quote, whose endorsement nobody checked.
    let part = |name: &str| {
        let path = format!("{}/../verifier/tests/evidence/tpm2/ecc.{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    };
    let parts = vec![part("ak-public"), part("quote"), part("quote-signature"), part("pcrs"), vec![], vec![], vec![]];
    let device = tpm2::device_of(&parts[0]).unwrap();
    let evidence = Evidence::new(Format::Tpm2, parts).unwrap();
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let policy = EvidencePolicy { tpm2: Some(Tpm2Policy::default()), ..EvidencePolicy::default() };
    accept(&world, Some(&policy), Required::Nobody);
    for named in [None, Some(device.clone())] {
        allow(&world, &hsm, named);
        let given = challenge(&world, &hsm, None).unwrap();
        let problem = refused(submit(&world, &hsm, &given, &evidence), ProblemKind::EvidenceRefused);
        assert!(problem.detail.contains(&format!("of device {device}")), "{problem}");
        assert_eq!(standing(&world, &hsm).device, None);
    }
}

#[test]
fn no_device_is_enrolled_without_an_operators_leave() {
    let (world, hsm, _, [chip, spare]) = site(Required::Nobody);
    give(&world, &hsm, &chip, GOOD).unwrap();
    assert_eq!(standing(&world, &hsm).device, None);
    give(&world, &hsm, &spare, GOOD).unwrap();
    allow(&world, &hsm, None);
    world.advance(600);
    give(&world, &hsm, &chip, GOOD).unwrap();
    assert_eq!(standing(&world, &hsm).device, None);
    // An answer to a credential that nobody offered.
    let answer = CredentialAnswer { answer: Base64(vec![0; 32]) };
    refused(world.manager.answer_credential(&hsm.call(&world), &answer), ProblemKind::UnknownChallenge);
    // Once: the next leave is another's to give.
    allow(&world, &hsm, None);
    give(&world, &hsm, &chip, GOOD).unwrap();
    assert_eq!(standing(&world, &hsm).device.unwrap().device, chip.device());
    refused(give(&world, &hsm, &spare, GOOD), ProblemKind::EvidenceRefused);
    assert_eq!(standing(&world, &hsm).may_enrol_until, None);
}

#[test]
fn of_two_hsms_with_one_device_the_later_is_told_of() {
    let (world, hsm, _, [chip, _]) = site(Required::Nobody);
    let other = world.hsm("hsm-2", "eu");
    let enrol = |hsm: &TestHsm| {
        allow(&world, hsm, Some(chip.device()));
        give(&world, hsm, &chip, GOOD).unwrap();
    };
    // Its own device, again, is nobody else's.
    enrol(&hsm);
    enrol(&hsm);
    assert!(world.alerts().is_empty());
    enrol(&other);
    let shared = EventKind::SharedDevice { hsm: other.id.clone(), earlier: hsm.id.clone(), device: chip.device() };
    assert_eq!(world.alerts(), [shared]);
    // One that is revoked has it no longer: its successor is no fraud.
    world.revoke_hsm(&hsm);
    world.revoke_hsm(&other);
    enrol(&world.hsm("hsm-3", "eu"));
    assert_eq!(world.alerts().len(), 1);
}

#[test]
fn an_audit_appraises_evidence_again() {
    let world = World::new();
    bustle(&world);
    let log = log_of(&world);
    audit(&log).unwrap();
}
