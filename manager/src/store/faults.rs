//! A disk that fails, stops or fills up at a chosen operation, and what the ledger makes of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    io,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use keywitness_circuits::Timestamp;
use keywitness_verifier::wire::{ProblemKind, RevocationTarget};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redb::{Builder, Database, StorageBackend};

use super::{Medium, Redb, check_schema};
use crate::{
    clock::Clock,
    ledger::{
        Command, Embedded, Fault, Ledger, Memory, Outcome, Rows, Store, Table,
        log::{self, Entry, entries},
        state::State,
    },
    service::testing::{TestHsm, TestKey, World, refused, submit},
};

/// What the disk does wrong, counted in writes, flushes and changes of length.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Nothing,
    /// Operation `at` fails, and whatever follows until `until`.
    Fail {
        at: u64,
        until: u64,
    },
    /// The power goes at operation `at`.
    Stop {
        at: u64,
    },
    /// There is room for this many bytes.
    Full {
        room: u64,
    },
}

enum Operation {
    Write(u64, Vec<u8>),
    Length(u64),
}

struct Inner {
    /// What a reader sees.
    current: Vec<u8>,
    /// What survives a loss of power for certain.
    flushed: Vec<u8>,
    /// What was asked for since the last flush.
    pending: Vec<Operation>,
    count: u64,
    plan: Plan,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
struct Disk(Arc<Mutex<Inner>>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

fn apply(bytes: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write(offset, data) => {
            let start = *offset as usize;
            let end = start + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
        Operation::Length(length) => bytes.resize(*length as usize, 0),
    }
}

impl Disk {
    fn of(bytes: Vec<u8>) -> Self {
        let inner = Inner { current: bytes.clone(), flushed: bytes, pending: vec![], count: 0, plan: Plan::Nothing };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn plan(&self, plan: Plan) {
        self.0.lock().unwrap().plan = plan;
    }

    fn count(&self) -> u64 {
        self.0.lock().unwrap().count
    }

    fn change(&self, operation: Option<Operation>) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        let count = inner.count;
        inner.count += 1;
        let end = match &operation {
            Some(Operation::Write(offset, data)) => offset + data.len() as u64,
            Some(Operation::Length(length)) => *length,
            None => 0,
        };
        match inner.plan {
            Plan::Fail { at, until } if (at..until).contains(&count) => return Err(io::Error::from_raw_os_error(5)),
            Plan::Stop { at } if count >= at => return Err(io::Error::from_raw_os_error(5)),
            Plan::Full { room } if end > room => return Err(io::Error::from_raw_os_error(28)),
            _ => {}
        }
        match operation {
            Some(operation) => {
                apply(&mut inner.current, &operation);
                inner.pending.push(operation);
            }
            None => {
                inner.flushed = inner.current.clone();
                inner.pending.clear();
            }
        }
        Ok(())
    }

    /// The disk as it may be when the power is back: of what was not flushed, any sector may be there or not.
    fn after_power_loss(&self, seed: u64) -> Self {
        let inner = self.0.lock().unwrap();
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = inner.flushed.clone();
        for operation in &inner.pending {
            match operation {
                Operation::Length(_) => {
                    if random.gen_bool(0.5) {
                        apply(&mut bytes, operation);
                    }
                }
                Operation::Write(offset, data) => {
                    for (sector, part) in data.chunks(512).enumerate() {
                        if random.gen_bool(0.5) {
                            apply(&mut bytes, &Operation::Write(offset + 512 * sector as u64, part.to_vec()));
                        }
                    }
                }
            }
        }
        Self::of(bytes)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.0.lock().unwrap();
        let start = offset as usize;
        let found = inner.current.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Some(Operation::Length(len)))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(None)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Some(Operation::Write(offset, data.to_vec())))
    }
}

impl Medium for Disk {
    fn open(&self, builder: &Builder) -> Result<Database, redb::DatabaseError> {
        builder.create_with_backend(self.clone())
    }

    fn settle(&self) -> io::Result<()> {
        Ok(())
    }
}

fn open(disk: &Disk) -> Result<Arc<Redb>, Fault> {
    let (name, cache) = ("disk".to_owned(), 1 << 20);
    let (medium, database) = (Box::new(disk.clone()), std::sync::RwLock::new(None));
    let store = Redb { name, cache, medium, database, checked: false.into() };
    let database = store.connect()?;
    check_schema(&database)?;
    store.place(Some(database));
    Ok(Arc::new(store))
}

/// A clock that says what the script says.
#[derive(Default)]
struct Script(AtomicU64);

impl Clock for Script {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// What a trust domain did: enrolments, good and bad proofs, replays, revocations.
fn script() -> &'static [Entry] {
    static SCRIPT: OnceLock<Vec<Entry>> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        let world = World::new();
        let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
        hsm.enrol_key(&world, &key).unwrap();
        hsm.attest(&world, "eu", &key).unwrap();
        world.advance(1);
        hsm.fail(&world, "eu", &key);
        let challenge = hsm.challenge(&world, &key).unwrap();
        submit(&world, &hsm.answer(&world, "eu", &key, &challenge)).unwrap();
        let replay = hsm.forge(&key, hsm.context(&world, "eu", &key, &challenge));
        refused(submit(&world, &replay), ProblemKind::ChallengeConsumed);
        let other: TestHsm = world.hsm("hsm-2", "eu");
        world.revoke(RevocationTarget::Hsm(other.id.clone()));
        world.advance(2);
        hsm.attest(&world, "eu", &key).unwrap();
        entries(world.store.view().unwrap().as_ref(), 0, usize::MAX).unwrap()
    })
}

/// Submits the script's commands from `first` on, until one is not acknowledged: how many were.
fn play(ledger: &dyn Ledger, clock: &Script, first: usize) -> (usize, Option<Fault>) {
    for (index, entry) in script().iter().enumerate().skip(first) {
        clock.0.store(entry.at.0, Ordering::SeqCst);
        match ledger.submit(entry.submission.command.clone()) {
            Ok(outcome) => assert_eq!(outcome, entry.outcome, "command {index}"),
            Err(fault) => return (index, Some(fault)),
        }
    }
    (script().len(), None)
}

/// Everything acknowledged is there, at most one command more, and the tables are what the log says.
fn check(store: &Redb, acknowledged: usize) {
    let view = store.view().unwrap();
    let log = entries(view.as_ref(), 0, usize::MAX).unwrap();
    assert!((acknowledged..=acknowledged + 1).contains(&log.len()), "{} of {acknowledged}", log.len());
    let mut memory = Memory::default();
    for (found, expected) in log.iter().zip(script()) {
        assert_eq!(found.submission.command, expected.submission.command);
        assert_eq!(found.outcome, expected.outcome);
        let (outcome, _) = log::execute(&mut memory, found.submission.clone(), found.at).unwrap();
        assert_eq!(outcome, found.outcome);
    }
    for table in Table::ALL {
        let rows = |rows: &dyn Rows| rows.range(*table, &[], &[], usize::MAX).unwrap();
        assert_eq!(rows(view.as_ref()), rows(&memory), "{}", table.name());
    }
    assert_eq!(State(view.as_ref()).head().unwrap().sequence, log.len() as u64);
    for entry in &script()[..acknowledged] {
        if let Command::Attest { envelope, .. } = &entry.submission.command {
            use keywitness_circuits::codec::Canonical as _;
            let nonce = keywitness_circuits::Envelope::from_bytes(envelope).unwrap().context.challenge;
            let challenge = State(view.as_ref()).challenge(&nonce).unwrap().unwrap();
            assert!(challenge.consumed.is_some(), "a challenge can be used again");
        }
    }
}

/// A disk with an empty database on it, and how many operations the script makes on it.
fn prepared() -> (Vec<u8>, u64) {
    let disk = Disk::of(vec![]);
    drop(open(&disk).unwrap());
    let bytes = disk.0.lock().unwrap().flushed.clone();
    let disk = Disk::of(bytes.clone());
    let clock = Arc::new(Script::default());
    let ledger = Embedded::start(open(&disk).unwrap(), clock.clone()).unwrap();
    assert_eq!(play(&ledger, &clock, 0), (script().len(), None));
    (bytes, disk.count())
}

fn until_alive(ledger: &dyn Ledger) {
    let until = Instant::now() + Duration::from_secs(30);
    while !ledger.alive() {
        assert!(Instant::now() < until, "the store does not come back");
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn whenever_the_disk_fails_once_the_ledger_recovers_and_loses_nothing() {
    let (bytes, operations) = prepared();
    for at in 0..operations {
        let disk = Disk::of(bytes.clone());
        disk.plan(Plan::Fail { at, until: at + 1 });
        let clock = Arc::new(Script::default());
        let Ok(store) = open(&disk) else { continue };
        let ledger = Embedded::start(store.clone(), clock.clone()).unwrap();
        let (acknowledged, fault) = play(&ledger, &clock, 0);
        if let Some(fault) = fault {
            assert!(matches!(fault, Fault::Storage(_) | Fault::Unsettled(_)), "operation {at}: {fault}");
            until_alive(&ledger);
            check(&store, acknowledged);
            // The command that failed is sent again, and comes to what it would have come to.
            assert_eq!(play(&ledger, &clock, acknowledged), (script().len(), None), "operation {at}");
        }
    }
}

#[test]
fn while_the_disk_fails_nothing_is_acknowledged_and_the_ledger_says_so() {
    let (bytes, operations) = prepared();
    for at in 0..operations {
        let disk = Disk::of(bytes.clone());
        disk.plan(Plan::Fail { at, until: u64::MAX });
        let clock = Arc::new(Script::default());
        let Ok(store) = open(&disk) else { continue };
        let ledger = Embedded::start(store, clock.clone()).unwrap();
        let (acknowledged, fault) = play(&ledger, &clock, 0);
        if fault.is_some() {
            assert!(!ledger.alive(), "operation {at}");
            assert!(play(&ledger, &clock, acknowledged).1.is_some());
            drop(ledger);
            disk.plan(Plan::Nothing);
            check(&open(&disk).unwrap(), acknowledged);
        }
    }
}

#[test]
fn whenever_the_power_goes_what_was_acknowledged_is_there() {
    let (bytes, operations) = prepared();
    for at in 0..operations {
        let disk = Disk::of(bytes.clone());
        disk.plan(Plan::Stop { at });
        let clock = Arc::new(Script::default());
        let acknowledged = match open(&disk) {
            Ok(store) => play(&Embedded::start(store, clock.clone()).unwrap(), &clock, 0).0,
            Err(_) => 0,
        };
        for seed in 0..3 {
            let store = open(&disk.after_power_loss(seed * operations + at)).unwrap();
            check(&store, acknowledged);
            let ledger = Embedded::start(store, clock.clone()).unwrap();
            assert_eq!(play(&ledger, &clock, acknowledged), (script().len(), None), "operation {at}, seed {seed}");
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_is_used_again_once_there_is_room() {
    let (bytes, _) = prepared();
    let disk = Disk::of(bytes);
    let clock = Arc::new(Script::default());
    let store = open(&disk).unwrap();
    let ledger = Embedded::start(store.clone(), clock.clone()).unwrap();
    disk.plan(Plan::Full { room: disk.len().unwrap() });
    let mut acknowledged = 0;
    let fault = loop {
        let cluster = "eu".parse().unwrap();
        let digest = keywitness_circuits::Digest(keywitness_circuits::Nonce::random().0);
        let command =
            Command::AddJoinToken { digest, cluster, hsm: None, reenrol: false, expires_at: Timestamp(1 << 40) };
        match ledger.submit(command) {
            Ok(outcome) => assert_eq!(outcome, Outcome::Done),
            Err(fault) => break fault,
        }
        acknowledged += 1;
        assert!(acknowledged < 100_000, "the disk never filled up");
    };
    assert!(matches!(fault, Fault::Storage(_) | Fault::Unsettled(_)), "{fault}");
    // What was written is read: not only while nobody tries again, but again and again.
    let read = |store: &Redb| entries(store.view()?.as_ref(), 0, usize::MAX).map(|found| found.len());
    let (mut readings, until) = (0, Instant::now() + Duration::from_secs(30));
    while readings < 200 {
        assert!(Instant::now() < until, "nothing can be read: {readings}");
        match read(&store) {
            Ok(found) => {
                assert!((acknowledged..=acknowledged + 1).contains(&found));
                readings += 1;
            }
            Err(fault) => assert!(matches!(fault, Fault::Recovering | Fault::Storage(_)), "{fault}"),
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(!ledger.alive());
    disk.plan(Plan::Nothing);
    until_alive(&ledger);
    assert!((acknowledged..=acknowledged + 1).contains(&read(&store).unwrap()));
    assert!(
        ledger
            .submit(Command::Revoke {
                target: RevocationTarget::Hsm("gone".parse().unwrap()),
                reason: "".into(),
                by: String::new()
            })
            .is_ok()
    );
}
