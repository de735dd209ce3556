//! Revocations and suspensions, and what ends them.

use super::{Caller, ClientError, ManagerClient};
use crate::wire::{self, path};

impl ManagerClient {
    /// Revokes. Operator.
    pub fn revoke(&self, request: &wire::RevokeRequest) -> Result<wire::Revocation, ClientError> {
        self.send(Caller::Bearer, "POST", path::REVOCATIONS, request)
    }

    /// Suspends. Operator.
    pub fn suspend(&self, request: &wire::RevokeRequest) -> Result<wire::Revocation, ClientError> {
        self.send(Caller::Bearer, "POST", path::SUSPENSIONS, request)
    }

    /// Ends a suspension, or frees a revoked key's name. Operator.
    pub fn reinstate(&self, request: &wire::ReinstateRequest) -> Result<(), ClientError> {
        self.send(Caller::Bearer, "POST", path::REINSTATEMENTS, request)
    }
}
