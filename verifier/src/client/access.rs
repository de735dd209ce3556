//! Credentials, and HSMs that enrol.

use super::{Caller, ClientError, HsmSigner, ManagerClient};
use crate::wire::{self, path};

impl ManagerClient {
    /// Makes a join token. Operator.
    pub fn join_token(&self, request: &wire::JoinTokenRequest) -> Result<wire::JoinToken, ClientError> {
        self.send(Caller::Bearer, "POST", path::JOIN_TOKENS, request)
    }

    /// Makes a credential. Operator.
    pub fn credential(&self, request: &wire::CredentialRequest) -> Result<wire::Credential, ClientError> {
        self.send(Caller::Bearer, "POST", path::CREDENTIALS, request)
    }

    /// Every credential. Operator.
    pub fn credentials(&self) -> Result<wire::CredentialList, ClientError> {
        self.get(Caller::Bearer, path::CREDENTIALS)
    }

    /// Withdraws a credential. Operator.
    pub fn withdraw_credential(&self, id: wire::CredentialId) -> Result<(), ClientError> {
        self.call(Caller::Bearer, "DELETE", &path::CREDENTIAL.replace("{id}", &id.to_string()), Vec::new())
    }

    /// Enrols an HSM. Whoever holds the join token.
    pub fn enrol(&self, request: &wire::EnrolRequest) -> Result<wire::Enrolment, ClientError> {
        self.send(Caller::Anyone, "POST", path::HSMS, request)
    }

    /// Says where the HSM's channel is. HSM.
    pub fn announce(&self, hsm: &dyn HsmSigner, channel: &wire::ChannelAnnouncement) -> Result<(), ClientError> {
        self.send(Caller::Hsm(hsm), "PUT", path::CHANNEL, channel)
    }

    /// Asks for a client certificate. HSM.
    pub fn certify(
        &self,
        hsm: &dyn HsmSigner,
        request: &wire::CertificateRequest,
    ) -> Result<wire::HsmCertificate, ClientError> {
        self.send(Caller::Hsm(hsm), "POST", path::CERTIFICATES, request)
    }
}
