//! Letting in: people, HSMs, keys.

use keywitness_circuits::{Digest, KeyAlgorithm, KeyOrigin, codec::Canonical};
use keywitness_verifier::wire::{
    Base64, ChannelAnnouncement, CredentialRequest, EventKind, JoinTokenRequest, ProblemKind, Role,
};

use crate::{
    config::OPERATOR_CREDENTIAL,
    service::{
        access::SignedRequest,
        testing::{Caller, TestHsm, TestKey, World, refused},
    },
};

#[test]
fn the_first_operator_credential_is_left_in_a_private_file_and_survives_a_restart() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let path = world.directory.path().join(OPERATOR_CREDENTIAL);
    assert_eq!(world.manager.operator_credential_path(), path);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = std::fs::read_to_string(&path).unwrap();
    let world = world.reopen();
    assert_eq!(world.manager.authorise(secret.trim(), &[Role::Operator]).unwrap().role(), Role::Operator);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), secret);
}

#[test]
fn a_crash_between_writing_the_first_credential_and_making_it_valid_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let written = keywitness_verifier::wire::new_secret("operator");
    std::fs::write(directory.path().join(OPERATOR_CREDENTIAL), format!("{written}\n")).unwrap();
    let world = World::in_directory(directory);
    world.manager.authorise(&written, &[Role::Operator]).unwrap();
}

#[test]
fn a_credential_works_for_its_role_alone() {
    let world = World::new();
    let request = CredentialRequest::new("ci", Role::Viewer);
    let secret = world.manager.create_credential(&Caller::in_process(), &request).unwrap().secret;
    assert!(secret.starts_with("kw_viewer_"));
    world.manager.authorise(&secret, &[Role::Operator, Role::Viewer]).unwrap();
    refused(world.manager.authorise(&secret, &[Role::Operator]), ProblemKind::Forbidden);
    refused(world.manager.authorise("kw_viewer_nonsense", &[Role::Viewer]), ProblemKind::Unauthenticated);
    let nameless = CredentialRequest::new(" ", Role::Viewer);
    refused(world.manager.create_credential(&Caller::in_process(), &nameless).map(|_| ()), ProblemKind::Malformed);
}

#[test]
fn a_join_token_works_once_and_the_same_request_again_gets_the_same_answer() {
    let world = World::new();
    let token = world.join_token("eu", None);
    let hsm = TestHsm::new("hsm-1");
    let first = hsm.enrol(&world, &token).unwrap();
    assert_eq!(first.revision, 1);
    assert_eq!(hsm.enrol(&world, &token).unwrap(), first);
    assert_eq!(hsm.enrol(&world, &world.join_token("eu", None)).unwrap(), first, "with a token it was given since");
    refused(TestHsm::new("hsm-2").enrol(&world, &token), ProblemKind::JoinTokenRefused);
    let enrolled = |kind: &EventKind| matches!(kind, EventKind::HsmEnrolled { .. });
    assert_eq!(world.events().iter().filter(|kind| enrolled(kind)).count(), 1);
}

#[test]
fn a_join_token_expires_and_keeps_to_its_hsm() {
    let world = World::new();
    let bound = world.join_token("eu", Some("hsm-1"));
    refused(TestHsm::new("hsm-2").enrol(&world, &bound), ProblemKind::JoinTokenRefused);
    world.advance(600);
    refused(TestHsm::new("hsm-1").enrol(&world, &bound), ProblemKind::JoinTokenRefused);
    refused(TestHsm::new("hsm-1").enrol(&world, "kw_join_unknown"), ProblemKind::JoinTokenRefused);
    let forever = JoinTokenRequest { cluster: "eu".parse().unwrap(), hsm: None, reenrol: false, valid_for: u64::MAX };
    refused(world.manager.create_join_token(&Caller::in_process(), &forever).map(|_| ()), ProblemKind::Malformed);
}

#[test]
fn nobody_is_invited_under_a_name_that_is_taken() {
    let world = World::new();
    let token = world.join_token("eu", Some("hsm-1"));
    let (owner, other) = (TestHsm::new("hsm-1"), world.join_token("eu", Some("hsm-1")));
    let enrolment = owner.enrol(&world, &token).unwrap();
    let invite = |reenrol| {
        let hsm = Some(owner.id.clone());
        let request = JoinTokenRequest { cluster: "eu".parse().unwrap(), hsm, reenrol, valid_for: 60 };
        world.manager.create_join_token(&Caller::in_process(), &request).map(|_| ())
    };
    let problem = refused(invite(false), ProblemKind::AlreadyEnrolled);
    assert!(problem.detail.contains("--reenrol hsm-1"), "{problem}");
    invite(true).unwrap();
    // Whoever lost the answer needs no other token: the one that was used, or any other, brings the same answer.
    assert_eq!(owner.enrol(&world, &token).unwrap(), enrolment);
    assert_eq!(owner.enrol(&world, &other).unwrap(), enrolment);
}

#[test]
fn an_enrolled_name_is_never_taken_over() {
    let world = World::new();
    let owner = world.hsm("hsm-1", "eu");
    let token = world.join_token("eu", None);
    refused(TestHsm::new("hsm-1").enrol(&world, &token), ProblemKind::AlreadyEnrolled);
    // The owner's identity still counts, and the token was not used up.
    owner.enrol_key(&world, &TestKey::ed25519("k", 1)).unwrap();
    TestHsm::new("hsm-2").enrol(&world, &token).unwrap();
}

#[test]
fn an_identity_key_has_one_name() {
    let world = World::new();
    let first = world.hsm("hsm-1", "eu");
    let second = TestHsm { id: "hsm-2".parse().unwrap(), ..first };
    refused(second.enrol(&world, &world.join_token("eu", None)), ProblemKind::AlreadyEnrolled);
}

#[test]
fn an_enrolment_that_its_identity_key_did_not_sign_changes_nothing() {
    let world = World::new();
    let token = world.join_token("eu", None);
    let hsm = TestHsm::new("hsm-1");
    let mut request = hsm.enrolment(&world, &token);
    request.channel_key = Digest([9; 32]);
    refused(world.manager.enrol(&request), ProblemKind::Unauthenticated);
    request.signature = Base64(vec![0; 63]);
    refused(world.manager.enrol(&request), ProblemKind::Malformed);
    hsm.enrol(&world, &token).unwrap();
}

#[test]
fn a_key_is_enrolled_once_for_each_epoch() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::new("k", KeyAlgorithm::P256, 1);
    hsm.enrol_key(&world, &key).unwrap();
    hsm.enrol_key(&world, &key).unwrap();
    refused(hsm.enrol_key(&world, &key.epoch(1, 2)), ProblemKind::KeyConflict);
    let mut imported = key.clone();
    imported.attributes.origin = KeyOrigin::Imported;
    refused(hsm.enrol_key(&world, &imported), ProblemKind::KeyConflict);
    hsm.enrol_key(&world, &key.epoch(2, 2)).unwrap();
    hsm.enrol_key(&world, &key.epoch(3, 3)).unwrap();
    refused(hsm.enrol_key(&world, &key.epoch(2, 4)), ProblemKind::KeyConflict);
    // A late copy of the first enrolment is no conflict: it is what is enrolled.
    hsm.enrol_key(&world, &key).unwrap();
    refused(hsm.enrol_key(&world, &TestKey::ed25519("other", 1).epoch(0, 1)), ProblemKind::Malformed);
}

#[test]
fn instances_are_canonical_and_exactly_those_that_are_needed() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let (p256, aes) = (TestKey::new("k", KeyAlgorithm::P256, 1), TestKey::new("a", KeyAlgorithm::Aes256, 1));
    let enrol = |key: &TestKey, instances: Vec<Vec<u8>>| {
        let request = keywitness_verifier::wire::EnrolKeyRequest {
            instances: instances.into_iter().map(Base64).collect(),
            ..key.request()
        };
        world.manager.enrol_key(&hsm.call(&world), &request)
    };
    let right = p256.instance().to_bytes();
    refused(enrol(&p256, vec![]), ProblemKind::Malformed);
    refused(enrol(&p256, vec![right.clone(), right.clone()]), ProblemKind::Malformed);
    refused(enrol(&p256, vec![[right.as_slice(), &[0]].concat()]), ProblemKind::Malformed);
    refused(enrol(&p256, vec![TestKey::ed25519("k", 1).instance().to_bytes()]), ProblemKind::Malformed);
    enrol(&p256, vec![right]).unwrap();
    let halo2 = aes.instance().to_bytes();
    refused(enrol(&aes, vec![]), ProblemKind::Malformed);
    refused(enrol(&aes, vec![halo2.clone(), halo2.clone()]), ProblemKind::Malformed);
    enrol(&aes, vec![halo2]).unwrap();
}

#[test]
fn requests_must_be_signed_by_an_enrolled_hsm_for_this_manager_and_lately() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let header = hsm.authorization(&world, "POST", "/v1/keys", b"{}");
    let check = |authorization: &str, method: &str, path: &str, body: &[u8]| {
        world.manager.authenticate(SignedRequest { authorization, method, path, body })
    };
    assert_eq!(check(&header, "POST", "/v1/keys", b"{}").unwrap().hsm(), &hsm.id);
    refused(check(&header, "PUT", "/v1/keys", b"{}"), ProblemKind::Unauthenticated);
    refused(check(&header, "POST", "/v1/channel", b"{}"), ProblemKind::Unauthenticated);
    refused(check(&header, "POST", "/v1/keys", b"{ }"), ProblemKind::Unauthenticated);
    refused(check("Bearer x", "POST", "/v1/keys", b"{}"), ProblemKind::Unauthenticated);
    let stranger = TestHsm::new("hsm-9").authorization(&world, "POST", "/v1/keys", b"{}");
    refused(check(&stranger, "POST", "/v1/keys", b"{}"), ProblemKind::Unauthenticated);
    world.advance(60);
    check(&header, "POST", "/v1/keys", b"{}").unwrap();
    world.advance(1);
    let late = refused(check(&header, "POST", "/v1/keys", b"{}"), ProblemKind::ClockSkew);
    assert!(late.detail.contains(&world.now().0.to_string()), "{late}");
    let ahead = {
        world.advance(100);
        let header = hsm.authorization(&world, "POST", "/v1/keys", b"{}");
        world.advance(-100);
        header
    };
    refused(check(&ahead, "POST", "/v1/keys", b"{}"), ProblemKind::ClockSkew);
}

#[test]
fn a_channel_is_an_address_and_an_old_announcement_sent_again_does_not_bring_it_back() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let announce =
        |caller: &_, url: &str| world.manager.announce_channel(caller, &ChannelAnnouncement { url: url.to_owned() });
    for wrong in ["", "http://", "ftp://x", "http://a b", "javascript:alert(1)"] {
        refused(announce(&hsm.call(&world), wrong), ProblemKind::Malformed);
    }
    let old = hsm.call(&world);
    announce(&old, "http://127.0.0.1:1").unwrap();
    announce(&hsm.call(&world), "http://127.0.0.1:2").unwrap();
    announce(&old, "http://127.0.0.1:1").unwrap();
    let view = world.store.view().unwrap();
    let row = crate::ledger::state::State(view.as_ref()).hsm(&hsm.id).unwrap().unwrap();
    assert_eq!(row.channel_url.as_deref(), Some("http://127.0.0.1:2"));
    world.revoke_hsm(&hsm);
    refused(announce(&hsm.call(&world), "http://127.0.0.1:3"), ProblemKind::HsmRevoked);
    refused(hsm.enrol_key(&world, &TestKey::ed25519("k", 1)), ProblemKind::HsmRevoked);
}
