//! What goes to people, what goes to scripts, and how the program ends.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use comfy_table::{Table, TableComponent, presets};
use indicatif::{ProgressBar, ProgressStyle};
use keywitness_circuits::Timestamp;
use keywitness_prover::AgentError;
use keywitness_verifier::{
    client::ClientError,
    envelope::Refused,
    operation::OperationError,
    token::TokenError,
    wire::{AttestationState, HsmKeyStatus},
};
use serde::Serialize;

/// Prints a line to standard output. Where nobody reads any more, the program ends quietly.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::print(format_args!($($text)*)) };
}

/// What [`say!`] does.
pub(crate) fn print(text: std::fmt::Arguments<'_>) {
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// The answer is no.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct No(pub(crate) String);

/// What is logged where `KEYWITNESS_LOG` says nothing: what an agent does is told by its narrator.
const DEFAULT_LOG: &str = "warn,keywitness_prover::agent=off";

/// Logs go to standard error, as text or as JSON lines. `KEYWITNESS_LOG` chooses what is logged, then `filter`.
pub(crate) fn init_logging(json: bool, filter: Option<&str>) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("KEYWITNESS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(filter.unwrap_or(DEFAULT_LOG)));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { builder.json().init() } else { builder.with_ansi(std::io::stderr().is_terminal()).init() }
}

/// Prints a failure and gives its exit code.
pub(crate) fn fail(json: bool, error: &anyhow::Error) -> ExitCode {
    let client = match error.downcast_ref::<AgentError>() {
        Some(AgentError::Client(client)) => Some(client),
        _ => error.downcast_ref::<ClientError>(),
    };
    let problem = client.and_then(ClientError::problem_kind);
    if json {
        let document = serde_json::json!({ "error": format!("{error:#}"), "problem": problem });
        eprintln!("{document}");
    } else {
        let told = format!("{error:#}");
        eprintln!("keywitness: {}{}", printable(&told), advice(&told));
    }
    let no = error.is::<No>() || error.is::<TokenError>() || error.is::<OperationError>() || error.is::<Refused>();
    match client {
        Some(ClientError::Problem(_)) => ExitCode::from(1),
        Some(ClientError::Unreachable(..)) => ExitCode::from(3),
        _ if no => ExitCode::from(1),
        _ => ExitCode::from(4),
    }
}

/// What to do about a TLS failure, whose own words do not say.
fn advice(told: &str) -> &'static str {
    if told.contains("invalid peer certificate") {
        "; --manager-ca FILE names the authority to trust (DATA/manager/manager.ca.pem of the manager)"
    } else if told.contains("http parse fail") {
        "; does the manager speak TLS there? Then its address begins with https://"
    } else {
        ""
    }
}

/// Raises `stop` on Ctrl-C and on SIGTERM. The second such signal ends the program at once.
pub(crate) fn stop_on_signal(stop: &keywitness_prover::Stop) -> anyhow::Result<()> {
    let stop = stop.clone();
    let handler = move || {
        if stop.is_stopped() {
            std::process::exit(4);
        }
        stop.stop();
    };
    Ok(ctrlc::set_handler(handler)?)
}

/// Prints one JSON document.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?);
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

/// A bar for work whose steps are told as it goes; hidden where nobody watches.
pub(crate) fn bar(quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("{msg:32} {bar:30} {percent:>3}% {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Text from elsewhere, without what a terminal would take for commands.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// `4m 10s`, in whole seconds.
pub(crate) fn duration(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// An empty table, whose columns have these headings.
pub(crate) fn table<const COLUMNS: usize>(headings: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_style(TableComponent::HeaderLines, '─');
    table.set_header(headings);
    table
}

/// `2026-01-31T12:00:00Z`.
pub(crate) fn time(time: Timestamp) -> String {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(time.0)).to_string()
}

/// HSM × key × statement × state × age × expiry, in 80 columns.
pub(crate) fn status_table(keys: &[HsmKeyStatus], now: Timestamp) -> String {
    let mut table = self::table(["HSM", "key", "statement", "state", "age", "expires in"]);
    for key in keys {
        for statement in &key.statements {
            let age = statement.proven_at.map_or("-".to_owned(), |at| duration(now.since(at)));
            let expiry = match statement.expires_at {
                _ if matches!(key.state, AttestationState::Revoked | AttestationState::Suspended) => "-".to_owned(),
                Some(at) if at > now => duration(at.since(now)),
                Some(_) => "expired".to_owned(),
                None => "-".to_owned(),
            };
            let state = match (key.state, statement.proven_at) {
                (AttestationState::Unproven, Some(_)) => "proven".to_owned(),
                (state, _) => state.to_string(),
            };
            let state = match statement.agreement {
                Some(agreement) => format!("{state}, {agreement}"),
                None => state,
            };
            let name = format!("{} @{}", key.key.key, key.key.epoch);
            let kind = statement.kind.name().trim_start_matches("key-knowledge/").to_owned();
            table.add_row([key.hsm.to_string(), name, kind, state, age, expiry]);
        }
    }
    table.trim_fmt()
}
