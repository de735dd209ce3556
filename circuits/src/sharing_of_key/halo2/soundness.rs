//! Is any constraint missing in [`SharingCircuit`]?
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::{
    KeyAlgorithm,
    sharing_of_key::tests::{Attempt, strategies},
    soundness::halo2::{Allowed, assert_constrained, assert_refused},
};

/// The circuit with an honest witness in it, and the instance column that it fits.
pub(crate) fn honest(algorithm: KeyAlgorithm, threshold: u16, holders: u16) -> (SharingCircuit, Vec<Fp>) {
    let Attempt { public, secrets } = Attempt::honest(algorithm, threshold, holders);
    (SharingCircuit::new(&Arc::new(secrets)), public.column())
}

#[test]
fn no_constraint_is_missing() {
    // All but the fingerprint and the commitments.
    let outputs: Vec<usize> = (0..MAX_HOLDERS).map(|slot| row::slot(slot) + 3).chain([row::FINGERPRINT]).collect();
    let inputs: Vec<usize> = (0..SharingCircuit::PUBLIC).filter(|row| !outputs.contains(row)).collect();
    for (algorithm, threshold, holders) in
        [(KeyAlgorithm::Aes256, 3, 5), (KeyAlgorithm::Aes128, 1, 1), (KeyAlgorithm::Aes192, 32, 32)]
    {
        let (circuit, column) = honest(algorithm, threshold, holders);
        // Shamir's coefficients beyond the constant terms, in both polynomials, and one blinder for each slot: in a slot
        // without a holder, a blinder is hashed and the hash multiplied by 0.
        let freedom = 2 * usize::from(threshold - 1) + MAX_HOLDERS;
        // Each holder's commitment is one equation.
        let hidden = freedom - usize::from(holders);
        assert_constrained(circuit, &column, &Allowed { inputs: &inputs, freedom, hidden, ..Allowed::CLOSED });
    }
}

#[test]
fn consistent_wrong_witnesses_are_refused() {
    // These are proven as well.
    let forced = ["low_polynomial_of_degree_t", "high_share_off_the_polynomial", "empty_slot_with_a_commitment"];
    let mut strategies = strategies();
    strategies.sort_by_key(|(name, _)| !forced.contains(name));
    assert!(strategies.iter().zip(&forced).all(|((name, _), _)| forced.contains(name)));
    let cases = strategies
        .into_iter()
        .map(|(name, Attempt { public, secrets })| (name, SharingCircuit::new(&Arc::new(secrets)), public.column()));
    assert_refused(&KEYS, cases, forced.len());
}
