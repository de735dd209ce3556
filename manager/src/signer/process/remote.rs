//! The manager's end: a signer that is another process.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use keywitness_circuits::Digest;
use keywitness_verifier::{
    log::{Checkpoint, Note, VerifierKey},
    wire::TokenAlgorithm,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    passing::{lanes, receive_lanes},
    protocol::{Answer, Request, receive, send},
};
use crate::signer::{PublicKey, Signer, SignerError, Spec};

/// How long the first worker may take: a PKCS#11 library may have to look for its hardware.
const START: Duration = Duration::from_secs(30);

/// How long a caller waits for a new worker. The first one after a crash is there by then.
const PATIENCE: Duration = Duration::from_millis(250);

/// After that was in vain, callers are refused at once for so long.
const REST: Duration = Duration::from_millis(200);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// How long an answer may take to a caller that may not wait: a signature by a key in a file takes a tenth of it.
const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// Most generations of lanes that are tried at once: of workers that died unused.
const TRIES: usize = 16;

/// A signer in another process.
pub struct Remote {
    source: Source,
    key: VerifierKey,
    pool: Mutex<Pool>,
    returned: Condvar,
    supervisor: Mutex<Option<Child>>,
}

/// Where lanes come from.
enum Source {
    /// A worker of ours sends all of them at once.
    Control(UnixStream),
    /// Each is a connection to a socket in the file system.
    Socket(PathBuf),
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

struct Lane {
    stream: UnixStream,
    generation: u64,
    /// An answer for which nobody waits any more is still to come.
    owed: bool,
}

impl Lane {
    fn exchange(&mut self, request: &Request) -> io::Result<Answer> {
        if self.owed {
            self.answer()?;
        }
        send(&mut self.stream, request)?;
        self.answer()
    }

    /// The answer, if it comes within a [`MOMENT`].
    fn exchange_at_once(&mut self, request: &Request) -> io::Result<Option<Answer>> {
        if self.owed {
            return Ok(None);
        }
        send(&mut self.stream, request)?;
        self.owed = true;
        match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&MOMENT)) {
            Ok(0) | Err(Errno::INTR) => Ok(None),
            Ok(_) => self.answer().map(Some),
            Err(error) => Err(error.into()),
        }
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let answer = receive(&mut self.stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.owed = false;
        Ok(answer)
    }
}

fn away(error: impl std::fmt::Display) -> SignerError {
    SignerError::Away(error.to_string())
}

impl Remote {
    /// Starts a signer: `program` is called with these flags, `signer --supervise` and the spec. It ends with this value, or
    /// with this process.
    ///
    /// # Errors
    /// [`SignerError`]: what keeps the signer from opening its keys, too.
    pub fn spawn(program: &Path, flags: &[&str], spec: &Spec) -> Result<Self, SignerError> {
        let (control, other) = UnixStream::pair().map_err(away)?;
        let child = start((program, flags), "--supervise", spec, other)?;
        Self::over(Source::Control(control), Some(child))
    }

    /// Calls a signer that listens at a socket in the file system.
    ///
    /// # Errors
    /// [`SignerError`]
    pub fn connect(socket: &Path) -> Result<Self, SignerError> {
        Self::over(Source::Socket(socket.to_owned()), None)
    }

    #[cfg(test)]
    pub(super) fn over_control(control: UnixStream) -> Result<Self, SignerError> {
        Self::over(Source::Control(control), None)
    }

    fn over(source: Source, supervisor: Option<Child>) -> Result<Self, SignerError> {
        let (streams, key) = source.lanes(START, None)?;
        let mut pool = Pool::default();
        pool.adopt(streams);
        let (pool, supervisor) = (Mutex::new(pool), Mutex::new(supervisor));
        Ok(Self { source, key, pool, returned: Condvar::new(), supervisor })
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Borrows a lane that nobody else has; makes new ones where there are none.
    fn borrow(&self) -> Result<Lane, SignerError> {
        let deadline = Instant::now() + ANSWER;
        let mut pool = self.pool();
        loop {
            if let Some(lane) = pool.idle.pop() {
                return Ok(lane);
            }
            if pool.rest_until.is_some_and(|until| Instant::now() < until) {
                return Err(away("it was not there a moment ago"));
            }
            let short = pool.open == 0 || (pool.open < lanes() && matches!(self.source, Source::Socket(_)));
            if short && !pool.making {
                pool.making = true;
                // That may take long, and some callers may not wait.
                drop(pool);
                let made = self.source.lanes(PATIENCE, Some(&self.key));
                pool = self.pool();
                pool.making = false;
                self.returned.notify_all();
                match made {
                    Ok((streams, _)) => pool.adopt(streams),
                    Err(error) => {
                        pool.rest_until = Some(Instant::now() + REST);
                        return Err(error);
                    }
                }
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(away("it has too much to do"));
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

    /// Asks, and once more of the next worker where this one is gone: to sign the same twice does no harm.
    fn ask(&self, request: &Request) -> Result<Answer, SignerError> {
        let mut broken = None;
        for _ in 0..2 {
            let mut lane = self.borrow()?;
            match lane.exchange(request) {
                Ok(Answer::Failed(error)) => {
                    self.give_back(lane);
                    return Err(error);
                }
                Ok(answer) => {
                    self.give_back(lane);
                    return Ok(answer);
                }
                // Nothing was sent: the lane is as it was.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.give_back(lane);
                    return Err(SignerError::Refused("the message is longer than any token or status list".to_owned()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the signer does not answer");
                    self.discard(lane.generation);
                    broken = Some(error);
                    // A new key that nobody was told of is of no use, but a second one is of less.
                    if matches!(request, Request::Make(_)) {
                        break;
                    }
                }
            }
        }
        Err(broken.map_or_else(|| away("it does not answer"), away))
    }
}

impl Pool {
    fn adopt(&mut self, streams: Vec<UnixStream>) {
        self.open += streams.len();
        self.rest_until = None;
        let generation = self.generation;
        self.idle.extend(streams.into_iter().map(|stream| Lane { stream, generation, owed: false }));
    }
}

impl Source {
    /// Lanes to a signer that is there, and its log key: the one of before, if there was one.
    fn lanes(
        &self,
        patience: Duration,
        before: Option<&VerifierKey>,
    ) -> Result<(Vec<UnixStream>, VerifierKey), SignerError> {
        let mut last = away("no worker comes up");
        for _ in 0..TRIES {
            let streams = match self {
                Self::Control(control) => {
                    control.set_read_timeout(Some(patience)).map_err(away)?;
                    receive_lanes(control).map_err(|error| match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => last.clone(),
                        _ => away("it has ended; restart the manager"),
                    })?
                }
                Self::Socket(path) => {
                    vec![UnixStream::connect(path).map_err(|error| away(format!("{}: {error}", path.display())))?]
                }
            };
            match greet(streams) {
                Ok((_, key)) if before.is_some_and(|before| *before != key) => {
                    return Err(SignerError::Failed("the signer came back with another log key".to_owned()));
                }
                Ok(lanes) => return Ok(lanes),
                // A worker that died unused: the next one may be there.
                Err(error @ SignerError::Away(_)) if matches!(self, Self::Control(_)) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

/// Asks a new worker for its log key: whether it is there, and opened its keys.
fn greet(streams: Vec<UnixStream>) -> Result<(Vec<UnixStream>, VerifierKey), SignerError> {
    let mut lanes: Vec<_> = streams.into_iter().map(|stream| Lane { stream, generation: 0, owed: false }).collect();
    for lane in &lanes {
        lane.stream.set_read_timeout(Some(ANSWER)).map_err(away)?;
        lane.stream.set_write_timeout(Some(ANSWER)).map_err(away)?;
    }
    let first = lanes.first_mut().ok_or_else(|| away("it sent no lanes"))?;
    match first.exchange(&Request::LogKey).map_err(away)? {
        Answer::LogKey(key) => {
            let key = key.parse().map_err(|error| SignerError::Failed(format!("the log's key: {error}")))?;
            Ok((lanes.into_iter().map(|lane| lane.stream).collect(), key))
        }
        Answer::Failed(error) => Err(error),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> SignerError {
    SignerError::Failed("it answers what it was not asked".to_owned())
}

/// Starts the program as a part of the signer, whose standard input is the control socket.
pub(super) fn start(
    (program, flags): (&Path, &[&str]),
    part: &str,
    spec: &Spec,
    control: UnixStream,
) -> Result<Child, SignerError> {
    use std::os::{fd::OwnedFd, unix::process::CommandExt};
    let failed = |error: &dyn std::fmt::Display| SignerError::Failed(format!("it cannot be started: {error}"));
    let spec_text = serde_json::to_string(spec).map_err(|error| failed(&error))?;
    let variables = spec.pkcs11.iter().flat_map(|config| &config.environment).map(String::as_str);
    let kept = variables.chain(["KEYWITNESS_LOG"]).filter_map(|name| Some((name, std::env::var_os(name)?)));
    Command::new(program)
        .arg0("keywitness")
        .args(flags)
        .args(["signer", part, &spec_text])
        .env_clear()
        .envs(kept)
        .current_dir("/")
        // What a terminal sends to the manager is not for the signer, which ends after it.
        .process_group(0)
        .stdin(Stdio::from(OwnedFd::from(control)))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| failed(&error))
}

impl Signer for Remote {
    fn keys(&self) -> Result<Vec<PublicKey>, SignerError> {
        match self.ask(&Request::Keys)? {
            Answer::Keys(keys) => Ok(keys),
            _ => Err(unexpected()),
        }
    }

    fn make(&self, algorithm: TokenAlgorithm) -> Result<PublicKey, SignerError> {
        match self.ask(&Request::Make(algorithm))? {
            Answer::Made(key) => Ok(key),
            _ => Err(unexpected()),
        }
    }

    fn sign(&self, kid: &str, message: &[u8]) -> Result<[u8; 64], SignerError> {
        match self.ask(&Request::Sign { kid: kid.to_owned(), message: message.to_vec() })? {
            Answer::Signature(signature) => Ok(signature),
            _ => Err(unexpected()),
        }
    }

    fn sign_at_once(&self, kid: &str, message: &[u8]) -> Option<[u8; 64]> {
        let mut lane = self.pool().idle.pop()?;
        match lane.exchange_at_once(&Request::Sign { kid: kid.to_owned(), message: message.to_vec() }) {
            Ok(answer) => {
                self.give_back(lane);
                match answer {
                    Some(Answer::Signature(signature)) => Some(signature),
                    _ => None,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.give_back(lane);
                None
            }
            Err(error) => {
                tracing::warn!(%error, "the signer does not answer");
                self.discard(lane.generation);
                None
            }
        }
    }

    fn log_key(&self) -> VerifierKey {
        self.key.clone()
    }

    fn newest(&self) -> Result<Option<Note>, SignerError> {
        match self.ask(&Request::Newest)? {
            Answer::Newest(note) => note.map(|note| note.parse().map_err(|_| unexpected())).transpose(),
            _ => Err(unexpected()),
        }
    }

    fn sign_checkpoint(&self, checkpoint: &Checkpoint, consistency: &[Digest]) -> Result<Note, SignerError> {
        let request = Request::Checkpoint { text: checkpoint.to_string(), consistency: consistency.to_vec() };
        match self.ask(&request)? {
            Answer::Checkpoint(note) => note.parse().map_err(|_| unexpected()),
            _ => Err(unexpected()),
        }
    }
}

impl Drop for Remote {
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
        tracing::warn!("the signer does not end");
    }
}
