//! `keywitness up`: a manager and a cluster of three HSMs on this machine, with keys that attest.

use std::{
    io::IsTerminal,
    net::TcpListener,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use data_encoding::BASE64URL_NOPAD;
use indicatif::{ProgressBar, ProgressStyle};
use keywitness_circuits::{KeyAlgorithm, Parameters, Timestamp};
use keywitness_manager::{
    Config, Manager, SteadyClock,
    background::Background,
    http,
    ledger::{Store, state::State},
    signer,
    store::{self, Redb},
};
use keywitness_prover::{Access, KeyStore, Placement, SoftwareStore, Stop, Unlock, create_key_file};
use keywitness_verifier::{
    client::ManagerClient,
    log::VerifierKey,
    operation::ClientKey,
    wire::{AttestationState, CredentialRequest, HsmKeyStatus, JoinTokenRequest, KeyQuery, Role, Status},
};

use crate::{
    Global,
    agent::{Hsm, Launch, TICK, is_enrolled},
    data, manager, output,
    sign::{self, Signed},
};

/// The HSMs of the cluster.
const HSMS: [&str; 3] = ["hsm-1", "hsm-2", "hsm-3"];

/// The cluster.
const CLUSTER: &str = "payments";

/// The keys that the cluster shares.
const KEYS: [(&str, KeyAlgorithm); 5] = [
    ("signing-1", KeyAlgorithm::Ed25519),
    ("tls-1", KeyAlgorithm::P256),
    ("wallet-1", KeyAlgorithm::Secp256k1),
    ("storage-1", KeyAlgorithm::Aes256),
    ("storage-2", KeyAlgorithm::Aes256),
];

/// How long all keys may take to attest, in seconds.
const PATIENCE: u64 = 120;

/// Start a manager and a cluster of three HSMs here, and watch their keys attest.
///
/// The HSMs are software key stores. Each holds an Ed25519, a P-256, a secp256k1 and two AES-256 keys, which the cluster
/// shares, and proves each of them: EdDSA, Schnorr over merlin, halo2 and Groth16 all occur. Then a client asks for a
/// token, requests a signature from the attested HSM over the channel that the token names, and checks it.
///
/// Everything is kept in the data directory: stop with Ctrl-C, start again, and the records are still there.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness up --once --json")]
pub(crate) struct Args {
    /// Exit as soon as all keys have attested and the operation succeeded
    #[arg(long)]
    once: bool,
    /// The manager's port on loopback; another one is taken where it is in use, and 0 takes any
    #[arg(long, default_value_t = 8470)]
    port: u16,
    /// How long a record lasts
    #[arg(long, default_value = "10m", value_name = "DURATION")]
    record_ttl: humantime::Duration,
    /// Witness whose cosignatures of the log are taken, by its key; may be given again
    #[arg(long, value_name = "KEY")]
    witness: Vec<VerifierKey>,
    /// Delete the log's openings behind a sealed state that is older
    #[arg(long, value_name = "DURATION")]
    log_retention: Option<humantime::Duration>,
    #[command(flatten)]
    verification: manager::Verification,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let stop = Stop::new();
    output::stop_on_signal(&stop)?;
    data::make_dir(&global.data)?;
    let paths = data::Data(&global.data);
    let _lock = data::lock(&paths.manager_lock())?;
    refuse_foreign(&paths)?;

    let parameters = Parameters::transparent().with_groth16(manager::groth16(global, None)?);
    let started = Instant::now();
    let (server, _background) = start_manager(&paths, args, parameters.clone())?;
    let address = format!("http://{}", server.address());
    data::write_private(&paths.manager_address(), &address)?;
    let people = People::new(&paths, &ManagerClient::new(&address)?)?;
    let hsms = start_hsms(&paths, &people, &parameters, &stop)?;
    if !global.json {
        say!("manager of {} at {address}, {} HSMs in cluster {CLUSTER}", Cluster::TRUST_DOMAIN, hsms.len());
        say!("look at {address}/#{}", people.viewer_secret);
        say!("its API: {address}/docs; measurements: {address}/metrics, for {}", paths.viewer_credential().display());
    }

    let result = show(global, args, &people, &hsms, started, &stop);
    stop.stop();
    for hsm in hsms {
        hsm.finish()?;
    }
    server.stop()?;
    result
}

/// Refuses the directory of a manager that is no demonstration: `up` makes parameters for development, credentials and HSMs,
/// and writes nothing of them before this.
fn refuse_foreign(paths: &data::Data<'_>) -> anyhow::Result<()> {
    const WHY: &str = "`up` is a demonstration, and would put development parameters, credentials and HSMs of its own \
                       there; give it another directory with --data DIR, or start the manager with `keywitness manager`";
    let settings = paths.manager_settings();
    anyhow::ensure!(!settings.exists(), "{} is the settings of a manager: {WHY}", settings.display());
    let file = paths.manager().join(store::FILE);
    if !file.exists() {
        return Ok(());
    }
    let redb = Redb::open(&file)?;
    let view = redb.view()?;
    // A store that was never configured is one of an `up` that was killed.
    let Some(of) = State(view.as_ref()).configuration().ok().map(|configuration| configuration.audience) else {
        return Ok(());
    };
    let ours = (of.trust_domain.as_str(), of.manager.as_str()) == (Cluster::TRUST_DOMAIN, Cluster::MANAGER);
    anyhow::ensure!(ours, "{} is the store of manager {} of {}: {WHY}", file.display(), of.manager, of.trust_domain);
    Ok(())
}

/// Names that the demonstration uses.
struct Cluster;

impl Cluster {
    const TRUST_DOMAIN: &'static str = "acme.example";
    const MANAGER: &'static str = "manager-1";
}

fn start_manager(
    paths: &data::Data<'_>,
    args: &Args,
    parameters: Parameters,
) -> anyhow::Result<(http::Server, Background)> {
    let config = Config {
        record_ttl: args.record_ttl.as_secs(),
        witnesses: args.witness.clone(),
        opening_retention: args.log_retention.map_or(0, |retention| retention.as_secs()),
        signer_dir: Some(paths.signer()),
        ..Config::new(paths.manager(), Cluster::TRUST_DOMAIN.parse()?, Cluster::MANAGER.parse()?)
    };
    let listener = match TcpListener::bind(("127.0.0.1", args.port)) {
        Ok(listener) => listener,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            eprintln!("port {} is in use; taking another", args.port);
            TcpListener::bind(("127.0.0.1", 0)).context("no port of loopback is free")?
        }
        Err(error) => return Err(error).context(format!("cannot listen on port {}", args.port)),
    };
    let config = Config { public_url: Some(crate::manager::reachable(listener.local_addr()?, false)), ..config };
    let clock = Arc::new(SteadyClock::default());
    signer::adopt(&config.data_dir, &paths.signer())?;
    let manager = Arc::new(Manager::open(args.verification.apply(config), parameters, clock)?);
    let background = manager.background()?;
    Ok((http::serve(manager, listener)?, background))
}

/// Who asks the manager for what. Their credentials are kept in the data directory.
struct People {
    operator: ManagerClient,
    client: ManagerClient,
    viewer: ManagerClient,
    client_key: ClientKey,
    viewer_secret: String,
}

impl People {
    fn new(paths: &data::Data<'_>, anyone: &ManagerClient) -> anyhow::Result<Self> {
        let operator = anyone.clone().with_credential(data::read_line(&paths.operator_credential())?);
        let credential = |path: &Path, role: Role| -> anyhow::Result<String> {
            if !path.exists() {
                let request = CredentialRequest::new(format!("up's {role}"), role);
                data::write_private(path, &operator.credential(&request)?.secret)?;
            }
            data::read_line(path)
        };
        let client_secret = credential(&paths.client_credential(), Role::Client)?;
        let viewer_secret = credential(&paths.viewer_credential(), Role::Viewer)?;
        Ok(Self {
            client: anyone.clone().with_credential(&client_secret),
            client_key: ClientKey::from_credential(&client_secret),
            viewer: anyone.clone().with_credential(&viewer_secret),
            operator,
            viewer_secret,
        })
    }
}

fn start_hsms(
    paths: &data::Data<'_>,
    people: &People,
    parameters: &Parameters,
    stop: &Stop,
) -> anyhow::Result<Vec<Hsm>> {
    let stores = HSMS.into_iter().map(|name| open_store(paths, name)).collect::<anyhow::Result<Vec<_>>>()?;
    share_keys(&stores)?;
    let mut hsms = Vec::with_capacity(stores.len());
    for (name, store) in HSMS.into_iter().zip(stores) {
        let join_token = if is_enrolled(&store) {
            None
        } else {
            // Bound to no name: whoever was killed before it heard that it is enrolled asks again with it.
            let hsm = None;
            let request = JoinTokenRequest { cluster: CLUSTER.parse()?, hsm, reenrol: false, valid_for: PATIENCE };
            Some(people.operator.join_token(&request)?.secret)
        };
        let launch = Launch {
            name: name.parse()?,
            journal: paths.hsm(name).join("store.journal"),
            store,
            client: ManagerClient::new(people.operator.base())?,
            parameters: parameters.clone(),
            join_token,
            clients: &[people.client_key.public()?],
        };
        hsms.push(launch.start(stop)?);
    }
    Ok(hsms)
}

fn open_store(paths: &data::Data<'_>, name: &str) -> anyhow::Result<SoftwareStore> {
    let directory = paths.hsm(name);
    data::make_dir(&directory)?;
    let (file, key) = (directory.join("store"), directory.join("store.key"));
    if !key.exists() {
        if file.exists() {
            anyhow::bail!("{} is missing: without it {} does not open", key.display(), file.display());
        }
        create_key_file(&key)?;
    }
    let unlock = Unlock::KeyFile(key);
    if file.exists() {
        Ok(SoftwareStore::open(&file, &unlock, Access::Write)?)
    } else {
        Ok(SoftwareStore::create(&file, &unlock)?)
    }
}

/// Has the first HSM generate what is missing, and copies it to the others: this is what clusters do.
fn share_keys(stores: &[SoftwareStore]) -> anyhow::Result<()> {
    let Some((first, others)) = stores.split_first() else { return Ok(()) };
    for (name, algorithm) in KEYS {
        let name = name.parse()?;
        if !first.keys().iter().any(|entry| entry.key.key == name) {
            first.generate(&name, algorithm, Placement::New)?;
        }
    }
    for entry in first.keys() {
        for other in others {
            first.export_to(&entry.key, other)?;
        }
    }
    Ok(())
}

/// Waits until the cluster's keys are attested, has the client ask for an operation, and then shows the table until
/// stopped.
fn show(
    global: &Global,
    args: &Args,
    people: &People,
    hsms: &[Hsm],
    started: Instant,
    stop: &Stop,
) -> anyhow::Result<()> {
    let screen = Screen::new(global.json);
    let settled = until_settled(args, people, hsms, &screen, started, stop)?;
    screen.clear();
    let Some(status) = settled else { return Ok(()) };
    let elapsed = started.elapsed();
    let signing = KEYS.iter().find(|(name, algorithm)| algorithm.symmetric_bits().is_none() && attested(&status, name));
    let message = format!("an operation of {} at {}", Cluster::TRUST_DOMAIN, output::time(data::now()));
    let signed = match signing {
        Some((name, _)) => {
            let query = KeyQuery { key: name.parse()?, cluster: Some(CLUSTER.parse()?), hsm: None, max_age: None };
            Some(sign::sign(&people.client, &people.client_key, query, message.as_bytes())?)
        }
        None => None,
    };
    if global.json {
        report(&status, people, &message, signed.as_ref())?;
    } else {
        if args.once || !screen.is_live() {
            say!("{}", output::status_table(&status.keys, status.now));
        }
        summary(global, &status, elapsed);
        if let Some(signed) = &signed {
            tell(&message, signed);
        }
        next_steps(global, args, signing.map(|(name, _)| *name));
    }
    if !args.once {
        until_stopped(people, stop, &Screen::new(global.json));
        if !global.json {
            say!("stopped; the records are in {}, and `up` goes on from there", global.data.display());
        }
    }
    Ok(())
}

/// Draws the table anew until stopped.
fn until_stopped(people: &People, stop: &Stop, screen: &Screen) {
    while !stop.wait(TICK) {
        if let Ok(status) = people.viewer.status() {
            screen.draw(&status);
        }
    }
    screen.clear();
}

/// The live table, where a person watches.
struct Screen(ProgressBar);

impl Screen {
    fn new(quiet: bool) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is valid"));
        Self(bar)
    }

    fn draw(&self, status: &Status) {
        if !self.0.is_hidden() {
            let size = terminal_size::terminal_size_of(std::io::stderr());
            let lines = size.map_or(usize::MAX, |(_, terminal_size::Height(lines))| lines.into());
            // What does not fit could not be drawn over.
            let table = output::fitting_table(&status.keys, status.now, lines.saturating_sub(2));
            self.0.set_message(format!("\n{table}\nCtrl-C stops"));
            self.0.tick();
        }
    }

    fn is_live(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Ends this screen; another one can follow.
    fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Whether some HSM attests the key now.
fn attested(status: &Status, key: &str) -> bool {
    status.keys.iter().any(|held| held.key.key.as_str() == key && held.state == AttestationState::Attested)
}

/// Whether this is a key that `up` gave to one of its HSMs.
fn is_ours(held: &HsmKeyStatus) -> bool {
    HSMS.contains(&held.hsm.as_str()) && KEYS.iter().any(|(name, _)| *name == held.key.key.as_str())
}

/// The status once every key of the three HSMs is attested by proofs of this run, or is revoked; none where `stop` was
/// raised.
fn until_settled(
    args: &Args,
    people: &People,
    hsms: &[Hsm],
    screen: &Screen,
    started: Instant,
    stop: &Stop,
) -> anyhow::Result<Option<Status>> {
    let begun = Timestamp(data::now().0.saturating_sub(started.elapsed().as_secs()));
    let fresh = |at: Option<Timestamp>| at.is_some_and(|at| at >= begun);
    let settled = |held: &&HsmKeyStatus| match held.state {
        AttestationState::Revoked => true,
        AttestationState::Attested => held.statements.iter().all(|statement| fresh(statement.proven_at)),
        _ => false,
    };
    let mut first = true;
    while !stop.wait(Duration::from_millis(100)) {
        let status = people.viewer.status()?;
        if first && status.keys.iter().flat_map(|held| &held.statements).any(|one| fresh(one.proven_at)) {
            first = false;
            tracing::info!(elapsed = ?started.elapsed(), "the first key is attested");
        }
        screen.draw(&status);
        if status.keys.iter().filter(|held| is_ours(held)).filter(settled).count() == HSMS.len() * KEYS.len() {
            return Ok(Some(status));
        }
        if hsms.iter().any(Hsm::has_ended) {
            anyhow::bail!("an HSM's agent could not begin; KEYWITNESS_LOG=info shows why");
        }
        if args.once && started.elapsed() > Duration::from_secs(PATIENCE) {
            eprintln!("{}", output::status_table(&status.keys, status.now));
            return Err(output::No(format!("not every key attested within {}", output::duration(PATIENCE))).into());
        }
    }
    Ok(None)
}

fn summary(global: &Global, status: &Status, elapsed: Duration) {
    let in_state = |state| status.keys.iter().filter(|held| is_ours(held) && held.state == state).count();
    let (attested, revoked) = (in_state(AttestationState::Attested), in_state(AttestationState::Revoked));
    say!("{attested} keys attested {elapsed:.1?} after the start");
    if revoked > 0 {
        say!("{revoked} are revoked, for good; to begin anew, stop and remove {}", global.data.display());
    }
}

fn report(status: &Status, people: &People, message: &str, signed: Option<&Signed>) -> anyhow::Result<()> {
    let operation = signed.map(|signed| {
        serde_json::json!({ "hsm": signed.token.appraisal().attestation.hsm, "message": message,
            "signature": BASE64URL_NOPAD.encode(&signed.signature) })
    });
    let address = people.operator.base();
    output::json(&serde_json::json!({ "address": address, "status": status, "operation": operation }))
}

fn tell(message: &str, signed: &Signed) {
    let attestation = &signed.token.appraisal().attestation;
    let signature = BASE64URL_NOPAD.encode(&signed.signature);
    say!(
        "\na client asked for a token for {} and checked it offline: {} proved the key {} ago",
        attestation.key.key,
        attestation.hsm,
        output::duration(attestation.statements.first().map_or(0, |one| data::now().since(one.proven_at))),
    );
    say!("it then had {} sign {message:?} over the channel that the token names,", attestation.hsm);
    say!("and checked the signature under the attested key:\n  {signature}");
}

fn next_steps(global: &Global, args: &Args, key: Option<&str>) {
    let Some(key) = key else { return };
    let data = match global.data.to_str() {
        Some("keywitness-data") | None => String::new(),
        Some(data) => format!("--data '{}' ", data.replace('\'', "'\\''")),
    };
    say!("\nTry next{}:", if args.once { ", with `up` running" } else { ", in another terminal" });
    for (what, command) in [
        ("a verification token, checked", format!("token --key {key}")),
        ("an operation from the attested HSM", format!("sign --key {key} --message hello")),
        ("revoke the key, for good", format!("revoke --cluster {CLUSTER} --key {key} --reason test")),
        ("and see the token refused", format!("token --key {key}")),
    ] {
        say!("  # {what}\n  cargo run --release -- {data}{command}");
    }
}
