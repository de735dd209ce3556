//! The canonical codec: one value has one encoding, and one encoding has one value.
//!
//! Integers are big-endian and fixed in width, byte strings carry a `u32` length, options a `0` or `1`
//! byte. Reading is total: lengths are capped before anything is allocated, and [`Reader::finish`] refuses
//! trailing bytes.

use crate::Error;

/// Longest byte string that a reader accepts, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// A type with one canonical encoding.
pub trait Canonical: Sized {
    /// What a reader calls this type in an error.
    const WHAT: &'static str;

    /// Appends the encoding to `writer`.
    fn write(&self, writer: &mut Writer);

    /// Reads one value; leaves the rest of the input in `reader`.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error>;

    /// The encoding of this value alone.
    fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.write(&mut writer);
        writer.into_bytes()
    }

    /// Reads a value from exactly `bytes`.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(Self::WHAT, bytes);
        let value = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }
}

/// Builds an encoding.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.array(&value.to_be_bytes())
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.array(&value.to_be_bytes())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.array(&value.to_be_bytes())
    }

    /// Exactly these bytes, with no length before them.
    pub fn array<const N: usize>(&mut self, value: &[u8; N]) -> &mut Self {
        self.0.extend_from_slice(value);
        self
    }

    /// A byte string with its length before it.
    ///
    /// # Panics
    /// When `value` is longer than `u32::MAX` bytes, which no caller holds.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        let length = u32::try_from(value.len()).expect("byte strings stay below 4 GiB");
        self.u32(length);
        self.0.extend_from_slice(value);
        self
    }

    /// Another canonical value.
    pub fn value<T: Canonical>(&mut self, value: &T) -> &mut Self {
        value.write(self);
        self
    }

    /// An optional canonical value.
    pub fn option<T: Canonical>(&mut self, value: Option<&T>) -> &mut Self {
        match value {
            None => self.u8(0),
            Some(value) => self.u8(1).value(value),
        }
    }

    /// The finished encoding.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Takes an encoding apart.
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over `bytes`; `what` names the type in errors.
    pub const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// An error about what is being read.
    pub const fn error(&self, why: &'static str) -> Error {
        Error::malformed(self.what, why)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(self.error("it ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    /// Exactly `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let error = self.error("it ends too early");
        self.take(N)?.try_into().map_err(|_| error)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next byte, which stays in the reader.
    pub fn peek(&self) -> Result<u8, Error> {
        self.rest.first().copied().ok_or(self.error("it ends too early"))
    }

    /// A byte string of at most `cap` bytes.
    pub fn bytes(&mut self, cap: usize) -> Result<&'a [u8], Error> {
        let length = self.u32()? as usize;
        if length > cap {
            return Err(self.error("a byte string is longer than allowed"));
        }
        self.take(length)
    }

    /// Another canonical value.
    pub fn value<T: Canonical>(&mut self) -> Result<T, Error> {
        T::read(self)
    }

    /// An optional canonical value.
    pub fn option<T: Canonical>(&mut self) -> Result<Option<T>, Error> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.value().map(Some),
            _ => Err(self.error("an option's flag is neither 0 nor 1")),
        }
    }

    /// Refuses trailing bytes.
    pub fn finish(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("bytes follow its end")) }
    }
}
