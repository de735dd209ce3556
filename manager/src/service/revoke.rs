//! Revoking.

use keywitness_verifier::wire::{Problem, ProblemKind, Revocation, RevocationTarget, RevokeRequest};

use super::{Manager, access::Caller, unexpected};
use crate::ledger::{Command, Outcome, state::State};

/// Longest reason, in characters.
const MAX_REASON: usize = 512;

impl Manager {
    /// Revokes an HSM, or a key at every epoch in every HSM of its cluster: for good. For operators.
    /// What is revoked already stays revoked as it was.
    ///
    /// # Errors
    /// `not-found` for an HSM or key that nobody enrolled; `malformed` for an overlong reason;
    /// `forbidden` for a cluster out of the caller's scope.
    pub fn revoke(&self, caller: &Caller, request: &RevokeRequest) -> Result<Revocation, Problem> {
        if request.reason.chars().count() > MAX_REASON || request.reason.chars().any(char::is_control) {
            let why = format!("give the reason in at most {MAX_REASON} characters, without control characters");
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        match &request.target {
            RevocationTarget::Key { cluster, .. } | RevocationTarget::Sharing { cluster, .. } => {
                caller.must_reach(cluster)?;
            }
            RevocationTarget::Hsm(hsm) => {
                if let Some(hsm) = State(self.ledger.view()?.as_ref()).hsm(hsm)? {
                    caller.must_reach(&hsm.cluster)?;
                }
            }
        }
        match self
            .submit_for(caller, Command::Revoke { target: request.target.clone(), reason: request.reason.clone() })?
        {
            Outcome::Revoked(revocation) => Ok(revocation),
            other => Err(unexpected(&other)),
        }
    }
}
