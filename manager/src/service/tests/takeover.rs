//! A thief with an identity that was revoked: what it signed before the HSM was enrolled again is ordered after.

use keywitness_circuits::Nonce;
use keywitness_verifier::wire::{
    Base64, CertificateRequest, ChallengeRequest, ChannelAnnouncement, ComplaintVerdict, JoinTokenRequest, ProblemKind,
};

use crate::{
    ledger::{
        Command, Table,
        log::entries,
        state::{SharingId, State},
        tables::Row,
    },
    service::{
        access::{HsmCaller, SignedRequest},
        testing::{Caller, TestHsm, TestKey, World, refused},
    },
};

/// Every table, but for the log itself: an entry is made of whatever is ordered.
fn tables(world: &World) -> Vec<(Table, Vec<Row>)> {
    let rows = world.store.view().unwrap();
    let log = [Table::Head, Table::Commands, Table::Leaves, Table::Frontier];
    let tables = Table::ALL.iter().filter(|table| !log.contains(table));
    tables.map(|table| (*table, rows.range(*table, &[], &[], usize::MAX).unwrap())).collect()
}

/// Enrols an HSM again, under another identity.
fn return_of(world: &World, old: &TestHsm) -> TestHsm {
    world.revoke_hsm(old);
    let (cluster, hsm) = ("eu".parse().unwrap(), Some(old.id.clone()));
    let invitation = JoinTokenRequest { cluster, hsm, reenrol: true, valid_for: 600 };
    let secret = world.manager.create_join_token(&Caller::in_process(), &invitation).unwrap().secret;
    let new = TestHsm::new("hsm-1");
    assert_eq!(new.enrol(world, &secret).unwrap().revision, 2);
    new
}

/// Everything that an HSM can ask for by a signed request, each signed anew.
fn asked(world: &World, hsm: &TestHsm, key: &TestKey) -> Vec<Command> {
    let enrolment = 1;
    let by = || {
        let caller = hsm.call(world);
        assert_eq!(caller.enrolment(), enrolment);
        (*caller.request(), caller.hsm().clone())
    };
    let next = key.epoch(2, 2).request();
    let challenge = ChallengeRequest { statement: key.kind().name().to_owned(), keys: vec![key.key.clone()] };
    let (nonce, seed, beacon) = (Nonce::random(), Nonce::random(), Nonce::random());
    let enrol_key = |(request, hsm)| Command::EnrolKey {
        request,
        hsm,
        enrolment,
        key: key.epoch(2, 2).key,
        attributes: next.attributes.clone(),
        instances: next.instances.iter().map(|instance| instance.0.clone()).collect(),
    };
    let channel =
        |(request, hsm)| Command::AnnounceChannel { request, hsm, enrolment, url: "https://thief".to_owned() };
    let sealing = |(request, hsm)| Command::AnnounceSealingKey { request, hsm, enrolment, key: vec![2; 33] };
    let sharing = |(request, hsm)| Command::EnrolSharing { request, hsm, enrolment, dealing: vec![1] };
    let complain = |(request, hsm)| Command::Complain {
        request,
        hsm,
        enrolment,
        sharing: SharingId { cluster: "eu".parse().unwrap(), key: key.key.clone() },
        complaint: vec![1],
        verdict: ComplaintVerdict::Unfounded { complainer: "hsm-1".parse().unwrap(), why: "no".to_owned() },
    };
    let one = |(request, hsm)| {
        let ChallengeRequest { statement, keys } = challenge.clone();
        Command::IssueChallenge { request, hsm, enrolment, statement, keys, nonce, beacon }
    };
    let many = |(request, hsm)| {
        let items = vec![challenge.clone()];
        Command::IssueChallenges { request, hsm, enrolment, items, seed, beacon }
    };
    let skew = |(request, hsm)| {
        let created = keywitness_circuits::Timestamp(world.now().0 + 600);
        Command::ReportSkew { request, hsm, enrolment, created }
    };
    vec![
        enrol_key(by()),
        channel(by()),
        sealing(by()),
        sharing(by()),
        complain(by()),
        one(by()),
        many(by()),
        skew(by()),
    ]
}

#[test]
fn no_signed_request_outlives_the_enrolment_that_it_was_signed_under() {
    let world = World::new();
    let (old, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    old.enrol_key(&world, &key).unwrap();
    let stolen = asked(&world, &old, &key);
    let new = return_of(&world, &old);
    let before = tables(&world);
    for command in stolen {
        let name = command.name();
        let problem = refused(world.manager.submit(command), ProblemKind::Unauthenticated);
        assert!(problem.detail.contains("enrolled again"), "{name}: {problem}");
        assert_eq!(tables(&world), before, "{name}");
    }
    new.enrol_key(&world, &key.epoch(2, 3)).unwrap();
}

#[test]
fn a_thief_that_was_let_in_before_the_return_gets_nothing_after_it() {
    let world = World::new();
    let (old, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    old.enrol_key(&world, &key).unwrap();
    let announce = |caller: &HsmCaller, url: &str| {
        world.manager.announce_channel(caller, &ChannelAnnouncement { url: url.to_owned() })
    };
    let answered = old.call(&world);
    announce(&answered, "https://old").unwrap();
    let calls = [(); 4].map(|()| old.call(&world));
    let new = return_of(&world, &old);
    announce(&new.call(&world), "https://new").unwrap();
    // Not even what it was answered before is said again.
    refused(announce(&answered, "https://old"), ProblemKind::Unauthenticated);
    let [squat, channel, challenge, certificate] = calls;
    refused(world.manager.enrol_key(&squat, &key.epoch(2, 2).request()), ProblemKind::Unauthenticated);
    refused(announce(&channel, "https://thief"), ProblemKind::Unauthenticated);
    let request = ChallengeRequest { statement: key.kind().name().to_owned(), keys: vec![key.key.clone()] };
    refused(world.manager.challenge(&challenge, &request), ProblemKind::Unauthenticated);
    let tls = CertificateRequest { public_key: Base64(vec![4; 65]) };
    refused(world.manager.certify(&certificate, &tls).map(drop), ProblemKind::Unauthenticated);
    let view = world.store.view().unwrap();
    let row = State(view.as_ref()).hsm(&new.id).unwrap().unwrap();
    assert_eq!((row.revision, row.channel_url.as_deref()), (2, Some("https://new")));
}

#[test]
fn a_request_that_came_too_early_is_done_when_its_time_has_come() {
    let world = World::new();
    let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    let before = world.events().len();
    world.advance(65);
    let authorization = hsm.authorization(&world, "POST", "/", b"");
    world.advance(-65);
    let request = || SignedRequest { authorization: &authorization, method: "POST", path: "/", body: b"" };
    refused(world.manager.authenticate(request()), ProblemKind::ClockSkew);
    let skew = |command: &Command| matches!(command, Command::ReportSkew { .. });
    let log = entries(world.store.view().unwrap().as_ref(), 0, usize::MAX).unwrap();
    assert!(skew(&log.last().unwrap().submission.command), "its clock was noted");
    world.advance(6);
    let caller = world.manager.authenticate(request()).unwrap();
    world.manager.enrol_key(&caller, &key.request()).unwrap();
    let enrolled = || State(world.store.view().unwrap().as_ref()).newest_key(&hsm.id, &key.key.key).unwrap();
    assert!(enrolled().is_some());
    // And once only, like any other.
    world.manager.enrol_key(&caller, &key.epoch(2, 2).request()).unwrap();
    assert_eq!(enrolled().unwrap().key.epoch, 1);
    hsm.attest(&world, "eu", &key).unwrap();
    assert_eq!(world.events().len(), before);
}
