//! How a subcommand reaches the manager, and as whom.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Subcommand;
use keywitness_manager::check_private;
use keywitness_verifier::{
    client::{ClientError, ManagerClient},
    wire::ProblemKind,
};

use crate::{Global, data};

/// Where the manager is.
#[derive(clap::Args)]
pub(crate) struct Address {
    /// The manager's address; that of the manager on this data directory when left out
    #[arg(long, global = true, value_name = "URL", env = "KEYWITNESS_MANAGER")]
    manager: Option<String>,
    /// File with the authority of the manager's certificate (its manager.ca.pem); public authorities when left out
    #[arg(long, global = true, value_name = "FILE", env = "KEYWITNESS_CA")]
    manager_ca: Option<PathBuf>,
}

/// Where the manager is, and who asks.
#[derive(clap::Args)]
pub(crate) struct Connection {
    #[command(flatten)]
    address: Address,
    /// File with the bearer credential; the one that `keywitness up` made when left out
    #[arg(long, global = true, value_name = "FILE", env = "KEYWITNESS_CREDENTIAL_FILE")]
    credential_file: Option<PathBuf>,
}

// What it is, `what` says: clap shows a comment of this type in its place.
#[derive(clap::Args)]
pub(crate) struct Asked<What: Subcommand> {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) what: What,
}

impl Address {
    /// The manager, with no credential.
    pub(crate) fn client(&self, global: &Global) -> anyhow::Result<ManagerClient> {
        let address = match &self.manager {
            Some(address) => address.clone(),
            None => local(&data::Data(&global.data))?,
        };
        let client = ManagerClient::new(&address)?;
        let here = data::Data(&global.data).manager_ca();
        // The manager of this data directory is known by its own authority.
        let ca = self.manager_ca.clone().or_else(|| (self.manager.is_none() && here.exists()).then_some(here));
        match ca {
            Some(path) => {
                let pem = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                Ok(client.with_roots(&pem).with_context(|| path.display().to_string())?)
            }
            None => Ok(client),
        }
    }
}

impl Connection {
    /// The manager, as an operator.
    pub(crate) fn operator(&self, global: &Global) -> anyhow::Result<ManagerClient> {
        // Where no manager answers, a credential is of no use.
        let client = self.address.client(global)?;
        Ok(client.with_credential(self.secret(data::Data(&global.data).operator_credential())?))
    }

    /// The manager, as a client.
    pub(crate) fn client(&self, global: &Global) -> anyhow::Result<ManagerClient> {
        let client = self.address.client(global)?;
        Ok(client.with_credential(self.client_secret(global)?))
    }

    /// The manager, for whoever only looks: as a client, or else as the operator.
    pub(crate) fn looking(&self, global: &Global) -> anyhow::Result<ManagerClient> {
        let (manager, paths) = (self.address.client(global)?, data::Data(&global.data));
        let client = paths.client_credential();
        let secret = self.secret(if client.exists() { client } else { paths.operator_credential() })?;
        Ok(manager.with_credential(secret))
    }

    /// The manager, for what anyone may ask.
    pub(crate) fn anyone(&self, global: &Global) -> anyhow::Result<ManagerClient> {
        self.address.client(global)
    }

    /// The client's credential.
    pub(crate) fn client_secret(&self, global: &Global) -> anyhow::Result<String> {
        self.secret(data::Data(&global.data).client_credential())
    }

    fn secret(&self, default: PathBuf) -> anyhow::Result<String> {
        let path = self.credential_file.clone().unwrap_or(default);
        check_private(&path).with_context(|| path.display().to_string())?;
        let secret = data::read_line(&path).context("no credential: give --credential-file FILE")?;
        // It goes into a header: what is none is told before it is sent.
        let plain = secret.bytes().all(|byte| byte.is_ascii_graphic());
        anyhow::ensure!(plain && !secret.is_empty(), "{} holds no credential: it is one line, kw_…", path.display());
        Ok(secret)
    }
}

/// How often a request is made again at most that the manager turns away as too many.
const PATIENCE: usize = 100;

/// Asks, and asks again when the manager says so: whoever fetches much has to keep to its budget.
pub(crate) fn patiently<T>(mut ask: impl FnMut() -> Result<T, ClientError>) -> Result<T, ClientError> {
    for _ in 0..PATIENCE {
        match ask() {
            Err(ClientError::Problem(problem)) if problem.kind() == Some(ProblemKind::TooManyRequests) => {
                std::thread::sleep(Duration::from_secs(problem.retry_after.unwrap_or(1).clamp(1, 60).into()));
            }
            answer => return answer,
        }
    }
    ask()
}

/// The address of the manager that runs on this data directory. An address that a manager left behind is not used: its
/// port may be somebody else's by now, who would be sent a credential.
fn local(paths: &data::Data<'_>) -> anyhow::Result<String> {
    if !data::is_locked(&paths.manager_lock()) {
        anyhow::bail!("no manager runs on this data directory: give --manager URL, or run `keywitness up` first");
    }
    data::read_line(&paths.manager_address())
}
