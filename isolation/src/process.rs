//! The processes themselves: how one is started, kept alive, and begins.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{confine, confine::Gaps, descriptors};

/// The first wait before a new worker is started; it doubles up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(20);

const LONGEST: Duration = Duration::from_secs(5);

/// The exit code of a worker that would fail again, and do harm by it: none is started after it.
pub const NEVER_AGAIN: u8 = 9;

/// A worker that lived so long begins the waits anew.
const WELL: Duration = Duration::from_secs(30);

/// Starts a process whose standard input is a socket: `program` with these arguments and, of this process's environment, these
/// variables.
///
/// # Errors
/// What the operating system says.
pub fn start(
    program: &Path,
    arguments: &[&str],
    variables: impl Iterator<Item = impl Into<OsString>>,
    control: UnixStream,
) -> io::Result<Child> {
    let named = variables.map(Into::into).collect::<Vec<OsString>>();
    let kept = named.into_iter().filter_map(|name| Some((name.clone(), std::env::var_os(name)?)));
    Command::new(program)
        .arg0("keywitness")
        .args(arguments)
        .env_clear()
        .envs(kept)
        .current_dir("/")
        // What a terminal sends to the caller is not for a worker, which ends after it.
        .process_group(0)
        .stdin(Stdio::from(OwnedFd::from(control)))
        .stdout(Stdio::null())
        .spawn()
}

/// What a supervisor or a worker does first: closes what it inherited, and ends with whoever started it. Gives the socket that
/// is its standard input, and what is not in force.
///
/// # Errors
/// Where standard input is no descriptor.
pub fn begin() -> io::Result<(UnixStream, Gaps)> {
    descriptors::close_inherited();
    // Who stops a caller may stop all its processes at once; this one ends after it.
    descriptors::outlive_signals();
    let gaps = confine::end_with_parent();
    Ok((descriptors::take_stdin()?, gaps))
}

/// Closes what this process inherited beyond its standard descriptors, before it has opened anything.
pub fn close_inherited() {
    descriptors::close_inherited();
}

/// Has `start` start a worker whenever there is none, with an end of the control socket, until the caller closes that, or one ends
/// with [`NEVER_AGAIN`].
///
/// # Errors
/// Where no worker can be started.
pub fn supervise<E: From<io::Error>>(
    control: &UnixStream,
    mut start: impl FnMut(UnixStream) -> Result<Child, E>,
) -> Result<(), E> {
    let mut wait = SHORTEST;
    while is_open(control) {
        let begun = Instant::now();
        let mut worker = start(control.try_clone()?)?;
        let status = worker.wait()?;
        if !is_open(control) {
            break;
        }
        if status.code() == Some(NEVER_AGAIN.into()) {
            tracing::error!(
                "a worker ended, and none is started again: see to what it said, and start its caller again"
            );
            break;
        }
        wait = if begun.elapsed() > WELL { SHORTEST } else { wait };
        // A worker ends well when its caller leaves, which is seen here a moment later.
        if status.success() {
            tracing::debug!(?wait, "a worker ended; another is started");
        } else {
            tracing::error!(%status, ?wait, "a worker ended; another is started");
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(LONGEST);
    }
    Ok(())
}

/// Whether the caller has its end open.
fn is_open(control: &UnixStream) -> bool {
    let mut wanted = [PollFd::new(control, PollFlags::empty())];
    let asked = poll(&mut wanted, Some(&Timespec::default()));
    let gone = PollFlags::HUP | PollFlags::ERR;
    asked.is_ok() && wanted.iter().all(|end| !end.revents().intersects(gone))
}

/// Lanes: the worker's ends, and the caller's.
///
/// # Errors
/// What the operating system says.
pub fn pairs(count: usize) -> io::Result<(Vec<UnixStream>, Vec<UnixStream>)> {
    Ok((0..count).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>()?.into_iter().unzip())
}

/// Answers on every lane, each in a thread of its own, until one is closed or breaks: a worker serves all of its lanes or
/// none.
///
/// # Errors
/// What broke the first lane; that a thread cannot be started.
pub fn answer(
    lanes: Vec<UnixStream>,
    serve: impl Fn(UnixStream) -> io::Result<()> + Clone + Send + 'static,
) -> io::Result<()> {
    let (over, end) = mpsc::channel();
    for lane in lanes {
        let (serve, over) = (serve.clone(), over.clone());
        let run = move || {
            // The receiver is gone once another lane has ended.
            let _ = over.send(serve(lane));
        };
        std::thread::Builder::new().name("lane".to_owned()).spawn(run)?;
    }
    drop(over);
    end.recv().unwrap_or(Ok(()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_started_again_until_one_says_that_none_should_be() {
        let (control, _caller) = UnixStream::pair().unwrap();
        let mut codes = vec![NEVER_AGAIN, 0, 1];
        let start = |_| Command::new("sh").args(["-c", &format!("exit {}", codes.pop().unwrap())]).spawn();
        supervise::<io::Error>(&control, start).unwrap();
        assert!(codes.is_empty(), "{codes:?}");
    }
}
