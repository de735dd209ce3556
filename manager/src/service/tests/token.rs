//! Verification tokens: for what is attested now, and checked as a relying party checks them.

use keywitness_circuits::Nonce;
use keywitness_verifier::{
    token::{Expected, VerifiedToken, verify},
    wire::{ChannelAnnouncement, KeyQuery, Problem, ProblemKind, RevocationTarget, TokenRequest, TokenResponse},
};

use crate::service::testing::{Caller, TestKey, World, refused};

const AUDIENCE: &str = "https://payments.example";

fn request(key: &TestKey) -> TokenRequest {
    let query = KeyQuery { key: key.key.key.clone(), cluster: None, hsm: None, max_age: None };
    TokenRequest { query, audience: AUDIENCE.to_owned(), nonce: Nonce::random(), form: Default::default() }
}

fn issue(world: &World, request: &TokenRequest) -> Result<TokenResponse, Problem> {
    world.manager.issue_token(&Caller::in_process(), request)
}

fn check(world: &World, request: &TokenRequest, response: &TokenResponse) -> VerifiedToken {
    let trust_domain = "acme.example".parse().unwrap();
    let expected = Expected { trust_domain: &trust_domain, audience: AUDIENCE, nonce: Some(&request.nonce) };
    let verified = verify(&response.token, &world.manager.jwks().unwrap(), &expected, world.now()).unwrap();
    assert_eq!(verified.claims().exp, response.expires_at);
    verified
}

#[test]
fn a_token_says_what_was_proven_and_where_to_ask() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    let url = "http://127.0.0.1:9".to_owned();
    world.manager.announce_channel(&hsm.call(&world), &ChannelAnnouncement { url: url.clone() }).unwrap();
    let record = hsm.attest(&world, "eu", &key).unwrap();
    let request = request(&key);
    let response = issue(&world, &request).unwrap();
    assert_eq!((&response.hsm, response.channel_url.as_ref()), (&hsm.id, Some(&url)));
    assert_eq!(response.expires_at, world.now().plus(300));
    let verified = check(&world, &request, &response);
    assert_eq!(verified.channel_key(), hsm.channel);
    assert_eq!(verified.claims().submods.keys().collect::<Vec<_>>(), ["k"]);
    let appraisal = verified.appraisal();
    assert_eq!(appraisal.attestation.statements[0].envelope, record.envelope);
    assert_eq!(appraisal.ear_trustworthiness_vector.get("instance-identity"), Some(&2));
    assert!(!appraisal.ear_trustworthiness_vector.contains_key("hardware"));
    let spki = key.instance().spki().unwrap().unwrap();
    assert_eq!(appraisal.ear_veraison_key_attestation.as_ref().unwrap().akpub.0, spki);
}

#[test]
fn a_token_never_outlives_its_records_nor_the_age_asked_for() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    let record = hsm.attest(&world, "eu", &key).unwrap();
    world.advance(400);
    assert_eq!(issue(&world, &request(&key)).unwrap().expires_at, record.expires_at);
    let mut young = request(&key);
    young.query.max_age = Some(450);
    assert_eq!(issue(&world, &young).unwrap().expires_at, record.proven_at.plus(450));
    young.query.max_age = Some(400);
    refused(issue(&world, &young), ProblemKind::NotAttested);
    young.query.max_age = Some(399);
    refused(issue(&world, &young), ProblemKind::NotAttested);
}

#[test]
fn the_freshest_attested_hsm_is_chosen_unless_one_is_named() {
    let world = World::new();
    let key = TestKey::ed25519("k", 1);
    let hsms = ["hsm-1", "hsm-2", "hsm-3"].map(|name| world.hsm(name, "eu"));
    for hsm in &hsms {
        hsm.enrol_key(&world, &key).unwrap();
    }
    hsms[0].attest(&world, "eu", &key).unwrap();
    world.advance(10);
    hsms[1].attest(&world, "eu", &key).unwrap();
    world.advance(10);
    hsms[2].attest(&world, "eu", &key).unwrap();
    hsms[2].fail(&world, "eu", &key);
    assert_eq!(issue(&world, &request(&key)).unwrap().hsm, hsms[1].id);
    let mut named = request(&key);
    named.query.hsm = Some(hsms[0].id.clone());
    assert_eq!(issue(&world, &named).unwrap().hsm, hsms[0].id);
    named.query.hsm = Some(hsms[2].id.clone());
    let problem = refused(issue(&world, &named), ProblemKind::NotAttested);
    assert!(problem.detail.contains("hsm-3 is failing"), "{problem}");
}

#[test]
fn what_is_unproven_expired_or_revoked_gets_no_token() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let (key, second) = (TestKey::ed25519("k", 1), TestKey::ed25519("k2", 2));
    hsm.enrol_key(&world, &key).unwrap();
    hsm.enrol_key(&world, &second).unwrap();
    refused(issue(&world, &request(&key)), ProblemKind::NotAttested);
    refused(issue(&world, &request(&TestKey::ed25519("typo", 1))), ProblemKind::NotFound);
    hsm.attest(&world, "eu", &key).unwrap();
    let mut nobody = request(&key);
    nobody.audience = String::new();
    refused(issue(&world, &nobody), ProblemKind::Malformed);
    issue(&world, &request(&key)).unwrap();
    world.advance(600);
    refused(issue(&world, &request(&key)), ProblemKind::NotAttested);
    hsm.attest(&world, "eu", &key).unwrap();
    hsm.attest(&world, "eu", &second).unwrap();
    world.revoke(RevocationTarget::Key { cluster: "eu".parse().unwrap(), key: key.key.key.clone() });
    refused(issue(&world, &request(&key)), ProblemKind::KeyRevoked);
    issue(&world, &request(&second)).unwrap();
    world.revoke_hsm(&hsm);
    refused(issue(&world, &request(&second)), ProblemKind::HsmRevoked);
}

#[test]
fn a_clock_that_goes_back_brings_nothing_back() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::ed25519("k", 1);
    hsm.enrol_key(&world, &key).unwrap();
    hsm.attest(&world, "eu", &key).unwrap();
    world.advance(600);
    world.hsm("hsm-2", "eu");
    world.advance(-500);
    refused(issue(&world, &request(&key)), ProblemKind::NotAttested);
}
