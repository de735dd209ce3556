//! Managers that enter another proof than the one that was made, or bring another than the token's.

use keywitness_circuits::{Envelope, codec::Canonical};

use super::{Case, log_of, opening_number, proven, refused, token};
use crate::{audit::tests::lies::relived, ledger::Command};

#[test]
fn another_proof_of_the_same_key_is_not_the_tokens() {
    let mut case = Case::new();
    case.world.advance(1);
    case.hsm.attest(&case.world, "eu", &case.key).unwrap();
    (case.log, case.token) = (log_of(&case.world), token(&case.world, &case.key));
    let whole = case.bundle();
    case.check(&whole).unwrap();
    let attested: Vec<_> = (1_u64..)
        .zip(&case.log)
        .filter(|(_, entry)| entry.submission.command.name() == "attest")
        .map(|(number, _)| number)
        .collect();
    let mut bundle = whole;
    let place = bundle.entries.iter().position(|entry| opening_number(entry) == attested[1]).unwrap();
    bundle.entries[place] = proven(&case.log, &attested[..1], &[1, 2]).remove(0);
    refused(case.check(&bundle), "no entry with the attestation");
}

/// Has the manager enter another envelope in the place of the attested one, and say so in its token.
fn lie(case: &mut Case, envelope: &Envelope) {
    let place = case.log.iter().position(|entry| entry.submission.command.name() == "attest").unwrap();
    let Command::Attest { envelope: bytes, digest, .. } = &mut case.log[place].submission.command else { panic!() };
    (*bytes, *digest) = (envelope.to_bytes(), envelope.digest());
    case.log = relived(&case.log);
    case.say(|claims| {
        let appraisal = claims.submods.values_mut().next().unwrap();
        appraisal.attestation.statements[0].envelope = envelope.digest();
    });
}

fn attested(case: &Case) -> Envelope {
    let attested = case.log.iter().find_map(|entry| match &entry.submission.command {
        Command::Attest { envelope, .. } => Some(Envelope::from_bytes(envelope).unwrap()),
        _ => None,
    });
    attested.unwrap()
}

#[test]
fn a_manager_that_made_up_a_proof_or_a_signature_is_found() {
    let mut case = Case::new();
    let context = attested(&case).context;
    let forged = case.hsm.forge(&case.key, context.clone());
    lie(&mut case, &forged);
    refused(case.check(&case.bundle()), "proof of k @1");
    let mut case = Case::new();
    let context = attested(&case).context;
    let borrowed = case.other.seal(&case.key, context);
    lie(&mut case, &borrowed);
    refused(case.check(&case.bundle()), "identity signature of k @1");
}
