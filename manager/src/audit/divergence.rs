//! What an audit found that an honest manager never writes.

use std::fmt;

use keywitness_circuits::Timestamp;
use keywitness_verifier::wire::rfc3339;
use serde::Serialize;

/// The first place where a log is not what its commands, or its proofs, come to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[error(
    "entry {sequence} ({command}, at {}): {offence}; expected {expected}, found {found}", rfc3339(*at)
)]
pub struct Divergence {
    /// Number of the entry.
    pub sequence: u64,
    /// When the entry says that it was applied.
    pub at: Timestamp,
    /// The entry's command.
    pub command: String,
    /// What is wrong.
    pub offence: Offence,
    /// What an honest log has here.
    pub expected: String,
    /// What this log has.
    pub found: String,
}

/// Ways in which a log can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offence {
    /// An entry has an earlier time than the one before.
    TimeWentBack,
    /// The command comes to another outcome than the log says.
    Outcome,
    /// The command cannot be applied at all.
    Inapplicable,
    /// An attestation was entered that the HSM's identity key did not sign.
    IdentitySignature,
    /// A proof was accepted that does not verify.
    AcceptedBadProof,
    /// A proof was refused that verifies.
    RefusedGoodProof,
    /// A dealing was entered that its dealer did not sign, or that is wrong in itself.
    Dealing,
    /// A complaint was judged wrongly.
    Complaint,
    /// Evidence of where an HSM or a key lives was judged wrongly.
    Evidence,
    /// A verifying key was put in force that the auditor's trust anchors do not accept.
    VerifyingKey,
    /// The manager is another one than the trust anchors name.
    Audience,
    /// A sealed state root is not that of the state which the commands come to.
    StateRoot,
    /// The entries are not those that the checkpoint commits to.
    LogRoot,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TimeWentBack => "the entry's time is before that of the entry before it",
            Self::Outcome => "the command comes to another outcome than the log says",
            Self::Inapplicable => "the command cannot be applied",
            Self::IdentitySignature => {
                "the HSM's identity key, as enrolled at that point, did not sign the attestation"
            }
            Self::AcceptedBadProof => "the manager accepted a proof that does not verify",
            Self::RefusedGoodProof => "the manager refused a proof that verifies",
            Self::Dealing => "the manager entered a dealing that is not its dealer's, or not consistent",
            Self::Complaint => "the manager judged a complaint wrongly",
            Self::Evidence => "the manager judged evidence of where an HSM or a key lives wrongly",
            Self::VerifyingKey => "a verifying key was put in force that the trust anchors do not accept",
            Self::Audience => "the log is another manager's than the trust anchors name",
            Self::StateRoot => "the sealed state is not the one that the commands come to",
            Self::LogRoot => "the entries are not those that the checkpoint commits to",
        })
    }
}
