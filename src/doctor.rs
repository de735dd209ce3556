//! `keywitness agent doctor`: how well an agent's keys are kept from the rest of this machine.

use std::{fs::File, path::Path};

use anyhow::Context;
use keywitness_isolation::{
    Gap, Gaps, confine,
    confine::Protection,
    examine::{Attempt, Known, look_at},
    memory::Kept,
};
use keywitness_prover::{
    SoftwareStore, Unlock, create_key_file,
    process::{Examination, Planted, Remote, Secrets, Spec, TokenSpec},
};
use serde::Serialize;

use crate::{Global, data, output, prover};

/// See how well an agent's keys are kept from the rest of this machine
///
/// Starts a proving process exactly as an agent does, with a key store made for it in the data directory. That process tries what it must not be
/// able to do, and this one looks at it from outside and tries to read its memory and its store. Ends with exit code 1 where something is not in
/// force, and says what to do about it.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness agent doctor --json")]
pub(crate) struct Args {
    /// Examine the looser profile that is in force beside a PKCS#11 library, which may read files and make any memory code
    #[arg(long, value_name = "FILE")]
    for_pkcs11_module: Option<std::path::PathBuf>,
    /// Leave the process unconfined, which has to show
    #[arg(long, hide = true)]
    unconfined: bool,
}

/// One protection.
#[derive(Serialize)]
struct Finding {
    /// What is protected, or from what.
    protection: String,
    in_force: bool,
    /// What was seen.
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

impl Finding {
    fn new(protection: impl Into<String>, in_force: bool, why: impl Into<String>, advice: &'static str) -> Self {
        let advice = (!in_force).then_some(advice);
        Self { protection: protection.into(), in_force, why: why.into(), advice }
    }
}

/// Removed with the store that was made for the examination.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a directory of the examination is left behind; remove it");
        }
    }
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    data::make_dir(&global.data)?;
    let directory = std::path::absolute(&global.data)?.join(format!("doctor-{}", std::process::id()));
    data::make_dir(&directory)?;
    let scratch = Scratch(directory);
    let spec = scratch_spec(&scratch.0, args)?;
    let flags = prover::flags(global.json);
    let process = Remote::spawn(Path::new(prover::PROGRAM), flags, &spec, &Secrets::default())?;
    let known = Known::find(&scratch.0).context("there is nothing to try")?;
    // Now as an agent does, which speaks to the network from here on.
    let gaps = match args.unconfined {
        true => Gaps::default(),
        false => confine::single_thread().and(confine::hide(&spec.hidden(), std::slice::from_ref(&global.data)).1),
    };
    let mut findings = findings(&process, &spec)?;
    findings.extend(agent(&known, &gaps));
    drop(process);
    drop(scratch);
    let missing = findings.iter().filter(|finding| !finding.in_force).count();
    if global.json {
        output::json(&serde_json::json!({ "protections": findings, "whole": missing == 0 }))?;
    } else {
        show(&findings);
    }
    match missing {
        0 => Ok(()),
        _ => Err(output::No(format!("{missing} of {} protections are not in force", findings.len())).into()),
    }
}

/// A key store of its own: that of an agent which runs is in use.
fn scratch_spec(directory: &Path, args: &Args) -> anyhow::Result<Spec> {
    let (store, key_file) = (directory.join("store"), directory.join("store.key"));
    create_key_file(&key_file)?;
    drop(SoftwareStore::create(&store, &Unlock::KeyFile(key_file.clone()))?);
    let token = args.for_pkcs11_module.clone().map(|module| TokenSpec { module, ..TokenSpec::default() });
    Ok(Spec {
        store,
        write: true,
        key_file: Some(key_file),
        token,
        threads: Some(1),
        planted: if args.unconfined { Planted::Unconfined } else { Planted::ProfileAlone },
        ..Spec::default()
    })
}

fn findings(process: &Remote, spec: &Spec) -> anyhow::Result<Vec<Finding>> {
    let found = process.examine().context("the proving process does not answer")?;
    let outside = look_at(found.pid).context("the proving process cannot be looked at")?;
    let mut findings = vec![Finding::new(
        "keys in a process of their own",
        found.pid != std::process::id(),
        format!("process {}, with {} kB of memory", found.pid, outside.resident_kilobytes),
        "run the agent without --isolation off",
    )];
    findings.extend(attempts(&found));
    let own = if found.own_files { "a file was made there, and removed" } else { "no file can be made there" };
    let advice = "make the store's directory writable for the agent's user";
    findings.push(Finding::new("the store's own directory can be written", found.own_files, own, advice));
    let from_outside = [
        (outside.no_core, Protection::CoreDumps, "it leaves no core dump", "the limit on core files"),
        (outside.memory_refused, Protection::Memory, "its memory is closed to the agent", "opening /proc/PID/mem"),
        (outside.no_new_privileges, Protection::Privileges, "it gains no privileges", "NoNewPrivs of /proc/PID/status"),
        (outside.filtered, Protection::Calls, "its system calls are filtered", "Seccomp of /proc/PID/status"),
    ];
    for (in_force, protection, what, how) in from_outside {
        findings.push(Finding::new(what, in_force, format!("as seen by {how}"), protection.advice()));
    }
    let closed =
        [Some(&spec.store), spec.key_file.as_ref()].into_iter().flatten().all(|path| File::open(path).is_err());
    let (what, how) = ("store and key file are closed to the agent", "opening them from here");
    findings.push(Finding::new(what, closed, how, Protection::Files.advice()));
    findings.extend(secrets(&found, outside.locked_kilobytes));
    Ok(findings)
}

/// What the agent has given up, which this process is now as.
fn agent(known: &Known, gaps: &Gaps) -> Vec<Finding> {
    let gap = |protection| gaps.0.iter().find(|gap| gap.protection == protection).map(|gap| format!(": {}", gap.why));
    let tried = Attempt::OF_NETWORK.into_iter().map(|attempt| {
        let (refused, protection) = (attempt.is_refused(known), attempt.protection());
        let why =
            if refused { "tried in an agent's place, and refused" } else { "tried in an agent's place, and done" };
        let why = format!("{why}{}", gap(protection).filter(|_| !refused).unwrap_or_default());
        Finding::new(format!("the agent cannot {attempt}"), refused, why, protection.advice())
    });
    tried.collect()
}

fn attempts(found: &Examination) -> impl Iterator<Item = Finding> {
    found.attempts.iter().map(|(attempt, refused)| {
        let why = if *refused { "tried inside, and refused" } else { "tried inside, and done" };
        Finding::new(format!("it cannot {attempt}"), *refused, why, attempt.protection().advice())
    })
}

fn secrets(found: &Examination, locked: u64) -> [Finding; 2] {
    let (kept, why) = match found.secrets {
        Kept::Secret => (true, "memory of memfd_secret, out of the kernel's own reach too"),
        Kept::Locked => {
            (true, "locked; the kernel has no memfd_secret, or the limit on locked memory is too low for it")
        }
        Kept::Swappable => (false, "they can be swapped"),
    };
    let swap = found.gaps.iter().find(|gap: &&Gap| gap.protection == Protection::Swap);
    let worked_on = swap.map_or_else(|| format!("no swap, or {locked} kB locked"), |gap| gap.why.clone());
    [
        Finding::new("secrets at rest are locked in memory", kept, why, Protection::Swap.advice()),
        Finding::new("what proofs work on is never swapped", swap.is_none(), worked_on, Protection::Swap.advice()),
    ]
}

fn show(findings: &[Finding]) {
    let mut table = output::table(["protection", "in force", "because"]);
    for Finding { protection, in_force, why, .. } in findings {
        table.add_row([protection.as_str(), if *in_force { "yes" } else { "NO" }, why.as_str()]);
    }
    say!("{table}");
    for finding in findings {
        if let Some(advice) = finding.advice {
            say!("{}: {advice}", finding.protection);
        }
    }
}
