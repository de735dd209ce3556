//! What starts a worker whenever there is none. It has no key, and reads nothing from anyone.

use std::{
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{confine, descriptors, remote::start};
use crate::signer::{SignerError, Spec, at};

/// The first wait before a new worker is started; it doubles up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(20);

const LONGEST: Duration = Duration::from_secs(5);

/// A worker that lived so long begins the waits anew.
const WELL: Duration = Duration::from_secs(30);

/// Starts a worker, which is `program` with these flags, whenever there is none, until the manager closes the control socket, which is standard input.
///
/// # Errors
/// [`SignerError`] where no worker can be started.
pub fn supervise(program: &Path, flags: &[&str], spec: &Spec) -> Result<(), SignerError> {
    descriptors::close_inherited();
    confine::harden();
    confine::end_with_parent();
    let control = descriptors::take_stdin().map_err(at(Path::new("standard input")))?;
    let mut wait = SHORTEST;
    while is_open(&control) {
        let begun = Instant::now();
        let end = control.try_clone().map_err(at(Path::new("standard input")))?;
        let mut worker = start((program, flags), "--work", spec, end)?;
        let status = worker.wait().map_err(at(program))?;
        if !is_open(&control) {
            break;
        }
        wait = if begun.elapsed() > WELL { SHORTEST } else { wait };
        // A worker ends well when the manager leaves, which is seen here a moment later.
        if status.success() {
            tracing::debug!(?wait, "the signer's worker ended; another is started");
        } else {
            tracing::error!(%status, ?wait, "the signer's worker ended; another is started");
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(LONGEST);
    }
    Ok(())
}

/// Whether the manager has its end open.
fn is_open(control: &UnixStream) -> bool {
    let mut wanted = [PollFd::new(control, PollFlags::empty())];
    let asked = poll(&mut wanted, Some(&Timespec::default()));
    let gone = PollFlags::HUP | PollFlags::ERR;
    asked.is_ok() && wanted.iter().all(|end| !end.revents().intersects(gone))
}
