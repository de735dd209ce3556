//! What a proving process opens, and how it is shut in.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use keywitness_circuits::{
    Digest, Error, KeyId, Parameters,
    codec::{Reader, Writer},
    params::{Groth16Circuit, Groth16Parameters},
};
use keywitness_isolation::LockedBytes;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::rules::Sharing;
use crate::store::{Access, KeyChoice, Pin, SoftwareStore, StoreError, Token, TokenChoice, Unlock};

/// Longest passphrase or PIN, in bytes.
const MAX_SECRET: usize = 1024;

/// What becomes of a proving process that is not shut in wholly.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strictness {
    /// It opens no key.
    Required,
    /// It says what is missing, and goes on.
    #[default]
    Preferred,
}

/// What a process is started with to be examined: `keywitness agent doctor` must see a fault.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Planted {
    /// Nothing.
    #[default]
    Nothing,
    /// The profile of a token's library, without the library.
    ProfileAlone,
    /// The process gives up nothing.
    Unconfined,
}

/// A key store and how it is opened. Holds no secret: this is a command line's argument.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The store's file.
    pub store: PathBuf,
    /// Whether the store is changed too.
    pub write: bool,
    /// The file that opens it; a passphrase does where there is none.
    pub key_file: Option<PathBuf>,
    /// The token that holds keys too.
    pub token: Option<TokenSpec>,
    /// Groth16's parameters.
    pub parameters: Vec<ParameterFile>,
    /// Threads that make proofs; as many as there are cores where this is none.
    pub threads: Option<usize>,
    /// What becomes of it where something is missing.
    pub strictness: Strictness,
    /// Identity keys of the HSMs that the operator lets have copies of keys, and whose copies are taken.
    pub peers: Vec<Digest>,
    /// What the operator has dealt.
    #[serde(default)]
    pub sharing: Option<Sharing>,
    /// What an examination asks for.
    #[serde(default)]
    pub planted: Planted,
}

/// A PKCS#11 token, and what its vendor's library is left.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    /// The library.
    pub module: PathBuf,
    /// Which of its tokens.
    pub token: TokenChoice,
    /// Which of its keys.
    pub keys: KeyChoice,
    /// The label of the HSM's identity key, where it is not the usual one.
    pub identity: Option<KeyId>,
    /// The file with its PIN, where that was not typed.
    pub pin_file: Option<PathBuf>,
    /// Where the library may write, and the agent may not read; anywhere where there are none.
    pub paths: Vec<PathBuf>,
    /// Whether it makes no socket.
    pub offline: bool,
    /// Variables of the environment that it is given.
    pub environment: Vec<String>,
}

/// A file of Groth16 parameters.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterFile {
    /// Where.
    pub path: PathBuf,
    /// Whether they are those of many keys in one proof.
    pub many: bool,
    /// The digest at the file's end. Another file is refused, so that what the agent has checked is what proves.
    pub digest: Digest,
}

impl ParameterFile {
    /// A file as it is now. Its content is checked by whoever reads it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn pin(circuit: Groth16Circuit, path: &Path) -> Result<Self, StoreError> {
        let digest = || {
            let mut digest = [0; 32];
            let mut file = File::open(path)?;
            file.seek(SeekFrom::End(-32))?;
            file.read_exact(&mut digest)?;
            std::io::Result::Ok(Digest(digest))
        };
        let digest = digest().map_err(StoreError::io(path))?;
        Ok(Self { path: path.to_owned(), many: circuit == Groth16Circuit::ManyKeys, digest })
    }

    /// Whether these parameters are the file's.
    pub fn is_of(&self, parameters: &Groth16Parameters) -> bool {
        parameters.digest() == self.digest
    }

    fn read(&self, parameters: Parameters) -> Result<Parameters, StoreError> {
        let read = if self.many { Groth16Parameters::read_many } else { Groth16Parameters::read }(&self.path)?;
        if !self.is_of(&read) {
            let path = self.path.display();
            let why = format!("{path} has been replaced since the agent was started; restart the agent");
            return Err(Error::Parameters(why).into());
        }
        Ok(if self.many { parameters.with_groth16_many(read) } else { parameters.with_groth16(read) })
    }
}

impl Spec {
    /// The same, for a process that works in another directory.
    ///
    /// # Errors
    /// Where this process's own directory is unknown.
    pub fn absolute(mut self) -> Result<Self, StoreError> {
        let absolute = |path: &mut PathBuf| {
            *path = std::path::absolute(&*path).map_err(StoreError::io(&*path))?;
            Ok::<_, StoreError>(())
        };
        absolute(&mut self.store)?;
        self.key_file.iter_mut().try_for_each(absolute)?;
        self.parameters.iter_mut().map(|file| &mut file.path).try_for_each(absolute)?;
        if let Some(token) = &mut self.token {
            absolute(&mut token.module)?;
            token.pin_file.iter_mut().chain(&mut token.paths).try_for_each(absolute)?;
        }
        Ok(self)
    }

    /// The directory that the store's file is in.
    pub fn directory(&self) -> PathBuf {
        self.store.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
    }

    /// Files that nobody but the proving process has to read.
    pub fn hidden(&self) -> Vec<PathBuf> {
        let token = self.token.iter().flat_map(|token| token.pin_file.iter().chain(&token.paths));
        [&self.store].into_iter().chain(&self.key_file).chain(token).cloned().collect()
    }

    pub(super) fn open_parameters(&self) -> Result<Parameters, StoreError> {
        self.parameters.iter().try_fold(Parameters::transparent(), |parameters, file| file.read(parameters))
    }

    pub(super) fn open_file(&self, secrets: &Secrets) -> Result<SoftwareStore, StoreError> {
        let access = if self.write { Access::Write } else { Access::Read };
        let unlock = match (&self.key_file, &secrets.passphrase) {
            (Some(path), _) => Unlock::KeyFile(path.clone()),
            (None, Some(passphrase)) => Unlock::Passphrase(passphrase.clone()),
            (None, None) => return Err(StoreError::Process("it was given nothing that opens the store".to_owned())),
        };
        SoftwareStore::open(&self.store, &unlock, access)
    }

    pub(super) fn open_token(&self, secrets: &Secrets) -> Result<Option<Token>, StoreError> {
        let Some(token) = self.token.as_ref().filter(|_| self.planted == Planted::Nothing) else { return Ok(None) };
        if token.token == TokenChoice::default() {
            return Err(StoreError::Process("the spec names no token".to_owned()));
        }
        let pin = match (&token.pin_file, &secrets.pin) {
            (Some(path), _) => Pin::read(path)?,
            (None, Some(pin)) => Pin::new(pin)?,
            (None, None) => return Err(StoreError::Process("it was given no PIN".to_owned())),
        };
        Ok(Some(Token::open(&token.module, &token.token, pin)?.with_keys(token.keys.clone())))
    }
}

/// What opens a store, where that is in no file. Wiped on drop.
#[derive(Default)]
pub struct Secrets {
    /// The store's passphrase.
    pub passphrase: Option<Zeroizing<String>>,
    /// The token's PIN.
    pub pin: Option<Zeroizing<String>>,
}

impl Secrets {
    /// Longest encoding, in bytes.
    pub(super) const MAX: usize = 2 * (MAX_SECRET + 5);

    pub(super) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let mut writer = Writer::default();
        for secret in [&self.passphrase, &self.pin] {
            match secret {
                None => writer.u8(0),
                Some(secret) if secret.len() > MAX_SECRET => {
                    return Err(StoreError::Process(format!("a passphrase or PIN has at most {MAX_SECRET} bytes")));
                }
                Some(secret) => writer.u8(1).bytes(secret.as_bytes()),
            };
        }
        Ok(Zeroizing::new(writer.into_bytes()))
    }

    pub(super) fn decode(bytes: &LockedBytes) -> Result<Self, Error> {
        bytes.expose(|bytes| {
            let mut reader = Reader::new("secrets", bytes);
            let mut read = || {
                Ok(match reader.u8()? {
                    0 => None,
                    1 => {
                        let text = std::str::from_utf8(reader.bytes(MAX_SECRET)?);
                        Some(Zeroizing::new(text.map_err(|_| reader.error("it is no text"))?.to_owned()))
                    }
                    _ => return Err(reader.error("an option's flag is neither 0 nor 1")),
                })
            };
            let (passphrase, pin) = (read()?, read()?);
            reader.finish()?;
            Ok(Self { passphrase, pin })
        })
    }
}
