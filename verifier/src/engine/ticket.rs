//! What a caller holds while its proof waits.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use keywitness_circuits::{Kind, Verified};

use super::{EngineError, Shared};

/// What became of a proof.
pub type Verdict = Result<Verified, EngineError>;

#[derive(Default)]
struct Cell {
    verdict: Option<Verdict>,
    waker: Option<Waker>,
    abandoned: bool,
}

/// Where the answer to one proof is put.
#[derive(Default)]
pub(super) struct Slot {
    cell: Mutex<Cell>,
    answered: Condvar,
}

impl Slot {
    fn cell(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the answer; a second one changes nothing.
    pub(super) fn answer(&self, verdict: Verdict) {
        let mut cell = self.cell();
        if cell.verdict.is_some() {
            return;
        }
        cell.verdict = Some(verdict);
        let waker = cell.waker.take();
        drop(cell);
        self.answered.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.cell().abandoned
    }
}

/// A proof that was submitted. Dropping it takes the proof back: if its check has not begun, it will not be done.
///
/// It is a future too, of any executor.
pub struct Ticket {
    slot: Arc<Slot>,
    shared: Weak<Shared>,
    kind: Kind,
    number: u64,
}

impl Ticket {
    pub(super) const fn new(slot: Arc<Slot>, shared: Weak<Shared>, kind: Kind, number: u64) -> Self {
        Self { slot, shared, kind, number }
    }

    /// Waits for the verdict.
    ///
    /// # Errors
    /// [`EngineError::Refused`], [`EngineError::Internal`], [`EngineError::Stopped`].
    pub fn wait(self) -> Verdict {
        let mut cell = self.slot.cell();
        loop {
            if let Some(verdict) = cell.verdict.clone() {
                return verdict;
            }
            cell = self.slot.answered.wait(cell).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the verdict, at most so long.
    pub fn wait_timeout(&self, time: Duration) -> Option<Verdict> {
        let cell = self.slot.cell();
        let waiting = self.slot.answered.wait_timeout_while(cell, time, |cell| cell.verdict.is_none());
        waiting.unwrap_or_else(PoisonError::into_inner).0.verdict.clone()
    }
}

impl Future for Ticket {
    type Output = Verdict;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Verdict> {
        let mut cell = self.slot.cell();
        match cell.verdict.clone() {
            Some(verdict) => Poll::Ready(verdict),
            None => {
                cell.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut cell = self.slot.cell();
        cell.abandoned = true;
        let waits = cell.verdict.is_none();
        drop(cell);
        if waits && let Some(shared) = self.shared.upgrade() {
            shared.take_back(self.kind, self.number);
        }
    }
}
