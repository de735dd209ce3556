//! How far each webhook's receiver was told.

use serde::{Deserialize, Serialize};

/// How far one webhook's receiver was told. One that the configuration names no more keeps its row, and goes on where it
/// left off when it is named again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WebhookRow {
    /// Every event up to this number was delivered, or is not for it.
    pub through: u64,
    /// How often it was placed: what was sent before the latest time advances it no more.
    pub placed: u32,
}
