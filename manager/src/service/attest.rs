//! Judging envelopes (`VerifyAttestation`).

use keywitness_circuits::{Envelope, Error, codec::Canonical};
use keywitness_verifier::{
    engine::{Claim, EngineError, Priority, Work},
    wire::{AttestResponse, Problem, ProblemKind},
};

use super::{Manager, unexpected};
use crate::ledger::{
    Command, Outcome, Verdict,
    apply::attestation::examine,
    state::{HsmRow, OutcomeRow, State},
};

impl Manager {
    /// Judges an envelope. Anyone may bring it: the identity signature inside says whose it is, and until
    /// that verifies nothing is consumed, counted or logged. A claim of many keys is accepted or refused as a whole.
    ///
    /// The proof is checked here, by the engine and with those of other callers, before the command is ordered; the ledger
    /// then checks everything else again, and consumes the challenge.
    ///
    /// # Errors
    /// `malformed` and `unauthenticated`, `unknown-challenge` for what another manager asked for, and `unavailable` where
    /// too many proofs wait, which change nothing; then, each of them recorded,
    /// `unknown-challenge`, `foreign-challenge`, `challenge-consumed`, `challenge-expired`,
    /// `unknown-statement`, `context-mismatch`, `hsm-revoked`, `key-revoked` and `proof-refused`. The same
    /// envelope sent again gets the same answer.
    pub fn attest(&self, bytes: &[u8]) -> Result<AttestResponse, Problem> {
        let envelope =
            Envelope::from_bytes(bytes).map_err(|error| self.reject(ProblemKind::Malformed, error.to_string()))?;
        // The view of the ledger ends before the proof waits for its turn: a long one keeps old pages alive.
        let (hsm, right) = {
            let rows = self.ledger.view()?;
            let state = State(rows.as_ref());
            let hsm =
                state.hsm(&envelope.context.hsm)?.filter(|hsm| hsm.identity_key.check_envelope(&envelope).is_ok());
            let Some(hsm) = hsm else {
                let why = "no enrolled HSM of that name signed this envelope";
                return Err(self.reject(ProblemKind::Unauthenticated, why));
            };
            if let Some(OutcomeRow(outcome)) = state.get(&envelope.digest().0)? {
                return recorded(outcome);
            }
            let right = match examine(state, &hsm, &envelope, self.now(state)?)? {
                Ok(_) => true,
                Err(wrong) => match wrong.misdirected() {
                    Some(problem) => return Err(self.rejected(problem.clone())),
                    None => false,
                },
            };
            (hsm, right)
        };
        let verdict = if right { self.verdict(&hsm, &envelope)? } else { Verdict::Unchecked };
        let command = Command::Attest {
            digest: envelope.digest(),
            envelope: bytes.to_vec(),
            hsm: hsm.hsm,
            enrolment: hsm.revision,
            verdict,
        };
        recorded(self.ledger.submit(command)?)
    }

    /// Checks the proof.
    fn verdict(&self, hsm: &HsmRow, envelope: &Envelope) -> Result<Verdict, Problem> {
        let claim = Claim::from(envelope.clone());
        match self.engine.verify(Work { claim, source: hsm.hsm.clone(), priority: Priority::Fresh }) {
            Ok(verified) if *verified.context() == envelope.context.digest() => Ok(Verdict::Proven),
            Ok(verified) => {
                tracing::error!(context = %verified.context(), "the engine speaks of another proof");
                Err(Problem::new(ProblemKind::Internal, "the manager's log has the reason"))
            }
            Err(EngineError::Busy { retry_after }) => {
                tracing::warn!(hsm = %hsm.hsm, ?retry_after, "too many proofs wait to be checked");
                let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
                let why = "too many proofs wait to be checked; send the same envelope again later";
                Err(Problem::new(ProblemKind::Unavailable, why).after(seconds.try_into().unwrap_or(u16::MAX)))
            }
            Err(EngineError::Stopped) => Err(Problem::new(ProblemKind::Unavailable, "the manager is stopping")),
            Err(EngineError::Refused(error))
                if !matches!(error, Error::MissingParameters(_) | Error::Parameters(_)) =>
            {
                tracing::debug!(hsm = %hsm.hsm, %error, "proof refused");
                Ok(Verdict::Refused)
            }
            Err(error) => {
                tracing::error!(%error, "a proof cannot be checked");
                Err(Problem::new(ProblemKind::Internal, "the manager's log has the reason"))
            }
        }
    }
}

fn recorded(outcome: Outcome) -> Result<AttestResponse, Problem> {
    match outcome {
        Outcome::Recorded(records) => Ok(AttestResponse { records }),
        Outcome::Refused(problem) => Err(problem),
        other => Err(unexpected(&other)),
    }
}
