//! A signer that another user runs: it listens at a socket in the file system, and looks at who calls.

use std::{
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{serve::serve, worker::open};
use crate::signer::{SignerError, Spec, at};

/// Most connections at once.
const MAX_CONNECTIONS: usize = 32;

/// Opens the keys and answers at a socket, until the process is stopped. Callers are this process's own user, and `users`.
///
/// # Errors
/// [`SignerError`]
pub fn serve_at(spec: &Spec, socket: &Path, users: &[u32], ready: impl FnOnce()) -> Result<(), SignerError> {
    match std::fs::symlink_metadata(socket) {
        Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            return Err(SignerError::Failed(format!("{} is there, and is no socket", socket.display())));
        }
        Ok(_) if UnixStream::connect(socket).is_ok() => {
            return Err(SignerError::Failed(format!("another signer listens at {}", socket.display())));
        }
        Ok(_) => std::fs::remove_file(socket).map_err(at(socket))?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(socket).map_err(at(socket))?;
    // Who may call is decided by the caller's user; the directory can narrow it further.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).map_err(at(socket))?;
    let (signer, _lock) = open(spec)?;
    ready();
    let signer = Arc::new(signer);
    let open = Arc::new(AtomicUsize::new(0));
    for caller in listener.incoming() {
        let Ok(caller) = caller else { continue };
        if !may_call(&caller, users) || open.load(Ordering::SeqCst) >= MAX_CONNECTIONS {
            tracing::warn!("a caller was turned away");
            continue;
        }
        open.fetch_add(1, Ordering::SeqCst);
        let (signer, open_now) = (Arc::clone(&signer), Arc::clone(&open));
        let run = move || {
            if let Err(error) = serve(signer.as_ref(), caller) {
                tracing::warn!(%error, "a connection broke");
            }
            open_now.fetch_sub(1, Ordering::SeqCst);
        };
        if std::thread::Builder::new().name("caller".to_owned()).spawn(run).is_err() {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
    Ok(())
}

/// Whether the process at the other end runs as this one's user, or as one of `users` (SO_PEERCRED, unix(7)).
pub(super) fn may_call(caller: &UnixStream, users: &[u32]) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let uid = rustix::net::sockopt::socket_peercred(caller).map(|peer| peer.uid.as_raw());
    uid.is_ok_and(|uid| uid == own || users.contains(&uid))
}
