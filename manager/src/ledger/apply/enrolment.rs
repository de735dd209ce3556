//! Join tokens, HSMs, their keys and channels.

use keywitness_circuits::{
    ClusterId, Digest, HsmId, KeyAttributes, Kind, Timestamp, codec::Canonical, key_knowledge::Instance,
};
use keywitness_verifier::{
    identity::IdentityKey,
    wire::{Enrolment, EventKind, KeyRef, Problem, ProblemKind},
};

use super::{Apply, RETENTION, refuse};
use crate::ledger::{
    command::{Configuration, Outcome},
    state::{EnrolledInstance, HolderRow, HsmRow, JoinTokenRow, KeyRow, key},
    tables::{Fault, Table},
};

impl Apply<'_> {
    pub(super) fn add_join_token(
        &mut self,
        digest: &Digest,
        cluster: &ClusterId,
        hsm: Option<&HsmId>,
        expires_at: Timestamp,
    ) -> Result<Outcome, Fault> {
        let row = JoinTokenRow { cluster: cluster.clone(), hsm: hsm.cloned(), expires_at, used_by: None };
        self.put(&digest.0, &row)?;
        self.forget_at(expires_at.plus(RETENTION), Table::JoinTokens, &digest.0)?;
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
        let enrolled = self.state().hsm(hsm)?;
        if let Some(row) = &enrolled
            && (row.identity_key, row.channel_key) == (*identity_key, *channel_key)
        {
            // It lost the answer, and may have been given another token since.
            return Ok(Outcome::Enrolled(enrolment(row)));
        }
        let token: Option<JoinTokenRow> = self.state().get(&join_token.0)?;
        let mut token = match usable(token, hsm, self.moment.at) {
            Ok(token) => token,
            Err(why) => return Ok(refuse(ProblemKind::JoinTokenRefused, why)),
        };
        if enrolled.is_some() {
            let why = format!("an HSM named {hsm} is enrolled, with another identity; choose another name");
            return Ok(refuse(ProblemKind::AlreadyEnrolled, why));
        }
        let identity = Digest::from(*identity_key);
        if let Some(other) = self.state().get::<HsmId>(&identity.0)? {
            let why = format!("this identity key is HSM {other}'s; every HSM makes its own and shares it with nobody");
            return Ok(refuse(ProblemKind::AlreadyEnrolled, why));
        }
        token.used_by = Some(hsm.clone());
        self.put(&join_token.0, &token)?;
        let row = HsmRow {
            hsm: hsm.clone(),
            cluster: token.cluster,
            revision: 1,
            identity_key: *identity_key,
            channel_key: *channel_key,
            channel_url: None,
            join_token: *join_token,
            enrolled_at: self.moment.at,
        };
        self.put(&key::hsm(hsm), &row)?;
        self.put(&identity.0, hsm)?;
        let event =
            EventKind::HsmEnrolled { hsm: row.hsm.clone(), cluster: row.cluster.clone(), revision: row.revision };
        self.events.push(event);
        Ok(Outcome::Enrolled(enrolment(&row)))
    }

    pub(super) fn announce_channel(&mut self, mut hsm: HsmRow, url: &str) -> Result<Outcome, Fault> {
        if self.state().revocation(&hsm, [])?.is_some() {
            return Ok(refuse(ProblemKind::HsmRevoked, format!("HSM {} is revoked", hsm.hsm)));
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
        if let Some(revocation) = self.state().revocation(hsm, [&key.key])? {
            return Ok(Outcome::Refused(super::revocation::problem(&revocation)));
        }
        let configuration = self.state().configuration()?;
        let instances = match parse(attributes, instances) {
            Ok(instances) => instances,
            Err(problem) => return Ok(Outcome::Refused(problem)),
        };
        if let Some(row) = self.state().get::<KeyRow>(&key::epoch(&hsm.hsm, key))?
            && row.attributes == *attributes
            && covers(&configuration, attributes, &instances).is_ok()
            && instances.iter().all(|instance| row.instances.contains(instance))
        {
            return Ok(Outcome::Done);
        }
        if key.epoch == 0 {
            return Ok(refuse(ProblemKind::Malformed, "epochs begin with 1"));
        }
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
        if let Err(why) = covers(&configuration, attributes, &instances) {
            return Ok(refuse(ProblemKind::Malformed, why));
        }
        let enrolled_at = self.moment.at;
        let row =
            KeyRow { hsm: hsm.hsm.clone(), key: key.clone(), attributes: attributes.clone(), instances, enrolled_at };
        self.put(&key::epoch(&hsm.hsm, key), &row)?;
        let holder = HolderRow { key: key.key.clone(), cluster: hsm.cluster.clone(), hsm: hsm.hsm.clone() };
        self.put(&key::holder(&holder.key, &holder.cluster, &holder.hsm), &holder)?;
        Ok(Outcome::Done)
    }
}

fn enrolment(row: &HsmRow) -> Enrolment {
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
        let (found, expected) = (instance.algorithm(), attributes.algorithm);
        if found != expected {
            return Err(malformed(format!("an instance is of a {found} key, and the attributes say {expected}")));
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
    let mut needed = attributes.algorithm.kinds(&configuration.suites);
    needed.sort_unstable();
    if instances.iter().map(|instance| instance.kind).eq(needed.iter().copied()) {
        return Ok(());
    }
    let names: Vec<_> = needed.iter().map(Kind::to_string).collect();
    Err(format!("a {} key needs exactly one instance for each of: {}", attributes.algorithm, names.join(", ")))
}
