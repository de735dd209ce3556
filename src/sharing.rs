//! `keywitness sharing`: deal a key to holders.

use std::sync::Arc;

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use keywitness_circuits::KeyId;
use keywitness_custody::{Purpose, Scheme, SealingKey};
use keywitness_prover::{
    Access, AgentConfig,
    agent::sharing::Deal,
    process::{Holder, Sharing},
    store::current_keys,
};

use crate::{
    Global,
    agent::{Left, Place},
    output,
};

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
    ///
    /// With =KEY, the sealing key that `keywitness key list` prints in that HSM, its share is sealed to no other key. Without it
    /// the manager's word is taken, and the key is printed.
    #[arg(long = "holder", value_name = "HSM[=KEY]", required = true, value_parser = holder)]
    holders: Vec<Holder>,
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

/// The name of an HSM, and perhaps its sealing key.
fn holder(text: &str) -> anyhow::Result<Holder> {
    let (hsm, key) = text.split_once('=').map_or((text, None), |(hsm, key)| (hsm, Some(key)));
    let sealing_key = key.map(|key| {
        let bytes =
            data_encoding::HEXLOWER_PERMISSIVE.decode(key.as_bytes()).context("a sealing key is hexadecimal")?;
        let bytes: [u8; 33] = bytes.try_into().map_err(|_| anyhow::anyhow!("a sealing key has 66 digits"))?;
        Ok::<_, anyhow::Error>(data_encoding::HEXLOWER.encode(SealingKey::from_bytes(&bytes)?.as_bytes()))
    });
    Ok(Holder { hsm: hsm.parse()?, sealing_key: sealing_key.transpose()? })
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let Command::Deal(args) = &args.command;
    // The process with the keys deals this and nothing else.
    let (key, holders) = (args.key.clone(), args.holders.clone());
    let sharing = Sharing::new(key, args.purpose.into(), args.threshold, holders);
    let store = args.place.open(global, Access::Read, Left { sharing: Some(sharing), ..Left::default() })?;
    let newest = current_keys(&*store).into_iter().find(|entry| entry.key.key == args.key);
    let Some(entry) = newest else {
        anyhow::bail!("this store has no key {}; `keywitness key list` shows its keys", args.key)
    };
    let agent = args.place.agent(global, Arc::clone(&store), AgentConfig::default(), |told| told)?;
    let sharing = agent.deal(&Deal {
        key: &entry.key,
        purpose: args.purpose.into(),
        threshold: args.threshold,
        holders: &args.holders.iter().map(|holder| holder.hsm.clone()).collect::<Vec<_>>(),
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
