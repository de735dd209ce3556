//! `keywitness join-token` and `keywitness credential`: what an operator hands out.

use keywitness_circuits::{ClusterId, HsmId};
use keywitness_verifier::wire::{CredentialRequest, JoinTokenRequest, Role};

use crate::{Global, connection::Connection, output};

/// Make a single-use join token, with which one HSM enrols.
///
/// Give it to the HSM's operator over a channel you trust: whoever uses it first becomes that HSM.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
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
    println!("{}", token.secret);
    eprintln!("good once, for {}", args.valid_for);
    Ok(())
}

/// Make a bearer credential. It is shown once; the manager keeps only its digest.
#[derive(clap::Args)]
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
    if global.json {
        return output::json(&credential);
    }
    println!("{}", credential.secret);
    Ok(())
}
