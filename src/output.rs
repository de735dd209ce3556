//! What goes to people, what goes to scripts, and how the program ends.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::OnceLock,
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
    wire::{AttestationState, HsmKeyStatus, rfc3339},
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
    let set = if json {
        let builder = builder.json().with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Box::new(move |filter| Ok(handle.reload(filter)?)) as SetLog
    } else {
        let builder = builder.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Box::new(move |filter| Ok(handle.reload(filter)?)) as SetLog
    };
    let _ = LOG.set(set);
}

type SetLog = Box<dyn Fn(tracing_subscriber::EnvFilter) -> anyhow::Result<()> + Send + Sync>;

/// Changes what is logged, once that has begun.
static LOG: OnceLock<SetLog> = OnceLock::new();

/// A filter of the log. A bare word that is neither a level nor a part of ours is a slip: it would silence everything.
pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let part = |word: &str| word.contains(['=', '[']) || word.starts_with("keywitness");
    if let Some(word) = text.split(',').map(str::trim).find(|word| !part(word) && !levels.contains(word)) {
        return Err(format!("{word:?} is no level: give one of {}, or PART=LEVEL", levels.join(", ")));
    }
    let parsed = tracing_subscriber::EnvFilter::try_new(text);
    parsed.map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// From now on logs what `filter` says, unless the environment chooses.
pub(crate) fn set_log(filter: &str) -> anyhow::Result<()> {
    let parsed = tracing_subscriber::EnvFilter::try_new(filter)?;
    if std::env::var_os("KEYWITNESS_LOG").is_some() {
        return Ok(());
    }
    LOG.get().map_or(Ok(()), |set| set(parsed))
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
    rfc3339(time)
}

/// HSM × key × statement × state × age × expiry, in 80 columns.
pub(crate) fn status_table(keys: &[HsmKeyStatus], now: Timestamp) -> String {
    let mut table = self::table(["HSM", "key", "statement", "state", "age", "expires in"]);
    for key in keys {
        for statement in &key.statements {
            let state = match (key.state, statement.proven_at) {
                (AttestationState::Unproven, Some(_)) => "proven".to_owned(),
                (state, _) => state.to_string(),
            };
            let state = match statement.agreement {
                Some(agreement) => format!("{state}, {agreement}"),
                None => state,
            };
            let kind = statement.kind.name().trim_start_matches("key-knowledge/").to_owned();
            let (age, expiry) = (age(statement.proven_at, now), expiry(key.state, statement.expires_at, now));
            table.add_row([key.hsm.to_string(), key.key.to_string(), kind, state, age, expiry]);
        }
    }
    table.trim_fmt()
}

/// The same with one row for each key: the age of its oldest proof, and when the first of them expires.
fn key_table(keys: &[HsmKeyStatus], now: Timestamp) -> String {
    let mut table = self::table(["HSM", "key", "statements", "state", "age", "expires in"]);
    for key in keys {
        let oldest = key.statements.iter().map(|statement| statement.proven_at).min().flatten();
        let first = key.statements.iter().filter_map(|statement| statement.expires_at).min();
        let (hsm, name, count) = (key.hsm.to_string(), key.key.to_string(), key.statements.len().to_string());
        table.add_row([hsm, name, count, key.state.to_string(), age(oldest, now), expiry(key.state, first, now)]);
    }
    table.trim_fmt()
}

/// A status table for a terminal of so many lines, of which one stays free: by key where every statement has no room, and cut off
/// where the keys have none either.
pub(crate) fn fitting_table(keys: &[HsmKeyStatus], now: Timestamp, lines: usize) -> String {
    let room = lines.saturating_sub(1).max(4);
    let (whole, by_key) = (status_table(keys, now), key_table(keys, now));
    let fits = [whole, by_key.clone()].into_iter().find(|table| table.lines().count() <= room);
    fits.unwrap_or_else(|| {
        let shown: Vec<_> = by_key.lines().take(room - 1).collect();
        let rest = by_key.lines().count() - shown.len();
        format!("{}\nand {rest} more: `keywitness status` shows all", shown.join("\n"))
    })
}

fn age(proven_at: Option<Timestamp>, now: Timestamp) -> String {
    proven_at.map_or("-".to_owned(), |at| duration(now.since(at)))
}

fn expiry(state: AttestationState, expires_at: Option<Timestamp>, now: Timestamp) -> String {
    match expires_at {
        _ if matches!(state, AttestationState::Revoked | AttestationState::Suspended) => "-".to_owned(),
        Some(at) if at > now => duration(at.since(now)),
        Some(_) => "expired".to_owned(),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_in_a_filter_of_the_log_is_told() {
        for good in ["debug", "info,keywitness_prover=debug", "keywitness_manager", "warn,actix_server=off"] {
            assert_eq!(log_filter(good).unwrap(), good);
        }
        for bad in ["loud", "debgu", "info,loud", "keywitness=loud", ""] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_table_of_a_demonstration_fits_a_small_terminal() {
        let key = |hsm: usize, number: usize| {
            let statement =
                serde_json::json!({ "kind": "key-knowledge/groth16-bn254/1", "proven_at": 1000, "expires_at": 1600 });
            let statements = vec![statement; if number < 3 { 1 } else { 2 }];
            let status = serde_json::json!({ "hsm": format!("hsm-{hsm}"), "cluster": "payments", "state": "attested",
                "key": { "key": format!("storage-{number}"), "epoch": 1 }, "algorithm": "aes256",
                "statements": statements, "failure": null });
            serde_json::from_value::<HsmKeyStatus>(status).unwrap()
        };
        let keys: Vec<_> =
            (1..4).flat_map(|hsm| (0..5).map(move |number| (hsm, number))).map(|(h, n)| key(h, n)).collect();
        let now = Timestamp(1200);
        for lines in [5, 10, 22, 24, 40] {
            let table = fitting_table(&keys, now, lines);
            assert!(table.lines().count() < lines, "{lines}: {table}");
            assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        }
        assert_eq!(fitting_table(&keys, now, 40), status_table(&keys, now));
        assert_eq!(fitting_table(&keys, now, 22), key_table(&keys, now));
        assert!(fitting_table(&keys, now, 10).ends_with("more: `keywitness status` shows all"));
    }
}
