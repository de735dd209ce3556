//! What it costs to make proofs in a process of their own: each statement by the proving process, beside the bare prover in this
//! process: `cargo bench --bench isolation`. With `-- --quick` there are few rounds.
//!
//! Wall time, in turns; the ratio is the median of the rounds' own, so that what else the machine does falls on both.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use comfy_table::{Table, presets};
use keywitness_circuits::{
    ClaimContext, Digest, Instance, KeyAlgorithm, KeyClaim, KeyId, Kind, Nonce, Parameters, Suite, Witness,
    codec::Canonical,
    context,
    key_knowledge::{self, many},
    params::{Groth16Circuit, Groth16Parameters},
    registry,
};
use keywitness_isolation::examine::look_at;
use keywitness_prover::{
    Clock, KeyStore, Placement, SoftwareStore, SystemClock, Unlock, create_key_file,
    process::{ParameterFile, Remote, Secrets, Spec},
};
use keywitness_verifier::wire::{KeyRef, MAX_RECORD_TTL};

/// Keys of one proof of many.
const MANY: u8 = 64;

/// A claim, and what proves it in this process and by the proving process.
struct Subject {
    name: &'static str,
    context: ClaimContext,
    instance: Vec<u8>,
    witness: Witness,
    keys: Vec<KeyRef>,
}

impl Subject {
    fn here(&self, parameters: &Parameters) {
        registry::prove(parameters, &self.context, &self.instance, &self.witness).unwrap();
    }

    fn there(&self, parameters: &Parameters, process: &Remote) -> Vec<u8> {
        match self.keys.as_slice() {
            [key] => process.prove(parameters, &self.context, &self.instance, key).unwrap(),
            keys => process.prove_many(parameters, &self.context, &self.instance, keys).unwrap(),
        }
    }
}

fn secret(number: u8) -> [u8; 32] {
    std::array::from_fn(|at| number.wrapping_mul(37).wrapping_add(u8::try_from(at).unwrap().wrapping_mul(11)) | 1)
}

fn claim(parameters: &Parameters, kind: Kind, keys: &[KeyRef], instance: &Instance) -> (ClaimContext, Vec<u8>) {
    let instance = instance.to_bytes();
    // A proving process proves of today alone.
    let now = SystemClock.now();
    let key = |key: &KeyRef| KeyClaim { key: key.key.clone(), epoch: key.epoch, attributes: Digest([1; 32]) };
    let context = ClaimContext {
        statement: kind.name().to_owned(),
        verifying_key: registry::verifying_key(parameters, kind).unwrap(),
        trust_domain: "acme.example".parse().unwrap(),
        manager: "manager-1".parse().unwrap(),
        cluster: "payments".parse().unwrap(),
        hsm: "hsm-1".parse().unwrap(),
        enrolment: 1,
        keys: keys.iter().map(key).collect(),
        instance: context::instance_digest(&instance),
        challenge: Nonce([7; 32]),
        not_before: now,
        not_after: now.plus(MAX_RECORD_TTL),
        checkpoint: None,
        evidence: None,
    };
    (context, instance)
}

fn one(parameters: &Parameters, name: &'static str, kind: Kind, algorithm: KeyAlgorithm, suite: Suite) -> Subject {
    let witness = key_knowledge::Witness::new(algorithm, &secret(0)).unwrap();
    let instance = witness.instance(&"acme.example".parse().unwrap(), suite).unwrap().into();
    let keys = vec![KeyRef { key: algorithm.name().parse().unwrap(), epoch: 1 }];
    let (context, instance) = claim(parameters, kind, &keys, &instance);
    Subject { name, context, instance, witness: witness.into(), keys }
}

fn sixty_four(parameters: &Parameters) -> Subject {
    let key = |number| key_knowledge::Witness::new(KeyAlgorithm::Aes256, &secret(number)).unwrap();
    let witness = many::Witness::new((1..=MANY).map(key).collect());
    let instance = witness.instance(&"acme.example".parse().unwrap(), Suite::Halo2Pasta).unwrap().into();
    let keys: Vec<_> = (1..=MANY).map(|number| KeyRef { key: name_of(number), epoch: 1 }).collect();
    let (context, instance) = claim(parameters, Kind::ManyKeysHalo2, &keys, &instance);
    Subject { name: "64 AES-256 keys, halo2", context, instance, witness: witness.into(), keys }
}

fn name_of(number: u8) -> KeyId {
    format!("aes-{number}").parse().unwrap()
}

/// A store with all of these keys, and its process.
fn process(directory: &Path, parameters: &Path) -> Remote {
    let (store, key_file) = (directory.join("store"), directory.join("store.key"));
    create_key_file(&key_file).unwrap();
    let made = SoftwareStore::create(&store, &Unlock::KeyFile(key_file.clone())).unwrap();
    for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::Aes256] {
        made.import(&algorithm.name().parse().unwrap(), algorithm, &secret(0), Placement::New).unwrap();
    }
    for number in 1..=MANY {
        made.import(&name_of(number), KeyAlgorithm::Aes256, &secret(number), Placement::New).unwrap();
    }
    drop(made);
    let parameters = vec![ParameterFile::pin(Groth16Circuit::OneKey, parameters).unwrap()];
    let spec = Spec { store, key_file: Some(key_file), parameters, ..Spec::default() };
    Remote::spawn(Path::new(env!("CARGO_BIN_EXE_keywitness")), &[], &spec, &Secrets::default()).unwrap()
}

/// The median of what each round gives.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    // One proof of ten milliseconds says nothing on a machine that does something else besides.
    let (rounds, least) = if quick { (5, Duration::from_millis(50)) } else { (31, Duration::from_millis(100)) };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("groth16-parameters");
    let (read, _) = Groth16Parameters::read_or_develop(&file).unwrap();
    let parameters = Parameters::transparent().with_groth16(read);
    let begun = Instant::now();
    let process = process(directory.path(), &file);
    let start = begun.elapsed();
    let aes = |name, kind, suite| one(&parameters, name, kind, KeyAlgorithm::Aes256, suite);
    let subjects = [
        one(&parameters, "an Ed25519 key", Kind::KeyKnowledgeEd25519, KeyAlgorithm::Ed25519, Suite::PublicKey),
        aes("an AES-256 key, halo2", Kind::KeyKnowledgeHalo2, Suite::Halo2Pasta),
        aes("an AES-256 key, Groth16", Kind::KeyKnowledgeGroth16, Suite::Groth16Bn254),
        sixty_four(&parameters),
    ];
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["proof of", "bare prover", "proving process", "process / bare throughput", "wanted"]);
    for subject in &subjects {
        let proof = subject.there(&parameters, &process);
        registry::verify(&parameters, &subject.context, &subject.instance, &proof).unwrap();
        subject.here(&parameters);
        let time = |work: &dyn Fn()| {
            let (begun, mut count) = (Instant::now(), 0_u32);
            while count == 0 || begun.elapsed() < least {
                work();
                count += 1;
            }
            begun.elapsed().as_secs_f64() / f64::from(count)
        };
        let (mut here, mut there, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            let bare = || time(&|| subject.here(&parameters));
            let isolated = || time(&|| drop(subject.there(&parameters, &process)));
            // Whoever goes first has no advantage.
            let (bare, isolated) = if round % 2 == 0 {
                let bare = bare();
                (bare, isolated())
            } else {
                let isolated = isolated();
                (bare(), isolated)
            };
            here.push(bare);
            there.push(isolated);
            ratios.push(bare / isolated);
        }
        let shown = |values| format!("{:.2?}", Duration::from_secs_f64(median(values)));
        let wanted = if subject.name.contains("AES") { "0.90" } else { "-" };
        let ratio = format!("{:.3}", median(ratios));
        table.add_row([subject.name.to_owned(), shown(here), shown(there), ratio, wanted.to_owned()]);
    }
    let resident = look_at(process.examine().unwrap().pid).unwrap().resident_kilobytes;
    println!("{table}");
    println!("start {start:.2?}; memory of the proving process {resident} kB");
}
