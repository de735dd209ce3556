//! `keywitness revoke`, `suspend` and `reinstate`: taking trust back, and giving it again.

use keywitness_circuits::{ClusterId, Digest, HsmId, KeyId};
use keywitness_verifier::wire::{KeyRef, Reason, ReasonCode, ReinstateRequest, RevocationTarget, RevokeRequest};

use crate::{Global, connection::Connection, output};

/// What is meant.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["hsm", "key", "cluster_wide", "verifying_key"]))]
struct Target {
    /// This HSM, with every key that it attests
    #[arg(long)]
    hsm: Option<HsmId>,
    /// This key, in every HSM of its cluster
    #[arg(long, requires = "cluster")]
    key: Option<KeyId>,
    /// The cluster of the key, or the whole cluster with --cluster-wide
    #[arg(long, conflicts_with_all = ["hsm", "verifying_key"])]
    cluster: Option<ClusterId>,
    /// Only the sharing of the key at this epoch: every share of it, and not the key
    #[arg(long, value_name = "EPOCH", requires = "key", conflicts_with = "hsm")]
    sharing: Option<u32>,
    /// The whole cluster: every HSM and every key in it
    #[arg(long, requires = "cluster")]
    cluster_wide: bool,
    /// Every proof under the verifying key of this digest: the circuit was found unsound
    #[arg(long, value_name = "DIGEST")]
    verifying_key: Option<Digest>,
}

impl Target {
    fn named(&self) -> anyhow::Result<RevocationTarget> {
        let Self { hsm, key, cluster, sharing, cluster_wide, verifying_key } = self;
        Ok(match (hsm, key, cluster, verifying_key) {
            (Some(hsm), None, None, None) => RevocationTarget::Hsm(hsm.clone()),
            (None, None, None, Some(digest)) => RevocationTarget::VerifyingKey(*digest),
            (None, None, Some(cluster), None) if *cluster_wide => RevocationTarget::Cluster(cluster.clone()),
            (None, Some(key), Some(cluster), None) => match sharing {
                Some(epoch) => RevocationTarget::Sharing {
                    cluster: cluster.clone(),
                    key: KeyRef { key: key.clone(), epoch: *epoch },
                },
                None => RevocationTarget::Key { cluster: cluster.clone(), key: key.clone() },
            },
            _ => anyhow::bail!(
                "give --hsm HSM, --cluster CLUSTER --key KEY, --cluster CLUSTER --cluster-wide, or --verifying-key DIGEST"
            ),
        })
    }
}

/// Revoke a key, a sharing, an HSM, a cluster or a circuit, for good (operator).
///
/// From then on no token is issued for it and no proof of it is accepted, and status lists say so within a minute. A
/// checker that reads no status list accepts a token that was issued before until it expires, five minutes at most by
/// default.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness revoke --cluster payments --key signing-1 --reason \"lost\"")]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    why: Why,
}

/// Why.
#[derive(clap::Args)]
struct Why {
    /// Why; recorded, and shown to whoever is refused
    #[arg(long, allow_hyphen_values = true)]
    reason: String,
    /// Why, for machines: key-compromise, superseded, cessation, privilege-withdrawn, circuit-unsound, fraud
    #[arg(long, value_name = "CODE", default_value = "unspecified")]
    reason_code: ReasonCode,
}

impl Why {
    fn reason(&self) -> Reason {
        Reason::new(self.reason_code, self.reason.clone())
    }
}

/// Suspend a key, a sharing, an HSM, a cluster or a circuit, until it is reinstated (operator).
///
/// While it is suspended no token is issued for it and no proof of it is accepted, and status lists say so within a minute.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness suspend --hsm hsm-2 --reason \"found open\" --reason-code fraud")]
pub(crate) struct SuspendArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    why: Why,
}

/// End a suspension, or let a revoked key's name be used again from its next epoch on, with other material (operator).
///
/// A revoked HSM is not reinstated: it returns with another identity (keywitness join-token --reenrol).
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness reinstate --hsm hsm-2 --reason \"looked at, and sealed again\"")]
pub(crate) struct ReinstateArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    why: Why,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let request = RevokeRequest { target: args.target.named()?, reason: args.why.reason() };
    let revocation = args.connection.operator(global)?.revoke(&request)?;
    if global.json {
        return output::json(&revocation);
    }
    say!("revoked {}: {}", revocation.target, revocation.reason);
    Ok(())
}

pub(crate) fn suspend(global: &Global, args: &SuspendArgs) -> anyhow::Result<()> {
    let request = RevokeRequest { target: args.target.named()?, reason: args.why.reason() };
    let revocation = args.connection.operator(global)?.suspend(&request)?;
    if global.json {
        return output::json(&revocation);
    }
    say!("{} is {}: {}", revocation.target, revocation.standing, revocation.reason);
    Ok(())
}

pub(crate) fn reinstate(global: &Global, args: &ReinstateArgs) -> anyhow::Result<()> {
    let request = ReinstateRequest { target: args.target.named()?, reason: args.why.reason() };
    args.connection.operator(global)?.reinstate(&request)?;
    if global.json {
        return output::json(&request);
    }
    say!("reinstated {}", request.target);
    Ok(())
}
