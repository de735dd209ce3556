//! ReattestKeys: the loop that keeps every record fresh.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use keywitness_circuits::{Kind, Timestamp};
use keywitness_verifier::wire::{ChannelAnnouncement, KeyRef, ProblemKind, TrustDomainInfo};

use super::{
    Agent, AgentError, AgentEvent, AttestError, Enrolled,
    error::printable,
    journal::{self, Entry},
    lock,
    schedule::{self, Pause, Schedule, Task},
};
use crate::{clock::Stop, store::KeyEntry};

/// Longest sleep: then the agent looks for new keys.
const IDLE: Duration = Duration::from_secs(5);

/// How often the agent asks for shares that were dealt to its HSM, in seconds.
const SHARES: u64 = 30;

/// What there is to do, of what is to be done now.
fn entries_of(work: &[(Kind, KeyEntry)], tasks: &[Task]) -> Vec<(Kind, KeyEntry)> {
    let tasks: BTreeSet<(Kind, &KeyRef)> = tasks.iter().map(|task| (task.kind, &task.key)).collect();
    work.iter().filter(|(kind, entry)| tasks.contains(&(*kind, &entry.key))).cloned().collect()
}

impl Agent {
    /// Attests, and attests again before each record expires, until `stop` is raised.
    ///
    /// # Errors
    /// Where the agent cannot begin: the HSM is not enrolled, or another manager answers than it enrolled with. Later
    /// trouble is told to the observer and the log, and the agent tries again.
    pub fn run(&self, stop: &Stop) -> Result<(), AgentError> {
        let enrolled = self.enrolled()?;
        let mut schedule = Schedule::new();
        let records = self.records(&enrolled)?;
        self.remember(&records);
        let mut announcement = self.config.channel_url.as_deref().map(|url| (url, self.clock.now(), 0));
        let (mut away, mut begun, mut shares_due, mut copies_due) = (0_u32, false, Timestamp(0), Timestamp(0));
        let mut certificate_due = Timestamp(0);
        while !stop.is_stopped() {
            let info = match self.info(&enrolled.audience) {
                Ok(info) => info,
                Err(error @ AgentError::ForeignManager { .. }) if !begun => return Err(error),
                Err(error) => {
                    // A certificate that the manager no longer takes may be why.
                    self.client.forget_certificate();
                    certificate_due = Timestamp(0);
                    away = away.saturating_add(1);
                    self.wait_for_manager(&error, away, stop);
                    continue;
                }
            };
            (away, begun) = (0, true);
            self.certify(&enrolled, &info, &mut certificate_due, stop);
            self.announce(&enrolled, &info, &mut announcement, stop);
            self.look_for_shares(&enrolled, &info, &mut shares_due, stop);
            self.look_for_copies(&enrolled, &info, &mut copies_due, stop);
            let work = self.work(&info);
            let tasks: Vec<Task> =
                work.iter().map(|(kind, entry)| Task { kind: *kind, key: entry.key.clone() }).collect();
            schedule.keep(&tasks, |task| self.first_due(records.get(task)));
            let now = self.clock.now();
            let next = schedule.next().map(|(task, due)| (task.clone(), due));
            match next {
                Some((task, due)) if due <= now => {
                    let session = self.session(&enrolled, &info, stop);
                    let fates = match self.due_in_batch(&schedule, &task, now) {
                        Some(tasks) => self.attest_batch(&session, &entries_of(&work, &tasks)),
                        None => {
                            let tasks = self.due_together(&schedule, &info, &task, now);
                            let entries: Vec<_> =
                                entries_of(&work, &tasks).into_iter().map(|(_, entry)| entry).collect();
                            BTreeMap::from([(task.kind, self.attest_together(&session, &entries, task.kind))])
                        }
                    };
                    for (kind, fates) in &fates {
                        let dues = self.reschedule(&mut schedule, *kind, fates);
                        for (key, fate) in fates {
                            self.tell(key, *kind, fate, dues.get(key).copied());
                        }
                    }
                }
                Some((_, due)) => drop(stop.wait(IDLE.min(Duration::from_secs(due.since(now))))),
                None => drop(stop.wait(IDLE)),
            }
        }
        Ok(())
    }

    fn wait_for_manager(&self, error: &AgentError, failures: u32, stop: &Stop) {
        let wait = schedule::back_off(failures, schedule::MAX_BACK_OFF, &mut rand::thread_rng());
        tracing::warn!(error = printable(error), wait, "the manager cannot be used now");
        (self.observer)(&AgentEvent::ManagerAway { error, retry_at: self.clock.now().plus(wait) });
        stop.wait(Duration::from_secs(wait));
    }

    /// Takes the shares that were dealt to this HSM, now and then.
    fn look_for_shares(&self, enrolled: &Enrolled, info: &TrustDomainInfo, due: &mut Timestamp, stop: &Stop) {
        let now = self.clock.now();
        if *due > now {
            return;
        }
        *due = now.plus(SHARES);
        if let Err(error) = self.receive_shares(&self.session(enrolled, info, stop)) {
            tracing::warn!(error = printable(&error), wait = SHARES, "shares cannot be received now");
        }
    }

    /// Asks other HSMs of the cluster for their keys, now and then.
    fn look_for_copies(&self, enrolled: &Enrolled, info: &TrustDomainInfo, due: &mut Timestamp, stop: &Stop) {
        let now = self.clock.now();
        if *due > now || lock(&self.peers).is_empty() {
            return;
        }
        let wait = self.config.copies_every;
        *due = now.plus(wait);
        if let Err(error) = self.fetch_copies(&self.session(enrolled, info, stop)) {
            tracing::warn!(error = printable(&error), wait, "the cluster's keys cannot be asked for now");
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
        let now = self.clock.now();
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
                let wait = schedule::back_off(failures, schedule::MAX_BACK_OFF, &mut rand::thread_rng());
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
            if let Some(expires_at) = entry.expires_at {
                self.standing.remember(&task.key, expires_at);
            }
        }
    }

    /// When a task that is new to the schedule is due: now, or when its record from before is.
    pub(super) fn first_due(&self, record: Option<&Entry>) -> Timestamp {
        let now = self.clock.now();
        let due = |record: &Entry| {
            // A clock that was put back makes no record younger than new.
            Some(schedule::renewal(record.at.min(now), record.lifetime()?, &mut rand::thread_rng()))
        };
        record.and_then(due).unwrap_or(now)
    }

    /// Puts tasks off that failed together, and what else has to wait with them. Says until when.
    pub(super) fn postpone(
        &self,
        schedule: &mut Schedule,
        error: &AttestError,
        tasks: &[Task],
        now: Timestamp,
    ) -> Timestamp {
        let pause = error.pause(self.config.revoked_recheck);
        let due = schedule.failed(tasks, now, pause, &mut rand::thread_rng());
        match (pause, error.problem()) {
            (Pause::Revoked(_), Some(ProblemKind::HsmRevoked)) => schedule.postpone(due, |_| true),
            (Pause::Revoked(_), _) => {
                schedule.postpone(due, |other| tasks.iter().any(|task| task.key.key == other.key.key));
            }
            // Nobody answers: that holds for every key.
            _ if error.is_unanswered() => schedule.postpone(due, |_| true),
            _ => {}
        }
        due
    }
}
