//! What leaves by itself: events, most of all alerts, to receivers that the configuration names.
//!
//! Events are kept in the ledger, in order, and so is up to where each receiver was told
//! ([`crate::ledger::Command::AdvanceWebhook`]): nothing is lost by a crash or with an old backup, and the log shows an
//! auditor who was told what, and when. What was delivered but not yet noted is sent again, under the same name. Attempts are not noted:
//! a receiver that is away for a week costs no entry.

mod config;
mod endpoint;
#[cfg(test)]
mod receiver;
#[cfg(test)]
mod tests;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use keywitness_circuits::Timestamp;
use rand::Rng;

pub use config::{Address, Patience, WebhookConfig, WebhooksConfig};
pub(crate) use endpoint::{Endpoint, Message, Refusal};

use crate::{StartError, ledger::state::webhook::WebhookRow};

/// How it goes with one receiver, since the manager started.
#[derive(Clone, Default, Debug)]
pub(crate) struct Progress {
    /// How often the webhook had been placed, and up to where everything was delivered since, or is not for it.
    pub(crate) seen: Option<(u32, u64)>,
    /// Whether something was delivered that the ledger does not know of.
    pub(crate) unnoted: bool,
    /// How many attempts in a row have failed.
    pub(crate) failures: u32,
    /// When the first of them was.
    pub(crate) failing_since: Option<Timestamp>,
    /// Why the last of them failed.
    pub(crate) error: Option<String>,
    /// When the event happened that waits.
    pub(crate) waiting_since: Option<Timestamp>,
    /// Before then, nothing is tried.
    pub(crate) next: Option<Instant>,
}

impl Progress {
    /// Up to where everything was delivered, or is not for the webhook.
    pub(crate) fn position(&self, row: WebhookRow) -> u64 {
        let (placed, through) = self.seen.unwrap_or_default();
        if placed == row.placed { through.max(row.through) } else { row.through }
    }
}

/// One webhook.
pub(crate) struct Sink {
    pub(crate) config: WebhookConfig,
    pub(crate) endpoint: Endpoint,
    progress: Mutex<Progress>,
    /// Held while a test is under way.
    pub(crate) testing: Mutex<()>,
    patience: Patience,
}

impl Sink {
    fn open(config: &WebhookConfig, patience: Patience) -> Result<Self, StartError> {
        let endpoint = Endpoint::open(config, patience)?;
        let (progress, testing) = (Mutex::default(), Mutex::default());
        Ok(Self { config: config.clone(), endpoint, progress, testing, patience })
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the latest failure is too recent to try again.
    pub(crate) fn waits(&self) -> bool {
        self.progress().next.is_some_and(|next| Instant::now() < next)
    }

    /// A message of an event of this time was not taken, at `now`.
    pub(crate) fn failed(&self, refusal: &Refusal, event: Timestamp, now: Timestamp) {
        let mut progress = self.progress();
        progress.failures = progress.failures.saturating_add(1);
        if progress.failures.is_power_of_two() {
            let (webhook, why, failures) = (&self.config.name, &refusal.why, progress.failures);
            tracing::warn!(webhook, why, failures, "a webhook's receiver was not told; it is tried again");
        }
        progress.failing_since.get_or_insert(now);
        progress.waiting_since = Some(event);
        progress.error = Some(refusal.why.clone());
        let pause = pause(self.patience, progress.failures).max(refusal.wait.unwrap_or_default());
        progress.next = Some(Instant::now() + pause);
    }

    /// A message was taken.
    pub(crate) fn succeeded(&self) {
        let mut progress = self.progress();
        if progress.failures > 0 {
            tracing::info!(webhook = self.config.name, failures = progress.failures, "a webhook's receiver is back");
        }
        *progress = Progress { seen: progress.seen, unnoted: true, ..Progress::default() };
    }
}

/// How long to wait after so many failures: twice as long each time up to the most, and of that a random part between one
/// and two halves, so that many managers do not come back at once.
fn pause(patience: Patience, failures: u32) -> Duration {
    let doubled = patience.first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(patience.most).mul_f64(rand::thread_rng().gen_range(0.5..=1.0))
}

/// Every webhook.
pub(crate) struct Outbox {
    pub(crate) sinks: Vec<Sink>,
}

impl Outbox {
    /// Reads the files that webhooks name.
    ///
    /// # Errors
    /// [`StartError`]
    pub(crate) fn open(config: &WebhooksConfig) -> Result<Self, StartError> {
        let sinks = config.webhooks.iter().map(|webhook| Sink::open(webhook, config.patience));
        Ok(Self { sinks: sinks.collect::<Result<_, _>>()? })
    }

    pub(crate) fn sink(&self, name: &str) -> Option<&Sink> {
        self.sinks.iter().find(|sink| sink.config.name == name)
    }
}
