//! What a token says beside its records: its public key, what a key is derived from, and the rest of its appraisal.
//!
//! A manager signs tokens, and could sign more than it was shown. Whatever the bundle's entries do not bear out is refused; where
//! nothing in a bundle could bear it out, it is named as the manager's word.

use keywitness_circuits::{Fingerprint, Instance, Suite};
use keywitness_verifier::{
    evidence::Summary,
    token::{KeyAttestation, ProvenStatement, VerifiedToken},
};

use super::check::{Findings, Noted};
use crate::audit::Checker;

/// What the entries of a bundle show of a token's own key.
#[derive(Default)]
pub(super) struct Shown {
    /// The instances that were enrolled, of the fingerprints that were proven.
    pub(super) enrolled: Vec<Instance>,
    /// The instances that were proven.
    pub(super) proven: Vec<Instance>,
}

/// Holds a token's appraisal against what was shown.
pub(super) fn check(
    token: &VerifiedToken,
    (shown, evidence): (&Shown, Option<&Summary>),
    checker: &Checker,
    findings: &mut Findings,
) {
    findings.note("appraisal", appraisal(token, evidence));
    findings.note("public key", public_key(token, shown));
    findings.note("master key", master(&token.appraisal().attestation, shown));
    findings.note("parameters", parameters(&token.appraisal().attestation, checker));
    findings.note("agreement", agreement(&token.appraisal().attestation, shown));
}

/// The appraisal is named by its key, and claims no more for it than that the HSM is known, and what evidence in the log says.
fn appraisal(token: &VerifiedToken, evidence: Option<&Summary>) -> Noted<()> {
    let (appraisal, named) = (token.appraisal(), token.claims().submods.keys().next());
    let key = &appraisal.attestation.key.key;
    if named.is_none_or(|named| *named != key.to_string()) {
        return Err(format!("it is named {named:?}, and is of key {key}"));
    }
    let missing = appraisal.attestation.evidence_missing;
    let vector = crate::service::vector(evidence.map(|summary| &summary.trust), missing);
    if appraisal.ear_trustworthiness_vector != vector.claims() {
        return Err("its trustworthiness vector claims what nothing in the log shows".to_owned());
    }
    let residence = &appraisal.attestation.residence;
    if residence != crate::service::residence(evidence) {
        return Err(format!("it claims residence {residence:?}, which nothing in the log shows"));
    }
    Ok(((), format!("of key {key}, in an HSM that is known; residence {residence}")))
}

fn public_key(token: &VerifiedToken, shown: &Shown) -> Noted<()> {
    let claimed = token.appraisal().ear_veraison_key_attestation.as_ref().map(|claim| &claim.akpub.0);
    if shown.enrolled.is_empty() {
        return Err("nothing that was enrolled shows it".to_owned());
    }
    for instance in shown.enrolled.iter().chain(&shown.proven) {
        // One of many keys has no public key of its own; its enrolled instances do.
        if matches!(instance, Instance::ManyKeys(_)) {
            continue;
        }
        let proven = instance.spki().map_err(|error| error.to_string())?;
        if proven.as_ref() != claimed {
            return Err("the token's public key is not that of the key that was proven".to_owned());
        }
    }
    let text = if claimed.is_some() { "that of the key that was proven" } else { "none, and the key has none" };
    Ok(((), text.to_owned()))
}

/// A derived key names the master that its instance does, and no other key names one.
fn master(attestation: &KeyAttestation, shown: &Shown) -> Noted<()> {
    let masters = shown.enrolled.iter().chain(&shown.proven).filter_map(|instance| match instance {
        Instance::KeyDerivation(derivation) => Some(derivation.master()),
        _ => None,
    });
    let mut masters: Vec<Fingerprint> = masters.collect();
    masters.dedup();
    match (masters.as_slice(), &attestation.derived_from) {
        ([], None) => Ok(((), "none: the key is not derived".to_owned())),
        ([], Some(from)) => {
            Err(format!("the token derives the key from {}, and what was proven does not", from.key.key))
        }
        ([_, ..], None) => Err("the key is derived, and the token does not say from what".to_owned()),
        ([master], Some(from)) if from.key != attestation.key => {
            if !from.statements.iter().any(|proven| proven.fingerprint == *master) {
                return Err(format!("the key is derived from another one than {} @{}", from.key.key, from.key.epoch));
            }
            Ok(((), format!("{} @{}, as the derivation proves", from.key.key, from.key.epoch)))
        }
        _ => Err("the key is derived from more than one key, or from itself".to_owned()),
    }
}

fn statements(attestation: &KeyAttestation) -> impl Iterator<Item = &ProvenStatement> {
    attestation.statements.iter().chain(attestation.derived_from.iter().flat_map(|from| &from.statements))
}

/// Who made the parameters: nobody where a suite needs none made, else whom their file names.
fn parameters(attestation: &KeyAttestation, checker: &Checker) -> Noted<()> {
    let mut development = false;
    for proven in statements(attestation) {
        let made = proven.fingerprint.suite == Suite::Groth16Bn254;
        if made && checker.development(proven.kind, &proven.verifying_key) && !proven.development_parameters {
            return Err(format!("one party made those of {}, and the token does not say so", proven.kind));
        }
        // Said of parameters that another circuit's, at the same manager, are for development, it is too careful, and true.
        if proven.development_parameters && !made {
            return Err(format!("nobody made any of {}, and the token says that one party did", proven.kind));
        }
        development |= proven.development_parameters;
    }
    let text = if development { "for development: one party could forge proofs" } else { "not for development" };
    Ok(((), text.to_owned()))
}

/// A tagged key's tags are agreed on by others, of whom a bundle has nothing.
fn agreement(attestation: &KeyAttestation, shown: &Shown) -> Noted<()> {
    let tagged = shown.proven.iter().any(|instance| matches!(instance, Instance::TaggedKey(_)));
    match attestation.agreement {
        None if !tagged => Ok(((), "none, and the key needs none".to_owned())),
        None => Err("the key's tags need others who agree, and the token names none".to_owned()),
        Some(_) if !tagged => Err("the token claims that others agree, and the key has no tags".to_owned()),
        Some(alone) if alone.is_self_asserted() => {
            Err("nobody else agrees on the key's tags, and the token affirms them".to_owned())
        }
        Some(agreed) => {
            Ok(((), format!("{agreed}: the manager's word, which this bundle does not show; audit the log for it")))
        }
    }
}
