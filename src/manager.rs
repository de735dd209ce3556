//! `keywitness manager`: the service that checks proofs, keeps records and issues tokens.

use std::{
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use keywitness_circuits::{
    Digest, ManagerId, Parameters, Suite, TrustDomain,
    params::{Groth16Circuit, Groth16Parameters},
};
use keywitness_manager::{Config, Manager, SystemClock, http};

use crate::{Global, ceremony, data, output};

/// Run a manager: it checks proofs, keeps records, issues tokens.
///
/// At first start it makes its token key, its database and an operator credential in DATA/manager. It listens on
/// loopback; beyond it, it wants to be told that TLS ends in front of it, and refuses Groth16 parameters that one
/// party made.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness --data /var/lib/keywitness manager --trust-domain acme.example")]
pub(crate) struct Args {
    /// The name of everything this manager speaks for, such as acme.example
    #[arg(long)]
    trust_domain: TrustDomain,
    /// This manager's name
    #[arg(long, default_value = "manager-1")]
    manager_id: ManagerId,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8470", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Suites in which a symmetric key must be proven: halo2-pasta, groth16-bn254
    #[arg(long, value_delimiter = ',', default_value = "halo2-pasta,groth16-bn254", value_parser = suite)]
    suites: Vec<Suite>,
    /// Groth16 parameter file; DATA/groth16-parameters when left out, made for development where there is none
    #[arg(long, value_name = "FILE")]
    groth16_parameters: Option<PathBuf>,
    /// Parameter file for up to 64 keys in one Groth16 proof; DATA/groth16-many-parameters where there is one
    ///
    /// Without it, HSMs prove in that suite one key at a time.
    #[arg(long, value_name = "FILE")]
    groth16_many_parameters: Option<PathBuf>,
    /// Digest of a Groth16 parameter file that you have reason to trust; needed beyond loopback, once for each file
    #[arg(long, value_name = "DIGEST")]
    pin_parameters: Vec<Digest>,
    /// Use parameters that one party made even beyond loopback: whoever made them could forge proofs
    #[arg(long)]
    allow_development_parameters: bool,
    /// Speak plain HTTP beyond loopback, since TLS ends in a proxy in front
    #[arg(long)]
    allow_plaintext: bool,
    /// How long a record lasts
    #[arg(long, default_value = "10m", value_name = "DURATION")]
    record_ttl: humantime::Duration,
    /// How long a challenge can be answered
    #[arg(long, default_value = "1m", value_name = "DURATION")]
    challenge_ttl: humantime::Duration,
    /// How long a token lasts at most
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    token_ttl: humantime::Duration,
    #[command(flatten)]
    verification: Verification,
}

/// How proofs are checked.
#[derive(clap::Args)]
pub(crate) struct Verification {
    /// Threads that check proofs; as many as there are cores when left out
    ///
    /// Proofs that arrive together are checked together, so more of them cost little more. Give fewer threads where
    /// other services need the machine.
    #[arg(long, value_name = "COUNT")]
    verify_threads: Option<NonZeroUsize>,
    /// How many proofs may wait to be checked; 128 for each core, but 256 to 1,024, when left out
    ///
    /// One HSM's are at most an eighth of them. Whoever finds no room is answered at once with status 503 and a time to
    /// come back, which agents keep to.
    #[arg(long, value_name = "COUNT")]
    verify_queue: Option<NonZeroUsize>,
}

impl Verification {
    /// The configuration with these settings.
    pub(crate) fn apply(&self, mut config: Config) -> Config {
        config.verify_threads = self.verify_threads.map_or(config.verify_threads, NonZeroUsize::get);
        config.verify_queue = self.verify_queue.map_or(config.verify_queue, NonZeroUsize::get);
        config
    }
}

fn suite(text: &str) -> Result<Suite, String> {
    match Suite::ALL.into_iter().find(|suite| suite.name() == text) {
        Some(Suite::PublicKey | Suite::Halo2PastaTag) | None => Err("use halo2-pasta or groth16-bn254".to_owned()),
        Some(suite) => Ok(suite),
    }
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    data::make_dir(&global.data)?;
    let paths = data::Data(&global.data);
    let _lock = data::lock(&paths.manager_lock())?;
    let mut parameters = Parameters::transparent();
    if args.suites.contains(&Suite::Groth16Bn254) {
        let file = args.groth16_parameters.as_deref();
        let missing = file.is_none() && !paths.parameters().exists();
        if missing && !args.listen.ip().is_loopback() && !args.allow_development_parameters {
            anyhow::bail!(
                "there are no Groth16 parameters here, and whoever makes them alone could forge proofs: require only \
                 halo2 (--suites halo2-pasta), give a file that you have reason to trust (--groth16-parameters FILE \
                 --pin-parameters DIGEST), or, for a demonstration, --allow-development-parameters"
            );
        }
        parameters = parameters.with_groth16(groth16(global, file)?);
        let shared = paths.parameters_of(Groth16Circuit::ManyKeys);
        if let Some(file) = args.groth16_many_parameters.clone().or_else(|| shared.exists().then_some(shared)) {
            let many = ceremony::read_parameters(global, Groth16Circuit::ManyKeys, &file, None)?;
            parameters = parameters.with_groth16_many(many);
        }
    }
    let config = Config {
        suites: args.suites.clone(),
        record_ttl: args.record_ttl.as_secs(),
        challenge_ttl: args.challenge_ttl.as_secs(),
        token_ttl: args.token_ttl.as_secs(),
        allow_development_parameters: args.allow_development_parameters,
        allow_plaintext: args.allow_plaintext,
        pinned_parameters: args.pin_parameters.clone(),
        ..Config::new(paths.manager(), args.trust_domain.clone(), args.manager_id.clone())
    };
    let config = args.verification.apply(config);
    config.check_bind(args.listen, &parameters)?;
    let listener = TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    let manager = Arc::new(Manager::open(config, parameters, Arc::new(SystemClock))?);
    let operator = manager.operator_credential_path();
    let server = http::serve(manager, listener)?;
    let address = match server.address() {
        any if any.ip().is_unspecified() => format!("http://127.0.0.1:{}", any.port()),
        address => format!("http://{address}"),
    };
    data::write_private(&paths.manager_address(), &address)?;
    if global.json {
        output::json(&serde_json::json!({ "address": address, "operator_credential": operator }))?;
    } else {
        say!("manager of {} at {address}", args.trust_domain);
        say!("operator credential: {}", operator.display());
    }
    let stop = keywitness_prover::Stop::new();
    output::stop_on_signal(&stop)?;
    while !stop.wait(Duration::from_secs(3600)) {}
    Ok(server.stop()?)
}

/// Reads the Groth16 parameters; makes development ones in the data directory where no file is named. Those of the data
/// directory are checked against DATA/groth16-ceremony where it exists.
pub(crate) fn groth16(global: &Global, file: Option<&std::path::Path>) -> anyhow::Result<Groth16Parameters> {
    match file {
        Some(file) => ceremony::read_parameters(global, Groth16Circuit::OneKey, file, None),
        None => {
            let path = data::Data(&global.data).parameters();
            if path.exists() {
                return ceremony::read_parameters(global, Groth16Circuit::OneKey, &path, None);
            }
            let spinner = output::spinner(global.json, "preparing Groth16 parameters");
            let (parameters, made) = Groth16Parameters::read_or_develop(&path)?;
            spinner.finish_and_clear();
            if made {
                eprintln!(
                    "made Groth16 parameters for development, {} (SHA-256 {}): whoever can read this machine could have \
                     kept what forges proofs",
                    path.display(),
                    parameters.digest()
                );
            }
            Ok(parameters)
        }
    }
}
