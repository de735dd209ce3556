//! `keywitness alerts`, `events` and `migration`: what looks like fraud, and what is none.

use std::{collections::BTreeMap, time::Duration};

use clap::Subcommand;
use keywitness_circuits::{ClusterId, KeyId};
use keywitness_verifier::{
    client::ManagerClient,
    wire::{AcknowledgeRequest, Alert, AlertQuery, AlertState, Event, Migrant, Migration, MigrationRequest},
};

use crate::{
    Global,
    connection::{Asked, Connection, patiently},
    output,
};

/// Of how many alerts a list says what happened: each may cost a request.
const MOST_SENTENCES: usize = 100;

/// How long `events --follow` waits before it asks again.
const PAUSE: Duration = Duration::from_secs(1);

/// List alerts, show one, or acknowledge one.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness alerts ack 3 --note \"a drill\"")]
pub(crate) struct AlertsArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    what: Option<Alerts>,
}

#[derive(Subcommand)]
enum Alerts {
    /// List alerts: those that nobody has acknowledged, unless --all is given
    #[command(after_help = "Example: keywitness alerts list --all")]
    List {
        /// Acknowledged ones too
        #[arg(long)]
        all: bool,
    },
    /// Show an alert: what happened, what it rests on, and what to do
    #[command(after_help = "Example: keywitness alerts show 3")]
    Show {
        /// Its number
        number: u64,
    },
    /// Note that you have seen to an alert (operator)
    #[command(after_help = "Example: keywitness alerts ack 3 --note \"a drill\"")]
    Ack {
        /// Its number
        number: u64,
        /// What you found
        #[arg(long, default_value = "", allow_hyphen_values = true)]
        note: String,
    },
}

pub(crate) fn alerts(global: &Global, args: &AlertsArgs) -> anyhow::Result<()> {
    let client = args.connection.operator(global)?;
    match &args.what {
        None => list(global, &client, false),
        Some(Alerts::List { all }) => list(global, &client, *all),
        Some(Alerts::Show { number }) => show(global, &client, &client.alert(*number)?),
        Some(Alerts::Ack { number, note }) => {
            let request = AcknowledgeRequest { note: note.clone() };
            show(global, &client, &client.acknowledge_alert(*number, &request)?)
        }
    }
}

fn list(global: &Global, client: &ManagerClient, all: bool) -> anyhow::Result<()> {
    let mut query = AlertQuery { state: (!all).then_some(AlertState::Open), after: 0 };
    let mut alerts = Vec::new();
    loop {
        let mut page = client.alerts(&query)?;
        alerts.append(&mut page.alerts);
        match page.next {
            Some(next) => query.after = next,
            None => break,
        }
    }
    if global.json {
        return output::json(&alerts);
    }
    if alerts.is_empty() {
        say!("{}", if all { "no alerts" } else { "no open alerts" });
    }
    let sentences = sentences(client, &alerts)?;
    for alert in &alerts {
        line(alert);
        if let Some(sentence) = sentences.get(&alert.event) {
            say!("   {}", output::printable(sentence));
        }
    }
    if alerts.len() > MOST_SENTENCES {
        say!("`keywitness alerts show NUMBER` says of each what happened");
    }
    Ok(())
}

fn line(alert: &Alert) {
    let Alert { number, rule, at, subject, action, acknowledged, .. } = alert;
    let age = output::duration(crate::data::now().since(*at));
    let state = acknowledged.as_ref().map_or_else(|| "open".to_owned(), |by| format!("acknowledged by {}", by.by));
    say!("{number}  {rule}  {subject}  {age} ago  {action}  {}", output::printable(&state));
}

/// What happened, in words, by the numbers of the events: of the first [`MOST_SENTENCES`] alerts, as far as the caller may see it.
fn sentences(client: &ManagerClient, alerts: &[Alert]) -> anyhow::Result<BTreeMap<u64, String>> {
    let mut known = BTreeMap::new();
    for alert in alerts.iter().take(MOST_SENTENCES) {
        if !known.contains_key(&alert.event) {
            let page = patiently(|| client.events(alert.event.saturating_sub(1)))?.events;
            let wanted = |event: &Event| alerts.iter().any(|alert| alert.event == event.number);
            known.extend(page.into_iter().filter(wanted).map(|event| (event.number, event.kind.to_string())));
        }
    }
    Ok(known)
}

fn show(global: &Global, client: &ManagerClient, alert: &Alert) -> anyhow::Result<()> {
    if global.json {
        return output::json(alert);
    }
    line(alert);
    say!("raised: {}, as event {}", output::time(alert.at), alert.event);
    match sentences(client, std::slice::from_ref(alert))?.get(&alert.event) {
        Some(sentence) => say!("what happened: {}", output::printable(sentence)),
        None => say!("what happened concerns other clusters too: whoever has a credential for every cluster sees it"),
    }
    say!("to do: {}; then say so with `keywitness alerts ack {} --note TEXT`", alert.rule.advice(), alert.number);
    for evidence in &alert.evidence {
        let sequence = evidence.sequence.map_or("-".to_owned(), |sequence| sequence.to_string());
        say!(
            "evidence: log entry {sequence}, digest {}",
            evidence.digest.map_or("-".to_owned(), |digest| digest.to_string())
        );
    }
    if let Some(by) = &alert.acknowledged {
        let note = if by.note.is_empty() { "without a note" } else { &by.note };
        say!("acknowledged: {}, by {}: {}", output::time(by.at), output::printable(&by.by), output::printable(note));
    }
    Ok(())
}

/// Show what happened, one JSON document a line.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness events --follow")]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    connection: Connection,
    /// Only events after this number
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    after: u64,
    /// Go on as more happens
    #[arg(long)]
    follow: bool,
}

pub(crate) fn events(global: &Global, args: &EventsArgs) -> anyhow::Result<()> {
    let client = args.connection.operator(global)?;
    let mut after = args.after;
    loop {
        let page = client.events(after)?.events;
        for event in &page {
            after = event.number;
            say!("{}", line_of(event)?);
        }
        match (page.is_empty(), args.follow) {
            (false, _) => {}
            (true, true) => std::thread::sleep(PAUSE),
            (true, false) => return Ok(()),
        }
    }
}

fn line_of(event: &Event) -> anyhow::Result<String> {
    Ok(serde_json::to_string(event)?)
}

/// Declare that a key moves from one cluster to another, or list what was declared.
///
/// While a migration lasts, the same key in both clusters is noted and raises no alert. When it is over, whoever still proves the
/// key in the old cluster raises one.
#[derive(Subcommand)]
#[command(after_help = "Example: keywitness migration declare --key signing-1 --from old --to new --for 7d")]
pub(crate) enum Migrations {
    /// Declare a migration (operator)
    #[command(after_help = "Example: keywitness migration declare --key signing-1 --from old --to new --for 7d")]
    Declare {
        /// The key that moves
        #[arg(long)]
        key: KeyId,
        /// The cluster that has it
        #[arg(long)]
        from: ClusterId,
        /// The cluster that will have it
        #[arg(long)]
        to: ClusterId,
        /// How long both may have it, at most 30d
        #[arg(long = "for", value_name = "DURATION")]
        valid_for: humantime::Duration,
    },
    /// List the migrations under way, and those that ended within 30 days
    #[command(after_help = "Example: keywitness migration list")]
    List,
}

pub(crate) fn migration(global: &Global, args: &Asked<Migrations>) -> anyhow::Result<()> {
    let client = args.connection.operator(global)?;
    match &args.what {
        Migrations::Declare { key, from, to, valid_for } => {
            let request = MigrationRequest {
                what: Migrant::Key(key.clone()),
                from: from.clone(),
                to: to.clone(),
                valid_for: valid_for.as_secs(),
            };
            let migration = client.declare_migration(&request)?;
            if global.json {
                return output::json(&migration);
            }
            say_migration(&migration);
        }
        Migrations::List => {
            let migrations = client.migrations()?;
            if global.json {
                return output::json(&migrations);
            }
            if migrations.migrations.is_empty() {
                say!("no migrations");
            }
            migrations.migrations.iter().for_each(say_migration);
        }
    }
    Ok(())
}

fn say_migration(migration: &Migration) {
    let Migration { number, what, from, to, until, by, .. } = migration;
    let now = crate::data::now();
    let end = if *until > now { format!("ends in {}", output::duration(until.since(now))) } else { "over".to_owned() };
    say!("{number}  {what} from {from} to {to}, {end}, declared by {}", output::printable(by));
}
