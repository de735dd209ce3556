//! What runs at an HSM and is not listed, by its own device's word.

use keywitness_circuits::{Digest, HsmId};
use keywitness_verifier::wire::{EventKind, Rule};

use super::{Finding, about, raise, this};
use crate::ledger::{apply::Apply, tables::Fault};

/// Who decides what a rule decides.
pub(in crate::ledger) fn author(rule: Rule) -> String {
    format!("fraud rule {rule}")
}

/// Genuine evidence of an HSM told of something that is not listed. Its device must be enrolled again after that, so that this is told
/// once for each time that an operator believed it repaired.
pub(in crate::ledger) fn measured(
    apply: &mut Apply<'_>,
    hsm: &HsmId,
    evidence: Digest,
    event: EventKind,
) -> Result<(), Fault> {
    let evidence = vec![this(apply, Some(evidence))];
    raise(apply, Finding { subject: about(hsm), evidence, event })
}
