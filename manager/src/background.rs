//! Threads beside the requests: each does one thing again and again until it is stopped.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use keywitness_circuits::Timestamp;

use crate::{Manager, service::warming::Warming};

/// How often the manager looks whether something is due.
const PERIOD: Duration = Duration::from_secs(1);

/// How often it looks whether the log wants a seal of the state, or openings are old enough to be deleted.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// How often it looks whether somebody is to be told of something, and how many pages of events it goes through then.
const OUTBOX_PERIOD: Duration = Duration::from_millis(500);
const ROUNDS: usize = 20;

/// How far the clock and the time that passed may differ from one look to the next before the clock was set, or the machine
/// slept: in seconds.
const STEP: u64 = 60;

/// Stops threads: at once when asked, even while they wait.
#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    told: Condvar,
}

impl Stop {
    fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }

    /// Waits; whether it was stopped meanwhile.
    fn wait(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.told.wait_timeout_while(stopped, time, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Owns threads. Dropping it stops them, and waits for what they are doing.
#[derive(Default)]
pub struct Background {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    /// Starts a thread that calls `task` every `period`, until it is stopped or `task` says that it is done, with `false`.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(
        &mut self,
        name: &str,
        period: Duration,
        mut task: impl FnMut() -> bool + Send + 'static,
    ) -> io::Result<()> {
        let stop = Arc::clone(&self.stop);
        let run = move || while !stop.wait(period) && task() {};
        self.threads.push(thread::Builder::new().name(name.to_owned()).spawn(run)?);
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a background thread panicked");
            }
        }
    }
}

/// Since when HSMs could be heard without a break: a start, a sleep of the machine, and a clock that is set begin anew.
struct Uptime {
    since: Timestamp,
    last: (Timestamp, Instant),
}

impl Uptime {
    const fn new(now: Timestamp, instant: Instant) -> Self {
        Self { since: now, last: (now, instant) }
    }

    fn look(&mut self, now: Timestamp, instant: Instant) -> Timestamp {
        let (before, then) = self.last;
        let passed = instant.saturating_duration_since(then).as_secs();
        if now < before || now.since(before).abs_diff(passed) > STEP || passed > STEP {
            self.since = now;
        }
        self.last = (now, instant);
        self.since
    }
}

impl Manager {
    /// Starts what the manager does beside requests: it looks at what is due, and writes nothing where nothing is;
    /// it seals the state, deletes the openings of the log that are old enough, and tells webhooks' receivers of what happened.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn background(self: &Arc<Self>) -> io::Result<Background> {
        let mut background = Background::default();
        let manager: Weak<Self> = Arc::downgrade(self);
        let mut uptime = Uptime::new(self.clock().now(), Instant::now());
        // Pages may be half full.
        let (warmed, mut warming) = (Weak::clone(&manager), Warming::new(self.config().store_cache / 2));
        background.spawn("keywitness-warm", Duration::ZERO, move || {
            let Some(manager) = warmed.upgrade() else { return false };
            manager.read_ahead(&mut warming)
        })?;
        let ticked = Weak::clone(&manager);
        background.spawn("keywitness-tick", PERIOD, move || {
            let Some(manager) = ticked.upgrade() else { return false };
            let since = uptime.look(manager.clock().now(), Instant::now());
            if let Err(problem) = manager.tick(since) {
                tracing::warn!(%problem, "what is due was not looked at");
            }
            true
        })?;
        background.spawn("keywitness-log", LOG_PERIOD, move || {
            let Some(manager) = manager.upgrade() else { return false };
            if let Err(problem) = manager.keep_log() {
                tracing::warn!(%problem, "the state was not sealed, or openings were not deleted");
            }
            true
        })?;
        for (position, sink) in self.outbox().sinks.iter().enumerate() {
            let manager = Arc::downgrade(self);
            let name = format!("keywitness-to-{}", sink.config.name);
            background.spawn(&name, OUTBOX_PERIOD, move || {
                let Some(manager) = manager.upgrade() else { return false };
                manager.deliver_rounds(position);
                true
            })?;
        }
        Ok(background)
    }

    /// Delivers to one webhook until nothing is left, something is refused, or a stop may be waiting.
    fn deliver_rounds(&self, position: usize) {
        let Some(sink) = self.outbox().sinks.get(position) else { return };
        for _ in 0..ROUNDS {
            match self.deliver(sink) {
                Ok(true) => {}
                Ok(false) => return,
                Err(problem) => {
                    tracing::warn!(webhook = sink.config.name, %problem, "what was delivered was not noted");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_start_a_sleep_and_a_clock_that_is_set_begin_anew() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut uptime = Uptime::new(Timestamp(1000), begin);
        assert_eq!(uptime.look(Timestamp(1001), at(1)), Timestamp(1000));
        assert_eq!(uptime.look(Timestamp(1030), at(30)), Timestamp(1000));
        // Forward, back, and asleep.
        assert_eq!(uptime.look(Timestamp(5000), at(31)), Timestamp(5000));
        assert_eq!(uptime.look(Timestamp(5001), at(32)), Timestamp(5000));
        assert_eq!(uptime.look(Timestamp(1033), at(33)), Timestamp(1033));
        assert_eq!(uptime.look(Timestamp(9000), at(8000)), Timestamp(9000));
    }

    #[test]
    fn threads_run_until_they_are_done_or_stopped_and_are_waited_for() {
        let (runs, once) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let mut background = Background::default();
        let counter = Arc::clone(&runs);
        background
            .spawn("runs", Duration::from_millis(1), move || counter.fetch_add(1, Ordering::SeqCst) < u32::MAX)
            .unwrap();
        let counter = Arc::clone(&once);
        background
            .spawn("once", Duration::ZERO, move || {
                counter.fetch_add(1, Ordering::SeqCst);
                false
            })
            .unwrap();
        background.spawn("far", Duration::from_secs(3600), || true).unwrap();
        while runs.load(Ordering::SeqCst) < 3 || once.load(Ordering::SeqCst) < 1 {
            thread::yield_now();
        }
        drop(background);
        assert_eq!((Arc::strong_count(&runs), once.load(Ordering::SeqCst)), (1, 1));
    }
}
