//! Work that a store does for several callers at once.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

/// Delivers what `work` makes of the items, in order, on so many threads at most: once all of them are done, or once `patience` is over. What
/// is under way then is delivered when it is done, and what is not begun by then is left: so an item that hangs keeps no other waiting.
pub(super) fn in_parallel<T: Send, R: Send>(
    threads: usize,
    items: Vec<T>,
    patience: Duration,
    work: impl Fn(T) -> R + Sync,
    mut deliver: impl FnMut(Vec<R>),
) {
    if items.is_empty() {
        return;
    }
    let (threads, until) = (threads.clamp(1, items.len()), Instant::now() + patience);
    let (left, work) = (&Mutex::new(items.into_iter().enumerate()), &work);
    let (done, made) = mpsc::channel();
    thread::scope(|scope| {
        for first in (0..threads).map(|_| left.lock().unwrap_or_else(PoisonError::into_inner).next()) {
            let done = done.clone();
            scope.spawn(move || {
                let mut next = first;
                while let Some((place, item)) = next {
                    if done.send((place, work(item))).is_err() {
                        break;
                    }
                    let more = Instant::now() < until;
                    next = more.then(|| left.lock().unwrap_or_else(PoisonError::into_inner).next()).flatten();
                }
            });
        }
        drop(done);
        let mut in_time = Vec::new();
        while let Ok(one) = made.recv_timeout(until.saturating_duration_since(Instant::now())) {
            in_time.push(one);
        }
        let mut hand_over = |mut ready: Vec<(usize, R)>| {
            if !ready.is_empty() {
                ready.sort_unstable_by_key(|(place, _)| *place);
                deliver(ready.into_iter().map(|(_, one)| one).collect());
            }
        };
        hand_over(in_time);
        hand_over(made.iter().collect());
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn everything_is_done_once_in_order_and_at_once() {
        for threads in [0, 1, 3, 50] {
            let mut made = Vec::new();
            in_parallel(threads, (0..20).collect(), LONG, |number| 2 * number, |ready| made.push(ready));
            assert_eq!(made, [(0..40).step_by(2).collect::<Vec<_>>()]);
        }
        in_parallel(4, Vec::<u8>::new(), LONG, |byte| byte, |_| panic!("nothing is delivered"));
        // Each waits for the others: on fewer threads than four this would not end.
        let meet = Barrier::new(4);
        let work = |()| {
            meet.wait();
        };
        in_parallel(4, vec![(); 8], LONG, work, |_| ());
    }

    #[test]
    fn what_hangs_keeps_nothing_else_waiting() {
        for threads in [1, 3] {
            let (release, released) = mpsc::channel();
            let released = Mutex::new(released);
            let work = |number| {
                if number == 2 {
                    // It ends once what was made in time is delivered.
                    released.lock().unwrap().recv_timeout(LONG).unwrap();
                }
                number
            };
            let mut made = Vec::new();
            in_parallel(threads, (0..6).collect(), Duration::from_secs(1), work, |ready| {
                made.push(ready);
                let _ = release.send(());
            });
            let in_time: Vec<_> = if threads == 1 { vec![0, 1] } else { vec![0, 1, 3, 4, 5] };
            assert_eq!(made, [in_time, vec![2]]);
        }
    }
}
