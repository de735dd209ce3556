//! The order of all changes, and what they come to.
//!
//! Every change of the manager's state is a [`Command`], applied by one deterministic function
//! ([`apply::apply`]). A [`Ledger`] decides in which order commands are applied, and answers only when the
//! change would survive a loss of power. Nothing above this room knows which engine runs.

pub mod apply;
mod command;
pub mod embedded;
pub mod fraud;
pub mod log;
pub mod merkle;
mod observe;
pub mod seal;
pub mod state;
pub mod tables;
#[cfg(test)]
mod tests;

pub use command::{ChallengesGiven, Command, Configuration, EvidenceRefusal, EvidenceVerdict, Outcome, Verdict};
pub use embedded::Embedded;
pub use observe::{Observe, Unobserved};
pub use tables::{Fault, Memory, Rows, Store, Table, Tables};

/// Orders commands and applies them.
pub trait Ledger: Send + Sync {
    /// Applies a command, after every command that was answered before; returns when the outcome is durable.
    ///
    /// A refusal is an [`Outcome`] too. A [`Fault`] says nothing about whether the command was applied:
    /// every command can be submitted again.
    ///
    /// # Errors
    /// [`Fault`] where the ledger failed, or has too much to do.
    fn submit(&self, command: Command) -> Result<Outcome, Fault>;

    /// Applies commands in this order, others perhaps between them; returns when all their outcomes are durable,
    /// with one answer for each.
    fn submit_all(&self, commands: Vec<Command>) -> Vec<Result<Outcome, Fault>>;

    /// The state after the newest durable command; does not change while it is held.
    ///
    /// # Errors
    /// [`Fault`] where the store cannot be read.
    fn view(&self) -> Result<Box<dyn Rows>, Fault>;

    /// Whether commands can be applied at all. Not while the store is broken; again when it has recovered.
    fn alive(&self) -> bool;
}
