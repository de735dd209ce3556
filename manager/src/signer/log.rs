//! What a signer remembers of the log: what it signed last, durably and outside the ledger.
//!
//! Whoever signs two trees of one size, or a tree that another one is not the beginning of, has forked the log. So nothing is
//! signed but what a consistency proof ties to the checkpoint before: a ledger that was restored from an old copy, or
//! rewritten, finds no signature here, and neither does a manager that lies.

use std::path::{Path, PathBuf};

use keywitness_circuits::Digest;
use keywitness_verifier::log::{Checkpoint, CheckpointPolicy, Note, VerifierKey, verify_consistency};

use super::{Keys, SignerError, at};
use crate::files;

/// Name of the file with the newest checkpoint that was signed.
pub const NEWEST: &str = "log-checkpoint";

/// What stands in that file between the making of a key and its first checkpoint. A key without the file is a copy, of which
/// nobody knows what it signed.
pub(super) const NOTHING_YET: &str = "nothing signed yet\n";

pub(super) struct SignedLog {
    directory: PathBuf,
    newest: Option<(Checkpoint, Note)>,
}

impl SignedLog {
    /// Reads what was signed last. `marked`: whether the key was made with its file, so that one without it is refused.
    pub(super) fn open(directory: &Path, key: &VerifierKey, marked: bool) -> Result<Self, SignerError> {
        let path = directory.join(NEWEST);
        let wrong = |why: String| SignerError::Failed(format!("{}: {why}; restore the file", path.display()));
        let newest = match files::read_if_there(&path).map_err(at(&path))? {
            None if marked => {
                return Err(SignerError::Failed(format!(
                    "{} is missing, and the log's key is there: what it signed last is not known, so that it could sign a \
                     fork. Copy the newest log-checkpoint from where the key came from; or begin a new log: move \
                     log-key.pem away, start again, and tell witnesses and relying parties the new key (/v1/log/key)",
                    path.display()
                )));
            }
            None => None,
            Some(text) if text == NOTHING_YET => None,
            Some(text) => {
                let note: Note = text.parse().map_err(|error: keywitness_circuits::Error| wrong(error.to_string()))?;
                let policy = CheckpointPolicy::log_alone(key.clone());
                let verified =
                    policy.and_then(|policy| policy.verify(&note)).map_err(|error| wrong(error.to_string()))?;
                Some((verified.checkpoint().clone(), note))
            }
        };
        Ok(Self { directory: directory.to_owned(), newest })
    }

    pub(super) fn newest(&self) -> Option<&Note> {
        self.newest.as_ref().map(|(_, note)| note)
    }

    pub(super) fn sign(
        &mut self,
        keys: &dyn Keys,
        key: &VerifierKey,
        checkpoint: &Checkpoint,
        consistency: &[Digest],
    ) -> Result<Note, SignerError> {
        if checkpoint.origin != key.name() {
            return Err(SignerError::Refused("the checkpoint's origin is another log's".to_owned()));
        }
        if let Some((before, note)) = &self.newest {
            if checkpoint == before {
                return Ok(note.clone());
            }
            let fork = || SignerError::Fork { before: before.size, found: checkpoint.size };
            // What differs at one size is a fork too, be it only in its state.
            if checkpoint.size <= before.size {
                return Err(fork());
            }
            let (old, new) = ((before.size, &before.root), (checkpoint.size, &checkpoint.root));
            verify_consistency(old, new, consistency).map_err(|_| fork())?;
        }
        let malformed = |error: keywitness_circuits::Error| SignerError::Refused(error.to_string());
        // Read back, so that what is signed says one thing alone.
        let text = checkpoint.to_string();
        if text.parse::<Checkpoint>().map_err(malformed)? != *checkpoint {
            return Err(SignerError::Refused("this is no checkpoint of a log".to_owned()));
        }
        let mut note = Note::new(text).map_err(malformed)?;
        note.add(key.signature(&keys.sign_log(note.text().as_bytes())?).map_err(malformed)?);
        // On disk before anyone has it.
        let kept = files::write_private(&self.directory, NEWEST, note.to_string().as_bytes());
        kept.map_err(at(&self.directory.join(NEWEST)))?;
        self.newest = Some((checkpoint.clone(), note.clone()));
        Ok(note)
    }
}
