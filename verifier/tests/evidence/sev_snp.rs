//! AMD SEV-SNP: a report of a Milan chip, and our own under a root of our own.

use data_encoding::HEXLOWER;
use keywitness_circuits::Timestamp;
use keywitness_verifier::evidence::{
    Bytes, EvidenceError, EvidencePolicy, Format, SevSnpPolicy, SnpMeasurement, Trust,
};
use keywitness_verifier::token::Tier;
use rcgen::PKCS_ECDSA_P384_SHA384;

use crate::support::{Case, Certified, NOW, authority, context, extension, params, refused, root};

fn real() -> Case {
    let report = HEXLOWER.decode(include_str!("sev-snp/report_milan.hex").trim().to_lowercase().as_bytes()).unwrap();
    let chain = [
        include_bytes!("sev-snp/vcek_milan.der").as_slice(),
        include_bytes!("sev-snp/ask_milan.der"),
        include_bytes!("sev-snp/ark_milan.der"),
    ]
    .concat();
    let measurements = vec![SnpMeasurement::Launch(Bytes(report[0x90..0xc0].to_vec()))];
    Case {
        policy: EvidencePolicy {
            sev_snp: Some(SevSnpPolicy { measurements, ..SevSnpPolicy::default() }),
            ..EvidencePolicy::default()
        },
        format: Format::SevSnp,
        parts: vec![report, chain],
        context: context(),
        key: None,
        device: None,
        now: NOW,
    }
}

#[test]
fn a_real_report_is_good_but_of_no_claim() {
    let mut case = real();
    let good = EvidenceError::WrongContext("REPORT_DATA");
    assert_eq!(case.appraise().unwrap_err(), good);
    for (part, step) in [(0, 1), (1, 17)] {
        case.flip(part, step, |at, outcome| {
            assert_ne!(outcome.unwrap_err(), good, "part {part}: a flip at byte {at} is not seen");
        });
        case.withstands_cuts(part, 59);
    }
    for wrong in [1_600_000_000, 2_000_000_000] {
        case.now = Timestamp(wrong);
        assert!(matches!(case.appraise(), Err(EvidenceError::Chain { .. })));
    }
    case.now = NOW;
    let section = case.policy.sev_snp.as_mut().unwrap();
    section.least_tcb.microcode = 0xff;
    refused(case.appraise(), "older than the policy allows");
    let section = case.policy.sev_snp.as_mut().unwrap();
    section.least_tcb.microcode = 0;
    section.measurements.clear();
    refused(case.appraise(), "lists no measurement");
    case.policy.sev_snp.as_mut().unwrap().trust.roots = vec![context()];
    refused(case.appraise(), "not a trusted root");
}

const CHIP: [u8; 64] = [7; 64];

fn boots(measured: u8, covers_boot: bool) -> SnpMeasurement {
    SnpMeasurement::Described { measurement: Bytes(vec![measured; 48]), covers_boot }
}

struct Platform {
    key: Certified,
    provider: Certified,
    root: Certified,
}

impl Platform {
    fn new(turin: bool) -> Self {
        let root = root(&PKCS_ECDSA_P384_SHA384);
        let intermediate = root.issue(&PKCS_ECDSA_P384_SHA384, authority("ASK"));
        let mut leaf = params("VCEK");
        let versions: &[(u64, u8)] =
            if turin { &[(1, 2), (2, 3), (3, 4), (8, 5), (9, 1)] } else { &[(1, 1), (2, 2), (3, 3), (8, 5)] };
        for (arc, version) in versions {
            leaf.custom_extensions.push(extension(&[1, 3, 6, 1, 4, 1, 3704, 1, 3, *arc], &[2, 1, *version]));
        }
        let mut loaned = leaf.clone();
        loaned.custom_extensions.push(extension(&[1, 3, 6, 1, 4, 1, 3704, 1, 5], b"\x0c\x05cloud"));
        let provider = intermediate.issue(&PKCS_ECDSA_P384_SHA384, loaned);
        let chip = if turin { &CHIP[..8] } else { &CHIP };
        leaf.custom_extensions.push(extension(&[1, 3, 6, 1, 4, 1, 3704, 1, 4], chip));
        Self { key: intermediate.issue(&PKCS_ECDSA_P384_SHA384, leaf), provider, root }
    }

    fn report(turin: bool) -> Vec<u8> {
        let mut report = vec![0; 0x4a0];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[if turin { 3 } else { 2 }]);
        put(0x34, &[1]);
        let tcb: [u8; 8] = if turin { [1, 2, 3, 4, 0, 0, 0, 5] } else { [1, 2, 0, 0, 0, 0, 3, 5] };
        for at in [0x38, 0x180, 0x1e0] {
            put(at, &tcb);
        }
        put(0x50, &context().0);
        put(0x90, &[9; 48]);
        if turin {
            put(0x188, &[0x1a]);
            put(0x1a0, &CHIP[..8]);
        } else {
            put(0x1a0, &CHIP);
        }
        put(0x1e8, &[21, 55, 1]);
        report
    }

    fn sign(&self, mut report: Vec<u8>) -> Vec<u8> {
        let signature = self.key.sign_fixed(&report[..0x2a0]);
        for (half, at) in signature.chunks(48).zip([0x2a0, 0x2a0 + 72]) {
            let little: Vec<u8> = half.iter().rev().copied().collect();
            report[at..at + 48].copy_from_slice(&little);
        }
        report
    }

    fn case(&self, report: Vec<u8>) -> Case {
        let trust = Trust { roots: vec![self.root.digest()], ..Trust::default() };
        let measurements = vec![boots(9, true)];
        Case {
            policy: EvidencePolicy {
                sev_snp: Some(SevSnpPolicy { measurements, trust, ..SevSnpPolicy::default() }),
                ..EvidencePolicy::default()
            },
            format: Format::SevSnp,
            parts: vec![self.sign(report), self.key.chain()],
            context: context(),
            key: None,
            device: None,
            now: NOW,
        }
    }
}

#[test]
fn a_report_of_the_claim_is_appraised() {
    for turin in [false, true] {
        let mut case = Platform::new(turin).case(Platform::report(turin));
        let appraisal = case.appraise().unwrap();
        assert_eq!(appraisal.tier(), Tier::Affirming);
        assert_eq!(appraisal.facts().firmware.as_deref(), Some("1.55.21"));
        assert_eq!(appraisal.trust().instance_identity, 0);
        case.device = appraisal.facts().device.clone();
        assert_eq!(case.appraise().unwrap().trust().instance_identity, 2);
        case.withstands_flips(0, 3);
        case.withstands_elsewhere_and_elsewhen();
    }
}

#[test]
fn a_report_that_says_the_wrong_thing_is_refused() {
    let platform = Platform::new(false);
    let with = |at: usize, bytes: &[u8]| {
        let mut report = Platform::report(false);
        report[at..at + bytes.len()].copy_from_slice(bytes);
        platform.case(report).appraise()
    };
    refused(with(0x0a, &[1 << 3]), "debug");
    refused(with(0x0a, &[1 << 2]), "migration agent");
    refused(with(0x30, &[1]), "VMPL");
    refused(with(0x48, &[1 << 2]), "not a provider's VLEK");
    refused(with(0x48, &[7 << 2]), "signed by no key");
    refused(with(0x38, &[2]), "rolled back");
    refused(with(0x180, &[9]), "other firmware versions");
    refused(with(0x1a0, &[8]), "another chip");
    refused(with(0x70, &[1]), "REPORT_DATA");
    refused(with(0x90, &[8]), "launched with 0809");
    refused(with(0, &[9]), "version");
    refused(with(0x34, &[2]), "P-384");
}

#[test]
fn what_is_weak_is_accepted_only_when_allowed_and_is_a_warning() {
    let platform = Platform::new(false);
    let mut report = Platform::report(false);
    report[0x0a] = 1 << 3;
    let mut case = platform.case(report);
    case.policy.sev_snp.as_mut().unwrap().allow_debug = true;
    let appraisal = case.appraise().unwrap();
    assert_eq!((appraisal.tier(), appraisal.facts().debug), (Tier::Warning, Some(true)));
}

/// Stock firmware is measured alike whatever kernel the host has it load: the two reports are one.
#[test]
fn a_measurement_affirms_executables_only_where_the_policy_says_that_it_covers_what_boots() {
    let mut case = Platform::new(false).case(Platform::report(false));
    let mut said = |measurements: &[SnpMeasurement]| {
        case.policy.sev_snp.as_mut().unwrap().measurements = measurements.to_vec();
        let appraisal = case.appraise().unwrap();
        let trust = appraisal.trust();
        (trust.executables, trust.configuration, appraisal.tier())
    };
    let (affirmed, unseen) = ((3, 2, Tier::Affirming), (0, 36, Tier::Warning));
    let launch = || SnpMeasurement::Launch(Bytes(vec![9; 48]));
    assert_eq!(said(&[launch()]), unseen);
    assert_eq!(said(&[boots(9, false)]), unseen);
    assert_eq!(said(&[boots(9, true)]), affirmed);
    assert_eq!(said(&[launch(), boots(9, true)]), affirmed);
    // What covers the boot of another guest lends this one nothing.
    assert_eq!(said(&[boots(8, true), launch()]), unseen);
    // A debugger is the worse to know of.
    let mut report = Platform::report(false);
    report[0x0a] = 1 << 3;
    let mut case = Platform::new(false).case(report);
    let section = case.policy.sev_snp.as_mut().unwrap();
    (section.allow_debug, section.measurements) = (true, vec![launch()]);
    let trust = *case.appraise().unwrap().trust();
    assert_eq!((trust.executables, trust.configuration), (0, 32));
}

/// A report that a provider's VLEK signed.
fn loaned(chip: &[u8; 64]) -> Case {
    let mut platform = Platform::new(false);
    std::mem::swap(&mut platform.key, &mut platform.provider);
    let mut report = Platform::report(false);
    report[0x48] = 1 << 2;
    report[0x1a0..0x1e0].copy_from_slice(chip);
    platform.case(report)
}

#[test]
fn chips_of_one_provider_are_told_apart() {
    let name = |case: &Case| case.appraise().unwrap().facts().device.clone().unwrap();
    let (mut case, other) = (loaned(&CHIP), loaned(&[8; 64]));
    assert_ne!(name(&case), name(&other));
    case.device = Some(name(&case));
    assert_eq!(case.appraise().unwrap().trust().instance_identity, 2);
    case.device = Some(name(&other));
    assert!(matches!(case.appraise(), Err(EvidenceError::WrongDevice { .. })));
}

#[test]
fn a_chip_that_hides_its_name_is_no_device() {
    let mut case = loaned(&[0; 64]);
    let appraisal = case.appraise().unwrap();
    assert_eq!((appraisal.facts().device.as_deref(), appraisal.trust().instance_identity), (None, 0));
    // Whatever an HSM is enrolled with or the policy lists, a report without a name is not of it.
    for device in ["sev-snp:vlek", "sev-snp:", &format!("sev-snp:{}", "00".repeat(64))] {
        case.device = Some(device.to_owned());
        refused(case.appraise(), "does not say its name");
        case.device = None;
        case.policy.sev_snp.as_mut().unwrap().trust.devices = vec![device.to_owned()];
        refused(case.appraise(), "does not say its name");
        case.policy.sev_snp.as_mut().unwrap().trust.devices.clear();
    }
    // A VCEK is of one chip: its report cannot hide which.
    let mut report = Platform::report(false);
    report[0x1a0..0x1e0].fill(0);
    refused(Platform::new(false).case(report).appraise(), "another chip");
}
