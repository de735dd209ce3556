#![allow(clippy::unwrap_used)]

use std::{cell::Cell, sync::atomic::AtomicU64, time::Duration};

use keywitness_circuits::{
    Digest, Envelope, KeyAlgorithm, KeyAttributes, KeyOrigin, Kind, Nonce, Parameters, Suite, Timestamp,
    TokenAttributes, codec::Canonical, context, registry,
};
use keywitness_verifier::{
    client::{ClientError, ManagerClient},
    wire::{Challenge, KeyRef, Problem, ProblemKind, Record, StatementInfo, TrustDomainInfo, path},
};
use serde_json::{Value, json};

use super::{
    attest::{
        Claim, KnownKey, Session, Subject, agreed_verifying_key, check_challenge, check_records, insist, insist_while,
        kinds, redelivery,
    },
    loopback_tests,
    timetable::{First, Life, Pause},
    *,
};
use crate::testing::{audience, enrolled_store, membership, name};

const NOW: Timestamp = Timestamp(1_000_000);

fn info() -> TrustDomainInfo {
    let parameters = Parameters::transparent();
    let statement =
        |kind| Some(StatementInfo { kind, verifying_key: registry::verifying_key(&parameters, kind).ok()? });
    TrustDomainInfo {
        trust_domain: audience().trust_domain,
        manager: audience().manager,
        suites: vec![Suite::Halo2Pasta, Suite::Groth16Bn254, Suite::Halo2Pasta],
        statements: Kind::ALL
            .into_iter()
            .filter(|kind| *kind != Kind::KeyKnowledgeHalo2)
            .filter_map(statement)
            .collect(),
        record_ttl: 3600,
        challenge_ttl: 60,
        development_parameters: true,
    }
}

fn challenge() -> Challenge {
    let (not_before, not_after) = (NOW, NOW.plus(3600));
    Challenge { nonce: Nonce([9; 32]), expires_at: NOW.plus(60), not_before, not_after, beacon: None }
}

fn with_session<R>(store: &dyn KeyStore, use_it: impl FnOnce(&Session<'_>) -> R) -> R {
    let (info, enrolment, clock) = (info(), membership().enrolment.unwrap(), || NOW);
    use_it(&Session {
        store,
        client: &ManagerClient::new("http://127.0.0.1:9").unwrap(),
        parameters: &Parameters::transparent(),
        clock: &clock,
        audience: &audience(),
        enrolment: &enrolment,
        info: &info,
        verify_own_proofs: true,
        envelopes: None,
        stop: &Stop::new(),
        observer: &unwatched(),
    })
}

fn known(store: &dyn KeyStore, entry: &KeyEntry) -> [KnownKey; 1] {
    let suites = [Suite::Halo2Pasta, Suite::Groth16Bn254];
    let instances = store.instances(&entry.key, &audience().trust_domain, &suites).unwrap();
    [KnownKey { entry: entry.clone(), instances: instances.into() }]
}

fn entry(store: &dyn KeyStore, key: &str) -> KeyEntry {
    store.keys().into_iter().find(|entry| entry.key.key.as_str() == key).unwrap()
}

#[test]
fn every_field_of_the_context_comes_from_a_checked_part() {
    let (_directory, store) = enrolled_store();
    let entry = entry(&*store, "p256");
    let (enrolment, audience, challenge) = (membership().enrolment.unwrap(), audience(), challenge());
    let keys = known(&*store, &entry);
    let subject = Subject { keys: &keys, kind: Kind::KeyKnowledgeP256 };
    let verifying_key = Digest([4; 32]);
    let claim = Claim { audience: &audience, enrolment: &enrolment, subject: &subject, verifying_key };
    let context = claim.context(Digest([5; 32]), &challenge);
    assert_eq!(context.statement, "key-knowledge/p256-schnorr/1");
    assert_eq!(context.verifying_key, verifying_key);
    assert_eq!((context.trust_domain, context.manager), (audience.trust_domain, audience.manager));
    assert_eq!((context.hsm, context.cluster, context.enrolment), (name("hsm-1"), name("cluster-1"), 3));
    assert_eq!(context.keys.len(), 1);
    let key = context.keys.first().unwrap();
    assert_eq!((&key.key, key.epoch, key.attributes), (&name("p256"), 1, entry.attributes.digest()));
    assert_eq!((entry.attributes.algorithm, entry.attributes.origin), (KeyAlgorithm::P256, KeyOrigin::Generated));
    assert_eq!(context.instance, Digest([5; 32]));
    assert_eq!(context.challenge, challenge.nonce);
    assert_eq!((context.not_before, context.not_after), (challenge.not_before, challenge.not_after));
    assert_eq!((context.checkpoint, context.evidence), (None, None));
}

fn sealed(store: &dyn KeyStore, entry: &KeyEntry, kind: Kind) -> (Envelope, keywitness_circuits::Instance) {
    with_session(store, |session| {
        let keys = known(store, entry);
        let subject = Subject { keys: &keys, kind };
        let instance = subject.instance().unwrap();
        let verifying_key = agreed_verifying_key(session.parameters, session.info, kind).unwrap();
        let claim =
            Claim { audience: session.audience, enrolment: session.enrolment, subject: &subject, verifying_key };
        (session.seal(&claim, &instance, &challenge()).unwrap(), instance)
    })
}

#[test]
fn an_envelope_verifies_as_the_hsm_s() {
    let (_directory, store) = enrolled_store();
    for key in ["ed25519", "ristretto255", "p256", "secp256k1"] {
        let entry = entry(&*store, key);
        let kind = kinds(&entry, &info()).remove(0);
        let (envelope, instance) = sealed(&*store, &entry, kind);
        let verified =
            keywitness_verifier::envelope::verify(&Parameters::transparent(), &store.identity(), &envelope).unwrap();
        assert_eq!((verified.kind(), verified.instance()), (kind, &instance));
        assert_eq!(envelope.context.instance, context::instance_digest(&instance.to_bytes()));
    }
}

#[test]
fn a_challenge_about_another_time_is_refused() {
    let check = |change: fn(&mut Challenge)| {
        let mut changed = challenge();
        change(&mut changed);
        check_challenge(&changed, NOW)
    };
    assert!(check(|_| {}).is_ok());
    assert!(check(|challenge| challenge.not_before = NOW.plus(60)).is_ok(), "clocks may differ a little");
    assert!(check(|challenge| challenge.expires_at = Timestamp(NOW.0 - 59)).is_ok(), "clocks may differ a little");
    assert!(check(|challenge| challenge.expires_at = Timestamp(NOW.0 - 60)).is_err());
    assert!(check(|challenge| challenge.not_before = NOW.plus(61)).is_err());
    assert!(check(|challenge| challenge.not_after = NOW).is_err());
    assert!(check(|challenge| challenge.not_after = NOW.plus(24 * 3600)).is_ok());
    assert!(check(|challenge| challenge.not_after = NOW.plus(24 * 3600 + 1)).is_err());
    assert!(check(|challenge| challenge.not_after = Timestamp(u64::MAX)).is_err());
    assert!(check(|challenge| challenge.not_before = Timestamp(0)).is_err());
}

#[test]
fn nothing_is_proven_under_a_verifying_key_that_the_manager_does_not_use() {
    let (parameters, kind) = (Parameters::transparent(), Kind::KeyKnowledgeP256);
    let mut info = info();
    assert!(agreed_verifying_key(&parameters, &info, kind).is_ok());
    for statement in &mut info.statements {
        statement.verifying_key = Digest([1; 32]);
    }
    let foreign = agreed_verifying_key(&parameters, &info, kind);
    assert!(matches!(foreign, Err(AttestError::ForeignVerifyingKey { theirs: Some(Digest([1, ..])), .. })));
    info.statements.clear();
    let foreign = agreed_verifying_key(&parameters, &info, kind);
    assert!(matches!(foreign, Err(AttestError::ForeignVerifyingKey { theirs: None, .. })));
    let missing = agreed_verifying_key(&parameters, &info, Kind::KeyKnowledgeGroth16);
    assert!(matches!(missing, Err(AttestError::Store(StoreError::Proof(_)))));
}

#[test]
fn a_record_of_anything_else_is_refused() {
    let (_directory, store) = enrolled_store();
    let (entry, kind) = (entry(&*store, "ed25519"), Kind::KeyKnowledgeEd25519);
    let (envelope, instance) = sealed(&*store, &entry, kind);
    let keys = known(&*store, &entry);
    let subject = Subject { keys: &keys, kind };
    let good = Record {
        hsm: name("hsm-1"),
        cluster: name("cluster-1"),
        enrolment: 3,
        key: entry.key.clone(),
        statement: kind,
        verifying_key: envelope.context.verifying_key,
        fingerprint: instance.fingerprint().unwrap(),
        envelope: envelope.digest(),
        proven_at: NOW,
        expires_at: NOW.plus(3600),
    };
    let check = |record: &Record| check_records(std::slice::from_ref(record), &envelope, &subject, &instance);
    assert!(check(&good).is_ok());
    for number in [vec![], vec![good.clone(), good.clone()]] {
        assert!(matches!(
            check_records(&number, &envelope, &subject, &instance),
            Err(AttestError::ForeignRecord("more or fewer keys"))
        ));
    }
    let changes: [fn(&mut Record); 10] = [
        |record| record.hsm = name("hsm-2"),
        |record| record.cluster = name("cluster-2"),
        |record| record.enrolment = 4,
        |record| record.key = KeyRef { key: name("p256"), epoch: 1 },
        |record| record.statement = Kind::KeyKnowledgeP256,
        |record| record.verifying_key = Digest([0; 32]),
        |record| record.fingerprint.bytes = Digest([0; 32]),
        |record| record.envelope = Digest([0; 32]),
        |record| record.expires_at = NOW.plus(3601),
        |record| record.proven_at = NOW.plus(3600),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut changed = good.clone();
        change(&mut changed);
        assert!(matches!(check(&changed), Err(AttestError::ForeignRecord(_))), "change {number}");
    }
}

fn unwatched() -> Observer {
    Arc::new(|_| {})
}

fn problem(kind: ProblemKind) -> ClientError {
    ClientError::Problem(Problem::new(kind, "test"))
}

#[test]
fn only_an_answer_that_may_be_lost_is_asked_for_again() {
    let stop = Stop::new();
    let calls = Cell::new(0);
    let answer = insist(&stop, || {
        calls.set(calls.get() + 1);
        if calls.get() == 1 { Err(ClientError::Unreachable("x".into(), "reset".into())) } else { Ok(7) }
    });
    assert_eq!((answer, calls.get()), (Ok(7), 2));
    calls.set(0);
    let refused: Result<(), _> = insist(&stop, || {
        calls.set(calls.get() + 1);
        Err(problem(ProblemKind::ProofRefused))
    });
    assert!(refused.is_err() && calls.get() == 1);
    stop.stop();
    calls.set(0);
    let stopped: Result<(), _> = insist(&stop, || {
        calls.set(calls.get() + 1);
        Err(problem(ProblemKind::Unavailable))
    });
    assert!(stopped.is_err() && calls.get() == 1);
}

#[test]
fn nothing_is_sent_again_when_it_would_come_too_late() {
    let calls = Cell::new(0);
    let answer: Result<(), _> = insist_while(
        &Stop::new(),
        || calls.get() < 2,
        || {
            calls.set(calls.get() + 1);
            Err(ClientError::Unreachable("x".into(), "reset".into()))
        },
    );
    assert!(matches!(answer, Err(ClientError::Unreachable(..))) && calls.get() == 2, "{}", calls.get());
}

#[test]
fn words_of_the_manager_cannot_command_a_terminal() {
    assert_eq!(printable(&"it's \"so\" \\ é"), "it's \"so\" \\ é");
    assert_eq!(printable(&"a\x1b[2J\nb\u{202e}"), "a\\u{1b}[2J\\nb\\u{202e}");
    let (directory, store) = enrolled_store();
    let path = directory.path().join("journal");
    let agent = agent(store, AgentConfig { journal: Some(path.clone()), ..AgentConfig::default() });
    let error = ClientError::Problem(Problem::new(ProblemKind::ProofRefused, "\x1b[2Jgone\r"));
    let key = KeyRef { key: name("p256"), epoch: 1 };
    let enrolment = membership().enrolment.unwrap();
    let entry = agent.journal_entry(&enrolment, &key, Kind::KeyKnowledgeP256, Err(&error.into()));
    agent.write_journal(&[entry]);
    let detail = journal::read(&path).unwrap().remove(0).detail.unwrap();
    assert!(detail.contains("gone") && !detail.contains(char::is_control), "{detail}");
}

#[test]
fn records_of_the_journal_are_in_force_until_they_expire() {
    let (_directory, store) = enrolled_store();
    let agent = agent(store, AgentConfig::default());
    let key = KeyRef { key: name("p256"), epoch: 1 };
    let record = Record { proven_at: NOW, ..crate::testing::record("p256", 1, NOW.plus(100)) };
    let records = journal::newest_records(vec![Entry::attested(NOW, &record)], &membership().enrolment.unwrap());
    assert!(!agent.standing().is_attested(&key, NOW));
    agent.remember(&records);
    assert!(agent.standing().is_attested(&key, NOW.plus(99)));
    assert!(!agent.standing().is_attested(&key, NOW.plus(100)));
    assert!(agent.standing().is_attested(&key, Timestamp(NOW.0 - 60)), "clocks may differ a little");
    assert!(!agent.standing().is_attested(&key, Timestamp(NOW.0 - 61)), "nothing of the future is in force");
    assert!(!agent.standing().is_attested(&KeyRef { epoch: 2, ..key }, NOW));
}

#[test]
fn each_failure_waits_as_it_should() {
    let pause = |error: ClientError| AttestError::from(error).pause(3600);
    for kind in ProblemKind::ALL {
        let expected = match kind {
            ProblemKind::HsmRevoked | ProblemKind::KeyRevoked => Pause::Revoked(3600),
            ProblemKind::Internal
            | ProblemKind::Unavailable
            | ProblemKind::TooManyRequests
            | ProblemKind::ClockSkew
            | ProblemKind::UnknownChallenge
            | ProblemKind::ChallengeExpired
            | ProblemKind::UnknownKey => Pause::Short,
            _ => Pause::Long,
        };
        assert_eq!(pause(problem(*kind)), expected, "{kind}");
    }
    assert_eq!(pause(ClientError::Unreachable("x".into(), "y".into())), Pause::Unanswered);
    let busy = |seconds| ClientError::Problem(Problem::new(ProblemKind::Unavailable, "test").after(seconds));
    assert_eq!(pause(busy(7)), Pause::After(7));
    let refused = ClientError::Problem(Problem::new(ProblemKind::ProofRefused, "test").after(7));
    assert_eq!(pause(refused), Pause::Long, "a refusal is no outage, whatever comes with it");
    let second = Duration::from_secs(1);
    assert_eq!(redelivery(second, &problem(ProblemKind::Unavailable)), second);
    assert_eq!(redelivery(second, &busy(0)), second);
    assert_eq!(redelivery(second, &busy(3)), 3 * second);
    assert_eq!(redelivery(second, &busy(u16::MAX)), 10 * second);
    assert_eq!(AttestError::Challenge("old").pause(3600), Pause::Long);
}

#[test]
fn each_key_proves_each_suite_once() {
    let (_directory, store) = enrolled_store();
    let kinds_of = |key| kinds(&entry(&*store, key), &info());
    assert_eq!(kinds_of("aes256"), [Kind::KeyKnowledgeHalo2, Kind::KeyKnowledgeGroth16]);
    assert_eq!(kinds_of("ed25519"), [Kind::KeyKnowledgeEd25519]);
}

fn agent(store: Arc<crate::SoftwareStore>, config: AgentConfig) -> Agent {
    // Port 9 is closed: whatever needs the manager fails.
    let client = ManagerClient::new("http://127.0.0.1:9").unwrap();
    Agent::new(store, client, Parameters::transparent(), config).unwrap().with_clock(Arc::new(|| NOW))
}

#[test]
fn an_agent_without_enrolment_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(crate::testing::create(&directory.path().join("store")));
    let agent = agent(store, AgentConfig::default());
    assert!(matches!(agent.run(&Stop::new()), Err(AgentError::NotEnrolled)));
    assert!(matches!(agent.attest_once(|_, _| true), Err(AgentError::NotEnrolled)));
}

#[test]
fn a_refusal_is_learnt_journalled_and_told() {
    let (directory, store) = enrolled_store();
    let path = directory.path().join("journal");
    let agent = agent(Arc::clone(&store), AgentConfig { journal: Some(path.clone()), ..AgentConfig::default() });
    let entry = entry(&*store, "p256");
    let known = (entry.key.clone(), Vec::new());
    let refused = |kind| AttestError::Submission { envelope: Digest([6; 32]), error: problem(kind).into() };
    agent.learn(&known, Err(&refused(ProblemKind::KeyRevoked)));
    assert!(agent.standing().is_revoked(&entry.key.key) && !agent.standing().is_revoked(&name("ed25519")));
    agent.learn(&known, Err(&refused(ProblemKind::HsmRevoked)));
    assert!(agent.standing().hsm_revoked() && agent.standing().is_revoked(&name("ed25519")));
    let enrolment = membership().enrolment.unwrap();
    let refused = refused(ProblemKind::HsmRevoked);
    agent.write_journal(&[agent.journal_entry(&enrolment, &entry.key, Kind::KeyKnowledgeP256, Err(&refused))]);
    let entries = journal::read(&path).unwrap();
    let written = entries.first().unwrap();
    assert_eq!((written.at, written.problem), (NOW, Some(ProblemKind::HsmRevoked)));
    assert_eq!((written.outcome, written.envelope), (journal::Ending::Refused, Some(Digest([6; 32]))));
}

/// What a token says of a key that can leave it, or never could.
fn told_by_a_token(attributes: &mut KeyAttributes, extractable: bool) {
    let (sensitive, always_sensitive, never_extractable) = (true, true, !extractable);
    attributes.extractable = extractable;
    attributes.token =
        Some(TokenAttributes { sensitive, always_sensitive, never_extractable, ..TokenAttributes::default() });
}

#[test]
fn a_key_that_can_leave_its_token_since_it_was_enrolled_is_claimed_no_more() {
    let (directory, store) = enrolled_store();
    let own = KeyRef { key: name("ed25519"), epoch: 1 };
    store.restate(&own, |attributes| told_by_a_token(attributes, false));
    let heard = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let hear = Arc::clone(&heard);
    let base = loopback_tests::manager(move |target, body| {
        hear.lock().unwrap().push(body.to_vec());
        match target {
            path::TRUST_DOMAIN => loopback_tests::info(),
            path::SHARINGS => Some((200, json!({ "dealings": [] }))),
            path::CHALLENGES => loopback_tests::challenge_of(600),
            path::ATTESTATIONS => loopback_tests::record(body),
            path::CHALLENGE_BATCHES => loopback_tests::challenge_batch(body, 600),
            path::ATTESTATION_BATCHES => loopback_tests::record_batch(body, |_| None),
            _ => Some((204, Value::Null)),
        }
    });
    let journal = directory.path().join("journal");
    let config = AgentConfig { journal: Some(journal.clone()), ..AgentConfig::default() };
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let observer: Observer = Arc::new(move |event| {
        if let AgentEvent::Failed { key, error, .. } = event {
            tell.lock().unwrap().push(((*key).clone(), error.to_string()));
        }
    });
    let agent = loopback_tests::agent(store.clone(), &base, config).with_observer(observer);
    let attest = |keys: &[&str]| {
        let reports = agent.attest_once(|entry, _| keys.contains(&entry.key.key.as_str())).unwrap();
        let named = b"ed25519";
        let heard_of_it =
            heard.lock().unwrap().drain(..).any(|body| body.windows(named.len()).any(|part| part == named));
        let mut results: Vec<_> = reports.into_iter().map(|report| (report.key, report.result)).collect();
        results.sort_by(|(key, _), (other, _)| key.cmp(other));
        (results, heard_of_it)
    };
    let is_refused = |(key, result): &(KeyRef, Result<Record, Arc<AttestError>>)| {
        let Err(error) = result else { return false };
        let changed = matches!(&**error, AttestError::Store(StoreError::AttributesChanged(of)) if *of == own);
        *key == own && changed && error.pause(3600) == Pause::Long
    };

    let (results, heard_of_it) = attest(&["ed25519"]);
    assert!(heard_of_it && matches!(results.as_slice(), [(_, Ok(_))]), "{results:?}");
    // Alone, and in a batch with one that did not change: the manager hears of that one alone.
    store.restate(&own, |attributes| told_by_a_token(attributes, true));
    let (results, heard_of_it) = attest(&["ed25519"]);
    assert!(!heard_of_it && matches!(results.as_slice(), [one] if is_refused(one)), "{results:?}");
    let (results, heard_of_it) = attest(&["ed25519", "p256"]);
    assert!(!heard_of_it && matches!(results.as_slice(), [one, (_, Ok(_))] if is_refused(one)), "{results:?}");
    let why = StoreError::AttributesChanged(own.clone()).to_string();
    assert!(why.contains("ed25519") && why.contains("not those that were enrolled"), "{why}");
    assert_eq!(*told.lock().unwrap(), vec![(own.clone(), why.clone()); 2]);

    // As it was, it is claimed again; as it is now, from its next epoch on.
    store.restate(&own, |attributes| told_by_a_token(attributes, false));
    let (results, _) = attest(&["ed25519"]);
    assert!(matches!(results.as_slice(), [(key, Ok(_))] if *key == own), "{results:?}");
    store.generate(&own.key, KeyAlgorithm::Ed25519, crate::Placement::Rotate).unwrap();
    let next = KeyRef { epoch: 2, ..own.clone() };
    store.restate(&next, |attributes| told_by_a_token(attributes, true));
    let (results, _) = attest(&["ed25519"]);
    assert!(matches!(results.as_slice(), [(key, Ok(_))] if *key == next), "{results:?}");

    let entries = journal::read(&journal).unwrap().into_iter().filter(|entry| entry.key == own);
    let endings: Vec<_> = entries.map(|entry| (entry.outcome, entry.detail)).collect();
    use journal::Ending::{Attested, NotSent};
    let not_sent = (NotSent, Some(why));
    assert_eq!(endings, [(Attested, None), not_sent.clone(), not_sent, (Attested, None)]);
}

#[test]
fn a_restart_waits_for_the_records_that_the_journal_remembers() {
    let (_directory, store) = enrolled_store();
    let agent = agent(store, AgentConfig::default());
    let remembered = |at: u64| {
        let line = format!(
            r#"{{"at":{at},"hsm":"hsm-1","enrolment":3,"key":"p256","epoch":1,
                "kind":"key-knowledge/p256-schnorr/1","outcome":"attested","proven_at":{at},"expires_at":{}}}"#,
            at + 1000
        );
        serde_json::from_str::<Entry>(&line).unwrap()
    };
    assert_eq!(agent.first_due(None, 0, 3600), First { due: NOW, life: None });
    for phase in (0..1000).map(|part| part * (u64::MAX / 1000)) {
        let first = |at| agent.first_due(Some(&remembered(at)), phase, 3600);
        let due = |at| first(at).due.0;
        let life = Life { expires: NOW.plus(900), on_the_wall: NOW.plus(900), lifetime: 1000 };
        assert_eq!(first(NOW.0 - 100).life, Some(life));
        assert!((NOW.0..=NOW.0 + 600).contains(&due(NOW.0 - 100)));
        assert!(due(NOW.0 - 800) < NOW.0, "long due");
        assert!((NOW.0 + 100..=NOW.0 + 700).contains(&due(NOW.0 + 5000)), "a clock that was put back");
        let shorter = agent.first_due(Some(&remembered(NOW.0 + 5000)), phase, 100);
        assert!((NOW.0 + 10..=NOW.0 + 70).contains(&shorter.due.0), "records last no longer than that now");
        assert_eq!(shorter.life.unwrap().expires, NOW.plus(100));
    }
}

/// A clock that was set so many seconds ahead, beside one that nobody sets.
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        NOW.plus(self.0.load(Ordering::Relaxed))
    }

    fn steady(&self) -> Timestamp {
        NOW
    }
}

#[test]
fn a_clock_that_was_late_at_the_start_keeps_no_expired_record_fresh() {
    let (_directory, store) = enrolled_store();
    let key = entry(&*store, "p256");
    let clock = Arc::new(SetClock(AtomicU64::new(0)));
    let agent = agent(store, AgentConfig::default()).with_clock(clock.clone());
    let record = Record { proven_at: NOW, ..crate::testing::record("p256", 1, NOW.plus(1000)) };
    let before = Entry::attested(NOW, &record);
    let first = |_: &timetable::Task, phase| agent.first_due(Some(&before), phase, 3600);
    lock(&agent.board).timetable.keep(&name("hsm-1"), [(Kind::KeyKnowledgeP256, key)], |_, _| 1, first);
    let stands = |ahead| {
        clock.0.store(ahead, Ordering::Relaxed);
        agent.mind_the_clock();
        let tally = agent.health().tally;
        (tally.in_force, tally.expired, tally.due)
    };
    assert_eq!(stands(0), (1, 0, 0));
    assert_eq!(stands(60), (1, 0, 0), "so much clocks may differ");
    // The machine was off, or paused, and only now the clock says so.
    assert_eq!(stands(2000), (0, 1, 1));
    assert_eq!(stands(0), (1, 0, 1), "what is due stays so");
}

#[test]
fn a_clock_that_was_ahead_at_the_start_refuses_no_request_for_copies_afterwards() {
    let (_directory, store) = enrolled_store();
    let clock = Arc::new(SetClock(AtomicU64::new(86_400)));
    let agent = agent(store, AgentConfig::default()).with_clock(clock.clone());
    let started = |ahead| {
        clock.0.store(ahead, Ordering::Relaxed);
        agent.started()
    };
    assert_eq!((started(86_400), started(86_400 - 60)), (NOW.plus(86_400), NOW.plus(86_400)));
    assert_eq!(started(0), NOW, "what was made since then is answered");
}

#[test]
fn a_symmetric_key_is_proven_in_each_suite() {
    let (_directory, store) = enrolled_store();
    let entry = entry(&*store, "aes256");
    let parameters =
        Parameters::transparent().with_groth16(keywitness_circuits::params::Groth16Parameters::develop().unwrap());
    let enrolment = membership().enrolment.unwrap();
    for kind in [Kind::KeyKnowledgeHalo2, Kind::KeyKnowledgeGroth16] {
        let verifying_key = registry::verifying_key(&parameters, kind).unwrap();
        let info = TrustDomainInfo { statements: vec![StatementInfo { kind, verifying_key }], ..info() };
        let session = Session {
            store: &*store,
            client: &ManagerClient::new("http://127.0.0.1:9").unwrap(),
            parameters: &parameters,
            clock: &|| NOW,
            audience: &audience(),
            enrolment: &enrolment,
            info: &info,
            verify_own_proofs: true,
            envelopes: None,
            stop: &Stop::new(),
            observer: &unwatched(),
        };
        let keys = known(&*store, &entry);
        let subject = Subject { keys: &keys, kind };
        let instance = subject.instance().unwrap();
        let verifying_key = agreed_verifying_key(&parameters, &info, kind).unwrap();
        let claim = Claim { audience: &audience(), enrolment: &enrolment, subject: &subject, verifying_key };
        let envelope = session.seal(&claim, &instance, &challenge()).unwrap();
        let verified = keywitness_verifier::envelope::verify(&parameters, &store.identity(), &envelope).unwrap();
        assert_eq!((verified.kind(), verified.instance()), (kind, &instance));
    }
}
