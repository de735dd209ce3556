//! `keywitness witness`: follow a manager's log, check everything again, and cosign it.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use keywitness_circuits::{Digest, params::Groth16Circuit};
use keywitness_manager::{
    audit::{Accepted, Checker},
    signer::note_key,
    witness::{LogSource, Witness, WitnessError},
};
use keywitness_verifier::{
    client::ManagerClient,
    log::{Algorithm, CheckpointPolicy, Note, Opening, VerifierKey},
    wire::{ProblemKind, Seals},
};

use crate::{
    Global, ceremony,
    connection::{Connection, patiently},
    data, output,
};

/// Follow a manager's log, check everything in it again, and cosign it (auditor).
///
/// A witness replays every command, checks every signature and every proof, and cosigns a checkpoint only if its own
/// replay comes to the same root and the log has only grown since the last one. Give the printed key to the manager's operator
/// (setting log.witnesses), and to everyone who relies on the log.
#[derive(clap::Args)]
#[command(
    after_help = "Example: keywitness witness --manager https://manager.acme.example --credential-file auditor.credential \
--log-key 'acme.example/manager-1+0f3c21a9+AQ...' --name witness.example/1 --state witness"
)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// The log's key, learned from its operator and not from the manager: `<origin>+<id>+<base64>`
    #[arg(long, value_name = "KEY", required_unless_present = "show_key")]
    log_key: Option<VerifierKey>,
    /// This witness's name
    #[arg(long, default_value = "witness.local/1")]
    name: String,
    /// Where this witness keeps its newest checkpoint and state, which only its user may read
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Its key (Ed25519, PKCS#8, PEM), made where there is none; `witness-key.pem` beside its state when left out
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Groth16 parameter files, for one key and for many, as far as the log has proofs under them
    #[arg(long, value_name = "FILE")]
    groth16_parameters: Vec<PathBuf>,
    /// Groth16 parameter files for many keys in one proof
    #[arg(long, value_name = "FILE")]
    groth16_many_parameters: Vec<PathBuf>,
    /// Print this witness's key, made where there is none, and end
    #[arg(long)]
    show_key: bool,
    /// Cosign once, and end
    #[arg(long)]
    once: bool,
    /// How often to come
    #[arg(long, default_value = "1m", value_name = "DURATION")]
    every: humantime::Duration,
}

struct Remote(ManagerClient);

impl LogSource for Remote {
    fn checkpoint(&self) -> Result<Note, String> {
        self.0.checkpoint().map_err(|error| error.to_string())
    }
    fn cosigned(&self) -> Result<Option<Note>, String> {
        match self.0.cosigned(1) {
            Ok(note) => Ok(Some(note)),
            Err(error) if error.problem_kind() == Some(ProblemKind::NotFound) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
    fn consistency(&self, from: u64, to: u64) -> Result<Vec<Digest>, String> {
        self.0.consistency(from, to).map(|proof| proof.hashes).map_err(|error| error.to_string())
    }
    fn openings(&self, after: u64) -> Result<Vec<Opening>, String> {
        patiently(|| self.0.openings(after)).map_err(|error| error.to_string())
    }
    fn seals(&self) -> Result<Seals, String> {
        patiently(|| self.0.seals()).map_err(|error| error.to_string())
    }
    fn cosign(&self, note: &Note) -> Result<(), String> {
        self.0.cosign(note).map_err(|error| error.to_string())
    }
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    data::make_dir(&args.state)?;
    let _lock = data::lock(&args.state.join("lock"))?;
    let key_file = args.key_file.clone().unwrap_or_else(|| args.state.join("witness-key.pem"));
    let name = key_file.file_name().and_then(|name| name.to_str()).context("--key-file names no file")?;
    let parent = key_file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.map_or_else(|| PathBuf::from("."), PathBuf::from);
    let key = note_key(&directory, name, &args.name, Algorithm::CosignatureV1)?;
    let public = key.verifier().to_string();
    if args.show_key {
        say!("{public}");
        return Ok(());
    }
    let log_key = args.log_key.clone().context("--log-key is missing")?;
    let origin = log_key.name().to_owned();
    let one = args.groth16_parameters.iter().map(|file| (Groth16Circuit::OneKey, file));
    let many = args.groth16_many_parameters.iter().map(|file| (Groth16Circuit::ManyKeys, file));
    let parameters = one.chain(many).map(|(circuit, file)| ceremony::read_parameters(global, circuit, file, None));
    let witness = Witness {
        key,
        policy: CheckpointPolicy::log_alone(log_key)?,
        directory: args.state.clone(),
        checker: Checker::new(parameters.collect::<anyhow::Result<Vec<_>>>()?)?,
        accepted: Accepted::default(),
    };
    let source = Remote(args.connection.client(global)?);
    let stop = keywitness_prover::Stop::new();
    output::stop_on_signal(&stop)?;
    if !global.json {
        say!("witness {public} of the log {origin}");
    }
    loop {
        match witness.round(&source, data::now()) {
            Ok(checkpoint) if global.json => output::json(&serde_json::json!({
                "witness": public, "origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root,
                "state": checkpoint.state,
            }))?,
            Ok(checkpoint) => say!("cosigned {} entries, root {}", checkpoint.size, checkpoint.root),
            // Somebody must look at these; trying again does not mend them.
            Err(WitnessError::Source(why)) if !args.once => tracing::warn!(%why, "not cosigned; trying again"),
            Err(error) => return Err(output::No(error.to_string()).into()),
        }
        let every: Duration = args.every.into();
        if args.once || stop.wait(every) {
            return Ok(());
        }
    }
}
