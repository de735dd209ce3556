//! A receiver in a test: real HTTPS with a certificate of its own authority, which answers what the test says.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use keywitness_verifier::wire::{Notification, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;

/// What a receiver does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Answers with a status line, and headers that end with a line break.
    With(&'static str, String),
    /// Says nothing for this long.
    Hang(Duration),
    /// Says nothing until the other end of the channel is dropped.
    Held(Arc<Mutex<mpsc::Receiver<()>>>),
    /// An endless body after a status that says that all is well.
    Endless,
}

impl Answer {
    pub(crate) fn status(status: &'static str) -> Self {
        Self::With(status, String::new())
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    pub(crate) fn id(&self) -> &str {
        self.header(WEBHOOK_ID)
    }

    pub(crate) fn notification(&self) -> Notification {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks the signature as Standard Webhooks has it, by hand.
    pub(crate) fn is_signed_by(&self, key: &[u8]) -> bool {
        let timestamp = self.header(WEBHOOK_TIMESTAMP);
        let signature = self.header(WEBHOOK_SIGNATURE).strip_prefix("v1a,").unwrap();
        let signature = data_encoding::BASE64.decode(signature.as_bytes()).unwrap();
        let mut signed = format!("{}.{timestamp}.", self.id()).into_bytes();
        signed.extend_from_slice(&self.body);
        let key = ed25519_dalek::VerifyingKey::from_bytes(key.try_into().unwrap()).unwrap();
        key.verify_strict(&signed, &ed25519_dalek::Signature::from_slice(&signature).unwrap()).is_ok()
    }
}

/// An authority in files.
pub(crate) struct TestAuthority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl TestAuthority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), &pem).unwrap();
        Self { directory, issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn signed(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.insert_extended_key_usage(usage);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key)
    }

    /// A client certificate and its key, in files.
    pub(crate) fn client(&self) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.signed("manager", ExtendedKeyUsagePurpose::ClientAuth);
        let (here, there) = (self.directory.path().join("client.pem"), self.directory.path().join("client.key"));
        std::fs::write(&here, certificate).unwrap();
        let (directory, name) = (there.parent().unwrap(), there.file_name().unwrap().to_str().unwrap());
        crate::files::write_private(directory, name, key.serialize_pem().as_bytes()).unwrap();
        (here, there)
    }

    /// How a server speaks TLS under a name, and whether it wants a client certificate of this authority.
    fn server(&self, name: &str, wants_client: bool) -> ServerConfig {
        let (certificate, key) = self.signed(name, ExtendedKeyUsagePurpose::ServerAuth);
        let der = |pem: &str| ureq::tls::Certificate::from_pem(pem.as_bytes()).unwrap().der().to_vec().into();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(der(&self.pem)).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = match wants_client {
            true => builder.with_client_cert_verifier(clients.build().unwrap()),
            false => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        builder.with_single_cert(vec![der(&certificate)], key).unwrap()
    }
}

/// A receiver.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Under the name localhost.
    pub(crate) fn new(authority: &TestAuthority) -> Self {
        Self::of(authority, "localhost", false)
    }

    pub(crate) fn of(authority: &TestAuthority, name: &str, wants_client: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(authority.server(name, wants_client));
        let (answers, requests) = (Arc::<Mutex<VecDeque<Answer>>>::default(), Arc::<Mutex<Vec<Request>>>::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (script, seen, end) = (Arc::clone(&answers), Arc::clone(&requests), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                // A handshake that fails, or a client that went away, is nothing that a receiver minds.
                let _gone = serve(stream.unwrap(), &config, &script, &seen);
            }
        });
        Self { address, answers, requests, stop, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}/hook?secret=x", self.address.port())
    }

    /// What the next requests are answered with; 204 afterwards.
    pub(crate) fn will(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The numbers of the alerts that came, in order.
    pub(crate) fn alerts(&self) -> Vec<u64> {
        self.requests().iter().map(|request| request.notification().data.alert.unwrap().number).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _wake = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    answers: &Mutex<VecDeque<Answer>>,
    requests: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream);
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part)?;
        if read == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&part[..read]);
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            bytes.drain(..end + 4);
            break (head, length.unwrap_or(0));
        }
    };
    while bytes.len() < length {
        let mut part = [0; 4096];
        let read = stream.read(&mut part)?;
        assert!(read > 0, "the body ends too soon");
        bytes.extend_from_slice(&part[..read]);
    }
    requests.lock().unwrap().push(Request { head, body: bytes });
    let answer = answers.lock().unwrap().pop_front().unwrap_or_else(|| Answer::status("204 No Content"));
    match answer {
        Answer::With(status, headers) => {
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n{headers}\r\n")?;
            stream.conn.send_close_notify();
            stream.flush()
        }
        Answer::Hang(time) => {
            thread::sleep(time);
            Ok(())
        }
        Answer::Held(held) => {
            let _let_go = held.lock().unwrap().recv();
            Ok(())
        }
        Answer::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 65536])?;
            }
        }
    }
}
