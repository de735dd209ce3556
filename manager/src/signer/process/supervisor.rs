//! What starts a worker whenever there is none. It has no key, and reads nothing from anyone.

use std::{io, path::Path};

use keywitness_isolation::{confine, process};

use super::remote::start;
use crate::signer::{SignerError, Spec, at};

/// Starts a worker, which is `program` with these flags, whenever there is none, until the manager closes the control socket,
/// which is standard input.
///
/// # Errors
/// [`SignerError`] where no worker can be started.
pub fn supervise(program: &Path, flags: &[&str], spec: &Spec) -> Result<(), SignerError> {
    let (control, gaps) = process::begin().map_err(at(Path::new("standard input")))?;
    gaps.and(confine::harden()).warn("the signer");
    process::supervise(&control, |end| start((program, flags), "--work", spec, end))
}

impl From<io::Error> for SignerError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
