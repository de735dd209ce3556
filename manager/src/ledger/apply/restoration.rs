//! Going on from a backup.

use std::ops::ControlFlow;

use super::Apply;
use crate::ledger::{
    command::Outcome,
    state::{
        ChallengeRow, JoinTokenRow, RestorationRow, Row, decode,
        evidence::{DeviceRow, EvidenceChallengeRow},
        key,
    },
    tables::Fault,
};

impl Apply<'_> {
    /// Voids what can be used once: what happened after the backup is forgotten, so nobody knows whether it was used.
    pub(super) fn restored(&mut self) -> Result<Outcome, Fault> {
        let at = self.moment.at;
        for (key, challenge) in self.open(|row: &ChallengeRow| row.consumed.is_none() && row.expires_at > at)? {
            self.put(&key, &ChallengeRow { expires_at: at, ..challenge })?;
        }
        for (key, token) in self.open(|row: &JoinTokenRow| row.used_by.is_none() && row.expires_at > at)? {
            self.put(&key, &JoinTokenRow { expires_at: at, ..token })?;
        }
        for (key, challenge) in self.open(|row: &EvidenceChallengeRow| !row.consumed && row.expires_at > at)? {
            self.put(&key, &EvidenceChallengeRow { expires_at: at, ..challenge })?;
        }
        for (key, device) in self.open(|row: &DeviceRow| row.leave.is_some() || row.offer.is_some())? {
            self.put(&key, &DeviceRow { leave: None, offer: None, ..device })?;
        }
        let before: Option<RestorationRow> = self.state().get(key::ONLY)?;
        let number = before.map_or(0, |row| row.number) + 1;
        self.put(key::ONLY, &RestorationRow { number, sequence: self.moment.sequence - 1, at })?;
        Ok(Outcome::Done)
    }

    /// The rows that are still good for something.
    fn open<R: Row>(&self, still: impl Fn(&R) -> bool) -> Result<Vec<(Vec<u8>, R)>, Fault> {
        let mut open = Vec::new();
        self.tables.visit(R::TABLE, &[], &[], &mut |key, value| {
            let row = decode(R::TABLE, value)?;
            if still(&row) {
                open.push((key.to_vec(), row));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(open)
    }
}
