//! A manager with many records: how soon it serves, how much memory it takes, and how long a token takes while it is asked
//! for two thousand a second: in peace, beside changes, and beside changes while a tenth of the records expire and what is
//! due is forgotten.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use keywitness_circuits::Nonce;
use keywitness_manager::store::FILE;
use keywitness_verifier::{
    client::ManagerClient,
    wire::{CredentialRequest, JoinTokenRequest, KeyQuery, Role, TokenRequest, path},
};

use crate::{
    Options,
    generator::{Latencies, Request, open_loop},
    populate::{BEGIN, CLUSTER, LATER, distinct, early, key_name, populate},
    server::{self, Serving, TTL},
    table::{Figure, Wanted},
};

/// Changes a second, at most.
const CHANGES: u32 = 200;

/// Connections that ask for tokens.
const CONNECTIONS: usize = 64;

/// How long a manager is asked before anything is measured, in seconds: by then what it reads often is in memory.
const WARM: u64 = 20;

pub(crate) fn measure(options: &Options) -> Vec<Figure> {
    let directory = tempfile::tempdir_in(&options.directory).unwrap();
    let path = directory.path();
    let records = options.records;
    let source = options.data.as_deref().unwrap_or(path);
    // Who was interrupted removes what is there.
    if !source.join(FILE).exists() {
        let begun = Instant::now();
        populate(source, records);
        eprintln!("{records} records were written in {:.0} s", begun.elapsed().as_secs_f64());
    }
    // The measurement itself changes them.
    if source != path {
        let files =
            fs::read_dir(source).unwrap().map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file());
        for file in files {
            fs::copy(file.path(), path.join(file.file_name())).unwrap();
        }
    }
    let rate = if options.quick { 200 } else { 2000 };
    let (time, quick) = (Duration::from_secs(options.seconds), options.quick);
    let wanted = |wanted| (!quick).then_some(wanted);

    let serving = Serving::start(path, Some(LATER + 3600));
    let operator = operator(&serving, path);
    let request = CredentialRequest::new("bench", Role::Client);
    let client = operator.credential(&request).unwrap().secret;
    serving.stop();

    let serving = Serving::start(path, Some(LATER + 3600));
    let after_stop = serving.started_in.as_secs_f64();
    let warm = Duration::from_secs(if quick { 1 } else { WARM });
    tokens(&serving, &client, records, (rate, warm));
    let before = serving.cpu();
    let peace = tokens(&serving, &client, records, (rate, time));
    let cpu = (serving.cpu() - before).as_secs_f64() / (f64::from(rate) * time.as_secs_f64()) * 1e6;
    let memory = serving.peak_memory();
    serving.kill();

    // The first records expire a second or two after the last measurement begins.
    let serving = Serving::start(path, Some(BEGIN + TTL - warm.as_secs() - options.seconds - 3));
    let after_kill = serving.started_in.as_secs_f64();
    let operator = self::operator(&serving, path);
    tokens(&serving, &client, records, (rate, warm));
    let changing = changes(&operator, || tokens(&serving, &client, records, (rate, time)));
    let expiring = changes(&operator, || tokens(&serving, &client, records, (rate, time)));
    let name = format!("{records} records");
    let [calm, before, during] = [&peace, &changing, &expiring].map(|latencies| latencies.quantile(0.99));
    let figures = vec![
        Figure::new(format!("{name}: start after a stop"), after_stop, "s", wanted(Wanted::AtMost(3.0))),
        Figure::new(format!("{name}: start after kill -9"), after_kill, "s", wanted(Wanted::AtMost(3.0))),
        Figure::new(
            format!("{name}: most memory"),
            memory.max(serving.peak_memory()),
            "MiB",
            wanted(Wanted::AtMost(1024.0)),
        ),
        Figure::new(format!("{name}: token p99 at {rate}/s"), calm, "ms", wanted(Wanted::AtMost(5.0)))
            .beside(format!("{}; the manager took {cpu:.0} µs of CPU a token", peace.summary())),
        Figure::new(format!("{name}: the same, and {CHANGES} changes/s"), before, "ms", None)
            .beside(changing.summary()),
        Figure::new(format!("{name}: the same, while {} expire", early(records)), during, "ms", None)
            .beside(expiring.summary()),
        Figure::new(
            format!("{name}: expiry, ratio of the seconds' p99s"),
            expiring.usual(0.99) / changing.usual(0.99),
            "",
            wanted(Wanted::AtMost(2.0)),
        ),
    ];
    serving.stop();
    figures
}

/// Has an operator make changes all the while that something goes on. Each forgets some of what is due.
fn changes<T>(operator: &ManagerClient, measured: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let invite =
                    JoinTokenRequest { cluster: "other".parse().unwrap(), hsm: None, valid_for: 60, reenrol: false };
                operator.join_token(&invite).unwrap();
                thread::sleep(Duration::from_secs(1) / CHANGES);
            }
        });
        let result = measured();
        over.store(true, Ordering::Relaxed);
        result
    })
}

fn operator(serving: &Serving, directory: &std::path::Path) -> ManagerClient {
    let client = ManagerClient::new(&format!("http://{}", serving.address)).unwrap();
    client.with_credential(server::operator(directory))
}

/// Asks for a token for one key after another, in an order that meets all parts of the store. Only for keys whose records
/// outlast the measurement.
fn tokens(serving: &Serving, credential: &str, records: usize, (rate, time): (u32, Duration)) -> Latencies {
    let (first, keys) = (early(records).div_ceil(CLUSTER * 1000) * 1000, distinct(records));
    let first = if first < keys { first } else { 0 };
    open_loop(serving.address, path::TOKENS, (rate, time, CONNECTIONS), |number| {
        // A step that shares no divisor with any number of keys below it.
        let key = key_name(first + number * 7919 % (keys - first)).parse().unwrap();
        let query = KeyQuery { key, cluster: None, hsm: None, max_age: None };
        let asked =
            TokenRequest { query, audience: "bench".to_owned(), nonce: Nonce::random(), form: Default::default() };
        Request {
            authorization: Some(format!("Bearer {credential}")),
            content_type: "application/json",
            body: serde_json::to_vec(&asked).unwrap(),
        }
    })
}
