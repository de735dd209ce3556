//! What a process inherits: descriptors, of which it keeps the standard ones, and signals.
#![allow(unsafe_code)]

use std::{fs::File, io, os::unix::net::UnixStream};

/// Closes what was inherited beyond standard input, output and error. The first thing that a process does.
pub(crate) fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let numbers: Vec<_> = numbers.filter(|number| *number > 2).collect();
    for number in numbers {
        // SAFETY: the process has opened nothing yet that it goes on to use, so nobody owns these; the listing's own, which is
        // among them, is closed by now, and closing a number that is not open does nothing.
        unsafe { rustix::io::close(number) };
    }
}

/// The socket that was standard input, which is `/dev/null` from now on.
pub(crate) fn take_stdin() -> io::Result<UnixStream> {
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(UnixStream::from(control))
}

/// Has this process, and those that it starts, go on where others are asked to stop.
pub(crate) fn outlive_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: no handler is installed: the signals are ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
