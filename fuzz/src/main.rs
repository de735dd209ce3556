//! Coverage-guided fuzzing of everything that reads what a stranger sent: one program, many targets.
//!
//! `KEYWITNESS_FUZZ_TARGET` names the target; `list` prints them all, and `seeds` makes what they begin with.
//! `KEYWITNESS_FUZZ_DIR` is where that is. Every other argument is libFuzzer's. `fuzz/run` drives it.
//!
//! A target panics where a property is broken; libFuzzer keeps the input that did it.
#![no_main]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "here a panic is a finding")]

mod custody;
mod decoders;
mod evidence;
mod log;
mod proofs;
mod secrets;
mod tokens;
mod world;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use world::World;

/// A property of one input.
type Property = Box<dyn Fn(&[u8]) + Send + Sync>;

/// Something that reads bytes.
struct Target {
    name: String,
    /// Valid inputs, from which libFuzzer makes others.
    seeds: Vec<Vec<u8>>,
    property: Property,
}

impl Target {
    fn new(name: impl Into<String>, seeds: Vec<Vec<u8>>, property: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self { name: name.into(), seeds, property: Box::new(property) }
    }
}

fn targets(world: &'static World) -> Vec<Target> {
    let mut targets = decoders::targets(world);
    targets.extend(custody::targets(world));
    targets.extend(evidence::targets());
    targets.extend(proofs::targets(world));
    targets.extend(tokens::targets(world));
    targets.extend(log::targets(world));
    targets.extend(secrets::targets(world));
    targets
}

/// A planted panic, behind comparisons that random bytes do not pass: shows that coverage steers.
fn control(bytes: &[u8]) {
    if let Some((head, tail)) = bytes.split_first_chunk() {
        let tail = tail.split_first_chunk().map(|(tail, _)| u32::from_be_bytes(*tail));
        if u32::from_be_bytes(*head) == 0x6b65_7977 && tail == Some(0x6974_6e65) {
            panic!("the planted panic");
        }
    }
}

static PROPERTY: OnceLock<Property> = OnceLock::new();

/// Chooses the target, or does what is no fuzzing and ends.
fn choose() {
    static WORLD: OnceLock<World> = OnceLock::new();
    let wanted = std::env::var("KEYWITNESS_FUZZ_TARGET").expect("KEYWITNESS_FUZZ_TARGET names a target");
    let directory = std::env::var_os("KEYWITNESS_FUZZ_DIR").expect("KEYWITNESS_FUZZ_DIR names a folder");
    let world = WORLD.get_or_init(|| World::open(directory.into(), wanted == "seeds"));
    let targets = targets(world);
    match wanted.as_str() {
        "control" => {
            assert!(PROPERTY.set(Box::new(control)).is_ok());
            return;
        }
        "list" => targets.iter().for_each(|target| println!("{}", target.name)),
        "seeds" => targets.iter().for_each(|target| world.write_seeds(&target.name, &target.seeds)),
        _ => {
            let target = targets.into_iter().find(|target| target.name == wanted);
            let property = target.unwrap_or_else(|| panic!("there is no target {wanted}; list shows them")).property;
            assert!(PROPERTY.set(property).is_ok());
            return;
        }
    }
    std::process::exit(0);
}

fuzz_target!(init: choose(), |bytes: &[u8]| {
    (PROPERTY.get().unwrap())(bytes);
});
