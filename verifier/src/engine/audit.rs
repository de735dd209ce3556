//! Many claims of one caller, in order and in bounded memory.

use std::{collections::VecDeque, iter::Fuse, sync::PoisonError};

use super::{Claim, Engine, EngineError, Priority, Ticket, Verdict, Work};

/// Most claims that are taken ahead of the verdicts: two of the largest batches, so that one fills while another is
/// checked.
const WINDOW: usize = 2048;

/// The verdicts about an iterator's claims, in their order ([`Engine::verify_many`], [`Engine::verify_batch`]).
pub struct Verdicts<'a, I: Iterator<Item = Claim>> {
    engine: &'a Engine,
    claims: Fuse<I>,
    priority: Priority,
    ahead: VecDeque<Result<Ticket, EngineError>>,
    /// A claim for which there was no room.
    held: Option<Work>,
}

impl<'a, I: Iterator<Item = Claim>> Verdicts<'a, I> {
    pub(super) fn new(engine: &'a Engine, claims: I, priority: Priority) -> Self {
        Self { engine, claims: claims.fuse(), priority, ahead: VecDeque::new(), held: None }
    }

    /// Submits claims until there is no room for more.
    fn fill(&mut self) {
        while self.ahead.len() < WINDOW {
            if self.held.is_none() {
                let Some(claim) = self.claims.next() else { return };
                self.held = Some(Work { source: claim.context.hsm.clone(), claim, priority: self.priority });
            }
            match self.engine.enqueue(&mut self.held) {
                Err(EngineError::Busy { .. }) => return,
                answer => self.ahead.push_back(answer),
            }
        }
    }
}

impl<I: Iterator<Item = Claim>> Iterator for Verdicts<'_, I> {
    type Item = Verdict;

    fn next(&mut self) -> Option<Verdict> {
        loop {
            self.fill();
            if let Some(first) = self.ahead.pop_front() {
                return Some(first.and_then(Ticket::wait));
            }
            self.held.as_ref()?;
            if self.priority == Priority::Fresh {
                // Others fill the queue, and somebody waits for this answer: it is to come back, as one alone would.
                return self.held.take().map(|work| self.engine.verify(work));
            }
            // Other audits fill the queue.
            self.engine.await_change();
        }
    }
}

impl Engine {
    /// Waits until something leaves the queue, or everything has left it.
    fn await_change(&self) {
        let inner = self.shared.lock();
        if inner.queue.len() > 0 && !inner.stopped {
            drop(self.shared.changed.wait(inner).unwrap_or_else(PoisonError::into_inner));
        }
    }
}
