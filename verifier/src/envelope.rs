//! Single verification of an envelope: who signed it, and what it proves.

use keywitness_circuits::{Envelope, Error, Parameters, Verified, registry};

use crate::identity::{IdentityKey, NotAuthentic};

/// Why an envelope was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not signed by the HSM it names: says nothing about that HSM.
    #[error(transparent)]
    NotAuthentic(#[from] NotAuthentic),
    /// Signed, and wrong.
    #[error(transparent)]
    Wrong(#[from] Error),
}

/// Checks the identity signature, then the proof. Whether the context is the one that was asked for
/// (challenge, enrolment, validity) is for the caller to check: only the manager knows what it asked.
///
/// # Errors
/// [`Refused::NotAuthentic`] before anything else is looked at; then [`Refused::Wrong`].
pub fn verify(parameters: &Parameters, identity: &IdentityKey, envelope: &Envelope) -> Result<Verified, Refused> {
    identity.check_envelope(envelope)?;
    Ok(registry::verify(parameters, &envelope.context, &envelope.instance, &envelope.proof)?)
}
