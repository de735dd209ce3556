//! `keywitness join-token` and `keywitness credential`: what an operator hands out.

use keywitness_circuits::{ClusterId, Digest, HsmId};
use keywitness_verifier::{
    operation::ClientKey,
    wire::{CredentialRequest, JoinTokenRequest, Role},
};

use crate::{Global, connection::Connection, output};

/// Make a single-use join token, with which one HSM enrols (operator).
///
/// Give it to the HSM's operator over a channel you trust: whoever uses it first becomes that HSM.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness join-token --cluster payments --hsm hsm-1 > token")]
pub(crate) struct JoinTokenArgs {
    #[command(flatten)]
    connection: Connection,
    /// The cluster that the HSM will belong to: the HSMs that may hold the same keys
    #[arg(long)]
    cluster: ClusterId,
    /// The only HSM that may use it
    #[arg(long)]
    hsm: Option<HsmId>,
    /// How long it can be used
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    valid_for: humantime::Duration,
}

pub(crate) fn join_token(global: &Global, args: &JoinTokenArgs) -> anyhow::Result<()> {
    let request =
        JoinTokenRequest { cluster: args.cluster.clone(), hsm: args.hsm.clone(), valid_for: args.valid_for.as_secs() };
    let token = args.connection.operator(global)?.join_token(&request)?;
    if global.json {
        return output::json(&token);
    }
    say!("{}", token.secret);
    eprintln!("good once, for {}", args.valid_for);
    Ok(())
}

/// Make a bearer credential (operator). It is shown once; the manager keeps only its digest.
///
/// A client's credential also gives it a signing key, for operations that it asks of HSMs. An HSM's operator allows that
/// key (keywitness agent --allow-client KEY); no HSM ever sees the credential.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness credential --role client --name shop > client.credential")]
pub(crate) struct CredentialArgs {
    #[command(flatten)]
    connection: Connection,
    /// Who will hold it
    #[arg(long)]
    name: String,
    /// What it may be used for: operator, client or viewer
    #[arg(long)]
    role: Role,
}

pub(crate) fn credential(global: &Global, args: &CredentialArgs) -> anyhow::Result<()> {
    let request = CredentialRequest { name: args.name.clone(), role: args.role };
    let credential = args.connection.operator(global)?.credential(&request)?;
    let client_key = match credential.role {
        Role::Client => Some(Digest::from(ClientKey::from_credential(&credential.secret).public()?)),
        Role::Operator | Role::Viewer | Role::Auditor => None,
    };
    if global.json {
        let document =
            serde_json::json!({ "secret": credential.secret, "role": credential.role, "client_key": client_key });
        return output::json(&document);
    }
    say!("{}", credential.secret);
    if let Some(key) = client_key {
        eprintln!("its key for operations, which HSMs allow: {key}");
    }
    Ok(())
}
