//! Measurements in Prometheus' text format.
//!
//! Every label has few values, all chosen by this program or its configuration: a route's template, never a path; a command's
//! or a problem's name; a webhook's; never the name of an HSM, a cluster or a key.

use std::{fs, time::Duration};

use keywitness_verifier::{
    engine::Stats,
    wire::{ProblemKind, WebhookHealth},
};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

use crate::ledger::{Observe, state::Head};

/// Media type of the measurements as text.
pub const TEXT: &str = prometheus::TEXT_FORMAT;

/// The methods that have a label of their own.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];

/// From a quarter of a millisecond to sixteen seconds.
const SECONDS: [f64; 9] = [0.000_25, 0.001, 0.004, 0.016, 0.064, 0.25, 1.0, 4.0, 16.0];

/// What is measured.
pub struct Metrics {
    registry: Registry,
    requests: HistogramVec,
    in_flight: IntGauge,
    problems: IntCounterVec,
    commands: IntCounterVec,
    commit_seconds: Histogram,
    commit_size: Histogram,
    commit_failures: IntCounter,
    commands_waiting: IntGauge,
    deliveries: IntCounterVec,
    scraped: Scraped,
}

/// What is read when it is asked for.
struct Scraped {
    events: IntGauge,
    fraud_events: IntGauge,
    log_size: IntGauge,
    proofs_waiting: IntGauge,
    proofs: IntCounter,
    batches: IntCounter,
    splits: IntCounter,
    busy: IntCounter,
    panics: IntCounter,
    isolated: IntGauge,
    unauthenticated: IntCounter,
    memory: IntGauge,
    ready: IntGauge,
    webhook_behind: IntGaugeVec,
    webhook_failures: IntGaugeVec,
    clock_held: IntGauge,
}

/// What a scrape reads of the manager.
pub(crate) struct Reading {
    pub(crate) head: Head,
    pub(crate) engine: Stats,
    pub(crate) unauthenticated: u64,
    pub(crate) ready: bool,
    pub(crate) webhooks: Vec<WebhookHealth>,
    pub(crate) clock_held: bool,
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
    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help))
    }
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }
    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }
}

impl Metrics {
    /// Everything at nought.
    ///
    /// # Errors
    /// Where a name is malformed or used twice: never, as every test knows that starts a manager.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let make = Maker(Registry::new());
        let seconds = HistogramOpts::new("keywitness_http_request_duration_seconds", "Answering a request.");
        let build = Opts::new("keywitness_build_info", "The program's version.");
        let build = make.add(IntGaugeVec::new(build, &["version"]))?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let sizes: Vec<f64> = (0..11).map(|power| f64::from(1 << power)).collect();
        Ok(Self {
            requests: make.add(HistogramVec::new(seconds.buckets(SECONDS.to_vec()), &["route", "method", "status"]))?,
            in_flight: make.gauge("keywitness_http_requests_in_flight", "Requests that are being answered.")?,
            problems: make.counters("keywitness_http_problems_total", "Refusals.", &["route", "problem"])?,
            commands: make.counters("keywitness_ledger_commands_total", "Commands.", &["command", "outcome"])?,
            commit_seconds: make.histogram(
                "keywitness_ledger_commit_duration_seconds",
                "Committing a group.",
                &SECONDS,
            )?,
            commit_size: make.histogram("keywitness_ledger_commit_commands", "Commands in a group.", &sizes)?,
            commit_failures: make.counter("keywitness_ledger_commit_failures_total", "Groups not acknowledged.")?,
            commands_waiting: make.gauge("keywitness_ledger_commands_waiting", "Commands that wait.")?,
            deliveries: make.counters(
                "keywitness_webhook_attempts_total",
                "Messages sent.",
                &["webhook", "outcome"],
            )?,
            scraped: Scraped {
                events: make.gauge("keywitness_events", "Events so far.")?,
                fraud_events: make.gauge("keywitness_fraud_events", "Fraud events so far.")?,
                log_size: make.gauge("keywitness_log_entries", "Entries of the log.")?,
                proofs_waiting: make.gauge("keywitness_verification_proofs_waiting", "Proofs that wait.")?,
                proofs: make.counter("keywitness_verification_proofs_total", "Proofs checked.")?,
                batches: make.counter("keywitness_verification_batches_total", "Sets checked.")?,
                splits: make.counter("keywitness_verification_splits_total", "Sets searched for a bad proof.")?,
                busy: make.counter("keywitness_verification_turned_away_total", "Proofs that found no room.")?,
                panics: make.counter("keywitness_verification_panics_total", "Panics that were caught.")?,
                isolated: make.gauge("keywitness_verification_isolated_hsms", "HSMs checked apart.")?,
                unauthenticated: make.counter("keywitness_unauthenticated_total", "Messages of nobody known.")?,
                memory: make.gauge("process_resident_memory_bytes", "Resident memory.")?,
                ready: make.gauge("keywitness_ready", "Whether every check of /readyz is passed.")?,
                webhook_behind: make.gauges(
                    "keywitness_webhook_behind_events",
                    "Events not yet told.",
                    &["webhook"],
                )?,
                webhook_failures: make.gauges(
                    "keywitness_webhook_failures",
                    "Latest failures in a row.",
                    &["webhook"],
                )?,
                clock_held: make
                    .gauge("keywitness_clock_held", "Whether the machine's clock stepped, and is not followed.")?,
            },
            registry: make.0,
        })
    }

    /// A request has come.
    pub(crate) fn began(&self) {
        self.in_flight.inc();
    }

    /// A request has been answered: on which route (its template), how, and after how long.
    pub(crate) fn answered(
        &self,
        route: &str,
        method: &str,
        status: u16,
        problem: Option<ProblemKind>,
        took: Duration,
    ) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.in_flight.dec();
        self.requests.with_label_values(&[route, method, class]).observe(took.as_secs_f64());
        if let Some(problem) = problem {
            self.problems.with_label_values(&[route, problem.slug()]).inc();
        }
    }

    /// A message was sent to a webhook, and taken or not.
    pub(crate) fn delivered(&self, webhook: &str, taken: bool) {
        self.deliveries.with_label_values(&[webhook, if taken { "delivered" } else { "failed" }]).inc();
    }

    /// Everything, as text.
    ///
    /// # Errors
    /// Where it cannot be encoded.
    pub(crate) fn text(&self, reading: &Reading) -> prometheus::Result<String> {
        let Reading { head, engine, unauthenticated, ready, clock_held, webhooks } = reading;
        let scraped = &self.scraped;
        let gauge = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&scraped.events, head.events);
        gauge(&scraped.fraud_events, head.alerts);
        gauge(&scraped.log_size, head.sequence);
        gauge(&scraped.proofs_waiting, engine.queued as u64);
        gauge(&scraped.isolated, engine.isolated as u64);
        gauge(&scraped.memory, resident_memory());
        gauge(&scraped.ready, u64::from(*ready));
        for webhook in webhooks {
            let name = [webhook.name.as_str()];
            gauge(&scraped.webhook_behind.with_label_values(&name), webhook.behind);
            gauge(&scraped.webhook_failures.with_label_values(&name), webhook.failures.into());
        }
        gauge(&scraped.clock_held, u64::from(*clock_held));
        // Two scrapes at once may both add: what is read never falls, and so the counter is only ever brought up to it.
        let counter = |counter: &IntCounter, value: u64| counter.inc_by(value.saturating_sub(counter.get()));
        counter(&scraped.proofs, engine.proofs);
        counter(&scraped.batches, engine.batches);
        counter(&scraped.splits, engine.splits);
        counter(&scraped.busy, engine.busy);
        counter(&scraped.panics, engine.panics);
        counter(&scraped.unauthenticated, *unauthenticated);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Observe for Metrics {
    fn queued(&self, change: i64) {
        self.commands_waiting.add(change);
    }

    fn committed(&self, group: &[(&'static str, bool)], took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
        self.commit_size.observe(group.len() as f64);
        for (command, done) in group {
            let outcome = if *done { "done" } else { "refused" };
            self.commands.with_label_values(&[*command, outcome]).inc();
        }
    }

    fn failed(&self, _commands: usize) {
        self.commit_failures.inc();
    }
}

/// This process's resident memory in bytes; 0 where it is not known. Linux has it in pages of 4 KiB (proc(5)).
fn resident_memory() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages.saturating_mul(4096))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_and_counters_never_fall() {
        let metrics = Metrics::new().unwrap();
        for method in ["GET", "BREW", "X-1", "X-2"] {
            metrics.began();
            metrics.answered("/v1/keys", method, 418, Some(ProblemKind::Malformed), Duration::from_millis(3));
        }
        metrics.committed(&[("revoke", true), ("revoke", false)], Duration::from_millis(1));
        let reading = |unauthenticated| Reading {
            head: Head::default(),
            engine: Stats { proofs: 7, ..Stats::default() },
            unauthenticated,
            ready: true,
            webhooks: Vec::new(),
            clock_held: false,
        };
        metrics.text(&reading(5)).unwrap();
        let text = metrics.text(&reading(4)).unwrap();
        for line in [
            "keywitness_http_request_duration_seconds_count{method=\"other\",route=\"/v1/keys\",status=\"4xx\"} 3",
            "keywitness_http_problems_total{problem=\"malformed\",route=\"/v1/keys\"} 4",
            "keywitness_http_requests_in_flight 0",
            "keywitness_ledger_commands_total{command=\"revoke\",outcome=\"refused\"} 1",
            "keywitness_ledger_commit_commands_sum 2",
            "keywitness_verification_proofs_total 7",
            "keywitness_unauthenticated_total 5",
            "keywitness_ready 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(resident_memory() > 1 << 20);
    }
}
