//! Cluster synchronisation: copies of keys, asked of other HSMs of the cluster, and given to them.
//!
//! Only between HSMs whose operators have named each other's identity keys ([`super::AgentConfig::peers`]): the manager says
//! who is in the cluster, and cannot add anybody to it that gets a key. What a key is, is what the cluster has proven.

use std::collections::BTreeMap;

use keywitness_circuits::{Digest, HsmId, Instance, codec::Canonical};
use keywitness_verifier::{
    channel,
    client::{self, ClientError},
    identity::IdentityKey,
    operation::{Operation, OperationAnswer, OperationRequest},
    transfer::{Terms, Transfer},
    wire::{Base64, KeyRef, MAX_TRANSFER, MissingKey, Peer, TransferRequest},
};

use super::{
    Agent, AgentEvent,
    attest::{Session, insist},
    error::printable,
    journal::{Copied, CopyEntry},
    lock,
};
use crate::{channel::Giver, clock::Stop, store::StoreError};

/// Why copies did not come, or were not given.
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
    /// The other HSM's answer is not its own, or answers something else.
    #[error("what came from HSM {0} is not an answer of its to this request")]
    Foreign(HsmId),
}

impl Agent {
    /// Asks other HSMs of the cluster for the keys that they attest and this HSM has not, and keeps what is right. A failure
    /// is told and logged; the next time begins where this one ended.
    pub(super) fn fetch_copies(&self, session: &Session<'_>) -> Result<(), CopyError> {
        let told = insist(session.stop, || self.client.peers(session))?;
        let held: Vec<KeyRef> = self.store.keys().into_iter().map(|entry| entry.key).collect();
        let peers: BTreeMap<HsmId, Peer> = told
            .peers
            .into_iter()
            .filter(|peer| peer.channel_url.is_some() && self.is_peer(&peer.identity))
            .map(|peer| (peer.hsm.clone(), peer))
            .collect();
        let mut wanted: BTreeMap<HsmId, Vec<MissingKey>> = BTreeMap::new();
        // What the store has and the manager does not know yet is enrolled and attested like any key.
        for missing in told.missing.into_iter().filter(|missing| !held.contains(&missing.key)) {
            if let Some(holder) = missing.holders.iter().find(|holder| peers.contains_key(*holder)) {
                wanted.entry(holder.clone()).or_default().push(missing);
            }
        }
        for (hsm, keys) in wanted {
            let Some(peer) = peers.get(&hsm) else { continue };
            for keys in keys.chunks(MAX_TRANSFER) {
                if session.stop.is_stopped() {
                    return Ok(());
                }
                if let Err(error) = self.fetch(session, peer, keys) {
                    tracing::warn!(hsm = %hsm, error = printable(&error), "copies of keys did not come");
                    (self.observer)(&AgentEvent::CopiesFailed { hsm: &hsm, error: &error });
                    break;
                }
            }
        }
        Ok(())
    }

    fn is_peer(&self, identity: &IdentityKey) -> bool {
        lock(&self.peers).contains(identity)
    }

    /// Asks one HSM for some keys.
    fn fetch(&self, session: &Session<'_>, peer: &Peer, keys: &[MissingKey]) -> Result<(), CopyError> {
        let (domain, own) = (&session.audience.trust_domain, &session.enrolment.hsm);
        let operation = Operation::Copy {
            hsm: own.clone(),
            channel_key: Digest(self.store.channel_key()),
            keys: keys.iter().map(|missing| missing.key.clone()).collect(),
        };
        let sign = |message: &[u8]| self.store.sign_with_identity(message);
        let now = self.clock.now();
        let request = OperationRequest::sign_as(self.store.identity(), (domain, &peer.hsm), now, operation, sign)?;
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
        for copy in &transfer.copies {
            let asked = keys.iter().find(|missing| missing.key == copy.described.key).ok_or_else(foreign)?;
            let expected = asked.instances.iter().map(|bytes| Instance::from_bytes(&bytes.0));
            let expected = expected.collect::<Result<Vec<_>, _>>().map_err(|error| CopyError::Store(error.into()))?;
            let entry = self.store.take_key(copy, &terms, &expected)?;
            tracing::info!(key = %entry.key, from = %peer.hsm, "received a copy of a key");
            self.note_copy(session, Copied::Received, &peer.hsm, &entry.key);
            (self.observer)(&AgentEvent::KeyReceived { key: &entry.key, from: &peer.hsm });
        }
        Ok(())
    }

    fn note_copy(&self, session: &Session<'_>, copied: Copied, peer: &HsmId, key: &KeyRef) {
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

impl Giver for Agent {
    fn gives_to(&self, identity: &IdentityKey) -> bool {
        self.is_peer(identity)
    }

    /// Gives copies to another HSM, once the manager has allowed and logged it.
    fn give(&self, request: &OperationRequest) -> Result<Transfer, String> {
        let Operation::Copy { hsm, channel_key, keys } = &request.operation else {
            return Err("this is no request for copies".to_owned());
        };
        if keys.is_empty() || keys.len() > MAX_TRANSFER {
            return Err(format!("a transfer is of 1 to {MAX_TRANSFER} keys"));
        }
        let failed = |error: &dyn std::fmt::Display| {
            tracing::warn!(to = %hsm, %error, "copies of keys are not given");
            error.to_string()
        };
        let enrolled = self.enrolled().map_err(|error| failed(&error))?;
        let info = self.info(&enrolled.audience).map_err(|error| failed(&error))?;
        let stop = Stop::new();
        let session = self.session(&enrolled, &info, &stop);
        let now = self.clock.now();
        if let Some(key) = keys.iter().find(|key| !self.standing.is_attested(key, now)) {
            return Err(format!("this HSM has no attestation of key {key} in force"));
        }
        let asked = TransferRequest { to: hsm.clone(), keys: keys.clone() };
        let grant = insist(&stop, || self.client.transfer(&session, &asked)).map_err(|error| failed(&error))?;
        // Who asked is who the manager has enrolled under that name, with that channel key.
        let same = grant.to.hsm == *hsm
            && grant.to.identity == request.client
            && grant.to.channel_key == *channel_key
            && grant.cluster == enrolled.enrolment.cluster;
        if !same {
            return Err(format!("the manager knows HSM {hsm} under another identity or channel key"));
        }
        let (domain, own) = (&enrolled.audience.trust_domain, &enrolled.enrolment.hsm);
        let terms = Terms {
            trust_domain: domain.clone(),
            cluster: grant.cluster,
            from: own.clone(),
            to: hsm.clone(),
            request: request.digest(domain, own),
        };
        let copies = keys.iter().map(|key| self.store.copy_key(key, &terms, &channel_key.0));
        let copies = copies.collect::<Result<Vec<_>, _>>().map_err(|error| failed(&error))?;
        let sign = |message: &[u8]| self.store.sign_with_identity(message);
        let transfer = Transfer::sign(terms, copies, sign).map_err(|error| failed(&error))?;
        for key in keys {
            tracing::info!(%key, to = %hsm, "gave a copy of a key");
            self.note_copy(&session, Copied::Given, hsm, key);
            (self.observer)(&AgentEvent::KeyGiven { key, to: hsm });
        }
        Ok(transfer)
    }
}
