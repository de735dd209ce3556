//! Status lists (draft-ietf-oauth-status-list): whether what a token speaks of was revoked or suspended since.
//!
//! A list is a JWT of type `statuslist+jwt`, signed by the manager's token keys. It packs [`BITS`] bits for each of
//! [`ENTRIES`] entries, least significant bits first, and compresses them (zlib).

use std::io::{Read, Write};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use jsonwebtoken::jwk::JwkSet;
use keywitness_circuits::Timestamp;
use serde::{Deserialize, Serialize};

use super::{LEEWAY, TokenError, VerifiedToken, open};
use crate::wire::{Base64, Standing};

/// `typ` of a status list's header.
pub const STATUS_LIST_TYPE: &str = "statuslist+jwt";

/// Bits of one entry.
pub const BITS: u8 = 2;

/// Entries of one list.
pub const ENTRIES: u64 = 131_072;

/// Longest list that is unpacked, in bytes: 8 bits for a million entries.
const MAX_LIST: u64 = 1 << 20;

/// Where a token's status is found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusClaim {
    /// In a status list.
    pub status_list: StatusReference,
}

/// An entry of a status list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusReference {
    /// The entry, from 0.
    pub idx: u64,
    /// The list.
    pub uri: String,
}

/// A status list's claims.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusListClaims {
    /// The manager, as in its tokens.
    pub iss: String,
    /// The list's own URI.
    pub sub: String,
    /// As of when it says so.
    pub iat: Timestamp,
    /// Until when it may be believed.
    pub exp: Timestamp,
    /// After how many seconds to fetch it again.
    pub ttl: u64,
    /// The list.
    pub status_list: StatusList,
}

/// Packed and compressed entries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusList {
    /// Bits of one entry: 1, 2, 4 or 8.
    pub bits: u8,
    /// The entries.
    pub lst: Base64,
}

/// Entries being packed.
pub struct StatusBits(Vec<u8>);

impl Default for StatusBits {
    /// A list of [`ENTRIES`] in which everything is valid.
    fn default() -> Self {
        Self(vec![0; (ENTRIES * u64::from(BITS) / 8) as usize])
    }
}

impl StatusBits {
    /// Sets an entry that was not set; one beyond the list is left out.
    pub fn set(&mut self, index: u64, standing: Standing) {
        let value: u8 = match standing {
            Standing::Active => 0,
            Standing::Revoked => 1,
            Standing::Suspended => 2,
        };
        let bit = index.saturating_mul(u64::from(BITS));
        if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| self.0.get_mut(at)) {
            *byte |= value << (bit % 8);
        }
    }

    /// Compresses the list.
    ///
    /// # Errors
    /// Never, in memory; the compressor's own otherwise.
    pub fn compress(&self) -> std::io::Result<StatusList> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&self.0)?;
        Ok(StatusList { bits: BITS, lst: Base64(encoder.finish()?) })
    }
}

impl StatusList {
    /// One entry's value; none beyond the list's end. Unpacks a mebibyte at most.
    ///
    /// # Errors
    /// [`TokenError::Malformed`]
    pub fn get(&self, index: u64) -> Result<Option<u8>, TokenError> {
        let malformed = |why: String| TokenError::Malformed(format!("the status list: {why}"));
        if ![1, 2, 4, 8].contains(&self.bits) {
            return Err(malformed(format!("{} bits for one entry", self.bits)));
        }
        let mut bytes = Vec::new();
        let mut decoder = ZlibDecoder::new(self.lst.0.as_slice()).take(MAX_LIST + 1);
        decoder.read_to_end(&mut bytes).map_err(|error| malformed(error.to_string()))?;
        if bytes.len() as u64 > MAX_LIST {
            return Err(malformed("it is too long".to_owned()));
        }
        let Some(bit) = index.checked_mul(u64::from(self.bits)) else { return Ok(None) };
        let byte = usize::try_from(bit / 8).ok().and_then(|at| bytes.get(at));
        let mask = u8::MAX >> (8 - self.bits);
        Ok(byte.map(|byte| (byte >> (bit % 8)) & mask))
    }
}

/// Looks a verified token up in a status list, at time `now`. `newest` is the `iat` of the newest copy of this list that the
/// checker has seen: an older one may hide what was revoked since.
///
/// # Errors
/// [`TokenError`] for a list that is not this token's, not its manager's, expired, or older than `newest`.
pub fn status(
    token: &VerifiedToken,
    list: &str,
    keys: &JwkSet,
    newest: Option<Timestamp>,
    now: Timestamp,
) -> Result<(Standing, StatusListClaims), TokenError> {
    let malformed = |why: &str| TokenError::Malformed(format!("the status list: {why}"));
    let Some(StatusClaim { status_list: StatusReference { idx, uri } }) = &token.claims().status else {
        return Err(TokenError::Malformed("the token names no status list".to_owned()));
    };
    let claims: StatusListClaims = open(list, keys, STATUS_LIST_TYPE)?;
    if claims.iss != token.claims().iss {
        return Err(malformed("it is another manager's"));
    }
    if claims.sub != *uri {
        return Err(malformed("it is not the one that the token names"));
    }
    if claims.exp <= now {
        return Err(TokenError::Expired(claims.exp));
    }
    if claims.iat > now.plus(LEEWAY) {
        return Err(TokenError::NotYet(claims.iat));
    }
    if newest.is_some_and(|newest| claims.iat < newest) {
        return Err(malformed("it is older than one that was seen before"));
    }
    let standing = match claims.status_list.get(*idx)? {
        Some(0) => Standing::Active,
        Some(2) => Standing::Suspended,
        Some(_) => Standing::Revoked,
        None => return Err(malformed("it has no entry for the token")),
    };
    Ok((standing, claims))
}
