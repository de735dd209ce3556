//! The proof system as its users see it, and each slot's clauses in the full circuit.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::LazyLock;

use halo2_proofs::dev::MockProver;
use rayon::prelude::*;

use super::*;
use crate::{
    ClaimContext, KeyAlgorithm, KeyClaim, Statement, Suite,
    key_knowledge::{
        many::Witness,
        symmetric::{PublicInputs, tests as common},
    },
};

/// Any key of an algorithm.
fn key(algorithm: KeyAlgorithm, first: u8) -> crate::key_knowledge::Witness {
    let bytes: Vec<u8> = (0..algorithm.secret_len()).map(|byte| first.wrapping_add(3 * byte as u8)).collect();
    crate::key_knowledge::Witness::new(algorithm, &bytes).unwrap()
}

/// A claim of `count` keys of every length.
pub(crate) fn claim(count: usize) -> (ClaimContext, Instance, Witness) {
    let (mut context, _, _) = common::claim(Kind::ManyKeysHalo2, Suite::Halo2Pasta, KeyAlgorithm::Aes256);
    let keys = (0..count).map(|index| key(common::ALGORITHMS[index % 4], index as u8)).collect();
    let witness = Witness::new(keys);
    let instance = witness.instance(&context.trust_domain, Suite::Halo2Pasta).unwrap();
    context.instance = instance.digest();
    context.keys = (0..count)
        .map(|index| KeyClaim { key: format!("key-{index}").parse().unwrap(), ..context.keys[0].clone() })
        .collect();
    (context, instance, witness)
}

/// Inputs and limbs of `N` slots, of which the first `count` hold keys.
pub(crate) fn satisfied<const N: usize>(count: usize) -> (ManyInputs<Fp>, Vec<KeyLimbs<Fp>>) {
    let (context, instance, witness) = claim(count);
    let (mut inputs, mut limbs) = (ManyInputs::new(&context, &instance).unwrap(), witness.limbs().unwrap());
    inputs.slots.truncate(N);
    limbs.truncate(N);
    (inputs, limbs)
}

pub(crate) fn accepted<const N: usize>(row: &[Fp], limbs: Vec<KeyLimbs<Fp>>) -> bool {
    let circuit = ManyCircuit::<N>::new(limbs);
    MockProver::run(ManyCircuit::<N>::K, &circuit, vec![row.to_vec()]).unwrap().verify().is_ok()
}

type Proven = (ClaimContext, Instance, Vec<Fp>, Vec<u8>);

/// One proof of 64 keys, shared by the tests.
fn proven() -> &'static Proven {
    static PROVEN: LazyLock<Proven> = LazyLock::new(|| {
        let (context, instance, witness) = claim(SLOTS);
        let proof = Halo2::prove(&Parameters::default(), &context, &instance, &witness).unwrap();
        let row = ManyInputs::new(&context, &instance).unwrap().row();
        (context, instance, row, proof)
    });
    &PROVEN
}

#[test]
fn sixty_four_keys_are_proven_at_once() {
    let (context, instance, row, proof) = proven();
    assert_eq!((row.len(), proof.len()), (258, ManyCircuit::<SLOTS>::PROOF_LEN));
    assert_eq!(Halo2::verify(&Parameters::default(), context, instance, proof), Ok(()));
}

#[test]
fn every_number_of_keys_fills_the_circuit() {
    for count in [1, 2, 63, 64] {
        let (inputs, limbs) = satisfied::<SLOTS>(count);
        inputs.check(&limbs).unwrap();
        assert!(accepted::<SLOTS>(&inputs.row(), limbs), "{count}");
    }
}

#[test]
fn no_smaller_circuit_fits() {
    let (inputs, limbs) = satisfied::<SLOTS>(64);
    let circuit = ManyCircuit::<SLOTS>::new(limbs);
    assert!(MockProver::run(ManyCircuit::<SLOTS>::K - 1, &circuit, vec![inputs.row()]).is_err());
}

#[test]
fn every_public_input_binds() {
    let (_, _, row, proof) = proven();
    KEYS.verify(row, proof).unwrap();
    (0..row.len()).into_par_iter().for_each(|index| {
        let mut changed = row.clone();
        changed[index] += Fp::ONE;
        assert_eq!(KEYS.verify(&changed, proof), Err(Error::ProofRefused), "input {index}");
    });
    // Another claim, or the inputs of two slots exchanged.
    let mut exchanged = row.clone();
    for input in 0..4 {
        exchanged.swap(2 + input, 2 + 4 * 63 + input);
    }
    assert_eq!(KEYS.verify(&exchanged, proof), Err(Error::ProofRefused));
    for wrong in [&row[..257], &row[..6], &[row.as_slice(), &[Fp::ZERO]].concat()] {
        assert!(matches!(KEYS.verify(wrong, proof), Err(Error::WrongInstance(_))));
    }
}

#[test]
fn a_foreign_context_or_instance_is_refused() {
    let (context, instance, _, proof) = proven();
    let verify =
        |context: &ClaimContext, instance: &Instance| Halo2::verify(&Parameters::default(), context, instance, proof);
    let foreign = ClaimContext { hsm: "hsm-2".parse().unwrap(), ..context.clone() };
    assert_eq!(verify(&foreign, instance), Err(Error::ProofRefused));
    let foreign = ClaimContext { trust_domain: "evil.example".parse().unwrap(), ..context.clone() };
    assert_eq!(verify(&foreign, instance), Err(Error::ProofRefused));
    // Fewer keys claimed than proven; the same keys in another order.
    let mut keys: Vec<_> = instance.keys().collect();
    assert_eq!(verify(context, &Instance::new(&keys[..63]).unwrap()), Err(Error::ProofRefused));
    keys.swap(0, 1);
    assert_eq!(verify(context, &Instance::new(&keys).unwrap()), Err(Error::ProofRefused));
}

#[test]
fn a_witness_that_does_not_hold_is_refused() {
    let (context, instance, _) = claim(3);
    for count in [2, 4] {
        let (_, _, other) = claim(count);
        assert!(super::super::ManyKeys::holds(&context.trust_domain, &instance, &other).is_err());
        let proof = Halo2::prove(&Parameters::default(), &context, &instance, &other);
        assert!(matches!(proof, Err(Error::WitnessRefused(_))), "{count} keys");
    }
}

#[test]
fn halves_of_numbers_end_where_they_should() {
    // The largest numbers that are in range, and the smallest that are not, in each part of a key.
    let zero = Fp::ZERO;
    let [max_64, max_128] = [Fp::from(u64::MAX), Fp::from_u128(u128::MAX)];
    let all = |low, mid, top| KeyLimbs { low, mid, top };
    let public = |limbs: &KeyLimbs<Fp>| {
        let (public, _) = common::satisfied::<Fp>(KeyAlgorithm::Aes256);
        PublicInputs { fingerprint: limbs.fingerprint(public.domain), ..public }
    };
    for (limbs, good) in [
        (all(max_128, max_64, max_64), true),
        (all(max_128, zero, zero), true),
        (all(max_64, max_64, zero), true),
        (all(max_64 + Fp::ONE, zero, max_64), true),
        (all(max_128 + Fp::ONE, zero, zero), false),
        (all(zero, max_64 + Fp::ONE, zero), false),
        (all(zero, zero, max_64 + Fp::ONE), false),
        // Two digits more than a number has.
        (all(zero, Fp::from_u128((1 << 66) - 1), zero), false),
        (all(zero, zero, Fp::from_u128((1 << 66) - 1)), false),
        (all(zero, -Fp::ONE, zero), false),
    ] {
        let inputs = ManyInputs { slots: vec![public(&limbs)] };
        let (limbs, row) = (vec![limbs], inputs.row());
        assert_eq!(inputs.check(&limbs).is_ok(), good);
        assert_eq!(accepted::<1>(&row, limbs), good);
    }
}
