//! Is any constraint missing in [`DerivationCircuit`]?
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::{
    KeyAlgorithm,
    key_derivation::tests as common,
    soundness::halo2::{Allowed, assert_constrained, assert_refused, weakened},
};

/// All but the two fingerprints are inputs. Both outputs are taken apart, and the second's low half once more.
const ALLOWED: Allowed<'_> = Allowed {
    inputs: &[1, 2, 3, 5, 6, 7, 8, 9, 10, 11],
    cuts: &[("canonical/z", "z1/hash"), ("canonical/z", "z2/hash"), ("choose/low", "second/low")],
    ..Allowed::CLOSED
};

/// Of the selectors and copies, every fifth is taken away: all of them take a minute. Besides the cut copies themselves,
/// only each slack's last window and the zero after it are then not missed.
const STEP: usize = 5;

/// The circuit with an honest witness in it, and the instance column that it fits.
pub(crate) fn honest(master: KeyAlgorithm, derived: KeyAlgorithm) -> (DerivationCircuit, Vec<Fp>) {
    let (public, expansion) = common::satisfied(master, derived);
    (DerivationCircuit { expansion: Some(expansion) }, public.row().to_vec())
}

#[test]
fn no_constraint_is_missing() {
    for (master, derived) in common::pairs() {
        let (circuit, row) = honest(master, derived);
        assert_constrained(circuit, &row, &ALLOWED);
    }
}

#[test]
fn every_constraint_and_copy_is_missed() {
    let (circuit, row) = honest(KeyAlgorithm::Aes256, KeyAlgorithm::Aes256);
    let mut unseen = weakened(&circuit, &row, &ALLOWED, STEP);
    // The gate computes a slack out of isolated values, so that its range, which ends in this zero, is no tangent's
    // concern. What only that range refuses, the number 5 + p, is among the tests of `gadgets/canonical.rs`.
    unseen.retain(|line| !line.ends_with("slack/number/z_64"));
    assert_eq!(unseen, Vec::<String>::new());
}

#[test]
fn consistent_wrong_witnesses_are_refused() {
    // These are proven as well.
    let forced = ["first_output_plus_the_modulus", "second_output_plus_the_modulus", "aes128_with_a_high_limb"];
    let mut strategies = common::strategies();
    strategies.sort_by_key(|(name, ..)| !forced.contains(name));
    assert!(strategies.iter().zip(&forced).all(|((name, ..), _)| forced.contains(name)));
    let cases = strategies.into_iter().map(|(name, public, expansion)| {
        (name, DerivationCircuit { expansion: Some(expansion) }, public.row().to_vec())
    });
    assert_refused(&KEYS, cases, forced.len());
}
