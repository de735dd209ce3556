//! The encryption of a store file.
//!
//! ```text
//! "keywitness-store" · u16 version · u8 means (1 passphrase, 2 key file)
//! passphrase only:    u32 memory in KiB · u32 passes · u32 lanes · salt (16 bytes)
//! nonce (24 bytes) · u32 length · XChaCha20-Poly1305 ciphertext with its tag
//! ```
//!
//! Everything before the ciphertext's length is authenticated with it. The key comes from Argon2id (RFC 9106), or is
//! the key file itself. Every write takes a fresh nonce.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use chacha20poly1305::{AeadInPlace, Key, KeyInit, XChaCha20Poly1305, XNonce};
use keywitness_circuits::codec::{Reader, Writer};
use keywitness_isolation::LockedBytes;
use rand::{RngCore, rngs::OsRng};
use zeroize::Zeroizing;

use super::{StoreError, file};

const MAGIC: &[u8; 16] = b"keywitness-store";
const VERSION: u16 = 1;
const BY_PASSPHRASE: u8 = 1;
const BY_KEY_FILE: u8 = 2;

/// Shortest passphrase, in characters.
const MIN_PASSPHRASE: usize = 8;

/// Longest ciphertext, in bytes: what a reader accepts.
const MAX_CIPHERTEXT: usize = 16 * 1024 * 1024;

/// What unlocks a store.
pub enum Unlock {
    /// A passphrase, through Argon2id.
    Passphrase(Zeroizing<String>),
    /// The path of a key file, as [`super::create_key_file`] makes it.
    KeyFile(PathBuf),
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passphrase(_) => f.write_str("Passphrase(secret)"),
            Self::KeyFile(path) => write!(f, "KeyFile({})", path.display()),
        }
    }
}

/// What a guess at a passphrase costs (Argon2id).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassphraseCost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Parallel lanes.
    pub lanes: u32,
}

impl PassphraseCost {
    /// The most that a file may ask for: a hostile one shall not eat memory or time.
    const MOST: Self = Self { memory_kib: 256 * 1024, passes: 16, lanes: 4 };

    const fn is_excessive(self) -> bool {
        self.memory_kib > Self::MOST.memory_kib || self.passes > Self::MOST.passes || self.lanes > Self::MOST.lanes
    }
}

impl Default for PassphraseCost {
    /// 64 MiB, 3 passes, 1 lane: RFC 9106's second choice, with one lane.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

/// How a file's key is found.
#[derive(Clone, Copy)]
enum Means {
    Passphrase { cost: PassphraseCost, salt: [u8; 16] },
    KeyFile,
}

impl Means {
    const fn name(self) -> &'static str {
        match self {
            Self::Passphrase { .. } => "passphrase",
            Self::KeyFile => "key file",
        }
    }
}

/// The key of one store file.
pub(super) struct FileKey {
    means: Means,
    key: LockedBytes,
}

impl FileKey {
    /// A key for a new file.
    pub(super) fn create(unlock: &Unlock, cost: PassphraseCost) -> Result<Self, StoreError> {
        match unlock {
            Unlock::Passphrase(passphrase) => {
                if passphrase.chars().count() < MIN_PASSPHRASE {
                    return Err(StoreError::ShortPassphrase(MIN_PASSPHRASE));
                }
                let mut salt = [0; 16];
                OsRng.fill_bytes(&mut salt);
                Ok(Self { means: Means::Passphrase { cost, salt }, key: derive(passphrase, cost, &salt)? })
            }
            Unlock::KeyFile(path) => Self::from_key_file(path),
        }
    }

    fn from_key_file(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { means: Means::KeyFile, key: LockedBytes::new(&*file::read_key_file(path)?) })
    }

    /// The key of the file at `path`, whose `header` was read, and which `unlock` should open.
    fn find(path: &Path, means: Means, unlock: &Unlock) -> Result<Self, StoreError> {
        match (means, unlock) {
            (Means::Passphrase { cost, .. }, _) if cost.is_excessive() => Err(StoreError::Excessive(path.to_owned())),
            (Means::Passphrase { cost, salt }, Unlock::Passphrase(passphrase)) => {
                Ok(Self { means, key: derive(passphrase, cost, &salt)? })
            }
            (Means::KeyFile, Unlock::KeyFile(key_file)) => Self::from_key_file(key_file),
            (means, _) => Err(StoreError::WrongMeans { path: path.to_owned(), needed: means.name() }),
        }
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        self.key.expose(|key| XChaCha20Poly1305::new(Key::from_slice(key)))
    }

    /// Encrypts `content` in place, and gives the file's bytes.
    pub(super) fn seal(&self, mut content: Zeroizing<Vec<u8>>) -> Result<Vec<u8>, StoreError> {
        let mut nonce = [0; 24];
        OsRng.fill_bytes(&mut nonce);
        let mut writer = Writer::default();
        write_header(&mut writer, self.means, &nonce);
        let mut sealed = writer.into_bytes();
        let tag = self.cipher().encrypt_in_place_detached(XNonce::from_slice(&nonce), &sealed, &mut content);
        let tag = tag.map_err(|_| StoreError::Sealing("it is too long for the cipher"))?;
        let length = u32::try_from(content.len() + tag.len()).map_err(|_| StoreError::Sealing("it is too long"))?;
        sealed.extend_from_slice(&length.to_be_bytes());
        sealed.extend_from_slice(&content);
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }
}

fn write_header(writer: &mut Writer, means: Means, nonce: &[u8; 24]) {
    writer.array(MAGIC).u16(VERSION);
    match means {
        Means::Passphrase { cost, salt } => {
            writer.u8(BY_PASSPHRASE).u32(cost.memory_kib).u32(cost.passes).u32(cost.lanes).array(&salt)
        }
        Means::KeyFile => writer.u8(BY_KEY_FILE),
    };
    writer.array(nonce);
}

/// Opens the bytes of the file at `path`: the key for later writes, and the content.
pub(super) fn open(path: &Path, bytes: &[u8], unlock: &Unlock) -> Result<(FileKey, Zeroizing<Vec<u8>>), StoreError> {
    let (means, nonce, ciphertext) = parse(path, bytes)?;
    let key = FileKey::find(path, means, unlock)?;
    let mut header = Writer::default();
    write_header(&mut header, means, &nonce);
    let does_not_open = || StoreError::DoesNotOpen { path: path.to_owned(), means: means.name() };
    let mut content = Zeroizing::new(ciphertext.to_vec());
    key.cipher()
        .decrypt_in_place(XNonce::from_slice(&nonce), &header.into_bytes(), &mut *content)
        .map_err(|_| does_not_open())?;
    Ok((key, content))
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<(Means, [u8; 24], &'a [u8]), StoreError> {
    let not_a_store = |why| StoreError::NotAStore { path: path.to_owned(), why };
    let short = |_| not_a_store("it ends too early");
    let mut reader = Reader::new("key store", bytes);
    if reader.array().ok().as_ref() != Some(MAGIC) {
        return Err(not_a_store("it does not begin as one"));
    }
    let version = reader.u16().map_err(short)?;
    if version != VERSION {
        return Err(StoreError::UnknownVersion { path: path.to_owned(), version });
    }
    let means = match reader.u8().map_err(short)? {
        BY_PASSPHRASE => Means::Passphrase {
            cost: PassphraseCost {
                memory_kib: reader.u32().map_err(short)?,
                passes: reader.u32().map_err(short)?,
                lanes: reader.u32().map_err(short)?,
            },
            salt: reader.array().map_err(short)?,
        },
        BY_KEY_FILE => Means::KeyFile,
        _ => return Err(not_a_store("it names no known means of unlocking")),
    };
    let nonce = reader.array().map_err(short)?;
    let ciphertext = reader.bytes(MAX_CIPHERTEXT).map_err(short)?;
    reader.finish().map_err(|_| not_a_store("bytes follow its end"))?;
    Ok((means, nonce, ciphertext))
}

fn derive(passphrase: &str, cost: PassphraseCost, salt: &[u8; 16]) -> Result<LockedBytes, StoreError> {
    let refused = |_| StoreError::Sealing("the passphrase's cost is out of Argon2's range");
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(refused)?;
    let mut key = Zeroizing::new([0; 32]);
    // The library does not wipe the memory that it fills.
    let mut memory = Zeroizing::new(vec![Block::default(); params.block_count()]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase.as_bytes(), salt, &mut *key, memory.as_mut_slice())
        .map_err(refused)?;
    Ok(LockedBytes::new(&*key))
}
