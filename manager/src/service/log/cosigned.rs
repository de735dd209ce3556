//! Checkpoints with cosignatures: the newest few, in a file beside the ledger.
//!
//! They are no part of the state: each is checked under the log's and the witnesses' keys when it is taken in, and one
//! that is lost is made again when its witness comes again.

use std::{io, path::Path};

use keywitness_verifier::log::{CheckpointPolicy, NotTrusted, Note};

use crate::{error::StartError, files};

/// Name of the file in a data directory: notes, as a JSON array of texts.
const FILE: &str = "log-cosigned.json";

/// How many checkpoints are kept: witnesses that come one after the other cosign each other's newest.
const KEPT: usize = 16;

/// A checkpoint that was checked when it was taken in.
#[derive(Debug)]
struct Kept {
    size: u64,
    /// By how many known witnesses it is cosigned.
    witnesses: usize,
    note: Note,
}

/// Newest first.
#[derive(Debug, Default)]
pub(super) struct Cosigned(Vec<Kept>);

impl Cosigned {
    pub(super) fn open(directory: &Path, policy: &CheckpointPolicy) -> Result<Self, StartError> {
        let path = directory.join(FILE);
        let text = files::read_if_there(&path).map_err(|error| StartError::File { path, error })?;
        let mut read = Self::default();
        let notes: Vec<String> = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        for note in notes.iter().filter_map(|note| note.parse().ok()) {
            // Of a witness that was dropped, for instance.
            if let Err(error) = read.take_in(policy, &note) {
                tracing::warn!(%error, "a kept checkpoint counts no more");
            }
        }
        Ok(read)
    }

    /// Takes in a note with at least one cosignature of a known witness; signatures of strangers are left out.
    pub(super) fn take_in(&mut self, policy: &CheckpointPolicy, note: &Note) -> Result<(), NotTrusted> {
        let verified = policy.verify(note)?;
        if verified.cosigned().is_empty() {
            return Err(NotTrusted::TooFewWitnesses { found: 0, needed: 1 });
        }
        let size = verified.checkpoint().size;
        let place = self.0.iter().position(|kept| kept.note.text() == note.text());
        let place = match place {
            Some(place) => place,
            None => {
                let place = self.0.iter().position(|kept| kept.size < size).unwrap_or(self.0.len());
                self.0.insert(place, Kept { size, witnesses: 0, note: Note::new(note.text())? });
                place
            }
        };
        if let Some(Kept { note: kept, witnesses, .. }) = self.0.get_mut(place) {
            let known = policy.witnesses().iter().chain([policy.log()]);
            for key in known {
                // The newest of each witness stays.
                let older = kept.signed_by(key)?.flatten() >= note.signed_by(key)?.flatten();
                let signature = note.signatures().iter().find(|signature| signature.is_by(key));
                if let Some(signature) = signature
                    && !(older && kept.signatures().iter().any(|signature| signature.is_by(key)))
                {
                    kept.add(signature.clone());
                }
            }
            *witnesses = count(policy, kept);
        }
        self.make_room();
        Ok(())
    }

    /// Drops the oldest, but for the one with the most cosignatures.
    fn make_room(&mut self) {
        while self.0.len() > KEPT {
            let counts: Vec<_> = self.0.iter().map(|kept| kept.witnesses).collect();
            let most = counts.iter().copied().max().unwrap_or(0);
            let best = counts.iter().position(|count| *count == most).unwrap_or(0);
            let oldest = self.0.len() - 1;
            self.0.remove(if best == oldest { oldest - 1 } else { oldest });
        }
    }

    pub(super) fn newest(&self, witnesses: usize) -> Option<Note> {
        let enough = |kept: &&Kept| kept.witnesses >= witnesses.max(1);
        self.0.iter().find(enough).map(|kept| kept.note.clone())
    }

    pub(super) fn save(&self, directory: &Path) -> io::Result<()> {
        let notes: Vec<_> = self.0.iter().map(|kept| kept.note.to_string()).collect();
        files::write_private(directory, FILE, &serde_json::to_vec(&notes)?)
    }
}

fn count(policy: &CheckpointPolicy, note: &Note) -> usize {
    policy.verify(note).map_or(0, |verified| verified.cosigned().len())
}
