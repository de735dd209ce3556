//! A manager under load, over HTTP on loopback: attestation intake, and token queries beside a million records.
//!
//! The manager runs in a process of its own, so that its CPU time and memory are told apart from those of whoever makes
//! the load. `--quick` takes the smallest sizes; `--only intake|records` one part; `--records N`, `--seconds S` and
//! `--directory DIR` say how much and on which disk; `--data DIR` keeps the records there, and finds them there again; `--json`
//! prints the figures as JSON.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod generator;
mod intake;
mod populate;
mod records;
mod server;
mod table;

use std::path::{Path, PathBuf};

use keywitness_manager::signer::process::{supervise, work};

/// What was asked for on the command line.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) records: usize,
    pub(crate) seconds: u64,
    pub(crate) directory: PathBuf,
    /// Where the records stay.
    pub(crate) data: Option<PathBuf>,
}

impl Options {
    pub(crate) fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1);
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    // A manager's signer is this program, too.
    if let Some(spec) = value("--supervise") {
        return supervise(Path::new(server::PROGRAM), &[], &serde_json::from_str(spec).unwrap()).unwrap();
    }
    if let Some(spec) = value("--work") {
        return work(&serde_json::from_str(spec).unwrap()).unwrap();
    }
    if let Some(directory) = value("--serve") {
        return server::serve(directory.as_ref(), value("--time").map(|time| time.parse().unwrap()));
    }
    let quick = has("--quick");
    let number = |name: &str, full: usize, quick_one: usize| {
        value(name).map_or(if quick { quick_one } else { full }, |text| text.parse().unwrap())
    };
    let options = Options {
        quick,
        records: number("--records", 1_000_000, 4000),
        seconds: number("--seconds", 20, 1) as u64,
        directory: value("--directory").map_or_else(std::env::temp_dir, PathBuf::from),
        data: value("--data").map(PathBuf::from),
    };
    let mut figures = Vec::new();
    let only = value("--only").map(String::as_str);
    if only.is_none_or(|only| only == "intake") {
        figures.extend(intake::measure(&options));
    }
    if only.is_none_or(|only| only == "records") {
        figures.extend(records::measure(&options));
    }
    if has("--json") { table::json(&figures) } else { table::print(&figures) }
}
