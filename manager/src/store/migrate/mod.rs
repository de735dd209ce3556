//! From what older programs wrote to what this one writes, one schema at a time, in one transaction.

mod v5;

use super::SCHEMA;
use crate::ledger::{Fault, Tables};

/// Rewrites the rows of one schema as those of the next.
type Step = fn(&mut dyn Tables) -> Result<(), Fault>;

/// The steps, each with the schema that it begins with.
const STEPS: &[(u64, Step)] = &[(5, v5::migrate), (6, unchanged)];

/// Schema 7 has more tables, and commands that an older program cannot read. What is there stays as it is.
const fn unchanged(_: &mut dyn Tables) -> Result<(), Fault> {
    Ok(())
}

/// Whether data of a schema is old, and can be made new.
pub(super) fn can_migrate(found: u64) -> bool {
    STEPS.iter().any(|(from, _)| *from == found)
}

/// Brings the tables from schema `found` to [`SCHEMA`].
///
/// # Errors
/// [`Fault::NewerSchema`]; [`Fault::Storage`] for a schema from before the first step; [`Fault`]. The caller undoes
/// everything.
pub(super) fn migrate(found: u64, tables: &mut dyn Tables) -> Result<(), Fault> {
    if found > SCHEMA {
        return Err(Fault::NewerSchema { found, supported: SCHEMA });
    }
    let mut reached = found;
    while reached < SCHEMA {
        let Some((_, step)) = STEPS.iter().find(|(from, _)| *from == reached) else {
            let why = "use another data directory, or the keywitness that wrote it";
            return Err(Fault::Storage(format!("the data has the old schema version {found}; {why}")));
        };
        step(tables)?;
        reached += 1;
    }
    Ok(())
}
