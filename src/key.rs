//! `keywitness key`: the keys of a key store.

use std::{
    io::{IsTerminal, Read},
    path::PathBuf,
};

use anyhow::{Context, bail};
use clap::Subcommand;
use comfy_table::{Table, presets};
use keywitness_circuits::{Digest, KeyAlgorithm, KeyId, KeyOrigin, TokenAttributes, TrustDomain};
use keywitness_prover::{Access, IDENTITY, KeyEntry, KeyStore, Placement, Token, TokenKey, WRAPPING};
use keywitness_verifier::wire::KeyRef;
use zeroize::Zeroizing;

use crate::{
    Global, output,
    store::{Opened, StoreArgs},
};

/// Generate, import, derive, list or remove the keys of a key store.
///
/// A store is one file, encrypted under a passphrase (Argon2id) or a key file. The first key makes it, together with
/// the HSM's identity key and channel key.
///
/// With --pkcs11-module, keys are generated in a PKCS#11 token instead, and cannot leave it; the store's file keeps the
/// HSM's identity. In a token, a key's name is its CKA_LABEL, and a CKA_ID of four bytes is its epoch.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness key generate --store hsm-1/store --key signing-1 --algorithm ed25519")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate a key
    #[command(after_help = "Example: keywitness key generate --store hsm-1/store --key signing-1 --algorithm ed25519")]
    Generate {
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        new: NewKey,
        /// A key in a token may leave it wrapped by the token's key keywitness-wrap, so that other HSMs of the cluster get it
        #[arg(long)]
        extractable: bool,
    },
    /// Import a key into the store's file: PKCS#8 PEM, hexadecimal text, or raw bytes. Weak keys are refused
    #[command(
        after_help = "Example: keywitness key import --store hsm-1/store --key storage-1 --algorithm aes256 --file storage-1.hex"
    )]
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
    #[command(
        after_help = "Example: keywitness key derive --store hsm-1/store --master master --key daily --algorithm aes128"
    )]
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
    /// Print the HSM's public identity key, by which envelopes are verified; with --json the key that shares are sealed to, too
    #[command(after_help = "Example: keywitness key identity --store hsm-1/store")]
    Identity {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Remove a key from the store's file or from a token, for good. Others that hold it keep it; revoke it where it is not to be
    /// trusted any more
    #[command(after_help = "Example: keywitness key delete --store hsm-1/store --key signing-1 --epoch 1")]
    Delete {
        #[command(flatten)]
        store: StoreArgs,
        /// The key's name
        #[arg(long)]
        key: KeyId,
        /// Its epoch; may be left out where it has one alone
        #[arg(long)]
        epoch: Option<u32>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// List the keys, without their secrets: where each lives, and whether it can leave that place
    #[command(after_help = "Example: keywitness key list --store hsm-1/store\n         \
                      keywitness key list --store 'pkcs11:token=vault?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/pin'")]
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
    let rows = match &args.command {
        Command::Generate { store, new, extractable } => vec![match store.open_or_create()? {
            Opened::Software(_) if *extractable => {
                bail!("only a key in a token can be told to stay or to leave: name the token")
            }
            Opened::Software(store) => Row::software(store.generate(&new.key, new.algorithm, new.placement())?),
            Opened::Token(store) => {
                let made = store.generate_as(&new.key, new.algorithm, new.placement(), *extractable)?;
                Row::token(store.token(), made)
            }
        }],
        Command::Import { store, .. } if store.names_token()? => anyhow::bail!(
            "keys are not imported into a token: generate them there, or bring them in with the token's own tools"
        ),
        Command::Import { store, new, file } => {
            let material = read(file)?;
            let store = store.open_or_create_file()?;
            vec![Row::software(store.import(&new.key, new.algorithm, &material, new.placement())?)]
        }
        Command::Derive { store, master, new, trust_domain } => {
            let store = store.open_file(Access::Write)?;
            let enrolled = store.membership().map(|membership| membership.audience.trust_domain);
            let trust_domain = match (enrolled, trust_domain) {
                (Some(enrolled), Some(named)) if enrolled != *named => {
                    bail!("the store is enrolled in trust domain {enrolled}, and the key would be for {named}")
                }
                (Some(enrolled), _) => enrolled,
                (None, Some(named)) => named.clone(),
                (None, None) => bail!("the store is not enrolled yet: name the trust domain with --trust-domain"),
            };
            vec![Row::software(store.derive(master, &new.key, new.algorithm, &trust_domain, new.placement())?)]
        }
        Command::Identity { store } => {
            return match store.open(Access::Read)? {
                Opened::Software(store) => identity(global, &*store),
                Opened::Token(store) => identity(global, &*store),
            };
        }
        Command::Delete { store, key, epoch, yes } => return delete(store, (key, *epoch), *yes),
        Command::List { store } => list(global, store)?,
    };
    print(global, &rows)
}

/// Every key of the store's file and of the token, of those that are named.
fn list(global: &Global, store: &StoreArgs) -> anyhow::Result<Vec<Row>> {
    if let Some(token) = store.token_alone()? {
        return of_token(&token);
    }
    Ok(match store.open(Access::Read)? {
        Opened::Software(store) => {
            public_keys(global, &*store)?;
            store.keys().into_iter().map(Row::software).collect()
        }
        Opened::Token(store) => {
            public_keys(global, &*store)?;
            store.software().keys().into_iter().map(Row::software).chain(of_token(store.token())?).collect()
        }
    })
}

fn of_token(token: &Token) -> anyhow::Result<Vec<Row>> {
    Ok(token.keys()?.into_iter().map(|key| Row::token(token, key)).collect())
}

/// Removes a key, after a question.
fn delete(store: &StoreArgs, (name, epoch): (&KeyId, Option<u32>), yes: bool) -> anyhow::Result<()> {
    let one = |epochs: Vec<u32>| -> anyhow::Result<KeyRef> {
        let epoch = match (epoch, epochs.as_slice()) {
            (Some(epoch), _) => epoch,
            (None, [epoch]) => *epoch,
            (None, []) => bail!("there is no key {name}"),
            (None, several) => bail!("key {name} has {} epochs: say which, with --epoch", several.len()),
        };
        Ok(KeyRef { key: name.clone(), epoch })
    };
    let named = |key: &KeyRef| (key.key == *name).then_some(key.epoch);
    if let Some(token) = store.token_alone()? {
        // Which identity is the HSM's, and whether it wraps, is known with the store's file.
        if [IDENTITY, WRAPPING].contains(&name.as_str()) {
            bail!("key {name} is no key that is attested, and is not removed: an HSM, or its cluster, may stand on it");
        }
        let key = one(token.keys()?.iter().filter_map(|held| named(&held.key)).collect())?;
        confirm(&key, yes)?;
        return Ok(token.delete(&key)?);
    }
    match store.open(Access::Write)? {
        Opened::Software(store) => {
            let key = one(store.keys().iter().filter_map(|held| named(&held.key)).collect())?;
            confirm(&key, yes)?;
            store.delete(&key)?;
        }
        Opened::Token(store) => {
            let of_file = store.software().keys().into_iter().map(|held| held.key);
            let all = of_file.chain(store.token().keys()?.into_iter().map(|held| held.key));
            let key = one(all.filter_map(|key| named(&key)).collect())?;
            confirm(&key, yes)?;
            store.delete(&key)?;
        }
    }
    Ok(())
}

fn confirm(key: &KeyRef, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("key {key} would be gone for good; say so with --yes");
    }
    eprint!("Remove key {key} for good? Type its name: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() != key.key.as_str() {
        bail!("nothing was removed");
    }
    Ok(())
}

/// Prints the key that others verify this HSM's signatures by.
fn identity(global: &Global, store: &dyn KeyStore) -> anyhow::Result<()> {
    let identity = Digest::from(store.identity());
    if global.json {
        let sealing = data_encoding::HEXLOWER.encode(store.sealing_key()?.as_bytes());
        return output::json(&serde_json::json!({ "identity_key": identity, "sealing_key": sealing }));
    }
    say!("{identity}");
    Ok(())
}

/// Says which keys others know this HSM by: its identity key, which `keywitness verify envelope` asks for, and the one that
/// shares are sealed to, which a dealer compares with what it is shown.
fn public_keys(global: &Global, store: &dyn KeyStore) -> anyhow::Result<()> {
    if !global.json {
        eprintln!("identity key: {}", Digest::from(store.identity()));
        eprintln!("sealing key: {}", data_encoding::HEXLOWER.encode(store.sealing_key()?.as_bytes()));
    }
    Ok(())
}

/// A key as it is listed.
struct Row {
    key: KeyRef,
    algorithm: &'static str,
    origin: KeyOrigin,
    place: String,
    extractable: bool,
    /// What only a token says.
    token: Option<TokenKey>,
    refusal: Option<String>,
}

impl Row {
    fn software(KeyEntry { key, attributes }: KeyEntry) -> Self {
        Self {
            key,
            algorithm: attributes.algorithm.name(),
            origin: attributes.origin,
            place: "software".to_owned(),
            extractable: attributes.extractable,
            token: None,
            refusal: None,
        }
    }

    fn token(token: &Token, key: TokenKey) -> Self {
        Self {
            algorithm: key.algorithm.name(),
            origin: key.origin,
            place: format!("token {}", token.label()),
            extractable: key.extractable,
            refusal: key.refusal.clone(),
            key: key.key.clone(),
            token: Some(key),
        }
    }

    fn json(&self) -> serde_json::Value {
        let mut attributes =
            serde_json::json!({ "algorithm": self.algorithm, "origin": self.origin, "extractable": self.extractable });
        if let Some(key) = &self.token {
            attributes = serde_json::json!(key.attributes());
        }
        serde_json::json!({
            "key": self.key.key, "epoch": self.key.epoch, "place": self.place, "attributes": attributes,
            "never_extractable": self.never_extractable(), "refusal": self.refusal,
            "attributes_digest": self.token.as_ref().map(|key| key.attributes().digest()),
        })
    }

    fn never_extractable(&self) -> Option<bool> {
        self.token.as_ref().map(|key| key.token.never_extractable)
    }

    /// What a token says beside what is in the table, in a line.
    fn told(&self) -> Option<String> {
        let key = self.token.as_ref()?;
        let TokenAttributes { sensitive, always_sensitive, .. } = &key.token;
        let sensitive = match (sensitive, always_sensitive) {
            (true, true) => "always was sensitive",
            (true, false) => "sensitive, and was not always",
            (false, _) => "not sensitive",
        };
        let mechanisms = match key.mechanisms().as_slice() {
            [] => "any mechanism".to_owned(),
            names => names.join(", "),
        };
        let KeyRef { key: name, epoch } = &self.key;
        Some(format!("{name} at epoch {epoch}: {sensitive}; {mechanisms}; attributes {}", key.attributes().digest()))
    }
}

fn print(global: &Global, rows: &[Row]) -> anyhow::Result<()> {
    if global.json {
        return output::json(&rows.iter().map(Row::json).collect::<Vec<_>>());
    }
    let mut table = Table::new();
    let header = ["key", "epoch", "algorithm", "origin", "place", "extractable"];
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header);
    for row in rows {
        let origin = match row.origin {
            KeyOrigin::Generated => "generated",
            KeyOrigin::Imported => "imported",
            KeyOrigin::Derived => "derived",
        };
        let extractable = match (row.extractable, row.never_extractable()) {
            (true, _) => "yes",
            (false, Some(true)) => "never was",
            (false, _) => "no",
        };
        let (name, epoch) = (row.key.key.as_str(), row.key.epoch.to_string());
        table.add_row([name, &epoch, row.algorithm, origin, &output::printable(&row.place), extractable]);
    }
    say!("{table}");
    for row in rows {
        if let Some(told) = row.told() {
            say!("{told}");
        }
        if let Some(why) = &row.refusal {
            eprintln!("not attested: {} at epoch {}: {why}", row.key.key, row.key.epoch);
        }
    }
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
