//! The parts that circuits are made of. Inputs are copied in, never assigned again.

pub(crate) mod canonical;
pub(crate) mod halo2;
pub(crate) mod poseidon;
