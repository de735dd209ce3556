//! PINs: where they come from, and that they are not printed.

use std::{fmt, fs::File, io::Read, path::Path};

use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::TokenError;
use crate::store::{StoreError, file::check_private};

/// Longest PIN that is read, in bytes.
const MAX_PIN: usize = 255;

/// A token user's PIN. Wiped on drop, never printed.
pub struct Pin(AuthPin);

impl Pin {
    /// A PIN of 1 to 255 bytes of text.
    ///
    /// # Errors
    /// [`TokenError::UnusablePin`] for any other length.
    pub fn new(text: &str) -> Result<Self, StoreError> {
        let unusable = |why: &str| Err(TokenError::UnusablePin(format!("the PIN {why}")).into());
        match text.len() {
            0 => unusable("is empty"),
            1..=MAX_PIN => Ok(Self(AuthPin::from(text))),
            _ => unusable("is longer than 255 bytes"),
        }
    }

    /// Reads a PIN from a file that nobody but its owner can read; a line feed at its end is no part of it.
    ///
    /// # Errors
    /// [`StoreError::KeyFileTooOpen`], [`TokenError::UnusablePin`], or what the file system says.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let mut file = File::open(path).map_err(StoreError::io(path))?;
        check_private(&file, path)?;
        // Never grown, so that no copy stays behind; one byte more than a PIN and its line end.
        let mut buffer = Zeroizing::new([0; MAX_PIN + 3]);
        let mut length = 0;
        while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match file.read(rest).map_err(StoreError::io(path))? {
                0 => break,
                read => length += read,
            }
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line)
            .map_err(|_| TokenError::UnusablePin(format!("the PIN in {} is not text", path.display())))?;
        Self::new(text).map_err(|error| TokenError::UnusablePin(format!("{}: {error}", path.display())).into())
    }

    pub(super) fn expose(&self) -> &AuthPin {
        &self.0
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(secret)")
    }
}
