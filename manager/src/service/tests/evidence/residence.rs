//! What a token says of where its key lives.

use keywitness_verifier::evidence::{Binding, Facts, Summary, TrustVector};

use super::*;
use crate::ledger::{
    Outcome,
    apply::evidence::asked,
    state::{HsmRow, State, evidence::Json, key},
};

/// A manager whose appraisal of evidence of this key came to this.
fn appraised(world: &World, hsm: &TestHsm, (about, chip): (&TestKey, &Chip), found: Summary) {
    let given = challenge(world, hsm, Some(about.key.clone())).unwrap();
    let evidence = chip.evidence(&context(world, hsm, 1, &given), GOOD).to_bytes();
    let rows = world.manager.ledger.view().unwrap();
    let row: HsmRow = State(rows.as_ref()).need(&key::hsm(&hsm.id)).unwrap();
    let asked = asked(State(rows.as_ref()), &row, &given.nonce, world.now()).unwrap().unwrap();
    let mut verdict = asked.appraise(&evidence, world.now());
    verdict.found = Ok(Json(found));
    let outcome = world.manager.ledger.submit(Command::PresentEvidence {
        request: Digest(Sha256::digest(given.nonce.0).into()),
        hsm: hsm.id.clone(),
        enrolment: 1,
        nonce: given.nonce,
        evidence,
        verdict: Box::new(verdict),
    });
    assert_eq!(outcome.unwrap(), Outcome::Done);
}

/// The claims of a key's token that this test is about, the tier that they come to, and the evidence it names.
fn stated(world: &World, key: &TestKey) -> (Tier, [i8; 3], String, Option<bool>) {
    let token = token(world, key).unwrap();
    let (appraisal, vector) = (token.appraisal(), &token.appraisal().ear_trustworthiness_vector);
    let claims = ["configuration", "runtime-opaque", "storage-opaque"];
    let claims = claims.map(|name| vector.get(name).copied().unwrap_or_default());
    let extractable = appraisal.attestation.evidence.as_ref().unwrap().extractable;
    (appraisal.ear_status, claims, appraisal.attestation.residence.clone(), extractable)
}

#[test]
fn a_platform_that_is_good_hides_nothing_of_what_is_said_of_the_key() {
    let (world, hsm, key, [chip, _]) = site(Required::Everyone);
    let platform = give(&world, &hsm, &chip, GOOD).unwrap().appraisal;
    assert_eq!(stated(&world, &key), (Tier::Affirming, [2, 2, 0], "platform".to_owned(), None));
    let of_key = |binding, (configuration, storage_opaque), extractable| {
        let trust = TrustVector { hardware: 2, configuration, storage_opaque, ..TrustVector::default() };
        let facts = Facts { extractable: Some(extractable), ..platform.facts.clone() };
        let summary = Summary { binding, trust, names_key: true, facts, ..platform.clone() };
        appraised(&world, &hsm, (&key, &chip), summary);
        stated(&world, &key)
    };
    let of = |tier, claims, residence: &str, extractable| (tier, claims, residence.to_owned(), extractable);
    // It may leave its device, or was imported: whether the device says so today or said so once.
    let told = of_key(Binding::Context, (2, 32), true);
    assert_eq!(told, of(Tier::Warning, [2, 0, 32], "key", Some(true)));
    let told = of_key(Binding::Key, (36, 32), true);
    assert_eq!(told, of(Tier::Warning, [36, 0, 32], "key", Some(true)));
    // Something is wrong with the device itself.
    let told = of_key(Binding::Context, (32, 2), false);
    assert_eq!(told, of(Tier::Warning, [32, 0, 2], "key", Some(false)));
    // No challenge is in it, and it says nothing else that warns: the platform's has one.
    assert_eq!(of_key(Binding::Key, (36, 2), false), of(Tier::Affirming, [2, 2, 0], "platform", None));
    assert_eq!(of_key(Binding::Context, (2, 2), false), of(Tier::Affirming, [2, 0, 2], "key", Some(false)));
}

#[test]
fn a_key_that_is_well_kept_hides_nothing_of_what_is_said_of_the_platform() {
    let (world, hsm, key, [chip, _]) = site(Required::Everyone);
    let mut policy = chip.policy();
    policy.sev_snp.as_mut().unwrap().measurements = vec![SnpMeasurement::Launch(Bytes(vec![GOOD; 48]))];
    accept(&world, Some(&policy), Required::Everyone);
    let platform = give(&world, &hsm, &chip, GOOD).unwrap().appraisal;
    // What its host had it boot is not known.
    assert_eq!(stated(&world, &key), (Tier::Warning, [36, 2, 0], "platform".to_owned(), None));
    assert!(!token(&world, &key).unwrap().appraisal().ear_trustworthiness_vector.contains_key("executables"));
    let trust = TrustVector { hardware: 2, configuration: 2, storage_opaque: 2, ..TrustVector::default() };
    let facts = Facts { extractable: Some(false), ..platform.facts.clone() };
    let summary = Summary { trust, names_key: true, facts, ..platform };
    appraised(&world, &hsm, (&key, &chip), summary);
    assert_eq!(stated(&world, &key), (Tier::Warning, [36, 0, 2], "key".to_owned(), Some(false)));
}

#[test]
fn a_token_says_that_the_hsm_is_known_and_not_that_its_device_is() {
    let (world, hsm, key, [chip, _]) = site(Required::Nobody);
    let identity = |token: VerifiedToken| token.appraisal().ear_trustworthiness_vector["instance-identity"];
    for enrolled in [0, 2] {
        let record = give(&world, &hsm, &chip, GOOD).unwrap();
        assert_eq!((record.appraisal.trust.instance_identity, identity(token(&world, &key).unwrap())), (enrolled, 2));
        allow(&world, &hsm, Some(chip.device()));
        give(&world, &hsm, &chip, GOOD).unwrap();
    }
}
