//! Giving challenges.

use std::collections::BTreeSet;

use keywitness_circuits::{Kind, Nonce};
use keywitness_verifier::wire::{Challenge, KeyRef, Problem, ProblemKind, Revocation, RevocationTarget};

use super::{Apply, RETENTION, refuse, revocation};
use crate::ledger::{
    command::Outcome,
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

impl Apply<'_> {
    pub(super) fn issue_challenge(
        &mut self,
        hsm: &HsmRow,
        statement: &str,
        keys: &[KeyRef],
        nonce: &Nonce,
        next_beacon: &Nonce,
    ) -> Result<Outcome, Fault> {
        if let Some(revocation) = self.state().revocation(hsm, keys)? {
            fraud::revoked_attempt(self, &hsm.hsm, &revocation)?;
            return Ok(Outcome::Refused(revocation::problem(&revocation)));
        }
        let configuration = self.state().configuration()?;
        let kind = statement.parse().ok().filter(|kind: &Kind| configuration.verifying_key(*kind).is_some());
        let Some(kind) = kind else {
            return Ok(refuse(
                ProblemKind::UnknownStatement,
                format!("no statement kind {statement:?} is in force here"),
            ));
        };
        let verifying_key = configuration.verifying_key(kind).map(RevocationTarget::VerifyingKey);
        if let Some(target) = verifying_key
            && let Some(revocation) = self.state().barred(&target)?
        {
            return Ok(Outcome::Refused(revocation::problem(&revocation)));
        }
        if let Err(why) = countable(kind, keys) {
            return Ok(refuse(ProblemKind::Malformed, why));
        }
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(row) = self.state().get::<KeyRow>(&key::epoch(&hsm.hsm, key))? else {
                let why = format!("{} has not enrolled key {} at epoch {}", hsm.hsm, key.key, key.epoch);
                return Ok(refuse(ProblemKind::UnknownKey, why));
            };
            rows.push(row);
        }
        if let Some((problem, revocations)) = revoked(self.state(), hsm, rows.iter())? {
            for revocation in &revocations {
                fraud::revoked_attempt(self, &hsm.hsm, revocation)?;
            }
            return Ok(Outcome::Refused(problem));
        }
        let single = kind.single();
        let unfit = |row: &&KeyRow| {
            let needed = row.attributes.kinds(&configuration.suites);
            !needed.contains(&single) || row.instance(single).is_none()
        };
        if let Some(KeyRow { key, attributes, .. }) = rows.iter().find(unfit) {
            let why = format!("key {} is a {} key, which {kind} does not attest here", key.key, attributes.algorithm);
            return Ok(refuse(ProblemKind::UnknownStatement, why));
        }
        let at = self.moment.at;
        let round = match kind.needs_beacon() {
            true => Some(self.beacon_round(&configuration, next_beacon)?),
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
        let ChallengeRow { expires_at, not_before, not_after, .. } = challenge;
        let beacon = round.map(|round| round.beacon);
        Ok(Outcome::Challenge(Challenge { nonce: *nonce, expires_at, not_before, not_after, beacon }))
    }
}
