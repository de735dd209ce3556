//! What an appraisal is asked, what it finds, and who may appraise.

use std::fmt;

use keywitness_circuits::{Digest, Timestamp};
use serde::Serialize;

use super::{Binding, Evidence, EvidencePolicy, Facts, Format, Summary, TrustVector};
use crate::token::Tier;

/// What evidence must be about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// [`keywitness_circuits::ClaimContext::digest_without_evidence`] of the claim.
    pub context: &'a Digest,
    /// SubjectPublicKeyInfo of the claimed key, in DER; none for a symmetric key. Evidence that names a key must name this
    /// one.
    pub key: Option<&'a [u8]>,
    /// The device that this HSM was enrolled with, as [`Facts::device`] spells it. Evidence of another is refused.
    pub device: Option<&'a str>,
}

/// Why evidence was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// The policy has no section for the format.
    #[error("{0} evidence is not accepted here: the evidence policy has no section for it")]
    NotAccepted(Format),
    /// Something in it cannot be read.
    #[error("the {what} cannot be read: {why}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A chain of certificates is not good.
    #[error("the certificate chain is refused at {subject:?}: {why}")]
    Chain {
        /// Subject of the certificate at fault.
        subject: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A signature does not verify.
    #[error("the signature of the {0} does not verify")]
    Signature(&'static str),
    /// It is bound to something else than this claim.
    #[error("the {0} is not of this claim; ask the device again with the claim's own challenge")]
    WrongContext(&'static str),
    /// It names another key.
    #[error("the evidence is about another key than the claimed one")]
    WrongKey,
    /// It is of another device than the HSM was enrolled with, or than the policy lists.
    #[error(
        "the evidence is of device {found}, which is not the one expected; enrol the device, or list it in the policy"
    )]
    WrongDevice {
        /// The device that the evidence is of.
        found: String,
    },
    /// It is true, and the policy does not accept what it says.
    #[error("the evidence policy refuses this: {0}")]
    Refused(String),
    /// It is true, of this claim, key and device, and what runs there is not what the policy lists. It is found last, when
    /// nothing else is wrong.
    #[error("what runs there is not what the evidence policy lists: {0}")]
    Measurement(String),
}

impl EvidenceError {
    pub(super) fn malformed(what: &'static str, why: impl fmt::Display) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }

    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}

/// What a verifier of one format found; only the verifiers here make it.
#[derive(Clone, Debug)]
pub struct Findings {
    pub(super) binding: Binding,
    pub(super) trust: TrustVector,
    pub(super) facts: Facts,
    /// Whether what the device signed names the claimed key.
    pub(super) names_key: bool,
    /// What runs there and is not listed: the one fault that is told only when there is no other.
    pub(super) mismatch: Option<String>,
}

/// Appraises evidence of one format under one section of the policy.
pub trait Verifier {
    /// The format.
    fn format(&self) -> Format;

    /// The devices that the policy lists; none for any genuine one.
    fn devices(&self) -> &[String];

    /// Checks everything but which device it is, and says what runs there that is not listed. `parts` are as many as the
    /// format has. That it is of another claim is found last.
    fn verify(&self, parts: &[Vec<u8>], subject: &Subject<'_>, now: Timestamp) -> Result<Findings, EvidenceError>;
}

/// Evidence that was found good under a policy, at a time, for one claim. Nothing but [`EvidencePolicy::appraise`] makes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Appraisal {
    format: Format,
    evidence: Digest,
    context: Digest,
    at: Timestamp,
    binding: Binding,
    trust: TrustVector,
    facts: Facts,
    names_key: bool,
}

impl Appraisal {
    /// The evidence's format.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Digest of the evidence, which the claim context must name.
    pub const fn evidence(&self) -> &Digest {
        &self.evidence
    }

    /// Digest of the claim context without evidence.
    pub const fn context(&self) -> &Digest {
        &self.context
    }

    /// When it was appraised.
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// How far the evidence is bound to the claim.
    pub const fn binding(&self) -> Binding {
        self.binding
    }

    /// The trustworthiness claims.
    pub const fn trust(&self) -> &TrustVector {
        &self.trust
    }

    /// The worst tier of the trustworthiness claims.
    pub fn tier(&self) -> Tier {
        self.trust.tier()
    }

    /// Whether what the device signed names the claimed key. Other evidence is of the platform alone.
    pub const fn names_key(&self) -> bool {
        self.names_key
    }

    /// What the evidence says.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What is kept of it.
    pub fn summary(&self) -> Summary {
        let Self { format, evidence, context, at, binding, trust, facts, names_key } = self.clone();
        Summary { format, evidence, context, at, binding, trust, names_key, facts }
    }
}

impl EvidencePolicy {
    /// The verifier of a format, if the policy has a section for it.
    pub fn verifier(&self, format: Format) -> Option<&dyn Verifier> {
        fn section<T: Verifier>(section: Option<&T>) -> Option<&dyn Verifier> {
            section.map(|verifier| verifier as &dyn Verifier)
        }
        match format {
            Format::YubiHsm2 => section(self.yubihsm2.as_ref()),
            Format::Marvell => section(self.marvell.as_ref()),
            Format::Nitro => section(self.nitro.as_ref()),
            Format::SevSnp => section(self.sev_snp.as_ref()),
            Format::Tdx => section(self.tdx.as_ref()),
            Format::Sgx => section(self.sgx.as_ref()),
            Format::Tpm2 => section(self.tpm2.as_ref()),
        }
    }

    /// Appraises evidence about `subject` at the time `now`.
    ///
    /// Every signature, chain and date is checked, every value that the policy lists is compared, and the evidence is bound
    /// to the claim as far as its format allows ([`Appraisal::binding`]).
    pub fn appraise(
        &self,
        evidence: &Evidence,
        subject: &Subject<'_>,
        now: Timestamp,
    ) -> Result<Appraisal, EvidenceError> {
        let format = evidence.format();
        let verifier = self.verifier(format).ok_or(EvidenceError::NotAccepted(format))?;
        let Findings { binding, mut trust, facts, names_key, mismatch } =
            verifier.verify(evidence.parts(), subject, now)?;
        let expected = subject.device.is_none_or(|device| facts.device.as_deref() == Some(device));
        let is_listed = |device| verifier.devices().contains(device);
        let listed = verifier.devices().is_empty() || facts.device.as_ref().is_some_and(is_listed);
        if !expected || !listed {
            let found = facts.device.unwrap_or_else(|| format!("{format}, which does not say its name"));
            return Err(EvidenceError::WrongDevice { found });
        }
        if let Some(what) = mismatch {
            return Err(EvidenceError::Measurement(what));
        }
        if subject.device.is_some() || !verifier.devices().is_empty() {
            trust.instance_identity = TrustVector::AFFIRMING;
        }
        if binding == Binding::Key {
            // Nothing says that the device is today as it was when it signed.
            trust.configuration = TrustVector::CONFIGURATION_UNSEEN;
        }
        Ok(Appraisal {
            format,
            evidence: evidence.digest(),
            context: *subject.context,
            at: now,
            binding,
            trust,
            facts,
            names_key,
        })
    }
}
