//! Identifiers, digests, nonces and time, each with one spelling.

use std::{fmt, str::FromStr};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

use crate::{
    Error,
    codec::{Canonical, Reader, Writer},
};

/// Longest name, in bytes.
pub const MAX_NAME: usize = 64;

/// Lower-case letters, digits and inner `-`, `_`, `.`: nothing that two readers could see differently.
fn is_name(text: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: &u8| plain(byte) || b"-_.".contains(byte);
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(inner)
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 64 of `a-z 0-9 - _ .`, beginning and ending with a letter or digit.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                if is_name(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Error::malformed($what, "use 1 to 64 of a-z 0-9 - _ . and begin and end with a letter or digit"))
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Canonical for $type {
            const WHAT: &'static str = $what;
            fn write(&self, writer: &mut Writer) {
                writer.bytes(self.0.as_bytes());
            }
            fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
                let bytes = reader.bytes(MAX_NAME)?;
                let text = std::str::from_utf8(bytes).map_err(|_| reader.error("a name is not text"))?;
                text.parse()
            }
        }
    };
}

name!(
    /// Everything one manager, or one replicated ledger of managers, speaks for.
    TrustDomain,
    "trust domain"
);
name!(
    /// One manager of a trust domain: the audience of a claim.
    ManagerId,
    "manager id"
);
name!(
    /// The HSMs that are allowed to hold the same key.
    ClusterId,
    "cluster id"
);
name!(
    /// Whatever holds keys: a hardware security module, a TEE, a software key store.
    HsmId,
    "HSM id"
);
name!(
    /// A named key; the same key may live in several HSMs of one cluster.
    KeyId,
    "key id"
);

macro_rules! bytes32 {
    ($(#[$doc:meta])* $type:ident, $what:literal, $encoding:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub [u8; 32]);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&$encoding.encode(&self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                let bytes = $encoding
                    .decode(text.as_bytes())
                    .map_err(|_| Error::malformed($what, "it is not in its text encoding"))?;
                bytes.try_into().map(Self).map_err(|_| Error::malformed($what, "it is not 32 bytes long"))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    Deserialize::deserialize(deserializer).map(Self)
                }
            }
        }

        impl Canonical for $type {
            const WHAT: &'static str = $what;
            fn write(&self, writer: &mut Writer) {
                writer.array(&self.0);
            }
            fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
                reader.array().map(Self)
            }
        }
    };
}

bytes32!(
    /// A SHA-256 digest; hexadecimal as text.
    Digest,
    "digest",
    HEXLOWER
);
bytes32!(
    /// 32 unpredictable bytes, used once; base64url as text.
    Nonce,
    "nonce",
    BASE64URL_NOPAD
);

impl Digest {
    /// SHA-256 over `label`, a zero byte and `message`. Every label comes from [`crate::transcript::label`].
    pub fn of(label: &str, message: &[u8]) -> Self {
        Self(Sha256::new().chain_update(label).chain_update([0]).chain_update(message).finalize().into())
    }

    /// The digest as two big-endian 128-bit numbers, high half first: how it enters a SNARK.
    pub fn limbs(&self) -> [u128; 2] {
        let [mut high, mut low] = [[0; 16]; 2];
        high.copy_from_slice(self.0.split_at(16).0);
        low.copy_from_slice(self.0.split_at(16).1);
        [u128::from_be_bytes(high), u128::from_be_bytes(low)]
    }
}

impl Nonce {
    /// A fresh nonce from the operating system.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut bytes);
        Self(bytes)
    }
}

/// Seconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment plus `seconds`, held at the end of time.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this moment; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Canonical for Timestamp {
    const WHAT: &'static str = "timestamp";
    fn write(&self, writer: &mut Writer) {
        writer.u64(self.0);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        reader.u64().map(Self)
    }
}
