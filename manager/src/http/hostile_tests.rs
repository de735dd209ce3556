//! Hostile callers over real sockets: slow ones, many of them, and those who show the wrong papers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use keywitness_circuits::{HsmId, Timestamp, codec::Canonical};
use keywitness_verifier::{
    client::{ClientError, HsmSigner, ManagerClient},
    identity::Audience,
    wire::{Base64, CertificateRequest, ChallengeRequest, MAX_BODY, ProblemKind, Role, path},
};
use p256::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};

use super::tests::Api;
use crate::{
    config::Config,
    ledger::Table,
    limits::{Budget, ConnectionsConfig, LimitsConfig},
    service::testing::{TestHsm, TestKey, World, refused, submit},
    tls::TlsMode,
};

fn api(change: impl FnOnce(&mut Config)) -> Api {
    Api::of(World::with_config(change))
}

fn connect(api: &Api, begin: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(api.server.address()).unwrap();
    stream.write_all(begin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Drips a byte now and then until the server closes, and says how long that took.
fn drip_until_closed(mut stream: TcpStream) -> Duration {
    let start = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while start.elapsed() < Duration::from_secs(45) {
        if stream.write_all(b"a").is_err() {
            break;
        }
        match stream.read(&mut [0; 4096]) {
            Ok(0) => break,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::ConnectionReset) => break,
            _ => {}
        }
    }
    start.elapsed()
}

#[test]
fn slow_heads_and_bodies_are_cut_and_keep_nobody_from_answers() {
    let api = api(|config| config.connections.idle = Duration::from_secs(3));
    let post = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{");
    let mut slow: Vec<TcpStream> = Vec::new();
    for n in 0..120 {
        slow.push(match n % 3 {
            0 => connect(&api, b"GET /healthz HT"),
            1 => connect(&api, post(path::HSMS).as_bytes()),
            _ => connect(&api, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nx-"),
        });
    }
    for _ in 0..20 {
        let start = Instant::now();
        assert_eq!(api.call("GET", path::TRUST_DOMAIN, None, b"").status, 200);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    // A head, a body, and the head of a second request, each of which drips for ever.
    let drips: Vec<_> = slow.drain(..3).map(|stream| std::thread::spawn(|| drip_until_closed(stream))).collect();
    for drip in drips {
        assert!(drip.join().unwrap() < Duration::from_secs(40));
    }
}

#[test]
fn an_address_has_so_many_connections_and_no_more() {
    let connections = ConnectionsConfig { each: 5, loopback: true, ..ConnectionsConfig::default() };
    let api = api(|config| config.connections = connections);
    let ask = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let answered = |stream: &mut TcpStream| matches!(stream.read(&mut [0; 4096]), Ok(length) if length > 0);
    let mut open: Vec<_> = (0..5).map(|_| connect(&api, ask)).collect();
    assert!(open.iter_mut().all(answered));
    let mut beyond = TcpStream::connect(api.server.address()).unwrap();
    drop(beyond.write_all(ask));
    assert!(!answered(&mut beyond));
    drop(open);
    // Room is there again once the server has seen the ends.
    let until = Instant::now() + Duration::from_secs(30);
    while !TcpStream::connect(api.server.address())
        .is_ok_and(|mut stream| stream.write_all(ask).is_ok() && answered(&mut stream))
    {
        assert!(Instant::now() < until);
    }
}

#[test]
fn garbage_and_oversized_bodies_end_and_do_no_harm() {
    let api = api(|_| {});
    let huge = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n", path::ATTESTATIONS);
    let mut stream = connect(&api, huge.as_bytes());
    let chunk = vec![b'x'; MAX_BODY];
    while stream.write_all(&chunk).is_ok() {}
    let headers = "GET / HTTP/1.1\r\n".to_owned() + &"a: b\r\n".repeat(10_000);
    for begin in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET / HTTP/1.1\r\n\0\r\n\r\n", headers.as_bytes()] {
        let mut stream = TcpStream::connect(api.server.address()).unwrap();
        drop(stream.write_all(begin));
        drop(stream.write_all(&b"\r\n\r\n"[..]));
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(api.call("GET", path::HEALTH, None, b"").status, 200);
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn tables(api: &Api) -> Vec<(Table, Rows)> {
    let view = api.world.store.view().unwrap();
    Table::ALL.iter().map(|table| (*table, view.range(*table, &[], &[], usize::MAX).unwrap())).collect()
}

#[test]
fn a_flood_without_valid_signatures_changes_no_table_and_is_slowed_by_address_alone() {
    let address = Budget::new(2_000, 1);
    let api = api(|config| config.limits = LimitsConfig { address, loopback: true, ..LimitsConfig::default() });
    let (world, key) = (&api.world, TestKey::ed25519("k", 1));
    let hsm = world.hsm("hsm-1", "eu");
    hsm.enrol_key(world, &key).unwrap();
    hsm.attest(world, "eu", &key).unwrap();
    let before = tables(&api);
    let (mut stranger, challenge) = (TestHsm::new("hsm-1"), hsm.challenge(world, &key).unwrap());
    stranger.channel = hsm.channel;
    let after_challenge = tables(&api);
    let envelope = stranger.answer(world, "eu", &key, &challenge).to_bytes();
    let (mut refused, mut slowed) = (0, 0);
    let begun = std::time::Instant::now();
    for n in 0..300 {
        let answer = match n % 3 {
            0 => api.call("POST", path::ATTESTATIONS, None, &envelope),
            1 => api.signed(&stranger, "POST", path::KEYS, &key.request()),
            _ => api.bearer("kw_operator_x", "GET", path::STATUS, &()),
        };
        match answer.status {
            401 => refused += 1,
            429 => {
                assert!(answer.head.contains("retry-after: "), "{}", answer.head);
                slowed += 1;
            }
            status => panic!("{status}"),
        }
    }
    // The budget for 40 mistakes, and one for each second that it took.
    let most = 45 + begun.elapsed().as_secs();
    assert!((20..=most).contains(&refused) && slowed == 300 - refused, "{refused} {slowed}");
    assert_ne!(before, after_challenge);
    assert_eq!(after_challenge, tables(&api));
    assert!(world.alerts().is_empty());
    assert!(world.manager.unauthenticated() >= refused);
    let limited = world.manager.limits().limited();
    assert_eq!((limited.len(), limited[0].caller.as_str()), (1, "address 127.0.0.1"));
    // Nobody's own budget was spent, and the honest HSM's answer is taken, from elsewhere.
    submit(world, &hsm.answer(world, "eu", &key, &challenge)).unwrap();
}

/// A world whose clock is the machine's, since TLS clients look at theirs.
fn secure(days: i64) -> (Api, String) {
    secure_with(days, |_| {})
}

fn secure_with(days: i64, change: impl FnOnce(&mut Config)) -> (Api, String) {
    let world = World::with_config(|config| {
        config.tls.mode = TlsMode::Always;
        change(config);
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    world.advance(now as i64 - world.now().0 as i64 + days * 24 * 60 * 60);
    let pem = std::fs::read_to_string(world.manager.authority().path()).unwrap();
    (Api::of(world), pem)
}

fn client(api: &Api, pem: &str) -> ManagerClient {
    assert!(api.server.is_secure());
    ManagerClient::new(&format!("https://{}", api.server.address())).unwrap().with_roots(pem).unwrap()
}

struct Signer<'a>(&'a Api, &'a TestHsm);

impl HsmSigner for Signer<'_> {
    fn audience(&self) -> &Audience {
        self.0.world.manager.audience()
    }
    fn hsm(&self) -> &HsmId {
        &self.1.id
    }
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.1.sign(message)
    }
    fn now(&self) -> Timestamp {
        self.0.world.now()
    }
}

#[test]
fn over_tls_only_the_managers_own_authority_is_trusted_and_plain_http_ends() {
    let (api, pem) = secure(0);
    // By address: no server name is sent.
    client(&api, &pem).trust_domain().unwrap();
    let by_name = format!("https://localhost:{}", api.server.address().port());
    ManagerClient::new(&by_name).unwrap().with_roots(&pem).unwrap().trust_domain().unwrap();
    let (_, foreign) = secure(0);
    for wrong in [client(&api, &foreign), ManagerClient::new(&by_name).unwrap()] {
        assert!(matches!(wrong.trust_domain(), Err(ClientError::Unreachable(..))));
    }
    let mut plain = connect(&api, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn an_expired_certificate_is_refused() {
    let (api, pem) = secure(-200);
    assert!(matches!(client(&api, &pem).trust_domain(), Err(ClientError::Unreachable(..))));
}

#[test]
fn who_shows_a_client_certificate_speaks_for_that_hsm_alone() {
    let (api, pem) = secure(0);
    let (world, key) = (&api.world, TestKey::ed25519("k", 1));
    let (own, other) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "eu"));
    let client = client(&api, &pem);
    let secret = p256::SecretKey::random(&mut rand::rngs::OsRng);
    let public = secret.public_key().to_public_key_der().unwrap();
    let request = CertificateRequest { public_key: Base64(public.into_vec()) };
    let given = client.certify(&Signer(&api, &own), &request).unwrap();
    client.present(&given.certificate.0, &secret.to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap();
    client.enrol_key(&Signer(&api, &own), &key.request()).unwrap();
    let kind = |error: ClientError| error.problem_kind().unwrap();
    let foreign = client.enrol_key(&Signer(&api, &other), &key.request());
    assert_eq!(kind(foreign.unwrap_err()), ProblemKind::Forbidden);
    other.enrol_key(world, &key).unwrap();
    let challenge = other.challenge(world, &key).unwrap();
    let envelope = other.answer(world, "eu", &key, &challenge);
    assert_eq!(kind(client.attest(&envelope).unwrap_err()), ProblemKind::Forbidden);
    let operator = client.clone().with_credential(api.credential(Role::Operator));
    assert_eq!(kind(operator.status().unwrap_err()), ProblemKind::Forbidden);
    // Nothing was consumed: over a connection of its own, or of nobody, the envelope is taken.
    client.forget_certificate();
    client.attest(&envelope).unwrap();
    operator.status().unwrap();
    // A certificate of another authority is no certificate.
    let (elsewhere, _) = secure(0);
    elsewhere.world.hsm("hsm-1", "eu");
    let stolen = elsewhere.world.manager.authority().hsm(&own.id, &request.public_key.0, world.now()).unwrap();
    client.present(&stolen, &secret.to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap();
    assert!(matches!(client.trust_domain(), Err(ClientError::Unreachable(..))));
    world.revoke_hsm(&own);
    refused(world.manager.certify(&own.call(world), &request).map(|_| ()), ProblemKind::HsmRevoked);
}

#[test]
fn a_certified_hsm_is_heard_while_its_address_is_in_debt_and_pays_for_its_own_mistakes() {
    let (address, hsm) = (Budget::new(500, 1), Budget::new(500, 1));
    let limits = LimitsConfig { address, hsm, loopback: true, ..LimitsConfig::default() };
    let (api, pem) = secure_with(0, |config| config.limits = limits);
    let (own, other, key) = (api.world.hsm("hsm-1", "eu"), api.world.hsm("hsm-2", "eu"), TestKey::ed25519("k", 1));
    let certified = client(&api, &pem);
    let secret = p256::SecretKey::random(&mut rand::rngs::OsRng);
    let request =
        CertificateRequest { public_key: Base64(secret.public_key().to_public_key_der().unwrap().into_vec()) };
    let given = certified.certify(&Signer(&api, &own), &request).unwrap();
    certified.present(&given.certificate.0, &secret.to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap();
    let kind = |error: ClientError| error.problem_kind().unwrap();
    let slowed_by = |mistake: &dyn Fn() -> ProblemKind| {
        (0..100).position(|_| mistake() == ProblemKind::TooManyRequests).expect("mistakes cost nothing")
    };
    let stranger = client(&api, &pem).with_credential("kw_operator_x".to_owned());
    assert!(slowed_by(&|| kind(stranger.status().unwrap_err())) > 5);
    // The neighbour without a certificate shares its address's debts, and the HSM with one does not.
    let neighbour = client(&api, &pem);
    assert_eq!(
        kind(neighbour.enrol_key(&Signer(&api, &other), &key.request()).unwrap_err()),
        ProblemKind::TooManyRequests
    );
    certified.enrol_key(&Signer(&api, &own), &key.request()).unwrap();
    let challenge = own.challenge(&api.world, &key).unwrap();
    let mut envelope = own.answer(&api.world, "eu", &key, &challenge);
    certified.attest(&envelope).unwrap();
    envelope.signature = [1; 64];
    assert!(slowed_by(&|| kind(certified.attest(&envelope).unwrap_err())) > 5);
    let named: Vec<_> = api.world.manager.limits().limited().into_iter().map(|limited| limited.caller).collect();
    assert!(named.contains(&"HSM hsm-1".to_owned()) && named.contains(&"address 127.0.0.1".to_owned()), "{named:?}");
}

#[test]
fn who_reads_a_long_answer_slowly_gets_all_of_it_and_who_stops_reading_is_cut() {
    const ANSWERS: usize = 60;
    let (idle, stall) = (Duration::from_millis(150), Duration::from_secs(2));
    let api = api(|config| config.connections = ConnectionsConfig { idle, stall, ..config.connections });
    let alone = api.call("GET", path::OPENAPI, None, b"");
    assert!(alone.body().len() > 128 * 1024, "the answer is not long: {}", alone.body().len());
    let length = alone.head.len() + 4 + alone.body().len();
    // So many that no socket's buffers hold them.
    let requests = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", path::OPENAPI).repeat(ANSWERS);
    let begin = || {
        let mut stream = connect(&api, b"");
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 64 * 1024).unwrap();
        stream.write_all(requests.as_bytes()).unwrap();
        stream
    };
    let (mut slow, mut part, mut read) = (begin(), vec![0; length], 0);
    let begun = Instant::now();
    while read < ANSWERS * (length - 32) {
        slow.read_exact(&mut part[..length - 32]).unwrap();
        read += length - 32;
        sleep(Duration::from_millis(90));
    }
    assert!(begun.elapsed() > idle + stall, "{:?}", begun.elapsed());
    let mut stopped = begin();
    sleep(stall + Duration::from_secs(1));
    let mut rest = Vec::new();
    let _reset = stopped.read_to_end(&mut rest);
    assert!(rest.len() < ANSWERS * length * 2 / 3, "{} of {}", rest.len(), ANSWERS * length);
}

#[test]
fn a_signed_request_replayed_after_a_restart_gets_the_recorded_answer() {
    let world = World::on_disk();
    let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    hsm.enrol_key(&world, &key).unwrap();
    let call = hsm.call(&world);
    let ask = ChallengeRequest { statement: key.kind().name().to_owned(), keys: vec![key.key.clone()] };
    let first = world.manager.challenge(&call, &ask).unwrap();
    let world = world.reopen();
    assert_eq!(world.manager.challenge(&call, &ask).unwrap(), first);
    world.advance(61);
    let old = hsm.authorization(&world, "POST", "/", b"");
    world.advance(61);
    let request = crate::service::access::SignedRequest { authorization: &old, method: "POST", path: "/", body: b"" };
    refused(world.manager.authenticate(request), ProblemKind::ClockSkew);
}
