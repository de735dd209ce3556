//! Status lists: which of the keys that tokens speak of are revoked or suspended, now and at any time before.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Mutex, PoisonError, TryLockError},
};

use keywitness_circuits::{Digest, Timestamp};
use keywitness_verifier::{
    token::{
        StatusClaim, StatusReference, issuer,
        status::{ENTRIES, STATUS_LIST_TYPE, StatusBits, StatusListClaims},
    },
    wire::{Problem, ProblemKind, Standing, TokenAlgorithm, path},
};

use super::Manager;
use crate::ledger::{
    Fault,
    state::{History, HsmRow, KeyRow, State, StatusEntryRow, StatusHead, StatusIndexRow, key},
    tables::Table,
};

/// Lists that were signed lately, and who computes one.
#[derive(Default)]
pub(crate) struct StatusLists {
    /// By number.
    newest: Mutex<BTreeMap<u64, Signed>>,
    /// Held while a list of the past is computed.
    past: Mutex<()>,
}

struct Signed {
    revision: u64,
    at: Timestamp,
    jwt: String,
}

impl Manager {
    /// A signed status list, as of now or of a time before. Anyone may know.
    ///
    /// A list is computed once for each revocation and each half of its life, by one caller at a time; further ones get
    /// the same bytes. One as of a time before is computed each time, for one caller at a time; nobody waits for that.
    ///
    /// # Errors
    /// `not-found` for a list that holds no entry; `malformed` for a time to come; `unavailable` for a time before while
    /// another such list is computed.
    pub fn status_list(&self, number: u64, time: Option<Timestamp>) -> Result<String, Problem> {
        let rows = self.ledger.view()?;
        self.status_list_in(State(rows.as_ref()), number, time, Timestamp(0))
    }

    /// The same, of one view of the state; where no time is asked for, one that was signed at `since` or later.
    pub(super) fn status_list_in(
        &self,
        state: State<'_>,
        number: u64,
        time: Option<Timestamp>,
        since: Timestamp,
    ) -> Result<String, Problem> {
        let (now, head) = (self.now(state)?, state.get::<StatusHead>(key::ONLY)?.unwrap_or_default());
        let lists = head.entries.div_ceil(ENTRIES).max(1);
        if number >= lists {
            let why = format!("there are {lists} status lists, from 0 on");
            return Err(Problem::new(ProblemKind::NotFound, why));
        }
        if time.is_some_and(|time| time > now) {
            let why = format!("it is {} now: how things will stand, nobody knows", now.0);
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        if let Some(at) = time {
            let _one = match self.status_lists.past.try_lock() {
                Ok(one) => one,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    let why = "another list of the past is being computed";
                    return Err(Problem::new(ProblemKind::Unavailable, why).after(1));
                }
            };
            return self.sign_status_list(state, number, at);
        }
        let mut signed = self.status_lists.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |signed: &&Signed| {
            signed.revision == head.revision
                && signed.at >= since
                && now.since(signed.at) < self.config.status_ttl.div_ceil(2)
        };
        if let Some(list) = signed.get(&number).filter(fresh) {
            return Ok(list.jwt.clone());
        }
        let jwt = self.sign_status_list(state, number, now)?;
        signed.insert(number, Signed { revision: head.revision, at: now, jwt: jwt.clone() });
        Ok(jwt)
    }

    fn sign_status_list(&self, state: State<'_>, number: u64, at: Timestamp) -> Result<String, Problem> {
        let status_list = statuses(state, number, at)?.compress().map_err(|error| {
            tracing::error!(%error, "a status list cannot be packed");
            Problem::new(ProblemKind::Internal, "the manager's log has the reason")
        })?;
        let audience = self.audience();
        let claims = StatusListClaims {
            iss: issuer(&audience.trust_domain, &audience.manager),
            sub: self.status_list_uri(number),
            iat: at,
            exp: at.plus(self.config.status_ttl),
            ttl: self.config.status_ttl.div_ceil(2),
            status_list,
        };
        self.sign(state, TokenAlgorithm::Es256, STATUS_LIST_TYPE, &claims)
    }

    /// The claim that says where the status of a key in an HSM is found. `verifying_keys` are those that the token rests on.
    pub(super) fn status_claim(
        &self,
        state: State<'_>,
        (hsm, key): (&HsmRow, &KeyRow),
        mut verifying_keys: impl Iterator<Item = Digest>,
    ) -> Result<StatusClaim, Problem> {
        let row: Option<StatusIndexRow> = state.get(&key::epoch(&hsm.hsm, &key.key))?;
        let Some(row) = row.filter(|row| verifying_keys.all(|used| row.verifying_keys.contains(&used))) else {
            let why =
                "the statements in force have changed since this key was proven last; ask after its next attestation";
            return Err(Problem::new(ProblemKind::NotAttested, why));
        };
        let uri = self.status_list_uri(row.index / ENTRIES);
        Ok(StatusClaim { status_list: StatusReference { idx: row.index % ENTRIES, uri } })
    }

    pub(super) fn status_list_uri(&self, number: u64) -> String {
        let base = self.config.public_url.as_deref().unwrap_or_default().trim_end_matches('/');
        format!("{base}{}/{number}", path::STATUS_LISTS)
    }
}

/// How every entry of a list stood at a time.
fn statuses(state: State<'_>, number: u64, at: Timestamp) -> Result<StatusBits, Fault> {
    let mut bits = StatusBits::default();
    let history = History::read(state)?;
    if history.is_empty() {
        return Ok(bits);
    }
    let (first, mut index) = (number.saturating_mul(ENTRIES), 0);
    // Entries are numbered without a gap.
    state.0.visit(Table::StatusEntries, &[], &key::number(first), &mut |_, value| {
        if index >= ENTRIES {
            return Ok(ControlFlow::Break(()));
        }
        let entry: StatusEntryRow = crate::ledger::state::decode(Table::StatusEntries, value)?;
        let standing = history.standing(&entry.grounds, at);
        if standing != Standing::Active {
            bits.set(index, standing);
        }
        index += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(bits)
}
