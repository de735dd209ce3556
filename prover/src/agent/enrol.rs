//! Enrolment: the HSM's identity key meets its manager, once.

use keywitness_circuits::{Digest, HsmId};
use keywitness_verifier::{
    identity::Audience,
    wire::{Base64, EnrolRequest, Enrolment},
};

use super::{Agent, AgentError, AgentEvent, attest::insist, audience, lock};
use crate::{
    clock::Stop,
    store::{Membership, StoreError},
};

impl Agent {
    /// Enrols the HSM under the name `hsm`, and pins the manager that answers.
    ///
    /// The identity key and the name are on disk before the manager is asked, and the manager answers the same
    /// enrolment the same: after a crash, or a lost answer, call this again with the same token.
    ///
    /// # Errors
    /// [`AgentError::OtherHsm`] and [`AgentError::ForeignManager`] for a store that is enrolled otherwise; what the
    /// manager says.
    pub fn enrol(&self, hsm: &HsmId, join_token: &str) -> Result<Enrolment, AgentError> {
        let stop = Stop::new();
        let info = insist(&stop, || self.client.trust_domain())?;
        let audience = audience(&info);
        let before = self.store.membership().filter(|membership| membership.enrolment.is_some());
        if let Some(membership) = before {
            // A new token enrols the same HSM at the same manager, and nothing else. It is no way back from a revocation: the
            // manager lets no revoked HSM in.
            if membership.hsm != *hsm {
                return Err(AgentError::OtherHsm(membership.hsm));
            }
            if membership.audience != audience {
                return Err(AgentError::ForeignManager { pinned: membership.audience, found: audience });
            }
        } else {
            let begun = Membership { audience: audience.clone(), hsm: hsm.clone(), enrolment: None };
            self.store.set_membership(begun)?;
        }
        let request = self.enrol_request(&audience, hsm, join_token)?;
        let enrolment = insist(&stop, || self.client.enrol(&request))?;
        if enrolment.hsm != *hsm {
            return Err(AgentError::ForeignEnrolment(enrolment.hsm));
        }
        let done = Membership { audience, hsm: hsm.clone(), enrolment: Some(enrolment.clone()) };
        self.store.set_membership(done)?;
        lock(&self.known_keys).clear();
        (self.observer)(&AgentEvent::Enrolled(&enrolment));
        Ok(enrolment)
    }

    fn enrol_request(&self, audience: &Audience, hsm: &HsmId, join_token: &str) -> Result<EnrolRequest, StoreError> {
        let signature = self.store.sign_enrolment(audience, join_token, hsm)?;
        Ok(EnrolRequest {
            join_token: join_token.to_owned(),
            hsm: hsm.clone(),
            identity_key: self.store.identity(),
            channel_key: Digest(self.store.channel_key()),
            signature: Base64(signature.to_vec()),
        })
    }
}
