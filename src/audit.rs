//! `keywitness audit`: fetch a manager's log, and verify all of it offline.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Subcommand;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use keywitness_circuits::{
    Digest, ManagerId, TrustDomain,
    params::{Groth16Parameters, Origin},
};
use keywitness_manager::audit::{
    Anchors, Archive, Checker, Commitment, FromSeal, Report, SAVE_EVERY, Verification, VerifyError, thumbprint,
};
use keywitness_verifier::{
    client::ManagerClient,
    log::{CheckpointPolicy, Note, VerifierKey},
};

use crate::{Global, connection::Connection, data, output};

/// Verify a manager's whole log: every signature, every proof and every decision again (auditor).
///
/// Without a subcommand, fetches what is new into a directory and verifies it. Nothing that the manager says is believed:
/// commands are applied anew, and their outcomes, sealed states and the log's root compared.
#[derive(clap::Args)]
#[command(
    after_help = "Example: keywitness audit --manager https://manager.example --credential-file auditor.credential \
                  --out audit --anchors anchors.json"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    connection: Connection,
    /// The directory to fetch into
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    wanted: Wanted,
    /// File with trust anchors that you have compared over another channel
    #[arg(long, value_name = "FILE")]
    anchors: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum What {
    /// Fetch the log's openings and newest checkpoint into a directory; goes on where it stopped
    #[command(after_help = "Example: keywitness audit fetch --credential-file auditor.credential --out audit")]
    Fetch {
        #[command(flatten)]
        connection: Connection,
        /// The directory to fetch into
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Verify a directory that was fetched, offline; goes on where it stopped
    #[command(after_help = "Example: keywitness audit verify audit --anchors anchors.json")]
    Verify {
        /// The directory
        directory: PathBuf,
        /// File with trust anchors that you have compared over another channel
        #[arg(long, value_name = "FILE")]
        anchors: PathBuf,
        #[command(flatten)]
        options: Options,
    },
    /// Write a file of trust anchors, as the manager tells them: compare it over another channel before you use it
    #[command(after_help = "Example: keywitness audit anchors --cosignatures 1 --out anchors.json")]
    Anchors {
        #[command(flatten)]
        connection: Connection,
        /// How many witnesses must have cosigned a checkpoint
        #[arg(long, default_value_t = 0)]
        cosignatures: usize,
        /// Where to write them
        #[arg(long, value_name = "FILE", default_value = "anchors.json")]
        out: PathBuf,
    },
    /// Make one file that shows what a token rests on, for machines that have never seen the manager
    Bundle(crate::bundle::Args),
}

/// What to fetch.
#[derive(clap::Args)]
pub(crate) struct Wanted {
    /// Fetch up to the newest checkpoint that so many witnesses have cosigned
    #[arg(long, default_value_t = 0)]
    pub(crate) cosignatures: usize,
    /// Begin with the newest state that the log seals, and rely on its root for all before it
    ///
    /// Where openings were deleted, fetching begins by itself with the oldest sealed state that reaches the rest.
    #[arg(long)]
    pub(crate) from_seal: bool,
}

/// How to verify.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// So many witnesses must have cosigned the checkpoint, where the anchors ask for fewer
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    require_cosignatures: usize,

    /// Groth16 parameter file of either circuit, for every one that the log has seen
    #[arg(long, value_name = "FILE")]
    groth16_parameters: Vec<PathBuf>,
    /// Pass even where proofs could not be checked for want of parameters
    #[arg(long)]
    allow_unchecked: bool,
    /// Begin with the first entry, whatever was verified before
    #[arg(long)]
    anew: bool,
}

/// Reads trust anchors; at least so many witnesses must have cosigned a checkpoint.
pub(crate) fn anchors(path: &Path, cosignatures: usize) -> anyhow::Result<Anchors> {
    let read = Anchors::from_json(&data::read(path)?);
    let mut anchors = read.map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    anchors.cosignatures = anchors.cosignatures.max(cosignatures);
    let named = anchors.witnesses.len();
    anyhow::ensure!(
        anchors.cosignatures <= named,
        "{cosignatures} cosignatures are asked for, and {} names {named} witnesses",
        path.display()
    );
    Ok(anchors)
}

/// What proofs are checked with.
pub(crate) fn checker(files: &[PathBuf]) -> anyhow::Result<Checker> {
    // A file of the other circuit is refused by the one, and read by the other.
    let read = |path: &PathBuf| Groth16Parameters::read(path).or_else(|_| Groth16Parameters::read_many(path));
    let parameters = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    if parameters.iter().any(|file| file.origin() == Origin::Development) {
        tracing::warn!("Groth16 parameters that one party made: whoever made them could forge proofs");
    }
    Ok(Checker::new(parameters)?)
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.what {
        Some(What::Fetch { connection, out, wanted }) => {
            crate::archive::fetch(global, &connection.client(global)?, out, wanted)
        }
        Some(What::Verify { directory, anchors, options }) => verify(global, directory, anchors, options),
        Some(What::Anchors { connection, cosignatures, out }) => {
            write_anchors(global, &connection.anyone(global)?, *cosignatures, out)
        }
        Some(What::Bundle(args)) => crate::bundle::run(global, args),
        None => {
            let (Some(out), Some(anchors)) = (&args.out, &args.anchors) else {
                anyhow::bail!(
                    "give --out DIR and --anchors FILE, or a subcommand; keywitness audit --help has an example"
                );
            };
            crate::archive::fetch(global, &args.connection.client(global)?, out, &args.wanted)?;
            verify(global, out, anchors, &args.options)
        }
    }
}

fn write_anchors(global: &Global, client: &ManagerClient, cosignatures: usize, out: &Path) -> anyhow::Result<()> {
    let (info, keys) = (client.trust_domain()?, client.log_key()?);
    let anchors = Anchors {
        trust_domain: info.trust_domain,
        manager: info.manager,
        log: keys.log,
        witnesses: keys.witnesses,
        cosignatures,
        token_keys: client.jwks()?.keys.iter().filter_map(thumbprint).collect(),
        verifying_keys: info.statements.iter().map(|statement| statement.verifying_key).collect(),
    };
    let text = serde_json::to_string_pretty(&anchors)?;
    let checked = Anchors::from_json(text.as_bytes()).map_err(output::No)?;
    fs::write(out, text + "\n").with_context(|| format!("cannot write {}", out.display()))?;
    if global.json {
        return output::json(&checked);
    }
    say!("wrote {}: what the manager at {} says of itself, and nothing more", out.display(), client.base());
    say!("compare each line with its operator over another channel before you rely on it:");
    say!("  manager         {} of {}", checked.manager, checked.trust_domain);
    say!("  log key         {}", checked.log);
    for witness in &checked.witnesses {
        say!("  witness         {witness}");
    }
    say!("  cosignatures    {} of {} witnesses", checked.cosignatures, checked.witnesses.len());
    for key in &checked.token_keys {
        say!("  token key       {key}");
    }
    for key in &checked.verifying_keys {
        say!("  verifying key   {key}");
    }
    say!("  the whole file  {}", checked.digest());
    Ok(())
}

/// Who must have signed a checkpoint, as the anchors say.
fn policy(anchors: &Anchors) -> anyhow::Result<CheckpointPolicy> {
    let witnesses = anchors.witnesses.iter().map(|key| key.parse()).collect::<Result<Vec<VerifierKey>, _>>()?;
    Ok(CheckpointPolicy::new(anchors.log.parse()?, witnesses, anchors.cosignatures)?)
}

fn verify(global: &Global, directory: &Path, anchors: &Path, args: &Options) -> anyhow::Result<()> {
    let anchors = self::anchors(anchors, args.require_cosignatures)?;
    let checker = checker(&args.groth16_parameters)?;
    let archive = Archive::at(directory);
    let note: Note =
        String::from_utf8(data::read(&archive.checkpoint())?).context("the checkpoint is not text")?.parse()?;
    let verified = policy(&anchors)?.verify(&note).map_err(|error| output::No(error.to_string()))?;
    let (size, root) = verified.tree();
    let checkpoint = Commitment { size, root: *root };
    let progress = progress_file(global, &anchors.trust_domain, &anchors.manager)?;
    if args.anew {
        let _ = fs::remove_file(&progress);
    }
    let verification = Verification {
        archive: &archive,
        checkpoint,
        checker: &checker,
        accepted: anchors.accepted(),
        anchors: anchors.digest(),
        progress: Some(progress),
        save_every: SAVE_EVERY,
    };
    let bar = entries_bar(global.json, size, "verifying");
    let result = verification.run(|done| bar.set_position(done));
    bar.finish_and_clear();
    match result {
        Ok(report) => tell(global, args, &report, verified.cosigned().len()),
        Err(VerifyError::Diverges(divergence)) => {
            let expired = archive.base()?;
            if global.json {
                let told =
                    serde_json::json!({ "verified": false, "divergence": divergence, "not_verified_through": expired });
                output::json(&told)?;
            } else if expired > 0 {
                say!("{}", relied(expired, verified.cosigned().len()));
            }
            Err(output::No(divergence.to_string()).into())
        }
        Err(error @ (VerifyError::Archive(_) | VerifyError::Audit(_) | VerifyError::Fault(_))) => Err(error.into()),
        Err(no) => Err(output::No(no.to_string()).into()),
    }
}

/// Where progress with a manager's log is kept: with this auditor's own files, as an archive may come from the manager.
pub(crate) fn progress_file(
    global: &Global,
    trust_domain: &TrustDomain,
    manager: &ManagerId,
) -> anyhow::Result<PathBuf> {
    let directory = global.data.join("audits");
    data::make_dir(&directory)?;
    Ok(directory.join(format!("{trust_domain}_{manager}.progress")))
}

fn tell(global: &Global, args: &Options, report: &Report, cosigned: usize) -> anyhow::Result<()> {
    let passes = report.complete() || args.allow_unchecked;
    if global.json {
        output::json(&serde_json::json!({ "verified": passes, "complete": report.complete(),
            "cosignatures": cosigned, "report": report }))?;
    } else {
        say!("{}", summary(report, cosigned));
    }
    let incomplete = || {
        let keys: Vec<_> = report.tally.unknown_keys.iter().map(Digest::to_string).collect();
        output::No(format!(
            "{} proofs could not be checked: give the parameters of verifying key {} with --groth16-parameters, or \
             --allow-unchecked",
            report.tally.unchecked(),
            keys.join(", ")
        ))
    };
    if passes { Ok(()) } else { Err(incomplete().into()) }
}

/// What an audit from a sealed state rests on.
fn relied(expired: u64, cosigned: usize) -> String {
    let by = match cosigned {
        0 => "nobody but the manager says so: no witness has cosigned the checkpoint".to_owned(),
        1 => "1 witness, who replayed the log, has cosigned the checkpoint that commits to it".to_owned(),
        count => format!("{count} witnesses, who replayed the log, have cosigned the checkpoint that commits to it"),
    };
    format!(
        "entries 1 to {expired} are not in this archive and were NOT verified: this audit relies on the root of the state \
         after them; {by}"
    )
}

fn summary(report: &Report, cosigned: usize) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let tally = &report.tally;
    for (command, count) in &tally.commands {
        table.add_row([command.clone(), count.to_string()]);
    }
    for (statement, counts) in &tally.proofs {
        let mut said = format!("{} verify, {} rightly refused", counts.verified, counts.refused);
        if counts.not_judged > 0 {
            said += &format!(", {} not looked at, as the envelope was wrong", counts.not_judged);
        }
        if counts.unchecked > 0 {
            said += &format!(", {} NOT CHECKED", counts.unchecked);
        }
        table.add_row([format!("proofs, {statement}"), said]);
    }
    table.add_row(["refusals".to_owned(), tally.refusals.to_string()]);
    table.add_row(["identity signatures".to_owned(), format!("{} verify", tally.signatures)]);
    table.add_row(["sealed states".to_owned(), format!("{} recomputed", tally.seals)]);
    let time = report
        .covers()
        .map_or_else(String::new, |(from, to)| format!("{} to {}", output::time(from), output::time(to)));
    table.add_row(["time".to_owned(), time]);
    let Commitment { size, root } = report.checkpoint;
    table.add_row(["log".to_owned(), format!("{size} entries, root {root}, cosigned by {cosigned}")]);
    if let Some(FromSeal { sequence, root, entry, .. }) = report.from_seal {
        table.add_row([
            "began with".to_owned(),
            format!("the state after entry {sequence}, root {root}, named by entry {entry}"),
        ]);
        table.add_row(["not verified".to_owned(), format!("entries 1 to {sequence}")]);
    }
    table.add_row(["divergences".to_owned(), "none".to_owned()]);
    let table = table.trim_fmt();
    match report.from_seal {
        Some(seal) => format!("{table}\n{}", relied(seal.sequence, cosigned)),
        None => table,
    }
}

pub(crate) fn entries_bar(quiet: bool, entries: u64, what: &'static str) -> ProgressBar {
    let bar = output::bar(quiet);
    bar.set_length(entries);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {bar:30} {human_pos}/{human_len} entries, {per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}
