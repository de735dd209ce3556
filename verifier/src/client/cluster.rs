//! Clusters, and keys that go from one HSM to another.

use keywitness_circuits::ClusterId;

use super::{Caller, ClientError, HsmSigner, ManagerClient};
use crate::wire::{self, path};

impl ManagerClient {
    /// How far the HSMs of each cluster agree, or of one. Operator, viewer or auditor.
    pub fn clusters(&self, cluster: Option<&ClusterId>) -> Result<wire::Clusters, ClientError> {
        let query = cluster.map(|cluster| format!("?cluster={cluster}")).unwrap_or_default();
        self.get(Caller::Bearer, &format!("{}{query}", path::CLUSTERS))
    }

    /// The other HSMs of the caller's cluster, and what they have that it has not. HSM.
    pub fn peers(&self, hsm: &dyn HsmSigner) -> Result<wire::Peers, ClientError> {
        self.get(Caller::Hsm(hsm), path::PEERS)
    }

    /// Asks to be allowed to give copies of keys to another HSM. HSM: who has them.
    pub fn transfer(
        &self,
        hsm: &dyn HsmSigner,
        transfer: &wire::TransferRequest,
    ) -> Result<wire::TransferGrant, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::TRANSFERS, transfer)
    }
}
