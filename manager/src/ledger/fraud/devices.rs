//! One device with which two HSMs are enrolled.

use keywitness_circuits::HsmId;
use keywitness_verifier::wire::{EventKind, Rule, Standing};

use super::{Finding, about, raise, settings, this};
use crate::ledger::{apply::Apply, state::HsmRow, tables::Fault};

/// An HSM enrolled a device: another one's that is not revoked?
pub(in crate::ledger) fn enrolled(apply: &mut Apply<'_>, hsm: &HsmId, device: &str) -> Result<(), Fault> {
    let state = apply.state();
    if settings(state, Rule::SharedDevice)?.is_none() {
        return Ok(());
    }
    let mut found = None;
    for other in state.all::<HsmRow>(&[])?.into_iter().filter(|other| other.hsm != *hsm) {
        let row = state.device(&other.hsm)?;
        if row.device.is_none_or(|enrolled| enrolled.device != device) {
            continue;
        }
        let gone = state.revocation(&other, [])?.is_some_and(|revocation| revocation.standing == Standing::Revoked);
        if !gone {
            found = Some(other.hsm);
            break;
        }
    }
    let Some(earlier) = found else { return Ok(()) };
    let event = EventKind::SharedDevice { hsm: hsm.clone(), earlier, device: device.to_owned() };
    raise(apply, Finding { subject: about(hsm), evidence: vec![this(apply, None)], event })
}
