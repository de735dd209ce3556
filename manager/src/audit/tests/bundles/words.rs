//! Tokens that say more than the log does.

use keywitness_circuits::{Digest, KeyAlgorithm};
use keywitness_verifier::{
    bundle::Bundle,
    token::{Appraisal, Claims, DerivedFrom},
    wire::{Agreement, Base64},
};

use super::{AUDIENCE, Case, checker, claims, log_of, proven, refused, token};
use crate::{
    audit::bundle::{Question, check, gather},
    service::{
        testing::{TestHsm, TestKey, World},
        tests::{evidence, statements},
    },
    signer::tests::sign_in_test,
};

#[test]
fn a_token_that_says_more_than_the_log_is_found() {
    type Change = fn(&mut keywitness_verifier::token::KeyAttestation);
    let changes: [(Change, &str); 6] = [
        (|it| it.key.key = "other".parse().unwrap(), "record"),
        (|it| it.statements[0].fingerprint.bytes = Digest([1; 32]), "record"),
        (|it| it.statements[0].proven_at = it.statements[0].proven_at.plus(1), "record"),
        (|it| it.statements[0].expires_at = it.statements[0].expires_at.plus(3600), "record"),
        (|it| it.enrolment = 2, "enrolment"),
        (|it| it.cluster = "us".parse().unwrap(), "enrolment"),
    ];
    for (change, words) in changes {
        let mut case = Case::new();
        case.say(|claims| change(&mut claims.submods.values_mut().next().unwrap().attestation));
        refused(case.check(&case.bundle()), words);
    }
    type Say = fn(&mut Claims);
    fn appraisal(claims: &mut Claims) -> &mut Appraisal {
        claims.submods.values_mut().next().unwrap()
    }
    let changes: [(Say, &str); 8] = [
        (
            |it| appraisal(it).ear_veraison_key_attestation.as_mut().unwrap().akpub = Base64(another_public_key()),
            "public key: the token's public key is not that of the key that was proven",
        ),
        (|it| appraisal(it).ear_veraison_key_attestation = None, "public key: "),
        (|it| it.submods = [("other".to_owned(), appraisal(it).clone())].into(), "appraisal: it is named"),
        (|it| appraisal(it).ear_trustworthiness_vector.extend([("hardware".to_owned(), 2)]), "trustworthiness vector"),
        (|it| appraisal(it).attestation.residence = "hardware".to_owned(), "residence"),
        (|it| appraisal(it).attestation.statements[0].development_parameters = true, "parameters: nobody made any"),
        (|it| appraisal(it).attestation.agreement = Some(Agreement::of(3)), "the key has no tags"),
        (|it| appraisal(it).attestation.derived_from = Some(from_itself(it)), "master key: the token derives the key"),
    ];
    for (change, words) in changes {
        let mut case = Case::new();
        case.say(change);
        refused(case.check(&case.bundle()), words);
    }
    let mut case = Case::new();
    case.say(|claims| claims.cnf.jwk = keywitness_verifier::token::ChannelJwk::new(&[9; 32]));
    refused(case.check(&case.bundle()), "another channel key");
    let mut case = Case::new();
    case.say(|claims| {
        claims.submods.values_mut().next().unwrap().attestation.algorithm = KeyAlgorithm::P256;
    });
    refused(case.check(&case.bundle()), "other attributes");
}

/// The public key of somebody else.
fn another_public_key() -> Vec<u8> {
    TestKey::ed25519("k", 9).instance().spki().unwrap().unwrap()
}

fn from_itself(claims: &Claims) -> DerivedFrom {
    let attestation = &claims.submods.values().next().unwrap().attestation;
    DerivedFrom { key: attestation.key.clone(), statements: attestation.statements.clone() }
}

/// A case of a key that something else attested.
fn case_of(name: &str, bustle: fn(&World)) -> Case {
    let world = World::new();
    bustle(&world);
    let key = TestKey::aes256(name, 1);
    let (log, token) = (log_of(&world), token(&world, &key));
    Case { world, hsm: TestHsm::new("x-1"), other: TestHsm::new("x-2"), key, log, token }
}

#[test]
fn a_derived_key_names_its_master_and_no_other() {
    let mut case = case_of("daily", statements::bustle_of_derivation);
    case.check(&case.bundle()).unwrap();
    let honest = case.claims();
    case.say(|claims| claims.submods.values_mut().next().unwrap().attestation.derived_from = None);
    refused(case.check(&case.bundle()), "master key: the key is derived, and the token does not say from what");
    case.token = sign_in_test(case.world.directory.path(), &honest);
    case.say(|claims| {
        let itself = from_itself(claims);
        claims.submods.values_mut().next().unwrap().attestation.derived_from = Some(itself);
    });
    refused(case.check(&case.bundle()), "master key: the key is derived from more than one key, or from itself");
    // The master is not derived from the derived key.
    let other = honest.submods.into_values().next().unwrap().attestation;
    case.key = TestKey::aes256("master", 1);
    case.token = token(&case.world, &case.key);
    case.say(|claims| {
        let from = DerivedFrom { key: other.key, statements: other.statements };
        claims.submods.values_mut().next().unwrap().attestation.derived_from = Some(from);
    });
    let bundle = Bundle { token: case.token.clone(), ..case_bundle_of(&case, "daily") };
    refused(case.check(&bundle), "master key: the token derives the key from daily");
}

/// A bundle with the entries of another key's token.
fn case_bundle_of(case: &Case, name: &str) -> Bundle {
    let claims = claims(&token(&case.world, &TestKey::aes256(name, 1)));
    let gathered = gather(case.world.store.view().unwrap().as_ref(), &claims).unwrap();
    Bundle { entries: proven(&case.log, &gathered, &[1, 2]), ..case.bundle() }
}

#[test]
fn who_agrees_on_tags_is_the_managers_word_and_marked() {
    let mut case = case_of("mac", statements::bustle_of_agreement);
    let bundle = case.bundle();
    case.check(&bundle).unwrap();
    let (anchors, at) = (case.anchors(), bundle.as_of);
    let found = check(&bundle, &Question { anchors: &anchors, checker: checker(), at, audience: AUDIENCE });
    let agreement = found.iter().find(|finding| finding.what == "agreement").unwrap();
    assert!(agreement.result.as_ref().unwrap().contains("agreed(2): the manager's word"), "{agreement:?}");
    for (agreement, words) in [(None, "the token names none"), (Some(Agreement::of(1)), "nobody else agrees")] {
        case.say(|claims| claims.submods.values_mut().next().unwrap().attestation.agreement = agreement);
        refused(case.check(&case.bundle()), words);
    }
}

/// A case whose token rests on evidence of its HSM.
fn evident() -> Case {
    let mut case = Case::new();
    evidence::one_that_is_good(&case.world, &case.hsm);
    case.token = token(&case.world, &case.key);
    case.log = log_of(&case.world);
    case
}

#[test]
fn a_token_that_rests_on_evidence_is_shown_with_it() {
    let case = evident();
    let bundle = case.bundle();
    assert_eq!(bundle.entries.len(), 5);
    case.check(&bundle).unwrap();
    // Without the entry, and with evidence that was given since in its place.
    let mut fewer = bundle.clone();
    fewer.entries.pop();
    refused(case.check(&fewer), "evidence: the bundle has no entry with the evidence");
    type Change = fn(&mut Appraisal);
    let changes: [(Change, &str); 7] = [
        (|it| it.attestation.residence = "key".to_owned(), "residence"),
        (|it| it.attestation.evidence = None, "trustworthiness vector"),
        (|it| it.attestation.evidence.as_mut().unwrap().digest = Digest([1; 32]), "no entry with the evidence"),
        (|it| it.attestation.evidence.as_mut().unwrap().device = Some("sev-snp:00".to_owned()), "says more"),
        (|it| it.attestation.evidence.as_mut().unwrap().extractable = Some(false), "says more"),
        (|it| it.attestation.evidence.as_mut().unwrap().appraised_at.0 += 60, "says more"),
        (|it| it.ear_trustworthiness_vector.extend([("storage-opaque".to_owned(), 2)]), "trustworthiness vector"),
    ];
    for (change, words) in changes {
        let mut case = evident();
        case.say(|claims| change(claims.submods.values_mut().next().unwrap()));
        refused(case.check(&case.bundle()), words);
    }
}
