//! The evidence that a token rests on, in the log.
//!
//! A bundle has no evidence policy. So what the manager made of the evidence is its word; that it was given by this HSM for this challenge, and
//! that the token says of it what the log does, is not.

use keywitness_circuits::{Digest, codec::Canonical as _};
use keywitness_verifier::{
    evidence::{Evidence, EvidenceContext, Summary},
    identity::IdentityKey,
    token::KeyAttestation,
    wire::rfc3339,
};

use super::check::Noted;
use crate::ledger::{Command, Outcome, log::Entry, state::evidence::Json};

/// What the log has of the evidence that a token names.
pub(super) fn shown(
    log: &[(u64, Entry)],
    attestation: &KeyAttestation,
    (enrolled, identity): (u64, &IdentityKey),
) -> Noted<Option<Summary>> {
    let Some(claim) = &attestation.evidence else { return Ok((None, "none, and the token names none".to_owned())) };
    let found = log.iter().find_map(|(number, entry)| match &entry.submission.command {
        Command::PresentEvidence { hsm, enrolment, nonce, evidence, verdict, .. }
            if (hsm, *enrolment) == (&attestation.hsm, attestation.enrolment) && entry.outcome == Outcome::Done =>
        {
            let Ok(Json(summary)) = &verdict.found else { return None };
            (summary.evidence == claim.digest).then_some((*number, entry.at, nonce, evidence, summary))
        }
        _ => None,
    });
    let (number, at, nonce, evidence, summary) = found.ok_or("the bundle has no entry with the evidence")?;
    let given = Evidence::from_bytes(evidence).map_err(|error| error.to_string())?;
    if given.digest() != claim.digest || given.format() != claim.format {
        return Err("the evidence is another than the token names".to_owned());
    }
    let context = |key| EvidenceContext {
        trust_domain: attestation.trust_domain.clone(),
        manager: attestation.manager.clone(),
        cluster: attestation.cluster.clone(),
        hsm: attestation.hsm.clone(),
        enrolment: attestation.enrolment,
        identity_key: Digest::from(*identity),
        key,
        nonce: *nonce,
    };
    let of_key = summary.context == context(Some(attestation.key.clone())).digest();
    if !of_key && (summary.names_key || summary.context != context(None).digest()) {
        return Err("the evidence was given of another HSM or key".to_owned());
    }
    if *claim != crate::service::claim(summary, claim.expires_at) || claim.expires_at <= at || number <= enrolled {
        return Err("the token says more of the evidence than the log does".to_owned());
    }
    let text =
        format!("entry {number}: {}, taken at {}; what it says is the manager's word", claim.format, rfc3339(at));
    Ok((Some(summary.clone()), text))
}
