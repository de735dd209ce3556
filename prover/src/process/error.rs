//! What goes wrong in a proving process, as its caller is told. What a caller decides by arrives as it was; of the rest, its text.

use keywitness_circuits::{
    Error,
    codec::{Canonical, Reader, Writer},
};
use keywitness_isolation::Away;

use super::protocol::{key, put_key, text};
use crate::store::StoreError;

/// Longest text of an error, in bytes.
const MAX_TEXT: usize = 8192;

/// Most culprits of a proof of many keys.
const MAX_CULPRITS: u16 = 256;

impl From<Away> for StoreError {
    fn from(Away(why): Away) -> Self {
        Self::Away(why)
    }
}

/// The beginning of a text, at most so many bytes.
fn clipped(text: &str) -> &[u8] {
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.as_bytes().get(..end).unwrap_or_default()
}

/// An error that travels.
pub(super) struct Failure(pub(super) StoreError);

impl Canonical for Failure {
    const WHAT: &'static str = "failure";

    fn write(&self, writer: &mut Writer) {
        match &self.0 {
            StoreError::NoSuchKey(key) => put_key(writer.u8(0), key),
            StoreError::KeyExists(key) => writer.u8(1).value(key),
            StoreError::NotASigningKey(algorithm) => writer.u8(2).value(algorithm),
            StoreError::NotACmacKey(algorithm) => writer.u8(3).value(algorithm),
            StoreError::NotDealt(algorithm) => writer.u8(4).value(algorithm),
            StoreError::ReadOnly => writer.u8(5),
            StoreError::NotEnrolled => writer.u8(6),
            StoreError::ReservedMessage => writer.u8(7),
            StoreError::ForeignClaim => writer.u8(8),
            StoreError::Proof(Error::KeysRefused { culprits }) => {
                let places: Vec<_> = culprits.iter().filter_map(|place| u16::try_from(*place).ok()).collect();
                let count = u16::try_from(places.len()).unwrap_or(u16::MAX).min(MAX_CULPRITS);
                let writer = writer.u8(9).u16(count);
                places.iter().take(count.into()).fold(writer, |writer, place| writer.u16(*place))
            }
            StoreError::Away(why) => writer.u8(10).bytes(clipped(why)),
            StoreError::NotIsolated(why) => writer.u8(12).bytes(clipped(why)),
            error @ (StoreError::Token(_) | StoreError::TokenAway(_)) if error.may_pass() => {
                writer.u8(13).bytes(clipped(&error.to_string()))
            }
            StoreError::NotProvenHere => writer.u8(14),
            error if error.is_of_login() => writer.u8(15).bytes(clipped(&error.to_string())),
            other => writer.u8(11).bytes(clipped(&other.to_string())),
        };
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self(match reader.u8()? {
            0 => StoreError::NoSuchKey(key(reader)?),
            1 => StoreError::KeyExists(reader.value()?),
            2 => StoreError::NotASigningKey(reader.value()?),
            3 => StoreError::NotACmacKey(reader.value()?),
            4 => StoreError::NotDealt(reader.value()?),
            5 => StoreError::ReadOnly,
            6 => StoreError::NotEnrolled,
            7 => StoreError::ReservedMessage,
            8 => StoreError::ForeignClaim,
            9 => {
                let count = reader.u16()?;
                if count > MAX_CULPRITS {
                    return Err(reader.error("there are more culprits than keys of any proof"));
                }
                let culprits = (0..count).map(|_| reader.u16().map(usize::from)).collect::<Result<_, _>>()?;
                StoreError::Proof(Error::KeysRefused { culprits })
            }
            10 => StoreError::Away(text(reader, MAX_TEXT)?),
            11 => StoreError::Process(text(reader, MAX_TEXT)?),
            12 => StoreError::NotIsolated(text(reader, MAX_TEXT)?),
            13 => StoreError::TokenAway(text(reader, MAX_TEXT)?),
            14 => StoreError::NotProvenHere,
            15 => StoreError::PinRefused(text(reader, MAX_TEXT)?),
            _ => return Err(reader.error("there is no such failure")),
        }))
    }
}
