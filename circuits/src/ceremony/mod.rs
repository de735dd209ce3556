//! The ceremony that makes Groth16's parameters among parties of whom one honest one is enough.
//!
//! Phase 1 (Bowe, Gabizon, Miers, eprint 2017/1050) makes the powers of a secret τ, with secrets α and β; it
//! serves any circuit of its size. Phase 2 takes them to the proving key of one of our circuits, with a secret δ. Each
//! contribution multiplies the secrets by its own, proves that it knows those, and forgets them. A [`Beacon`]
//! ends each phase. Whoever would forge proofs needs the secrets of *every* contributor.
//!
//! The file holds the chain of contributions and the newest elements. Elements in between need not be kept:
//! everything in a phase is determined by the points τ·G1, α·G1, β·G1 (or δ·G1), which every contribution
//! carries, and [`Ceremony::verify`] checks the newest elements against the last of them.
//!
//! [`Ceremony`] is what a file holds, each point checked by itself. [`Verified`] is evidence that the whole of it
//! was checked, and the only way to parameters.

mod beacon;
mod check;
mod contribution;
mod error;
mod file;
mod key;
mod knowledge;
mod points;
mod powers;
mod ptau;
#[cfg(test)]
mod tests;
mod verify;

use ark_bn254::G1Affine;
use ark_ec::AffineRepr;

pub use beacon::Beacon;
pub use check::{read_parameters, read_parameters_many};
pub use error::CeremonyError;
pub use verify::{Entry, Verified};

use contribution::{Contribution, check_name};
use key::{Delta, InitialKey};
use knowledge::Secret;
use powers::Powers;

use crate::{Digest, codec::Writer, params::Groth16Circuit, transcript::label};

/// How far a long step is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What is being done.
    pub name: &'static str,
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

/// Told of every step; may be called often.
pub type Progress<'a> = &'a dyn Fn(Step);

/// Which contributions a ceremony takes now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Phase 1: the powers of tau.
    Powers,
    /// Phase 2: the circuit's key.
    Circuit,
    /// None: the last beacon is in.
    Closed,
}

impl Phase {
    /// 1 or 2; 3 when closed.
    pub const fn number(self) -> u8 {
        match self {
            Self::Powers => 1,
            Self::Circuit => 2,
            Self::Closed => 3,
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Powers => Self::Circuit,
            Self::Circuit | Self::Closed => Self::Closed,
        }
    }
}

/// Where phase 1 comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// From this ceremony's own contributions.
    Own,
    /// From a `.ptau` file, whose contributions are that file's own affair.
    Ptau {
        /// Digest of the powers that were taken.
        powers: Digest,
        /// How many contributions the file lists.
        contributions: u32,
    },
}

/// A ceremony, at any moment between two contributions.
#[derive(Clone, PartialEq, Debug)]
pub struct Ceremony {
    circuit: Groth16Circuit,
    source: Source,
    contributions: Vec<Contribution>,
    powers: Powers,
    /// Present from the end of phase 1 on.
    delta: Option<Delta>,
}

impl Ceremony {
    /// Begins a ceremony for a circuit of this build.
    pub fn begin(circuit: Groth16Circuit) -> Self {
        let powers = Powers::one(circuit.domain());
        Self { circuit, source: Source::Own, contributions: Vec::new(), powers, delta: None }
    }

    /// Begins phase 2 on powers that were made elsewhere.
    fn on_powers(circuit: Groth16Circuit, powers: Powers, contributions: u32) -> Result<Self, CeremonyError> {
        let source = Source::Ptau { powers: powers.digest(), contributions };
        let initial = InitialKey::of(circuit, &powers)?;
        let delta = Delta::one(&initial);
        // With τ a root of unity, as in a file that nobody has contributed to.
        points::check("the H query", &delta.h)?;
        Ok(Self { circuit, source, contributions: Vec::new(), powers, delta: Some(delta) })
    }

    /// The circuit whose parameters it makes.
    pub const fn circuit(&self) -> Groth16Circuit {
        self.circuit
    }

    /// Where phase 1 comes from.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// Which contributions it takes now.
    pub fn phase(&self) -> Phase {
        let beacons = self.contributions.iter().filter(|contribution| contribution.beacon.is_some());
        beacons.fold(self.source.first_phase(), |phase, _| phase.next())
    }

    /// Digest of the circuit, the source and every contribution: what the last contributor publishes.
    ///
    /// # Errors
    /// [`CeremonyError::Circuit`] where the circuit cannot be laid out.
    pub fn digest(&self) -> Result<Digest, CeremonyError> {
        Ok(self.places()?.last)
    }

    /// Multiplies the phase's secrets by fresh ones, from the operating system and `entropy`, and forgets those.
    /// Gives the digest for the contributor to publish. Checks the whole ceremony first: on points that someone
    /// chose badly, a secret would leak.
    ///
    /// # Errors
    /// Whatever is wrong with the ceremony; [`CeremonyError::Order`] for a bad name, or a closed ceremony.
    pub fn contribute(&mut self, name: &str, entropy: &[u8], progress: Progress<'_>) -> Result<Digest, CeremonyError> {
        check_name(name)?;
        self.verify(progress)?;
        progress(Step { name: "contributing", done: 0, total: 1 });
        match self.phase() {
            Phase::Powers => {
                let secrets = powers::SECRETS.map(|name| Secret::draw(name, entropy));
                self.add_powers(name, None, secrets)
            }
            Phase::Circuit => {
                let secrets = key::SECRETS.map(|name| Secret::draw(name, entropy));
                self.add_delta(name, None, &secrets)
            }
            Phase::Closed => Err(CeremonyError::Order("the ceremony is closed: nothing can be added any more")),
        }
    }

    /// Ends the phase with a contribution that comes from a public value. Ending phase 1 opens phase 2.
    ///
    /// # Errors
    /// As [`Self::contribute`]; [`CeremonyError::Order`] where no party has contributed to the phase yet.
    pub fn end_phase(&mut self, beacon: Beacon, progress: Progress<'_>) -> Result<Digest, CeremonyError> {
        self.verify(progress)?;
        let phase = self.phase();
        if phase != Phase::Closed && self.contributions.last().is_none_or(|last| last.beacon.is_some()) {
            return Err(CeremonyError::Order("nobody has contributed to this phase yet: a beacon alone is no secret"));
        }
        let before = self.digest()?;
        match phase {
            Phase::Powers => {
                let secrets = beacon.secrets(&powers::SECRETS, &before, progress)?;
                let digest = self.add_powers("beacon", Some(beacon), secrets)?;
                progress(Step { name: "deriving the circuit's key", done: 0, total: 1 });
                let initial = InitialKey::of(self.circuit, &self.powers)?;
                self.delta = Some(Delta::one(&initial));
                Ok(digest)
            }
            Phase::Circuit => {
                let secrets = beacon.secrets(&key::SECRETS, &before, progress)?;
                self.add_delta("beacon", Some(beacon), &secrets)
            }
            Phase::Closed => Err(CeremonyError::Order("the ceremony is closed already")),
        }
    }

    fn add_powers(
        &mut self,
        name: &str,
        beacon: Option<Beacon>,
        secrets: [Secret; 3],
    ) -> Result<Digest, CeremonyError> {
        let places = self.places()?;
        let made = Contribution::new(name, beacon, Phase::Powers, &places.last, &places.heads, &secrets);
        self.powers.contribute(&secrets);
        let digest = made.digest(Phase::Powers, &places.last);
        self.contributions.push(made);
        Ok(digest)
    }

    fn add_delta(
        &mut self,
        name: &str,
        beacon: Option<Beacon>,
        secrets: &[Secret; 1],
    ) -> Result<Digest, CeremonyError> {
        let places = self.places()?;
        let made = Contribution::new(name, beacon, Phase::Circuit, &places.last, &places.heads, secrets);
        let [secret] = secrets;
        if let Some(delta) = &mut self.delta {
            delta.contribute(secret);
        }
        let digest = made.digest(Phase::Circuit, &places.last);
        self.contributions.push(made);
        Ok(digest)
    }

    /// What opens the chain of digests: circuit and source.
    fn opening(&self) -> Result<Digest, CeremonyError> {
        let mut writer = Writer::default();
        let name = self.circuit.kind().name().as_bytes();
        writer.bytes(b"opening").bytes(name).value(&key::circuit_digest(self.circuit)?);
        self.source.write(&mut writer);
        Ok(Digest::of(label::CEREMONY, &writer.into_bytes()))
    }

    /// Where every contribution stands, and where the next one will.
    fn places(&self) -> Result<Places, CeremonyError> {
        let mut last = self.opening()?;
        let mut phase = self.source.first_phase();
        let mut heads = phase.generators();
        let mut before = Vec::with_capacity(self.contributions.len());
        for contribution in &self.contributions {
            before.push(Place { phase, digest: last, heads });
            last = contribution.digest(phase, &last);
            heads = contribution.heads();
            if contribution.beacon.is_some() && phase == Phase::Powers {
                heads = Phase::Circuit.generators();
            }
            if contribution.beacon.is_some() {
                phase = phase.next();
            }
        }
        Ok(Places { before, last, heads })
    }
}

impl Phase {
    /// What the first contribution of a phase builds on.
    fn generators(self) -> Vec<G1Affine> {
        vec![G1Affine::generator(); contribution::secrets(self).len()]
    }
}

impl Source {
    const fn first_phase(&self) -> Phase {
        match self {
            Self::Own => Phase::Powers,
            Self::Ptau { .. } => Phase::Circuit,
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Own => writer.u8(0),
            Self::Ptau { powers, contributions } => writer.u8(1).value(powers).u32(*contributions),
        };
    }
}

/// What a contribution builds on.
struct Place {
    phase: Phase,
    /// Digest of everything before.
    digest: Digest,
    /// The accumulated points in G1.
    heads: Vec<G1Affine>,
}

struct Places {
    /// For each contribution, its own.
    before: Vec<Place>,
    /// Digest of everything.
    last: Digest,
    /// What the next contribution builds on.
    heads: Vec<G1Affine>,
}
