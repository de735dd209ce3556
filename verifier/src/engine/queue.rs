//! What waits, what may begin, and in what order. Pure: starts no thread and reads no clock.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use keywitness_circuits::{HsmId, Kind};

use super::{EngineConfig, EngineError, Priority, Work, suspects::Suspects, ticket::Slot};

/// A source holds at most this part of the places for fresh work, and of their bytes.
const SHARE: usize = 8;

/// While fresh work waits or runs, one round of isolated sources may begin after so many fresh ones, and one of audits.
const ISOLATED_EVERY: u32 = 4;
const AUDIT_EVERY: u32 = 8;

/// While fresh work waits or runs, a round of anything else takes this part of a best batch.
const BACKGROUND: usize = 8;

/// Limits of what is suggested to a caller that is turned away.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How many proofs are best checked together.
///
/// Large enough that what a set pays once is small beside what each proof pays; small enough that a set takes little time
/// of those who wait behind it, and of a search where it fails. In a set of 1,024, a Schnorr or EdDSA proof takes some 20 to
/// 40 µs, opening included, so that the set takes some tens of milliseconds of one core. A multi-scalar multiplication gains
/// by its logarithm: with four times as many, a proof would take a fifth to a third less. A set of Groth16 proofs shares a
/// final exponentiation and the pairings with the fixed points; one of halo2 proofs shares the multiplication with all the
/// bases of the circuit's size, which is most of a single check.
pub(super) const fn best_size(kind: Kind) -> usize {
    match kind {
        Kind::KeyKnowledgeEd25519
        | Kind::KeyKnowledgeRistretto255
        | Kind::KeyKnowledgeP256
        | Kind::KeyKnowledgeSecp256k1
        | Kind::ShareCorrectnessFeldman
        | Kind::ShareCorrectnessPedersen => 1024,
        Kind::KeyKnowledgeGroth16 | Kind::ManyKeysGroth16 => 256,
        // Checked one by one: a set gains nothing but the threads that share it.
        Kind::KeyPossessionP256 | Kind::KeyPossessionSecp256k1 => 128,
        Kind::KeyKnowledgeHalo2
        | Kind::ManyKeysHalo2
        | Kind::TaggedKeyHalo2
        | Kind::SharingOfKeyHalo2
        | Kind::KeyDerivationHalo2 => 64,
    }
}

/// Where work stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// Somebody waits for it.
    Fresh,
    /// The same, of a source that had a bad proof.
    Isolated,
    /// An audit's.
    Audit,
}

/// A proof that waits, or is being checked. Whoever drops it unanswered has failed at it, and says so.
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) slot: Arc<Slot>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.slot.answer(Err(EngineError::Internal));
    }
}

/// Jobs and their bytes.
#[derive(Clone, Copy, Default, Debug)]
struct Load {
    jobs: usize,
    bytes: usize,
}

impl Load {
    fn add(&mut self, bytes: usize) {
        self.jobs += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.jobs = self.jobs.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether there is room for one more. A job that is alone always fits.
    const fn takes(&self, bytes: usize, limit: Self) -> bool {
        self.jobs == 0 || (self.jobs < limit.jobs && self.bytes + bytes <= limit.bytes)
    }
}

/// The jobs of one kind and class, in the order of their numbers, and how many rounds of them run.
#[derive(Default)]
struct Waiting {
    jobs: BTreeMap<u64, Job>,
    rounds: usize,
}

impl Waiting {
    fn first(&self) -> Option<u64> {
        self.jobs.first_key_value().map(|(number, _)| *number)
    }
}

/// One kind's work.
struct Lane {
    fresh: Waiting,
    isolated: Waiting,
    audit: Waiting,
    /// How long a proof takes, in seconds: of the newest rounds, weighted.
    pace: f64,
}

impl Lane {
    fn new() -> Self {
        let (fresh, isolated, audit) = Default::default();
        Self { fresh, isolated, audit, pace: 0.001 }
    }

    const fn of(&self, class: Class) -> &Waiting {
        match class {
            Class::Fresh => &self.fresh,
            Class::Isolated => &self.isolated,
            Class::Audit => &self.audit,
        }
    }

    const fn of_mut(&mut self, class: Class) -> &mut Waiting {
        match class {
            Class::Fresh => &mut self.fresh,
            Class::Isolated => &mut self.isolated,
            Class::Audit => &mut self.audit,
        }
    }
}

/// Jobs that are checked together.
pub(super) struct Batch {
    pub(super) kind: Kind,
    pub(super) class: Class,
    pub(super) jobs: Vec<Job>,
}

/// All that waits.
pub(super) struct Queue {
    lanes: BTreeMap<Kind, Lane>,
    fresh: Load,
    audit: Load,
    sources: HashMap<HsmId, Load>,
    limit: Load,
    threads: usize,
    next: u64,
    since_isolated: u32,
    since_audit: u32,
}

impl Queue {
    pub(super) fn new(config: &EngineConfig) -> Self {
        Self {
            lanes: BTreeMap::new(),
            fresh: Load::default(),
            audit: Load::default(),
            sources: HashMap::new(),
            limit: Load { jobs: config.queue.max(1), bytes: config.queue_bytes },
            threads: config.threads.max(1),
            next: 0,
            since_isolated: 0,
            since_audit: 0,
        }
    }

    /// How many jobs wait.
    pub(super) const fn len(&self) -> usize {
        self.fresh.jobs + self.audit.jobs
    }

    /// How many rounds run.
    pub(super) fn rounds(&self) -> usize {
        self.lanes.values().map(|lane| lane.fresh.rounds + lane.isolated.rounds + lane.audit.rounds).sum()
    }

    /// Whether there is room for this work.
    ///
    /// # Errors
    /// [`EngineError::Busy`] where there is none, or its source has its share already. Audits have room of
    /// their own, and no shares: those whose proofs are audited do not send them.
    pub(super) fn room(&self, work: &Work) -> Result<(), EngineError> {
        let bytes = work.bytes();
        let share = Load { jobs: (self.limit.jobs / SHARE).max(1), bytes: self.limit.bytes / SHARE };
        let room = match work.priority {
            Priority::Audit => self.audit.takes(bytes, self.limit),
            Priority::Fresh => {
                let own = self.sources.get(&work.source).copied().unwrap_or_default();
                self.fresh.takes(bytes, self.limit) && own.takes(bytes, share)
            }
        };
        if room { Ok(()) } else { Err(EngineError::Busy { retry_after: self.wait() }) }
    }

    /// Takes a job in, for which there must be [room](Self::room), and gives it a number.
    pub(super) fn push(&mut self, kind: Kind, job: Job, isolated: bool) -> u64 {
        let class = match job.work.priority {
            Priority::Audit => Class::Audit,
            Priority::Fresh if isolated => Class::Isolated,
            Priority::Fresh => Class::Fresh,
        };
        self.count(&job, Load::add);
        let number = self.next;
        self.next += 1;
        self.lanes.entry(kind).or_insert_with(Lane::new).of_mut(class).jobs.insert(number, job);
        number
    }

    /// Takes a job out again that has not begun.
    pub(super) fn remove(&mut self, kind: Kind, number: u64) -> Option<Job> {
        let lane = self.lanes.get_mut(&kind)?;
        let job = [Class::Fresh, Class::Isolated, Class::Audit]
            .into_iter()
            .find_map(|class| lane.of_mut(class).jobs.remove(&number))?;
        self.count(&job, Load::remove);
        Some(job)
    }

    /// The next batch that may begin, if there is one: its round runs until [`Self::ended`].
    pub(super) fn begin(&mut self, suspects: &Suspects, now: Instant) -> Option<Batch> {
        while let Some((kind, class, size)) = self.choose() {
            let mut jobs = Vec::with_capacity(size.min(64));
            while jobs.len() < size {
                let Some((number, job)) = self.lanes.get_mut(&kind)?.of_mut(class).jobs.pop_first() else { break };
                if class == Class::Fresh && suspects.isolates(&job.work.source, now) {
                    // Its source had a bad proof since it came.
                    self.lanes.get_mut(&kind)?.isolated.jobs.insert(number, job);
                    continue;
                }
                self.count(&job, Load::remove);
                jobs.push(job);
            }
            if jobs.is_empty() {
                continue;
            }
            match class {
                Class::Fresh => {
                    self.since_isolated = self.since_isolated.saturating_add(1);
                    self.since_audit = self.since_audit.saturating_add(1);
                }
                Class::Isolated => self.since_isolated = 0,
                Class::Audit => self.since_audit = 0,
            }
            self.lanes.get_mut(&kind)?.of_mut(class).rounds += 1;
            return Some(Batch { kind, class, jobs });
        }
        None
    }

    /// A round of so many jobs ended after `time`.
    pub(super) fn ended(&mut self, kind: Kind, class: Class, jobs: usize, time: Duration) {
        let Some(lane) = self.lanes.get_mut(&kind) else { return };
        let waiting = lane.of_mut(class);
        waiting.rounds = waiting.rounds.saturating_sub(1);
        if jobs > 0 {
            lane.pace += (time.as_secs_f64() / jobs as f64 - lane.pace) / 4.0;
        }
    }

    /// Everything that waits.
    pub(super) fn drain(&mut self) -> Vec<Job> {
        (self.fresh, self.audit) = Default::default();
        self.sources.clear();
        let mut jobs = Vec::new();
        for lane in self.lanes.values_mut() {
            for class in [Class::Fresh, Class::Isolated, Class::Audit] {
                jobs.extend(std::mem::take(&mut lane.of_mut(class).jobs).into_values());
            }
        }
        jobs
    }

    /// How long what waits will take, at the pace of the newest rounds.
    fn wait(&self) -> Duration {
        let seconds: f64 =
            self.lanes.values().map(|lane| lane.pace * (lane.fresh.jobs.len() + lane.isolated.jobs.len()) as f64).sum();
        Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_WAIT).clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }

    fn count(&mut self, job: &Job, change: fn(&mut Load, usize)) {
        let bytes = job.work.bytes();
        match job.work.priority {
            Priority::Audit => change(&mut self.audit, bytes),
            Priority::Fresh => {
                change(&mut self.fresh, bytes);
                let own = self.sources.entry(job.work.source.clone()).or_default();
                change(own, bytes);
                if own.jobs == 0 {
                    self.sources.remove(&job.work.source);
                }
            }
        }
    }

    /// What begins next, and at most how many of it.
    ///
    /// A kind's work begins when none of it is being checked, however little there is: nothing waits for company. What comes in
    /// the meantime is the next batch. Only a whole batch begins beside another one of its kind, while there are
    /// threads for it.
    fn choose(&self) -> Option<(Kind, Class, usize)> {
        let running = self.rounds();
        let fresh = self.lanes.values().any(|lane| lane.fresh.rounds > 0 || !lane.fresh.jobs.is_empty());
        let oldest = |class: Class, may: &dyn Fn(Kind, &Waiting) -> bool| {
            let able = self.lanes.iter().filter(|(kind, lane)| may(**kind, lane.of(class)));
            able.filter_map(|(kind, lane)| Some((lane.of(class).first()?, *kind))).min().map(|(_, kind)| kind)
        };
        let free = |kind: Kind, waiting: &Waiting| {
            waiting.rounds == 0 || (running < self.threads && waiting.jobs.len() >= best_size(kind))
        };
        let background =
            [(Class::Isolated, self.since_isolated >= ISOLATED_EVERY), (Class::Audit, self.since_audit >= AUDIT_EVERY)];
        if !fresh {
            let all = background.into_iter().find_map(|(class, _)| Some((oldest(class, &free)?, class)));
            return all.map(|(kind, class)| (kind, class, best_size(kind)));
        }
        for (class, due) in background {
            let runs = self.lanes.values().any(|lane| lane.of(class).rounds > 0);
            if due
                && !runs
                && let Some(kind) = oldest(class, &|_, _| true)
            {
                return Some((kind, class, (best_size(kind) / BACKGROUND).max(1)));
            }
        }
        oldest(Class::Fresh, &free).map(|kind| (kind, Class::Fresh, best_size(kind)))
    }
}
