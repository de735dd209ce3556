//! Keys in a token that sign by ECDSA: what is enrolled of them, and that tokens say possession.

use keywitness_circuits::{
    Instance, KeyAlgorithm, KeyAttributes, KeyOrigin, Kind, Mechanisms, Nonce, Shown, TokenAttributes, Witness,
    key_knowledge, key_possession,
};
use keywitness_verifier::{
    token::{Expected, VerifiedToken, verify},
    wire::{KeyQuery, KeyRef, ProblemKind, TokenRequest},
};

use super::super::testing::{Caller, Subject, TestHsm, TestKey, World, refused};

fn in_token() -> KeyAttributes {
    let mechanisms = Mechanisms::new([0x1041]).unwrap();
    let token = TokenAttributes { sensitive: true, always_sensitive: true, never_extractable: true, mechanisms };
    KeyAttributes { token: Some(token), ..KeyAttributes::new(KeyAlgorithm::P256, KeyOrigin::Generated, false) }
}

fn witness() -> key_possession::Witness {
    key_possession::Witness::new(KeyAlgorithm::P256, &[7; 32]).unwrap()
}

/// A key that a token holds.
fn subject() -> Subject {
    let enrolled = witness().instance(&"acme.example".parse().unwrap()).unwrap().into();
    Subject { key: KeyRef { key: "signing".parse().unwrap(), epoch: 1 }, attributes: in_token(), enrolled }
}

fn attest(world: &World, hsm: &TestHsm) {
    let challenge = subject().challenge(world, hsm).unwrap();
    let proven: (Instance, Witness) = (subject().enrolled, witness().into());
    let record = subject().answer((world, hsm, "payments"), &challenge, (&proven.0, &proven.1)).unwrap();
    assert_eq!(record.statement, Kind::KeyPossessionP256);
}

/// A client's token for the key in one HSM, checked as the client checks it.
fn issued(world: &World, hsm: &TestHsm) -> VerifiedToken {
    let query = KeyQuery { key: "signing".parse().unwrap(), cluster: None, hsm: Some(hsm.id.clone()), max_age: None };
    let audience = "https://shop.example";
    let request =
        TokenRequest { query, audience: audience.to_owned(), nonce: Nonce::random(), form: Default::default() };
    let response = world.manager.issue_token(&Caller::in_process(), &request).unwrap();
    let trust_domain = "acme.example".parse().unwrap();
    let expected = Expected { trust_domain: &trust_domain, audience, nonce: Some(&request.nonce) };
    verify(&response.token, &world.manager.jwks().unwrap(), &expected, world.now()).unwrap()
}

#[test]
fn a_token_says_possession() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "payments");
    subject().enrol(&world, &hsm).unwrap();
    attest(&world, &hsm);
    // The same key, known to software of the same cluster: one fingerprint, and no alarm.
    let software = world.hsm("hsm-2", "payments");
    let known = TestKey::new("signing", KeyAlgorithm::P256, 7);
    software.enrol_key(&world, &known).unwrap();
    software.attest(&world, "payments", &known).unwrap();
    assert_eq!(world.alerts(), []);

    for (hsm, shows, policy) in [
        (&hsm, Shown::Possession, "urn:keywitness:policy:key-possession/1"),
        (&software, Shown::Knowledge, "urn:keywitness:policy:key-knowledge/1"),
    ] {
        let token = issued(&world, hsm);
        let appraisal = token.appraisal();
        assert_eq!(appraisal.attestation.statements[0].shows, shows);
        assert_eq!(appraisal.ear_appraisal_policy_ids, [policy]);
        let spki = subject().enrolled.spki().unwrap().unwrap();
        assert_eq!(appraisal.ear_veraison_key_attestation.as_ref().unwrap().akpub.0, spki);
    }
}

#[test]
fn attributes_and_statement_belong_together() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "payments");
    let known: Instance = key_knowledge::Witness::new(KeyAlgorithm::P256, &[7; 32])
        .unwrap()
        .instance(&"acme.example".parse().unwrap(), keywitness_circuits::Suite::PublicKey)
        .unwrap()
        .into();
    // Of a token's key possession is proven; of a key that is in none, knowledge.
    let swapped = Subject { enrolled: known, ..subject() };
    refused(swapped.enrol(&world, &hsm), ProblemKind::Malformed);
    let outside = KeyAttributes { token: None, ..in_token() };
    refused(Subject { attributes: outside, ..subject() }.enrol(&world, &hsm), ProblemKind::Malformed);
    subject().enrol(&world, &hsm).unwrap();
    subject().enrol(&world, &hsm).unwrap();

    // Another word of the token is another key.
    let mut changed = in_token();
    changed.token.as_mut().unwrap().never_extractable = false;
    let changed = Subject { attributes: changed, ..subject() };
    let problem = refused(changed.enrol(&world, &hsm), ProblemKind::KeyConflict);
    assert!(problem.to_string().contains("attributes"), "{problem}");
    let challenge = subject().challenge(&world, &hsm).unwrap();
    let refusal = changed.answer((&world, &hsm, "payments"), &challenge, (&changed.enrolled, &witness().into()));
    refusal.unwrap_err();
    attest(&world, &hsm);
    let query = KeyQuery { key: "signing".parse().unwrap(), cluster: None, hsm: Some(hsm.id.clone()), max_age: None };
    let status = world.manager.attested(&Caller::in_process(), &query).unwrap().hsms.remove(0);
    assert_eq!(status.statements[0].kind, Kind::KeyPossessionP256);
}
