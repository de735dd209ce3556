//! Evidence: reading it, and appraising what was read under a policy that accepts every format.

use keywitness_circuits::{Digest, Timestamp, codec::Canonical as _};
use keywitness_verifier::evidence::{Evidence, EvidencePolicy, Format, Subject};

use crate::{Target, decoders::canonical};

/// Samples of the verifier's tests, part by part.
fn samples() -> Vec<Evidence> {
    macro_rules! sample {
        ($format:ident: $($file:literal),*) => {
            Evidence::new(Format::$format, vec![$(include_bytes!(concat!("../../verifier/tests/evidence/", $file)).to_vec()),*]).unwrap()
        };
    }
    vec![
        sample!(Nitro: "nitro/attestation.cose"),
        sample!(Sgx: "dcap/sgx_quote", "dcap/sgx_quote_collateral.json"),
        sample!(Tdx: "dcap/tdx_quote", "dcap/tdx_quote_collateral.json"),
        sample!(SevSnp: "sev-snp/report_milan.hex", "sev-snp/vcek_milan.der"),
        sample!(Marvell: "tpm2/ecc.key-spki.der", "sev-snp/vcek_milan.der", "sev-snp/ark_milan.der"),
        sample!(YubiHsm2: "tpm2/ecc.ek-certificate.der", "tpm2/rsa.ek-certificate.der", "tpm2/ca.der"),
        sample!(Tpm2: "tpm2/ecc.ak-public", "tpm2/ecc.quote", "tpm2/ecc.quote-signature", "tpm2/ecc.pcrs", "tpm2/ecc.certify",
            "tpm2/ecc.certify-signature", "tpm2/ecc.key-public"),
        sample!(Tpm2: "tpm2/rsa.ak-public", "tpm2/rsa.quote", "tpm2/rsa.quote-signature", "tpm2/rsa.pcrs", "tpm2/rsa.certify",
            "tpm2/rsa.certify-signature", "tpm2/rsa.key-public"),
    ]
}

pub(crate) fn targets() -> Vec<Target> {
    let everything = r#"{"yubihsm2":{},"marvell":{},"nitro":{},"sev_snp":{},"tdx":{},"sgx":{},"tpm2":{}}"#;
    let policy: EvidencePolicy = serde_json::from_str(everything).unwrap();
    let key = include_bytes!("../../verifier/tests/evidence/tpm2/ecc.key-spki.der");
    let seeds = samples().iter().map(Evidence::to_bytes).collect();
    vec![Target::new("evidence", seeds, move |bytes| {
        let Some(evidence) = canonical::<Evidence>(bytes) else { return };
        let context = Digest([7; 32]);
        let subject = Subject { context: &context, key: Some(key), device: None };
        // No section lists a measurement or a device, and nobody signed anything for this context.
        assert!(policy.appraise(&evidence, &subject, Timestamp(1_736_179_625)).is_err());
    })]
}
