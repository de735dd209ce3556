//! How a subcommand opens a key store.

use std::{io::IsTerminal, path::PathBuf};

use keywitness_prover::{Access, SoftwareStore, Unlock, create_key_file};
use zeroize::Zeroizing;

use crate::data;

/// Which key store, and what opens it.
#[derive(clap::Args)]
pub(crate) struct StoreArgs {
    /// The key store's file
    #[arg(long, value_name = "FILE")]
    pub(crate) store: PathBuf,
    /// File with the key that opens the store; made with the store. Without it the store opens with a passphrase of 8
    /// characters or more, from KEYWITNESS_PASSPHRASE or asked for
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl StoreArgs {
    fn unlock(&self, new: bool) -> anyhow::Result<Unlock> {
        if let Some(path) = &self.key_file {
            if new && !path.exists() {
                create_key_file(path)?;
            }
            return Ok(Unlock::KeyFile(path.clone()));
        }
        let passphrase = match std::env::var("KEYWITNESS_PASSPHRASE") {
            Ok(passphrase) => Zeroizing::new(passphrase),
            Err(_) => ask(new)?,
        };
        Ok(Unlock::Passphrase(passphrase))
    }

    /// Opens the store.
    pub(crate) fn open(&self, access: Access) -> anyhow::Result<SoftwareStore> {
        if !self.store.exists() {
            let store = self.store.display();
            anyhow::bail!("there is no key store at {store}; `keywitness key generate --store {store} ...` makes one");
        }
        Ok(SoftwareStore::open(&self.store, &self.unlock(false)?, access)?)
    }

    /// Opens the store for writing; makes it where there is none.
    pub(crate) fn open_or_create(&self) -> anyhow::Result<SoftwareStore> {
        if self.store.exists() {
            return self.open(Access::Write);
        }
        if let Some(directory) = self.store.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            data::make_dir(directory)?;
        }
        Ok(SoftwareStore::create(&self.store, &self.unlock(true)?)?)
    }
}

fn ask(new: bool) -> anyhow::Result<Zeroizing<String>> {
    if !std::io::stderr().is_terminal() {
        anyhow::bail!("no terminal to ask for the passphrase: set KEYWITNESS_PASSPHRASE, or give --key-file FILE");
    }
    let passphrase = Zeroizing::new(rpassword::prompt_password("passphrase of the key store: ")?);
    if new && *passphrase != *Zeroizing::new(rpassword::prompt_password("once more: ")?) {
        anyhow::bail!("the two passphrases differ; nothing was made");
    }
    Ok(passphrase)
}
