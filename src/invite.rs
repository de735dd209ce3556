//! `keywitness join-token`: what an operator hands to an HSM's operator.

use keywitness_circuits::{ClusterId, HsmId};
use keywitness_verifier::wire::JoinTokenRequest;

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
    /// Let this enrolled HSM return with another identity: the only way back for one that is revoked
    #[arg(long, value_name = "HSM", conflicts_with = "hsm")]
    reenrol: Option<HsmId>,
    /// How long it can be used
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    valid_for: humantime::Duration,
}

pub(crate) fn join_token(global: &Global, args: &JoinTokenArgs) -> anyhow::Result<()> {
    let request = JoinTokenRequest {
        cluster: args.cluster.clone(),
        hsm: args.reenrol.clone().or_else(|| args.hsm.clone()),
        reenrol: args.reenrol.is_some(),
        valid_for: args.valid_for.as_secs(),
    };
    let token = args.connection.operator(global)?.join_token(&request)?;
    if global.json {
        return output::json(&token);
    }
    say!("{}", token.secret);
    eprintln!("good once, for {}", args.valid_for);
    Ok(())
}
