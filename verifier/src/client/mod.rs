//! A small blocking client for the manager, and for an HSM's channel: how both are reached is here, and what is asked of
//! them, by subject, in the files beside.

mod access;
mod attestation;
mod channel;
mod cluster;
mod evidence;
mod fraud;
mod log;
mod operations;
mod revocation;
mod sharing;
mod status;
mod token;

pub use channel::operate;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use keywitness_circuits::{HsmId, Timestamp};
use serde::{Serialize, de::DeserializeOwned};
use ureq::{
    Agent,
    http::{Request, Response, Uri},
    tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig},
};

use crate::{
    identity::{Audience, RequestAuth, RequestParts},
    wire,
};

/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Why a call gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The manager refused.
    #[error(transparent)]
    Problem(#[from] wire::Problem),
    /// Nobody answered.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    /// The answer is not one of a manager.
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
}

impl ClientError {
    /// After how many seconds the manager wants to be asked again, if it says so.
    pub const fn retry_after(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            Self::Unreachable(..) | Self::Malformed(_) => None,
        }
    }

    /// The kind of refusal, if the manager refused.
    pub fn problem_kind(&self) -> Option<wire::ProblemKind> {
        match self {
            Self::Problem(problem) => problem.kind(),
            Self::Unreachable(..) | Self::Malformed(_) => None,
        }
    }
}

/// What an HSM signs requests with.
pub trait HsmSigner {
    /// The manager it speaks to.
    fn audience(&self) -> &Audience;
    /// Its name.
    fn hsm(&self) -> &HsmId;
    /// Signs with the identity key.
    fn sign(&self, message: &[u8]) -> [u8; 64];
    /// Its clock.
    fn now(&self) -> Timestamp;
}

/// A manager, by address.
#[derive(Clone)]
pub struct ManagerClient {
    base: String,
    /// With the client certificate that was shown last, for every copy of this client.
    agent: Arc<RwLock<Agent>>,
    roots: RootCerts,
    credential: Option<String>,
}

enum Caller<'a> {
    Anyone,
    Bearer,
    Hsm(&'a dyn HsmSigner),
}

impl ManagerClient {
    /// A client for the manager at `base`, such as `https://manager.example`.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] for an address that is none, or is plain HTTP beyond loopback, where
    /// credentials would travel in the clear.
    pub fn new(base: &str) -> Result<Self, ClientError> {
        let uri: Uri = base.parse().map_err(|_| ClientError::Malformed(format!("{base:?} is not an address")))?;
        let host = uri.host().unwrap_or_default();
        let loopback = host == "localhost"
            || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if loopback => {}
            Some("http") => {
                return Err(ClientError::Malformed(format!("{base} is plain HTTP beyond this machine; use https")));
            }
            _ => return Err(ClientError::Malformed(format!("{base:?} does not begin with http:// or https://"))),
        }
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            agent: Arc::new(RwLock::new(agent(RootCerts::WebPki, None))),
            roots: RootCerts::WebPki,
            credential: None,
        })
    }

    /// This client, for a manager whose certificate one of these authorities signed, and no other: certificates in PEM,
    /// such as a manager's `manager.ca.pem`.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] where there is no certificate.
    pub fn with_roots(mut self, pem: &str) -> Result<Self, ClientError> {
        let items = ureq::tls::parse_pem(pem.as_bytes()).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(ClientError::Malformed(format!("the manager's authority: {error}")))),
        });
        let certificates = items.collect::<Result<Vec<_>, _>>()?;
        if certificates.is_empty() {
            return Err(ClientError::Malformed("the manager's authority: there is no certificate in PEM".to_owned()));
        }
        self.roots = RootCerts::new_with_certs(&certificates);
        self.agent = Arc::new(RwLock::new(agent(self.roots.clone(), None)));
        Ok(self)
    }

    /// Whether it speaks TLS.
    pub fn is_secure(&self) -> bool {
        self.base.starts_with("https://")
    }

    /// Shows this client certificate (DER) with its key (PKCS#8, PEM) on connections from now on, and so does every
    /// copy of this client.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] for what is no key.
    pub fn present(&self, certificate: &[u8], key: &str) -> Result<(), ClientError> {
        let certificate = Certificate::from_der(certificate).to_owned();
        let key = PrivateKey::from_pem(key.as_bytes())
            .map_err(|error| ClientError::Malformed(format!("the key of the client certificate: {error}")))?;
        let shown = ClientCert::new_with_certs(&[certificate], key);
        *self.agent.write().unwrap_or_else(PoisonError::into_inner) = agent(self.roots.clone(), Some(shown));
        Ok(())
    }

    /// Shows no client certificate any more.
    pub fn forget_certificate(&self) {
        *self.agent.write().unwrap_or_else(PoisonError::into_inner) = agent(self.roots.clone(), None);
    }

    /// This client, with a bearer credential.
    #[must_use]
    pub fn with_credential(mut self, credential: impl Into<String>) -> Self {
        self.credential = Some(credential.into());
        self
    }

    /// The manager's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    fn get<T: DeserializeOwned>(&self, caller: Caller<'_>, target: &str) -> Result<T, ClientError> {
        self.call(caller, "GET", target, Vec::new())
    }

    fn send<T: DeserializeOwned>(
        &self,
        caller: Caller<'_>,
        method: &str,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Malformed(error.to_string()))?;
        self.call(caller, method, target, body)
    }

    fn call<T: DeserializeOwned>(
        &self,
        caller: Caller<'_>,
        method: &str,
        target: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        read_json(&self.bytes(self.request(caller, method, target, body))?)
    }

    fn request(
        &self,
        caller: Caller<'_>,
        method: &str,
        target: &str,
        body: Vec<u8>,
    ) -> ureq::http::Result<Request<Vec<u8>>> {
        let mut request = Request::builder().method(method).uri(format!("{}{target}", self.base));
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        match caller {
            Caller::Anyone => {}
            Caller::Bearer => {
                let secret = self.credential.as_deref().unwrap_or_default();
                request = request.header("authorization", format!("Bearer {secret}"));
            }
            Caller::Hsm(hsm) => {
                let parts = RequestParts { audience: hsm.audience(), method, path: target, body: &body };
                let auth = RequestAuth::sign(hsm.hsm().clone(), hsm.now(), &parts, |message| hsm.sign(message));
                request = request.header("authorization", auth.to_header());
            }
        }
        request.body(body)
    }

    fn run<T: DeserializeOwned>(&self, request: ureq::http::Result<Request<Vec<u8>>>) -> Result<T, ClientError> {
        read_json(&self.bytes(request)?)
    }

    /// The body of a successful answer.
    fn bytes(&self, request: ureq::http::Result<Request<Vec<u8>>>) -> Result<Vec<u8>, ClientError> {
        let request = request.map_err(|error| ClientError::Malformed(error.to_string()))?;
        let agent = self.agent.read().unwrap_or_else(PoisonError::into_inner).clone();
        let response = agent.run(request).map_err(|error| unreachable(&self.base, &error))?;
        let success = response.status().is_success();
        let seconds = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let retry_after = seconds.map(|seconds| seconds.try_into().unwrap_or(u16::MAX));
        let body = read(&self.base, response)?;
        if success {
            return Ok(body);
        }
        let problem: wire::Problem = read_json(&body)?;
        Err(ClientError::Problem(wire::Problem { retry_after, ..problem }))
    }
}

/// Endpoints without an answer send no body, which reads as JSON's null.
fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).map_err(|error| ClientError::Malformed(error.to_string()))
}

fn agent(roots: RootCerts, certificate: Option<ClientCert>) -> Agent {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(Duration::from_secs(30)))
        .timeout_connect(Some(Duration::from_secs(5)))
        .user_agent(concat!("keywitness/", env!("CARGO_PKG_VERSION")))
        .tls_config(
            TlsConfig::builder()
                .unversioned_rustls_crypto_provider(provider)
                .root_certs(roots)
                .client_cert(certificate)
                .build(),
        )
        .build()
        .new_agent()
}

fn read(peer: &str, mut response: Response<ureq::Body>) -> Result<Vec<u8>, ClientError> {
    let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
    body.map_err(|error| unreachable(peer, &error))
}

fn unreachable(peer: &str, error: &ureq::Error) -> ClientError {
    let text = error.to_string();
    let advice = ADVICE.into_iter().find(|(sign, _)| text.contains(sign)).map(|(_, advice)| format!("; {advice}"));
    ClientError::Unreachable(peer.to_owned(), format!("{text}{}", advice.unwrap_or_default()))
}

/// What rustls says, and what that means for whoever called the program.
const ADVICE: [(&str, &str); 3] = [
    (
        "UnknownIssuer",
        "its certificate is of an authority that is not known here: is it the right manager, and the right file with its \
         authority (its manager.ca.pem)?",
    ),
    ("NotValidForName", "its certificate is for other names than the one that it was called by"),
    ("InvalidContentType", "what answers there does not speak TLS: is its address one that begins with http://?"),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn whoever_speaks_no_tls_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = ManagerClient::new(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
        let plain = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 16]).unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = client.trust_domain().unwrap_err().to_string();
        assert!(error.contains("does not speak TLS"), "{error}");
        plain.join().unwrap();
    }

    #[test]
    fn when_to_come_back_is_read_from_the_header() {
        let problem = wire::Problem::new(wire::ProblemKind::Unavailable, "busy");
        for (header, expected) in [
            ("retry-after: 7\r\n", Some(7)),
            ("retry-after: 70000\r\n", Some(u16::MAX)),
            ("retry-after: soon\r\n", None),
            ("", None),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = ManagerClient::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
            let body = serde_json::to_string(&problem).unwrap();
            let length = body.len();
            let answer =
                format!("HTTP/1.1 503 Busy\r\nconnection: close\r\n{header}content-length: {length}\r\n\r\n{body}");
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _head = stream.read(&mut [0; 4096]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            });
            let error = client.trust_domain().unwrap_err();
            assert_eq!(error.retry_after(), expected);
            assert_eq!(error, ClientError::Problem(wire::Problem { retry_after: expected, ..problem.clone() }));
            server.join().unwrap();
        }
    }
}
