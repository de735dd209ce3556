//! `keywitness prover`: the process that has an HSM's keys, on behalf of an agent.

use std::path::Path;

use anyhow::Context;
use keywitness_isolation::process::NEVER_AGAIN;
use keywitness_prover::{
    StoreError,
    process::{Spec, supervise, work},
};

use crate::{Global, agent::Ended};

/// This very program, even where its file was replaced.
pub(crate) const PROGRAM: &str = "/proc/self/exe";

/// A part of an agent, which starts it: the process that has the HSM's keys
#[derive(clap::Args)]
#[command(hide = true, after_help = "Example: keywitness prover --work SPEC")]
pub(crate) struct Args {
    /// The process that starts the one that has the keys
    #[arg(long, value_name = "SPEC")]
    supervise: Option<String>,
    /// The process that has the keys
    #[arg(long, value_name = "SPEC")]
    work: Option<String>,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let spec = |text: &str| serde_json::from_str::<Spec>(text).context("the spec of a proving process");
    match (&args.supervise, &args.work) {
        (Some(text), _) => Ok(supervise(Path::new(PROGRAM), flags(global.json), &spec(text)?)?),
        // Whoever asked is told what is wrong, and tells it.
        (None, Some(text)) => {
            Ok(work(&spec(text)?).inspect_err(|error| tracing::debug!(%error, "it ends")).map_err(last)?)
        }
        (None, None) => anyhow::bail!("an agent starts this by itself: keywitness agent"),
    }
}

/// A refused PIN is not tried again by the next process.
fn last(error: StoreError) -> anyhow::Error {
    match error.is_of_login() {
        true => Ended { code: NEVER_AGAIN, error: error.into() }.into(),
        false => error.into(),
    }
}

/// How the program's own processes are called.
pub(crate) fn flags(json: bool) -> &'static [&'static str] {
    if json { &["--json"] } else { &[] }
}
