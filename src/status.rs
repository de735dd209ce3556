//! `keywitness status`: who has proven what.

use keywitness_circuits::{ClusterId, HsmId, KeyId};
use keywitness_verifier::wire::KeyQuery;

use crate::{Global, connection::Connection, output};

/// Show which HSM has proven which key, and whether that still holds.
///
/// With --key, answers for that key alone, and ends with exit code 1 unless it is attested. The other filters go with it.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness status --key signing-1 --max-age 5m && echo attested")]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Only this key
    #[arg(long)]
    key: Option<KeyId>,
    /// The key's cluster
    #[arg(long, requires = "key")]
    cluster: Option<ClusterId>,
    /// Only in this HSM
    #[arg(long, requires = "key")]
    hsm: Option<HsmId>,
    /// Oldest proof that counts, such as 5m
    #[arg(long, requires = "key", value_name = "DURATION")]
    max_age: Option<humantime::Duration>,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.key {
        None => everything(global, args),
        Some(key) => one_key(global, args, key),
    }
}

fn everything(global: &Global, args: &Args) -> anyhow::Result<()> {
    let status = args.connection.looking(global)?.status()?;
    if global.json {
        return output::json(&status);
    }
    say!("{}", output::status_table(&status.keys, status.now));
    for revocation in &status.revocations {
        say!(
            "{}: {}, {} ago: {}",
            revocation.standing,
            revocation.target,
            output::duration(status.now.since(revocation.at)),
            output::printable(&revocation.reason.to_string())
        );
    }
    say!("events: {}, fraud alerts: {}, open: {}", status.events, status.alerts, status.open_alerts);
    let checking = &status.verification;
    say!(
        "proofs: {} waiting, {:.1} checked at once, {} turned away, {} HSMs checked apart",
        checking.queued,
        checking.mean_batch,
        checking.busy,
        checking.isolated
    );
    Ok(())
}

fn one_key(global: &Global, args: &Args, key: &KeyId) -> anyhow::Result<()> {
    let query = KeyQuery {
        key: key.clone(),
        cluster: args.cluster.clone(),
        hsm: args.hsm.clone(),
        max_age: args.max_age.map(|age| age.as_secs()),
    };
    let status = args.connection.looking(global)?.attested(&query)?;
    if global.json {
        output::json(&status)?;
    } else {
        say!("{}", output::status_table(&status.hsms, crate::data::now()));
    }
    if status.attested { Ok(()) } else { Err(output::No(format!("{key} is not attested")).into()) }
}
