//! Honest ceremonies, and every attack that verification must name.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod attacks;
mod many;
mod ptau;

use std::sync::LazyLock;

use ark_bn254::{Bn254, Fr, G1Affine, G2Affine};
use ark_ec::{AffineRepr, CurveGroup, ScalarMul};
use ark_ff::UniformRand;
use ark_poly::{EvaluationDomain, GeneralEvaluationDomain};
use ark_relations::gr1cs::ConstraintSynthesizer;
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    Kind, Parameters, Suite,
    key_knowledge::groth16::{KeyCircuit, Snark},
    params::{Groth16Parameters, Origin},
};

/// Roots of unity of the small circuit.
pub(super) const DOMAIN: usize = Groth16Circuit::OneKey.domain();

fn quiet(_: Step) {}

pub(super) fn beacon() -> Beacon {
    Beacon::new(b"the block that nobody could know".to_vec(), 10).unwrap()
}

/// An honest ceremony: phase 1 by three, phase 2 by three. Gives every file on the way.
pub(super) static HONEST: LazyLock<Vec<Ceremony>> = LazyLock::new(|| {
    let mut ceremony = Ceremony::begin(Groth16Circuit::OneKey);
    let mut files = vec![ceremony.clone()];
    for _ in 0..2 {
        for name in ["alice", "bob", "carol"] {
            ceremony.contribute(name, name.as_bytes(), &quiet).unwrap();
            files.push(ceremony.clone());
        }
        ceremony.end_phase(beacon(), &quiet).unwrap();
        files.push(ceremony.clone());
    }
    files
});

/// The closed ceremony.
pub(super) fn closed() -> Ceremony {
    HONEST.last().unwrap().clone()
}

/// Reads and verifies what an attacker passes on.
pub(super) fn verdict(ceremony: &Ceremony) -> Result<Verified, CeremonyError> {
    Ceremony::from_bytes(&ceremony.to_bytes().unwrap())?.verify(&quiet)
}

pub(super) fn offence(ceremony: &Ceremony) -> CeremonyError {
    verdict(ceremony).err().expect("the attack is refused")
}

#[test]
fn an_honest_ceremony_makes_parameters_that_prove() {
    let verified = verdict(&closed()).unwrap();
    let names: Vec<_> = verified.entries().iter().map(|entry| (entry.phase.number(), entry.name.as_str())).collect();
    let phase = |number| [(number, "alice"), (number, "bob"), (number, "carol"), (number, "beacon")];
    assert_eq!(names, [phase(1), phase(2)].concat());
    assert_eq!(verified.entries()[3].beacon, Some(beacon()));
    for file in HONEST.iter() {
        // Each file's digest is that of its last contribution, and every later file lists it.
        let digest = file.digest().unwrap();
        assert!(file.contributions.is_empty() || verified.expect(&digest).is_ok());
    }
    assert!(matches!(verified.expect(&Digest([0; 32])), Err(CeremonyError::Missing(_))));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("groth16-parameters");
    verified.parameters().unwrap().write(&path).unwrap();
    let read = Groth16Parameters::read(&path).unwrap();
    assert_eq!(read.origin(), Origin::Ceremony(closed().digest().unwrap()));
    verified.check_parameters(&read).unwrap();

    let algorithm = crate::KeyAlgorithm::Aes256;
    let parameters = Parameters::transparent().with_groth16(read);
    let (mut context, instance, witness) =
        crate::key_knowledge::symmetric::tests::claim(Kind::KeyKnowledgeGroth16, Suite::Groth16Bn254, algorithm);
    context.verifying_key = crate::registry::verifying_key(&parameters, Kind::KeyKnowledgeGroth16).unwrap();
    let instance = crate::codec::Canonical::to_bytes(&instance);
    context.instance = crate::context::instance_digest(&instance);
    let proof = crate::registry::prove(&parameters, &context, &instance, &witness.into()).unwrap();
    crate::registry::verify(&parameters, &context, &instance, &proof).unwrap();
}

#[test]
fn the_key_is_the_one_that_ark_groth16_makes_of_the_same_secrets() {
    compare_with_ark_groth16(Groth16Circuit::OneKey, KeyCircuit::default());
}

/// Compares our derivation with that of ark-groth16, element by element, for one set of secrets.
fn compare_with_ark_groth16(circuit: Groth16Circuit, synthesizer: impl ConstraintSynthesizer<Fr>) {
    let size = circuit.domain();
    let mut rng = StdRng::seed_from_u64(16);
    let [alpha, beta, delta] = [(); 3].map(|()| Fr::rand(&mut rng));
    let tau = GeneralEvaluationDomain::<Fr>::new(size).unwrap().sample_element_outside_domain(&mut rng.clone());
    let (g1, g2) = (G1Affine::generator().into_group(), G2Affine::generator().into_group());
    let one = Fr::from(1);
    let theirs = Snark::generate_parameters_with_qap(synthesizer, alpha, beta, one, delta, g1, g2, &mut rng);

    let powers = |factor: Fr, count: usize| -> Vec<Fr> {
        std::iter::successors(Some(factor), |power| Some(*power * tau)).take(count).collect()
    };
    let powers = Powers {
        tau_g1: g1.batch_mul(&powers(one, 2 * size - 1)),
        tau_g2: g2.batch_mul(&powers(one, size)),
        alpha_g1: g1.batch_mul(&powers(alpha, size)),
        beta_g1: g1.batch_mul(&powers(beta, size)),
        beta_g2: (g2 * beta).into_affine(),
    };
    powers.check().unwrap();
    let initial = InitialKey::of(circuit, &powers).unwrap();
    let delta_g1 = (g1 * delta).into_affine();
    let inverse = ark_ff::Field::inverse(&delta).unwrap();
    let mut ours = Delta::one(&initial);
    for query in [&mut ours.h, &mut ours.l] {
        let factors = vec![inverse; query.len()].into();
        points::scale(query, &factors);
    }
    ours.in_g2 = (g2 * delta).into_affine();
    ours.check(&initial, delta_g1).unwrap();
    let key: ark_groth16::ProvingKey<Bn254> = initial.with_delta(delta_g1, &ours);
    assert!(key == theirs.unwrap());
}

#[test]
fn a_file_comes_back_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ceremony");
    for ceremony in HONEST.iter() {
        ceremony.write(&path, true).unwrap();
        assert!(Ceremony::read(&path).unwrap() == *ceremony);
    }
    assert!(matches!(closed().write(&path, false), Err(CeremonyError::File(_))));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn contributions_differ_though_their_entropy_is_the_same() {
    let mut files = [HONEST[0].clone(), HONEST[0].clone()];
    let digests = files.each_mut().map(|file| file.contribute("alice", b"the same", &quiet).unwrap());
    assert_ne!(digests[0], digests[1]);
    assert!(files[0].powers != files[1].powers);
}

#[test]
fn a_phase_takes_its_own_steps_only() {
    let mut begun = HONEST[0].clone();
    assert!(matches!(begun.end_phase(beacon(), &quiet), Err(CeremonyError::Order(_))), "a beacon alone");
    for name in ["", " alice", "a\u{1b}[2J", &"a".repeat(65)] {
        assert!(matches!(begun.contribute(name, b"", &quiet), Err(CeremonyError::Order(_))));
    }
    let mut second = HONEST[4].clone();
    assert_eq!(second.phase(), Phase::Circuit);
    assert!(matches!(second.end_phase(beacon(), &quiet), Err(CeremonyError::Order(_))), "a beacon alone");
    assert!(matches!(verdict(&HONEST[6]).unwrap().parameters(), Err(CeremonyError::Order(_))), "not closed");
    let mut closed = closed();
    assert!(matches!(closed.contribute("dave", b"", &quiet), Err(CeremonyError::Order(_))));
    assert!(matches!(closed.end_phase(beacon(), &quiet), Err(CeremonyError::Order(_))));
    assert!(Beacon::new(vec![0; 15], 10).is_err() && Beacon::new(vec![0; 16], 33).is_err());
}

#[test]
fn a_prover_checks_its_key_once() {
    let directory = tempfile::tempdir().unwrap();
    let [parameters, ceremony] = ["parameters", "ceremony"].map(|name| directory.path().join(name));
    closed().write(&ceremony, true).unwrap();
    let made = verdict(&closed()).unwrap().parameters().unwrap();
    made.write(&parameters).unwrap();
    let asked = std::cell::Cell::new(0);
    let count = |_: Step| asked.set(asked.get() + 1);
    read_parameters(&parameters, &ceremony, &count).unwrap();
    assert!(asked.take() > 0);
    read_parameters(&parameters, &ceremony, &count).unwrap();
    assert_eq!(asked.take(), 0, "the note spares the second check");

    // Any other file, on either side, is checked again.
    Groth16Parameters::develop().unwrap().write(&parameters).unwrap();
    assert!(matches!(read_parameters(&parameters, &ceremony, &count), Err(CeremonyError::Key(_))));
    made.write(&parameters).unwrap();
    HONEST[7].write(&ceremony, true).unwrap();
    assert!(matches!(read_parameters(&parameters, &ceremony, &count), Err(CeremonyError::Order(_))));
}

#[test]
fn a_key_with_one_altered_element_is_refused() {
    let verified = verdict(&closed()).unwrap();
    let honest = verified.key().unwrap();
    type Change = fn(&mut ark_groth16::ProvingKey<Bn254>);
    let changes: [(&str, Change); 8] = [
        ("the verifying key", |key| key.vk.alpha_g1 = key.beta_g1),
        ("beta in G1", |key| key.beta_g1 = key.delta_g1),
        ("delta in G1", |key| key.delta_g1 = key.beta_g1),
        ("the A query", |key| key.a_query.swap(100, 101)),
        ("the B query in G1", |key| key.b_g1_query.swap(100, 101)),
        ("the B query in G2", |key| key.b_g2_query[100] = key.vk.beta_g2),
        ("the H query", |key| key.h_query[7] = (key.h_query[7] + key.h_query[8]).into_affine()),
        ("the L query", |key| key.l_query[400] = G1Affine::identity()),
    ];
    for (what, change) in changes {
        let mut key = honest.clone();
        change(&mut key);
        let parameters =
            Groth16Parameters::from_keys(Groth16Circuit::OneKey, Origin::Ceremony(*verified.digest()), key).unwrap();
        assert_eq!(verified.check_parameters(&parameters), Err(CeremonyError::Key(what)));
    }
    let parameters = Groth16Parameters::from_keys(Groth16Circuit::OneKey, Origin::Development, honest.clone()).unwrap();
    assert_eq!(verified.check_parameters(&parameters), Err(CeremonyError::Key("the digest of the ceremony")));
}
