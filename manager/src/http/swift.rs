//! Short work on the threads that serve connections.
//!
//! To hand a token's work to a blocking thread and back costs half as much as the work. So it is done where the request was
//! read, for as long as it is short there. When it once was not, as while the disk or the signer is slow, blocking threads do it
//! for a while: nobody else's request waits behind it.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use keywitness_verifier::wire::Problem;

use super::{auth::run_here, problem::Refusal};

/// Work that takes longer is not short.
const SHORT: Duration = Duration::from_millis(2);

/// After it was not, blocking threads have it for so long.
const REST: Duration = Duration::from_secs(1);

/// What one thread has seen of its work.
#[derive(Default)]
pub(super) struct Swift(Cell<Option<Instant>>);

impl Swift {
    /// Whether work may be done on this thread now.
    pub(super) fn is_swift(&self) -> bool {
        self.0.get().is_none_or(|until| Instant::now() >= until)
    }

    /// Does it.
    pub(super) fn run<T>(&self, work: impl FnOnce() -> Result<T, Problem>) -> Result<T, Refusal> {
        let started = Instant::now();
        let done = run_here(work);
        if started.elapsed() > SHORT {
            self.0.set(Some(Instant::now() + REST));
        }
        done
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    fn after_slow_work_others_do_it() {
        let swift = Swift::default();
        assert_eq!(swift.run(|| Ok(1)).unwrap(), 1);
        let slow = || {
            sleep(2 * SHORT);
            Ok(2)
        };
        assert_eq!(swift.run(slow).unwrap(), 2);
        assert!(!swift.is_swift());
        swift.0.set(Some(Instant::now()));
        assert!(swift.is_swift());
    }
}
