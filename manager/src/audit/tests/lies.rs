//! Managers that lie, each in its own way, and keep the rest of their log consistent with the lie.

use keywitness_circuits::{Digest, Envelope, Timestamp, codec::Canonical};

use super::{audit, log_of, small};
use crate::{
    audit::Offence,
    ledger::{
        Command, Memory, Outcome, Verdict,
        log::{Entry, Submission, execute},
    },
};

/// The log that a manager writes which really applies these commands: consistent in itself, whatever they say.
fn lived(log: impl IntoIterator<Item = (Submission, Timestamp)>) -> Vec<Entry> {
    let mut tables = Memory::default();
    let mut apply = |(submission, at): (Submission, Timestamp)| {
        let (outcome, _) = execute(&mut tables, submission.clone(), at).unwrap();
        Entry { at, submission, outcome }
    };
    log.into_iter().map(&mut apply).collect()
}

pub(crate) fn relived(log: &[Entry]) -> Vec<Entry> {
    lived(log.iter().map(|entry| (entry.submission.clone(), entry.at)))
}

fn position(log: &[Entry], command: &str) -> usize {
    log.iter().rposition(|entry| entry.submission.command.name() == command).unwrap()
}

/// Changes what the newest command of that name says, and lives with it.
fn changed(log: &[Entry], command: &str, change: impl FnOnce(&mut Command)) -> (Vec<Entry>, u64) {
    let (mut log, place) = (log.to_vec(), position(log, command));
    change(&mut log[place].submission.command);
    (relived(&log), place as u64 + 1)
}

#[track_caller]
fn caught(log: &[Entry], offence: Offence, sequence: u64) {
    let divergence = audit(log).unwrap_err();
    assert_eq!((divergence.offence, divergence.sequence), (offence, sequence), "{divergence}");
}

#[test]
fn it_accepted_a_bad_proof() {
    let (world, hsm, _, key) = small();
    hsm.fail(&world, "eu", &key);
    hsm.attest(&world, "eu", &key).unwrap();
    let mut log = log_of(&world);
    let place = log.iter().position(|entry| matches!(entry.outcome, Outcome::Refused(_))).unwrap();
    let Command::Attest { verdict, .. } = &mut log[place].submission.command else { panic!() };
    *verdict = Verdict::Proven;
    let log = relived(&log);
    assert!(matches!(log[place].outcome, Outcome::Recorded(_)));
    caught(&log, Offence::AcceptedBadProof, place as u64 + 1);
}

#[test]
fn it_refused_a_good_proof() {
    let (world, ..) = small();
    let (log, sequence) = changed(&log_of(&world), "attest", |command| {
        let Command::Attest { verdict, .. } = command else { panic!() };
        *verdict = Verdict::Refused;
    });
    caught(&log, Offence::RefusedGoodProof, sequence);
}

#[test]
fn it_wrote_down_another_outcome() {
    let (world, ..) = small();
    let mut log = log_of(&world);
    let place = position(&log, "attest");
    let Outcome::Recorded(records) = &mut log[place].outcome else { panic!() };
    records[0].expires_at = records[0].expires_at.plus(3600);
    caught(&log, Offence::Outcome, place as u64 + 1);
}

#[test]
fn it_made_up_an_attestation() {
    let (world, one, two, key) = small();
    let challenge = one.challenge(&world, &key).unwrap();
    // The other HSM has the key too, and can prove it; what it cannot do is sign for the first.
    let context = one.context(&world, "eu", &key, &challenge);
    let proven = two.seal(&key, context);
    let mut log = log_of(&world);
    let command = Command::Attest {
        digest: proven.digest(),
        envelope: proven.to_bytes(),
        hsm: one.id.clone(),
        enrolment: 1,
        verdict: Verdict::Proven,
    };
    let submission = Submission { salt: keywitness_circuits::Nonce([7; 32]), command };
    log.push(Entry { submission, ..log[0].clone() });
    log.last_mut().unwrap().at = world.now();
    let log = relived(&log);
    assert!(matches!(log.last().unwrap().outcome, Outcome::Recorded(_)));
    caught(&log, Offence::IdentitySignature, log.len() as u64);
}

#[test]
fn it_changed_an_identity_key_after_the_fact() {
    let (world, _, two, _) = small();
    let log = log_of(&world);
    let attested = position(&log, "attest") as u64 + 1;
    let mut swapped = log.clone();
    for entry in &mut swapped {
        if let Command::EnrolHsm { hsm, identity_key, .. } = &mut entry.submission.command {
            let key = if hsm.as_str() == "hsm-1" { [9; 32] } else { two.identity.to_bytes() };
            let key = ed25519_dalek::SigningKey::from_bytes(&key).verifying_key();
            *identity_key = keywitness_verifier::identity::IdentityKey::from_bytes(key.to_bytes()).unwrap();
        }
    }
    caught(&relived(&swapped), Offence::IdentitySignature, attested);
}

#[test]
fn it_kept_a_record_for_another_key() {
    let (world, ..) = small();
    let mut log = log_of(&world);
    let place = position(&log, "attest");
    let Outcome::Recorded(records) = &mut log[place].outcome else { panic!() };
    records[0].key.key = "other".parse().unwrap();
    caught(&log, Offence::Outcome, place as u64 + 1);
}

#[test]
fn it_swapped_the_instance_of_a_key() {
    let (world, ..) = small();
    let other = crate::service::testing::TestKey::ed25519("k", 3);
    let mut log = log_of(&world);
    for entry in &mut log {
        if let Command::EnrolKey { instances, .. } = &mut entry.submission.command {
            *instances = vec![other.request().instances[0].0.clone()];
        }
    }
    // The attestation's instance is not the enrolled one any more: the outcome that was written cannot stand.
    caught(&log, Offence::Outcome, position(&log, "attest") as u64 + 1);
}

#[test]
fn it_turned_its_clock_back() {
    let (world, ..) = small();
    let mut log = log_of(&world);
    let last = log.last_mut().unwrap();
    last.at = Timestamp(last.at.0 - 100);
    caught(&log, Offence::TimeWentBack, log.len() as u64);
}

#[test]
fn it_dated_an_attestation_forward() {
    let (world, ..) = small();
    let (mut log, place) = (log_of(&world), position(&log_of(&world), "attest"));
    // The record was made ten seconds after the proof, says the log; the outcome has the true time.
    log[place].at = log[place].at.plus(10);
    caught(&log, Offence::Outcome, place as u64 + 1);
}

#[test]
fn it_dropped_or_moved_an_entry() {
    let (world, ..) = small();
    let log = log_of(&world);
    let challenge = position(&log, "issue-challenge");
    let mut dropped = log.clone();
    dropped.remove(challenge);
    caught(&dropped, Offence::Outcome, challenge as u64 + 1);
    let mut moved = log;
    moved.swap(challenge, challenge + 1);
    caught(&moved, Offence::Outcome, challenge as u64 + 1);
}

#[test]
fn a_lie_before_another_is_the_one_that_is_told() {
    let (world, hsm, _, key) = small();
    hsm.attest(&world, "eu", &key).unwrap();
    let mut log = log_of(&world);
    let first = log.iter().position(|entry| entry.submission.command.name() == "attest").unwrap();
    let Command::Attest { envelope, digest, .. } = &mut log[first].submission.command else { panic!() };
    let mut forged = Envelope::from_bytes(envelope).unwrap();
    forged.signature[0] ^= 1;
    (*envelope, *digest) = (forged.to_bytes(), forged.digest());
    let mut log = relived(&log);
    log.last_mut().unwrap().at = Timestamp(1);
    caught(&log, Offence::IdentitySignature, first as u64 + 1);
}

#[test]
fn it_is_another_manager_or_uses_another_verifying_key() {
    use crate::audit::{Accepted, Audit, AuditError, Replayer, Tally};
    let (world, ..) = small();
    let log = log_of(&world);
    let offence = |accepted: Accepted| {
        let mut audit = Audit::new(super::checker(), Replayer::new(accepted), Tally::default());
        match audit.advance(&log) {
            Err(AuditError::Diverges(divergence)) => Some(divergence.offence),
            _ => None,
        }
    };
    let audience = world.manager.audience().clone();
    let known: Vec<Digest> = world.manager.trust_domain().statements.iter().map(|info| info.verifying_key).collect();
    let right = Accepted { audience: Some(audience.clone()), verifying_keys: known.clone() };
    assert_eq!(offence(right.clone()), None);
    let other = keywitness_verifier::identity::Audience { manager: "m2".parse().unwrap(), ..audience };
    assert_eq!(offence(Accepted { audience: Some(other), ..right.clone() }), Some(Offence::Audience));
    let fewer = known[1..].to_vec();
    assert_eq!(offence(Accepted { verifying_keys: fewer, ..right }), Some(Offence::VerifyingKey));
}

/// Whoever's credential asked for it: what a command does is looked at all the same.
#[test]
fn it_hid_a_lie_behind_somebodys_request() {
    use keywitness_verifier::wire::{CredentialRequest, Role, secret_digest};
    let (world, hsm, _, key) = small();
    let request = CredentialRequest::new("someone", Role::Operator);
    let secret = world.manager.create_credential(&crate::service::testing::Caller::in_process(), &request).unwrap();
    let by = keywitness_verifier::wire::CredentialId::of(&secret_digest(&secret.secret));
    hsm.fail(&world, "eu", &key);
    let (log, place) = changed(&log_of(&world), "attest", |command| {
        let Command::Attest { verdict, .. } = command else { panic!() };
        *verdict = Verdict::Proven;
        *command = Command::OnBehalf { by, command: Box::new(command.clone()) };
    });
    assert!(matches!(log[place as usize - 1].outcome, Outcome::Recorded(_)));
    caught(&log, Offence::AcceptedBadProof, place);
    // So is what is sealed.
    let mut log = log_of(&world);
    let seal = Command::Seal { sequence: log.len() as u64, root: Digest([1; 32]) };
    let submission = Submission {
        salt: keywitness_circuits::Nonce([7; 32]),
        command: Command::OnBehalf { by, command: Box::new(seal) },
    };
    log.push(Entry { submission, ..log.last().unwrap().clone() });
    caught(&relived(&log), Offence::StateRoot, log.len() as u64);
}

/// Archives come from strangers: what is nested deeply is refused before it takes the stack.
#[test]
fn commands_within_commands_are_not_read() {
    let by = keywitness_verifier::wire::CredentialId::of(&Digest([1; 32]));
    let mut command = Command::Restored;
    for depth in 1..8 {
        command = Command::OnBehalf { by, command: Box::new(command) };
        let bytes = postcard::to_stdvec(&command).unwrap();
        assert_eq!(postcard::from_bytes::<Command>(&bytes).is_ok(), depth <= 4, "{depth}");
    }
    let once = postcard::to_stdvec(&command).unwrap();
    let header = &once[..once.len() - postcard::to_stdvec(&Command::Restored).unwrap().len()];
    assert!(postcard::from_bytes::<Command>(&header.repeat(50_000)).is_err());
}

#[test]
fn it_took_evidence_that_is_not_good_or_refused_what_is() {
    use crate::{
        ledger::EvidenceRefusal,
        service::{testing::World, tests::evidence},
    };
    let world = World::new();
    evidence::bustle(&world);
    let log = log_of(&world);
    let refused = |entry: &Entry| matches!(entry.outcome, Outcome::Refused(_));
    let of_evidence = |entry: &Entry| matches!(entry.submission.command.bare(), Command::PresentEvidence { .. });
    let mut tried = 0;
    for (at, entry) in log.iter().enumerate().filter(|(_, entry)| of_evidence(entry)) {
        let mut lie = log.clone();
        let good = log.iter().find_map(|entry| match entry.submission.command.bare() {
            Command::PresentEvidence { verdict, .. } => verdict.found.clone().ok(),
            _ => None,
        });
        let Command::PresentEvidence { verdict, .. } = &mut lie[at].submission.command else { panic!() };
        verdict.found = match verdict.found {
            Ok(_) => Err(EvidenceRefusal { why: "no".to_owned(), measured: Some("something".to_owned()) }),
            Err(_) => Ok(good.unwrap()),
        };
        tried |= if refused(entry) { 2 } else { 1 };
        caught(&relived(&lie[..=at]), Offence::Evidence, at as u64 + 1);
    }
    assert_eq!(tried, 3);
}
