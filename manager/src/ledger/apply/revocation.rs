//! Revocation, suspension, and what comes back.
//!
//! A suspension ends when it is reinstated. A revocation never ends for what it hit: a revoked HSM comes back under a new
//! identity, by a join token that says so, and a revoked key's name at a later epoch, with other material. Clusters,
//! sharings and verifying keys stay revoked.

use keywitness_circuits::{ClusterId, KeyId};
use keywitness_verifier::wire::{
    EventKind, Problem, ProblemKind, Reason, Revocation, RevocationTarget, Rule, Standing,
};

use super::{Apply, enrolment::newest_epoch, refuse};
use crate::ledger::{
    command::Outcome,
    fraud,
    state::{
        BarRow, EpisodeRow, HolderRow, HsmRow, KeyRow, Lifted, RecordRow, RevokedFingerprint, SharingRow, SightingRow,
        VerifyingKeyRow, key,
    },
    tables::Fault,
};

impl Apply<'_> {
    /// Revokes. What is revoked already stays revoked as it was; a suspension ends with it.
    pub(in crate::ledger) fn revoke(
        &mut self,
        target: &RevocationTarget,
        reason: &Reason,
        by: &str,
    ) -> Result<Outcome, Fault> {
        let mut bar = self.bar(target)?;
        if let Some(revocation) = bar.revoked.as_ref().filter(|revocation| revocation.through.is_none()) {
            return Ok(Outcome::Revoked(revocation.clone()));
        }
        if let Some(why) = self.unknown(target)? {
            return Ok(refuse(ProblemKind::NotFound, format!("{why}; nothing was revoked")));
        }
        if bar.suspended.take().is_some() {
            self.lift(target, Standing::Suspended, (reason, by), None)?;
        }
        let revocation = self.decide(target, Standing::Revoked, reason, by)?;
        bar.revoked = Some(revocation.clone());
        self.put(&key::target(target), &bar)?;
        self.revoke_material(&revocation)?;
        self.events.push(EventKind::Revoked { target: target.clone(), reason: reason.clone(), by: by.to_owned() });
        Ok(Outcome::Revoked(revocation))
    }

    /// Suspends, until reinstated. What is suspended or revoked already stays as it was.
    pub(in crate::ledger) fn suspend(
        &mut self,
        target: &RevocationTarget,
        reason: &Reason,
        by: &str,
    ) -> Result<Outcome, Fault> {
        let mut bar = self.bar(target)?;
        if let Some(standing) = bar.clone().hitting(u32::MAX) {
            // What the rule on measurements suspended, its evidence can reinstate: whoever else suspends it takes it over.
            let rule = fraud::author(Rule::ForeignMeasurement);
            if standing.standing == Standing::Revoked || standing.by != rule || by == rule {
                return Ok(Outcome::Revoked(standing));
            }
            bar.suspended = None;
            self.lift(target, Standing::Suspended, (reason, by), None)?;
        }
        if let Some(why) = self.unknown(target)? {
            return Ok(refuse(ProblemKind::NotFound, format!("{why}; nothing was suspended")));
        }
        let suspension = self.decide(target, Standing::Suspended, reason, by)?;
        bar.suspended = Some(suspension.clone());
        self.put(&key::target(target), &bar)?;
        self.events.push(EventKind::Suspended { target: target.clone(), reason: reason.clone(), by: by.to_owned() });
        Ok(Outcome::Revoked(suspension))
    }

    /// Ends a suspension, or frees a revoked key's name for the next epoch.
    pub(in crate::ledger) fn reinstate(
        &mut self,
        target: &RevocationTarget,
        reason: &Reason,
        by: &str,
    ) -> Result<Outcome, Fault> {
        let mut bar = self.bar(target)?;
        if bar.suspended.take().is_some() {
            self.put(&key::target(target), &bar)?;
            self.lift(target, Standing::Suspended, (reason, by), None)?;
        } else if bar.hitting(u32::MAX).is_none() {
            return Ok(refuse(ProblemKind::NotFound, format!("{target} is neither suspended nor revoked")));
        } else {
            match target {
                RevocationTarget::Key { cluster, key } => {
                    let last = newest_epoch(self.state(), cluster, key)?;
                    self.come_back(target, last, (reason, by))?;
                }
                RevocationTarget::Hsm(hsm) => {
                    let why = format!(
                        "HSM {hsm} is revoked, and so is its identity: make a join token that enrols it again \
                         (keywitness join-token --reenrol), and have it make another identity"
                    );
                    return Ok(refuse(ProblemKind::HsmRevoked, why));
                }
                RevocationTarget::Sharing { .. } | RevocationTarget::Cluster(_) | RevocationTarget::VerifyingKey(_) => {
                    return Ok(refuse(ProblemKind::Forbidden, format!("{target} stays revoked; use another")));
                }
            }
        }
        self.events.push(EventKind::Reinstated { target: target.clone(), reason: reason.clone(), by: by.to_owned() });
        Ok(Outcome::Done)
    }

    /// A revoked name is used again: what it named up to number `last` stays revoked.
    pub(super) fn come_back(
        &mut self,
        target: &RevocationTarget,
        last: u32,
        (reason, by): (&Reason, &str),
    ) -> Result<(), Fault> {
        let mut bar = self.bar(target)?;
        if let Some(revocation) = bar.revoked.as_mut().filter(|revocation| revocation.through.is_none()) {
            revocation.through = Some(last);
            self.put(&key::target(target), &bar)?;
            self.lift(target, Standing::Revoked, (reason, by), Some(last))?;
        }
        Ok(())
    }

    pub(super) fn bar(&self, target: &RevocationTarget) -> Result<BarRow, Fault> {
        Ok(self.state().get(&key::target(target))?.unwrap_or_default())
    }

    /// Begins an episode.
    fn decide(
        &mut self,
        target: &RevocationTarget,
        standing: Standing,
        reason: &Reason,
        by: &str,
    ) -> Result<Revocation, Fault> {
        let (target, reason, by) = (target.clone(), reason.clone(), by.to_owned());
        let revocation = Revocation { target, standing, reason, by, at: self.moment.at, through: None };
        let row = EpisodeRow { revocation: revocation.clone(), lifted: None };
        self.put(&key::episode(&revocation.target, self.moment.sequence), &row)?;
        self.outdate_status_lists()?;
        Ok(revocation)
    }

    /// Ends the open episode of a standing.
    fn lift(
        &mut self,
        target: &RevocationTarget,
        standing: Standing,
        (reason, by): (&Reason, &str),
        through: Option<u32>,
    ) -> Result<(), Fault> {
        let prefix = key::target(target);
        for (place, mut episode) in self.state().entries::<EpisodeRow>(&prefix)? {
            if episode.lifted.is_none() && episode.revocation.standing == standing {
                let (reason, by) = (reason.clone(), by.to_owned());
                episode.lifted = Some(Lifted { at: self.moment.at, reason, by, through });
                self.put(&place, &episode)?;
            }
        }
        self.outdate_status_lists()
    }

    /// Why there is nothing to revoke or suspend: most likely a mistyped name.
    fn unknown(&self, target: &RevocationTarget) -> Result<Option<String>, Fault> {
        let (known, why) = match target {
            RevocationTarget::Hsm(hsm) => (self.state().hsm(hsm)?.is_some(), format!("no HSM named {hsm} is enrolled")),
            RevocationTarget::Key { cluster, key } => {
                (self.has_holder(cluster, key)?, format!("no HSM of cluster {cluster} has enrolled a key named {key}"))
            }
            RevocationTarget::Sharing { cluster, key } => (
                self.state().get::<SharingRow>(&key::sharing(cluster, key))?.is_some(),
                format!("cluster {cluster} has no sharing of key {} at epoch {}", key.key, key.epoch),
            ),
            RevocationTarget::Cluster(cluster) => (
                self.state().all::<HsmRow>(&[])?.iter().any(|hsm| hsm.cluster == *cluster),
                format!("no HSM is enrolled in cluster {cluster}"),
            ),
            RevocationTarget::VerifyingKey(digest) => (
                self.state().get::<VerifyingKeyRow>(&digest.0)?.is_some(),
                format!("no statement kind was ever in force here with verifying key {digest}"),
            ),
        };
        Ok((!known).then_some(why))
    }

    fn has_holder(&self, cluster: &ClusterId, key: &KeyId) -> Result<bool, Fault> {
        Ok(!self.state().all::<HolderRow>(&key::holders(key, Some(cluster)))?.is_empty())
    }
}

impl Apply<'_> {
    /// A revoked key's material stays revoked under any other name: in every cluster, if its holder had proven it. What a
    /// holder merely says that it has is its cluster's matter alone.
    fn revoke_material(&mut self, revocation: &Revocation) -> Result<(), Fault> {
        let RevocationTarget::Key { cluster, key: id } = &revocation.target else { return Ok(()) };
        for holder in self.state().all::<HolderRow>(&key::holders(id, Some(cluster)))? {
            // A key that is derived from the revoked one at any epoch is known to whoever has that.
            let falls =
                |row: &KeyRow| row.key.key == *id || row.master.as_ref().is_some_and(|master| master.key == *id);
            let rows = self.state().all::<KeyRow>(&key::hsm(&holder.hsm))?;
            for row in rows.iter().filter(|row| falls(row)) {
                self.revoke_fingerprints(revocation, cluster, row)?;
            }
        }
        Ok(())
    }

    fn revoke_fingerprints(&mut self, revocation: &Revocation, cluster: &ClusterId, row: &KeyRow) -> Result<(), Fault> {
        for instance in &row.instances {
            let everywhere = key::fingerprint(&instance.fingerprint);
            let proven = self.state().get::<RecordRow>(&key::evidence(&row.hsm, &row.key, instance.kind))?;
            // What it merely enrolled and another HSM of its cluster proved is that one's: whoever enrols a copy of
            // another's public key under a name must not have it revoked with that name.
            let provers: Vec<SightingRow> = self.state().all(&everywhere)?;
            let place = if proven.is_some() || provers.iter().any(|seen| seen.sighting.hsm == row.hsm) {
                everywhere
            } else if provers.iter().all(|seen| seen.sighting.cluster != *cluster) {
                key::claimed(&instance.fingerprint, cluster)
            } else {
                continue;
            };
            if self.state().get::<RevokedFingerprint>(&place)?.is_none() {
                self.put(&place, &RevokedFingerprint(revocation.clone()))?;
            }
        }
        Ok(())
    }
}

/// The refusal that a revocation or suspension gives.
pub(crate) fn problem(revocation: &Revocation) -> Problem {
    let Revocation { target, standing, reason, .. } = revocation;
    let what = match target {
        RevocationTarget::Sharing { cluster, key } => {
            format!("the sharing of key {} of cluster {cluster} at epoch {}", key.key, key.epoch)
        }
        RevocationTarget::Key { cluster, key } => format!("key {key} of cluster {cluster}"),
        RevocationTarget::Hsm(_) | RevocationTarget::Cluster(_) | RevocationTarget::VerifyingKey(_) => {
            target.to_string()
        }
    };
    let kind = match (standing, target) {
        (Standing::Active | Standing::Suspended, _) => ProblemKind::Suspended,
        (Standing::Revoked, RevocationTarget::Hsm(_) | RevocationTarget::Cluster(_)) => ProblemKind::HsmRevoked,
        (Standing::Revoked, RevocationTarget::Key { .. } | RevocationTarget::Sharing { .. }) => ProblemKind::KeyRevoked,
        (Standing::Revoked, RevocationTarget::VerifyingKey(_)) => ProblemKind::VerifyingKeyRevoked,
    };
    Problem::new(kind, format!("{what} is {standing}: {reason}"))
}
