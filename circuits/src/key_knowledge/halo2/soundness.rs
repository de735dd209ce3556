//! Is any constraint missing in [`KeyCircuit`]?
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::{
    key_knowledge::symmetric::tests as common,
    soundness::halo2::{Allowed, assert_constrained, assert_every_cell_refused, assert_refused, weakened},
};

/// d, has_mid, has_top, c0, c1: all but F.
const ALLOWED: Allowed<'_> = Allowed { inputs: &[1, 2, 3, 4, 5], ..Allowed::CLOSED };

fn honest(algorithm: crate::KeyAlgorithm) -> (KeyCircuit, Vec<Fp>) {
    let (public, limbs) = common::satisfied::<Fp>(algorithm);
    (KeyCircuit { limbs: Some(limbs) }, public.row().to_vec())
}

#[test]
fn no_constraint_is_missing() {
    for algorithm in common::ALGORITHMS {
        let (circuit, row) = honest(algorithm);
        let report = assert_constrained(circuit, &row, &ALLOWED);
        if row[3] == Fp::ONE {
            // Only the two length clauses, polynomials 13 and 14: they have strategies of their own.
            assert_eq!(report.redundant, [(13, 1), (14, 1)]);
        }
    }
}

#[test]
fn halo2_refuses_every_changed_cell() {
    let (circuit, row) = honest(crate::KeyAlgorithm::Aes256);
    assert_every_cell_refused(circuit, &row, &ALLOWED);
}

#[test]
fn every_constraint_and_copy_is_missed() {
    let (circuit, row) = honest(crate::KeyAlgorithm::Aes256);
    let unseen = weakened(&circuit, &row, &ALLOWED, 1);
    assert_eq!(unseen, Vec::<String>::new());
}

#[test]
fn consistent_wrong_witnesses_are_refused() {
    let cases = common::strategies()
        .into_iter()
        .map(|(name, public, limbs)| (name, KeyCircuit { limbs: Some(limbs) }, public.row().to_vec()));
    assert_refused(&KEYS, cases, usize::MAX);
}

#[test]
fn the_instance_column_has_one_length() {
    let (circuit, row) = honest(crate::KeyAlgorithm::Aes128);
    let proof = KEYS.prove(circuit, &row).unwrap();
    KEYS.verify(&row, &proof).unwrap();
    // To halo2, a column with one more zero is the same column.
    let longer = [row.as_slice(), &[Fp::ZERO]].concat();
    for wrong in [&longer, &row[..row.len() - 1], &[]] {
        assert!(matches!(KEYS.verify(wrong, &proof), Err(Error::WrongInstance(_))), "{} inputs", wrong.len());
    }
    let (circuit, _) = honest(crate::KeyAlgorithm::Aes128);
    assert!(matches!(KEYS.prove(circuit, &longer), Err(Error::WrongInstance(_))));
}
