//! What ANYONE can check: identity signatures, proofs, verification tokens and answers of an HSM, with
//! the manager's wire types and, behind the feature `client`, a small blocking HTTP client.
//!
//! Checking takes its time as an argument and touches no file, clock or socket.

pub mod channel;
#[cfg(feature = "client")]
pub mod client;
pub mod envelope;
pub mod identity;
pub mod operation;
pub mod token;
pub mod wire;
