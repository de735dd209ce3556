//! Whether a manager can do its work, and how it goes.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use keywitness_verifier::wire::{Check, Problem, ProblemKind, Readiness};

use super::{Manager, access::Caller};
use crate::{
    ledger::state::State,
    metrics::{Metrics, Reading},
};

/// By how many seconds the machine's clock may be behind the newest command's time.
const CLOCK_SLACK: u64 = 60;

/// How long the signer's answer says that it answers.
const SIGNER_ASKED: Duration = Duration::from_secs(2);

impl Manager {
    /// From now on the manager says that it is not ready: it is about to stop. Whatever is asked is still answered.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the manager can serve, and what keeps it from it. Anyone may know.
    pub fn readiness(&self) -> Readiness {
        let check = |name: &str, ok: bool, why: &str| {
            let detail = if ok { String::new() } else { why.to_owned() };
            Check { name: name.to_owned(), ok, detail }
        };
        let head = self.ledger.view().and_then(|rows| State(rows.as_ref()).head());
        let late = head.as_ref().is_ok_and(|head| self.clock.now().0.saturating_add(CLOCK_SLACK) < head.at.0);
        let late = check("clock", !late, "the machine's clock went back: it is behind the newest entry of the log");
        // A manager whose clock stepped goes on by the time since boot, and serves as before: no outage, but a word.
        let clock = match self.clock.trouble() {
            Some(detail) if late.ok => Check { detail, ..late },
            _ => late,
        };
        let checks = vec![
            check("running", !self.draining.load(Ordering::Acquire), "the manager is stopping"),
            check(
                "ledger",
                self.ledger.alive() && head.is_ok(),
                "no change can be written; look at the log and the disk",
            ),
            check(
                "verification",
                self.engine.stats().panics == 0,
                "checking a proof went wrong inside; restart the manager",
            ),
            check("signer", self.jwks().is_ok_and(|jwks| !jwks.keys.is_empty()), "no key signs tokens"),
            check(
                "log",
                !self.is_forked(),
                "the signer refuses a fork: this is older data than it signed; docs/storage.md, Restore, says what to do",
            ),
            check("signing", self.signer_answers(), "the signer does not answer; look at its log"),
            clock,
        ];
        Readiness { ready: checks.iter().all(|check| check.ok), checks }
    }

    /// Whether the signer answers. Anyone may ask for readiness: the signer is asked once in a while.
    fn signer_answers(&self) -> bool {
        let mut signing = self.signing.lock().unwrap_or_else(PoisonError::into_inner);
        match *signing {
            Some((asked, answers)) if asked.elapsed() < SIGNER_ASKED => answers,
            _ => {
                let answers = self.signer.keys().is_ok();
                *signing = Some((Instant::now(), answers));
                answers
            }
        }
    }

    /// What is measured as it happens.
    pub const fn metrics(&self) -> &std::sync::Arc<Metrics> {
        &self.metrics
    }

    /// Every measurement, as Prometheus reads it. For operators, viewers and auditors of every cluster.
    ///
    /// # Errors
    /// `forbidden` for a credential of some clusters only; else only where the ledger cannot be read.
    pub fn measurements(&self, caller: &Caller) -> Result<String, Problem> {
        caller.must_reach_everything()?;
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let reading = Reading {
            head: state.head()?,
            webhooks: self.webhook_health(state)?,
            engine: self.engine.stats(),
            unauthenticated: self.unauthenticated(),
            ready: self.readiness().ready,
            clock_held: self.clock.trouble().is_some(),
        };
        self.metrics.text(&reading).map_err(|error| {
            tracing::error!(%error, "measurements cannot be encoded");
            Problem::new(ProblemKind::Internal, "the manager's log has the reason")
        })
    }
}
