//! How fast a log is audited: `cargo test --release -p keywitness-manager pace -- --ignored --nocapture`.

use std::time::Instant;

use super::{audit, log_of};
use crate::service::testing::{TestKey, World};

/// Seconds of processor time that this process has used.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in ticks of a hundredth of a second.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[test]
#[ignore = "a measurement"]
fn pace() {
    const ATTESTATIONS: usize = 3_000;
    let world = World::new();
    let hsms: Vec<_> = (0..20).map(|number| world.hsm(&format!("hsm-{number}"), "eu")).collect();
    let key = TestKey::ed25519("k", 1);
    hsms.iter().for_each(|hsm| hsm.enrol_key(&world, &key).unwrap());
    for number in 0..ATTESTATIONS {
        hsms[number % hsms.len()].attest(&world, "eu", &key).unwrap();
        world.advance(1);
    }
    let log = log_of(&world);
    let (started, before) = (Instant::now(), processor_time());
    let tally = audit(&log).unwrap();
    let (wall, used) = (started.elapsed().as_secs_f64(), processor_time() - before);
    assert_eq!(tally.checked(), ATTESTATIONS as u64);
    println!(
        "{ATTESTATIONS} attestations, {} entries: {wall:.2} s, {used:.2} s of processor time, {:.0} attestations per core-second",
        log.len(),
        ATTESTATIONS as f64 / used
    );
}
