//! Token keys and what they sign.

use jsonwebtoken::jwk::JwkSet;
use keywitness_verifier::{
    token::LEEWAY,
    wire::{Problem, ProblemKind, TokenAlgorithm, TokenKey, TokenKeyState, TokenKeys},
};
use serde::Serialize;

use super::{Manager, access::Caller};
use crate::{
    ledger::{
        Command, Ledger, Outcome,
        state::{State, token_key::TokenKeyRow},
    },
    signer::{PublicKey, Signer, SignerError, jws},
};

/// How long a key set may be kept, in seconds: a new key signs nothing before every checker can know it.
pub(crate) const JWKS_MAX_AGE: u64 = 300;

impl From<SignerError> for Problem {
    fn from(error: SignerError) -> Self {
        tracing::error!(%error, "nothing was signed");
        match error {
            // What is refused once is refused again.
            SignerError::Refused(_) | SignerError::Fork { .. } => {
                Self::new(ProblemKind::Internal, "the signer refused; the manager's log has the reason")
            }
            _ => Self::new(ProblemKind::Unavailable, "the manager cannot sign now; its log has the reason"),
        }
    }
}

impl Manager {
    /// The keys that sign tokens, will sign them, or signed some that have not expired. Anyone may know.
    ///
    /// # Errors
    /// Only where the ledger cannot be read.
    pub fn jwks(&self) -> Result<JwkSet, Problem> {
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let now = self.now(state)?;
        let published = state.token_keys()?.into_iter().filter(|row| row.state(now) != TokenKeyState::Retired);
        let keys = published.map(|row| PublicKey { algorithm: row.algorithm, bytes: row.public }.jwk());
        Ok(JwkSet { keys: keys.collect::<Result<_, SignerError>>()? })
    }

    /// Every token key, oldest first. For operators.
    ///
    /// # Errors
    /// `forbidden` for a caller who is not good for every cluster.
    pub fn token_keys(&self, caller: &Caller) -> Result<TokenKeys, Problem> {
        caller.must_reach_everything()?;
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let now = self.now(state)?;
        Ok(TokenKeys { keys: state.token_keys()?.iter().map(|row| row.shown(now)).collect() })
    }

    /// Makes another token key. It is published at once, and signs in place of the one before as soon as no checker can have
    /// an older key set; the one before stays published until all that it signed has expired. For operators.
    ///
    /// # Errors
    /// `forbidden` for a caller who is not good for every cluster; `unavailable` where no key can be made.
    pub fn rotate_token_key(&self, caller: &Caller, algorithm: TokenAlgorithm) -> Result<TokenKey, Problem> {
        caller.must_reach_everything()?;
        let public = self.signer.make(algorithm)?;
        let command = add(&public, JWKS_MAX_AGE, self.config.token_ttl.max(self.config.status_ttl))?;
        self.submit_for(caller, command)?;
        let kid = public.kid()?;
        let found = self.token_keys(caller)?.keys.into_iter().find(|key| key.kid == kid);
        found.ok_or_else(|| Problem::new(ProblemKind::Internal, "the manager's log has the reason"))
    }

    /// Signs claims with the key in force.
    pub(super) fn sign(
        &self,
        state: State<'_>,
        algorithm: TokenAlgorithm,
        media_type: &str,
        claims: &impl Serialize,
    ) -> Result<String, Problem> {
        let kid = self.signing_key(state, algorithm)?;
        Ok(jws(self.signer.as_ref(), (&kid, algorithm), media_type, claims)?)
    }

    /// The name of the key in force.
    pub(super) fn signing_key(&self, state: State<'_>, algorithm: TokenAlgorithm) -> Result<String, Problem> {
        let key = state.signing_key(algorithm, self.now(state)?)?.ok_or_else(|| {
            let why = format!("no {algorithm} key signs tokens here: make one (keywitness token-key rotate)");
            Problem::new(ProblemKind::Unavailable, why)
        })?;
        Ok(key.kid)
    }
}

/// The command that adds a key, which signs after an overlap, and whose signatures last at most `life` seconds.
fn add(public: &PublicKey, overlap: u64, life: u64) -> Result<Command, SignerError> {
    Ok(Command::AddTokenKey {
        kid: public.kid()?,
        algorithm: public.algorithm,
        public: public.bytes.clone(),
        overlap,
        keep: life.saturating_add(2 * LEEWAY),
    })
}

/// Sees to it that there is a key of each algorithm, and that the ledger knows them: the files come first, so that a crash
/// between the two leaves a key that the next start makes known. A key whose file is lost is replaced at once.
pub(crate) fn first_keys(ledger: &dyn Ledger, signer: &dyn Signer, life: u64) -> Result<(), Problem> {
    for algorithm in TokenAlgorithm::ALL {
        let known = State(ledger.view()?.as_ref()).token_keys()?;
        let held = signer.keys()?;
        let here = |row: &&TokenKeyRow| held.iter().any(|key| key.bytes == row.public);
        if known.iter().filter(here).any(|row| row.algorithm == algorithm && row.signs_until.is_none()) {
            continue;
        }
        let new = |key: &&PublicKey| key.algorithm == algorithm && known.iter().all(|row| row.public != key.bytes);
        let public = held.iter().find(new).cloned().map_or_else(|| signer.make(algorithm), Ok)?;
        if let Outcome::Refused(problem) = ledger.submit(add(&public, 0, life)?)? {
            return Err(problem);
        }
    }
    Ok(())
}
