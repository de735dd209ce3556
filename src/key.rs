//! `keywitness key`: the keys of a key store.

use std::{io::Read, path::PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use comfy_table::{Table, presets};
use keywitness_circuits::{KeyAlgorithm, KeyId, KeyOrigin, TrustDomain};
use keywitness_prover::{Access, KeyEntry, KeyStore, Placement};
use zeroize::Zeroizing;

use crate::{Global, output, store::StoreArgs};

/// Generate, import, derive or list the keys of a key store.
///
/// A store is one file, encrypted under a passphrase (Argon2id) or a key file. The first key makes it, together with
/// the HSM's identity key and channel key.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness key generate --store hsm-1/store --key signing-1 --algorithm ed25519")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate a key
    Generate {
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        new: NewKey,
    },
    /// Import a key: PKCS#8 PEM, hexadecimal text, or raw bytes. Weak keys are refused
    Import {
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        new: NewKey,
        /// File with the key, or - for standard input
        #[arg(long)]
        file: PathBuf,
    },
    /// Derive a key from a master key of the store, so that both can be proven to belong together
    Derive {
        #[command(flatten)]
        store: StoreArgs,
        /// The master key's name: an AES or HMAC key
        #[arg(long)]
        master: KeyId,
        #[command(flatten)]
        new: NewKey,
        /// The trust domain that the key is for, where the store is not enrolled in one yet
        #[arg(long)]
        trust_domain: Option<TrustDomain>,
    },
    /// List the keys, without their secrets
    List {
        #[command(flatten)]
        store: StoreArgs,
    },
}

#[derive(clap::Args)]
struct NewKey {
    /// The key's name
    #[arg(long)]
    key: KeyId,
    /// ed25519, ristretto255, p256, secp256k1, aes128, aes192, aes256, hmac-sha256, aes128-cmac, aes192-cmac or
    /// aes256-cmac
    #[arg(long)]
    algorithm: KeyAlgorithm,
    /// Replace the key of that name by its next epoch
    #[arg(long)]
    rotate: bool,
}

impl NewKey {
    fn placement(&self) -> Placement {
        if self.rotate { Placement::Rotate } else { Placement::New }
    }
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let entries = match &args.command {
        Command::Generate { store, new } => {
            vec![store.open_or_create()?.generate(&new.key, new.algorithm, new.placement())?]
        }
        Command::Import { store, new, file } => {
            let material = read(file)?;
            vec![store.open_or_create()?.import(&new.key, new.algorithm, &material, new.placement())?]
        }
        Command::Derive { store, master, new, trust_domain } => {
            let store = store.open(Access::Write)?;
            let enrolled = store.membership().map(|membership| membership.audience.trust_domain);
            let trust_domain = match (enrolled, trust_domain) {
                (Some(enrolled), Some(named)) if enrolled != *named => {
                    bail!("the store is enrolled in trust domain {enrolled}, and the key would be for {named}")
                }
                (Some(enrolled), _) => enrolled,
                (None, Some(named)) => named.clone(),
                (None, None) => bail!("the store is not enrolled yet: name the trust domain with --trust-domain"),
            };
            vec![store.derive(master, &new.key, new.algorithm, &trust_domain, new.placement())?]
        }
        Command::List { store } => store.open(Access::Read)?.keys(),
    };
    print(global, &entries)
}

fn print(global: &Global, entries: &[KeyEntry]) -> anyhow::Result<()> {
    if global.json {
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| serde_json::json!({ "key": entry.key.key, "epoch": entry.key.epoch, "attributes": entry.attributes }))
            .collect();
        return output::json(&entries);
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["key", "epoch", "algorithm", "origin"]);
    for KeyEntry { key, attributes } in entries {
        let origin = match attributes.origin {
            KeyOrigin::Generated => "generated",
            KeyOrigin::Imported => "imported",
            KeyOrigin::Derived => "derived",
        };
        table.add_row([key.key.as_str(), &key.epoch.to_string(), attributes.algorithm.name(), origin]);
    }
    say!("{table}");
    Ok(())
}

fn read(file: &std::path::Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    if file.as_os_str() == "-" {
        let mut material = Zeroizing::new(Vec::with_capacity(64 * 1024));
        std::io::stdin().take(64 * 1024).read_to_end(&mut material).context("cannot read standard input")?;
        return Ok(material);
    }
    Ok(Zeroizing::new(std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?))
}
