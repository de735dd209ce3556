//! The agent: enrols its HSM, attests its keys, and attests them again before their records expire.

mod attest;
mod batch;
mod certificate;
mod copies;
#[cfg(test)]
mod copies_tests;
mod enrol;
mod error;
mod event;
mod evidence;
mod giving;
pub mod journal;
#[cfg(test)]
mod lanes_tests;
#[cfg(test)]
mod loopback_tests;
mod parallel;
mod run;
pub mod sharing;
mod standing;
#[cfg(test)]
mod tests;
pub mod timetable;
#[cfg(test)]
mod timetable_tests;
mod together;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use keywitness_circuits::{Kind, Parameters, Suite, Timestamp};
use keywitness_verifier::{
    client::ManagerClient,
    identity::{Audience, IdentityKey},
    wire::{Enrolment, KeyRef, ProblemKind, Record, TrustDomainInfo},
};

use crate::{
    clock::{Clock, Stop, SystemClock},
    store::{KeyEntry, KeyStore, StoreError, current_keys},
};
use attest::{KnownKey, Session};
pub(crate) use batch::in_batch;
pub use copies::{CopyError, LeftOut};
use error::printable;
pub use error::{AgentError, AttestError};
pub use event::{AgentConfig, AgentEvent, Observer, Report};
pub use evidence::EvidenceFailure;
use journal::{Entry, Journal};
use run::Board;
pub use run::Health;
pub use standing::Standing;
use together::Fate;
pub use together::many_from;

/// How long the manager's description of its trust domain is relied on, in seconds.
const INFO_AGE: u64 = 300;

/// The agent of one HSM.
pub struct Agent {
    store: Arc<dyn KeyStore>,
    client: ManagerClient,
    parameters: Parameters,
    config: AgentConfig,
    clock: Arc<dyn Clock>,
    observer: Observer,
    standing: Arc<Standing>,
    info: Mutex<Option<(Timestamp, TrustDomainInfo)>>,
    /// Whose identities may have copies of this HSM's keys, and are asked for theirs.
    peers: Mutex<HashSet<IdentityKey>>,
    copying: Mutex<copies::Copying>,
    answered: Mutex<giving::Answered>,
    /// When this agent was started, by the clock that people read, and by the steady one.
    started: (Timestamp, Timestamp),
    known_keys: Mutex<BTreeMap<(KeyRef, Vec<Suite>), KnownKey>>,
    journal: Mutex<Option<Journal>>,
    sealing_key_told: AtomicBool,
    /// When the manager said that it takes no batches.
    no_batches: Mutex<Option<Timestamp>>,
    /// When each key is attested again.
    board: Mutex<Board>,
    /// The manager has answered since the start.
    begun: AtomicBool,
    /// How often other HSMs are asked for keys, in seconds.
    copies_every: AtomicU64,
    /// New epochs of keys are taken from them too.
    take_rotations: AtomicBool,
}

/// An HSM that the manager knows.
struct Enrolled {
    audience: Audience,
    enrolment: Enrolment,
}

impl Agent {
    /// An agent for the HSM of `store`, which speaks to the manager behind `client`.
    ///
    /// # Errors
    /// Where the journal cannot be opened.
    pub fn new(
        store: Arc<dyn KeyStore>,
        client: ManagerClient,
        parameters: Parameters,
        config: AgentConfig,
    ) -> Result<Self, StoreError> {
        let journal = config.journal.as_deref().map(|path| Journal::open(path, config.journal_max_size)).transpose()?;
        let peers = config.peers.iter().copied().collect();
        let (copies_every, take_rotations) = (config.copies_every.into(), config.take_rotations.into());
        Ok(Self {
            store,
            client,
            parameters,
            config,
            peers: Mutex::new(peers),
            copying: Mutex::default(),
            answered: Mutex::default(),
            started: (SystemClock.now(), SystemClock.steady()),
            clock: Arc::new(SystemClock),
            observer: Arc::new(|_| {}),
            standing: Arc::default(),
            info: Mutex::default(),
            known_keys: Mutex::default(),
            journal: Mutex::new(journal),
            sealing_key_told: AtomicBool::new(false),
            no_batches: Mutex::default(),
            board: Mutex::default(),
            begun: AtomicBool::new(false),
            copies_every,
            take_rotations,
        })
    }

    /// This agent, with another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.started = (clock.now(), clock.steady());
        self.clock = clock;
        self
    }

    /// This agent, watched.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = observer;
        self
    }

    /// Which keys are attested and which are revoked, as far as the manager said; for the HSM's channel.
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing)
    }

    /// From now on, other HSMs are asked for keys so often, in seconds.
    pub fn set_copies_every(&self, seconds: u64) {
        self.copies_every.store(seconds, Ordering::Relaxed);
    }

    /// From now on, new epochs of keys are taken from other HSMs, or are not.
    pub fn set_take_rotations(&self, take: bool) {
        self.take_rotations.store(take, Ordering::Relaxed);
    }

    /// From now on, only HSMs with these identity keys get copies of this one's keys, and are asked for theirs.
    pub fn set_peers(&self, peers: impl IntoIterator<Item = IdentityKey>) {
        *lock(&self.peers) = peers.into_iter().collect();
    }

    fn enrolled(&self) -> Result<Enrolled, AgentError> {
        let membership = self.store.membership().ok_or(AgentError::NotEnrolled)?;
        let enrolment = membership.enrolment.ok_or(AgentError::NotEnrolled)?;
        Ok(Enrolled { audience: membership.audience, enrolment })
    }

    /// The manager's description of its trust domain, which must be the one that the HSM enrolled with.
    fn info(&self, pinned: &Audience) -> Result<TrustDomainInfo, AgentError> {
        let now = self.clock.steady();
        if let Some((at, info)) = &*lock(&self.info)
            && now.since(*at) < INFO_AGE
        {
            return Ok(info.clone());
        }
        let info = self.client.trust_domain()?;
        let found = audience(&info);
        if found != *pinned {
            return Err(AgentError::ForeignManager { pinned: pinned.clone(), found });
        }
        *lock(&self.info) = Some((now, info.clone()));
        Ok(info)
    }

    /// Attests every key that `filter` names, once, under each statement that its trust domain asks for; many symmetric
    /// keys in one claim, where that is cheaper, and other keys in one batch.
    ///
    /// # Errors
    /// Where the agent cannot begin. What became of each key is in its [`Report`].
    pub fn attest_once(&self, filter: impl Fn(&KeyEntry, Kind) -> bool) -> Result<Vec<Report>, AgentError> {
        let enrolled = self.enrolled()?;
        let info = self.info(&enrolled.audience)?;
        let stop = Stop::new();
        if let Err(error) = self.receive_shares(&self.session(&enrolled, &info, &stop)) {
            tracing::warn!(error = printable(&error), "shares cannot be received now");
        }
        let mut work: BTreeMap<Kind, Vec<KeyEntry>> = BTreeMap::new();
        for (kind, entry) in self.work(&info).into_iter().filter(|(kind, entry)| filter(entry, *kind)) {
            work.entry(kind).or_default().push(entry);
        }
        let session = self.session(&enrolled, &info, &stop);
        let mut reports = Vec::new();
        let mut report = |kind, fates: Vec<(KeyRef, Fate)>| {
            for (key, fate) in fates {
                self.tell(&key, kind, &fate, None);
                let result = match fate {
                    Fate::Attested(record) => Ok(record),
                    Fate::Failed(error) | Fate::Alone(error) => Err(error),
                };
                reports.push(Report { key, kind, result });
            }
        };
        let kinds: Vec<Kind> = work.keys().copied().filter(|kind| batch::in_batch(*kind)).collect();
        let mut batch = Vec::new();
        for kind in kinds {
            batch.extend(work.remove(&kind).into_iter().flatten().map(|entry| (kind, entry)));
        }
        match batch.as_slice() {
            // One alone needs no batch.
            [] | [_] => batch.into_iter().for_each(|(kind, entry)| work.entry(kind).or_default().push(entry)),
            many => self.attest_batch(&session, many).into_iter().for_each(|(kind, fates)| report(kind, fates)),
        }
        for (kind, mut entries) in work {
            entries.sort_by(|entry, other| entry.key.cmp(&other.key));
            let many = entries.len() >= many_from(kind) && self.many(&info, kind).is_some();
            for claim in together::claims(&entries, kind, many) {
                report(kind, self.attest_each(&session, claim, kind));
            }
        }
        Ok(reports)
    }

    /// One claim of these keys, and where it came to nothing, one of each.
    fn attest_each(&self, session: &Session<'_>, entries: &[KeyEntry], kind: Kind) -> Vec<(KeyRef, Fate)> {
        let fates = self.attest_together(session, entries, kind);
        let again = fates.into_iter().flat_map(|(key, fate)| match fate {
            Fate::Alone(_) => {
                let entry: Vec<_> = entries.iter().filter(|entry| entry.key == key).cloned().collect();
                self.attest_together(session, &entry, kind)
            }
            fate => vec![(key, fate)],
        });
        again.collect()
    }

    /// Every key at its newest epoch, under each statement that it proves.
    fn work(&self, info: &TrustDomainInfo) -> Vec<(Kind, KeyEntry)> {
        let keys = current_keys(&*self.store).into_iter();
        keys.flat_map(|entry| attest::kinds(&entry, info).into_iter().map(move |kind| (kind, entry.clone()))).collect()
    }

    fn session<'a>(&'a self, enrolled: &'a Enrolled, info: &'a TrustDomainInfo, stop: &'a Stop) -> Session<'a> {
        Session {
            store: &*self.store,
            client: &self.client,
            parameters: &self.parameters,
            clock: &*self.clock,
            audience: &enrolled.audience,
            enrolment: &enrolled.enrolment,
            info,
            verify_own_proofs: self.config.verify_own_proofs,
            envelopes: self.config.envelopes.as_deref(),
            stop,
            observer: &self.observer,
        }
    }

    /// Tells the manager of a key that it was not told of yet; of a derived key, after the key that it is derived
    /// from.
    fn introduce(&self, session: &Session<'_>, entry: &KeyEntry) -> Result<KnownKey, AttestError> {
        let place = (entry.key.clone(), session.info.suites.clone());
        if let Some(known) = lock(&self.known_keys).get(&place) {
            if known.entry.attributes != entry.attributes {
                return Err(StoreError::AttributesChanged(entry.key.clone()).into());
            }
            return Ok(known.clone());
        }
        if let Some(master) = self.store.master(&entry.key)
            && let Some(master) = self.store.keys().into_iter().find(|key| key.key == master)
        {
            self.introduce(session, &master)?;
        }
        let known = match session.enrol_key(entry) {
            // No epoch may be left out: the key was rotated before the manager was told of the epoch before.
            Err(conflict) if conflict.problem() == Some(ProblemKind::KeyConflict) => {
                self.introduce_before(session, entry).ok_or(conflict)?;
                session.enrol_key(entry)?
            }
            answer => answer?,
        };
        lock(&self.known_keys).insert(place, known.clone());
        Ok(known)
    }

    /// Tells the manager of the epoch before that of a key, if the store has it and the manager takes it.
    fn introduce_before(&self, session: &Session<'_>, entry: &KeyEntry) -> Option<KnownKey> {
        let before = KeyRef { epoch: entry.key.epoch.checked_sub(1)?, ..entry.key.clone() };
        let before = self.store.keys().into_iter().find(|held| held.key == before)?;
        self.introduce(session, &before).ok()
    }

    /// Takes what an answer tells about attestation and revocation, and forgets what a refusal calls in question.
    fn learn(&self, known: &(KeyRef, Vec<Suite>), result: Result<&Record, &AttestError>) {
        let error = match result {
            Ok(record) => return self.standing.accept(record),
            Err(error) => error,
        };
        match error.problem() {
            Some(ProblemKind::HsmRevoked) => self.standing.revoke_hsm(),
            Some(ProblemKind::KeyRevoked) => self.standing.revoke_key(&known.0.key),
            Some(ProblemKind::UnknownKey) => drop(lock(&self.known_keys).remove(known)),
            _ => {}
        }
        if !error.is_unanswered() {
            *lock(&self.info) = None;
        }
    }

    fn journal_entry(
        &self,
        enrolment: &Enrolment,
        key: &KeyRef,
        kind: Kind,
        result: Result<&Record, &AttestError>,
    ) -> Entry {
        let at = self.clock.now();
        match result {
            Ok(record) => Entry::attested(at, record),
            Err(error) => Entry {
                at,
                hsm: enrolment.hsm.clone(),
                enrolment: enrolment.revision,
                key: key.clone(),
                kind,
                outcome: error.ending(),
                problem: error.problem(),
                detail: Some(printable(error)),
                envelope: error.envelope(),
                proven_at: None,
                expires_at: None,
            },
        }
    }

    fn write_journal(&self, entries: &[Entry]) {
        let written = lock(&self.journal).as_mut().map_or(Ok(()), |journal| journal.append(entries));
        if let Err(error) = written {
            tracing::error!(%error, "the journal cannot be written; attestation goes on");
        }
    }

    /// Tells of what is decided: a key that is to be claimed alone is told of then.
    fn tell(&self, key: &KeyRef, kind: Kind, fate: &Fate, due: Option<Timestamp>) {
        match fate {
            Fate::Attested(record) => {
                tracing::info!(key = %key.key, epoch = key.epoch, %kind, expires_at = record.expires_at.0, "attested");
                (self.observer)(&AgentEvent::Attested { record, renew_at: due });
            }
            Fate::Alone(_) => {}
            Fate::Failed(error) => {
                tracing::warn!(key = %key.key, epoch = key.epoch, %kind, error = printable(error), "not attested");
                (self.observer)(&AgentEvent::Failed { key, kind, error, retry_at: due });
            }
        }
    }
}

fn audience(info: &TrustDomainInfo) -> Audience {
    Audience { trust_domain: info.trust_domain.clone(), manager: info.manager.clone() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
