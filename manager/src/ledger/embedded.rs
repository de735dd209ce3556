//! The embedded engine: one manager, one writer thread.
//!
//! Commands wait in a bounded queue. The writer takes all that wait, applies them in one transaction of the
//! store, and answers after its commit: under load many commands share one flush to disk.
//!
//! When the store fails, every command of the group is answered with the fault, and none is tried again here: the
//! commit may have reached the disk all the same, which only its submitter may find out, by sending the same again.
//! The engine is then not alive, refuses what is submitted, and has the store recovered, with a pause that grows.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use keywitness_circuits::Nonce;
use keywitness_verifier::wire::Event;

use super::{
    Ledger,
    command::{Command, Outcome},
    log::{Submission, execute},
    observe::{Observe, Unobserved},
    tables::{Fault, Rows, Store},
};
use crate::clock::Clock;

/// How many commands may wait.
const QUEUE: usize = 2048;

/// How many commands share one transaction at most, and about how many bytes of them.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 8 << 20;

/// The first pause before a broken store is recovered, and the longest.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 50 });
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

type Answer = Result<Outcome, Fault>;

struct Job {
    submission: Submission,
    /// Which of its submitter's commands this is.
    index: usize,
    answer: Sender<(usize, Answer)>,
}

/// The engine. Dropping it waits for the commands that were already submitted.
pub struct Embedded {
    store: Arc<dyn Store>,
    queue: Mutex<Option<SyncSender<Job>>>,
    writer: Option<JoinHandle<()>>,
    usable: Arc<AtomicBool>,
    observer: Arc<dyn Observe>,
}

impl Embedded {
    /// Starts the writer over `store`, where it left off.
    ///
    /// # Errors
    /// [`Fault::Storage`] where no thread can be started.
    pub fn start(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, Fault> {
        Self::observed(store, clock, Arc::new(Unobserved))
    }

    /// As [`Self::start`], with somebody who is told how it goes.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn observed(store: Arc<dyn Store>, clock: Arc<dyn Clock>, observer: Arc<dyn Observe>) -> Result<Self, Fault> {
        let (queue, jobs) = sync_channel(QUEUE);
        let usable = Arc::new(AtomicBool::new(true));
        let (usable_by_writer, told) = (Arc::clone(&usable), Arc::clone(&observer));
        let writer = Writer { store: Arc::clone(&store), clock, usable: usable_by_writer, observer: told };
        let writer = thread::Builder::new()
            .name("keywitness-ledger".to_owned())
            .spawn(move || writer.run(&jobs))
            .map_err(|error| Fault::Storage(format!("the writer thread cannot be started: {error}")))?;
        Ok(Self { store, queue: Mutex::new(Some(queue)), writer: Some(writer), usable, observer })
    }
}

impl Ledger for Embedded {
    fn submit(&self, command: Command) -> Result<Outcome, Fault> {
        self.submit_all(vec![command]).pop().unwrap_or(Err(Fault::Stopped))
    }

    fn submit_all(&self, commands: Vec<Command>) -> Vec<Result<Outcome, Fault>> {
        let mut answers: Vec<Answer> = commands.iter().map(|_| Err(Fault::Stopped)).collect();
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (answer, replies) = channel();
        for (index, (command, place)) in commands.into_iter().zip(&mut answers).enumerate() {
            let submission = Submission { salt: Nonce::random(), command };
            let job = Job { submission, index, answer: answer.clone() };
            let Some(queue) = &queue else { continue };
            // Before it is sent, lest the writer takes it from a queue that was not yet counted up.
            self.observer.queued(1);
            if let Err(error) = queue.try_send(job) {
                self.observer.queued(-1);
                if let TrySendError::Full(_) = error {
                    *place = Err(Fault::Busy);
                }
            }
        }
        drop((answer, queue));
        for (index, answer) in replies {
            if let Some(place) = answers.get_mut(index) {
                *place = answer;
            }
        }
        answers
    }

    fn view(&self) -> Result<Box<dyn Rows>, Fault> {
        self.store.view()
    }

    fn alive(&self) -> bool {
        self.usable.load(Ordering::Acquire) && self.writer.as_ref().is_some_and(|writer| !writer.is_finished())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // The writer ends when nothing can be queued any more and the queue is empty.
        *self.queue.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the ledger's writer panicked");
        }
    }
}

struct Writer {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    usable: Arc<AtomicBool>,
    observer: Arc<dyn Observe>,
}

impl Writer {
    fn run(&self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let group = collect(first, jobs);
            self.observer.queued(-(group.len() as i64));
            let (submissions, callers): (Vec<_>, Vec<_>) =
                group.into_iter().map(|job| (job.submission, (job.index, job.answer))).unzip();
            for ((index, answer), result) in callers.into_iter().zip(self.commit_group(&submissions)) {
                // Whoever submitted may have given up waiting; the command stands all the same.
                let _gone = answer.send((index, result));
            }
            if !self.usable() {
                self.recover(jobs);
            }
        }
    }

    fn usable(&self) -> bool {
        self.usable.load(Ordering::Acquire)
    }

    /// One answer for each submission. When one of a group cannot be applied, each is tried alone, so that one bad
    /// command cannot fail its neighbours; when the store fails, none is.
    fn commit_group(&self, submissions: &[Submission]) -> Vec<Answer> {
        match self.commit(submissions) {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(fault @ (Fault::Storage(_) | Fault::Unsettled(_))) => {
                self.usable.store(false, Ordering::Release);
                self.observer.failed(submissions.len());
                tracing::error!(commands = submissions.len(), %fault, "changes were not acknowledged");
                submissions.iter().map(|_| Err(fault.clone())).collect()
            }
            Err(fault) if submissions.len() == 1 => {
                tracing::error!(command = submissions.first().map(|job| job.command.name()), %fault, "a change was not written");
                vec![Err(fault)]
            }
            Err(_) => {
                let alone = |one| match self.usable() {
                    true => self.commit_group(std::slice::from_ref(one)),
                    false => vec![Err(broken())],
                };
                submissions.iter().flat_map(alone).collect()
            }
        }
    }

    fn commit(&self, submissions: &[Submission]) -> Result<Vec<Outcome>, Fault> {
        let (mut outcomes, mut events) = (Vec::with_capacity(submissions.len()), Vec::new());
        let started = Instant::now();
        self.store.write(&mut |tables| {
            outcomes.clear();
            events.clear();
            for submission in submissions {
                let (outcome, raised) = execute(tables, submission.clone(), self.clock.now())?;
                outcomes.push(outcome);
                events.extend(raised);
            }
            Ok(())
        })?;
        let done = |outcome: &Outcome| !matches!(outcome, Outcome::Refused(_));
        let group = submissions.iter().zip(&outcomes).map(|(one, outcome)| (one.command.name(), done(outcome)));
        self.observer.committed(&group.collect::<Vec<_>>(), started.elapsed());
        events.iter().for_each(tell);
        Ok(outcomes)
    }

    /// Returns when the store works again, or nobody can submit any more. Meanwhile refuses what is submitted.
    fn recover(&self, jobs: &Receiver<Job>) {
        let mut pause = PAUSE;
        let mut next = Instant::now() + pause;
        loop {
            while let Some(wait) = next.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero()) {
                match jobs.recv_timeout(wait) {
                    Ok(Job { index, answer, .. }) => {
                        self.observer.queued(-1);
                        drop(answer.send((index, Err(broken()))));
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
            match self.store.recover() {
                Ok(()) => {
                    tracing::warn!("the store works again");
                    return self.usable.store(true, Ordering::Release);
                }
                Err(fault) => {
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    tracing::error!(%fault, again_in = ?pause, "the store is still broken");
                }
            }
            next = Instant::now() + pause;
        }
    }
}

fn broken() -> Fault {
    Fault::Storage("it broke, and is being recovered".to_owned())
}

/// The first command and all that wait behind it, within the bounds of one transaction.
fn collect(first: Job, jobs: &Receiver<Job>) -> Vec<Job> {
    let mut bytes = first.submission.command.weight();
    let mut group = vec![first];
    while group.len() < BATCH && bytes < BATCH_BYTES {
        let Ok(job) = jobs.try_recv() else { break };
        bytes += job.submission.command.weight();
        group.push(job);
    }
    group
}

/// Tells the operator's log of an event.
fn tell(event: &Event) {
    let (number, kind) = (event.number, &event.kind);
    if kind.is_fraud() {
        tracing::warn!(number, ?kind, "fraud event");
    } else {
        tracing::info!(number, ?kind, "event");
    }
}
