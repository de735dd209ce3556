//! Attesting several keys in one claim: when that pays, and what becomes of each key.

use std::{collections::BTreeMap, sync::Arc};

use keywitness_circuits::{Error, Kind, Timestamp, context::MAX_KEYS};
use keywitness_verifier::wire::{KeyRef, ProblemKind, Record, TrustDomainInfo};

use super::{
    Agent, AttestError,
    attest::{KnownKey, Session, Subject, agreed_verifying_key},
    error::printable,
    event::AgentEvent,
    journal::Entry,
    lock,
    schedule::{self, Schedule, Task},
};
use crate::store::KeyEntry;

/// From so many keys of one kind on, one proof of them all is made. It costs as much as that of 64 keys, whatever their
/// number: in halo2 about ten proofs of one key, and two more are allowed for, since a claim of many that is refused
/// has each key claimed again; in Groth16 about 56.
pub const fn many_from(kind: Kind) -> usize {
    match kind {
        Kind::KeyKnowledgeGroth16 => 56,
        _ => 12,
    }
}

/// What became of one key of a claim.
#[derive(Debug)]
pub(super) enum Fate {
    /// The manager made a record.
    Attested(Record),
    /// It made none.
    Failed(Arc<AttestError>),
    /// The claim of many keys came to nothing, and the reason may lie in any of them: each is to be claimed alone.
    Alone(Arc<AttestError>),
}

impl Fate {
    pub(super) fn result(&self) -> Result<&Record, &AttestError> {
        match self {
            Self::Attested(record) => Ok(record),
            Self::Failed(error) | Self::Alone(error) => Err(error),
        }
    }
}

/// Cuts keys of one kind into claims: as few as may be, of [`many_from`] to 64 keys, and the rest one by one.
pub(super) fn claims(keys: &[KeyEntry], kind: Kind, many: bool) -> Vec<&[KeyEntry]> {
    let chunks = keys.chunks(MAX_KEYS);
    chunks.flat_map(|chunk| chunk.chunks(if many && chunk.len() >= many_from(kind) { MAX_KEYS } else { 1 })).collect()
}

impl Agent {
    /// The kind that proves many keys as `kind` proves one, where the manager checks it under the verifying key that
    /// this agent proves it under.
    pub(super) fn many(&self, info: &TrustDomainInfo, kind: Kind) -> Option<Kind> {
        let many = kind.many()?;
        // The verifying key takes a while to compute the first time.
        let offered = info.statements.iter().any(|statement| statement.kind == many);
        (offered && agreed_verifying_key(&self.parameters, info, many).is_ok()).then_some(many)
    }

    /// The tasks that are claimed when `task` is due: itself, and whatever makes one claim of many with it. Others come
    /// along before their time, so that from then on they are due together.
    pub(super) fn due_together(
        &self,
        schedule: &Schedule,
        info: &TrustDomainInfo,
        task: &Task,
        now: Timestamp,
    ) -> Vec<Task> {
        if task.kind.many().is_some() {
            let until = now.plus(schedule::company_window(info.record_ttl));
            let company = schedule.company(task, until, MAX_KEYS);
            if company.len() >= many_from(task.kind) && self.many(info, task.kind).is_some() {
                return company;
            }
        }
        vec![task.clone()]
    }

    /// One claim of all `entries` under `kind`, of one key, or under that of many; each key is enrolled first where the
    /// manager was not told of it yet. A key that cannot be enrolled or proven is left out.
    pub(super) fn attest_together(
        &self,
        session: &Session<'_>,
        entries: &[KeyEntry],
        kind: Kind,
    ) -> Vec<(KeyRef, Fate)> {
        for entry in entries {
            (self.observer)(&AgentEvent::Attesting { key: &entry.key, kind });
        }
        let mut fates = Vec::with_capacity(entries.len());
        let keys = self.introduce_all(session, entries, &mut fates);
        claim(session, keys, kind, &mut fates);
        self.conclude(session, kind, &fates);
        fates
    }

    /// Takes what the answers tell, and writes the journal.
    pub(super) fn conclude(&self, session: &Session<'_>, kind: Kind, fates: &[(KeyRef, Fate)]) {
        for (key, fate) in fates {
            self.learn_fate(session, key, fate);
        }
        let written = fates.iter().map(|(key, fate)| {
            let entry = self.journal_entry(session.enrolment, key, kind, fate.result());
            match fate {
                // The manager's word is about some key of the claim, and perhaps not about this one.
                Fate::Alone(_) => Entry { problem: None, ..entry },
                Fate::Attested(_) | Fate::Failed(_) => entry,
            }
        });
        self.write_journal(&written.collect::<Vec<_>>());
    }

    /// Tells the manager of every key that it was not told of yet. One that it refuses is `fates`'; once the manager
    /// does not answer, all that are left are.
    pub(super) fn introduce_all(
        &self,
        session: &Session<'_>,
        entries: &[KeyEntry],
        fates: &mut Vec<(KeyRef, Fate)>,
    ) -> Vec<KnownKey> {
        let mut keys = Vec::with_capacity(entries.len());
        let mut away: Option<Arc<AttestError>> = None;
        for entry in entries {
            if let Some(error) = &away {
                fates.push((entry.key.clone(), Fate::Failed(Arc::clone(error))));
                continue;
            }
            match self.introduce(session, entry) {
                Ok(known) => keys.push(known),
                Err(error) => {
                    let error = Arc::new(error);
                    away = error.concerns_every_key().then(|| Arc::clone(&error));
                    fates.push((entry.key.clone(), Fate::Failed(error)));
                }
            }
        }
        keys
    }

    /// A refusal of many keys says of none of them that it is revoked.
    fn learn_fate(&self, session: &Session<'_>, key: &KeyRef, fate: &Fate) {
        let known = (key.clone(), session.info.suites.clone());
        match fate {
            Fate::Alone(error) => {
                if error.problem() == Some(ProblemKind::UnknownKey) {
                    lock(&self.known_keys).remove(&known);
                }
                *lock(&self.info) = None;
            }
            Fate::Attested(_) | Fate::Failed(_) => self.learn(&known, fate.result()),
        }
    }

    /// Says when each of a claim's keys is due again, and what else has to wait with them.
    pub(super) fn reschedule(
        &self,
        schedule: &mut Schedule,
        kind: Kind,
        fates: &[(KeyRef, Fate)],
    ) -> BTreeMap<KeyRef, Timestamp> {
        let (now, mut rng) = (self.clock.now(), rand::thread_rng());
        let mut dues = BTreeMap::new();
        let mut renewed = None;
        let mut failures: Vec<(&Arc<AttestError>, Vec<Task>)> = Vec::new();
        for (key, fate) in fates {
            let task = Task { kind, key: key.clone() };
            match fate {
                Fate::Attested(record) => {
                    // One time for all: they were proven together, and will be.
                    let due = *renewed.get_or_insert_with(|| {
                        schedule::renewal(now, record.expires_at.since(record.proven_at), &mut rng)
                    });
                    schedule.succeeded(&task, due);
                    dues.insert(task.key, due);
                }
                Fate::Alone(_) => {
                    schedule.alone(&task, now);
                    dues.insert(task.key, now);
                }
                Fate::Failed(error) => match failures.iter_mut().find(|(known, _)| Arc::ptr_eq(known, error)) {
                    Some((_, tasks)) => tasks.push(task),
                    None => failures.push((error, vec![task])),
                },
            }
        }
        for (error, tasks) in failures {
            let due = self.postpone(schedule, error, &tasks, now);
            dues.extend(tasks.into_iter().map(|task| (task.key, due)));
        }
        dues
    }
}

/// Claims these keys, and without those that cannot be proven. Says what becomes of each.
pub(super) fn claim(session: &Session<'_>, mut keys: Vec<KnownKey>, kind: Kind, fates: &mut Vec<(KeyRef, Fate)>) {
    while !keys.is_empty() {
        let claimed = if keys.len() == 1 { kind } else { kind.many().unwrap_or(kind) };
        let error = match session.attest(&Subject { keys: &keys, kind: claimed }) {
            Ok(records) => {
                fates.extend(records.into_iter().map(|record| (record.key.clone(), Fate::Attested(record))));
                return;
            }
            Err(error) => error,
        };
        let whole = keys.len();
        if error.culprits().iter().any(|culprit| *culprit < whole) {
            for (place, known) in std::mem::take(&mut keys).into_iter().enumerate() {
                if error.culprits().contains(&place) {
                    fates.push((known.entry.key, Fate::Failed(Arc::new(not_the_enrolled_one()))));
                } else {
                    keys.push(known);
                }
            }
            continue;
        }
        let alone = whole > 1 && !error.concerns_every_key();
        if alone {
            let error = printable(&error);
            tracing::warn!(keys = whole, %kind, error, "a claim of many keys came to nothing; each is claimed alone");
        }
        let error = Arc::new(error);
        let fate = |error| if alone { Fate::Alone(error) } else { Fate::Failed(error) };
        fates.extend(keys.drain(..).map(|known| (known.entry.key, fate(Arc::clone(&error)))));
    }
}

/// Why a key was left out of a proof of many.
fn not_the_enrolled_one() -> AttestError {
    AttestError::Store(Error::WitnessRefused("the key that the store holds is not the one that was enrolled").into())
}
