//! Settings that change while an agent runs.

use std::{collections::BTreeSet, ffi::OsString, sync::Arc};

use anyhow::Context;
use keywitness_circuits::Digest;
use keywitness_isolation::signals::Hangups;
use keywitness_prover::{Agent, Channel, Watch};
use keywitness_verifier::identity::IdentityKey;

use super::{Args, RunArgs, settings, settings::Settings};
use crate::{Command, output};

/// Settings that are in force as soon as they are read again. The others wait for a restart.
const AT_ONCE: [&str; 5] = ["allow-client", "copies-every", "log", "peer", "take-rotations"];

/// What settings change of a running agent.
pub(super) struct Running {
    pub(super) agent: Arc<Agent>,
    pub(super) channel: Option<Arc<Channel>>,
    pub(super) watch: Arc<Watch>,
    /// Whom the process with the keys gives copies to, as long as it runs.
    pub(super) pinned: BTreeSet<Digest>,
    /// What is in force.
    pub(super) settings: Settings,
}

/// The keys of clients, or of other HSMs.
pub(super) fn keys(given: &[Digest]) -> anyhow::Result<Vec<IdentityKey>> {
    Ok(given.iter().map(|key| IdentityKey::try_from(*key)).collect::<Result<_, _>>()?)
}

/// Reads the settings again whenever the agent is told to, for as long as it runs.
pub(super) fn listen(hangups: Hangups, mut running: Running) -> anyhow::Result<()> {
    let listen = move || {
        while hangups.wait().is_ok() {
            let applied = running.reload();
            running.watch.reloaded(applied.is_ok());
            if let Err(error) = applied {
                let error = output::printable(&format!("{error:#}"));
                tracing::error!(error, "the settings are refused, and stay as they were");
            }
        }
    };
    std::thread::Builder::new().name("settings".to_owned()).spawn(listen)?;
    Ok(())
}

impl Running {
    /// Reads the settings, and has in force what can be, or nothing where something is wrong.
    fn reload(&mut self) -> anyhow::Result<()> {
        let line: Vec<OsString> = std::env::args_os().collect();
        let (cli, settings) = settings::read(line)?;
        let (Command::Agent(Args::Run(args)), Some(settings)) = (cli.command, settings) else {
            anyhow::bail!("the command line names no settings file");
        };
        let (clients, peers) = (keys(&args.allow_clients)?, keys(&args.peers)?);
        let changed = self.settings.differences(&settings);
        if let Some(filter) = &args.log {
            output::set_log(filter).context("log")?;
        }
        if let Some(channel) = &self.channel {
            channel.allow_only(clients);
        }
        // The process with the keys would refuse the others, whatever it is told.
        let known = args.peers.iter().zip(peers).filter(|(key, _)| self.pinned.contains(key));
        self.agent.set_peers(known.map(|(_, peer)| peer));
        self.agent.set_copies_every(every(&args));
        self.agent.set_take_rotations(args.take_rotations);
        let (at_once, mut later): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|name| AT_ONCE.contains(&name.as_str()));
        if args.peers.iter().any(|peer| !self.pinned.contains(peer)) {
            later
                .push("peer (the new ones: the process with the keys knows those that it was started with)".to_owned());
        }
        // What the running agent has stays what it is compared with, so that it is told of again.
        self.settings = settings.in_force(&self.settings, &AT_ONCE);
        tracing::warn!(file = %self.settings.file().display(), in_force = at_once.join(", "), "the settings were read again");
        if !later.is_empty() {
            tracing::warn!(settings = later.join(", "), "these settings wait until the agent is started again");
        }
        Ok(())
    }
}

/// How often other HSMs are asked for keys, in seconds.
pub(super) fn every(args: &RunArgs) -> u64 {
    args.copies_every.as_secs().max(1)
}
