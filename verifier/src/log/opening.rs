//! Openings: what the log's entries are hashes of.

use keywitness_circuits::{Digest, Error, Nonce, Timestamp, transcript::label};

use super::malformed;

/// Media type of a page of openings.
pub const OPENINGS_TYPE: &str = "application/vnd.keywitness.openings";

/// Longest command or outcome of an opening, in bytes.
pub const MAX_OPENING: usize = 8 * 1024 * 1024;

/// One command of the log, with what it came to. `command` and `outcome` are the manager's own encodings, which whoever
/// replays the log reads; the entry's hash is over these bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opening {
    /// The command's number, from 1: one more than the entry's index.
    pub sequence: u64,
    /// What hides the entry from whoever sees the entry alone.
    pub salt: Nonce,
    /// When it was applied.
    pub at: Timestamp,
    /// The command.
    pub command: Vec<u8>,
    /// What it came to.
    pub outcome: Vec<u8>,
}

impl Opening {
    /// Salt, sequence, time, command and outcome; numbers big-endian, and four bytes of length before each of the last two.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(56 + self.command.len() + self.outcome.len());
        bytes.extend_from_slice(&self.salt.0);
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.at.0.to_be_bytes());
        for part in [&self.command, &self.outcome] {
            // What is longer cannot be read again; no command comes near it.
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// Reads one opening, and gives back what follows it.
    ///
    /// # Errors
    /// [`Error::Malformed`]
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        fn array<'a, const N: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; N], Error> {
            let (array, rest) = bytes.split_first_chunk().ok_or(SHORT)?;
            *bytes = rest;
            Ok(array)
        }
        fn part(bytes: &mut &[u8]) -> Result<Vec<u8>, Error> {
            let length = u32::from_be_bytes(*array(bytes)?) as usize;
            if length > MAX_OPENING {
                return Err(malformed("opening", "it is too long"));
            }
            let (part, rest) = bytes.split_at_checked(length).ok_or(SHORT)?;
            *bytes = rest;
            Ok(part.to_vec())
        }
        let mut rest = bytes;
        let opening = Self {
            salt: Nonce(*array(&mut rest)?),
            sequence: u64::from_be_bytes(*array(&mut rest)?),
            at: Timestamp(u64::from_be_bytes(*array(&mut rest)?)),
            command: part(&mut rest)?,
            outcome: part(&mut rest)?,
        };
        Ok((opening, rest))
    }

    /// The log's entry: 32 bytes.
    pub fn entry(&self) -> Digest {
        Digest::of(label::LOG_LEAF, &self.to_bytes())
    }
}

const SHORT: Error = malformed("opening", "it ends too early");

/// A page of openings: one after the other.
pub fn write_page(openings: &[Opening]) -> Vec<u8> {
    openings.iter().flat_map(Opening::to_bytes).collect()
}

/// Reads a page of openings, whose numbers follow on `after` without a gap.
///
/// # Errors
/// [`Error::Malformed`]
pub fn read_page(mut page: &[u8], after: u64) -> Result<Vec<Opening>, Error> {
    let (mut openings, mut newest) = (Vec::new(), after);
    while !page.is_empty() {
        let (opening, rest) = Opening::read(page)?;
        if newest.checked_add(1) != Some(opening.sequence) {
            return Err(malformed("page of openings", "its numbers do not follow on each other"));
        }
        newest = opening.sequence;
        openings.push(opening);
        page = rest;
    }
    Ok(openings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn opening(sequence: u64) -> Opening {
        let (command, outcome) = (vec![1; sequence as usize], vec![2; 3]);
        Opening { sequence, salt: Nonce([sequence as u8; 32]), at: Timestamp(9), command, outcome }
    }

    #[test]
    fn a_page_is_read_as_it_was_written_and_nothing_else_is() {
        let openings: Vec<_> = (4..8).map(opening).collect();
        let page = write_page(&openings);
        assert_eq!(read_page(&page, 3).unwrap(), openings);
        assert_eq!(read_page(&[], 3).unwrap(), []);
        for after in [0, 2, 4, u64::MAX] {
            read_page(&page, after).unwrap_err();
        }
        for end in 1..page.len() {
            // Cut between openings, it is a shorter page.
            assert!(read_page(&page[..end], 3).map_or(true, |read| read.len() < 4), "{end}");
        }
        let mut long = page;
        long[48] = 0xff;
        read_page(&long, 3).unwrap_err();
    }

    /// Parts cannot trade bytes, and every field enters the entry.
    #[test]
    fn every_field_is_in_the_entry() {
        let base = opening(5);
        let shifted = Opening { command: vec![1; 4], outcome: vec![1, 2, 2, 2], ..base.clone() };
        let others = [
            shifted,
            Opening { sequence: 6, ..base.clone() },
            Opening { salt: Nonce([9; 32]), ..base.clone() },
            Opening { at: Timestamp(8), ..base.clone() },
            Opening { outcome: vec![], ..base.clone() },
        ];
        assert!(others.iter().all(|other| other.entry() != base.entry()));
        assert_eq!(base.entry(), Opening::read(&base.to_bytes()).unwrap().0.entry());
    }
}
