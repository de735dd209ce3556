//! Powers of tau from a `.ptau` file, as snarkjs writes it (iden3 binary format, version 1).
//!
//! ```text
//! "ptau" · version u32 · number of sections u32 · each: type u32 · length u64 · its bytes
//! 1 header: 32 u32 · modulus of the base field · power u32 · power of the whole ceremony u32
//! 2 τ in G1, 2·2^power - 1 points · 3 τ in G2, 2^power · 4 α in G1 · 5 β in G1, 2^power each · 6 β in G2
//! 7 number of contributions u32 · each contribution
//! ```
//!
//! Integers are little-endian. A coordinate is 32 bytes, little-endian, in Montgomery form with R = 2^256; one of
//! the quadratic extension is c0 and c1; a point is x and y; the identity is all zeros. Other sections, such
//! as those of a file prepared for phase 2, are passed over. Of a larger file the first powers are taken.
//!
//! The powers are checked here as any. The proofs of the contributions in section 7 are not: that one of those
//! contributors was honest, `snarkjs powersoftau verify` tells.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use ark_bn254::{Fq, Fq2, G1Affine, G2Affine};
use ark_ff::{BigInt, BigInteger, PrimeField};

use super::{Ceremony, CeremonyError, Progress, Step, powers::Powers};
use crate::params::Groth16Circuit;

const MAX_SECTIONS: u32 = 64;
const MAX_POWER: u32 = 28;
const COORDINATE: usize = 32;

/// A section's place and length in the file.
type Sections = BTreeMap<u32, (u64, u64)>;

impl Ceremony {
    /// Begins phase 2 of a circuit on the powers of a `.ptau` file, for BN254 and a power of at least 9 for one key, 15 for many.
    ///
    /// # Errors
    /// [`CeremonyError::Ptau`] for a file of another form, [`CeremonyError::Point`] and [`CeremonyError::Powers`] for
    /// powers that are none.
    pub fn from_ptau(circuit: Groth16Circuit, path: &Path, progress: Progress<'_>) -> Result<Self, CeremonyError> {
        let failed = |error: std::io::Error| CeremonyError::File(format!("{} cannot be read: {error}", path.display()));
        let step = |name, done| progress(Step { name, done, total: 4 });
        step("reading the powers of tau", 0);
        let mut file = PtauFile::open(BufReader::new(File::open(path).map_err(failed)?))?;
        let (powers, contributions) = file.powers(circuit.domain())?;
        step("checking the points", 1);
        powers.check_points()?;
        step("checking the powers of tau", 2);
        powers.check()?;
        step("deriving the circuit's key", 3);
        Self::on_powers(circuit, powers, contributions)
    }
}

struct PtauFile<R> {
    file: R,
    sections: Sections,
}

const EARLY: CeremonyError = CeremonyError::Ptau("it ends too early");

impl<R: Read + Seek> PtauFile<R> {
    /// Reads the table of sections.
    fn open(mut file: R) -> Result<Self, CeremonyError> {
        let end = file.seek(SeekFrom::End(0)).map_err(|_| EARLY)?;
        file.seek(SeekFrom::Start(0)).map_err(|_| EARLY)?;
        let mut this = Self { file, sections: Sections::new() };
        if this.array::<4>()? != *b"ptau" || this.u32()? != 1 {
            return Err(CeremonyError::Ptau("it does not begin as one of version 1"));
        }
        let count = this.u32()?;
        if count > MAX_SECTIONS {
            return Err(CeremonyError::Ptau("it has too many sections"));
        }
        let mut place = 12;
        for _ in 0..count {
            let (kind, length) = (this.u32()?, u64::from_le_bytes(this.array()?));
            let next = length.checked_add(place + 12).filter(|next| *next <= end).ok_or(EARLY)?;
            if this.sections.insert(kind, (place + 12, length)).is_some() {
                return Err(CeremonyError::Ptau("a section occurs twice"));
            }
            this.file.seek(SeekFrom::Start(next)).map_err(|_| EARLY)?;
            place = next;
        }
        if place != end {
            return Err(CeremonyError::Ptau("bytes follow its end"));
        }
        Ok(this)
    }

    /// The first powers for a domain, each point as it stands, and the number of contributions.
    fn powers(&mut self, domain: usize) -> Result<(Powers, u32), CeremonyError> {
        let length = self.section(1)?;
        if length != 4 + COORDINATE as u64 + 8 || self.u32()? as usize != COORDINATE {
            return Err(CeremonyError::Ptau("its header has another form"));
        }
        if self.array::<COORDINATE>()?.to_vec() != Fq::MODULUS.to_bytes_le() {
            return Err(CeremonyError::Ptau("it is for another curve than BN254 (bn128)"));
        }
        let power = self.u32()?;
        if power > MAX_POWER || 1 << power < domain {
            return Err(CeremonyError::Ptau("its power must be at most 28, and at least 9 for one key or 15 for many"));
        }
        let size = 1 << power;
        let powers = Powers {
            tau_g1: self.list(2, 2 * size - 1, 2 * domain - 1, g1)?,
            tau_g2: self.list(3, size, domain, g2)?,
            alpha_g1: self.list(4, size, domain, g1)?,
            beta_g1: self.list(5, size, domain, g1)?,
            beta_g2: *self.list(6, 1, 1, g2)?.first().ok_or(EARLY)?,
        };
        self.section(7)?;
        Ok((powers, self.u32()?))
    }

    /// Goes to a section; gives its length.
    fn section(&mut self, kind: u32) -> Result<u64, CeremonyError> {
        let (place, length) = *self.sections.get(&kind).ok_or(CeremonyError::Ptau("a section is missing"))?;
        self.file.seek(SeekFrom::Start(place)).map_err(|_| EARLY)?;
        Ok(length)
    }

    /// The first `wanted` of `count` points with N coordinates each.
    fn list<P, const N: usize>(
        &mut self,
        kind: u32,
        count: usize,
        wanted: usize,
        point: fn([Fq; N]) -> P,
    ) -> Result<Vec<P>, CeremonyError> {
        if self.section(kind)? != (count * N * COORDINATE) as u64 {
            return Err(CeremonyError::Ptau("a section has another length than its power asks for"));
        }
        (0..wanted).map(|_| self.coordinates().map(point)).collect()
    }

    fn coordinates<const N: usize>(&mut self) -> Result<[Fq; N], CeremonyError> {
        let mut coordinates = [Fq::default(); N];
        for coordinate in &mut coordinates {
            let mut words = [0; 4];
            for word in &mut words {
                *word = u64::from_le_bytes(self.array()?);
            }
            let montgomery = BigInt(words);
            if montgomery >= Fq::MODULUS {
                return Err(CeremonyError::Ptau("a coordinate is not below the modulus"));
            }
            *coordinate = Fq::new_unchecked(montgomery);
        }
        Ok(coordinates)
    }

    fn u32(&mut self) -> Result<u32, CeremonyError> {
        self.array().map(u32::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CeremonyError> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(|_| EARLY)?;
        Ok(bytes)
    }
}

fn g1([x, y]: [Fq; 2]) -> G1Affine {
    if x == Fq::default() && y == x { G1Affine::identity() } else { G1Affine::new_unchecked(x, y) }
}

fn g2([x0, x1, y0, y1]: [Fq; 4]) -> G2Affine {
    let (x, y) = (Fq2::new(x0, x1), Fq2::new(y0, y1));
    if x == Fq2::default() && y == x { G2Affine::identity() } else { G2Affine::new_unchecked(x, y) }
}
