//! Every setting, in one table: the file, the environment, flags, the example and `config show` all read it.
//!
//! A new setting is a field (of [`Config`], or of [`Settings`] where only the program reads it), its default, and one
//! row here.

use std::path::PathBuf;

use keywitness_circuits::{Digest, Suite};
use keywitness_verifier::log::VerifierKey;

use super::{LogFormat, Settings, SignerMode};
use crate::{config::WrongTexts, ledger::state::evidence::Required, outbox::WebhooksConfig};

/// One setting.
pub(super) struct Setting {
    /// Its section in the file.
    pub(super) section: &'static str,
    /// Its name there.
    pub(super) name: &'static str,
    /// What it decides, for operators.
    pub(super) doc: &'static str,
    /// Where its value is, and of what type.
    pub(super) lens: Lens,
}

/// Where a setting's value is in [`Settings`], and how it is written.
pub(super) enum Lens {
    /// A duration in seconds: `"10m"`.
    Seconds(fn(&mut Settings) -> &mut u64),
    /// A number.
    Count(fn(&mut Settings) -> &mut usize),
    /// A number.
    Number(fn(&mut Settings) -> &mut u32),
    /// `true` or `false`.
    Switch(fn(&mut Settings) -> &mut bool),
    /// A file; none where it is empty.
    File(fn(&mut Settings) -> &mut Option<PathBuf>),
    /// Anything else that is one text.
    Text(fn(&mut Settings, &str) -> Result<(), String>, fn(&Settings) -> String),
    /// A list of texts; separated by commas in the environment and in flags.
    List(fn(&mut Settings, &[&str]) -> Result<(), WrongTexts>, fn(&Settings) -> Vec<String>),
}

impl Setting {
    /// `section.name`.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The variable of the environment that sets it.
    pub(super) fn variable(&self) -> String {
        format!("{}{}_{}", super::ENVIRONMENT, self.section, self.name).replace('-', "_").to_uppercase()
    }
}

const fn row(section: &'static str, name: &'static str, doc: &'static str, lens: Lens) -> Setting {
    Setting { section, name, doc, lens }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn suite(text: &str) -> Result<Suite, String> {
    match Suite::ALL.into_iter().find(|suite| suite.name() == text) {
        Some(Suite::PublicKey | Suite::Halo2PastaTag) | None => {
            Err(format!("{text:?} is no suite for symmetric keys: use halo2-pasta or groth16-bn254"))
        }
        Some(suite) => Ok(suite),
    }
}

fn each<T>(texts: &[&str], parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, WrongTexts> {
    let (mut values, mut wrong) = (Vec::new(), Vec::new());
    for (at, text) in texts.iter().enumerate() {
        match parse(text) {
            Ok(value) => values.push(value),
            Err(why) if why.contains(text) => wrong.push((at, why)),
            Err(why) => wrong.push((at, format!("{text:?}: {why}"))),
        }
    }
    if wrong.is_empty() { Ok(values) } else { Err(wrong) }
}

/// Every setting, section by section.
pub(super) const TABLE: &[Setting] = &[
    row(
        "manager",
        "trust-domain",
        "The name of everything this manager speaks for. There is no default.",
        Lens::Text(
            |settings, text| parsed(text).map(|name| settings.trust_domain = Some(name)),
            |settings| settings.trust_domain.as_ref().map(ToString::to_string).unwrap_or_default(),
        ),
    ),
    row(
        "manager",
        "id",
        "This manager's name in the trust domain.",
        Lens::Text(
            |settings, text| parsed(text).map(|name| settings.config.manager = name),
            |settings| settings.config.manager.to_string(),
        ),
    ),
    row(
        "listen",
        "address",
        "Where to listen: address and port.",
        Lens::Text(
            |settings, text| {
                let wrong = |_| format!("{text:?} is no address with a port, such as 127.0.0.1:8470 or [::]:8470");
                text.parse().map(|address| settings.listen = address).map_err(wrong)
            },
            |settings| settings.listen.to_string(),
        ),
    ),
    row(
        "listen",
        "allow-plaintext",
        "Speak plain HTTP beyond loopback, since TLS ends in a proxy in front.",
        Lens::Switch(|settings| &mut settings.config.allow_plaintext),
    ),
    row(
        "listen",
        "drain",
        "How long to serve on, with /readyz at 503, after being asked to stop: as long as a load balancer takes to see it.",
        Lens::Seconds(|settings| &mut settings.drain),
    ),
    row(
        "tls",
        "mode",
        "When to speak TLS: always, auto (beyond loopback, unless allow-plaintext), or off.",
        Lens::Text(
            |settings, text| parsed(text).map(|mode| settings.config.tls.mode = mode),
            |settings| settings.config.tls.mode.to_string(),
        ),
    ),
    row(
        "tls",
        "names",
        "Names and addresses by which the manager is called, besides localhost and where it listens, for its own certificate.",
        Lens::List(
            |settings, texts| {
                settings.config.tls.names = texts.iter().map(|text| (*text).to_owned()).collect();
                Ok(())
            },
            |settings| settings.config.tls.names.clone(),
        ),
    ),
    row(
        "tls",
        "certificate",
        "Certificate chain in PEM; one by the manager's own authority when empty. Read again when it changes.",
        Lens::File(|settings| &mut settings.config.tls.certificate),
    ),
    row("tls", "key", "The key of that certificate, in PEM.", Lens::File(|settings| &mut settings.config.tls.key)),
    row(
        "tls",
        "client-ca",
        "Authority of client certificates in PEM; the manager's own when empty.",
        Lens::File(|settings| &mut settings.config.tls.client_ca),
    ),
    row(
        "limits",
        "hsm-rate",
        "An HSM's requests, a second.",
        Lens::Number(|settings| &mut settings.config.limits.hsm.rate),
    ),
    row(
        "limits",
        "hsm-burst",
        "An HSM's requests, at once.",
        Lens::Number(|settings| &mut settings.config.limits.hsm.burst),
    ),
    row(
        "limits",
        "credential-rate",
        "A credential's requests, a second.",
        Lens::Number(|settings| &mut settings.config.limits.credential.rate),
    ),
    row(
        "limits",
        "credential-burst",
        "A credential's requests, at once.",
        Lens::Number(|settings| &mut settings.config.limits.credential.burst),
    ),
    row(
        "limits",
        "overview-rate",
        "A credential's requests for everything at once, a second.",
        Lens::Number(|settings| &mut settings.config.limits.overview.rate),
    ),
    row(
        "limits",
        "overview-burst",
        "A credential's requests for everything at once, at once.",
        Lens::Number(|settings| &mut settings.config.limits.overview.burst),
    ),
    row(
        "limits",
        "address-rate",
        "An address's requests; loopback has no limit, a second.",
        Lens::Number(|settings| &mut settings.config.limits.address.rate),
    ),
    row(
        "limits",
        "address-burst",
        "An address's requests; loopback has no limit, at once.",
        Lens::Number(|settings| &mut settings.config.limits.address.burst),
    ),
    row(
        "limits",
        "mistake",
        "How many requests a mistake costs: a wrong proof, signature or credential.",
        Lens::Number(|settings| &mut settings.config.limits.mistake),
    ),
    row(
        "limits",
        "connections-each",
        "Connections from one address; loopback has no limit.",
        Lens::Count(|settings| &mut settings.config.connections.each),
    ),
    row(
        "limits",
        "connections",
        "Connections in all. Each takes two file descriptors.",
        Lens::Count(|settings| &mut settings.config.connections.all),
    ),
    row(
        "records",
        "ttl",
        "How long a record lasts; at most 24 hours. Agents attest again after half of it.",
        Lens::Seconds(|settings| &mut settings.config.record_ttl),
    ),
    row(
        "records",
        "challenge-ttl",
        "How long a challenge can be answered.",
        Lens::Seconds(|settings| &mut settings.config.challenge_ttl),
    ),
    row(
        "tokens",
        "ttl",
        "How long a verification token lasts at most.",
        Lens::Seconds(|settings| &mut settings.config.token_ttl),
    ),
    row(
        "tokens",
        "public-url",
        "Where anyone reaches this manager: tokens name their status list under it. Where it listens, if empty.",
        Lens::Text(
            |settings, text| {
                let url = text.is_empty() || text.starts_with("https://") || text.starts_with("http://");
                let wrong = || format!("{text:?} does not begin with https:// or http://");
                settings.config.public_url = Some(text.to_owned()).filter(|text| !text.is_empty());
                url.then_some(()).ok_or_else(wrong)
            },
            |settings| settings.config.public_url.clone().unwrap_or_default(),
        ),
    ),
    row(
        "tokens",
        "status-ttl",
        "How long a status list lasts: within that time whoever checks one sees a revocation.",
        Lens::Seconds(|settings| &mut settings.config.status_ttl),
    ),
    row(
        "signer",
        "mode",
        "Where the keys of tokens and of the log are used: process (one of its own, which the manager starts), in-process, \
         or socket (one that another user runs, with keywitness signer --listen).",
        Lens::Text(
            |settings, text| parsed::<SignerMode>(text).map(|mode| settings.signer = mode),
            |settings| settings.signer.to_string(),
        ),
    ),
    row(
        "signer",
        "socket",
        "Where that signer listens.",
        Lens::Text(
            |settings, text| {
                settings.signer_socket = text.into();
                Ok(())
            },
            |settings| settings.signer_socket.display().to_string(),
        ),
    ),
    row(
        "signer",
        "directory",
        "Where the signer keeps its key files, and what it signed last; DATA/signer when empty.",
        Lens::Text(
            |settings, text| {
                settings.config.signer_dir = Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
                Ok(())
            },
            |settings| settings.config.signer_dir.as_deref().map(|path| path.display().to_string()).unwrap_or_default(),
        ),
    ),
    row(
        "signer",
        "pkcs11-module",
        "The PKCS#11 library of the token that holds the signer's keys; they are in files when empty.",
        Lens::Text(
            |settings, text| {
                settings.pkcs11.module = text.into();
                Ok(())
            },
            |settings| settings.pkcs11.module.display().to_string(),
        ),
    ),
    row(
        "signer",
        "pkcs11-token",
        "That token's label, or slot:NUMBER.",
        Lens::Text(
            |settings, text| {
                settings.pkcs11.token = text.to_owned();
                Ok(())
            },
            |settings| settings.pkcs11.token.clone(),
        ),
    ),
    row(
        "signer",
        "pkcs11-pin-file",
        "The file with its user's PIN, which only the signer's user may read; best in the signer's directory.",
        Lens::Text(
            |settings, text| {
                settings.pkcs11.pin_file = text.into();
                Ok(())
            },
            |settings| settings.pkcs11.pin_file.display().to_string(),
        ),
    ),
    row(
        "signer",
        "pkcs11-paths",
        "Files and directories that the library writes.",
        Lens::List(
            |settings, texts| {
                settings.pkcs11.paths = texts.iter().map(PathBuf::from).collect();
                Ok(())
            },
            |settings| settings.pkcs11.paths.iter().map(|path| path.display().to_string()).collect(),
        ),
    ),
    row(
        "signer",
        "pkcs11-environment",
        "Names of the variables that the library reads, such as SOFTHSM2_CONF; no others reach the signer.",
        Lens::List(
            |settings, texts| {
                settings.pkcs11.environment = texts.iter().map(|text| (*text).to_owned()).collect();
                Ok(())
            },
            |settings| settings.pkcs11.environment.clone(),
        ),
    ),
    row(
        "signer",
        "pkcs11-network",
        "The library reaches its hardware over the network.",
        Lens::Switch(|settings| &mut settings.pkcs11.network),
    ),
    row(
        "verification",
        "suites",
        "Suites in which a symmetric key must be proven: halo2-pasta, groth16-bn254.",
        Lens::List(
            |settings, texts| each(texts, suite).map(|suites| settings.config.suites = suites),
            |settings| settings.config.suites.iter().map(|suite| suite.name().to_owned()).collect(),
        ),
    ),
    row(
        "verification",
        "groth16-parameters",
        "Groth16 parameter file; DATA/groth16-parameters when empty, made for development where there is none.",
        Lens::File(|settings| &mut settings.groth16_parameters),
    ),
    row(
        "verification",
        "groth16-many-parameters",
        "Parameter file for up to 64 keys in one Groth16 proof; DATA/groth16-many-parameters when empty, if it is there.",
        Lens::File(|settings| &mut settings.groth16_many_parameters),
    ),
    row(
        "verification",
        "pin-parameters",
        "Digests of the Groth16 parameter files that you have reason to trust; needed beyond loopback.",
        Lens::List(
            |settings, texts| each(texts, parsed::<Digest>).map(|digests| settings.config.pinned_parameters = digests),
            |settings| settings.config.pinned_parameters.iter().map(Digest::to_string).collect(),
        ),
    ),
    row(
        "verification",
        "allow-development-parameters",
        "Use parameters that one party made even beyond loopback: whoever made them could forge proofs.",
        Lens::Switch(|settings| &mut settings.config.allow_development_parameters),
    ),
    row(
        "verification",
        "threads",
        "Threads that check proofs; the default is every core of this machine.",
        Lens::Count(|settings| &mut settings.config.verify_threads),
    ),
    row(
        "verification",
        "queue",
        "Proofs that may wait to be checked; the default is 128 for each core, but 256 to 1024. One HSM's are at most an \
         eighth.",
        Lens::Count(|settings| &mut settings.config.verify_queue),
    ),
    row(
        "log",
        "witnesses",
        "Keys of the witnesses whose cosignatures of the log are taken and served; `keywitness witness` prints its own.",
        Lens::List(
            |settings, texts| each(texts, parsed::<VerifierKey>).map(|keys| settings.config.witnesses = keys),
            |settings| settings.config.witnesses.iter().map(VerifierKey::to_string).collect(),
        ),
    ),
    row(
        "log",
        "retention",
        "How long the log's openings are kept behind a seal of the state; for ever where it is 0s.",
        Lens::Seconds(|settings| &mut settings.config.opening_retention),
    ),
    row(
        "log",
        "seal-commands",
        "The state is sealed after this many commands; 0 for never.",
        Lens::Count(|settings| &mut settings.config.seal_commands),
    ),
    row(
        "log",
        "seal-interval",
        "The state is sealed when the newest seal is this old; 0s for never.",
        Lens::Seconds(|settings| &mut settings.config.seal_interval),
    ),
    row(
        "log",
        "format",
        "How the process's own log is written to standard error: text or json.",
        Lens::Text(
            |settings, text| parsed::<LogFormat>(text).map(|format| settings.log_format = format),
            |settings| settings.log_format.to_string(),
        ),
    ),
    row(
        "log",
        "filter",
        "What is logged: a level (error, warn, info, debug, trace), or levels by module. KEYWITNESS_LOG goes before it.",
        Lens::Text(
            |settings, text| {
                settings.log_filter = text.to_owned();
                Ok(())
            },
            |settings| settings.log_filter.clone(),
        ),
    ),
    row(
        "fraud",
        "rules",
        "Changes of fraud rules, each as RULE.FIELD=VALUE: drift.grace=3600, repeated-failures.threshold=10, replay.action=quarantine, \
         silent-hsm.enabled=false.",
        Lens::List(
            |settings, texts| settings.config.fraud.change_all(texts),
            |settings| settings.config.fraud.changes(),
        ),
    ),
    row(
        "evidence",
        "policy",
        "What evidence of where keys live is accepted, a file as docs/evidence.md has it; none when empty.",
        Lens::File(|settings| &mut settings.config.evidence.policy),
    ),
    row(
        "evidence",
        "required",
        "Clusters whose tokens warn without evidence; \"*\" for every one.",
        Lens::List(
            |settings, texts| {
                settings.config.evidence.required = match texts {
                    [] => Required::Nobody,
                    ["*"] => Required::Everyone,
                    texts => Required::Clusters(each(texts, parsed)?),
                };
                Ok(())
            },
            |settings| match &settings.config.evidence.required {
                Required::Nobody => Vec::new(),
                Required::Clusters(clusters) => clusters.iter().map(ToString::to_string).collect(),
                Required::Everyone => vec!["*".to_owned()],
            },
        ),
    ),
    row(
        "evidence",
        "max-age",
        "How long evidence counts. Agents give new evidence after half of it.",
        Lens::Seconds(|settings| &mut settings.config.evidence.max_age),
    ),
    row(
        "webhooks",
        "sinks",
        "Who is told of alerts, each as NAME.FIELD=VALUE, with lists separated by spaces: pager.url=https://alerts.example/hook, \
         pager.sends=quarantines|alerts|fraud|events, pager.rules=replay drift, pager.clusters=eu us, pager.ca=FILE, \
         pager.certificate=FILE, pager.key=FILE, pager.plaintext=true.",
        Lens::List(
            |settings, texts| {
                settings.config.webhooks =
                    WebhooksConfig { patience: settings.config.webhooks.patience, ..WebhooksConfig::read(texts)? };
                Ok(())
            },
            |settings| settings.config.webhooks.texts(),
        ),
    ),
];
