//! `keywitness prover`: the process that has an HSM's keys, on behalf of an agent.

use std::path::Path;

use anyhow::Context;
use keywitness_prover::process::{Spec, supervise, work};

use crate::Global;

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
        (None, Some(text)) => Ok(work(&spec(text)?).inspect_err(|error| tracing::debug!(%error, "it ends"))?),
        (None, None) => anyhow::bail!("an agent starts this by itself: keywitness agent"),
    }
}

/// How the program's own processes are called.
pub(crate) fn flags(json: bool) -> &'static [&'static str] {
    if json { &["--json"] } else { &[] }
}
