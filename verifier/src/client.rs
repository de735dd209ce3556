//! A small blocking client for the manager, and for an HSM's channel.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::jwk::JwkSet;
use keywitness_circuits::{Envelope, HsmId, Timestamp, codec::Canonical};
use serde::{Serialize, de::DeserializeOwned};
use ureq::{
    Agent,
    http::{Request, Response, Uri},
    tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig},
};

use crate::{
    bundle,
    identity::{Audience, RequestAuth, RequestParts},
    log::{Note, Opening, read_page},
    operation,
    wire::{self, path},
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

    /// What the trust domain asks for. Anyone.
    pub fn trust_domain(&self) -> Result<wire::TrustDomainInfo, ClientError> {
        self.get(Caller::Anyone, path::TRUST_DOMAIN)
    }

    /// The keys that sign verification tokens. Anyone.
    pub fn jwks(&self) -> Result<JwkSet, ClientError> {
        self.get(Caller::Anyone, path::JWKS)
    }

    /// Makes a join token. Operator.
    pub fn join_token(&self, request: &wire::JoinTokenRequest) -> Result<wire::JoinToken, ClientError> {
        self.send(Caller::Bearer, "POST", path::JOIN_TOKENS, request)
    }

    /// Makes a credential. Operator.
    pub fn credential(&self, request: &wire::CredentialRequest) -> Result<wire::Credential, ClientError> {
        self.send(Caller::Bearer, "POST", path::CREDENTIALS, request)
    }

    /// Every credential. Operator.
    pub fn credentials(&self) -> Result<wire::CredentialList, ClientError> {
        self.get(Caller::Bearer, path::CREDENTIALS)
    }

    /// Withdraws a credential. Operator.
    pub fn withdraw_credential(&self, id: wire::CredentialId) -> Result<(), ClientError> {
        self.call(Caller::Bearer, "DELETE", &path::CREDENTIAL.replace("{id}", &id.to_string()), Vec::new())
    }

    /// Enrols an HSM. Whoever holds the join token.
    pub fn enrol(&self, request: &wire::EnrolRequest) -> Result<wire::Enrolment, ClientError> {
        self.send(Caller::Anyone, "POST", path::HSMS, request)
    }

    /// Says where the HSM's channel is. HSM.
    pub fn announce(&self, hsm: &dyn HsmSigner, channel: &wire::ChannelAnnouncement) -> Result<(), ClientError> {
        self.send(Caller::Hsm(hsm), "PUT", path::CHANNEL, channel)
    }

    /// Enrols a key. HSM.
    pub fn enrol_key(&self, hsm: &dyn HsmSigner, key: &wire::EnrolKeyRequest) -> Result<(), ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::KEYS, key)
    }

    /// Asks for a client certificate. HSM.
    pub fn certify(
        &self,
        hsm: &dyn HsmSigner,
        request: &wire::CertificateRequest,
    ) -> Result<wire::HsmCertificate, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::CERTIFICATES, request)
    }

    /// Says which key shares are sealed to. HSM.
    pub fn announce_sealing_key(
        &self,
        hsm: &dyn HsmSigner,
        key: &wire::SealingKeyAnnouncement,
    ) -> Result<(), ClientError> {
        self.send(Caller::Hsm(hsm), "PUT", path::SEALING_KEY, key)
    }

    /// Every HSM that can hold shares. HSM.
    pub fn holders(&self, hsm: &dyn HsmSigner) -> Result<wire::Holders, ClientError> {
        self.get(Caller::Hsm(hsm), path::HOLDERS)
    }

    /// Enrols a sharing. HSM: the dealer.
    pub fn enrol_sharing(
        &self,
        hsm: &dyn HsmSigner,
        sharing: &wire::EnrolSharingRequest,
    ) -> Result<wire::Sharing, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::SHARINGS, sharing)
    }

    /// The dealings with a share for this HSM. HSM.
    pub fn dealings(&self, hsm: &dyn HsmSigner) -> Result<wire::Dealings, ClientError> {
        self.get(Caller::Hsm(hsm), path::SHARINGS)
    }

    /// Complains about a share. HSM: its holder.
    pub fn complain(
        &self,
        hsm: &dyn HsmSigner,
        complaint: &wire::ComplaintRequest,
    ) -> Result<wire::ComplaintVerdict, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::COMPLAINTS, complaint)
    }

    /// Asks for a challenge. HSM.
    pub fn challenge(
        &self,
        hsm: &dyn HsmSigner,
        request: &wire::ChallengeRequest,
    ) -> Result<wire::Challenge, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::CHALLENGES, request)
    }

    /// Submits an envelope, which authenticates itself.
    pub fn attest(&self, envelope: &Envelope) -> Result<wire::AttestResponse, ClientError> {
        let request = Request::post(format!("{}{}", self.base, path::ATTESTATIONS))
            .header("content-type", wire::ENVELOPE_TYPE)
            .body(envelope.to_bytes());
        self.run(request)
    }

    /// Asks for many challenges. HSM.
    pub fn challenges(
        &self,
        hsm: &dyn HsmSigner,
        request: &wire::ChallengeBatchRequest,
    ) -> Result<wire::ChallengeBatch, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::CHALLENGE_BATCHES, request)
    }

    /// Submits many envelopes, each of which authenticates itself.
    pub fn attest_batch(&self, envelopes: &[Envelope]) -> Result<wire::AttestBatch, ClientError> {
        let encoded: Vec<_> = envelopes.iter().map(Canonical::to_bytes).collect();
        let request = Request::post(format!("{}{}", self.base, path::ATTESTATION_BATCHES))
            .header("content-type", wire::ENVELOPES_TYPE)
            .body(wire::join_envelopes(encoded.iter().map(Vec::as_slice)));
        self.run(request)
    }

    /// Whether many keys are attested. Client, operator or viewer.
    pub fn attested_batch(&self, request: &wire::AttestedRequest) -> Result<wire::AttestedBatch, ClientError> {
        self.send(Caller::Bearer, "POST", path::ATTESTED, request)
    }

    /// Whether a key is attested. Client, operator or viewer.
    pub fn attested(&self, query: &wire::KeyQuery) -> Result<wire::KeyStatus, ClientError> {
        let mut target = format!("{}?key={}", path::ATTESTED, query.key);
        // Names are made of characters that need no escape in a query.
        if let Some(cluster) = &query.cluster {
            target += &format!("&cluster={cluster}");
        }
        if let Some(hsm) = &query.hsm {
            target += &format!("&hsm={hsm}");
        }
        if let Some(max_age) = query.max_age {
            target += &format!("&max_age={max_age}");
        }
        self.get(Caller::Bearer, &target)
    }

    /// Asks for a verification token. Client.
    pub fn token(&self, request: &wire::TokenRequest) -> Result<wire::TokenResponse, ClientError> {
        self.send(Caller::Bearer, "POST", path::TOKENS, request)
    }

    /// What a token rests on, for whoever will check it without the manager. Client or auditor.
    pub fn bundle(&self, request: &bundle::BundleRequest) -> Result<bundle::Bundle, ClientError> {
        self.send(Caller::Bearer, "POST", path::BUNDLES, request)
    }

    /// The keys that sign for the log. Anyone.
    pub fn log_key(&self) -> Result<wire::LogKey, ClientError> {
        self.get(Caller::Anyone, path::LOG_KEY)
    }

    /// The log's newest checkpoint. Anyone.
    pub fn checkpoint(&self) -> Result<Note, ClientError> {
        self.note(path::CHECKPOINT)
    }

    /// The newest checkpoint that so many witnesses have cosigned. Anyone.
    pub fn cosigned(&self, witnesses: usize) -> Result<Note, ClientError> {
        self.note(&format!("{}?witnesses={witnesses}", path::COSIGNED))
    }

    /// A page of the openings after a number. Auditor.
    pub fn openings(&self, after: u64) -> Result<Vec<Opening>, ClientError> {
        let target = format!("{}?after={after}", path::OPENINGS);
        let page = self.bytes(self.request(Caller::Bearer, "GET", &target, Vec::new()))?;
        read_page(&page, after).map_err(|error| ClientError::Malformed(error.to_string()))
    }

    /// Where an entry is in the log's first `size` entries. Anyone.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<wire::InclusionProof, ClientError> {
        self.get(Caller::Anyone, &format!("{}?index={index}&size={size}", path::LOG_PROOF))
    }

    /// That the log of `to` entries begins with that of `from`. Anyone.
    pub fn consistency(&self, from: u64, to: u64) -> Result<wire::ConsistencyProof, ClientError> {
        self.get(Caller::Anyone, &format!("{}?from={from}&to={to}", path::LOG_CONSISTENCY))
    }

    /// The seals of the state. Operator or auditor.
    pub fn seals(&self) -> Result<wire::Seals, ClientError> {
        self.get(Caller::Bearer, path::SEALS)
    }

    /// Seals the state. Operator.
    pub fn seal(&self) -> Result<crate::log::StateSeal, ClientError> {
        self.call(Caller::Bearer, "POST", path::SEALS, Vec::new())
    }

    /// Deletes the openings that are old enough. Operator.
    pub fn retain(&self) -> Result<wire::Retained, ClientError> {
        self.call(Caller::Bearer, "POST", path::RETENTION, Vec::new())
    }

    /// A part of the state that a seal is of; empty at its end. Auditor.
    pub fn snapshot(&self, sequence: u64, offset: u64) -> Result<Vec<u8>, ClientError> {
        let target = path::SNAPSHOT.replace("{sequence}", &sequence.to_string());
        self.bytes(self.request(Caller::Bearer, "GET", &format!("{target}?offset={offset}"), Vec::new()))
    }

    /// Brings a cosigned checkpoint. Auditor.
    pub fn cosign(&self, note: &Note) -> Result<(), ClientError> {
        self.call(Caller::Bearer, "POST", path::COSIGNATURES, note.to_string().into_bytes())
    }

    fn note(&self, target: &str) -> Result<Note, ClientError> {
        let body = self.bytes(self.request(Caller::Anyone, "GET", target, Vec::new()))?;
        let text = String::from_utf8(body).map_err(|error| ClientError::Malformed(error.to_string()))?;
        text.parse().map_err(|error: keywitness_circuits::Error| ClientError::Malformed(error.to_string()))
    }

    /// Revokes. Operator.
    pub fn revoke(&self, request: &wire::RevokeRequest) -> Result<wire::Revocation, ClientError> {
        self.send(Caller::Bearer, "POST", path::REVOCATIONS, request)
    }

    /// Suspends. Operator.
    pub fn suspend(&self, request: &wire::RevokeRequest) -> Result<wire::Revocation, ClientError> {
        self.send(Caller::Bearer, "POST", path::SUSPENSIONS, request)
    }

    /// Makes another token key. Operator.
    pub fn rotate_token_key(&self, request: &wire::TokenKeyRequest) -> Result<wire::TokenKey, ClientError> {
        self.send(Caller::Bearer, "POST", path::TOKEN_KEYS, request)
    }

    /// The token keys. Operator.
    pub fn token_keys(&self) -> Result<wire::TokenKeys, ClientError> {
        self.get(Caller::Bearer, path::TOKEN_KEYS)
    }

    /// Ends a suspension, or frees a revoked key's name. Operator.
    pub fn reinstate(&self, request: &wire::ReinstateRequest) -> Result<(), ClientError> {
        self.send(Caller::Bearer, "POST", path::REINSTATEMENTS, request)
    }

    /// Has the manager back up its store. Operator only.
    pub fn back_up(&self) -> Result<wire::Backup, ClientError> {
        self.send(Caller::Bearer, "POST", path::BACKUPS, &serde_json::json!({}))
    }

    /// Everything at a glance. Operator, client or viewer.
    pub fn status(&self) -> Result<wire::Status, ClientError> {
        self.get(Caller::Bearer, path::STATUS)
    }

    /// The events after number `after`. Operator or viewer.
    pub fn events(&self, after: u64) -> Result<wire::EventPage, ClientError> {
        self.get(Caller::Bearer, &format!("{}?after={after}", path::EVENTS))
    }

    /// Alerts. Operator, viewer or auditor.
    pub fn alerts(&self, query: &wire::AlertQuery) -> Result<wire::AlertPage, ClientError> {
        let state = query.state.map_or("", |state| match state {
            wire::AlertState::Open => "&state=open",
            wire::AlertState::Acknowledged => "&state=acknowledged",
        });
        self.get(Caller::Bearer, &format!("{}?after={}{state}", path::ALERTS, query.after))
    }

    /// One alert. Operator, viewer or auditor.
    pub fn alert(&self, number: u64) -> Result<wire::Alert, ClientError> {
        self.get(Caller::Bearer, &path::ALERT.replace("{number}", &number.to_string()))
    }

    /// Acknowledges an alert. Operator.
    pub fn acknowledge_alert(
        &self,
        number: u64,
        request: &wire::AcknowledgeRequest,
    ) -> Result<wire::Alert, ClientError> {
        self.send(Caller::Bearer, "POST", &path::ACKNOWLEDGEMENT.replace("{number}", &number.to_string()), request)
    }

    /// Declares a migration. Operator.
    pub fn declare_migration(&self, request: &wire::MigrationRequest) -> Result<wire::Migration, ClientError> {
        self.send(Caller::Bearer, "POST", path::MIGRATIONS, request)
    }

    /// The migrations that are remembered. Operator, viewer or auditor.
    pub fn migrations(&self) -> Result<wire::Migrations, ClientError> {
        self.get(Caller::Bearer, path::MIGRATIONS)
    }

    /// The webhooks. Operator.
    pub fn webhooks(&self) -> Result<wire::Webhooks, ClientError> {
        self.get(Caller::Bearer, path::WEBHOOKS)
    }

    /// Has a webhook be told again. Operator.
    pub fn replay_webhook(&self, name: &str, request: wire::WebhookReplay) -> Result<wire::Webhook, ClientError> {
        self.send(Caller::Bearer, "POST", &path::WEBHOOK_REPLAY.replace("{name}", name), &request)
    }

    /// Sends a test to a webhook. Operator.
    pub fn test_webhook(&self, name: &str) -> Result<wire::WebhookTest, ClientError> {
        self.call(Caller::Bearer, "POST", &path::WEBHOOK_TEST.replace("{name}", name), Vec::new())
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

/// Sends sealed bytes to an HSM's channel and gives back its sealed answer.
///
/// # Errors
/// [`ClientError::Unreachable`], or [`ClientError::Malformed`] where the HSM could not open the request.
pub fn operate(channel_url: &str, sealed: &[u8]) -> Result<Vec<u8>, ClientError> {
    let target = format!("{}{}", channel_url.trim_end_matches('/'), operation::PATH);
    let request = Request::post(&target)
        .header("content-type", "application/octet-stream")
        .body(sealed.to_vec())
        .map_err(|error| ClientError::Malformed(error.to_string()))?;
    let response = agent(RootCerts::WebPki, None).run(request).map_err(|error| unreachable(channel_url, &error))?;
    if !response.status().is_success() {
        return Err(ClientError::Malformed(format!("the HSM answers {}", response.status())));
    }
    read(channel_url, response)
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
    ClientError::Unreachable(peer.to_owned(), error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

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
