//! Backups while the manager runs.

use keywitness_verifier::wire::{Backup, Problem, ProblemKind};

use super::{Manager, access::Caller};
use crate::{files, store::backup};

impl Manager {
    /// Copies everything, as it is after the newest command, into the directory of backups, and forgets the oldest
    /// backups. Others read and write meanwhile. One backup is made at a time.
    ///
    /// # Errors
    /// `forbidden` for a caller of some clusters alone; `unavailable` while another is being made; `internal` where the file cannot be written.
    pub fn back_up(&self, caller: &Caller) -> Result<Backup, Problem> {
        caller.must_reach_everything()?;
        let Ok(_alone) = self.backing_up.try_lock() else {
            return Err(Problem::new(
                ProblemKind::Unavailable,
                "another backup is being made; try again when it is done",
            ));
        };
        let directory = self.config.data_dir.join(backup::DIRECTORY);
        let failed = |error: std::io::Error| {
            tracing::error!(%error, "a backup could not be written");
            Problem::new(ProblemKind::Internal, "the manager's log has the reason")
        };
        files::private_directory(&directory).map_err(failed)?;
        let rows = self.ledger.view()?;
        let made = backup::write(rows.as_ref(), &directory, &mut |_| ())?;
        backup::prune(&directory, self.config.keep_backups).map_err(failed)?;
        tracing::info!(file = made.file, sequence = made.sequence, "made a backup");
        Ok(made)
    }
}
