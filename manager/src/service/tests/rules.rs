//! Each fraud rule beside its honest twin, alerts with what they rest on, and migrations.

use keywitness_circuits::{KeyAlgorithm, Timestamp};
use keywitness_verifier::{
    identity::{MAX_SKEW, RequestAuth, RequestParts},
    wire::{
        AcknowledgeRequest, Action, AlertQuery, AlertState, CredentialRequest, EventKind, Migrant, MigrationRequest,
        ProblemKind, RevocationTarget, Role, Rule, Subject,
    },
};

use crate::{
    ledger::{Command, Table, fraud::policy::RuleChange, log, state::State},
    service::{
        access::SignedRequest,
        testing::{Caller, DAWN, TestHsm, TestKey, World, refused, submit},
    },
};

/// Something of every row of the rules.
pub(crate) fn bustle(world: &World) {
    let key = TestKey::ed25519("moved", 9);
    let (here, there) = (world.hsm("moved-1", "old"), world.hsm("moved-2", "new"));
    here.enrol_key(world, &key).unwrap();
    migrate(world, Migrant::Key(key.key.key.clone()), 3600);
    for (hsm, cluster) in [(&here, "old"), (&there, "new")] {
        hsm.enrol_key(world, &key).unwrap();
        hsm.attest(world, cluster, &key).unwrap();
    }
    skewed(world, &here, 300);
    let alert = world
        .manager
        .alerts(&Caller::in_process(), &AlertQuery::default())
        .unwrap()
        .alerts
        .first()
        .map(|alert| alert.number);
    if let Some(alert) = alert {
        world.manager.acknowledge_alert(&Caller::in_process(), alert, &AcknowledgeRequest::default()).unwrap();
    }
    world.manager.tick(world.now()).unwrap();
}

fn migrate(world: &World, what: Migrant, valid_for: u64) -> u64 {
    let (from, to) = ("old".parse().unwrap(), "new".parse().unwrap());
    world
        .manager
        .declare_migration(&Caller::in_process(), &MigrationRequest { what, from, to, valid_for })
        .unwrap()
        .number
}

/// A request of an HSM whose clock is `ahead` seconds ahead.
fn skewed(world: &World, hsm: &TestHsm, ahead: i64) {
    let created = Timestamp(world.now().0.checked_add_signed(ahead).unwrap());
    let parts = RequestParts { audience: world.manager.audience(), method: "POST", path: "/", body: b"" };
    let auth = RequestAuth::sign(hsm.id.clone(), created, &parts, |message| hsm.sign(message)).to_header();
    copy(world, &auth);
}

fn copy(world: &World, authorization: &str) {
    let request = SignedRequest { authorization, method: "POST", path: "/", body: b"" };
    refused(world.manager.authenticate(request), ProblemKind::ClockSkew);
}

/// The rules that raised alerts so far, and each alert's subject.
fn raised(world: &World) -> Vec<(Rule, Subject)> {
    let alerts = world.manager.alerts(&Caller::in_process(), &AlertQuery::default()).unwrap().alerts;
    let view = world.store.view().unwrap();
    for alert in &alerts {
        // Its event says the same, and its evidence is in the log: the digest is that of what the command carries.
        let event = log::events(view.as_ref(), alert.event - 1, 1).unwrap().remove(0);
        assert_eq!((event.alert, event.kind.rule(), event.at), (Some(alert.number), Some(alert.rule), alert.at));
        assert!(!alert.evidence.is_empty(), "{alert:?}");
        for evidence in &alert.evidence {
            let Some(sequence) = evidence.sequence else { continue };
            let entry = log::entries(view.as_ref(), sequence - 1, 1).unwrap().remove(0);
            match entry.submission.command {
                Command::Attest { digest, .. } => assert_eq!(Some(digest), evidence.digest),
                Command::ReportSkew { request, .. } => assert_eq!(Some(request), evidence.digest),
                Command::IssueChallenge { .. } => {}
                other => panic!("{} is no evidence", other.name()),
            }
        }
    }
    alerts.into_iter().map(|alert| (alert.rule, alert.subject)).collect()
}

fn about(hsm: &TestHsm) -> Subject {
    Subject::Hsm(hsm.id.clone())
}

fn about_key(hsm: &TestHsm, key: &TestKey) -> Subject {
    Subject::Key { hsm: hsm.id.clone(), key: key.key.clone() }
}

#[test]
fn a_migration_that_was_declared_is_noted_and_one_that_is_over_is_told_of_whoever_keeps_proving_in_the_old_cluster() {
    let world = World::new();
    let key = TestKey::ed25519("k", 1);
    let (old, new) = (world.hsm("hsm-1", "old"), world.hsm("hsm-2", "new"));
    old.enrol_key(&world, &key).unwrap();
    let number = migrate(&world, Migrant::Key(key.key.key.clone()), 3600);
    for (hsm, cluster) in [(&old, "old"), (&new, "new")] {
        hsm.enrol_key(&world, &key).unwrap();
        hsm.attest(&world, cluster, &key).unwrap();
    }
    // A third one gets it inside the old cluster meanwhile.
    let late = world.hsm("hsm-3", "old");
    late.enrol_key(&world, &key).unwrap();
    late.attest(&world, "old", &key).unwrap();
    let noted =
        |kind: &&EventKind| matches!(kind, EventKind::MigrationSighting { migration, .. } if *migration == number);
    assert_eq!(world.events().iter().filter(noted).count(), 1);
    world.advance(3599);
    old.attest(&world, "old", &key).unwrap();
    assert!(raised(&world).is_empty());
    world.advance(1);
    // Its end changes nothing for the new cluster.
    new.attest(&world, "new", &key).unwrap();
    assert!(raised(&world).is_empty());
    for _ in 0..3 {
        old.attest(&world, "old", &key).unwrap();
    }
    assert_eq!(raised(&world), [(Rule::ForeignCluster, about_key(&new, &key))]);
    late.attest(&world, "old", &key).unwrap();
    assert_eq!(raised(&world).len(), 2);
}

#[test]
fn a_migration_covers_what_it_names_in_its_direction_and_no_longer() {
    let world = World::new();
    let mut expected = 0;
    for (number, (what, from, to, wait, covered)) in [
        ("this", "old", "new", 0, true),
        ("fingerprint", "old", "new", 0, true),
        ("other", "old", "new", 0, false),
        ("this", "new", "old", 0, false),
        ("this", "old", "elsewhere", 0, false),
        ("this", "old", "new", 60, false),
    ]
    .into_iter()
    .enumerate()
    {
        let key = TestKey::ed25519(&format!("k-{number}"), u8::try_from(number).unwrap() + 1);
        let what = match what {
            "this" => Migrant::Key(key.key.key.clone()),
            "fingerprint" => Migrant::Fingerprint(key.instance().fingerprint().unwrap()),
            _ => Migrant::Key("other".parse().unwrap()),
        };
        let hsms = ["old", "new"].map(|cluster| (cluster, world.hsm(&format!("{cluster}-{number}"), cluster)));
        hsms.iter().for_each(|(_, hsm)| hsm.enrol_key(&world, &key).unwrap());
        hsms[0].1.enrol_key(&world, &TestKey::ed25519("other", 99)).unwrap();
        let request = MigrationRequest { what, from: from.parse().unwrap(), to: to.parse().unwrap(), valid_for: 60 };
        world.manager.declare_migration(&Caller::in_process(), &request).unwrap();
        for (cluster, hsm) in hsms {
            hsm.attest(&world, cluster, &key).unwrap();
            world.advance(wait);
        }
        expected += usize::from(!covered);
        assert_eq!(world.alerts().len(), expected, "{number}");
    }
    let wrong = |from: &str, to: &str, valid_for| {
        let what = Migrant::Fingerprint(TestKey::ed25519("k", 1).instance().fingerprint().unwrap());
        let request = MigrationRequest { what, from: from.parse().unwrap(), to: to.parse().unwrap(), valid_for };
        refused(world.manager.declare_migration(&Caller::in_process(), &request), ProblemKind::Malformed);
    };
    wrong("a", "a", 60);
    wrong("a", "b", 0);
    wrong("a", "b", keywitness_verifier::wire::MAX_MIGRATION + 1);
}

#[test]
fn a_migration_of_a_key_that_its_source_never_had_is_refused_and_the_target_may_get_it_later() {
    let world = World::new();
    let key = TestKey::ed25519("k", 1);
    let (old, new) = (world.hsm("hsm-1", "old"), world.hsm("hsm-2", "new"));
    let declare = |from: &str, to: &str| {
        let what = Migrant::Key(key.key.key.clone());
        let request = MigrationRequest { what, from: from.parse().unwrap(), to: to.parse().unwrap(), valid_for: 60 };
        world.manager.declare_migration(&Caller::in_process(), &request)
    };
    let problem = refused(declare("old", "new"), ProblemKind::NotFound);
    assert!(problem.detail.contains("no HSM of cluster old has enrolled a key k"), "{problem}");
    old.enrol_key(&world, &key).unwrap();
    refused(declare("new", "old"), ProblemKind::NotFound);
    declare("old", "new").unwrap();
    new.enrol_key(&world, &key).unwrap();
    old.attest(&world, "old", &key).unwrap();
    new.attest(&world, "new", &key).unwrap();
    assert!(raised(&world).is_empty());
}

#[test]
fn an_operator_of_some_clusters_keeps_nobody_else_from_declaring_migrations() {
    let world = World::new();
    let clusters = Some(["a", "b"].map(|cluster| cluster.parse().unwrap()).to_vec());
    let bounded = CredentialRequest { clusters, ..CredentialRequest::new("of two", Role::Operator) };
    let secret = world.manager.create_credential(&Caller::in_process(), &bounded).unwrap().secret;
    let bounded = world.manager.authorise(&secret, &[Role::Operator]).unwrap();
    let declare = |caller: &Caller, number: u8| {
        let what = Migrant::Fingerprint(TestKey::ed25519("k", number).instance().fingerprint().unwrap());
        let request = MigrationRequest { what, from: "a".parse().unwrap(), to: "b".parse().unwrap(), valid_for: 60 };
        world.manager.declare_migration(caller, &request)
    };
    let declared = (1..=200).take_while(|number| declare(&bounded, *number).is_ok()).count();
    assert_eq!(declared, 100);
    refused(declare(&bounded, 201), ProblemKind::Forbidden);
    declare(&Caller::in_process(), 202).unwrap();
}

#[test]
fn an_enrolment_that_is_corrected_within_the_grace_is_no_drift() {
    let world = World::new();
    let (first, second) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "eu"));
    let (key, wrong) = (TestKey::ed25519("k", 1), TestKey::ed25519("k", 2));
    first.enrol_key(&world, &key).unwrap();
    second.enrol_key(&world, &wrong).unwrap();
    first.attest(&world, "eu", &key).unwrap();
    second.attest(&world, "eu", &wrong).unwrap();
    world.advance(500);
    let right = key.epoch(2, 3);
    for hsm in [&first, &second] {
        hsm.enrol_key(&world, &right).unwrap();
    }
    for _ in 0..10 {
        for hsm in [&first, &second] {
            hsm.attest(&world, "eu", &right).unwrap();
        }
        world.advance(300);
    }
    // One side alone proves the old epoch again.
    second.attest(&world, "eu", &wrong).unwrap();
    assert!(raised(&world).is_empty());
    first.attest(&world, "eu", &key).unwrap();
    second.attest(&world, "eu", &wrong).unwrap();
    assert_eq!(raised(&world), [(Rule::Drift, about_key(&second, &wrong))]);
}

#[test]
fn many_hsms_that_keep_failing_are_one_alert_about_the_manager() {
    let world = World::new();
    let key = TestKey::ed25519("k", 1);
    let hsms: Vec<_> = (1..=6).map(|number| world.hsm(&format!("hsm-{number}"), "eu")).collect();
    for hsm in &hsms {
        hsm.enrol_key(&world, &key).unwrap();
        // One accident each is none.
        hsm.fail(&world, "eu", &key);
    }
    assert!(raised(&world).is_empty());
    for hsm in &hsms {
        hsm.fail(&world, "eu", &key);
    }
    assert_eq!(raised(&world), [(Rule::FleetFailures, Subject::Manager)]);
}

#[test]
fn a_pace_that_no_agent_has_is_told_once_in_a_window() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let (key, other) = (TestKey::ed25519("k", 1), TestKey::ed25519("other", 2));
    for key in [&key, &other] {
        hsm.enrol_key(&world, key).unwrap();
    }
    for proofs in 1..=70 {
        hsm.attest(&world, "eu", &key).unwrap();
        assert_eq!(world.alerts().len(), usize::from(proofs >= 60), "{proofs}");
    }
    assert_eq!(raised(&world), [(Rule::ImpossiblePace, about_key(&hsm, &key))]);
    // As many, half as fast.
    for _ in 0..60 {
        hsm.attest(&world, "eu", &other).unwrap();
        world.advance(2);
    }
    assert_eq!(world.alerts().len(), 1);
}

#[test]
fn the_clock_of_one_hsm_among_others_is_told_and_writes_little() {
    let world = World::new();
    let (wrong, right) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "eu"));
    let key = TestKey::ed25519("k", 1);
    right.enrol_key(&world, &key).unwrap();
    let written = || State(world.store.view().unwrap().as_ref()).head().unwrap().sequence;
    let before = written();
    for round in 0..5 {
        assert_eq!(world.alerts().len(), 0, "{round}");
        for _ in 0..20 {
            skewed(&world, &wrong, 300);
        }
        assert_eq!(written(), before + 3 * round + 1);
        world.advance(60);
        right.attest(&world, "eu", &key).unwrap();
    }
    let alerts = world.alerts();
    assert!(matches!(alerts[..], [EventKind::ClockSkew { ahead: 300, requests: 5, .. }]), "{alerts:?}");
    assert_eq!(raised(&world), [(Rule::ClockSkew, about(&wrong))]);
    let before = written();
    for _ in 0..30 {
        world.advance(60);
        skewed(&world, &wrong, 300);
    }
    assert_eq!(written(), before);
}

#[test]
fn copies_of_old_requests_and_a_clock_that_is_set_accuse_nobody() {
    let world = World::new();
    let (victim, right) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "eu"));
    let key = TestKey::ed25519("k", 1);
    right.enrol_key(&world, &key).unwrap();
    let old = victim.authorization(&world, "POST", "/", b"");
    world.advance(i64::try_from(MAX_SKEW).unwrap() + 1);
    for _ in 0..20 {
        copy(&world, &old);
        world.advance(61);
        right.attest(&world, "eu", &key).unwrap();
    }
    assert!(world.alerts().is_empty());
    // Somebody sets it again and again, and each time it is wrong otherwise.
    for ahead in [300, 900, 3000, 300, 900, 3000] {
        world.advance(3000);
        skewed(&world, &victim, ahead);
    }
    assert!(world.alerts().is_empty());
}

#[test]
fn a_step_of_the_managers_clock_is_one_alert_about_that_clock() {
    for step in [3600, -3600] {
        let world = World::new();
        let key = TestKey::ed25519("k", 1);
        let hsms: Vec<_> = (1..=4).map(|number| world.hsm(&format!("hsm-{number}"), "eu")).collect();
        for hsm in &hsms {
            hsm.enrol_key(&world, &key).unwrap();
            hsm.attest(&world, "eu", &key).unwrap();
        }
        world.advance(step);
        for _ in 0..30 {
            for hsm in &hsms {
                // Back: the ledger's time stands still, ahead of everybody's.
                skewed_by_step(&world, hsm, step);
            }
            world.advance(61);
        }
        assert_eq!(raised(&world), [(Rule::ManagerClock, Subject::Manager)], "{step}");
    }
}

fn skewed_by_step(world: &World, hsm: &TestHsm, step: i64) {
    let ahead = if step > 0 { -step } else { 0 };
    skewed(world, hsm, ahead);
}

#[test]
fn where_nobody_vouches_for_the_managers_clock_no_hsm_is_accused() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    for _ in 0..10 {
        skewed(&world, &hsm, -400);
        world.advance(61);
    }
    assert_eq!(raised(&world), [(Rule::ManagerClock, Subject::Manager)]);
}

#[test]
fn an_hsm_that_falls_silent_is_told_once_and_then_waited_for_again() {
    let world = World::new();
    let (silent, lively) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "eu"));
    let never = world.hsm("hsm-3", "eu");
    let key = TestKey::ed25519("k", 1);
    for hsm in [&silent, &lively, &never] {
        hsm.enrol_key(&world, &key).unwrap();
    }
    let up = Timestamp(DAWN);
    silent.attest(&world, "eu", &key).unwrap();
    // Records of 10 minutes, and an hour of grace.
    for minutes in 0..90 {
        if minutes % 5 == 0 {
            lively.attest(&world, "eu", &key).unwrap();
        }
        world.manager.tick(up).unwrap();
        assert_eq!(world.alerts().len(), usize::from(minutes >= 70), "{minutes}");
        world.advance(60);
    }
    assert_eq!(raised(&world), [(Rule::SilentHsm, about(&silent))]);
    silent.attest(&world, "eu", &key).unwrap();
    for _ in 0..20 {
        world.advance(300);
        lively.attest(&world, "eu", &key).unwrap();
        world.manager.tick(up).unwrap();
    }
    assert_eq!(raised(&world).len(), 2);
}

#[test]
fn an_outage_of_the_manager_a_revocation_and_idleness_are_no_silence() {
    let world = World::new();
    let (hsm, revoked, bare) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "eu"), world.hsm("hsm-3", "eu"));
    let (key, lost) = (TestKey::ed25519("k", 1), TestKey::ed25519("lost", 2));
    for (hsm, key) in [(&hsm, &key), (&revoked, &key), (&bare, &lost)] {
        hsm.enrol_key(&world, key).unwrap();
        hsm.attest(&world, "eu", key).unwrap();
    }
    world.revoke_hsm(&revoked);
    world.revoke(RevocationTarget::Key { cluster: "eu".parse().unwrap(), key: lost.key.key.clone() });
    world.advance(86_400);
    let world = world.reopen();
    let up = world.now();
    for _ in 0..3 {
        world.manager.tick(up).unwrap();
        world.advance(1000);
    }
    hsm.attest(&world, "eu", &key).unwrap();
    world.manager.tick(up).unwrap();
    assert!(world.alerts().is_empty());
    // Nothing is due: nothing is written.
    let head = || State(world.store.view().unwrap().as_ref()).head().unwrap().sequence;
    let before = head();
    for _ in 0..100 {
        world.manager.tick(up).unwrap();
    }
    assert_eq!(head(), before);
}

#[test]
fn alerts_are_listed_and_acknowledged_once() {
    let world = World::new();
    let hsm = world.hsm("hsm-1", "eu");
    let key = TestKey::new("k", KeyAlgorithm::P256, 1);
    hsm.enrol_key(&world, &key).unwrap();
    for _ in 0..3 {
        let challenge = hsm.challenge(&world, &key).unwrap();
        submit(&world, &hsm.answer(&world, "eu", &key, &challenge)).unwrap();
        refused(submit(&world, &hsm.answer(&world, "eu", &key, &challenge)), ProblemKind::ChallengeConsumed);
    }
    assert_eq!(raised(&world).len(), 3);
    let page = |state, after| {
        let page = world.manager.alerts(&Caller::in_process(), &AlertQuery { state, after }).unwrap();
        page.alerts.iter().map(|alert| alert.number).collect::<Vec<_>>()
    };
    let note = AcknowledgeRequest { note: "a test of the replay rule".to_owned() };
    let alert = world.manager.acknowledge_alert(&Caller::in_process(), 2, &note).unwrap();
    let other = AcknowledgeRequest { note: "other".to_owned() };
    assert_eq!(world.manager.acknowledge_alert(&Caller::in_process(), 2, &other).unwrap(), alert);
    let event = world.manager.events(&Caller::in_process(), alert.event - 1).unwrap().events.remove(0);
    assert!(event.text.contains("a challenge that HSM hsm-1 had consumed came back"), "{event:?}");
    let stored = log::events(world.store.view().unwrap().as_ref(), alert.event - 1, 1).unwrap().remove(0);
    assert_eq!(stored.text, "", "words are for who reads them, and in no row");
    assert_eq!(alert.acknowledged.unwrap().by, "this process");
    assert_eq!(page(Some(AlertState::Open), 0), [1, 3]);
    assert_eq!(page(Some(AlertState::Acknowledged), 0), [2]);
    assert_eq!(page(None, 1), [2, 3]);
    let status = world.manager.status(&Caller::in_process()).unwrap();
    assert_eq!((status.alerts, status.open_alerts), (3, 2));
    refused(world.manager.acknowledge_alert(&Caller::in_process(), 9, &note), ProblemKind::NotFound);
    let long = AcknowledgeRequest { note: "x".repeat(513) };
    refused(world.manager.acknowledge_alert(&Caller::in_process(), 1, &long), ProblemKind::Malformed);
    let told = |kind: &&EventKind| matches!(kind, EventKind::AlertAcknowledged { acknowledged: 2, .. });
    assert_eq!(world.events().iter().filter(told).count(), 1);
}

#[test]
fn a_rule_that_quarantines_suspends_the_later_hsm_and_never_the_earlier_holder() {
    let quarantine = RuleChange { action: Some(Action::Quarantine), ..RuleChange::default() };
    let world = World::with_config(|config| config.fraud = config.fraud.clone().with(Rule::ForeignCluster, quarantine));
    let key = TestKey::ed25519("k", 1);
    let (first, second) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "us"));
    for (hsm, cluster) in [(&first, "eu"), (&second, "us")] {
        hsm.enrol_key(&world, &key).unwrap();
        hsm.attest(&world, cluster, &key).unwrap();
    }
    assert_eq!(raised(&world), [(Rule::ForeignCluster, about_key(&second, &key))]);
    first.attest(&world, "eu", &key).unwrap();
    refused(second.challenge(&world, &key), ProblemKind::Suspended);
    assert!(
        world
            .events()
            .iter()
            .any(|kind| matches!(kind, EventKind::Suspended { by, .. } if by.contains("foreign-cluster")))
    );
    let release = keywitness_verifier::wire::ReinstateRequest {
        target: RevocationTarget::Hsm(second.id.clone()),
        reason: "looked at".into(),
    };
    world.manager.reinstate(&Caller::in_process(), &release).unwrap();
    second.attest(&world, "us", &key).unwrap();
    assert_eq!(raised(&world).len(), 1);
}

#[test]
fn a_rule_that_only_notes_raises_no_alert_and_one_that_is_off_says_nothing() {
    let note = RuleChange { action: Some(Action::Note), ..RuleChange::default() };
    let off = RuleChange { enabled: Some(false), ..RuleChange::default() };
    for (change, events) in [(note, 1), (off, 0)] {
        let world = World::with_config(|config| config.fraud = config.fraud.clone().with(Rule::Replay, change));
        let hsm = world.hsm("hsm-1", "eu");
        let key = TestKey::new("k", KeyAlgorithm::P256, 1);
        hsm.enrol_key(&world, &key).unwrap();
        let challenge = hsm.challenge(&world, &key).unwrap();
        submit(&world, &hsm.answer(&world, "eu", &key, &challenge)).unwrap();
        refused(submit(&world, &hsm.answer(&world, "eu", &key, &challenge)), ProblemKind::ChallengeConsumed);
        assert_eq!(world.events().iter().filter(|kind| kind.is_fraud()).count(), events);
        assert!(raised(&world).is_empty());
        assert!(world.store.view().unwrap().range(Table::Alerts, &[], &[], 1).unwrap().is_empty());
    }
}
