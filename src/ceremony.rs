//! `keywitness ceremony`: making Groth16 parameters among parties of whom one honest one is enough.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Subcommand;
use keywitness_circuits::{
    Digest,
    ceremony::{self, Beacon, Ceremony, CeremonyError, Phase, Source, Step, Verified},
    params::{Groth16Circuit, Groth16Parameters, Origin},
};
use zeroize::Zeroizing;

use crate::{Global, data, output};

/// Make Groth16 parameters together: nobody can forge proofs unless every contributor colludes.
///
/// One file goes from contributor to contributor. Each adds secrets to it, forgets them, publishes the digest that is
/// printed, and passes the file on. A beacon, a public value that nobody could know before, ends each of the two phases.
/// Whoever has the file checks all of it, from the first byte, with nobody's help.
#[derive(clap::Args)]
#[command(after_long_help = WALK)]
pub(crate) struct Args {
    #[command(subcommand)]
    step: CeremonyStep,
}

const WALK: &str = "\
The whole walk, with two contributors:

  coordinator   keywitness ceremony init ceremony.kw
  alice, bob    keywitness ceremony contribute ceremony.kw --name alice
                (phase 1; each publishes the digest, and passes the file on)
  coordinator   keywitness ceremony beacon ceremony.kw --value HEX
                (ends phase 1; a value announced in advance, such as the hash of a block yet to come)
  alice, bob    keywitness ceremony contribute ceremony.kw --name alice
                (phase 2)
  coordinator   keywitness ceremony beacon ceremony.kw --value HEX
                (ends phase 2)
  everyone      keywitness ceremony verify ceremony.kw --expect DIGEST
                (your own digest, of either phase: you were not left out)
  everyone      keywitness ceremony finish ceremony.kw --output groth16-parameters

Managers and agents take the output with --groth16-parameters; agents check it against the ceremony with
--groth16-ceremony, once, before they prove with it. Both are found as DATA/groth16-parameters and
DATA/groth16-ceremony. With init --ptau FILE, phase 1 comes from a file of powers of tau, as of snarkjs.

With init --circuit key-knowledge-many, the parameters are those of many keys in one proof. The walk is the same; the
file has some 20 MB, and every step takes minutes.";

#[derive(Subcommand)]
enum CeremonyStep {
    /// Begin a ceremony
    #[command(after_help = "Example: keywitness ceremony init ceremony.kw")]
    Init {
        /// The ceremony's file, which must not exist yet
        file: PathBuf,
        /// The circuit whose parameters are made: key-knowledge, of one key, or key-knowledge-many, of up to 64
        #[arg(long, default_value = "key-knowledge")]
        circuit: Groth16Circuit,
        /// Take phase 1 from a .ptau file (BN254, power 9 or more; for many keys 15 or more)
        #[arg(long, value_name = "FILE")]
        ptau: Option<PathBuf>,
    },
    /// Add your secrets to the phase that is open, and forget them
    #[command(after_help = "Example: keywitness ceremony contribute ceremony.kw --name alice")]
    Contribute {
        /// The ceremony's file
        file: PathBuf,
        /// The name that your contribution is listed under
        #[arg(long)]
        name: String,
        /// File with randomness of your own, mixed with this machine's; - for standard input
        #[arg(long, value_name = "FILE")]
        entropy_file: Option<PathBuf>,
    },
    /// End the phase that is open with a public value
    #[command(after_help = "Example: keywitness ceremony beacon ceremony.kw --value $(openssl rand -hex 32)")]
    Beacon {
        /// The ceremony's file
        file: PathBuf,
        /// The public value, in hexadecimal: 16 to 1,024 bytes, 32 to 2,048 digits; unpredictable until the last contribution was made
        #[arg(long, value_name = "HEX")]
        value: String,
        /// Hash it 2^N times
        #[arg(long, value_name = "N", default_value_t = 20)]
        log2_rounds: u8,
    },
    /// Check all of it, and list the contributions
    #[command(after_help = "Example: keywitness ceremony verify ceremony.kw --expect DIGEST")]
    Verify {
        /// The ceremony's file
        file: PathBuf,
        /// Digest of a contribution that must be in it; may be given again
        #[arg(long, value_name = "DIGEST")]
        expect: Vec<Digest>,
    },
    /// Check all of it, and write the parameter file
    #[command(after_help = "Example: keywitness ceremony finish ceremony.kw --output groth16-parameters")]
    Finish {
        /// The ceremony's file
        file: PathBuf,
        /// Where to write the parameters; must not exist yet
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.step {
        CeremonyStep::Init { file, circuit, ptau } => init(global, file, *circuit, ptau.as_deref()),
        CeremonyStep::Contribute { file, name, entropy_file } => {
            contribute(global, file, name, entropy_file.as_deref())
        }
        CeremonyStep::Beacon { file, value, log2_rounds } => end_phase(global, file, value, *log2_rounds),
        CeremonyStep::Verify { file, expect } => {
            let verified = verify(global, file)?;
            expect.iter().try_for_each(|digest| answer(verified.expect(digest)))?;
            tell(global, file, &verified)
        }
        CeremonyStep::Finish { file, output } => finish(global, file, output),
    }
}

fn init(global: &Global, file: &Path, circuit: Groth16Circuit, ptau: Option<&Path>) -> anyhow::Result<()> {
    let ceremony = match ptau {
        Some(ptau) => watched(global, |progress| Ceremony::from_ptau(circuit, ptau, progress))?,
        None => Ceremony::begin(circuit),
    };
    answer(ceremony.write(file, false))?;
    let digest = answer(ceremony.digest())?;
    if global.json {
        let phase = ceremony.phase().number();
        return output::json(&serde_json::json!({ "digest": digest, "circuit": circuit.name(), "phase": phase }));
    }
    say!("{} begins with {digest}, for the circuit {circuit}", file.display());
    tell_source(ceremony.source());
    say!("next: keywitness ceremony contribute {} --name NAME", file.display());
    Ok(())
}

fn contribute(global: &Global, file: &Path, name: &str, entropy: Option<&Path>) -> anyhow::Result<()> {
    let mut entropy_bytes = Zeroizing::new(Vec::new());
    match entropy {
        Some(path) if path.as_os_str() == "-" => {
            std::io::stdin().read_to_end(&mut entropy_bytes).context("cannot read standard input")?;
        }
        Some(path) => {
            *entropy_bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        }
        None => {}
    }
    let mut ceremony = answer(Ceremony::read(file))?;
    let phase = ceremony.phase();
    let digest = watched(global, |progress| ceremony.contribute(name, &entropy_bytes, progress))?;
    answer(ceremony.write(file, true))?;
    if global.json {
        return output::json(&serde_json::json!({ "name": name, "phase": phase.number(), "digest": digest }));
    }
    say!("{name} contributed to phase {}; the secrets are gone. Publish this digest:", phase.number());
    say!("{digest}");
    say!("then pass {} on", file.display());
    Ok(())
}

fn end_phase(global: &Global, file: &Path, value: &str, log2_rounds: u8) -> anyhow::Result<()> {
    let value = data_encoding::HEXLOWER_PERMISSIVE.decode(value.as_bytes());
    let beacon = answer(Beacon::new(value.context("the beacon's value is not hexadecimal")?, log2_rounds))?;
    let mut ceremony = answer(Ceremony::read(file))?;
    let ended = ceremony.phase();
    let digest = watched(global, |progress| ceremony.end_phase(beacon, progress))?;
    answer(ceremony.write(file, true))?;
    if global.json {
        return output::json(&serde_json::json!({ "phase": ended.number(), "digest": digest }));
    }
    say!("phase {} ends with {digest}", ended.number());
    match ceremony.phase() {
        Phase::Closed => {
            let output = match ceremony.circuit() {
                Groth16Circuit::OneKey => "groth16-parameters",
                Groth16Circuit::ManyKeys => "groth16-many-parameters",
            };
            say!("next: keywitness ceremony finish {} --output {output}", file.display());
        }
        _ => say!("phase 2 is open: keywitness ceremony contribute {} --name NAME", file.display()),
    }
    Ok(())
}

fn finish(global: &Global, file: &Path, path: &Path) -> anyhow::Result<()> {
    if path.try_exists()? {
        anyhow::bail!("{} exists already; choose another name", path.display());
    }
    let verified = verify(global, file)?;
    let parameters = answer(verified.parameters())?;
    parameters.write(path)?;
    if global.json {
        return output::json(&serde_json::json!({ "ceremony": verified.digest(), "parameters": parameters.digest(),
            "verifying_key": parameters.verifying_key_digest() }));
    }
    say!("{} holds the parameters of ceremony {}", path.display(), verified.digest());
    if verified.circuit() == Groth16Circuit::OneKey {
        say!("keywitness manager --groth16-parameters {} --pin-parameters {}", path.display(), parameters.digest());
    }
    Ok(())
}

fn verify(global: &Global, file: &Path) -> anyhow::Result<Verified> {
    let ceremony = answer(Ceremony::read(file))?;
    watched(global, |progress| ceremony.verify(progress))
}

fn tell(global: &Global, file: &Path, verified: &Verified) -> anyhow::Result<()> {
    if global.json {
        let entry = |entry: &ceremony::Entry| {
            let beacon = entry.beacon.as_ref().map(|beacon| {
                let value = data_encoding::HEXLOWER.encode(beacon.value());
                serde_json::json!({ "value": value, "log2_rounds": beacon.log2_rounds() })
            });
            serde_json::json!({ "phase": entry.phase.number(), "name": entry.name, "digest": entry.digest,
                "beacon": beacon })
        };
        let ptau = match verified.source() {
            Source::Own => None,
            Source::Ptau { powers, contributions } => {
                Some(serde_json::json!({ "powers": powers, "contributions": contributions, "proofs_checked": false }))
            }
        };
        return output::json(&serde_json::json!({ "digest": verified.digest(), "ptau": ptau,
            "circuit": verified.circuit().name(),
            "closed": verified.phase() == Phase::Closed,
            "contributions": verified.entries().iter().map(entry).collect::<Vec<_>>() }));
    }
    say!("{} verifies: {}", file.display(), verified.digest());
    say!("it is for the circuit {}", verified.circuit());
    tell_source(verified.source());
    for entry in verified.entries() {
        say!("phase {}  {}  {}", entry.phase.number(), entry.digest, entry.name);
        if let Some(beacon) = &entry.beacon {
            let value = data_encoding::HEXLOWER.encode(beacon.value());
            say!("         value {value}, hashed 2^{} times", beacon.log2_rounds());
        }
    }
    match verified.phase() {
        Phase::Closed => say!("it is closed, and makes parameters"),
        phase => say!("phase {} is open", phase.number()),
    }
    say!("trust it if you trust one contributor of each phase to have published the digest above and kept no secret");
    Ok(())
}

fn tell_source(source: &Source) {
    if let Source::Ptau { contributions, .. } = source {
        say!(
            "phase 1 is a .ptau file's, of {contributions} contributions: its powers were checked, the proofs of those"
        );
        say!("contributions were not; run snarkjs powersoftau verify on it");
    }
}

/// Reads a parameter file. Where there is a ceremony file, named or beside the data directory's parameters, they are
/// checked against it, element by element, the first time.
pub(crate) fn read_parameters(
    global: &Global,
    circuit: Groth16Circuit,
    parameters: &Path,
    named: Option<&Path>,
) -> anyhow::Result<Groth16Parameters> {
    let paths = data::Data(&global.data);
    let shared = paths.ceremony_of(circuit);
    let beside = parameters == paths.parameters_of(circuit) && shared.exists();
    let Some(file) = named.or(beside.then_some(&*shared)) else {
        let read = match circuit {
            Groth16Circuit::OneKey => Groth16Parameters::read(parameters)?,
            Groth16Circuit::ManyKeys => Groth16Parameters::read_many(parameters)?,
        };
        if let Origin::Ceremony(digest) = read.origin() {
            tracing::info!(%digest, "Groth16 parameters of a ceremony were not checked against its file");
        }
        return Ok(read);
    };
    let read = match circuit {
        Groth16Circuit::OneKey => ceremony::read_parameters,
        Groth16Circuit::ManyKeys => ceremony::read_parameters_many,
    };
    let checked = watched(global, |progress| read(parameters, file, progress));
    checked.with_context(|| format!("{} does not stand behind {}", file.display(), parameters.display()))
}

/// Runs a long step with a bar that tells how far it is.
fn watched<T>(
    global: &Global,
    work: impl FnOnce(ceremony::Progress<'_>) -> Result<T, CeremonyError>,
) -> anyhow::Result<T> {
    let bar = output::bar(global.json);
    let result = work(&|step: Step| {
        bar.set_message(step.name);
        bar.set_length(step.total);
        bar.set_position(step.done);
    });
    bar.finish_and_clear();
    answer(result)
}

/// A refusal is a no; a file that cannot be read or written is a failure.
fn answer<T>(result: Result<T, CeremonyError>) -> anyhow::Result<T> {
    result.map_err(|error| match error {
        CeremonyError::File(_) => error.into(),
        refusal => output::No(refusal.to_string()).into(),
    })
}
