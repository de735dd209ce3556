//! Proofs about many keys, and every way to bend one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::LazyLock;

use ark_ff::{AdditiveGroup, Field};
use ark_relations::utils::matrix::Matrix;
use rayon::prelude::*;

use super::*;
use crate::{
    ClaimContext, KeyAlgorithm, Nonce, Statement, Suite,
    key_knowledge::{
        groth16::{Groth16Circuit, circuit as one, encode, soundness},
        many::{SLOTS, Witness},
        symmetric::{KeyLimbs, PublicInputs, tests as common},
    },
    params::Groth16Parameters,
};

/// Made once: development parameters of this circuit take seconds.
pub(crate) static PARAMETERS: LazyLock<Parameters> =
    LazyLock::new(|| Parameters::transparent().with_groth16_many(Groth16Parameters::develop_many().unwrap()));

/// A claim of different keys, of every length in turn.
pub(crate) fn claim(count: usize) -> (ClaimContext, Instance, Witness) {
    let algorithm = |index: usize| common::ALGORITHMS[index % common::ALGORITHMS.len()];
    claim_of(&(0..count).map(algorithm).collect::<Vec<_>>())
}

fn claim_of(algorithms: &[KeyAlgorithm]) -> (ClaimContext, Instance, Witness) {
    let key = |(index, algorithm): (usize, &KeyAlgorithm)| {
        let mut secret = common::key(*algorithm);
        secret[0] = index as u8;
        crate::key_knowledge::Witness::new(*algorithm, &secret).unwrap()
    };
    let witness = Witness::new(algorithms.iter().enumerate().map(key).collect());
    let (mut context, ..) = common::claim(Kind::ManyKeysGroth16, Suite::Groth16Bn254, KeyAlgorithm::Aes256);
    let instance = witness.instance(&context.trust_domain, Suite::Groth16Bn254).unwrap();
    context.keys = vec![context.keys[0].clone(); algorithms.len()];
    context.instance = instance.digest();
    (context, instance, witness)
}

/// Inputs and limbs of every slot; they satisfy the relation.
fn satisfied(count: usize) -> (ManyInputs<Fr>, Vec<KeyLimbs<Fr>>) {
    let (context, instance, witness) = claim(count);
    (ManyInputs::new(&context, &instance).unwrap(), witness.limbs().unwrap())
}

fn form(row: &[(Fr, usize)], values: &[Fr]) -> Fr {
    row.iter().map(|(factor, variable)| *factor * values[*variable]).sum()
}

fn holds([a, b, c]: [&Matrix<Fr>; 3], constraint: usize, values: &[Fr]) -> bool {
    form(&a[constraint], values) * form(&b[constraint], values) == form(&c[constraint], values)
}

fn matrices() -> [&'static Matrix<Fr>; 3] {
    let [a, b, c] = circuit::matrices().unwrap() else { panic!() };
    [a, b, c]
}

/// Whether the circuit accepts what its prover would fill in.
fn accepted(public: &ManyInputs<Fr>, limbs: &[KeyLimbs<Fr>]) -> bool {
    let Ok(values) = circuit::assignment(public, limbs) else { return false };
    (0..circuit::CONSTRAINTS).into_par_iter().all(|constraint| holds(matrices(), constraint, &values))
}

#[test]
fn shape_is_pinned() {
    assert_eq!(matrices().map(Vec::len), [circuit::CONSTRAINTS; 3]);
    let (public, limbs) = satisfied(5);
    assert_eq!(circuit::assignment(&public, &limbs).unwrap().len(), circuit::VARIABLES);
    assert_eq!(public.row().len() + 1, Groth16Circuit::ManyKeys.input_points());
    let sizes = (circuit::CONSTRAINTS, circuit::VARIABLES, Groth16Circuit::ManyKeys.domain());
    assert_eq!(sizes, (32_130, 32_197, 1 << 15));
}

/// The variable of a slot that stands for a variable of one key's circuit.
fn shifted(variable: usize, slot: usize) -> usize {
    let (inputs, each) = (ManyInputs::<Fr>::COUNT, ManyInputs::<Fr>::EACH);
    let witness = 1 + PublicInputs::<Fr>::COUNT;
    match variable {
        0 => 0,
        // F, d, has_mid, has_top.
        1..=4 => 1 + ManyInputs::<Fr>::SHARED + each * slot + variable - 1,
        // c0, c1.
        5..=6 => variable - 4,
        _ if variable < witness + one::SLOT_VARIABLES => 1 + inputs + one::SLOT_VARIABLES * slot + variable - witness,
        // The squares of c0 and c1.
        _ => 1 + inputs + one::SLOT_VARIABLES * SLOTS + variable - witness - one::SLOT_VARIABLES,
    }
}

#[test]
fn every_slot_is_a_copy_of_the_circuit_of_one_key() {
    // What the searches find out about one key's circuit (soundness.rs) holds for each slot: its constraints are the
    // same, on variables of its own. Slots share the constant and nothing else.
    let sorted = |row: &[(Fr, usize)], place: &dyn Fn(usize) -> usize| {
        let mut row: Vec<_> = row.iter().map(|(factor, variable)| (place(*variable), *factor)).collect();
        row.sort_unstable();
        row
    };
    for (many, single) in matrices().into_iter().zip(soundness::matrices()) {
        let (slots, context) = many.split_at(SLOTS * one::SLOT_CONSTRAINTS);
        let (single_slot, single_context) = single.split_at(one::SLOT_CONSTRAINTS);
        for (slot, rows) in slots.chunks(one::SLOT_CONSTRAINTS).enumerate() {
            for (row, expected) in rows.iter().zip(single_slot) {
                assert_eq!(sorted(row, &|own| own), sorted(expected, &|variable| shifted(variable, slot)));
            }
        }
        assert_eq!(context.len(), single_context.len());
        for (row, expected) in context.iter().zip(single_context) {
            assert_eq!(sorted(row, &|own| own), sorted(expected, &|variable| shifted(variable, 0)));
        }
    }
    // The variables of the slots and of the context are every variable, each once.
    let slots =
        (0..SLOTS).flat_map(|slot| (1..=4).chain(7..7 + one::SLOT_VARIABLES).map(move |own| shifted(own, slot)));
    let context = [5, 6, one::VARIABLES - 2, one::VARIABLES - 1].map(|own| shifted(own, 0));
    let mut all: Vec<usize> = slots.chain(context).collect();
    all.sort_unstable();
    assert_eq!(all, (1..circuit::VARIABLES).collect::<Vec<_>>());
}

/// Ways to break one clause in one slot, the others kept; those of one key, and those that only several have.
fn strategies() -> Vec<(String, ManyInputs<Fr>, Vec<KeyLimbs<Fr>>)> {
    let mut all = Vec::new();
    for slot in [0, SLOTS / 2, SLOTS - 1] {
        for (name, broken, limbs) in common::strategies::<Fr>() {
            let (mut public, mut every) = satisfied(SLOTS);
            public.slots[slot] = PublicInputs { context: public.slots[0].context, ..broken };
            every[slot] = limbs;
            all.push((format!("{name} in slot {slot}"), public, every));
        }
    }
    type Break = fn(&mut ManyInputs<Fr>, &mut [KeyLimbs<Fr>]);
    fn real() -> KeyLimbs<Fr> {
        KeyLimbs::new(KeyAlgorithm::Aes128, &[7; 16]).unwrap()
    }
    let several: [(&str, Break); 8] = [
        ("real_key_where_the_filler_is_expected", |_, limbs| limbs[50] = real()),
        ("filler_where_a_key_is_expected", |_, limbs| limbs[9] = KeyLimbs::filler()),
        ("another_slots_fingerprint", |public, _| public.slots[9].fingerprint = public.slots[5].fingerprint),
        ("another_slots_key", |public, _| public.slots[9] = public.slots[5]),
        // Keys of one algorithm, so that their domains are the same.
        ("two_slots_swapped", |_, limbs| limbs.swap(5, 9)),
        ("fewer_keys_claimed_than_proven", |public, _| *public = satisfied(39).0),
        ("more_keys_claimed_than_proven", |public, _| *public = satisfied(41).0),
        ("filler_of_another_domain", |public, _| public.slots[50].domain = public.slots[0].domain),
    ];
    for (name, spoil) in several {
        let (mut public, mut limbs) = satisfied(40);
        spoil(&mut public, &mut limbs);
        all.push((name.to_owned(), public, limbs));
    }
    // A filler that opens to a key, by a fingerprint under the domain zero that the prover chose.
    let (mut public, mut limbs) = satisfied(40);
    limbs[SLOTS - 1] = real();
    let chosen = limbs[SLOTS - 1].fingerprint(Fr::ZERO);
    assert_ne!(chosen, public.slots[SLOTS - 1].fingerprint);
    all.push(("key_of_the_fillers_domain".to_owned(), public.clone(), limbs));
    // With that fingerprint the relation holds; the verifier never computes it.
    let (_, mut limbs) = satisfied(40);
    limbs[SLOTS - 1] = real();
    public.slots[SLOTS - 1].fingerprint = chosen;
    public.check(&limbs).unwrap();
    all
}

#[test]
fn relation_and_circuit_refuse_every_strategy() {
    for count in [1, 40, SLOTS] {
        let (public, limbs) = satisfied(count);
        public.check(&limbs).unwrap();
        assert!(accepted(&public, &limbs), "{count} keys");
    }
    for (name, public, limbs) in strategies() {
        assert!(matches!(public.check(&limbs), Err(Error::WitnessRefused(_))), "{name}");
        assert!(!accepted(&public, &limbs), "{name}");
    }
}

#[test]
fn the_native_relation_names_the_keys_that_fail() {
    let (context, instance, _) = claim(5);
    let others = |changed: &[usize]| {
        let (_, _, witness) = claim(5);
        let key = |(index, key): (usize, &crate::key_knowledge::Witness)| {
            let mut secret = key.secret().to_vec();
            secret[1] ^= u8::from(changed.contains(&index));
            crate::key_knowledge::Witness::new(key.algorithm(), &secret).unwrap()
        };
        Witness::new(witness.keys().iter().enumerate().map(key).collect())
    };
    ManyKeys::holds(&context.trust_domain, &instance, &others(&[])).unwrap();
    let refused = ManyKeys::holds(&context.trust_domain, &instance, &others(&[1, 4]));
    assert_eq!(refused, Err(Error::KeysRefused { culprits: vec![1, 4] }));
    let another = |count: usize| ManyKeys::holds(&context.trust_domain, &instance, &claim(count).2);
    assert!(matches!((another(4), another(6)), (Err(Error::WitnessRefused(_)), Err(Error::WitnessRefused(_)))));
    let key = || crate::key_knowledge::Witness::new(KeyAlgorithm::Aes128, &[7; 16]).unwrap();
    let too_many = Witness::new((0..=SLOTS).map(|_| key()).collect());
    // A prover refuses them all before it begins.
    for witness in [others(&[3]), claim(4).2, claim(6).2, too_many] {
        let proof = ManyGroth16::prove(&PARAMETERS, &context, &instance, &witness);
        assert!(matches!(proof, Err(Error::WitnessRefused(_))));
    }
}

#[test]
fn every_public_input_is_constrained() {
    // With no limb zero, no input is multiplied by zero.
    let (context, instance, witness) = claim_of(&[KeyAlgorithm::Aes256; SLOTS]);
    let (public, limbs) = (ManyInputs::new(&context, &instance).unwrap(), witness.limbs().unwrap());
    let values = circuit::assignment(&public, &limbs).unwrap();
    let mut readers = vec![Vec::new(); ManyInputs::<Fr>::COUNT + 1];
    for (constraint, variable) in matrices().into_iter().flat_map(|matrix| {
        matrix.iter().enumerate().flat_map(|(at, row)| row.iter().map(move |(_, variable)| (at, *variable)))
    }) {
        if let Some(readers) = readers.get_mut(variable) {
            readers.push(constraint);
        }
    }
    for input in 1..=ManyInputs::<Fr>::COUNT {
        let mut changed = values.clone();
        changed[input] += Fr::ONE;
        assert!(readers[input].iter().any(|at| !holds(matrices(), *at, &changed)), "input {input}");
    }
}

/// A proof about 40 keys, made once.
static PROVEN: LazyLock<(ManyInputs<Fr>, Vec<u8>)> = LazyLock::new(|| {
    let (context, instance, witness) = claim(40);
    let proof = ManyGroth16::prove(&PARAMETERS, &context, &instance, &witness).unwrap();
    ManyGroth16::verify(&PARAMETERS, &context, &instance, &proof).unwrap();
    (ManyInputs::new(&context, &instance).unwrap(), proof)
});

#[test]
fn every_public_input_binds() {
    let (public, proof) = &*PROVEN;
    let (keys, row, points) = (PARAMETERS.groth16_many().unwrap(), public.row(), decode(proof).unwrap());
    verify_points(keys, &row, &points).unwrap();
    (0..row.len()).into_par_iter().for_each(|input| {
        let mut changed = row.clone();
        // A selector that is not 0 or 1 is as wrong as the other one.
        changed[input] += Fr::ONE;
        assert_eq!(verify_points(keys, &changed, &points), Err(Error::ProofRefused), "input {input}");
    });
    // ark-groth16 would ignore a surplus, or a lack, of inputs.
    assert!(verify_points(keys, &row[..row.len() - 1], &points).is_err());
    assert!(verify_points(keys, &[row.as_slice(), &[Fr::ZERO]].concat(), &points).is_err());
}

#[test]
fn a_proof_is_of_its_keys_in_their_order_and_of_its_claim() {
    let (context, instance, _) = claim(40);
    let proof = PROVEN.1.as_slice();
    assert_eq!(proof.len(), PROOF_LEN);
    let refused = |context: &ClaimContext, instance: &Instance| {
        assert_eq!(ManyGroth16::verify(&PARAMETERS, context, instance, proof), Err(Error::ProofRefused));
    };
    let keys: Vec<_> = instance.keys().collect();
    for (fewer, more) in [(39, 41), (1, SLOTS)] {
        refused(&context, &claim(fewer).1);
        refused(&context, &claim(more).1);
    }
    let (mut swapped, mut twice) = (keys.clone(), keys.clone());
    swapped.swap(5, 9);
    twice[5] = twice[9];
    refused(&context, &Instance::new(&swapped).unwrap());
    refused(&context, &Instance::new(&twice).unwrap());
    refused(&ClaimContext { challenge: Nonce([4; 32]), ..context.clone() }, &instance);
    refused(&ClaimContext { trust_domain: "evil.example".parse().unwrap(), ..context }, &instance);
}

#[test]
fn one_key_and_the_most_keys_are_proven() {
    for count in [1, SLOTS] {
        let (context, instance, witness) = claim(count);
        let proof = ManyGroth16::prove(&PARAMETERS, &context, &instance, &witness).unwrap();
        ManyGroth16::verify(&PARAMETERS, &context, &instance, &proof).unwrap();
    }
}

#[test]
fn a_proof_forced_past_the_check_does_not_verify() {
    let keys = PARAMETERS.groth16_many().unwrap();
    let names = ["key_limb_over_128_bits in slot 63", "two_slots_swapped", "real_key_where_the_filler_is_expected"];
    let chosen: Vec<_> = strategies().into_iter().filter(|(name, ..)| names.contains(&name.as_str())).collect();
    assert_eq!(chosen.len(), names.len());
    for (name, public, limbs) in chosen {
        if let Ok(proof) = circuit::prove_row(keys, &public, &limbs) {
            assert!(verify_row(&PARAMETERS, &public, &encode(&proof)).is_err(), "{name}");
        }
    }
}

#[test]
fn parameters_of_one_circuit_are_none_of_the_other() {
    let one = Parameters::transparent().with_groth16_many(Groth16Parameters::develop().unwrap());
    assert!(matches!(one.groth16_many(), Err(Error::MissingParameters(_))));
    assert!(matches!(PARAMETERS.groth16(), Err(Error::MissingParameters(_))));
    let (context, instance, witness) = claim(2);
    let proof = ManyGroth16::prove(&one, &context, &instance, &witness);
    assert!(matches!(proof, Err(Error::MissingParameters(_))));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("parameters");
    let many = PARAMETERS.groth16_many().unwrap();
    many.write(&path).unwrap();
    let read = Groth16Parameters::read_many(&path).unwrap();
    assert_eq!((read.digest(), read.verifying_key_digest()), (many.digest(), many.verifying_key_digest()));
    assert!(read.proving_key() == many.proving_key());
    assert!(matches!(Groth16Parameters::read(&path), Err(Error::Parameters(_))));
    // The name alone, in a file that is whole.
    let name = Kind::KeyKnowledgeGroth16.name();
    let mut body = many.to_bytes();
    body.truncate(body.len() - 32);
    let renamed = [
        &body[..10],
        &(name.len() as u32).to_be_bytes(),
        name.as_bytes(),
        &body[14 + Kind::ManyKeysGroth16.name().len()..],
    ]
    .concat();
    let digest = crate::Digest::of(crate::transcript::label::PARAMETERS, &renamed);
    let Err(Error::Parameters(why)) = Groth16Parameters::from_bytes(&[renamed, digest.0.to_vec()].concat()) else {
        panic!("it was read")
    };
    assert!(why.contains("another circuit"), "{why}");
}
