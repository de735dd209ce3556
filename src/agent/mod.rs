//! `keywitness agent`: an HSM's agent and its channel; also what `up` starts three of.

mod ended;
mod hsm;
mod measured;
mod narrator;
mod place;
mod reload;
pub(crate) mod settings;

use std::{
    net::{SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddress, UnixDatagram},
    },
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context;
use keywitness_circuits::Digest;
use keywitness_isolation::signals::Hangups;
use keywitness_prover::{
    Access, Agent, AgentConfig, Channel, KeyStore, Provider, RunningServer, Stop, SystemClock, Watch,
};
use keywitness_verifier::identity::IdentityKey;

use crate::{Global, data, doctor, output};
pub(crate) use ended::Ended;
pub(crate) use hsm::{Hsm, Launch, TICK};
pub(crate) use place::{Left, Place, directory_of, is_enrolled};
use reload::Running;
use settings::Settings;

/// An agent that runs, or what is asked about agents.
pub(crate) enum Args {
    /// An agent that runs.
    Run(Box<RunArgs>),
    /// An examination.
    Doctor(doctor::Args),
}

impl clap::Args for Args {
    fn augment_args(command: clap::Command) -> clap::Command {
        let doctor = doctor::Args::augment_args(clap::Command::new("doctor"));
        let command = RunArgs::augment_args(command).subcommand(doctor);
        // Beside a subcommand nothing of what runs an agent is asked for.
        command.args_conflicts_with_subcommands(true).subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Args {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some((_, matches)) => doctor::Args::from_arg_matches(matches).map(Self::Doctor),
            None => Ok(Self::Run(Box::new(RunArgs::from_arg_matches(matches)?))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Run an HSM's agent: enrol once, then keep its keys attested until stopped.
///
/// Each key is attested once the agent knows it, and again before 70% of its record's life are over, in a slot of its own, so that the work is even over time;
/// after a restart too. While the manager is away the agent backs off, and catches up afterwards, with what expires soonest; what is revoked it leaves alone. On its channel the HSM signs for the clients whose
/// keys you allow, and for nobody else. The keys are in a process of their own; `keywitness agent doctor` shows how well that is shut in here.
///
/// Ends with exit code 5 where the store is not enrolled, 6 where another manager answers than it enrolled with, or another HSM's store is given, 7 where
/// the store cannot be opened, 8 where isolation is required and not whole.
#[derive(clap::Args)]
#[command(
    after_help = "Example: keywitness agent --store hsm-1/store --hsm hsm-1 --join-token-file token --channel 127.0.0.1:9101"
)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    place: Place,
    /// Where clients reach this HSM's channel; without it there is none
    #[arg(long, value_name = "ADDRESS")]
    channel: Option<SocketAddr>,
    /// The channel's address as clients see it, where it is not the one above
    #[arg(long, value_name = "URL", requires = "channel")]
    channel_url: Option<String>,
    /// Key of a client that may use this HSM's keys, as `keywitness credential` shows it; may be given again
    #[arg(long = "allow-client", value_name = "KEY", requires = "channel")]
    allow_clients: Vec<Digest>,
    /// Identity key of another HSM of the cluster, as `keywitness key identity` prints it there; may be given again
    ///
    /// HSMs that name each other give each other copies of their keys: this one asks for those that it has not, and gives its own,
    /// over its channel, with the manager's leave. Without it no key is copied.
    #[arg(long = "peer", value_name = "KEY")]
    peers: Vec<Digest>,
    /// How often the other HSMs are asked for keys that this one has not, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    copies_every: humantime::Duration,
    /// Take from them new epochs of keys that this HSM has, too, so that a key that is rotated in one HSM is in all
    ///
    /// Whoever has any of those HSMs can then replace every key of this one. Without it, a key is taken only where this HSM has none of that name;
    /// what is not taken is told.
    #[arg(long)]
    take_rotations: bool,
    /// Program that gives evidence of where this HSM lives; docs/evidence.md says what it is asked
    ///
    /// It is started once, before the agent shuts itself in, and its evidence is given to the manager anew while the agent runs. What
    /// becomes of it keeps no key from being attested.
    #[arg(long, value_name = "PROGRAM")]
    evidence: Option<PathBuf>,
    /// Give evidence of each key that has a public key too, for devices that name keys
    #[arg(long, requires = "evidence")]
    evidence_keys: bool,
    /// File with a line for each attempt; beside the store when left out
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Attest everything at the start, rather than go on where the journal left off
    #[arg(long)]
    attest_at_start: bool,
    /// Go on where the journal left off, which is what an agent does
    #[arg(long, hide = true, conflicts_with = "attest_at_start")]
    resume: bool,
    /// Where it is told how the agent is doing: /metrics for Prometheus, /healthz, /readyz; without it nowhere
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// Tell that also to other machines
    #[arg(long, requires = "metrics")]
    metrics_beyond_loopback: bool,
    /// What is logged, such as info or debug; KEYWITNESS_LOG goes before it
    #[arg(long, value_name = "FILTER", value_parser = output::log_filter)]
    log: Option<String>,
    /// A file with any of these flags, such as `store = "hsm-1/store"`; the environment and the command line go before it
    ///
    /// On SIGHUP it is read again: clients, peers, --copies-every, --take-rotations and --log are in force at once, what needs a restart is named in the log, and a
    /// file with a mistake changes nothing.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

impl Args {
    /// What is logged, where the command line says so.
    pub(crate) fn log(&self) -> Option<&str> {
        match self {
            Self::Run(args) => args.log.as_deref(),
            Self::Doctor(_) => None,
        }
    }
}

pub(crate) fn run(global: &Global, args: &Args, settings: Option<Settings>) -> anyhow::Result<()> {
    match args {
        Args::Run(args) => run_agent(global, args, settings).map_err(ended::ended),
        Args::Doctor(args) => doctor::run(global, args),
    }
}

fn run_agent(global: &Global, args: &RunArgs, settings: Option<Settings>) -> anyhow::Result<()> {
    // Before there are threads.
    let hangups = settings.is_some().then(Hangups::take).transpose()?;
    let told = Notified::connect();
    let store = args.place.store.file()?;
    let journal = args.journal.clone().unwrap_or_else(|| store.with_extension("journal"));
    if store.exists() {
        // Beside the store, and later nothing that is made there is read.
        drop(data::open_private(&journal)?);
    }
    // Before programs cannot be started any more, and before there are threads.
    let provider = args.evidence.as_deref().map(Provider::start).transpose()?;
    // Before there are threads, too.
    let left = Left { peers: &args.peers, writable: vec![directory_of(&journal)], ..Left::default() };
    let store = args.place.open(global, Access::Write, left).map_err(ended::unopened)?;
    let stop = Stop::new();
    output::stop_on_signal(&stop)?;
    let metrics = args.metrics.map(|address| args.metrics_address(address)).transpose()?;
    let listener = args.channel.map(listen).transpose()?;
    if args.channel_url.is_none() && args.channel.is_some_and(|address| address.ip().is_unspecified()) {
        anyhow::bail!("clients cannot be told to come to 0.0.0.0: give --channel-url URL, the address as they see it");
    }
    let url = match (&args.channel_url, &listener) {
        (Some(url), _) => Some(url.clone()),
        (None, Some(listener)) => Some(format!("http://{}", listener.local_addr()?)),
        (None, None) => None,
    };
    let config = AgentConfig {
        channel_url: url,
        journal: Some(journal),
        attest_at_start: args.attest_at_start,
        copies_every: reload::every(args),
        take_rotations: args.take_rotations,
        peers: reload::keys(&args.peers)?,
        ..AgentConfig::default()
    };
    let clients = reload::keys(&args.allow_clients)?;
    let watch = Arc::new(Watch::new()?);
    let agent = Arc::new(args.place.agent(global, Arc::clone(&store), config, |told| watch.observer(told))?);
    watch.follow(&agent, Arc::clone(&store));
    let told_people = !global.json;
    let began = move |address| {
        if told_people {
            eprintln!("metrics at http://{address}/metrics");
        }
    };
    let measure = |address| measured::tell(&watch, address, measured::PATIENCE, &stop, began);
    let _measured = metrics.map(measure).transpose()?;
    let served = listener.map(|listener| serve(&agent, store, &clients, listener)).transpose()?;
    let channel = served.as_ref().map(|(channel, _)| Arc::clone(channel));
    if let (Some(hangups), Some(settings)) = (hangups, settings) {
        let (agent, pinned) = (Arc::clone(&agent), args.peers.iter().copied().collect());
        reload::listen(hangups, Running { agent, channel, watch, pinned, settings })?;
    }
    if let Some(mut provider) = provider {
        let keys = args.evidence_keys;
        beside(&agent, &stop, "evidence", move |agent, stop| agent.give_evidence(&mut provider, keys, stop))?;
    }
    // Which peers there are can change; that there is none, cannot.
    if !args.peers.is_empty() {
        beside(&agent, &stop, "copies", Agent::copy_keys)?;
    }
    told.tell("READY=1");
    agent.run(&stop)?;
    told.tell("STOPPING=1");
    Ok(())
}

impl RunArgs {
    fn metrics_address(&self, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        anyhow::ensure!(
            address.ip().is_loopback() || self.metrics_beyond_loopback,
            "--metrics {address} can be asked from elsewhere, by anyone, in plain HTTP: give an address of this machine alone, such as \
             127.0.0.1:9102, or --metrics-beyond-loopback"
        );
        Ok(address)
    }
}

/// Has an agent do something in a thread of its own, which an answer that does not come keeps from nothing else: not from stopping either.
fn beside(
    agent: &Arc<Agent>,
    stop: &Stop,
    name: &str,
    work: impl FnOnce(&Agent, &Stop) + Send + 'static,
) -> anyhow::Result<()> {
    let (agent, stop) = (Arc::clone(agent), stop.clone());
    std::thread::Builder::new().name(format!("keywitness-{name}")).spawn(move || work(&agent, &stop))?;
    Ok(())
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
}

fn serve(
    agent: &Arc<Agent>,
    store: Arc<dyn KeyStore>,
    clients: &[IdentityKey],
    listener: TcpListener,
) -> anyhow::Result<(Arc<Channel>, RunningServer)> {
    let channel = Channel::new(store, agent.standing(), Arc::new(SystemClock)).with_giver(agent.clone());
    channel.allow_only(clients.iter().copied());
    let channel = Arc::new(channel);
    Ok((Arc::clone(&channel), keywitness_prover::serve(channel, listener)?))
}

/// systemd, where it started this process and wants to be told. Its socket is opened at the start, since later this process makes none.
struct Notified(Option<UnixDatagram>);

impl Notified {
    fn connect() -> Self {
        let connect = |path: std::ffi::OsString| {
            let socket = UnixDatagram::unbound()?;
            match path.as_encoded_bytes().strip_prefix(b"@") {
                Some(name) => socket.connect_addr(&UnixAddress::from_abstract_name(name)?)?,
                None => socket.connect(&path)?,
            }
            std::io::Result::Ok(socket)
        };
        let connected = std::env::var_os("NOTIFY_SOCKET").map(connect).transpose();
        Self(connected.inspect_err(|error| tracing::warn!(%error, "systemd cannot be told")).ok().flatten())
    }

    fn tell(&self, what: &str) {
        if let Some(Err(error)) = self.0.as_ref().map(|socket| socket.send(what.as_bytes())) {
            tracing::warn!(%error, "systemd could not be told");
        }
    }
}
