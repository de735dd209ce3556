//! The circuits that Groth16 proves, each with parameters of its own.

use std::{fmt, str::FromStr};

use ark_bn254::Fr;
#[cfg(feature = "prove")]
use ark_groth16::ProvingKey;
#[cfg(feature = "prove")]
use ark_relations::utils::matrix::Matrix;

#[cfg(feature = "prove")]
use super::{circuit, many::circuit as many};
use crate::{
    Error, Kind,
    key_knowledge::{many::ManyInputs, symmetric::PublicInputs},
};

/// A circuit that Groth16 proves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Groth16Circuit {
    /// Knowledge of one symmetric key.
    OneKey,
    /// Knowledge of up to 64 symmetric keys.
    ManyKeys,
}

impl Groth16Circuit {
    /// Every circuit.
    pub const ALL: [Self; 2] = [Self::OneKey, Self::ManyKeys];

    /// The kind whose proofs it makes. Its name is the circuit's in files and digests.
    pub const fn kind(self) -> Kind {
        match self {
            Self::OneKey => Kind::KeyKnowledgeGroth16,
            Self::ManyKeys => Kind::ManyKeysGroth16,
        }
    }

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneKey => "key-knowledge",
            Self::ManyKeys => "key-knowledge-many",
        }
    }

    /// The circuit with this [`Self::kind`], by its name.
    pub(crate) fn of_kind(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|circuit| circuit.kind().name().as_bytes() == name)
    }

    /// Points of a verifying key's input commitment: the constant and the public inputs.
    pub(crate) const fn input_points(self) -> usize {
        match self {
            Self::OneKey => 1 + PublicInputs::<Fr>::COUNT,
            Self::ManyKeys => 1 + ManyInputs::<Fr>::COUNT,
        }
    }
}

#[cfg(feature = "prove")]
impl Groth16Circuit {
    /// Rank-1 constraints.
    pub(crate) const fn constraints(self) -> usize {
        match self {
            Self::OneKey => circuit::CONSTRAINTS,
            Self::ManyKeys => many::CONSTRAINTS,
        }
    }

    /// The constant, the public inputs and the witness.
    pub(crate) const fn variables(self) -> usize {
        match self {
            Self::OneKey => circuit::VARIABLES,
            Self::ManyKeys => many::VARIABLES,
        }
    }

    /// Roots of unity that it needs: one for each constraint, for the constant and for each public input.
    pub(crate) const fn domain(self) -> usize {
        (self.constraints() + self.input_points()).next_power_of_two()
    }

    /// The constraint matrices A, B and C, which are the same for every proof.
    pub(crate) fn matrices(self) -> Result<&'static [Matrix<Fr>], Error> {
        match self {
            Self::OneKey => circuit::matrices(),
            Self::ManyKeys => many::matrices(),
        }
    }

    /// A proving key whose secrets are dropped, not proven to be gone.
    pub(crate) fn set_up(self) -> Result<ProvingKey<ark_bn254::Bn254>, Error> {
        use ark_snark::CircuitSpecificSetupSNARK;
        let rng = &mut rand::rngs::OsRng;
        let made = match self {
            Self::OneKey => super::Snark::setup(circuit::KeyCircuit::default(), rng),
            Self::ManyKeys => super::Snark::setup(many::ManyCircuit::default(), rng),
        };
        let failed = |error| Error::Parameters(format!("development parameters could not be made: {error}"));
        made.map(|(proving, _)| proving).map_err(failed)
    }
}

impl fmt::Display for Groth16Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Groth16Circuit {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = Error::malformed("circuit", "use key-knowledge or key-knowledge-many");
        Self::ALL.into_iter().find(|circuit| circuit.name() == text).ok_or(unknown)
    }
}
