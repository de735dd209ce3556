//! Vendor and TPM evidence of where a key lives: its encoding, and, behind the feature `evidence`, its appraisal.
//!
//! A proof says that a key is known; evidence says that it lives in hardware of a kind. Both name the same claim: the claim
//! context carries [`Evidence::digest`], and the evidence carries, where its format can, the digest of that context without
//! evidence in it ([`keywitness_circuits::ClaimContext::digest_without_evidence`]).
//!
//! Appraisal is pure: no clock, file or network. An operator says in an [`EvidencePolicy`] what is accepted; a format without
//! a section there is refused. `docs/evidence.md` says for each format what it proves, and what it does not.

use std::fmt;

use keywitness_circuits::{
    Digest, Error,
    codec::{Canonical, MAX_BYTES, Reader, Writer},
    transcript::label,
};
use serde::{Deserialize, Serialize};

#[cfg(feature = "evidence")]
mod appraisal;
mod context;
#[cfg(feature = "evidence")]
mod dcap;
mod facts;
#[cfg(feature = "evidence")]
mod marvell;
#[cfg(feature = "evidence")]
mod nitro;
#[cfg(feature = "evidence")]
mod policy;
#[cfg(feature = "evidence")]
mod sev_snp;
#[cfg(feature = "evidence")]
pub mod tpm2;
mod trust;
#[cfg(feature = "evidence")]
mod x509;
#[cfg(feature = "evidence")]
mod yubihsm2;

#[cfg(feature = "evidence")]
pub use appraisal::{Appraisal, EvidenceError, Findings, Subject, Verifier};
pub use context::EvidenceContext;
pub use facts::{Binding, Bytes, Facts, Summary};
#[cfg(feature = "evidence")]
pub use policy::{
    EvidencePolicy, MarvellPolicy, NitroPolicy, Register, SevSnpPolicy, SgxMeasurement, SgxPolicy, SnpMeasurement,
    SnpTcb, TcbPolicy, TdxMeasurement, TdxPolicy, Tpm2Policy, Trust, YubiHsm2Policy,
};
pub use trust::TrustVector;
#[cfg(feature = "evidence")]
pub use yubihsm2::freshness_label;

/// Most parts that evidence has.
const MAX_PARTS: usize = 8;

/// Longest evidence, in bytes, all parts together.
pub const MAX_EVIDENCE: usize = 2 * MAX_BYTES;

/// The format of evidence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A YubiHSM 2 attestation certificate. Parts: the certificate of the key; one of a key made to carry the claim in its
    /// label, or nothing; the chain from the device's certificate to the root.
    #[serde(rename = "yubihsm2")]
    YubiHsm2,
    /// An attestation by a Marvell LiquidSecurity HSM, as Google Cloud HSM gives it. Parts: the statement, as it came; the
    /// chain from the partition to the manufacturer's root; the chain from the partition to the owner's root.
    Marvell,
    /// An AWS Nitro attestation document. One part: the COSE_Sign1.
    Nitro,
    /// An AMD SEV-SNP report. Parts: the report; the chain from VCEK or VLEK to the ARK.
    SevSnp,
    /// An Intel TDX quote. Parts: the quote; the collateral in JSON.
    Tdx,
    /// An Intel SGX quote. Parts: the quote; the collateral in JSON.
    Sgx,
    /// A TPM 2.0 quote and certification of a key. Parts: TPMT_PUBLIC of the attestation key; TPMS_ATTEST of the quote and
    /// its TPMT_SIGNATURE; the quoted PCRs' values; TPMS_ATTEST of the certification and its TPMT_SIGNATURE; TPMT_PUBLIC of
    /// the key. The last three are empty when no key of the TPM is claimed.
    #[serde(rename = "tpm2")]
    Tpm2,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 7] =
        [Self::YubiHsm2, Self::Marvell, Self::Nitro, Self::SevSnp, Self::Tdx, Self::Sgx, Self::Tpm2];

    /// The tag that begins an encoding.
    const fn tag(self) -> u16 {
        match self {
            Self::YubiHsm2 => 1,
            Self::Marvell => 2,
            Self::Nitro => 3,
            Self::SevSnp => 4,
            Self::Tdx => 5,
            Self::Sgx => 6,
            Self::Tpm2 => 7,
        }
    }

    /// How many parts evidence of this format has.
    pub const fn parts(self) -> usize {
        match self {
            Self::YubiHsm2 | Self::Marvell => 3,
            Self::Nitro => 1,
            Self::SevSnp | Self::Tdx | Self::Sgx => 2,
            Self::Tpm2 => 7,
        }
    }

    /// Whether an HSM can be enrolled with a device by its evidence. That of the others is of a key alone: the policy says which
    /// devices may give it.
    pub const fn can_enrol(self) -> bool {
        !matches!(self, Self::YubiHsm2 | Self::Marvell)
    }

    /// The name, as configuration and records write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::YubiHsm2 => "yubihsm2",
            Self::Marvell => "marvell",
            Self::Nitro => "nitro",
            Self::SevSnp => "sev-snp",
            Self::Tdx => "tdx",
            Self::Sgx => "sgx",
            Self::Tpm2 => "tpm2",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Evidence as it travels: its format, and the parts that [`Format`] lists, each as its vendor wrote it.
///
/// A chain of certificates is one part: DER, one after the other, from the leaf to the root, which is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    format: Format,
    parts: Vec<Vec<u8>>,
}

impl Evidence {
    /// Evidence of `format`. Fails when there are not as many parts as the format has, or they are too long.
    pub fn new(format: Format, parts: Vec<Vec<u8>>) -> Result<Self, Error> {
        let error = |why| Err(Reader::new(Self::WHAT, &[]).error(why));
        if parts.len() != format.parts() {
            return error("it has not as many parts as its format");
        }
        if parts.iter().any(|part| part.len() > MAX_BYTES) || parts.iter().map(Vec::len).sum::<usize>() > MAX_EVIDENCE {
            return error("it is longer than allowed");
        }
        Ok(Self { format, parts })
    }

    /// The format.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The parts, in the order of [`Format`].
    pub fn parts(&self) -> &[Vec<u8>] {
        &self.parts
    }

    /// What a claim context names this evidence by.
    pub fn digest(&self) -> Digest {
        Digest::of(label::EVIDENCE, &self.to_bytes())
    }
}

impl Canonical for Evidence {
    const WHAT: &'static str = "evidence";

    fn write(&self, writer: &mut Writer) {
        writer.u16(self.format.tag()).u8(self.parts.len() as u8);
        for part in &self.parts {
            writer.bytes(part);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let tag = reader.u16()?;
        let format =
            Format::ALL.into_iter().find(|format| format.tag() == tag).ok_or(reader.error("no format has that tag"))?;
        let count = usize::from(reader.u8()?);
        if count > MAX_PARTS {
            return Err(reader.error("it has too many parts"));
        }
        let parts = (0..count).map(|_| reader.bytes(MAX_BYTES).map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        Self::new(format, parts)
    }
}
