//! Copies of keys, from one HSM of a cluster to another.
//!
//! No key passes through the manager. It says that both HSMs are of one cluster and in force, and that the giver attests what
//! it gives; and its log says that a copy was allowed, by whose request and to whom.

use keywitness_circuits::HsmId;
use keywitness_verifier::wire::{EventKind, KeyRef, ProblemKind};

use super::{Apply, refuse, revocation};
use crate::ledger::{
    command::Outcome,
    state::{HsmRow, KeyRow, RecordRow, key},
    tables::Fault,
};

impl Apply<'_> {
    pub(super) fn copy_keys(&mut self, from: &HsmRow, to: &HsmId, keys: &[KeyRef]) -> Result<Outcome, Fault> {
        let state = self.state();
        let other = state.hsm(to)?.filter(|other| other.cluster == from.cluster && other.hsm != from.hsm);
        let Some(receiver) = other else {
            let why = format!("HSM {to} is not another HSM of cluster {}", from.cluster);
            return Ok(refuse(ProblemKind::Forbidden, why));
        };
        if let Some(revocation) = state.revocation(&receiver, [])? {
            return Ok(Outcome::Refused(revocation::problem(&revocation)));
        }
        for key in keys {
            let Some(row) = state.get::<KeyRow>(&key::epoch(&from.hsm, key))? else {
                return Ok(refuse(ProblemKind::UnknownKey, format!("HSM {} has not enrolled key {key}", from.hsm)));
            };
            if row.sharing.is_some() {
                return Ok(refuse(ProblemKind::Forbidden, format!("{key} is a share, which stays with its holder")));
            }
            if let Some(revocation) = state.key_revocation(from, &row)? {
                return Ok(Outcome::Refused(revocation::problem(&revocation)));
            }
            let records: Vec<RecordRow> = state.all(&key::epoch(&from.hsm, key))?;
            let in_force =
                |row: &RecordRow| row.record.enrolment == from.revision && row.record.expires_at > self.moment.at;
            if !records.iter().any(in_force) {
                let why = format!("HSM {} has no record of key {key} in force", from.hsm);
                return Ok(refuse(ProblemKind::NotAttested, why));
            }
        }
        self.events.push(EventKind::KeysCopied {
            from: from.hsm.clone(),
            to: receiver.hsm,
            cluster: receiver.cluster,
            keys: keys.to_vec(),
        });
        Ok(Outcome::Done)
    }
}
