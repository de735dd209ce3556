//! Our batches and provers beside named peers, in the same process: `cargo bench --bench figures`.
//!
//! ```text
//! cargo bench --bench figures                          every row, as a table
//! cargo bench --bench figures -- --row schnorr         rows whose names contain this; may be repeated
//! cargo bench --bench figures -- --json                a JSON object for each row
//! cargo bench --bench figures -- --quick               one round of the smallest sizes
//! cargo bench --bench figures -- --plots DIRECTORY     growth with size, as SVG
//! ```
//!
//! docs/performance.md says what each row counts.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod chart;
mod claims;
mod engine;
mod groth16;
mod halo2;
mod harness;
mod plots;
mod schnorr;
mod shares;
mod snarks;

use std::path::PathBuf;

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use curve25519_dalek::{RistrettoPoint, Scalar};
use harness::{Comparison, Figure, Mode, Row, Side, duration, measure, three_digits};
use rand::rngs::OsRng;
use rayon::prelude::*;

/// Our batches and provers beside named peers.
#[derive(Parser)]
struct Arguments {
    /// Only rows whose names contain this.
    #[arg(long, value_name = "NAME")]
    row: Vec<String>,
    /// One round of the smallest sizes.
    #[arg(long)]
    quick: bool,
    /// A JSON object for each row, one a line.
    #[arg(long)]
    json: bool,
    /// Measures growth instead, and writes SVG files into this directory.
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The same work on both sides, and work that threads need not share: how much the machine disturbs, and what it gives.
fn control() -> Row {
    let side = |mode: Mode| {
        let scalars: Vec<Scalar> = (0..mode.size(4096, 8)).map(|_| Scalar::random(&mut OsRng)).collect();
        let work = move || {
            let sum: RistrettoPoint = scalars.par_iter().with_min_len(64).map(RistrettoPoint::mul_base).sum();
            assert_ne!(sum, RistrettoPoint::default());
        };
        Side::new(mode.size(4096, 8), work)
    };
    Row::new("control", 0.0, move |mode| Comparison {
        operation: "multiplications of a base point".to_owned(),
        peer: "the very same".to_owned(),
        unit: "point",
        ours: side(mode),
        peers: side(mode),
        batch: true,
    })
}

fn rows() -> Vec<Row> {
    let domains = [vec![control()], shares::rows(), schnorr::rows(), groth16::rows(), halo2::rows(), engine::rows()];
    domains.into_iter().flatten().collect()
}

fn main() {
    let Arguments { row: wanted, quick, json, plots, bench: _ } = Arguments::parse();
    let mode = if quick { Mode::Quick } else { Mode::Full };
    if let Some(directory) = plots {
        return plots::write(&directory, mode);
    }
    let chosen = |row: &Row| wanted.is_empty() || wanted.iter().any(|name| row.name.contains(name));
    let (rows, others): (Vec<Row>, Vec<Row>) = rows().into_iter().partition(chosen);
    if rows.is_empty() {
        let names: Vec<_> = others.iter().map(|row| row.name.as_str()).collect();
        eprintln!("no row has such a name; there are: {}", names.join(", "));
        std::process::exit(2);
    }
    let before = load();
    let mut figures = Vec::new();
    for row in &rows {
        eprintln!("{}", row.name);
        let measured = measure(row, mode);
        if json {
            measured.iter().for_each(|figure| println!("{}", object(figure)));
        }
        figures.extend(measured);
    }
    if !json {
        println!("{}\nload average {before} at the beginning, {} at the end", table(&figures), load());
    }
}

/// What the machine is doing besides, over the last 1, 5 and 15 minutes.
fn load() -> String {
    let line = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let numbers: Vec<&str> = line.split_whitespace().take(3).collect();
    if numbers.is_empty() { "unknown".to_owned() } else { numbers.join(" ") }
}

fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["row", "operation", "peer", "ours", "peer's", "ratio", "quartiles", "wanted"]);
    for figure in figures {
        let Figure { name, operation, peer, unit, ours, peers, ratio, spread: [low, high], wanted, .. } = figure;
        table.add_row([
            name.clone(),
            operation.clone(),
            peer.clone(),
            format!("{} a {unit}", duration(*ours)),
            duration(*peers),
            format!("{}x", three_digits(*ratio)),
            format!("{} to {}", three_digits(*low), three_digits(*high)),
            if *wanted > 0.0 { format!("{wanted}x") } else { "-".to_owned() },
        ]);
    }
    for column in [3, 4, 5, 6, 7] {
        table.column_mut(column).unwrap().set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn object(figure: &Figure) -> serde_json::Value {
    let Figure { name, operation, peer, unit, ours, peers, ratio, spread, wanted, rounds } = figure;
    serde_json::json!({
        "row": name, "operation": operation, "peer": peer, "unit": unit, "ours_seconds": ours, "peer_seconds": peers,
        "ratio": ratio, "quartiles": spread, "wanted": wanted, "rounds": rounds,
    })
}
