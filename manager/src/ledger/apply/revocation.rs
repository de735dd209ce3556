//! Revocation: permanent here.

use keywitness_verifier::wire::{EventKind, Problem, ProblemKind, Revocation, RevocationTarget};

use super::{Apply, refuse};
use crate::ledger::{
    command::Outcome,
    state::{HolderRow, KeyRow, RecordRow, RevokedFingerprint, SharingRow, SightingRow, key},
    tables::Fault,
};

impl Apply<'_> {
    pub(super) fn revoke(&mut self, target: &RevocationTarget, reason: &str) -> Result<Outcome, Fault> {
        let row = key::target(target);
        if let Some(revocation) = self.state().get::<Revocation>(&row)? {
            return Ok(Outcome::Revoked(revocation));
        }
        let (known, what) = match target {
            RevocationTarget::Hsm(hsm) => (self.state().hsm(hsm)?.is_some(), format!("no HSM named {hsm} is enrolled")),
            RevocationTarget::Key { cluster, key: id } => (
                !self.state().all::<HolderRow>(&key::holders(id, Some(cluster)))?.is_empty(),
                format!("no HSM of cluster {cluster} has enrolled a key named {id}"),
            ),
            RevocationTarget::Sharing { cluster, key } => (
                self.state().get::<SharingRow>(&key::sharing(cluster, key))?.is_some(),
                format!("cluster {cluster} has no sharing of key {} at epoch {}", key.key, key.epoch),
            ),
        };
        if !known {
            return Ok(refuse(ProblemKind::NotFound, format!("{what}; nothing was revoked")));
        }
        let revocation = Revocation { target: target.clone(), reason: reason.to_owned(), at: self.moment.at };
        self.put(&row, &revocation)?;
        self.revoke_material(&revocation)?;
        self.events.push(EventKind::Revoked { target: target.clone(), reason: reason.to_owned() });
        Ok(Outcome::Revoked(revocation))
    }
}

impl Apply<'_> {
    /// A revoked key's material stays revoked under any other name, and in any other cluster.
    fn revoke_material(&mut self, revocation: &Revocation) -> Result<(), Fault> {
        let RevocationTarget::Key { cluster, key: id } = &revocation.target else { return Ok(()) };
        for holder in self.state().all::<HolderRow>(&key::holders(id, Some(cluster)))? {
            // A key that is derived from the revoked one at any epoch is known to whoever has that.
            let falls =
                |row: &KeyRow| row.key.key == *id || row.master.as_ref().is_some_and(|master| master.key == *id);
            let rows = self.state().all::<KeyRow>(&key::hsm(&holder.hsm))?;
            for row in rows.iter().filter(|row| falls(row)) {
                self.revoke_fingerprints(revocation, row)?;
            }
        }
        Ok(())
    }

    fn revoke_fingerprints(&mut self, revocation: &Revocation, row: &KeyRow) -> Result<(), Fault> {
        for instance in &row.instances {
            let place = key::fingerprint(&instance.fingerprint);
            let known = self.state().get::<RevokedFingerprint>(&place)?.is_some();
            let proven = self.state().get::<RecordRow>(&key::evidence(&row.hsm, &row.key, instance.kind))?;
            // What it merely enrolled and only others ever proved is theirs: whoever enrols a copy of another's public
            // key under a name must not have it revoked with that name.
            let provers: Vec<SightingRow> = self.state().all(&place)?;
            let theirs =
                proven.is_none() && !provers.is_empty() && provers.iter().all(|seen| seen.sighting.hsm != row.hsm);
            if !known && !theirs {
                self.put(&place, &RevokedFingerprint(revocation.clone()))?;
            }
        }
        Ok(())
    }
}

/// The refusal that a revocation gives.
pub(crate) fn problem(revocation: &Revocation) -> Problem {
    match &revocation.target {
        RevocationTarget::Hsm(hsm) => {
            Problem::new(ProblemKind::HsmRevoked, format!("HSM {hsm} is revoked: {}", revocation.reason))
        }
        RevocationTarget::Key { cluster, key } => Problem::new(
            ProblemKind::KeyRevoked,
            format!("key {key} of cluster {cluster} is revoked: {}", revocation.reason),
        ),
        RevocationTarget::Sharing { cluster, key } => Problem::new(
            ProblemKind::KeyRevoked,
            format!(
                "the sharing of key {} of cluster {cluster} at epoch {} is revoked: {}",
                key.key, key.epoch, revocation.reason
            ),
        ),
    }
}
