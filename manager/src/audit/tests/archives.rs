//! Archives: damaged, cut short, gone on with, exchanged.

use std::path::Path;

use keywitness_circuits::Digest;
use keywitness_verifier::log::{CompactRange, Opening, leaf_hash};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{checker, log_of, small};
use crate::{
    audit::{Accepted, Archive, ArchiveError, Commitment, Offence, Report, SAVE_EVERY, Verification, VerifyError},
    ledger::log::Entry,
};

/// A directory with an archive of a log and the auditor's progress, and what the log's checkpoint says.
struct Case {
    directory: TempDir,
    archive: Archive,
    checkpoint: Commitment,
}

fn commitment(log: &[Entry]) -> Commitment {
    let mut tree = CompactRange::default();
    for opening in openings(log, 1) {
        tree.append(leaf_hash(&opening.entry().0), |_, _| {});
    }
    Commitment { size: tree.size(), root: tree.root() }
}

/// The openings of entries, of which the first has this number.
pub(super) fn openings(log: &[Entry], first: u64) -> Vec<Opening> {
    (first..).zip(log).map(|(sequence, entry)| entry.opening(sequence).unwrap()).collect()
}

fn write(archive: &Archive, log: &[Entry]) {
    let mut appender = archive.append().unwrap();
    for opening in openings(log, appender.sequence() + 1) {
        appender.push(&opening).unwrap();
    }
    appender.flush().unwrap();
}

impl Case {
    fn new(log: &[Entry]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let archive = Archive::create(directory.path().join("archive")).unwrap();
        write(&archive, log);
        Self { directory, archive, checkpoint: commitment(log) }
    }

    fn verify(&self) -> Result<Report, VerifyError> {
        self.verify_against(self.checkpoint, Digest([1; 32]))
    }

    fn verify_against(&self, checkpoint: Commitment, anchors: Digest) -> Result<Report, VerifyError> {
        Verification { checkpoint, anchors, ..self.verification() }.run(|_| {})
    }

    fn verification(&self) -> Verification<'_> {
        Verification {
            archive: &self.archive,
            checkpoint: self.checkpoint,
            checker: checker(),
            accepted: Accepted::default(),
            anchors: Digest([1; 32]),
            progress: Some(self.directory.path().join("progress")),
            save_every: SAVE_EVERY,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.archive.openings()).unwrap()
    }

    fn put(&self, bytes: &[u8]) {
        std::fs::write(self.archive.openings(), bytes).unwrap();
    }

    fn forget(&self) {
        let _ = std::fs::remove_file(self.directory.path().join("progress"));
    }
}

#[test]
fn a_log_is_verified_and_gone_on_with() {
    let (world, hsm, _, key) = small();
    let first = log_of(&world);
    let mut case = Case::new(&first);
    let report = case.verify().unwrap();
    assert_eq!((report.resumed_after, report.tally.entries()), (0, first.len() as u64));
    // Once more: nothing is left to do, and the answer is the same.
    let again = case.verify().unwrap();
    assert_eq!((again.resumed_after, &again.tally), (first.len() as u64, &report.tally));
    hsm.attest(&world, "eu", &key).unwrap();
    let longer = log_of(&world);
    write(&case.archive, &longer[first.len()..]);
    let old = std::mem::replace(&mut case.checkpoint, commitment(&longer));
    let report = case.verify().unwrap();
    assert_eq!((report.resumed_after, report.tally.entries()), (first.len() as u64, longer.len() as u64));
    // With other anchors, everything is looked at again, and comes to the same.
    let anew = case.verify_against(case.checkpoint, Digest([2; 32])).unwrap();
    assert_eq!((anew.resumed_after, anew.tally), (0, report.tally));
    // An old checkpoint is refused by an auditor who knows a newer one.
    let refused = case.verify_against(old, Digest([1; 32])).unwrap_err();
    assert!(matches!(refused, VerifyError::OldCheckpoint { .. }), "{refused}");
}

#[test]
fn sealed_states_are_made_anew_also_where_an_audit_was_killed_before_the_seal() {
    let (world, hsm, _, key) = small();
    world.manager.seal(&crate::service::testing::Caller::in_process()).unwrap();
    hsm.attest(&world, "eu", &key).unwrap();
    world.manager.seal(&crate::service::testing::Caller::in_process()).unwrap();
    let honest = log_of(&world);
    let case = Case::new(&honest);
    assert_eq!(case.verify().unwrap().tally.seals, 2);
    for killed in 1..honest.len() {
        case.forget();
        let verification = Verification { save_every: 1, ..case.verification() };
        let part = Verification { checkpoint: commitment(&honest[..killed]), ..case.verification() };
        // The shorter log passes, whether or not it ends between a state and its seal.
        part.run(|_| {}).unwrap();
        assert_eq!(verification.run(|_| {}).unwrap().tally.seals, 2, "{killed}");
    }
    let mut lying = honest;
    let place = lying.iter().rposition(|entry| entry.submission.command.name() == "seal").unwrap();
    let crate::ledger::Command::Seal { root, .. } = &mut lying[place].submission.command else { panic!() };
    root.0[0] ^= 1;
    let case = Case::new(&lying);
    let Err(VerifyError::Diverges(divergence)) = case.verify() else { panic!() };
    assert_eq!((divergence.offence, divergence.sequence), (Offence::StateRoot, place as u64 + 1));
}

#[test]
fn a_manager_that_shows_two_logs_is_found() {
    let (world, hsm, _, key) = small();
    let first = log_of(&world);
    let case = Case::new(&first);
    case.verify().unwrap();
    hsm.attest(&world, "eu", &key).unwrap();
    let mut longer = log_of(&world);
    // Another salt: the same commands, and another log.
    longer[0].submission.salt.0[0] ^= 1;
    let other = Case::new(&longer);
    std::fs::copy(case.directory.path().join("progress"), other.directory.path().join("progress")).unwrap();
    let refused = other.verify().unwrap_err();
    assert!(matches!(refused, VerifyError::Rewritten { size } if size == first.len() as u64), "{refused}");
    other.forget();
    other.verify().unwrap();
}

#[test]
fn entries_that_the_checkpoint_does_not_commit_to_are_no_log() {
    let (world, ..) = small();
    let log = log_of(&world);
    let mut case = Case::new(&log);
    case.checkpoint.root.0[0] ^= 1;
    let Err(VerifyError::Diverges(divergence)) = case.verify() else { panic!() };
    assert_eq!(divergence.offence, Offence::LogRoot);
    case.checkpoint = commitment(&log);
    case.checkpoint.size += 1;
    assert!(matches!(case.verify(), Err(VerifyError::Incomplete { found, .. }) if found == log.len() as u64));
}

#[test]
fn an_archive_cut_anywhere_says_so_and_is_gone_on_with() {
    let (world, ..) = small();
    let log = log_of(&world);
    let case = Case::new(&log);
    let whole = case.bytes();
    for length in (0..whole.len()).step_by(37).chain([whole.len() - 1]) {
        case.forget();
        case.put(&whole[..length]);
        match case.verify().unwrap_err() {
            VerifyError::Archive(ArchiveError::Truncated(_)) | VerifyError::Incomplete { .. } => {}
            other => panic!("{other}"),
        }
        let there = case.archive.append().unwrap().sequence();
        write(&case.archive, &log[there as usize..]);
        assert_eq!(case.bytes(), whole);
    }
    case.verify().unwrap();
}

#[test]
fn an_audit_that_is_killed_at_any_point_is_gone_on_with() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let (world, hsm, _, key) = small();
    hsm.fail(&world, "eu", &key);
    let honest = log_of(&world);
    let mut lying = honest.clone();
    let last = lying.last_mut().unwrap();
    last.outcome = crate::ledger::Outcome::Done;
    for log in [honest, lying] {
        let case = Case::new(&log);
        let words = |result: Result<Report, VerifyError>| result.map(|report| report.tally).map_err(|e| e.to_string());
        let whole = words(case.verify());
        for killed in 1..=log.len() as u64 {
            case.forget();
            let verification = Verification { save_every: 1, ..case.verification() };
            let kill = |done| assert!(done < killed, "killed, as it should be");
            // Of the lying log, the last entry is found wrong before anybody is told of it.
            let _killed = catch_unwind(AssertUnwindSafe(|| verification.run(kill)));
            let resumed = verification.run(|_| {});
            if let Ok(report) = &resumed {
                assert!(report.resumed_after >= killed - 1);
            }
            assert_eq!(words(resumed), whole);
        }
    }
}

#[test]
fn damaged_progress_is_no_progress() {
    let (world, ..) = small();
    let case = Case::new(&log_of(&world));
    let tally = case.verify().unwrap().tally;
    let path = case.directory.path().join("progress");
    let whole = std::fs::read(&path).unwrap();
    let damage = |place: usize, path: &Path| {
        let mut bytes = whole.clone();
        bytes[place] ^= 4;
        std::fs::write(path, bytes).unwrap();
    };
    for place in (0..whole.len()).step_by(101) {
        damage(place, &path);
        let report = case.verify().unwrap();
        assert_eq!((report.resumed_after, &report.tally), (0, &tally));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// The archive is damaged, or the damage is made up for: neither passes.
    #[test]
    fn a_flipped_bit_anywhere_is_caught(place in any::<prop::sample::Index>(), bit in 0..8_u8, mended in any::<bool>()) {
        use std::sync::OnceLock;
        static CASE: OnceLock<(Vec<Entry>, Vec<u8>)> = OnceLock::new();
        let (log, whole) = CASE.get_or_init(|| {
            let log = log_of(&small().0);
            (log.clone(), Case::new(&log).bytes())
        });
        let case = Case::new(&[]);
        let checkpoint = commitment(log);
        if mended {
            let mut lies = openings(log, 1);
            let number = place.index(lies.len());
            let mut bytes = lies[number].to_bytes();
            let length = bytes.len();
            bytes[place.index(length)] ^= 1 << bit;
            let lie = Opening::read(&bytes).ok().filter(|(_, rest)| rest.is_empty());
            prop_assume!(lie.is_some());
            lies[number] = lie.unwrap().0;
            let mut appender = case.archive.append().unwrap();
            let refused = lies.iter().try_for_each(|lie| appender.push(lie)).is_err();
            appender.flush().unwrap();
            drop(appender);
            prop_assert!(refused || case.verify_against(checkpoint, Digest([1; 32])).is_err());
        } else {
            let mut bytes = whole.clone();
            bytes[place.index(whole.len())] ^= 1 << bit;
            case.put(&bytes);
            prop_assert!(case.verify_against(checkpoint, Digest([1; 32])).is_err());
        }
    }
}
