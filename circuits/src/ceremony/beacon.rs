//! The random beacon that ends a phase: a public value that nobody could know before the last contribution.
//!
//! The value goes through 2^N rounds of SHA-256, together with everything that was said before. So whoever would
//! choose a last contribution after the value is known, to steer the outcome, pays 2^N hashes for each attempt
//! (Bowe, Gabizon, Miers, eprint 2017/1050).

use sha2::{Digest as _, Sha256};

use super::{CeremonyError, Progress, Step, knowledge::Secret};
use crate::{
    Digest,
    codec::{Reader, Writer},
    transcript::label,
};

/// Longest value, in bytes.
const MAX_VALUE: usize = 1024;
/// Most rounds, as a power of two: about ten minutes.
const MAX_ROUNDS: u8 = 32;
/// Rounds between two reports.
const REPORT: u64 = 1 << 18;

/// A public value, and how often it is hashed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beacon {
    value: Vec<u8>,
    log2_rounds: u8,
}

impl Beacon {
    /// A beacon of 16 to 1024 bytes, hashed 2^`log2_rounds` times, at most 2^32.
    ///
    /// # Errors
    /// [`CeremonyError::Order`] for a value or number outside these bounds.
    pub fn new(value: Vec<u8>, log2_rounds: u8) -> Result<Self, CeremonyError> {
        if !(16..=MAX_VALUE).contains(&value.len()) {
            return Err(CeremonyError::Order("a beacon's value has 16 to 1024 bytes"));
        }
        if log2_rounds > MAX_ROUNDS {
            return Err(CeremonyError::Order("a beacon is hashed at most 2^32 times"));
        }
        Ok(Self { value, log2_rounds })
    }

    /// The public value.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Rounds of hashing, as a power of two.
    pub const fn log2_rounds(&self) -> u8 {
        self.log2_rounds
    }

    /// The secrets, which are public, of this beacon after `before`.
    pub(super) fn secrets<const N: usize>(
        &self,
        names: &[&'static str; N],
        before: &Digest,
        progress: Progress<'_>,
    ) -> Result<[Secret; N], CeremonyError> {
        let mut writer = Writer::default();
        writer.bytes(b"beacon").value(before).bytes(&self.value).u8(self.log2_rounds);
        let mut hash = Digest::of(label::CEREMONY_SECRET, &writer.into_bytes()).0;
        let rounds = 1_u64 << self.log2_rounds;
        for round in 0..rounds {
            if round % REPORT == 0 {
                progress(Step { name: "hashing the beacon", done: round, total: rounds });
            }
            hash = Sha256::digest(hash).into();
        }
        let secrets: Option<Vec<_>> = names.iter().map(|name| Secret::derive(name, &[b"beacon", &hash])).collect();
        let zero = CeremonyError::Order("this beacon leads to zero; take another");
        secrets.and_then(|secrets| secrets.try_into().ok()).ok_or(zero)
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.bytes(&self.value).u8(self.log2_rounds);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CeremonyError> {
        let value = reader.bytes(MAX_VALUE)?.to_vec();
        Self::new(value, reader.u8()?)
    }
}
