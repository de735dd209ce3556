//! The embedded engine: one manager, one writer thread.
//!
//! Commands wait in a bounded queue. The writer takes all that wait, applies them in one transaction of the
//! store, and answers after its commit: under load many commands share one flush to disk.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use keywitness_circuits::Nonce;
use keywitness_verifier::wire::Event;

use super::{
    Ledger,
    command::{Command, Outcome},
    log::{Submission, execute},
    tables::{Fault, Rows, Store},
};
use crate::clock::Clock;

/// How many commands may wait.
const QUEUE: usize = 1024;

/// How many commands share one transaction at most.
const BATCH: usize = 256;

type Answer = Result<Outcome, Fault>;

struct Job {
    submission: Submission,
    answer: SyncSender<Answer>,
}

/// The engine. Dropping it waits for the commands that were already submitted.
pub struct Embedded {
    store: Arc<dyn Store>,
    queue: Mutex<Option<SyncSender<Job>>>,
    writer: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Starts the writer over `store`, where it left off.
    ///
    /// # Errors
    /// [`Fault::Storage`] where no thread can be started.
    pub fn start(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, Fault> {
        let (queue, jobs) = sync_channel(QUEUE);
        let writer = Writer { store: Arc::clone(&store), clock };
        let writer = thread::Builder::new()
            .name("keywitness-ledger".to_owned())
            .spawn(move || writer.run(&jobs))
            .map_err(|error| Fault::Storage(format!("the writer thread cannot be started: {error}")))?;
        Ok(Self { store, queue: Mutex::new(Some(queue)), writer: Some(writer) })
    }
}

impl Ledger for Embedded {
    fn submit(&self, command: Command) -> Result<Outcome, Fault> {
        let (answer, reply) = sync_channel(1);
        let job = Job { submission: Submission { salt: Nonce::random(), command }, answer };
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Fault::Stopped)?;
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Fault::Busy,
            TrySendError::Disconnected(_) => Fault::Stopped,
        })?;
        drop(queue);
        reply.recv().map_err(|_| Fault::Stopped)?
    }

    fn view(&self) -> Result<Box<dyn Rows>, Fault> {
        self.store.view()
    }

    fn alive(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| !writer.is_finished())
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
}

impl Writer {
    fn run(&self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter()).take(BATCH).collect();
            let (submissions, answers): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|job| (job.submission, job.answer)).unzip();
            for (answer, result) in answers.into_iter().zip(self.commit_batch(&submissions)) {
                // Whoever submitted may have given up waiting; the command stands all the same.
                let _gone = answer.send(result);
            }
        }
    }

    /// One answer for each submission. When a batch fails, each command is tried alone, so that one bad
    /// command cannot fail its neighbours.
    fn commit_batch(&self, submissions: &[Submission]) -> Vec<Answer> {
        match self.commit(submissions) {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(fault) if submissions.len() == 1 => {
                tracing::error!(command = submissions.first().map(|job| job.command.name()), %fault, "a change was not written");
                vec![Err(fault)]
            }
            Err(_) => submissions.iter().flat_map(|one| self.commit_batch(std::slice::from_ref(one))).collect(),
        }
    }

    fn commit(&self, submissions: &[Submission]) -> Result<Vec<Outcome>, Fault> {
        let (mut outcomes, mut events) = (Vec::with_capacity(submissions.len()), Vec::new());
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
        events.iter().for_each(tell);
        Ok(outcomes)
    }
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
