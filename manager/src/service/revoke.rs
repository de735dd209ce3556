//! Revoking.

use keywitness_verifier::wire::{Problem, ProblemKind, Revocation, RevokeRequest};

use super::{Manager, unexpected};
use crate::ledger::{Command, Outcome};

/// Longest reason, in characters.
const MAX_REASON: usize = 512;

impl Manager {
    /// Revokes an HSM, or a key at every epoch in every HSM of its cluster: for good. For operators.
    /// What is revoked already stays revoked as it was.
    ///
    /// # Errors
    /// `not-found` for an HSM or key that nobody enrolled; `malformed` for an overlong reason.
    pub fn revoke(&self, request: &RevokeRequest) -> Result<Revocation, Problem> {
        if request.reason.chars().count() > MAX_REASON || request.reason.chars().any(char::is_control) {
            let why = format!("give the reason in at most {MAX_REASON} characters, without control characters");
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        match self.submit(Command::Revoke { target: request.target.clone(), reason: request.reason.clone() })? {
            Outcome::Revoked(revocation) => Ok(revocation),
            other => Err(unexpected(&other)),
        }
    }
}
