//! How a subcommand opens a key store.

use std::{
    ffi::OsString,
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::bail;
use keywitness_circuits::KeyId;
use keywitness_isolation::environment;
use keywitness_prover::{
    Access, KeyStore, Pin, PinSource, SCHEME, SoftwareStore, Token, TokenChoice, TokenStore, TokenUri, Unlock,
    create_key_file,
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
    /// The key store's file; given again, or alone where no file is needed, a PKCS#11 token by its URI:
    /// pkcs11:token=LABEL?module-path=FILE&pin-source=file:FILE
    #[arg(long = "store", value_name = "FILE|URI", required = true)]
    stores: Vec<OsString>,
    /// File with the key that opens the store; made with the store. Without it the store opens with a passphrase of 8
    /// characters or more, from KEYWITNESS_PASSPHRASE or asked for
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    token: TokenArgs,
}

/// Which PKCS#11 token holds keys beside the store's file.
#[derive(clap::Args)]
struct TokenArgs {
    /// PKCS#11 library of a token that holds keys too; it runs inside the process that has the keys
    #[arg(long, value_name = "FILE")]
    pkcs11_module: Option<PathBuf>,
    /// Where that library writes, and the agent's other process cannot read; anywhere when left out. May be given again
    #[arg(long = "pkcs11-path", value_name = "PATH")]
    pkcs11_paths: Vec<PathBuf>,
    /// That library makes no sockets: its token is no device in the network, nor behind a daemon
    #[arg(long)]
    pkcs11_offline: bool,
    /// The token's label
    #[arg(long, value_name = "LABEL", conflicts_with = "pkcs11_slot", requires = "pkcs11_module")]
    pkcs11_token: Option<String>,
    /// The token's slot, where its label does not tell it from others
    #[arg(long, value_name = "ID", requires = "pkcs11_module")]
    pkcs11_slot: Option<u64>,
    /// File with the token's PIN. Without it the PIN comes from KEYWITNESS_PKCS11_PIN, or is asked for. It is tried once
    #[arg(long, value_name = "FILE")]
    pkcs11_pin_file: Option<PathBuf>,
    /// Label of the Ed25519 key in the token that is the HSM's identity; the key keywitness-identity when left out, where the
    /// token has one, or else the identity of the store's file
    #[arg(long, value_name = "LABEL")]
    identity: Option<KeyId>,
}

/// A token, as flags or a URI name it.
struct Named {
    module: PathBuf,
    uri: TokenUri,
}

impl Named {
    fn open(&self) -> anyhow::Result<Token> {
        let token = Token::open(&self.module, &self.uri.token, self.pin()?)?;
        Ok(token.with_keys(self.uri.keys.clone()))
    }

    fn pin(&self) -> anyhow::Result<Pin> {
        if let Some(PinSource::File(path)) = &self.uri.pin {
            return Ok(Pin::read(path)?);
        }
        Ok(Pin::new(&self.typed(|name| std::env::var(name).ok().map(Zeroizing::new))?)?)
    }

    /// A PIN that is in no file.
    fn typed(&self, variable: impl Fn(&str) -> Option<Zeroizing<String>>) -> anyhow::Result<Zeroizing<String>> {
        match &self.uri.pin {
            Some(PinSource::Environment(name)) => variable(name)
                .ok_or_else(|| anyhow::anyhow!("the variable {name}, which is to have the PIN, is not set")),
            Some(PinSource::Prompt) => ask_pin(&self.uri.token),
            Some(PinSource::File(_)) | None => variable(PIN).map_or_else(|| ask_pin(&self.uri.token), Ok),
        }
    }
}

impl TokenArgs {
    /// The token that flags and URI name together: no one thing by both.
    fn named(&self, uri: Option<TokenUri>) -> anyhow::Result<Option<Named>> {
        let mut named = uri.clone().unwrap_or_default();
        let twice = |what: &str| anyhow::anyhow!("{what} is in the token's URI and in a flag: give one of them");
        if let Some(path) = &self.pkcs11_pin_file {
            let pin = PinSource::File(path.clone());
            if named.pin.replace(pin).is_some() {
                return Err(twice("where the PIN is"));
            }
        }
        if let Some(module) = &self.pkcs11_module
            && named.module.replace(module.clone()).is_some()
        {
            return Err(twice("the library"));
        }
        if self.pkcs11_token.is_some() || self.pkcs11_slot.is_some() {
            if uri.is_some() {
                return Err(twice("the token"));
            }
            named.token =
                TokenChoice { label: self.pkcs11_token.clone(), slot: self.pkcs11_slot, ..TokenChoice::default() };
        }
        let Some(module) = named.module.clone() else {
            if uri.is_some() {
                bail!("name the token's library: module-path=FILE in its URI, or --pkcs11-module FILE");
            }
            let flags = !self.pkcs11_paths.is_empty() || self.pkcs11_offline || self.pkcs11_pin_file.is_some();
            if flags || self.identity.is_some() {
                bail!("which token? Give its URI with --store, or --pkcs11-module and --pkcs11-token");
            }
            return Ok(None);
        };
        if named.token == TokenChoice::default() {
            bail!("name the token: --pkcs11-token LABEL, or token=LABEL in its URI");
        }
        Ok(Some(Named { module, uri: named }))
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
    /// The store, for whoever uses its keys.
    pub(crate) fn shared(self) -> Arc<dyn KeyStore> {
        match self {
            Self::Software(store) => store,
            Self::Token(store) => store,
        }
    }
}

impl StoreArgs {
    /// What `--store` names: at most one file and at most one token.
    fn named(&self) -> anyhow::Result<(Option<&Path>, Option<Named>)> {
        let (mut file, mut uri) = (None, None);
        for name in &self.stores {
            let text = name.to_str().filter(|text| text.starts_with(SCHEME));
            let twice = match text {
                Some(text) => uri.replace(text.parse::<TokenUri>()?).is_some(),
                None => file.replace(Path::new(name)).is_some(),
            };
            if twice {
                bail!("--store names one file and one token at most");
            }
        }
        Ok((file, self.token.named(uri)?))
    }

    /// The store's file, which keeps what a token does not.
    pub(crate) fn file(&self) -> anyhow::Result<&Path> {
        self.named()?.0.ok_or_else(|| {
            anyhow::anyhow!(
                "the store's file is needed too, for the HSM's membership and its channel key: --store FILE"
            )
        })
    }

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
        let (store, token) = (self.existing()?.to_owned(), self.named()?.1);
        let in_file = |named: &&Named| !matches!(named.uri.pin, Some(PinSource::File(_)));
        let pin = token.as_ref().filter(in_file).map(|named| named.typed(environment::take)).transpose()?;
        let token = token.map(|Named { module, uri }| {
            // What the vendor's library reads there nobody knows; our own secrets are not for it.
            let TokenUri { token, keys, pin, .. } = uri;
            let secret = if let Some(PinSource::Environment(name)) = &pin { name.clone() } else { String::new() };
            let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
            TokenSpec {
                module,
                token,
                keys,
                identity: self.token.identity.clone(),
                pin_file: pin.and_then(|pin| if let PinSource::File(path) = pin { Some(path) } else { None }),
                paths: self.token.pkcs11_paths.clone(),
                offline: self.token.pkcs11_offline,
                environment: names.filter(|name| !name.starts_with("KEYWITNESS_") && *name != secret).collect(),
            }
        });
        let typed = || environment::take(PASSPHRASE).map_or_else(|| ask(false), Ok);
        let passphrase = self.key_file.is_none().then(typed).transpose()?;
        let spec = Spec { store, key_file: self.key_file.clone(), token, ..Spec::default() };
        Ok((spec, Secrets { passphrase, pin }))
    }

    /// The token, where no file is named beside it.
    pub(crate) fn token_alone(&self) -> anyhow::Result<Option<Token>> {
        match self.named()? {
            (None, Some(named)) => Ok(Some(named.open()?)),
            _ => Ok(None),
        }
    }

    /// Whether a token is named.
    pub(crate) fn names_token(&self) -> anyhow::Result<bool> {
        Ok(self.named()?.1.is_some())
    }

    fn join(&self, software: SoftwareStore, token: Option<Token>) -> anyhow::Result<Opened> {
        Ok(match token {
            None => Opened::Software(Arc::new(software)),
            Some(token) => Opened::Token(Arc::new(TokenStore::new(software, token, self.token.identity.as_ref())?)),
        })
    }

    fn open_token(&self) -> anyhow::Result<Option<Token>> {
        self.named()?.1.map(|named| named.open()).transpose()
    }

    /// Opens the store.
    pub(crate) fn open(&self, access: Access) -> anyhow::Result<Opened> {
        self.existing()?;
        let token = self.open_token()?;
        self.join(self.open_file(access)?, token)
    }

    /// Opens the store for writing; makes its file where there is none.
    pub(crate) fn open_or_create(&self) -> anyhow::Result<Opened> {
        self.file()?;
        // First, so that a wrong PIN leaves no new file behind.
        let token = self.open_token()?;
        self.join(self.open_or_create_file()?, token)
    }

    /// Opens the store's file alone for writing; makes it where there is none.
    pub(crate) fn open_or_create_file(&self) -> anyhow::Result<SoftwareStore> {
        let store = self.file()?;
        if store.exists() {
            return self.open_file(Access::Write);
        }
        if let Some(directory) = store.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            data::make_dir(directory)?;
        }
        Ok(SoftwareStore::create(store, &self.unlock(true)?)?)
    }

    /// Opens the store's file alone.
    pub(crate) fn open_file(&self, access: Access) -> anyhow::Result<SoftwareStore> {
        Ok(SoftwareStore::open(self.existing()?, &self.unlock(false)?, access)?)
    }

    fn existing(&self) -> anyhow::Result<&Path> {
        let store = self.file()?;
        if store.exists() {
            return Ok(store);
        }
        let store = store.display();
        bail!("there is no key store at {store}; `keywitness key generate --store {store} ...` makes one");
    }
}

fn ask_pin(choice: &TokenChoice) -> anyhow::Result<Zeroizing<String>> {
    if !std::io::stderr().is_terminal() {
        bail!("no terminal to ask for the PIN: set KEYWITNESS_PKCS11_PIN, or give --pkcs11-pin-file FILE");
    }
    Ok(Zeroizing::new(rpassword::prompt_password(format!("PIN of the token {choice}: "))?))
}

fn ask(new: bool) -> anyhow::Result<Zeroizing<String>> {
    if !std::io::stderr().is_terminal() {
        bail!("no terminal to ask for the passphrase: set KEYWITNESS_PASSPHRASE, or give --key-file FILE");
    }
    let passphrase = Zeroizing::new(rpassword::prompt_password("passphrase of the key store: ")?);
    if new && *passphrase != *Zeroizing::new(rpassword::prompt_password("once more: ")?) {
        bail!("the two passphrases differ; nothing was made");
    }
    Ok(passphrase)
}
