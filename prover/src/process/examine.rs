//! What is in force in a proving process that runs: it tries what it must not, and tells.

use std::path::{Path, PathBuf};

use keywitness_isolation::{
    Gap, Gaps,
    examine::{Attempt, Known, can_be_made},
    memory::{self, Kept},
};
use serde::{Deserialize, Serialize};

/// What a proving process found out about itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Examination {
    /// Its process id.
    pub pid: u32,
    /// What it tried, and whether that was refused.
    pub attempts: Vec<(Attempt, bool)>,
    /// Whether it can make and remove files where the store is, as it must.
    pub own_files: bool,
    /// How its secrets are kept.
    pub secrets: Kept,
    /// What it was told is missing as it was shut in.
    pub gaps: Vec<Gap>,
}

/// What is found out before a process is shut in, so that it can be examined later.
pub(super) struct Witnessed {
    known: Option<Known>,
    directory: PathBuf,
    pub(super) gaps: Gaps,
}

impl Witnessed {
    pub(super) fn new(directory: &Path) -> Self {
        let known = Known::find(directory).inspect_err(|error| tracing::warn!(%error, "nothing can be examined later"));
        Self { known: known.ok(), directory: directory.to_owned(), gaps: Gaps::default() }
    }

    pub(super) fn examine(&self) -> Examination {
        let attempts =
            self.known.iter().flat_map(|known| Attempt::ALL.map(|attempt| (attempt, attempt.is_refused(known))));
        Examination {
            pid: std::process::id(),
            attempts: attempts.collect(),
            own_files: can_be_made(&self.directory.join(".keywitness-examination")),
            secrets: memory::kept(),
            gaps: self.gaps.0.clone(),
        }
    }
}
