//! Where time comes from: injected, so that every rule can be tested at any hour.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use keywitness_circuits::Timestamp;

/// A source of time.
pub trait Clock: Send + Sync {
    /// Now, in seconds since the Unix epoch. May go backwards: the ledger holds its own time monotone.
    fn now(&self) -> Timestamp;

    /// What is wrong with it, in words for an operator; none while nothing is.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// The machine's clock, whatever it says.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(wall().as_secs())
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Time since the machine was booted, also while it slept: nobody can set it.
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// How far the clock may step without being asked.
const STEP: Duration = Duration::from_secs(10);

/// How long a clock must stay where it stepped to before it is believed.
const CONFIRMED_AFTER: Duration = Duration::from_secs(60 * 60);

/// The machine's clock, as far as the time since boot bears it out.
///
/// The ledger's time never goes back, so one step of the clock into a far future would end every challenge, record and
/// credential, for good. A step of more than ten seconds, forth or back, is therefore not followed: time goes on at the
/// pace of the clock since boot, and the clock is in trouble, until it comes back, has stayed where it is for an hour, or
/// the manager is started again, which believes the clock.
#[derive(Debug)]
pub struct SteadyClock(Mutex<Judge>);

impl Default for SteadyClock {
    fn default() -> Self {
        Self(Mutex::new(Judge::new(wall(), since_boot())))
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let mut judge = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Timestamp(judge.read(wall(), since_boot()).as_secs())
    }

    fn trouble(&self) -> Option<String> {
        let mut judge = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, steady) = (wall(), since_boot());
        let held = judge.read(wall, steady);
        judge.stepped.is_some().then(|| {
            format!(
                "the machine's clock stepped from {} to {}, and the manager does not follow: set the clock right, or restart \
                 the manager if it is right now",
                held.as_secs(),
                wall.as_secs()
            )
        })
    }
}

/// Compares a clock that can be set with one that cannot.
#[derive(Debug)]
struct Judge {
    /// A reading of both that is believed.
    anchor: (Duration, Duration),
    /// A reading of both just after a step that is not believed yet.
    stepped: Option<(Duration, Duration)>,
}

/// What a clock should say at `steady` if it has not stepped since a reading.
fn expected((wall, then): (Duration, Duration), steady: Duration) -> Duration {
    wall + steady.saturating_sub(then)
}

impl Judge {
    const fn new(wall: Duration, steady: Duration) -> Self {
        Self { anchor: (wall, steady), stepped: None }
    }

    /// The time to go by.
    fn read(&mut self, wall: Duration, steady: Duration) -> Duration {
        let here = expected(self.anchor, steady);
        if wall.abs_diff(here) <= STEP {
            self.stepped = None;
            return wall;
        }
        match self.stepped {
            Some(step) if wall.abs_diff(expected(step, steady)) <= STEP => {
                if steady.saturating_sub(step.1) >= CONFIRMED_AFTER {
                    tracing::warn!(from = here.as_secs(), to = wall.as_secs(), "the clock is believed again");
                    *self = Self::new(wall, steady);
                    return wall;
                }
            }
            _ => {
                tracing::error!(from = here.as_secs(), to = wall.as_secs(), "the clock stepped, and is not followed");
                self.stepped = Some((wall, steady));
            }
        }
        here
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_700_000_000;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn judge() -> Judge {
        Judge::new(seconds(NOON), seconds(500))
    }

    #[test]
    fn a_clock_that_keeps_time_is_believed() {
        let mut judge = judge();
        for passed in [0, 1, 60, 1_000_000] {
            for wall in [NOON + passed, NOON + passed + 9, NOON + passed - 9] {
                assert_eq!(judge.read(seconds(wall), seconds(500 + passed)), seconds(wall));
                assert!(judge.stepped.is_none());
            }
        }
    }

    #[test]
    fn steps_back_and_forth_are_not_followed_and_a_return_is() {
        let year = 365 * 24 * 60 * 60;
        let mut judge = judge();
        for (passed, wall) in [(10, NOON + year), (20, NOON - year), (30, NOON + 2 * year), (40, NOON + 60)] {
            assert_eq!(judge.read(seconds(wall), seconds(500 + passed)), seconds(NOON + passed));
            assert!(judge.stepped.is_some());
        }
        assert_eq!(judge.read(seconds(NOON + 51), seconds(550)), seconds(NOON + 51));
        assert!(judge.stepped.is_none());
    }

    #[test]
    fn many_small_steps_come_no_further_than_one() {
        let mut judge = judge();
        let mut wall = NOON;
        let mut furthest = 0;
        for passed in 0..1000 {
            wall += 6;
            furthest = furthest.max(judge.read(seconds(wall), seconds(500 + passed)).as_secs() - passed);
        }
        assert!(furthest <= NOON + STEP.as_secs());
    }

    #[test]
    fn what_the_clock_says_for_an_hour_is_believed() {
        let mut judge = judge();
        let later = |passed| seconds(NOON + 100_000 + passed);
        assert_eq!(judge.read(later(1), seconds(501)), seconds(NOON + 1));
        assert_eq!(judge.read(later(3_600), seconds(500 + 3_600)), seconds(NOON + 3_600));
        assert_eq!(judge.read(later(3_601), seconds(500 + 3_601)), later(3_601));
        assert!(judge.stepped.is_none());
        // A clock that wanders about meanwhile is not.
        assert_eq!(judge.read(later(200_000), seconds(500 + 3_602)), later(3_602));
        assert_eq!(judge.read(later(400_000), seconds(500 + 7_203)), later(7_203));
        assert!(judge.stepped.is_some());
    }

    #[test]
    fn the_machines_clock_is_in_no_trouble() {
        let clock = SteadyClock::default();
        assert!(clock.now().0.abs_diff(SystemClock.now().0) <= 1);
        assert_eq!(clock.trouble(), None);
    }
}
