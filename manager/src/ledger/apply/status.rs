//! Entries of the status lists: which one speaks of a key in an HSM.

use keywitness_circuits::{Digest, KeyAttributes, Kind};
use keywitness_verifier::wire::RevocationTarget;

use super::Apply;
use crate::ledger::{
    command::Configuration,
    state::{Ground, HsmRow, KeyRow, State, StatusEntryRow, StatusHead, StatusIndexRow, VerifyingKeyRow, key},
    tables::Fault,
};

impl Apply<'_> {
    /// Remembers which verifying keys were in force: only such can be revoked.
    pub(super) fn remember_verifying_keys(&mut self, configuration: &Configuration) -> Result<(), Fault> {
        for statement in &configuration.statements {
            let place = statement.verifying_key.0;
            if self.state().get::<VerifyingKeyRow>(&place)?.is_none() {
                let (statement, since) = (statement.kind.name().to_owned(), self.moment.at);
                self.put(&place, &VerifyingKeyRow { statement, since })?;
            }
        }
        Ok(())
    }

    /// Sees to it that a status entry speaks of a key: of this enrolment of the HSM, and of the verifying keys in force.
    ///
    /// A key never returns to an entry: one that was revoked stays so, and a token that names it with it.
    pub(super) fn keep_status_entry(
        &mut self,
        configuration: &Configuration,
        hsm: &HsmRow,
        row: &KeyRow,
    ) -> Result<(), Fault> {
        let place = key::epoch(&hsm.hsm, &row.key);
        let verifying_keys = verifying_keys(self.state(), configuration, hsm, row)?;
        let known: Option<StatusIndexRow> = self.state().get(&place)?;
        if known.is_some_and(|known| known.verifying_keys == verifying_keys) {
            return Ok(());
        }
        self.give_status_entry(hsm, row, verifying_keys)
    }

    /// Gives every key of an HSM that was enrolled again a new entry.
    pub(super) fn renew_status_entries(&mut self, hsm: &HsmRow) -> Result<(), Fault> {
        let configuration = self.state().configuration()?;
        for row in self.state().all::<KeyRow>(&key::hsm(&hsm.hsm))? {
            let verifying_keys = verifying_keys(self.state(), &configuration, hsm, &row)?;
            self.give_status_entry(hsm, &row, verifying_keys)?;
        }
        Ok(())
    }

    /// Gives a key that has more instances than before a new entry, and every key that is derived from it: what they
    /// rest on is written in the entry.
    pub(super) fn renew_status_entries_of(&mut self, hsm: &HsmRow, changed: &KeyRow) -> Result<(), Fault> {
        let configuration = self.state().configuration()?;
        let rests = |row: &KeyRow| row.key == changed.key || row.master.as_ref() == Some(&changed.key);
        let rows = self.state().all::<KeyRow>(&key::hsm(&hsm.hsm))?;
        for row in rows.into_iter().filter(rests) {
            let verifying_keys = verifying_keys(self.state(), &configuration, hsm, &row)?;
            self.give_status_entry(hsm, &row, verifying_keys)?;
        }
        Ok(())
    }

    /// Something was revoked, suspended or reinstated: status lists made before are out of date.
    pub(super) fn outdate_status_lists(&mut self) -> Result<(), Fault> {
        let mut head = self.status_head()?;
        head.revision = head.revision.saturating_add(1);
        self.put(key::ONLY, &head)
    }

    fn give_status_entry(&mut self, hsm: &HsmRow, row: &KeyRow, verifying_keys: Vec<Digest>) -> Result<(), Fault> {
        let mut head = self.status_head()?;
        let index = head.entries;
        head.entries = head.entries.saturating_add(1);
        self.put(key::ONLY, &head)?;
        let mut grounds = self.state().grounds(hsm, row)?;
        let proofs = verifying_keys.iter().map(|digest| Ground::Target(RevocationTarget::VerifyingKey(*digest), 0));
        grounds.extend(proofs);
        let entry = StatusEntryRow { hsm: hsm.hsm.clone(), key: row.key.clone(), enrolment: hsm.revision, grounds };
        self.put(&key::number(index), &entry)?;
        self.put(&key::epoch(&hsm.hsm, &row.key), &StatusIndexRow { index, verifying_keys })
    }

    fn status_head(&self) -> Result<StatusHead, Fault> {
        Ok(self.state().get(key::ONLY)?.unwrap_or_default())
    }
}

/// The verifying keys in force under which a key, and the one it is derived from, can be proven; each once, in order.
fn verifying_keys(
    state: State<'_>,
    configuration: &Configuration,
    hsm: &HsmRow,
    row: &KeyRow,
) -> Result<Vec<Digest>, Fault> {
    let of = |attributes: &KeyAttributes| -> Vec<Digest> {
        let kinds = attributes.kinds(&configuration.suites);
        let proving = Kind::ALL.into_iter().filter(|kind| kinds.contains(&kind.single()));
        proving.filter_map(|kind| configuration.verifying_key(kind)).collect()
    };
    let mut keys = of(&row.attributes);
    if let Some(master) = &row.master {
        let master: KeyRow = state.need(&key::epoch(&hsm.hsm, master))?;
        keys.extend(of(&master.attributes));
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}
