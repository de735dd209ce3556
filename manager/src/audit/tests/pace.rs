//! How fast a log is audited: `cargo test --release -p keywitness-manager pace -- --ignored --nocapture`.

use keywitness_circuits::{Envelope, codec::Canonical};

use super::{audit, checker, log_of};
use crate::{
    ledger::{Command, log::Entry},
    service::testing::{TestKey, World},
};

/// Seconds of processor time that this process has used.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in ticks of a hundredth of a second.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn spent<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let before = processor_time();
    let result = work();
    (result, processor_time() - before)
}

/// Checks each attestation's signature and proof by itself.
fn one_by_one(log: &[Entry], identity: impl Fn(&Envelope) -> keywitness_verifier::identity::IdentityKey) -> usize {
    let attested = log.iter().filter_map(|entry| match entry.submission.command.bare() {
        Command::Attest { envelope, .. } => Some(Envelope::from_bytes(envelope).unwrap()),
        _ => None,
    });
    attested
        .map(|envelope| {
            identity(&envelope).check_envelope(&envelope).unwrap();
            checker().verify(&envelope).unwrap();
        })
        .count()
}

fn pace_of(what: &str, key: &TestKey, attestations: usize) {
    let world = World::new();
    let hsms: Vec<_> = (0..20).map(|number| world.hsm(&format!("hsm-{number}"), "eu")).collect();
    hsms.iter().for_each(|hsm| hsm.enrol_key(&world, key).unwrap());
    for number in 0..attestations {
        hsms[number % hsms.len()].attest(&world, "eu", key).unwrap();
        world.advance(1);
    }
    let log = log_of(&world);
    let (tally, used) = spent(|| audit(&log).unwrap());
    assert_eq!(tally.checked(), attestations as u64);
    let identity = |envelope: &Envelope| {
        let hsm = hsms.iter().find(|hsm| hsm.id == envelope.context.hsm).unwrap();
        let key = hsm.identity.verifying_key().to_bytes();
        keywitness_verifier::identity::IdentityKey::from_bytes(key).unwrap()
    };
    let (count, alone) = spent(|| one_by_one(&log, identity));
    assert_eq!(count, attestations);
    let (entries, attestations) = (log.len() as f64, attestations as f64);
    println!(
        "{what}: {attestations} attestations in {entries} entries audited in {used:.2} s of processor time: {:.0} entries \
         and {:.0} proofs a core-second; signatures and proofs alone, one by one: {alone:.2} s, {:.0} a core-second; {:.2} \
         times",
        entries / used,
        attestations / used,
        attestations / alone,
        alone / used
    );
}

#[test]
#[ignore = "a measurement"]
fn pace() {
    pace_of("ed25519", &TestKey::ed25519("k", 1), 3_000);
    pace_of("aes-256, halo2", &TestKey::aes256("k", 1), 64);
}
