//! The process that has the keys.

use std::{
    io,
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::Path,
    sync::Arc,
};

use super::{
    confine, descriptors,
    passing::{lanes, send_lanes},
    serve::{serve, tell},
};
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
    descriptors::close_inherited();
    confine::end_with_parent();
    let control = descriptors::take_stdin().map_err(at(stdin))?;
    let pairs = (0..lanes()).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>().map_err(at(stdin))?;
    let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let opened = open(spec);
    send_lanes(&control, &theirs).map_err(at(stdin))?;
    drop((theirs, control));
    match opened {
        Ok((signer, _lock)) => answer(&Arc::new(signer), ours),
        Err(error) => {
            tell(&error, ours);
            Err(error)
        }
    }
}

/// Opens the keys of a process that has given up everything else. The lock is held as long as the signer is used.
pub(super) fn open(spec: &Spec) -> Result<(Guard, std::fs::File), SignerError> {
    confine::harden();
    files::private_directory(&spec.directory).map_err(at(&spec.directory))?;
    let of_token = spec.keys_of_token()?;
    confine::shut_in(spec);
    let lock = lock(&spec.directory)?;
    let keys: Box<dyn Keys> = match of_token {
        Some(keys) => keys,
        None => Box::new(FileKeys::open(&spec.directory)?),
    };
    let signer = Guard::open(keys, &spec.directory, &spec.origin)?;
    confine::lock_memory();
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

fn answer(signer: &Arc<Guard>, lanes: Vec<UnixStream>) -> Result<(), SignerError> {
    let (over, end) = std::sync::mpsc::channel();
    for lane in lanes {
        let (signer, over) = (Arc::clone(signer), over.clone());
        let run = move || {
            // The receiver is gone once another lane has ended.
            let _ = over.send(serve(signer.as_ref() as &dyn Signer, lane));
        };
        std::thread::Builder::new().name("lane".to_owned()).spawn(run).map_err(at(Path::new("a thread")))?;
    }
    drop(over);
    match end.recv() {
        Ok(Err(error)) => Err(SignerError::Failed(format!("a lane broke: {error}"))),
        _ => Ok(()),
    }
}
