//! Honest logs pass, and each way to lie is found where it was told.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod archives;
mod bundles;
pub(crate) mod lies;
mod pace;
mod seals;

use std::sync::OnceLock;

use super::{Accepted, Audit, AuditError, Checker, Divergence, Replayer, Tally};
use crate::{
    ledger::log::{Entry, entries},
    service::{
        testing::{TestHsm, TestKey, World},
        tests::{many, sharing, statements},
    },
};

pub(crate) fn checker() -> &'static Checker {
    static CHECKER: OnceLock<Checker> = OnceLock::new();
    CHECKER.get_or_init(|| Checker::new([]).unwrap())
}

pub(crate) fn log_of(world: &World) -> Vec<Entry> {
    entries(world.store.view().unwrap().as_ref(), 0, usize::MAX).unwrap()
}

/// Audits a log from its beginning.
pub(crate) fn audit(log: &[Entry]) -> Result<Tally, Divergence> {
    let mut audit = Audit::new(checker(), Replayer::new(Accepted::default()), Tally::default());
    match audit.advance(log).and_then(|()| audit.settle()) {
        Ok(()) => Ok(audit.tally().clone()),
        Err(AuditError::Diverges(divergence)) => Err(*divergence),
        Err(error) => panic!("{error}"),
    }
}

/// Two HSMs of a cluster, a key that both have, and an attestation of it.
pub(crate) fn small() -> (World, TestHsm, TestHsm, TestKey) {
    let world = World::new();
    let (one, two) = (world.hsm("hsm-1", "eu"), world.hsm("hsm-2", "eu"));
    let key = TestKey::ed25519("k", 1);
    for hsm in [&one, &two] {
        hsm.enrol_key(&world, &key).unwrap();
    }
    one.attest(&world, "eu", &key).unwrap();
    world.advance(1);
    (world, one, two, key)
}

#[test]
fn an_honest_log_passes_whatever_is_in_it() {
    let world = sharing::bustle(World::new());
    statements::bustle(&world);
    many::bustle(&world);
    let (world_2, hsm, ..) = small();
    hsm.fail(&world_2, "eu", &TestKey::ed25519("k", 1));
    for world in [world, world_2] {
        let log = log_of(&world);
        let tally = audit(&log).unwrap();
        assert_eq!((tally.entries(), tally.unchecked()), (log.len() as u64, 0));
        assert!(tally.checked() > 0 && tally.signatures >= tally.checked());
        assert!(tally.unknown_keys.is_empty());
    }
}

#[test]
fn an_audit_in_steps_counts_as_one_at_once() {
    let (world, hsm, _, key) = small();
    hsm.fail(&world, "eu", &key);
    let log = log_of(&world);
    let whole = audit(&log).unwrap();
    let mut stepwise = Audit::new(checker(), Replayer::new(Accepted::default()), Tally::default());
    for entry in &log {
        stepwise.advance(std::slice::from_ref(entry)).unwrap();
    }
    stepwise.settle().unwrap();
    assert_eq!(*stepwise.tally(), whole);
}
