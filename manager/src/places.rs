//! Places: how much of the same work may go on at once, in all and for each caller.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keywitness_verifier::wire::{Problem, ProblemKind};

use crate::limits::Source;

/// How many places are taken.
#[derive(Default)]
struct Taken {
    all: usize,
    by: HashMap<Source, usize>,
}

/// So many places for work of one sort.
pub(crate) struct Places {
    all: usize,
    taken: Arc<Mutex<Taken>>,
}

/// A place, given back when it is dropped.
pub(crate) struct Place {
    taken: Arc<Mutex<Taken>>,
    by: Vec<Source>,
}

impl Places {
    /// All of them free.
    pub(crate) fn new(all: usize) -> Self {
        Self { all, taken: Arc::default() }
    }

    /// Takes one, which counts against everybody in `by`: each of them has at most so many.
    ///
    /// # Errors
    /// `unavailable`, saying why, where none is free.
    pub(crate) fn take(&self, by: &[(Source, usize)], why: &str) -> Result<Place, Problem> {
        let mut taken = lock(&self.taken);
        let has = |source: &Source| taken.by.get(source).copied().unwrap_or(0);
        if taken.all >= self.all || by.iter().any(|(source, most)| has(source) >= *most) {
            return Err(Problem::new(ProblemKind::Unavailable, why).after(1));
        }
        taken.all += 1;
        for (source, _) in by {
            *taken.by.entry(source.clone()).or_default() += 1;
        }
        let by = by.iter().map(|(source, _)| source.clone()).collect();
        Ok(Place { taken: Arc::clone(&self.taken), by })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        for source in &self.by {
            if let Some(count) = taken.by.get_mut(source) {
                *count -= 1;
                if *count == 0 {
                    taken.by.remove(source);
                }
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_leaves_places_to_others_and_gives_back_what_it_took() {
        let places = Places::new(5);
        let of = |name: &str| [(Source::Hsm(name.parse().unwrap()), 3)];
        let take = |name: &str| places.take(&of(name), "none is free");
        let mut held: Vec<_> = (0..3).map(|_| take("greedy").unwrap()).collect();
        for _ in 0..2 {
            assert_eq!(take("greedy").err().unwrap().kind(), Some(ProblemKind::Unavailable));
        }
        held.push(take("other").unwrap());
        held.push(take("other").unwrap());
        assert!(take("third").is_err(), "there are five in all");
        drop(held);
        assert!(lock(&places.taken).by.is_empty());
        assert!((0..3).map(|_| take("greedy")).collect::<Vec<_>>().iter().all(Result::is_ok));
    }
}
