//! The verification engine: proofs of many callers, checked together on one bounded pool of threads.
//!
//! Proofs of one kind are checked as one random linear combination ([`registry::verify_all`]), and each caller gets its
//! own answer.
//!
//! - **Batches follow load.** A kind's work begins when none of it is being checked: a lone proof waits for nobody, and no
//!   timer runs. What comes while a batch is checked is the next batch, so that batches grow as load does, up to
//!   a best size for each kind.
//! - **Bounds.** The queue has a limit, in proofs and in bytes; one source holds at most an eighth of it. Where there is no
//!   room, [`EngineError::Busy`] says so at once, with a wait at the pace that was measured.
//! - **Order.** Fresh proofs come before audits. While there are fresh ones, an eighth of a best batch of audits is checked
//!   after every eight fresh batches: audits starve nobody, and do not starve.
//! - **Culprits.** A set that fails is halved until the faults are cornered, and nobody is refused but by a check of that
//!   proof alone. A failed set costs at most about 2k·(log2(n/k) + 2) checks of smaller sets and 4k single ones for k
//!   bad proofs among n, and never more than 1 + 3/r times what checking all of it singly costs, where a single
//!   check costs r times a proof's part of a set.
//! - **Isolation.** A source that had a bad proof is kept apart: its proofs form sets of their own, in rounds of their own,
//!   at most one after every four fresh batches, until it has had so many good ones or time has passed; each time twice as
//!   many. A failed set of an isolated source is checked singly. So a source disturbs others about once in ten minutes, however many
//!   bad proofs it sends.
//! - **Panics** of a proof system are caught: they fail the set, the search finds the proof, and its caller gets
//!   [`EngineError::Internal`]. Nobody waits for ever: a job that is dropped unanswered is answered by that.
//!
//! Whoever submits says who answers for the proof ([`Work::source`]) and must know it: authenticate first.

mod audit;
mod instances;
mod narrow;
mod queue;
mod round;
mod suspects;
#[cfg(test)]
mod tests;
mod ticket;

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use keywitness_circuits::{
    ClaimContext, Envelope, Error, HsmId, Kind, Parameters, Verified,
    registry::{self, DecodedInstance, Opened},
};
use rayon::{ThreadPool, ThreadPoolBuilder};

pub use audit::Verdicts;
use instances::Instances;
use queue::{Batch, Class, Job, Queue};
use suspects::Suspects;
use ticket::Slot;
pub use ticket::{Ticket, Verdict};

/// Stack of a pool's thread, in bytes: while one round waits for its parts, its thread may take up another.
const STACK: usize = 8 << 20;

/// The engine's limits. No threads and no queue mean one; no instances mean that none are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineConfig {
    /// Threads that check proofs.
    pub threads: usize,
    /// Proofs that may wait; audits may be as many again.
    pub queue: usize,
    /// Bytes of instances and proofs that may wait; of audits as many again.
    pub queue_bytes: usize,
    /// Decoded instances that are kept.
    pub instances: usize,
    /// About how many bytes they may need.
    pub instance_bytes: usize,
}

impl Default for EngineConfig {
    /// As many threads as the machine has cores, 4,096 proofs in 64 MiB, 16,384 instances in 16 MiB.
    fn default() -> Self {
        Self {
            threads: thread::available_parallelism().map_or(1, usize::from),
            queue: 4096,
            queue_bytes: 64 << 20,
            instances: 16_384,
            instance_bytes: 16 << 20,
        }
    }
}

/// A claim and its proof.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// What the proof is bound to.
    pub context: ClaimContext,
    /// Canonical encoding of what is proven.
    pub instance: Vec<u8>,
    /// The proof.
    pub proof: Vec<u8>,
}

impl From<Envelope> for Claim {
    fn from(Envelope { context, instance, proof, .. }: Envelope) -> Self {
        Self { context, instance, proof }
    }
}

/// How soon a proof is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// Somebody waits for it.
    Fresh,
    /// After what is fresh.
    Audit,
}

/// What is submitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Work {
    /// The claim.
    pub claim: Claim,
    /// Who answers for it: the HSM that is known to have sent it.
    pub source: HsmId,
    /// How soon.
    pub priority: Priority,
}

impl Work {
    /// What it needs of the queue's room.
    const fn bytes(&self) -> usize {
        self.claim.instance.len() + self.claim.proof.len()
    }
}

/// Why a proof has no verdict, or a bad one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EngineError {
    /// The claim is wrong, or its proof.
    #[error(transparent)]
    Refused(#[from] Error),
    /// Too much waits already, of everybody's or of this source's.
    #[error("too many proofs wait to be checked; try again in {:.1} s", retry_after.as_secs_f64())]
    Busy {
        /// When there may be room, at the pace that was measured: 50 milliseconds to a minute.
        retry_after: Duration,
    },
    /// The check failed, and says nothing about the proof.
    #[error("the check of the proof failed")]
    Internal,
    /// The engine has stopped.
    #[error("the verification engine has stopped")]
    Stopped,
    /// The engine's threads cannot be started.
    #[error("the verification engine's threads cannot be started: {0}")]
    Threads(String),
}

/// The engine's numbers, for operators.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Stats {
    /// Proofs that wait.
    pub queued: usize,
    /// Batches that are being checked.
    pub running: usize,
    /// Sets that were checked since the start.
    pub batches: u64,
    /// Proofs in those sets.
    pub proofs: u64,
    /// Sets of several that failed, and were searched.
    pub splits: u64,
    /// Proofs that were turned away for want of room.
    pub busy: u64,
    /// Panics that were caught.
    pub panics: u64,
    /// Sources that are isolated now.
    pub isolated: usize,
    /// Decoded instances that are kept.
    pub instances: usize,
}

impl Stats {
    /// Proofs in a set, on average.
    pub fn mean_batch(&self) -> f64 {
        if self.batches == 0 { 0.0 } else { self.proofs as f64 / self.batches as f64 }
    }

    fn began(&mut self, proofs: usize) {
        self.batches += 1;
        self.proofs += proofs as u64;
    }
}

/// Where the engine meets the proof systems.
trait Backend: Send + Sync {
    fn open(&self, context: &ClaimContext, instance: &DecodedInstance, proof: &[u8]) -> Result<Opened, Error>;
    fn check(&self, proofs: &[&Opened]) -> Result<Vec<Verified>, Error>;
}

impl Backend for Parameters {
    fn open(&self, context: &ClaimContext, instance: &DecodedInstance, proof: &[u8]) -> Result<Opened, Error> {
        registry::open(self, context, instance, proof)
    }

    fn check(&self, proofs: &[&Opened]) -> Result<Vec<Verified>, Error> {
        registry::verify_all(proofs)
    }
}

struct Inner {
    queue: Queue,
    suspects: Suspects,
    stats: Stats,
    stopped: bool,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Told whenever a job leaves the queue or a round ends.
    changed: Condvar,
    instances: Mutex<Instances>,
    backend: Box<dyn Backend>,
    pool: ThreadPool,
}

impl Shared {
    /// Never held while a proof system works.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins whatever may begin.
    fn pump(self: &Arc<Self>) {
        let mut batches: Vec<Batch> = Vec::new();
        {
            let (mut inner, now) = (self.lock(), Instant::now());
            let Inner { queue, suspects, stopped, .. } = &mut *inner;
            while !*stopped && let Some(batch) = queue.begin(suspects, now) {
                batches.push(batch);
            }
        }
        if !batches.is_empty() {
            self.changed.notify_all();
        }
        for batch in batches {
            let shared = Arc::clone(self);
            self.pool.spawn(move || round::run(&shared, batch));
        }
    }

    fn ended(self: &Arc<Self>, kind: Kind, class: Class, jobs: usize, time: Duration) {
        self.lock().queue.ended(kind, class, jobs, time);
        self.changed.notify_all();
        self.pump();
    }

    fn take_back(&self, kind: Kind, number: u64) {
        let job = self.lock().queue.remove(kind, number);
        if job.is_some() {
            self.changed.notify_all();
        }
    }
}

/// The engine. Dropping it answers what waits by [`EngineError::Stopped`], and lets running checks end.
pub struct Engine {
    shared: Arc<Shared>,
    parameters: Parameters,
}

impl Engine {
    /// Starts an engine that checks under `parameters`.
    ///
    /// # Errors
    /// [`EngineError::Threads`]
    pub fn new(parameters: Parameters, config: &EngineConfig) -> Result<Self, EngineError> {
        Self::over(Box::new(parameters.clone()), parameters, config)
    }

    fn over(backend: Box<dyn Backend>, parameters: Parameters, config: &EngineConfig) -> Result<Self, EngineError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(config.threads.max(1))
            .thread_name(|number| format!("keywitness-verify-{number}"))
            .stack_size(STACK)
            // Rounds catch their panics; one that gets this far must not end the process.
            .panic_handler(|_| {})
            .build()
            .map_err(|error| EngineError::Threads(error.to_string()))?;
        let inner =
            Inner { queue: Queue::new(config), suspects: Suspects::default(), stats: Stats::default(), stopped: false };
        let shared = Shared {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            instances: Mutex::new(Instances::new(config.instances, config.instance_bytes)),
            backend,
            pool,
        };
        Ok(Self { shared: Arc::new(shared), parameters })
    }

    /// Has a proof checked.
    ///
    /// # Errors
    /// [`EngineError::Busy`] at once where there is no room, [`EngineError::Stopped`], and [`EngineError::Refused`] where
    /// the claim names no kind that can be checked here, or another verifying key than the one in force.
    pub fn submit(&self, work: Work) -> Result<Ticket, EngineError> {
        let fresh = work.priority == Priority::Fresh;
        let answer = self.enqueue(&mut Some(work));
        if fresh && matches!(answer, Err(EngineError::Busy { .. })) {
            self.shared.lock().stats.busy += 1;
        }
        answer
    }

    /// Checks one proof, and waits for the verdict.
    ///
    /// # Errors
    /// As [`Self::submit`] and [`Ticket::wait`].
    pub fn verify(&self, work: Work) -> Verdict {
        self.submit(work)?.wait()
    }

    /// Checks many claims, after whatever is fresh: verdicts come in the order of the claims. Only so many claims are taken
    /// from the iterator ahead of the verdicts.
    ///
    /// Each claim's source is the HSM that its context names: check the identity signatures first.
    pub fn verify_many<I: IntoIterator<Item = Claim>>(&self, claims: I) -> Verdicts<'_, I::IntoIter> {
        Verdicts::new(self, claims.into_iter(), Priority::Audit)
    }

    /// Checks the claims that one caller brought together and waits for: verdicts come in the order of the claims. As
    /// many wait at a time as there is room for, of everybody's proofs and of each source's, so that a batch of any
    /// length takes no other source's room.
    ///
    /// Each claim's source is the HSM that its context names: check the identity signatures first. A claim for which
    /// there is no room while none of the batch waits is answered by [`EngineError::Busy`].
    pub fn verify_batch<I: IntoIterator<Item = Claim>>(&self, claims: I) -> Verdicts<'_, I::IntoIter> {
        Verdicts::new(self, claims.into_iter(), Priority::Fresh)
    }

    /// The engine's numbers.
    pub fn stats(&self) -> Stats {
        let instances = self.shared.instances.lock().unwrap_or_else(PoisonError::into_inner).len();
        let inner = self.shared.lock();
        let isolated = inner.suspects.isolated(Instant::now());
        Stats { queued: inner.queue.len(), running: inner.queue.rounds(), isolated, instances, ..inner.stats }
    }

    /// As [`Self::submit`], of work that is still there afterwards where there was no room for it.
    fn enqueue(&self, offered: &mut Option<Work>) -> Result<Ticket, EngineError> {
        let Some(work) = offered.as_ref() else { return Err(EngineError::Internal) };
        let kind = match self.kind(&work.claim.context) {
            Ok(kind) => kind,
            Err(error) => {
                *offered = None;
                return Err(error.into());
            }
        };
        let slot = Arc::new(Slot::default());
        let number = {
            let mut inner = self.shared.lock();
            if inner.stopped {
                *offered = None;
                return Err(EngineError::Stopped);
            }
            inner.queue.room(work)?;
            let isolated = inner.suspects.isolates(&work.source, Instant::now());
            let Some(work) = offered.take() else { return Err(EngineError::Internal) };
            inner.queue.push(kind, Job { work, slot: Arc::clone(&slot) }, isolated)
        };
        self.shared.pump();
        Ok(Ticket::new(slot, Arc::downgrade(&self.shared), kind, number))
    }

    /// The kind that a claim names, where it can be checked.
    ///
    /// Asking for the verifying key makes keys that are made on first use, here on the caller's thread: a
    /// thread of the pool that makes them may take up work that waits for them.
    fn kind(&self, context: &ClaimContext) -> Result<Kind, Error> {
        let kind = context.statement.parse()?;
        if registry::verifying_key(&self.parameters, kind)? == context.verifying_key {
            Ok(kind)
        } else {
            Err(Error::WrongVerifyingKey)
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.stopped = true;
        let waiting = inner.queue.drain();
        drop(inner);
        self.shared.changed.notify_all();
        waiting.iter().for_each(|job| job.slot.answer(Err(EngineError::Stopped)));
        let mut inner = self.shared.lock();
        while inner.queue.rounds() > 0 {
            inner = self.shared.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
