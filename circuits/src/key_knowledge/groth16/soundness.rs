//! Is any constraint missing in [`KeyCircuit`], or in one of its parts?
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use ark_crypto_primitives::sponge::{constraints::CryptographicSpongeVar, poseidon::constraints::PoseidonSpongeVar};
use ark_r1cs_std::{alloc::AllocVar, eq::EqGadget, fields::fp::FpVar};
use rand::RngCore;

use super::*;
use crate::{
    KeyAlgorithm,
    key_knowledge::symmetric::{KeyLimbs, tests as common},
    soundness::r1cs::Rank1,
};

/// d, has_mid, has_top, c0, c1, numbered from 1 after F: no function of the key.
const INPUTS: [usize; 5] = [2, 3, 4, 5, 6];
const HAS_MID: usize = 3;
const HAS_TOP: usize = 4;
/// The constraints (1 - has_mid)·mid = 0 and (1 - has_top)·top = 0 come after the 256 bits.
const LENGTHS: [usize; 2] = [256, 257];

/// The circuit's matrices A, B and C.
pub(crate) fn matrices() -> &'static [ark_relations::utils::matrix::Matrix<Fr>] {
    circuit::matrices().unwrap()
}

/// A random key with no zero part, and the selectors that can be changed alone: with mid = 0 or top = 0, they are
/// multiplied by 0. The verifier sets them itself, and the proof is bound to them by the verification equation.
fn honest(algorithm: KeyAlgorithm) -> (Rank1, &'static [usize]) {
    let mut key = vec![0; algorithm.secret_len()];
    rand::thread_rng().fill_bytes(&mut key);
    let (mut public, _) = common::satisfied::<Fr>(algorithm);
    let limbs = KeyLimbs::new(algorithm, &key).unwrap();
    public.fingerprint = Fr::hash(public.domain, limbs.low, limbs.high());
    let values = circuit::assignment(public, limbs).unwrap();
    let matrices = matrices().to_vec();
    let free: &[usize] = match key.len() {
        16 => &[HAS_MID, HAS_TOP],
        24 => &[HAS_TOP],
        _ => &[],
    };
    (Rank1 { matrices, values, public: PublicInputs::<Fr>::COUNT }, free)
}

#[test]
fn no_constraint_is_missing_and_each_is_needed() {
    let mut redundant: BTreeSet<usize> = (0..circuit::CONSTRAINTS).collect();
    for algorithm in common::ALGORITHMS {
        for _ in 0..3 {
            let (system, free) = honest(algorithm);
            let report = system.search(&INPUTS, free);
            assert_eq!(report.findings, Vec::<String>::new(), "{algorithm}");
            redundant.retain(|constraint| report.redundant.contains(constraint));
        }
    }
    // The rest would be missed, each alone. These two choose between isolated values, bits that are 0 and bits that
    // are not, and have strategies of their own: `aes128_key_with_nonzero_high_limb` and its like.
    assert_eq!(redundant, BTreeSet::from(LENGTHS));
}

#[test]
fn a_constraint_taken_away_is_missed() {
    let (system, free) = honest(KeyAlgorithm::Aes256);
    let redundant = system.search(&INPUTS, free).redundant;
    // Bits of every limb, Poseidon's first and last, F, both squares of the context.
    for constraint in [0, 127, 128, 191, 192, 255, 256, 257, 258, 300, 499, 500, 501, 502, 503] {
        let found = !system.without(constraint).search(&INPUTS, free).findings.is_empty();
        assert_eq!(found, !redundant.contains(&constraint) || LENGTHS.contains(&constraint), "constraint {constraint}");
    }
}

#[test]
fn the_parts_determine_their_wires() {
    let mut seed = [0; 32];
    rand::thread_rng().fill_bytes(&mut seed);
    seed[31] = 0;
    let [low, high] = [&seed[..16], &seed[16..]].map(Fr::from_le_bytes_mod_order);

    // A number is its bits: nothing is an input, and its value is free to follow.
    let number = Rank1::of(|cs| {
        let value = FpVar::new_input(cs.clone(), || Ok(low))?;
        circuit::number(&cs, 128, Some(low))?.enforce_equal(&value)
    });
    let report = number.search(&[], &[]);
    assert_eq!((report.findings, report.redundant), (Vec::<String>::new(), BTreeSet::new()));

    // A hash is a function: with what is hashed as inputs, every wire and the output are determined.
    let hash = Rank1::of(|cs| {
        let public = |value| FpVar::new_input(cs.clone(), || Ok(value));
        let (domain, left, right) = (public(Fr::from(7))?, public(low)?, public(high)?);
        let output = public(Fr::hash(Fr::from(7), low, high))?;
        let mut sponge = PoseidonSpongeVar::new(cs.clone(), &POSEIDON);
        sponge.state[0] = domain;
        sponge.absorb(&vec![left, right])?;
        sponge.squeeze_field_elements(1)?[0].enforce_equal(&output)
    });
    let report = hash.search(&[1, 2, 3], &[]);
    assert_eq!((report.findings, report.redundant), (Vec::<String>::new(), BTreeSet::new()));
}

#[test]
fn surplus_inputs_never_reach_the_library() {
    // ark-groth16 ignores some of them, so the number is part of the type; the key must have as many.
    let (public, _) = common::satisfied::<Fr>(KeyAlgorithm::Aes256);
    let row: [Fr; PublicInputs::<Fr>::COUNT] = public.row();
    let parameters = crate::params::Groth16Parameters::develop().unwrap();
    assert_eq!(parameters.prepared().vk.gamma_abc_g1.len(), row.len() + 1);
}
