//! What an operator can choose, and what whoever watches is told.

use std::{path::PathBuf, sync::Arc, time::Duration};

use keywitness_circuits::{HsmId, Kind, Timestamp};
use keywitness_verifier::{
    identity::IdentityKey,
    wire::{ComplaintVerdict, Enrolment, EvidenceRecord, KeyRef, Record},
};

use super::{AgentError, AttestError, CopyError, EvidenceFailure, LeftOut, journal};

/// What an operator can choose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentConfig {
    /// Attest every key when the agent starts, rather than when its record from before is due.
    pub attest_at_start: bool,
    /// Check each proof before it is sent.
    pub verify_own_proofs: bool,
    /// Seconds after which the manager is asked again about something revoked.
    pub revoked_recheck: u64,
    /// Where clients reach this HSM's channel; announced to the manager.
    pub channel_url: Option<String>,
    /// The journal's path.
    pub journal: Option<PathBuf>,
    /// A folder that keeps the newest accepted envelope of each key and statement.
    pub envelopes: Option<PathBuf>,
    /// Size at which the journal is turned over, in bytes.
    pub journal_max_size: u64,
    /// Identity keys of the HSMs of the cluster that get copies of this HSM's keys, and are asked for theirs. With none, no
    /// key is copied.
    pub peers: Vec<IdentityKey>,
    /// How often they are asked, in seconds.
    pub copies_every: u64,
    /// Take their new epochs of keys that this HSM has, too.
    pub take_rotations: bool,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            attest_at_start: true,
            verify_own_proofs: true,
            revoked_recheck: 3600,
            channel_url: None,
            journal: None,
            envelopes: None,
            journal_max_size: journal::DEFAULT_MAX_SIZE,
            peers: Vec::new(),
            copies_every: 60,
            take_rotations: false,
        }
    }
}

/// Something that an agent did, for whoever watches.
#[derive(Debug)]
pub enum AgentEvent<'a> {
    /// The HSM is enrolled.
    Enrolled(&'a Enrolment),
    /// The manager knows the channel's address.
    Announced(&'a str),
    /// A proof is about to be made.
    Attesting {
        /// Of this key.
        key: &'a KeyRef,
        /// Under this statement.
        kind: Kind,
    },
    /// A proof was made, or a signature.
    Proven {
        /// Under this statement.
        kind: Kind,
        /// Of so many keys.
        keys: usize,
        /// It took so long.
        took: Duration,
    },
    /// The manager made a record.
    Attested {
        /// The record.
        record: &'a Record,
        /// When the agent renews it, if it goes on running.
        renew_at: Option<Timestamp>,
    },
    /// A key was not attested.
    Failed {
        /// The key.
        key: &'a KeyRef,
        /// The statement.
        kind: Kind,
        /// Why.
        error: &'a AttestError,
        /// When the agent tries again, if it goes on running.
        retry_at: Option<Timestamp>,
    },
    /// A share is about to be sealed to a holder.
    Dealing {
        /// The holder.
        holder: &'a HsmId,
        /// The key it is sealed to, as the manager says: P-256, compressed.
        sealing_key: &'a [u8; 33],
    },
    /// A share arrived, and is what its dealing says.
    ShareReceived {
        /// The share.
        key: &'a KeyRef,
        /// Who dealt it.
        dealer: &'a HsmId,
    },
    /// A share arrived that is not what its dealing says.
    Complained {
        /// Who dealt it.
        dealer: &'a HsmId,
        /// What the manager says of the complaint.
        verdict: &'a ComplaintVerdict,
    },
    /// Another HSM was given a copy of a key, with the manager's leave.
    KeyGiven {
        /// The key.
        key: &'a KeyRef,
        /// To whom.
        to: &'a HsmId,
    },
    /// A copy of a key arrived, and is what the cluster proves.
    KeyReceived {
        /// The key.
        key: &'a KeyRef,
        /// Who gave it.
        from: &'a HsmId,
    },
    /// Copies of keys did not come; the HSM is asked again.
    CopiesFailed {
        /// Who was asked.
        hsm: &'a HsmId,
        /// Why.
        error: &'a CopyError,
    },
    /// A key is not asked for that others of the cluster attest. Told once of each.
    KeyLeftOut {
        /// The key.
        key: &'a KeyRef,
        /// Who attests it, of those that are asked for keys.
        holders: &'a [HsmId],
        /// Why.
        why: LeftOut,
    },
    /// Evidence of where the HSM or a key lives was taken.
    EvidenceGiven {
        /// What it says.
        record: &'a EvidenceRecord,
    },
    /// No evidence was given, or it was refused.
    EvidenceFailed {
        /// Of which key; none for that of the HSM.
        key: Option<&'a KeyRef>,
        /// Why.
        error: &'a EvidenceFailure,
        /// When the agent tries again.
        retry_at: Timestamp,
    },
    /// The manager does not answer, or not as one.
    ManagerAway {
        /// Why.
        error: &'a AgentError,
        /// When the agent tries again.
        retry_at: Timestamp,
    },
    /// The manager answers again.
    ManagerBack {
        /// How many keys became due meanwhile, each under each of its statements.
        due: usize,
    },
}

/// Watches an agent.
pub type Observer = Arc<dyn Fn(&AgentEvent<'_>) + Send + Sync>;

/// What became of one attempt.
#[derive(Debug)]
pub struct Report {
    /// The key.
    pub key: KeyRef,
    /// The statement that was asked for. The record may be of [`Kind::many`].
    pub kind: Kind,
    /// The manager's record, or why there is none; several keys may share the reason.
    pub result: Result<Record, Arc<AttestError>>,
}
