//! What becomes of the envelopes that answer challenges.

use keywitness_circuits::{
    ClaimContext, Digest, Envelope, HsmId, Instance, KeyClaim, Kind, Nonce, Timestamp, codec::Canonical,
    context::instance_digest, key_knowledge::many,
};
use keywitness_verifier::wire::{
    Failure, KeyRef, MAX_RECORD_TTL, Problem, ProblemKind, Record, Revocation, RevocationTarget, Rule, Sighting,
    Standing,
};

use super::{Apply, RETENTION, challenge::revoked, refuse, revocation, unenrolled};
use crate::ledger::{
    command::{Configuration, Outcome, Verdict},
    fraud::{self, policy::FraudPolicy},
    state::{
        BeaconRound, ChallengeRow, Consumption, EnrolledInstance, FailureRow, HsmRow, KeyRow, OutcomeRow, RecordRow,
        RestorationRow, State, VerifyingKeyRow, corrupt, key,
    },
    tables::{Fault, Table},
};

/// An envelope that is what the challenge asked for, but for its proof, which is not looked at here.
pub(crate) struct Sound {
    hsm: HsmRow,
    kind: Kind,
    keys: Vec<Claimed>,
    /// For a tagged key: the tag of the round's beacon.
    shown: Option<(BeaconRound, Digest)>,
}

/// A key of a claim, as enrolled, with the instance that the claim's kind proves.
struct Claimed {
    row: KeyRow,
    instance: EnrolledInstance,
}

/// An envelope that is not what was asked for.
pub(crate) struct Wrong {
    problem: Problem,
    blame: Blame,
}

/// Against whom a refusal counts.
enum Blame {
    /// Against nobody: there is no challenge that it could be about, or another HSM burned it.
    Nobody,
    /// Against nobody, who is honest under the verifying key that was asked for. The challenge is consumed.
    Honest,
    /// Against the sender.
    Sender,
    /// Shown, and counted against nobody: a slow network is honest.
    Late,
    /// Against nobody, and not even remembered: it was never meant for this manager.
    Misdirected,
    /// Against the sender, who sent other bytes before: `first`.
    Replay { first: Digest },
    /// Against the sender, who uses something revoked: everything that hits a key of the claim, each once.
    Revoked(Vec<Revocation>),
}

impl Wrong {
    /// The refusal, if the envelope was never meant for this manager.
    pub(crate) fn misdirected(&self) -> Option<&Problem> {
        matches!(self.blame, Blame::Misdirected).then_some(&self.problem)
    }

    /// The refusal, if there is no open challenge that it concerns and nobody to blame: then nothing need be written, and
    /// whoever holds the envelope, which may be anyone, gets the same answer each time.
    pub(crate) fn unwritten(&self) -> Option<&Problem> {
        matches!(self.blame, Blame::Misdirected | Blame::Nobody).then_some(&self.problem)
    }

    /// Whether the sender made a mistake, and not only bad luck: one who is suspended, or was revoked a moment ago, has
    /// made none.
    pub(crate) fn is_mistake(&self, state: State<'_>, now: Timestamp) -> Result<bool, Fault> {
        Ok(match &self.blame {
            Blame::Sender | Blame::Replay { .. } => true,
            Blame::Revoked(revocations) => {
                let grace = state.configuration()?.fraud.rule(Rule::RevokedPersists).grace;
                let counts = |hit: &Revocation| hit.standing == Standing::Revoked && now > hit.at.plus(grace);
                revocations.iter().any(counts)
            }
            Blame::Nobody | Blame::Honest | Blame::Late | Blame::Misdirected => false,
        })
    }

    fn new(kind: ProblemKind, detail: impl Into<String>, blame: Blame) -> Self {
        Self { problem: Problem::new(kind, detail), blame }
    }
}

/// Compares an authenticated envelope with its challenge, enrolment, policy and revocations.
///
/// Runs twice: before an envelope's proof is checked, to save that work, and when the command is applied,
/// where it decides.
pub(crate) fn examine(
    state: State<'_>,
    hsm: &HsmRow,
    envelope: &Envelope,
    now: Timestamp,
) -> Result<Result<Sound, Wrong>, Fault> {
    let wrong = |kind, detail: String, blame| Ok(Err(Wrong::new(kind, detail, blame)));
    let context = &envelope.context;
    let configuration = state.configuration()?;
    let Some(challenge) = state.challenge(&context.challenge)? else {
        let audience = &configuration.audience;
        if (&context.trust_domain, &context.manager) != (&audience.trust_domain, &audience.manager) {
            let why = format!("this envelope is for manager {} of {}", context.manager, context.trust_domain);
            return wrong(ProblemKind::UnknownChallenge, why, Blame::Misdirected);
        }
        let why = "this challenge was never given, or is long gone; ask for a new one".to_owned();
        // A challenge is remembered for as long as its claim holds: what is unknown before then was never given, but in
        // the time that a restoration lost.
        let blame = if now < context.not_after && !lost(state, context)? { Blame::Sender } else { Blame::Nobody };
        return wrong(ProblemKind::UnknownChallenge, why, blame);
    };
    if challenge.hsm != hsm.hsm {
        let why = "this challenge was given to another HSM; ask for one of your own".to_owned();
        return wrong(ProblemKind::ForeignChallenge, why, Blame::Sender);
    }
    if let Some(consumption) = &challenge.consumed {
        let (why, blame) = if consumption.by == hsm.hsm {
            ("this challenge was answered before, with other bytes", Blame::Replay { first: consumption.envelope })
        } else {
            ("another HSM sent this challenge back; that is not held against you", Blame::Nobody)
        };
        return wrong(ProblemKind::ChallengeConsumed, format!("{why}; ask for a new one"), blame);
    }
    if challenge.expires_at <= now {
        let why =
            format!("the challenge expired at {}, and it is {}; ask for a new one", challenge.expires_at.0, now.0);
        return wrong(ProblemKind::ChallengeExpired, why, Blame::Late);
    }
    let in_force = context.statement.parse().ok().and_then(|kind: Kind| configuration.verifying_key(kind));
    // Parameters and suites may have changed since the challenge was given: who answers under what was in force is honest.
    let was_in_force = state
        .get::<VerifyingKeyRow>(&context.verifying_key.0)?
        .is_some_and(|row| row.statement == context.statement && challenge.statement.name() == row.statement);
    let blame_of_key = || if was_in_force { Blame::Honest } else { Blame::Sender };
    if in_force.is_none() {
        let why = format!("no statement kind {:?} is in force here", context.statement);
        return wrong(ProblemKind::UnknownStatement, why, blame_of_key());
    }
    let keys = claimed(state, hsm, &challenge)?;
    let instance = asked_instance(challenge.statement, &keys)?;
    let mut expected = expect(&configuration, hsm, &challenge, &context.challenge, &keys, instance_digest(&instance));
    let tag = challenge.round.and_then(|round| round_tag(&round, &instance, &envelope.instance));
    if tag.is_some() {
        expected.instance = instance_digest(&envelope.instance);
    }
    let asked = if challenge.round.is_some() { tag.is_some() } else { envelope.instance == instance };
    if let Some(field) = difference(&expected, context).or((!asked).then_some("instance")) {
        let why = format!("field {field} is not what the challenge and the enrolment ask for");
        let blame = if field == "verifying_key" { blame_of_key() } else { Blame::Sender };
        return wrong(ProblemKind::ContextMismatch, why, blame);
    }
    if let Some((problem, revocations)) = revoked(state, hsm, keys.iter().map(|claimed| &claimed.row))? {
        return Ok(Err(Wrong { problem, blame: Blame::Revoked(revocations) }));
    }
    // Whoever proves under the verifying key that was asked for is honest.
    if let Some(revocation) = state.barred(&RevocationTarget::VerifyingKey(context.verifying_key))? {
        return Ok(Err(Wrong { problem: revocation::problem(&revocation), blame: Blame::Honest }));
    }
    let shown = challenge.round.zip(tag);
    Ok(Ok(Sound { hsm: hsm.clone(), kind: challenge.statement, keys, shown }))
}

/// Whether the challenge of this context may have been given after the backup that the ledger was last taken back to, and
/// been forgotten with everything else of that time. Nothing that was given then holds longer than a record may.
fn lost(state: State<'_>, context: &ClaimContext) -> Result<bool, Fault> {
    let restored: Option<RestorationRow> = state.get(key::ONLY)?;
    Ok(restored.is_some_and(|restored| {
        context.not_before <= restored.at && context.not_after <= restored.at.plus(MAX_RECORD_TTL)
    }))
}

/// The keys that a challenge asks about, in its order.
fn claimed(state: State<'_>, hsm: &HsmRow, challenge: &ChallengeRow) -> Result<Vec<Claimed>, Fault> {
    let kind = challenge.statement.single();
    let keys = challenge.keys.iter().map(|key| {
        let row: KeyRow = state.need(&key::epoch(&hsm.hsm, key))?;
        let instance = row.instance(kind).cloned();
        let missing = || corrupt(Table::Challenges, "a challenge asks for what is not enrolled");
        Ok(Claimed { instance: instance.ok_or_else(missing)?, row })
    });
    keys.collect()
}

/// The instance that a claim of these keys must prove: the enrolled one, or for a kind of many keys, one that is made
/// of theirs in their order. For a tagged key in its enrolled form.
fn asked_instance(kind: Kind, keys: &[Claimed]) -> Result<Vec<u8>, Fault> {
    let unusable = |why: String| corrupt(Table::Challenges, why);
    if kind == kind.single() {
        let [Claimed { instance, .. }] = keys else {
            return Err(unusable("a challenge of one key does not name one".to_owned()));
        };
        return Ok(instance.bytes.clone());
    }
    let parts: Vec<_> =
        keys.iter().map(|claimed| (claimed.row.attributes.algorithm, claimed.instance.fingerprint)).collect();
    Ok(many::Instance::new(&parts).map_err(|error| unusable(error.to_string()))?.to_bytes())
}

/// The tag that an instance shows, if it is the enrolled key's, of this round's beacon.
fn round_tag(round: &BeaconRound, enrolled: &[u8], instance: &[u8]) -> Option<Digest> {
    let Ok(Instance::TaggedKey(instance)) = Instance::from_bytes(instance) else { return None };
    let enrolled = Instance::from_bytes(enrolled) == Ok(instance.identifier().into());
    let tag = *instance.round_tag()?;
    (enrolled && instance.beacon() == Some(&round.beacon)).then_some(tag)
}

/// The context that the challenge asks for, from what the manager knows and never from the message.
fn expect(
    configuration: &Configuration,
    hsm: &HsmRow,
    challenge: &ChallengeRow,
    nonce: &Nonce,
    keys: &[Claimed],
    instance: Digest,
) -> ClaimContext {
    let kind = challenge.statement;
    let claim = |Claimed { row, .. }: &Claimed| {
        let KeyRef { key, epoch } = row.key.clone();
        KeyClaim { key, epoch, attributes: row.attributes.digest() }
    };
    ClaimContext {
        statement: kind.name().to_owned(),
        // A kind that is no longer in force has no verifying key, and so nothing equals it.
        verifying_key: configuration.verifying_key(kind).unwrap_or(Digest([0; 32])),
        trust_domain: configuration.audience.trust_domain.clone(),
        manager: configuration.audience.manager.clone(),
        cluster: hsm.cluster.clone(),
        hsm: hsm.hsm.clone(),
        enrolment: hsm.revision,
        keys: keys.iter().map(claim).collect(),
        instance,
        challenge: *nonce,
        not_before: challenge.not_before,
        not_after: challenge.not_after,
        checkpoint: None,
        evidence: None,
    }
}

/// The first field in which two contexts differ. Takes them apart whole, so that a new field cannot be missed.
fn difference(expected: &ClaimContext, found: &ClaimContext) -> Option<&'static str> {
    let ClaimContext {
        statement,
        verifying_key,
        trust_domain,
        manager,
        cluster,
        hsm,
        enrolment,
        keys,
        instance,
        challenge,
        not_before,
        not_after,
        checkpoint,
        evidence,
    } = expected;
    let fields = [
        ("statement", *statement == found.statement),
        ("verifying_key", *verifying_key == found.verifying_key),
        ("trust_domain", *trust_domain == found.trust_domain),
        ("manager", *manager == found.manager),
        ("cluster", *cluster == found.cluster),
        ("hsm", *hsm == found.hsm),
        ("enrolment", *enrolment == found.enrolment),
        ("keys", *keys == found.keys),
        ("instance", *instance == found.instance),
        ("challenge", *challenge == found.challenge),
        ("not_before", *not_before == found.not_before),
        ("not_after", *not_after == found.not_after),
        ("checkpoint", *checkpoint == found.checkpoint),
        ("evidence", *evidence == found.evidence),
    ];
    fields.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
}

impl Apply<'_> {
    pub(super) fn attest(
        &mut self,
        bytes: &[u8],
        digest: &Digest,
        sender: &HsmId,
        enrolment: u32,
        verdict: &Verdict,
    ) -> Result<Outcome, Fault> {
        let Some(hsm) = self.enrolled(sender, enrolment)? else { return Ok(unenrolled()) };
        if let Some(OutcomeRow(outcome)) = self.state().get(&digest.0)? {
            return Ok(outcome);
        }
        let envelope = match Envelope::from_bytes(bytes) {
            Ok(envelope) if envelope.digest() == *digest && envelope.context.hsm == *sender => envelope,
            _ => return Ok(refuse(ProblemKind::Malformed, "the envelope is not the one that was checked")),
        };
        let found = match (examine(self.state(), &hsm, &envelope, self.moment.at)?, verdict) {
            (Ok(sound), Verdict::Proven) => Ok(sound),
            (Ok(_), Verdict::Refused) => {
                let why = "the proof does not verify in the envelope's context";
                Err(Wrong::new(ProblemKind::ProofRefused, why, Blame::Sender))
            }
            (Ok(_), Verdict::Unchecked) => {
                let why = "the state changed while this envelope was being checked; send it again";
                return Ok(refuse(ProblemKind::Unavailable, why));
            }
            (Err(wrong), _) => {
                if let Some(problem) = wrong.misdirected() {
                    return Ok(Outcome::Refused(problem.clone()));
                }
                Err(wrong)
            }
        };
        let remember_until = self.consume(&envelope.context.challenge, sender, digest)?;
        let outcome = match found {
            Ok(sound) => self.record(sound, &envelope, digest)?,
            Err(wrong) => self.fail(wrong, &hsm, &envelope, digest)?,
        };
        self.put(&digest.0, &OutcomeRow(outcome.clone()))?;
        self.forget_at(remember_until, Table::Outcomes, &digest.0)?;
        Ok(outcome)
    }

    /// Consumes a challenge, once: the first authenticated envelope of the HSM that it was given to does, right or wrong.
    /// Whoever else knows the challenge takes nothing from that HSM.
    /// Returns until when the envelope's outcome is remembered: not less long than the challenge.
    fn consume(&mut self, nonce: &Nonce, by: &HsmId, envelope: &Digest) -> Result<Timestamp, Fault> {
        let now = self.moment.at;
        let Some(mut challenge) = self.state().challenge(nonce)? else {
            return Ok(now.plus(MAX_RECORD_TTL + RETENTION));
        };
        if challenge.hsm == *by && challenge.consumed.is_none() {
            challenge.consumed = Some(Consumption { by: by.clone(), envelope: *envelope });
            self.put(&nonce.0, &challenge)?;
        }
        Ok(challenge.not_after.max(now).plus(RETENTION))
    }

    fn record(&mut self, sound: Sound, envelope: &Envelope, digest: &Digest) -> Result<Outcome, Fault> {
        let Sound { hsm, kind, keys, shown } = sound;
        let configuration = self.state().configuration()?;
        fraud::silence::heard(self, &configuration.fraud, &hsm.hsm, envelope.context.not_after)?;
        let mut records = Vec::with_capacity(keys.len());
        for Claimed { row, instance } in keys {
            self.keep_status_entry(&configuration, &hsm, &row)?;
            let record = Record {
                hsm: hsm.hsm.clone(),
                cluster: hsm.cluster.clone(),
                enrolment: hsm.revision,
                key: row.key,
                statement: kind,
                verifying_key: envelope.context.verifying_key,
                fingerprint: instance.fingerprint,
                envelope: *digest,
                proven_at: self.moment.at,
                expires_at: envelope.context.not_after,
            };
            let sighting = self.keep_record(&configuration.fraud, &record)?;
            if let Some((round, tag)) = shown {
                self.show_tag(&sighting, &round, tag)?;
            }
            records.push(record);
        }
        Ok(Outcome::Recorded(records))
    }

    /// Writes a record where the single kind's is, which it counts as, and looks for fraud in it.
    fn keep_record(&mut self, policy: &FraudPolicy, record: &Record) -> Result<Sighting, Fault> {
        let row = RecordRow { record: record.clone(), sequence: self.moment.sequence };
        let place = key::evidence(&record.hsm, &record.key, record.statement.single());
        let older: Option<RecordRow> = self.state().get(&place)?;
        self.put(&place, &row)?;
        fraud::paced(self, policy, (&place, older.as_ref()), record)?;
        let sighting = Sighting {
            hsm: record.hsm.clone(),
            cluster: record.cluster.clone(),
            key: record.key.clone(),
            fingerprint: record.fingerprint,
            envelope: record.envelope,
        };
        fraud::proven(self, &sighting)?;
        Ok(sighting)
    }

    fn fail(&mut self, wrong: Wrong, hsm: &HsmRow, envelope: &Envelope, digest: &Digest) -> Result<Outcome, Fault> {
        let Some(problem) = wrong.problem.kind() else {
            return Err(corrupt(Table::Outcomes, "a refusal is of no known kind"));
        };
        match wrong.blame {
            Blame::Nobody | Blame::Honest | Blame::Misdirected => {}
            Blame::Late => self.record_failure(hsm, envelope, problem)?,
            Blame::Sender => {
                self.record_failure(hsm, envelope, problem)?;
                fraud::failed(self, &hsm.hsm, problem, digest)?;
            }
            Blame::Replay { first } => {
                self.record_failure(hsm, envelope, problem)?;
                fraud::replayed(self, &hsm.hsm, &envelope.context.challenge, first, *digest)?;
                fraud::failed(self, &hsm.hsm, problem, digest)?;
            }
            // Counted by its own rule alone: whoever attests a moment after a revocation is honest.
            Blame::Revoked(revocations) => {
                // What is suspended is looked into: that it goes on attesting says nothing against it.
                let suspended = |revocation: &Revocation| revocation.standing == Standing::Suspended;
                if revocations.iter().all(suspended) {
                    return Ok(Outcome::Refused(wrong.problem));
                }
                self.record_failure(hsm, envelope, problem)?;
                for revocation in &revocations {
                    fraud::revoked_attempt(self, &hsm.hsm, revocation)?;
                }
            }
        }
        Ok(Outcome::Refused(wrong.problem))
    }

    /// Writes the failure to every key and statement that the envelope was about: those of its challenge,
    /// or, when that is another HSM's, those which the sender itself named. A claim of many keys stands against each
    /// of them, as it would have counted for each.
    fn record_failure(&mut self, hsm: &HsmRow, envelope: &Envelope, problem: ProblemKind) -> Result<(), Fault> {
        let context = &envelope.context;
        let challenge = self.state().challenge(&context.challenge)?.filter(|challenge| challenge.hsm == hsm.hsm);
        let (keys, kind) = match challenge {
            Some(challenge) => (challenge.keys, Some(challenge.statement)),
            None => {
                let named = context.keys.iter().map(|claim| KeyRef { key: claim.key.clone(), epoch: claim.epoch });
                (named.collect(), context.statement.parse().ok())
            }
        };
        let failure = Failure { at: self.moment.at, problem };
        let row = FailureRow { failure, sequence: self.moment.sequence };
        for key in &keys {
            let Some(enrolled) = self.state().get::<KeyRow>(&key::epoch(&hsm.hsm, key))? else { continue };
            let known = kind.map(Kind::single).filter(|kind| enrolled.instance(*kind).is_some());
            for instance in &enrolled.instances {
                let place = key::evidence(&hsm.hsm, key, instance.kind);
                if known.is_none_or(|kind| kind == instance.kind) && !self.hides_worse(&place, problem)? {
                    self.put(&place, &row)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a late answer would take the place of a worse failure that no proof has answered since.
    fn hides_worse(&self, place: &[u8], problem: ProblemKind) -> Result<bool, Fault> {
        if problem != ProblemKind::ChallengeExpired {
            return Ok(false);
        }
        let Some(standing) = self.state().get::<FailureRow>(place)? else { return Ok(false) };
        let proven = self.state().get::<RecordRow>(place)?.map_or(0, |row| row.sequence);
        Ok(standing.sequence > proven && standing.failure.problem != ProblemKind::ChallengeExpired)
    }
}
