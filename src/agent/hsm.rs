//! HSMs that run within this process, as `up` starts three of.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration};

use keywitness_circuits::{HsmId, Parameters};
use keywitness_prover::{Agent, AgentConfig, AgentError, KeyStore, RunningServer, SoftwareStore, Stop};
use keywitness_verifier::{client::ManagerClient, identity::IdentityKey};

use super::{listen, serve};

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
    channel: RunningServer,
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
        let (_, channel) = serve(&agent, store, self.clients, listener)?;
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
