//! AMD SEV-SNP: the attestation report (AMD publication 56860, section 7.3), signed with ECDSA P-384 by the chip's VCEK or the
//! provider's VLEK, whose certificate chains to AMD's root key (publication 57230).
//!
//! The claim is REPORT_DATA: the 32 bytes of the context's digest, then 32 zeros.

use aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED;
use keywitness_circuits::{Digest, Timestamp};
use x509_parser::asn1_rs::{Oid, oid};

use super::{
    Binding, Bytes, EvidenceError, Facts, Findings, Format, SevSnpPolicy, Subject, TrustVector, Verifier,
    policy::{SnpMeasurement, SnpTcb},
    x509::{self, Authority, Certificate},
};

/// ARK-Milan, ARK-Genoa (also Bergamo and Siena), ARK-Turin.
const ROOTS: [Digest; 3] = [
    Digest([
        0x69, 0xd0, 0x63, 0xb4, 0x53, 0x44, 0xd2, 0x6a, 0x2e, 0x94, 0xe1, 0xf4, 0x21, 0x0d, 0xe4, 0x9e, 0xf5, 0x55,
        0x30, 0x82, 0x87, 0xd4, 0xc1, 0x74, 0x44, 0x5c, 0x95, 0x63, 0x9a, 0x54, 0x0b, 0xcd,
    ]),
    Digest([
        0x4c, 0x65, 0x98, 0xd1, 0x9c, 0x18, 0x71, 0x9c, 0x5d, 0xfd, 0x4a, 0x7d, 0x33, 0x5f, 0x67, 0x4e, 0x5b, 0xfe,
        0x1d, 0x8f, 0x80, 0x0c, 0xea, 0x2c, 0xf2, 0x70, 0xc1, 0x0d, 0x10, 0x3d, 0xb2, 0xf1,
    ]),
    Digest([
        0x1f, 0x08, 0x41, 0x61, 0xa4, 0x4b, 0xb6, 0xd9, 0x37, 0x78, 0xa9, 0x04, 0x87, 0x7d, 0x48, 0x19, 0xca, 0xfa,
        0x5d, 0x05, 0xef, 0x41, 0x93, 0xb2, 0xde, 0xd9, 0xdd, 0x9c, 0x73, 0xdd, 0x3f, 0x6a,
    ]),
];

/// Length of a report, in bytes; the signature covers what precedes it.
const REPORT: usize = 0x4a0;
const SIGNATURE: usize = 0x2a0;

const HARDWARE_ID: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.4);
const PROVIDER_ID: Oid<'static> = oid!(1.3.6.1.4.1.3704.1.5);
/// Security versions: boot loader, TEE, SNP, microcode, and since Turin FMC.
const VERSIONS: [Oid<'static>; 5] = [
    oid!(1.3.6.1.4.1.3704.1.3.1),
    oid!(1.3.6.1.4.1.3704.1.3.2),
    oid!(1.3.6.1.4.1.3704.1.3.3),
    oid!(1.3.6.1.4.1.3704.1.3.8),
    oid!(1.3.6.1.4.1.3704.1.3.9),
];

const DEBUG: u64 = 1 << 19;
const MIGRATION_AGENT: u64 = 1 << 18;

fn malformed(why: &'static str) -> EvidenceError {
    EvidenceError::malformed("SEV-SNP report", why)
}

/// A report by its fields' offsets.
struct Report<'a>(&'a [u8; REPORT]);

impl<'a> Report<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, EvidenceError> {
        let report = Self(bytes.try_into().map_err(|_| malformed("it is not 1184 bytes long"))?);
        if !(2..=5).contains(&report.u32(0)) {
            return Err(malformed("its version is not 2 to 5"));
        }
        if report.u32(0x34) != 1 {
            return Err(malformed("it is not signed with ECDSA P-384 and SHA-384"));
        }
        Ok(report)
    }

    /// `N` bytes at an offset that lies, with them, inside a report.
    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.get(offset..offset + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.at(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.at(offset))
    }

    fn chip(&self) -> [u8; 64] {
        self.at(0x1a0)
    }

    /// Whether versions are laid out as since Turin: by the CPU's family, or, where a report of version 2 does not give it, by
    /// the chip's name, which is 8 bytes since then.
    fn is_since_turin(&self) -> bool {
        if self.u32(0) >= 3 {
            return self.at::<1>(0x188) >= [0x1a];
        }
        self.chip() != [0; 64] && self.at::<56>(0x1a8) == [0; 56]
    }

    fn tcb(&self, offset: usize) -> SnpTcb {
        let [a, b, c, d, _, _, snp, microcode] = self.at(offset);
        if self.is_since_turin() {
            SnpTcb { fmc: a, bootloader: b, tee: c, snp: d, microcode }
        } else {
            SnpTcb { fmc: 0, bootloader: a, tee: b, snp, microcode }
        }
    }

    /// Big-endian r and s. A report has them little-endian in 72 bytes each, then zeros to its end.
    fn signature(&self) -> Result<Vec<u8>, EvidenceError> {
        let mut signature = Vec::with_capacity(96);
        for offset in [SIGNATURE, SIGNATURE + 72] {
            if self.at::<24>(offset + 48) != [0; 24] {
                return Err(malformed("a half of its signature is longer than 48 bytes"));
            }
            signature.extend(self.at::<48>(offset).iter().rev());
        }
        if self.at::<368>(SIGNATURE + 144) != [0; 368] {
            return Err(malformed("bytes follow its signature"));
        }
        Ok(signature)
    }
}

impl SnpTcb {
    const fn all(self) -> [u8; 5] {
        [self.bootloader, self.tee, self.snp, self.microcode, self.fmc]
    }

    fn is_at_least(self, least: Self) -> bool {
        self.all().into_iter().zip(least.all()).all(|(version, least)| version >= least)
    }
}

/// A small integer of an extension.
fn small(certificate: &Certificate<'_>, oid: &Oid<'_>) -> Option<u8> {
    match certificate.extension(oid)? {
        [0x02, 0x01, value] | [0x02, 0x02, 0x00, value] => Some(*value),
        _ => None,
    }
}

/// That the certificate is of this chip and of these versions: a chip derives its key from them.
fn is_certified(leaf: &Certificate<'_>, report: &Report<'_>, is_vlek: bool) -> Result<(), EvidenceError> {
    let reported = report.tcb(0x180).all();
    let count = if report.is_since_turin() { 5 } else { 4 };
    for (oid, version) in VERSIONS.iter().zip(reported).take(count) {
        if small(leaf, oid) != Some(version) {
            return Err(EvidenceError::refused("the certificate is of other firmware versions than the report"));
        }
    }
    if is_vlek {
        return match leaf.extension(&PROVIDER_ID) {
            Some(_) => Ok(()),
            None => Err(EvidenceError::refused("the certificate is not a provider's VLEK")),
        };
    }
    let chip = report.chip();
    let chip = if report.is_since_turin() { chip.get(..8).unwrap_or_default() } else { chip.as_slice() };
    let named = leaf.extension(&HARDWARE_ID).unwrap_or_default();
    let named = named.strip_prefix(&[0x04, chip.len() as u8]).filter(|rest| rest.len() == chip.len()).unwrap_or(named);
    if named == chip {
        Ok(())
    } else {
        Err(EvidenceError::refused("the certificate is of another chip than the report"))
    }
}

impl SnpMeasurement {
    const fn measured(&self) -> &Bytes {
        match self {
            Self::Launch(measured) | Self::Described { measurement: measured, .. } => measured,
        }
    }

    /// Whether all that boots is in it.
    const fn covers_boot(&self) -> bool {
        matches!(self, Self::Described { covers_boot: true, .. })
    }
}

impl SevSnpPolicy {
    /// What is said of the executables of a guest that is listed.
    fn listed(&self, measured: &Bytes) -> Option<i8> {
        let of = |listed: &SnpMeasurement| if listed.covers_boot() { TrustVector::APPROVED_BOOT } else { 0 };
        self.measurements.iter().filter(|listed| listed.measured() == measured).map(of).max()
    }

    fn accept(&self, report: &Report<'_>) -> Result<(), EvidenceError> {
        let refused = |why: &str| Err(EvidenceError::refused(why));
        let guest = report.u64(0x08);
        if guest & DEBUG != 0 && !self.allow_debug {
            return refused("the host may debug the guest");
        }
        if guest & MIGRATION_AGENT != 0 && !self.allow_migration {
            return refused("the guest has a migration agent");
        }
        if report.u32(0x30) != 0 && !self.allow_any_vmpl {
            return refused("the report was not asked for at VMPL 0");
        }
        let [current, reported, committed] = [0x38, 0x180, 0x1e0].map(|offset| report.tcb(offset));
        if !reported.is_at_least(self.least_tcb) {
            return refused("the platform's firmware is older than the policy allows");
        }
        if !committed.is_at_least(current) && !self.allow_provisional {
            return refused("the platform's firmware can be rolled back");
        }
        if self.measurements.is_empty() {
            return refused("it lists no measurement, so that no guest is accepted");
        }
        Ok(())
    }
}

impl Verifier for SevSnpPolicy {
    fn format(&self) -> Format {
        Format::SevSnp
    }

    fn devices(&self) -> &[String] {
        &self.trust.devices
    }

    fn verify(&self, parts: &[Vec<u8>], subject: &Subject<'_>, now: Timestamp) -> Result<Findings, EvidenceError> {
        let [bytes, chain] = parts else { return Err(malformed("it is not two parts")) };
        let report = Report::read(bytes)?;
        let chain = x509::read(chain)?;
        x509::verify(&chain, &self.trust, &ROOTS, Authority::Declared, now)?;
        let leaf = chain.first().ok_or(malformed("it has no certificate"))?;
        let signed = bytes.get(..SIGNATURE).unwrap_or_default();
        x509::check(&ECDSA_P384_SHA384_FIXED, leaf.key(), signed, &report.signature()?, "SEV-SNP report")?;

        // Bits 4 to 2 name the key that signed: 0 VCEK, 1 VLEK.
        let is_vlek = match (report.u32(0x48) >> 2) & 7 {
            0 => false,
            1 => true,
            _ => return Err(malformed("it is signed by no key")),
        };
        is_certified(leaf, &report, is_vlek)?;
        self.accept(&report)?;
        let [context, rest] = [0x50, 0x70].map(|offset| report.at::<32>(offset));
        if context != subject.context.0 || rest != [0; 32] {
            return Err(EvidenceError::WrongContext("REPORT_DATA"));
        }

        let measured = Bytes(report.at::<48>(0x90).to_vec());
        let listed = self.listed(&measured);
        let mismatch = listed.is_none().then(|| format!("the guest was launched with {measured}"));
        let executables = listed.unwrap_or_default();
        let guest = report.u64(0x08);
        let debug = guest & DEBUG != 0;
        let weak = debug || guest & MIGRATION_AGENT != 0 || report.u32(0x30) != 0;
        let trust = TrustVector {
            hardware: TrustVector::AFFIRMING,
            executables,
            configuration: match (weak, executables) {
                (true, _) => TrustVector::WARNING,
                (false, 0) => TrustVector::CONFIGURATION_UNSEEN,
                (false, _) => TrustVector::AFFIRMING,
            },
            runtime_opaque: if debug { TrustVector::WARNING } else { TrustVector::AFFIRMING },
            ..TrustVector::default()
        };
        let chip = Bytes(report.chip().to_vec());
        let [build, minor, major] = report.at(0x1e8);
        let tcb = report.tcb(0x180);
        let measurements = [
            ("measurement", 0x90, 48),
            ("host-data", 0xc0, 32),
            ("id-key-digest", 0xe0, 48),
            ("author-key-digest", 0x110, 48),
        ]
        .map(|(name, offset, length)| {
            (name.to_owned(), Bytes(bytes.get(offset..offset + length).unwrap_or_default().to_vec()))
        });
        let facts = Facts {
            vendor: "Advanced Micro Devices".to_owned(),
            // A host may hide the chip's name, and then a provider's key has signed for one chip of many.
            device: (report.chip() != [0; 64]).then(|| format!("sev-snp:{chip}")),
            firmware: Some(format!("{major}.{minor}.{build}")),
            measurements: measurements.into_iter().collect(),
            debug: Some(debug),
            tcb_status: Some(format!(
                "fmc {} bootloader {} tee {} snp {} microcode {}",
                tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode
            )),
            ..Facts::default()
        };
        Ok(Findings { binding: Binding::Context, trust, facts, names_key: false, mismatch })
    }
}
