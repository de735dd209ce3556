//! Revoking, suspending and reinstating.

use keywitness_verifier::wire::{
    Problem, ProblemKind, Reason, ReinstateRequest, Revocation, RevocationTarget, RevokeRequest,
};

use super::{Manager, access::Caller, unexpected};
use crate::ledger::{Command, Outcome, state::State};

/// Longest text of a reason, in characters.
const MAX_REASON: usize = 512;

impl Manager {
    /// Revokes an HSM, a key at every epoch in every HSM of its cluster, a sharing, a cluster, or every proof under a
    /// verifying key: for good. For operators. What is revoked already stays revoked as it was.
    ///
    /// # Errors
    /// `not-found` for what nobody enrolled, an HSM out of the caller's scope, and a verifying key that was never in force;
    /// `malformed` for an overlong reason; `forbidden` for a cluster out of the caller's scope.
    pub fn revoke(&self, caller: &Caller, request: &RevokeRequest) -> Result<Revocation, Problem> {
        let (target, reason, by) = self.decision(caller, &request.target, &request.reason)?;
        self.revoked(caller, Command::Revoke { target, reason, by })
    }

    /// Suspends the same, until it is reinstated. For operators. What is suspended or revoked already stays as it was.
    ///
    /// # Errors
    /// As [`Self::revoke`].
    pub fn suspend(&self, caller: &Caller, request: &RevokeRequest) -> Result<Revocation, Problem> {
        let (target, reason, by) = self.decision(caller, &request.target, &request.reason)?;
        self.revoked(caller, Command::Suspend { target, reason, by })
    }

    /// Ends a suspension, or frees a revoked key's name for its next epoch, with other material. For operators.
    ///
    /// # Errors
    /// `not-found` for what is neither suspended nor revoked; `hsm-revoked` for an HSM, which only another enrolment brings
    /// back; `forbidden` for what stays revoked and for a cluster out of the caller's scope; `malformed` for an overlong
    /// reason.
    pub fn reinstate(&self, caller: &Caller, request: &ReinstateRequest) -> Result<(), Problem> {
        let (target, reason, by) = self.decision(caller, &request.target, &request.reason)?;
        match self.submit_for(caller, Command::Reinstate { target, reason, by })? {
            Outcome::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn revoked(&self, caller: &Caller, command: Command) -> Result<Revocation, Problem> {
        match self.submit_for(caller, command)? {
            Outcome::Revoked(revocation) => Ok(revocation),
            other => Err(unexpected(&other)),
        }
    }

    /// What the caller may decide, with who decides it.
    fn decision(
        &self,
        caller: &Caller,
        target: &RevocationTarget,
        reason: &Reason,
    ) -> Result<(RevocationTarget, Reason, String), Problem> {
        if reason.text.chars().count() > MAX_REASON || reason.text.chars().any(char::is_control) {
            let why = format!("give the reason in at most {MAX_REASON} characters, without control characters");
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        match target {
            RevocationTarget::Key { cluster, .. }
            | RevocationTarget::Sharing { cluster, .. }
            | RevocationTarget::Cluster(cluster) => caller.must_reach(cluster)?,
            // Whether another cluster has such an HSM is not told.
            RevocationTarget::Hsm(hsm) if !caller.scope().is_all() => {
                let known = State(self.ledger.view()?.as_ref()).hsm(hsm)?;
                if !known.is_some_and(|known| caller.scope().includes(&known.cluster)) {
                    let why = format!("no HSM named {hsm} is enrolled in this credential's clusters");
                    return Err(Problem::new(ProblemKind::NotFound, why));
                }
            }
            RevocationTarget::Hsm(_) => {}
            RevocationTarget::VerifyingKey(_) => caller.must_reach_everything()?,
        }
        Ok((target.clone(), reason.clone(), caller.name().to_owned()))
    }
}
