//! Cluster synchronisation: copies of keys, asked of other HSMs of the cluster.
//!
//! Only between HSMs whose operators have named each other's identity keys ([`super::AgentConfig::peers`]): the manager says
//! who is in the cluster, and cannot add anybody to it that gets a key. What a key is, is what the cluster has proven.

use std::collections::BTreeMap;

use keywitness_circuits::{HsmId, Instance, codec::Canonical};
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
    lock,
};
use crate::store::StoreError;

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

/// How often each holder did not give a key that it was asked for.
pub(super) type Misses = BTreeMap<KeyRef, BTreeMap<HsmId, u32>>;

impl Agent {
    /// Asks other HSMs of the cluster for the keys that they attest and this HSM has not, and keeps what is right. A failure
    /// is told and logged; the next time another holder is asked, where there is one.
    pub(super) fn fetch_copies(&self, session: &Session<'_>) -> Result<(), CopyError> {
        let told = insist(session.stop, || self.client.peers(session))?;
        let held: Vec<KeyRef> = self.store.keys().into_iter().map(|entry| entry.key).collect();
        let peers: BTreeMap<HsmId, Peer> = told
            .peers
            .into_iter()
            .filter(|peer| peer.channel_url.is_some() && self.is_peer(&peer.identity))
            .map(|peer| (peer.hsm.clone(), peer))
            .collect();
        // What the store has and the manager does not know yet is enrolled and attested like any key.
        let missing: Vec<_> = told.missing.into_iter().filter(|missing| !held.contains(&missing.key)).collect();
        let mut wanted: BTreeMap<HsmId, Vec<MissingKey>> = BTreeMap::new();
        {
            let mut misses = lock(&self.copy_misses);
            misses.retain(|key, _| missing.iter().any(|missing| missing.key == *key));
            for missing in missing {
                let missed = |holder: &&HsmId| misses.get(&missing.key).and_then(|by| by.get(*holder)).copied();
                let holders = missing.holders.iter().filter(|holder| peers.contains_key(*holder));
                if let Some(holder) = holders.min_by_key(missed) {
                    wanted.entry(holder.clone()).or_default().push(missing);
                }
            }
        }
        for (hsm, keys) in wanted {
            let Some(peer) = peers.get(&hsm) else { continue };
            for keys in keys.chunks(MAX_TRANSFER) {
                if session.stop.is_stopped() {
                    return Ok(());
                }
                if let Err(error) = self.fetch(session, peer, keys) {
                    for missing in keys {
                        self.missed(&missing.key, &hsm);
                    }
                    self.tell_failure(&hsm, &error);
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_peer(&self, identity: &IdentityKey) -> bool {
        lock(&self.peers).contains(identity)
    }

    /// Counts that a holder did not give a key, and says whether that was the first time.
    fn missed(&self, key: &KeyRef, holder: &HsmId) -> bool {
        let mut misses = lock(&self.copy_misses);
        let count = misses.entry(key.clone()).or_default().entry(holder.clone()).or_default();
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
