//! What goes to people, what goes to scripts, and how the program ends.

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use comfy_table::{Table, presets};
use indicatif::ProgressBar;
use keywitness_circuits::{KeyAlgorithm, Timestamp};
use keywitness_verifier::{
    client::ClientError,
    envelope::Refused,
    operation::OperationError,
    token::TokenError,
    wire::{AttestationState, HsmKeyStatus},
};
use serde::Serialize;

/// The answer is no.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct No(pub(crate) String);

/// Logs go to standard error, as text or as JSON lines. `KEYWITNESS_LOG` chooses what is logged.
pub(crate) fn init_logging(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("KEYWITNESS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { builder.json().init() } else { builder.with_ansi(std::io::stderr().is_terminal()).init() }
}

/// Prints a failure and gives its exit code.
pub(crate) fn fail(json: bool, error: &anyhow::Error) -> ExitCode {
    let problem = error.downcast_ref::<ClientError>().and_then(ClientError::problem_kind);
    if json {
        let document = serde_json::json!({ "error": format!("{error:#}"), "problem": problem });
        eprintln!("{document}");
    } else {
        eprintln!("keywitness: {error:#}");
    }
    let no = error.is::<No>() || error.is::<TokenError>() || error.is::<OperationError>() || error.is::<Refused>();
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Problem(_)) => ExitCode::from(1),
        Some(ClientError::Unreachable(..)) => ExitCode::from(3),
        _ if no => ExitCode::from(1),
        _ => ExitCode::from(4),
    }
}

/// Raises `stop` on Ctrl-C and on SIGTERM.
pub(crate) fn stop_on_signal(stop: &keywitness_prover::Stop) -> anyhow::Result<()> {
    let stop = stop.clone();
    Ok(ctrlc::set_handler(move || stop.stop())?)
}

/// Prints one JSON document.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A spinner for work of unknown length; hidden where nobody watches.
pub(crate) fn spinner(quiet: bool, message: &'static str) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(message);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// `4m 10s`, in whole seconds.
pub(crate) fn duration(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// HSM × key × statement × state × age × expiry.
pub(crate) fn status_table(keys: &[HsmKeyStatus], now: Timestamp) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["HSM", "key", "algorithm", "statement", "state", "age", "expires in"]);
    for key in keys {
        for statement in &key.statements {
            let age = statement.proven_at.map_or("-".to_owned(), |at| duration(now.since(at)));
            let expiry = match statement.expires_at {
                Some(at) if at > now => duration(at.since(now)),
                Some(_) => "expired".to_owned(),
                None => "-".to_owned(),
            };
            let state = match (key.state, statement.proven_at) {
                (AttestationState::Unproven, Some(_)) => "proven".to_owned(),
                (state, _) => state.to_string(),
            };
            let name = format!("{} @{}", key.key.key, key.key.epoch);
            let kind = statement.kind.name().trim_start_matches("key-knowledge/").to_owned();
            table.add_row([key.hsm.to_string(), name, algorithm(key.algorithm), kind, state, age, expiry]);
        }
    }
    table
}

fn algorithm(algorithm: KeyAlgorithm) -> String {
    algorithm.name().to_owned()
}
