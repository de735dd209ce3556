//! Processes that keep secrets, on Linux: what such a process gives up, how it is started and reached, and the memory that its
//! secrets are in. The manager's signer and the prover's proving process stand on it; it knows neither, and no cryptography.
//!
//! ```text
//! caller ──spawns──> supervisor ──spawns, again and again──> worker: secrets
//!    ^                                                          │
//!    └───────── lanes: connected sockets, passed over the control socket ┘
//! ```
//!
//! - [`memory`]: [`LockedBytes`], secrets that are neither swapped, dumped nor inherited.
//! - [`confine`]: what a process gives up: landlock(7), prctl(2), resource limits; [`calls`]: seccomp(2).
//! - [`process`]: a supervisor that reads nothing from anyone, and the workers that it starts.
//! - [`lanes`]: the caller's end, which outlives a worker that dies; [`frame`]: what goes over a lane.
//! - [`examine`]: a confined process tries what it must not be able to do, and tells.
//! - [`signals`]: by which an operator asks a daemon to read its settings again.
//!
//! Each protection that the running kernel refuses is a [`Gap`], which says what is missing and why. Whether to go on is the
//! caller's to decide.
//!
//! Unsafe code is in [`memory`], [`environment`], [`examine`], [`signals`] and the private module of descriptors.

pub mod calls;
pub mod confine;
mod descriptors;
pub mod environment;
pub mod examine;
pub mod frame;
pub mod lanes;
pub mod memory;
mod passing;
pub mod process;
pub mod signals;

pub use confine::{Enforced, Gap, Gaps};
pub use lanes::{Away, Lane, Lanes};
pub use memory::LockedBytes;
pub use passing::{MAX_LANES, receive_sockets, send_sockets};
