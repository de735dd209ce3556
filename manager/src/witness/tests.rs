//! A witness over managers in this process.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use keywitness_verifier::{
    log::{Algorithm, read_page},
    wire::RevocationTarget,
};

use super::*;
use crate::{
    service::{
        access::Caller,
        testing::{TestKey, World},
    },
    store,
};

struct Direct<'a>(&'a crate::Manager);

fn words<T>(result: Result<T, keywitness_verifier::wire::Problem>) -> Result<T, String> {
    result.map_err(|problem| problem.to_string())
}

impl LogSource for Direct<'_> {
    fn checkpoint(&self) -> Result<Note, String> {
        words(self.0.checkpoint())
    }
    fn cosigned(&self) -> Result<Option<Note>, String> {
        Ok(self.0.cosigned(1).ok())
    }
    fn consistency(&self, from: u64, to: u64) -> Result<Vec<Digest>, String> {
        words(self.0.consistency_proof(from, to)).map(|proof| proof.hashes)
    }
    fn openings(&self, after: u64) -> Result<Vec<Opening>, String> {
        let page = words(self.0.openings(&Caller::in_process(), after, 7))?;
        read_page(&page, after).map_err(|error| error.to_string())
    }
    fn seals(&self) -> Result<Seals, String> {
        words(self.0.seals(&Caller::in_process()))
    }
    fn cosign(&self, note: &Note) -> Result<(), String> {
        words(self.0.cosign(&note.to_string()))
    }
}

fn key(seed: u8) -> NoteKey {
    NoteKey::new(&format!("w{seed}.example"), Algorithm::CosignatureV1, &[seed; 32]).unwrap()
}

fn witness(world: &World, seed: u8, directory: &std::path::Path) -> Witness {
    Witness {
        key: key(seed),
        policy: CheckpointPolicy::log_alone(world.manager.log_key().log.parse().unwrap()).unwrap(),
        directory: directory.to_owned(),
        checker: Checker::new([]).unwrap(),
        accepted: Accepted::default(),
    }
}

#[test]
fn witnesses_follow_and_meet_on_one_checkpoint() {
    let world =
        World::with_config(|config| config.witnesses = [1, 2].map(|seed| key(seed).verifier().clone()).to_vec());
    let (hsm, secret) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
    hsm.enrol_key(&world, &secret).unwrap();
    hsm.attest(&world, "eu", &secret).unwrap();
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, two) = (witness(&world, 1, homes[0].path()), witness(&world, 2, homes[1].path()));
    let source = Direct(&world.manager);
    let first = one.round(&source, world.now()).unwrap();
    world.manager.seal(&Caller::in_process()).unwrap();
    world.revoke(RevocationTarget::Hsm(hsm.id.clone()));
    // The second comes later, and cosigns the first one's checkpoint on its way.
    let second = two.round(&source, world.now()).unwrap();
    assert!(second.size > first.size && second.state.is_some());
    assert_eq!(world.manager.cosigned(2).unwrap().text(), first.to_string());
    assert_eq!(one.round(&source, world.now()).unwrap(), second);
    assert_eq!(world.manager.cosigned(2).unwrap().text(), second.to_string());
}

/// Two managers over copies of one directory, key and all: each signs a log of its own.
#[test]
fn a_manager_that_forks_is_caught_with_evidence() {
    let world = World::on_disk();
    world.join_token("eu", None);
    let copied = tempfile::tempdir().unwrap();
    for name in [store::FILE, crate::signer::LOG_FILE, crate::signer::NEWEST, crate::OPERATOR_CREDENTIAL] {
        std::fs::copy(world.directory.path().join(name), copied.path().join(name)).unwrap();
    }
    let config = crate::Config { data_dir: copied.path().to_owned(), ..world.manager.config().clone() };
    let clock = std::sync::Arc::new(crate::SystemClock);
    let other = crate::Manager::open(config, crate::service::testing::parameters(), clock).unwrap();
    let home = tempfile::tempdir().unwrap();
    let witness = witness(&world, 1, home.path());
    // This manager takes no cosignatures: the checkpoint is kept all the same.
    let refused = witness.round(&Direct(&world.manager), Timestamp(1));
    assert!(matches!(refused, Err(WitnessError::Source(_))), "{refused:?}");
    // The copy goes on with the same log, first by what it was opened with.
    let longer = witness.round(&Direct(&other), Timestamp(2));
    assert!(matches!(longer, Err(WitnessError::Source(_))), "the same log is no fork: {longer:?}");
    // Then the first one differs, be it shorter, of the same length or longer.
    for _ in 0..3 {
        let caught = witness.round(&Direct(&world.manager), Timestamp(4));
        let Err(WitnessError::Forked { evidence, .. }) = caught else { panic!("{caught:?}") };
        let evidence = std::fs::read_to_string(evidence).unwrap();
        assert_eq!(evidence.matches("acme.example/m1\n").count(), 2, "{evidence}");
        world.join_token("us", None);
    }
    // What it was shown did not change what it knows.
    let same = witness.round(&Direct(&other), Timestamp(5));
    assert!(matches!(same, Err(WitnessError::Source(_))), "{same:?}");
}
