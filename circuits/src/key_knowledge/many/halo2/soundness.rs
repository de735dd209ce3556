//! Is any constraint missing in [`ManyCircuit`]?
//!
//! All slots are made by one function from one set of gates, so the searches that take a system apart piece by piece run over
//! circuits of few slots; the full circuit is searched once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::{
    tests::{accepted, satisfied},
    *,
};
use crate::{
    key_knowledge::symmetric::{PublicInputs, tests as common},
    soundness::halo2::{Allowed, assert_constrained, assert_every_cell_refused, assert_refused, weakened},
};

/// c0, c1, and d, has_mid, has_top of each slot: all but the fingerprints.
fn inputs(slots: usize) -> Vec<usize> {
    (0..2 + 4 * slots).filter(|row| *row < 2 || row % 4 != 2).collect()
}

pub(crate) fn honest<const N: usize>(count: usize) -> (ManyCircuit<N>, Vec<Fp>) {
    let (inputs, limbs) = satisfied::<N>(count);
    (ManyCircuit::new(limbs), inputs.row())
}

#[test]
fn no_constraint_is_missing() {
    // Keys of every length.
    let (circuit, row) = honest::<4>(4);
    let inputs = inputs(4);
    assert_constrained(circuit, &row, &Allowed { inputs: &inputs, ..Allowed::CLOSED });
}

#[test]
fn no_constraint_is_missing_in_the_full_circuit() {
    let inputs = inputs(SLOTS);
    for count in [3, SLOTS] {
        let (circuit, row) = honest::<SLOTS>(count);
        assert_constrained(circuit, &row, &Allowed { inputs: &inputs, ..Allowed::CLOSED });
    }
}

#[test]
fn halo2_refuses_every_changed_cell() {
    let (circuit, row) = honest::<1>(1);
    assert_every_cell_refused(circuit, &row, &Allowed { inputs: &inputs(1), ..Allowed::CLOSED });
}

#[test]
fn every_constraint_and_copy_is_missed() {
    let (circuit, row) = honest::<1>(1);
    let unseen = weakened(&circuit, &row, &Allowed { inputs: &inputs(1), ..Allowed::CLOSED }, 1);
    assert_eq!(unseen, Vec::<String>::new());
}

type Case = (&'static str, ManyInputs<Fp>, Vec<KeyLimbs<Fp>>);

/// Spoils public inputs and witness of a slot.
type Spoil<'a> = &'a dyn Fn(&mut ManyInputs<Fp>, &mut Vec<KeyLimbs<Fp>>);

/// One slot's clause broken, in each slot; and slots that do not belong together.
fn strategies<const N: usize>(count: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for slot in [0, count / 2, count - 1] {
        for (name, public, limbs) in common::strategies::<Fp>() {
            let (mut inputs, mut all) = satisfied::<N>(count);
            inputs.slots[slot] = PublicInputs { context: inputs.slots[0].context, ..public };
            all[slot] = limbs;
            cases.push((name, inputs, all));
        }
    }
    let mut case = |name, spoil: Spoil<'_>| {
        let (mut inputs, mut limbs) = satisfied::<N>(count);
        spoil(&mut inputs, &mut limbs);
        cases.push((name, inputs, limbs));
    };
    case("real_key_in_a_filler_slot", &|_, limbs| limbs[count] = satisfied::<N>(1).1.remove(0));
    case("key_under_the_filler_domain", &|inputs, limbs| {
        limbs[count] = satisfied::<N>(1).1.remove(0);
        inputs.slots[count].domain = inputs.slots[0].domain;
    });
    case("filler_where_a_key_is_claimed", &|_, limbs| limbs[0] = KeyLimbs::filler());
    case("another_slots_fingerprint", &|inputs, _| inputs.slots[1].fingerprint = inputs.slots[0].fingerprint);
    case("slots_swapped", &|_, limbs| limbs.swap(0, 1));
    case("inputs_swapped", &|inputs, _| inputs.slots.swap(0, 1));
    case("fewer_keys_claimed_than_proven", &|inputs, _| inputs.slots[count - 1] = inputs.slots[count]);
    cases
}

#[test]
fn circuit_and_relation_refuse_every_strategy() {
    let (inputs, limbs) = satisfied::<4>(3);
    inputs.check(&limbs).unwrap();
    assert!(accepted::<4>(&inputs.row(), limbs));
    for (name, inputs, limbs) in strategies::<4>(3) {
        assert!(inputs.check(&limbs).is_err(), "{name}");
        assert!(!accepted::<4>(&inputs.row(), limbs), "{name}");
    }
}

#[test]
fn consistent_wrong_witnesses_are_refused() {
    // In the full circuit, first, middle and last slot with a key; two of them reach the prover.
    let cases = strategies::<SLOTS>(63)
        .into_iter()
        .map(|(name, inputs, limbs)| (name, ManyCircuit::<SLOTS>::new(limbs), inputs.row()));
    assert_refused(&KEYS, cases, 2);
}
