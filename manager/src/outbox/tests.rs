//! Delivery over real HTTPS: in order, at least once, to whom the configuration names and nobody else.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use keywitness_circuits::Timestamp;
use keywitness_verifier::wire::{
    AcknowledgeRequest, AlertQuery, NotificationKind, ProblemKind, RevocationTarget, Rule, TokenAlgorithm,
    WEBHOOK_TIMESTAMP, Webhook, WebhookReplay,
};

use super::{
    Patience, WebhooksConfig, pause,
    receiver::{Answer, Receiver, Request, TestAuthority},
};
use crate::{
    config::Config,
    ledger::{
        fraud::policy::RuleChange,
        state::{State, key, webhook::WebhookRow},
    },
    service::testing::{Caller, TestKey, World, refused},
};

/// Hardly any pause, and little patience.
const HASTY: Patience =
    Patience { attempt: Duration::from_millis(800), first: Duration::from_millis(1), most: Duration::from_millis(4) };

fn webhooks(texts: &[String]) -> impl FnOnce(&mut Config) + use<> {
    let parsed = WebhooksConfig::parse(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    move |config| config.webhooks = WebhooksConfig { patience: HASTY, ..parsed }
}

/// A world with a webhook, which has seen that there is nothing yet.
fn world(authority: &TestAuthority, receiver: &Receiver, more: &[&str]) -> World {
    let mut texts = vec![format!("pager.url={}", receiver.url()), format!("pager.ca={}", authority.path().display())];
    texts.extend(more.iter().map(|text| (*text).to_owned()));
    let world = World::with_config(webhooks(&texts));
    deliver(&world);
    world
}

/// Every webhook once.
fn deliver(world: &World) {
    for sink in &world.manager.outbox().sinks {
        world.manager.deliver(sink).unwrap();
    }
}

/// Again and again, until nobody is behind.
fn settle(world: &World) {
    let begin = Instant::now();
    while shown(world).iter().any(|webhook| webhook.health.behind > 0) {
        deliver(world);
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", shown(world));
    }
}

fn shown(world: &World) -> Vec<Webhook> {
    world.manager.webhooks(&Caller::in_process()).unwrap().webhooks
}

fn commands(world: &World) -> u64 {
    State(world.store.view().unwrap().as_ref()).head().unwrap().sequence
}

fn noted(world: &World, webhook: &str) -> u64 {
    let row: Option<WebhookRow> = State(world.store.view().unwrap().as_ref()).get(&key::webhook(webhook)).unwrap();
    row.unwrap().through
}

/// Raises so many alerts: each an HSM of a cluster that proves what one of another cluster proved first.
fn fraud(world: &World, name: &str, alerts: u8) {
    let key = TestKey::ed25519(name, 1 + name.len() as u8 % 14);
    for number in 0..=alerts {
        let cluster = if number == 0 { "eu" } else { "us" };
        let hsm = world.hsm(&format!("{name}-{number}"), cluster);
        hsm.enrol_key(world, &key).unwrap();
        hsm.attest(world, cluster, &key).unwrap();
    }
}

/// The keys by which anyone checks.
fn published(world: &World) -> Vec<Vec<u8>> {
    let set = serde_json::to_value(world.manager.jwks().unwrap()).unwrap();
    let keys = set["keys"].as_array().unwrap().iter().filter(|key| key["crv"] == "Ed25519");
    keys.map(|key| data_encoding::BASE64URL_NOPAD.decode(key["x"].as_str().unwrap().as_bytes()).unwrap()).collect()
}

fn assert_signed(world: &World, request: &Request) {
    assert!(published(world).iter().any(|key| request.is_signed_by(key)), "{request:?}");
}

#[test]
fn alerts_arrive_in_order_once_each_whatever_the_receiver_does_before() {
    let authority = TestAuthority::new();
    let receiver = Receiver::new(&authority);
    let elsewhere = Receiver::new(&authority);
    let world = world(&authority, &receiver, &[]);
    fraud(&world, "k", 3);
    let before = commands(&world);
    receiver.will([
        Answer::status("500 Internal Server Error"),
        Answer::status("429 Too Many Requests"),
        Answer::With("302 Found", format!("location: {}\r\n", elsewhere.url())),
        Answer::status("400 Bad Request"),
        Answer::Hang(Duration::from_millis(1500)),
        Answer::status("101 Switching Protocols"),
    ]);
    let since = world.now();
    for failures in 1..=6 {
        std::thread::sleep(HASTY.most);
        world.advance(10);
        deliver(&world);
        let health = shown(&world).remove(0).health;
        assert_eq!((health.failures, health.failing_since), (failures, Some(Timestamp(since.0 + 10))));
        assert!(health.waiting_since.is_some_and(|waiting| waiting <= since));
    }
    // Nothing of it was noted: a receiver that is away costs no entry.
    assert_eq!(commands(&world), before);
    assert!(world.manager.readiness().ready);
    settle(&world);
    let requests = receiver.requests();
    assert_eq!(receiver.alerts(), [1, 1, 1, 1, 1, 1, 1, 2, 3]);
    let first: HashSet<_> =
        requests[..7].iter().map(|request| (request.id().to_owned(), request.body.clone())).collect();
    assert_eq!(first.len(), 1, "what is sent again is the same");
    assert_eq!(requests.iter().map(Request::id).collect::<HashSet<_>>().len(), 3);
    assert!(elsewhere.requests().is_empty());
    for request in &requests {
        assert_signed(&world, request);
        assert!(!request.id().contains('.') && request.head.starts_with("POST /hook?secret=x HTTP/1.1"));
        assert_eq!(request.header("content-type"), "application/json");
    }
    assert_eq!(requests[8].header(WEBHOOK_TIMESTAMP), world.now().0.to_string());
    // One note for all of them, and then nothing.
    assert_eq!(commands(&world), before + 1);
    deliver(&world);
    assert_eq!((commands(&world), receiver.requests().len()), (before + 1, 9));
    let webhook = shown(&world).remove(0);
    assert_eq!((webhook.health.failures, webhook.health.failing_since, webhook.error), (0, None, None));
}

#[test]
fn a_message_says_what_the_api_says_and_its_signature_binds_all_of_it() {
    let authority = TestAuthority::new();
    let receiver = Receiver::new(&authority);
    let world = world(&authority, &receiver, &[]);
    fraud(&world, "k", 1);
    settle(&world);
    let request = receiver.requests().remove(0);
    let notification = request.notification();
    let alert = world.manager.alert(&Caller::in_process(), 1).unwrap();
    assert_eq!((notification.kind, notification.webhook.as_str()), (NotificationKind::Alert, "pager"));
    assert_eq!(notification.timestamp, alert.at);
    assert_eq!(notification.data.event.as_ref().map(|event| event.number), Some(alert.event));
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["data"]["alert"], serde_json::to_value(&alert).unwrap());
    let keys = published(&world);
    let signed = |request: &Request| keys.iter().any(|key| request.is_signed_by(key));
    assert!(signed(&request));
    let with = |from: &str, to: &str| Request { head: request.head.replace(from, to), ..request.clone() };
    assert!(!signed(&with(request.id(), "kw_9_0000000000000000")));
    assert!(!signed(&with(&format!("timestamp: {}", world.now().0), &format!("timestamp: {}", world.now().0 + 1))));
    let mut other = request.clone();
    *other.body.last_mut().unwrap() ^= 1;
    assert!(!signed(&other));
    // No signature of a message is one of a token: what is signed is no signing input of a JWS.
    let first = request.id().split('.').next().unwrap();
    assert!(data_encoding::BASE64URL_NOPAD.decode(first.as_bytes()).map_or(true, |bytes| bytes[0] != b'{'));
}

#[test]
fn a_key_that_takes_over_signs_and_was_published_before() {
    let authority = TestAuthority::new();
    let receiver = Receiver::new(&authority);
    let world = world(&authority, &receiver, &[]);
    world.manager.rotate_token_key(&Caller::in_process(), TokenAlgorithm::EdDsa).unwrap();
    let keys = published(&world);
    assert_eq!(keys.len(), 2);
    fraud(&world, "k", 1);
    settle(&world);
    world.advance(301);
    fraud(&world, "other", 1);
    settle(&world);
    let requests = receiver.requests();
    let by: Vec<_> =
        requests.iter().map(|request| keys.iter().position(|key| request.is_signed_by(key)).unwrap()).collect();
    assert!(by == [0, 1] || by == [1, 0], "{by:?}");
}

#[test]
fn whoever_cannot_show_the_right_certificate_is_told_nothing() {
    let (authority, other) = (TestAuthority::new(), TestAuthority::new());
    let ca = |authority: &TestAuthority| format!("pager.ca={}", authority.path().display());
    let (foreign, misnamed) = (Receiver::new(&other), Receiver::of(&authority, "elsewhere.example", false));
    for (receiver, ca) in [(&foreign, ca(&authority)), (&misnamed, ca(&authority)), (&foreign, "pager.ca=".to_owned())]
    {
        let world = World::with_config(webhooks(&[format!("pager.url={}", receiver.url()), ca]));
        deliver(&world);
        fraud(&world, "k", 1);
        deliver(&world);
        let webhook = shown(&world).remove(0);
        assert!(webhook.error.as_ref().is_some_and(|error| error.contains("certificate")), "{webhook:?}");
        assert!(receiver.requests().is_empty());
        assert!(!format!("{webhook:?}").contains("secret"));
        let test = world.manager.test_webhook(&Caller::in_process(), "pager").unwrap();
        assert!(!test.delivered && receiver.requests().is_empty());
    }
}

#[test]
fn a_receiver_that_wants_a_client_certificate_is_shown_one() {
    let authority = TestAuthority::new();
    let receiver = Receiver::of(&authority, "localhost", true);
    let bare = world(&authority, &receiver, &[]);
    fraud(&bare, "k", 1);
    deliver(&bare);
    assert_eq!((shown(&bare)[0].health.failures, receiver.requests().len()), (1, 0));
    let (certificate, key) = authority.client();
    let shows = [format!("pager.certificate={}", certificate.display()), format!("pager.key={}", key.display())];
    let world = world(&authority, &receiver, &shows.each_ref().map(String::as_str));
    fraud(&world, "k", 1);
    settle(&world);
    assert_eq!(receiver.alerts(), [1]);
}

#[test]
fn files_that_are_not_what_they_should_be_keep_the_manager_from_starting() {
    let authority = TestAuthority::new();
    let (certificate, key) = authority.client();
    let url = "pager.url=https://alerts.example/".to_owned();
    let with = |fields: &[String]| {
        let texts = [std::slice::from_ref(&url), fields].concat();
        let parsed = WebhooksConfig::parse(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        super::Outbox::open(&parsed).map(drop)
    };
    with(&[]).unwrap();
    with(&[format!("pager.ca={}", authority.path().display())]).unwrap();
    for wrong in [
        &["pager.ca=/nowhere".to_owned()][..],
        &[format!("pager.ca={}", key.display())],
        &[format!("pager.certificate={}", certificate.display()), format!("pager.key={}", certificate.display())],
        &[format!("pager.certificate={}", key.display()), format!("pager.key={}", key.display())],
    ] {
        with(wrong).unwrap_err();
    }
}

#[test]
fn a_body_without_an_end_holds_up_nothing() {
    let authority = TestAuthority::new();
    let receiver = Receiver::new(&authority);
    let world = world(&authority, &receiver, &[]);
    fraud(&world, "k", 1);
    receiver.will([Answer::Endless]);
    let begin = Instant::now();
    settle(&world);
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(receiver.alerts(), [1]);
}

#[test]
fn while_a_receiver_keeps_its_answer_back_decisions_are_made() {
    let authority = TestAuthority::new();
    let receiver = Receiver::new(&authority);
    let texts = [format!("pager.url={}", receiver.url()), format!("pager.ca={}", authority.path().display())];
    let world = World::with_config(|config| {
        webhooks(&texts)(config);
        config.webhooks.patience.attempt = Duration::from_secs(60);
    });
    deliver(&world);
    fraud(&world, "k", 1);
    let (let_go, held) = mpsc::channel();
    receiver.will([Answer::Held(Arc::new(Mutex::new(held)))]);
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| deliver(&world));
        while receiver.requests().is_empty() {
            std::thread::yield_now();
        }
        let key = TestKey::ed25519("meanwhile", 3);
        let hsm = world.hsm("meanwhile", "eu");
        hsm.enrol_key(&world, &key).unwrap();
        hsm.attest(&world, "eu", &key).unwrap();
        assert!(!hanging.is_finished());
        drop(let_go);
    });
    assert_eq!(shown(&world)[0].health.failures, 1);
}

#[test]
fn each_webhook_goes_its_own_way_and_is_told_what_it_asks_for() {
    let authority = TestAuthority::new();
    let (broken, well) = (Receiver::new(&authority), Receiver::new(&authority));
    let ca = authority.path().display().to_string();
    let mut texts = Vec::new();
    for (name, more) in [
        ("all", vec![]),
        ("events", vec!["sends=events"]),
        ("quarantines", vec!["sends=quarantines"]),
        ("drift", vec!["rules=drift"]),
        ("eu", vec!["clusters=eu"]),
        ("us", vec!["clusters=us", "sends=fraud"]),
    ] {
        texts.extend([format!("{name}.url={}", well.url()), format!("{name}.ca={ca}")]);
        texts.extend(more.iter().map(|field| format!("{name}.{field}")));
    }
    texts.extend([format!("broken.url={}", broken.url()), format!("broken.ca={ca}")]);
    let world = World::with_config(|config| {
        webhooks(&texts)(config);
        let quarantine =
            RuleChange { action: Some(keywitness_verifier::wire::Action::Quarantine), ..RuleChange::default() };
        config.fraud = config.fraud.clone().with(Rule::Replay, quarantine);
    });
    deliver(&world);
    broken.will(std::iter::repeat_n(Answer::status("503 Service Unavailable"), 1000));
    fraud(&world, "k", 1);
    let hsm = world.hsm("replayer", "eu");
    let key = TestKey::ed25519("own", 5);
    hsm.enrol_key(&world, &key).unwrap();
    let challenge = hsm.challenge(&world, &key).unwrap();
    crate::service::testing::submit(&world, &hsm.answer(&world, "eu", &key, &challenge)).unwrap();
    let again = hsm.forge(&key, hsm.context(&world, "eu", &key, &challenge));
    crate::service::testing::submit(&world, &again).unwrap_err();
    for _ in 0..3 {
        deliver(&world);
    }
    let told = |webhook: &str| {
        let requests = well.requests().into_iter().map(|request| request.notification());
        let rules = requests.filter(|message| message.webhook == webhook).map(|message| {
            message.data.alert.map(|alert| alert.rule).or(message.data.event.and_then(|event| event.kind.rule()))
        });
        rules.collect::<Vec<_>>()
    };
    let (foreign, replay) = (Some(Rule::ForeignCluster), Some(Rule::Replay));
    assert_eq!(told("all"), [foreign, replay]);
    // Three HSMs enrolled, two alerts, and an HSM suspended.
    let events = told("events");
    assert_eq!((events.len() as u64, events.iter().flatten().count()), (world.events().len() as u64, 2));
    assert_eq!(told("quarantines"), [replay]);
    assert!(told("drift").is_empty());
    // What is about an HSM of another cluster stays there, and the event that names both clusters.
    assert_eq!((told("eu"), told("us")), (vec![replay], vec![foreign]));
    let us = well.requests().into_iter().map(|request| request.notification()).find(|told| told.webhook == "us");
    assert!(us.is_some_and(|told| told.data.event.is_none() && told.data.alert.is_some()));
    let health = |name: &str| shown(&world).into_iter().find(|webhook| webhook.health.name == name).unwrap().health;
    assert!(health("broken").failures > 0 && health("all").failures == 0 && health("all").behind == 0);
    assert!(health("broken").behind > 0);
    let status = world.manager.status(&Caller::in_process()).unwrap();
    assert_eq!(status.webhooks.iter().find(|webhook| webhook.failures > 0).unwrap().name, "broken");
    let text = world.manager.measurements(&Caller::in_process()).unwrap();
    let line = |line: &str| assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    line("keywitness_webhook_attempts_total{outcome=\"delivered\",webhook=\"all\"} 2");
    line("keywitness_webhook_behind_events{webhook=\"all\"} 0");
    line(&format!("keywitness_webhook_failures{{webhook=\"broken\"}} {}", health("broken").failures));
}

#[test]
fn a_restart_goes_on_where_it_was_and_a_new_webhook_begins_with_what_is_yet_to_come() {
    let authority = TestAuthority::new();
    let receiver = Receiver::new(&authority);
    let world = world(&authority, &receiver, &[]);
    fraud(&world, "k", 1);
    settle(&world);
    receiver.will([Answer::status("500 Internal Server Error")]);
    fraud(&world, "other", 2);
    deliver(&world);
    let world = world.reopen();
    assert_eq!(shown(&world)[0].health.failing_since, None);
    settle(&world);
    assert_eq!(receiver.alerts(), [1, 2, 2, 3]);
    // One that is new begins when the manager starts, whoever is slow to deliver.
    let late = Receiver::new(&authority);
    let ca = format!("pager.ca={}", authority.path().display());
    let world = World::with_config(webhooks(&[format!("pager.url={}", late.url()), ca]));
    fraud(&world, "k", 2);
    assert_eq!(noted(&world, "pager"), 0);
    fraud(&world, "other", 1);
    settle(&world);
    assert_eq!(late.alerts(), [1, 2, 3]);
}

#[test]
fn operators_have_it_told_again_skip_and_test_and_all_of_it_is_in_the_log() {
    let authority = TestAuthority::new();
    let receiver = Receiver::new(&authority);
    let world = world(&authority, &receiver, &[]);
    let caller = Caller::in_process();
    fraud(&world, "k", 3);
    settle(&world);
    let [_, second, _] = world.manager.alerts(&caller, &AlertQuery::default()).unwrap().alerts.try_into().unwrap();
    world.manager.acknowledge_alert(&caller, second.number, &AcknowledgeRequest::default()).unwrap();
    let ids: Vec<_> = receiver.requests().iter().map(|request| request.id().to_owned()).collect();
    world.manager.replay_webhook(&caller, "pager", WebhookReplay { after: second.event - 1 }).unwrap();
    settle(&world);
    assert_eq!(receiver.alerts(), [1, 2, 3, 2, 3]);
    let again: Vec<_> = receiver.requests().iter().skip(3).map(|request| request.id().to_owned()).collect();
    assert_eq!(again, ids[1..]);
    // The same as before, though somebody has seen to it since.
    assert_eq!(receiver.requests()[3].body, receiver.requests()[1].body);
    // What it cannot take is skipped, and what is past the end begins with what is yet to come.
    receiver.will(std::iter::repeat_n(Answer::status("400 Bad Request"), 2));
    fraud(&world, "other", 1);
    deliver(&world);
    assert_eq!(shown(&world)[0].health.failures, 1);
    world.manager.replay_webhook(&caller, "pager", WebhookReplay { after: u64::MAX }).unwrap();
    assert_eq!(noted(&world, "pager"), world.events().len() as u64);
    deliver(&world);
    assert_eq!(receiver.requests().len(), 6);
    let test = world.manager.test_webhook(&caller, "pager").unwrap();
    assert!(!test.delivered && test.error.unwrap().contains("400"));
    assert!(world.manager.test_webhook(&caller, "pager").unwrap().delivered);
    let last = receiver.requests().pop().unwrap();
    assert_eq!(last.notification().kind, NotificationKind::Test);
    assert_signed(&world, &last);
    refused(world.manager.test_webhook(&caller, "none"), ProblemKind::NotFound);
    refused(world.manager.replay_webhook(&caller, "none", WebhookReplay { after: 0 }), ProblemKind::NotFound);
    // A key that is revoked is no alert: nobody is told.
    world.revoke(RevocationTarget::Key { cluster: "eu".parse().unwrap(), key: "k".parse().unwrap() });
    settle(&world);
    assert_eq!(receiver.requests().len(), 8);
}

#[test]
fn the_background_delivers_by_itself_and_stops() {
    let authority = TestAuthority::new();
    let receiver = Receiver::new(&authority);
    let world = world(&authority, &receiver, &[]);
    let background = world.manager.background().unwrap();
    fraud(&world, "k", 2);
    let begin = Instant::now();
    while receiver.requests().len() < 2 {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(background);
    // Its threads hold such handles, and nobody else does: they are gone.
    assert_eq!(Arc::weak_count(&world.manager), 0);
    fraud(&world, "other", 1);
    deliver(&world);
    assert_eq!(receiver.alerts(), [1, 2, 3]);
}

#[test]
fn pauses_grow_to_a_cap_and_differ() {
    let patience = Patience::default();
    for failures in 1..100 {
        let most = Duration::from_secs(1 << (failures - 1).min(9)).min(patience.most);
        for _ in 0..20 {
            let pause = pause(patience, failures);
            assert!(pause >= most / 2 && pause <= most, "{failures}: {pause:?}");
        }
    }
    let pauses: HashSet<_> = (0..20).map(|_| pause(patience, 9)).collect();
    assert!(pauses.len() > 10);
}
