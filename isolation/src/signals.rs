//! Hang-ups: the signal by which an operator asks a daemon to read its settings again.
#![allow(unsafe_code)]

use std::{io, mem::MaybeUninit, ptr};

/// SIGHUP, which from the making of this value on interrupts nobody and waits to be taken.
#[derive(Debug)]
pub struct Hangups(libc::sigset_t);

impl Hangups {
    /// Takes the signal for this process. Called while it has one thread: those that it makes later leave the signal to this value, and others
    /// would not.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn take() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` makes the set whole, the other calls are given a whole one, and no old mask is asked for.
        unsafe {
            if libc::sigemptyset(set.as_mut_ptr()) != 0 || libc::sigaddset(set.as_mut_ptr(), libc::SIGHUP) != 0 {
                return Err(io::Error::last_os_error());
            }
            let set = set.assume_init();
            match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) {
                0 => Ok(Self(set)),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn wait(&self) -> io::Result<()> {
        let mut signal = 0;
        // SAFETY: both point to whole values of this function's own and of this value.
        match unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}
