//! Alone and in company the same proofs are accepted.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use curve25519_dalek::{RistrettoPoint, Scalar};
use proptest::prelude::*;

use super::{Opened, check};
use crate::{
    ClaimContext, Error, Parameters, ProofSystem,
    codec::Canonical,
    context::HashedContext,
    share_correctness::{
        Instance, Scheme,
        feldman::Feldman,
        pedersen::Pedersen,
        strategies::{Polynomials, context, unchecked},
    },
};

const SCHEMES: [Scheme; 2] = [Scheme::Feldman, Scheme::Pedersen];

struct Proven {
    context: ClaimContext,
    instance: Instance,
    proof: Vec<u8>,
}

fn open(Proven { context, instance, proof }: &Proven) -> Result<Opened, Error> {
    let (parameters, context) = (Parameters::transparent(), HashedContext::new(context));
    match instance.commitments().scheme() {
        Scheme::Feldman => Feldman::open(&parameters, &context, instance, proof),
        Scheme::Pedersen => Pedersen::open(&parameters, &context, instance, proof),
    }
}

/// Checked alone, and together in that order.
fn verdicts(proofs: &[Proven]) -> (Vec<Result<(), Error>>, Result<(), Error>) {
    let opened: Vec<Opened> = proofs.iter().map(|proof| open(proof).unwrap()).collect();
    (opened.iter().map(|proof| check(&[proof])).collect(), check(&opened.iter().collect::<Vec<_>>()))
}

/// The proofs of these holders against one dealing, which share its commitments.
fn of(dealing: &Polynomials, indices: impl IntoIterator<Item = u16>) -> Vec<Proven> {
    let commitments = Arc::new(dealing.commitments().unwrap());
    let prove = |index| {
        let instance = Instance::new(commitments.clone(), index).unwrap();
        let context = context(&instance);
        let proof = unchecked(&context, &instance, dealing.share(index));
        Proven { context, instance, proof }
    };
    indices.into_iter().map(prove).collect()
}

fn add(proof: &mut [u8], at: usize, by: Scalar) {
    let scalar = Scalar::from_canonical_bytes(proof[at..at + 32].try_into().unwrap()).unwrap();
    proof[at..at + 32].copy_from_slice((scalar + by).as_bytes());
}

#[test]
fn honest_proofs_of_many_dealings_are_accepted_together() {
    let mut proofs = Vec::new();
    for (scheme, threshold, seed) in
        [(Scheme::Feldman, 3, 1), (Scheme::Pedersen, 3, 2), (Scheme::Feldman, 40, 3), (Scheme::Pedersen, 2, 4)]
    {
        let dealing = Polynomials::new(scheme, threshold, seed);
        // One holder of many, and more holders than the threshold: both ways to put S in.
        proofs.extend(of(&dealing, [1]));
        assert_eq!(verdicts(&proofs).1, Ok(()));
        proofs.extend(of(&dealing, (1..=7).chain([1023, 1024, 7])));
        assert_eq!(verdicts(&proofs).1, Ok(()));
    }
    // The same dealing, read again: another value, the same digest.
    let mut read = of(&Polynomials::new(Scheme::Feldman, 3, 1), [9]);
    read[0].instance = Instance::from_bytes(&read[0].instance.to_bytes()).unwrap();
    proofs.extend(read);
    let (alone, together) = verdicts(&proofs);
    assert!(together.is_ok() && alone.iter().all(Result::is_ok));
    assert_eq!(check(&[]), Err(Error::ProofRefused), "an empty set");
}

#[test]
fn one_bad_proof_spoils_its_company() {
    type Change = fn(&mut [Proven], usize);
    let changes: [(&str, Change); 6] = [
        ("response_changed", |proofs, at| add(&mut proofs[at].proof, 32, Scalar::ONE)),
        ("commitment_changed", |proofs, at| {
            let other = RistrettoPoint::mul_base(&Scalar::from(7u8)).compress().to_bytes();
            proofs[at].proof[..32].copy_from_slice(&other);
        }),
        ("index_swapped", |proofs, at| {
            let commitments = proofs[at].instance.commitments().clone();
            proofs[at].instance = Instance::new(commitments, 99).unwrap();
        }),
        ("foreign_dealing", |proofs, at| {
            let (scheme, index) = (proofs[at].instance.commitments().scheme(), proofs[at].instance.index());
            proofs[at].instance = Polynomials::new(scheme, 3, 77).instance(index).unwrap();
        }),
        ("foreign_context", |proofs, at| proofs[at].context.challenge.0[0] ^= 1),
        ("proof_of_another", |proofs, at| proofs[at].proof = proofs[(at + 1) % 4].proof.clone()),
    ];
    for scheme in SCHEMES {
        let dealing = Polynomials::new(scheme, 3, 1);
        for (name, change) in changes {
            for at in 0..4 {
                let mut proofs = of(&dealing, 1..=4);
                change(&mut proofs, at);
                let (alone, together) = verdicts(&proofs);
                assert_eq!(together, Err(Error::ProofRefused), "{name}");
                assert!(alone.iter().enumerate().all(|(i, verdict)| verdict.is_ok() == (i != at)), "{name}");
            }
        }
    }
}

#[test]
fn errors_that_cancel_in_a_sum_without_weights() {
    for scheme in SCHEMES {
        let responses = if scheme == Scheme::Feldman { 32..33 } else { 32..65 };
        for at in responses.step_by(32) {
            let mut proofs = of(&Polynomials::new(scheme, 3, 1), 1..=3);
            add(&mut proofs[0].proof, at, Scalar::from(5u8));
            add(&mut proofs[1].proof, at, -Scalar::from(5u8));
            let (alone, together) = verdicts(&proofs);
            assert_eq!(together, Err(Error::ProofRefused));
            assert_eq!(alone, [Err(Error::ProofRefused), Err(Error::ProofRefused), Ok(())]);
        }
        // Two proofs that were exchanged between two holders: their sum is the same.
        let mut proofs = of(&Polynomials::new(scheme, 3, 1), 1..=2);
        let (first, second) = proofs.split_at_mut(1);
        std::mem::swap(&mut first[0].proof, &mut second[0].proof);
        let (alone, together) = verdicts(&proofs);
        assert!(together.is_err() && alone.iter().all(Result::is_err));
    }
}

#[test]
fn what_cannot_be_read_is_refused_before_it_has_company() {
    for scheme in SCHEMES {
        let mut proofs = of(&Polynomials::new(scheme, 3, 1), [1]);
        let honest = proofs[0].proof.clone();
        for at in (0..honest.len()).step_by(32) {
            proofs[0].proof.clone_from(&honest);
            proofs[0].proof[at..at + 32].fill(0xff);
            assert!(matches!(open(&proofs[0]), Err(Error::Malformed { .. })), "not canonical at {at}");
        }
        proofs[0].proof.clone_from(&honest);
        proofs[0].proof[..32].fill(0);
        assert!(matches!(open(&proofs[0]), Err(Error::Malformed { .. })), "the identity as commitment");
        for wrong in [&honest[1..], &[&honest[..], &[0]].concat()] {
            proofs[0].proof = wrong.to_vec();
            assert!(matches!(open(&proofs[0]), Err(Error::Malformed { .. })), "length {}", wrong.len());
        }
    }
}

#[test]
fn shares_of_zero_and_coefficients_of_zero_are_proven_as_any() {
    for scheme in SCHEMES {
        let mut sparse = Polynomials::new(scheme, 5, 1);
        for k in 1..4 {
            (sparse.secret[k], sparse.blinding[k]) = (Scalar::ZERO, Scalar::ZERO);
        }
        let mut rooted = Polynomials::new(scheme, 2, 1);
        let x = Scalar::from(3u8);
        (rooted.secret[0], rooted.blinding[0]) = (-x * rooted.secret[1], -x * rooted.blinding[1]);
        for dealing in [sparse, rooted] {
            let mut proofs = of(&dealing, 1..=6);
            let (alone, together) = verdicts(&proofs);
            assert!(together.is_ok() && alone.iter().all(Result::is_ok));
            add(&mut proofs[2].proof, 32, Scalar::ONE);
            let (alone, together) = verdicts(&proofs);
            assert!(together.is_err() && alone[2].is_err() && alone[1].is_ok());
        }
    }
}

#[test]
fn instances_of_one_dealing_share_what_is_computed() {
    let dealing = Polynomials::new(Scheme::Feldman, 4, 1);
    let instance = dealing.instance(5).unwrap();
    let copy = instance.clone();
    assert!(std::ptr::eq(instance.point(), copy.point()));
    let read = Instance::from_bytes(&instance.to_bytes()).unwrap();
    assert_eq!(read, instance);
    assert_ne!(instance, dealing.instance(6).unwrap());
    // Hashed in two levels, whether from bytes or from values; every part counts.
    let (bytes, digest) = (instance.to_bytes(), instance.digest());
    assert_eq!(crate::context::instance_digest(&bytes), digest);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_ne!(crate::context::instance_digest(&changed), digest, "byte {at}");
    }
    for length in 0..bytes.len() {
        assert_ne!(crate::context::instance_digest(&bytes[..length]), digest);
    }
}

#[test]
fn small_multiples_in_every_form() {
    let dealing = Polynomials::new(Scheme::Feldman, 3, 1);
    let commitments = dealing.commitments().unwrap();
    for x in (0..=1024).chain([2047, 4095, 0x5555, 0xaaaa, 0xfffe, u16::MAX]) {
        assert_eq!(commitments.evaluate(x), RistrettoPoint::mul_base(&dealing.share(x).0), "{x}");
        assert!(x > 1024 || super::evaluation_step(x) <= 15);
    }
    assert_eq!(super::super::evaluate(&[], 3), RistrettoPoint::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn company_changes_no_verdict(
        picks in proptest::collection::vec((0usize..4, 1u16..=1024, any::<bool>()), 1..12),
    ) {
        let dealings = [(Scheme::Feldman, 2), (Scheme::Pedersen, 3), (Scheme::Feldman, 9), (Scheme::Pedersen, 12)];
        let mut proofs = Vec::new();
        for (dealing, index, good) in picks {
            let (scheme, threshold) = dealings[dealing];
            let mut proven = of(&Polynomials::new(scheme, threshold, 9 + dealing as u64), [index]);
            if !good {
                add(&mut proven[0].proof, 32, Scalar::from(index));
            }
            proofs.append(&mut proven);
        }
        let (alone, together) = verdicts(&proofs);
        prop_assert_eq!(together.is_ok(), alone.iter().all(Result::is_ok));
    }
}
