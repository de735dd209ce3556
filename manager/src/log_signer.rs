//! The key that signs checkpoints of the log: Ed25519, made at the first start, kept in the data directory.
//!
//! Whoever signs two trees of one size, or a tree that another one is not the beginning of, has forked the log. So the signer
//! remembers, durably and outside the ledger, what it signed last, and wants to be shown that the next tree begins with
//! it: a ledger that was restored from an old copy, or rewritten, finds no signature here.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use keywitness_circuits::{Digest, Timestamp};
use keywitness_verifier::log::{
    Algorithm, Checkpoint, CheckpointPolicy, Note, NoteKey, VerifierKey, verify_consistency,
};
use p256::pkcs8::{
    AlgorithmIdentifierRef, LineEnding, ObjectIdentifier, PrivateKeyInfo, SecretDocument, der::pem::PemLabel,
};
use rand::RngCore;

use crate::{error::StartError, files};

/// Name of the key's file in a data directory: PKCS#8 (RFC 8410), PEM, mode 0600.
pub const FILE: &str = "log-key.pem";

/// Name of the file with the newest checkpoint that was signed.
pub const NEWEST: &str = "log-checkpoint";

/// id-Ed25519 (RFC 8410, section 3).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// What a CurvePrivateKey of 32 bytes begins with (RFC 8410, section 7): an octet string of that length.
const OCTETS: [u8; 2] = [0x04, 32];

/// Why a checkpoint was not signed.
#[derive(Debug, thiserror::Error)]
pub enum LogSignerError {
    /// It does not follow on the one that was signed last.
    #[error(
        "the log of {found} entries does not begin with the one of {before} entries that was signed last: its data was \
         restored from an old copy, or rewritten. Restore the newest data; to sign this log all the same means to fork it"
    )]
    Fork {
        /// Size of the last one.
        before: u64,
        /// Size of this one.
        found: u64,
    },
    /// What was signed cannot be kept, and so is not told.
    #[error("the checkpoint cannot be kept: {0}")]
    Io(#[from] std::io::Error),
    /// The checkpoint itself is wrong.
    #[error("this is no checkpoint of the log: {0}")]
    Malformed(String),
}

/// Signs checkpoints of one log, each of which begins with the one before.
pub trait LogSigner: Send + Sync {
    /// The public key.
    fn key(&self) -> VerifierKey;

    /// What was signed last.
    fn newest(&self) -> Option<(Checkpoint, Note)>;

    /// Signs a checkpoint, with a proof that it begins with [`Self::newest`].
    ///
    /// # Errors
    /// [`LogSignerError`]
    fn sign(&self, checkpoint: &Checkpoint, consistency: &[Digest]) -> Result<Note, LogSignerError>;
}

/// Reads the Ed25519 key under a name from a file, or makes one.
///
/// # Errors
/// [`StartError`] where the file cannot be read or written, or holds no such key.
pub fn open_key(directory: &Path, file: &str, name: &str, algorithm: Algorithm) -> Result<NoteKey, StartError> {
    let path = directory.join(file);
    let io = |error| StartError::File { path: path.clone(), error };
    let wrong = |why: String| StartError::LogKey { path: path.clone(), why };
    let pem = match files::read_if_there(&path).map_err(io)? {
        Some(pem) => pem,
        None => {
            let mut octets = [0; 34];
            let (head, seed) = octets.split_at_mut(OCTETS.len());
            head.copy_from_slice(&OCTETS);
            rand::rngs::OsRng.fill_bytes(seed);
            let algorithm = AlgorithmIdentifierRef { oid: ED25519, parameters: None };
            let info = PrivateKeyInfo { algorithm, private_key: &octets, public_key: None };
            let document = SecretDocument::try_from(info).map_err(|error| wrong(error.to_string()))?;
            let pem = document.to_pem(PrivateKeyInfo::PEM_LABEL, LineEnding::LF);
            let pem = pem.map_err(|error| wrong(error.to_string()))?;
            files::write_private(directory, file, pem.as_bytes()).map_err(io)?;
            tracing::info!(path = %path.display(), "made a key that signs for the log");
            pem.to_string()
        }
    };
    let (_, document) = SecretDocument::from_pem(&pem).map_err(|error| wrong(error.to_string()))?;
    let info: PrivateKeyInfo<'_> = document.decode_msg().map_err(|error| wrong(error.to_string()))?;
    let seed = info.private_key.strip_prefix(&OCTETS).and_then(|seed| seed.try_into().ok());
    match seed {
        Some(seed) if info.algorithm.oid == ED25519 => {
            NoteKey::new(name, algorithm, seed).map_err(|error| wrong(error.to_string()))
        }
        _ => Err(wrong("it is no Ed25519 key in PKCS#8".to_owned())),
    }
}

/// A signer whose key is in this process, and in a file.
pub struct FileLogSigner {
    key: NoteKey,
    directory: PathBuf,
    newest: Mutex<Option<(Checkpoint, Note)>>,
}

impl FileLogSigner {
    /// Opens the signer of a data directory, for the log of this origin.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn open(directory: &Path, origin: &str) -> Result<Self, StartError> {
        let key = open_key(directory, FILE, origin, Algorithm::Ed25519)?;
        let path = directory.join(NEWEST);
        let wrong = |why: String| StartError::LogKey { path: path.clone(), why };
        let newest = match files::read_if_there(&path)
            .map_err(|error| StartError::File { path: path.clone(), error })?
        {
            None => None,
            Some(text) => {
                let note: Note = text.parse().map_err(|error: keywitness_circuits::Error| wrong(error.to_string()))?;
                let policy = CheckpointPolicy::log_alone(key.verifier().clone());
                let verified =
                    policy.and_then(|policy| policy.verify(&note)).map_err(|error| wrong(error.to_string()))?;
                Some((verified.checkpoint().clone(), note))
            }
        };
        Ok(Self { key, directory: directory.to_owned(), newest: Mutex::new(newest) })
    }
}

impl LogSigner for FileLogSigner {
    fn key(&self) -> VerifierKey {
        self.key.verifier().clone()
    }

    fn newest(&self) -> Option<(Checkpoint, Note)> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn sign(&self, checkpoint: &Checkpoint, consistency: &[Digest]) -> Result<Note, LogSignerError> {
        let malformed = |why: &dyn fmt::Display| LogSignerError::Malformed(why.to_string());
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if checkpoint.origin != self.key.verifier().name() {
            return Err(malformed(&"its origin is another log's"));
        }
        if let Some((before, note)) = newest.as_ref() {
            if checkpoint == before {
                return Ok(note.clone());
            }
            let fork = || LogSignerError::Fork { before: before.size, found: checkpoint.size };
            // What differs at one size is a fork too, be it only in its state.
            if checkpoint.size <= before.size {
                return Err(fork());
            }
            let (old, new) = ((before.size, &before.root), (checkpoint.size, &checkpoint.root));
            verify_consistency(old, new, consistency).map_err(|_| fork())?;
        }
        let mut note = Note::new(checkpoint.to_string()).map_err(|error| malformed(&error))?;
        note.add(self.key.sign(note.text(), Timestamp(0)));
        files::write_private(&self.directory, NEWEST, note.to_string().as_bytes())?;
        *newest = Some((checkpoint.clone(), note.clone()));
        Ok(note)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use keywitness_verifier::log::{CompactRange, consistency_proof, leaf_hash};

    use super::*;

    const ORIGIN: &str = "acme.example/m1";

    struct Log(Vec<Digest>);

    impl Log {
        fn of(entries: &[u8]) -> Self {
            Self(entries.iter().map(|entry| leaf_hash(&[*entry])).collect())
        }

        fn checkpoint(&self) -> Checkpoint {
            let mut range = CompactRange::default();
            self.0.iter().for_each(|leaf| range.append(*leaf, |_, _| {}));
            Checkpoint { origin: ORIGIN.to_owned(), size: range.size(), root: range.root(), state: None }
        }

        fn consistency(&self, old: u64) -> Vec<Digest> {
            let mut nodes = std::collections::HashMap::new();
            let mut range = CompactRange::default();
            for leaf in &self.0 {
                range.append(*leaf, |node, hash| {
                    nodes.insert(node, *hash);
                });
            }
            consistency_proof(old, range.size(), |node| nodes.get(&node).copied().ok_or(())).unwrap().unwrap()
        }
    }

    #[test]
    fn the_key_is_made_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let signer = FileLogSigner::open(directory.path(), ORIGIN).unwrap();
        let path = directory.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(FileLogSigner::open(directory.path(), ORIGIN).unwrap().key(), signer.key());
        std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        let error = FileLogSigner::open(directory.path(), ORIGIN).err().unwrap().to_string();
        assert!(error.contains(FILE), "{error}");
    }

    /// The key of RFC 8410, section 10.3, as `openssl` writes it.
    #[test]
    fn a_key_of_the_standard_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";
        std::fs::write(directory.path().join("key"), pem).unwrap();
        let key = open_key(directory.path(), "key", "w", Algorithm::CosignatureV1).unwrap();
        // The same section's public key.
        let public = data_encoding::BASE64.decode(b"Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=").unwrap();
        assert_eq!(key.verifier().public_key().as_slice(), public);
    }

    #[test]
    fn no_fork_is_signed_not_even_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let signer = FileLogSigner::open(directory.path(), ORIGIN).unwrap();
        let (old, new) = (Log::of(&[1, 2, 3]), Log::of(&[1, 2, 3, 4, 5]));
        let first = signer.sign(&old.checkpoint(), &[]).unwrap();
        assert_eq!(signer.sign(&old.checkpoint(), &[]).unwrap(), first);
        let other = Log::of(&[1, 2, 9, 4, 5]);
        let signer = FileLogSigner::open(directory.path(), ORIGIN).unwrap();
        let fork = |result| assert!(matches!(result, Err(LogSignerError::Fork { before: 3, .. })));
        fork(signer.sign(&Log::of(&[1, 2, 9]).checkpoint(), &[]));
        fork(signer.sign(&Log::of(&[1, 2]).checkpoint(), &[]));
        fork(signer.sign(&other.checkpoint(), &other.consistency(3)));
        fork(signer.sign(&new.checkpoint(), &[]));
        let elsewhere = Checkpoint { origin: "acme.example/m2".to_owned(), ..new.checkpoint() };
        assert!(matches!(signer.sign(&elsewhere, &new.consistency(3)), Err(LogSignerError::Malformed(_))));
        let note = signer.sign(&new.checkpoint(), &new.consistency(3)).unwrap();
        assert_eq!(FileLogSigner::open(directory.path(), ORIGIN).unwrap().newest(), Some((new.checkpoint(), note)));
    }
}
