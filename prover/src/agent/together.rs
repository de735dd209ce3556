//! Attesting several keys in one claim: when that pays, and what becomes of each key.

use std::sync::Arc;

use keywitness_circuits::{Error, Kind, context::MAX_KEYS};
use keywitness_verifier::wire::{KeyRef, ProblemKind, Record, TrustDomainInfo};

use super::{
    Agent, AttestError,
    attest::{KnownKey, Session, Subject, agreed_verifying_key},
    error::printable,
    event::AgentEvent,
    journal::Entry,
    lock,
};
use crate::store::KeyEntry;

/// From so many keys of one kind on, one proof of them all is made. It costs as much as that of 64 keys, whatever their
/// number: in halo2 about ten proofs of one key, and two more are allowed for, since a claim of many that is refused
/// has each key claimed again; in Groth16 about 56.
pub const fn many_from(kind: Kind) -> usize {
    match kind {
        Kind::KeyKnowledgeGroth16 => 56,
        _ => 12,
    }
}

/// What became of one key of a claim.
#[derive(Debug)]
pub(super) enum Fate {
    /// The manager made a record.
    Attested(Record),
    /// It made none.
    Failed(Arc<AttestError>),
    /// The claim of many keys came to nothing, and the reason may lie in any of them: each is to be claimed alone.
    Alone(Arc<AttestError>),
}

impl Fate {
    pub(super) fn result(&self) -> Result<&Record, &AttestError> {
        match self {
            Self::Attested(record) => Ok(record),
            Self::Failed(error) | Self::Alone(error) => Err(error),
        }
    }
}

/// Cuts keys of one kind into claims: as few as may be, of [`many_from`] to 64 keys, and the rest one by one.
pub(super) fn claims(keys: &[KeyEntry], kind: Kind, many: bool) -> Vec<&[KeyEntry]> {
    let chunks = keys.chunks(MAX_KEYS);
    chunks.flat_map(|chunk| chunk.chunks(if many && chunk.len() >= many_from(kind) { MAX_KEYS } else { 1 })).collect()
}

impl Agent {
    /// The kind that proves many keys as `kind` proves one, where the manager checks it under the verifying key that
    /// this agent proves it under.
    pub(super) fn many(&self, info: &TrustDomainInfo, kind: Kind) -> Option<Kind> {
        let many = kind.many()?;
        // The verifying key takes a while to compute the first time.
        let offered = info.statements.iter().any(|statement| statement.kind == many);
        (offered && agreed_verifying_key(&self.parameters, info, many).is_ok()).then_some(many)
    }

    /// One claim of all `entries` under `kind`, of one key, or under that of many; each key is enrolled first where the
    /// manager was not told of it yet. A key that cannot be enrolled or proven is left out.
    pub(super) fn attest_together(
        &self,
        session: &Session<'_>,
        entries: &[KeyEntry],
        kind: Kind,
    ) -> Vec<(KeyRef, Fate)> {
        for entry in entries {
            (self.observer)(&AgentEvent::Attesting { key: &entry.key, kind });
        }
        let mut fates = Vec::with_capacity(entries.len());
        let keys = self.introduce_all(session, entries, &mut fates);
        claim(session, keys, kind, &mut fates);
        self.conclude(session, kind, &fates);
        fates
    }

    /// Takes what the answers tell, and writes the journal.
    pub(super) fn conclude(&self, session: &Session<'_>, kind: Kind, fates: &[(KeyRef, Fate)]) {
        for (key, fate) in fates {
            self.learn_fate(session, key, fate);
        }
        let written = fates.iter().map(|(key, fate)| {
            let entry = self.journal_entry(session.enrolment, key, kind, fate.result());
            match fate {
                // The manager's word is about some key of the claim, and perhaps not about this one.
                Fate::Alone(_) => Entry { problem: None, ..entry },
                Fate::Attested(_) | Fate::Failed(_) => entry,
            }
        });
        self.write_journal(&written.collect::<Vec<_>>());
    }

    /// Tells the manager of every key that it was not told of yet. One that it refuses is `fates`'; once the manager
    /// does not answer, all that are left are.
    pub(super) fn introduce_all(
        &self,
        session: &Session<'_>,
        entries: &[KeyEntry],
        fates: &mut Vec<(KeyRef, Fate)>,
    ) -> Vec<KnownKey> {
        let mut keys = Vec::with_capacity(entries.len());
        let mut away: Option<Arc<AttestError>> = None;
        for entry in entries {
            if let Some(error) = &away {
                fates.push((entry.key.clone(), Fate::Failed(Arc::clone(error))));
                continue;
            }
            match self.introduce(session, entry) {
                Ok(known) => keys.push(known),
                Err(error) => {
                    let error = Arc::new(error);
                    away = error.concerns_every_key().then(|| Arc::clone(&error));
                    fates.push((entry.key.clone(), Fate::Failed(error)));
                }
            }
        }
        keys
    }

    /// A refusal of many keys says of none of them that it is revoked.
    fn learn_fate(&self, session: &Session<'_>, key: &KeyRef, fate: &Fate) {
        let known = (key.clone(), session.info.suites.clone());
        match fate {
            Fate::Alone(error) => {
                if error.problem() == Some(ProblemKind::UnknownKey) {
                    lock(&self.known_keys).remove(&known);
                }
                *lock(&self.info) = None;
            }
            Fate::Attested(_) | Fate::Failed(_) => self.learn(&known, fate.result()),
        }
    }
}

/// Claims these keys, and without those that cannot be proven. Says what becomes of each.
pub(super) fn claim(session: &Session<'_>, mut keys: Vec<KnownKey>, kind: Kind, fates: &mut Vec<(KeyRef, Fate)>) {
    while !keys.is_empty() {
        let claimed = if keys.len() == 1 { kind } else { kind.many().unwrap_or(kind) };
        let error = match session.attest(&Subject { keys: &keys, kind: claimed }) {
            Ok(records) => {
                fates.extend(records.into_iter().map(|record| (record.key.clone(), Fate::Attested(record))));
                return;
            }
            Err(error) => error,
        };
        let whole = keys.len();
        if error.culprits().iter().any(|culprit| *culprit < whole) {
            for (place, known) in std::mem::take(&mut keys).into_iter().enumerate() {
                if error.culprits().contains(&place) {
                    fates.push((known.entry.key, Fate::Failed(Arc::new(not_the_enrolled_one()))));
                } else {
                    keys.push(known);
                }
            }
            continue;
        }
        let alone = whole > 1 && !error.concerns_every_key();
        if alone {
            let error = printable(&error);
            tracing::warn!(keys = whole, %kind, error, "a claim of many keys came to nothing; each is claimed alone");
        }
        let error = Arc::new(error);
        let fate = |error| if alone { Fate::Alone(error) } else { Fate::Failed(error) };
        fates.extend(keys.drain(..).map(|known| (known.entry.key, fate(Arc::clone(&error)))));
    }
}

/// Why a key was left out of a proof of many.
fn not_the_enrolled_one() -> AttestError {
    AttestError::Store(Error::WitnessRefused("the key that the store holds is not the one that was enrolled").into())
}
