//! Attestations by keys in a PKCS#11 token, beside what the token signs by itself: `cargo bench --bench token`. With `-- --quick` a short
//! round each. It makes a SoftHSM token of its own; where the library is, `KEYWITNESS_TEST_SOFTHSM` says, or it is looked for.
//!
//! Both sides in one process, on as many threads, in turns; the ratio is the median of the rounds' own, so that what else the machine
//! does falls on both. An attestation is a proof as the agent has it made: the claim is checked against the key and what the token says
//! of it, and signed by the token; the first one of each key is verified too.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use comfy_table::{Table, presets};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, ObjectClass},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use keywitness_circuits::{
    ClaimContext, Instance, KeyAlgorithm, KeyClaim, Nonce, Parameters, Timestamp, codec::Canonical, context, registry,
};
use keywitness_prover::{
    KeyStore, Pin, Placement, SoftwareStore, Token, TokenChoice, TokenStore, Unlock, create_key_file,
};
use keywitness_verifier::wire::KeyRef;

const LABEL: &str = "vault";
const PIN: &str = "correct horse";
const SIGNERS: [KeyAlgorithm; 3] = [KeyAlgorithm::Ed25519, KeyAlgorithm::P256, KeyAlgorithm::Secp256k1];

/// SoftHSM reads where its tokens are from a file that the environment names.
const CONFIGURATION: &str = "SOFTHSM2_CONF";

/// A key, the claim that it proves, and what the token would sign for it.
struct Subject {
    key: KeyRef,
    claim: ClaimContext,
    instance: Vec<u8>,
}

impl Subject {
    fn new(store: &TokenStore, parameters: &Parameters, key: KeyRef) -> Self {
        let instance: Instance = store.instances(&key, &"acme.example".parse().unwrap(), &[]).unwrap().remove(0);
        let kind = instance.kind().unwrap();
        let attributes = store.keys().into_iter().find(|entry| entry.key == key).unwrap().attributes.digest();
        let instance = instance.to_bytes();
        let claim = ClaimContext {
            statement: kind.name().to_owned(),
            verifying_key: registry::verifying_key(parameters, kind).unwrap(),
            trust_domain: "acme.example".parse().unwrap(),
            manager: "manager-1".parse().unwrap(),
            cluster: "payments".parse().unwrap(),
            hsm: "hsm-1".parse().unwrap(),
            enrolment: 1,
            keys: vec![KeyClaim { key: key.key.clone(), epoch: key.epoch, attributes }],
            instance: context::instance_digest(&instance),
            challenge: Nonce([7; 32]),
            not_before: Timestamp(0),
            not_after: Timestamp(1),
            checkpoint: None,
            evidence: None,
        };
        Self { key, claim, instance }
    }

    fn attest(&self, store: &TokenStore, parameters: &Parameters, number: u64) {
        let mut claim = self.claim.clone();
        claim.challenge.0[..8].copy_from_slice(&number.to_be_bytes());
        let proof = store.prove(parameters, &claim, &self.instance, &self.key).unwrap();
        assert_eq!(proof.len(), 64);
    }
}

/// How often `threads` threads do `work` in a second.
fn rate<S>(threads: usize, length: Duration, start: impl Fn() -> S + Sync, work: impl Fn(&S, u64) + Sync) -> f64 {
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let state = start();
                while !over.load(Ordering::Relaxed) {
                    work(&state, done.fetch_add(1, Ordering::Relaxed));
                    over.fetch_or(begun.elapsed() >= length, Ordering::Relaxed);
                }
            });
        }
    });
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

/// Makes the token.
fn make_token(library: &Pkcs11) {
    let taken = library.get_slots_with_initialized_token().unwrap();
    let free = library.get_all_slots().unwrap().into_iter().find(|slot| !taken.contains(slot)).unwrap();
    let officer = AuthPin::from("security officer");
    library.init_token(free, &officer, LABEL).unwrap();
    let session = library.open_rw_session(free).unwrap();
    session.login(UserType::So, Some(&officer)).unwrap();
    session.init_pin(&AuthPin::from(PIN)).unwrap();
}

/// A session of this thread with the key's object: what signing costs without anything of ours.
fn bare(library: &Pkcs11, slot: Slot, key: &KeyRef) -> (Session, cryptoki::object::ObjectHandle) {
    let session = library.open_ro_session(slot).unwrap();
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(key.key.as_str().into())];
    let found = session.find_objects(&template).unwrap()[0];
    (session, found)
}

fn softhsm() -> PathBuf {
    let places = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    let named = std::env::var("KEYWITNESS_TEST_SOFTHSM").ok().map(PathBuf::from);
    named
        .or_else(|| places.map(PathBuf::from).into_iter().find(|path| path.exists()))
        .expect("SoftHSM is not installed")
}

fn measure(directory: &Path) {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, length) = if quick { (1, Duration::from_millis(200)) } else { (15, Duration::from_secs(2)) };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let library = Pkcs11::new(softhsm()).unwrap();
    library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    make_token(&library);
    let key_file = directory.join("store.key");
    create_key_file(&key_file).unwrap();
    let software = SoftwareStore::create(&directory.join("store"), &Unlock::KeyFile(key_file)).unwrap();
    let token = Token::open(&softhsm(), &TokenChoice::label(LABEL), Pin::new(PIN).unwrap()).unwrap();
    let store = TokenStore::new(software, token, None).unwrap();
    let slots = library.get_slots_with_initialized_token().unwrap();
    let slot = slots.into_iter().find(|slot| library.get_token_info(*slot).unwrap().label() == LABEL).unwrap();
    let parameters = Parameters::transparent();

    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["key", "token alone, 1/s", "attestations, 1/s", "ratio, median", "from", "to"]);
    for algorithm in SIGNERS {
        let key = store.generate(&algorithm.name().parse().unwrap(), algorithm, Placement::New).unwrap().key;
        let subject = Subject::new(&store, &parameters, key);
        let message = [7; 32];
        let mut measured: Vec<(f64, f64)> = (0..=rounds)
            .map(|_| {
                let alone = rate(
                    threads,
                    length,
                    || bare(&library, slot, &subject.key),
                    |(session, handle), _| {
                        let mechanism = match algorithm {
                            KeyAlgorithm::Ed25519 => Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)),
                            _ => Mechanism::Ecdsa,
                        };
                        assert_eq!(session.sign(&mechanism, *handle, &message).unwrap().len(), 64);
                    },
                );
                let attested = rate(threads, length, || (), |(), number| subject.attest(&store, &parameters, number));
                (alone, attested)
            })
            .collect();
        // The first round finds the keys.
        measured.remove(0);
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[0], values[values.len() - 1])
        };
        let (alone, ..) = median(measured.iter().map(|(alone, _)| *alone).collect());
        let (attested, ..) = median(measured.iter().map(|(_, attested)| *attested).collect());
        let (ratio, from, to) = median(measured.iter().map(|(alone, attested)| attested / alone).collect());
        let number = |value: f64| format!("{value:.0}");
        let share = |value: f64| format!("{value:.3}");
        table.add_row([
            algorithm.name().to_owned(),
            number(alone),
            number(attested),
            share(ratio),
            share(from),
            share(to),
        ]);
    }
    println!("{threads} threads, {rounds} rounds of {length:?}\n{table}");
}

fn main() {
    if std::env::var_os("KEYWITNESS_BENCH_TOKEN").is_some() {
        return measure(Path::new(&std::env::var_os("KEYWITNESS_BENCH_TOKEN").unwrap()));
    }
    let directory = tempfile::tempdir().unwrap();
    let (tokens, configuration) = (directory.path().join("tokens"), directory.path().join("softhsm2.conf"));
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(&configuration, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(std::env::args_os().skip(1)).env(CONFIGURATION, configuration);
    let ended = again.env("KEYWITNESS_BENCH_TOKEN", directory.path()).status().unwrap();
    assert!(ended.success());
}
