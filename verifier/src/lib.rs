//! What ANYONE can check: identity signatures, proofs, verification tokens and answers of an HSM, with
//! the manager's wire types and, behind features, a small blocking HTTP client (`client`) and the engine that checks
//! proofs of many callers together (`engine`).
//!
//! Checking takes its time as an argument and touches no file, clock or socket; the engine measures how long it takes.

pub mod bundle;
pub mod channel;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "engine")]
pub mod engine;
pub mod envelope;
pub mod evidence;
pub mod identity;
pub mod log;
pub mod operation;
pub mod token;
pub mod transfer;
pub mod wire;
