//! The agent against a manager that says what the test tells it to, over a real connection.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use keywitness_circuits::{
    Envelope, Fingerprint, HsmId, Instance, KeyAlgorithm, KeyClaim, KeyId, Kind, Nonce, Parameters, Suite,
    codec::Canonical, registry,
};
use keywitness_verifier::{
    client::ManagerClient,
    identity::EnrolmentParts,
    wire::{
        AttestResponse, Challenge, ChallengeBatchRequest, ChallengeRequest, EnrolRequest, Enrolment, Problem,
        ProblemKind, Record, StatementInfo, TrustDomainInfo, path, split_envelopes,
    },
};
use serde_json::{Value, json};

use super::*;
use crate::{
    Membership,
    testing::{audience, create, enrolled_store, membership, name},
};

/// The body of an answer; `None` hangs up instead.
pub(super) type Answer = Option<(u16, Value)>;

/// A manager of this test's: answers each request by `decide`, given path and body. Gives its address.
/// From so many keys on, a claim of many is made in halo2.
const MANY_IN_HALO2: usize = many_from(Kind::KeyKnowledgeHalo2);

pub(super) fn manager(decide: impl Fn(&str, &[u8]) -> Answer + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = serve_one(stream.unwrap(), &decide);
        }
    });
    format!("http://{address}")
}

pub(super) fn serve_one(stream: TcpStream, decide: &impl Fn(&str, &[u8]) -> Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut path, mut length) = (String::new(), None, 0);
    while reader.read_line(&mut line)? > 2 {
        path.get_or_insert_with(|| line.split(' ').nth(1).unwrap_or_default().to_owned());
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let path = path.unwrap_or_default();
    let answer = match decide(&path, &body) {
        // A manager that knows no batches, but where the test says otherwise.
        Some((204, _)) if [path::CHALLENGE_BATCHES, path::ATTESTATION_BATCHES].contains(&path.as_str()) => {
            refusal(ProblemKind::NotFound)
        }
        answer => answer,
    };
    if let Some((status, answer)) = answer {
        let answer = answer.to_string();
        let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", answer.len());
        reader.get_mut().write_all((head + &answer).as_bytes())?;
    }
    Ok(())
}

pub(super) fn info() -> Answer {
    let statement = |kind| {
        Some(StatementInfo { kind, verifying_key: registry::verifying_key(&Parameters::transparent(), kind).ok()? })
    };
    let kinds = [Kind::KeyKnowledgeEd25519, Kind::KeyKnowledgeP256, Kind::KeyKnowledgeSecp256k1];
    let info = TrustDomainInfo {
        trust_domain: audience().trust_domain,
        manager: audience().manager,
        suites: Vec::new(),
        statements: kinds.into_iter().filter_map(statement).collect(),
        record_ttl: 600,
        challenge_ttl: 60,
        development_parameters: false,
    };
    Some((200, serde_json::to_value(info).unwrap()))
}

fn challenge() -> Answer {
    challenge_of(600)
}

/// A challenge for a record that lasts so many seconds.
pub(super) fn challenge_of(lifetime: u64) -> Answer {
    let now = SystemClock.now();
    let challenge = Challenge {
        nonce: Nonce::random(),
        expires_at: now.plus(60),
        not_before: now,
        not_after: now.plus(lifetime),
        beacon: None,
    };
    Some((201, serde_json::to_value(challenge).unwrap()))
}

pub(super) fn record(body: &[u8]) -> Answer {
    let envelope = Envelope::from_bytes(body).unwrap();
    let context = &envelope.context;
    let instance = Instance::from_bytes(&envelope.instance).unwrap();
    let fingerprints = match &instance {
        Instance::ManyKeys(many) => many.keys().map(|(_, fingerprint)| fingerprint).collect(),
        one => vec![one.fingerprint().unwrap()],
    };
    let record = |(key, fingerprint): (&KeyClaim, Fingerprint)| Record {
        hsm: context.hsm.clone(),
        cluster: context.cluster.clone(),
        enrolment: context.enrolment,
        key: KeyRef { key: key.key.clone(), epoch: key.epoch },
        statement: context.statement.parse().unwrap(),
        verifying_key: context.verifying_key,
        fingerprint,
        envelope: envelope.digest(),
        proven_at: SystemClock.now(),
        expires_at: context.not_after,
    };
    let records = context.keys.iter().zip(fingerprints).map(record).collect();
    Some((201, serde_json::to_value(AttestResponse { records }).unwrap()))
}

pub(super) fn refusal(kind: ProblemKind) -> Answer {
    Some((kind.status(), serde_json::to_value(Problem::new(kind, "test")).unwrap()))
}

pub(super) fn agent(store: Arc<dyn KeyStore>, base: &str, config: AgentConfig) -> Agent {
    Agent::new(store, ManagerClient::new(base).unwrap(), Parameters::transparent(), config).unwrap()
}

#[test]
fn a_lost_answer_is_asked_for_with_the_same_bytes() {
    let (_directory, store) = enrolled_store();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sent);
    let base = manager(move |target, body| match target {
        path::TRUST_DOMAIN => info(),
        path::CHALLENGES => challenge(),
        path::ATTESTATIONS => {
            let mut seen = seen.lock().unwrap();
            seen.push(body.to_vec());
            if seen.len() == 1 { None } else { record(body) }
        }
        _ => Some((204, Value::Null)),
    });
    let agent = agent(store.clone(), &base, AgentConfig::default());
    let reports = agent.attest_once(|entry, _| entry.key.key.as_str() == "p256").unwrap();
    assert_eq!(reports.len(), 1);
    assert!(reports.iter().all(|report| report.result.is_ok()), "{reports:?}");
    let sent = sent.lock().unwrap();
    assert!(sent.len() == 2 && sent.first() == sent.last());
    let envelope = Envelope::from_bytes(sent.first().unwrap()).unwrap();
    assert!(keywitness_verifier::envelope::verify(&Parameters::transparent(), &store.identity(), &envelope).is_ok());
}

/// Answers a request for a batch of challenges.
pub(super) fn challenge_batch(body: &[u8], lifetime: u64) -> Answer {
    let asked: ChallengeBatchRequest = serde_json::from_slice(body).unwrap();
    let items: Vec<_> = asked.items.iter().map(|_| json!({ "challenge": challenge_of(lifetime).unwrap().1 })).collect();
    Some((200, json!({ "items": items })))
}

/// Answers a batch of envelopes: each by a record, unless `refuse` says otherwise of its statement.
pub(super) fn record_batch(body: &[u8], refuse: impl Fn(&str) -> Option<ProblemKind>) -> Answer {
    let each = |envelope: &&[u8]| match refuse(&Envelope::from_bytes(envelope).unwrap().context.statement) {
        Some(kind) => json!({ "problem": refusal(kind).unwrap().1 }),
        None => json!({ "records": record(envelope).unwrap().1.get("records").unwrap() }),
    };
    let items: Vec<_> = split_envelopes(body).unwrap().iter().map(each).collect();
    Some((200, json!({ "items": items })))
}

#[test]
fn keys_that_are_due_together_go_in_one_batch_and_a_lost_answer_is_asked_for_with_the_same_bytes() {
    let (_directory, store) = enrolled_store();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sent);
    let base = manager(move |target, body| match target {
        path::TRUST_DOMAIN => info(),
        path::CHALLENGE_BATCHES => challenge_batch(body, 600),
        path::ATTESTATION_BATCHES => {
            let mut seen = seen.lock().unwrap();
            seen.push(body.to_vec());
            if seen.len() == 1 { None } else { record_batch(body, |_| None) }
        }
        path::CHALLENGES | path::ATTESTATIONS => panic!("{target} is for one key alone"),
        _ => Some((204, Value::Null)),
    });
    let agent = agent(store.clone(), &base, AgentConfig::default());
    let reports = agent.attest_once(|entry, _| entry.attributes.algorithm.symmetric_bits().is_none()).unwrap();
    let attested: Vec<_> = reports.iter().filter(|report| report.result.is_ok()).map(|report| report.kind).collect();
    assert_eq!(attested, [Kind::KeyKnowledgeEd25519, Kind::KeyKnowledgeP256, Kind::KeyKnowledgeSecp256k1]);
    // What is not in force there is nobody else's trouble.
    assert_eq!(reports.len(), 4);
    let sent = sent.lock().unwrap();
    assert!(sent.len() == 2 && sent.first() == sent.last());
    for envelope in split_envelopes(sent.first().unwrap()).unwrap() {
        let envelope = Envelope::from_bytes(envelope).unwrap();
        keywitness_verifier::envelope::verify(&Parameters::transparent(), &store.identity(), &envelope).unwrap();
    }
}

#[test]
fn of_a_batch_the_refused_fail_and_what_the_manager_had_no_room_for_is_sent_alone() {
    let (_directory, store) = enrolled_store();
    let alone = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&alone);
    let base = manager(move |target, body| match target {
        path::TRUST_DOMAIN => info(),
        path::CHALLENGE_BATCHES => challenge_batch(body, 600),
        path::ATTESTATION_BATCHES => record_batch(body, |statement| match statement {
            statement if statement.contains("/p256-") => Some(ProblemKind::ProofRefused),
            statement if statement.contains("/secp256k1-") => Some(ProblemKind::Unavailable),
            _ => None,
        }),
        path::ATTESTATIONS => {
            seen.lock().unwrap().push(Envelope::from_bytes(body).unwrap().context.statement);
            record(body)
        }
        _ => Some((204, Value::Null)),
    });
    let agent = agent(store, &base, AgentConfig::default());
    let reports = agent.attest_once(|entry, _| entry.attributes.algorithm.symmetric_bits().is_none()).unwrap();
    let told: Vec<_> = reports
        .iter()
        .filter(|report| report.kind != Kind::KeyKnowledgeRistretto255)
        .map(|report| (report.kind, report.result.as_ref().err().and_then(|error| error.problem())))
        .collect();
    let expected = [
        (Kind::KeyKnowledgeEd25519, None),
        (Kind::KeyKnowledgeP256, Some(ProblemKind::ProofRefused)),
        (Kind::KeyKnowledgeSecp256k1, None),
    ];
    assert_eq!(told, expected);
    assert_eq!(*alone.lock().unwrap(), [Kind::KeyKnowledgeSecp256k1.name()]);
}

#[test]
fn a_manager_that_is_older_than_batches_is_asked_for_one_once_in_a_while() {
    let (_directory, store) = enrolled_store();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let base = manager(move |target, body| {
        seen.lock().unwrap().push(target.to_owned());
        match target {
            path::TRUST_DOMAIN => info(),
            path::CHALLENGES => challenge(),
            path::ATTESTATIONS => record(body),
            _ => Some((204, Value::Null)),
        }
    });
    let agent = agent(store, &base, AgentConfig::default());
    for _ in 0..2 {
        let reports = agent.attest_once(|entry, _| entry.attributes.algorithm.symmetric_bits().is_none()).unwrap();
        assert_eq!(reports.iter().filter(|report| report.result.is_ok()).count(), 3);
    }
    let count = |path| asked.lock().unwrap().iter().filter(|target| *target == path).count();
    assert_eq!((count(path::CHALLENGE_BATCHES), count(path::ATTESTATIONS)), (1, 6));
}

#[test]
fn an_envelope_is_not_sent_again_once_its_challenge_is_over() {
    let (_directory, store) = enrolled_store();
    let late = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (seen, pass) = (Arc::new(Mutex::new(0)), Arc::clone(&late));
    let count = Arc::clone(&seen);
    let base = manager(move |target, _| match target {
        path::TRUST_DOMAIN => info(),
        path::CHALLENGES => challenge(),
        path::ATTESTATIONS => {
            *count.lock().unwrap() += 1;
            pass.store(60, std::sync::atomic::Ordering::Relaxed);
            None
        }
        _ => Some((204, Value::Null)),
    });
    let clock = Arc::new(move || SystemClock.now().plus(late.load(std::sync::atomic::Ordering::Relaxed)));
    let agent = agent(store, &base, AgentConfig::default()).with_clock(clock);
    let reports = agent.attest_once(|entry, _| entry.key.key.as_str() == "p256").unwrap();
    let error = reports.into_iter().next().unwrap().result.unwrap_err();
    assert!(error.is_unanswered() && error.envelope().is_some(), "{error}");
    assert_eq!(*seen.lock().unwrap(), 1);
}

#[test]
fn the_loop_attests_the_cheapest_first_announces_and_stops() {
    let (directory, store) = enrolled_store();
    let base = manager(|target, body| match target {
        path::TRUST_DOMAIN => info(),
        path::CHALLENGES => challenge(),
        path::ATTESTATIONS if Envelope::from_bytes(body).unwrap().context.statement.contains("/p256-") => {
            refusal(ProblemKind::KeyRevoked)
        }
        path::ATTESTATIONS => record(body),
        _ => Some((204, Value::Null)),
    });
    let journal = directory.path().join("journal");
    let config = AgentConfig {
        channel_url: Some("http://127.0.0.1:1".to_owned()),
        journal: Some(journal.clone()),
        ..AgentConfig::default()
    };
    let (told, stop) = (Arc::new(Mutex::new(Vec::new())), Stop::new());
    let (tell, raise) = (Arc::clone(&told), stop.clone());
    let observer: Observer = Arc::new(move |event| {
        let mut told = tell.lock().unwrap();
        match event {
            AgentEvent::Announced(url) => told.push(format!("announced {url}")),
            AgentEvent::Attested { record, renew_at } => {
                let wait = renew_at.unwrap().since(record.proven_at);
                assert!((59..=421).contains(&wait), "{wait}");
                told.push(format!("attested {}", record.key.key));
            }
            AgentEvent::Failed { key, error, retry_at, .. } => {
                let wait = retry_at.unwrap().since(SystemClock.now());
                told.push(format!("failed {} {:?} {}", key.key, error.problem(), wait > 3000));
            }
            _ => return,
        }
        // Announcement, and the four asymmetric keys.
        if told.len() == 5 {
            raise.stop();
        }
    });
    let agent = agent(store, &base, config).with_observer(observer);
    agent.run(&stop).unwrap();
    let told = told.lock().unwrap();
    assert_eq!(
        *told,
        [
            "announced http://127.0.0.1:1",
            "attested ed25519",
            // Not in force at this manager.
            "failed ristretto255 None false",
            "failed p256 Some(KeyRevoked) true",
            "attested secp256k1",
        ]
    );
    let (standing, now) = (agent.standing(), SystemClock.now());
    assert!(standing.is_revoked(&name("p256")) && !standing.is_revoked(&name("ed25519")));
    let attested = |key| standing.is_attested(&KeyRef { key: name(key), epoch: 1 }, now);
    assert!(attested("ed25519") && attested("secp256k1") && !attested("p256") && !attested("ristretto255"));
    let endings: Vec<_> = journal::read(&journal).unwrap().into_iter().map(|entry| entry.outcome).collect();
    use journal::Ending::{Attested, NotSent, Refused};
    assert_eq!(endings, [Attested, NotSent, Refused, Attested]);
}

#[test]
fn another_manager_than_the_pinned_one_gets_nothing() {
    let (_directory, store) = enrolled_store();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let base = manager(move |target, _| {
        seen.lock().unwrap().push(target.to_owned());
        let (status, mut body) = info().unwrap();
        *body.get_mut("manager").unwrap() = json!("manager-2");
        Some((status, body))
    });
    let agent = agent(store, &base, AgentConfig::default());
    assert!(matches!(agent.run(&Stop::new()), Err(AgentError::ForeignManager { .. })));
    assert!(matches!(agent.attest_once(|_, _| true), Err(AgentError::ForeignManager { .. })));
    assert!(matches!(agent.enrol(&name("hsm-1"), "kw_join_x"), Err(AgentError::ForeignManager { .. })));
    assert!(asked.lock().unwrap().iter().all(|target| target == path::TRUST_DOMAIN));
}

#[test]
fn an_absent_manager_is_waited_for() {
    let (_directory, store) = enrolled_store();
    let stop = Stop::new();
    let raise = stop.clone();
    let observer: Observer = Arc::new(move |event| {
        assert!(matches!(event, AgentEvent::ManagerAway { .. }));
        raise.stop();
    });
    agent(store, "http://127.0.0.1:9", AgentConfig::default()).with_observer(observer).run(&stop).unwrap();
    assert!(stop.is_stopped());
}

#[test]
fn an_enrolment_is_on_disk_before_it_is_asked_for_and_can_be_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Arc::new(create(&path));
    let (begun, requests) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (seen, bodies, on_disk) = (Arc::clone(&begun), Arc::clone(&requests), path.clone());
    let base = manager(move |target, body| {
        if target == path::TRUST_DOMAIN {
            return info();
        }
        let reader =
            crate::SoftwareStore::open(&on_disk, &crate::testing::passphrase("correct horse"), crate::Access::Read);
        seen.lock().unwrap().push(reader.unwrap().membership());
        bodies.lock().unwrap().push(body.to_vec());
        // The first answer is lost.
        (seen.lock().unwrap().len() > 1).then(|| {
            let enrolment = Enrolment { hsm: name("hsm-1"), cluster: name("cluster-1"), revision: 3 };
            (201, serde_json::to_value(enrolment).unwrap())
        })
    });
    let agent = agent(store.clone(), &base, AgentConfig::default());
    let hsm: HsmId = name("hsm-1");
    let enrolment = agent.enrol(&hsm, "kw_join_x").unwrap();
    let pending = Membership { enrolment: None, ..membership() };
    assert_eq!(*begun.lock().unwrap(), [Some(pending.clone()), Some(pending)]);
    let requests = requests.lock().unwrap();
    assert_eq!(requests.first(), requests.last(), "the same bytes");
    let request: EnrolRequest = serde_json::from_slice(requests.first().unwrap()).unwrap();
    let parts = EnrolmentParts {
        audience: &audience(),
        join_token: "kw_join_x",
        hsm: &hsm,
        identity_key: &request.identity_key,
        channel_key: &request.channel_key.0,
    };
    assert!(parts.check(&request.signature.0.as_slice().try_into().unwrap()).is_ok());
    assert_eq!(request.identity_key, store.identity());
    assert_eq!(store.membership(), Some(Membership { enrolment: Some(enrolment), ..membership() }));
    assert!(matches!(agent.enrol(&name("hsm-2"), "kw_join_y"), Err(AgentError::OtherHsm(_))));
}

/// A manager that asks for symmetric keys in the default suite, and takes many in one claim.
fn info_of_many() -> Answer {
    let (status, value) = info().unwrap();
    let mut info: TrustDomainInfo = serde_json::from_value(value).unwrap();
    info.suites = vec![Suite::Halo2Pasta];
    info.statements = [Kind::KeyKnowledgeHalo2, Kind::ManyKeysHalo2]
        .map(|kind| StatementInfo {
            kind,
            verifying_key: registry::verifying_key(&Parameters::transparent(), kind).unwrap(),
        })
        .to_vec();
    Some((status, serde_json::to_value(info).unwrap()))
}

fn symmetric_store(count: usize) -> (tempfile::TempDir, Arc<crate::SoftwareStore>) {
    let (directory, store) = crate::testing::store_of([]);
    for number in 0..count {
        let key: KeyId = name(&format!("aes-{number:02}"));
        store.generate(&key, KeyAlgorithm::Aes128, crate::Placement::New).unwrap();
    }
    (directory, store)
}

/// The keys of each challenge that a manager was asked for: how many, and under which statement.
type Asked = Arc<Mutex<Vec<(Kind, usize)>>>;

fn note(asked: &Asked, body: &[u8]) -> ChallengeRequest {
    let request: ChallengeRequest = serde_json::from_slice(body).unwrap();
    asked.lock().unwrap().push((request.statement.parse().unwrap(), request.keys.len()));
    request
}

#[test]
fn a_damaged_key_is_named_and_the_others_are_attested_in_one_claim() {
    let (directory, store) = symmetric_store(70);
    let (asked, sent): (Asked, _) = (Arc::default(), Arc::new(Mutex::new(Vec::new())));
    let (ask, send, damage) = (Arc::clone(&asked), Arc::clone(&sent), Arc::clone(&store));
    let base = manager(move |target, body| match target {
        path::TRUST_DOMAIN => info_of_many(),
        path::CHALLENGES => {
            note(&ask, body);
            // After it was enrolled, and before it is proven.
            damage.damage(&KeyRef { key: name("aes-07"), epoch: 1 });
            challenge()
        }
        path::ATTESTATIONS => {
            send.lock().unwrap().push(Envelope::from_bytes(body).unwrap());
            record(body)
        }
        _ => Some((204, Value::Null)),
    });
    let (journal, envelopes) = (directory.path().join("journal"), directory.path().join("envelopes"));
    let config =
        AgentConfig { journal: Some(journal.clone()), envelopes: Some(envelopes.clone()), ..AgentConfig::default() };
    let agent = agent(store.clone(), &base, config);
    let reports = agent.attest_once(|_, _| true).unwrap();
    assert_eq!(reports.len(), 70);
    let (attested, failed): (Vec<_>, Vec<_>) = reports.into_iter().partition(|report| report.result.is_ok());
    let [failed] = failed.as_slice() else { panic!("{failed:?}") };
    assert_eq!(failed.key.key, name("aes-07"));
    assert!(failed.result.as_ref().unwrap_err().to_string().contains("not the one that was enrolled"));
    let records: Vec<_> = attested.into_iter().map(|report| (report.kind, report.result.unwrap())).collect();
    assert!(records.iter().all(|(kind, _)| *kind == Kind::KeyKnowledgeHalo2));
    let many = |records: &[(Kind, Record)]| records.iter().filter(|(_, r)| r.statement == Kind::ManyKeysHalo2).count();
    assert_eq!((many(&records), records.len()), (63, 69));

    // The claim with the damaged key was never sent; the keys beyond 64 cost less one by one.
    let single = (Kind::KeyKnowledgeHalo2, 1);
    let mut expected = vec![(Kind::ManyKeysHalo2, 64), (Kind::ManyKeysHalo2, 63)];
    expected.extend([single; 6]);
    assert_eq!(*asked.lock().unwrap(), expected);
    let sent = sent.lock().unwrap();
    let claimed: Vec<_> = sent.iter().map(|envelope| envelope.context.keys.len()).collect();
    assert_eq!(claimed, [63, 1, 1, 1, 1, 1, 1]);
    let first = sent.first().unwrap();
    assert!(first.context.keys.iter().all(|claim| claim.key != name("aes-07")));
    assert!(keywitness_verifier::envelope::verify(&Parameters::transparent(), &store.identity(), first).is_ok());

    // Each key of the claim stands as one that was proven alone.
    let (standing, now) = (agent.standing(), SystemClock.now());
    let stands = |key: &str| standing.is_attested(&KeyRef { key: name(key), epoch: 1 }, now);
    assert!(stands("aes-00") && stands("aes-63") && stands("aes-69") && !stands("aes-07"));
    let entries = journal::read(&journal).unwrap();
    let known = journal::newest_records(entries.clone(), &membership().enrolment.unwrap());
    assert!(known.len() == 69 && known.keys().all(|task| task.kind == Kind::KeyKnowledgeHalo2));
    assert_eq!(entries.iter().filter(|entry| entry.outcome == journal::Ending::NotSent).count(), 1);
    let kept = std::fs::read(envelopes.join("aes-05-1-key-knowledge-halo2-pasta-1.envelope")).unwrap();
    assert_eq!(kept, first.to_bytes());
}

/// Runs an agent for `count` keys against a manager that refuses claims of many by `refuse`, until `enough` events
/// came. Gives what was asked for, and what was told.
fn run_refused(count: usize, refuse: ProblemKind, enough: usize) -> (Vec<(Kind, usize)>, Vec<String>) {
    let (_directory, store) = symmetric_store(count);
    let asked: Asked = Arc::default();
    let ask = Arc::clone(&asked);
    let base = manager(move |target, body| match target {
        path::TRUST_DOMAIN => info_of_many(),
        path::CHALLENGES => {
            let request = note(&ask, body);
            let bad = request.keys.iter().any(|key| key.key == name("aes-03"));
            if request.keys.len() > 1 || bad { refusal(refuse) } else { challenge() }
        }
        path::ATTESTATIONS => record(body),
        _ => Some((204, Value::Null)),
    });
    let (told, stop) = (Arc::new(Mutex::new(Vec::new())), Stop::new());
    let (tell, raise) = (Arc::clone(&told), stop.clone());
    let observer: Observer = Arc::new(move |event| {
        let mut told = tell.lock().unwrap();
        match event {
            AgentEvent::Attested { record, .. } => told.push(format!("attested {}", record.key.key)),
            AgentEvent::Failed { key, .. } => told.push(format!("failed {}", key.key)),
            _ => return,
        }
        if told.len() == enough {
            raise.stop();
        }
    });
    let config = AgentConfig { verify_own_proofs: false, ..AgentConfig::default() };
    agent(store, &base, config).with_observer(observer).run(&stop).unwrap();
    let (asked, told) = (asked.lock().unwrap().clone(), told.lock().unwrap().clone());
    (asked, told)
}

#[test]
fn a_refused_claim_of_many_is_taken_apart_and_holds_nobody_up() {
    let (asked, told) = run_refused(MANY_IN_HALO2, ProblemKind::KeyRevoked, MANY_IN_HALO2);
    let alone = vec![(Kind::KeyKnowledgeHalo2, 1); MANY_IN_HALO2];
    assert_eq!(asked, [vec![(Kind::ManyKeysHalo2, MANY_IN_HALO2)], alone].concat());
    // What came of the claim of many is told of no key: it may be about another.
    let failed: Vec<_> = told.iter().filter(|line| line.starts_with("failed")).collect();
    assert_eq!(failed, ["failed aes-03"]);
}

#[test]
fn fewer_keys_are_claimed_one_by_one() {
    let (asked, told) = run_refused(MANY_IN_HALO2 - 1, ProblemKind::KeyRevoked, MANY_IN_HALO2 - 1);
    assert_eq!(asked, vec![(Kind::KeyKnowledgeHalo2, 1); MANY_IN_HALO2 - 1]);
    assert_eq!(told.iter().filter(|line| line.starts_with("failed")).count(), 1);
}

#[test]
fn an_hsm_that_is_revoked_asks_once_for_all_its_keys() {
    let (asked, told) = run_refused(MANY_IN_HALO2, ProblemKind::HsmRevoked, MANY_IN_HALO2);
    assert_eq!(asked, [(Kind::ManyKeysHalo2, MANY_IN_HALO2)]);
    assert!(told.iter().all(|line| line.starts_with("failed")));
}
