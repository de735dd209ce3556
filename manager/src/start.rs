//! Opening a manager: where the parts are put together.

use std::sync::Arc;

use keywitness_circuits::{Digest, Kind, Parameters};
use keywitness_verifier::{
    engine::Engine,
    wire::{Role, new_secret, secret_digest},
};

use crate::{
    clock::Clock,
    config::{Config, OPERATOR_CREDENTIAL},
    error::StartError,
    files,
    ledger::{
        Command, Configuration, Embedded, Ledger, Outcome, Store,
        state::{State, key},
    },
    metrics::Metrics,
    outbox::Outbox,
    service::{Manager, log::TransparencyLog, token_key::first_keys},
    signer::{Signer, SignerError},
    store::{self, Redb},
    tls::Authority,
};

impl Manager {
    /// Opens the manager of a data directory, which is made if there is none.
    ///
    /// At the first start makes the key that signs verification tokens and an operator credential, which it
    /// leaves in the file [`OPERATOR_CREDENTIAL`].
    ///
    /// # Errors
    /// [`StartError`], which says what to do.
    pub fn open(config: Config, parameters: Parameters, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let store = Self::store(&config)?;
        Self::over(store, config, parameters, clock)
    }

    /// As [`Self::open`], with a signer that is elsewhere: in a process of its own.
    ///
    /// # Errors
    /// [`StartError`]; also where it signs another log.
    pub fn open_with_signer(
        config: Config,
        parameters: Parameters,
        clock: Arc<dyn Clock>,
        signer: Box<dyn Signer>,
    ) -> Result<Self, StartError> {
        let store = Self::store(&config)?;
        Self::with_signer(store, config, parameters, clock, signer)
    }

    fn store(config: &Config) -> Result<Arc<dyn Store>, StartError> {
        let directory = config.data_dir.clone();
        let file = |error| StartError::File { path: directory.clone(), error };
        files::private_directory(&directory).map_err(file)?;
        Ok(Arc::new(Redb::open_with(&directory.join(store::FILE), config.store_cache)?))
    }

    /// Opens a manager over a store that is open already.
    pub(crate) fn over(
        store: Arc<dyn Store>,
        config: Config,
        parameters: Parameters,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let signer = config.signer().open().map_err(refused)?;
        Self::with_signer(store, config, parameters, clock, Box::new(signer))
    }

    /// As [`Self::over`], with a signer that is elsewhere.
    fn with_signer(
        store: Arc<dyn Store>,
        config: Config,
        parameters: Parameters,
        clock: Arc<dyn Clock>,
        signer: Box<dyn Signer>,
    ) -> Result<Self, StartError> {
        let configuration = config.configuration(&parameters)?;
        let log = TransparencyLog::open(&config, signer.as_ref())?;
        let authority = Authority::open(&config.data_dir, &config.trust_domain, clock.now())?;
        let outbox = Outbox::open(&config.webhooks)?;
        let metrics = Metrics::new().map_err(|error| StartError::Refused(error.to_string()))?;
        let metrics = Arc::new(metrics);
        let ledger = Embedded::observed(store, Arc::clone(&clock), Arc::<Metrics>::clone(&metrics))?;
        configure(&ledger, &configuration)?;
        configure_evidence(&ledger, &config)?;
        first_keys(&ledger, signer.as_ref(), config.token_ttl.max(config.status_ttl))?;
        first_operator(&ledger, &config, clock.as_ref())?;
        let engine = Engine::new(parameters.clone(), &config.engine())
            .map_err(|error| StartError::Refused(error.to_string()))?;
        let parts = (signer, log, metrics);
        let outward = (Arc::new(authority), outbox);
        let manager = Self::new(config, configuration, (parameters, engine), Box::new(ledger), clock, parts, outward);
        // One that is new begins here: whatever happens from now on is for it.
        manager.place_new_webhooks()?;
        Ok(manager)
    }
}

fn refused(error: SignerError) -> StartError {
    StartError::Refused(error.to_string())
}

fn configure(ledger: &dyn Ledger, configuration: &Configuration) -> Result<(), StartError> {
    let rows = ledger.view()?;
    let current: Option<Configuration> = State(rows.as_ref()).get(key::ONLY)?;
    if current.as_ref() == Some(configuration) {
        return Ok(());
    }
    drop(rows);
    match ledger.submit(Command::Configure(configuration.clone()))? {
        Outcome::Refused(problem) => Err(StartError::Refused(problem.detail)),
        _ => {
            for (kind, old, new) in current.iter().flat_map(|current| changed_keys(current, configuration)) {
                tracing::warn!(%kind, %old, %new, "the verifying key changed: records under the old one count no more");
            }
            Ok(())
        }
    }
}

/// Puts in force what evidence must be. Where none was ever accepted, nothing is written.
fn configure_evidence(ledger: &dyn Ledger, config: &Config) -> Result<(), StartError> {
    let terms = config.evidence.terms()?;
    let current = State(ledger.view()?.as_ref()).evidence_terms()?;
    if current.as_ref().map_or(!terms.accepts(), |current| *current == terms) {
        return Ok(());
    }
    ledger.submit(Command::ConfigureEvidence(terms))?;
    Ok(())
}

/// The statements whose verifying key differs, with the old and the new one.
fn changed_keys<'a>(
    old: &'a Configuration,
    new: &'a Configuration,
) -> impl Iterator<Item = (Kind, Digest, Digest)> + 'a {
    old.statements.iter().filter_map(|statement| {
        let now = new.verifying_key(statement.kind)?;
        (now != statement.verifying_key).then_some((statement.kind, statement.verifying_key, now))
    })
}

/// Makes an operator credential if none is in force: at the first start, and where the last one has expired. The secret
/// is on disk before it is valid: a crash between the two leaves a secret that the next start makes valid.
fn first_operator(ledger: &dyn Ledger, config: &Config, clock: &dyn Clock) -> Result<(), StartError> {
    let rows = ledger.view()?;
    let state = State(rows.as_ref());
    let now = clock.now().max(state.head()?.at);
    if state.credentials()?.iter().any(|credential| credential.governs(now)) {
        return Ok(());
    }
    let path = config.data_dir.join(OPERATOR_CREDENTIAL);
    let file = |error| StartError::File { path: path.clone(), error };
    let left = files::read_if_there(&path).map_err(file)?.map(|secret| secret.trim().to_owned());
    let secret = match left {
        // One that was valid once is not made valid again.
        Some(secret) if state.credential(&secret_digest(&secret))?.is_none() => secret,
        _ => {
            let secret = new_secret("operator");
            files::write_private(&config.data_dir, OPERATOR_CREDENTIAL, format!("{secret}\n").as_bytes())
                .map_err(file)?;
            secret
        }
    };
    let (digest, name, role) = (secret_digest(&secret), "first operator".to_owned(), Role::Operator);
    drop(rows);
    ledger.submit(Command::GrantCredential { digest, name, role, clusters: None, expires_at: None })?;
    tracing::info!(path = %path.display(), "made an operator credential");
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_verifying_key_is_seen_by_its_kind() {
        let mut config = Config::new("/nowhere", "acme.example".parse().unwrap(), "m1".parse().unwrap());
        config.suites = vec![keywitness_circuits::Suite::Halo2Pasta];
        let old = config.configuration(&Parameters::transparent()).unwrap();
        assert_eq!(changed_keys(&old, &old).count(), 0);
        let mut new = old.clone();
        let changed = new.statements.first_mut().unwrap();
        let (kind, before) = (changed.kind, std::mem::replace(&mut changed.verifying_key, Digest([9; 32])));
        new.statements.pop();
        assert_eq!(changed_keys(&old, &new).collect::<Vec<_>>(), [(kind, before, Digest([9; 32]))]);
    }
}
