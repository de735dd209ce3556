//! Intel TDX and SGX: real quotes with Intel's collateral.

use keywitness_circuits::{Digest, Timestamp};
use keywitness_verifier::evidence::{
    Appraisal, Binding, Bytes, EvidenceError, EvidencePolicy, Format, SgxMeasurement, SgxPolicy, TcbPolicy,
    TdxMeasurement, TdxPolicy,
};
use keywitness_verifier::token::Tier;

use crate::support::{Case, refused, sha256};

/// Within the collateral of the SGX and the first TDX quote: 1 July 2025.
const JULY_2025: Timestamp = Timestamp(1_751_328_000);
/// Within that of the outdated TDX quote: 1 March 2026.
const MARCH_2026: Timestamp = Timestamp(1_772_323_200);

const SGX: [&[u8]; 2] = [include_bytes!("dcap/sgx_quote"), include_bytes!("dcap/sgx_quote_collateral.json")];
const TDX: [&[u8]; 2] = [include_bytes!("dcap/tdx_quote"), include_bytes!("dcap/tdx_quote_collateral.json")];
const OUTDATED: [&[u8]; 2] =
    [include_bytes!("dcap/tdx_quote_outdated"), include_bytes!("dcap/tdx_quote_outdated_collateral.json")];

/// Where a report begins, after the quote's header (and, since version 5, type and size).
const fn report(quote: &[u8]) -> usize {
    if quote[0] == 5 { 54 } else { 48 }
}

fn tdx(parts: [&[u8]; 2], now: Timestamp) -> Case {
    let start = report(parts[0]);
    let mr_td = Bytes(parts[0][start + 136..start + 184].to_vec());
    let policy =
        TdxPolicy { measurements: vec![TdxMeasurement { mr_td, rtmrs: Default::default() }], ..TdxPolicy::default() };
    Case {
        policy: EvidencePolicy { tdx: Some(policy), ..EvidencePolicy::default() },
        format: Format::Tdx,
        parts: parts.map(<[u8]>::to_vec).to_vec(),
        context: Digest(parts[0][start + 520..start + 552].try_into().unwrap()),
        key: None,
        device: None,
        now,
    }
}

/// The SGX quote is of a processor that Intel wants configured and hardened.
fn sgx() -> Case {
    let mr_enclave = Bytes(SGX[0][48 + 64..48 + 96].to_vec());
    let tcb: TcbPolicy = serde_json::from_str(
        r#"{"allowed":["ConfigurationAndSWHardeningNeeded"],"advisories":["INTEL-SA-00289","INTEL-SA-00615"]}"#,
    )
    .unwrap();
    let measurements = vec![SgxMeasurement::Enclave { mr_enclave }];
    Case {
        policy: EvidencePolicy {
            sgx: Some(SgxPolicy { measurements, tcb, ..SgxPolicy::default() }),
            ..EvidencePolicy::default()
        },
        format: Format::Sgx,
        parts: SGX.map(<[u8]>::to_vec).to_vec(),
        context: Digest(SGX[0][48 + 320..48 + 352].try_into().unwrap()),
        key: None,
        device: None,
        now: JULY_2025,
    }
}

fn said(appraisal: &Appraisal) -> (Binding, String) {
    (appraisal.binding(), serde_json::to_string(&(appraisal.trust(), appraisal.facts())).unwrap())
}

#[test]
fn a_real_sgx_quote_is_appraised() {
    let mut case = sgx();
    // By luck the sample's REPORTDATA has the shape of ours: 32 bytes, then zeros.
    let appraisal = case.appraise().unwrap();
    assert_eq!((appraisal.binding(), appraisal.tier()), (Binding::Context, Tier::Warning));
    assert_eq!(appraisal.facts().tcb_status.as_deref(), Some("ConfigurationAndSWHardeningNeeded"));
    assert_eq!(appraisal.facts().advisories, ["INTEL-SA-00289", "INTEL-SA-00615"]);
    assert_eq!((appraisal.trust().hardware, appraisal.trust().configuration), (32, 32));
    for length in (0..case.parts[0].len()).step_by(577) {
        case.appraise_parts(vec![case.parts[0][..length].to_vec(), case.parts[1].clone()]).unwrap_err();
    }
    // Zeros after a quote are a driver's buffer; anything else is refused.
    let with =
        |rest: &[u8]| case.appraise_parts(vec![[case.parts[0].as_slice(), rest].concat(), case.parts[1].clone()]);
    with(&[0; 40]).unwrap();
    refused(with(&[0, 1]), "bytes follow");
    case.withstands_elsewhere_and_elsewhen();
}

#[test]
fn no_flip_in_a_quote_or_its_collateral_says_anything_else() {
    let case = sgx();
    let good = said(&case.appraise().unwrap());
    // The quote's signed parts, and its signatures.
    case.flip(0, 29, |at, outcome| match outcome {
        Err(_) => {}
        Ok(appraisal) => assert_eq!(said(&appraisal), good, "a flip at byte {at} of the quote changes what is said"),
    });
    for at in [48, 48 + 64, 48 + 128, 48 + 320, 48 + 383, 436, 500, 564] {
        let mut parts = case.parts.clone();
        parts[0][at] ^= 1;
        assert!(case.appraise_parts(parts).is_err(), "a flip at byte {at} of the quote is accepted");
    }
    // The collateral is JSON with Intel's signatures in it: the spelling of a number is not signed, what it says is.
    case.flip(1, 211, |at, outcome| {
        if let Ok(appraisal) = outcome {
            assert_eq!(said(&appraisal), good, "a flip at byte {at} of the collateral changes what is said");
        }
    });
}

#[test]
fn an_sgx_quote_needs_every_allowance_of_its_own() {
    let edit = |change: fn(&mut SgxPolicy)| {
        let mut case = sgx();
        change(case.policy.sgx.as_mut().unwrap());
        case.appraise()
    };
    refused(edit(|policy| policy.tcb.allowed.clear()), "patch level is ConfigurationAndSWHardeningNeeded");
    refused(edit(|policy| drop(policy.tcb.advisories.pop())), "INTEL-SA-00615 applies");
    refused(edit(|policy| policy.tcb.least_evaluation = 18), "older than the policy allows");
    refused(edit(|policy| policy.measurements.clear()), "lists no measurement");
    let mut case = sgx();
    case.policy.sgx.as_mut().unwrap().measurements = vec![SgxMeasurement::Enclave { mr_enclave: Bytes(vec![7; 32]) }];
    case.last_is_the_measurement();
    refused(edit(|policy| policy.trust.roots = vec![sha256(b"another root")]), "not a trusted root");
    let signer = |least_version, product| {
        let mut case = sgx();
        let mr_signer = Bytes(SGX[0][48 + 128..48 + 160].to_vec());
        case.policy.sgx.as_mut().unwrap().measurements =
            vec![SgxMeasurement::Signer { mr_signer, product, least_version }];
        case.appraise()
    };
    let (product, version) = (
        u16::from_le_bytes(SGX[0][48 + 256..48 + 258].try_into().unwrap()),
        u16::from_le_bytes(SGX[0][48 + 258..48 + 260].try_into().unwrap()),
    );
    signer(version, product).unwrap();
    refused(signer(version + 1, product), "not among the measurements");
    refused(signer(version, product + 1), "not among the measurements");
}

#[test]
fn a_real_tdx_quote_is_good_but_of_no_claim() {
    let mut case = tdx(TDX, JULY_2025);
    // Its REPORTDATA is 64 bytes of something else.
    let good = EvidenceError::WrongContext("REPORTDATA");
    assert_eq!(case.appraise().unwrap_err(), good);
    case.flip(0, 307, |at, outcome| {
        // After the signed part come certificates as PEM text, whose line ends nobody signs.
        if at < 636 {
            assert_ne!(outcome.unwrap_err(), good, "a flip at byte {at} is not seen");
        }
    });
    for wrong in [1_700_000_000, 1_760_000_000] {
        case.now = Timestamp(wrong);
        assert_ne!(case.appraise().unwrap_err(), good);
    }
}

#[test]
fn an_outdated_platform_is_refused_by_default() {
    let mut case = tdx(OUTDATED, MARCH_2026);
    let error = case.appraise().unwrap_err();
    assert!(matches!(error, EvidenceError::Refused(_)), "{error}");
    // Not even with every allowance: it is older than all that Intel's collateral knows.
    let allowed = r#"{"allowed":["OutOfDate","OutOfDateConfigurationNeeded","TDRelaunchAdvised","SWHardeningNeeded",
        "ConfigurationNeeded","ConfigurationAndSWHardeningNeeded"]}"#;
    case.policy.tdx.as_mut().unwrap().tcb = serde_json::from_str(allowed).unwrap();
    refused(case.appraise(), "No matching TCB level");
}

#[test]
fn a_quote_is_not_taken_for_the_other_kind() {
    let mut case = sgx();
    case.format = Format::Tdx;
    case.policy.tdx = Some(TdxPolicy::default());
    refused(case.appraise(), "of SGX, not of TDX");
    // A quote with another's collateral.
    let mut case = sgx();
    case.parts[1] = TDX[1].to_vec();
    case.appraise().unwrap_err();
}
