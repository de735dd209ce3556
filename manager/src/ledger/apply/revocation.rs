//! Revocation: permanent here.

use keywitness_verifier::wire::{EventKind, Problem, ProblemKind, Revocation, RevocationTarget};

use super::{Apply, refuse};
use crate::ledger::{
    command::Outcome,
    state::{HolderRow, key},
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
        };
        if !known {
            return Ok(refuse(ProblemKind::NotFound, format!("{what}; nothing was revoked")));
        }
        let revocation = Revocation { target: target.clone(), reason: reason.to_owned(), at: self.moment.at };
        self.put(&row, &revocation)?;
        self.events.push(EventKind::Revoked { target: target.clone(), reason: reason.to_owned() });
        Ok(Outcome::Revoked(revocation))
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
    }
}
