//! Checking a bundle, as of a time, against trust anchors.

use keywitness_circuits::{Digest, Envelope, HsmId, Instance, Timestamp, Verified, codec::Canonical};
use keywitness_verifier::{
    bundle::Bundle,
    identity::IdentityKey,
    log::{Checkpoint, CheckpointPolicy, Opening, TlogProof, VerifierKey},
    token::{self, Expected, KeyAttestation, ProvenStatement, TokenError, VerifiedToken},
    wire::{KeyRef, Record, Standing, rfc3339},
};

use super::{
    appraisal::{self, Shown},
    evidence,
};
use crate::{
    audit::{Anchors, Checker, archive::entry_of},
    ledger::{Command, Outcome, log::Entry},
};

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What.
    pub what: String,
    /// What was found, or why it does not hold.
    pub result: Result<String, String>,
}

/// What is asked of a bundle.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// What is known from elsewhere.
    pub anchors: &'a Anchors,
    /// What proofs are checked with.
    pub checker: &'a Checker,
    /// As of when.
    pub at: Timestamp,
    /// Whom the token was for.
    pub audience: &'a str,
}

/// What was looked for, and what to say of it; or why it does not hold.
pub(super) type Noted<T> = Result<(T, String), String>;

#[derive(Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// Notes a result; gives the value where there is one.
    pub(super) fn note<T>(&mut self, what: impl Into<String>, result: Noted<T>) -> Option<T> {
        let (value, result) = match result {
            Ok((value, text)) => (Some(value), Ok(text)),
            Err(why) => (None, Err(why)),
        };
        self.0.push(Finding { what: what.into(), result });
        value
    }
}

/// Checks a bundle. It holds where every finding does; the first that does not may leave others unlooked at.
pub fn check(bundle: &Bundle, question: &Question<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    let Some(token) = findings.note("token", token_of(bundle, question)) else { return findings.0 };
    findings.note("status", status_of(bundle, &token, question));
    let Some(log) = findings.note("log", log_of(bundle, question.anchors)) else { return findings.0 };
    let attestation = &token.appraisal().attestation;
    let hsm = findings.note("HSM's enrolment", enrolment(&log, attestation, &token.channel_key()));
    let Some((enrolled, identity)) = hsm else { return findings.0 };
    let claim = |key, proven| Claim { log: &log, attestation, key, proven, enrolled, identity: &identity };
    let mut shown = Shown::default();
    for proven in &attestation.statements {
        if let Some((enrolled, proven)) = claim(&attestation.key, proven).check(question, &mut findings) {
            shown.enrolled.extend(enrolled);
            shown.proven.push(proven);
        }
    }
    if let Some(from) = &attestation.derived_from {
        for proven in &from.statements {
            claim(&from.key, proven).check(question, &mut findings);
        }
    }
    let evidence = findings.note("evidence", evidence::shown(&log, attestation, (enrolled, &identity.1)));
    appraisal::check(&token, (&shown, evidence.flatten().as_ref()), question.checker, &mut findings);
    findings.0
}

fn token_of(bundle: &Bundle, question: &Question<'_>) -> Noted<VerifiedToken> {
    let Question { anchors, at, audience, .. } = *question;
    let keys = anchors.anchored(&bundle.keys);
    let expected = Expected { trust_domain: &anchors.trust_domain, audience, nonce: None };
    let token = token::verify(&bundle.token, &keys, &expected, at).map_err(|error| error.to_string())?;
    let KeyAttestation { manager, hsm, key, .. } = &token.appraisal().attestation;
    if *manager != anchors.manager {
        return Err(format!("it is of manager {manager}, and the trust anchors name {}", anchors.manager));
    }
    let text = format!("signed by an anchored key, in force at {}: {} @{} in {hsm}", rfc3339(at), key.key, key.epoch);
    Ok((token, text))
}

/// How the token stood: by a list that was signed after the token was issued, and not after the time that is asked for.
fn status_of(bundle: &Bundle, token: &VerifiedToken, question: &Question<'_>) -> Noted<()> {
    let (at, issued) = (question.at, token.claims().iat);
    let keys = question.anchors.anchored(&bundle.keys);
    let looked_up = token::status(token, &bundle.status_list, &keys, None, at);
    let (standing, list) = looked_up.map_err(|error| match error {
        TokenError::UnknownKey(key) => format!("the status list is signed by key {key:?}, which is not anchored"),
        TokenError::Signature => "the status list's signature does not verify".to_owned(),
        TokenError::Expired(end) => {
            format!("the status list expired at {}, and says nothing of {}", rfc3339(end), rfc3339(at))
        }
        TokenError::NotYet(made) => format!("the status list was made at {}, after {}", rfc3339(made), rfc3339(at)),
        other => other.to_string(),
    })?;
    if list.iat < issued {
        return Err(format!(
            "the status list was made at {}, before the token was issued at {}: it says nothing of it",
            rfc3339(list.iat),
            rfc3339(issued)
        ));
    }
    if list.iat > at {
        return Err(format!(
            "the status list was made at {}, and says nothing of {} before that",
            rfc3339(list.iat),
            rfc3339(at)
        ));
    }
    match standing {
        Standing::Active => {
            let (from, to) = (rfc3339(list.iat), rfc3339(list.exp));
            Ok(((), format!("neither revoked nor suspended, by the list {} of {from}, good until {to}", list.sub)))
        }
        standing => Err(format!("what the token speaks of was {standing} at {}", rfc3339(list.iat))),
    }
}

/// The entries of a bundle, in its order, with their numbers: every one is in the log that the checkpoint commits to.
fn log_of(bundle: &Bundle, anchors: &Anchors) -> Noted<Vec<(u64, Entry)>> {
    let key = |text: &String| text.parse::<VerifierKey>().map_err(|error| error.to_string());
    let log = key(&anchors.log)?;
    let origin = Checkpoint::origin_of(&anchors.audience());
    if log.name() != origin {
        return Err(format!("the trust anchors' log key is of {}, and the manager's log is {origin}", log.name()));
    }
    let witnesses = anchors.witnesses.iter().map(key).collect::<Result<_, _>>()?;
    let policy = CheckpointPolicy::new(log, witnesses, anchors.cosignatures).map_err(|error| error.to_string())?;
    let (mut entries, mut commitment) = (Vec::with_capacity(bundle.entries.len()), None);
    for bundled in &bundle.entries {
        let (opening, rest) = Opening::read(&bundled.opening.0).map_err(|error| error.to_string())?;
        let place = format!("entry {}", opening.sequence);
        let in_place = |why: String| format!("{place}: {why}");
        if !rest.is_empty() {
            return Err(in_place("something follows its opening".to_owned()));
        }
        let proof: TlogProof =
            bundled.proof.parse().map_err(|error: keywitness_circuits::Error| in_place(error.to_string()))?;
        if proof.extra.is_some() || proof.index.checked_add(1) != Some(opening.sequence) {
            return Err(in_place("its proof is of another entry".to_owned()));
        }
        let verified = proof.verify(&policy, &opening.entry().0).map_err(|error| in_place(error.to_string()))?;
        let (size, root) = verified.tree();
        let here = (size, *root, verified.cosigned().len());
        if commitment.replace(here).is_some_and(|before: (u64, Digest, usize)| (before.0, before.1) != (here.0, here.1))
        {
            return Err(in_place(
                "its proof rests on another checkpoint than that of the entries before it".to_owned(),
            ));
        }
        entries.push((opening.sequence, entry_of(&opening).map_err(|error| error.to_string())?));
    }
    let (size, root, cosigned) = commitment.ok_or("the bundle has no entry of the log")?;
    let count = entries.len();
    let text =
        format!("{count} entries in the log of {origin}, of size {size} and root {root}, cosigned by {cosigned}");
    Ok((entries, text))
}

/// The enrolment that the token speaks of: its place in the log, and the identity key.
fn enrolment(
    log: &[(u64, Entry)],
    attestation: &KeyAttestation,
    channel: &[u8; 32],
) -> Noted<(u64, (HsmId, IdentityKey))> {
    let found = log.iter().find_map(|(number, entry)| match (&entry.submission.command, &entry.outcome) {
        (Command::EnrolHsm { hsm, identity_key, channel_key, .. }, Outcome::Enrolled(enrolment))
            if hsm == &attestation.hsm
                && enrolment.hsm == attestation.hsm
                && enrolment.cluster == attestation.cluster
                && enrolment.revision == attestation.enrolment =>
        {
            Some((*number, *identity_key, *channel_key))
        }
        _ => None,
    });
    let (number, identity, enrolled) = found.ok_or("the bundle has no entry with the HSM's enrolment")?;
    if enrolled.0 != *channel {
        return Err("the token names another channel key than was enrolled".to_owned());
    }
    let (hsm, revision) = (attestation.hsm.clone(), attestation.enrolment);
    let text = format!("entry {number}: {hsm}, enrolment {revision}, identity key {}", Digest::from(identity));
    Ok(((number, (hsm, identity)), text))
}

/// One statement of the token, and what it is held against.
struct Claim<'a> {
    log: &'a [(u64, Entry)],
    attestation: &'a KeyAttestation,
    key: &'a KeyRef,
    proven: &'a ProvenStatement,
    enrolled: u64,
    identity: &'a (HsmId, IdentityKey),
}

impl Claim<'_> {
    /// Checks the statement. The key's instances of this fingerprint, as enrolled, and the instance that was proven.
    fn check(&self, question: &Question<'_>, findings: &mut Findings) -> Option<(Vec<Instance>, Instance)> {
        let name = |what: &str| format!("{what} of {} @{}, {}", self.key.key, self.key.epoch, self.proven.kind);
        let (attested, envelope) = findings.note(name("record"), self.record())?;
        findings.note(name("identity signature"), self.signature(&envelope));
        findings.note(name("context"), self.context(&envelope, question.at));
        findings.note(name("challenge"), self.challenge(&envelope, attested));
        let enrolled = findings.note(name("key's enrolment"), self.key_enrolment(&envelope, attested));
        let proven = findings.note(name("proof"), self.proof(&envelope, question));
        enrolled.zip(proven)
    }

    /// The attestation's place in the log, and its envelope.
    fn record(&self) -> Noted<(u64, Envelope)> {
        let Self { attestation, key, proven, .. } = self;
        let found = self.log.iter().find_map(|(number, entry)| match &entry.submission.command {
            Command::Attest { digest, envelope, .. } if *digest == proven.envelope => Some((*number, entry, envelope)),
            _ => None,
        });
        let (number, entry, bytes) = found.ok_or("the bundle has no entry with the attestation")?;
        let envelope = Envelope::from_bytes(bytes).map_err(|error| error.to_string())?;
        if envelope.digest() != proven.envelope {
            return Err("the envelope is another than the token names".to_owned());
        }
        let record = Record {
            hsm: attestation.hsm.clone(),
            cluster: attestation.cluster.clone(),
            enrolment: attestation.enrolment,
            key: (*key).clone(),
            statement: proven.kind,
            verifying_key: proven.verifying_key,
            fingerprint: proven.fingerprint,
            envelope: proven.envelope,
            proven_at: proven.proven_at,
            expires_at: proven.expires_at,
        };
        match &entry.outcome {
            Outcome::Recorded(records) if records.contains(&record) && entry.at == proven.proven_at => {
                Ok(((number, envelope), format!("entry {number}, accepted at {}", rfc3339(entry.at))))
            }
            _ => Err(format!("entry {number} did not make the record that the token speaks of")),
        }
    }

    fn signature(&self, envelope: &Envelope) -> Noted<()> {
        let (hsm, identity) = self.identity;
        identity.check_envelope(envelope).map_err(|error| error.to_string())?;
        Ok(((), format!("by the identity key of {hsm}, as enrolled in the log")))
    }

    fn context(&self, envelope: &Envelope, at: Timestamp) -> Noted<()> {
        let Self { attestation, proven, .. } = self;
        let context = &envelope.context;
        let same = [
            ("trust domain", context.trust_domain == attestation.trust_domain),
            ("manager", context.manager == attestation.manager),
            ("cluster", context.cluster == attestation.cluster),
            ("HSM", context.hsm == attestation.hsm),
            ("enrolment", context.enrolment == attestation.enrolment),
            ("statement", context.statement == proven.kind.name()),
            ("verifying key", context.verifying_key == proven.verifying_key),
            ("key", self.position(envelope).is_some()),
            ("end", context.not_after == proven.expires_at),
        ];
        if let Some((field, _)) = same.iter().find(|(_, same)| !same) {
            return Err(format!("the envelope's {field} is not the token's"));
        }
        if at < context.not_before || at >= context.not_after {
            let (from, to) = (rfc3339(context.not_before), rfc3339(context.not_after));
            return Err(format!("the claim holds from {from} to {to}, and not at {}", rfc3339(at)));
        }
        Ok(((), format!("holds from {} to {}", rfc3339(context.not_before), rfc3339(context.not_after))))
    }

    /// Which of the claim's keys is meant.
    fn position(&self, envelope: &Envelope) -> Option<usize> {
        let KeyRef { key, epoch } = self.key;
        envelope.context.keys.iter().position(|claim| (&claim.key, claim.epoch) == (key, *epoch))
    }

    /// The challenge was given to this HSM for this key before it was answered: the proof is no older.
    fn challenge(&self, envelope: &Envelope, attested: u64) -> Noted<()> {
        let context = &envelope.context;
        let found = self.log.iter().find_map(|(number, entry)| match (&entry.submission.command, &entry.outcome) {
            (Command::IssueChallenge { hsm, statement, keys, nonce, .. }, Outcome::Challenge(given))
                if *nonce == context.challenge && given.nonce == *nonce =>
            {
                let asked = *hsm == context.hsm && *statement == context.statement && keys.contains(self.key);
                let given = (given.not_before, given.not_after, given.expires_at);
                asked.then_some((*number, entry.at, given))
            }
            (Command::IssueChallenges { hsm, items, seed, .. }, Outcome::Challenges(given)) if given.seed == *seed => {
                let place = given.nonces().take(items.len()).position(|nonce| nonce == context.challenge)?;
                let item = items.get(place)?;
                let asked = *hsm == context.hsm && item.statement == context.statement && item.keys.contains(self.key);
                let refused =
                    given.refused.iter().any(|(_, _, items)| items.iter().any(|item| *item as usize == place));
                (asked && !refused).then_some((*number, entry.at, (given.at, given.not_after, given.expires_at)))
            }
            _ => None,
        });
        let (number, given_at, (not_before, not_after, expires_at)) =
            found.ok_or("the bundle has no entry with the challenge")?;
        let right = (not_before, not_after) == (context.not_before, context.not_after)
            && self.enrolled < number
            && number < attested
            && self.proven.proven_at < expires_at;
        if !right {
            return Err(format!("the challenge of entry {number} is not one that the claim could answer"));
        }
        Ok(((), format!("entry {number}, given at {}: the proof is no older", rfc3339(given_at))))
    }

    fn key_enrolment(&self, envelope: &Envelope, attested: u64) -> Noted<Vec<Instance>> {
        let claim = self.position(envelope).and_then(|place| envelope.context.keys.get(place));
        let claim = claim.ok_or("the envelope is not about this key")?;
        let enrolments = self.log.iter().filter_map(|(number, entry)| match &entry.submission.command {
            Command::EnrolKey { hsm, key, attributes, instances, .. }
                if (hsm, key) == (&self.attestation.hsm, self.key) && entry.outcome == Outcome::Done =>
            {
                let read = instances.iter().filter_map(|bytes| Instance::from_bytes(bytes).ok());
                let ours: Vec<_> = read.filter(|it| it.fingerprint() == Ok(self.proven.fingerprint)).collect();
                Some((*number, attributes, ours))
            }
            _ => None,
        });
        // A key is enrolled once more where a suite was added since: with an instance of that suite.
        let found = enrolments.reduce(|found, next| if found.2.is_empty() { next } else { found });
        let (number, attributes, ours) = found.ok_or("the bundle has no entry with the key's enrolment")?;
        if number >= attested {
            return Err("the key was enrolled after it was attested".to_owned());
        }
        // What the token says of the algorithm, it says of its own key.
        let own = *self.key == self.attestation.key;
        if attributes.digest() != claim.attributes || (own && attributes.algorithm != self.attestation.algorithm) {
            return Err("the key was enrolled with other attributes".to_owned());
        }
        if ours.is_empty() {
            return Err("the key was enrolled with another fingerprint".to_owned());
        }
        Ok((ours, format!("entry {number}, fingerprint {}", self.proven.fingerprint.bytes)))
    }

    fn proof(&self, envelope: &Envelope, question: &Question<'_>) -> Noted<Instance> {
        if !question.anchors.verifying_keys.contains(&self.proven.verifying_key) {
            return Err(format!("the trust anchors do not accept verifying key {}", self.proven.verifying_key));
        }
        let verified: Verified = question.checker.verify(envelope)?;
        let fingerprint = match verified.instance() {
            Instance::ManyKeys(many) => {
                let place = self.position(envelope).ok_or("the envelope is not about this key")?;
                many.keys().nth(place).map(|(_, fingerprint)| fingerprint)
            }
            one => one.fingerprint().ok(),
        };
        if fingerprint != Some(self.proven.fingerprint) {
            return Err("it proves another fingerprint than the token's".to_owned());
        }
        Ok((verified.instance().clone(), format!("verifies, under verifying key {}", self.proven.verifying_key)))
    }
}
