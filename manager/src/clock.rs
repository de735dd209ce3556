//! Where time comes from: injected, so that every rule can be tested at any hour.

use std::time::{SystemTime, UNIX_EPOCH};

use keywitness_circuits::Timestamp;

/// A source of time.
pub trait Clock: Send + Sync {
    /// Now, in seconds since the Unix epoch. May go backwards: the ledger holds its own time monotone.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}
