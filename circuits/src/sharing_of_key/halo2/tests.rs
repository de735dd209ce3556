#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use halo2_proofs::dev::MockProver;
use proptest::prelude::*;

use super::*;
use crate::{
    KeyAlgorithm,
    sharing_of_key::tests::{Attempt, dealt},
};

fn accepted(Attempt { public, secrets }: Attempt, slip: Option<[usize; 3]>) -> bool {
    let circuit = SharingCircuit { secrets: Some(Arc::new(secrets)), slip };
    MockProver::run(K, &circuit, vec![public.column()]).unwrap().verify().is_ok()
}

fn proven(algorithm: KeyAlgorithm, threshold: u16, holders: u16) -> (PublicInputs, Vec<u8>) {
    let (context, instance, witness, _) = dealt(algorithm, threshold, holders);
    let proof = Halo2::prove(&Parameters::default(), &context, &instance, &witness).unwrap();
    Halo2::verify(&Parameters::default(), &context, &instance, &proof).unwrap();
    (PublicInputs::new(&context, &instance).unwrap(), proof)
}

#[test]
fn verifying_key_is_pinned() {
    let digest = KEYS.verifying_key_digest();
    assert_eq!(digest.to_string(), "c44b8ecf047379f0cc9226a489112276fa49820c5eff9deef55c0bd6a53ab669");
}

#[test]
fn no_smaller_circuit_fits() {
    let Attempt { public, secrets } = Attempt::honest(KeyAlgorithm::Aes256, 3, 5);
    assert!(MockProver::run(K - 1, &SharingCircuit::new(&Arc::new(secrets)), vec![public.column()]).is_err());
}

#[test]
fn keys_of_every_length_are_accepted() {
    for algorithm in [KeyAlgorithm::Aes128, KeyAlgorithm::Aes192, KeyAlgorithm::Aes256] {
        assert!(accepted(Attempt::honest(algorithm, 3, 5), None), "{algorithm}");
    }
}

#[test]
fn one_circuit_serves_the_extremes() {
    for (threshold, holders) in [(1, 1), (1, 32), (32, 32)] {
        assert!(accepted(Attempt::honest(KeyAlgorithm::Aes256, threshold, holders), None), "{threshold} of {holders}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn every_threshold_and_number_of_holders_is_served(holders in 1u16..=32, part in 0u16..32) {
        let threshold = 1 + part % holders;
        prop_assert!(accepted(Attempt::honest(KeyAlgorithm::HmacSha256, threshold, holders), None));
        // One degree more than the threshold allows.
        if threshold < 32 {
            let mut attempt = Attempt::honest(KeyAlgorithm::HmacSha256, threshold, holders);
            attempt.secrets.low.0[usize::from(threshold) - 1] = Fp::ONE;
            prop_assert!(!accepted(attempt, None));
        }
    }
}

#[test]
fn a_slip_in_the_evaluation_is_refused() {
    // The prover adds one to a sum and goes on from there; the commitment is to what comes out. Slots of both lanes,
    // the first and the last of each.
    for slot in [0, FIRST_LANE - 1, FIRST_LANE, MAX_HOLDERS - 1] {
        for (at, polynomial) in [(0, 0), (0, 1), (17, 0), (17, 1), (HIGHER - 1, 0), (HIGHER - 1, 1)] {
            let mut attempt = Attempt::honest(KeyAlgorithm::Aes256, 32, 32);
            let x = attempt.public.sharing.slots[slot].x;
            let mut difference = [Fp::ZERO; 3];
            difference[polynomial] = x.pow_vartime([(HIGHER - 1 - at) as u64]);
            attempt.public.sharing.slots[slot].commitment = attempt.commitment(slot, difference);
            assert!(!accepted(attempt, Some([slot, at, polynomial])), "slot {slot}, row {at}, polynomial {polynomial}");
        }
    }
}

#[test]
fn every_public_input_binds() {
    let (public, proof) = proven(KeyAlgorithm::Aes256, 3, 5);
    assert_eq!(proof.len(), PROOF_LEN);
    let column = public.column();
    for row in 0..column.len() {
        let mut changed = column.clone();
        changed[row] += Fp::ONE;
        assert_eq!(KEYS.verify(&changed, &proof), Err(Error::ProofRefused), "row {row}");
    }
    let longer = [column.as_slice(), &[Fp::ONE]].concat();
    assert!(matches!(KEYS.verify(&longer, &proof), Err(Error::WrongInstance(_))));
    assert!(KEYS.verify(&column, &proof).is_ok());
}

#[test]
fn a_witness_that_does_not_hold_is_refused() {
    let (context, instance, ..) = dealt(KeyAlgorithm::Aes128, 3, 5);
    let (.., other, _) = dealt(KeyAlgorithm::Aes128, 4, 5);
    let refused = Halo2::prove(&Parameters::default(), &context, &instance, &other);
    assert!(matches!(refused, Err(Error::WitnessRefused(_))));
}
