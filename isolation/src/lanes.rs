//! The caller's end: lanes to a worker, which outlive it.
//!
//! A worker serves all of its lanes or none. Where one breaks, all of that worker are dropped, and the next caller takes those of
//! the worker that the supervisor has started meanwhile.

use std::{
    io,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Child,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use zeroize::Zeroizing;

use crate::{
    frame,
    passing::{MAX_LANES, receive_sockets},
};

/// Most generations of lanes that are tried at once: of workers that died unused.
const TRIES: usize = 16;

/// How long a caller that may not wait does.
const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// The worker does not answer now.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Away(pub String);

impl Away {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// What callers and worker agree on.
pub trait Caller: Send + Sync {
    /// What goes wrong.
    type Error: From<Away>;

    /// Looks at a new worker over one of its lanes: whether it is there, and is the one that it should be.
    ///
    /// # Errors
    /// Where it is not.
    fn greet(&self, lane: &mut Lane) -> Result<(), Self::Error>;

    /// Whether another worker may answer where this one does not.
    fn is_away(error: &Self::Error) -> bool;
}

/// How long callers wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the first worker.
    pub start: Duration,
    /// For a new worker. The first one after a crash is there by then.
    pub restart: Duration,
    /// After that was in vain, callers are refused at once for so long.
    pub rest: Duration,
    /// For a lane, and for a greeting's answer.
    pub answer: Duration,
}

/// Where lanes come from.
pub enum Source {
    /// A worker of ours sends all of them at once.
    Control(UnixStream),
    /// Each is a connection to a socket in the file system.
    Socket(PathBuf),
}

/// Lanes to a worker.
pub struct Lanes<C: Caller> {
    caller: C,
    source: Source,
    patience: Patience,
    longest: usize,
    pool: Mutex<Pool>,
    returned: Condvar,
    supervisor: Mutex<Option<Child>>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Lane>,
    /// Lanes of this generation, idle or lent.
    open: usize,
    generation: u64,
    /// Somebody is making lanes.
    making: bool,
    /// Nobody answered a moment ago.
    rest_until: Option<Instant>,
}

impl Pool {
    fn adopt(&mut self, lanes: Vec<Lane>) {
        self.open += lanes.len();
        self.rest_until = None;
        let generation = self.generation;
        self.idle.extend(lanes.into_iter().map(|lane| Lane { generation, ..lane }));
    }
}

/// A connected socket, at whose other end requests are answered one by one.
pub struct Lane {
    stream: UnixStream,
    longest: usize,
    /// How long an answer may take.
    answer: Duration,
    generation: u64,
    /// An answer for which nobody waits any more is still to come.
    owed: bool,
}

impl Lane {
    fn new(stream: UnixStream, longest: usize, answer: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(answer))?;
        stream.set_write_timeout(Some(answer))?;
        Ok(Self { stream, longest, answer, generation: 0, owed: false })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Where the lane breaks: it is of no use any more. `TimedOut` where nothing of the answer came in time: it is owed. `InvalidInput`
    /// for a request that is too long: nothing was sent then.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
        if self.owed {
            self.answer()?;
        }
        frame::send(&mut self.stream, request, self.longest)?;
        self.owed = true;
        self.wait()?;
        self.answer()
    }

    /// Waits until something of the answer is there.
    fn wait(&self) -> io::Result<()> {
        let asked = Instant::now();
        loop {
            let left = self.answer.saturating_sub(asked.elapsed());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The answer, if it comes within a moment.
    fn exchange_at_once(&mut self, request: &[u8]) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        if self.owed {
            return Ok(None);
        }
        frame::send(&mut self.stream, request, self.longest)?;
        self.owed = true;
        match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&MOMENT)) {
            Ok(0) | Err(Errno::INTR) => Ok(None),
            Ok(_) => self.answer().map(Some),
            Err(error) => Err(error.into()),
        }
    }

    fn allow(&mut self, answer: Duration) -> io::Result<()> {
        if self.answer != answer {
            self.stream.set_read_timeout(Some(answer))?;
            self.answer = answer;
        }
        Ok(())
    }

    fn answer(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        let answer = frame::receive(&mut self.stream, self.longest)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.owed = false;
        Ok(answer)
    }
}

impl<C: Caller> Lanes<C> {
    /// Lanes to a worker that comes from `source`, and is there. Frames have at most `longest` bytes. The supervisor ends when this value does.
    ///
    /// # Errors
    /// What the caller's greeting says; that no worker comes up.
    pub fn open(
        caller: C,
        source: Source,
        supervisor: Option<Child>,
        longest: usize,
        patience: Patience,
    ) -> Result<Self, C::Error> {
        let (pool, supervisor) = (Mutex::default(), Mutex::new(supervisor));
        let lanes = Self { caller, source, patience, longest, pool, returned: Condvar::new(), supervisor };
        let first = lanes.make(patience.start)?;
        lanes.pool().adopt(first);
        Ok(lanes)
    }

    /// What was agreed on.
    pub const fn caller(&self) -> &C {
        &self.caller
    }

    /// How many workers are gone so far.
    pub fn replaced(&self) -> u64 {
        self.pool().generation
    }

    /// The supervisor's process, where it is this process's child.
    pub fn supervisor(&self) -> Option<u32> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Child::id)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Borrows a lane that nobody else has; makes new ones where there are none.
    fn borrow(&self, patience: Duration) -> Result<Lane, C::Error> {
        let deadline = Instant::now() + patience;
        let mut pool = self.pool();
        loop {
            if let Some(lane) = pool.idle.pop() {
                return Ok(lane);
            }
            if pool.rest_until.is_some_and(|until| Instant::now() < until) {
                return Err(Away::new("it was not there a moment ago").into());
            }
            let more = matches!(self.source, Source::Socket(_)) && pool.open < wanted();
            if (pool.open == 0 || more) && !pool.making {
                pool.making = true;
                // That may take long, and some callers may not wait.
                drop(pool);
                let made = self.make(self.patience.restart);
                pool = self.pool();
                pool.making = false;
                self.returned.notify_all();
                match made {
                    Ok(lanes) => pool.adopt(lanes),
                    Err(error) => {
                        pool.rest_until = Some(Instant::now() + self.patience.rest);
                        return Err(error);
                    }
                }
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Away::new("it has too much to do").into());
            }
            pool = self.returned.wait_timeout(pool, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn give_back(&self, lane: Lane) {
        let mut pool = self.pool();
        if lane.generation == pool.generation {
            // One that owes an answer is borrowed after all others.
            let place = if lane.owed { 0 } else { pool.idle.len() };
            pool.idle.insert(place, lane);
        }
        drop(pool);
        self.returned.notify_one();
    }

    /// A lane broke: its worker is gone, or goes as soon as all lanes are dropped.
    fn discard(&self, generation: u64) {
        let mut pool = self.pool();
        if generation == pool.generation {
            pool.idle.clear();
            pool.open = 0;
            pool.generation += 1;
        }
        drop(pool);
        self.returned.notify_all();
    }

    /// Asks, and where `again` says so once more of the next worker if this one is gone. An answer that `read` cannot
    /// read ends the worker's lanes. So does one that takes too long, unless `within` says how long this very request may: then its lane
    /// alone is left until the answer is there, and the worker goes on with what others have asked.
    ///
    /// # Errors
    /// Where nobody answers, within the time that `within` allows or else the lanes' own.
    pub fn ask<T>(
        &self,
        request: &[u8],
        again: bool,
        within: Option<Duration>,
        read: impl Fn(&[u8]) -> io::Result<T>,
    ) -> Result<T, C::Error> {
        let alone = within.is_some();
        let within = within.unwrap_or(self.patience.answer);
        let mut broken = None;
        for _ in 0..if again { 2 } else { 1 } {
            let mut lane = self.borrow(within)?;
            let exchanged = lane.allow(within).and_then(|()| lane.exchange(request));
            match exchanged.and_then(|answer| read(&answer)) {
                Ok(answer) => {
                    self.give_back(lane);
                    return Ok(answer);
                }
                // Nothing was sent: the lane is as it was.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.give_back(lane);
                    return Err(Away::new(error).into());
                }
                Err(error) if alone && error.kind() == io::ErrorKind::TimedOut => {
                    tracing::warn!(?within, "a worker does not answer one request in time");
                    self.give_back(lane);
                    return Err(Away::new("it does not answer this in time").into());
                }
                Err(error) => {
                    tracing::warn!(%error, "a worker does not answer");
                    self.discard(lane.generation);
                    broken = Some(error);
                }
            }
        }
        Err(broken.map_or_else(|| Away::new("it does not answer"), Away::new).into())
    }

    /// As [`Self::ask`], for a caller that may not wait: none where that takes more than a moment, or fails.
    pub fn ask_at_once<T>(&self, request: &[u8], read: impl Fn(&[u8]) -> io::Result<T>) -> Option<T> {
        let mut lane = self.pool().idle.pop()?;
        let answered = lane.exchange_at_once(request);
        match answered.and_then(|answer| answer.map(|answer| read(&answer)).transpose()) {
            Ok(answer) => {
                self.give_back(lane);
                answer
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.give_back(lane);
                None
            }
            Err(error) => {
                tracing::warn!(%error, "a worker does not answer");
                self.discard(lane.generation);
                None
            }
        }
    }

    /// Lanes to a worker that is there.
    fn make(&self, patience: Duration) -> Result<Vec<Lane>, C::Error> {
        let mut last: C::Error = Away::new("no worker comes up").into();
        for _ in 0..TRIES {
            let streams = match &self.source {
                Source::Control(control) => {
                    control.set_read_timeout(Some(patience)).map_err(Away::new)?;
                    match receive_sockets(control) {
                        Ok(streams) => streams,
                        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                            return Err(last);
                        }
                        Err(_) => return Err(Away::new("it has ended, and is not started again").into()),
                    }
                }
                Source::Socket(path) => {
                    let failed = |error| Away(format!("{}: {error}", path.display()));
                    vec![UnixStream::connect(path).map_err(failed)?]
                }
            };
            let lane = |stream| Lane::new(stream, self.longest, self.patience.answer);
            let mut lanes = streams.into_iter().map(lane).collect::<io::Result<Vec<_>>>().map_err(Away::new)?;
            let first = lanes.first_mut().ok_or_else(|| Away::new("it sent no lanes"))?;
            match self.caller.greet(first) {
                Ok(()) => return Ok(lanes),
                // A worker that died unused: the next one may be there.
                Err(error) if matches!(self.source, Source::Control(_)) && C::is_away(&error) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

/// How many lanes this machine has use for.
pub fn wanted() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MAX_LANES)
}

impl<C: Caller> Drop for Lanes<C> {
    /// Closes the lanes and the control socket, whereupon the worker and the supervisor end.
    fn drop(&mut self) {
        let generation = self.pool().generation;
        self.discard(generation);
        if let Source::Control(control) = &self.source {
            let _ = control.shutdown(std::net::Shutdown::Both);
        }
        let Some(mut child) = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        for _ in 0..200 {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        tracing::warn!("a worker's supervisor does not end");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{passing::send_sockets, process::pairs};

    struct Anyone;

    impl Caller for Anyone {
        type Error = Away;

        fn greet(&self, lane: &mut Lane) -> Result<(), Away> {
            lane.exchange(b"hello").map(drop).map_err(Away::new)
        }

        fn is_away(_: &Away) -> bool {
            true
        }
    }

    #[test]
    fn a_request_that_hangs_costs_its_lane_until_it_is_answered_and_nobody_else() {
        let (control, theirs) = UnixStream::pair().unwrap();
        let (ours, lent) = pairs(2).unwrap();
        send_sockets(&theirs, &lent).unwrap();
        drop(lent);
        // Answers with what it was asked, and what hangs once it is let go.
        let (hanging, hangs) = mpsc::channel();
        for mut lane in ours {
            let hanging = hanging.clone();
            std::thread::spawn(move || {
                while let Ok(Some(request)) = frame::receive(&mut lane, 64) {
                    if request.starts_with(b"hang") {
                        let (release, released) = mpsc::channel::<()>();
                        hanging.send(release).unwrap();
                        let _ = released.recv();
                    }
                    frame::send(&mut lane, &request, 64).unwrap();
                }
            });
        }
        let second = Duration::from_secs(1);
        let patience = Patience { start: second, restart: second, rest: second, answer: 60 * second };
        let lanes = Lanes::open(Anyone, Source::Control(control), None, 64, patience).unwrap();
        let ask = |request: &[u8], within| lanes.ask(request, true, within, |answer| Ok(answer.to_vec()));
        let short = Some(Duration::from_millis(50));
        ask(b"hang", short).unwrap_err();
        let release = hangs.recv().unwrap();
        // It was asked once, and the worker is the same.
        assert!(hangs.try_recv().is_err());
        for request in [b"one", b"two"] {
            assert_eq!(ask(request, None).unwrap(), request);
        }
        assert_eq!((lanes.replaced(), lanes.pool().idle.len()), (0, 2));
        drop(release);
        // On both lanes: the late answer is nobody's.
        let other = lanes.pool().idle.pop().unwrap();
        assert!(!other.owed);
        assert_eq!(ask(b"three", None).unwrap(), b"three");
        lanes.give_back(other);
        // Where every lane hangs, the worker is of no use.
        ask(b"hang", short).unwrap_err();
        ask(b"hang", short).unwrap_err();
        assert_eq!(lanes.replaced(), 0);
        ask(b"four", short).unwrap_err();
        assert_eq!(lanes.replaced(), 1);
    }
}
