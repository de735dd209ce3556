//! Schema 5, and how its rows become those of schema 6.

use crate::ledger::{Fault, Tables};

/// From schema 5 to 6.
pub(super) fn migrate(_tables: &mut dyn Tables) -> Result<(), Fault> {
    Ok(())
}
