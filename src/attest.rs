//! `keywitness attest`: attest keys once, now.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use anyhow::Context;
use keywitness_circuits::KeyId;
use keywitness_prover::{Access, AgentConfig};

use crate::{
    Global,
    agent::{Left, Place, directory_of},
    data, output,
};

/// Attest keys once, now, and exit.
///
/// For scripts and for trying things out; `keywitness agent` keeps keys attested. Ends with exit code 1 if any key was
/// refused.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness attest --store hsm-1/store --key signing-1")]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    /// Only this key; may be given again
    #[arg(long = "key")]
    keys: Vec<KeyId>,
    /// File with a line for each attempt
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Folder that keeps each accepted envelope, for `keywitness verify envelope` and `keywitness proof export`
    #[arg(long, value_name = "DIR")]
    envelopes: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let exists = args.place.store.file()?.exists();
    if let Some(journal) = args.journal.as_ref().filter(|_| exists) {
        drop(data::open_private(journal)?);
    }
    if let Some(envelopes) = &args.envelopes {
        let made = std::fs::create_dir_all(envelopes);
        made.with_context(|| format!("cannot make the folder {}", envelopes.display()))?;
    }
    let writable = args.journal.as_deref().map(directory_of).into_iter().chain(args.envelopes.clone()).collect();
    let store = args.place.open(global, Access::Write, Left { writable, ..Left::default() })?;
    let config =
        AgentConfig { journal: args.journal.clone(), envelopes: args.envelopes.clone(), ..AgentConfig::default() };
    let agent = args.place.agent(global, Arc::clone(&store), config, |told| told)?;
    let wanted = |key: &KeyId| args.keys.is_empty() || args.keys.contains(key);
    let spinner = output::spinner(global.json, "attesting");
    let reports = agent.attest_once(|entry, _| wanted(&entry.key.key))?;
    spinner.finish_and_clear();
    let refused = reports.iter().filter(|report| report.result.is_err()).count();
    if global.json {
        let documents: Vec<_> = reports
            .iter()
            .map(|report| {
                serde_json::json!({ "key": report.key, "statement": report.kind, "record": report.result.as_ref().ok(),
                    "error": report.result.as_ref().err().map(ToString::to_string) })
            })
            .collect();
        output::json(&documents)?;
    }
    match (reports.len(), refused) {
        (0, _) => {
            let names: BTreeSet<_> = store.keys().into_iter().map(|entry| entry.key.key.to_string()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { Vec::from_iter(names).join(", ") };
            Err(output::No(format!("the store holds no such key to attest; it has {names}")).into())
        }
        (_, 0) => Ok(()),
        (all, refused) => Err(output::No(format!("{refused} of {all} attestations failed")).into()),
    }
}
