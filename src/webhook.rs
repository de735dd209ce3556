//! `keywitness webhook`: who is told of alerts by the manager itself.

use clap::Subcommand;
use keywitness_verifier::wire::{Webhook, WebhookReplay};

use crate::{Global, connection::Asked, output};

/// List the webhooks of the manager's settings, have one be told again, or send it a test (operator).
#[derive(Subcommand)]
#[command(after_help = "Example: keywitness webhook replay pager --after 0")]
pub(crate) enum Webhooks {
    /// Every webhook, how far its receiver was told, and what goes wrong
    #[command(after_help = "Example: keywitness webhook list")]
    List,
    /// Deliver everything after an event once more, or skip up to it what the receiver cannot take
    #[command(after_help = "Example: keywitness webhook replay pager --after 0")]
    Replay {
        /// The webhook
        name: String,
        /// Number of the last event that is not to be delivered, as `keywitness events` shows it
        #[arg(long, value_name = "NUMBER")]
        after: u64,
    },
    /// Send a test message, and wait for its answer
    #[command(after_help = "Example: keywitness webhook test pager")]
    Test {
        /// The webhook
        name: String,
    },
}

pub(crate) fn run(global: &Global, args: &Asked<Webhooks>) -> anyhow::Result<()> {
    let operator = args.connection.operator(global)?;
    match &args.what {
        Webhooks::List => {
            let all = operator.webhooks()?;
            if global.json {
                return output::json(&all);
            }
            if all.webhooks.is_empty() {
                say!("no webhooks: the manager's settings have none (webhooks.sinks)");
            }
            all.webhooks.iter().for_each(line);
            if let Some(key) = all.public_key {
                say!("signed with {key}");
            }
        }
        Webhooks::Replay { name, after } => {
            let webhook = operator.replay_webhook(name, WebhookReplay { after: *after })?;
            if global.json {
                return output::json(&webhook);
            }
            line(&webhook);
        }
        Webhooks::Test { name } => {
            let test = operator.test_webhook(name)?;
            if global.json {
                output::json(&test)?;
            }
            if !test.delivered {
                let error = test.error.unwrap_or_default();
                return Err(output::No(format!("{name} did not take the test: {error}")).into());
            }
            if !global.json {
                say!("{name} took the test");
            }
        }
    }
    Ok(())
}

fn line(webhook: &Webhook) {
    let Webhook { health, origin, sends, error, .. } = webhook;
    let (name, behind) = (&health.name, health.behind);
    let state = match (health.failing_since, error) {
        (Some(since), Some(error)) => {
            let ago = output::duration(crate::data::now().since(since));
            format!("failing for {ago}, {} times: {}", health.failures, output::printable(error))
        }
        _ => "well".to_owned(),
    };
    say!("{name}  {origin}  {}  told up to event {}, {behind} behind  {state}", sends.name(), health.delivered);
}
