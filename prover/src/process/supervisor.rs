//! What starts a proving process whenever there is none. It reads nothing from anyone but, once, what opens the store.

use std::{io, os::unix::net::UnixStream, path::Path, process::Child};

use keywitness_isolation::{LockedBytes, confine, frame, process, send_sockets};

use super::{
    Secrets, Spec,
    remote::{PROCESS, start},
};
use crate::store::StoreError;

/// Starts a proving process, which is `program` with these flags, whenever there is none, until the agent closes the control
/// socket, which is standard input.
///
/// # Errors
/// [`StoreError`] where none can be started.
pub fn supervise(program: &Path, flags: &[&str], spec: &Spec) -> Result<(), StoreError> {
    let stdin = Path::new("standard input");
    let (mut control, gaps) = process::begin().map_err(StoreError::io(stdin))?;
    gaps.and(confine::harden()).warn(PROCESS);
    let secrets = frame::receive(&mut control, Secrets::MAX).map_err(StoreError::io(stdin))?;
    // An agent that has ended meanwhile.
    let Some(secrets) = secrets else { return Ok(()) };
    let secrets = {
        let received = secrets;
        LockedBytes::new(&received)
    };
    let start = |end| start_worker((program, flags), spec, end, &secrets).map_err(io::Error::other);
    process::supervise(&control, start).map_err(|error| StoreError::Process(error.to_string()))
}

/// Starts one, and hands it the agent's socket and what opens the store over a socket that is its standard input.
fn start_worker(
    program: (&Path, &[&str]),
    spec: &Spec,
    control: UnixStream,
    secrets: &LockedBytes,
) -> Result<Child, StoreError> {
    let pair = || {
        let (mut ours, theirs) = UnixStream::pair()?;
        send_sockets(&ours, &[control])?;
        secrets.expose(|secrets| frame::send(&mut ours, secrets, Secrets::MAX))?;
        std::io::Result::Ok(theirs)
    };
    start(program, "--work", spec, pair().map_err(|error| StoreError::Process(error.to_string()))?)
}
