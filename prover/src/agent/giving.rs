//! Cluster synchronisation: copies of keys, given to other HSMs of the cluster.

use std::collections::VecDeque;

use keywitness_circuits::{HsmId, Timestamp};
use keywitness_verifier::{
    client::ClientError,
    identity::{IdentityKey, MAX_SKEW},
    operation::{Operation, OperationRequest},
    transfer::{Transfer, Withheld},
    wire::{KeyRef, MAX_TRANSFER, ProblemKind, TransferGrant, TransferRequest},
};

use super::{
    Agent, AgentEvent, Enrolled,
    attest::{Session, insist},
    journal::Copied,
    lock,
};
use crate::{channel::Giver, clock::Stop};

/// Most requests of one HSM that are answered within the age that a request may have: each may be of [`MAX_TRANSFER`] keys.
const MAX_REQUESTS: usize = 64;

/// The requests that were answered, as long as they would be answered again.
#[derive(Default)]
pub(super) struct Answered(VecDeque<OperationRequest>);

impl Answered {
    /// Lets each request be answered once.
    pub(super) fn once(
        &mut self,
        request: &OperationRequest,
        started: Timestamp,
        now: Timestamp,
    ) -> Result<(), String> {
        if request.created < started {
            return Err("the request was made before this HSM's agent was started; make a new one".to_owned());
        }
        self.0.retain(|answered| answered.is_recent(now));
        let of_client = || self.0.iter().filter(|answered| answered.client == request.client);
        // Sealed or signed anew, it is the same.
        let same = |answered: &OperationRequest| {
            (answered.created, &answered.operation) == (request.created, &request.operation)
        };
        if of_client().any(same) {
            return Err("this request was answered already; make a new one".to_owned());
        }
        if of_client().count() >= MAX_REQUESTS {
            return Err(format!("{MAX_REQUESTS} requests were answered within a minute; ask again after that"));
        }
        self.0.push_back(request.clone());
        Ok(())
    }
}

impl Agent {
    /// When this agent was started, by the clock that people read as it is now, in case it was set since. Requests for copies that are older
    /// are not answered: this agent does not know whether they were.
    pub(super) fn started(&self) -> Timestamp {
        let (wall, steady) = self.started;
        let lived = self.clock.steady().since(steady);
        let begun = Timestamp(self.clock.now().0.saturating_sub(lived));
        if begun.0.abs_diff(wall.0) <= MAX_SKEW { wall } else { begun }
    }

    /// The keys that are not given, and why.
    fn withheld(&self, keys: &[KeyRef]) -> Vec<Withheld> {
        let (held, now) = (self.store.keys(), self.clock.now());
        let why = |key: &KeyRef| match held.iter().find(|entry| entry.key == *key) {
            None => Some("this HSM has no such key"),
            Some(entry) if entry.attributes.algorithm.is_share() => Some("a share stays with its holder"),
            Some(entry) if !entry.attributes.extractable => Some("it lives in a token, which does not give it out"),
            Some(_) if !self.standing.is_attested(key, now) => Some("this HSM has no attestation of it in force"),
            Some(_) => None,
        };
        keys.iter().filter_map(|key| Some(Withheld::new(key.clone(), why(key)?))).collect()
    }

    /// Asks the manager for leave to give keys. One that it refuses joins those that are withheld; the others are asked for one by one.
    fn ask_leave(
        &self,
        session: &Session<'_>,
        request: &OperationRequest,
        (to, keys): (&HsmId, Vec<KeyRef>),
        withheld: &mut Vec<Withheld>,
    ) -> Result<(), GiveError> {
        let ask = |keys: &[KeyRef]| {
            let asked = TransferRequest { to: to.clone(), keys: keys.to_vec() };
            insist(session.stop, || self.client.transfer(session, &asked))
        };
        let refusal = match ask(&keys) {
            Err(error) if is_of_a_key(&error) => error,
            answer => return is_to_the_sender(request, session, &answer?),
        };
        if let [key] = keys.as_slice() {
            withheld.push(Withheld::new(key.clone(), &refusal.to_string()));
            return Ok(());
        }
        for key in keys {
            match ask(std::slice::from_ref(&key)) {
                Err(error) if is_of_a_key(&error) => withheld.push(Withheld::new(key, &error.to_string())),
                answer => is_to_the_sender(request, session, &answer?)?,
            }
        }
        Ok(())
    }

    fn give_with_leave(&self, request: &OperationRequest, enrolled: &Enrolled) -> Result<Transfer, GiveError> {
        let Operation::Copy { hsm, keys, .. } = &request.operation else {
            return Err("this is no request for copies".into());
        };
        let info = self.info(&enrolled.audience)?;
        let stop = Stop::new();
        let session = self.session(enrolled, &info, &stop);
        let mut withheld = self.withheld(keys);
        let kept = |key: &&KeyRef| withheld.iter().any(|withheld| withheld.key == **key);
        let wanted: Vec<_> = keys.iter().filter(|key| !kept(key)).cloned().collect();
        if !wanted.is_empty() {
            // What costs an entry of the manager's log is done once for each request.
            lock(&self.answered).once(request, self.started(), self.clock.now())?;
            self.ask_leave(&session, request, (hsm, wanted), &mut withheld)?;
        }
        let transfer = self.store.give_copies(request, &withheld, self.clock.now())?;
        for withheld in &transfer.withheld {
            tracing::debug!(key = %withheld.key, to = %hsm, why = withheld.why(), "gave no copy of a key");
        }
        for copy in &transfer.copies {
            let key = &copy.described.key;
            tracing::info!(%key, to = %hsm, "gave a copy of a key");
            self.note_copy(&session, Copied::Given, hsm, key);
            (self.observer)(&AgentEvent::KeyGiven { key, to: hsm });
        }
        Ok(transfer)
    }
}

/// Why nothing is given at all.
type GiveError = Box<dyn std::error::Error>;

/// Who asked is who the manager has enrolled under that name, with that channel key.
fn is_to_the_sender(
    request: &OperationRequest,
    session: &Session<'_>,
    TransferGrant { cluster, to }: &TransferGrant,
) -> Result<(), GiveError> {
    let Operation::Copy { hsm, channel_key, .. } = &request.operation else {
        return Err("this is no request for copies".into());
    };
    let same = to.hsm == *hsm && to.identity == request.client && to.channel_key == *channel_key;
    if same && *cluster == session.enrolment.cluster {
        return Ok(());
    }
    Err(format!("the manager knows HSM {hsm} under another identity or channel key").into())
}

/// Whether the manager refuses for what it knows of a key.
fn is_of_a_key(error: &ClientError) -> bool {
    let kinds = [ProblemKind::UnknownKey, ProblemKind::KeyRevoked, ProblemKind::NotAttested];
    error.problem_kind().is_some_and(|kind| kinds.contains(&kind))
}

impl Giver for Agent {
    fn gives_to(&self, identity: &IdentityKey) -> bool {
        self.is_peer(identity)
    }

    /// Gives copies to another HSM, once the manager has allowed and logged it. One key that is not given does not hold up the
    /// others.
    fn give(&self, request: &OperationRequest) -> Result<Transfer, String> {
        let Operation::Copy { hsm, keys, .. } = &request.operation else {
            return Err("this is no request for copies".to_owned());
        };
        if !(1..=MAX_TRANSFER).contains(&keys.len()) {
            return Err(format!("a transfer is of 1 to {MAX_TRANSFER} keys"));
        }
        let given = self.enrolled().map_err(GiveError::from);
        given.and_then(|enrolled| self.give_with_leave(request, &enrolled)).map_err(|error| {
            tracing::warn!(to = %hsm, %error, "copies of keys are not given");
            error.to_string()
        })
    }
}
