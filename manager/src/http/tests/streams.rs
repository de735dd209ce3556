//! Server-sent events: where they go on, and what becomes of who does not read.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use keywitness_verifier::wire::{Alert, EventPage, ProblemKind, Role, path};

use super::Api;
use crate::service::testing::{TestKey, World};

/// One that is open.
struct Open(TcpStream, String);

impl Open {
    fn new(api: &Api, target: &str, secret: &str, last: Option<u64>) -> Self {
        let mut stream = TcpStream::connect(api.server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let last = last.map(|last| format!("last-event-id: {last}\r\n")).unwrap_or_default();
        write!(stream, "GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n{last}\r\n").unwrap();
        Self(stream, String::new())
    }

    /// Reads until a text has come.
    fn until(&mut self, text: &str) -> &str {
        while !self.1.contains(text) {
            let mut part = [0; 4096];
            let read = self.0.read(&mut part).unwrap();
            assert!(read > 0, "it ended: {}", self.1);
            self.1.push_str(std::str::from_utf8(&part[..read]).unwrap());
        }
        &self.1
    }

    /// The numbers that came so far.
    fn numbers(&self) -> Vec<u64> {
        self.1.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
    }
}

/// An alert for each HSM but the first, which proves in another cluster what all the others prove.
pub(super) fn alerts(world: &World, from: u8, to: u8) {
    let key = TestKey::ed25519("k", 1);
    for number in from..=to {
        let cluster = if number == 0 { "eu" } else { "us" };
        let hsm = world.hsm(&format!("hsm-{number}"), cluster);
        hsm.enrol_key(world, &key).unwrap();
        hsm.attest(world, cluster, &key).unwrap();
    }
}

#[test]
fn streams_go_on_after_what_was_seen_and_tell_what_comes() {
    let api = Api::new();
    let viewer = api.credential(Role::Viewer);
    alerts(&api.world, 0, 3);
    // From now on, after what the query says, and after what was seen, which goes before the query.
    let mut fresh = Open::new(&api, path::ALERT_STREAM, &viewer, None);
    let mut all = Open::new(&api, &format!("{}?after=0", path::ALERT_STREAM), &viewer, None);
    let mut again = Open::new(&api, &format!("{}?after=0", path::ALERT_STREAM), &viewer, Some(2));
    assert!(all.until("id: 3\n").contains("content-type: text/event-stream"));
    again.until("id: 3\n");
    // Where it begins is known before its head is sent: what follows is yet to come.
    fresh.until("\r\n\r\n");
    alerts(&api.world, 4, 4);
    for stream in [&mut fresh, &mut all, &mut again] {
        stream.until("id: 4\n");
    }
    assert_eq!([all.numbers(), again.numbers(), fresh.numbers()], [vec![1, 2, 3, 4], vec![3, 4], vec![4]]);
    all.until("\n\n");
    let data = all.1.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let alert: Alert = serde_json::from_str(data).unwrap();
    assert_eq!(Some(alert), api.world.manager.alert(&crate::service::access::Caller::in_process(), 1).ok());
    let mut events = Open::new(&api, path::EVENT_STREAM, &viewer, Some(2));
    events.until("id: 3\n");
    assert_eq!(events.numbers()[0], 3);
    // Not for a client, nor for whoever sees some clusters only.
    api.bearer(&api.credential(Role::Client), "GET", path::ALERT_STREAM, &()).refused(ProblemKind::Forbidden);
}

/// What is not taken is not asked for again: a reader that stands still looks like a stream that brings nothing.
#[test]
fn who_takes_nothing_for_too_long_is_cut_off_and_a_connection_that_only_waits_is_not() {
    let stall = Duration::from_millis(200);
    let api = Api::of(World::with_config(|config| config.connections.stall = stall));
    let viewer = api.credential(Role::Viewer);
    let mut plain = TcpStream::connect(api.server.address()).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut ask = || {
        write!(plain, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\nok\n") {
            let mut part = [0; 4096];
            let read = plain.read(&mut part).unwrap();
            assert!(read > 0, "it ended: {answer}");
            answer.push_str(std::str::from_utf8(&part[..read]).unwrap());
        }
        assert!(answer.starts_with("HTTP/1.1 200"));
    };
    ask();
    let begin = Instant::now();
    let mut stalled = Open::new(&api, path::EVENT_STREAM, &viewer, None);
    let mut rest = Vec::new();
    let _reset = stalled.0.read_to_end(&mut rest);
    assert!(begin.elapsed() >= stall && begin.elapsed() < Duration::from_secs(20));
    // It was there before the stream, and waited for as long.
    ask();
}

#[test]
fn one_credential_has_eight_streams_and_takes_nobody_elses() {
    let api = Api::new();
    let (greedy, other) = (api.credential(Role::Viewer), api.credential(Role::Viewer));
    let open = |secret: &str, target: &str| {
        let mut stream = Open::new(&api, target, secret, None);
        let streams = stream.until("\r\n\r\n").starts_with("HTTP/1.1 200");
        streams.then_some(stream)
    };
    // Those of events and those of alerts count together.
    let both = [path::EVENT_STREAM, path::ALERT_STREAM];
    let mut held: Vec<_> = both.into_iter().cycle().take(8).map(|target| open(&greedy, target).unwrap()).collect();
    for target in both {
        let ninth = api.bearer(&greedy, "GET", target, &());
        ninth.refused(ProblemKind::Unavailable);
        assert!(ninth.head.contains("retry-after: "), "{}", ninth.head);
    }
    // What else it asks for is answered, and so is everybody else.
    let _page: EventPage = api.bearer(&greedy, "GET", path::EVENTS, &()).json();
    let _others = both.map(|target| open(&other, target).unwrap());
    // A place is free again once the server has seen the end of a stream: it does when it writes.
    drop(held.remove(0));
    let until = Instant::now() + Duration::from_secs(30);
    for number in 0.. {
        api.world.hsm(&format!("hsm-{number}"), "eu");
        if open(&greedy, path::EVENT_STREAM).is_some() {
            break;
        }
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(100));
    }
}
