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
use keywitness_isolation::{
    Enforced,
    confine::{self, Protection},
};
use keywitness_prover::{
    Access, Agent, AgentConfig, KeyStore, Observer, StoreError,
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
        self.open_for(global, access, peers, None)
    }

    /// As [`Self::open`]; it deals what `sharing` says, and nothing else.
    pub(crate) fn open_for(
        &self,
        global: &Global,
        access: Access,
        peers: &[Digest],
        sharing: Option<Sharing>,
    ) -> anyhow::Result<Arc<dyn KeyStore>> {
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
        let hidden = confine::hide(&spec.hidden());
        if hidden == Enforced::Not {
            let advice = Protection::Files.advice();
            if strictness == Strictness::Required {
                let why = format!("the agent could read the store's file itself: {advice}");
                return Err(StoreError::NotIsolated(why).into());
            }
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
        watched: impl FnOnce(Observer) -> Observer,
    ) -> anyhow::Result<Agent> {
        if let Some(threads) = self.proving_threads {
            // The proof systems work on this pool, and on no other.
            rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
        }
        let client = self.address.client(global)?;
        let parameters = self.parameters(global)?;
        let agent = Agent::new(Arc::clone(&store), client, parameters, config)?;
        let agent = agent.with_observer(watched(narrator(global.json)));
        if !is_enrolled(&*store) {
            let (Some(hsm), Some(file)) = (&self.hsm, &self.join_token_file) else {
                return Err(NoJoinToken.into());
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
