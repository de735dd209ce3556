//! Work that a store does for several callers at once.

use std::sync::{Mutex, PoisonError};

/// What `work` makes of each item, in order, on so many threads at most; on this one where that is one.
pub(super) fn in_parallel<T: Send, R: Send>(threads: usize, items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.into_iter().map(work).collect();
    }
    let mut made: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let left = Mutex::new(items.into_iter().zip(&mut made));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((item, place)) = next else { break };
                    *place = Some(work(item));
                }
            });
        }
    });
    made.into_iter().flatten().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn everything_is_done_once_in_order_and_at_once() {
        for threads in [0, 1, 3, 50] {
            assert_eq!(
                in_parallel(threads, (0..20).collect(), |number| 2 * number),
                (0..40).step_by(2).collect::<Vec<_>>()
            );
        }
        assert!(in_parallel(4, Vec::<u8>::new(), |byte| byte).is_empty());
        // Each waits for the others: on fewer threads than four this would not end.
        let meet = Barrier::new(4);
        in_parallel(4, vec![(); 8], |()| {
            meet.wait();
        });
    }
}
