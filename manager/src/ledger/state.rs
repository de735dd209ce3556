//! The state's rows: typed, and encoded with postcard, which has one encoding for one value.

pub mod access;
pub mod evidence;
pub mod fraud;
pub mod key;
pub mod log;
mod restoration;
pub mod standing;
pub mod token_key;
pub mod webhook;

use std::ops::ControlFlow;

use keywitness_circuits::{ClusterId, Digest, Fingerprint, HsmId, KeyAttributes, KeyId, Kind, Nonce, Timestamp};
use keywitness_verifier::{
    identity::IdentityKey,
    wire::{Failure, KeyRef, Record, Revocation, Role, Sighting},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use self::fraud::Window;
use super::{
    command::{Configuration, Outcome},
    tables::{Fault, Rows, Table, Tables},
};
pub use standing::{
    BarRow, EpisodeRow, Ground, History, Lifted, StatusEntryRow, StatusHead, StatusIndexRow, VerifyingKeyRow,
};

pub use restoration::RestorationRow;

/// A typed row.
pub trait Row: Serialize + DeserializeOwned {
    /// Where rows of this type live.
    const TABLE: Table;
}

macro_rules! rows {
    ($($type:ty => $table:ident;)*) => {
        $(impl Row for $type {
            const TABLE: Table = Table::$table;
        })*

        /// Whether a value is a row of its table; says nothing about tables whose rows have no type of their own.
        ///
        /// # Errors
        /// [`Fault::Corrupt`]
        pub fn check_row(table: Table, value: &[u8]) -> Result<(), Fault> {
            $(if table == Table::$table {
                return decode::<$type>(table, value).map(drop);
            })*
            Ok(())
        }
    };
}

rows! {
    Head => Head;
    Configuration => Configuration;
    CredentialRow => Credentials;
    JoinTokenRow => JoinTokens;
    HsmRow => Hsms;
    HsmId => Identities;
    KeyRow => Keys;
    HolderRow => Holders;
    ChallengeRow => Challenges;
    RequestRow => Requests;
    OutcomeRow => Outcomes;
    RecordRow => Records;
    FailureRow => Failures;
    FailureWindow => FailureWindows;
    BarRow => Revocations;
    RevokedAttempts => RevokedAttempts;
    RevokedFingerprint => RevokedFingerprints;
    SightingRow => Sightings;
    FirstProof => FirstProofs;
    DriftSeen => Drifts;
    BeaconRound => Beacons;
    TagRow => Tags;
    SharingRow => Sharings;
    ShareholderRow => Shareholders;
    EpisodeRow => Standings;
    StatusEntryRow => StatusEntries;
    StatusIndexRow => StatusIndexes;
    StatusHead => StatusHead;
    VerifyingKeyRow => VerifyingKeys;
    token_key::TokenKeyRow => TokenKeys;
    webhook::WebhookRow => Webhooks;
    RestorationRow => Restorations;
    access::CredentialTerms => CredentialTerms;
    evidence::EvidenceTerms => EvidenceTerms;
    evidence::EvidenceChallengeRow => EvidenceChallenges;
    evidence::EvidenceRow => Evidence;
    evidence::DeviceRow => Devices;
    log::Frontier => Frontier;
    log::SealRow => Seals;
    log::RetentionRow => Retention;
}

/// How far the ledger is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Head {
    /// Number of the newest command.
    pub sequence: u64,
    /// When it was applied: no later command has an earlier time.
    pub at: Timestamp,
    /// Number of the newest event.
    pub events: u64,
    /// How many alerts were raised.
    pub alerts: u64,
}

/// A bearer credential.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CredentialRow {
    /// Who holds it.
    pub name: String,
    /// What it may be used for.
    pub role: Role,
}

/// A join token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinTokenRow {
    /// The cluster that the HSM will belong to.
    pub cluster: ClusterId,
    /// The only HSM that may use it.
    pub hsm: Option<HsmId>,
    /// Whether it enrols that HSM again, with another identity.
    pub reenrol: bool,
    /// When it stops working.
    pub expires_at: Timestamp,
    /// Who used it.
    pub used_by: Option<HsmId>,
}

/// An enrolled HSM.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HsmRow {
    /// The HSM.
    pub hsm: HsmId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Which enrolment of it, from 1.
    pub revision: u32,
    /// Its identity key, as it is encoded: [`HsmRow::identity_key`] reads it.
    pub identity_key: Digest,
    /// Its X25519 channel key.
    pub channel_key: Digest,
    /// The P-256 key that shares are sealed to, once it was announced.
    pub sealing_key: Option<Vec<u8>>,
    /// Where its channel is.
    pub channel_url: Option<String>,
    /// When.
    pub enrolled_at: Timestamp,
}

impl HsmRow {
    /// The identity key, for whoever checks a signature: reading a point takes longer than reading the row.
    ///
    /// # Errors
    /// [`Fault::Corrupt`]
    pub fn identity_key(&self) -> Result<IdentityKey, Fault> {
        self.identity_key.try_into().map_err(|error| corrupt(Table::Hsms, error))
    }
}

/// A key of an HSM at one epoch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KeyRow {
    /// The HSM.
    pub hsm: HsmId,
    /// The key at its epoch.
    pub key: KeyRef,
    /// What the store says about it.
    pub attributes: KeyAttributes,
    /// What claims are checked against, in the order of kinds.
    pub instances: Vec<EnrolledInstance>,
    /// The key of the same HSM that it is derived from.
    pub master: Option<KeyRef>,
    /// The sharing that it is a share of.
    pub sharing: Option<SharingId>,
    /// When.
    pub enrolled_at: Timestamp,
}

impl KeyRow {
    /// The enrolled instance that a kind proves.
    pub fn instance(&self, kind: Kind) -> Option<&EnrolledInstance> {
        self.instances.iter().find(|instance| instance.kind == kind)
    }
}

/// An enrolled instance of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnrolledInstance {
    /// The kind that proves it.
    pub kind: Kind,
    /// Its canonical encoding.
    pub bytes: Vec<u8>,
    /// The key's fingerprint in its suite.
    pub fingerprint: Fingerprint,
}

/// Who enrolled a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HolderRow {
    /// The key.
    pub key: KeyId,
    /// The HSM's cluster.
    pub cluster: ClusterId,
    /// The HSM.
    pub hsm: HsmId,
}

/// A challenge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChallengeRow {
    /// Who asked.
    pub hsm: HsmId,
    /// What the claim will speak of.
    pub keys: Vec<KeyRef>,
    /// Under which statement.
    pub statement: Kind,
    /// When it was given.
    pub issued_at: Timestamp,
    /// When it stops being accepted.
    pub expires_at: Timestamp,
    /// The claim's `not_before`.
    pub not_before: Timestamp,
    /// The claim's `not_after`.
    pub not_after: Timestamp,
    /// For a tagged key: the round whose beacon the claim must answer.
    pub round: Option<BeaconRound>,
    /// Who consumed it. Set once.
    pub consumed: Option<Consumption>,
    /// Whether a replay of it was told already.
    pub replay_told: bool,
}

/// Names a sharing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SharingId {
    /// The cluster of the shared key.
    pub cluster: ClusterId,
    /// The shared key, at the sharing's epoch.
    pub key: KeyRef,
}

/// A sharing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SharingRow {
    /// Its name.
    pub id: SharingId,
    /// Who dealt it.
    pub dealer: HsmId,
    /// The dealing, canonically encoded.
    pub dealing: Vec<u8>,
    /// When.
    pub enrolled_at: Timestamp,
}

/// That an HSM was dealt a share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShareholderRow(pub SharingId);

/// A beacon round of the trust domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BeaconRound {
    /// Counts from 1.
    pub number: u64,
    /// The beacon, which nobody could foresee before the round.
    pub beacon: Nonce,
    /// When it was opened.
    pub opened_at: Timestamp,
}

/// The tags that one HSM has shown of one key, oldest round first; never more than [`TagRow::ROUNDS`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TagRow {
    /// The tags.
    pub shown: Vec<ShownTag>,
}

impl TagRow {
    /// How many rounds are remembered: while HSMs move on to a new round, they still agree on the one before.
    pub const ROUNDS: usize = 2;
}

/// A tag that was proven in one round.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShownTag {
    /// The round's number.
    pub round: u64,
    /// The fingerprint of the tag of the round's beacon.
    pub tag: Digest,
    /// Digest of the envelope.
    pub envelope: Digest,
}

/// Who consumed a challenge, and with what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Consumption {
    /// The sender.
    pub by: HsmId,
    /// Digest of the envelope.
    pub envelope: Digest,
}

/// What a signed request came to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RequestRow(pub Outcome);

/// What an envelope came to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OutcomeRow(pub Outcome);

/// The newest accepted proof.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordRow {
    /// The record.
    pub record: Record,
    /// Number of the command that made it: orders it against failures.
    pub sequence: u64,
}

/// The newest failure.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FailureRow {
    /// The failure.
    pub failure: Failure,
    /// Number of the command that recorded it.
    pub sequence: u64,
}

/// The latest failures of an HSM.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FailureWindow(pub Window);

/// Attempts of one HSM with something revoked, after the grace.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RevokedAttempts(pub Window);

/// A fingerprint that no key may have any more, under whatever name, everywhere or in one cluster: the first revocation
/// that hit it there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RevokedFingerprint(pub Revocation);

/// The first proof of a fingerprint by one HSM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SightingRow {
    /// The proof.
    pub sighting: Sighting,
    /// Number of its command.
    pub sequence: u64,
}

/// The first proof of a key at an epoch, in one suite, inside a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FirstProof(pub Sighting);

/// An HSM was seen to prove another fingerprint than the first proof of the same key at the same epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DriftSeen;

/// Typed reading.
#[derive(Clone, Copy)]
pub struct State<'a>(pub &'a dyn Rows);

impl State<'_> {
    /// One row.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn get<R: Row>(&self, key: &[u8]) -> Result<Option<R>, Fault> {
        self.0.get(R::TABLE, key)?.map(|bytes| decode(R::TABLE, &bytes)).transpose()
    }

    /// A row that another row says is there.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] when it is not.
    pub fn need<R: Row>(&self, key: &[u8]) -> Result<R, Fault> {
        self.get(key)?.ok_or_else(|| corrupt(R::TABLE, "a row is missing"))
    }

    /// Every row whose key begins with `prefix`.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn all<R: Row>(&self, prefix: &[u8]) -> Result<Vec<R>, Fault> {
        let mut rows = Vec::new();
        self.0.visit(R::TABLE, prefix, prefix, &mut |_, value| {
            rows.push(decode(R::TABLE, value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    }

    /// Every row whose key begins with `prefix`, with its key.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn entries<R: Row>(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, R)>, Fault> {
        let rows = self.0.range(R::TABLE, prefix, prefix, usize::MAX)?;
        rows.into_iter().map(|(place, value)| Ok((place, decode(R::TABLE, &value)?))).collect()
    }

    /// The first rows whose keys begin with `prefix`, at most `limit`.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn some<R: Row>(&self, prefix: &[u8], limit: usize) -> Result<Vec<R>, Fault> {
        let rows = self.0.range(R::TABLE, prefix, prefix, limit)?;
        rows.iter().map(|(_, value)| decode(R::TABLE, value)).collect()
    }

    /// The policy in force.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] before the first was set.
    pub fn configuration(&self) -> Result<Configuration, Fault> {
        self.need(key::ONLY)
    }

    /// How far the ledger is.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn head(&self) -> Result<Head, Fault> {
        Ok(self.get(key::ONLY)?.unwrap_or_default())
    }

    /// The newest seal of the state.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn newest_seal(&self) -> Result<Option<log::SealRow>, Fault> {
        Ok(self.all(&[])?.pop())
    }

    /// An enrolled HSM.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn hsm(&self, hsm: &HsmId) -> Result<Option<HsmRow>, Fault> {
        self.get(&key::hsm(hsm))
    }

    /// The newest epoch of a key of an HSM.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn newest_key(&self, hsm: &HsmId, key: &KeyId) -> Result<Option<KeyRow>, Fault> {
        Ok(self.all(&key::epochs(hsm, key))?.pop())
    }

    /// A challenge.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn challenge(&self, nonce: &Nonce) -> Result<Option<ChallengeRow>, Fault> {
        self.get(&nonce.0)
    }
}

/// Writes a typed row.
///
/// # Errors
/// [`Fault`]
pub fn put<R: Row>(tables: &mut dyn Tables, key: &[u8], row: &R) -> Result<(), Fault> {
    tables.put(R::TABLE, key, &encode(R::TABLE, row)?)
}

pub(crate) fn encode(table: Table, row: &impl Serialize) -> Result<Vec<u8>, Fault> {
    postcard::to_stdvec(row).map_err(|error| corrupt(table, error))
}

pub(crate) fn decode<T: DeserializeOwned>(table: Table, bytes: &[u8]) -> Result<T, Fault> {
    postcard::from_bytes(bytes).map_err(|error| corrupt(table, error))
}

pub(crate) fn corrupt(table: Table, why: impl ToString) -> Fault {
    Fault::Corrupt { table: table.name(), why: why.to_string() }
}
