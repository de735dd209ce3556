//! halo2 proofs beside halo2_proofs, the library that they are made with.

use std::sync::LazyLock;

use keywitness_circuits::{
    Parameters, Suite,
    key_knowledge::many::SLOTS,
    peers::{Halo2Inputs, Halo2Proofs, halo2_decoding, halo2_multiplication},
};

use crate::{
    harness::{Comparison, Mode, Row, Side, median},
    snarks::{self, Proven},
};

const SUITE: Suite = Suite::Halo2Pasta;
/// Proofs that are made for a batch; a larger batch has each of them several times.
const DISTINCT: usize = 100;

static PARAMETERS: LazyLock<Parameters> = LazyLock::new(Parameters::transparent);
static LIBRARY: LazyLock<Halo2Proofs> = LazyLock::new(|| Halo2Proofs::new().unwrap());

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row::new("halo2-batch", 1.5, batch),
        Row::new("halo2-many-prove", 5.0, |_| sixty_four_proving()),
        Row::new("halo2-many-verify", 10.0, |_| sixty_four_verification()),
    ]
}

pub(crate) fn one_key(proofs: usize) -> Vec<Proven> {
    let claim = |number| snarks::one_key(&PARAMETERS, SUITE, number);
    let distinct = snarks::prove_all(proofs.min(DISTINCT), &PARAMETERS, claim);
    distinct.iter().cycle().take(proofs).cloned().collect()
}

pub(crate) fn many_keys(proofs: usize, keys: usize) -> Vec<Proven> {
    snarks::prove_all(proofs, &PARAMETERS, |number| snarks::many_keys(&PARAMETERS, SUITE, keys, number))
}

fn taken(proofs: &[Proven]) -> Vec<(Halo2Inputs, Vec<u8>)> {
    let take = |proven: &Proven| (Halo2Inputs::new(&proven.context, proven.single()).unwrap(), proven.proof.clone());
    proofs.iter().map(take).collect()
}

/// The library's batch verification.
pub(crate) fn library(proofs: &[Proven]) -> Side {
    let verify = |proofs: &[(Halo2Inputs, Vec<u8>)]| {
        LIBRARY.verify_all(proofs.iter().map(|(inputs, proof)| (inputs, proof.as_slice())))
    };
    if let [one, other, ..] = proofs {
        let mut bad = taken(&[one.clone(), other.clone()]);
        bad[0].1.clone_from(&other.proof);
        assert!(!verify(&bad), "a proof of another claim");
    }
    let proofs = taken(proofs);
    Side::new(proofs.len(), move || assert!(verify(&proofs)))
}

fn batch(mode: Mode) -> Comparison {
    let proofs = one_key(mode.size(1000, 3));
    let repeated = if proofs.len() > DISTINCT { format!(" ({DISTINCT} proofs, repeated)") } else { String::new() };
    Comparison {
        operation: format!("batch of {} halo2 proofs, one key each{repeated}", proofs.len()),
        peer: "halo2_proofs BatchVerifier".to_owned(),
        unit: "proof",
        peers: library(&proofs),
        batch: true,
        ours: verification(proofs),
    }
}

fn sixty_four_proving() -> Comparison {
    let claim = snarks::one_key(&PARAMETERS, SUITE, 1);
    let proven = claim.prove(&PARAMETERS);
    let inputs = Halo2Inputs::new(&proven.context, proven.single()).unwrap();
    let prove = move || LIBRARY.prove(&inputs, claim.secret()).unwrap();
    // Either side accepts the other's.
    snarks::verify(&PARAMETERS, &[Proven { proof: prove(), ..proven }]).unwrap();
    Comparison {
        operation: format!("halo2 proof of {SLOTS} keys, proving"),
        peer: "halo2_proofs create_proof, one key a proof".to_owned(),
        unit: "key",
        ours: many_proving(SLOTS),
        peers: Side::new(1, move || assert!(!prove().is_empty())),
        batch: false,
    }
}

fn sixty_four_verification() -> Comparison {
    let proofs = taken(&one_key(4));
    assert!(!LIBRARY.verify(&proofs[0].0, &proofs[1].1), "a proof of another claim");
    Comparison {
        operation: format!("one halo2 proof of {SLOTS} keys, verification"),
        peer: "halo2_proofs verify_proof, one key a proof".to_owned(),
        unit: "key",
        ours: many_verification(many_keys(1, SLOTS), SLOTS),
        peers: Side::new(4, move || assert!(proofs.iter().all(|(inputs, proof)| LIBRARY.verify(inputs, proof)))),
        batch: false,
    }
}

/// Our proving of one key.
pub(crate) fn proving() -> Side {
    snarks::proving(PARAMETERS.clone(), snarks::one_key(&PARAMETERS, SUITE, 0), 1)
}

/// Our proving of several keys in one proof.
pub(crate) fn many_proving(keys: usize) -> Side {
    snarks::proving(PARAMETERS.clone(), snarks::many_keys(&PARAMETERS, SUITE, keys, 0), keys)
}

/// Our verification of proofs of one key.
pub(crate) fn verification(proofs: Vec<Proven>) -> Side {
    let units = proofs.len();
    snarks::verification(PARAMETERS.clone(), proofs, units)
}

/// Our verification of proofs of several keys each.
pub(crate) fn many_verification(proofs: Vec<Proven>, keys: usize) -> Side {
    let units = proofs.len() * keys;
    snarks::verification(PARAMETERS.clone(), proofs, units)
}

/// Decoding a proof's points, and as many points in one multiplication of many, in seconds a proof.
pub(crate) fn parts(mode: Mode, proven: &Proven) -> f64 {
    let inputs = Halo2Inputs::new(&proven.context, proven.single()).unwrap();
    let points = LIBRARY.points(&inputs, &proven.proof);
    assert!(points > 0);
    let proofs = mode.size(64, 2);
    median(mode, Side::new(proofs, halo2_decoding(points * proofs)))
        + median(mode, Side::new(proofs, halo2_multiplication(points * proofs)))
}
