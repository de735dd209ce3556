//! How an agent finds its HSM's place: its store, its manager, what it proves with.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use keywitness_circuits::{
    Digest, HsmId, Parameters,
    params::{Groth16Circuit, Groth16Parameters, Origin},
};
use keywitness_isolation::confine;
use keywitness_prover::{
    Access, Agent, AgentConfig, AgentError, KeyStore, Observer, StoreError,
    process::{ParameterFile, Planted, Remote, Sharing, Spec, Strictness},
};

use super::{ended::NoJoinToken, narrator::narrator};
use crate::{Global, ceremony, connection::Address, data, prover, store::StoreArgs};

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
    /// What was read of them.
    #[arg(skip)]
    read: OnceLock<Parameters>,
}

/// What an agent is left with.
#[derive(Default)]
pub(crate) struct Left<'a> {
    /// Identity keys of the HSMs that get copies of keys, and whose copies are taken.
    pub(crate) peers: &'a [Digest],
    /// What is dealt; nothing else is.
    pub(crate) sharing: Option<Sharing>,
    /// The directories that the agent itself writes to.
    pub(crate) writable: Vec<PathBuf>,
}

/// The directory that a file is in.
pub(crate) fn directory_of(file: &Path) -> PathBuf {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
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
    /// The key store, in a process of its own unless that is off; afterwards this process does not read the store's file, writes where it is
    /// left to, and starts no program.
    ///
    /// Called while this process has one thread.
    pub(crate) fn open(&self, global: &Global, access: Access, left: Left<'_>) -> anyhow::Result<Arc<dyn KeyStore>> {
        let Left { peers, sharing, writable } = left;
        let strictness = match self.isolation {
            Isolation::Required => Strictness::Required,
            Isolation::Preferred => Strictness::Preferred,
            Isolation::Off => {
                anyhow::ensure!(
                    !sharing.is_some_and(|sharing| sharing.names_sealing_keys()),
                    "holders' sealing keys are held against the dealing by a process of its own: leave --isolation off out"
                );
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
            sharing,
            planted: if self.unconfined { Planted::Unconfined } else { Planted::Nothing },
            ..spec
        };
        let spec = spec.absolute()?;
        let store = Remote::spawn(Path::new(prover::PROGRAM), prover::flags(global.json), &spec, &secrets)?;
        self.read_parameters(global)?;
        let gaps = confine::single_thread().and(confine::hide(&spec.hidden(), &writable).1);
        if strictness == Strictness::Required && !gaps.0.is_empty() {
            let named: Vec<_> = gaps.0.iter().map(|gap| format!("{gap} ({})", gap.protection.advice())).collect();
            let why = format!("the agent itself is not shut in: {}", named.join("; "));
            return Err(StoreError::NotIsolated(why).into());
        }
        gaps.warn("the agent");
        Ok(Arc::new(store))
    }

    /// Reads the parameters, and notes beside the ceremony's file that they are its, while that may be written. The threads that help end
    /// with it.
    fn read_parameters(&self, global: &Global) -> anyhow::Result<()> {
        if self.pinned.get().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let threads = self.proving_threads.map_or(0, NonZeroUsize::get);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let read = pool.install(|| self.parameters(global))?;
        self.read.get_or_init(|| read);
        Ok(())
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
        watched: impl FnOnce(Observer) -> Observer,
    ) -> anyhow::Result<Agent> {
        if let Some(threads) = self.proving_threads {
            // The proof systems work on this pool, and on no other.
            rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
        }
        let client = self.address.client(global)?;
        let parameters = self.read.get().map_or_else(|| self.parameters(global), |read| Ok(read.clone()))?;
        let agent = Agent::new(Arc::clone(&store), client, parameters, config)?;
        let agent = agent.with_observer(watched(narrator(global.json)));
        if !is_enrolled(&*store) {
            let (Some(hsm), Some(file)) = (&self.hsm, &self.join_token_file) else {
                return Err(NoJoinToken.into());
            };
            agent.enrol(hsm, &data::read_line(file)?)?;
        }
        match (store.membership(), &self.hsm) {
            (Some(membership), Some(hsm)) if membership.hsm != *hsm => Err(AgentError::OtherHsm(membership.hsm).into()),
            _ => Ok(agent),
        }
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
