//! Tagged keys, beacon rounds and agreement; derived keys and their masters.

use keywitness_circuits::{
    Instance, KeyAlgorithm, KeyAttributes, KeyOrigin, Nonce, Suite, key_derivation, key_knowledge, tagged_key,
};
use keywitness_verifier::{
    token::Tier,
    wire::{
        AttestationState, Challenge, EventKind, HsmKeyStatus, KeyQuery, KeyRef, ProblemKind, Record, RevocationTarget,
        TokenRequest,
    },
};

use super::super::testing::{Caller, Subject, TestHsm, World, refused};
use keywitness_verifier::wire::Problem;

const CMAC: KeyAlgorithm = KeyAlgorithm::Aes256Cmac;

fn key(name: &str, epoch: u32) -> KeyRef {
    KeyRef { key: name.parse().unwrap(), epoch }
}

fn attributes(algorithm: KeyAlgorithm, origin: KeyOrigin) -> KeyAttributes {
    KeyAttributes::new(algorithm, origin, false)
}

fn tags(secret: u8, beacon: &Nonce) -> tagged_key::Witness {
    tagged_key::Witness::of_key(CMAC, &[secret; 32], &"acme.example".parse().unwrap(), beacon).unwrap()
}

/// A token's key, by its identifier.
fn tagged(secret: u8) -> Subject {
    let trust_domain = "acme.example".parse().unwrap();
    let instance = tags(secret, &Nonce([0; 32])).instance(&trust_domain, CMAC, &Nonce([0; 32])).unwrap();
    let enrolled = instance.identifier().into();
    Subject { key: key("mac", 1), attributes: attributes(CMAC, KeyOrigin::Generated), enrolled }
}

/// The instance and the witness that answer `beacon`.
fn round(witness: tagged_key::Witness, beacon: &Nonce) -> (Instance, keywitness_circuits::Witness) {
    let instance = witness.instance(&"acme.example".parse().unwrap(), CMAC, beacon).unwrap();
    (instance.into(), witness.into())
}

fn attest(world: &World, hsm: &TestHsm, secret: u8) -> Result<(Challenge, Record), Problem> {
    let challenge = tagged(secret).challenge(world, hsm)?;
    let beacon = challenge.beacon.unwrap();
    let (instance, witness) = round(tags(secret, &beacon), &beacon);
    let record = tagged(secret).answer((world, hsm, "payments"), &challenge, (&instance, &witness))?;
    Ok((challenge, record))
}

fn status(world: &World, name: &str, hsm: &TestHsm) -> HsmKeyStatus {
    let query = KeyQuery { key: name.parse().unwrap(), cluster: None, hsm: Some(hsm.id.clone()), max_age: None };
    world.manager.attested(&Caller::in_process(), &query).unwrap().hsms.remove(0)
}

fn agreement(world: &World, hsm: &TestHsm) -> String {
    status(world, "mac", hsm).statements[0].agreement.unwrap().to_string()
}

/// Puts a tagged key that was attested into a world.
pub(crate) fn bustle(world: &World) {
    let hsm = world.hsm("token-1", "payments");
    tagged(7).enrol(world, &hsm).unwrap();
    attest(world, &hsm, 7).unwrap();
}

/// An answer by an HSM that has the identifier's tag, and not the key: it can open the identifier, and must make the answer up.
fn lie(world: &World, liar: &TestHsm, made_up: u8) {
    let challenge = tagged(7).challenge(world, liar).unwrap();
    let beacon = challenge.beacon.unwrap();
    let message = tagged_key::identifier_message(&"acme.example".parse().unwrap());
    let identifier = tagged_key::cmac(CMAC, &[7; 32], &message).unwrap();
    let witness = tagged_key::Witness::from_tags(&identifier, &[made_up; 16]);
    let (instance, witness) = round(witness, &beacon);
    tagged(7).answer((world, liar, "payments"), &challenge, (&instance, &witness)).unwrap();
}

/// An honest HSM with a tagged key, and one that lies about it.
pub(crate) fn differing_tags(world: &World) {
    let [honest, liar] = ["honest", "liar"].map(|name| world.hsm(name, "payments"));
    [&honest, &liar].into_iter().for_each(|hsm| tagged(7).enrol(world, hsm).unwrap());
    attest(world, &honest, 7).unwrap();
    lie(world, &liar, 1);
}

#[test]
fn hsms_that_answer_one_beacon_alike_agree() {
    let world = World::new();
    let hsms = ["hsm-1", "hsm-2", "hsm-3"].map(|name| world.hsm(name, "payments"));
    let mut beacons = Vec::new();
    for (hsm, agreed) in hsms.iter().zip(["self-asserted", "agreed(2)", "agreed(3)"]) {
        tagged(7).enrol(&world, hsm).unwrap();
        let (challenge, record) = attest(&world, hsm, 7).unwrap();
        beacons.push(challenge.beacon.unwrap());
        assert_eq!(record.fingerprint.suite, Suite::Halo2PastaTag);
        assert_eq!(agreement(&world, hsm), agreed);
        assert_eq!(status(&world, "mac", hsm).state, AttestationState::Attested);
    }
    assert!(beacons.iter().all(|beacon| *beacon == beacons[0]), "one round has one beacon");
    assert_eq!(agreement(&world, &hsms[0]), "agreed(3)");

    // While a new round begins, the one before still counts; once records expire, it does not.
    world.advance(600);
    let (challenge, _) = attest(&world, &hsms[0], 7).unwrap();
    assert_ne!(challenge.beacon.unwrap(), beacons[0]);
    assert_eq!(agreement(&world, &hsms[0]), "self-asserted");
    attest(&world, &hsms[1], 7).unwrap();
    assert_eq!(agreement(&world, &hsms[0]), "agreed(2)");

    // A revoked HSM vouches for nobody.
    world.revoke_hsm(&hsms[1]);
    assert_eq!(agreement(&world, &hsms[0]), "self-asserted");
    assert_eq!(world.alerts(), []);
}

#[test]
fn a_rolling_round_splits_no_cluster() {
    let world = World::new();
    let hsms = ["hsm-1", "hsm-2"].map(|name| world.hsm(name, "payments"));
    hsms.iter().for_each(|hsm| tagged(7).enrol(&world, hsm).unwrap());
    world.advance(1);
    attest(&world, &hsms[0], 7).unwrap();
    world.advance(400);
    hsms.iter().for_each(|hsm| drop(attest(&world, hsm, 7).unwrap()));
    world.advance(250);
    // The round is over; the first HSM has moved on, the second's record of the old round holds.
    attest(&world, &hsms[0], 7).unwrap();
    assert_eq!(agreement(&world, &hsms[0]), "agreed(2)");
    assert_eq!(agreement(&world, &hsms[1]), "agreed(2)");
}

#[test]
fn another_tag_of_the_same_beacon_is_told() {
    let world = World::new();
    let [honest, liar] = ["hsm-1", "hsm-2"].map(|name| world.hsm(name, "payments"));
    [&honest, &liar].into_iter().for_each(|hsm| tagged(7).enrol(&world, hsm).unwrap());
    attest(&world, &honest, 7).unwrap();
    for made_up in [1, 1, 2] {
        lie(&world, &liar, made_up);
    }
    let alerts = world.alerts();
    assert_eq!(alerts.len(), 2, "the same answer again is told once: {alerts:?}");
    let EventKind::TagsDiffer { earlier, later, .. } = &alerts[0] else { panic!("{alerts:?}") };
    assert_eq!((&earlier.hsm, &later.hsm), (&honest.id, &liar.id));
    assert_eq!(agreement(&world, &honest), "self-asserted");
    assert_eq!(agreement(&world, &liar), "self-asserted");
}

#[test]
fn only_the_challenges_beacon_and_the_enrolled_identifier_are_answered() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "payments");
    tagged(7).enrol(&world, &hsm).unwrap();
    let foreign = Nonce([9; 32]);
    let challenge = tagged(7).challenge(&world, &hsm).unwrap();
    let (instance, witness) = round(tags(7, &foreign), &foreign);
    let answered = tagged(7).answer((&world, &hsm, "payments"), &challenge, (&instance, &witness));
    refused(answered, ProblemKind::ContextMismatch);

    let challenge = tagged(7).challenge(&world, &hsm).unwrap();
    let beacon = challenge.beacon.unwrap();
    let (instance, witness) = round(tags(8, &beacon), &beacon);
    let answered = tagged(7).answer((&world, &hsm, "payments"), &challenge, (&instance, &witness));
    refused(answered, ProblemKind::ContextMismatch);
    assert_eq!(status(&world, "mac", &hsm).statements[0].agreement, None);
}

#[test]
fn a_self_asserted_key_is_not_affirmed() {
    let world = World::new();
    let hsms = ["hsm-1", "hsm-2"].map(|name| world.hsm(name, "payments"));
    hsms.iter().for_each(|hsm| tagged(7).enrol(&world, hsm).unwrap());
    attest(&world, &hsms[0], 7).unwrap();
    let tier = || {
        let query = KeyQuery { key: "mac".parse().unwrap(), cluster: None, hsm: None, max_age: None };
        let request =
            TokenRequest { query, audience: "shop".to_owned(), nonce: Nonce([1; 32]), form: Default::default() };
        let token = world.manager.issue_token(&Caller::in_process(), &request).unwrap().token;
        let expected = keywitness_verifier::token::Expected {
            trust_domain: &"acme.example".parse().unwrap(),
            audience: "shop",
            nonce: None,
        };
        keywitness_verifier::token::verify(&token, &world.manager.jwks().unwrap(), &expected, world.now())
    };
    assert_eq!(tier().unwrap_err(), keywitness_verifier::token::TokenError::NotAffirming(Tier::Warning));
    attest(&world, &hsms[1], 7).unwrap();
    let agreement = tier().unwrap().appraisal().attestation.agreement.unwrap();
    assert_eq!(agreement.hsms(), 2);
}

const MASTER: [u8; 32] = [5; 32];

fn master(suite: Suite) -> (Subject, keywitness_circuits::Witness) {
    let witness = key_knowledge::Witness::new(KeyAlgorithm::Aes256, &MASTER).unwrap();
    let enrolled = witness.instance(&"acme.example".parse().unwrap(), suite).unwrap().into();
    let attributes = attributes(KeyAlgorithm::Aes256, KeyOrigin::Generated);
    (Subject { key: key("master", 1), attributes, enrolled }, witness.into())
}

fn derived(secret: [u8; 32], epoch: u32) -> (Subject, keywitness_circuits::Witness) {
    let witness = key_derivation::Witness::new(KeyAlgorithm::Aes256, &secret).unwrap();
    let target = key_derivation::Target { key: "daily".parse().unwrap(), algorithm: KeyAlgorithm::Aes128, epoch };
    let enrolled = witness.instance(&"acme.example".parse().unwrap(), &target).unwrap().into();
    let attributes = attributes(KeyAlgorithm::Aes128, KeyOrigin::Derived);
    (Subject { key: key("daily", epoch), attributes, enrolled }, witness.into())
}

fn prove(world: &World, hsm: &TestHsm, (subject, witness): &(Subject, keywitness_circuits::Witness)) -> Record {
    let challenge = subject.challenge(world, hsm).unwrap();
    subject.answer((world, hsm, "payments"), &challenge, (&subject.enrolled, witness)).unwrap()
}

/// An HSM with an attested key, and another that is derived from it, as attested: `master` and `daily`.
pub(crate) fn bustle_of_derivation(world: &World) {
    let hsm = world.hsm("hsm-1", "payments");
    for subject in [master(Suite::Halo2Pasta), derived(MASTER, 1)] {
        subject.0.enrol(world, &hsm).unwrap();
        prove(world, &hsm, &subject);
    }
}

/// Two HSMs that agree on the tags of a key, `mac`.
pub(crate) fn bustle_of_agreement(world: &World) {
    for name in ["hsm-1", "hsm-2"] {
        let hsm = world.hsm(name, "payments");
        tagged(7).enrol(world, &hsm).unwrap();
        attest(world, &hsm, 7).unwrap();
    }
}

#[test]
fn a_derived_key_rotates_while_its_masters_attestation_carries_on() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "payments");
    refused(derived(MASTER, 1).0.enrol(&world, &hsm), ProblemKind::UnknownKey);
    let master = master(Suite::Halo2Pasta);
    master.0.enrol(&world, &hsm).unwrap();
    for epoch in [1, 2, 3] {
        let daily = derived(MASTER, epoch);
        daily.0.enrol(&world, &hsm).unwrap();
        prove(&world, &hsm, &daily);
        let expected = if epoch == 1 { AttestationState::Unproven } else { AttestationState::Attested };
        assert_eq!(status(&world, "daily", &hsm).state, expected, "no better than its master");
        if epoch == 1 {
            prove(&world, &hsm, &master);
            assert_eq!(status(&world, "daily", &hsm).state, AttestationState::Attested);
        }
    }
    let query = KeyQuery { key: "daily".parse().unwrap(), cluster: None, hsm: None, max_age: None };
    let request = TokenRequest { query, audience: "shop".to_owned(), nonce: Nonce([1; 32]), form: Default::default() };
    let issued = world.manager.issue_token(&Caller::in_process(), &request).unwrap();
    let expected = keywitness_verifier::token::Expected {
        trust_domain: &"acme.example".parse().unwrap(),
        audience: "shop",
        nonce: None,
    };
    let token =
        keywitness_verifier::token::verify(&issued.token, &world.manager.jwks().unwrap(), &expected, world.now())
            .unwrap();
    let from = token.appraisal().attestation.derived_from.clone().unwrap();
    assert_eq!((from.key, from.statements.len()), (key("master", 1), 1));
    assert_eq!(world.alerts(), []);

    world.revoke(RevocationTarget::Key { cluster: "payments".parse().unwrap(), key: "master".parse().unwrap() });
    assert_eq!(status(&world, "daily", &hsm).state, AttestationState::Revoked, "it falls with its master");
    refused(derived(MASTER, 3).0.challenge(&world, &hsm), ProblemKind::KeyRevoked);
    refused(derived(MASTER, 4).0.enrol(&world, &hsm), ProblemKind::KeyRevoked);
}

#[test]
fn a_master_that_another_hsm_holds_is_nobodys_master_here() {
    let world = World::new();
    let [holder, other] = ["hsm-1", "hsm-2"].map(|name| world.hsm(name, "payments"));
    master(Suite::Halo2Pasta).0.enrol(&world, &holder).unwrap();
    refused(derived(MASTER, 1).0.enrol(&world, &other), ProblemKind::UnknownKey);
    refused(derived([6; 32], 1).0.enrol(&world, &holder), ProblemKind::UnknownKey);
    let mut misnamed = derived(MASTER, 1).0;
    misnamed.key.epoch = 2;
    assert!(misnamed.enrol(&world, &holder).is_err(), "the epoch is part of the derivation");
}

#[test]
fn a_derived_key_does_not_come_back_under_another_origin_once_its_master_is_revoked() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "payments");
    let master = master(Suite::Halo2Pasta);
    master.0.enrol(&world, &hsm).unwrap();
    prove(&world, &hsm, &master);
    let daily = derived(MASTER, 1);
    daily.0.enrol(&world, &hsm).unwrap();
    prove(&world, &hsm, &daily);
    world.revoke(RevocationTarget::Key { cluster: "payments".parse().unwrap(), key: "master".parse().unwrap() });
    assert_eq!(status(&world, "daily", &hsm).state, AttestationState::Revoked);
    // The same material, now said to be imported, under the same name at the next epoch.
    let trust_domain = "acme.example".parse().unwrap();
    let target = key_derivation::Target { key: "daily".parse().unwrap(), algorithm: KeyAlgorithm::Aes128, epoch: 1 };
    let bytes = key_derivation::derive(&trust_domain, KeyAlgorithm::Aes256, &MASTER, &target).unwrap();
    let witness = key_knowledge::Witness::new(KeyAlgorithm::Aes128, &bytes).unwrap();
    let enrolled: Instance = witness.instance(&trust_domain, Suite::Halo2Pasta).unwrap().into();
    assert_eq!(enrolled.fingerprint().unwrap(), daily.0.enrolled.fingerprint().unwrap());
    let imported = attributes(KeyAlgorithm::Aes128, KeyOrigin::Imported);
    let plain = Subject { key: key("daily", 2), attributes: imported, enrolled };
    refused(plain.enrol(&world, &hsm), ProblemKind::KeyRevoked);
}

#[test]
fn agreement_on_an_older_round_does_not_hide_a_lie_in_the_newest() {
    let world = World::new();
    let [honest, liar] = ["hsm-1", "hsm-2"].map(|name| world.hsm(name, "payments"));
    [&honest, &liar].into_iter().for_each(|hsm| tagged(7).enrol(&world, hsm).unwrap());
    attest(&world, &honest, 7).unwrap();
    attest(&world, &liar, 7).unwrap();
    world.advance(601);
    attest(&world, &honest, 7).unwrap();
    let challenge = tagged(7).challenge(&world, &liar).unwrap();
    let beacon = challenge.beacon.unwrap();
    let message = tagged_key::identifier_message(&"acme.example".parse().unwrap());
    let identifier = tagged_key::cmac(CMAC, &[7; 32], &message).unwrap();
    let (instance, witness) = round(tagged_key::Witness::from_tags(&identifier, &[1; 16]), &beacon);
    tagged(7).answer((&world, &liar, "payments"), &challenge, (&instance, &witness)).unwrap();
    assert_eq!(world.alerts().len(), 1);
    assert_eq!(
        (agreement(&world, &honest).as_str(), agreement(&world, &liar).as_str()),
        ("self-asserted", "self-asserted")
    );
}

#[test]
fn a_failing_hsm_vouches_for_nobody() {
    let world = World::new();
    let [honest, other] = ["hsm-1", "hsm-2"].map(|name| world.hsm(name, "payments"));
    [&honest, &other].into_iter().for_each(|hsm| tagged(7).enrol(&world, hsm).unwrap());
    attest(&world, &honest, 7).unwrap();
    attest(&world, &other, 7).unwrap();
    let challenge = tagged(7).challenge(&world, &other).unwrap();
    let beacon = challenge.beacon.unwrap();
    let (instance, witness) = round(tags(8, &beacon), &beacon);
    let answered = tagged(7).answer((&world, &other, "payments"), &challenge, (&instance, &witness));
    refused(answered, ProblemKind::ContextMismatch);
    assert_eq!(status(&world, "mac", &other).state, AttestationState::Failing);
    assert_eq!(agreement(&world, &honest), "self-asserted");
}
