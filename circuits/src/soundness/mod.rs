//! Searches for missing constraints, in what the crate's circuits are made of.
//!
//! A circuit is sound only if the public inputs leave no choice that matters. Three searches look for one that they leave:
//!
//! - *Every cell is changed*, alone and with all cells that are copies of it: some constraint must refuse.
//! - *Tangents*: every constraint is linearised at an honest assignment, and the linear system must have no solution
//!   but zero. Bits, windows of range checks and rows of lookup tables are isolated values, so a witness made of
//!   them has no tangent; a direction that is left is a wire that nothing determines (the question that Picus asks;
//!   Pailoor et al., PLDI 2023). The public inputs are held fixed first. Then those that are functions of the
//!   witness, such as fingerprints, are set free: otherwise one equation of a hash could hide one missing range check.
//! - *Detached parts*: constraints among cells that no chain of constraints ties to a public input.
//!
//! What linearisation cannot see are choices between isolated values (another key of the right length, a bit that
//! must be 0). Those are for the strategies of each statement, which [`halo2::assert_refused`] forces through the
//! circuit and the prover.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod controls;
mod evaluate;
mod expression;
pub(crate) mod halo2;
mod linear;
mod mock;
pub(crate) mod r1cs;
mod record;
mod system;
