//! Use cases: what callers may ask, over a ledger, a clock and parameters. Knows neither HTTP nor the store.
//!
//! Who may call what is decided by [`access`]; every change goes through the ledger.

pub mod access;
mod attest;
mod backup;
mod batch;
mod bundle;
mod challenge;
mod cluster;
mod credential;
mod enrol;
mod evidence;
mod fraud;
mod health;
pub(crate) mod log;
mod revoke;
mod sharing;
mod status;
mod status_list;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
mod token;
pub(crate) mod token_key;
pub(crate) mod warming;
mod webhook;

pub(crate) use evidence::{claim, residence, vector};
pub(crate) use sharing::verdict_of_complaint;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use keywitness_circuits::{Parameters, Timestamp};
use keywitness_verifier::{
    engine::Engine,
    identity::Audience,
    wire::{Problem, ProblemKind, TrustDomainInfo, VerificationStatus},
};

use crate::{
    clock::Clock,
    config::{Config, OPERATOR_CREDENTIAL, development_parameters},
    ledger::{Command, Configuration, Fault, Ledger, Outcome, state::State},
    limits::Limits,
    metrics::Metrics,
    outbox::Outbox,
    places::Places,
    signer::Signer,
    tls::Authority,
};

/// A manager.
pub struct Manager {
    config: Config,
    configuration: Configuration,
    parameters: Parameters,
    engine: Engine,
    ledger: Box<dyn Ledger>,
    clock: Arc<dyn Clock>,
    signer: Box<dyn Signer>,
    status_lists: status_list::StatusLists,
    log: log::TransparencyLog,
    unauthenticated: AtomicU64,
    /// Batches of envelopes that are being judged.
    batches: Places,
    /// Bundles that are being made.
    bundling: Places,
    backing_up: Mutex<()>,
    metrics: Arc<Metrics>,
    draining: AtomicBool,
    /// Whether the signer answered when it was last asked for that alone.
    signing: Mutex<Option<(Instant, bool)>>,
    newest_keys: cluster::NewestKeys,
    limits: Limits,
    authority: Arc<Authority>,
    outbox: Outbox,
}

impl From<Fault> for Problem {
    /// Tells the caller no more than whether to come back; the log has the rest.
    fn from(fault: Fault) -> Self {
        match &fault {
            Fault::Busy | Fault::Stopped | Fault::Recovering => {
                Self::new(ProblemKind::Unavailable, format!("{fault}; try again shortly"))
            }
            Fault::Storage(_) | Fault::Unsettled(_) => {
                tracing::error!(%fault, "the store failed");
                let why = "the store failed, and the change may or may not have been made; send the same again shortly";
                Self::new(ProblemKind::Unavailable, why)
            }
            Fault::Corrupt { .. } | Fault::NewerSchema { .. } => {
                tracing::error!(%fault, "the ledger failed");
                Self::new(ProblemKind::Internal, "the manager's log has the reason")
            }
        }
    }
}

impl Manager {
    pub(crate) fn new(
        config: Config,
        configuration: Configuration,
        (parameters, engine): (Parameters, Engine),
        ledger: Box<dyn Ledger>,
        clock: Arc<dyn Clock>,
        (signer, log, metrics): (Box<dyn Signer>, log::TransparencyLog, Arc<Metrics>),
        (authority, outbox): (Arc<Authority>, Outbox),
    ) -> Self {
        let limits = Limits::new(config.limits);
        Self {
            config,
            configuration,
            parameters,
            engine,
            ledger,
            clock,
            signer,
            log,
            status_lists: status_list::StatusLists::default(),
            unauthenticated: AtomicU64::new(0),
            batches: Places::new(batch::BATCHES),
            bundling: Places::new(bundle::AT_ONCE),
            backing_up: Mutex::new(()),
            metrics,
            draining: AtomicBool::new(false),
            signing: Mutex::default(),
            newest_keys: cluster::NewestKeys::default(),
            limits,
            authority,
            outbox,
        }
    }

    /// The configuration that this manager was opened with.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The parameters that it checks proofs with.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Whom requests and claims must be for.
    pub const fn audience(&self) -> &Audience {
        &self.configuration.audience
    }

    /// Where the first operator credential was left.
    pub fn operator_credential_path(&self) -> PathBuf {
        self.config.data_dir.join(OPERATOR_CREDENTIAL)
    }

    /// What the trust domain asks for. Anyone may know.
    pub fn trust_domain(&self) -> TrustDomainInfo {
        let Configuration { audience, suites, statements, record_ttl, challenge_ttl, .. } = self.configuration.clone();
        TrustDomainInfo {
            trust_domain: audience.trust_domain,
            manager: audience.manager,
            suites,
            statements,
            record_ttl,
            challenge_ttl,
            development_parameters: development_parameters(&self.parameters),
        }
    }

    /// Whether changes can be made.
    pub fn alive(&self) -> bool {
        self.ledger.alive()
    }

    /// How the checking of proofs goes.
    pub fn verification(&self) -> VerificationStatus {
        let stats = self.engine.stats();
        VerificationStatus {
            queued: stats.queued as u64,
            batches: stats.batches,
            mean_batch: stats.mean_batch(),
            splits: stats.splits,
            busy: stats.busy,
            isolated: stats.isolated as u64,
        }
    }

    /// How often callers may ask.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The manager's own certificate authority.
    pub const fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Where time comes from.
    pub(crate) const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// How many messages were refused since the start because they could not be read or authenticated.
    /// They leave no other trace.
    pub fn unauthenticated(&self) -> u64 {
        self.unauthenticated.load(Ordering::Relaxed)
    }

    /// A refusal of something that proves nothing about any HSM: counted, and no more.
    fn reject(&self, kind: ProblemKind, detail: impl Into<String>) -> Problem {
        self.rejected(Problem::new(kind, detail))
    }

    fn rejected(&self, problem: Problem) -> Problem {
        self.unauthenticated.fetch_add(1, Ordering::Relaxed);
        problem
    }

    fn submit(&self, command: Command) -> Result<Outcome, Problem> {
        match self.ledger.submit(command)? {
            Outcome::Refused(problem) => Err(problem),
            outcome => Ok(outcome),
        }
    }

    /// The manager's time: its clock's, but never before the newest command.
    fn now(&self, state: State<'_>) -> Result<Timestamp, Problem> {
        Ok(self.clock.now().max(state.head()?.at))
    }
}

/// An outcome that its command never has.
fn unexpected(outcome: &Outcome) -> Problem {
    tracing::error!(?outcome, "a command came to an outcome of another command");
    Problem::new(ProblemKind::Internal, "the manager's log has the reason")
}
