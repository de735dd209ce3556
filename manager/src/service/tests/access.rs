//! Credentials: their scope, their end, and who gives and takes them.

use keywitness_circuits::Nonce;
use keywitness_verifier::wire::{
    AttestedAnswer, AttestedRequest, Credential, CredentialId, CredentialRequest, JoinTokenRequest, KeyQuery, Problem,
    ProblemKind, RevocationTarget, RevokeRequest, Role, TokenRequest, secret_digest,
};

use crate::{
    ledger::{
        Command, Outcome,
        apply::{self, Moment},
        state::{CredentialRow, State, access::CredentialTerms},
    },
    service::testing::{Caller, TestKey, World, refused},
};

fn grant(world: &World, role: Role, clusters: Option<&[&str]>, valid_for: Option<u64>) -> Credential {
    let clusters = clusters.map(|names| names.iter().map(|name| name.parse().unwrap()).collect());
    let request = CredentialRequest { clusters, valid_for, ..CredentialRequest::new("someone", role) };
    world.manager.create_credential(&Caller::in_process(), &request).unwrap()
}

fn caller(world: &World, credential: &Credential) -> Result<Caller, Problem> {
    world.manager.authorise(&credential.secret, &Role::ALL)
}

fn query(key: &str) -> KeyQuery {
    KeyQuery { key: key.parse().unwrap(), cluster: None, hsm: None, max_age: None }
}

/// Two clusters with a key of one name in each, and something revoked in each.
fn two_clusters() -> World {
    let world = World::new();
    for (cluster, seed) in [("eu", 1), ("us", 2)] {
        let hsm = world.hsm(&format!("hsm-{cluster}"), cluster);
        let (key, lost) = (TestKey::ed25519("k", seed), TestKey::ed25519("lost", seed + 2));
        for key in [&key, &lost] {
            hsm.enrol_key(&world, key).unwrap();
            hsm.attest(&world, cluster, key).unwrap();
        }
        world.revoke(RevocationTarget::Key { cluster: cluster.parse().unwrap(), key: lost.key.key });
    }
    world
}

#[test]
fn a_credential_for_one_cluster_sees_no_other() {
    let world = two_clusters();
    let client = caller(&world, &grant(&world, Role::Client, Some(&["eu"]), None)).unwrap();
    let everything = Caller::in_process();
    refused(world.manager.attested(&everything, &query("k")), ProblemKind::AmbiguousKey);
    // The other cluster's key of that name is not there for this caller, so that nothing is ambiguous.
    let seen = world.manager.attested(&client, &query("k")).unwrap();
    assert_eq!((seen.cluster.as_str(), seen.attested), ("eu", true));
    let foreign = KeyQuery { cluster: Some("us".parse().unwrap()), ..query("k") };
    refused(world.manager.attested(&client, &foreign), ProblemKind::NotFound);
    let many = AttestedRequest { keys: vec![query("k"), foreign.clone()] };
    let answers = world.manager.attested_batch(&client, &many).unwrap().keys;
    let [AttestedAnswer::Key(ours), AttestedAnswer::Problem(theirs)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((ours.cluster.as_str(), theirs.kind()), ("eu", Some(ProblemKind::NotFound)));
    let ask =
        |query| TokenRequest { query, audience: "shop".to_owned(), nonce: Nonce::random(), form: Default::default() };
    refused(world.manager.issue_token(&client, &ask(foreign)), ProblemKind::NotFound);
    let in_hsm = KeyQuery { hsm: Some("hsm-us".parse().unwrap()), ..query("k") };
    refused(world.manager.issue_token(&client, &ask(in_hsm)), ProblemKind::NotFound);
    assert_eq!(world.manager.issue_token(&client, &ask(query("k"))).unwrap().hsm.as_str(), "hsm-eu");
    let status = world.manager.status(&client).unwrap();
    assert!(status.keys.iter().all(|key| key.cluster.as_str() == "eu"));
    assert_eq!((status.keys.len(), status.revocations.len()), (2, 1));
    let (all, some) = (world.manager.events(&everything, 0).unwrap(), world.manager.events(&client, 0).unwrap());
    assert_eq!((all.events.len(), some.events.len()), (4, 2));
    assert!(!serde_json::to_string(&some).unwrap().contains("us\""));
}

#[test]
fn a_credential_ends_when_it_expires_or_is_withdrawn() {
    let world = World::new();
    let brief = grant(&world, Role::Client, None, Some(60));
    assert_eq!(brief.expires_at, Some(world.now().plus(60)));
    world.advance(59);
    caller(&world, &brief).unwrap();
    world.advance(1);
    let problem = refused(caller(&world, &brief), ProblemKind::Unauthenticated);
    assert!(problem.detail.contains("expired"), "{problem}");
    let lasting = grant(&world, Role::Client, None, None);
    world.manager.withdraw_credential(&Caller::in_process(), lasting.id).unwrap();
    let problem = refused(caller(&world, &lasting), ProblemKind::Unauthenticated);
    assert!(problem.detail.contains("withdrawn"), "{problem}");
    let world = world.reopen();
    refused(caller(&world, &lasting), ProblemKind::Unauthenticated);
    // Again changes nothing.
    world.advance(5);
    world.manager.withdraw_credential(&Caller::in_process(), lasting.id).unwrap();
    let known = world.manager.credentials(&Caller::in_process()).unwrap().credentials;
    let info = known.iter().find(|info| info.id == lasting.id).unwrap();
    assert_eq!(info.withdrawn_at, Some(world.now().plus(0)).map(|now| keywitness_circuits::Timestamp(now.0 - 5)));
    let unknown: CredentialId = "0011223344556677".parse().unwrap();
    refused(world.manager.withdraw_credential(&Caller::in_process(), unknown), ProblemKind::NotFound);
}

#[test]
fn the_last_operator_credential_stays() {
    let world = World::new();
    let secret = std::fs::read_to_string(world.manager.operator_credential_path()).unwrap();
    let first = world.manager.authorise(secret.trim(), &[Role::Operator]).unwrap();
    let withdraw = |id| world.manager.withdraw_credential(&first, id);
    refused(withdraw(first.credential().unwrap()), ProblemKind::LastOperator);
    // Neither one of some clusters alone nor one that has expired could let people in.
    grant(&world, Role::Operator, Some(&["eu"]), None);
    grant(&world, Role::Operator, None, Some(10));
    world.advance(10);
    refused(withdraw(first.credential().unwrap()), ProblemKind::LastOperator);
    let second = grant(&world, Role::Operator, None, None);
    withdraw(first.credential().unwrap()).unwrap();
    refused(world.manager.authorise(secret.trim(), &[Role::Operator]), ProblemKind::Unauthenticated);
    let second = caller(&world, &second).unwrap();
    let problem = world.manager.withdraw_credential(&second, second.credential().unwrap());
    refused(problem, ProblemKind::LastOperator);
}

#[test]
fn where_no_operator_is_left_a_new_credential_is_made_at_the_next_start_and_the_old_one_stays_dead() {
    let world = World::new();
    let path = world.manager.operator_credential_path();
    let old = std::fs::read_to_string(&path).unwrap();
    let first = world.manager.authorise(old.trim(), &[Role::Operator]).unwrap();
    let brief = grant(&world, Role::Operator, None, Some(60));
    world.manager.withdraw_credential(&caller(&world, &brief).unwrap(), first.credential().unwrap()).unwrap();
    world.advance(60);
    let world = world.reopen();
    let new = std::fs::read_to_string(&path).unwrap();
    assert_ne!(old, new);
    world.manager.authorise(new.trim(), &[Role::Operator]).unwrap();
    refused(world.manager.authorise(old.trim(), &[Role::Operator]), ProblemKind::Unauthenticated);
}

#[test]
fn an_operator_of_one_cluster_acts_there_alone() {
    let world = two_clusters();
    let operator = caller(&world, &grant(&world, Role::Operator, Some(&["eu"]), None)).unwrap();
    let manager = &world.manager;
    let invite = |cluster: &str| {
        let request = JoinTokenRequest { cluster: cluster.parse().unwrap(), hsm: None, reenrol: false, valid_for: 60 };
        manager.create_join_token(&operator, &request).map(|_| ())
    };
    invite("eu").unwrap();
    refused(invite("us"), ProblemKind::Forbidden);
    let revoke = |target| manager.revoke(&operator, &RevokeRequest { target, reason: "lost".into() });
    let key = |cluster: &str| RevocationTarget::Key { cluster: cluster.parse().unwrap(), key: "k".parse().unwrap() };
    refused(revoke(key("us")), ProblemKind::Forbidden);
    // An HSM of another cluster is as unknown as one that nobody enrolled.
    let [elsewhere, nowhere] = ["hsm-us", "hsm-zz"].map(|hsm| {
        let problem = revoke(RevocationTarget::Hsm(hsm.parse().unwrap())).unwrap_err();
        (problem.kind(), problem.detail.replace(hsm, "it"))
    });
    assert_eq!((elsewhere.0, &elsewhere), (Some(ProblemKind::NotFound), &nowhere));
    revoke(RevocationTarget::Hsm("hsm-eu".parse().unwrap())).unwrap();
    // It cannot give more than it has, nor take from those who have more.
    let request = |clusters: Option<&str>| CredentialRequest {
        clusters: clusters.map(|name| vec![name.parse().unwrap()]),
        ..CredentialRequest::new("x", Role::Operator)
    };
    let made = manager.create_credential(&operator, &request(Some("eu"))).unwrap();
    for clusters in [None, Some("us")] {
        refused(manager.create_credential(&operator, &request(clusters)).map(|_| ()), ProblemKind::Forbidden);
    }
    let wider = grant(&world, Role::Viewer, None, None);
    refused(manager.withdraw_credential(&operator, wider.id), ProblemKind::Forbidden);
    let seen = manager.credentials(&operator).unwrap().credentials;
    assert_eq!(seen.len(), 2);
    let made = seen.iter().find(|info| info.id == made.id).unwrap();
    assert_eq!(made.created_by, operator.credential());
    manager.withdraw_credential(&operator, made.id).unwrap();
}

#[test]
fn nothing_is_done_in_the_name_of_a_credential_that_was_withdrawn_meanwhile() {
    let world = World::new();
    let credential = grant(&world, Role::Operator, None, None);
    // Let in before, and its command is ordered after.
    let operator = caller(&world, &credential).unwrap();
    world.manager.withdraw_credential(&Caller::in_process(), credential.id).unwrap();
    let request = JoinTokenRequest { cluster: "eu".parse().unwrap(), hsm: None, reenrol: false, valid_for: 60 };
    refused(world.manager.create_join_token(&operator, &request).map(|_| ()), ProblemKind::Unauthenticated);
}

#[test]
fn a_command_on_behalf_of_two_is_refused() {
    let mut tables = crate::ledger::Memory::default();
    let moment = Moment { at: keywitness_circuits::Timestamp(9), sequence: 1 };
    let digest = secret_digest("kw_operator_x");
    // Schema version 5 wrote this, without terms.
    let old = Command::AddCredential { digest, name: "old".to_owned(), role: Role::Operator };
    assert_eq!(apply::apply(&mut tables, &old, moment).unwrap().0, Outcome::Done);
    let (by, id) = (CredentialId::of(&digest), CredentialId::of(&secret_digest("other")));
    assert!(State(&tables).credential_named(by).unwrap().unwrap().governs(moment.at));
    let once = Command::OnBehalf { by, command: Box::new(Command::WithdrawCredential { id }) };
    let twice = Command::OnBehalf { by, command: Box::new(once.clone()) };
    let kind = |command| match apply::apply(&mut tables, command, moment).unwrap().0 {
        Outcome::Refused(problem) => problem.kind().unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!([&once, &twice].map(kind), [ProblemKind::NotFound, ProblemKind::Unauthenticated]);
    assert_eq!(State(&tables).all::<CredentialRow>(&[]).unwrap().len(), 1);
    assert!(State(&tables).all::<CredentialTerms>(&[]).unwrap().is_empty());
}

#[test]
fn nonsense_is_refused() {
    let world = World::new();
    let request = CredentialRequest::new("x", Role::Viewer);
    for wrong in [
        CredentialRequest { name: "x".repeat(129), ..request.clone() },
        CredentialRequest { clusters: Some(vec![]), ..request.clone() },
        CredentialRequest {
            clusters: Some((0..65).map(|n| format!("c{n}").parse().unwrap()).collect()),
            ..request.clone()
        },
        CredentialRequest { clusters: Some(vec!["eu".parse().unwrap(); 65]), ..request.clone() },
        CredentialRequest { valid_for: Some(0), ..request.clone() },
        CredentialRequest { valid_for: Some(u64::MAX), ..request.clone() },
        CredentialRequest { clusters: Some(vec!["eu".parse().unwrap()]), role: Role::Auditor, ..request },
    ] {
        refused(world.manager.create_credential(&Caller::in_process(), &wrong).map(|_| ()), ProblemKind::Malformed);
    }
}
