//! `keywitness agent`: an HSM's agent and its channel; also what `up` starts three of.

use std::{
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;
use keywitness_circuits::{
    Digest, HsmId, Parameters,
    params::{Groth16Circuit, Groth16Parameters, Origin},
};
use keywitness_isolation::{
    Enforced,
    confine::{self, Protection},
};
use keywitness_prover::{
    Access, Agent, AgentConfig, AgentError, AgentEvent, Channel, ChannelServer, KeyStore, SoftwareStore, Stop,
    SystemClock,
    process::{ParameterFile, Planted, Remote, Spec, Strictness},
};
use keywitness_verifier::{client::ManagerClient, identity::IdentityKey, wire::ComplaintVerdict};

use crate::{Global, ceremony, connection::Address, data, doctor, output, prover, store::StoreArgs};

/// How an agent finds its HSM's place: shared by `agent` and `attest`.
#[derive(clap::Args)]
pub(crate) struct Place {
    #[command(flatten)]
    pub(crate) address: Address,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// The HSM's name; needed to enrol
    #[arg(long)]
    hsm: Option<HsmId>,
    /// File with the single-use join token, to enrol; left alone once the HSM is enrolled
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// Groth16 parameter file; DATA/groth16-parameters where there is one
    #[arg(long, value_name = "FILE")]
    groth16_parameters: Option<PathBuf>,
    /// Ceremony file that the Groth16 parameters must come from; DATA/groth16-ceremony where there is one
    #[arg(long, value_name = "FILE")]
    groth16_ceremony: Option<PathBuf>,
    /// Parameter file for up to 64 keys in one Groth16 proof; DATA/groth16-many-parameters where there is one
    #[arg(long, value_name = "FILE")]
    groth16_many_parameters: Option<PathBuf>,
    /// Ceremony file that those parameters must come from; DATA/groth16-many-ceremony where there is one
    #[arg(long, value_name = "FILE")]
    groth16_many_ceremony: Option<PathBuf>,
    /// Threads that make proofs; as many as there are cores when left out
    ///
    /// One proof is made at a time, by all of these threads together, so that memory stays bounded: about 40 MB for 64 keys in
    /// halo2, 110 MB in Groth16.
    #[arg(long, value_name = "COUNT")]
    proving_threads: Option<NonZeroUsize>,
    /// Whether the keys are in a process of their own, which speaks to nobody else
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "preferred")]
    isolation: Isolation,
    /// Leave the process with the keys unconfined, which has to show
    #[arg(long, hide = true)]
    unconfined: bool,
    /// The parameter files that the process with the keys was told to use.
    #[arg(skip)]
    pinned: OnceLock<Vec<ParameterFile>>,
}

/// How the keys are kept from the part that speaks to the network.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Isolation {
    /// In a process of their own that is shut in wholly; else the agent does not start
    Required,
    /// In a process of their own, shut in as well as this machine can; what is missing is told
    Preferred,
    /// In the agent's own process
    Off,
}

impl Place {
    /// The key store, in a process of its own unless that is off; afterwards this one does not read the store's file. It gives copies of keys to `peers`.
    ///
    /// Called while this process has one thread.
    pub(crate) fn open(&self, global: &Global, access: Access, peers: &[Digest]) -> anyhow::Result<Arc<dyn KeyStore>> {
        let strictness = match self.isolation {
            Isolation::Required => Strictness::Required,
            Isolation::Preferred => Strictness::Preferred,
            Isolation::Off => {
                tracing::warn!("the keys are in the process that speaks to the network (--isolation off)");
                return Ok(self.store.open(access)?.shared());
            }
        };
        let (spec, secrets) = self.store.spec()?;
        let spec = Spec {
            write: access == Access::Write,
            parameters: self.parameter_files(global)?,
            threads: self.proving_threads.map(NonZeroUsize::get),
            strictness,
            peers: peers.to_vec(),
            planted: if self.unconfined { Planted::Unconfined } else { Planted::Nothing },
            ..spec
        };
        let spec = spec.absolute()?;
        let store = Remote::spawn(Path::new(prover::PROGRAM), prover::flags(global.json), &spec, &secrets)?;
        let hidden = confine::hide(&spec.hidden());
        if hidden == Enforced::Not {
            let advice = Protection::Files.advice();
            anyhow::ensure!(
                strictness == Strictness::Preferred,
                "isolation is required, and the agent could read the store's file itself: {advice}"
            );
            tracing::warn!(advice, "the agent can read the store's file itself");
        }
        Ok(Arc::new(store))
    }

    /// The parameter files that there are, as they are now.
    fn parameter_files(&self, global: &Global) -> anyhow::Result<Vec<ParameterFile>> {
        let circuits = [Groth16Circuit::OneKey, Groth16Circuit::ManyKeys];
        let files = circuits.into_iter().filter_map(|circuit| Some((circuit, self.parameter_file(global, circuit)?)));
        let pinned = files.map(|(circuit, file)| ParameterFile::pin(circuit, &file)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.pinned.get_or_init(|| pinned).clone())
    }

    fn parameter_file(&self, global: &Global, circuit: Groth16Circuit) -> Option<PathBuf> {
        let named = match circuit {
            Groth16Circuit::OneKey => &self.groth16_parameters,
            Groth16Circuit::ManyKeys => &self.groth16_many_parameters,
        };
        let shared = data::Data(&global.data).parameters_of(circuit);
        named.clone().or_else(|| shared.exists().then_some(shared))
    }

    /// The agent, enrolled.
    pub(crate) fn agent(
        &self,
        global: &Global,
        store: Arc<dyn KeyStore>,
        config: AgentConfig,
    ) -> anyhow::Result<Agent> {
        if let Some(threads) = self.proving_threads {
            // The proof systems work on this pool, and on no other.
            rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
        }
        let client = self.address.client(global)?;
        let parameters = self.parameters(global)?;
        let agent = Agent::new(Arc::clone(&store), client, parameters, config)?;
        let agent = agent.with_observer(narrator(global.json));
        if !is_enrolled(&*store) {
            let (Some(hsm), Some(file)) = (&self.hsm, &self.join_token_file) else {
                anyhow::bail!(
                    "this store is not enrolled: ask an operator for a join token (keywitness join-token), and give \
                     --hsm NAME --join-token-file FILE"
                );
            };
            agent.enrol(hsm, &data::read_line(file)?)?;
        }
        Ok(agent)
    }

    fn parameters(&self, global: &Global) -> anyhow::Result<Parameters> {
        let mut parameters = Parameters::transparent();
        if let Some(read) = self.groth16(global, Groth16Circuit::OneKey)? {
            parameters = parameters.with_groth16(read);
        }
        if let Some(read) = self.groth16(global, Groth16Circuit::ManyKeys)? {
            parameters = parameters.with_groth16_many(read);
        }
        Ok(parameters)
    }

    /// The parameters of one circuit, where there are any.
    fn groth16(&self, global: &Global, circuit: Groth16Circuit) -> anyhow::Result<Option<Groth16Parameters>> {
        let paths = data::Data(&global.data);
        let (named, flag) = match circuit {
            Groth16Circuit::OneKey => (&self.groth16_ceremony, "--groth16-ceremony"),
            Groth16Circuit::ManyKeys => (&self.groth16_many_ceremony, "--groth16-many-ceremony"),
        };
        let Some(file) = self.parameter_file(global, circuit) else { return Ok(None) };
        let read = ceremony::read_parameters(global, circuit, &file, named.as_deref())?;
        let many = circuit == Groth16Circuit::ManyKeys;
        let pinned = self.pinned.get().and_then(|files| files.iter().find(|pinned| pinned.many == many));
        // What is checked here is what proves there.
        anyhow::ensure!(
            pinned.is_none_or(|pinned| pinned.is_of(&read)),
            "{} was replaced as the agent started; start it again",
            file.display()
        );
        let beside = file == paths.parameters_of(circuit) && paths.ceremony_of(circuit).exists();
        let unchecked = named.is_none() && !beside;
        if let (Origin::Ceremony(digest), true) = (read.origin(), unchecked) {
            anyhow::bail!(
                "{} say that they come from ceremony {digest}; an HSM checks that, once, before it proves with them: give the \
                 ceremony's file with {flag} FILE",
                file.display()
            );
        }
        Ok(Some(read))
    }
}

/// Whether a store's HSM has its place.
pub(crate) fn is_enrolled(store: &dyn KeyStore) -> bool {
    store.membership().is_some_and(|membership| membership.enrolment.is_some())
}

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

/// Says on standard error what an agent does.
fn narrator(quiet: bool) -> Arc<dyn Fn(&AgentEvent<'_>) + Send + Sync> {
    let duration = |at: &keywitness_circuits::Timestamp| output::duration(at.since(data::now()));
    Arc::new(move |event| match event {
        _ if quiet => {}
        AgentEvent::Enrolled(enrolment) => eprintln!("enrolled as {} in cluster {}", enrolment.hsm, enrolment.cluster),
        AgentEvent::Announced(url) => eprintln!("channel at {url}"),
        AgentEvent::Attesting { .. } => {}
        AgentEvent::Dealing { holder, sealing_key } => {
            eprintln!(
                "sealing a share to {holder}, whose sealing key is {}",
                data_encoding::HEXLOWER.encode(*sealing_key)
            );
        }
        AgentEvent::ShareReceived { key, dealer } => eprintln!("received share {} from {dealer}", key.key),
        AgentEvent::Complained { dealer, verdict } => match verdict {
            ComplaintVerdict::DealerFaulty { fault, .. } => eprintln!("{dealer} dealt a bad share: {fault}"),
            ComplaintVerdict::Unfounded { why, .. } => {
                eprintln!("the manager holds a share of {dealer} for good: {why}")
            }
        },
        AgentEvent::KeyGiven { key, to } => eprintln!("gave {to} a copy of {key}"),
        AgentEvent::KeyReceived { key, from } => eprintln!("received a copy of {key} from {from}"),
        AgentEvent::CopiesFailed { hsm, error } => {
            eprintln!("no copies from {hsm}: {}", output::printable(&error.to_string()));
        }
        AgentEvent::Attested { record, .. } => {
            eprintln!("attested {} under {} for {}", record.key.key, record.statement, duration(&record.expires_at));
        }
        AgentEvent::Failed { key, kind, error, .. } => {
            eprintln!("not attested: {} under {kind}: {}", key.key, output::printable(&error.to_string()));
        }
        AgentEvent::ManagerAway { error, retry_at } => {
            let error = output::printable(&error.to_string());
            eprintln!("the manager is away ({error}); trying again in {}", duration(retry_at));
        }
    })
}

/// What an HSM needs to run within this process.
pub(crate) struct Launch<'a> {
    /// Its name.
    pub(crate) name: HsmId,
    /// Its journal.
    pub(crate) journal: PathBuf,
    /// Its keys.
    pub(crate) store: SoftwareStore,
    /// Its manager.
    pub(crate) client: ManagerClient,
    /// What it proves with.
    pub(crate) parameters: Parameters,
    /// What it enrols with, unless it is enrolled.
    pub(crate) join_token: Option<String>,
    /// Who may use its keys.
    pub(crate) clients: &'a [IdentityKey],
}

/// A running HSM: agent and channel in threads of this process.
pub(crate) struct Hsm {
    agent: JoinHandle<Result<(), AgentError>>,
    channel: ChannelServer,
}

impl Launch<'_> {
    /// Enrols the HSM where that is needed, and starts it.
    pub(crate) fn start(self, stop: &Stop) -> anyhow::Result<Hsm> {
        let store: Arc<dyn KeyStore> = Arc::new(self.store);
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let config = AgentConfig {
            channel_url: Some(format!("http://{}", listener.local_addr()?)),
            journal: Some(self.journal),
            ..AgentConfig::default()
        };
        let agent = Arc::new(Agent::new(Arc::clone(&store), self.client, self.parameters, config)?);
        if let Some(join_token) = &self.join_token {
            agent.enrol(&self.name, join_token)?;
        }
        let channel = serve(&agent, store, self.clients, listener)?;
        let stop = stop.clone();
        let agent = std::thread::Builder::new().name(self.name.to_string()).spawn(move || agent.run(&stop))?;
        Ok(Hsm { agent, channel })
    }
}

impl Hsm {
    /// Waits for the agent, which its stop flag has ended, and stops the channel.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        self.channel.stop()?;
        self.agent.join().map_err(|_| anyhow::anyhow!("an agent's thread panicked"))??;
        Ok(())
    }

    /// Whether the agent's thread has ended by itself, which it does only where it cannot begin.
    pub(crate) fn has_ended(&self) -> bool {
        self.agent.is_finished()
    }
}

/// How often a waiting loop looks.
pub(crate) const TICK: Duration = Duration::from_millis(250);
