//! A signer in a process of its own.
//!
//! ```text
//! manager ──spawns──> supervisor ──spawns, again and again──> worker: keys, guard
//!    ^                                                           │
//!    └────────── lanes: connected sockets, passed over the control socket ┘
//! ```
//!
//! The supervisor is there because the manager gives up its access to the key directory as soon as it has started one
//! ([`confine::keep_out`]): what it would start later could not read the keys. It reads nothing from anyone, and starts a worker
//! whenever there is none. A worker makes the lanes, sends their other ends to the manager, and answers on them until one
//! is closed; then it ends, and another begins. Nothing is on disk or in the file system by which another process could call it.
//!
//! A signer that another user runs is reached by a socket in the file system instead ([`serve_at`]); it looks at who calls.

mod examine;
mod listen;
mod protocol;
mod remote;
mod serve;
mod supervisor;
mod worker;

#[cfg(test)]
mod tests;

pub use examine::{Examination, examine};
pub use keywitness_isolation::confine;
pub use listen::serve_at;
pub use remote::Remote;
pub use supervisor::supervise;
pub use worker::work;
