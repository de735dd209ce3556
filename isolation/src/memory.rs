//! Secret bytes in memory that is guarded, locked and wiped.
//!
//! Secrets are kept in regions of their own, between pages that nobody can touch. A region is made by memfd_secret(2) where the
//! kernel has it: then its pages are gone from the kernel's own map of the memory, so that no bug of the kernel that reads
//! memory at large reads these, and no other process can be given them. Elsewhere it is anonymous memory that is locked.
//! Either way it is not in a core dump, and no child process inherits it.
//!
//! Secrets of like size share a region. A page for each would need more of the limit on locked memory (RLIMIT_MEMLOCK) than
//! an unprivileged process has, from some thousand keys on.
#![allow(unsafe_code)]

use std::{
    fmt, io,
    os::fd::{FromRawFd, OwnedFd},
    ptr::{self, NonNull},
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap};
use zeroize::Zeroize;

/// Bytes of a region of small secrets, without its guards.
const REGION: usize = 64 * 1024;

/// Smallest slot, in bytes.
const SMALLEST: usize = 32;

/// How well a region is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// It may reach swap: the operating system refuses to lock it.
    Swappable,
    /// It is locked.
    Locked,
    /// It is locked, and in no other map of the memory than this process's.
    Secret,
}

/// Secret bytes between guard pages, kept out of swap, core dumps and child processes where the operating system allows, wiped
/// on drop. Never copied, cloned or printed, and never written after they were made.
pub struct LockedBytes {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the slot belongs to this value alone, is written only in `new` and `drop`, and every access through a shared
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
        let start = arena().take(secret.len()).expect("memory for a secret");
        // SAFETY: the slot is at least that long, writable, and nobody else's until it is given back; it cannot overlap what
        // the caller lends.
        unsafe { ptr::copy_nonoverlapping(secret.as_ptr(), start.as_ptr(), secret.len()) };
        Self { start, length: secret.len() }
    }

    /// Lends the secret to `read`.
    pub fn expose<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: the slot is initialised for this length and not written while `self` lives; the borrow ends with the
        // closure, before `self` can be dropped.
        read(unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) })
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        // SAFETY: as in `new`: nobody else has the slot, and no borrow outlives this value.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }.zeroize();
        arena().give_back(self.start, self.length);
    }
}

impl fmt::Debug for LockedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockedBytes({} bytes, secret)", self.len())
    }
}

/// Bytes of a page of memory.
pub(crate) fn page_size() -> usize {
    // SAFETY: the call takes a number and gives one.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(64 * 1024)
}

/// How well the secrets of this process are kept: as the worst of its regions.
pub fn kept() -> Kept {
    let probe = arena().regions.is_empty().then(|| LockedBytes::new(&[0]));
    let worst = arena().regions.iter().map(|region| region.kept).min();
    drop(probe);
    worst.unwrap_or(Kept::Swappable)
}

/// How many bytes of secrets' regions this process has.
pub fn reserved() -> usize {
    arena().regions.iter().map(|region| region.slot * region.used.len()).sum()
}

/// Every region.
struct Arena {
    regions: Vec<Region>,
}

static ARENA: Mutex<Arena> = Mutex::new(Arena { regions: Vec::new() });

fn arena() -> MutexGuard<'static, Arena> {
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The slot size for so many bytes.
fn slot_of(length: usize) -> usize {
    length.next_power_of_two().max(SMALLEST)
}

impl Arena {
    fn take(&mut self, length: usize) -> io::Result<NonNull<u8>> {
        let slot = slot_of(length);
        if let Some(start) = self.regions.iter_mut().filter(|region| region.slot == slot).find_map(Region::take) {
            return Ok(start);
        }
        let mut region = Region::map(slot)?;
        if region.kept == Kept::Swappable {
            warn_once();
        }
        let start = region.take().ok_or(io::ErrorKind::OutOfMemory)?;
        self.regions.push(region);
        Ok(start)
    }

    fn give_back(&mut self, start: NonNull<u8>, length: usize) {
        let slot = slot_of(length);
        let Some(at) = self.regions.iter().position(|region| region.slot == slot && region.holds(start)) else {
            return;
        };
        let alike = self.regions.iter().filter(|region| region.slot == slot).count();
        let Some(region) = self.regions.get_mut(at) else { return };
        region.give_back(start);
        // One is kept, so that a secret that comes and goes does not map memory each time.
        if alike > 1 && region.free == region.used.len() {
            self.regions.swap_remove(at);
        }
    }
}

/// Memory for secrets of one size, between two guard pages.
struct Region {
    mapping: NonNull<u8>,
    length: usize,
    data: NonNull<u8>,
    slot: usize,
    used: Vec<bool>,
    free: usize,
    kept: Kept,
}

// SAFETY: a region is memory that belongs to the process; nothing of it is a thread's.
unsafe impl Send for Region {}

impl Region {
    fn map(slot: usize) -> io::Result<Self> {
        let page = page_size();
        let size = slot.max(REGION).next_multiple_of(page);
        let length = size + 2 * page;
        // SAFETY: new mappings, at an address of the kernel's choice, then inside that very mapping.
        let (mapping, data, kept) = unsafe {
            let mapping = mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), MapFlags::PRIVATE)?;
            let data = mapping.byte_add(page);
            match fill(data, size) {
                Ok(kept) => (mapping, data, kept),
                Err(error) => {
                    munmap(mapping, length)?;
                    return Err(error);
                }
            }
        };
        let pointer = |address: *mut libc::c_void| NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory);
        let free = size / slot;
        let used = vec![false; free];
        Ok(Self { mapping: pointer(mapping)?, length, data: pointer(data)?, slot, used, free, kept })
    }

    fn take(&mut self) -> Option<NonNull<u8>> {
        if self.free == 0 {
            return None;
        }
        let place = self.used.iter().position(|used| !used)?;
        *self.used.get_mut(place)? = true;
        self.free -= 1;
        // SAFETY: the region has `used.len()` slots of this size.
        Some(unsafe { self.data.add(place * self.slot) })
    }

    fn holds(&self, start: NonNull<u8>) -> bool {
        let (first, start) = (self.data.as_ptr().addr(), start.as_ptr().addr());
        (first..first + self.slot * self.used.len()).contains(&start)
    }

    fn give_back(&mut self, start: NonNull<u8>) {
        let place = (start.as_ptr().addr() - self.data.as_ptr().addr()) / self.slot;
        if let Some(used) = self.used.get_mut(place) {
            *used = false;
            self.free += 1;
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and no slot of it is in use.
        if let Err(error) = unsafe { munmap(self.mapping.as_ptr().cast(), self.length) } {
            tracing::warn!(%error, "memory of secrets that were wiped is left mapped");
        }
    }
}

/// Puts memory for secrets where `data` is.
///
/// # Safety
/// `data` to `data + size` is part of a mapping of the caller's that nobody uses.
unsafe fn fill(data: *mut libc::c_void, size: usize) -> io::Result<Kept> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: as the caller promises.
    let secret = secret_memory(size)
        .and_then(|file| unsafe { Ok(mmap(data, size, protection, MapFlags::SHARED | MapFlags::FIXED, file, 0)?) });
    let kept = match secret {
        Ok(_) => Kept::Secret,
        // What failed may have left a hole, which is filled here.
        // SAFETY: as above.
        Err(_) => unsafe {
            mmap_anonymous(data, size, protection, MapFlags::PRIVATE | MapFlags::FIXED)?;
            match mlock(data, size) {
                Ok(()) => Kept::Locked,
                Err(_) => Kept::Swappable,
            }
        },
    };
    for advice in [Advice::LinuxDontDump, Advice::LinuxDontFork] {
        // SAFETY: the memory was just mapped, and neither advice changes what this process sees of it.
        unsafe { madvise(data, size, advice)? };
    }
    Ok(kept)
}

/// A file of memfd_secret(2).
fn secret_memory(size: usize) -> io::Result<OwnedFd> {
    // SAFETY: the call takes flags alone.
    let number = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let number = i32::try_from(number).ok().filter(|number| *number >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel just gave it to this process, and nobody else knows it.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::fs::ftruncate(&file, size as u64)?;
    Ok(file)
}

fn warn_once() {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            "the operating system refuses to lock memory, so secrets may reach swap; raise the limit (LimitMEMLOCK, ulimit -l)"
        );
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
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
            [0, 1, 15, 32, 33, 4080, 65_536, 70_000].map(|len| LockedBytes::new(&vec![7; len])).into_iter().collect();
        let others: Vec<_> = (0..5000_u32).map(|number| LockedBytes::new(&number.to_be_bytes())).collect();
        for secret in &secrets {
            assert!(secret.expose(|bytes| bytes.iter().all(|byte| *byte == 7) && bytes.len() == secret.len()));
        }
        // A thread may use and drop what another made.
        std::thread::scope(|scope| {
            scope.spawn(|| drop(secrets));
            for (number, other) in (0..).zip(&others) {
                assert!(other.expose(|bytes| bytes == u32::to_be_bytes(number)));
            }
        });
    }

    #[test]
    fn thousands_of_secrets_stay_within_what_an_unprivileged_process_may_lock() {
        let before = reserved();
        let keys: Vec<_> = (0..11_000).map(|_| LockedBytes::new(&[7; 32])).collect();
        assert!(reserved() - before <= 1024 * 1024, "{}", reserved() - before);
        drop(keys);
        // Other tests make a few meanwhile.
        assert!(reserved() <= before + 8 * REGION);
    }

    /// The mappings of this process that hold an address, with the flags that the kernel shows of each.
    fn flags_at(address: usize) -> (String, String) {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut head = String::new();
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let ends = range.and_then(|(low, high)| {
                Some(usize::from_str_radix(low, 16).ok()?..usize::from_str_radix(high, 16).ok()?)
            });
            match ends {
                Some(range) if range.contains(&address) => head = line.to_owned(),
                Some(_) => head.clear(),
                None if !head.is_empty() && line.starts_with("VmFlags:") => return (head, line.to_owned()),
                None => {}
            }
        }
        panic!("nothing is mapped there");
    }

    #[test]
    fn a_region_is_locked_not_dumped_not_inherited_and_guarded() {
        let mut region = Region::map(32).unwrap();
        assert!(region.kept >= Kept::Locked, "this machine locks memory");
        let first = region.take().unwrap();
        let (_, flags) = flags_at(first.as_ptr().addr());
        for flag in ["lo", "dd", "dc"] {
            assert!(flags.split(' ').any(|found| found == flag), "{flag}: {flags}");
        }
        for guard in [region.mapping.as_ptr().addr(), region.mapping.as_ptr().addr() + region.length - 1] {
            assert!(flags_at(guard).0.contains(" ---p "), "{}", flags_at(guard).0);
        }
    }

    #[test]
    fn a_slot_that_comes_back_is_wiped_and_used_again() {
        // A size of this test's own: no other thread takes the slot.
        let mut secret = LockedBytes::new(&[0xa5; 3000]);
        let start = secret.start;
        secret = {
            drop(secret);
            LockedBytes::new(&[0; 2999])
        };
        assert_eq!(secret.start, start);
        // SAFETY: the slot is 4096 bytes long, and this test's.
        assert_eq!(unsafe { *start.as_ptr().add(2999) }, 0);
    }
}
