//! Evidence of where HSMs and keys live: what it must be, what was last given, and the devices.

use keywitness_circuits::{ClusterId, Digest, HsmId, Timestamp};
use keywitness_verifier::{
    evidence::{EvidencePolicy, Format, Summary, tpm2},
    wire::{Device, EvidenceRecord, EvidenceStanding, KeyRef},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use sha2::{Digest as _, Sha256};

use super::{HsmRow, State, corrupt, key};
use crate::ledger::tables::{Fault, Table};

/// A value that is kept as JSON: its own encoding leaves out what it does not say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize> Serialize for Json<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::to_string(&self.0).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for Json<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::from_str(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

/// Who must give evidence.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Required {
    /// Nobody.
    #[default]
    Nobody,
    /// The HSMs of these clusters.
    Clusters(Vec<ClusterId>),
    /// Every HSM.
    Everyone,
}

impl Required {
    /// Whether the HSMs of a cluster must.
    pub fn of(&self, cluster: &ClusterId) -> bool {
        match self {
            Self::Nobody => false,
            Self::Clusters(clusters) => clusters.contains(cluster),
            Self::Everyone => true,
        }
    }
}

/// What evidence must be: part of the state, so that a replay reads the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EvidenceTerms {
    /// The policy, an [`EvidencePolicy`] as JSON; none where no evidence is accepted. Whoever weighs records does not read it.
    policy: Option<String>,
    /// The SHA-256 of each of its sections.
    sections: Vec<(Format, Digest)>,
    /// Keys that are revoked, of those that vouch for TPMs.
    revoked: Vec<Digest>,
    /// Who must give evidence.
    pub required: Required,
    /// How long evidence counts, in seconds.
    pub max_age: u64,
}

impl EvidenceTerms {
    /// Of a policy, or of none.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] for a policy that cannot be written.
    pub fn new(policy: Option<&EvidencePolicy>, required: Required, max_age: u64) -> Result<Self, Fault> {
        let failed = |error| corrupt(Table::EvidenceTerms, error);
        let mut sections = Vec::new();
        let whole = policy.map(serde_json::to_value).transpose().map_err(failed)?.unwrap_or_default();
        for format in Format::ALL {
            if let Some(section) = whole.get(format.as_str().replace('-', "_")).filter(|section| !section.is_null()) {
                sections.push((format, Digest(Sha256::digest(section.to_string()).into())));
            }
        }
        let written = policy.map(serde_json::to_string).transpose().map_err(failed)?;
        let revoked = policy.and_then(|policy| policy.tpm2.as_ref()).map(|section| section.trust.revoked.clone());
        Ok(Self { policy: written, sections, revoked: revoked.unwrap_or_default(), required, max_age })
    }

    /// Whether evidence is accepted at all.
    pub const fn accepts(&self) -> bool {
        self.policy.is_some()
    }

    /// The policy.
    ///
    /// # Errors
    /// [`Fault::Corrupt`]
    pub fn policy(&self) -> Result<Option<EvidencePolicy>, Fault> {
        let read = |text: &String| serde_json::from_str(text).map_err(|error| corrupt(Table::EvidenceTerms, error));
        self.policy.as_ref().map(read).transpose()
    }

    /// Digest of the policy's section for a format.
    pub fn section(&self, format: Format) -> Option<Digest> {
        self.sections.iter().find(|(of, _)| *of == format).map(|(_, digest)| *digest)
    }

    /// Whether a device is a TPM whose attestation key, or one of the keys that vouch for it, is revoked.
    pub fn revoke(&self, device: &EnrolledDevice) -> bool {
        let vouches = |key| self.revoked.contains(key);
        device.endorsement.iter().any(vouches) || tpm2::is_among(&device.device, &self.revoked)
    }
}

/// A challenge for evidence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EvidenceChallengeRow {
    /// Who asked.
    pub hsm: HsmId,
    /// Under which enrolment.
    pub enrolment: u32,
    /// The key that the evidence will be about.
    pub key: Option<KeyRef>,
    /// When it stops being accepted.
    pub expires_at: Timestamp,
    /// Whether it was answered. Set once.
    pub consumed: bool,
}

/// The newest evidence of an HSM, or of a key in it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EvidenceRow {
    /// The newest that was good.
    pub good: Option<GoodEvidence>,
    /// The newest that was refused.
    pub refused: Option<RefusedEvidence>,
}

/// Evidence that was good.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GoodEvidence {
    /// Under which enrolment of the HSM.
    pub enrolment: u32,
    /// What it says.
    pub appraisal: Json<Summary>,
    /// Digest of the policy's section that it was appraised under.
    pub section: Digest,
    /// When it was taken.
    pub at: Timestamp,
    /// Number of the command: its log entry has the evidence itself.
    pub sequence: u64,
}

/// Evidence that was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefusedEvidence {
    /// Under which enrolment of the HSM.
    pub enrolment: u32,
    /// Why.
    pub why: String,
    /// When.
    pub at: Timestamp,
    /// Number of the command.
    pub sequence: u64,
}

/// The device of an HSM, and how it may get one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DeviceRow {
    /// The device that it is enrolled with.
    pub device: Option<EnrolledDevice>,
    /// An operator lets it enrol one.
    pub leave: Option<DeviceLeave>,
    /// A credential that waits to be opened.
    pub offer: Option<DeviceOffer>,
    /// Its evidence of this format told of something that is not listed: none counts before its device is enrolled again.
    pub void: Option<Format>,
    /// Number of the last command with such evidence: what was good before counts no more.
    pub voided_at: Option<u64>,
    /// It may be reinstated.
    pub pardon: Option<Pardon>,
}

/// The device of an HSM was enrolled again after its evidence told of something that is not listed: its next good evidence of that format
/// ends what it was suspended for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pardon {
    /// The operator who let it.
    pub by: String,
    /// The format.
    pub format: Format,
}

/// A device that an HSM is enrolled with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnrolledDevice {
    /// Its name, as evidence has it.
    pub device: String,
    /// Of a TPM: the keys that vouch for it.
    pub endorsement: Vec<Digest>,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// The operator who let it.
    pub by: String,
}

/// An operator's leave to enrol a device, once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceLeave {
    /// The only device.
    pub device: Option<String>,
    /// Until when.
    pub until: Timestamp,
    /// The operator.
    pub by: String,
}

/// A credential that a TPM must open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceOffer {
    /// Under which enrolment of the HSM.
    pub enrolment: u32,
    /// The device that a right answer shows.
    pub device: String,
    /// SHA-256 of what is in the credential.
    pub secret: Digest,
    /// The keys that vouch for the TPM.
    pub endorsement: Vec<Digest>,
    /// Until when it can be answered.
    pub until: Timestamp,
}

impl DeviceRow {
    /// The leave that is in force.
    pub fn open(&self, now: Timestamp) -> Option<&DeviceLeave> {
        self.leave.as_ref().filter(|leave| leave.until > now)
    }

    /// The device as operators see it.
    pub fn described(&self) -> Option<Device> {
        let EnrolledDevice { device, endorsement, enrolled_at, by } = self.device.clone()?;
        Some(Device { device, endorsement, enrolled_at, by })
    }
}

/// How evidence stands, with the newest that was good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// How it stands.
    pub standing: EvidenceStanding,
    /// The newest that was good.
    pub good: Option<GoodEvidence>,
    /// Why the newest was refused.
    pub refusal: Option<String>,
}

impl Standing {
    const MISSING: Self = Self { standing: EvidenceStanding::Missing, good: None, refusal: None };

    /// Good evidence, while it counts.
    pub fn counts(&self) -> Option<&GoodEvidence> {
        self.good.as_ref().filter(|_| self.standing == EvidenceStanding::Good)
    }

    /// Whether there is something against it, which other evidence does not make up for.
    pub const fn is_against(&self) -> bool {
        matches!(self.standing, EvidenceStanding::Refused | EvidenceStanding::Revoked)
    }
}

impl GoodEvidence {
    /// The record of it.
    pub fn record(&self, hsm: &HsmId, key: Option<KeyRef>, terms: &EvidenceTerms) -> EvidenceRecord {
        let Self { enrolment, appraisal: Json(appraisal), at, .. } = self.clone();
        EvidenceRecord { hsm: hsm.clone(), enrolment, key, appraisal, expires_at: at.plus(terms.max_age) }
    }
}

impl State<'_> {
    /// What evidence must be; none where no manager of this data ever accepted any.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn evidence_terms(&self) -> Result<Option<EvidenceTerms>, Fault> {
        self.get(key::ONLY)
    }

    /// The device of an HSM.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn device(&self, hsm: &HsmId) -> Result<DeviceRow, Fault> {
        Ok(self.get(&key::hsm(hsm))?.unwrap_or_default())
    }

    /// How the evidence of an HSM stands, or of a key in it.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn evidence_standing(
        &self,
        terms: &EvidenceTerms,
        hsm: &HsmRow,
        about: Option<&KeyRef>,
        now: Timestamp,
    ) -> Result<Standing, Fault> {
        let Some(EvidenceRow { good, refused }) = self.get(&key::about(&hsm.hsm, about))? else {
            return Ok(Standing::MISSING);
        };
        let newest = good.as_ref().map_or(0, |good| good.sequence);
        let stands = |refused: &RefusedEvidence| {
            refused.sequence > newest && refused.enrolment == hsm.revision && now.since(refused.at) < terms.max_age
        };
        let refusal = refused.filter(stands).map(|refused| refused.why);
        let device = self.device(&hsm.hsm)?;
        let enrolled = device.device.as_ref();
        let revoked = enrolled.is_some_and(|device| terms.revoke(device));
        let of_device = |good: &GoodEvidence| {
            let Summary { format, facts, .. } = &good.appraisal.0;
            let named = facts.device.as_deref();
            !format.can_enrol() || enrolled.is_none_or(|device| named == Some(device.device.as_str()))
        };
        let holds = |good: &GoodEvidence| device.void.is_none() && device.voided_at < Some(good.sequence);
        let good = good.filter(|good| good.enrolment == hsm.revision && of_device(good) && holds(good));
        let standing = match &good {
            _ if !terms.accepts() => EvidenceStanding::Missing,
            _ if revoked => EvidenceStanding::Revoked,
            _ if refusal.is_some() => EvidenceStanding::Refused,
            None => EvidenceStanding::Missing,
            Some(good) if now.since(good.at) >= terms.max_age => EvidenceStanding::Stale,
            // The policy says something else now of what it says.
            Some(good) if terms.section(good.appraisal.0.format) != Some(good.section) => EvidenceStanding::Stale,
            Some(_) => EvidenceStanding::Good,
        };
        Ok(Standing { standing, good, refusal })
    }
}
