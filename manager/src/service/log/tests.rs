#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use keywitness_circuits::Timestamp;
use keywitness_verifier::{
    log::{
        Algorithm, Checkpoint, CheckpointPolicy, Note, NoteKey, TlogProof, VerifiedCheckpoint, leaf_hash, read_page,
        verify_consistency, verify_inclusion,
    },
    wire::ProblemKind,
};

use crate::{
    Config,
    ledger::{
        Memory,
        log::{Entry, execute},
        seal::{read_snapshot, state_root},
        state::State,
    },
    service::{
        access::Caller,
        testing::{World, refused},
    },
    signer,
};

fn witness(seed: u8) -> NoteKey {
    NoteKey::new(&format!("w{seed}.example"), Algorithm::CosignatureV1, &[seed; 32]).unwrap()
}

fn me() -> Caller {
    Caller::in_process()
}

fn grow(world: &World, to: u64) {
    while log_size(world) < to {
        world.join_token("eu", None);
    }
}

fn log_size(world: &World) -> u64 {
    State(world.store.view().unwrap().as_ref()).head().unwrap().sequence
}

fn verified(world: &World, note: &Note) -> VerifiedCheckpoint {
    let policy = CheckpointPolicy::log_alone(world.manager.log_key().log.parse().unwrap()).unwrap();
    policy.verify(note).unwrap()
}

#[test]
fn every_entry_is_proven_under_a_checkpoint_that_extends_the_one_before() {
    let world = World::new();
    let mut before: Option<VerifiedCheckpoint> = None;
    for size in [5, 20, 300] {
        grow(&world, size);
        let note = world.manager.checkpoint().unwrap();
        let now = verified(&world, &note);
        assert_eq!(now.checkpoint().size, size);
        // The same size is the same note.
        assert_eq!(world.manager.checkpoint().unwrap(), note);
        if let Some(before) = before {
            let proof = world.manager.consistency_proof(before.checkpoint().size, size).unwrap();
            verify_consistency(before.tree(), now.tree(), &proof.hashes).unwrap();
        }
        let openings = read_page(&world.manager.openings(&me(), 0, usize::MAX).unwrap(), 0).unwrap();
        for opening in openings {
            let proof = world.manager.inclusion_proof(opening.sequence - 1, Some(size)).unwrap();
            assert_eq!(proof.entry, opening.entry());
            verify_inclusion(&leaf_hash(&proof.entry.0), proof.index, now.tree(), &proof.hashes).unwrap();
        }
        let proof = world.manager.inclusion_proof(2, None).unwrap();
        let travelling = TlogProof { extra: None, index: 2, hashes: proof.hashes, checkpoint: note };
        let text = travelling.to_string();
        let policy = CheckpointPolicy::log_alone(world.manager.log_key().log.parse().unwrap()).unwrap();
        text.parse::<TlogProof>().unwrap().verify(&policy, &proof.entry.0).unwrap();
        before = Some(now);
    }
    refused(world.manager.inclusion_proof(300, None), ProblemKind::NotFound);
    refused(world.manager.inclusion_proof(0, Some(301)), ProblemKind::NotFound);
    refused(world.manager.consistency_proof(2, 1), ProblemKind::NotFound);
}

#[test]
fn tiles_are_what_proofs_are_made_of() {
    let world = World::new();
    grow(&world, 517);
    let tile = |path: &str| world.manager.tile(&path.parse().unwrap());
    let (leaves, entries, above) = (tile("0/001").unwrap(), tile("entries/001").unwrap(), tile("1/000.p/2").unwrap());
    assert_eq!((leaves.len(), entries.len(), above.len()), (256 * 32, 256 * 34, 64));
    let mut range = keywitness_verifier::log::CompactRange::default();
    for (leaf, entry) in leaves.chunks(32).zip(entries.chunks(34)) {
        assert_eq!(entry[..2], [0, 32]);
        let hash = leaf_hash(&entry[2..]);
        assert_eq!(hash.0, leaf);
        range.append(hash, |_, _| {});
    }
    assert_eq!(range.root().0, above[32..]);
    assert_eq!(tile("0/002.p/5").unwrap().len(), 5 * 32);
    assert_eq!(tile("0/002.p/4").unwrap(), tile("0/002.p/5").unwrap()[..4 * 32]);
    for missing in ["0/002", "0/002.p/6", "1/000", "2/000.p/1", "63/000.p/1", "entries/003.p/1"] {
        refused(tile(missing), ProblemKind::NotFound);
    }
}

#[test]
fn cosignatures_are_checked_kept_and_served_by_their_number() {
    let (one, two) = (witness(1), witness(2));
    let world = World::with_config(|config| {
        config.witnesses = vec![one.verifier().clone(), two.verifier().clone()];
    });
    let cosign = |note: &Note, keys: &[&NoteKey]| {
        let mut note = note.clone();
        keys.iter().for_each(|key| note.add(key.sign(note.text(), Timestamp(5))));
        world.manager.cosign(&note.to_string())
    };
    refused(world.manager.cosigned(1), ProblemKind::NotFound);
    let first = world.manager.checkpoint().unwrap();
    refused(cosign(&first, &[]), ProblemKind::Malformed);
    refused(cosign(&first, &[&witness(3)]), ProblemKind::Malformed);
    cosign(&first, &[&one, &witness(3)]).unwrap();
    cosign(&first, &[&two]).unwrap();
    grow(&world, 9);
    let second = world.manager.checkpoint().unwrap();
    cosign(&second, &[&one]).unwrap();
    // What the log did not sign is refused, be it cosigned or not.
    let mut forged: Checkpoint = second.text().parse().unwrap();
    forged.size += 1;
    refused(cosign(&Note::new(forged.to_string()).unwrap(), &[&one]), ProblemKind::Malformed);
    refused(world.manager.cosign("noise"), ProblemKind::Malformed);
    let world = world.reopen();
    assert_eq!(world.manager.cosigned(1).unwrap().text(), second.text());
    let both = world.manager.cosigned(2).unwrap();
    assert_eq!(both.text(), first.text());
    assert_eq!(both.signatures().len(), 3, "the stranger's is left out");
    refused(world.manager.cosigned(3), ProblemKind::NotFound);
}

#[test]
fn proofs_outlive_deleted_openings_and_a_replay_begins_with_the_seal() {
    let world = World::on_disk();
    let hsm = world.hsm("hsm-1", "eu");
    grow(&world, 300);
    refused(world.manager.prune(&me(), 1), ProblemKind::Malformed);
    let seal = world.manager.seal(&me()).unwrap();
    // The refusal is a command too.
    assert_eq!(seal.sequence, 301);
    refused(world.manager.prune(&me(), 302), ProblemKind::Malformed);
    // Sealed again at once, it is of a later command.
    world.revoke_hsm(&hsm);
    assert!(world.manager.seal(&me()).unwrap().sequence > seal.sequence);
    assert_eq!(world.manager.prune(&me(), 301).unwrap(), 301);
    let world = world.reopen();
    let now = verified(&world, &world.manager.checkpoint().unwrap());
    for index in [0, 70, 299, 300] {
        let proof = world.manager.inclusion_proof(index, Some(now.checkpoint().size)).unwrap();
        verify_inclusion(&leaf_hash(&proof.entry.0), index, now.tree(), &proof.hashes).unwrap();
    }
    refused(world.manager.openings(&me(), 300, 10), ProblemKind::NotFound);
    // From the snapshot on, the rest is replayed to the very root that the checkpoint has.
    let mut snapshot = Vec::new();
    loop {
        let part = world.manager.snapshot(&me(), seal.sequence, snapshot.len() as u64).unwrap();
        if part.is_empty() {
            break;
        }
        snapshot.extend(part);
    }
    assert!(world.manager.snapshot(&me(), seal.sequence, u64::MAX).unwrap().is_empty(), "nothing comes after the end");
    let mut memory = Memory::default();
    assert_eq!(read_snapshot(snapshot.as_slice(), &mut memory).unwrap(), seal);
    assert_eq!(state_root(&memory).unwrap(), seal);
    let openings = read_page(&world.manager.openings(&me(), 301, 4096).unwrap(), 301).unwrap();
    assert!(openings.len() >= 4);
    for opening in &openings {
        let entry = Entry::try_from(opening).unwrap();
        let (outcome, _) = execute(&mut memory, entry.submission, entry.at).unwrap();
        assert_eq!(outcome, entry.outcome);
    }
    let range = crate::ledger::merkle::Tree(&memory).range().unwrap();
    assert_eq!((range.size(), range.root()), (now.checkpoint().size, now.checkpoint().root));
    assert_eq!(state_root(&memory).unwrap(), state_root(world.store.view().unwrap().as_ref()).unwrap());
    // A snapshot that was tampered with is of no use.
    for at in [0, 25, snapshot.len() / 2, snapshot.len() - 1] {
        let mut tampered = snapshot.clone();
        tampered[at] ^= 1;
        let read = read_snapshot(tampered.as_slice(), &mut Memory::default());
        assert!(read.is_err(), "{at}");
    }
    assert!(read_snapshot(&snapshot[..snapshot.len() - 33], &mut Memory::default()).is_err());
}

#[test]
fn the_configuration_says_when_to_seal_and_what_to_delete() {
    let world = World::with_config(|config| {
        (config.seal_interval, config.seal_commands, config.opening_retention) = (3600, 50, 86_400);
    });
    let seals = || world.manager.seals(&me()).unwrap();
    grow(&world, 10);
    world.manager.keep_log().unwrap();
    assert_eq!((seals().seals.len(), seals().seals[0].sequence), (1, 10));
    // Nothing happened since.
    world.advance(90_000);
    world.manager.keep_log().unwrap();
    // Old enough by now, its openings went.
    assert_eq!((seals().seals.len(), seals().deleted_through), (1, 10));
    grow(&world, 70);
    world.manager.keep_log().unwrap();
    assert_eq!((seals().seals.len(), seals().deleted_through), (2, 10));
    let checkpoint = verified(&world, &world.manager.checkpoint().unwrap());
    assert_eq!(checkpoint.checkpoint().state.unwrap().sequence, 70);
    for size in [72, 73, 74, 75, 76] {
        grow(&world, size);
        world.manager.seal(&me()).unwrap();
    }
    let kept: Vec<_> = seals().seals.iter().map(|seal| seal.snapshot).collect();
    assert_eq!(kept, [true, false, false, false, true, true, true]);
    refused(World::new().manager.retain(&me()), ProblemKind::Malformed);
}

/// Data that was restored from an old copy finds no signature.
#[test]
fn a_log_that_went_back_is_not_signed() {
    let world = World::on_disk();
    grow(&world, 5);
    let file = world.directory.path().join(crate::store::FILE);
    let copy = world.directory.path().join("copy");
    std::fs::copy(&file, &copy).unwrap();
    grow(&world, 7);
    world.manager.checkpoint().unwrap();
    let restored = tempfile::tempdir().unwrap();
    std::fs::copy(&copy, restored.path().join(crate::store::FILE)).unwrap();
    for name in [signer::LOG_FILE, signer::NEWEST, crate::OPERATOR_CREDENTIAL] {
        std::fs::copy(world.directory.path().join(name), restored.path().join(name)).unwrap();
    }
    let config = Config { data_dir: restored.path().to_owned(), ..world.manager.config().clone() };
    let clock = std::sync::Arc::new(crate::SystemClock);
    let manager = crate::Manager::open(config, crate::service::testing::parameters(), clock).unwrap();
    let fails = |readiness: keywitness_verifier::wire::Readiness| {
        let failed: Vec<_> = readiness.checks.into_iter().filter(|check| !check.ok).map(|check| check.name).collect();
        failed
    };
    assert_eq!(fails(manager.readiness()), ["log"]);
    refused(manager.checkpoint(), ProblemKind::Internal);
    assert_eq!(fails(manager.readiness()), ["log"]);
    assert!(world.manager.readiness().ready);
}

#[test]
fn whoever_asks_for_much_at_once_is_soon_told_to_wait() {
    use keywitness_verifier::{
        bundle::BundleRequest,
        wire::{CredentialRequest, Role},
    };
    type Ask = fn(&World, &Caller, u64) -> Result<(), keywitness_verifier::wire::Problem>;
    let world = World::with_config(|config| config.limits.overview = crate::limits::Budget::new(3, 1));
    grow(&world, 5);
    let seal = world.manager.seal(&me()).unwrap();
    let asks: [Ask; 3] = [
        |world, caller, _| world.manager.openings(caller, 0, 10).map(drop),
        |world, caller, sequence| world.manager.snapshot(caller, sequence, 0).map(drop),
        |world, caller, _| {
            let request = BundleRequest { token: "x.y.z".to_owned(), cosignatures: 0 };
            let answer = world.manager.bundle(caller, &request);
            assert!(answer.is_err());
            answer.map(drop).or_else(|problem| match problem.kind() {
                Some(ProblemKind::Malformed) => Ok(()),
                _ => Err(problem),
            })
        },
    ];
    for ask in asks {
        // A caller of its own for each: they do not share a budget.
        let made = world.manager.create_credential(&me(), &CredentialRequest::new("auditor", Role::Auditor)).unwrap();
        let caller = world.manager.authorise(&made.secret, &[Role::Auditor]).unwrap();
        for _ in 0..3 {
            ask(&world, &caller, seal.sequence).unwrap();
        }
        let problem = refused(ask(&world, &caller, seal.sequence), ProblemKind::TooManyRequests);
        assert!(problem.retry_after.is_some());
    }
}
