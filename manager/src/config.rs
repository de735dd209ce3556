//! What an operator decides, and what is refused for the operator's sake.

use std::{net::SocketAddr, path::PathBuf, thread};

use keywitness_circuits::{
    Digest, Error, Kind, ManagerId, Parameters, Suite, TrustDomain,
    params::{Groth16Parameters, Origin},
    registry,
};
use keywitness_verifier::{
    engine::EngineConfig,
    evidence::EvidencePolicy,
    identity::Audience,
    log::{Checkpoint, VerifierKey},
    wire::{MAX_RECORD_TTL, StatementInfo},
};

use crate::{
    error::StartError,
    ledger::{
        Configuration,
        fraud::policy::FraudPolicy,
        state::evidence::{EvidenceTerms, Required},
    },
    limits::{ConnectionsConfig, LimitsConfig},
    outbox::WebhooksConfig,
    signer::{Pkcs11Config, Spec},
    store,
    tls::{TlsConfig, TlsMode},
};

/// Name of the file with the first operator credential in a data directory, mode 0600.
pub const OPERATOR_CREDENTIAL: &str = "operator.credential";

/// Proofs that may wait to be checked, for each thread that serves connections.
pub(crate) const VERIFY_QUEUE_OF_WORKER: usize = 128;

/// How many threads serve connections: as many as there are cores, but 2 to 8.
pub(crate) fn workers() -> usize {
    thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

/// What evidence of where keys live is accepted, and who must give it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EvidenceConfig {
    /// The policy's file, in TOML; none where no evidence is accepted.
    pub policy: Option<PathBuf>,
    /// Whose tokens warn without evidence.
    pub required: Required,
    /// How long evidence counts, in seconds.
    pub max_age: u64,
}

impl Default for EvidenceConfig {
    fn default() -> Self {
        Self { policy: None, required: Required::Nobody, max_age: 60 * 60 }
    }
}

impl EvidenceConfig {
    /// Reads the policy.
    ///
    /// # Errors
    /// In words for an operator.
    pub fn read(&self) -> Result<Option<EvidencePolicy>, String> {
        let Some(path) = &self.policy else { return Ok(None) };
        let wrong = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        toml::from_str(&text).map(Some).map_err(|error| wrong(format!("this is no evidence policy: {error}")))
    }

    /// The part that deterministic rules read.
    pub(crate) fn terms(&self) -> Result<EvidenceTerms, StartError> {
        let policy = self.read().map_err(StartError::Refused)?;
        Ok(EvidenceTerms::new(policy.as_ref(), self.required.clone(), self.max_age)?)
    }

    fn nonsense(&self) -> Option<String> {
        let longest = 30 * 24 * 60 * 60;
        if self.policy.is_none() && self.required != Required::Nobody {
            return Some(
                "evidence.required asks for evidence, and evidence.policy names no policy that accepts any".to_owned(),
            );
        }
        (!(60..=longest).contains(&self.max_age)).then(|| "evidence.max-age must be 1 minute to 30 days".to_owned())
    }
}

/// A manager's configuration. [`Config::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The manager's name in it.
    pub manager: ManagerId,
    /// The suites in which a symmetric key must be proven.
    pub suites: Vec<Suite>,
    /// How long a record lasts, in seconds.
    pub record_ttl: u64,
    /// How long a challenge can be answered, in seconds.
    pub challenge_ttl: u64,
    /// How long a verification token lasts at most, in seconds.
    pub token_ttl: u64,
    /// Where anyone reaches this manager, such as `https://manager.example`: what the addresses of status lists in tokens
    /// begin with. The program gives the address that it listens on where the operator gives none.
    pub public_url: Option<String>,
    /// How long a status list lasts, in seconds: within that time whoever checks one sees a revocation.
    pub status_ttl: u64,
    /// What the fraud rules go by.
    pub fraud: FraudPolicy,
    /// Who is told of alerts and other events.
    pub webhooks: WebhooksConfig,
    /// What evidence of where keys live is accepted, and who must give it.
    pub evidence: EvidenceConfig,
    /// Serve beyond loopback with Groth16 parameters that one party may have made.
    pub allow_development_parameters: bool,
    /// Digests of Groth16 parameter files of which the operator knows how they were made; none means that any may be loaded.
    pub pinned_parameters: Vec<Digest>,
    /// Serve plain HTTP beyond loopback: a proxy in front terminates TLS.
    pub allow_plaintext: bool,
    /// The witnesses whose cosignatures of the log's checkpoints are taken and served.
    pub witnesses: Vec<VerifierKey>,
    /// How long the log's openings are kept behind a seal of the state, in seconds; for ever where it is 0.
    pub opening_retention: u64,
    /// The state is sealed after this many commands; never for their number where it is 0.
    pub seal_commands: usize,
    /// The state is sealed when the newest seal is this old, in seconds; never for its age where it is 0.
    pub seal_interval: u64,
    /// How TLS is spoken.
    pub tls: TlsConfig,
    /// How often callers may ask.
    pub limits: LimitsConfig,
    /// How long requests may take to arrive, and how many connections there may be.
    pub connections: ConnectionsConfig,
    /// Threads that check proofs.
    pub verify_threads: usize,
    /// Proofs that may wait to be checked; one HSM's are at most an eighth of them.
    pub verify_queue: usize,
    /// How many bytes of the store are held in memory at most.
    pub store_cache: usize,
    /// How many backups are kept in the data directory.
    pub keep_backups: usize,
    /// Where the signer's key files are, and what it signed last; the data directory where it is left out.
    pub signer_dir: Option<PathBuf>,
    /// The PKCS#11 token that holds the signer's keys; files where it is left out.
    pub pkcs11: Option<Pkcs11Config>,
}

impl Config {
    /// The defaults: both suites, records of 10 minutes, challenges of 1, tokens of 5, and every fraud
    /// rule as [`FraudPolicy::default`] has it. Proofs are checked on every core, and
    /// 128 may wait for each core, but 256 to 1,024.
    pub fn new(data_dir: impl Into<PathBuf>, trust_domain: TrustDomain, manager: ManagerId) -> Self {
        Self {
            data_dir: data_dir.into(),
            trust_domain,
            manager,
            suites: vec![Suite::Halo2Pasta, Suite::Groth16Bn254],
            record_ttl: 600,
            challenge_ttl: 60,
            token_ttl: 300,
            public_url: None,
            status_ttl: 60,
            fraud: FraudPolicy::default(),
            webhooks: WebhooksConfig::default(),
            evidence: EvidenceConfig::default(),
            allow_development_parameters: false,
            pinned_parameters: Vec::new(),
            allow_plaintext: false,
            witnesses: Vec::new(),
            opening_retention: 0,
            seal_commands: 0,
            seal_interval: 24 * 60 * 60,
            tls: TlsConfig::default(),
            limits: LimitsConfig::default(),
            connections: ConnectionsConfig::default(),
            verify_threads: EngineConfig::default().threads,
            verify_queue: workers() * VERIFY_QUEUE_OF_WORKER,
            store_cache: store::CACHE,
            keep_backups: 7,
            signer_dir: None,
            pkcs11: None,
        }
    }

    /// The verification engine's part.
    pub(crate) fn engine(&self) -> EngineConfig {
        EngineConfig { threads: self.verify_threads, queue: self.verify_queue, ..EngineConfig::default() }
    }

    /// Where the signer's keys are, and whose log they sign.
    pub fn signer(&self) -> Spec {
        Spec {
            directory: self.signer_dir.clone().unwrap_or_else(|| self.data_dir.clone()),
            origin: Checkpoint::origin_of(&self.audience()),
            pkcs11: self.pkcs11.clone(),
        }
    }

    /// Whom requests and claims must be for.
    pub fn audience(&self) -> Audience {
        Audience { trust_domain: self.trust_domain.clone(), manager: self.manager.clone() }
    }

    /// Refuses to serve at `address` what only loopback may see.
    ///
    /// # Errors
    /// [`StartError::Refused`], in words for an operator: Groth16 parameters that are not pinned, or plain HTTP,
    /// beyond loopback, unless this configuration allows them.
    pub fn check_bind(&self, address: SocketAddr, parameters: &Parameters) -> Result<(), StartError> {
        if address.ip().is_loopback() {
            return Ok(());
        }
        let loaded = [parameters.groth16(), parameters.groth16_many()].into_iter().flatten();
        let unnamed = |groth16: &&Groth16Parameters| !self.pinned_parameters.contains(&groth16.digest());
        if self.suites.contains(&Suite::Groth16Bn254)
            && !self.allow_development_parameters
            && let Some(groth16) = loaded.into_iter().find(unnamed)
        {
            let origin = match groth16.origin() {
                Origin::Development => "were made by one party on one machine",
                _ => "say that they come from a ceremony, which nobody here has named",
            };
            return Err(StartError::Refused(format!(
                "{address} can be reached from other machines, and these proving parameters {origin}; whoever made \
                 them could forge proofs that every check here accepts. If you know that they come from a ceremony \
                 that you trust, say so with --pin-parameters DIGEST (this file's is {}), or set \
                 allow-development-parameters if this is a demonstration",
                groth16.digest()
            )));
        }
        self.check_exposure(address).map_err(StartError::Refused)
    }

    /// Whether a server at `address` speaks TLS: by default beyond loopback, unless plain HTTP is allowed there.
    pub fn speaks_tls(&self, address: SocketAddr) -> bool {
        match self.tls.mode {
            TlsMode::Always => true,
            TlsMode::Auto => !address.ip().is_loopback() && !self.allow_plaintext,
            TlsMode::Off => false,
        }
    }

    /// The part of [`Self::check_bind`] that needs no parameters.
    pub(crate) fn check_exposure(&self, address: SocketAddr) -> Result<(), String> {
        if address.ip().is_loopback() || self.allow_plaintext || self.speaks_tls(address) {
            return Ok(());
        }
        Err(format!(
            "{address} can be reached from other machines, and this manager was told to speak plain HTTP: credentials would \
             travel in the clear. Leave TLS on, or put a TLS terminating proxy in front and say so with allow-plaintext, \
             or listen on 127.0.0.1"
        ))
    }

    /// Values that make no sense, alone or together, in words for an operator.
    pub(crate) fn nonsense(&self) -> Vec<String> {
        let of_keys = |suite: &Suite| matches!(suite, Suite::Halo2Pasta | Suite::Groth16Bn254);
        let rules = [
            (
                self.suites.is_empty() || !self.suites.iter().all(of_keys),
                "suites: name at least one of halo2-pasta and groth16-bn254, and nothing else",
            ),
            (
                self.challenge_ttl == 0 || self.record_ttl <= self.challenge_ttl || self.record_ttl > MAX_RECORD_TTL,
                "record-ttl must be greater than challenge-ttl, at most 24 hours, and neither zero",
            ),
            (self.tls.certificate.is_some() != self.tls.key.is_some(), "tls: give certificate and key, or neither"),
            (self.token_ttl == 0 || self.status_ttl == 0, "token-ttl and status-ttl must not be zero"),
            (self.verify_threads == 0 || self.verify_queue == 0, "verify-threads and verify-queue must not be zero"),
        ];
        let rules = rules.into_iter().filter(|(broken, _)| *broken).map(|(_, why)| why.to_owned());
        let rules = rules.chain(self.fraud.check().err()).chain(self.webhooks.check().err());
        rules.chain(self.evidence.nonsense()).collect()
    }

    /// The part of this configuration that deterministic rules read.
    ///
    /// # Errors
    /// [`StartError::Refused`] for values that make no sense together, and for a suite whose parameters are
    /// not loaded.
    pub fn configuration(&self, parameters: &Parameters) -> Result<Configuration, StartError> {
        let nonsense = self.nonsense();
        if !nonsense.is_empty() {
            return Err(StartError::Refused(nonsense.join("; ")));
        }
        let mut suites = self.suites.clone();
        suites.sort_unstable();
        suites.dedup();
        let mut loaded = [parameters.groth16(), parameters.groth16_many()].into_iter().flatten();
        if suites.contains(&Suite::Groth16Bn254)
            && !self.pinned_parameters.is_empty()
            && let Some(groth16) = loaded.find(|groth16| !self.pinned_parameters.contains(&groth16.digest()))
        {
            return Err(StartError::Refused(format!(
                "Groth16 parameters were loaded that are not pinned: their digest is {}; pin them too, or give the right \
                 files with --groth16-parameters and --groth16-many-parameters",
                groth16.digest()
            )));
        }
        Ok(Configuration {
            audience: self.audience(),
            statements: statements(&suites, parameters)?,
            groth16_parameters: suites
                .contains(&Suite::Groth16Bn254)
                .then(|| parameters.groth16().ok().map(|groth16| groth16.digest()))
                .flatten(),
            suites,
            record_ttl: self.record_ttl,
            challenge_ttl: self.challenge_ttl,
            fraud: self.fraud.clone(),
            // Every HSM attests at least once while its record lasts, and so at least once in a round.
            beacon_period: self.record_ttl,
        })
    }
}

/// What is wrong with the texts of a list, in words for an operator, each with the position of its text from 0.
pub type WrongTexts = Vec<(usize, String)>;

/// Whether Groth16 parameters are loaded, for one key or for many, that one party made.
pub fn development_parameters(parameters: &Parameters) -> bool {
    let mut loaded = [parameters.groth16(), parameters.groth16_many()].into_iter().flatten();
    loaded.any(|groth16| groth16.origin() == Origin::Development)
}

/// Every kind that attests some key under these suites, alone or with others, with its verifying key.
fn statements(suites: &[Suite], parameters: &Parameters) -> Result<Vec<StatementInfo>, StartError> {
    use keywitness_circuits::{KeyAlgorithm, KeyAttributes, KeyOrigin, TokenAttributes};
    let of = |algorithm, origin, token| {
        KeyAttributes { token, ..KeyAttributes::new(algorithm, origin, false) }.kinds(suites)
    };
    let needed = |kind: &Kind| {
        KeyAlgorithm::ALL.into_iter().any(|algorithm| {
            let places = [
                (KeyOrigin::Generated, None),
                (KeyOrigin::Derived, None),
                (KeyOrigin::Generated, Some(TokenAttributes::default())),
            ];
            places.into_iter().any(|(origin, token)| of(algorithm, origin, token).contains(kind))
        })
    };
    let kinds = Kind::ALL.into_iter().filter(|kind| needed(&kind.single()));
    kinds
        .filter_map(|kind| match registry::verifying_key(parameters, kind) {
            Ok(verifying_key) => Some(Ok(StatementInfo { kind, verifying_key })),
            // What it would attest is attested one key at a time.
            Err(Error::MissingParameters(_)) if kind != kind.single() => None,
            Err(error) => Some(Err(StartError::Refused(format!("statement {kind} cannot be checked here: {error}")))),
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keywitness_verifier::wire::Rule;

    use super::*;
    use crate::ledger::fraud::policy::RuleChange;

    fn config() -> Config {
        Config::new("/nowhere", "acme.example".parse().unwrap(), "m1".parse().unwrap())
    }

    #[test]
    fn beyond_loopback_plain_http_is_refused_in_words() {
        let (open, local) = ("0.0.0.0:8443".parse().unwrap(), "127.0.0.1:8443".parse().unwrap());
        let parameters = Parameters::transparent();
        config().check_bind(local, &parameters).unwrap();
        config().check_bind("[::1]:1".parse().unwrap(), &parameters).unwrap();
        config().check_bind(open, &parameters).unwrap();
        assert!(config().speaks_tls(open) && !config().speaks_tls(local));
        let off = Config { tls: TlsConfig { mode: TlsMode::Off, ..TlsConfig::default() }, ..config() };
        let refusal = off.check_bind(open, &parameters).unwrap_err().to_string();
        assert!(refusal.contains("TLS terminating proxy") && refusal.contains("allow-plaintext"), "{refusal}");
        Config { allow_plaintext: true, ..off }.check_bind(open, &parameters).unwrap();
        let proxied = Config { allow_plaintext: true, ..config() };
        assert!(!proxied.speaks_tls(open));
        assert!(
            Config { tls: TlsConfig { mode: TlsMode::Always, ..TlsConfig::default() }, ..proxied }.speaks_tls(local)
        );
    }

    #[test]
    fn beyond_loopback_development_parameters_are_refused_in_words() {
        let groth16 = keywitness_circuits::params::Groth16Parameters::develop().unwrap();
        let parameters = Parameters::transparent().with_groth16(groth16);
        let (open, local) = ("192.0.2.1:8443".parse().unwrap(), "127.0.0.1:8443".parse().unwrap());
        let plain = Config { allow_plaintext: true, ..config() };
        plain.check_bind(local, &parameters).unwrap();
        let refusal = plain.check_bind(open, &parameters).unwrap_err().to_string();
        let digest = parameters.groth16().unwrap().digest();
        let pin = "--pin-parameters DIGEST";
        for word in [
            "made by one party",
            "could forge proofs",
            "ceremony",
            "allow-development-parameters",
            pin,
            &digest.to_string(),
        ] {
            assert!(refusal.contains(word), "{refusal}");
        }
        Config { pinned_parameters: vec![digest], ..plain.clone() }.check_bind(open, &parameters).unwrap();
        let other = Config { pinned_parameters: vec![Digest([1; 32])], ..plain.clone() };
        other.check_bind(open, &parameters).unwrap_err();
        // Parameters that no statement uses forge nothing.
        let halo2 = Config { suites: vec![Suite::Halo2Pasta], ..plain.clone() };
        halo2.check_bind(open, &parameters).unwrap();
        assert_eq!(halo2.configuration(&parameters).unwrap().groth16_parameters, None);
        assert_eq!(plain.configuration(&parameters).unwrap().groth16_parameters, Some(digest));
        // A pin holds on loopback too: a proxy may stand in front.
        let mispinned = Config { pinned_parameters: vec![Digest([1; 32])], ..plain.clone() };
        assert!(mispinned.configuration(&parameters).is_err_and(|error| error.to_string().contains("not pinned")));
        Config { allow_development_parameters: true, ..plain }.check_bind(open, &parameters).unwrap();
    }

    #[test]
    fn nonsense_is_refused() {
        let parameters = Parameters::transparent();
        let halo2 = Config { suites: vec![Suite::Halo2Pasta, Suite::Halo2Pasta], ..config() };
        let configuration = halo2.configuration(&parameters).unwrap();
        assert_eq!(configuration.suites, [Suite::Halo2Pasta]);
        assert_eq!(configuration.statements.len(), 12);
        let offered = |kind| configuration.verifying_key(kind).is_some();
        assert!(offered(Kind::ManyKeysHalo2) && !offered(Kind::ManyKeysGroth16));
        let no_failure = RuleChange { threshold: Some(0), ..RuleChange::default() };
        for wrong in [
            Config { suites: vec![], ..halo2.clone() },
            Config { suites: vec![Suite::PublicKey], ..halo2.clone() },
            Config { suites: vec![Suite::Halo2Pasta, Suite::Halo2PastaTag], ..halo2.clone() },
            Config { suites: vec![Suite::Groth16Bn254], ..halo2.clone() },
            Config { record_ttl: 60, challenge_ttl: 60, ..halo2.clone() },
            Config { record_ttl: MAX_RECORD_TTL + 1, ..halo2.clone() },
            Config { token_ttl: 0, ..halo2.clone() },
            Config { verify_threads: 0, ..halo2.clone() },
            Config { verify_queue: 0, ..halo2.clone() },
            Config { fraud: halo2.fraud.clone().with(Rule::RepeatedFailures, no_failure), ..halo2 },
        ] {
            assert!(matches!(wrong.configuration(&parameters), Err(StartError::Refused(_))));
        }
    }
}
