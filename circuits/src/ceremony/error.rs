//! Why a ceremony, or a key that is said to come from one, was refused.

/// Why a ceremony was refused. Contributions are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CeremonyError {
    /// The bytes are no ceremony file.
    #[error(transparent)]
    Malformed(#[from] crate::Error),
    /// The file cannot be read or written.
    #[error("{0}")]
    File(String),
    /// The file does not end with its own digest.
    #[error("the ceremony file is damaged: its digest does not match")]
    Damaged,
    /// The ceremony is for no circuit of this build.
    #[error("the ceremony is for no circuit of this build")]
    Circuit,
    /// A point that no honest contributor makes.
    #[error("{what}, point {index}: {why}")]
    Point {
        /// The list that the point is in.
        what: &'static str,
        /// Its place there, from 0.
        index: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A contributor's public point in G1 is not the one in G2.
    #[error("contribution {contribution}: its {secret} differs between G1 and G2")]
    Groups {
        /// Which contribution.
        contribution: usize,
        /// Which secret.
        secret: &'static str,
    },
    /// A contributor's proof of knowledge does not verify here.
    #[error("contribution {contribution}: the proof of knowledge of {secret} does not verify in this place")]
    Knowledge {
        /// Which contribution.
        contribution: usize,
        /// Which secret.
        secret: &'static str,
    },
    /// A contribution does not build on the one before it.
    #[error("contribution {contribution}: its {secret} does not build on what was there before")]
    Chain {
        /// Which contribution.
        contribution: usize,
        /// Which secret.
        secret: &'static str,
    },
    /// A beacon's secrets are not those of its public value.
    #[error("contribution {contribution}: it does not come from the beacon's public value")]
    Beacon {
        /// Which contribution.
        contribution: usize,
    },
    /// The powers of tau are not those that the contributions lead to.
    #[error("phase 1 is not what its contributions lead to: {0} differs")]
    Foundation(&'static str),
    /// The powers of tau are inconsistent.
    #[error("the powers of tau are inconsistent: {0}")]
    Powers(&'static str),
    /// The phase-2 elements are not those of the circuit.
    #[error("phase 2 is inconsistent: {0}")]
    PhaseTwo(&'static str),
    /// The step does not belong here.
    #[error("{0}")]
    Order(&'static str),
    /// A contribution that was expected is not there.
    #[error("no contribution has the digest {0}: it was left out, or the ceremony was begun anew")]
    Missing(crate::Digest),
    /// A `.ptau` file is unusable.
    #[error("the .ptau file is not usable: {0}")]
    Ptau(&'static str),
    /// A key is not the one that the ceremony made.
    #[error("the proving key is not the ceremony's: {0} differs")]
    Key(&'static str),
}
