//! Many challenges, envelopes or questions in one call. Each item comes to what it would have come to alone.

use std::collections::{BTreeMap, HashMap};

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
use crate::{
    ledger::{ChallengesGiven, Command, Fault, Outcome, Verdict, state::State},
    limits::Source,
    places::Place,
};

/// How many batches of envelopes are judged at once; further ones are told to come back. With [`MAX_BATCH_BODY`] this
/// bounds the memory that they take.
///
/// [`MAX_BATCH_BODY`]: keywitness_verifier::wire::MAX_BATCH_BODY
pub(super) const BATCHES: usize = 16;

/// How many of them one HSM's may be: that of the first envelope that is judged.
const BATCHES_OF_HSM: usize = 4;

/// How many of them may come from one address.
const BATCHES_OF_ADDRESS: usize = 8;

const BUSY: &str = "too many batches are being judged; send the same one again later";

/// Most HSMs that the answers to one batch of questions speak of.
const MAX_HSMS: usize = 65_536;

impl Manager {
    /// Gives single-use challenges, one for each item that [`Self::challenge`] would have given one. For an HSM; the same
    /// signed request sent again gets the same answer. All of them are durable, or none.
    ///
    /// # Errors
    /// `malformed` for no items, for items that name no key or more than 64, and where all of them together name more than
    /// [`MAX_BATCH_KEYS`] keys; `too-many-requests`, for each key costs a request;
    /// `hsm-revoked`. Everything else is an answer to one item.
    pub fn challenges(&self, caller: &HsmCaller, request: &ChallengeBatchRequest) -> Result<ChallengeBatch, Problem> {
        let malformed = |why: String| Err(Problem::new(ProblemKind::Malformed, why));
        if request.items.iter().any(|item| !(1..=MAX_KEYS).contains(&item.keys.len())) {
            return malformed(format!("name 1 to {MAX_KEYS} keys in each item"));
        }
        let keys: usize = request.items.iter().map(|item| item.keys.len()).sum();
        if !(1..=MAX_BATCH_KEYS).contains(&keys) {
            return malformed(format!("name 1 to {MAX_BATCH_KEYS} keys in all, not {keys}"));
        }
        self.spend_more(caller, keys)?;
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

    /// Judges many envelopes, of one HSM or of several, which came from an address if any. Anyone may bring them: each is
    /// authenticated, judged and answered as by [`Self::attest`], in this order. Their proofs are checked together, and
    /// they share as few writes to disk as may be. One that is sent twice in a batch is judged once.
    ///
    /// Each costs the address a request, of which the first is paid already, and each that cannot be read or
    /// authenticated a mistake. An address that cannot pay for its mistakes is heard no further.
    ///
    /// # Errors
    /// `malformed` for a body that is no batch; `too-many-requests`; `unavailable` where too many batches are being judged.
    /// What else [`Self::attest`] refuses is an answer to one envelope.
    pub fn attest_batch(&self, from: Option<&Source>, body: &[u8]) -> Result<AttestBatch, Problem> {
        let envelopes =
            split_envelopes(body).map_err(|error| self.reject(ProblemKind::Malformed, error.to_string()))?;
        if let Some(from) = from {
            self.limits.spend(from, count(envelopes.len()).saturating_sub(1), self.clock.now())?;
        }
        let (different, which) = distinct(&envelopes);
        let read = self.read_each(from, &different)?;
        let _place = self.place_among_batches(from, &read)?;
        let answers = self.judge(&different, read)?;
        let items = which.into_iter().filter_map(|place| answers.get(place).cloned().map(Into::into)).collect();
        Ok(AttestBatch { items })
    }

    /// Reads and authenticates envelopes, for as long as the address can pay for its mistakes.
    fn read_each(&self, from: Option<&Source>, envelopes: &[&[u8]]) -> Result<Vec<Result<Incoming, Problem>>, Problem> {
        let rows = self.ledger.view()?;
        let (state, mut heard) = (State(rows.as_ref()), true);
        let read = |bytes: &&[u8]| {
            let Some(from) = from else { return self.read(state, bytes) };
            if !heard {
                return Err(self.limits.too_many_mistakes(from, self.clock.now()));
            }
            let incoming = self.read(state, bytes);
            if let Err(problem) = &incoming
                && matches!(problem.kind(), Some(ProblemKind::Malformed | ProblemKind::Unauthenticated))
            {
                heard = self.limits.mistake(from);
            }
            incoming
        };
        Ok(envelopes.iter().map(read).collect())
    }

    /// A place among the batches that are being judged, if anything is left to be judged in this one.
    fn place_among_batches(
        &self,
        from: Option<&Source>,
        read: &[Result<Incoming, Problem>],
    ) -> Result<Option<Place>, Problem> {
        let first = read.iter().find_map(|incoming| match incoming {
            Ok(Incoming::Right(sent) | Incoming::Wrong(sent)) => Some(Source::Hsm(sent.hsm.hsm.clone())),
            Ok(Incoming::Known(_)) | Err(_) => None,
        });
        let Some(hsm) = first else { return Ok(None) };
        let address = from.filter(|from| !self.limits.exempt(from)).cloned();
        let by: Vec<_> =
            [(hsm, BATCHES_OF_HSM)].into_iter().chain(address.map(|from| (from, BATCHES_OF_ADDRESS))).collect();
        self.batches.take(&by, BUSY).map(Some)
    }

    /// Checks the proofs of envelopes that were read, and orders what they come to.
    fn judge(
        &self,
        envelopes: &[&[u8]],
        read: Vec<Result<Incoming, Problem>>,
    ) -> Result<Vec<Result<Vec<Record>, Problem>>, Problem> {
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
            read.into_iter().zip(envelopes).map(|(incoming, bytes)| judge(incoming, bytes)).collect();
        // One group, in the envelopes' order.
        let mut outcomes = self.ledger.submit_all(commands).into_iter();
        let answer = |judged: Result<Judged, Problem>| match judged? {
            Judged::Known(records) => Ok(records),
            Judged::Ordered => Ok(recorded(outcomes.next().unwrap_or(Err(Fault::Stopped))?)?.records),
        };
        Ok(judged.into_iter().map(answer).collect())
    }

    /// Whether many keys are attested, all of them at one time and in one state. For any role,
    /// within the caller's scope.
    ///
    /// # Errors
    /// `malformed` for no keys, or more than [`MAX_BATCH_KEYS`]; `too-many-requests`, for each key costs a request. What [`Self::attested`] refuses is an answer to one key;
    /// so is `too-large` for what is left once the answers speak of 65,536 HSMs.
    pub fn attested_batch(&self, caller: &Caller, request: &AttestedRequest) -> Result<AttestedBatch, Problem> {
        if !(1..=MAX_BATCH_KEYS).contains(&request.keys.len()) {
            let why = format!("ask about 1 to {MAX_BATCH_KEYS} keys, not {}", request.keys.len());
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        if let Some(source) = caller.source() {
            self.limits.spend(&source, count(request.keys.len()).saturating_sub(1), self.clock.now())?;
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

/// The envelopes that differ, in order, and which of those each one is.
fn distinct<'a>(envelopes: &[&'a [u8]]) -> (Vec<&'a [u8]>, Vec<usize>) {
    let (mut different, mut places) = (Vec::with_capacity(envelopes.len()), HashMap::with_capacity(envelopes.len()));
    let which = envelopes.iter().map(|bytes| {
        *places.entry(*bytes).or_insert_with(|| {
            different.push(*bytes);
            different.len() - 1
        })
    });
    let which = which.collect();
    (different, which)
}

/// How many requests so many items cost.
fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
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
