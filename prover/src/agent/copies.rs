//! Cluster synchronisation: copies of keys, asked of other HSMs of the cluster.
//!
//! Only between HSMs whose operators have named each other's identity keys ([`super::AgentConfig::peers`]): the manager says
//! who is in the cluster, and cannot add anybody to it that gets a key. What a key is, is what the cluster has proven.
//!
//! It goes its own way: whatever becomes of it, keys are attested.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::Duration,
};

use keywitness_circuits::{HsmId, Instance, KeyId, Timestamp, codec::Canonical};
use keywitness_verifier::{
    channel,
    client::{self, ClientError},
    identity::IdentityKey,
    operation::OperationAnswer,
    transfer::{Terms, Transfer},
    wire::{Base64, KeyRef, MAX_TRANSFER, MissingKey, Peer},
};

use super::{
    Agent, AgentEvent,
    attest::{Session, insist},
    error::printable,
    journal::{Copied, CopyEntry},
    lock, timetable,
};
use crate::{clock::Stop, store::StoreError};

/// Longest wait until the settings are looked at again, in seconds.
const IDLE: u64 = 5;

/// Longest rest of an HSM that does not answer, in seconds.
const LONGEST_REST: u64 = 600;

/// Most keys that are looked at of those that the manager names, and that are remembered of which was told that they are not taken.
const MOST_KEYS: usize = 4096;

/// Why copies did not come.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manager refuses, or somebody does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The other HSM refuses.
    #[error("HSM {0} refuses: {1}")]
    Refused(HsmId, String),
    /// The other HSM keeps a key to itself.
    #[error("HSM {0} gives no copy of key {1}: {2}")]
    Withheld(HsmId, KeyRef, String),
    /// The other HSM's answer is not its own, or answers something else.
    #[error("what came from HSM {0} is not an answer of its to this request")]
    Foreign(HsmId),
}

/// Why a key is not asked for that this HSM has not, and that others of the cluster attest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum LeftOut {
    /// They attest different keys under its name.
    #[error(
        "they attest different keys under this name; find out which is right, and revoke the HSM that has the other"
    )]
    Disputed,
    /// This HSM has another epoch: a later one would replace it.
    #[error("another epoch of it is here; where it is rightly rotated, start the agent with --take-rotations")]
    Rotation,
    /// They attest another epoch too, and this HSM has none: nobody says which is to be used.
    #[error(
        "they attest several epochs of it; rotate it in all of them, or start the agent with --take-rotations, which takes each"
    )]
    Epochs,
}

/// What is known of copies and of who was asked for them.
#[derive(Default)]
pub(super) struct Copying {
    /// How often each holder did not give a key that it was asked for.
    pub(super) misses: BTreeMap<KeyRef, BTreeMap<HsmId, u32>>,
    /// How often in a row an HSM did not answer, and until when it is left alone.
    rests: BTreeMap<HsmId, (u32, Timestamp)>,
    /// What was told of keys that are not taken.
    told: BTreeSet<(KeyRef, LeftOut)>,
}

impl Copying {
    fn rests(&self, hsm: &HsmId, now: Timestamp) -> bool {
        self.rests.get(hsm).is_some_and(|(_, until)| *until > now)
    }
}

/// Whether two HSMs may well attest one key: one says of it what the other says, or more. A key in a token and its copy outside of one
/// are shown by different statements, of one public key.
pub(super) fn agree(one: &MissingKey, other: &MissingKey) -> bool {
    let public =
        |bytes: &Base64| Instance::from_bytes(&bytes.0).ok().and_then(|instance| instance.spki().ok().flatten());
    let same = |one: &Base64, other: &Base64| one == other || public(one).is_some_and(|key| public(other) == Some(key));
    let within = |part: &[Base64], whole: &[Base64]| part.iter().all(|one| whole.iter().any(|other| same(one, other)));
    within(&one.instances, &other.instances) || within(&other.instances, &one.instances)
}

impl Agent {
    /// Asks other HSMs of the cluster for keys, again and again while the manager answers, until `stop` is raised.
    pub fn copy_keys(&self, stop: &Stop) {
        let mut asked: Option<Timestamp> = None;
        while !stop.is_stopped() {
            let every = self.copies_every.load(Ordering::Relaxed);
            let since = asked.map_or(every, |asked| self.clock.steady().since(asked));
            if since >= every && self.health().manager_answers && !lock(&self.peers).is_empty() {
                if let Err(error) = self.copy_once(stop) {
                    tracing::warn!(error = printable(&error), "the cluster's keys cannot be asked for now");
                }
                asked = Some(self.clock.steady());
            }
            // From its end on, however long it took.
            let left = asked.map_or(0, |asked| every.saturating_sub(self.clock.steady().since(asked)));
            stop.wait(Duration::from_secs(left.clamp(1, IDLE)));
        }
    }

    fn copy_once(&self, stop: &Stop) -> Result<(), Box<dyn std::error::Error>> {
        let enrolled = self.enrolled()?;
        let info = self.info(&enrolled.audience)?;
        Ok(self.fetch_copies(&self.session(&enrolled, &info, stop))?)
    }

    /// Asks other HSMs of the cluster for the keys that they attest and this HSM has not, and keeps what is right. A failure
    /// is told and logged; the next time another holder is asked, where there is one.
    pub(super) fn fetch_copies(&self, session: &Session<'_>) -> Result<(), CopyError> {
        let told = insist(session.stop, || self.client.peers(session))?;
        let peers: BTreeMap<HsmId, Peer> = told
            .peers
            .into_iter()
            .filter(|peer| self.is_peer(&peer.identity))
            .map(|peer| (peer.hsm.clone(), peer))
            .collect();
        let missing = self.takeable(told.missing, &peers);
        let mut wanted: BTreeMap<HsmId, Vec<MissingKey>> = BTreeMap::new();
        {
            let now = self.clock.steady();
            let mut copying = lock(&self.copying);
            copying.misses.retain(|key, _| missing.iter().any(|missing| missing.key == *key));
            copying.rests.retain(|hsm, _| peers.contains_key(hsm));
            let answers = |holder: &HsmId| {
                peers.get(holder).is_some_and(|peer| peer.channel_url.is_some()) && !copying.rests(holder, now)
            };
            for missing in missing {
                let missed = |holder: &&HsmId| copying.misses.get(&missing.key).and_then(|by| by.get(*holder)).copied();
                let holders = missing.holders.iter().filter(|holder| answers(holder));
                if let Some(holder) = holders.min_by_key(missed) {
                    wanted.entry(holder.clone()).or_default().push(missing);
                }
            }
        }
        for (hsm, keys) in wanted {
            if let Some(peer) = peers.get(&hsm) {
                self.fetch_from(session, peer, &keys);
            }
        }
        Ok(())
    }

    /// What is taken of what the manager names: keys that HSMs attest which this one's operator has named, and that the store has not. What
    /// these HSMs dispute is left out. So is another epoch of a key, unless the operator lets it be taken, since any one of them can make one.
    fn takeable(&self, told: Vec<MissingKey>, peers: &BTreeMap<HsmId, Peer>) -> Vec<MissingKey> {
        // What the store has and the manager does not know yet is enrolled and attested like any key.
        let held: BTreeSet<KeyRef> = self.store.keys().into_iter().map(|entry| entry.key).collect();
        let of_peers = |missing: &MissingKey| missing.holders.iter().any(|holder| peers.contains_key(holder));
        let told: Vec<_> = told
            .into_iter()
            .take(MOST_KEYS)
            .filter(|missing| !held.contains(&missing.key) && of_peers(missing))
            .collect();
        let names: BTreeSet<&KeyId> = held.iter().map(|key| &key.key).collect();
        let rotations = self.take_rotations.load(Ordering::Relaxed);
        let why = |missing: &MissingKey| {
            if told.iter().any(|other| other.key == missing.key && !agree(other, missing)) {
                return Some(LeftOut::Disputed);
            }
            let epochs = |other: &MissingKey| other.key.key == missing.key.key && other.key.epoch != missing.key.epoch;
            if rotations {
                None
            } else if names.contains(&missing.key.key) {
                Some(LeftOut::Rotation)
            } else {
                told.iter().any(epochs).then_some(LeftOut::Epochs)
            }
        };
        let (left, taken): (Vec<_>, Vec<_>) =
            told.iter().map(|missing| (missing, why(missing))).partition(|(_, why)| why.is_some());
        for (missing, why) in left {
            let named = told.iter().filter(|other| other.key == missing.key).flat_map(|other| &other.holders);
            let holders: Vec<_> = named.filter(|holder| peers.contains_key(*holder)).cloned().collect();
            if let Some(why) = why {
                self.tell_left_out(&missing.key, &holders, why);
            }
        }
        taken.into_iter().map(|(missing, _)| missing.clone()).collect()
    }

    /// Says once of a key that it is not taken.
    fn tell_left_out(&self, key: &KeyRef, holders: &[HsmId], why: LeftOut) {
        let mut copying = lock(&self.copying);
        if copying.told.len() >= MOST_KEYS {
            copying.told.clear();
        }
        if copying.told.insert((key.clone(), why)) {
            drop(copying);
            let names: Vec<_> = holders.iter().map(HsmId::as_str).collect();
            tracing::warn!(%key, holders = names.join(", "), %why, "a key of the cluster is not taken");
            (self.observer)(&AgentEvent::KeyLeftOut { key, holders, why });
        }
    }

    /// Asks one HSM for keys, [`MAX_TRANSFER`] at a time, until all are asked for or it fails. One that does not answer, or not as
    /// itself, is left alone for a while.
    fn fetch_from(&self, session: &Session<'_>, peer: &Peer, mut keys: &[MissingKey]) {
        while !keys.is_empty() && !session.stop.is_stopped() && self.is_peer(&peer.identity) {
            let (asked, left) = keys.split_at(keys.len().min(MAX_TRANSFER));
            if let Err(error) = self.fetch(session, peer, asked) {
                for missing in keys {
                    self.missed(&missing.key, &peer.hsm);
                }
                self.tell_failure(&peer.hsm, &error);
                if matches!(error, CopyError::Client(_) | CopyError::Foreign(_)) {
                    self.leave_alone(&peer.hsm);
                }
                return;
            }
            lock(&self.copying).rests.remove(&peer.hsm);
            keys = left;
        }
    }

    fn leave_alone(&self, hsm: &HsmId) {
        let mut copying = lock(&self.copying);
        let rest = copying.rests.entry(hsm.clone()).or_insert((0, Timestamp(0)));
        let failures = rest.0.saturating_add(1);
        let wait = timetable::back_off(failures, LONGEST_REST, &mut rand::thread_rng());
        *rest = (failures, self.clock.steady().plus(wait));
    }

    pub(super) fn is_peer(&self, identity: &IdentityKey) -> bool {
        lock(&self.peers).contains(identity)
    }

    /// Counts that a holder did not give a key, and says whether that was the first time.
    fn missed(&self, key: &KeyRef, holder: &HsmId) -> bool {
        let mut copying = lock(&self.copying);
        let count = copying.misses.entry(key.clone()).or_default().entry(holder.clone()).or_default();
        *count = count.saturating_add(1);
        *count == 1
    }

    fn tell_failure(&self, hsm: &HsmId, error: &CopyError) {
        tracing::warn!(%hsm, error = printable(error), "copies of keys did not come");
        (self.observer)(&AgentEvent::CopiesFailed { hsm, error });
    }

    /// Asks one HSM for some keys. A key that does not come, or is not the cluster's, does not hold up the others.
    fn fetch(&self, session: &Session<'_>, peer: &Peer, keys: &[MissingKey]) -> Result<(), CopyError> {
        let transfer = self.transfer_of(session, peer, keys)?;
        for missing in keys {
            match self.take(&transfer, peer, missing) {
                Ok(()) => {
                    tracing::info!(key = %missing.key, from = %peer.hsm, "received a copy of a key");
                    self.note_copy(session, Copied::Received, &peer.hsm, &missing.key);
                    (self.observer)(&AgentEvent::KeyReceived { key: &missing.key, from: &peer.hsm });
                }
                Err(error) => {
                    // What stays where it is is said once.
                    if self.missed(&missing.key, &peer.hsm) || !matches!(error, CopyError::Withheld(..)) {
                        self.tell_failure(&peer.hsm, &error);
                    }
                }
            }
        }
        Ok(())
    }

    /// What an HSM gives of the keys that it is asked for, signed by it for this request.
    fn transfer_of(&self, session: &Session<'_>, peer: &Peer, keys: &[MissingKey]) -> Result<Transfer, CopyError> {
        let (domain, own) = (&session.audience.trust_domain, &session.enrolment.hsm);
        let asked: Vec<_> = keys.iter().map(|missing| missing.key.clone()).collect();
        let request = self.store.ask_copies(&peer.hsm, &asked, self.clock.now())?;
        let foreign = || CopyError::Foreign(peer.hsm.clone());
        let plain = serde_json::to_vec(&request).map_err(|_| foreign())?;
        let (sealed, answer_key) =
            channel::seal_request(domain, &peer.hsm, &peer.channel_key.0, &plain).map_err(|_| foreign())?;
        let url = peer.channel_url.as_deref().unwrap_or_default();
        let answer = answer_key.open(&client::operate(url, &sealed)?).map_err(|_| foreign())?;
        let transfer = match serde_json::from_slice(&answer).map_err(|_| foreign())? {
            OperationAnswer::Keys(Base64(bytes)) => Transfer::from_bytes(&bytes).map_err(|_| foreign())?,
            OperationAnswer::Refused(why) => return Err(CopyError::Refused(peer.hsm.clone(), why)),
            OperationAnswer::Signature(_) => return Err(foreign()),
        };
        let terms = Terms {
            trust_domain: domain.clone(),
            cluster: session.enrolment.cluster.clone(),
            from: peer.hsm.clone(),
            to: own.clone(),
            request: request.digest(domain, &peer.hsm),
        };
        transfer.check(&peer.identity, &terms).map_err(|_| foreign())?;
        Ok(transfer)
    }

    fn take(&self, transfer: &Transfer, peer: &Peer, missing: &MissingKey) -> Result<(), CopyError> {
        if let Some(withheld) = transfer.withheld.iter().find(|withheld| withheld.key == missing.key) {
            let why = withheld.why().to_owned();
            return Err(CopyError::Withheld(peer.hsm.clone(), missing.key.clone(), why));
        }
        let expected = missing.instances.iter().map(|bytes| Instance::from_bytes(&bytes.0));
        let expected = expected.collect::<Result<Vec<_>, _>>().map_err(StoreError::from)?;
        self.store.take_copy(transfer, &peer.identity, &missing.key, &expected)?;
        Ok(())
    }

    pub(super) fn note_copy(&self, session: &Session<'_>, copied: Copied, peer: &HsmId, key: &KeyRef) {
        let entry = CopyEntry {
            at: self.clock.now(),
            hsm: session.enrolment.hsm.clone(),
            enrolment: session.enrolment.revision,
            copied,
            peer: peer.clone(),
            key: key.clone(),
        };
        let written = lock(&self.journal).as_mut().map_or(Ok(()), |journal| journal.append_copy(&entry));
        if let Err(error) = written {
            tracing::error!(%error, "the journal cannot be written");
        }
    }
}
