//! Attesting several keys at once, each by a claim of its own: two requests for all of them, and few writes to disk at the
//! manager.

use std::{collections::BTreeMap, slice, sync::Arc, time::Duration};

use keywitness_circuits::{Digest, Envelope, Instance, Kind, Timestamp, codec::Canonical};
use keywitness_verifier::{
    client::ClientError,
    wire::{
        AttestAnswer, Challenge, ChallengeAnswer, ChallengeBatchRequest, ChallengeRequest, KeyRef, MAX_BATCH_BODY,
        MAX_BATCH_ENVELOPES, ProblemKind, Record,
    },
};

use super::{
    Agent, INFO_AGE,
    attest::{
        Claim, KnownKey, Session, Subject, agreed_verifying_key, check_challenge, check_records, insist, insist_while,
    },
    error::{AttestError, may_pass},
    event::AgentEvent,
    lock,
    parallel::in_parallel,
    together::{Fate, claim},
};
use crate::store::KeyEntry;

/// Most keys in one batch: so many are proven long before the first challenge is over, also by a token that signs a
/// hundred times a second.
pub(super) const MOST: usize = 256;

/// Whether keys of this kind are attested in batches: where a proof takes less than what a request costs.
pub(crate) const fn in_batch(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::KeyKnowledgeEd25519
            | Kind::KeyKnowledgeRistretto255
            | Kind::KeyKnowledgeP256
            | Kind::KeyKnowledgeSecp256k1
            | Kind::KeyPossessionP256
            | Kind::KeyPossessionSecp256k1
            | Kind::ShareCorrectnessFeldman
            | Kind::ShareCorrectnessPedersen
    )
}

/// The manager is older than batches.
struct NoBatches;

/// What became of one key of a batch.
type Result1 = Result<Record, Arc<AttestError>>;

/// What became of each key of a batch, in order; of one whose proof was not begun in time, nothing.
type Results = Vec<Option<Result1>>;

impl Agent {
    /// Whether the manager may take batches: it did not say otherwise a short while ago.
    pub(super) fn takes_batches(&self) -> bool {
        lock(&self.no_batches).is_none_or(|at| self.clock.steady().since(at) >= INFO_AGE)
    }

    /// One claim for each key, all of them in one batch. Gives what became of each key, by kind.
    pub(super) fn attest_batch(
        &self,
        session: &Session<'_>,
        work: &[(Kind, KeyEntry)],
    ) -> BTreeMap<Kind, Vec<(KeyRef, Fate)>> {
        let mut fates: BTreeMap<Kind, Vec<(KeyRef, Fate)>> = BTreeMap::new();
        let mut keys: Vec<(Kind, KnownKey)> = Vec::with_capacity(work.len());
        for (kind, _) in work {
            fates.entry(*kind).or_default();
        }
        for (kind, fates) in &mut fates {
            let entries: Vec<_> = work.iter().filter(|(of, _)| of == kind).map(|(_, entry)| entry.clone()).collect();
            for entry in &entries {
                (self.observer)(&AgentEvent::Attesting { key: &entry.key, kind: *kind });
            }
            keys.extend(self.introduce_all(session, &entries, fates).into_iter().map(|known| (*kind, known)));
        }
        while !keys.is_empty() {
            let later = keys.split_off(keys.len().min(MOST));
            let batch = std::mem::replace(&mut keys, later);
            let results = if self.takes_batches() { session.attest_batch(&batch) } else { Err(NoBatches) };
            let Ok(results) = results else {
                lock(&self.no_batches).get_or_insert_with(|| self.clock.steady());
                for (kind, known) in batch {
                    claim(session, vec![known], kind, fates.entry(kind).or_default());
                }
                continue;
            };
            for ((kind, known), result) in batch.into_iter().zip(results) {
                match result {
                    Some(result) => {
                        let fate = result.map_or_else(Fate::Failed, Fate::Attested);
                        fates.entry(kind).or_default().push((known.entry.key, fate));
                    }
                    // Under another challenge; of each batch at least one proof was begun.
                    None => keys.push((kind, known)),
                }
            }
        }
        for (kind, fates) in &fates {
            self.conclude(session, *kind, fates);
        }
        fates
    }
}

/// A claim that is ready to be sent.
struct Ready<'a> {
    place: usize,
    subject: Subject<'a>,
    instance: Instance,
    envelope: Envelope,
}

impl Session<'_> {
    /// Asks for a challenge for each key, proves, signs, and submits all: what is made when half of a challenge's life is over, and what is
    /// under way then as it comes.
    fn attest_batch(&self, keys: &[(Kind, KnownKey)]) -> Result<Results, NoBatches> {
        let mut results: Results = keys.iter().map(|_| None).collect();
        let mut asked: Vec<(usize, Subject<'_>, Digest)> = Vec::with_capacity(keys.len());
        for (place, (kind, known)) in keys.iter().enumerate() {
            match agreed_verifying_key(self.parameters, self.info, *kind) {
                Ok(digest) => asked.push((place, Subject { keys: slice::from_ref(known), kind: *kind }, digest)),
                Err(error) => set(&mut results, place, Err(Arc::new(error))),
            }
        }
        let begun = self.clock.now();
        match self.ask(&asked)? {
            Ok(given) => {
                let expiry = given.iter().flatten().map(|challenge| challenge.expires_at).min();
                // The second bound holds where the manager's clock is ahead.
                let until = begun.plus(self.info.challenge_ttl).min(expiry.unwrap_or(begun));
                let claims: Vec<_> = asked.into_iter().zip(given).collect();
                let (threads, patience) = (self.store.parallel(), patience(self.info.challenge_ttl));
                let prepare = |((place, subject, digest), given)| self.make_ready(place, subject, digest, given);
                in_parallel(threads, claims, patience, prepare, |made| {
                    let mut ready = Vec::with_capacity(made.len());
                    for made in made {
                        match made {
                            Ok(claim) => ready.push(claim),
                            Err((place, error)) => set(&mut results, place, Err(Arc::new(error))),
                        }
                    }
                    for batch in batches(ready) {
                        self.submit(&batch, until, &mut results);
                    }
                });
            }
            Err(error) => {
                let error = Arc::new(error);
                asked.into_iter().for_each(|(place, ..)| set(&mut results, place, Err(Arc::clone(&error))));
            }
        }
        Ok(results)
    }

    /// A challenge for each subject, or why there is none.
    fn ask(
        &self,
        asked: &[(usize, Subject<'_>, Digest)],
    ) -> Result<Result<Vec<Result<Challenge, AttestError>>, AttestError>, NoBatches> {
        let item = |(_, subject, _): &(usize, Subject<'_>, Digest)| ChallengeRequest {
            statement: subject.kind.name().to_owned(),
            keys: subject.refs(),
        };
        let request = ChallengeBatchRequest { items: asked.iter().map(item).collect() };
        if request.items.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        match insist(self.stop, || self.client.challenges(self, &request)) {
            Ok(given) if given.items.len() == request.items.len() => {
                let each = |answer: ChallengeAnswer| Ok(answer.into_result().map_err(ClientError::from)?);
                Ok(Ok(given.items.into_iter().map(each).collect()))
            }
            Ok(_) => Ok(Err(AttestError::Challenge("there are not as many as were asked for"))),
            Err(error) => match error.problem_kind() {
                Some(ProblemKind::NotFound | ProblemKind::MethodNotAllowed) => Err(NoBatches),
                _ => Ok(Err(error.into())),
            },
        }
    }

    /// A claim that is ready, or its place and why there is none.
    fn make_ready<'a>(
        &self,
        place: usize,
        subject: Subject<'a>,
        verifying_key: Digest,
        given: Result<Challenge, AttestError>,
    ) -> Result<Ready<'a>, (usize, AttestError)> {
        match given.and_then(|challenge| self.prepare(&subject, verifying_key, &challenge)) {
            Ok((instance, envelope)) => Ok(Ready { place, subject, instance, envelope }),
            Err(error) => Err((place, error)),
        }
    }

    fn prepare(
        &self,
        subject: &Subject<'_>,
        verifying_key: Digest,
        challenge: &Challenge,
    ) -> Result<(Instance, Envelope), AttestError> {
        check_challenge(challenge, self.clock.now())?;
        let instance = subject.instance()?;
        let claim = Claim { audience: self.audience, enrolment: self.enrolment, subject, verifying_key };
        let envelope = self.seal(&claim, &instance, challenge)?;
        Ok((instance, envelope))
    }

    /// Submits claims, and the same bytes again while an answer may only have been lost. What the manager had no room for is
    /// submitted alone.
    fn submit(&self, batch: &[Ready<'_>], until: Timestamp, results: &mut [Option<Result1>]) {
        let envelopes: Vec<_> = batch.iter().map(|ready| ready.envelope.clone()).collect();
        let worthwhile = || self.clock.now() < until;
        let answers = insist_while(self.stop, worthwhile, || match self.client.attest_batch(&envelopes) {
            Ok(answer) if answer.items.len() != envelopes.len() => {
                Err(ClientError::Malformed("it has not an answer for each envelope".to_owned()))
            }
            answer => answer,
        });
        let answers: Vec<Result<Vec<Record>, ClientError>> = match answers {
            Ok(answers) => {
                let each = |answer: AttestAnswer| answer.into_result().map_err(ClientError::from);
                answers.items.into_iter().map(each).collect()
            }
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        };
        for (ready, answer) in batch.iter().zip(answers) {
            let answer = match answer {
                Err(ClientError::Problem(problem)) if may_pass(&ClientError::from(problem.clone())) => {
                    insist_while(self.stop, worthwhile, || self.client.attest(&ready.envelope))
                        .map(|answer| answer.records)
                }
                answer => answer,
            };
            set(results, ready.place, self.accept(ready, answer).map_err(Arc::new));
        }
    }

    fn accept(&self, ready: &Ready<'_>, answer: Result<Vec<Record>, ClientError>) -> Result<Record, AttestError> {
        let Ready { subject, instance, envelope, .. } = ready;
        let mut records =
            answer.map_err(|error| AttestError::Submission { envelope: envelope.digest(), error: error.into() })?;
        check_records(&records, envelope, subject, instance)?;
        self.keep(subject, envelope);
        records.pop().ok_or(AttestError::ForeignRecord("no key at all"))
    }
}

/// How long the claims of a batch wait for one another, under challenges that last so many seconds.
fn patience(challenge_ttl: u64) -> Duration {
    Duration::from_secs(challenge_ttl.clamp(1, 3600)) / 2
}

fn set(results: &mut [Option<Result1>], place: usize, result: Result1) {
    if let Some(slot) = results.get_mut(place) {
        *slot = Some(result);
    }
}

/// Cuts claims into batches that the manager reads.
fn batches(ready: Vec<Ready<'_>>) -> Vec<Vec<Ready<'_>>> {
    let (mut batches, mut bytes) = (Vec::<Vec<Ready<'_>>>::new(), 0);
    for one in ready {
        // Four bytes say how long it is.
        let length = one.envelope.to_bytes().len() + 4;
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_BATCH_ENVELOPES && bytes + length <= MAX_BATCH_BODY => {
                bytes += length;
                batch.push(one);
            }
            _ => {
                bytes = length;
                batches.push(vec![one]);
            }
        }
    }
    batches
}
