//! What an operator accepts as evidence. A format without a section is refused, and so is a measurement that is not listed.

use std::collections::BTreeMap;

use dcap_qvl::TcbStatus;
use keywitness_circuits::{Digest, Error};
use serde::{Deserialize, Serialize};

use super::Bytes;

/// The number of a register: a PCR, or an RTMR. In configuration it is a key, and keys are text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Register(pub u8);

impl TryFrom<String> for Register {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        let number = text.parse().ok().filter(|number: &u8| number.to_string() == text);
        number.map(Self).ok_or(Error::Malformed { what: "register", why: "it is not a number of 0 to 255" })
    }
}

impl From<Register> for String {
    fn from(register: Register) -> Self {
        register.0.to_string()
    }
}

/// Which certificates and devices are trusted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trust {
    /// Root certificates, by the SHA-256 of their DER: `openssl x509 -in root.pem -outform der | sha256sum`. None: the vendor's
    /// own, which are built in where the vendor publishes them.
    pub roots: Vec<Digest>,
    /// Keys of certificates that are not believed any more, wherever in a chain they stand, by the SHA-256 of their
    /// SubjectPublicKeyInfo: `openssl x509 -in it.pem -noout -pubkey | openssl pkey -pubin -outform der | sha256sum`. A TPM's attestation
    /// key has no certificate: it is named by the last 64 digits of its device.
    pub revoked: Vec<Digest>,
    /// Devices, as [`super::Facts::device`] spells them. None: every genuine one.
    pub devices: Vec<String>,
}

/// What is accepted as evidence, format by format.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvidencePolicy {
    /// YubiHSM 2.
    pub yubihsm2: Option<YubiHsm2Policy>,
    /// Marvell LiquidSecurity, Google Cloud HSM.
    pub marvell: Option<MarvellPolicy>,
    /// AWS Nitro Enclaves.
    pub nitro: Option<NitroPolicy>,
    /// AMD SEV-SNP.
    pub sev_snp: Option<SevSnpPolicy>,
    /// Intel TDX.
    pub tdx: Option<TdxPolicy>,
    /// Intel SGX.
    pub sgx: Option<SgxPolicy>,
    /// TPM 2.0.
    pub tpm2: Option<Tpm2Policy>,
}

/// What is accepted of a YubiHSM 2.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct YubiHsm2Policy {
    /// Certificates and devices.
    pub trust: Trust,
    /// Lowest firmware: major, minor, patch.
    pub least_firmware: [u8; 3],
    /// Accepts keys that were imported.
    pub allow_imported: bool,
    /// Accepts keys that may leave under a wrap key.
    pub allow_exportable: bool,
    /// Accepts evidence without a key made for the claim: it is bound to the key alone, and is a warning.
    pub allow_unbound: bool,
}

/// What is accepted of a Marvell LiquidSecurity HSM. Its statements carry no claim: they are bound to the key alone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MarvellPolicy {
    /// The manufacturer's roots, and the devices.
    pub trust: Trust,
    /// Roots of the service's operator. None: Google Cloud HSM's.
    pub owner_roots: Vec<Digest>,
    /// Accepts keys that are extractable, or once were.
    pub allow_extractable: bool,
    /// Accepts keys that were not made in the HSM.
    pub allow_imported: bool,
}

/// What is accepted of an AWS Nitro enclave.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NitroPolicy {
    /// Certificates and devices.
    pub trust: Trust,
    /// Accepted enclaves: in each, every PCR named must have the value given. None: no enclave is accepted.
    pub measurements: Vec<BTreeMap<Register, Bytes>>,
    /// Accepts enclaves in debug mode.
    pub allow_debug: bool,
    /// Oldest document, in seconds; 0 stands for five minutes.
    pub max_age: u64,
}

/// What is accepted of an AMD SEV-SNP guest.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SevSnpPolicy {
    /// Certificates and devices.
    pub trust: Trust,
    /// Accepted guests. None: no guest is accepted.
    pub measurements: Vec<SnpMeasurement>,
    /// Lowest security versions of the platform, by the names `fmc`, `bootloader`, `tee`, `snp`, `microcode`.
    pub least_tcb: SnpTcb,
    /// Accepts guests that the host may debug.
    pub allow_debug: bool,
    /// Accepts guests with a migration agent.
    pub allow_migration: bool,
    /// Accepts a platform whose firmware can be rolled back: its committed version is below its current one.
    pub allow_provisional: bool,
    /// Accepts reports that were asked for at a privilege level above 0.
    pub allow_any_vmpl: bool,
}

/// An accepted guest, by its launch measurement of 48 bytes: the measurement alone, or with what the operator knows of it. A report does
/// not tell firmware that loads whatever kernel its host gives it from firmware whose kernel was measured with it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum SnpMeasurement {
    /// Of what boots, no more than this is known.
    Launch(Bytes),
    /// The measurement, and what it covers.
    Described {
        /// The launch measurement.
        measurement: Bytes,
        /// Whether firmware, kernel, initial file system and command line are all in it, and the firmware starts nothing else.
        #[serde(default)]
        covers_boot: bool,
    },
}

/// Security versions of an AMD platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnpTcb {
    /// Of the boot loader's first stage; zero before Turin.
    pub fmc: u8,
    /// Of the boot loader.
    pub bootloader: u8,
    /// Of the operating system of the secure processor.
    pub tee: u8,
    /// Of the SNP firmware.
    pub snp: u8,
    /// Of the microcode.
    pub microcode: u8,
}

/// Which patch levels of an Intel platform are accepted. By default it must be up to date.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcbPolicy {
    /// Further statuses that are accepted, as a warning: `SWHardeningNeeded`, `ConfigurationNeeded`,
    /// `ConfigurationAndSWHardeningNeeded`, `OutOfDate`, `OutOfDateConfigurationNeeded`. `Revoked` never is.
    pub allowed: Vec<TcbStatus>,
    /// Intel's advisories that are accepted when a status of `allowed` names them; a name missing here is refused.
    pub advisories: Vec<String>,
    /// Lowest `tcbEvaluationDataNumber` of the collateral.
    pub least_evaluation: u32,
}

/// What is accepted of an Intel TDX trust domain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TdxPolicy {
    /// Root certificate, and devices.
    pub trust: Trust,
    /// Accepted trust domains. None: none is accepted.
    pub measurements: Vec<TdxMeasurement>,
    /// Patch levels.
    pub tcb: TcbPolicy,
    /// Accepts trust domains that may be debugged.
    pub allow_debug: bool,
}

/// An accepted trust domain, 48 bytes each.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxMeasurement {
    /// MRTD: what it was built from.
    pub mr_td: Bytes,
    /// RTMR0 to RTMR3 by number: what it measured since. Those not named are not compared.
    #[serde(default)]
    pub rtmrs: BTreeMap<Register, Bytes>,
}

/// What is accepted of an Intel SGX enclave.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SgxPolicy {
    /// Root certificate, and devices.
    pub trust: Trust,
    /// Accepted enclaves. None: none is accepted.
    pub measurements: Vec<SgxMeasurement>,
    /// Patch levels.
    pub tcb: TcbPolicy,
    /// Accepts enclaves that may be debugged.
    pub allow_debug: bool,
}

/// An accepted enclave: one by its own measurement, or all of a signer's product from a version on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum SgxMeasurement {
    /// MRENCLAVE, 32 bytes.
    Enclave {
        /// MRENCLAVE.
        mr_enclave: Bytes,
    },
    /// MRSIGNER, 32 bytes, with product and lowest security version.
    Signer {
        /// MRSIGNER.
        mr_signer: Bytes,
        /// ISVPRODID.
        product: u16,
        /// Lowest ISVSVN.
        least_version: u16,
    },
}

/// What is accepted of a TPM 2.0. The attestation key must be of an enrolled or listed device (`tpm2:` and its Name): there is
/// no chain from it to a vendor, but the credential that enrolment made it open ([`super::tpm2::Credential`]).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tpm2Policy {
    /// Roots of endorsement-key certificates, for enrolment; and the devices.
    pub trust: Trust,
    /// Accepted values of PCRs (SHA-256 bank), by number. Each PCR named must be quoted with one of them.
    pub pcrs: BTreeMap<Register, Vec<Bytes>>,
    /// Accepts keys that were not made in the TPM.
    pub allow_imported: bool,
}
