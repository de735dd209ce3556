//! `keywitness manager`: the service that checks proofs, keeps records and issues tokens.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use keywitness_circuits::{
    Parameters, Suite,
    params::{Groth16Circuit, Groth16Parameters},
};
use keywitness_manager::{Config, Manager, Settings, SteadyClock, http, settings::LogFormat};

use crate::{Global, ceremony, config, data, output, signer};

/// Run a manager: it checks proofs, keeps records, issues tokens.
///
/// At first start it makes the keys of its tokens and log in DATA/signer, which are used by a process of their own that it
/// starts (`keywitness signer --help`), and its database and an operator credential in DATA/manager. It listens on loopback; beyond it, it speaks TLS with a certificate of its own authority (DATA/manager/manager.ca.pem), and refuses
/// Groth16 parameters that one party made.
///
/// Every setting can be in a file (`keywitness config example` prints one); these flags and the environment go before it.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness --data /var/lib/keywitness manager --trust-domain acme.example")]
pub(crate) struct Args {
    /// The file with its settings; DATA/manager.toml when left out, if it is there
    #[arg(long, value_name = "FILE", env = config::FILE_VARIABLE)]
    config: Option<PathBuf>,
    /// The name of everything this manager speaks for, such as acme.example
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// This manager's name [default: manager-1]
    #[arg(long, value_name = "NAME")]
    manager_id: Option<String>,
    /// Where to listen [default: 127.0.0.1:8470]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Suites in which a symmetric key must be proven [default: halo2-pasta,groth16-bn254]; may be given again
    #[arg(long, value_name = "SUITES")]
    suites: Vec<String>,
    /// Groth16 parameter file; DATA/groth16-parameters when left out, made for development where there is none
    #[arg(long, value_name = "FILE")]
    groth16_parameters: Option<String>,
    /// Parameter file for up to 64 keys in one Groth16 proof; DATA/groth16-many-parameters where there is one
    ///
    /// Without it, HSMs prove in that suite one key at a time.
    #[arg(long, value_name = "FILE")]
    groth16_many_parameters: Option<String>,
    /// Digest of a Groth16 parameter file that you have reason to trust; needed beyond loopback, once for each file
    #[arg(long, value_name = "DIGEST")]
    pin_parameters: Vec<String>,
    /// Use parameters that one party made even beyond loopback: whoever made them could forge proofs
    #[arg(long)]
    allow_development_parameters: bool,
    /// Speak plain HTTP beyond loopback, since TLS ends in a proxy in front
    #[arg(long)]
    allow_plaintext: bool,
    /// How long a record lasts [default: 10m]
    #[arg(long, value_name = "DURATION")]
    record_ttl: Option<String>,
    /// How long a challenge can be answered [default: 1m]
    #[arg(long, value_name = "DURATION")]
    challenge_ttl: Option<String>,
    /// How long a token lasts at most [default: 5m]
    #[arg(long, value_name = "DURATION")]
    token_ttl: Option<String>,
    /// How the log is written to standard error: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    #[command(flatten)]
    tls: Tls,
    #[command(flatten)]
    verification: Verification,
    #[command(flatten)]
    over: config::Over,
}

impl Args {
    /// What these flags set.
    fn flags(&self) -> Vec<(String, String)> {
        let switch = |on: bool| on.then(|| "true".to_owned());
        let count = |count: Option<NonZeroUsize>| count.map(|count| count.to_string());
        let several = |values: &[String]| Some(values.join(",")).filter(|values| !values.is_empty());
        let given = [
            ("manager.trust-domain", self.trust_domain.clone()),
            ("manager.id", self.manager_id.clone()),
            ("listen.address", self.listen.clone()),
            ("listen.allow-plaintext", switch(self.allow_plaintext)),
            ("records.ttl", self.record_ttl.clone()),
            ("records.challenge-ttl", self.challenge_ttl.clone()),
            ("tokens.ttl", self.token_ttl.clone()),
            ("verification.suites", several(&self.suites)),
            ("verification.groth16-parameters", self.groth16_parameters.clone()),
            ("verification.groth16-many-parameters", self.groth16_many_parameters.clone()),
            ("verification.pin-parameters", several(&self.pin_parameters)),
            ("verification.allow-development-parameters", switch(self.allow_development_parameters)),
            ("verification.threads", count(self.verification.verify_threads)),
            ("verification.queue", count(self.verification.verify_queue)),
            ("tls.mode", self.tls.tls.clone()),
            ("tls.names", several(&self.tls.tls_name)),
            ("tls.certificate", self.tls.tls_certificate.clone()),
            ("tls.key", self.tls.tls_key.clone()),
            ("tls.client-ca", self.tls.tls_client_ca.clone()),
            ("log.format", self.log_format.clone()),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        given.chain(self.over.pairs()).collect()
    }
}

/// How the manager speaks TLS.
#[derive(clap::Args)]
struct Tls {
    /// When to speak TLS: always, auto (beyond loopback, unless --allow-plaintext), or off [default: auto]
    #[arg(long, value_name = "WHEN")]
    tls: Option<String>,
    /// A name or address by which the manager is called, for its own certificate; may be given again
    #[arg(long, value_name = "NAME")]
    tls_name: Vec<String>,
    /// Certificate chain in PEM, instead of one by the manager's own authority; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<String>,
    /// The key of --tls-certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<String>,
    /// Authority of client certificates in PEM, instead of the manager's own
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<String>,
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

/// How this machine reaches a listener.
pub(crate) fn reachable(address: SocketAddr, secure: bool) -> String {
    let scheme = if secure { "https" } else { "http" };
    match address {
        any if any.ip().is_unspecified() => format!("{scheme}://127.0.0.1:{}", any.port()),
        address => format!("{scheme}://{address}"),
    }
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let settings = config::load(global, args.config.clone(), &args.flags())?.settings;
    output::init_logging(global.json || settings.log_format == LogFormat::Json, Some(&settings.log_filter));
    data::make_dir(&global.data)?;
    let paths = data::Data(&global.data);
    let _lock = data::lock(&paths.manager_lock())?;
    let mut config = settings.config()?;
    let mut address_file = data::open_private(&paths.manager_address())?;
    develop_parameters(global, &settings, &config)?;
    // Before this process has a second thread.
    let signer = signer::of_manager(global, &settings, &config)?;
    let parameters = parameters(global, &settings, &config)?;
    config.check_bind(settings.listen, &parameters)?;
    let trust_domain = config.trust_domain.clone();
    let secure = config.speaks_tls(settings.listen);
    let own = secure && config.tls.certificate.is_none();
    let listener =
        TcpListener::bind(settings.listen).with_context(|| format!("cannot listen on {}", settings.listen))?;
    let listening = reachable(listener.local_addr()?, secure);
    if config.public_url.is_none() && settings.listen.ip().is_unspecified() {
        tracing::warn!(
            "tokens will say that their status is told at {listening}, where nobody elsewhere finds it: set tokens.public-url"
        );
    }
    config.public_url.get_or_insert(listening);
    let clock = Arc::new(SteadyClock::default());
    let manager = Arc::new(Manager::open_with_signer(config, parameters, clock, signer)?);
    let operator = manager.operator_credential_path();
    let background = manager.background()?;
    let stop = keywitness_prover::Stop::new();
    output::stop_on_signal(&stop)?;
    let authority = manager.authority().path().to_owned();
    let server = http::serve(Arc::clone(&manager), listener)?;
    let address = reachable(server.address(), server.is_secure());
    let written = address_file.set_len(0).and_then(|()| address_file.write_all(address.as_bytes()));
    written.with_context(|| format!("cannot write {}", paths.manager_address().display()))?;
    if global.json {
        let document = serde_json::json!({ "address": address, "operator_credential": operator.exists().then_some(&operator), "ca": authority });
        output::json(&document)?;
    } else {
        say!("manager of {} at {address}", trust_domain);
        if operator.exists() {
            say!("operator credential: {}", operator.display());
        } else {
            say!(
                "operator credential: not here; those that the store knows are good, after a restoration those of the backup"
            );
        }
        if own {
            say!("authority of its certificate, for --manager-ca: {}", authority.display());
        }
    }
    tell_service_manager(&[sd_notify::NotifyState::Ready]);
    while !stop.wait(Duration::from_secs(3600)) {}
    tell_service_manager(&[sd_notify::NotifyState::Stopping]);
    // Whoever balances load sees first that this manager is not ready, and is still answered meanwhile.
    manager.drain();
    std::thread::sleep(Duration::from_secs(settings.drain));
    let stopped = server.stop();
    drop(background);
    // The last that holds the manager: its ledger writes what was submitted, and ends.
    drop(manager);
    tracing::info!("stopped");
    Ok(stopped?)
}

/// Tells systemd, where it started this process and wants to be told.
fn tell_service_manager(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Whether there are no Groth16 parameters, and some are to be made here.
fn lacks_parameters(global: &Global, settings: &Settings, config: &Config) -> anyhow::Result<bool> {
    let wanted = config.suites.contains(&Suite::Groth16Bn254) && settings.groth16_parameters.is_none();
    if !wanted || data::Data(&global.data).parameters().exists() {
        return Ok(false);
    }
    if !settings.listen.ip().is_loopback() && !config.allow_development_parameters {
        anyhow::bail!(
            "there are no Groth16 parameters here, and whoever makes them alone could forge proofs: require only halo2 \
             (--suites halo2-pasta), give a file that you have reason to trust (--groth16-parameters FILE \
             --pin-parameters DIGEST), or, for a demonstration, --allow-development-parameters"
        );
    }
    Ok(true)
}

/// Whether a manager with these settings would start, as far as that can be known before it does.
pub(crate) fn check(global: &Global, settings: &Settings) -> anyhow::Result<()> {
    let config = settings.config()?;
    let parameters = match lacks_parameters(global, settings, &config)? {
        // Those that it would make are not refused.
        true => Parameters::transparent(),
        false => parameters(global, settings, &config)?,
    };
    Ok(config.check_bind(settings.listen, &parameters)?)
}

/// Makes development parameters, where they are wanted and there are none: in threads that end with it.
fn develop_parameters(global: &Global, settings: &Settings, config: &Config) -> anyhow::Result<()> {
    if !lacks_parameters(global, settings, config)? {
        return Ok(());
    }
    rayon::ThreadPoolBuilder::new().build()?.install(|| groth16(global, None))?;
    Ok(())
}

/// The parameters that the settings name.
fn parameters(global: &Global, settings: &Settings, config: &Config) -> anyhow::Result<Parameters> {
    let parameters = Parameters::transparent();
    if !config.suites.contains(&Suite::Groth16Bn254) {
        return Ok(parameters);
    }
    let paths = data::Data(&global.data);
    let file = settings.groth16_parameters.as_deref();
    let parameters = parameters.with_groth16(groth16(global, file)?);
    let shared = paths.parameters_of(Groth16Circuit::ManyKeys);
    match settings.groth16_many_parameters.clone().or_else(|| shared.exists().then_some(shared)) {
        Some(file) => {
            Ok(parameters.with_groth16_many(ceremony::read_parameters(global, Groth16Circuit::ManyKeys, &file, None)?))
        }
        None => Ok(parameters),
    }
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
