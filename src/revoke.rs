//! `keywitness revoke`: revoke a key, a sharing or an HSM.

use keywitness_circuits::{ClusterId, HsmId, KeyId};
use keywitness_verifier::wire::{KeyRef, RevocationTarget, RevokeRequest};

use crate::{Global, connection::Connection, output};

/// Revoke a key, a sharing or an HSM, for good (operator).
///
/// From then on no token is issued for it and no proof of it is accepted. A token that was issued before
/// stays good until it expires, five minutes at most by default.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["hsm", "key"]))]
#[command(after_help = "Example: keywitness revoke --cluster payments --key signing-1 --reason \"lost\"")]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Revoke this HSM, with every key that it attests
    #[arg(long)]
    hsm: Option<HsmId>,
    /// Revoke this key, in every HSM of its cluster
    #[arg(long, requires = "cluster")]
    key: Option<KeyId>,
    /// The key's cluster
    #[arg(long, conflicts_with = "hsm")]
    cluster: Option<ClusterId>,
    /// Revoke only the sharing of the key at this epoch: every share of it, and not the key
    #[arg(long, value_name = "EPOCH", requires = "key", conflicts_with = "hsm")]
    sharing: Option<u32>,
    /// Why; recorded, and shown to whoever is refused
    #[arg(long, allow_hyphen_values = true)]
    reason: String,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let target = match (&args.hsm, &args.key, &args.cluster) {
        (Some(hsm), None, None) => RevocationTarget::Hsm(hsm.clone()),
        (None, Some(key), Some(cluster)) => match args.sharing {
            Some(epoch) => {
                RevocationTarget::Sharing { cluster: cluster.clone(), key: KeyRef { key: key.clone(), epoch } }
            }
            None => RevocationTarget::Key { cluster: cluster.clone(), key: key.clone() },
        },
        _ => anyhow::bail!("give --hsm HSM, or --cluster CLUSTER --key KEY"),
    };
    let request = RevokeRequest { target, reason: args.reason.clone() };
    let revocation = args.connection.operator(global)?.revoke(&request)?;
    if global.json {
        return output::json(&revocation);
    }
    say!("revoked {}: {}", revocation.target, revocation.reason);
    Ok(())
}
