//! AttestKey: one attestation of one key, or of several at once, under one statement kind.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use keywitness_circuits::{
    ClaimContext, Digest, Envelope, Error, Fingerprint, Instance, KeyClaim, Kind, Parameters, Timestamp,
    codec::Canonical, context, key_knowledge::many, registry,
};
use keywitness_verifier::{
    client::{ClientError, HsmSigner, ManagerClient},
    identity::{Audience, MAX_SKEW},
    wire::{
        AttestResponse, Base64, Challenge, ChallengeRequest, EnrolKeyRequest, Enrolment, KeyRef, Record,
        TrustDomainInfo,
    },
};

use super::{
    error::{AttestError, may_pass, printable},
    event::{AgentEvent, Observer},
};
use crate::{
    clock::{Clock, Stop, is_about_now},
    store::{KeyEntry, KeyStore, StoreError},
};

/// How often a proof is made whose maker is gone before it is sealed.
const TRIES: usize = 5;

/// Waits between attempts to deliver the same bytes.
const REDELIVERY: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Longest such wait that a manager can ask for.
const LONGEST_REDELIVERY: Duration = Duration::from_secs(10);

/// An enrolled HSM in conversation with its manager.
pub(super) struct Session<'a> {
    pub(super) store: &'a dyn KeyStore,
    pub(super) client: &'a ManagerClient,
    pub(super) parameters: &'a Parameters,
    pub(super) clock: &'a dyn Clock,
    pub(super) audience: &'a Audience,
    pub(super) enrolment: &'a Enrolment,
    pub(super) info: &'a TrustDomainInfo,
    pub(super) verify_own_proofs: bool,
    pub(super) envelopes: Option<&'a Path>,
    pub(super) stop: &'a Stop,
    pub(super) observer: &'a Observer,
}

/// A key, and its instances as the manager was told of them. What is proven later is of these: of a key that was
/// damaged since, no proof is made.
#[derive(Clone)]
pub(super) struct KnownKey {
    pub(super) entry: KeyEntry,
    pub(super) instances: Arc<[Instance]>,
}

/// Keys, and what is to be proven of them: one key, or several where the kind proves many.
pub(super) struct Subject<'a> {
    pub(super) keys: &'a [KnownKey],
    pub(super) kind: Kind,
}

impl Subject<'_> {
    /// The keys' names and epochs, in order.
    pub(super) fn refs(&self) -> Vec<KeyRef> {
        self.keys.iter().map(|known| known.entry.key.clone()).collect()
    }

    /// The instance that the kind proves: the key's own, or one that is made of all the keys', in order.
    pub(super) fn instance(&self) -> Result<Instance, AttestError> {
        let single = self.kind.single();
        let of_key = |known: &KnownKey| {
            let found = known.instances.iter().find(|instance| instance.kind() == Some(single));
            found.cloned().ok_or_else(|| AttestError::NoInstance { key: known.entry.key.clone(), kind: self.kind })
        };
        let instances = self.keys.iter().map(of_key).collect::<Result<Vec<_>, _>>()?;
        if single != self.kind {
            let part = |(known, instance): (&KnownKey, &Instance)| {
                Ok((known.entry.attributes.algorithm, instance.fingerprint()?))
            };
            let parts = self.keys.iter().zip(&instances).map(part).collect::<Result<Vec<_>, Error>>();
            let many = parts.and_then(|parts| many::Instance::new(&parts)).map_err(StoreError::from)?;
            return Ok(many.into());
        }
        let one = instances.into_iter().next();
        one.ok_or(AttestError::Store(Error::WrongInstance("it speaks of no key").into()))
    }
}

impl Session<'_> {
    /// The instance that answers `challenge`: for a tagged key, that of the challenge's beacon.
    fn asked_instance(&self, subject: &Subject<'_>, challenge: &Challenge) -> Result<Instance, AttestError> {
        match subject.keys {
            [known] if subject.kind.needs_beacon() => {
                let beacon = challenge.beacon.as_ref().ok_or(AttestError::Challenge("it carries no beacon"))?;
                Ok(self.store.tagged_instance(&known.entry.key, &self.audience.trust_domain, beacon)?)
            }
            _ => subject.instance(),
        }
    }

    /// Tells the manager of a key, with all its instances. Telling it again changes nothing.
    pub(super) fn enrol_key(&self, entry: &KeyEntry) -> Result<KnownKey, AttestError> {
        let instances = self.store.instances(&entry.key, &self.audience.trust_domain, &self.info.suites)?;
        let request = EnrolKeyRequest {
            key: entry.key.key.clone(),
            epoch: entry.key.epoch,
            attributes: entry.attributes.clone(),
            instances: instances.iter().map(|instance| Base64(instance.to_bytes())).collect(),
        };
        insist(self.stop, || self.client.enrol_key(self, &request))?;
        Ok(KnownKey { entry: entry.clone(), instances: instances.into() })
    }

    /// Asks for a challenge, proves, signs, submits. Gives one record for each key, in order.
    pub(super) fn attest(&self, subject: &Subject<'_>) -> Result<Vec<Record>, AttestError> {
        let verifying_key = agreed_verifying_key(self.parameters, self.info, subject.kind)?;
        let request = ChallengeRequest { statement: subject.kind.name().to_owned(), keys: subject.refs() };
        let asked = self.clock.now();
        let challenge = insist(self.stop, || self.client.challenge(self, &request))?;
        check_challenge(&challenge, self.clock.now())?;
        let instance = self.asked_instance(subject, &challenge)?;
        let claim = Claim { audience: self.audience, enrolment: self.enrolment, subject, verifying_key };
        let envelope = self.seal(&claim, &instance, &challenge)?;
        // The second bound holds where the manager's clock is ahead.
        let until = challenge.expires_at.min(asked.plus(self.info.challenge_ttl));
        let answer = insist_while(self.stop, || self.clock.now() < until, || self.client.attest(&envelope))
            .map_err(|error| AttestError::Submission { envelope: envelope.digest(), error: error.into() })?;
        let AttestResponse { records } = answer;
        check_records(&records, &envelope, subject, &instance)?;
        self.keep(subject, &envelope);
        Ok(records)
    }

    /// Keeps an accepted envelope, for whoever checks it later. It says nothing that its manager was not told.
    pub(super) fn keep(&self, subject: &Subject<'_>, envelope: &Envelope) {
        let Some(folder) = self.envelopes else { return };
        let (kind, bytes) = (subject.kind.single().name().replace('/', "-"), envelope.to_bytes());
        // One of many keys is each key's newest.
        for KnownKey { entry: KeyEntry { key, .. }, .. } in subject.keys {
            let path = folder.join(format!("{}-{}-{kind}.envelope", key.key, key.epoch));
            let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, &bytes));
            if let Err(error) = written {
                tracing::error!(%error, path = %path.display(), "an envelope cannot be kept; attestation goes on");
            }
        }
    }

    pub(super) fn seal(
        &self,
        claim: &Claim<'_>,
        instance: &Instance,
        challenge: &Challenge,
    ) -> Result<Envelope, AttestError> {
        let encoded = instance.to_bytes();
        let context = claim.context(context::instance_digest(&encoded), challenge);
        // A proving process that was started anew between a proof and its seal proves once more.
        for _ in 0..TRIES {
            match self.prove_and_seal(claim, &context, &encoded) {
                Err(AttestError::Store(StoreError::NotProvenHere)) => {}
                sealed => return sealed,
            }
        }
        Err(StoreError::NotProvenHere.into())
    }

    fn prove_and_seal(
        &self,
        claim: &Claim<'_>,
        context: &ClaimContext,
        instance: &[u8],
    ) -> Result<Envelope, AttestError> {
        let begun = Instant::now();
        let proof = match claim.subject.keys {
            [known] if claim.subject.kind.single() == claim.subject.kind => {
                self.store.prove(self.parameters, context, instance, &known.entry.key)?
            }
            _ => self.store.prove_many(self.parameters, context, instance, &claim.subject.refs())?,
        };
        let (keys, took) = (claim.subject.keys.len(), begun.elapsed());
        (self.observer)(&AgentEvent::Proven { kind: claim.subject.kind, keys, took });
        if self.verify_own_proofs {
            registry::verify(self.parameters, context, instance, &proof).map_err(AttestError::OwnProof)?;
        }
        let mut failure = None;
        let envelope = Envelope::seal(context.clone(), instance.to_vec(), proof, |message| {
            self.store.sign_with_identity(message).unwrap_or_else(|error| {
                failure = Some(error);
                [0; 64]
            })
        });
        failure.map_or(Ok(envelope), |error: StoreError| Err(error.into()))
    }
}

impl HsmSigner for Session<'_> {
    fn audience(&self) -> &Audience {
        self.audience
    }

    fn hsm(&self) -> &keywitness_circuits::HsmId {
        &self.enrolment.hsm
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.store.sign_with_identity(message).unwrap_or_else(|error| {
            tracing::error!(%error, "the store does not sign; the manager will refuse the request");
            [0; 64]
        })
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// What the agent knows of its claim without asking the manager.
pub(super) struct Claim<'a> {
    pub(super) audience: &'a Audience,
    pub(super) enrolment: &'a Enrolment,
    pub(super) subject: &'a Subject<'a>,
    pub(super) verifying_key: Digest,
}

impl Claim<'_> {
    /// The claim context. From the manager come only the challenge's nonce and times, which were checked; the audience
    /// was pinned at enrolment, the rest is the agent's own.
    pub(super) fn context(&self, instance: Digest, challenge: &Challenge) -> ClaimContext {
        let claim = |KnownKey { entry, .. }: &KnownKey| KeyClaim {
            key: entry.key.key.clone(),
            epoch: entry.key.epoch,
            attributes: entry.attributes.digest(),
        };
        ClaimContext {
            statement: self.subject.kind.name().to_owned(),
            verifying_key: self.verifying_key,
            trust_domain: self.audience.trust_domain.clone(),
            manager: self.audience.manager.clone(),
            cluster: self.enrolment.cluster.clone(),
            hsm: self.enrolment.hsm.clone(),
            enrolment: self.enrolment.revision,
            keys: self.subject.keys.iter().map(claim).collect(),
            instance,
            challenge: challenge.nonce,
            not_before: challenge.not_before,
            not_after: challenge.not_after,
            checkpoint: None,
            evidence: None,
        }
    }
}

/// The verifying key of `kind`, on which this agent's parameters and the manager must agree before anything is proven.
pub(super) fn agreed_verifying_key(
    parameters: &Parameters,
    info: &TrustDomainInfo,
    kind: Kind,
) -> Result<Digest, AttestError> {
    let ours = registry::verifying_key(parameters, kind).map_err(StoreError::from)?;
    let theirs = info.statements.iter().find(|statement| statement.kind == kind).map(|known| known.verifying_key);
    if theirs == Some(ours) { Ok(ours) } else { Err(AttestError::ForeignVerifyingKey { kind, ours, theirs }) }
}

/// Refuses a challenge that is over, or that would have the agent claim something about another time.
pub(super) fn check_challenge(challenge: &Challenge, now: Timestamp) -> Result<(), AttestError> {
    if challenge.expires_at.plus(MAX_SKEW) <= now {
        return Err(AttestError::Challenge("it has expired"));
    }
    is_about_now(challenge.not_before, challenge.not_after, now).map_err(AttestError::Challenge)
}

/// Refuses records that are not those of the claim that was sent: one for each key, in order.
pub(super) fn check_records(
    records: &[Record],
    envelope: &Envelope,
    subject: &Subject<'_>,
    instance: &Instance,
) -> Result<(), AttestError> {
    let fingerprints = match instance {
        Instance::ManyKeys(many) => many.keys().map(|(_, fingerprint)| fingerprint).collect(),
        one => vec![one.fingerprint().map_err(StoreError::from)?],
    };
    if records.len() != subject.keys.len() || records.len() != fingerprints.len() {
        return Err(AttestError::ForeignRecord("more or fewer keys"));
    }
    let each = records.iter().zip(subject.keys).zip(fingerprints);
    each.into_iter().try_for_each(|((record, known), fingerprint)| {
        check_record(record, envelope, (&known.entry.key, subject.kind), fingerprint)
    })
}

fn check_record(
    record: &Record,
    envelope: &Envelope,
    (key, kind): (&KeyRef, Kind),
    fingerprint: Fingerprint,
) -> Result<(), AttestError> {
    let context = &envelope.context;
    let checks = [
        (record.envelope == envelope.digest(), "another envelope"),
        (record.hsm == context.hsm && record.enrolment == context.enrolment, "another HSM"),
        (record.cluster == context.cluster, "another cluster"),
        (record.key == *key, "another key"),
        (record.statement == kind && record.verifying_key == context.verifying_key, "another statement"),
        (record.fingerprint == fingerprint, "another fingerprint"),
        (record.expires_at <= context.not_after, "a longer time"),
        (record.proven_at < record.expires_at, "no time at all"),
    ];
    match checks.into_iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, what)) => Err(AttestError::ForeignRecord(what)),
    }
}

/// How long to wait before the same bytes are sent again: as long as a busy manager asks for, within bounds.
pub(super) fn redelivery(planned: Duration, error: &ClientError) -> Duration {
    let asked = Duration::from_secs(error.retry_after().unwrap_or_default().into());
    planned.max(asked.min(LONGEST_REDELIVERY))
}

/// Makes a call again, unchanged, while its answer may only have been lost: the manager answers the same
/// bytes the same.
pub(super) fn insist<T>(stop: &Stop, call: impl FnMut() -> Result<T, ClientError>) -> Result<T, ClientError> {
    insist_while(stop, || true, call)
}

/// As [`insist`], while `worthwhile` says so: bytes that come too late are refused, which would make a failure of what
/// was an outage.
pub(super) fn insist_while<T>(
    stop: &Stop,
    worthwhile: impl Fn() -> bool,
    mut call: impl FnMut() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    for wait in REDELIVERY {
        match call() {
            Err(error) if may_pass(&error) => {
                if stop.wait(redelivery(wait, &error)) || !worthwhile() {
                    return Err(error);
                }
                tracing::debug!(error = printable(&error), "sending the same request again");
            }
            answer => return answer,
        }
    }
    call()
}

/// The kinds that `entry` proves where a trust domain requires `suites`, each once.
pub(super) fn kinds(entry: &KeyEntry, info: &TrustDomainInfo) -> Vec<Kind> {
    let mut kinds = entry.attributes.kinds(&info.suites);
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}
