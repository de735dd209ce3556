//! Join tokens, HSMs, their keys and channels.

use keywitness_circuits::{
    ClusterId, Digest, HsmId, Instance, KeyAttributes, KeyId, Kind, Timestamp, codec::Canonical,
};
use keywitness_verifier::{
    identity::IdentityKey,
    wire::{Enrolment, EventKind, KeyRef, Problem, ProblemKind, Reason, RevocationTarget},
};

use super::{Apply, RETENTION, refuse, sharing};
use crate::ledger::{
    command::{Configuration, Outcome},
    fraud,
    state::{EnrolledInstance, HolderRow, HsmRow, JoinTokenRow, KeyRow, State, key},
    tables::{Fault, Table},
};

impl Apply<'_> {
    pub(super) fn add_join_token(&mut self, digest: &Digest, row: &JoinTokenRow) -> Result<Outcome, Fault> {
        if let Some(revocation) = self.state().barred(&RevocationTarget::Cluster(row.cluster.clone()))? {
            return Ok(Outcome::Refused(super::revocation::problem(&revocation)));
        }
        if row.reenrol {
            let Some(hsm) = &row.hsm else {
                return Ok(refuse(ProblemKind::Malformed, "name the HSM that is to be enrolled again"));
            };
            if self.state().hsm(hsm)?.is_none_or(|enrolled| enrolled.cluster != row.cluster) {
                let why =
                    format!("no HSM named {hsm} is enrolled in cluster {}: it needs no leave to return", row.cluster);
                return Ok(refuse(ProblemKind::NotFound, why));
            }
        }
        self.put(&digest.0, row)?;
        self.forget_at(row.expires_at.plus(RETENTION), Table::JoinTokens, &digest.0)?;
        Ok(Outcome::Done)
    }

    /// An enrolled name is never given to another identity key, and an identity key never gets a second name.
    pub(super) fn enrol_hsm(
        &mut self,
        join_token: &Digest,
        hsm: &HsmId,
        identity_key: &IdentityKey,
        channel_key: &Digest,
    ) -> Result<Outcome, Fault> {
        let (mut token, revision) =
            match admit(self.state(), join_token, hsm, identity_key, channel_key, self.moment.at)? {
                Ok(Admission::New(token)) => (token, 1),
                Ok(Admission::Afresh(token, before)) => (token, before.saturating_add(1)),
                Ok(Admission::Again(row, token)) => {
                    if let Some(mut token) = token {
                        token.used_by = Some(hsm.clone());
                        self.put(&join_token.0, &token)?;
                    }
                    return Ok(Outcome::Enrolled(enrolment(&row)));
                }
                Err(problem) => return Ok(Outcome::Refused(problem)),
            };
        let identity = Digest::from(*identity_key);
        token.used_by = Some(hsm.clone());
        self.put(&join_token.0, &token)?;
        let row = HsmRow {
            hsm: hsm.clone(),
            cluster: token.cluster,
            revision,
            identity_key: identity,
            channel_key: *channel_key,
            sealing_key: None,
            channel_url: None,
            enrolled_at: self.moment.at,
        };
        self.put(&key::hsm(hsm), &row)?;
        self.put(&identity.0, hsm)?;
        if revision > 1 {
            let (target, reason) = (RevocationTarget::Hsm(hsm.clone()), Reason::from("enrolled again"));
            self.come_back(&target, revision - 1, (&reason, "the join token's maker"))?;
            self.renew_status_entries(&row)?;
        }
        let event =
            EventKind::HsmEnrolled { hsm: row.hsm.clone(), cluster: row.cluster.clone(), revision: row.revision };
        self.events.push(event);
        Ok(Outcome::Enrolled(enrolment(&row)))
    }

    pub(super) fn announce_channel(&mut self, mut hsm: HsmRow, url: &str) -> Result<Outcome, Fault> {
        if let Some(revocation) = self.state().revocation(&hsm, [])? {
            return Ok(Outcome::Refused(super::revocation::problem(&revocation)));
        }
        hsm.channel_url = Some(url.to_owned());
        self.put(&key::hsm(&hsm.hsm), &hsm)?;
        Ok(Outcome::Done)
    }

    pub(super) fn enrol_key(
        &mut self,
        hsm: &HsmRow,
        key: &KeyRef,
        attributes: &KeyAttributes,
        instances: &[Vec<u8>],
    ) -> Result<Outcome, Fault> {
        if let Some(revocation) = self.state().revocation(hsm, [key])? {
            return Ok(Outcome::Refused(super::revocation::problem(&revocation)));
        }
        let configuration = self.state().configuration()?;
        let mut instances = match parse(attributes, instances) {
            Ok(instances) => instances,
            Err(problem) => return Ok(Outcome::Refused(problem)),
        };
        if let Some(revocation) = self.state().revoked_material(hsm, &instances)? {
            fraud::revoked_attempt(self, &hsm.hsm, &revocation)?;
            return Ok(Outcome::Refused(super::revocation::problem(&revocation)));
        }
        if let Some(mut row) = self.state().get::<KeyRow>(&key::epoch(&hsm.hsm, key))?
            && row.attributes == *attributes
            && covers(&configuration, attributes, &instances).is_ok()
            && instances.iter().all(|new| row.instance(new.kind).is_none_or(|enrolled| enrolled == new))
        {
            instances.retain(|new| row.instance(new.kind).is_none());
            // A suite was added to the policy since.
            if !instances.is_empty() {
                row.instances.append(&mut instances);
                row.instances.sort_by_key(|instance| instance.kind);
                self.put(&key::epoch(&hsm.hsm, key), &row)?;
                self.renew_status_entries_of(hsm, &row)?;
            }
            self.keep_status_entry(&configuration, hsm, &row)?;
            return Ok(Outcome::Done);
        }
        if key.epoch == 0 {
            return Ok(refuse(ProblemKind::Malformed, "epochs begin with 1"));
        }
        let master = match master(self.state(), hsm, key, &instances)? {
            Ok(master) => master,
            Err(problem) => return Ok(Outcome::Refused(problem)),
        };
        if let Some(newest) = self.state().newest_key(&hsm.hsm, &key.key)?
            && newest.key.epoch >= key.epoch
        {
            let why = format!(
                "{} has enrolled key {} at epoch {} already, with other material or attributes; a changed key is \
                 enrolled at a higher epoch",
                hsm.hsm, key.key, newest.key.epoch
            );
            return Ok(refuse(ProblemKind::KeyConflict, why));
        }
        let newest = newest_epoch(self.state(), &hsm.cluster, &key.key)?;
        // A share has its epoch from the dealing that it is checked against.
        if key.epoch > newest.saturating_add(1) && !attributes.algorithm.is_share() {
            let why = format!(
                "the newest epoch of key {} in cluster {} is {newest}; the next one is {}, and none may be left out",
                key.key,
                hsm.cluster,
                newest.saturating_add(1)
            );
            return Ok(refuse(ProblemKind::KeyConflict, why));
        }
        if let Err(why) = covers(&configuration, attributes, &instances) {
            return Ok(refuse(ProblemKind::Malformed, why));
        }
        let enrolled_at = self.moment.at;
        let sharing = match sharing::shared(self.state(), hsm, key, attributes, &instances)? {
            Ok(sharing) => sharing,
            Err(problem) => return Ok(Outcome::Refused(problem)),
        };
        let row = KeyRow {
            hsm: hsm.hsm.clone(),
            key: key.clone(),
            attributes: attributes.clone(),
            instances,
            master,
            sharing,
            enrolled_at,
        };
        if let Some(revocation) = self.state().key_revocation(hsm, &row)? {
            fraud::revoked_attempt(self, &hsm.hsm, &revocation)?;
            return Ok(Outcome::Refused(super::revocation::problem(&revocation)));
        }
        self.put(&key::epoch(&hsm.hsm, key), &row)?;
        self.keep_status_entry(&configuration, hsm, &row)?;
        let holder = HolderRow { key: key.key.clone(), cluster: hsm.cluster.clone(), hsm: hsm.hsm.clone() };
        self.put(&key::holder(&holder.key, &holder.cluster, &holder.hsm), &holder)?;
        Ok(Outcome::Done)
    }
}

/// The key of this HSM that a derived key is derived from: enrolled before it, and known by its fingerprint.
fn master(
    state: State<'_>,
    hsm: &HsmRow,
    key: &KeyRef,
    instances: &[EnrolledInstance],
) -> Result<Result<Option<KeyRef>, Problem>, Fault> {
    for instance in instances {
        let Ok(Instance::KeyDerivation(derivation)) = Instance::from_bytes(&instance.bytes) else { continue };
        if derivation.epoch() != key.epoch {
            let why = format!("key {} at epoch {} is derived for epoch {}", key.key, key.epoch, derivation.epoch());
            return Ok(Err(Problem::new(ProblemKind::Malformed, why)));
        }
        let master = derivation.master();
        let held = state.all::<KeyRow>(&key::hsm(&hsm.hsm))?.into_iter().find(|row| {
            row.key != *key && row.master.is_none() && row.instances.iter().any(|held| held.fingerprint == master)
        });
        let Some(held) = held else {
            let why = format!("{} has not enrolled the key that {} is derived from; enrol it first", hsm.hsm, key.key);
            return Ok(Err(Problem::new(ProblemKind::UnknownKey, why)));
        };
        return Ok(Ok(Some(held.key)));
    }
    Ok(Ok(None))
}

/// How an HSM is let in.
pub(crate) enum Admission {
    /// It is not enrolled yet, and may use this token.
    New(JoinTokenRow),
    /// It is enrolled with another identity, as this enrolment, and may use this token to return.
    Afresh(JoinTokenRow, u32),
    /// It is enrolled just so; the token, if it is one that it may still use, is used up with it.
    Again(Box<HsmRow>, Option<JoinTokenRow>),
}

/// Whether an HSM is let in. Runs before a command is made of a stranger's request, so that whoever holds no
/// token changes nothing, and again when the command is applied.
pub(crate) fn admit(
    state: State<'_>,
    join_token: &Digest,
    hsm: &HsmId,
    identity_key: &IdentityKey,
    channel_key: &Digest,
    at: Timestamp,
) -> Result<Result<Admission, Problem>, Fault> {
    let refused = |kind, why: String| Ok(Err(Problem::new(kind, why)));
    let token: Option<JoinTokenRow> = state.get(&join_token.0)?;
    let enrolled = state.hsm(hsm)?;
    if let Some(token) = &token
        && let Some(revocation) = state.barred(&RevocationTarget::Cluster(token.cluster.clone()))?
    {
        return Ok(Err(super::revocation::problem(&revocation)));
    }
    let fresh = state.get::<HsmId>(&Digest::from(*identity_key).0)?.is_none();
    let returning = |token: &JoinTokenRow| token.reenrol && token.used_by.is_none();
    if let (Some(row), true) = (&enrolled, token.as_ref().is_some_and(returning)) {
        if !fresh || row.channel_key == *channel_key {
            let why = format!("{hsm} returns with another identity key and another channel key: none comes back");
            return refused(ProblemKind::AlreadyEnrolled, why);
        }
        return Ok(match usable(token, hsm, at) {
            Ok(token) => Ok(Admission::Afresh(token, row.revision)),
            Err(why) => Err(Problem::new(ProblemKind::JoinTokenRefused, why)),
        });
    }
    if let Some(row) = &enrolled
        && (row.identity_key, row.channel_key) == (Digest::from(*identity_key), *channel_key)
    {
        // It lost the answer, and may have been given another token since.
        if token.as_ref().is_some_and(|token| token.cluster != row.cluster) {
            let why = format!("the join token is for another cluster, and HSM {hsm} is in {}", row.cluster);
            return refused(ProblemKind::JoinTokenRefused, why);
        }
        return Ok(Ok(Admission::Again(Box::new(row.clone()), usable(token, hsm, at).ok())));
    }
    let token = match usable(token, hsm, at) {
        Ok(token) => token,
        Err(why) => return refused(ProblemKind::JoinTokenRefused, why),
    };
    if enrolled.is_some() {
        let why = format!("an HSM named {hsm} is enrolled, with another identity; choose another name");
        return refused(ProblemKind::AlreadyEnrolled, why);
    }
    if let Some(other) = state.get::<HsmId>(&Digest::from(*identity_key).0)? {
        let why = format!("this identity key is HSM {other}'s; every HSM makes its own and shares it with nobody");
        return refused(ProblemKind::AlreadyEnrolled, why);
    }
    Ok(Ok(Admission::New(token)))
}

/// The newest epoch of a key among the HSMs of a cluster; 0 where none has enrolled it.
pub(super) fn newest_epoch(state: State<'_>, cluster: &ClusterId, key: &KeyId) -> Result<u32, Fault> {
    let mut newest = 0;
    for holder in state.all::<HolderRow>(&key::holders(key, Some(cluster)))? {
        newest = state.newest_key(&holder.hsm, key)?.map_or(newest, |row| newest.max(row.key.epoch));
    }
    Ok(newest)
}

pub(crate) fn enrolment(row: &HsmRow) -> Enrolment {
    Enrolment { hsm: row.hsm.clone(), cluster: row.cluster.clone(), revision: row.revision }
}

/// The token, if `hsm` may use it at `at`.
fn usable(token: Option<JoinTokenRow>, hsm: &HsmId, at: Timestamp) -> Result<JoinTokenRow, String> {
    const ASK: &str = "ask an operator for a new one";
    let token = token.ok_or_else(|| format!("the join token is not known; {ASK}"))?;
    if token.used_by.is_some() {
        return Err(format!("the join token was used; {ASK}"));
    }
    if token.expires_at <= at {
        return Err(format!("the join token has expired; {ASK}"));
    }
    if token.hsm.as_ref().is_some_and(|bound| bound != hsm) {
        return Err(format!("the join token is for another HSM; {ASK}"));
    }
    Ok(token)
}

/// The instances, canonical and all of one algorithm, in the order of kinds.
fn parse(attributes: &KeyAttributes, instances: &[Vec<u8>]) -> Result<Vec<EnrolledInstance>, Problem> {
    let malformed = |why: String| Problem::new(ProblemKind::Malformed, why);
    if instances.len() > Kind::ALL.len() {
        return Err(malformed("there are more instances than statement kinds".to_owned()));
    }
    let mut parsed = Vec::with_capacity(instances.len());
    for bytes in instances {
        let instance = Instance::from_bytes(bytes).map_err(|error| malformed(error.to_string()))?;
        let expected = attributes.algorithm;
        if instance.algorithm() != Some(expected) {
            return Err(malformed(format!("an instance is not of one {expected} key, as the attributes say")));
        }
        let kind = instance.kind().ok_or_else(|| malformed("no statement kind proves an instance".to_owned()))?;
        let fingerprint = instance.fingerprint().map_err(|error| malformed(error.to_string()))?;
        parsed.push(EnrolledInstance { kind, bytes: bytes.clone(), fingerprint });
    }
    parsed.sort_by_key(|instance| instance.kind);
    Ok(parsed)
}

/// Whether there is exactly one instance for each statement kind that attests such a key here.
fn covers(
    configuration: &Configuration,
    attributes: &KeyAttributes,
    instances: &[EnrolledInstance],
) -> Result<(), String> {
    let mut needed = attributes.kinds(&configuration.suites);
    needed.sort_unstable();
    if instances.iter().map(|instance| instance.kind).eq(needed.iter().copied()) {
        return Ok(());
    }
    let names: Vec<_> = needed.iter().map(Kind::to_string).collect();
    Err(format!("a {} key needs exactly one instance for each of: {}", attributes.algorithm, names.join(", ")))
}
