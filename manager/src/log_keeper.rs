//! What the log wants from time to time: seals of the state, and the deletion of openings that are old enough.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::Manager;

/// How often it is looked at.
const PERIOD: Duration = Duration::from_secs(60);

/// Keeps the log of a manager until it is dropped.
pub struct LogKeeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LogKeeper {
    /// Starts a thread.
    ///
    /// # Errors
    /// Where none can be started.
    pub fn start(manager: Arc<Manager>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = thread::Builder::new().name("keywitness-log".to_owned()).spawn(move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                if let Err(problem) = manager.keep_log() {
                    tracing::warn!(%problem, "the state was not sealed, or openings were not deleted");
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for LogKeeper {
    fn drop(&mut self) {
        // The thread ends when nobody can tell it to go on.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's keeper panicked");
        }
    }
}
