//! Giving challenges.

use keywitness_circuits::{Nonce, context::MAX_KEYS};
use keywitness_verifier::wire::{Challenge, ChallengeRequest, Problem, ProblemKind};

use super::{Manager, access::HsmCaller, unexpected};
use crate::ledger::{Command, Outcome};

impl Manager {
    /// Gives a single-use challenge. For an HSM; the same signed request sent again gets the same answer.
    ///
    /// # Errors
    /// `unknown-statement`, `unknown-key`; `hsm-revoked` or `key-revoked`, where the attempt counts;
    /// `too-many-requests`, for each key costs a request; `malformed` for a number of keys that the statement does not take, and for a key that is named twice.
    pub fn challenge(&self, caller: &HsmCaller, request: &ChallengeRequest) -> Result<Challenge, Problem> {
        if !(1..=MAX_KEYS).contains(&request.keys.len()) {
            return Err(Problem::new(ProblemKind::Malformed, format!("name 1 to {MAX_KEYS} keys")));
        }
        self.spend_more(caller, request.keys.len())?;
        let command = Command::IssueChallenge {
            request: *caller.request(),
            hsm: caller.hsm().clone(),
            enrolment: caller.enrolment(),
            statement: request.statement.clone(),
            keys: request.keys.clone(),
            nonce: Nonce::random(),
            beacon: Nonce::random(),
        };
        match self.submit(command)? {
            Outcome::Challenge(challenge) => Ok(challenge),
            other => Err(unexpected(&other)),
        }
    }
}
