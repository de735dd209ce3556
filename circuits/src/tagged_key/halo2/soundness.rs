//! Is any constraint missing in [`TagCircuit`]?
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::{
    soundness::halo2::{Allowed, assert_constrained, assert_every_cell_refused, assert_refused, weakened},
    tagged_key::tests as common,
};

/// d0, dβ, c0, c1: all but f0 and fβ.
const ALLOWED: Allowed<'_> = Allowed { inputs: &[2, 3, 4, 5], ..Allowed::CLOSED };

/// The circuit with an honest witness in it, and the instance column that it fits.
pub(crate) fn honest() -> (TagCircuit, Vec<Fp>) {
    let (public, tags) = common::satisfied();
    (TagCircuit { tags: Some(tags) }, public.row().to_vec())
}

/// An honest proof.
pub(crate) fn proof() -> Vec<u8> {
    let (circuit, row) = honest();
    KEYS.prove(circuit, &row).unwrap()
}

#[test]
fn no_constraint_is_missing() {
    let (circuit, row) = honest();
    let report = assert_constrained(circuit, &row, &ALLOWED);
    assert_eq!(report.redundant, []);
}

#[test]
fn halo2_refuses_every_changed_cell() {
    let (circuit, row) = honest();
    assert_every_cell_refused(circuit, &row, &ALLOWED);
}

#[test]
fn every_constraint_and_copy_is_missed() {
    let (circuit, row) = honest();
    assert_eq!(weakened(&circuit, &row, &ALLOWED, 1), Vec::<String>::new());
}

#[test]
fn consistent_wrong_witnesses_are_refused() {
    let cases = common::strategies()
        .into_iter()
        .map(|(name, public, tags)| (name, TagCircuit { tags: Some(tags) }, public.row().to_vec()));
    assert_refused(&KEYS, cases, usize::MAX);
}
