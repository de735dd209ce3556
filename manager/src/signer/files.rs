//! Keys in files: PKCS#8, PEM, mode 0600.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use keywitness_verifier::wire::TokenAlgorithm;

use super::{Keys, NEWEST, PublicKey, SignerError, at, log::NOTHING_YET, secret::Secret};
use crate::files;

/// Name of the first ES256 key's file.
pub const FILE: &str = "token-key.pem";

/// Name of the log's key's file.
pub const LOG_FILE: &str = "log-key.pem";

/// What the other keys' files are called: this, the key's name, `.pem`.
const PREFIX: &str = "token-key-";

/// Whether a token key's file is called so.
fn is_token_key(name: &str) -> bool {
    name == FILE || (name.starts_with(PREFIX) && name.ends_with(".pem"))
}

/// Moves the key files, and what was signed last, from a directory where earlier versions kept them. The log's key goes last:
/// where it is, everything is.
///
/// # Errors
/// [`SignerError::Failed`] where a file cannot be moved, or is in both directories.
pub fn adopt(from: &Path, to: &Path) -> Result<(), SignerError> {
    files::private_directory(to).map_err(at(to))?;
    let entries = match std::fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(at(from))?,
    };
    let names =
        entries.map(|entry| Ok(entry.map_err(at(from))?.file_name())).collect::<Result<Vec<_>, SignerError>>()?;
    let mut names: Vec<_> = names.iter().filter_map(|name| name.to_str()).collect();
    names.retain(|name| is_token_key(name) || *name == LOG_FILE || *name == NEWEST);
    names.sort_by_key(|name| *name == LOG_FILE);
    for name in &names {
        let (old, new) = (from.join(name), to.join(name));
        if new.exists() {
            let why = format!("{} and {} are both there: remove the older one", old.display(), new.display());
            return Err(SignerError::Failed(why));
        }
        std::fs::rename(&old, &new).map_err(at(&new))?;
        tracing::info!(from = %old.display(), to = %new.display(), "moved a file of the signer");
    }
    for directory in [to, from].into_iter().filter(|_| !names.is_empty()) {
        std::fs::File::open(directory).and_then(|open| open.sync_all()).map_err(at(directory))?;
    }
    Ok(())
}

/// Keys in files of a directory.
pub struct FileKeys {
    directory: PathBuf,
    keys: RwLock<BTreeMap<String, Arc<Secret>>>,
    log: OnceLock<Secret>,
}

impl FileKeys {
    /// Reads the keys of a directory; there may be none yet.
    ///
    /// # Errors
    /// [`SignerError`] where a file cannot be read, or holds no key.
    pub fn open(directory: &Path) -> Result<Self, SignerError> {
        let mut keys = BTreeMap::new();
        for entry in std::fs::read_dir(directory).map_err(at(directory))? {
            let name = entry.map_err(at(directory))?.file_name();
            let Some(name) = name.to_str().filter(|name| is_token_key(name)) else { continue };
            if let Some(secret) = Secret::read(&directory.join(name))? {
                keys.insert(secret.public().kid()?, Arc::new(secret));
            }
        }
        Ok(Self { directory: directory.to_owned(), keys: RwLock::new(keys), log: OnceLock::new() })
    }

    fn of_log(&self) -> Result<&Secret, SignerError> {
        if let Some(secret) = self.log.get() {
            return Ok(secret);
        }
        let path = self.directory.join(LOG_FILE);
        let secret = match Secret::read(&path)? {
            Some(secret @ Secret::EdDsa(_)) => secret,
            Some(Secret::Es256(_)) => return Err(SignerError::NoKey(path.display().to_string())),
            None => {
                let secret = Secret::random(TokenAlgorithm::EdDsa)?;
                // Before the key: where that is, the file is. What another key signed is left for whoever opens the log to see.
                let newest = self.directory.join(NEWEST);
                if !std::fs::exists(&newest).map_err(at(&newest))? {
                    let marked = files::write_private(&self.directory, NEWEST, NOTHING_YET.as_bytes());
                    marked.map_err(at(&newest))?;
                }
                secret.write(&self.directory, LOG_FILE)?;
                tracing::info!(path = %path.display(), "made a key that signs for the log");
                secret
            }
        };
        Ok(self.log.get_or_init(|| secret))
    }

    fn find(&self, kid: &str) -> Option<Arc<Secret>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(kid).cloned()
    }
}

impl Keys for FileKeys {
    fn list(&self) -> Vec<PublicKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).values().map(|secret| secret.public()).collect()
    }

    fn algorithm(&self, kid: &str) -> Option<TokenAlgorithm> {
        Some(self.find(kid)?.algorithm())
    }

    fn make(&self, algorithm: TokenAlgorithm) -> Result<PublicKey, SignerError> {
        let secret = Secret::random(algorithm)?;
        let public = secret.public();
        let kid = public.kid()?;
        secret.write(&self.directory, &format!("{PREFIX}{kid}.pem"))?;
        tracing::info!(%algorithm, kid, "made a key that signs tokens");
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(kid, Arc::new(secret));
        Ok(public)
    }

    fn sign(&self, kid: &str, message: &[u8]) -> Result<[u8; 64], SignerError> {
        self.find(kid).ok_or_else(|| SignerError::UnknownKey(kid.to_owned()))?.sign(message)
    }

    fn log_key(&self) -> Result<[u8; 32], SignerError> {
        let wrong = |_| SignerError::NoKey(self.directory.join(LOG_FILE).display().to_string());
        self.of_log()?.public().bytes.try_into().map_err(wrong)
    }

    fn marks_log_key(&self) -> bool {
        true
    }

    fn sign_log(&self, message: &[u8]) -> Result<[u8; 64], SignerError> {
        self.of_log()?.sign(message)
    }
}

impl fmt::Debug for FileKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileKeys({}, secret)", self.directory.display())
    }
}
