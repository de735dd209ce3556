//! The file of a ceremony.
//!
//! ```text
//! magic "KWCEREM1" · version u16 · circuit name · circuit digest
//!   · source: 0, or 1 · digest of the .ptau file's powers · its number of contributions u32
//!   · number of contributions u32 · each: name · 0, or 1 · beacon value · log2 of its rounds u8
//!       · for each secret of its phase: x·G1 and the accumulated point · x·G2 and x·r
//!   · powers: τ in G1 · τ in G2 · α in G1 · β in G1 · β in G2
//!   · from the end of phase 1 on: δ in G2 · H query · L query
//!   · Digest::of(label::CEREMONY_FILE, everything before)
//! ```
//!
//! Integers and lengths are those of [`crate::codec`]; a list of points is one byte string of uncompressed
//! points. The number of points follows from the circuit. The digest finds damage; malice is found by
//! [`Ceremony::verify`].

use std::{fs::File, io::Read, path::Path};

use super::{
    Ceremony, CeremonyError, Phase, Source,
    contribution::Contribution,
    key::{Delta, circuit_digest},
    powers::Powers,
};
use crate::{
    Digest,
    codec::{Reader, Writer},
    params::{Groth16Circuit, file::persist},
    transcript::label,
};

const MAGIC: &[u8; 8] = b"KWCEREM1";
const VERSION: u16 = 1;
/// Largest file that is read, in bytes. That of many keys begins with 13 million.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// Longest name of a circuit, in bytes.
const MAX_NAME: usize = 64;
/// Most contributions.
const MAX_CONTRIBUTIONS: usize = 10_000;

impl Ceremony {
    /// Reads a ceremony file, and checks each point by itself: in its one encoding, on its curve, in its
    /// subgroup, not the identity. Whether they belong together, [`Self::verify`] tells.
    ///
    /// # Errors
    /// [`CeremonyError::File`], [`CeremonyError::Damaged`], [`CeremonyError::Malformed`],
    /// [`CeremonyError::Circuit`] or [`CeremonyError::Point`].
    pub fn read(path: &Path) -> Result<Self, CeremonyError> {
        Self::from_bytes(&read_file(path)?)
    }

    /// Writes the file, whole or not at all, in place of what was there. Where `replace` is false and there is a
    /// file already, nothing is written.
    ///
    /// # Errors
    /// [`CeremonyError::File`] where it cannot be written, or may not be replaced.
    pub fn write(&self, path: &Path, replace: bool) -> Result<(), CeremonyError> {
        let bytes = self.to_bytes()?;
        match persist(path, &bytes, replace) {
            Ok(true) => Ok(()),
            Ok(false) => Err(CeremonyError::File(format!("{} exists already; choose another name", path.display()))),
            Err(error) => Err(CeremonyError::File(format!("{} cannot be written: {error}", path.display()))),
        }
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, CeremonyError> {
        let mut writer = Writer::default();
        let name = self.circuit.kind().name().as_bytes();
        writer.array(MAGIC).u16(VERSION).bytes(name).value(&circuit_digest(self.circuit)?);
        self.source.write(&mut writer);
        writer.u32(self.contributions.len() as u32);
        for contribution in &self.contributions {
            contribution.write(&mut writer);
        }
        self.powers.write(&mut writer);
        if let Some(delta) = &self.delta {
            delta.write(&mut writer);
        }
        Ok(seal(writer.into_bytes()))
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, CeremonyError> {
        let (body, digest) = bytes.split_last_chunk::<32>().ok_or(CeremonyError::Damaged)?;
        if Digest::of(label::CEREMONY_FILE, body).0 != *digest {
            return Err(CeremonyError::Damaged);
        }
        let mut reader = Reader::new("ceremony file", body);
        if reader.array::<8>()? != *MAGIC || reader.u16()? != VERSION {
            return Err(reader.error("it is no ceremony file of version 1").into());
        }
        let circuit = Groth16Circuit::of_kind(reader.bytes(MAX_NAME)?).ok_or(CeremonyError::Circuit)?;
        if reader.value::<Digest>()? != circuit_digest(circuit)? {
            return Err(CeremonyError::Circuit);
        }
        let source = match reader.u8()? {
            0 => Source::Own,
            1 => Source::Ptau { powers: reader.value()?, contributions: reader.u32()? },
            _ => return Err(reader.error("its source is not known").into()),
        };
        let count = reader.u32()? as usize;
        if count > MAX_CONTRIBUTIONS {
            return Err(reader.error("it has more contributions than are allowed").into());
        }
        let mut contributions = Vec::new();
        let mut phase = source.first_phase();
        for _ in 0..count {
            if phase == Phase::Closed {
                return Err(CeremonyError::Order("a contribution follows the beacon that closed the ceremony"));
            }
            let contribution = Contribution::read(&mut reader, phase)?;
            if contribution.beacon.is_some() {
                phase = phase.next();
            }
            contributions.push(contribution);
        }
        let powers = Powers::read(&mut reader, circuit.domain())?;
        let delta = if phase == Phase::Powers { None } else { Some(Delta::read(&mut reader, circuit)?) };
        reader.finish()?;
        Ok(Self { circuit, source, contributions, powers, delta })
    }
}

/// Appends the digest that a ceremony file ends with.
pub(super) fn seal(mut body: Vec<u8>) -> Vec<u8> {
    let digest = Digest::of(label::CEREMONY_FILE, &body);
    body.extend_from_slice(&digest.0);
    body
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, CeremonyError> {
    let failed = |error: std::io::Error| CeremonyError::File(format!("{} cannot be read: {error}", path.display()));
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(CeremonyError::File(format!("{} is too large for a ceremony file", path.display())));
    }
    Ok(bytes)
}
