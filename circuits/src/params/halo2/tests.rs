//! Proofs are accepted alone and in company, or neither.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::LazyLock;

use ff::Field;

use super::*;
use crate::{
    KeyAlgorithm,
    key_knowledge::{
        halo2::{KEYS, KeyCircuit},
        symmetric::{PublicInputs, tests as common},
    },
    tagged_key,
};

type Claim = (Vec<Fp>, Vec<u8>);

/// Proofs of one key in three contexts.
fn proofs() -> &'static [Claim; 3] {
    static PROOFS: LazyLock<[Claim; 3]> = LazyLock::new(|| {
        [1, 2, 3].map(|context| {
            let (public, limbs) = common::satisfied::<Fp>(KeyAlgorithm::Aes256);
            let row = PublicInputs { context: [Fp::from(context), Fp::ONE], ..public }.row();
            let proof = KEYS.prove(KeyCircuit::new(limbs), &row).unwrap();
            (row.to_vec(), proof)
        })
    });
    &PROOFS
}

/// Whether all of them are accepted together.
fn together(claims: &[&Claim]) -> bool {
    let opened: Result<Vec<_>, Error> = claims.iter().map(|(row, proof)| KEYS.open(row, proof)).collect();
    opened.is_ok_and(|opened| KEYS.check(&opened.iter().collect::<Vec<_>>()).is_ok())
}

fn assert_the_same_in_company(claim: &Claim, good: bool, what: &str) {
    let [first, second, _] = proofs();
    assert_eq!(KEYS.verify(&claim.0, &claim.1).is_ok(), good, "{what}, alone");
    for company in [[claim, first, second], [first, claim, second], [first, second, claim]] {
        assert_eq!(together(&company), good, "{what}, in company");
    }
}

/// The scalar at `at`, with `addend` added to it.
fn shift(proof: &mut [u8], at: usize, addend: Fp) {
    let scalar = Fp::from_repr(proof[at..at + 32].try_into().unwrap()).unwrap() + addend;
    proof[at..at + 32].copy_from_slice(&scalar.to_repr());
}

#[test]
fn company_changes_no_verdict() {
    let [first, second, claim] = proofs();
    let (row, proof) = claim;
    let good = |proof: Vec<u8>| (row.clone(), proof);
    assert_the_same_in_company(claim, true, "an honest proof");
    assert_the_same_in_company(first, true, "a proof twice");
    for (turn, at) in (0..proof.len()).step_by(32).enumerate() {
        let mut changed = proof.clone();
        let (offset, bit) = [(0, 0x01), (31, 0x80), (17, 0x10)][turn % 3];
        changed[at + offset] ^= bit;
        assert_the_same_in_company(&good(changed), false, &format!("element at {at} changed"));
    }
    for length in [0, 32, proof.len() - 32, proof.len() - 1] {
        assert_the_same_in_company(&good(proof[..length].to_vec()), false, "a cut proof");
    }
    assert_the_same_in_company(&good([proof.as_slice(), &[0]].concat()), false, "a longer proof");
    for row in 0..row.len() {
        let mut changed = claim.clone();
        changed.0[row] += Fp::ONE;
        assert_the_same_in_company(&changed, false, "another public input");
    }
    assert_the_same_in_company(&(second.0.clone(), proof.clone()), false, "another claim's inputs");
    let mut foreign = tagged_key::halo2::soundness::proof();
    assert_the_same_in_company(&good(foreign.clone()), false, "another circuit's proof");
    foreign.resize(proof.len(), 0);
    assert_the_same_in_company(&good(foreign), false, "another circuit's proof, of this one's length");
}

#[test]
fn exchanged_rows_are_refused() {
    let [(row_1, proof_1), (row_2, proof_2), third] = proofs();
    let exchanged = [(row_2.clone(), proof_1.clone()), (row_1.clone(), proof_2.clone())];
    assert!(!together(&[&exchanged[0], &exchanged[1], third]));
    assert!(!together(&[&exchanged[0], &exchanged[1]]));
}

#[test]
fn errors_that_cancel_are_refused() {
    // The last scalar, of the blinding base, is in no challenge: the errors of these two are -W and W.
    let [first, second, third] = proofs();
    let [mut left, mut right] = [first.clone(), second.clone()];
    let last = left.1.len() - 32;
    shift(&mut left.1, last, Fp::ONE);
    shift(&mut right.1, last, -Fp::ONE);
    let [left_opened, right_opened] = [&left, &right].map(|(row, proof)| KEYS.open(row, proof).unwrap());
    let mut sum = left_opened.equation.clone();
    sum.add_msm(&right_opened.equation);
    assert!(sum.eval(), "without weights they cancel");
    for claim in [&left, &right] {
        assert_the_same_in_company(claim, false, "one error");
    }
    assert!(!together(&[&left, &right]));
    assert!(!together(&[&left, third, &right]));
}

#[test]
fn sets_are_of_one_circuit_and_not_empty() {
    let [(row, proof), ..] = proofs();
    let opened = KEYS.open(row, proof).unwrap();
    assert_eq!(KEYS.check(&[]), Err(Error::ProofRefused));
    for company in [&[&opened][..], &[&opened, &opened]] {
        assert_eq!(tagged_key::halo2::KEYS.check(company), Err(Error::ProofRefused));
        assert_eq!(KEYS.check(company), Ok(()));
    }
}

#[test]
fn what_is_no_point_or_scalar_is_refused_when_it_is_opened() {
    let [(row, proof), ..] = proofs();
    for at in (0..proof.len()).step_by(32) {
        let mut changed = proof.clone();
        changed[at..at + 32].copy_from_slice(&[0xff; 32]);
        assert_eq!(KEYS.open(row, &changed).err(), Some(Error::ProofRefused), "element at {at}");
    }
}
