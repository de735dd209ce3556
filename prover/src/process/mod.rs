//! A key store in a process of its own: the proving process.
//!
//! ```text
//! agent: network ──spawns──> supervisor ──spawns, again and again──> proving process: keys, proofs
//!    ^                                                                      │
//!    └──────────────── lanes: connected sockets, passed over the control socket ┘
//! ```
//!
//! [`KeyStore`](crate::KeyStore) is the boundary. [`Remote`] is a key store that asks another process for all that needs a
//! secret; that process opens the store's file and makes the proofs. Whoever takes over the agent, which speaks to the network, can have keys used while the
//! agent runs, as the agent can, and cannot take one away. What runs in a trusted execution environment, or in an HSM's own processor, would answer
//! the same requests over another transport.
//!
//! The supervisor is there because the agent gives up its access to the store's file as soon as it has started one. It holds what
//! opens the store, where that was typed or came in the environment, and reads nothing from anyone after that.

#[cfg(test)]
mod attacks;
mod error;
mod examine;
mod protocol;
mod remote;
mod rules;
mod serve;
mod spec;
mod supervisor;
mod worker;

#[cfg(test)]
mod tests;

pub use examine::Examination;
pub use remote::Remote;
pub use rules::{Holder, Sharing};
pub use spec::{ParameterFile, Planted, Secrets, Spec, Strictness, TokenSpec};
pub use supervisor::supervise;
pub use worker::work;
