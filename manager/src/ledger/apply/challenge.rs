//! Giving challenges.

use std::collections::BTreeSet;

use keywitness_circuits::{Kind, Nonce};
use keywitness_verifier::wire::{Challenge, KeyRef, Problem, ProblemKind, Revocation, RevocationTarget};

use super::{Apply, RETENTION, revocation};
use crate::ledger::{
    command::{Configuration, Outcome},
    fraud,
    state::{ChallengeRow, HsmRow, KeyRow, State, key},
    tables::{Fault, Table},
};

/// What of these keys of an HSM is revoked: the refusal, which names them, and each revocation once.
pub(super) fn revoked<'k>(
    state: State<'_>,
    hsm: &HsmRow,
    keys: impl ExactSizeIterator<Item = &'k KeyRow>,
) -> Result<Option<(Problem, Vec<Revocation>)>, Fault> {
    let many = keys.len() > 1;
    let (mut names, mut revocations) = (Vec::new(), Vec::<Revocation>::new());
    for row in keys {
        if let Some(revocation) = state.key_revocation(hsm, row)? {
            names.push(row.key.key.to_string());
            if !revocations.contains(&revocation) {
                revocations.push(revocation);
            }
        }
    }
    // The worst is told.
    revocations.sort_by_key(|revocation| std::cmp::Reverse(revocation.standing));
    let Some(first) = revocations.first() else { return Ok(None) };
    let mut problem = revocation::problem(first);
    if many && !matches!(first.target, RevocationTarget::Hsm(_) | RevocationTarget::Cluster(_)) {
        problem.detail = format!("{}; of the keys that were named this stops {}", problem.detail, names.join(", "));
    }
    Ok(Some((problem, revocations)))
}

/// Whether a claim of `kind` may speak of these keys at once.
fn countable(kind: Kind, keys: &[KeyRef]) -> Result<(), String> {
    if keys.is_empty() || keys.len() > kind.most_keys() {
        let most = kind.most_keys();
        let takes = if most == 1 { "exactly one key".to_owned() } else { format!("1 to {most} keys") };
        return Err(format!("{kind} speaks of {takes}, and {} were named", keys.len()));
    }
    let mut seen = BTreeSet::new();
    match keys.iter().find(|key| !seen.insert(*key)) {
        Some(twice) => Err(format!("key {} at epoch {} is named twice", twice.key, twice.epoch)),
        None => Ok(()),
    }
}

/// Why no challenge is given, and what is revoked that was asked for: the attempt counts.
pub(super) struct Denied {
    pub(super) problem: Problem,
    pub(super) revocations: Vec<Revocation>,
}

impl Denied {
    fn because(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { problem: Problem::new(kind, detail), revocations: Vec::new() }
    }
}

/// The kind of which an HSM may be given a challenge for these keys.
pub(super) fn claimable(
    state: State<'_>,
    configuration: &Configuration,
    hsm: &HsmRow,
    statement: &str,
    keys: &[KeyRef],
) -> Result<Result<Kind, Denied>, Fault> {
    if let Some(revocation) = state.revocation(hsm, keys)? {
        return Ok(Err(Denied { problem: revocation::problem(&revocation), revocations: vec![revocation] }));
    }
    let kind = statement.parse().ok().filter(|kind: &Kind| configuration.verifying_key(*kind).is_some());
    let Some(kind) = kind else {
        let why = format!("no statement kind {statement:?} is in force here");
        return Ok(Err(Denied::because(ProblemKind::UnknownStatement, why)));
    };
    let verifying_key = configuration.verifying_key(kind).map(RevocationTarget::VerifyingKey);
    if let Some(target) = verifying_key
        && let Some(revocation) = state.barred(&target)?
    {
        return Ok(Err(Denied { problem: revocation::problem(&revocation), revocations: Vec::new() }));
    }
    if let Err(why) = countable(kind, keys) {
        return Ok(Err(Denied::because(ProblemKind::Malformed, why)));
    }
    let mut rows = Vec::with_capacity(keys.len());
    for key in keys {
        let Some(row) = state.get::<KeyRow>(&key::epoch(&hsm.hsm, key))? else {
            let why = format!("{} has not enrolled key {} at epoch {}", hsm.hsm, key.key, key.epoch);
            return Ok(Err(Denied::because(ProblemKind::UnknownKey, why)));
        };
        rows.push(row);
    }
    if let Some((problem, revocations)) = revoked(state, hsm, rows.iter())? {
        return Ok(Err(Denied { problem, revocations }));
    }
    let single = kind.single();
    let unfit = |row: &&KeyRow| {
        let needed = row.attributes.kinds(&configuration.suites);
        !needed.contains(&single) || row.instance(single).is_none()
    };
    if let Some(KeyRow { key, attributes, .. }) = rows.iter().find(unfit) {
        let why = format!("key {} is a {} key, which {kind} does not attest here", key.key, attributes.algorithm);
        return Ok(Err(Denied::because(ProblemKind::UnknownStatement, why)));
    }
    Ok(Ok(kind))
}

impl Apply<'_> {
    pub(super) fn issue_challenge(
        &mut self,
        hsm: &HsmRow,
        statement: &str,
        keys: &[KeyRef],
        nonce: &Nonce,
        next_beacon: &Nonce,
    ) -> Result<Outcome, Fault> {
        let configuration = self.state().configuration()?;
        match claimable(self.state(), &configuration, hsm, statement, keys)? {
            Ok(kind) => {
                let row = self.give_challenge(&configuration, (hsm, kind, keys), nonce, next_beacon)?;
                let ChallengeRow { expires_at, not_before, not_after, round, .. } = row;
                let beacon = round.map(|round| round.beacon);
                Ok(Outcome::Challenge(Challenge { nonce: *nonce, expires_at, not_before, not_after, beacon }))
            }
            Err(denied) => {
                for revocation in &denied.revocations {
                    fraud::revoked_attempt(self, &hsm.hsm, revocation)?;
                }
                Ok(Outcome::Refused(denied.problem))
            }
        }
    }

    /// Writes a challenge for what is [`claimable`].
    pub(super) fn give_challenge(
        &mut self,
        configuration: &Configuration,
        (hsm, kind, keys): (&HsmRow, Kind, &[KeyRef]),
        nonce: &Nonce,
        next_beacon: &Nonce,
    ) -> Result<ChallengeRow, Fault> {
        let at = self.moment.at;
        let round = match kind.needs_beacon() {
            true => Some(self.beacon_round(configuration, next_beacon)?),
            false => None,
        };
        let challenge = ChallengeRow {
            hsm: hsm.hsm.clone(),
            keys: keys.to_vec(),
            statement: kind,
            issued_at: at,
            expires_at: at.plus(configuration.challenge_ttl),
            not_before: at,
            not_after: at.plus(configuration.record_ttl),
            round,
            consumed: None,
            replay_told: false,
        };
        self.put(&nonce.0, &challenge)?;
        self.forget_at(challenge.not_after.plus(RETENTION), Table::Challenges, &nonce.0)?;
        Ok(challenge)
    }
}
