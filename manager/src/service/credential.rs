//! Credentials: made, listed, withdrawn. All of it for operators.

use keywitness_verifier::wire::{
    Credential, CredentialId, CredentialInfo, CredentialList, CredentialRequest, Problem, ProblemKind, Role,
    new_secret, secret_digest,
};

use super::{
    Manager,
    access::{Caller, Scope},
};
use crate::ledger::{Command, state::State};

/// Longest name of a credential's holder, in characters.
const MAX_HOLDER: usize = 128;

/// Most clusters that one credential names.
const MAX_CLUSTERS: usize = 64;

/// Longest life of a credential that ends by itself, in seconds: ten years.
const MAX_LIFE: u64 = 10 * 365 * 24 * 60 * 60;

impl Manager {
    /// Makes a bearer credential, within the caller's own clusters.
    ///
    /// # Errors
    /// `malformed` for a holder's name that is empty, over 128 characters, or has control characters; for no cluster or
    /// over 64; for a life of zero or over ten years; for an auditor's that names clusters, since the log is one.
    /// `forbidden` for clusters out of the caller's scope.
    pub fn create_credential(&self, caller: &Caller, request: &CredentialRequest) -> Result<Credential, Problem> {
        let malformed = |why: String| Err(Problem::new(ProblemKind::Malformed, why));
        let name = request.name.trim();
        if name.is_empty() || name.chars().count() > MAX_HOLDER || name.chars().any(char::is_control) {
            return malformed(format!("name the holder in 1 to {MAX_HOLDER} characters, without control characters"));
        }
        let mut clusters = request.clusters.clone();
        if let Some(clusters) = &mut clusters {
            if !(1..=MAX_CLUSTERS).contains(&clusters.len()) {
                return malformed(format!("name 1 to {MAX_CLUSTERS} clusters, or leave them out for every cluster"));
            }
            clusters.sort_unstable();
            clusters.dedup();
            if request.role == Role::Auditor {
                return malformed("an auditor reads the log, which is one for all clusters: name none".to_owned());
            }
        }
        if request.valid_for.is_some_and(|life| !(1..=MAX_LIFE).contains(&life)) {
            return malformed(format!("valid_for must be 1 to {MAX_LIFE} seconds"));
        }
        if !caller.scope().covers(&Scope::of(clusters.clone())) {
            let why = "a credential is good for no more clusters than that of the operator who makes it";
            return Err(Problem::new(ProblemKind::Forbidden, why));
        }
        let secret = new_secret(&request.role.to_string());
        let (digest, role) = (secret_digest(&secret), request.role);
        let now = self.now(State(self.ledger.view()?.as_ref()))?;
        let expires_at = request.valid_for.map(|life| now.plus(life));
        let name = name.to_owned();
        let id = CredentialId::of(&digest);
        tracing::info!(%id, holder = name, %role, by = caller.name(), "making a credential");
        self.submit_for(caller, Command::GrantCredential { digest, name, role, clusters, expires_at })?;
        Ok(Credential { secret, role, id, expires_at })
    }

    /// The credentials within the caller's own clusters, those that ended among them.
    ///
    /// # Errors
    /// Only where the ledger cannot be read.
    pub fn credentials(&self, caller: &Caller) -> Result<CredentialList, Problem> {
        let known = State(self.ledger.view()?.as_ref()).credentials()?;
        let seen = |info: &CredentialInfo| caller.scope().covers(&Scope::of(info.clusters.clone()));
        let credentials = known.into_iter().map(|known| known.info()).filter(seen).collect();
        Ok(CredentialList { credentials })
    }

    /// Withdraws a credential, from the next request on. What its holder was given before stays what it is.
    ///
    /// # Errors
    /// `not-found`; `last-operator`; `forbidden` for one that is good for more clusters than the caller's.
    pub fn withdraw_credential(&self, caller: &Caller, id: CredentialId) -> Result<(), Problem> {
        if let Some(found) = State(self.ledger.view()?.as_ref()).credential_named(id)?
            && !caller.scope().covers(&Scope::of(found.terms.clusters))
        {
            let why = "this credential is good for clusters that yours is not good for";
            return Err(Problem::new(ProblemKind::Forbidden, why));
        }
        self.submit_for(caller, Command::WithdrawCredential { id })?;
        tracing::info!(%id, by = caller.name(), "withdrew a credential");
        Ok(())
    }
}
