//! The agent: enrols its HSM, attests its keys, and attests them again before their records expire.

mod attest;
mod enrol;
mod error;
mod event;
pub mod journal;
#[cfg(test)]
mod loopback_tests;
mod run;
pub mod schedule;
pub mod sharing;
mod standing;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use keywitness_circuits::{Kind, Parameters, Suite, Timestamp};
use keywitness_verifier::{
    client::ManagerClient,
    identity::Audience,
    wire::{Enrolment, KeyRef, ProblemKind, Record, TrustDomainInfo},
};

use crate::{
    clock::{Clock, Stop, SystemClock},
    store::{KeyEntry, KeyStore, StoreError, current_keys},
};
use attest::{Session, Subject};
use error::printable;
pub use error::{AgentError, AttestError};
pub use event::{AgentConfig, AgentEvent, Observer, Report};
use journal::{Entry, Journal};
pub use standing::Standing;

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
    known_keys: Mutex<BTreeSet<(KeyRef, Vec<Suite>)>>,
    journal: Mutex<Option<Journal>>,
    sealing_key_told: AtomicBool,
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
        Ok(Self {
            store,
            client,
            parameters,
            config,
            clock: Arc::new(SystemClock),
            observer: Arc::new(|_| {}),
            standing: Arc::default(),
            info: Mutex::default(),
            known_keys: Mutex::default(),
            journal: Mutex::new(journal),
            sealing_key_told: AtomicBool::new(false),
        })
    }

    /// This agent, with another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
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

    fn enrolled(&self) -> Result<Enrolled, AgentError> {
        let membership = self.store.membership().ok_or(AgentError::NotEnrolled)?;
        let enrolment = membership.enrolment.ok_or(AgentError::NotEnrolled)?;
        Ok(Enrolled { audience: membership.audience, enrolment })
    }

    /// The manager's description of its trust domain, which must be the one that the HSM enrolled with.
    fn info(&self, pinned: &Audience) -> Result<TrustDomainInfo, AgentError> {
        let now = self.clock.now();
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

    /// Attests every key that `filter` names, once, under each statement that its trust domain asks for.
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
        let mut work: Vec<(Kind, KeyEntry)> = self.work(&info);
        work.retain(|(kind, entry)| filter(entry, *kind));
        work.sort_by(|(kind, entry), (other, other_entry)| (kind, &entry.key).cmp(&(other, &other_entry.key)));
        let mut reports = Vec::new();
        for (kind, entry) in work {
            let result = self.attest(&enrolled, &info, &entry, kind, &stop);
            self.tell(&entry.key, kind, &result, None);
            reports.push(Report { key: entry.key, kind, result });
        }
        Ok(reports)
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
        }
    }

    /// One attestation; the key is enrolled first where the manager was not told of it yet.
    fn attest(
        &self,
        enrolled: &Enrolled,
        info: &TrustDomainInfo,
        entry: &KeyEntry,
        kind: Kind,
        stop: &Stop,
    ) -> Result<Record, AttestError> {
        (self.observer)(&AgentEvent::Attesting { key: &entry.key, kind });
        let session = self.session(enrolled, info, stop);
        let known = (entry.key.clone(), info.suites.clone());
        let result = (|| {
            self.introduce(&session, entry)?;
            session.attest(&Subject { entry, kind })
        })();
        self.learn(&known, &result);
        self.write_journal(&enrolled.enrolment, &entry.key, kind, &result);
        result
    }

    /// Tells the manager of a key that it was not told of yet; of a derived key, after the key that it is derived
    /// from.
    fn introduce(&self, session: &Session<'_>, entry: &KeyEntry) -> Result<(), AttestError> {
        let known = (entry.key.clone(), session.info.suites.clone());
        if lock(&self.known_keys).contains(&known) {
            return Ok(());
        }
        if let Some(master) = self.store.master(&entry.key)
            && let Some(master) = self.store.keys().into_iter().find(|key| key.key == master)
        {
            self.introduce(session, &master)?;
        }
        session.enrol_key(entry)?;
        lock(&self.known_keys).insert(known);
        Ok(())
    }

    /// Takes what an answer tells about attestation and revocation, and forgets what a refusal calls in question.
    fn learn(&self, known: &(KeyRef, Vec<Suite>), result: &Result<Record, AttestError>) {
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

    fn write_journal(&self, enrolment: &Enrolment, key: &KeyRef, kind: Kind, result: &Result<Record, AttestError>) {
        let at = self.clock.now();
        let entry = match result {
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
        };
        let written = lock(&self.journal).as_mut().map_or(Ok(()), |journal| journal.append(&entry));
        if let Err(error) = written {
            tracing::error!(%error, "the journal cannot be written; attestation goes on");
        }
    }

    fn tell(&self, key: &KeyRef, kind: Kind, result: &Result<Record, AttestError>, due: Option<Timestamp>) {
        match result {
            Ok(record) => {
                tracing::info!(key = %key.key, epoch = key.epoch, %kind, expires_at = record.expires_at.0, "attested");
                (self.observer)(&AgentEvent::Attested { record, renew_at: due });
            }
            Err(error) => {
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
