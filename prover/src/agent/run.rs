//! ReattestKeys: what keeps every record fresh.
//!
//! Two lanes work side by side, so that no signature waits for a SNARK: one signs and does the chores, the other proves. Whoever finds the
//! manager away holds both; the first looks for it, and when it is back, what expires soonest comes first.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use keywitness_circuits::{Kind, Suite, Timestamp, context::MAX_KEYS};
use keywitness_verifier::{
    identity::MAX_SKEW,
    wire::{ChannelAnnouncement, KeyRef, ProblemKind, StatementInfo, TrustDomainInfo},
};
use rand::Rng;

use super::{
    Agent, AgentError, AgentEvent, AttestError, Enrolled, attest,
    batch::MOST,
    error::printable,
    journal::{self, Entry},
    lock,
    timetable::{self, First, Lane, Life, Pause, Tally, Task, Timetable, slot},
    together::{Fate, many_from},
};
use crate::{
    clock::Stop,
    store::{KeyEntry, StoreError, current_keys},
};

/// Longest sleep: then the agent looks for new keys.
const IDLE: Duration = Duration::from_secs(5);

/// Longest sleep of the lane that proves: then it looks whether there are new keys to prove.
const PROOFS_IDLE: Duration = Duration::from_secs(1);

/// How often the agent asks for shares that were dealt to its HSM, in seconds.
const SHARES: u64 = 30;

/// Most SNARKs of one key each that are delivered at once.
const PROOFS: usize = 16;

/// In what part of a challenge's life those are made.
const PATIENCE: u32 = 8;

/// Longest rest between two claims of a backlog.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// What the lanes share.
#[derive(Default)]
pub(super) struct Board {
    pub(super) timetable: Timetable,
    /// How long an attestation by a SNARK of one key took last.
    paces: BTreeMap<Kind, Duration>,
    away: Option<Away>,
    /// There is a backlog since the manager was away.
    catching_up: [bool; 2],
    /// How far the clock that people read was ahead of the other one when the timetable was last reckoned, in seconds.
    ahead: Option<i128>,
}

impl Board {
    const fn catching_up(&mut self, lane: Lane) -> &mut bool {
        let [signatures, proofs] = &mut self.catching_up;
        match lane {
            Lane::Signatures => signatures,
            Lane::Proofs => proofs,
        }
    }
}

/// The manager is away.
#[derive(Clone, Copy)]
struct Away {
    /// How often it was looked for.
    failures: u32,
    /// When it is looked for again.
    until: Timestamp,
}

/// What an agent can tell of itself.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Health {
    /// How its keys stand, each under each statement that it proves.
    pub tally: Tally,
    /// Whether the manager answers, as far as is known.
    pub manager_answers: bool,
    /// Whether the manager has answered since the start, so that the keys have their places.
    pub begun: bool,
}

/// What the first lane does besides.
struct Chores<'a> {
    announcement: Option<(&'a str, Timestamp, u32)>,
    shares_due: Timestamp,
    certificate_due: Timestamp,
    list_due: Timestamp,
    listed: Option<Listed>,
}

/// What the timetable was made of.
#[derive(PartialEq)]
struct Listed {
    keys: Vec<KeyEntry>,
    suites: Vec<Suite>,
    statements: Vec<StatementInfo>,
}

/// Ends the other lane with this one, where this one panics.
struct Together<'a>(&'a Stop);

impl Drop for Together<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// How long to rest in the midst of a backlog after claims that `took` so long: about as long, unless resting would cost a record its
/// freshness, since the first expires in `slack` and there are so many claims `left`.
pub(super) fn rest(took: Duration, left: usize, slack: Duration, rng: &mut impl Rng) -> Duration {
    let whole = took.saturating_mul(2).saturating_mul(u32::try_from(left).unwrap_or(u32::MAX));
    if whole >= slack { Duration::ZERO } else { took.mul_f64(rng.gen_range(0.5..1.5)).min(LONGEST_REST) }
}

/// How many proofs that take so long each are delivered at once: as many as are made in a small part of a challenge's life.
pub(super) fn proofs_at_once(pace: Duration, challenge_ttl: u64) -> usize {
    let room = Duration::from_secs(challenge_ttl) / PATIENCE;
    usize::try_from(room.as_millis() / pace.as_millis().max(1)).unwrap_or(usize::MAX).clamp(1, PROOFS)
}

impl Agent {
    /// Attests, and attests again before each record expires, until `stop` is raised.
    ///
    /// # Errors
    /// Where the agent cannot begin: the HSM is not enrolled, or another manager answers than it enrolled with. Later
    /// trouble is told to the observer and the log, and the agent tries again.
    pub fn run(&self, stop: &Stop) -> Result<(), AgentError> {
        let enrolled = self.enrolled()?;
        let records = self.records(&enrolled)?;
        self.remember(&records);
        *lock(&self.board) = Board::default();
        let mut chores = Chores {
            announcement: self.config.channel_url.as_deref().map(|url| (url, Timestamp(0), 0)),
            shares_due: Timestamp(0),
            certificate_due: Timestamp(0),
            list_due: Timestamp(0),
            listed: None,
        };
        self.mind_the_clock();
        let mut begun = None;
        while begun.is_none() && !stop.is_stopped() {
            begun = self.meet(&enrolled, &mut chores, true, stop)?;
        }
        if begun.is_none() {
            return Ok(());
        }
        self.begun.store(false, Ordering::Relaxed);
        thread::scope(|scope| {
            let _together = Together(stop);
            let prove = || {
                let _together = Together(stop);
                self.prove(&enrolled, stop);
            };
            let failed = |error| StoreError::Process(format!("a thread cannot be started: {error}"));
            thread::Builder::new().name("proofs".to_owned()).spawn_scoped(scope, prove).map_err(failed)?;
            while !stop.is_stopped() {
                self.mind_the_clock();
                if let Ok(Some(info)) = self.meet(&enrolled, &mut chores, false, stop) {
                    self.tend(&enrolled, &info, &records, &mut chores, stop);
                    let wait = self.take_turn(Lane::Signatures, &enrolled, &info, stop);
                    stop.wait(wait.min(IDLE));
                }
            }
            Ok(())
        })
    }

    /// How the agent is doing.
    pub fn health(&self) -> Health {
        let board = lock(&self.board);
        let begun = self.begun.load(Ordering::Relaxed);
        Health {
            tally: board.timetable.tally(self.clock.steady()),
            manager_answers: begun && board.away.is_none(),
            begun,
        }
    }

    /// The manager's description of its trust domain; none where it cannot be had, which was waited for then.
    fn meet(
        &self,
        enrolled: &Enrolled,
        chores: &mut Chores<'_>,
        first: bool,
        stop: &Stop,
    ) -> Result<Option<TrustDomainInfo>, AgentError> {
        let now = self.clock.steady();
        let until = lock(&self.board).away.map_or(now, |away| away.until);
        if until > now {
            stop.wait(Duration::from_secs(until.since(now)));
            return Ok(None);
        }
        match self.info(&enrolled.audience) {
            Ok(info) => {
                self.welcome();
                Ok(Some(info))
            }
            Err(error @ AgentError::ForeignManager { .. }) if first => Err(error),
            Err(error) => {
                // A certificate that the manager no longer takes may be why.
                self.client.forget_certificate();
                chores.certificate_due = Timestamp(0);
                self.miss(&error);
                Ok(None)
            }
        }
    }

    /// The manager is away: nothing is done until it was looked for, and found.
    fn miss(&self, error: &AgentError) {
        let mut board = lock(&self.board);
        let failures = board.away.map_or(0, |away| away.failures).saturating_add(1);
        let wait = timetable::back_off(failures, timetable::MAX_BACK_OFF, &mut rand::thread_rng());
        board.away = Some(Away { failures, until: self.clock.steady().plus(wait) });
        drop(board);
        *lock(&self.info) = None;
        tracing::warn!(error = printable(error), wait, "the manager cannot be used now");
        (self.observer)(&AgentEvent::ManagerAway { error, retry_at: self.clock.now().plus(wait) });
    }

    /// The manager is there.
    fn welcome(&self) {
        let mut board = lock(&self.board);
        if board.away.take().is_some() {
            board.catching_up = [true; 2];
            let now = self.clock.steady();
            let due = [Lane::Signatures, Lane::Proofs].map(|lane| board.timetable.backlog(lane, now)).iter().sum();
            drop(board);
            tracing::info!(due, "the manager is back");
            (self.observer)(&AgentEvent::ManagerBack { due });
        }
    }

    /// Where the clock that people read went another way than the one that nobody sets, since it was set, or the machine was paused, has the
    /// timetable reckon with that. A clock that is merely a little off is the manager's to bear.
    pub(super) fn mind_the_clock(&self) {
        let (now, wall) = (self.clock.steady(), self.clock.now());
        let ahead = i128::from(wall.0) - i128::from(now.0);
        let mut board = lock(&self.board);
        let before = *board.ahead.get_or_insert(ahead);
        if before.abs_diff(ahead) <= u128::from(MAX_SKEW) {
            return;
        }
        board.ahead = Some(ahead);
        let due = board.timetable.set_clock(now, wall);
        if due > 0 {
            board.catching_up = [true; 2];
        }
        drop(board);
        tracing::warn!(seconds = i64::try_from(ahead - before).ok(), due, "the machine's clock was set");
    }

    /// What there is to do besides signing, now and then.
    fn tend(
        &self,
        enrolled: &Enrolled,
        info: &TrustDomainInfo,
        records: &BTreeMap<Task, Entry>,
        chores: &mut Chores<'_>,
        stop: &Stop,
    ) {
        self.certify(enrolled, info, &mut chores.certificate_due, stop);
        self.announce(enrolled, info, &mut chores.announcement, stop);
        self.look_for_shares(enrolled, info, &mut chores.shares_due, stop);
        let now = self.clock.steady();
        if chores.list_due > now {
            return;
        }
        chores.list_due = now.plus(IDLE.as_secs());
        let (suites, statements) = (info.suites.clone(), info.statements.clone());
        let listed = Some(Listed { keys: current_keys(&*self.store), suites, statements });
        if chores.listed != listed {
            let keys = listed.iter().flat_map(|listed| &listed.keys);
            self.plan(enrolled, info, keys, records);
            chores.listed = listed;
            self.begun.store(true, Ordering::Relaxed);
        }
    }

    /// Gives each key its place in the timetable, under each statement that it proves.
    fn plan<'a>(
        &self,
        enrolled: &Enrolled,
        info: &TrustDomainInfo,
        keys: impl Iterator<Item = &'a KeyEntry>,
        records: &BTreeMap<Task, Entry>,
    ) {
        let wanted: Vec<_> = keys
            .flat_map(|entry| attest::kinds(entry, info).into_iter().map(move |kind| (kind, entry.clone())))
            .collect();
        if let Some(journal) = &mut *lock(&self.journal) {
            journal.make_room(wanted.len());
        }
        // The verifying keys of claims of many take a while to compute the first time.
        let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
        wanted.iter().for_each(|(kind, _)| *counts.entry(*kind).or_default() += 1);
        let many =
            counts.into_iter().filter(|(kind, count)| *count >= many_from(*kind) && self.many(info, *kind).is_some());
        let many: Vec<Kind> = many.map(|(kind, _)| kind).collect();
        let together = |kind, _| if many.contains(&kind) { MAX_KEYS } else { 1 };
        let mut board = lock(&self.board);
        let first = |task: &Task, phase| self.first_due(records.get(task), phase, info.record_ttl);
        board.timetable.keep(&enrolled.enrolment.hsm, wanted, together, first);
    }

    /// The lane that proves.
    fn prove(&self, enrolled: &Enrolled, stop: &Stop) {
        while !stop.is_stopped() {
            // Who looks for the manager is the other lane.
            let there = lock(&self.board).away.is_none();
            let wait = match there.then(|| self.info(&enrolled.audience)) {
                Some(Ok(info)) => self.take_turn(Lane::Proofs, enrolled, &info, stop),
                Some(Err(error)) => {
                    self.miss(&error);
                    PROOFS_IDLE
                }
                None => PROOFS_IDLE,
            };
            stop.wait(wait.min(PROOFS_IDLE));
        }
    }

    /// Claims what is due in a lane. Says how long there is nothing more to do.
    fn take_turn(&self, lane: Lane, enrolled: &Enrolled, info: &TrustDomainInfo, stop: &Stop) -> Duration {
        let now = self.clock.steady();
        let next = lock(&self.board).timetable.next(lane).map(|(task, due)| (task.clone(), due));
        let task = match next {
            Some((task, due)) if due <= now => task,
            Some((_, due)) => return Duration::from_secs(due.since(now)),
            None => return IDLE,
        };
        let begun = Instant::now();
        let session = self.session(enrolled, info, stop);
        let (in_one_claim, work) = self.company(&task, info, now);
        let count = u32::try_from(work.len()).unwrap_or(u32::MAX);
        let fates = if in_one_claim || count <= 1 {
            let entries: Vec<_> = work.into_iter().map(|(_, entry)| entry).collect();
            BTreeMap::from([(task.kind, self.attest_together(&session, &entries, task.kind))])
        } else {
            self.attest_batch(&session, &work)
        };
        if lane == Lane::Proofs && !in_one_claim && count > 0 {
            lock(&self.board).paces.insert(task.kind, begun.elapsed() / count);
        }
        let proven = |fate: &Fate| fate.result().map_or_else(|error| error.envelope().is_some(), |_| true);
        let store_works = fates.values().flatten().any(|(_, fate)| proven(fate));
        for (kind, fates) in &fates {
            let dues = self.reschedule(*kind, fates, store_works);
            for (key, fate) in fates {
                self.tell(key, *kind, fate, dues.get(key).map(|due| self.on_the_wall(*due)));
            }
        }
        stop.wait(self.rest(lane, begun.elapsed()));
        Duration::ZERO
    }

    /// What is claimed when `task` is due: itself, and what goes with it in one batch, or in one claim of many. Others come along before their time,
    /// so that the manager is asked less often.
    /// Says whether they are one claim.
    fn company(&self, task: &Task, info: &TrustDomainInfo, now: Timestamp) -> (bool, Vec<(Kind, KeyEntry)>) {
        let signatures = task.lane() == Lane::Signatures;
        let many = task.kind.many().is_some() && self.many(info, task.kind).is_some();
        let board = lock(&self.board);
        let timetable = &board.timetable;
        let (in_one_claim, tasks) = if signatures && self.takes_batches() {
            (false, timetable.due(Lane::Signatures, now, now.plus(timetable::batch_window(info.record_ttl)), MOST))
        } else {
            let until = now.plus(timetable::company_window(info.record_ttl));
            let company = if many { timetable.company(task, now, until, MAX_KEYS) } else { Vec::new() };
            let most = board.paces.get(&task.kind).map_or(1, |pace| proofs_at_once(*pace, info.challenge_ttl));
            match company.len() {
                together if together >= many_from(task.kind) => (true, company),
                _ if !signatures && self.takes_batches() && !task.kind.needs_beacon() => {
                    (false, timetable.alike(task, now, most))
                }
                _ => (false, vec![task.clone()]),
            }
        };
        let entries = tasks.into_iter().filter_map(|task| Some((task.kind, timetable.entry(&task)?)));
        (in_one_claim, entries.collect())
    }

    /// How long a lane rests after claims that took so long: not at all, but in the midst of a backlog, where other HSMs may have one too.
    fn rest(&self, lane: Lane, took: Duration) -> Duration {
        let now = self.clock.steady();
        let mut board = lock(&self.board);
        if !*board.catching_up(lane) {
            return Duration::ZERO;
        }
        let left = board.timetable.backlog(lane, now);
        let Some(expires) =
            board.timetable.next(lane).filter(|_| left > 0).map(|(task, _)| board.timetable.expiry(task))
        else {
            *board.catching_up(lane) = false;
            return Duration::ZERO;
        };
        let slack = expires.map_or(Duration::ZERO, |expires| Duration::from_secs(expires.since(now)));
        let at_once = if lane == Lane::Signatures { MOST } else { MAX_KEYS };
        rest(took, left.div_ceil(at_once), slack, &mut rand::thread_rng())
    }

    /// A time of the timetable by the clock that people read.
    fn on_the_wall(&self, due: Timestamp) -> Timestamp {
        self.clock.now().plus(due.since(self.clock.steady()))
    }

    /// Takes the shares that were dealt to this HSM, now and then.
    fn look_for_shares(&self, enrolled: &Enrolled, info: &TrustDomainInfo, due: &mut Timestamp, stop: &Stop) {
        let now = self.clock.steady();
        if *due > now {
            return;
        }
        *due = now.plus(SHARES);
        if let Err(error) = self.receive_shares(&self.session(enrolled, info, stop)) {
            tracing::warn!(error = printable(&error), wait = SHARES, "shares cannot be received now");
        }
    }

    /// Tells the manager where the channel is, until it has heard.
    fn announce(
        &self,
        enrolled: &Enrolled,
        info: &TrustDomainInfo,
        announcement: &mut Option<(&str, Timestamp, u32)>,
        stop: &Stop,
    ) {
        let Some((url, due, failures)) = *announcement else { return };
        let now = self.clock.steady();
        if due > now {
            return;
        }
        let session = self.session(enrolled, info, stop);
        match self.client.announce(&session, &ChannelAnnouncement { url: url.to_owned() }) {
            Ok(()) => {
                *announcement = None;
                (self.observer)(&AgentEvent::Announced(url));
            }
            Err(error) => {
                let failures = failures.saturating_add(1);
                let wait = timetable::back_off(failures, timetable::MAX_BACK_OFF, &mut rand::thread_rng());
                tracing::warn!(error = printable(&error), wait, "the channel could not be announced");
                *announcement = Some((url, now.plus(wait), failures));
            }
        }
    }

    /// The records of this enrolment that the journal remembers, unless everything is attested at the start.
    fn records(&self, enrolled: &Enrolled) -> Result<BTreeMap<Task, Entry>, AgentError> {
        match &self.config.journal {
            Some(path) if !self.config.attest_at_start => {
                Ok(journal::newest_records(journal::read(path)?, &enrolled.enrolment))
            }
            _ => Ok(BTreeMap::new()),
        }
    }

    /// Lets the channel use what the records from before cover.
    pub(super) fn remember(&self, records: &BTreeMap<Task, Entry>) {
        for (task, entry) in records {
            if let (Some(proven_at), Some(expires_at)) = (entry.proven_at, entry.expires_at) {
                self.standing.remember(&task.key, proven_at, expires_at);
            }
        }
    }

    /// When a task that is new to the timetable is due: now, or in its slot after its record from before, which is relied on for no longer than
    /// records last now.
    pub(super) fn first_due(&self, record: Option<&Entry>, phase: u64, record_ttl: u64) -> First {
        let (now, steady) = (self.clock.now(), self.clock.steady());
        let known = |record: &Entry| {
            // A clock that was put back makes no record younger than new.
            let made = Timestamp(steady.0.saturating_sub(now.since(record.at)));
            let lifetime = record.lifetime()?.min(record_ttl);
            let on_the_wall = record.proven_at?.plus(lifetime);
            let life = Life { expires: made.plus(lifetime), on_the_wall, lifetime };
            Some(First { due: slot(made, lifetime, phase), life: Some(life) })
        };
        record.and_then(known).unwrap_or(First { due: steady, life: None })
    }

    /// Says when each of a claim's keys is due again, and what else has to wait with them. Where the store works, one that it fails over is
    /// claimed by itself.
    fn reschedule(&self, kind: Kind, fates: &[(KeyRef, Fate)], store_works: bool) -> BTreeMap<KeyRef, Timestamp> {
        let now = self.clock.steady();
        let mut board = lock(&self.board);
        let timetable = &mut board.timetable;
        let mut dues = BTreeMap::new();
        let mut renewed = None;
        let mut failures: Vec<(&AttestError, Vec<Task>)> = Vec::new();
        for (key, fate) in fates {
            let task = Task { kind, key: key.clone() };
            if store_works && fate.result().is_err_and(AttestError::is_of_the_store) {
                timetable.apart(&task);
            }
            match fate {
                Fate::Attested(record) => {
                    let lifetime = record.expires_at.since(record.proven_at);
                    let due = match renewed {
                        // One time for all that were proven together, and will be.
                        Some((envelope, due)) if envelope == record.envelope => due,
                        _ => timetable.renewal(&task, now, lifetime),
                    };
                    renewed = Some((record.envelope, due));
                    let life = Life { expires: now.plus(lifetime), on_the_wall: record.expires_at, lifetime };
                    timetable.succeeded(&task, due, life);
                    dues.insert(task.key, due);
                }
                Fate::Alone(_) => {
                    timetable.alone(&task, now);
                    dues.insert(task.key, now);
                }
                Fate::Failed(error) => match failures.iter_mut().find(|(known, _)| std::ptr::eq(*known, &**error)) {
                    Some((_, tasks)) => tasks.push(task),
                    None => failures.push((error, vec![task])),
                },
            }
        }
        let mut unanswered = None;
        for (error, tasks) in failures {
            let due = self.postpone(timetable, error, &tasks, now);
            dues.extend(tasks.into_iter().map(|task| (task.key, due)));
            unanswered = unanswered.or(error.client_error().filter(|_| error.is_unanswered()));
        }
        drop(board);
        if let Some(error) = unanswered {
            self.miss(&AgentError::Client(error.clone()));
        }
        dues
    }

    /// Puts tasks off that failed together, and what else has to wait with them. Says until when.
    fn postpone(&self, timetable: &mut Timetable, error: &AttestError, tasks: &[Task], now: Timestamp) -> Timestamp {
        let pause = error.pause(self.config.revoked_recheck);
        let due = timetable.failed(tasks, now, pause, &mut rand::thread_rng());
        match (pause, error.problem()) {
            (Pause::Revoked(_), Some(ProblemKind::HsmRevoked)) => timetable.postpone(due, |_| true),
            (Pause::Revoked(_), _) => {
                timetable.postpone(due, |other| tasks.iter().any(|task| task.key.key == other.key.key));
            }
            // A busy manager would be busier with other keys.
            (Pause::After(asked), _) => {
                let asked = asked.min(timetable::MAX_BACK_OFF);
                timetable.hold(now.plus(asked + rand::thread_rng().gen_range(0..=asked / 2)));
            }
            _ => {}
        }
        due
    }
}
