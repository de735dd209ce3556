//! One receiver, over HTTP: what it answers counts by its status alone.
//!
//! Where requests go is decided by the configuration and nothing else: no redirect is followed, no proxy of the
//! environment is asked, and nothing of an answer is kept or shown but its status.

use std::{fs, path::Path, sync::Arc, time::Duration};

use keywitness_circuits::Timestamp;
use keywitness_verifier::wire::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use ureq::{
    Agent,
    http::{StatusCode, header::RETRY_AFTER},
    tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig},
};

use super::{Address, Patience, WebhookConfig};
use crate::{StartError, files::check_private};

/// How long a receiver may have the manager wait, at most.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Longest head of an answer, in bytes.
const HEAD: usize = 16 * 1024;

/// A signed message.
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) timestamp: Timestamp,
    pub(crate) signature: String,
    pub(crate) body: Vec<u8>,
}

/// Why a message was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// In words.
    pub(crate) why: String,
    /// How long the receiver wants to be left alone, if it says so.
    pub(crate) wait: Option<Duration>,
}

impl Refusal {
    pub(crate) fn new(why: impl ToString) -> Self {
        Self { why: why.to_string(), wait: None }
    }
}

/// A receiver.
pub(crate) struct Endpoint {
    address: Address,
    agent: Agent,
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, StartError> {
    let pem = fs::read(path).map_err(|error| StartError::File { path: path.to_owned(), error })?;
    let refused = |why: &str| StartError::Refused(format!("{}: {why}", path.display()));
    let items = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(_) => Some(Err(refused("it is no PEM"))),
    });
    let found = items.collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() { Err(refused("there is no certificate in it")) } else { Ok(found) }
}

impl Endpoint {
    /// Reads the files that a webhook names.
    ///
    /// # Errors
    /// [`StartError`]
    pub(crate) fn open(config: &WebhookConfig, patience: Patience) -> Result<Self, StartError> {
        let address = config.url.clone();
        let address = address.ok_or_else(|| StartError::Refused(format!("webhook {} has no url", config.name)))?;
        let roots = match &config.ca {
            Some(path) => RootCerts::new_with_certs(&certificates(path)?),
            None => RootCerts::WebPki,
        };
        let shown = match (&config.certificate, &config.key) {
            (Some(certificate), Some(key)) => {
                check_private(key).map_err(|error| StartError::File { path: key.clone(), error })?;
                let pem = fs::read(key).map_err(|error| StartError::File { path: key.clone(), error })?;
                let pem = zeroize::Zeroizing::new(pem);
                let refused = |_| StartError::Refused(format!("{}: there is no private key in it", key.display()));
                let key = PrivateKey::from_pem(&pem).map_err(refused)?;
                Some(ClientCert::new_with_certs(&certificates(certificate)?, key))
            }
            _ => None,
        };
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .root_certs(roots)
            .client_cert(shown)
            .build();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(patience.attempt))
            .max_response_header_size(HEAD)
            .max_idle_connections(1)
            .user_agent(concat!("keywitness/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build()
            .new_agent();
        Ok(Self { address, agent })
    }

    /// Where it is.
    pub(crate) const fn address(&self) -> &Address {
        &self.address
    }

    /// Sends a message. It is delivered once a status 2xx comes back; the answer's body is not read.
    ///
    /// # Errors
    /// [`Refusal`] for everything else.
    pub(crate) fn post(&self, message: &Message) -> Result<(), Refusal> {
        let request = self
            .agent
            .post(self.address.uri())
            .header("content-type", "application/json")
            .header(WEBHOOK_ID, &message.id)
            .header(WEBHOOK_TIMESTAMP, message.timestamp.0.to_string())
            .header(WEBHOOK_SIGNATURE, &message.signature);
        let response = request.send(message.body.as_slice()).map_err(|error| Refusal::new(told(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let wait = wait.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT));
        Err(Refusal { why: explained(status), wait })
    }
}

/// What went wrong on the way; without the address, of which part may be a secret.
fn told(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "the receiver did not answer in time".to_owned(),
        ureq::Error::HostNotFound => "the receiver's name has no address".to_owned(),
        ureq::Error::Io(error) => format!("the receiver cannot be reached: {error}"),
        ureq::Error::Rustls(error) => format!("TLS: {error}"),
        error => format!("the receiver cannot be reached: {error}"),
    }
}

fn explained(status: StatusCode) -> String {
    let hint = match status {
        StatusCode::GONE => "; it wants no more messages: take the webhook out of the configuration",
        status if status.is_redirection() => "; redirects are not followed: give the address that it leads to",
        _ => "",
    };
    format!("the receiver answers {status}{hint}")
}
