//! The proving process's end of a lane.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{Mutex, PoisonError},
};

use keywitness_circuits::{Error, Nonce, Parameters};
use keywitness_verifier::operation::OperationError;

use super::{
    error::Failure,
    examine::Witnessed,
    protocol::{Answer, Listed, Request, receive, send},
    rules::{Guard, Rules},
};
use crate::store::{KeyEntry, KeyStore, Membership, StoreError};

/// A store that is served.
pub(super) struct Served {
    store: Box<dyn KeyStore>,
    parameters: Parameters,
    witnessed: Witnessed,
    guard: Guard,
    listed: Mutex<Option<(Nonce, Vec<Listed>)>>,
}

impl Served {
    pub(super) fn new(store: Box<dyn KeyStore>, parameters: Parameters, witnessed: Witnessed, rules: Rules) -> Self {
        Self { store, parameters, witnessed, guard: Guard::new(rules), listed: Mutex::default() }
    }

    /// The keys, unless they are those that the caller has. Thousands are listed anew only where they may have changed.
    fn keys(&self, known: Nonce) -> Answer {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.guard.rules.unsteady || listed.is_none() {
            let listing = |entry: KeyEntry| Listed { master: self.store.master(&entry.key), entry };
            let keys: Vec<_> = self.store.keys().into_iter().map(listing).collect();
            if listed.as_ref().is_none_or(|(_, before)| *before != keys) {
                *listed = Some((Nonce::random(), keys));
            }
        }
        match &*listed {
            Some((listing, keys)) if *listing != known => Answer::Keys { listing: *listing, keys: keys.clone() },
            _ => Answer::SameKeys,
        }
    }

    fn forget_listing(&self) {
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn answer(&self, request: Request) -> Result<Answer, StoreError> {
        let (store, parameters, guard) = (&*self.store, &self.parameters, &self.guard);
        let now = || guard.rules.clock.now();
        Ok(match request {
            Request::Hello => Answer::Hello {
                identity: store.identity(),
                channel_key: store.channel_key(),
                membership: store.membership(),
                parallel: u16::try_from(store.parallel()).unwrap_or(u16::MAX),
            },
            Request::SignIdentity { message } => {
                guard.may_sign(&message)?;
                Answer::Signature(store.sign_with_identity(&message)?)
            }
            Request::Open { trust_domain, hsm, sealed } => match store.open_request(&trust_domain, &hsm, &sealed) {
                Ok((request, key)) => Answer::Opened(Box::new(request), key),
                Err(error) => Answer::Unopened { malformed: matches!(error, OperationError::Malformed) },
            },
            Request::SetMembership(membership) => {
                guard.may_become(store.membership().as_ref(), &membership)?;
                store.set_membership(membership)?;
                Answer::Done
            }
            Request::Keys { known } => self.keys(known),
            Request::Instances { key, trust_domain, suites } => {
                Answer::Instances(store.instances(&key, &trust_domain, &suites)?)
            }
            Request::TaggedInstance { key, trust_domain, beacon } => {
                Answer::Instances(vec![store.tagged_instance(&key, &trust_domain, &beacon)?])
            }
            Request::SealingKey => Answer::SealingKey(store.sealing_key()?),
            Request::Deal { key, terms, scheme } => {
                guard.may_deal(store.membership().as_ref(), &key, &terms)?;
                Answer::Dealing(Box::new(store.deal(&key, terms, scheme)?))
            }
            Request::ReceiveShare { dealing, dealer, cluster } => {
                let received = store.receive_share(&dealing, &dealer, &cluster);
                self.forget_listing();
                Answer::Received(received?)
            }
            Request::Prove { context, instance, key } => {
                guard.may_claim(store.membership().as_ref(), &context)?;
                let proof = store.prove(parameters, &context, &instance, &key)?;
                guard.proved(&context, &instance, &proof);
                Answer::Proof(proof)
            }
            Request::ProveMany { context, instance, keys } => {
                guard.may_claim(store.membership().as_ref(), &context)?;
                let proof = store.prove_many(parameters, &context, &instance, &keys)?;
                guard.proved(&context, &instance, &proof);
                Answer::Proof(proof)
            }
            Request::Sign { key, message } => Answer::Signature(store.sign(&key, &message)?),
            Request::AskCopies { from, keys } => {
                let Membership { audience, .. } = store.membership().ok_or(StoreError::NotEnrolled)?;
                let request = store.ask_copies(&from, &keys, now())?;
                guard.asked(request.digest(&audience.trust_domain, &from));
                Answer::Asked(Box::new(request))
            }
            Request::GiveCopies { request, withheld } => {
                guard.is_peer(&request.client)?;
                Answer::Copies(Box::new(store.give_copies(&request, &withheld, now())?))
            }
            Request::TakeCopy { transfer, giver, key, expected } => {
                guard.is_peer(&giver)?;
                guard.has_asked(&transfer.terms.request)?;
                let taken = store.take_copy(&transfer, &giver, &key, &expected);
                self.forget_listing();
                Answer::Taken(taken?)
            }
            Request::SignEnrolment { audience, join_token, hsm } => {
                let token =
                    std::str::from_utf8(&join_token).map_err(|_| StoreError::Unreadable("a join token is text"))?;
                Guard::may_enrol(store.membership().as_ref(), &audience, &hsm)?;
                let signature = store.sign_enrolment(&audience, token, &hsm)?;
                guard.enrols();
                Answer::Signature(signature)
            }
            Request::Examine => {
                let report = serde_json::to_vec(&self.witnessed.examine());
                Answer::Examined(report.map_err(|_| Error::Malformed { what: "report", why: "it has no encoding" })?)
            }
        })
    }
}

/// Answers on a lane until the other end closes it.
///
/// # Errors
/// Where the lane breaks, or what comes is no request: nothing is answered then.
pub(super) fn serve(served: &Served, mut lane: UnixStream) -> io::Result<()> {
    while let Some(request) = receive(&mut lane)? {
        send(&mut lane, &served.answer(request).unwrap_or_else(|error| Answer::Failed(Failure(error))))?;
    }
    Ok(())
}

/// Answers the first request on each lane with what is wrong.
pub(super) fn tell(error: StoreError, lanes: Vec<UnixStream>) {
    let answer = Answer::Failed(Failure(error));
    for mut lane in lanes {
        // Whoever asked may be gone.
        if matches!(receive::<Request>(&mut lane), Ok(Some(_))) {
            let _ = send(&mut lane, &answer);
            return;
        }
    }
}
