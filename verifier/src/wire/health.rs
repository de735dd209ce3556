//! Whether a manager can serve.

use serde::{Deserialize, Serialize};

/// Whether a manager can serve, and what was looked at. With status 503 where it cannot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether every check is passed.
    pub ready: bool,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One thing without which a manager cannot serve.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Check {
    /// What: `running`, `ledger`, `verification`, `signer` or `clock`.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// What is wrong and what to do. Where it is well, empty, or what to look into all the same.
    pub detail: String,
}
