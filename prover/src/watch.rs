//! What can be measured of an agent, in Prometheus' text format, and whether it is well.
//!
//! Every label has few values, all chosen by this program: a statement, an outcome, a reason; never the name of a key or an HSM.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use keywitness_verifier::client::ClientError;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};

use crate::{
    agent::{Agent, AgentEvent, AttestError, Health, Observer},
    store::KeyStore,
};

/// Media type of the measurements as text.
pub const TEXT: &str = prometheus::TEXT_FORMAT;

/// From a tenth of a millisecond to fourteen minutes.
const SECONDS: [f64; 12] = [0.0001, 0.0004, 0.0016, 0.0064, 0.0256, 0.1, 0.4, 1.6, 6.4, 25.6, 102.4, 819.2];

/// What is measured of one agent.
pub struct Watch {
    registry: Registry,
    attempts: IntCounterVec,
    failures: IntCounterVec,
    proofs: HistogramVec,
    absences: IntCounter,
    reloads: IntCounterVec,
    scraped: Scraped,
    watched: Mutex<Option<Watched>>,
}

/// What is read when it is asked for.
struct Scraped {
    attestations: IntGaugeVec,
    failing: IntGauge,
    due: IntGauge,
    late: IntGauge,
    answers: IntGauge,
    restarts: IntCounter,
    memory: IntGauge,
    ready: IntGauge,
}

struct Watched {
    agent: Weak<Agent>,
    store: Arc<dyn KeyStore>,
}

/// Makes metrics and registers them.
struct Maker(Registry);

impl Maker {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> prometheus::Result<C> {
        let made = made?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }
    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }
    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help))
    }
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }
}

impl Watch {
    /// Everything at nought, of no agent yet.
    ///
    /// # Errors
    /// Where a name is malformed or used twice: never, as its test knows.
    pub fn new() -> prometheus::Result<Self> {
        let make = Maker(Registry::new());
        let build = make.gauges("keywitness_build_info", "The program's version.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let proofs = HistogramOpts::new("keywitness_agent_proof_duration_seconds", "Making a proof or a signature.");
        let watch = Self {
            attempts: make.counters(
                "keywitness_agent_attempts_total",
                "Attestations that were tried, of each key.",
                &["statement", "outcome"],
            )?,
            failures: make.counters("keywitness_agent_failures_total", "Why they failed.", &["reason"])?,
            proofs: make.add(HistogramVec::new(proofs.buckets(SECONDS.to_vec()), &["statement"]))?,
            absences: make.counter("keywitness_agent_manager_absences_total", "Times that the manager was looked for in vain.")?,
            reloads: make.counters("keywitness_agent_reloads_total", "Times that settings were read again.", &["outcome"])?,
            scraped: Scraped {
                attestations: make.gauges(
                    "keywitness_agent_attestations",
                    "Keys under each statement that they prove, by what they have: a record in force, an expired one, none yet.",
                    &["state"],
                )?,
                failing: make.gauge("keywitness_agent_failing", "Those of them whose last attempt failed.")?,
                due: make.gauge("keywitness_agent_due", "Those of them that are due.")?,
                late: make.gauge("keywitness_agent_late_seconds", "How long the one has been due that waits longest.")?,
                answers: make.gauge("keywitness_agent_manager_answers", "Whether the manager answers.")?,
                restarts: make.counter(
                    "keywitness_agent_proving_process_restarts_total",
                    "Times that the process with the keys was replaced.",
                )?,
                memory: make.gauge("process_resident_memory_bytes", "Resident memory of the agent's own process.")?,
                ready: make.gauge("keywitness_agent_ready", "Whether /readyz says so.")?,
            },
            watched: Mutex::default(),
            registry: make.0,
        };
        for outcome in ["applied", "refused"] {
            watch.reloads.with_label_values(&[outcome]);
        }
        Ok(watch)
    }

    /// From now on, tells of this agent and its store too.
    pub fn follow(&self, agent: &Arc<Agent>, store: Arc<dyn KeyStore>) {
        *self.watched() = Some(Watched { agent: Arc::downgrade(agent), store });
    }

    /// Counts what an agent tells, and passes it on.
    pub fn observer(self: &Arc<Self>, next: Observer) -> Observer {
        let watch = Arc::clone(self);
        Arc::new(move |event| {
            watch.count(event);
            next(event);
        })
    }

    /// Settings were read again, and are in force or refused.
    pub fn reloaded(&self, applied: bool) {
        self.reloads.with_label_values(&[if applied { "applied" } else { "refused" }]).inc();
    }

    fn count(&self, event: &AgentEvent<'_>) {
        match event {
            AgentEvent::Proven { kind, took, .. } => {
                self.proofs.with_label_values(&[kind.name()]).observe(took.as_secs_f64());
            }
            AgentEvent::Attested { record, .. } => {
                self.attempts.with_label_values(&[record.statement.single().name(), "attested"]).inc();
            }
            AgentEvent::Failed { kind, error, .. } => {
                self.attempts.with_label_values(&[kind.name(), "failed"]).inc();
                self.failures.with_label_values(&[reason(error)]).inc();
            }
            AgentEvent::ManagerAway { .. } => self.absences.inc(),
            _ => {}
        }
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, Option<Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> (Health, u64) {
        let watched = self.watched();
        let Some(Watched { agent, store }) = &*watched else { return Default::default() };
        (agent.upgrade().map(|agent| agent.health()).unwrap_or_default(), store.restarts())
    }

    /// What keeps the agent from being ready, in words for an operator; none where nothing does.
    pub fn trouble(&self) -> Option<String> {
        let (Health { tally, manager_answers, begun }, _) = self.health();
        if !begun {
            return Some("the manager has not answered yet".to_owned());
        }
        if !manager_answers {
            return Some("the manager does not answer".to_owned());
        }
        let lapsed = tally.expired + tally.unproven;
        (lapsed > 0).then(|| format!("{lapsed} of {} attestations are not in force", lapsed + tally.in_force))
    }

    /// Everything, as text.
    ///
    /// # Errors
    /// Where it cannot be encoded.
    pub fn text(&self) -> prometheus::Result<String> {
        let (Health { tally, manager_answers, .. }, restarts) = self.health();
        let (scraped, ready) = (&self.scraped, self.trouble().is_none());
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let count = |gauge: &IntGauge, value: usize| set(gauge, value as u64);
        for (state, value) in [("in-force", tally.in_force), ("expired", tally.expired), ("unproven", tally.unproven)] {
            count(&scraped.attestations.with_label_values(&[state]), value);
        }
        count(&scraped.failing, tally.failing);
        count(&scraped.due, tally.due);
        set(&scraped.late, tally.late);
        set(&scraped.answers, manager_answers.into());
        set(&scraped.ready, ready.into());
        set(&scraped.memory, resident_memory());
        scraped.restarts.inc_by(restarts.saturating_sub(scraped.restarts.get()));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// The word for what a failure comes from: the manager's own, or one of a few.
fn reason(error: &AttestError) -> &'static str {
    if let Some(problem) = error.problem() {
        return problem.slug();
    }
    match error {
        AttestError::Store(_) => "store",
        AttestError::Client(error) => client_reason(error),
        AttestError::Submission { error, .. } => client_reason(error),
        AttestError::ForeignVerifyingKey { .. } => "foreign-verifying-key",
        AttestError::NoInstance { .. } => "no-instance",
        AttestError::Challenge(_) => "challenge",
        AttestError::OwnProof(_) => "own-proof",
        AttestError::ForeignRecord(_) => "foreign-record",
    }
}

const fn client_reason(error: &ClientError) -> &'static str {
    match error {
        ClientError::Unreachable(..) => "unanswered",
        ClientError::Malformed(_) | ClientError::Problem(_) => "malformed-answer",
    }
}

/// This process's resident memory in bytes; 0 where it is not known. Linux has it in pages of 4 KiB (proc(5)).
fn resident_memory() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages.saturating_mul(4096))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        time::Duration,
    };

    use keywitness_circuits::Kind;
    use keywitness_verifier::wire::{KeyRef, Problem, ProblemKind};

    use super::*;
    use crate::testing::name;

    fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: hsm\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn what_an_agent_tells_is_counted_and_passed_on() {
        let watch = Arc::new(Watch::new().unwrap());
        let told = Arc::new(Mutex::new(0));
        let tell = Arc::clone(&told);
        let observer = watch.observer(Arc::new(move |_| *tell.lock().unwrap() += 1));
        let (key, kind) = (KeyRef { key: name("a-secret-name"), epoch: 1 }, Kind::KeyKnowledgeEd25519);
        observer(&AgentEvent::Proven { kind, keys: 1, took: Duration::from_millis(3) });
        for error in [
            ClientError::Problem(Problem::new(ProblemKind::KeyRevoked, "test")),
            ClientError::Unreachable("x".to_owned(), "y".to_owned()),
        ] {
            observer(&AgentEvent::Failed { key: &key, kind, error: &error.into(), retry_at: None });
        }
        watch.reloaded(false);
        let text = watch.text().unwrap();
        for line in [
            "keywitness_agent_attempts_total{outcome=\"failed\",statement=\"key-knowledge/ed25519-eddsa/1\"} 2",
            "keywitness_agent_failures_total{reason=\"key-revoked\"} 1",
            "keywitness_agent_failures_total{reason=\"unanswered\"} 1",
            "keywitness_agent_proof_duration_seconds_count{statement=\"key-knowledge/ed25519-eddsa/1\"} 1",
            "keywitness_agent_reloads_total{outcome=\"refused\"} 1",
            "keywitness_agent_reloads_total{outcome=\"applied\"} 0",
            "keywitness_agent_ready 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("a-secret-name") && *told.lock().unwrap() == 3);
    }

    #[test]
    fn who_asks_is_told_over_http() {
        let watch = Arc::new(Watch::new().unwrap());
        let server = crate::serve_watch(watch, TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let address = server.address();
        assert!(ask(address, "/healthz").starts_with("HTTP/1.1 200 "));
        let ready = ask(address, "/readyz");
        assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("has not answered yet"), "{ready}");
        let metrics = ask(address, "/metrics");
        assert!(
            metrics.starts_with("HTTP/1.1 200 ") && metrics.contains("keywitness_build_info{version="),
            "{metrics}"
        );
        assert!(ask(address, "/").starts_with("HTTP/1.1 404 "));
        server.stop().unwrap();
        assert!(TcpStream::connect(address).is_err());
    }
}
