//! Sources that have sent a bad proof, and how long they are kept apart.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use keywitness_circuits::HsmId;

/// Good proofs that a first offence costs; each further one costs twice as many.
const OWED: u32 = 16;

/// Most offences that count, so that nobody owes more than `OWED << (OFFENCES - 1)` good proofs.
const OFFENCES: u32 = 10;

/// After this time without a bad proof, what a source owes and its offences are halved.
const HALF_LIFE: Duration = Duration::from_secs(600);

/// Most sources that are remembered.
const MOST: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Record {
    offences: u32,
    owed: u32,
    since: Instant,
}

impl Record {
    fn decayed(self, now: Instant) -> Self {
        let halvings = now.saturating_duration_since(self.since).as_secs() / HALF_LIFE.as_secs();
        let shift = u32::try_from(halvings).unwrap_or(u32::MAX);
        if shift == 0 {
            return self;
        }
        let halved = |value: u32| value.checked_shr(shift).unwrap_or(0);
        Self { offences: halved(self.offences), owed: halved(self.owed), since: now }
    }
}

/// What is known of sources that had a bad proof.
///
/// A source is isolated while it owes good proofs: then its bad ones are in nobody else's set. Each disturbance of others
/// thus costs a source twice as many good proofs as the one before; time alone forgives both.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    records: HashMap<HsmId, Record>,
}

impl Suspects {
    /// Whether the source is kept apart now.
    pub(super) fn isolates(&self, source: &HsmId, now: Instant) -> bool {
        self.records.get(source).is_some_and(|record| record.decayed(now).owed > 0)
    }

    /// How many are kept apart now.
    pub(super) fn isolated(&self, now: Instant) -> usize {
        self.records.values().filter(|record| record.decayed(now).owed > 0).count()
    }

    /// The source had a bad proof.
    pub(super) fn bad(&mut self, source: &HsmId, now: Instant) {
        if !self.records.contains_key(source) && self.records.len() >= MOST {
            self.forget(now);
        }
        let record = self.records.entry(source.clone()).or_insert(Record { offences: 0, owed: 0, since: now });
        // Proofs of one set are one offence: a source that is isolated already disturbs nobody.
        let offences = if record.decayed(now).owed > 0 { record.offences } else { record.decayed(now).offences + 1 };
        let offences = offences.clamp(1, OFFENCES);
        *record = Record { offences, owed: OWED << (offences - 1), since: now };
    }

    /// The source had a good proof.
    pub(super) fn good(&mut self, source: &HsmId, now: Instant) {
        if let Some(record) = self.records.get_mut(source) {
            *record = record.decayed(now);
            record.owed = record.owed.saturating_sub(1);
            if record.offences == 0 && record.owed == 0 {
                self.records.remove(source);
            }
        }
    }

    /// Makes room: those who owe nothing any more go, or else the one that owes least.
    fn forget(&mut self, now: Instant) {
        self.records.retain(|_, record| record.decayed(now).owed > 0);
        if self.records.len() >= MOST {
            let least = self.records.iter().min_by_key(|(_, record)| record.owed).map(|(source, _)| source.clone());
            least.map(|source| self.records.remove(&source));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(number: usize) -> HsmId {
        format!("hsm-{number}").parse().unwrap()
    }

    #[test]
    fn each_offence_costs_twice_as_many_good_proofs() {
        let (mut suspects, hsm, now) = (Suspects::default(), name(1), Instant::now());
        assert!(!suspects.isolates(&hsm, now));
        for owed in [16, 32, 64] {
            suspects.bad(&hsm, now);
            suspects.bad(&hsm, now);
            for _ in 0..owed {
                assert!(suspects.isolates(&hsm, now));
                suspects.good(&hsm, now);
            }
            assert!(!suspects.isolates(&hsm, now));
        }
        assert!(!suspects.isolates(&name(2), now));
    }

    #[test]
    fn time_forgives() {
        let (mut suspects, hsm, now) = (Suspects::default(), name(1), Instant::now());
        suspects.bad(&hsm, now);
        assert_eq!(suspects.isolated(now + HALF_LIFE * 4), 1);
        assert_eq!(suspects.isolated(now + HALF_LIFE * 5), 0);
        suspects.good(&hsm, now + HALF_LIFE * 200);
        assert!(suspects.records.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        (0..MOST + 100).for_each(|number| suspects.bad(&name(number), now));
        assert_eq!(suspects.records.len(), MOST);
        assert!(suspects.isolates(&name(MOST + 99), now));
    }
}
