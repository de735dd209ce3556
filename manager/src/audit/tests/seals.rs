//! Audits that begin with a sealed state, since the openings before it are gone.

use keywitness_circuits::Digest;
use keywitness_verifier::{
    log::{Checkpoint, StateSeal},
    wire::ConsistencyProof,
};
use tempfile::TempDir;

use super::{archives::openings, checker, log_of, small};
use crate::{
    audit::{Accepted, Archive, Commitment, Offence, Report, SAVE_EVERY, Verification, VerifyError},
    ledger::{
        Command, Memory,
        log::Entry,
        seal::{read_snapshot, write_snapshot},
        tables::{Rows, Table, Tables},
    },
    service::testing::{Caller, TestHsm, TestKey, World},
};

fn me() -> Caller {
    Caller::in_process()
}

fn commitment(world: &World) -> Commitment {
    let checkpoint: Checkpoint = world.manager.checkpoint().unwrap().text().parse().unwrap();
    Commitment { size: checkpoint.size, root: checkpoint.root }
}

fn snapshot(world: &World, sequence: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let part = world.manager.snapshot(&me(), sequence, bytes.len() as u64).unwrap();
        if part.is_empty() {
            return bytes;
        }
        bytes.extend(part);
    }
}

/// A log whose first part was deleted behind a seal.
struct Pruned {
    world: World,
    hsm: TestHsm,
    key: TestKey,
    seal: StateSeal,
    /// The whole log, as it was before.
    whole: Vec<Entry>,
}

impl Pruned {
    fn new() -> Self {
        let (world, hsm, _, key) = small();
        let seal = world.manager.seal(&me()).unwrap();
        hsm.fail(&world, "eu", &key);
        hsm.attest(&world, "eu", &key).unwrap();
        world.manager.seal(&me()).unwrap();
        hsm.attest(&world, "eu", &key).unwrap();
        let mut whole = log_of(&world);
        world.manager.prune(&me(), seal.sequence).unwrap();
        whole.extend(log_of(&world).split_off(whole.len() - seal.sequence as usize));
        Self { world, hsm, key, seal, whole }
    }

    fn rest(&self) -> Vec<Entry> {
        let rest = log_of(&self.world);
        assert_eq!(rest[..self.whole.len() - self.seal.sequence as usize], self.whole[self.seal.sequence as usize..]);
        rest
    }

    fn case(&self) -> Case {
        Case::new(&snapshot(&self.world, self.seal.sequence), &self.rest(), commitment(&self.world))
    }
}

/// An auditor's archive and progress.
struct Case {
    directory: TempDir,
    archive: Archive,
    checkpoint: Commitment,
}

impl Case {
    fn new(snapshot: &[u8], rest: &[Entry], checkpoint: Commitment) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let archive = Archive::create(directory.path().join("archive")).unwrap();
        if !snapshot.is_empty() {
            std::fs::write(archive.snapshot(), snapshot).unwrap();
        }
        let case = Self { directory, archive, checkpoint };
        // What is no snapshot takes no openings either.
        if case.archive.base().is_ok() {
            case.append(rest);
        }
        case
    }

    fn append(&self, rest: &[Entry]) {
        let mut appender = self.archive.append().unwrap();
        for opening in openings(rest, appender.sequence() + 1) {
            appender.push(&opening).unwrap();
        }
        appender.flush().unwrap();
    }

    fn verify(&self) -> Result<Report, VerifyError> {
        self.verify_as(Accepted::default())
    }

    fn verify_as(&self, accepted: Accepted) -> Result<Report, VerifyError> {
        let verification = Verification {
            archive: &self.archive,
            checkpoint: self.checkpoint,
            checker: checker(),
            accepted,
            anchors: Digest([1; 32]),
            progress: Some(self.directory.path().join("progress")),
            save_every: SAVE_EVERY,
        };
        verification.run(|_| {})
    }
}

#[test]
fn an_audit_begins_with_the_seal_and_says_so() {
    let pruned = Pruned::new();
    let mut case = pruned.case();
    let report = case.verify().unwrap();
    let from = report.from_seal.unwrap();
    assert_eq!((from.sequence, from.root), (pruned.seal.sequence, pruned.seal.root));
    let Command::Seal { sequence, root } = *pruned.whole[from.entry as usize - 1].submission.command.bare() else {
        panic!()
    };
    assert_eq!((sequence, root), (from.sequence, from.root));
    let rest = case.checkpoint.size - pruned.seal.sequence;
    assert_eq!((report.resumed_after, report.tally.entries(), report.tally.seals), (0, rest, 2));
    assert_eq!((report.tally.checked(), report.tally.unchecked()), (3, 0));
    // It is gone on with, like any other.
    pruned.hsm.attest(&pruned.world, "eu", &pruned.key).unwrap();
    let longer = pruned.rest();
    case.append(&longer[rest as usize..]);
    let before = std::mem::replace(&mut case.checkpoint, commitment(&pruned.world)).size;
    let again = case.verify().unwrap();
    assert_eq!((again.resumed_after, again.from_seal), (before, Some(from)));
    assert_eq!(again.tally.entries(), longer.len() as u64);
}

#[test]
fn a_divergence_after_the_seal_has_its_own_number() {
    let pruned = Pruned::new();
    let mut lying = pruned.rest();
    let place = lying.iter().rposition(|entry| entry.submission.command.name() == "attest").unwrap();
    lying[place].outcome = crate::ledger::Outcome::Done;
    let case = Case::new(&snapshot(&pruned.world, pruned.seal.sequence), &lying, commitment(&pruned.world));
    let Err(VerifyError::Diverges(divergence)) = case.verify() else { panic!() };
    let expected = (Offence::Outcome, pruned.seal.sequence + place as u64 + 1);
    assert_eq!((divergence.offence, divergence.sequence), expected);
}

/// Removes one row, and makes up for it in the checksum.
fn mended(snapshot: &[u8], table: Table) -> Vec<u8> {
    let mut tables = Memory::default();
    read_snapshot(snapshot, &mut tables).unwrap();
    let (key, _) = tables.range(table, &[], &[], 1).unwrap().remove(0);
    tables.remove(table, &key).unwrap();
    let mut bytes = Vec::new();
    write_snapshot(&tables, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_snapshot_that_was_tampered_with_is_refused() {
    let pruned = Pruned::new();
    let (whole, rest, checkpoint) =
        (snapshot(&pruned.world, pruned.seal.sequence), pruned.rest(), commitment(&pruned.world));
    for place in (0..whole.len()).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        let why = Case::new(&damaged, &rest, checkpoint).verify().unwrap_err();
        assert!(matches!(why, VerifyError::Snapshot(_) | VerifyError::Archive(_)), "{place}: {why}");
    }
    for length in [0, 10, 28, whole.len() / 2, whole.len() - 1] {
        assert!(Case::new(&whole[..length.max(1)], &rest, checkpoint).verify().is_err(), "{length}");
    }
    // A state in which somebody was never enrolled, or nothing stands against anybody.
    for table in [Table::Hsms, Table::Records] {
        let case = Case::new(&mended(&whole, table), &rest, checkpoint);
        let why = case.verify().unwrap_err();
        let VerifyError::OtherState { sequence, expected, .. } = why else { panic!("{why}") };
        assert_eq!((sequence, expected), (pruned.seal.sequence, pruned.seal.root));
        assert!(why.to_string().contains("tampered with"), "{why}");
    }
    // The seal is made up to go with it: then the log is another one.
    let forged = mended(&whole, Table::Records);
    let root = read_snapshot(forged.as_slice(), &mut Memory::default()).unwrap().root;
    let mut lying = rest.clone();
    let seal = lying.iter_mut().find(|entry| entry.submission.command.name() == "seal").unwrap();
    seal.submission.command = Command::Seal { sequence: pruned.seal.sequence, root };
    let Err(VerifyError::Diverges(_)) = Case::new(&forged, &lying, checkpoint).verify() else { panic!() };
}

#[test]
fn a_seal_of_another_log_is_refused() {
    let (ours, theirs) = (Pruned::new(), Pruned::new());
    let (rest, checkpoint) = (ours.rest(), commitment(&ours.world));
    let why = Case::new(&snapshot(&theirs.world, theirs.seal.sequence), &rest, checkpoint).verify().unwrap_err();
    assert!(matches!(why, VerifyError::OtherState { .. }), "{why}");
    // A state that this log seals nowhere.
    theirs.world.join_token("eu", None);
    let other = theirs.world.manager.seal(&me()).unwrap();
    let theirs = snapshot(&theirs.world, other.sequence);
    let rest = &rest[..0];
    let checkpoint = Commitment { size: other.sequence, ..checkpoint };
    let why = Case::new(&theirs, rest, checkpoint).verify().unwrap_err();
    assert!(matches!(why, VerifyError::Unsealed { sequence, .. } if sequence == other.sequence), "{why}");
}

#[test]
fn a_seal_that_the_checkpoint_does_not_commit_to_yet_is_no_beginning() {
    let pruned = Pruned::new();
    let mut case = pruned.case();
    case.checkpoint.size = pruned.seal.sequence;
    assert!(matches!(case.verify(), Err(VerifyError::Unsealed { .. })));
}

#[test]
fn the_sealed_configuration_is_held_against_the_anchors() {
    let pruned = Pruned::new();
    let case = pruned.case();
    let audience = pruned.world.manager.audience().clone();
    let right = Accepted { audience: Some(audience.clone()), ..Accepted::default() };
    case.verify_as(right.clone()).unwrap();
    let other = keywitness_verifier::identity::Audience { manager: "m2".parse().unwrap(), ..audience };
    let case = pruned.case();
    for (accepted, offence) in [
        (Accepted { audience: Some(other), ..right.clone() }, Offence::Audience),
        (Accepted { verifying_keys: vec![Digest([9; 32])], ..right }, Offence::VerifyingKey),
    ] {
        let Err(VerifyError::Diverges(divergence)) = case.verify_as(accepted) else { panic!() };
        assert_eq!((divergence.offence, divergence.sequence), (offence, pruned.seal.sequence));
    }
}

/// Whoever audited before knows a tree: the log that begins with a seal must be the same.
#[test]
fn an_audit_from_a_seal_is_linked_with_the_one_before() {
    let (world, hsm, _, key) = small();
    let first = Case::new(&[], &log_of(&world), commitment(&world));
    first.verify().unwrap();
    let known = first.checkpoint;
    hsm.attest(&world, "eu", &key).unwrap();
    let seal = world.manager.seal(&me()).unwrap();
    hsm.attest(&world, "eu", &key).unwrap();
    world.manager.prune(&me(), seal.sequence).unwrap();
    let case = Case::new(&snapshot(&world, seal.sequence), &log_of(&world), commitment(&world));
    let progress = case.directory.path().join("progress");
    std::fs::copy(first.directory.path().join("progress"), &progress).unwrap();
    let link = |proof: &ConsistencyProof| {
        std::fs::write(case.archive.consistency(), serde_json::to_vec(proof).unwrap()).unwrap();
        case.verify()
    };
    assert!(matches!(case.verify(), Err(VerifyError::Unlinked { before, .. }) if before == known.size));
    let right = world.manager.consistency_proof(known.size, case.checkpoint.size).unwrap();
    let other = world.manager.consistency_proof(known.size - 1, case.checkpoint.size).unwrap();
    assert!(matches!(link(&other), Err(VerifyError::Unlinked { .. })));
    let mut wrong = right.clone();
    wrong.hashes[0].0[0] ^= 1;
    assert!(matches!(link(&wrong), Err(VerifyError::Rewritten { size }) if size == known.size));
    link(&right).unwrap();
    // The next one is linked by what was verified here.
    std::fs::remove_file(case.archive.consistency()).unwrap();
    assert_eq!(case.verify().unwrap().resumed_after, case.checkpoint.size);
}
