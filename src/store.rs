//! How a subcommand opens a key store.

use std::{io::IsTerminal, path::PathBuf, sync::Arc};

use keywitness_prover::{
    Access, KeyStore, Pin, SoftwareStore, Token, TokenChoice, TokenStore, Unlock, create_key_file,
};
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
    #[command(flatten)]
    token: TokenArgs,
}

/// Which PKCS#11 token holds keys beside the store's file, which keeps the HSM's identity.
#[derive(clap::Args)]
struct TokenArgs {
    /// PKCS#11 library of a token that holds keys too; it runs inside this process
    #[arg(long, value_name = "FILE", requires = "token")]
    pkcs11_module: Option<PathBuf>,
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
        let choice = match (&self.pkcs11_token, self.pkcs11_slot) {
            (Some(label), _) => TokenChoice::Label(label.clone()),
            (None, Some(slot)) => TokenChoice::Slot(slot),
            (None, None) => anyhow::bail!("name the token: --pkcs11-token LABEL"),
        };
        Ok(Some(Token::open(library, &choice, &self.pin(&choice)?)?))
    }

    fn pin(&self, choice: &TokenChoice) -> anyhow::Result<Pin> {
        if let Some(path) = &self.pkcs11_pin_file {
            return Ok(Pin::read(path)?);
        }
        if let Ok(pin) = std::env::var("KEYWITNESS_PKCS11_PIN") {
            return Ok(Pin::new(&Zeroizing::new(pin))?);
        }
        if !std::io::stderr().is_terminal() {
            anyhow::bail!("no terminal to ask for the PIN: set KEYWITNESS_PKCS11_PIN, or give --pkcs11-pin-file FILE");
        }
        let pin = Zeroizing::new(rpassword::prompt_password(format!("PIN of the token {choice}: "))?);
        Ok(Pin::new(&pin)?)
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
        let passphrase = match std::env::var("KEYWITNESS_PASSPHRASE") {
            Ok(passphrase) => Zeroizing::new(passphrase),
            Err(_) => ask(new)?,
        };
        Ok(Unlock::Passphrase(passphrase))
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
