//! What a manager says of itself, of keys, and of what happened.

use super::{Caller, ClientError, ManagerClient};
use crate::wire::{self, path};

impl ManagerClient {
    /// What the trust domain asks for. Anyone.
    pub fn trust_domain(&self) -> Result<wire::TrustDomainInfo, ClientError> {
        self.get(Caller::Anyone, path::TRUST_DOMAIN)
    }

    /// Whether a key is attested. Client, operator or viewer.
    pub fn attested(&self, query: &wire::KeyQuery) -> Result<wire::KeyStatus, ClientError> {
        let mut target = format!("{}?key={}", path::ATTESTED, query.key);
        // Names are made of characters that need no escape in a query.
        if let Some(cluster) = &query.cluster {
            target += &format!("&cluster={cluster}");
        }
        if let Some(hsm) = &query.hsm {
            target += &format!("&hsm={hsm}");
        }
        if let Some(max_age) = query.max_age {
            target += &format!("&max_age={max_age}");
        }
        self.get(Caller::Bearer, &target)
    }

    /// Whether many keys are attested. Client, operator or viewer.
    pub fn attested_batch(&self, request: &wire::AttestedRequest) -> Result<wire::AttestedBatch, ClientError> {
        self.send(Caller::Bearer, "POST", path::ATTESTED, request)
    }

    /// Everything at a glance. Operator, client or viewer.
    pub fn status(&self) -> Result<wire::Status, ClientError> {
        self.get(Caller::Bearer, path::STATUS)
    }

    /// The events after number `after`. Operator or viewer.
    pub fn events(&self, after: u64) -> Result<wire::EventPage, ClientError> {
        self.get(Caller::Bearer, &format!("{}?after={after}", path::EVENTS))
    }
}
