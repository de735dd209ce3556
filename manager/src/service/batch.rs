//! Many challenges, envelopes or questions in one call. Each item comes to what it would have come to alone.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use keywitness_circuits::{Kind, Nonce, context::MAX_KEYS};
use keywitness_verifier::{
    engine::{Claim, EngineError},
    wire::{
        AttestBatch, AttestationState, AttestedAnswer, AttestedBatch, AttestedRequest, BriefHsm, BriefStatus,
        Challenge, ChallengeBatch, ChallengeBatchRequest, ChallengeRequest, HsmKeyStatus, KeyQuery, MAX_BATCH_KEYS,
        Problem, ProblemKind, Record, split_envelopes,
    },
};

use super::{
    Manager,
    access::{Caller, HsmCaller},
    attest::{Incoming, Sent, recorded},
    unexpected,
};
use crate::ledger::{ChallengesGiven, Command, Fault, Outcome, Verdict, state::State};

/// How many batches of envelopes are judged at once; further ones are told to come back. With [`MAX_BATCH_BODY`] this
/// bounds the memory that they take.
///
/// [`MAX_BATCH_BODY`]: keywitness_verifier::wire::MAX_BATCH_BODY
const BATCHES: usize = 16;

const BUSY: &str = "too many batches are being judged; send the same one again later";

/// Most HSMs that the answers to one batch of questions speak of.
const MAX_HSMS: usize = 65_536;

/// A place among those that do the same work at once.
pub(super) struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    /// Takes one of so many places.
    ///
    /// # Errors
    /// `unavailable`, saying why, where none is free.
    pub(super) fn take(taken: &'a AtomicUsize, places: usize, why: &str) -> Result<Self, Problem> {
        let one_more = |taken: usize| (taken < places).then_some(taken + 1);
        match taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more) {
            Ok(_) => Ok(Self(taken)),
            Err(_) => Err(Problem::new(ProblemKind::Unavailable, why).after(1)),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Manager {
    /// Gives single-use challenges, one for each item that [`Self::challenge`] would have given one. For an HSM; the same
    /// signed request sent again gets the same answer. All of them are durable, or none.
    ///
    /// # Errors
    /// `malformed` for no items, for items that name no key or more than 64, and where all of them together name more than
    /// [`MAX_BATCH_KEYS`] keys; `hsm-revoked`. Everything else is an answer to one item.
    pub fn challenges(&self, caller: &HsmCaller, request: &ChallengeBatchRequest) -> Result<ChallengeBatch, Problem> {
        let malformed = |why: String| Err(Problem::new(ProblemKind::Malformed, why));
        if request.items.iter().any(|item| !(1..=MAX_KEYS).contains(&item.keys.len())) {
            return malformed(format!("name 1 to {MAX_KEYS} keys in each item"));
        }
        let keys: usize = request.items.iter().map(|item| item.keys.len()).sum();
        if !(1..=MAX_BATCH_KEYS).contains(&keys) {
            return malformed(format!("name 1 to {MAX_BATCH_KEYS} keys in all, not {keys}"));
        }
        let command = Command::IssueChallenges {
            request: *caller.request(),
            hsm: caller.hsm().clone(),
            enrolment: caller.enrolment(),
            items: request.items.clone(),
            seed: Nonce::random(),
            beacon: Nonce::random(),
        };
        match self.submit(command)? {
            Outcome::Challenges(given) => Ok(given_to(request, given)),
            other => Err(unexpected(&other)),
        }
    }

    /// Judges many envelopes, of one HSM or of several. Anyone may bring them: each is authenticated, judged and answered as
    /// by [`Self::attest`], in this order. Their proofs are checked together, and they share as few writes to disk
    /// as may be. One that is sent twice in a batch is judged once.
    ///
    /// # Errors
    /// `malformed` for a body that is no batch; `unavailable` where too many batches are being judged. What else
    /// [`Self::attest`] refuses is an answer to one envelope.
    pub fn attest_batch(&self, body: &[u8]) -> Result<AttestBatch, Problem> {
        let envelopes =
            split_envelopes(body).map_err(|error| self.reject(ProblemKind::Malformed, error.to_string()))?;
        let _place = Place::take(&self.batches, BATCHES, BUSY)?;
        let read: Vec<_> = {
            let rows = self.ledger.view()?;
            let state = State(rows.as_ref());
            envelopes.iter().map(|bytes| self.read(state, bytes)).collect()
        };
        let mut verdicts = self.engine.verify_batch(read.iter().filter_map(claim_of).collect::<Vec<_>>());
        let mut commands = Vec::with_capacity(read.len());
        let mut judge = |incoming: Result<Incoming, Problem>, bytes: &[u8]| {
            let (sent, verdict) = match incoming? {
                Incoming::Known(answer) => return Ok(Judged::Known(answer?.records)),
                Incoming::Wrong(sent) => (sent, Verdict::Unchecked),
                Incoming::Right(sent) => {
                    let verdict = verdicts.next().unwrap_or(Err(EngineError::Internal));
                    let verdict = self.verdict_of(&sent, verdict)?;
                    (sent, verdict)
                }
            };
            commands.push(Sent::command(sent, bytes, verdict));
            Ok(Judged::Ordered)
        };
        let judged: Vec<Result<Judged, Problem>> =
            read.into_iter().zip(&envelopes).map(|(incoming, bytes)| judge(incoming, bytes)).collect();
        // One group, in the envelopes' order.
        let mut outcomes = self.ledger.submit_all(commands).into_iter();
        let mut answer = |judged: Result<Judged, Problem>| match judged? {
            Judged::Known(records) => Ok(records),
            Judged::Ordered => Ok(recorded(outcomes.next().unwrap_or(Err(Fault::Stopped))?)?.records),
        };
        Ok(AttestBatch { items: judged.into_iter().map(|judged| answer(judged).into()).collect() })
    }

    /// Whether many keys are attested, all of them at one time and in one state. For any role,
    /// within the caller's scope.
    ///
    /// # Errors
    /// `malformed` for no keys, or more than [`MAX_BATCH_KEYS`]. What [`Self::attested`] refuses is an answer to one key;
    /// so is `too-large` for what is left once the answers speak of 65,536 HSMs.
    pub fn attested_batch(&self, caller: &Caller, request: &AttestedRequest) -> Result<AttestedBatch, Problem> {
        if !(1..=MAX_BATCH_KEYS).contains(&request.keys.len()) {
            let why = format!("ask about 1 to {MAX_BATCH_KEYS} keys, not {}", request.keys.len());
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let now = self.now(state)?;
        let mut room = MAX_HSMS;
        let mut answer = |query: &KeyQuery| {
            if room == 0 {
                let why = "too many HSMs hold the keys before this one; name the HSM, or ask about fewer keys at once";
                return Err(Problem::new(ProblemKind::TooLarge, why));
            }
            let (cluster, evidence) = self.evidence(state, caller.scope(), query, now)?;
            room = room.saturating_sub(evidence.len());
            let hsms: Vec<BriefHsm> = evidence.into_iter().map(|evidence| brief(&evidence.status)).collect();
            let attested = hsms.iter().any(|hsm| hsm.state == AttestationState::Attested);
            Ok(BriefStatus { cluster, attested, hsms })
        };
        let mut keys = Vec::with_capacity(request.keys.len());
        for query in &request.keys {
            keys.push(match answer(query) {
                Ok(status) => AttestedAnswer::Key(status),
                // The ledger cannot be read: that is no answer to one key.
                Err(problem) if problem.kind() == Some(ProblemKind::Internal) => return Err(problem),
                Err(problem) => AttestedAnswer::Problem(problem),
            });
        }
        Ok(AttestedBatch { now, keys })
    }
}

/// What became of an envelope before the group was ordered.
enum Judged {
    /// It was judged before.
    Known(Vec<Record>),
    /// Its command is in the group.
    Ordered,
}

/// The claim whose proof is to be checked.
fn claim_of(incoming: &Result<Incoming, Problem>) -> Option<Claim> {
    match incoming {
        Ok(Incoming::Right(sent)) => Some(Claim::from(sent.envelope.clone())),
        Ok(Incoming::Known(_) | Incoming::Wrong(_)) | Err(_) => None,
    }
}

fn brief(status: &HsmKeyStatus) -> BriefHsm {
    // A missing record has no time, which is less than any.
    let expires_at = status.statements.iter().map(|statement| statement.expires_at).min().flatten();
    BriefHsm { hsm: status.hsm.clone(), epoch: status.key.epoch, state: status.state, expires_at }
}

/// The answer to each item, from what was written down of them all.
fn given_to(request: &ChallengeBatchRequest, given: ChallengesGiven) -> ChallengeBatch {
    let nonces = given.nonces();
    let ChallengesGiven { seed: _, at, expires_at, not_after, beacon, refused } = given;
    let mut problems = BTreeMap::new();
    for (kind, why, items) in refused {
        problems.extend(items.into_iter().map(|item| (item, Problem::new(kind, why.clone()))));
    }
    let answer = |((item, place), nonce): ((&ChallengeRequest, u32), Nonce)| {
        if let Some(problem) = problems.remove(&place) {
            return Err(problem).into();
        }
        let beacon = beacon.filter(|_| item.statement.parse().is_ok_and(Kind::needs_beacon));
        Ok(Challenge { nonce, expires_at, not_before: at, not_after, beacon }).into()
    };
    ChallengeBatch { items: request.items.iter().zip(0..).zip(nonces).map(answer).collect() }
}
