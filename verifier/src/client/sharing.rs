//! Sharings, by HSMs.

use super::{Caller, ClientError, HsmSigner, ManagerClient};
use crate::wire::{self, path};

impl ManagerClient {
    /// Says which key shares are sealed to. HSM.
    pub fn announce_sealing_key(
        &self,
        hsm: &dyn HsmSigner,
        key: &wire::SealingKeyAnnouncement,
    ) -> Result<(), ClientError> {
        self.send(Caller::Hsm(hsm), "PUT", path::SEALING_KEY, key)
    }

    /// Every HSM that can hold shares. HSM.
    pub fn holders(&self, hsm: &dyn HsmSigner) -> Result<wire::Holders, ClientError> {
        self.get(Caller::Hsm(hsm), path::HOLDERS)
    }

    /// Enrols a sharing. HSM: the dealer.
    pub fn enrol_sharing(
        &self,
        hsm: &dyn HsmSigner,
        sharing: &wire::EnrolSharingRequest,
    ) -> Result<wire::Sharing, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::SHARINGS, sharing)
    }

    /// The dealings with a share for this HSM. HSM.
    pub fn dealings(&self, hsm: &dyn HsmSigner) -> Result<wire::Dealings, ClientError> {
        self.get(Caller::Hsm(hsm), path::SHARINGS)
    }

    /// Complains about a share. HSM: its holder.
    pub fn complain(
        &self,
        hsm: &dyn HsmSigner,
        complaint: &wire::ComplaintRequest,
    ) -> Result<wire::ComplaintVerdict, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::COMPLAINTS, complaint)
    }
}
