//! The proving process's end of a lane.

use std::{
    collections::VecDeque,
    io,
    os::unix::net::UnixStream,
    sync::{Mutex, PoisonError},
};

use keywitness_circuits::{Digest, Error, Nonce, Parameters};
use keywitness_verifier::{
    operation::{self, Operation, OperationError, OperationRequest},
    transfer::Terms,
    wire::KeyRef,
};

use super::{
    error::Failure,
    examine::Witnessed,
    protocol::{Answer, Listed, Request, receive, send},
};
use crate::store::{KeyEntry, KeyStore, Membership, StoreError};

/// A store that is served.
pub(super) struct Served {
    store: Box<dyn KeyStore>,
    parameters: Parameters,
    witnessed: Witnessed,
    rules: Rules,
    listed: Mutex<Option<(Nonce, Vec<Listed>)>>,
    /// The newest requests for copies that were opened here and are a peer's.
    asked: Mutex<VecDeque<Asked>>,
}

/// What does not come from the store.
pub(super) struct Rules {
    /// Whether keys come and go without this process: in a token.
    pub(super) unsteady: bool,
    /// Identity keys of the HSMs that the operator lets have copies of keys.
    pub(super) peers: Vec<Digest>,
}

/// A request for copies of keys, by one whom the operator lets have them.
struct Asked {
    digest: Digest,
    channel_key: Digest,
    keys: Vec<KeyRef>,
}

/// How many requests for copies are remembered.
const ASKED: usize = 64;

impl Served {
    pub(super) fn new(store: Box<dyn KeyStore>, parameters: Parameters, witnessed: Witnessed, rules: Rules) -> Self {
        Self { store, parameters, witnessed, rules, listed: Mutex::default(), asked: Mutex::default() }
    }

    /// The keys, unless they are those that the caller has. Thousands are listed anew only where they may have changed.
    fn keys(&self, known: Nonce) -> Answer {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.rules.unsteady || listed.is_none() {
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

    /// Remembers what a peer asked for: an agent that was taken over has no copy made that none did.
    fn remember(&self, request: &OperationRequest) {
        let Operation::Copy { channel_key, keys, .. } = &request.operation else { return };
        let Some(Membership { audience, hsm, .. }) = self.store.membership() else { return };
        let named = self.rules.peers.contains(&request.client.into());
        if !named || request.check(&audience.trust_domain, &hsm).is_err() {
            return;
        }
        let digest = request.digest(&audience.trust_domain, &hsm);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= ASKED {
            asked.pop_front();
        }
        asked.push_back(Asked { digest, channel_key: *channel_key, keys: keys.clone() });
    }

    /// Whether a peer asked for a copy of this key.
    fn was_asked(&self, key: &KeyRef, terms: &Terms, channel_key: &Digest) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |asked: &Asked| asked.digest == terms.request && asked.channel_key == *channel_key;
        asked.iter().any(|asked| same(asked) && asked.keys.contains(key))
    }

    fn answer(&self, request: Request) -> Result<Answer, StoreError> {
        let (store, parameters) = (&*self.store, &self.parameters);
        Ok(match request {
            Request::Hello => Answer::Hello {
                identity: store.identity(),
                channel_key: store.channel_key(),
                membership: store.membership(),
                parallel: u16::try_from(store.parallel()).unwrap_or(u16::MAX),
            },
            Request::SignIdentity { message } => {
                // What a client could ask for is not signed in the HSM's name.
                if operation::check_message(&message).is_ok() {
                    return Err(StoreError::Process(
                        "the identity key signs the protocol's own messages alone".to_owned(),
                    ));
                }
                Answer::Signature(store.sign_with_identity(&message)?)
            }
            Request::Open { trust_domain, hsm, sealed } => match store.open_request(&trust_domain, &hsm, &sealed) {
                Ok((request, key)) => {
                    self.remember(&request);
                    Answer::Opened(Box::new(request), key)
                }
                Err(error) => Answer::Unopened { malformed: matches!(error, OperationError::Malformed) },
            },
            Request::SetMembership(membership) => {
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
            Request::Deal { key, terms, scheme } => Answer::Dealing(Box::new(store.deal(&key, terms, scheme)?)),
            Request::ReceiveShare { dealing, dealer, cluster } => {
                let received = store.receive_share(&dealing, &dealer, &cluster);
                self.forget_listing();
                Answer::Received(received?)
            }
            Request::Prove { context, instance, key } => {
                Answer::Proof(store.prove(parameters, &context, &instance, &key)?)
            }
            Request::ProveMany { context, instance, keys } => {
                Answer::Proof(store.prove_many(parameters, &context, &instance, &keys)?)
            }
            Request::Sign { key, message } => Answer::Signature(store.sign(&key, &message)?),
            Request::CopyKey { key, terms, channel_key } => {
                if !self.was_asked(&key, &terms, &channel_key) {
                    return Err(StoreError::Process(format!("no peer of this HSM has asked it for key {key}")));
                }
                Answer::Copy(Box::new(store.copy_key(&key, &terms, &channel_key.0)?))
            }
            Request::TakeKey { copy, terms, expected } => {
                let taken = store.take_key(&copy, &terms, &expected);
                self.forget_listing();
                Answer::Taken(taken?)
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
