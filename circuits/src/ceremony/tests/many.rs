//! The ceremony of the larger circuit.

use super::*;
use crate::{
    ProofSystem,
    key_knowledge::groth16::many::{self, ManyGroth16},
};

const MANY: Groth16Circuit = Groth16Circuit::ManyKeys;

#[test]
fn a_ceremony_is_of_its_circuit() {
    let (one, many) = (Ceremony::begin(Groth16Circuit::OneKey), Ceremony::begin(MANY));
    assert_ne!(one.digest().unwrap(), many.digest().unwrap());
    let read = Ceremony::from_bytes(&many.to_bytes().unwrap()).unwrap();
    assert_eq!((read.circuit(), read == many), (MANY, true));
    // Powers of the other size, under this circuit's name or under their own.
    for wrong in [Ceremony { circuit: MANY, ..one.clone() }, Ceremony { circuit: Groth16Circuit::OneKey, ..many }] {
        assert!(matches!(offence(&wrong), CeremonyError::Malformed(_)));
    }
    // A contribution is bound to the circuit, though phase 1 would serve either.
    let mut moved = HONEST[1].clone();
    moved.circuit = MANY;
    moved.powers = Ceremony::begin(MANY).powers;
    assert_eq!(offence(&moved), CeremonyError::Knowledge { contribution: 1, secret: "tau" });
    // Names and digests of the two circuits belong together.
    let bytes = one.to_bytes().unwrap();
    let name = MANY.kind().name();
    let rest = 14 + Groth16Circuit::OneKey.kind().name().len();
    let head = [&bytes[..10], &(name.len() as u32).to_be_bytes(), name.as_bytes()].concat();
    let renamed = file::seal([head.as_slice(), &bytes[rest..bytes.len() - 32]].concat());
    assert_eq!(Ceremony::from_bytes(&renamed).err(), Some(CeremonyError::Circuit));
}

#[test]
fn parameters_of_one_circuit_are_refused_by_the_ceremony_of_the_other() {
    let many = many::tests::PARAMETERS.groth16_many().unwrap();
    let refused = verdict(&closed()).unwrap().check_parameters(many);
    assert_eq!(refused, Err(CeremonyError::Key("the circuit")));
}

#[test]
#[ignore = "takes minutes"]
fn two_parties_make_parameters_that_prove_many_keys() {
    let mut ceremony = Ceremony::begin(MANY);
    for _ in 0..2 {
        for name in ["alice", "bob"] {
            ceremony.contribute(name, name.as_bytes(), &quiet).unwrap();
        }
        ceremony.end_phase(beacon(), &quiet).unwrap();
    }
    let verified = verdict(&ceremony).unwrap();
    let made = verified.parameters().unwrap();
    assert_eq!((verified.circuit(), made.circuit(), verified.entries().len()), (MANY, MANY, 6));
    let directory = tempfile::tempdir().unwrap();
    let [parameters, file] = ["parameters", "ceremony"].map(|name| directory.path().join(name));
    made.write(&parameters).unwrap();
    ceremony.write(&file, true).unwrap();
    let read = read_parameters_many(&parameters, &file, &quiet).unwrap();
    assert!(read_parameters(&parameters, &file, &quiet).is_err());

    let parameters = Parameters::transparent().with_groth16_many(read);
    let (context, instance, witness) = many::tests::claim(3);
    let proof = ManyGroth16::prove(&parameters, &context, &instance, &witness).unwrap();
    ManyGroth16::verify(&parameters, &context, &instance, &proof).unwrap();
}

#[test]
#[ignore = "takes minutes"]
fn the_key_of_many_keys_is_the_one_that_ark_groth16_makes_of_the_same_secrets() {
    compare_with_ark_groth16(MANY, many::circuit::ManyCircuit::default());
}
