//! Time, and the wish to stop.

use std::{
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use keywitness_circuits::Timestamp;
use keywitness_verifier::{identity::MAX_SKEW, wire::MAX_RECORD_TTL};

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// This moment.
    fn now(&self) -> Timestamp;

    /// This moment by a clock that nobody sets, for measuring how long something is ago.
    fn steady(&self) -> Timestamp {
        self.now()
    }
}

impl<F: Fn() -> Timestamp + Send + Sync> Clock for F {
    fn now(&self) -> Timestamp {
        self()
    }
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs()))
    }

    /// What the clock said when this process first asked, and the time since then, also while the machine slept.
    fn steady(&self) -> Timestamp {
        static BEGUN: OnceLock<(Timestamp, u64)> = OnceLock::new();
        let (begun, then) = BEGUN.get_or_init(|| (self.now(), since_boot()));
        begun.plus(since_boot().saturating_sub(*then))
    }
}

/// Seconds since the machine was booted.
fn since_boot() -> u64 {
    u64::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec).unwrap_or_default()
}

/// Whether a claim from one moment to another is about `now`; clocks may differ a little.
///
/// # Errors
/// Why not.
pub(crate) fn is_about_now(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> Result<(), &'static str> {
    if not_before > now.plus(MAX_SKEW) {
        return Err("the claim would begin in the future");
    }
    if not_after <= now || not_after <= not_before {
        return Err("the claim would be over already");
    }
    if not_after.since(not_before) > MAX_RECORD_TTL {
        return Err("the claim would last longer than a day");
    }
    Ok(())
}

/// A flag that ends waiting at once. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// A flag that is down.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag, for good.
    pub fn stop(&self) {
        let (flag, raised) = &*self.0;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        raised.notify_all();
    }

    /// Whether the flag is raised.
    pub fn is_stopped(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the flag is raised or `time` has passed; says whether the flag is raised.
    pub fn wait(&self, time: Duration) -> bool {
        let (flag, raised) = &*self.0;
        let until = Instant::now() + time;
        let mut stopped = flag.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stopped {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
            stopped = raised.wait_timeout(stopped, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopping_ends_a_wait() {
        let stop = Stop::new();
        assert!(!stop.wait(Duration::from_millis(1)));
        let other = stop.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        stop.stop();
        assert!(waiter.join().is_ok_and(|stopped| stopped));
        assert!(stop.is_stopped());
    }
}
