//! What a proving process does for its agent, whoever has taken that over: what it decides by itself, and by what its operator said.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use keywitness_circuits::{ClaimContext, Digest, Envelope, HsmId, KeyId, codec::Canonical, transcript::label};
use keywitness_custody::{Purpose, Terms};
use keywitness_verifier::{
    identity::{Audience, IdentityKey},
    wire::KeyRef,
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::{Clock, is_about_now},
    store::{Membership, StoreError},
};

/// How many proofs, and how many requests for copies, are remembered.
const REMEMBERED: usize = 256;

/// What an operator has dealt. Nothing else is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharing {
    key: KeyId,
    /// The purpose's canonical encoding.
    purpose: Vec<u8>,
    threshold: u16,
    holders: Vec<Holder>,
}

/// Who gets a share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// The HSM.
    pub hsm: HsmId,
    /// The key that its share is sealed to, in hexadecimal, as its operator sees it; where there is none, whatever the manager says.
    pub sealing_key: Option<String>,
}

impl Sharing {
    /// A sharing of `key`, which any `threshold` of `holders`, who get the indices from 1 on, restore.
    pub fn new(key: KeyId, purpose: Purpose, threshold: u16, holders: Vec<Holder>) -> Self {
        Self { key, purpose: purpose.to_bytes(), threshold, holders }
    }

    /// Whether the operator has named a key that a share is to be sealed to.
    pub fn names_sealing_keys(&self) -> bool {
        self.holders.iter().any(|holder| holder.sealing_key.is_some())
    }

    fn is_of(&self, key: &KeyRef, terms: &Terms) -> bool {
        let named = terms.members.len() == self.holders.len()
            && terms.members.iter().zip(&self.holders).zip(1_u16..).all(|((member, holder), index)| {
                let sealing_key = data_encoding::HEXLOWER.encode(member.key.as_bytes());
                member.index == index
                    && member.holder == holder.hsm
                    && holder.sealing_key.as_ref().is_none_or(|named| *named == sealing_key)
            });
        let (shared, own) = (&terms.sharing, (&key.key, key.epoch));
        let of_key = key.key == self.key && (&shared.key, shared.epoch) == own;
        named && of_key && shared.purpose.to_bytes() == self.purpose && terms.threshold == self.threshold
    }
}

/// What does not come from the store.
pub(super) struct Rules {
    /// Whether keys come and go without this process: in a token.
    pub(super) unsteady: bool,
    /// Identity keys of the HSMs that the operator lets have copies of keys, and whose copies are taken.
    pub(super) peers: Vec<Digest>,
    /// What the operator has dealt.
    pub(super) sharing: Option<Sharing>,
    /// This process's own clock.
    pub(super) clock: Arc<dyn Clock>,
}

/// The newest of something.
struct Newest<T>(VecDeque<T>);

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: PartialEq> Newest<T> {
    fn add(&mut self, item: T) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(item);
    }
}

/// The rules, and what was done under them.
pub(super) struct Guard {
    pub(super) rules: Rules,
    /// Messages that seal the envelopes of proofs made here.
    proven: Mutex<Newest<Vec<u8>>>,
    /// Digests of the requests for copies that were made here.
    asked: Mutex<Newest<Digest>>,
    dealt: AtomicBool,
    /// Whether an enrolment was signed here whose end is not recorded yet.
    enrols: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(why: impl Into<String>) -> StoreError {
    StoreError::Process(why.into())
}

impl Guard {
    pub(super) fn new(rules: Rules) -> Self {
        let (dealt, enrols) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { rules, proven: Mutex::default(), asked: Mutex::default(), dealt, enrols }
    }

    /// An HSM that is enrolled enrols anew as itself, with its manager.
    pub(super) fn may_enrol(own: Option<&Membership>, audience: &Audience, hsm: &HsmId) -> Result<(), StoreError> {
        let own = own.filter(|own| own.enrolment.is_some());
        if own.is_none_or(|own| own.audience == *audience && own.hsm == *hsm) {
            return Ok(());
        }
        Err(refused("an enrolled HSM keeps its name and its manager"))
    }

    /// One enrolment can be recorded, however it ends.
    pub(super) fn enrols(&self) {
        self.enrols.store(true, Ordering::SeqCst);
    }

    /// An HSM that is enrolled stays itself, with its manager; its cluster and revision are those of an enrolment that was signed here.
    pub(super) fn may_become(&self, before: Option<&Membership>, after: &Membership) -> Result<(), StoreError> {
        Self::may_enrol(before, &after.audience, &after.hsm)?;
        if after.enrolment.as_ref().is_some_and(|enrolment| enrolment.hsm != after.hsm) {
            return Err(refused("the enrolment is another HSM's"));
        }
        let enrolled = before.is_some_and(|before| before.enrolment.is_some());
        if enrolled && after.enrolment.is_none() {
            return Err(refused("an enrolled HSM stays enrolled"));
        }
        let signed = after.enrolment.is_some() && self.enrols.swap(false, Ordering::SeqCst);
        // An HSM that is not enrolled has nothing to lose, and records what its last process signed.
        if signed || !enrolled || before == Some(after) {
            return Ok(());
        }
        Err(refused(
            "an enrolled HSM's cluster and revision change once it enrols anew, and not without; enrol it again",
        ))
    }

    /// A claim is in this HSM's own name, to its own manager, and about now by this process's own clock.
    pub(super) fn may_claim(&self, own: Option<&Membership>, context: &ClaimContext) -> Result<(), StoreError> {
        is_about_now(context.not_before, context.not_after, self.rules.clock.now())
            .map_err(|why| refused(format!("the claim is about another time: {why}; look at this machine's clock")))?;
        let own_name = |own: &Membership| {
            let Membership { audience, hsm, enrolment } = own;
            context.hsm == *hsm
                && (&context.trust_domain, &context.manager) == (&audience.trust_domain, &audience.manager)
                && enrolment.as_ref().is_none_or(|enrolment| context.cluster == enrolment.cluster)
        };
        if own.is_none_or(own_name) {
            return Ok(());
        }
        Err(refused("the claim is in another HSM's name, or to another manager"))
    }

    /// Lets the identity seal the envelope of a proof that was made here.
    pub(super) fn proved(&self, context: &ClaimContext, instance: &[u8], proof: &[u8]) {
        Envelope::seal(context.clone(), instance.to_vec(), proof.to_vec(), |message| {
            lock(&self.proven).add(message.to_vec());
            [0; 64]
        });
    }

    /// The identity seals envelopes of proofs made here, and signs requests to the manager. Everything else that it signs is made
    /// here too: enrolments, requests for copies, copies, dealings, complaints.
    pub(super) fn may_sign(&self, message: &[u8]) -> Result<(), StoreError> {
        let is = |label: &str| {
            let digest = message.strip_prefix(label.as_bytes()).and_then(|rest| rest.strip_prefix(&[0]));
            digest.is_some_and(|digest| digest.len() == 32)
        };
        if is(label::ENVELOPE) {
            return match lock(&self.proven).0.iter().any(|proven| proven == message) {
                true => Ok(()),
                false => Err(StoreError::NotProvenHere),
            };
        }
        if is(label::REQUEST) {
            return Ok(());
        }
        Err(refused(
            "the identity key signs the protocol's own messages alone, and those that others could misuse only where it makes them",
        ))
    }

    /// Deals once, what the operator said.
    pub(super) fn may_deal(&self, own: Option<&Membership>, key: &KeyRef, terms: &Terms) -> Result<(), StoreError> {
        let Some(sharing) = &self.rules.sharing else {
            return Err(refused("an agent deals no key; its operator does, with `keywitness sharing deal`"));
        };
        let own =
            own.is_some_and(|own| own.hsm == terms.dealer && own.audience.trust_domain == terms.sharing.trust_domain);
        if !own || !sharing.is_of(key, terms) {
            return Err(refused(
                "this is not the sharing that the operator asked for, or a holder's sealing key is another one",
            ));
        }
        if self.dealt.swap(true, Ordering::SeqCst) {
            return Err(refused("the sharing was dealt already; look at it before it is dealt anew"));
        }
        Ok(())
    }

    pub(super) fn is_peer(&self, identity: &IdentityKey) -> Result<(), StoreError> {
        if self.rules.peers.contains(&(*identity).into()) {
            return Ok(());
        }
        Err(StoreError::NotGiven("the operator has not named that HSM"))
    }

    pub(super) fn asked(&self, request: Digest) {
        lock(&self.asked).add(request);
    }

    /// What comes is the answer to a request of this process.
    pub(super) fn has_asked(&self, request: &Digest) -> Result<(), StoreError> {
        if lock(&self.asked).0.contains(request) {
            return Ok(());
        }
        Err(refused("these copies are no answer to what this process asked for"))
    }
}
