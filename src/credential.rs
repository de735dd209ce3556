//! `keywitness credential`: what an operator hands to people and services, and takes back.

use anyhow::Context;
use keywitness_circuits::{ClusterId, Digest};
use keywitness_verifier::{
    operation::ClientKey,
    wire::{CredentialId, CredentialInfo, CredentialRequest, Role},
};

use crate::{Global, connection::Connection, output};

/// Make a bearer credential (operator), list credentials, or withdraw one.
///
/// A credential is shown once; the manager keeps only its digest. It may be bounded to clusters (--cluster) and in time
/// (--expires), and withdrawn.
///
/// A client's credential also gives it a signing key, for operations that it asks of HSMs. An HSM's operator allows that
/// key (keywitness agent --allow-client KEY); no HSM ever sees the credential.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Example: keywitness credential --role client --name shop --expires 90d > client.credential"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    connection: Connection,
    /// Who will hold it
    #[arg(long, required = true)]
    name: Option<String>,
    /// What it may be used for: operator, client, viewer or auditor
    #[arg(long, required = true)]
    role: Option<Role>,
    /// A cluster that it is good for; may be given again. Every cluster when left out
    #[arg(long, value_name = "CLUSTER")]
    cluster: Vec<ClusterId>,
    /// How long it is good; until it is withdrawn when left out
    #[arg(long, value_name = "DURATION")]
    expires: Option<humantime::Duration>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Show every credential, but for the secrets
    #[command(after_help = "Example: keywitness credential list")]
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Withdraw a credential: it opens nothing from the next request on
    #[command(after_help = "Example: keywitness credential withdraw 0011223344556677")]
    Withdraw {
        #[command(flatten)]
        connection: Connection,
        /// Its id, which `keywitness credential list` shows
        id: CredentialId,
    },
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.action {
        None => make(global, args),
        Some(Action::List { connection }) => list(global, connection),
        Some(Action::Withdraw { connection, id }) => {
            connection.operator(global)?.withdraw_credential(*id)?;
            if global.json {
                return output::json(&serde_json::json!({ "withdrawn": id }));
            }
            say!("withdrew credential {id}");
            Ok(())
        }
    }
}

fn make(global: &Global, args: &Args) -> anyhow::Result<()> {
    let (name, role) = (args.name.clone().context("--name is missing")?, args.role.context("--role is missing")?);
    let request = CredentialRequest {
        name,
        role,
        clusters: (!args.cluster.is_empty()).then(|| args.cluster.clone()),
        valid_for: args.expires.map(|life| life.as_secs()),
    };
    let credential = args.connection.operator(global)?.credential(&request)?;
    let client_key = match credential.role {
        Role::Client => Some(Digest::from(ClientKey::from_credential(&credential.secret).public()?)),
        Role::Operator | Role::Viewer | Role::Auditor => None,
    };
    if global.json {
        return output::json(&serde_json::json!({
            "secret": credential.secret,
            "role": credential.role,
            "id": credential.id,
            "expires_at": credential.expires_at,
            "client_key": client_key,
        }));
    }
    say!("{}", credential.secret);
    eprintln!("its id, to withdraw it: {}", credential.id);
    if let Some(key) = client_key {
        eprintln!("its key for operations, which HSMs allow: {key}");
    }
    Ok(())
}

fn list(global: &Global, connection: &Connection) -> anyhow::Result<()> {
    let list = connection.operator(global)?.credentials()?;
    if global.json {
        return output::json(&list);
    }
    let mut table = output::table(["id", "name", "role", "clusters", "state"]);
    for credential in &list.credentials {
        let clusters = credential.clusters.as_ref().map_or("every cluster".to_owned(), |clusters| {
            clusters.iter().map(ClusterId::to_string).collect::<Vec<_>>().join(", ")
        });
        let (id, role) = (credential.id.to_string(), credential.role.to_string());
        table.add_row([id, credential.name.clone(), role, clusters, state(credential)]);
    }
    say!("{}", table.trim_fmt());
    Ok(())
}

fn state(credential: &CredentialInfo) -> String {
    match (credential.withdrawn_at, credential.expires_at) {
        (Some(when), _) => format!("withdrawn {}", output::time(when)),
        (None, Some(when)) => format!("until {}", output::time(when)),
        (None, None) => "until withdrawn".to_owned(),
    }
}
