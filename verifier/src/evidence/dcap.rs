//! Intel TDX and SGX: DCAP quotes, verified by `dcap-qvl` with the collateral that comes with them (certificates, CRLs, TCB and
//! enclave identities, all signed by Intel and dated), down to Intel's root.
//!
//! The claim is REPORTDATA: the 32 bytes of the context's digest, then 32 zeros.

use std::collections::BTreeMap;

use dcap_qvl::{
    QuoteClaims, QuoteCollateralV3, QuotePolicy, TcbStatus,
    configs::RustCryptoConfig,
    quote::{Quote, Report, TDReport10},
    verify::QuoteVerifier,
};
use keywitness_circuits::{Digest, Timestamp};
use sha2::{Digest as _, Sha256};
use x509_parser::pem::Pem;

use super::{
    Binding, Bytes, EvidenceError, Facts, Findings, Format, Register, SgxMeasurement, SgxPolicy, Subject, TcbPolicy,
    TdxMeasurement, TdxPolicy, Trust, TrustVector, Verifier, x509,
};

fn malformed(why: impl std::fmt::Display) -> EvidenceError {
    EvidenceError::malformed("DCAP quote", why)
}

/// The certificates of a PEM text, in DER.
fn certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, EvidenceError> {
    // A quote's chain ends in a zero byte.
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    Pem::iter_from_buffer(text)
        .map(|pem| pem.map(|pem| pem.contents).map_err(|_| malformed("its certificates are not PEM")))
        .collect()
}

fn digest(der: &[u8]) -> Digest {
    Digest(Sha256::digest(der).into())
}

/// Whether nothing but zeros follows the quote: some drivers give a buffer that is longer than the quote in it.
fn ends(quote: &[u8], signed: usize) -> bool {
    let authentication = quote.get(signed..).and_then(|rest| rest.split_first_chunk::<4>());
    authentication.is_some_and(|(length, rest)| {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        rest.get(length..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
    })
}

/// The verifier of the root that the policy names, which the collateral carries, or of Intel's.
fn verifier(trust: &Trust, issuers: &[Vec<u8>]) -> Result<QuoteVerifier<RustCryptoConfig>, EvidenceError> {
    if trust.roots.is_empty() {
        return Ok(QuoteVerifier::new_prod().with_config());
    }
    let root = issuers.last().filter(|root| trust.roots.contains(&digest(root)));
    let error =
        || EvidenceError::Chain { subject: "the collateral's issuer".to_owned(), why: "it is not a trusted root" };
    Ok(QuoteVerifier::new_with_config(root.ok_or_else(error)?.clone()))
}

/// Everything but what runs, and for which claim: signatures, dates, revocation and debug.
fn verify(parts: &[Vec<u8>], trust: &Trust, allow_debug: bool, now: Timestamp) -> Result<QuoteClaims, EvidenceError> {
    let [quote, collateral] = parts else { return Err(malformed("it is not two parts")) };
    let collateral: QuoteCollateralV3 =
        serde_json::from_slice(collateral).map_err(|error| EvidenceError::malformed("DCAP collateral", error))?;
    let parsed = Quote::parse(quote).map_err(|error| malformed(format!("{error:#}")))?;
    if !ends(quote, parsed.signed_length()) {
        return Err(malformed("bytes follow its end"));
    }
    let issuers = certificates(collateral.tcb_info_issuer_chain.as_bytes())?;
    let chains = [
        certificates(parsed.raw_cert_chain().unwrap_or_default())?,
        certificates(collateral.pck_certificate_chain.as_deref().unwrap_or_default().as_bytes())?,
        certificates(collateral.qe_identity_issuer_chain.as_bytes())?,
    ];
    for der in chains.iter().flatten().chain(&issuers) {
        if x509::read(der)?.iter().any(|certificate| trust.revoked.contains(&certificate.key_digest)) {
            return Err(EvidenceError::Chain {
                subject: "a certificate of the quote".to_owned(),
                why: "its key is revoked",
            });
        }
    }
    // What is accepted beyond signatures, dates and debug is decided by our own policy.
    verifier(trust, &issuers)?
        .allow_debug(allow_debug)
        .verify_with_policy(quote, collateral, now.0, &QuotePolicy::claims_only(now.0))
        .map_err(|error| EvidenceError::refused(format!("{error:#}")))
}

/// Whether the quote is of this claim: asked last, so that whoever is told this knows that all else is good.
fn bind(claims: &QuoteClaims, subject: &Subject<'_>) -> Result<(), EvidenceError> {
    let data = match &claims.report {
        Report::SgxEnclave(report) => report.report_data,
        Report::TD10(report) => report.report_data,
        Report::TD15(report) => report.base.report_data,
        Report::TD15Ex(report) => report.base.base.report_data,
    };
    let (context, rest) = data.split_at(32);
    if context == subject.context.0 && rest == [0; 32] {
        Ok(())
    } else {
        Err(EvidenceError::WrongContext("REPORTDATA"))
    }
}

impl TcbPolicy {
    /// Whether the patch level is accepted; true when Intel has nothing against it.
    fn accept(&self, claims: &QuoteClaims) -> Result<bool, EvidenceError> {
        let tcb = &claims.tcb;
        if tcb.eval_data_number < self.least_evaluation {
            return Err(EvidenceError::refused("the collateral is older than the policy allows"));
        }
        if tcb.status == TcbStatus::UpToDate {
            return Ok(true);
        }
        if tcb.status == TcbStatus::Revoked || !self.allowed.contains(&tcb.status) {
            return Err(EvidenceError::refused(format!("the platform's patch level is {}", tcb.status)));
        }
        match tcb.advisory_ids.iter().find(|advisory| !self.advisories.contains(advisory)) {
            Some(advisory) => {
                Err(EvidenceError::refused(format!("Intel's advisory {advisory} applies to the platform")))
            }
            None => Ok(false),
        }
    }
}

/// What TDX and SGX say alike.
fn findings(
    format: Format,
    claims: &QuoteClaims,
    is_current: bool,
    debug: bool,
    executables: i8,
    measurements: BTreeMap<String, Bytes>,
) -> Findings {
    let configured = !claims.tcb.status.to_string().contains("Configuration");
    let good = |good| if good { TrustVector::AFFIRMING } else { TrustVector::WARNING };
    let trust = TrustVector {
        hardware: good(is_current),
        configuration: match good(configured && !debug) {
            TrustVector::AFFIRMING if executables == 0 => TrustVector::CONFIGURATION_UNSEEN,
            value => value,
        },
        executables,
        runtime_opaque: good(!debug),
        ..TrustVector::default()
    };
    let facts = Facts {
        vendor: "Intel".to_owned(),
        device: (!claims.platform.pck.ppid.is_empty())
            .then(|| format!("{format}:{}", Bytes(claims.platform.pck.ppid.clone()))),
        measurements,
        debug: Some(debug),
        tcb_status: Some(claims.tcb.status.to_string()),
        advisories: claims.tcb.advisory_ids.clone(),
        ..Facts::default()
    };
    Findings { binding: Binding::Context, trust, facts, names_key: false, mismatch: None }
}

fn trust_domain(report: &Report) -> Option<&TDReport10> {
    match report {
        Report::SgxEnclave(_) => None,
        Report::TD10(report) => Some(report),
        Report::TD15(report) => Some(&report.base),
        Report::TD15Ex(report) => Some(&report.base.base),
    }
}

/// The RTMRs of what boots (Intel TDX Virtual Firmware Design Guide, on measured boot): the firmware's settings, the loader and the
/// kernel, and what these start.
const BOOT: [Register; 3] = [Register(0), Register(1), Register(2)];

impl TdxMeasurement {
    /// Whether all that boots is compared.
    fn covers_boot(&self) -> bool {
        BOOT.iter().all(|rtmr| self.rtmrs.contains_key(rtmr))
    }

    fn is(&self, report: &TDReport10) -> bool {
        let rtmrs = [&report.rt_mr0, &report.rt_mr1, &report.rt_mr2, &report.rt_mr3];
        self.mr_td.0 == report.mr_td
            && self
                .rtmrs
                .iter()
                .all(|(index, value)| rtmrs.get(usize::from(index.0)).is_some_and(|rtmr| value.0 == rtmr.as_slice()))
    }
}

impl TdxPolicy {
    /// What is said of the executables of a trust domain that is listed.
    fn listed(&self, report: &TDReport10) -> Option<i8> {
        let of = |listed: &TdxMeasurement| if listed.covers_boot() { TrustVector::APPROVED_BOOT } else { 0 };
        self.measurements.iter().filter(|listed| listed.is(report)).map(of).max()
    }
}

impl Verifier for TdxPolicy {
    fn format(&self) -> Format {
        Format::Tdx
    }

    fn devices(&self) -> &[String] {
        &self.trust.devices
    }

    fn verify(&self, parts: &[Vec<u8>], subject: &Subject<'_>, now: Timestamp) -> Result<Findings, EvidenceError> {
        let claims = verify(parts, &self.trust, self.allow_debug, now)?;
        let report = trust_domain(&claims.report).ok_or_else(|| malformed("it is of SGX, not of TDX"))?;
        let is_current = self.tcb.accept(&claims)?;
        if self.measurements.is_empty() {
            return Err(EvidenceError::refused("it lists no measurement, so that no trust domain is accepted"));
        }
        bind(&claims, subject)?;
        let listed = self.listed(report);
        let mismatch = listed.is_none().then(|| "the trust domain is not among the measurements".to_owned());
        let measurements = [
            ("mr-td", report.mr_td),
            ("mr-seam", report.mr_seam),
            ("rtmr0", report.rt_mr0),
            ("rtmr1", report.rt_mr1),
            ("rtmr2", report.rt_mr2),
            ("rtmr3", report.rt_mr3),
        ];
        let measurements =
            measurements.into_iter().map(|(name, value)| (name.to_owned(), Bytes(value.to_vec()))).collect();
        // TUD: any of its bits puts the trust domain under debug.
        let debug = report.td_attributes.first().is_some_and(|tud| *tud != 0);
        let found = findings(self.format(), &claims, is_current, debug, listed.unwrap_or_default(), measurements);
        Ok(Findings { mismatch, ..found })
    }
}

impl SgxMeasurement {
    fn is(&self, enclave: &[u8; 32], signer: &[u8; 32], id: u16, version: u16) -> bool {
        match self {
            Self::Enclave { mr_enclave } => mr_enclave.0 == enclave,
            Self::Signer { mr_signer, product, least_version } => {
                mr_signer.0 == signer && *product == id && version >= *least_version
            }
        }
    }
}

impl Verifier for SgxPolicy {
    fn format(&self) -> Format {
        Format::Sgx
    }

    fn devices(&self) -> &[String] {
        &self.trust.devices
    }

    fn verify(&self, parts: &[Vec<u8>], subject: &Subject<'_>, now: Timestamp) -> Result<Findings, EvidenceError> {
        let claims = verify(parts, &self.trust, self.allow_debug, now)?;
        let Report::SgxEnclave(report) = &claims.report else { return Err(malformed("it is of TDX, not of SGX")) };
        let is_current = self.tcb.accept(&claims)?;
        let listed = |listed: &SgxMeasurement| {
            listed.is(&report.mr_enclave, &report.mr_signer, report.isv_prod_id, report.isv_svn)
        };
        if self.measurements.is_empty() {
            return Err(EvidenceError::refused("it lists no measurement, so that no enclave is accepted"));
        }
        bind(&claims, subject)?;
        let mismatch =
            (!self.measurements.iter().any(listed)).then(|| "the enclave is not among the measurements".to_owned());
        let measurements = [("mr-enclave", report.mr_enclave), ("mr-signer", report.mr_signer)];
        let measurements =
            measurements.into_iter().map(|(name, value)| (name.to_owned(), Bytes(value.to_vec()))).collect();
        let debug = report.attributes.first().is_some_and(|flags| flags & 0x02 != 0);
        let found = findings(self.format(), &claims, is_current, debug, TrustVector::AFFIRMING, measurements);
        Ok(Findings { mismatch, ..found })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A real trust domain.
    const QUOTE: &[u8] = include_bytes!("../../tests/evidence/dcap/tdx_quote");

    #[test]
    fn executables_are_affirmed_by_all_that_boots() {
        let quote = Quote::parse(QUOTE).unwrap();
        let report = trust_domain(&quote.report).unwrap();
        let measured = [&report.rt_mr0, &report.rt_mr1, &report.rt_mr2, &report.rt_mr3];
        let measurement = |rtmrs: &[u8]| TdxMeasurement {
            mr_td: Bytes(report.mr_td.to_vec()),
            rtmrs: rtmrs
                .iter()
                .map(|index| (Register(*index), Bytes(measured.get(usize::from(*index)).unwrap().to_vec())))
                .collect(),
        };
        let said =
            |measurements: Vec<TdxMeasurement>| TdxPolicy { measurements, ..TdxPolicy::default() }.listed(report);
        assert_eq!(said(vec![measurement(&[0, 1, 2])]), Some(TrustVector::APPROVED_BOOT));
        assert_eq!(said(vec![measurement(&[0, 1, 2, 3])]), Some(TrustVector::APPROVED_BOOT));
        for rtmrs in [&[][..], &[0], &[0, 1], &[1, 2], &[0, 2, 3]] {
            assert_eq!(said(vec![measurement(rtmrs)]), Some(0), "{rtmrs:?}");
        }
        let other = TdxMeasurement { mr_td: Bytes(vec![7; 48]), ..measurement(&[0, 1, 2]) };
        assert_eq!(said(vec![other.clone()]), None);
        // One that covers what boots and is of another trust domain lends nothing.
        assert_eq!(said(vec![other, measurement(&[])]), Some(0));
    }
}
