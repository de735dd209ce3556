//! Secrets that came in the environment.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

use zeroize::{Zeroize, Zeroizing};

/// Takes a variable out of this process's environment, and wipes it there: what takes the process over later finds it
/// neither with getenv(3) nor in /proc/self/environ. None where it is not set, or is no text.
///
/// Called while the process has one thread: another one that reads the environment meanwhile could read what is written here.
/// With more it leaves the variable where it is, says so in the log, and gives a copy.
pub fn take(name: &str) -> Option<Zeroizing<String>> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        let found = std::env::var(name).ok().map(Zeroizing::new);
        if found.is_some() {
            tracing::warn!(name, "it stays in the environment, for this process has threads already");
        }
        return found;
    }
    let c_name = CString::new(name).ok()?;
    // SAFETY: this is the only thread, so that nobody reads or writes the environment meanwhile. `getenv` gives a
    // string that ends with a zero and that POSIX lets nobody but the environment's owner write: this process, which
    // writes within its length, and removes the variable before anybody looks for it again.
    unsafe {
        let value = libc::getenv(c_name.as_ptr());
        if value.is_null() {
            return None;
        }
        let length = CStr::from_ptr(value).count_bytes();
        let bytes = std::slice::from_raw_parts_mut(value.cast::<u8>(), length);
        let taken = std::str::from_utf8(bytes).ok().map(|text| Zeroizing::new(text.to_owned()));
        bytes.zeroize();
        std::env::remove_var(name);
        taken
    }
}
