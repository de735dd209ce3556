//! ReattestKeys: when each key is attested again. Pure functions of time and chance.

use std::collections::{BTreeMap, BTreeSet};

use keywitness_circuits::{Kind, Timestamp};
use keywitness_verifier::wire::KeyRef;
use rand::Rng;

/// A record is renewed between these parts of its lifetime, in hundredths: early enough that a manager may be away for
/// a while, spread enough that a cluster does not come all at once.
const RENEW: std::ops::RangeInclusive<u64> = 50..=70;

/// So many failures in a row, for whatever reason, and a task leaves the company that it failed in.
const APART_AFTER: u32 = 4;

/// Longest wait after a failure that may pass by itself, in seconds.
pub const MAX_BACK_OFF: u64 = 60;

/// Longest wait after a refusal, which somebody has to look at, in seconds: each one counts as a failed attempt.
pub const MAX_REFUSED_BACK_OFF: u64 = 900;

/// One key under one statement kind.
///
/// Ordered by what is cheap to prove: where several are due, the first key attests at once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Task {
    /// The statement kind.
    pub kind: Kind,
    /// The key.
    pub key: KeyRef,
}

/// When to renew a record that was made at `made` and lasts `lifetime` seconds: before it expires.
pub fn renewal(made: Timestamp, lifetime: u64, rng: &mut impl Rng) -> Timestamp {
    let part = u128::from(rng.gen_range(RENEW));
    // The quotient is below `lifetime`.
    made.plus((u128::from(lifetime) * part / 100) as u64)
}

/// How long before its own time a record that lasts `lifetime` seconds may be renewed in company: as long as the
/// renewals of records that were made together can be apart.
pub fn company_window(lifetime: u64) -> u64 {
    (u128::from(lifetime) * u128::from(RENEW.end() - RENEW.start()) / 100) as u64
}

/// Seconds to wait after `failures` failures in a row: exponential with full jitter, at least one, at most `cap`.
pub fn back_off(failures: u32, cap: u64, rng: &mut impl Rng) -> u64 {
    let ceiling = 1_u64.checked_shl(failures).unwrap_or(u64::MAX).min(cap).max(1);
    rng.gen_range(1..=ceiling)
}

/// How long a failure keeps a task waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pause {
    /// It may pass by itself: at most [`MAX_BACK_OFF`].
    Short,
    /// Somebody has to look at it: at most [`MAX_REFUSED_BACK_OFF`].
    Long,
    /// The manager is busy and said when to come back: after so many seconds, but at most [`MAX_BACK_OFF`], and a short
    /// wait that spreads those it told the same.
    After(u64),
    /// Key or HSM are revoked: exactly this many seconds.
    Revoked(u64),
}

#[derive(Clone, Copy, Debug)]
struct State {
    due: Timestamp,
    failures: u32,
    /// The last claim of it failed for a reason that may be its own: it is claimed alone, until it succeeds.
    alone: bool,
}

impl State {
    const fn due_at(due: Timestamp) -> Self {
        Self { due, failures: 0, alone: false }
    }
}

/// When each task is due.
#[derive(Debug, Default)]
pub struct Schedule {
    tasks: BTreeMap<Task, State>,
}

impl Schedule {
    /// A schedule with nothing to do.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `wanted` the tasks: new ones are due when `first` says, those no longer wanted are forgotten.
    pub fn keep(&mut self, wanted: &[Task], first: impl Fn(&Task) -> Timestamp) {
        let known: BTreeSet<&Task> = wanted.iter().collect();
        self.tasks.retain(|task, _| known.contains(task));
        for task in wanted {
            self.tasks.entry(task.clone()).or_insert_with(|| State::due_at(first(task)));
        }
    }

    /// The task that is due first, and when; the cheapest kind among several due at once.
    pub fn next(&self) -> Option<(&Task, Timestamp)> {
        self.tasks.iter().map(|(task, state)| (task, state.due)).min_by_key(|(task, due)| (*due, *task))
    }

    /// Those that `task` can be claimed with, itself among them: at most `most` tasks of its kind that are due by
    /// `until`, soonest first. A task that has to be claimed alone is in no other's company.
    pub fn company(&self, task: &Task, until: Timestamp, most: usize) -> Vec<Task> {
        let fits = |(other, state): &(&Task, &State)| other.kind == task.kind && state.due <= until && !state.alone;
        let mut company: Vec<_> = self.tasks.iter().filter(fits).map(|(other, state)| (state.due, other)).collect();
        company.sort_unstable();
        company.truncate(most);
        let company: Vec<Task> = company.into_iter().map(|(_, other)| other.clone()).collect();
        if company.contains(task) { company } else { vec![task.clone()] }
    }

    /// The tasks that `which` names and that are due, soonest first, at most `most`.
    pub fn due(&self, now: Timestamp, most: usize, which: impl Fn(&Task) -> bool) -> Vec<Task> {
        let due = self.tasks.iter().filter(|(task, state)| state.due <= now && which(task));
        let mut due: Vec<_> = due.map(|(task, state)| (state.due, task)).collect();
        due.sort_unstable();
        due.into_iter().take(most).map(|(_, task)| task.clone()).collect()
    }

    /// A task succeeded: it is due again at `due`.
    pub fn succeeded(&mut self, task: &Task, due: Timestamp) {
        if let Some(state) = self.tasks.get_mut(task) {
            *state = State::due_at(due);
        }
    }

    /// Tasks failed together at `now`; says when they are due again, which is one time.
    pub fn failed(&mut self, tasks: &[Task], now: Timestamp, pause: Pause, rng: &mut impl Rng) -> Timestamp {
        let so_far = tasks.iter().filter_map(|task| self.tasks.get(task)).map(|state| state.failures).max();
        let Some(failures) = so_far.map(|failures| failures.saturating_add(1)) else { return now };
        let due = now.plus(match pause {
            Pause::Short => back_off(failures, MAX_BACK_OFF, rng),
            Pause::After(seconds) => seconds.min(MAX_BACK_OFF).saturating_add(back_off(failures, MAX_BACK_OFF, rng)),
            Pause::Long => back_off(failures.saturating_add(3), MAX_REFUSED_BACK_OFF, rng),
            Pause::Revoked(recheck) => recheck,
        });
        // A busy manager is no fault of a key's, and would be busier with many claims.
        let busy = matches!(pause, Pause::After(_));
        let alone = !busy && (failures >= APART_AFTER || (tasks.len() == 1 && pause != Pause::Short));
        for task in tasks {
            if let Some(state) = self.tasks.get_mut(task) {
                *state = State { due, failures, alone: state.alone || alone };
            }
        }
        due
    }

    /// A task is to be claimed at `now`, and alone.
    pub fn alone(&mut self, task: &Task, now: Timestamp) {
        if let Some(state) = self.tasks.get_mut(task) {
            *state = State { due: now, alone: true, ..*state };
        }
    }

    /// Puts every task that `which` names off until `until`.
    pub fn postpone(&mut self, until: Timestamp, which: impl Fn(&Task) -> bool) {
        for (_, state) in self.tasks.iter_mut().filter(|(task, _)| which(task)) {
            state.due = state.due.max(until);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn task(kind: Kind, key: &str) -> Task {
        Task { kind, key: KeyRef { key: key.parse().unwrap(), epoch: 1 } }
    }

    proptest! {
        #[test]
        fn a_renewal_comes_between_half_and_seven_tenths_of_the_lifetime(
            made in 0..1_u64 << 40, lifetime in 2..1_u64 << 40, seed: u64,
        ) {
            let due = renewal(Timestamp(made), lifetime, &mut StdRng::seed_from_u64(seed)).0;
            prop_assert!(due < made + lifetime, "never after expiry");
            prop_assert!(due >= made + lifetime / 2 && due <= made + lifetime * 7 / 10);
        }

        #[test]
        fn a_renewal_never_overflows(made: u64, lifetime: u64, seed: u64) {
            prop_assert!(renewal(Timestamp(made), lifetime, &mut StdRng::seed_from_u64(seed)).0 >= made);
        }

        #[test]
        fn a_back_off_is_at_least_a_second_and_at_most_its_cap(failures: u32, cap in 1..10_000_u64, seed: u64) {
            let wait = back_off(failures, cap, &mut StdRng::seed_from_u64(seed));
            prop_assert!(wait >= 1 && wait <= cap);
            prop_assert!(failures >= 63 || wait <= 1 << failures);
        }

        #[test]
        fn a_schedule_never_waits_longer_than_it_says(
            failures in 1..40_u32, long: bool, now in 0..1_u64 << 40, seed: u64,
        ) {
            let (mut schedule, mut rng) = (Schedule::new(), StdRng::seed_from_u64(seed));
            let signing = task(Kind::KeyKnowledgeEd25519, "signing");
            schedule.keep(std::slice::from_ref(&signing), |_| Timestamp(now));
            let (pause, cap) =
                if long { (Pause::Long, MAX_REFUSED_BACK_OFF) } else { (Pause::Short, MAX_BACK_OFF) };
            for _ in 0..failures {
                let due = schedule.failed(std::slice::from_ref(&signing), Timestamp(now), pause, &mut rng);
                prop_assert!(due.0 > now && due.0 <= now + cap);
                prop_assert_eq!(schedule.next().unwrap().1, due);
            }
        }
    }

    #[test]
    fn a_busy_manager_is_left_alone_as_long_as_it_asks_but_not_for_ever() {
        let (mut schedule, mut rng) = (Schedule::new(), StdRng::seed_from_u64(1));
        let signing = task(Kind::KeyKnowledgeEd25519, "signing");
        schedule.keep(std::slice::from_ref(&signing), |_| Timestamp(0));
        for (asked, least) in [(0, 1), (7, 8), (u64::MAX, MAX_BACK_OFF + 1), (1, 2), (1, 2), (1, 2)] {
            let pause = Pause::After(asked);
            let due = schedule.failed(std::slice::from_ref(&signing), Timestamp(100), pause, &mut rng).0 - 100;
            assert!(due >= least && due <= least - 1 + MAX_BACK_OFF, "{due}");
        }
        let other = task(Kind::KeyKnowledgeEd25519, "other");
        schedule.keep(&[signing.clone(), other.clone()], |_| Timestamp(0));
        assert_eq!(schedule.company(&other, Timestamp(1000), 64).len(), 2, "it is not claimed alone for that");
    }

    #[test]
    fn renewals_and_back_offs_are_spread() {
        let mut rng = StdRng::seed_from_u64(1);
        let spread = |values: Vec<u64>| values.iter().max().unwrap() - values.iter().min().unwrap();
        let renewals = (0..200).map(|_| renewal(Timestamp(0), 1000, &mut rng).0).collect();
        assert!(spread(renewals) > 150);
        let waits = (0..200).map(|_| back_off(20, MAX_BACK_OFF, &mut rng)).collect();
        assert!(spread(waits) > 45);
    }

    #[test]
    fn the_soonest_comes_first_and_the_cheapest_of_several() {
        let (slow, quick) = (task(Kind::KeyKnowledgeHalo2, "aes"), task(Kind::KeyKnowledgeEd25519, "signing"));
        let mut schedule = Schedule::new();
        assert!(schedule.next().is_none());
        schedule.keep(&[slow.clone(), quick.clone()], |_| Timestamp(5));
        assert_eq!(schedule.next(), Some((&quick, Timestamp(5))));
        schedule.succeeded(&quick, Timestamp(100));
        assert_eq!(schedule.next(), Some((&slow, Timestamp(5))));
        schedule.succeeded(&slow, Timestamp(99));
        assert_eq!(schedule.next(), Some((&slow, Timestamp(99))));
    }

    #[test]
    fn tasks_come_and_go_and_keep_their_time() {
        let (first, second) = (task(Kind::KeyKnowledgeP256, "first"), task(Kind::KeyKnowledgeP256, "second"));
        let mut schedule = Schedule::new();
        schedule.keep(std::slice::from_ref(&first), |_| Timestamp(1));
        schedule.succeeded(&first, Timestamp(50));
        schedule.keep(&[first.clone(), second.clone()], |_| Timestamp(2));
        assert_eq!(schedule.next(), Some((&second, Timestamp(2))));
        schedule.keep(std::slice::from_ref(&first), |_| Timestamp(3));
        assert_eq!(schedule.next(), Some((&first, Timestamp(50))));
    }

    #[test]
    fn a_task_is_in_company_until_it_fails_for_a_reason_of_its_own() {
        let (mut schedule, mut rng) = (Schedule::new(), StdRng::seed_from_u64(1));
        let tasks: Vec<_> =
            (0..20).map(|number| task(Kind::KeyKnowledgeGroth16, &format!("aes-{number:02}"))).collect();
        let other = task(Kind::KeyKnowledgeEd25519, "signing");
        let at = |number: usize| Timestamp(if number < 10 { 5 } else { 8 });
        let number = |task: &Task| tasks.iter().position(|known| known == task);
        schedule.keep(&[tasks.clone(), vec![other.clone()]].concat(), |task| number(task).map_or(Timestamp(0), at));
        let (first, rest) = tasks.split_first().unwrap();
        assert_eq!(schedule.company(first, Timestamp(8), 64), tasks);
        assert_eq!(schedule.company(first, Timestamp(8), 12), tasks.split_at(12).0);
        assert_eq!(schedule.company(first, Timestamp(7), 64), tasks.split_at(10).0);
        assert_eq!(schedule.company(&other, Timestamp(8), 64), std::slice::from_ref(&other));

        // What failed together for a reason that may pass stays together, for a while.
        for failures in 1..APART_AFTER {
            let due = schedule.failed(&tasks, Timestamp(10), Pause::Short, &mut rng);
            assert_eq!(schedule.company(first, due, 64), tasks, "{failures}");
            assert!(schedule.company(first, Timestamp(due.0 - 1), 64).len() == 1);
        }
        schedule.failed(&tasks, Timestamp(10), Pause::Short, &mut rng);
        assert_eq!(schedule.company(first, Timestamp(10_000), 64), std::slice::from_ref(first));
        tasks.iter().for_each(|task| schedule.succeeded(task, Timestamp(100)));
        assert_eq!(schedule.company(first, Timestamp(100), 64), tasks);

        // One that was refused on its own, or is suspected, does not come along until it succeeds.
        schedule.failed(std::slice::from_ref(first), Timestamp(10), Pause::Long, &mut rng);
        let (second, rest) = rest.split_first().unwrap();
        schedule.alone(second, Timestamp(20));
        assert_eq!(schedule.company(second, Timestamp(10_000), 64), std::slice::from_ref(second));
        let third = rest.first().unwrap();
        assert_eq!(schedule.company(third, Timestamp(10_000), 64), rest);
        schedule.succeeded(second, Timestamp(100));
        assert_eq!(schedule.company(third, Timestamp(100), 64).len(), 19);
    }

    #[test]
    fn records_that_were_made_together_can_be_renewed_together() {
        let mut rng = StdRng::seed_from_u64(1);
        let renewals: Vec<_> = (0..1000).map(|_| renewal(Timestamp(0), 600, &mut rng).0).collect();
        let (first, last) = (renewals.iter().min().unwrap(), renewals.iter().max().unwrap());
        assert!(first + company_window(600) >= *last && company_window(600) < 600 / 2);
        assert!(company_window(u64::MAX) > 0);
    }

    #[test]
    fn a_revocation_waits_for_exactly_the_recheck() {
        let (first, second) = (task(Kind::KeyKnowledgeP256, "first"), task(Kind::KeyKnowledgeP256, "second"));
        let (mut schedule, mut rng) = (Schedule::new(), StdRng::seed_from_u64(1));
        schedule.keep(&[first.clone(), second.clone()], |_| Timestamp(10));
        let until = schedule.failed(std::slice::from_ref(&first), Timestamp(10), Pause::Revoked(3600), &mut rng);
        assert_eq!(until, Timestamp(3610));
        schedule.postpone(until, |task| task.key == second.key);
        assert_eq!(schedule.next(), Some((&first, Timestamp(3610))));
        schedule.succeeded(&first, Timestamp(9999));
        assert_eq!(schedule.next(), Some((&second, Timestamp(3610))));
    }
}
