//! Audits: what managers decided, decided again from the log alone.
//!
//! A [`Replayer`] applies a log's commands to a state of its own, a [`Checker`] looks again at every identity signature and
//! every proof, and [`Audit`] runs both side by side up to the first [`Divergence`]. Nothing here trusts the manager's word: not the
//! outcome of a command, not its verdict on a proof, not its state.

mod anchors;
pub mod archive;
mod base;
pub mod bundle;
mod divergence;
mod progress;
mod proofs;
mod replay;
mod run;
pub(crate) mod scratch;
mod tally;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

pub use anchors::{Anchors, thumbprint};
pub use archive::{Archive, ArchiveError};
pub use base::FromSeal;
pub use divergence::{Divergence, Offence};
pub use progress::newest;
pub use proofs::Checker;
pub use replay::{Accepted, Replayer};
pub use run::{Audit, AuditError};
pub use tally::{ProofTally, Tally};
pub use verify::{Commitment, Report, SAVE_EVERY, Verification, VerifyError};
