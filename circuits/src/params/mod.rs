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

pub use crate::key_knowledge::groth16::Groth16Circuit;
pub(crate) use groth16::groth16_key_digest;
pub use groth16::{Groth16Parameters, Origin};
pub use halo2::Halo2Opened;
pub(crate) use halo2::{Halo2Circuit, Halo2Keys};

/// Runs `work` on a pool of its own, from a thread of no pool. A thread of a pool that waits for others takes up their work
/// meanwhile: inside an initialisation that may be work which waits for the same initialisation, and for ever. None where the
/// system gives no threads.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    let alone = || rayon::ThreadPoolBuilder::new().build().ok().map(|pool| pool.install(work));
    std::thread::scope(|scope| scope.spawn(alone).join().ok().flatten())
}

/// Parameters of every proof system that has any. Cheap to clone.
#[derive(Clone, Default)]
pub struct Parameters {
    groth16: Option<Arc<Groth16Parameters>>,
    groth16_many: Option<Arc<Groth16Parameters>>,
}

impl Parameters {
    /// The transparent parameters alone: every kind but Groth16's.
    pub fn transparent() -> Self {
        Self::default()
    }

    /// These parameters, and Groth16's for one key. Those of another circuit are no such parameters, and are missed
    /// where they are asked for.
    #[must_use]
    pub fn with_groth16(mut self, parameters: Groth16Parameters) -> Self {
        self.groth16 = of(Groth16Circuit::OneKey, parameters);
        self
    }

    /// These parameters, and Groth16's for many keys in one proof; as [`Self::with_groth16`].
    #[must_use]
    pub fn with_groth16_many(mut self, parameters: Groth16Parameters) -> Self {
        self.groth16_many = of(Groth16Circuit::ManyKeys, parameters);
        self
    }

    /// Groth16's keys for one key.
    ///
    /// # Errors
    /// [`Error::MissingParameters`] where none were loaded.
    pub fn groth16(&self) -> Result<&Groth16Parameters, Error> {
        self.groth16.as_deref().ok_or(Error::MissingParameters("Groth16"))
    }

    /// Groth16's keys for many keys in one proof.
    ///
    /// # Errors
    /// [`Error::MissingParameters`] where none were loaded.
    pub fn groth16_many(&self) -> Result<&Groth16Parameters, Error> {
        self.groth16_many.as_deref().ok_or(Error::MissingParameters("Groth16 many-key"))
    }
}

fn of(circuit: Groth16Circuit, parameters: Groth16Parameters) -> Option<Arc<Groth16Parameters>> {
    (parameters.circuit() == circuit).then(|| Arc::new(parameters))
}
