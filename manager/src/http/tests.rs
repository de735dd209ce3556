//! The API over real HTTP: who may call what, and that every refusal is a problem document.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod described;
mod flood;
mod limits;
mod operations;
mod pages;
mod streams;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    pin::pin,
    sync::{Arc, Condvar, Mutex},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use keywitness_circuits::{Envelope, Nonce, codec::Canonical};
use keywitness_verifier::wire::{
    AttestResponse, Challenge, ChallengeRequest, CredentialRequest, JoinToken, JoinTokenRequest, KeyQuery,
    MAX_BATCH_BODY, MAX_BODY, ProblemKind, RevocationTarget, RevokeRequest, Role, Status, TokenRequest, TokenResponse,
    path,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Server, serve};
use crate::service::{
    access::Caller,
    testing::{TestHsm, TestKey, World},
};

pub(super) struct Response {
    pub(super) status: u16,
    pub(super) head: String,
    body: Vec<u8>,
}

impl Response {
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    fn json<T: DeserializeOwned>(&self) -> T {
        assert!((200..300).contains(&self.status), "{} {}", self.status, String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    pub(super) fn refused(&self, kind: ProblemKind) {
        let problem: keywitness_verifier::wire::Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.kind(), Some(kind), "{problem}");
        assert_eq!((self.status, problem.status), (kind.status(), kind.status()));
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
    }
}

pub(super) struct Api {
    pub(super) world: World,
    pub(super) server: Server,
    /// Every answer in JSON so far, with the name of its schema.
    answers: Mutex<Vec<(String, serde_json::Value)>>,
}

impl Api {
    fn new() -> Self {
        Self::of(World::new())
    }

    pub(super) fn of(world: World) -> Self {
        let server = serve(Arc::clone(&world.manager), TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        Self { world, server, answers: Mutex::default() }
    }

    pub(super) fn call(&self, method: &str, target: &str, authorization: Option<&str>, body: &[u8]) -> Response {
        let stream = TcpStream::connect(self.server.address()).unwrap();
        self.call_over(stream, method, target, authorization, body)
    }

    /// The same, from another address of this machine.
    fn call_from(
        &self,
        from: Ipv4Addr,
        method: &str,
        target: &str,
        authorization: Option<&str>,
        body: &[u8],
    ) -> Response {
        self.call_over(connect_from(from, self.server.address()), method, target, authorization, body)
    }

    fn call_over(
        &self,
        stream: TcpStream,
        method: &str,
        target: &str,
        authorization: Option<&str>,
        body: &[u8],
    ) -> Response {
        let response = send(stream, method, target, authorization, body);
        if let Some(schema) = described::check(method, target, &response) {
            let value = serde_json::from_slice(&response.body).unwrap();
            self.answers.lock().unwrap().push((schema, value));
        }
        response
    }

    pub(super) fn bearer(&self, secret: &str, method: &str, target: &str, body: &impl Serialize) -> Response {
        let body = if method == "GET" { Vec::new() } else { serde_json::to_vec(body).unwrap() };
        self.call(method, target, Some(&format!("Bearer {secret}")), &body)
    }

    pub(super) fn signed(&self, hsm: &TestHsm, method: &str, target: &str, body: &impl Serialize) -> Response {
        let body = serde_json::to_vec(body).unwrap();
        self.call(method, target, Some(&hsm.authorization(&self.world, method, target, &body)), &body)
    }

    pub(super) fn credential(&self, role: Role) -> String {
        self.world
            .manager
            .create_credential(&Caller::in_process(), &CredentialRequest::new("test", role))
            .unwrap()
            .secret
    }
}

fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((from, 0))).unwrap();
    connect(&socket, &to).unwrap();
    socket.into()
}

fn send(mut stream: TcpStream, method: &str, target: &str, authorization: Option<&str>, body: &[u8]) -> Response {
    let authorization = authorization.map(|value| format!("authorization: {value}\r\n")).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{authorization}content-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses a large body need not read all of it.
    let _partly = stream.write_all(body);
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an HTTP answer");
    let head = String::from_utf8(answer[..split].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head, body: answer[split + 4..].to_vec() }
}

#[test]
fn the_whole_way_over_http() {
    let api = Api::new();
    let operator = std::fs::read_to_string(api.world.manager.operator_credential_path()).unwrap();
    let operator = operator.trim();
    let client = api.credential(Role::Client);
    let invitation = JoinTokenRequest { cluster: "eu".parse().unwrap(), hsm: None, reenrol: false, valid_for: 60 };
    let token: JoinToken = api.bearer(operator, "POST", path::JOIN_TOKENS, &invitation).json();
    let (hsm, key) = (TestHsm::new("hsm-1"), TestKey::ed25519("k", 1));
    let enrolment = serde_json::to_vec(&hsm.enrolment(&api.world, &token.secret)).unwrap();
    assert_eq!(api.call("POST", path::HSMS, None, &enrolment).status, 200);
    assert_eq!(api.signed(&hsm, "POST", path::KEYS, &key.request()).status, 204);
    let channel = keywitness_verifier::wire::ChannelAnnouncement { url: "http://127.0.0.1:9".to_owned() };
    assert_eq!(api.signed(&hsm, "PUT", path::CHANNEL, &channel).status, 204);
    let ask = ChallengeRequest { statement: key.kind().name().to_owned(), keys: vec![key.key.clone()] };
    let challenge: Challenge = api.signed(&hsm, "POST", path::CHALLENGES, &ask).json();
    let envelope = hsm.answer(&api.world, "eu", &key, &challenge).to_bytes();
    let answer: AttestResponse = api.call("POST", path::ATTESTATIONS, None, &envelope).json();
    assert_eq!((answer.records.len(), &answer.records[0].hsm), (1, &hsm.id));
    let attested: keywitness_verifier::wire::KeyStatus =
        api.bearer(&client, "GET", &format!("{}?key=k&max_age=60", path::ATTESTED), &()).json();
    assert!(attested.attested);
    let query = KeyQuery { key: key.key.key.clone(), cluster: None, hsm: None, max_age: None };
    let wanted = TokenRequest { query, audience: "shop".to_owned(), nonce: Nonce::random(), form: Default::default() };
    let issued: TokenResponse = api.bearer(&client, "POST", path::TOKENS, &wanted).json();
    assert_eq!(issued.channel_url, Some(channel.url));
    let revocation = RevokeRequest { target: RevocationTarget::Hsm(hsm.id.clone()), reason: "lost".into() };
    assert_eq!(api.bearer(operator, "POST", path::REVOCATIONS, &revocation).status, 200);
    api.bearer(&client, "POST", path::TOKENS, &wanted).refused(ProblemKind::HsmRevoked);
    api.signed(&hsm, "POST", path::CHALLENGES, &ask).refused(ProblemKind::HsmRevoked);
    let status: Status = api.bearer(&api.credential(Role::Viewer), "GET", path::STATUS, &()).json();
    assert_eq!((status.keys.len(), status.revocations.len(), status.alerts), (1, 1, 0));
    api.server.stop().unwrap();
}

#[test]
fn every_path_lets_in_exactly_whom_it_documents() {
    let api = Api::new();
    let roles = Role::ALL;
    let secrets = roles.map(|role| (role, api.credential(role)));
    let attested = format!("{}?key=k", path::ATTESTED);
    let watchers: &[Role] = &[Role::Operator, Role::Viewer, Role::Auditor];
    let guarded: &[(&str, &str, &[Role])] = &[
        ("POST", path::BACKUPS, &[Role::Operator]),
        ("POST", path::JOIN_TOKENS, &[Role::Operator]),
        ("POST", path::CREDENTIALS, &[Role::Operator]),
        ("GET", path::CREDENTIALS, &[Role::Operator]),
        ("DELETE", "/v1/credentials/0011223344556677", &[Role::Operator]),
        ("POST", path::REVOCATIONS, &[Role::Operator]),
        ("POST", path::SUSPENSIONS, &[Role::Operator]),
        ("POST", path::TOKEN_KEYS, &[Role::Operator]),
        ("GET", path::TOKEN_KEYS, &[Role::Operator]),
        ("POST", path::REINSTATEMENTS, &[Role::Operator]),
        ("POST", path::TOKENS, &[Role::Client]),
        ("POST", path::BUNDLES, &[Role::Client, Role::Auditor]),
        ("GET", &attested, &roles),
        ("POST", path::ATTESTED, &roles),
        ("GET", path::STATUS, &roles),
        ("GET", path::METRICS, watchers),
        ("GET", path::OPENINGS, &[Role::Auditor]),
        ("POST", path::COSIGNATURES, &[Role::Auditor]),
        ("GET", "/v1/log/snapshots/1", &[Role::Auditor]),
        ("GET", path::SEALS, &[Role::Operator, Role::Auditor]),
        ("POST", path::SEALS, &[Role::Operator]),
        ("POST", path::RETENTION, &[Role::Operator]),
        ("GET", path::EVENTS, watchers),
        ("GET", path::ALERTS, watchers),
        ("GET", "/v1/alerts/1", watchers),
        ("POST", "/v1/alerts/1/acknowledgement", &[Role::Operator]),
        ("POST", path::MIGRATIONS, &[Role::Operator]),
        ("GET", path::MIGRATIONS, watchers),
        ("GET", "/v1/events/stream?after=x", watchers),
        ("GET", "/v1/alerts/stream?after=x", watchers),
        ("GET", path::WEBHOOKS, &[Role::Operator]),
        ("POST", "/v1/webhooks/none/replay", &[Role::Operator]),
        ("POST", "/v1/webhooks/none/test", &[Role::Operator]),
    ];
    for &(method, target, allowed) in guarded {
        let named = allowed.iter().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>();
        assert!(named.iter().map(String::as_str).eq(described::roles(method, target)), "{method} {target}");
        api.call(method, target, None, b"{}").refused(ProblemKind::Unauthenticated);
        api.call(method, target, Some("Bearer kw_operator_x"), b"{}").refused(ProblemKind::Unauthenticated);
        for (role, secret) in &secrets {
            let response = api.bearer(secret, method, target, &serde_json::json!({}));
            if allowed.contains(role) {
                assert!(![401, 403].contains(&response.status), "{target} {role}");
            } else {
                response.refused(ProblemKind::Forbidden);
            }
        }
    }
    for (method, target) in
        [("POST", path::KEYS), ("POST", path::CHALLENGES), ("POST", path::CHALLENGE_BATCHES), ("PUT", path::CHANNEL)]
    {
        api.call(method, target, None, b"{}").refused(ProblemKind::Unauthenticated);
        api.bearer(&secrets[0].1, method, target, &serde_json::json!({})).refused(ProblemKind::Unauthenticated);
    }
    let list = format!("{}/0?time=1", path::STATUS_LISTS);
    for target in [
        path::HEALTH,
        path::READY,
        path::OPENAPI,
        "/docs",
        path::TRUST_DOMAIN,
        path::JWKS,
        path::LOG_KEY,
        path::CHECKPOINT,
        "/v1/log/tile/0/000.p/1",
        "/v1/log/tile/entries/000.p/1",
        "/v1/log/proof?index=0",
        "/v1/log/consistency?from=1&to=2",
        &list,
        "/",
    ] {
        assert_eq!(api.call("GET", target, None, b"").status, 200);
    }
}

#[test]
fn every_refusal_is_a_problem_document() {
    let api = Api::new();
    let operator = api.credential(Role::Operator);
    api.call("GET", "/nothing", None, b"").refused(ProblemKind::NotFound);
    api.call("DELETE", path::TOKENS, None, b"").refused(ProblemKind::MethodNotAllowed);
    api.call("POST", path::HSMS, None, b"{").refused(ProblemKind::Malformed);
    for list in [&b"[]"[..], b" [\"seen\"]", b"\"seen\"", b"null", b""] {
        let bearer = format!("Bearer {operator}");
        let refused = api.call("POST", "/v1/alerts/1/acknowledgement", Some(&bearer), list);
        refused.refused(ProblemKind::Malformed);
    }
    api.bearer(&operator, "POST", path::REVOCATIONS, &serde_json::json!({"target": 1})).refused(ProblemKind::Malformed);
    api.bearer(&operator, "GET", path::ATTESTED, &()).refused(ProblemKind::Malformed);
    api.bearer(&operator, "GET", &format!("{}?after=x", path::EVENTS), &()).refused(ProblemKind::Malformed);
    api.call("POST", path::ATTESTATIONS, None, b"noise").refused(ProblemKind::Malformed);
    api.call("POST", path::ATTESTATIONS, None, &vec![0; MAX_BODY + 1]).refused(ProblemKind::TooLarge);
    api.call("POST", path::ATTESTATION_BATCHES, None, &vec![0; MAX_BODY + 1]).refused(ProblemKind::Malformed);
    api.call("POST", path::ATTESTATION_BATCHES, None, &vec![0; MAX_BATCH_BODY + 1]).refused(ProblemKind::TooLarge);
}

#[test]
fn the_dashboard_is_locked_down() {
    let api = Api::new();
    let page = api.call("GET", "/", None, b"");
    for expected in ["content-security-policy: default-src 'none'", "script-src 'sha256-", "nosniff", "no-referrer"] {
        assert!(page.head.contains(expected), "{expected}: {}", page.head);
    }
}

/// Holds the thread that wakes it, until it is let go.
#[derive(Default)]
struct Hold(Mutex<bool>, Condvar);

impl Hold {
    /// Holds the only thread of a world's engine, which has judged this envelope: nothing else is judged.
    fn engine(world: &World, envelope: &Envelope) -> Arc<Self> {
        // Whoever is told of a verdict is told on that thread.
        let hold = Arc::new(Self::default());
        let waker = Waker::from(Arc::clone(&hold));
        loop {
            let mut first = pin!(world.verify(envelope.clone()).unwrap());
            if first.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Pending {
                let until = std::time::Instant::now() + Duration::from_secs(60);
                while first.wait_timeout(Duration::from_millis(100)).is_none() {
                    assert!(std::time::Instant::now() < until);
                }
                return hold;
            }
        }
    }

    fn release(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

impl Wake for Hold {
    fn wake(self: Arc<Self>) {
        let held = self.1.wait_timeout_while(self.0.lock().unwrap(), Duration::from_secs(60), |released| !*released);
        assert!(!held.unwrap().1.timed_out());
    }
}

#[test]
fn where_too_many_proofs_wait_the_answer_is_503_with_a_time_and_consumes_nothing() {
    let api = Api::of(World::that_is_soon_busy());
    let (world, key) = (&api.world, TestKey::ed25519("k", 1));
    let prepare = |name: &str| {
        let hsm = world.hsm(name, "eu");
        hsm.enrol_key(world, &key).unwrap();
        let challenge = hsm.challenge(world, &key).unwrap();
        hsm.answer(world, "eu", &key, &challenge)
    };
    let (other, envelope) = (prepare("hsm-1"), prepare("hsm-2"));
    let hold = Hold::engine(world, &other);
    let waiting = world.verify(other).unwrap();
    let answer = api.call("POST", path::ATTESTATIONS, None, &envelope.to_bytes());
    answer.refused(ProblemKind::Unavailable);
    assert_eq!(answer.status, 503);
    let header = answer.head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
    assert!((1..=60).contains(&header.parse::<u64>().unwrap()), "{header}");
    assert_eq!(world.manager.status(&Caller::in_process()).unwrap().verification.busy, 1);
    assert!(world.alerts().is_empty());
    hold.release();
    waiting.wait().unwrap();
    let answer: AttestResponse = api.call("POST", path::ATTESTATIONS, None, &envelope.to_bytes()).json();
    assert_eq!(answer.records[0].envelope, envelope.digest());
}
