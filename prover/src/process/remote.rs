//! The agent's end: a key store that is another process.

use std::{
    io,
    os::unix::net::UnixStream,
    path::Path,
    process::Child,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use keywitness_circuits::{
    ClaimContext, ClusterId, HsmId, Instance, Nonce, Parameters, Suite, Timestamp, TrustDomain, codec::Canonical,
};
use keywitness_custody::{Dealing, Scheme, SealingKey, Terms};
use keywitness_isolation::{
    Lane, Lanes, MAX_LANES, frame,
    lanes::{Caller, Patience, Source},
    process,
};
use keywitness_verifier::{
    channel::{AnswerKey, ChannelError},
    identity::{Audience, IdentityKey},
    operation::{OperationError, OperationRequest},
    transfer::{self, SealedKey, Transfer, Withheld},
    wire::KeyRef,
};
use zeroize::Zeroizing;

use super::{
    Examination, Secrets, Spec,
    error::Failure,
    protocol::{Answer, Listed, MAX_FRAME, Request, read},
};
use crate::{
    agent::in_batch,
    store::{KeyEntry, KeyStore, Membership, Received, StoreError},
};

/// What the log calls a worker.
pub(super) const PROCESS: &str = "the proving process";

/// How long callers wait. A worker makes a key of the passphrase and reads Groth16's parameters before it answers; a PKCS#11
/// library may have to look for its hardware.
const PATIENCE: Patience = Patience {
    start: Duration::from_secs(60),
    restart: Duration::from_secs(20),
    rest: Duration::from_millis(200),
    answer: Duration::from_secs(30),
};

/// How long a SNARK may take. A signature, or a Schnorr proof, takes as long as any other call.
const PROOF: Duration = Duration::from_secs(600);

/// How long a signature may.
const SIGNATURE: Duration = Duration::from_secs(30);

/// A key store in another process.
///
/// While that process is away, what needs a secret fails with [`StoreError::Away`]; the keys are those that it listed last.
pub struct Remote {
    lanes: Lanes<Hsm>,
    listed: Mutex<Listing>,
}

#[derive(Default)]
struct Listing {
    number: Option<Nonce>,
    keys: Vec<Listed>,
}

/// Which HSM's store it is.
#[derive(Default)]
struct Hsm {
    keys: OnceLock<(IdentityKey, [u8; 32])>,
    membership: Mutex<Option<Membership>>,
    parallel: AtomicUsize,
}

impl Caller for Hsm {
    type Error = StoreError;

    /// Asks a new worker whose store it has opened: the same one's as the worker before.
    fn greet(&self, lane: &mut Lane) -> Result<(), StoreError> {
        let asked = lane.exchange(&Request::Hello.to_bytes()).and_then(|answer| read(&answer));
        let (keys, membership) = match asked.map_err(|error| StoreError::Away(error.to_string()))? {
            Answer::Hello { identity, channel_key, membership, parallel } => {
                // Each call takes a lane.
                self.parallel.store(usize::from(parallel).clamp(1, MAX_LANES), Ordering::Relaxed);
                ((identity, channel_key), membership)
            }
            Answer::Failed(Failure(error)) => return Err(error),
            _ => return Err(unexpected()),
        };
        if *self.keys.get_or_init(|| keys) != keys {
            return Err(StoreError::Process("the store is another HSM's than before; restart the agent".to_owned()));
        }
        *lock(&self.membership) = membership;
        Ok(())
    }

    fn is_away(error: &StoreError) -> bool {
        matches!(error, StoreError::Away(_))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unexpected() -> StoreError {
    StoreError::Process("the proving process answers what it was not asked".to_owned())
}

impl Remote {
    /// Starts a proving process: `program` is called with these flags, `prover --supervise` and the spec, and is given what opens the
    /// store. It ends with this value, or with this process.
    ///
    /// # Errors
    /// [`StoreError`]: what keeps it from opening the store, too.
    pub fn spawn(program: &Path, flags: &[&str], spec: &Spec, secrets: &Secrets) -> Result<Self, StoreError> {
        let failed = |error: io::Error| StoreError::Away(error.to_string());
        let (mut control, other) = UnixStream::pair().map_err(failed)?;
        let child = start((program, flags), "--supervise", spec, other)?;
        frame::send(&mut control, &secrets.encode()?, Secrets::MAX).map_err(failed)?;
        Self::over(control, Some(child))
    }

    pub(super) fn over(control: UnixStream, supervisor: Option<Child>) -> Result<Self, StoreError> {
        let lanes = Lanes::open(Hsm::default(), Source::Control(control), supervisor, MAX_FRAME, PATIENCE)?;
        Ok(Self { lanes, listed: Mutex::default() })
    }

    /// Has the process try what it must not be able to do, and tell.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn examine(&self) -> Result<Examination, StoreError> {
        match self.ask(&Request::Examine)? {
            Answer::Examined(report) => serde_json::from_slice(&report).map_err(|_| unexpected()),
            _ => Err(unexpected()),
        }
    }

    /// Asks, and where that changes nothing once more of the next worker if this one is gone.
    fn ask(&self, request: &Request) -> Result<Answer, StoreError> {
        // Two different dealings of one sharing convict their dealer.
        let again = !matches!(request, Request::Deal { .. });
        // A key that hangs in its token ends nothing else.
        let within = match request {
            Request::Prove { context, .. } if context.statement.parse().is_ok_and(in_batch) => Some(SIGNATURE),
            Request::Prove { .. } | Request::ProveMany { .. } => Some(PROOF),
            Request::Sign { .. } => Some(SIGNATURE),
            _ => None,
        };
        match self.lanes.ask(&Zeroizing::new(request.to_bytes()), again, within, read)? {
            Answer::Failed(Failure(error)) => Err(error),
            answer => Ok(answer),
        }
    }

    fn signature(&self, request: &Request) -> Result<[u8; 64], StoreError> {
        match self.ask(request)? {
            Answer::Signature(signature) => Ok(signature),
            _ => Err(unexpected()),
        }
    }

    fn proof(&self, request: &Request) -> Result<Vec<u8>, StoreError> {
        match self.ask(request)? {
            Answer::Proof(proof) => Ok(proof),
            _ => Err(unexpected()),
        }
    }

    fn instances_of(&self, request: &Request) -> Result<Vec<Instance>, StoreError> {
        match self.ask(request)? {
            Answer::Instances(instances) => Ok(instances),
            _ => Err(unexpected()),
        }
    }

    /// Looks at the keys, as the process lists them now, or as it did last.
    fn listed<R>(&self, look: impl FnOnce(&[Listed]) -> R) -> R {
        let known = lock(&self.listed).number.unwrap_or(Nonce([0; 32]));
        let answer = self.ask(&Request::Keys { known });
        let mut listing = lock(&self.listed);
        match answer {
            Ok(Answer::Keys { listing: number, keys }) => *listing = Listing { number: Some(number), keys },
            Ok(Answer::SameKeys) => {}
            Ok(_) => tracing::warn!("the proving process answers what it was not asked"),
            Err(error) => tracing::warn!(%error, "the proving process does not list its keys"),
        }
        look(&listing.keys)
    }
}

/// Starts the program as a part of a proving process, whose standard input is a socket.
pub(super) fn start(
    (program, flags): (&Path, &[&str]),
    part: &str,
    spec: &Spec,
    control: UnixStream,
) -> Result<Child, StoreError> {
    let failed = |error: &dyn std::fmt::Display| StoreError::Process(format!("it cannot be started: {error}"));
    let spec_text = serde_json::to_string(spec).map_err(|error| failed(&error))?;
    let variables = spec.token.iter().flat_map(|token| &token.environment).map(String::as_str);
    let arguments = [flags, &["prover", part, &spec_text]].concat();
    process::start(program, &arguments, variables.chain(["KEYWITNESS_LOG"]), control).map_err(|error| failed(&error))
}

impl KeyStore for Remote {
    fn identity(&self) -> IdentityKey {
        self.public_keys().0
    }

    fn sign_with_identity(&self, message: &[u8]) -> Result<[u8; 64], StoreError> {
        self.signature(&Request::SignIdentity { message: message.to_vec() })
    }

    fn parallel(&self) -> usize {
        self.lanes.caller().parallel.load(Ordering::Relaxed).max(1)
    }

    fn channel_key(&self) -> [u8; 32] {
        self.public_keys().1
    }

    fn open_request(
        &self,
        trust_domain: &TrustDomain,
        hsm: &HsmId,
        sealed: &[u8],
    ) -> Result<(OperationRequest, AnswerKey), OperationError> {
        let request = Request::Open { trust_domain: trust_domain.clone(), hsm: hsm.clone(), sealed: sealed.to_vec() };
        match self.ask(&request) {
            Ok(Answer::Opened(request, key)) => Ok((*request, key)),
            Ok(Answer::Unopened { malformed: true }) => Err(OperationError::Malformed),
            Ok(_) => Err(OperationError::Channel(ChannelError)),
            Err(error) => {
                tracing::error!(%error, "a client's request cannot be opened");
                Err(OperationError::Channel(ChannelError))
            }
        }
    }

    fn restarts(&self) -> u64 {
        self.lanes.replaced()
    }

    fn membership(&self) -> Option<Membership> {
        lock(&self.lanes.caller().membership).clone()
    }

    fn set_membership(&self, membership: Membership) -> Result<(), StoreError> {
        self.ask(&Request::SetMembership(membership.clone()))?;
        *lock(&self.lanes.caller().membership) = Some(membership);
        Ok(())
    }

    fn keys(&self) -> Vec<KeyEntry> {
        self.listed(|keys| keys.iter().map(|listed| listed.entry.clone()).collect())
    }

    fn instances(
        &self,
        key: &KeyRef,
        trust_domain: &TrustDomain,
        suites: &[Suite],
    ) -> Result<Vec<Instance>, StoreError> {
        let (key, trust_domain, suites) = (key.clone(), trust_domain.clone(), suites.to_vec());
        self.instances_of(&Request::Instances { key, trust_domain, suites })
    }

    fn tagged_instance(
        &self,
        key: &KeyRef,
        trust_domain: &TrustDomain,
        beacon: &Nonce,
    ) -> Result<Instance, StoreError> {
        let (key, trust_domain) = (key.clone(), trust_domain.clone());
        let mut instances = self.instances_of(&Request::TaggedInstance { key, trust_domain, beacon: *beacon })?;
        instances.pop().ok_or_else(unexpected)
    }

    fn master(&self, key: &KeyRef) -> Option<KeyRef> {
        let of = |keys: &[Listed]| keys.iter().find(|listed| listed.entry.key == *key)?.master.clone();
        // Where a key comes from never changes.
        let known = lock(&self.listed).keys.iter().find(|listed| listed.entry.key == *key).cloned();
        known.map_or_else(|| self.listed(of), |listed| listed.master)
    }

    fn sealing_key(&self) -> Result<SealingKey, StoreError> {
        match self.ask(&Request::SealingKey)? {
            Answer::SealingKey(key) => Ok(key),
            _ => Err(unexpected()),
        }
    }

    fn deal(&self, key: &KeyRef, terms: Terms, scheme: Scheme) -> Result<Dealing, StoreError> {
        match self.ask(&Request::Deal { key: key.clone(), terms, scheme })? {
            Answer::Dealing(dealing) => Ok(*dealing),
            _ => Err(unexpected()),
        }
    }

    fn receive_share(
        &self,
        dealing: &Dealing,
        dealer: &IdentityKey,
        cluster: &ClusterId,
    ) -> Result<Received, StoreError> {
        let (dealing, cluster) = (Box::new(dealing.clone()), cluster.clone());
        match self.ask(&Request::ReceiveShare { dealing, dealer: *dealer, cluster })? {
            Answer::Received(received) => Ok(received),
            _ => Err(unexpected()),
        }
    }

    fn sign_enrolment(&self, audience: &Audience, join_token: &str, hsm: &HsmId) -> Result<[u8; 64], StoreError> {
        let join_token = Zeroizing::new(join_token.as_bytes().to_vec());
        self.signature(&Request::SignEnrolment { audience: audience.clone(), join_token, hsm: hsm.clone() })
    }

    fn ask_copies(&self, from: &HsmId, keys: &[KeyRef], _now: Timestamp) -> Result<OperationRequest, StoreError> {
        match self.ask(&Request::AskCopies { from: from.clone(), keys: keys.to_vec() })? {
            Answer::Asked(request) => Ok(*request),
            _ => Err(unexpected()),
        }
    }

    fn give_copies(
        &self,
        request: &OperationRequest,
        withheld: &[Withheld],
        _now: Timestamp,
    ) -> Result<Transfer, StoreError> {
        let (request, withheld) = (Box::new(request.clone()), withheld.to_vec());
        match self.ask(&Request::GiveCopies { request, withheld })? {
            Answer::Copies(transfer) => Ok(*transfer),
            _ => Err(unexpected()),
        }
    }

    fn take_copy(
        &self,
        transfer: &Transfer,
        giver: &IdentityKey,
        key: &KeyRef,
        expected: &[Instance],
    ) -> Result<KeyEntry, StoreError> {
        let (transfer, key, expected) = (Box::new(transfer.clone()), key.clone(), expected.to_vec());
        match self.ask(&Request::TakeCopy { transfer, giver: *giver, key, expected })? {
            Answer::Taken(entry) => Ok(entry),
            _ => Err(unexpected()),
        }
    }

    fn copy_key(&self, _: &KeyRef, _: &transfer::Terms, _: &[u8; 32]) -> Result<SealedKey, StoreError> {
        Err(StoreError::NotGiven("the proving process makes copies for requests of peers alone"))
    }

    fn take_key(&self, _: &SealedKey, _: &transfer::Terms, _: &[Instance]) -> Result<KeyEntry, StoreError> {
        Err(StoreError::NotGiven("the proving process takes copies of peers alone"))
    }

    /// With the parameters of the proving process: where the claim names another verifying key than theirs, it is refused.
    fn prove(
        &self,
        _parameters: &Parameters,
        context: &ClaimContext,
        instance: &[u8],
        key: &KeyRef,
    ) -> Result<Vec<u8>, StoreError> {
        let (context, instance) = (Box::new(context.clone()), instance.to_vec());
        self.proof(&Request::Prove { context, instance, key: key.clone() })
    }

    /// As [`Self::prove`].
    fn prove_many(
        &self,
        _parameters: &Parameters,
        context: &ClaimContext,
        instance: &[u8],
        keys: &[KeyRef],
    ) -> Result<Vec<u8>, StoreError> {
        let (context, instance) = (Box::new(context.clone()), instance.to_vec());
        self.proof(&Request::ProveMany { context, instance, keys: keys.to_vec() })
    }

    fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<[u8; 64], StoreError> {
        self.signature(&Request::Sign { key: key.clone(), message: message.to_vec() })
    }
}

impl Remote {
    /// Identity key and channel key: a worker that was greeted has told them.
    fn public_keys(&self) -> (IdentityKey, [u8; 32]) {
        *self.lanes.caller().keys.get().expect("a greeted worker")
    }
}
