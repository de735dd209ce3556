//! Two lanes side by side, and a manager that goes and comes.
#![allow(clippy::unwrap_used)]

use std::{
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use keywitness_circuits::{Envelope, KeyAlgorithm, Kind, Suite, codec::Canonical};
use keywitness_verifier::wire::{
    ChallengeBatchRequest, ChallengeRequest, StatementInfo, TrustDomainInfo, path, split_envelopes,
};
use serde_json::Value;

use super::{
    loopback_tests::{Answer, agent, challenge_batch, challenge_of, info, record, record_batch, serve_one},
    run::{proofs_at_once, rest},
    *,
};
use crate::testing::store_of;

/// A manager that answers several connections at a time.
fn manager(decide: impl Fn(&str, &[u8]) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, decide) = (listener.local_addr().unwrap(), Arc::new(decide));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let decide = Arc::clone(&decide);
            std::thread::spawn(move || {
                let _ = serve_one(stream.unwrap(), &*decide);
            });
        }
    });
    format!("http://{address}")
}

/// A manager that asks for Ed25519 and AES keys.
fn both() -> Answer {
    let (status, value) = info().unwrap();
    let mut info: TrustDomainInfo = serde_json::from_value(value).unwrap();
    info.suites = vec![Suite::Halo2Pasta];
    info.statements = [Kind::KeyKnowledgeEd25519, Kind::KeyKnowledgeHalo2]
        .map(|kind| StatementInfo {
            kind,
            verifying_key: keywitness_circuits::registry::verifying_key(&Parameters::transparent(), kind).unwrap(),
        })
        .to_vec();
    Some((status, serde_json::to_value(info).unwrap()))
}

/// Runs an agent until `enough` says so of what it has told.
fn run(store: Arc<dyn KeyStore>, base: &str, enough: impl Fn(&str) -> bool + Send + Sync + 'static) {
    let stop = Stop::new();
    let raise = stop.clone();
    let observer: Observer = Arc::new(move |event| {
        let told = match event {
            AgentEvent::Attested { record, .. } => format!("attested {}", record.key.key),
            AgentEvent::Failed { key, .. } => format!("failed {}", key.key),
            AgentEvent::ManagerAway { .. } => "away".to_owned(),
            AgentEvent::ManagerBack { due } => format!("back {due}"),
            _ => return,
        };
        if enough(&told) {
            raise.stop();
        }
    });
    agent(store, base, AgentConfig { verify_own_proofs: false, ..AgentConfig::default() })
        .with_observer(observer)
        .run(&stop)
        .unwrap();
}

#[test]
fn no_signature_waits_for_a_proof() {
    let (_directory, store) = store_of([KeyAlgorithm::Ed25519, KeyAlgorithm::Aes128]);
    let released = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
    let gate = Arc::clone(&released);
    let base = manager(move |target, body| match target {
        path::TRUST_DOMAIN => both(),
        path::CHALLENGES => {
            let asked: ChallengeRequest = serde_json::from_slice(body).unwrap();
            challenge_of(if asked.statement == Kind::KeyKnowledgeHalo2.name() { 600 } else { 3 })
        }
        path::ATTESTATIONS => {
            let envelope = keywitness_circuits::Envelope::from_bytes(body).unwrap();
            if envelope.context.statement == Kind::KeyKnowledgeHalo2.name() {
                let (open, opened) = &*gate;
                let waited = opened.wait_timeout_while(open.lock().unwrap(), Duration::from_secs(60), |open| !*open);
                assert!(!waited.unwrap().1.timed_out(), "the signatures never came");
            }
            record(body)
        }
        _ => Some((204, Value::Null)),
    });
    let (signed, order) = (AtomicUsize::new(0), Arc::new(Mutex::new(Vec::new())));
    let told = Arc::clone(&order);
    run(store, &base, move |what| {
        told.lock().unwrap().push(what.to_owned());
        if what == "attested ed25519" && signed.fetch_add(1, Ordering::Relaxed) + 1 == 3 {
            let (open, opened) = &*released;
            *open.lock().unwrap() = true;
            opened.notify_all();
        }
        what == "attested aes128"
    });
    let order = order.lock().unwrap();
    let proven = order.iter().position(|what| what == "attested aes128").unwrap();
    assert!(proven >= 3 && order.iter().take(3).all(|what| what == "attested ed25519"), "{order:?}");
}

#[test]
fn an_absence_costs_one_attempt_and_what_waits_longest_comes_first() {
    let (_directory, store) = crate::testing::store_of([]);
    for number in 0..6 {
        let key = format!("signing-{number}").parse().unwrap();
        store.generate(&key, KeyAlgorithm::Ed25519, crate::Placement::New).unwrap();
    }
    let (away, attempts, looked) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let (gone, tried) = (Arc::clone(&away), Arc::clone(&attempts));
    let base = manager(move |target, body| {
        let absent = gone.load(Ordering::Relaxed);
        match target {
            // Found at the second look.
            path::TRUST_DOMAIN if absent && looked.fetch_add(1, Ordering::Relaxed) < 1 => None,
            path::TRUST_DOMAIN => {
                gone.store(false, Ordering::Relaxed);
                both()
            }
            path::CHALLENGE_BATCHES if absent => {
                tried.fetch_add(1, Ordering::Relaxed);
                None
            }
            path::CHALLENGE_BATCHES => challenge_batch(body, 3),
            path::ATTESTATION_BATCHES => record_batch(body, |_| None),
            path::CHALLENGES => challenge_of(3),
            path::ATTESTATIONS => record(body),
            _ => Some((204, Value::Null)),
        }
    });
    let told = Arc::new(Mutex::new(Vec::<String>::new()));
    let tell = Arc::clone(&told);
    run(store, &base, move |what| {
        let mut told = tell.lock().unwrap();
        told.push(what.to_owned());
        if told.len() == 6 {
            away.store(true, Ordering::Relaxed);
        }
        told.iter().position(|what| what.starts_with("back ")).is_some_and(|at| told.len() >= at + 7)
    });
    let told = told.lock().unwrap();
    let back = told.iter().position(|what| what.starts_with("back ")).unwrap();
    assert!(told.iter().take(6).all(|what| what.starts_with("attested")), "{told:?}");
    let lost = told.iter().filter(|what| what.starts_with("failed")).count();
    assert!(lost <= 6 && told.iter().filter(|what| *what == "away").count() >= 1, "{told:?}");
    assert!(told.iter().skip(back + 1).all(|what| what.starts_with("attested")), "{told:?}");
    // One claim, asked for again as long as an answer may only have been lost.
    assert!(attempts.load(Ordering::Relaxed) <= 5, "{}", attempts.load(Ordering::Relaxed));
}

#[test]
fn proofs_of_a_few_keys_are_delivered_at_once() {
    let (_directory, store) = store_of([KeyAlgorithm::Aes128, KeyAlgorithm::Aes192, KeyAlgorithm::Aes256]);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let ask = Arc::clone(&asked);
    let base = manager(move |target, body| match target {
        path::TRUST_DOMAIN => both(),
        path::CHALLENGES => {
            ask.lock().unwrap().push(1);
            challenge_of(600)
        }
        path::CHALLENGE_BATCHES => {
            let request: ChallengeBatchRequest = serde_json::from_slice(body).unwrap();
            ask.lock().unwrap().push(request.items.len());
            challenge_batch(body, 600)
        }
        path::ATTESTATIONS => record(body),
        path::ATTESTATION_BATCHES => record_batch(body, |_| None),
        _ => Some((204, Value::Null)),
    });
    let attested = AtomicUsize::new(0);
    run(store, &base, move |what| what.starts_with("attested") && attested.fetch_add(1, Ordering::Relaxed) == 2);
    // How long one takes is known after the first.
    assert_eq!(*asked.lock().unwrap(), [1, 2]);
}

#[test]
fn a_key_that_hangs_holds_up_none_of_its_batch() {
    let (_directory, store) = crate::testing::enrolled_store();
    let (release, released) = std::sync::mpsc::channel();
    let batches = Arc::new(Mutex::new(Vec::new()));
    let sent = Arc::clone(&batches);
    let base = manager(move |target, body| match target {
        path::TRUST_DOMAIN => {
            let (status, value) = info().unwrap();
            let info = TrustDomainInfo { challenge_ttl: 2, ..serde_json::from_value(value).unwrap() };
            Some((status, serde_json::to_value(info).unwrap()))
        }
        path::CHALLENGE_BATCHES => challenge_batch(body, 600),
        path::ATTESTATION_BATCHES => {
            let envelopes = split_envelopes(body).unwrap().into_iter();
            let claimed = envelopes.map(|envelope| Envelope::from_bytes(envelope).unwrap().context.statement);
            sent.lock().unwrap().push(claimed.collect::<Vec<_>>());
            let _ = release.send(());
            record_batch(body, |_| None)
        }
        _ => Some((204, Value::Null)),
    });
    // The second proof that is begun hangs until what was made before it has arrived.
    let (here, begun, released) = (std::thread::current().id(), AtomicUsize::new(0), Mutex::new(released));
    let clock = move || {
        if std::thread::current().id() != here && begun.fetch_add(1, Ordering::Relaxed) == 1 {
            released.lock().unwrap().recv_timeout(Duration::from_secs(60)).unwrap();
        }
        SystemClock.now()
    };
    let agent = agent(store, &base, AgentConfig::default()).with_clock(Arc::new(clock));
    let reports = agent.attest_once(|entry, _| entry.attributes.algorithm.symmetric_bits().is_none()).unwrap();
    assert_eq!(reports.iter().filter(|report| report.result.is_ok()).count(), 3, "{reports:?}");
    let kinds = [Kind::KeyKnowledgeEd25519, Kind::KeyKnowledgeP256, Kind::KeyKnowledgeSecp256k1];
    assert_eq!(*batches.lock().unwrap(), kinds.map(|kind| [kind.name()]));
}

#[test]
fn proofs_are_delivered_together_as_long_as_their_challenges_last() {
    let at_once = |milliseconds, ttl| proofs_at_once(Duration::from_millis(milliseconds), ttl);
    assert_eq!((at_once(100, 60), at_once(1000, 60), at_once(0, 60), at_once(100_000, 60)), (16, 7, 16, 1));
    assert_eq!(at_once(100, 6), 7);
}

#[test]
fn in_a_backlog_the_agent_rests_unless_a_record_would_expire() {
    let mut rng = rand::thread_rng();
    let second = Duration::from_secs(1);
    for _ in 0..100 {
        let pause = rest(second, 10, 60 * second, &mut rng);
        assert!(pause >= second / 2 && pause <= second * 3 / 2, "{pause:?}");
        assert_eq!(rest(second, 10, 20 * second, &mut rng), Duration::ZERO, "the backlog takes as long, with rests");
        assert_eq!(rest(second, 10, Duration::ZERO, &mut rng), Duration::ZERO, "it has expired");
        assert!(rest(100 * second, 1, Duration::from_secs(3600), &mut rng) <= 10 * second);
    }
}
