//! ReattestKeys: when each key is attested again. Pure functions of time and chance.
//!
//! Each task has a slot in a period of six tenths of a record's life, and is renewed in its slot, period after period. The slots of
//! an HSM's tasks are even over the period, so that its load is flat, whatever happened: a start or a manager's absence makes many
//! tasks due at once, and the next time each is due in its own slot again.

use std::collections::{BTreeMap, BTreeSet};

use keywitness_circuits::{HsmId, KeyAttributes, Kind, Timestamp};
use keywitness_verifier::wire::KeyRef;
use rand::Rng;
use sha2::{Digest as _, Sha256};

use super::batch::in_batch;
use crate::store::KeyEntry;

/// A record is renewed at least so many hundredths of its life after it was made.
const EARLIEST: u64 = 10;

/// From a slot to the next one, in hundredths of a record's life. Together with [`EARLIEST`] it leaves three tenths for a manager that is away.
const PERIOD: u64 = 60;

/// So many hundredths of a record's life are left when it is renewed at the latest.
const LATEST: u64 = 100 - EARLIEST - PERIOD;

/// How long before its own time a record may be renewed in a batch, in hundredths of its life.
const AHEAD: u64 = 1;

/// How long before its own time a record may be renewed in one claim with others, in hundredths of its life.
const COMPANY: u64 = 20;

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

impl Task {
    /// Who does it.
    pub const fn lane(&self) -> Lane {
        if in_batch(self.kind) { Lane::Signatures } else { Lane::Proofs }
    }
}

/// Who does a task: signatures do not wait for proofs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Signatures and Schnorr proofs, which go in batches.
    Signatures,
    /// SNARKs.
    Proofs,
}

/// A part of `lifetime`, in hundredths of it.
const fn part(lifetime: u64, hundredths: u64) -> u64 {
    // The quotient is at most `lifetime`.
    ((lifetime as u128 * hundredths as u128) / 100) as u64
}

/// When to renew a record that was made at `made` and lasts `lifetime` seconds: in the only slot between a tenth and seven tenths
/// of its life that is at `phase`, in parts of 2^64 of a period.
pub fn slot(made: Timestamp, lifetime: u64, phase: u64) -> Timestamp {
    let period = part(lifetime, PERIOD).max(1);
    let at = ((u128::from(phase) * u128::from(period)) >> 64) as u64;
    let earliest = made.plus(part(lifetime, EARLIEST).max(1));
    let behind = earliest.0 % period;
    let wait = if at >= behind { at - behind } else { period - (behind - at) };
    earliest.plus(wait)
}

/// How long before its own time a record that lasts `lifetime` seconds may be renewed in a batch of claims.
pub const fn batch_window(lifetime: u64) -> u64 {
    part(lifetime, AHEAD)
}

/// How long before its own time a record that lasts `lifetime` seconds may be renewed in one claim with others.
pub const fn company_window(lifetime: u64) -> u64 {
    part(lifetime, COMPANY)
}

/// Seconds to wait after `failures` failures in a row: exponential with full jitter, at least one, at most `cap`.
pub fn back_off(failures: u32, cap: u64, rng: &mut impl Rng) -> u64 {
    let ceiling = 1_u64.checked_shl(failures).unwrap_or(u64::MAX).min(cap).max(1);
    rng.gen_range(1..=ceiling)
}

/// How long a failure keeps a task waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pause {
    /// Nobody answered. The task keeps its place, unless that happens to it again: then at most [`MAX_BACK_OFF`].
    Unanswered,
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

/// How long a record is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// When it expires, by the clock that nobody sets.
    pub expires: Timestamp,
    /// When it expires, by the clock that people read.
    pub on_the_wall: Timestamp,
    /// From its beginning to its end, in seconds.
    pub lifetime: u64,
}

/// When a task that is new is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct First {
    /// When.
    pub due: Timestamp,
    /// The life of the record from before.
    pub life: Option<Life>,
}

#[derive(Clone, Debug)]
struct State {
    due: Timestamp,
    /// When the newest record expires, by the clock that nobody sets, or before that by the other one.
    expires: Option<Timestamp>,
    /// The newest record's life.
    life: Option<Life>,
    failures: u32,
    /// The last claim of it failed for a reason that may be its own: it is claimed alone, until it succeeds.
    alone: bool,
    /// The store did not do its part of it while it did that of others: it is in no batch, until it succeeds.
    apart: bool,
    phase: u64,
    attributes: KeyAttributes,
}

impl State {
    /// Whether it can be claimed now although it is due only by `until`: what failed waits its time.
    fn fits(&self, now: Timestamp, until: Timestamp) -> bool {
        self.due <= now || (self.due <= until && self.failures == 0)
    }
}

/// How the tasks stand.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Tasks with a record in force.
    pub in_force: usize,
    /// Tasks whose record has expired.
    pub expired: usize,
    /// Tasks that have had none yet.
    pub unproven: usize,
    /// Those of them all whose last attempt failed.
    pub failing: usize,
    /// Those of them all that are due.
    pub due: usize,
    /// For how many seconds the one that waits longest has been due.
    pub late: u64,
}

/// When each task is due.
#[derive(Debug, Default)]
pub struct Timetable {
    tasks: BTreeMap<Task, State>,
    signatures: BTreeSet<(Timestamp, Task)>,
    proofs: BTreeSet<(Timestamp, Task)>,
    /// Nothing is due before.
    held: Timestamp,
}

impl Timetable {
    /// A timetable with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Makes `wanted` the tasks, and gives each its slot; those no longer wanted are forgotten. Tasks of a kind that are claimed `together`,
    /// so many at once, have one slot. New tasks are due when `first` says, which is told their phase.
    pub fn keep(
        &mut self,
        hsm: &HsmId,
        wanted: impl IntoIterator<Item = (Kind, KeyEntry)>,
        together: impl Fn(Kind, usize) -> usize,
        first: impl Fn(&Task, u64) -> First,
    ) {
        let mut kinds: BTreeMap<Kind, BTreeMap<KeyRef, KeyAttributes>> = BTreeMap::new();
        for (kind, entry) in wanted {
            kinds.entry(kind).or_default().insert(entry.key, entry.attributes);
        }
        self.tasks.retain(|task, _| kinds.get(&task.kind).is_some_and(|keys| keys.contains_key(&task.key)));
        let tasks = &self.tasks;
        self.signatures.retain(|(_, task)| tasks.contains_key(task));
        self.proofs.retain(|(_, task)| tasks.contains_key(task));
        for (kind, keys) in kinds {
            let (offset, count, together) = (offset(hsm, kind), keys.len(), together(kind, keys.len()).max(1));
            for (rank, (key, attributes)) in keys.into_iter().enumerate() {
                let (task, phase) = (Task { kind, key }, phase(offset, rank / together, count.div_ceil(together)));
                match self.tasks.get_mut(&task) {
                    Some(state) => (state.phase, state.attributes) = (phase, attributes),
                    None => {
                        let First { due, life } = first(&task, phase);
                        self.order(task.lane()).insert((due, task.clone()));
                        let expires = life.map(|life| life.expires);
                        let (alone, apart) = (false, false);
                        let state = State { due, expires, life, failures: 0, alone, apart, phase, attributes };
                        self.tasks.insert(task, state);
                    }
                }
            }
        }
    }

    fn order(&mut self, lane: Lane) -> &mut BTreeSet<(Timestamp, Task)> {
        match lane {
            Lane::Signatures => &mut self.signatures,
            Lane::Proofs => &mut self.proofs,
        }
    }

    const fn ordered(&self, lane: Lane) -> &BTreeSet<(Timestamp, Task)> {
        match lane {
            Lane::Signatures => &self.signatures,
            Lane::Proofs => &self.proofs,
        }
    }

    fn change(&mut self, task: &Task, change: impl FnOnce(&mut State)) {
        let Some(state) = self.tasks.get_mut(task) else { return };
        let before = state.due;
        change(state);
        let after = state.due;
        if before != after {
            let order = self.order(task.lane());
            order.remove(&(before, task.clone()));
            order.insert((after, task.clone()));
        }
    }

    /// The task of a lane that is due first, and when; the cheapest kind among several due at once.
    pub fn next(&self, lane: Lane) -> Option<(&Task, Timestamp)> {
        self.ordered(lane).first().map(|(due, task)| (task, (*due).max(self.held)))
    }

    /// How many tasks of a lane are due.
    pub fn backlog(&self, lane: Lane, now: Timestamp) -> usize {
        self.ordered(lane).iter().take_while(|(due, _)| *due <= now).count()
    }

    /// The key of a task.
    pub fn entry(&self, task: &Task) -> Option<KeyEntry> {
        let state = self.tasks.get(task)?;
        Some(KeyEntry { key: task.key.clone(), attributes: state.attributes.clone() })
    }

    /// When the newest record of a task expires.
    pub fn expiry(&self, task: &Task) -> Option<Timestamp> {
        self.tasks.get(task)?.expires
    }

    /// Those that `task` can be claimed with, itself among them: at most `most` tasks of its kind that are due by
    /// `until`, soonest first. A task that has to be claimed alone is in no other's company.
    pub fn company(&self, task: &Task, now: Timestamp, until: Timestamp, most: usize) -> Vec<Task> {
        let fits = |other: &Task, state: &State| other.kind == task.kind && state.fits(now, until) && !state.alone;
        let company = self.soonest(task.lane(), until.max(now), most, fits);
        if company.contains(task) { company } else { vec![task.clone()] }
    }

    /// The tasks of a lane that are due, or will be by `until`, soonest first, at most `most`. One that is apart is in no batch: it goes by
    /// itself, when it is the first.
    pub fn due(&self, lane: Lane, now: Timestamp, until: Timestamp, most: usize) -> Vec<Task> {
        let until = until.max(now);
        match self.ordered(lane).first() {
            Some((due, first)) if *due <= until && self.is_apart(first) => vec![first.clone()],
            _ => self.soonest(lane, until, most, |_, state| state.fits(now, until) && !state.apart),
        }
    }

    /// At most `most` tasks of the kind of `task` that are due, itself among them; where it is apart, itself alone.
    pub fn alike(&self, task: &Task, now: Timestamp, most: usize) -> Vec<Task> {
        let fits = |other: &Task, state: &State| other.kind == task.kind && !state.apart;
        let alike = self.soonest(task.lane(), now, most, fits);
        if alike.contains(task) { alike } else { vec![task.clone()] }
    }

    fn is_apart(&self, task: &Task) -> bool {
        self.tasks.get(task).is_some_and(|state| state.apart)
    }

    fn soonest(&self, lane: Lane, until: Timestamp, most: usize, which: impl Fn(&Task, &State) -> bool) -> Vec<Task> {
        let by_then = self.ordered(lane).iter().take_while(|(due, _)| *due <= until);
        let tasks = by_then.filter(|(_, task)| self.tasks.get(task).is_some_and(|state| which(task, state)));
        tasks.take(most).map(|(_, task)| task.clone()).collect()
    }

    /// When a task is to be renewed whose record was made at `made` and lasts `lifetime` seconds.
    pub fn renewal(&self, task: &Task, made: Timestamp, lifetime: u64) -> Timestamp {
        slot(made, lifetime, self.tasks.get(task).map_or(0, |state| state.phase))
    }

    /// A task succeeded: its record has this life, and it is due again at `due`.
    pub fn succeeded(&mut self, task: &Task, due: Timestamp, life: Life) {
        self.change(task, |state| {
            (state.due, state.failures, state.alone, state.apart) = (due, 0, false, false);
            (state.expires, state.life) = (Some(life.expires), Some(life));
        });
    }

    /// The clock that people read was set, or time passed that the other clock has not seen: the one says `wall` where the other says `now`.
    /// A record expires when either of them says so, and is renewed so long before that as any; what failed waits its time.
    /// Says how many tasks are due now by that.
    pub fn set_clock(&mut self, now: Timestamp, wall: Timestamp) -> usize {
        let steady = |time: Timestamp| Timestamp(now.plus(time.since(wall)).0.saturating_sub(wall.since(time)));
        let mut sooner = Vec::new();
        for (task, state) in &mut self.tasks {
            let Some(life) = state.life else { continue };
            state.expires = Some(life.expires.min(steady(life.on_the_wall)));
            let latest = steady(Timestamp(life.on_the_wall.0.saturating_sub(part(life.lifetime, LATEST))));
            if state.failures == 0 && latest < state.due {
                sooner.push((task.clone(), latest));
            }
        }
        for (task, latest) in &sooner {
            self.change(task, |state| state.due = *latest);
        }
        sooner.iter().filter(|(_, due)| *due <= now).count()
    }

    /// Tasks failed together at `now`; says when they are due again, which is one time.
    pub fn failed(&mut self, tasks: &[Task], now: Timestamp, pause: Pause, rng: &mut impl Rng) -> Timestamp {
        let so_far = tasks.iter().filter_map(|task| self.tasks.get(task)).map(|state| state.failures).max();
        let Some(failures) = so_far.map(|failures| failures.saturating_add(1)) else { return now };
        let due = now.plus(match pause {
            Pause::Unanswered if failures == 1 => 0,
            Pause::Unanswered | Pause::Short => back_off(failures, MAX_BACK_OFF, rng),
            Pause::After(seconds) => seconds.min(MAX_BACK_OFF).saturating_add(back_off(failures, MAX_BACK_OFF, rng)),
            Pause::Long => back_off(failures.saturating_add(3), MAX_REFUSED_BACK_OFF, rng),
            Pause::Revoked(recheck) => recheck,
        });
        let in_place = pause == Pause::Unanswered && failures == 1;
        // A busy manager is no fault of a key's, and would be busier with many claims.
        let busy = matches!(pause, Pause::After(_));
        let passing = matches!(pause, Pause::Short | Pause::Unanswered);
        let alone = !busy && (failures >= APART_AFTER || (tasks.len() == 1 && !passing));
        for task in tasks {
            self.change(task, |state| {
                (state.failures, state.alone) = (failures, state.alone || alone);
                state.due = if in_place { state.due.min(due) } else { due };
            });
        }
        due
    }

    /// A task is to be claimed at `now`, and alone.
    pub fn alone(&mut self, task: &Task, now: Timestamp) {
        self.change(task, |state| (state.due, state.alone) = (now, true));
    }

    /// The store failed over this task while it did its part of others.
    pub fn apart(&mut self, task: &Task) {
        self.change(task, |state| state.apart = true);
    }

    /// Puts every task that `which` names off until `until`.
    pub fn postpone(&mut self, until: Timestamp, which: impl Fn(&Task) -> bool) {
        let late = self.tasks.iter().filter(|(task, state)| state.due < until && which(task));
        for task in late.map(|(task, _)| task.clone()).collect::<Vec<_>>() {
            self.change(&task, |state| state.due = until);
        }
    }

    /// Nothing is due before `until`. Each task keeps its place, so that afterwards what expires soonest comes first.
    pub fn hold(&mut self, until: Timestamp) {
        self.held = self.held.max(until);
    }

    /// How the tasks stand.
    pub fn tally(&self, now: Timestamp) -> Tally {
        let mut tally = Tally::default();
        for state in self.tasks.values() {
            match state.expires {
                Some(expires) if now < expires => tally.in_force += 1,
                Some(_) => tally.expired += 1,
                None => tally.unproven += 1,
            }
            tally.failing += usize::from(state.failures > 0);
            if state.due <= now {
                tally.due += 1;
                tally.late = tally.late.max(now.since(state.due));
            }
        }
        tally
    }
}

/// Where the slots of an HSM's tasks of one kind begin: HSMs that hold the same keys do not come all at once.
fn offset(hsm: &HsmId, kind: Kind) -> u64 {
    let digest = Sha256::new().chain_update(kind.name()).chain_update([0]).chain_update(hsm.as_str()).finalize();
    digest.first_chunk().map_or(0, |start| u64::from_be_bytes(*start))
}

/// The phase of one slot of so many that are even over the period.
fn phase(offset: u64, number: usize, slots: usize) -> u64 {
    // The number is below that of the slots.
    offset.wrapping_add((((number as u128) << 64) / (slots.max(1) as u128)) as u64)
}
