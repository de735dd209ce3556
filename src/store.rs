//! How a subcommand opens a key store.

use std::{io::IsTerminal, path::PathBuf, sync::Arc};

use keywitness_isolation::environment;
use keywitness_prover::{
    Access, KeyStore, Pin, SoftwareStore, Token, TokenChoice, TokenStore, Unlock, create_key_file,
    process::{Secrets, Spec, TokenSpec},
};
use zeroize::Zeroizing;

use crate::data;

/// The variable with the passphrase of a store.
const PASSPHRASE: &str = "KEYWITNESS_PASSPHRASE";

/// The variable with the PIN of a token.
const PIN: &str = "KEYWITNESS_PKCS11_PIN";

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
    #[command(flatten)]
    token: TokenArgs,
}

/// Which PKCS#11 token holds keys beside the store's file, which keeps the HSM's identity.
#[derive(clap::Args)]
struct TokenArgs {
    /// PKCS#11 library of a token that holds keys too; it runs inside the process that has the keys
    #[arg(long, value_name = "FILE", requires = "token")]
    pkcs11_module: Option<PathBuf>,
    /// Where that library writes, and the agent's other process cannot read; anywhere when left out. May be given again
    #[arg(long = "pkcs11-path", value_name = "PATH", requires = "pkcs11_module")]
    pkcs11_paths: Vec<PathBuf>,
    /// That library makes no sockets: its token is no device in the network, nor behind a daemon
    #[arg(long, requires = "pkcs11_module")]
    pkcs11_offline: bool,
    /// The token's label
    #[arg(long, value_name = "LABEL", group = "token", requires = "pkcs11_module")]
    pkcs11_token: Option<String>,
    /// The token's slot, where its label does not tell it from others
    #[arg(long, value_name = "ID", group = "token", requires = "pkcs11_module")]
    pkcs11_slot: Option<u64>,
    /// File with the token's PIN. Without it the PIN comes from KEYWITNESS_PKCS11_PIN, or is asked for. It is tried once
    #[arg(long, value_name = "FILE", requires = "pkcs11_module")]
    pkcs11_pin_file: Option<PathBuf>,
}

impl TokenArgs {
    fn open(&self) -> anyhow::Result<Option<Token>> {
        let Some(library) = &self.pkcs11_module else { return Ok(None) };
        let choice = self.choice()?;
        Ok(Some(Token::open(library, &choice, &self.pin(&choice)?)?))
    }

    fn pin(&self, choice: &TokenChoice) -> anyhow::Result<Pin> {
        if let Some(path) = &self.pkcs11_pin_file {
            return Ok(Pin::read(path)?);
        }
        let pin = std::env::var(PIN).ok().map(Zeroizing::new);
        Ok(Pin::new(&pin.map_or_else(|| ask_pin(choice), Ok)?)?)
    }

    /// The token, for another process that opens it; with the PIN, where that is in no file.
    fn spec(&self) -> anyhow::Result<(Option<TokenSpec>, Option<Zeroizing<String>>)> {
        let Some(library) = &self.pkcs11_module else { return Ok((None, None)) };
        let choice = self.choice()?;
        let typed = || environment::take(PIN).map_or_else(|| ask_pin(&choice), Ok);
        let pin = self.pkcs11_pin_file.is_none().then(typed).transpose()?;
        // What the vendor's library reads there nobody knows; our own secrets are not for it.
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let spec = TokenSpec {
            module: library.clone(),
            label: self.pkcs11_token.clone(),
            slot: self.pkcs11_slot,
            pin_file: self.pkcs11_pin_file.clone(),
            paths: self.pkcs11_paths.clone(),
            offline: self.pkcs11_offline,
            environment: names.filter(|name| !name.starts_with("KEYWITNESS_")).collect(),
        };
        Ok((Some(spec), pin))
    }

    fn choice(&self) -> anyhow::Result<TokenChoice> {
        match (&self.pkcs11_token, self.pkcs11_slot) {
            (Some(label), _) => Ok(TokenChoice::Label(label.clone())),
            (None, Some(slot)) => Ok(TokenChoice::Slot(slot)),
            (None, None) => anyhow::bail!("name the token: --pkcs11-token LABEL"),
        }
    }
}

/// A store that was opened.
pub(crate) enum Opened {
    /// One encrypted file.
    Software(Arc<SoftwareStore>),
    /// Such a file, and a token.
    Token(Arc<TokenStore>),
}

impl Opened {
    fn join(software: SoftwareStore, token: Option<Token>) -> anyhow::Result<Self> {
        Ok(match token {
            None => Self::Software(Arc::new(software)),
            Some(token) => Self::Token(Arc::new(TokenStore::new(software, token)?)),
        })
    }

    /// The store, for whoever uses its keys.
    pub(crate) fn shared(self) -> Arc<dyn KeyStore> {
        match self {
            Self::Software(store) => store,
            Self::Token(store) => store,
        }
    }
}

impl StoreArgs {
    fn unlock(&self, new: bool) -> anyhow::Result<Unlock> {
        if let Some(path) = &self.key_file {
            if new && !path.exists() {
                create_key_file(path)?;
            }
            return Ok(Unlock::KeyFile(path.clone()));
        }
        let passphrase = std::env::var(PASSPHRASE).ok().map(Zeroizing::new);
        Ok(Unlock::Passphrase(passphrase.map_or_else(|| ask(new), Ok)?))
    }

    /// The store, for another process that opens it; with what opens it, where that is in no file. In this process's environment
    /// that is no longer afterwards.
    pub(crate) fn spec(&self) -> anyhow::Result<(Spec, Secrets)> {
        self.check_exists()?;
        let (token, pin) = self.token.spec()?;
        let typed = || environment::take(PASSPHRASE).map_or_else(|| ask(false), Ok);
        let passphrase = self.key_file.is_none().then(typed).transpose()?;
        let spec = Spec { store: self.store.clone(), key_file: self.key_file.clone(), token, ..Spec::default() };
        Ok((spec, Secrets { passphrase, pin }))
    }

    /// Whether a token is named.
    pub(crate) fn names_token(&self) -> bool {
        self.token.pkcs11_module.is_some()
    }

    /// Opens the store.
    pub(crate) fn open(&self, access: Access) -> anyhow::Result<Opened> {
        self.check_exists()?;
        let token = self.token.open()?;
        Opened::join(self.open_file(access)?, token)
    }

    /// Opens the store for writing; makes its file where there is none.
    pub(crate) fn open_or_create(&self) -> anyhow::Result<Opened> {
        // First, so that a wrong PIN leaves no new file behind.
        let token = self.token.open()?;
        Opened::join(self.open_or_create_file()?, token)
    }

    /// Opens the store's file alone for writing; makes it where there is none.
    pub(crate) fn open_or_create_file(&self) -> anyhow::Result<SoftwareStore> {
        if self.store.exists() {
            return self.open_file(Access::Write);
        }
        if let Some(directory) = self.store.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            data::make_dir(directory)?;
        }
        Ok(SoftwareStore::create(&self.store, &self.unlock(true)?)?)
    }

    /// Opens the store's file alone.
    pub(crate) fn open_file(&self, access: Access) -> anyhow::Result<SoftwareStore> {
        self.check_exists()?;
        Ok(SoftwareStore::open(&self.store, &self.unlock(false)?, access)?)
    }

    fn check_exists(&self) -> anyhow::Result<()> {
        if self.store.exists() {
            return Ok(());
        }
        let store = self.store.display();
        anyhow::bail!("there is no key store at {store}; `keywitness key generate --store {store} ...` makes one");
    }
}

fn ask_pin(choice: &TokenChoice) -> anyhow::Result<Zeroizing<String>> {
    if !std::io::stderr().is_terminal() {
        anyhow::bail!("no terminal to ask for the PIN: set KEYWITNESS_PKCS11_PIN, or give --pkcs11-pin-file FILE");
    }
    Ok(Zeroizing::new(rpassword::prompt_password(format!("PIN of the token {choice}: "))?))
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
