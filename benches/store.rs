//! Durable writes of the manager's ledger: one at a time, and by group commit.
//!
//! Every write is a command that was acknowledged after its transaction was flushed to disk. One at a time, a flush is
//! paid by each; by group, it is shared by all that wait. `--quick` writes fewer; `--directory DIR` says on which disk.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use keywitness_circuits::{Digest, Nonce, Timestamp};
use keywitness_manager::{
    SystemClock,
    ledger::{Command, Embedded, Ledger, Outcome},
    store::{FILE, Redb},
};

/// How many writes wait together.
const GROUP: usize = 512;

fn command() -> Command {
    let digest = Digest(Nonce::random().0);
    Command::AddJoinToken {
        digest,
        cluster: "eu".parse().unwrap(),
        hsm: None,
        reenrol: false,
        expires_at: Timestamp(u64::MAX >> 8),
    }
}

/// Writes per second.
fn rate(ledger: &dyn Ledger, group: usize, least: Duration) -> f64 {
    let (begun, mut written) = (Instant::now(), 0);
    while begun.elapsed() < least {
        let commands = (0..group).map(|_| command()).collect();
        for outcome in ledger.submit_all(commands) {
            assert_eq!(outcome.unwrap(), Outcome::Done);
        }
        written += group;
    }
    written as f64 / begun.elapsed().as_secs_f64()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let place = arguments.iter().skip_while(|argument| *argument != "--directory").nth(1).map(PathBuf::from);
    let directory = tempfile::tempdir_in(place.unwrap_or_else(std::env::temp_dir)).unwrap();
    let store = Arc::new(Redb::open(&directory.path().join(FILE)).unwrap());
    let ledger = Embedded::start(store, Arc::new(SystemClock)).unwrap();
    let (rounds, least) = if quick { (1, Duration::from_millis(300)) } else { (5, Duration::from_secs(2)) };
    println!("durable writes per second: one at a time, {GROUP} at a time, ratio");
    for _ in 0..rounds {
        let alone = rate(&ledger, 1, least);
        let together = rate(&ledger, GROUP, least);
        println!("{alone:>10.0} {together:>10.0} {:>6.1}", together / alone);
    }
}
