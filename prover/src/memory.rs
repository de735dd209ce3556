//! Secret bytes in memory that is guarded, locked and wiped; and a process that leaves no core dump.
//!
//! This module holds the only unsafe code of the crate.
#![allow(unsafe_code)]

use std::{fmt, io, ptr::NonNull, sync::Once};

/// Secret bytes between guard pages, kept out of swap and core dumps where the operating system allows, read-only
/// once written, wiped on drop. Never copied, cloned or printed.
pub struct LockedBytes {
    memory: NonNull<[u8]>,
}

// SAFETY: the memory belongs to this value alone, is written only in `new`, and every later access through a shared
// reference reads.
unsafe impl Send for LockedBytes {}
// SAFETY: as above.
unsafe impl Sync for LockedBytes {}

impl LockedBytes {
    /// Copies `secret` into locked memory. The caller wipes its own copy.
    ///
    /// Where the operating system refuses to lock memory, says so once in the log and goes on.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn new(secret: &[u8]) -> Self {
        // SAFETY: any size may be asked for; failure is `None`.
        let memory = unsafe { memsec::malloc_sized(secret.len()) }.expect("memory for a secret");
        // SAFETY: `memory` is `secret.len()` writable bytes that nobody else knows. Locking them a second time is
        // harmless, and tells whether the first, inside `malloc_sized`, worked. `mprotect` takes what
        // `malloc_sized` gave, and `free` makes it writable again.
        let locked = unsafe {
            let start = memory.cast::<u8>().as_ptr();
            std::ptr::copy_nonoverlapping(secret.as_ptr(), start, secret.len());
            let locked = secret.is_empty() || memsec::mlock(start, secret.len());
            memsec::mprotect(memory, memsec::Prot::ReadOnly);
            locked
        };
        if !locked {
            warn_once();
        }
        Self { memory }
    }

    /// Lends the secret to `read`.
    pub fn expose<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: the memory is readable and initialised for its whole length while `self` lives, and is never
        // written after `new`; the borrow ends with the closure, before `self` can be dropped.
        read(unsafe { self.memory.as_ref() })
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        // SAFETY: `memory` came from `malloc_sized` and is freed once, here. `free` makes it writable, wipes it and
        // unlocks it.
        unsafe { memsec::free(self.memory) }
    }
}

impl fmt::Debug for LockedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockedBytes({} bytes, secret)", self.len())
    }
}

fn warn_once() {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            "the operating system refuses to lock memory, so secrets may reach swap; raise the limit (ulimit -l)"
        );
    });
}

/// Forbids core dumps of this process, and other processes of the same user to look into its memory.
///
/// Does nothing on systems other than Linux.
///
/// # Errors
/// What the operating system says; the process goes on unhardened.
pub fn harden_process() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_lent_and_never_printed() {
        let secret = LockedBytes::new(b"attack at dawn");
        assert!(secret.expose(|bytes| bytes == b"attack at dawn"));
        assert_eq!(secret.len(), 14);
        assert_eq!(format!("{secret:?}"), "LockedBytes(14 bytes, secret)");
    }

    #[test]
    fn many_secrets_of_many_sizes() {
        let secrets: Vec<_> =
            [0, 1, 15, 16, 32, 4080, 4081, 9000].map(|len| LockedBytes::new(&vec![7; len])).into_iter().collect();
        for secret in &secrets {
            assert!(secret.expose(|bytes| bytes.iter().all(|byte| *byte == 7) && bytes.len() == secret.len()));
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                secrets.iter().for_each(|secret| assert!(secret.expose(|bytes| bytes.len()) == secret.len()))
            });
        });
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_hardened_process_goes_on() {
        assert!(harden_process().is_ok());
    }
}
