//! What goes over a lane: a request, an answer, a request, and so on. Each is one canonical encoding in a frame.

use std::io::{self, Read, Write};

use keywitness_circuits::{
    Digest, Error,
    codec::{Canonical, Reader, Writer},
};
use keywitness_isolation::frame;
use keywitness_verifier::wire::TokenAlgorithm;

use crate::signer::{PublicKey, SignerError, jose::MAX_MESSAGE};

/// Longest frame, in bytes: a request to sign the longest message, or the longest list of keys.
pub(super) const MAX_FRAME: usize = MAX_MESSAGE + 4096;

/// Longest name of a key, in bytes.
const MAX_KID: usize = 128;

/// Longest text of an answer, in bytes.
const MAX_TEXT: usize = 8192;

/// Most hashes of a consistency proof: two for each level of a tree of 2^64 leaves.
const MAX_HASHES: u16 = 128;

/// Most keys in an answer.
const MAX_KEYS: u16 = 1024;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Request {
    Keys,
    Make(TokenAlgorithm),
    Sign { kid: String, message: Vec<u8> },
    LogKey,
    Newest,
    Checkpoint { text: String, consistency: Vec<Digest> },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Keys(Vec<PublicKey>),
    Made(PublicKey),
    Signature([u8; 64]),
    LogKey(String),
    Newest(Option<String>),
    Checkpoint(String),
    Failed(SignerError),
}

/// Writes a frame.
pub(super) fn send(stream: &mut impl Write, message: &impl Canonical) -> io::Result<()> {
    frame::send(stream, &message.to_bytes(), MAX_FRAME)
}

/// Reads a frame; none where the other end closed the lane between two.
///
/// # Errors
/// `InvalidData` for what is no such message: the lane is of no use any more.
pub(super) fn receive<T: Canonical>(stream: &mut impl Read) -> io::Result<Option<T>> {
    frame::receive(stream, MAX_FRAME)?.map(|body| read(&body)).transpose()
}

/// Reads a message.
///
/// # Errors
/// `InvalidData`
pub(super) fn read<T: Canonical>(body: &[u8]) -> io::Result<T> {
    T::from_bytes(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

fn text(reader: &mut Reader<'_>, cap: usize) -> Result<String, Error> {
    let error = reader.error("a text is not UTF-8");
    String::from_utf8(reader.bytes(cap)?.to_vec()).map_err(|_| error)
}

/// The beginning of a text, at most so many bytes.
fn clipped(text: &str) -> &[u8] {
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.as_bytes().get(..end).unwrap_or_default()
}

fn algorithm(reader: &mut Reader<'_>) -> Result<TokenAlgorithm, Error> {
    match reader.u8()? {
        0 => Ok(TokenAlgorithm::Es256),
        1 => Ok(TokenAlgorithm::EdDsa),
        _ => Err(reader.error("there is no such algorithm")),
    }
}

fn number(algorithm: TokenAlgorithm) -> u8 {
    match algorithm {
        TokenAlgorithm::Es256 => 0,
        TokenAlgorithm::EdDsa => 1,
    }
}

impl Canonical for PublicKey {
    const WHAT: &'static str = "public key";
    fn write(&self, writer: &mut Writer) {
        writer.u8(number(self.algorithm)).bytes(&self.bytes);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { algorithm: algorithm(reader)?, bytes: reader.bytes(65)?.to_vec() })
    }
}

impl Canonical for Request {
    const WHAT: &'static str = "request to a signer";
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Keys => writer.u8(0),
            Self::Make(algorithm) => writer.u8(1).u8(number(*algorithm)),
            Self::Sign { kid, message } => writer.u8(2).bytes(kid.as_bytes()).bytes(message),
            Self::LogKey => writer.u8(3),
            Self::Newest => writer.u8(4),
            Self::Checkpoint { text, consistency } => {
                writer.u8(5).bytes(text.as_bytes());
                // More than a proof can have are too many to read.
                writer.u16(u16::try_from(consistency.len()).unwrap_or(u16::MAX));
                consistency.iter().fold(writer, |writer, hash| writer.array(&hash.0))
            }
        };
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match reader.u8()? {
            0 => Self::Keys,
            1 => Self::Make(algorithm(reader)?),
            2 => Self::Sign { kid: text(reader, MAX_KID)?, message: reader.bytes(MAX_MESSAGE)?.to_vec() },
            3 => Self::LogKey,
            4 => Self::Newest,
            5 => {
                let text = text(reader, MAX_TEXT)?;
                let count = reader.u16()?;
                if count > MAX_HASHES {
                    return Err(reader.error("a proof has more hashes than any can"));
                }
                let consistency = (0..count).map(|_| reader.array().map(Digest)).collect::<Result<_, _>>()?;
                Self::Checkpoint { text, consistency }
            }
            _ => return Err(reader.error("there is no such request")),
        })
    }
}

impl Canonical for Answer {
    const WHAT: &'static str = "answer of a signer";
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Keys(keys) => {
                let count = u16::try_from(keys.len()).unwrap_or(u16::MAX).min(MAX_KEYS);
                let writer = writer.u8(0).u16(count);
                keys.iter().take(count.into()).fold(writer, |writer, key| writer.value(key))
            }
            Self::Made(key) => writer.u8(1).value(key),
            Self::Signature(signature) => writer.u8(2).array(signature),
            Self::LogKey(key) => writer.u8(3).bytes(clipped(key)),
            Self::Newest(None) => writer.u8(4).u8(0),
            Self::Newest(Some(note)) => writer.u8(4).u8(1).bytes(clipped(note)),
            Self::Checkpoint(note) => writer.u8(5).bytes(clipped(note)),
            Self::Failed(error) => match error {
                SignerError::UnknownKey(kid) => writer.u8(16).bytes(clipped(kid)),
                SignerError::NoKey(file) => writer.u8(17).bytes(clipped(file)),
                SignerError::Refused(why) => writer.u8(18).bytes(clipped(why)),
                SignerError::Fork { before, found } => writer.u8(19).u64(*before).u64(*found),
                SignerError::Away(why) => writer.u8(20).bytes(clipped(why)),
                SignerError::Failed(why) => writer.u8(21).bytes(clipped(why)),
            },
        };
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match reader.u8()? {
            0 => {
                let count = reader.u16()?;
                if count > MAX_KEYS {
                    return Err(reader.error("there are more keys than any signer has"));
                }
                Self::Keys((0..count).map(|_| reader.value()).collect::<Result<_, _>>()?)
            }
            1 => Self::Made(reader.value()?),
            2 => Self::Signature(reader.array()?),
            3 => Self::LogKey(text(reader, MAX_TEXT)?),
            4 => match reader.u8()? {
                0 => Self::Newest(None),
                1 => Self::Newest(Some(text(reader, MAX_TEXT)?)),
                _ => return Err(reader.error("an option's flag is neither 0 nor 1")),
            },
            5 => Self::Checkpoint(text(reader, MAX_TEXT)?),
            16 => Self::Failed(SignerError::UnknownKey(text(reader, MAX_TEXT)?)),
            17 => Self::Failed(SignerError::NoKey(text(reader, MAX_TEXT)?)),
            18 => Self::Failed(SignerError::Refused(text(reader, MAX_TEXT)?)),
            19 => Self::Failed(SignerError::Fork { before: reader.u64()?, found: reader.u64()? }),
            20 => Self::Failed(SignerError::Away(text(reader, MAX_TEXT)?)),
            21 => Self::Failed(SignerError::Failed(text(reader, MAX_TEXT)?)),
            _ => return Err(reader.error("there is no such answer")),
        })
    }
}
