//! `keywitness proof`: Groth16 proofs in snarkjs' JSON, for people who run none of our code.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use keywitness_circuits::{
    Digest, Envelope, Error, Kind, Parameters,
    codec::Canonical,
    key_knowledge::Instance,
    params::Groth16Parameters,
    registry,
    snarkjs::{Proof, PublicSignals, VerifyingKey},
};

use crate::{
    Global,
    data::{self, Data},
    output,
};

/// File names, which are those of snarkjs' own examples.
const PROOF: &str = "proof.json";
const PUBLIC: &str = "public.json";
const VERIFYING_KEY: &str = "verification_key.json";

/// Export a Groth16 proof to snarkjs' JSON, or check one.
///
/// Three files say all that a checker of the bare proof needs: `snarkjs groth16 verify verification_key.json public.json
/// proof.json`. They do not say who made the proof: that is the envelope's identity signature (`keywitness verify
/// envelope`).
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness proof export --envelope storage-1.envelope --out proof")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write an envelope's proof, its public inputs and the verifying key to a folder
    Export(ExportArgs),
    /// Check the three files of a folder, more strictly than snarkjs does
    Verify(VerifyArgs),
}

#[derive(clap::Args)]
#[command(after_help = "Example: keywitness proof export --envelope storage-1.envelope --out proof")]
struct ExportArgs {
    /// File with the envelope's bytes, as `keywitness attest --envelopes` keeps them; or - for standard input
    #[arg(long, value_name = "FILE")]
    envelope: PathBuf,
    /// Groth16 parameter file; DATA/groth16-parameters when left out
    #[arg(long, value_name = "FILE")]
    groth16_parameters: Option<PathBuf>,
    /// Folder for proof.json, public.json and verification_key.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(clap::Args)]
#[command(after_help = "Example: keywitness proof verify proof --envelope storage-1.envelope")]
struct VerifyArgs {
    /// Folder with proof.json, public.json and verification_key.json
    folder: PathBuf,
    /// The verifying key's digest that you have reason to trust, as `keywitness proof export` shows it
    #[arg(long, value_name = "DIGEST")]
    verifying_key: Option<Digest>,
    /// An envelope whose claim the public inputs must be
    #[arg(long, value_name = "FILE")]
    envelope: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Export(args) => export(global, args),
        Command::Verify(args) => verify(global, args),
    }
}

fn no(error: Error) -> output::No {
    output::No(error.to_string())
}

/// A Groth16 envelope, and the public inputs of its claim.
fn read_envelope(path: &Path) -> anyhow::Result<(Envelope, PublicSignals)> {
    let envelope = Envelope::from_bytes(&data::read(path)?).map_err(no)?;
    if envelope.context.statement != Kind::KeyKnowledgeGroth16.name() {
        let statement = output::printable(&envelope.context.statement);
        return Err(output::No(format!("the envelope's proof is of {statement}; snarkjs checks Groth16 proofs")).into());
    }
    let instance = Instance::from_bytes(&envelope.instance).map_err(no)?;
    let public = PublicSignals::of_claim(&envelope.context, &instance).map_err(no)?;
    Ok((envelope, public))
}

fn export(global: &Global, args: &ExportArgs) -> anyhow::Result<()> {
    let shared = || Data(&global.data).parameters();
    let parameters = Groth16Parameters::read(&args.groth16_parameters.clone().unwrap_or_else(shared))?;
    let key = VerifyingKey::of_parameters(&parameters);
    let parameters = Parameters::transparent().with_groth16(parameters);
    let (envelope, public) = read_envelope(&args.envelope)?;
    registry::verify(&parameters, &envelope.context, &envelope.instance, &envelope.proof).map_err(no)?;
    let proof = Proof::from_bytes(&envelope.proof)?;

    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    for (name, json) in [(PROOF, proof.to_json()), (PUBLIC, public.to_json()), (VERIFYING_KEY, key.to_json()?)] {
        let path = args.out.join(name);
        std::fs::write(&path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    if global.json {
        return output::json(&serde_json::json!({ "folder": args.out, "verifying_key": key.digest(),
            "envelope": envelope.digest() }));
    }
    say!("written to {}: {PROOF}, {PUBLIC}, {VERIFYING_KEY}", args.out.display());
    say!("verifying key {}", key.digest());
    say!("anyone checks it: snarkjs groth16 verify {VERIFYING_KEY} {PUBLIC} {PROOF}");
    Ok(())
}

fn verify(global: &Global, args: &VerifyArgs) -> anyhow::Result<()> {
    let file = |name: &str| data::read(&args.folder.join(name));
    let key = VerifyingKey::from_json(&file(VERIFYING_KEY)?).map_err(no)?;
    let public = PublicSignals::from_json(&file(PUBLIC)?).map_err(no)?;
    let proof = Proof::from_json(&file(PROOF)?).map_err(no)?;
    if args.verifying_key.is_some_and(|trusted| trusted != key.digest()) {
        return Err(output::No(format!("the verifying key is another: {}", key.digest())).into());
    }
    let claim = args.envelope.as_deref().map(read_envelope).transpose()?;
    if let Some((envelope, claimed)) = &claim {
        if *claimed != public {
            return Err(output::No("the public inputs are not those of the envelope's claim".to_owned()).into());
        }
        if envelope.context.verifying_key != key.digest() {
            return Err(output::No("the envelope's claim names another verifying key".to_owned()).into());
        }
    }
    key.verify(&public, &proof).map_err(no)?;
    if global.json {
        return output::json(&serde_json::json!({ "verifying_key": key.digest(),
            "envelope": claim.map(|(envelope, _)| envelope.digest()) }));
    }
    say!("the proof verifies under verifying key {}", key.digest());
    if args.verifying_key.is_none() {
        say!("whether that is the key in force, you must know: give --verifying-key DIGEST to compare");
    }
    match &claim {
        Some((envelope, _)) => say!("it proves the claim of {}, if its identity signature holds", envelope.context.hsm),
        None => say!("what its public inputs stand for, only an envelope can say: give --envelope FILE to compare"),
    }
    Ok(())
}
