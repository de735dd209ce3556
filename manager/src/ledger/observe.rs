//! Who is told how the ledger goes: for measurements, never for decisions.

use std::time::Duration;

/// Is told what a ledger does.
pub trait Observe: Send + Sync {
    /// So many commands came into the queue; fewer than none left it.
    fn queued(&self, change: i64);
    /// A group was committed: each command's name, and whether it was carried out rather than refused.
    fn committed(&self, group: &[(&'static str, bool)], took: Duration);
    /// A group was not acknowledged.
    fn failed(&self, commands: usize);
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observe for Unobserved {
    fn queued(&self, _: i64) {}
    fn committed(&self, _: &[(&'static str, bool)], _: Duration) {}
    fn failed(&self, _: usize) {}
}
