//! Judging envelopes (`VerifyAttestation`).

use keywitness_circuits::{Digest, Envelope, Error, codec::Canonical};
use keywitness_verifier::{
    engine::{self, Claim, EngineError, Priority, Work},
    wire::{AttestResponse, Problem, ProblemKind},
};

use super::{Manager, unexpected};
use crate::{
    ledger::{
        Command, Outcome, Verdict,
        apply::attestation::{Wrong, examine},
        state::{HsmRow, OutcomeRow, State},
    },
    limits::Source,
};

impl Manager {
    /// Judges an envelope. Anyone may bring it: the identity signature inside says whose it is, and until
    /// that verifies nothing is consumed, counted or logged. A claim of many keys is accepted or refused as a whole.
    ///
    /// The proof is checked here, by the engine and with those of other callers, before the command is ordered; the ledger
    /// then checks everything else again, and consumes the challenge.
    ///
    /// # Errors
    /// `malformed` and `unauthenticated`; `unknown-challenge` for what another manager asked for or what is long gone,
    /// `challenge-consumed` where another HSM did that, `too-many-requests`, and `unavailable` where too many proofs wait:
    /// these change nothing. Then, each of them recorded,
    /// `unknown-challenge`, `foreign-challenge`, `challenge-consumed`, `challenge-expired`,
    /// `unknown-statement`, `context-mismatch`, `hsm-revoked`, `key-revoked` and `proof-refused`. What is recorded costs
    /// the HSM one request, and its mistakes more; the same envelope sent again gets the same answer, and costs it nothing.
    pub fn attest(&self, bytes: &[u8]) -> Result<AttestResponse, Problem> {
        // The view of the ledger ends before the proof waits for its turn: a long one keeps old pages alive.
        let incoming = self.read(State(self.ledger.view()?.as_ref()), bytes)?;
        let (sent, verdict) = match incoming {
            Incoming::Known(answer) => return answer,
            Incoming::Wrong(sent) => (sent, Verdict::Unchecked),
            Incoming::Right(sent) => {
                let claim = Claim::from(sent.envelope.clone());
                let work = Work { claim, source: sent.hsm.hsm.clone(), priority: Priority::Fresh };
                let verdict = self.verdict_of(&sent, self.engine.verify(work))?;
                (sent, verdict)
            }
        };
        recorded(self.ledger.submit(sent.command(bytes, verdict))?)
    }

    /// Reads an envelope, checks who signed it, and compares it with what was asked for: everything but its proof.
    pub(super) fn read(&self, state: State<'_>, bytes: &[u8]) -> Result<Incoming, Problem> {
        let envelope =
            Envelope::from_bytes(bytes).map_err(|error| self.reject(ProblemKind::Malformed, error.to_string()))?;
        let stranger =
            || self.reject(ProblemKind::Unauthenticated, "no enrolled HSM of that name signed this envelope");
        let hsm = state.hsm(&envelope.context.hsm)?.ok_or_else(stranger)?;
        hsm.identity_key()?.check_envelope(&envelope).map_err(|_| stranger())?;
        let digest = envelope.digest();
        // Envelopes are public once they are recorded: whoever brings one again spends nothing of its HSM's.
        if let Some(OutcomeRow(outcome)) = state.get(&digest.0)? {
            return Ok(Incoming::Known(recorded(outcome)));
        }
        let wrong = examine(state, &hsm, &envelope, self.now(state)?)?.err();
        if let Some(problem) = wrong.as_ref().and_then(Wrong::unwritten) {
            return Err(self.rejected(problem.clone()));
        }
        let source = Source::Hsm(hsm.hsm.clone());
        self.limits.spend(&source, 1, self.clock.now())?;
        if let Some(wrong) = &wrong
            && wrong.is_mistake(state, self.now(state)?)?
        {
            self.limits.mistake(&source);
        }
        let sent = Sent { hsm, envelope, digest };
        Ok(if wrong.is_none() { Incoming::Right(sent) } else { Incoming::Wrong(sent) })
    }

    /// What checking the proof came to.
    pub(super) fn verdict_of(&self, sent: &Sent, verdict: engine::Verdict) -> Result<Verdict, Problem> {
        let Sent { hsm, envelope, .. } = sent;
        match verdict {
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
                self.limits.mistake(&Source::Hsm(hsm.hsm.clone()));
                Ok(Verdict::Refused)
            }
            Err(error) => {
                tracing::error!(%error, "a proof cannot be checked");
                Err(Problem::new(ProblemKind::Internal, "the manager's log has the reason"))
            }
        }
    }
}

/// An envelope whose identity signature verifies.
pub(super) struct Sent {
    pub(super) hsm: HsmRow,
    pub(super) envelope: Envelope,
    digest: Digest,
}

impl Sent {
    /// The command that decides about it. `bytes` are the envelope's.
    pub(super) fn command(self, bytes: &[u8], verdict: Verdict) -> Command {
        let Self { hsm, digest, .. } = self;
        Command::Attest { envelope: bytes.to_vec(), digest, hsm: hsm.hsm, enrolment: hsm.revision, verdict }
    }
}

/// An envelope that was read.
pub(super) enum Incoming {
    /// It was judged before.
    Known(Result<AttestResponse, Problem>),
    /// It is what was asked for, but for its proof, which was not looked at.
    Right(Sent),
    /// It is not.
    Wrong(Sent),
}

pub(super) fn recorded(outcome: Outcome) -> Result<AttestResponse, Problem> {
    match outcome {
        Outcome::Recorded(records) => Ok(AttestResponse { records }),
        Outcome::Refused(problem) => Err(problem),
        other => Err(unexpected(&other)),
    }
}
