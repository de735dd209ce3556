//! `keywitness sharing`: deal a key to holders.

use std::sync::Arc;

use clap::{Subcommand, ValueEnum};
use keywitness_circuits::{HsmId, KeyId};
use keywitness_custody::{Purpose, Scheme};
use keywitness_prover::{Access, AgentConfig, agent::sharing::Deal, store::current_keys};

use crate::{Global, agent::Place, output};

/// Deal a key to holders, who attest their shares from then on.
///
/// Any THRESHOLD shares restore the key, and fewer say nothing about it. Each share is sealed to its holder; a holder that
/// gets a bad one proves it to everyone, and the sharing is revoked. A share is a key of its holder, named KEY.CLUSTER.INDEX: it
/// has records, tokens and a status, and is revoked with `keywitness revoke`.
#[derive(clap::Args)]
#[command(
    after_help = "Example: keywitness sharing deal --store hsm-1/store --key root --threshold 2 --holder hsm-1 --holder hsm-2 \
                  --holder hsm-3"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Deal a ristretto255 key of this HSM
    #[command(
        after_help = "Example: keywitness sharing deal --store hsm-1/store --key root --threshold 2 --holder hsm-1 --holder \
                      hsm-2 --holder hsm-3"
    )]
    Deal(DealArgs),
}

#[derive(clap::Args)]
struct DealArgs {
    #[command(flatten)]
    place: Place,
    /// The key; its newest epoch is dealt
    #[arg(long)]
    key: KeyId,
    /// How many shares restore the key
    #[arg(long)]
    threshold: u16,
    /// An HSM that gets a share; give it once for each. Indices are given in this order, from 1
    #[arg(long = "holder", value_name = "HSM", required = true)]
    holders: Vec<HsmId>,
    /// What the shares are for: one key, one purpose
    #[arg(long, value_enum, default_value = "sign")]
    purpose: PurposeName,
    /// Hide the key's public point: for a secret that could be guessed. Nobody can then check which key is shared
    #[arg(long)]
    blinded: bool,
}

/// A purpose as it is written on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum PurposeName {
    /// Threshold signing
    Sign,
    /// Threshold decryption
    Decrypt,
    /// A threshold pseudorandom function
    Evaluate,
    /// Handing the secret itself to its owner
    Reveal,
}

impl From<PurposeName> for Purpose {
    fn from(name: PurposeName) -> Self {
        match name {
            PurposeName::Sign => Self::Sign,
            PurposeName::Decrypt => Self::Decrypt,
            PurposeName::Evaluate => Self::Evaluate,
            PurposeName::Reveal => Self::Reveal,
        }
    }
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let Command::Deal(args) = &args.command;
    let store = args.place.open(global, Access::Read, &[])?;
    let newest = current_keys(&*store).into_iter().find(|entry| entry.key.key == args.key);
    let Some(entry) = newest else {
        anyhow::bail!("this store has no key {}; `keywitness key list` shows its keys", args.key)
    };
    let agent = args.place.agent(global, Arc::clone(&store), AgentConfig::default(), |told| told)?;
    let sharing = agent.deal(&Deal {
        key: &entry.key,
        purpose: args.purpose.into(),
        threshold: args.threshold,
        holders: &args.holders,
        scheme: if args.blinded { Scheme::Pedersen } else { Scheme::Feldman },
    })?;
    if global.json {
        return output::json(&sharing);
    }
    let (shared, shares) = (&sharing.key, sharing.shares.len());
    say!("key {} at epoch {}: any {} of {shares} shares restore it", shared.key, shared.epoch, sharing.threshold);
    for share in &sharing.shares {
        say!("  {} will attest {}", share.holder, share.key);
    }
    Ok(())
}
