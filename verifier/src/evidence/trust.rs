//! Trustworthiness claims (draft-ietf-rats-ar4si, section 2.3).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::token::Tier;

/// The AR4SI trustworthiness vector. Zero says nothing; 2 to 31 affirm, 32 to 95 warn, 96 to 127 contraindicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrustVector {
    /// Whether it is one that is known here: 2 known. In an appraisal of evidence the device, in a token the HSM.
    #[serde(skip_serializing_if = "is_none")]
    pub instance_identity: i8,
    /// Whether its settings are approved: 2 approved, 32 a setting with known weakness, 36 some could not be seen.
    #[serde(skip_serializing_if = "is_none")]
    pub configuration: i8,
    /// Whether what runs in it is approved: 2 all that runs, 3 all that was booted.
    #[serde(skip_serializing_if = "is_none")]
    pub executables: i8,
    /// Whether its files are approved.
    #[serde(skip_serializing_if = "is_none")]
    pub file_system: i8,
    /// Whether its hardware and firmware are genuine: 2 genuine, 32 genuine with known weakness.
    #[serde(skip_serializing_if = "is_none")]
    pub hardware: i8,
    /// Whether its memory can be seen from outside: 2 encrypted and isolated, 32 isolated.
    #[serde(skip_serializing_if = "is_none")]
    pub runtime_opaque: i8,
    /// Whether its stored secrets can be seen: 2 kept by hardware.
    #[serde(skip_serializing_if = "is_none")]
    pub storage_opaque: i8,
    /// Whether its sources of data are appraised.
    #[serde(skip_serializing_if = "is_none")]
    pub sourced_data: i8,
}

const fn is_none(value: &i8) -> bool {
    *value == 0
}

impl TrustVector {
    /// A claim that is as it should be.
    pub const AFFIRMING: i8 = 2;
    /// Executables: what was booted is approved, and what was loaded since is not seen.
    pub const APPROVED_BOOT: i8 = 3;
    /// A known weakness, or memory that is isolated and not encrypted.
    pub const WARNING: i8 = 32;
    /// Configuration: some of it could not be seen.
    pub const CONFIGURATION_UNSEEN: i8 = 36;

    const fn all(&self) -> [(&'static str, i8); 8] {
        [
            ("instance-identity", self.instance_identity),
            ("configuration", self.configuration),
            ("executables", self.executables),
            ("file-system", self.file_system),
            ("hardware", self.hardware),
            ("runtime-opaque", self.runtime_opaque),
            ("storage-opaque", self.storage_opaque),
            ("sourced-data", self.sourced_data),
        ]
    }

    /// The claims that say something, by the names that a token gives them.
    pub fn claims(&self) -> BTreeMap<String, i8> {
        self.all().into_iter().filter(|(_, value)| *value != 0).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The same, but for what another warns of, where that is worse.
    #[must_use]
    pub fn with_warnings_of(self, other: &Self) -> Self {
        let worse = |own: i8, other: i8| if other >= Self::WARNING { own.max(other) } else { own };
        Self {
            instance_identity: worse(self.instance_identity, other.instance_identity),
            configuration: worse(self.configuration, other.configuration),
            executables: worse(self.executables, other.executables),
            file_system: worse(self.file_system, other.file_system),
            hardware: worse(self.hardware, other.hardware),
            runtime_opaque: worse(self.runtime_opaque, other.runtime_opaque),
            storage_opaque: worse(self.storage_opaque, other.storage_opaque),
            sourced_data: worse(self.sourced_data, other.sourced_data),
        }
    }

    /// The worst tier of any claim that says something.
    pub fn tier(&self) -> Tier {
        match self.all().into_iter().map(|(_, value)| value).max().unwrap_or(0) {
            2..32 => Tier::Affirming,
            32..96 => Tier::Warning,
            96.. => Tier::Contraindicated,
            _ => Tier::None,
        }
    }
}
