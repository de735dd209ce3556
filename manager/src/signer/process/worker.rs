//! The process that has the keys.

use std::{
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use keywitness_isolation::{
    Enforced,
    calls::Calls,
    confine::{self, Place, Profile},
    lanes, process, send_sockets,
};

use super::serve::{serve, tell};
use crate::{
    files,
    signer::{FileKeys, Guard, Keys, Signer, SignerError, Spec, at},
};

/// Shuts itself in, opens the keys, sends lanes over the control socket, which is standard input, and answers on them until
/// one is closed: a worker serves all of its lanes or none.
///
/// # Errors
/// [`SignerError`], which the manager is told too.
pub fn work(spec: &Spec) -> Result<(), SignerError> {
    let stdin = Path::new("standard input");
    let (control, gaps) = process::begin().map_err(at(stdin))?;
    gaps.warn(SIGNER);
    let (ours, theirs) = process::pairs(lanes::wanted()).map_err(at(stdin))?;
    let opened = open(spec);
    send_sockets(&control, &theirs).map_err(at(stdin))?;
    drop((theirs, control));
    match opened {
        Ok((signer, _lock)) => {
            let signer = Arc::new(signer);
            let serve = move |lane| serve(signer.as_ref() as &dyn Signer, lane);
            process::answer(ours, serve).map_err(|error| SignerError::Failed(format!("a lane broke: {error}")))
        }
        Err(error) => {
            tell(&error, ours);
            Err(error)
        }
    }
}

/// What the log calls a worker.
const SIGNER: &str = "the signer";

/// Leaves a worker its own directory, no network, and no way to start or look into a process. A PKCS#11 library, whose needs are
/// its vendor's, may read files, write where it is allowed to, and use the network if it is allowed to.
pub(super) fn shut_in(spec: &Spec) -> Enforced {
    let mut places = vec![(spec.directory.clone(), Place::Own)];
    let mut network = false;
    if let Some(config) = &spec.pkcs11 {
        places.push((PathBuf::from("/"), Place::Load));
        places.extend(config.paths.iter().map(|path| (path.clone(), Place::All)));
        network = config.network;
    }
    let (files, gaps) = Profile { places, network, calls: Calls::AllBut }.shut_in();
    gaps.warn(SIGNER);
    files
}

/// Opens the keys of a process that has given up everything else. The lock is held as long as the signer is used.
pub(super) fn open(spec: &Spec) -> Result<(Guard, std::fs::File), SignerError> {
    confine::harden().warn(SIGNER);
    files::private_directory(&spec.directory).map_err(at(&spec.directory))?;
    let of_token = spec.keys_of_token()?;
    shut_in(spec);
    let lock = lock(&spec.directory)?;
    let keys: Box<dyn Keys> = match of_token {
        Some(keys) => keys,
        None => Box::new(FileKeys::open(&spec.directory)?),
    };
    let signer = Guard::open(keys, &spec.directory, &spec.origin)?;
    confine::lock_memory().warn(SIGNER);
    Ok((signer, lock))
}

/// One signer to a directory: two would not know of each other's checkpoints. One that was killed takes a moment to go.
fn lock(directory: &Path) -> Result<std::fs::File, SignerError> {
    let path = directory.join("signer.lock");
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(at(&path))?;
    for _ in 0..100 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(50)),
            Err(std::fs::TryLockError::Error(error)) => return Err(at(&path)(error)),
        }
    }
    Err(SignerError::Failed(format!("another signer uses {}", directory.display())))
}
