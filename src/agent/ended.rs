//! How an agent ends, for whoever starts it again.

use keywitness_prover::{AgentError, StoreError};

/// An agent that could not begin, and the exit code that says why.
#[derive(Debug, thiserror::Error)]
#[error("{error:#}")]
pub(crate) struct Ended {
    /// The exit code.
    pub(crate) code: u8,
    /// Why.
    pub(crate) error: anyhow::Error,
}

/// The store is not enrolled, and nothing was given to enrol it.
#[derive(Debug, thiserror::Error)]
#[error(
    "this store is not enrolled: ask an operator for a join token (keywitness join-token), and give --hsm NAME --join-token-file FILE"
)]
pub(crate) struct NoJoinToken;

/// What keeps an agent from opening its store.
pub(crate) fn unopened(error: anyhow::Error) -> anyhow::Error {
    let code = match error.downcast_ref::<StoreError>() {
        Some(StoreError::NotIsolated(_)) => 8,
        Some(error) if error.is_of_login() => 9,
        _ => 7,
    };
    Ended { code, error }.into()
}

/// Gives an error the exit code of an agent, where it has one of its own.
pub(crate) fn ended(error: anyhow::Error) -> anyhow::Error {
    let code = match error.downcast_ref() {
        Some(AgentError::NotEnrolled) => 5,
        Some(AgentError::ForeignManager { .. } | AgentError::OtherHsm(_) | AgentError::ForeignEnrolment(_)) => 6,
        _ if error.is::<NoJoinToken>() => 5,
        _ => return error,
    };
    Ended { code, error }.into()
}
