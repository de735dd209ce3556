//! Everything that proving and verifying need besides code.
//!
//! halo2's keys are transparent: every process computes the same ones, on first use. Groth16's come from
//! a file, and whoever made that file without a ceremony could forge proofs.

#[cfg(feature = "prove")]
pub(crate) mod file;
mod groth16;
mod halo2;

use std::sync::Arc;

use crate::Error;

#[cfg(feature = "prove")]
pub(crate) use groth16::INPUT_POINTS;
pub(crate) use groth16::groth16_key_digest;
pub use groth16::{Groth16Parameters, Origin};
pub use halo2::Halo2Opened;
pub(crate) use halo2::{Halo2Circuit, Halo2Keys};

/// Parameters of every proof system that has any. Cheap to clone.
#[derive(Clone, Default)]
pub struct Parameters {
    groth16: Option<Arc<Groth16Parameters>>,
}

impl Parameters {
    /// The transparent parameters alone: every kind but Groth16.
    pub fn transparent() -> Self {
        Self::default()
    }

    /// These parameters, and Groth16's.
    #[must_use]
    pub fn with_groth16(mut self, parameters: Groth16Parameters) -> Self {
        self.groth16 = Some(Arc::new(parameters));
        self
    }

    /// Groth16's keys.
    ///
    /// # Errors
    /// [`Error::MissingParameters`] where none were loaded.
    pub fn groth16(&self) -> Result<&Groth16Parameters, Error> {
        self.groth16.as_deref().ok_or(Error::MissingParameters("Groth16"))
    }
}
