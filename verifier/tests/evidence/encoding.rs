//! The encoding of evidence and of its policy.

use keywitness_circuits::codec::{Canonical as _, MAX_BYTES};
use keywitness_verifier::evidence::{Evidence, EvidenceError, EvidencePolicy, Format, TrustVector};
use keywitness_verifier::token::Tier;

use crate::support::{NOW, context, subject};

fn sample(format: Format) -> Evidence {
    Evidence::new(format, (0..format.parts()).map(|part| vec![part as u8; part]).collect()).unwrap()
}

#[test]
fn evidence_has_one_encoding() {
    for format in Format::ALL {
        let evidence = sample(format);
        let bytes = evidence.to_bytes();
        assert_eq!(Evidence::from_bytes(&bytes).unwrap(), evidence);
        for length in 0..bytes.len() {
            Evidence::from_bytes(&bytes[..length]).unwrap_err();
        }
        Evidence::from_bytes(&[bytes.as_slice(), &[0]].concat()).unwrap_err();
        assert_eq!(serde_json::to_value(format).unwrap(), format.as_str());
    }
    let digests: std::collections::BTreeSet<_> = Format::ALL.iter().map(|format| sample(*format).digest()).collect();
    assert_eq!(digests.len(), Format::ALL.len());
}

#[test]
fn evidence_of_the_wrong_shape_is_refused() {
    Evidence::new(Format::Nitro, vec![]).unwrap_err();
    Evidence::new(Format::Nitro, vec![vec![], vec![]]).unwrap_err();
    Evidence::new(Format::Nitro, vec![vec![0; MAX_BYTES + 1]]).unwrap_err();
    Evidence::new(Format::YubiHsm2, vec![vec![0; MAX_BYTES]; 3]).unwrap_err();
    // No such tag; a count that is not the format's.
    Evidence::from_bytes(&[0, 0, 0]).unwrap_err();
    Evidence::from_bytes(&[0, 8, 0]).unwrap_err();
    Evidence::from_bytes(&[0, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap_err();
    Evidence::from_bytes(&[0, 3, 255]).unwrap_err();
}

#[test]
fn an_empty_policy_accepts_nothing_and_no_noise_is_read() {
    let (nothing, context) = (EvidencePolicy::default(), context());
    let everything: EvidencePolicy =
        serde_json::from_str(r#"{"yubihsm2":{},"marvell":{},"nitro":{},"sev_snp":{},"tdx":{},"sgx":{},"tpm2":{}}"#)
            .unwrap();
    for format in Format::ALL {
        let outcome = nothing.appraise(&sample(format), &subject(&context, None), NOW);
        assert_eq!(outcome.unwrap_err(), EvidenceError::NotAccepted(format));
        assert_eq!(everything.verifier(format).unwrap().format(), format);
        for parts in [
            vec![vec![]; format.parts()],
            vec![vec![0xff; 300]; format.parts()],
            vec![vec![0x30; 4096]; format.parts()],
        ] {
            everything
                .appraise(&Evidence::new(format, parts).unwrap(), &subject(&context, Some(&[1])), NOW)
                .unwrap_err();
        }
    }
}

#[test]
fn a_policy_with_a_slip_is_not_read() {
    let read = serde_json::from_str::<EvidencePolicy>;
    read(r#"{"nitro":{"measurements":[{"0":"00ff"}],"trust":{"devices":["nitro:i-1"]}}}"#).unwrap();
    read(r#"{"sgx":{"tcb":{"allowed":["SWHardeningNeeded"]},"measurements":[{"mr_signer":"00","product":1,"least_version":2}]}}"#)
        .unwrap();
    let guests =
        read(r#"{"sev_snp":{"measurements":["00",{"measurement":"01"},{"measurement":"02","covers_boot":true}]}}"#);
    let guests = guests.unwrap();
    let written = serde_json::to_string(&guests).unwrap();
    assert_eq!(read(&written).unwrap(), guests);
    for slip in [
        r#"{"sev_snp":{"measurements":[{"measurement":"00","covers-boot":true}]}}"#,
        r#"{"sev_snp":{"measurements":[{"covers_boot":true}]}}"#,
        r#"{"nitrp":{}}"#,
        r#"{"nitro":{"allow_debugging":true}}"#,
        r#"{"nitro":{"measurements":[{"0":"0g"}]}}"#,
        r#"{"nitro":{"trust":{"roots":["00"]}}}"#,
        r#"{"sgx":{"tcb":{"allowed":["HardeningNeeded"]}}}"#,
        r#"{"sgx":{"measurements":[{"mr_signer":"00"}]}}"#,
    ] {
        assert!(read(slip).is_err(), "{slip}");
    }
    let everything = r#"{"yubihsm2":{},"marvell":{},"nitro":{},"sev_snp":{},"tdx":{},"sgx":{},"tpm2":{}}"#;
    let policy = read(everything).unwrap();
    assert_eq!(read(&serde_json::to_string(&policy).unwrap()).unwrap(), policy);
}

#[test]
fn the_policy_in_the_documentation_is_read() {
    let page = include_str!("../../../docs/evidence.md");
    let example =
        page.split("```toml").find(|block| block.contains("[yubihsm2]")).unwrap().split("```").next().unwrap();
    let policy: EvidencePolicy = toml::from_str(&example.replace('…', "")).unwrap();
    assert!(Format::ALL.into_iter().all(|format| policy.verifier(format).is_some()));
    // What is commented out there is read as well.
    let allowances =
        example.lines().filter_map(|line| line.strip_prefix("# allow_")).map(|line| format!("allow_{line}"));
    let names: Vec<_> = allowances
        .flat_map(|line| {
            let names: Vec<_> = line.split(" = ").next().unwrap().split(", ").map(str::to_owned).collect();
            names
        })
        .collect();
    assert_eq!(names.len(), 10);
    let written = serde_json::to_string(&policy).unwrap();
    assert!(names.iter().all(|name| written.contains(&format!("\"{name}\""))), "{names:?}");
}

#[test]
fn the_worst_claim_sets_the_tier() {
    let tier = |hardware, configuration| TrustVector { hardware, configuration, ..TrustVector::default() }.tier();
    assert_eq!(tier(0, 0), Tier::None);
    assert_eq!(tier(2, 0), Tier::Affirming);
    assert_eq!(tier(2, 36), Tier::Warning);
    assert_eq!(tier(96, 36), Tier::Contraindicated);
    let vector = TrustVector { hardware: 2, storage_opaque: 32, ..TrustVector::default() };
    assert_eq!(serde_json::to_string(&vector).unwrap(), r#"{"hardware":2,"storage-opaque":32}"#);
    assert_eq!(serde_json::to_value(vector.claims()).unwrap(), serde_json::to_value(vector).unwrap());
}
