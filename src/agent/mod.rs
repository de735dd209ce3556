//! `keywitness agent`: an HSM's agent and its channel; also what `up` starts three of.

mod hsm;
mod narrator;
mod place;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context;
use keywitness_circuits::Digest;
use keywitness_prover::{Access, Agent, AgentConfig, Channel, ChannelServer, KeyStore, Stop, SystemClock};
use keywitness_verifier::identity::IdentityKey;

use crate::{Global, data, doctor, output};
pub(crate) use hsm::{Hsm, Launch, TICK};
pub(crate) use place::{Place, is_enrolled};

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
/// Each key is attested when the agent starts, and again between half and 70% of its record's life. While the manager is
/// away the agent backs off; what is revoked it leaves alone. On its channel the HSM signs for the clients whose
/// keys you allow, and for nobody else. The keys are in a process of their own; `keywitness agent doctor` shows how well that is shut in here.
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
    #[arg(long, value_name = "DURATION", default_value = "60s", requires = "peers")]
    copies_every: humantime::Duration,
    /// File with a line for each attempt; beside the store when left out
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Go on where the journal left off, rather than attest everything at the start
    #[arg(long)]
    resume: bool,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match args {
        Args::Run(args) => run_agent(global, args),
        Args::Doctor(args) => doctor::run(global, args),
    }
}

fn run_agent(global: &Global, args: &RunArgs) -> anyhow::Result<()> {
    let journal = args.journal.clone().unwrap_or_else(|| args.place.store.store.with_extension("journal"));
    if args.place.store.store.exists() {
        // Beside the store, and later nothing that is made there is read.
        drop(data::open_private(&journal)?);
    }
    // Before there are threads.
    let store = args.place.open(global, Access::Write, &args.peers)?;
    let stop = Stop::new();
    output::stop_on_signal(&stop)?;
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
        attest_at_start: !args.resume,
        copies_every: args.copies_every.as_secs().max(1),
        peers: args.peers.iter().map(|key| IdentityKey::try_from(*key)).collect::<Result<_, _>>()?,
        ..AgentConfig::default()
    };
    let clients = args.allow_clients.iter().map(|key| IdentityKey::try_from(*key)).collect::<Result<Vec<_>, _>>()?;
    let agent = Arc::new(args.place.agent(global, Arc::clone(&store), config)?);
    let _channel = listener.map(|listener| serve(&agent, store, &clients, listener)).transpose()?;
    Ok(agent.run(&stop)?)
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
}

fn serve(
    agent: &Arc<Agent>,
    store: Arc<dyn KeyStore>,
    clients: &[IdentityKey],
    listener: TcpListener,
) -> anyhow::Result<ChannelServer> {
    let channel = Channel::new(store, agent.standing(), Arc::new(SystemClock)).with_giver(agent.clone());
    clients.iter().for_each(|client| channel.allow(*client));
    Ok(keywitness_prover::serve(Arc::new(channel), listener)?)
}
