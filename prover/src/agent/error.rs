//! Why an agent or one attestation stops.

use std::sync::Arc;

use keywitness_circuits::{Digest, Error, HsmId, Kind};
use keywitness_verifier::{
    client::ClientError,
    identity::Audience,
    wire::{KeyRef, ProblemKind},
};

use super::{journal::Ending, timetable::Pause};
use crate::store::StoreError;

/// Why an agent cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manager refuses, or does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The store is not enrolled.
    #[error("this store is not enrolled; give the agent a join token (an operator makes one)")]
    NotEnrolled,
    /// The store belongs to another HSM.
    #[error("this store belongs to HSM {0}; a store belongs to one HSM, so take another store or that name")]
    OtherHsm(HsmId),
    /// The manager is not the one that the HSM enrolled with.
    #[error(
        "the manager says it is {} of {}, but this HSM is enrolled with {} of {}; nothing is sent to it",
        .found.manager, .found.trust_domain, .pinned.manager, .pinned.trust_domain
    )]
    ForeignManager {
        /// Whom the HSM enrolled with.
        pinned: Audience,
        /// Who answered.
        found: Audience,
    },
    /// A holder cannot be dealt a share.
    #[error("HSM {0} has told the manager no sealing key; run its agent once, or choose another holder")]
    NoSealingKey(HsmId),
    /// What was asked of the manager on the way.
    #[error(transparent)]
    Attest(#[from] Arc<AttestError>),
    /// The manager answered an enrolment with another name.
    #[error("the manager enrolled HSM {0} instead; report this to its operator")]
    ForeignEnrolment(HsmId),
}

/// Why one key was not attested.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manager refuses to prepare the attestation, or does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The manager refuses an envelope, or does not answer it.
    #[error("{error}")]
    Submission {
        /// Digest of the envelope.
        envelope: Digest,
        /// What the manager says.
        error: Box<ClientError>,
    },
    /// Manager and agent would check the proof under different keys.
    #[error(
        "the manager checks {kind} under verifying key {}, and this agent proves under {ours}; load the parameters that \
         the manager uses", .theirs.map_or("none".to_owned(), |digest| digest.to_string())
    )]
    ForeignVerifyingKey {
        /// The statement kind.
        kind: Kind,
        /// Digest of the agent's verifying key.
        ours: Digest,
        /// Digest of the manager's, if the kind is in force there.
        theirs: Option<Digest>,
    },
    /// The key has no such instance.
    #[error("key {} is not proven by {kind}", .key.key)]
    NoInstance {
        /// The key.
        key: KeyRef,
        /// The statement kind.
        kind: Kind,
    },
    /// The challenge asks for a claim that no honest manager asks for.
    #[error("the manager's challenge is refused: {0}")]
    Challenge(&'static str),
    /// The proof that was just made does not verify.
    #[error("the proof that was just made does not verify, and is not sent: {0}")]
    OwnProof(keywitness_circuits::Error),
    /// The manager's record is not of what was claimed.
    #[error("the manager answered with a record of another claim: {0}")]
    ForeignRecord(&'static str),
}

impl AttestError {
    /// What came of asking the manager, where that is what failed.
    pub fn client_error(&self) -> Option<&ClientError> {
        match self {
            Self::Client(error) => Some(error),
            Self::Submission { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The manager's word for its refusal, if it refused.
    pub fn problem(&self) -> Option<ProblemKind> {
        self.client_error().and_then(ClientError::problem_kind)
    }

    /// Digest of the envelope, where one was sent.
    pub const fn envelope(&self) -> Option<Digest> {
        match self {
            Self::Submission { envelope, .. } => Some(*envelope),
            _ => None,
        }
    }

    /// Whether the manager could not be asked at all.
    pub fn is_unanswered(&self) -> bool {
        matches!(self.client_error(), Some(ClientError::Unreachable(..)))
    }

    /// Whether the store did not do its part, which may pass.
    pub(super) fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Store(error) if error.may_pass())
    }

    /// The places of the keys, from 0, for which no proof of many could be made.
    pub(super) fn culprits(&self) -> &[usize] {
        match self {
            Self::Store(StoreError::Proof(Error::KeysRefused { culprits })) => culprits,
            _ => &[],
        }
    }

    /// Whether the reason is the same for every key, so that claiming each alone would change nothing.
    pub(super) fn concerns_every_key(&self) -> bool {
        let wide = matches!(self.problem(), Some(ProblemKind::HsmRevoked | ProblemKind::ClockSkew));
        wide || self.client_error().is_some_and(may_pass)
    }

    /// How long to wait before the next attempt.
    pub(super) fn pause(&self, revoked_recheck: u64) -> Pause {
        if self.is_unanswered() {
            return Pause::Unanswered;
        }
        if let Some(error) = self.client_error().filter(|error| may_pass(error)) {
            return error.retry_after().map_or(Pause::Short, |seconds| Pause::After(seconds.into()));
        }
        if self.is_of_the_store() {
            return Pause::Short;
        }
        match self.problem() {
            Some(ProblemKind::HsmRevoked | ProblemKind::KeyRevoked) => Pause::Revoked(revoked_recheck),
            Some(
                ProblemKind::ClockSkew
                | ProblemKind::UnknownChallenge
                | ProblemKind::ChallengeExpired
                | ProblemKind::UnknownKey,
            ) => Pause::Short,
            _ => Pause::Long,
        }
    }

    pub(super) fn ending(&self) -> Ending {
        match (self, self.client_error()) {
            (_, Some(ClientError::Problem(_))) => Ending::Refused,
            (Self::ForeignRecord(_), _) | (_, Some(_)) => Ending::Unanswered,
            _ => Ending::NotSent,
        }
    }
}

/// An error's words on one line, without what a terminal would take for commands: some of them come from the manager.
pub(super) fn printable(error: &impl std::fmt::Display) -> String {
    let mut text = String::new();
    for c in error.to_string().chars() {
        match c {
            '\'' | '"' | '\\' => text.push(c),
            _ => text.extend(c.escape_debug()),
        }
    }
    text
}

/// Whether the same call may succeed when it is made again.
pub(super) fn may_pass(error: &ClientError) -> bool {
    match error {
        // A gateway in between may answer in words of its own.
        ClientError::Unreachable(..) | ClientError::Malformed(_) => true,
        ClientError::Problem(problem) => problem.status >= 500 || problem.status == 429,
    }
}
