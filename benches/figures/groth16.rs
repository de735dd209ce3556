//! Groth16 proofs beside ark-groth16, the library that they are made with.

use std::sync::LazyLock;

use keywitness_circuits::{
    Parameters, Suite,
    key_knowledge::many::SLOTS,
    params::Groth16Parameters,
    peers::{ArkGroth16, Groth16Inputs, bn254_multiplications},
};

use crate::{
    harness::{Comparison, Mode, Row, Side, median},
    snarks::{self, Proven},
};

const SUITE: Suite = Suite::Groth16Bn254;
/// Proofs that the peer verifies in one round at most.
const PEER: usize = 40;

static ONE_KEY: LazyLock<Parameters> =
    LazyLock::new(|| Parameters::transparent().with_groth16(Groth16Parameters::develop().unwrap()));
static MANY_KEYS: LazyLock<Parameters> =
    LazyLock::new(|| ONE_KEY.clone().with_groth16_many(Groth16Parameters::develop_many().unwrap()));
static ARK: LazyLock<ArkGroth16<'static>> = LazyLock::new(|| ArkGroth16::new(&ONE_KEY).unwrap());

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row::new("groth16-batch", 4.5, batch),
        Row::new("groth16-many-verify", 40.0, |_| many(1)),
        Row::new("groth16-many-batch", 150.0, |mode| many(mode.size(100, 2))),
        Row::new("groth16-prove", 1.4, |_| one_proving(false)),
        Row::new("groth16-prove-kept-layout", 1.4, |_| one_proving(true)),
        Row::new("groth16-many-prove", 3.0, |_| sixty_four_proving()),
    ]
}

pub(crate) fn one_key(proofs: usize) -> Vec<Proven> {
    snarks::prove_all(proofs, &ONE_KEY, |number| snarks::one_key(&ONE_KEY, SUITE, number))
}

pub(crate) fn many_keys(proofs: usize, keys: usize) -> Vec<Proven> {
    snarks::prove_all(proofs, &MANY_KEYS, |number| snarks::many_keys(&MANY_KEYS, SUITE, keys, number))
}

/// ark-groth16, which verifies one after the other.
pub(crate) fn ark(proofs: &[Proven]) -> Side {
    let take = |proven: &Proven| (Groth16Inputs::new(&proven.context, proven.single()).unwrap(), proven.proof.clone());
    let proofs: Vec<(Groth16Inputs, Vec<u8>)> = proofs.iter().map(take).collect();
    if let [(inputs, _), (_, proof), ..] = proofs.as_slice() {
        assert!(!ARK.verify(inputs, proof), "a proof of another claim");
    }
    Side::new(proofs.len(), move || assert!(proofs.iter().all(|(inputs, proof)| ARK.verify(inputs, proof))))
}

const VERIFY: &str = "ark-groth16, prepared key, one by one";

fn batch(mode: Mode) -> Comparison {
    let proofs = one_key(mode.size(1000, 3));
    let peers = ark(&proofs[..proofs.len().min(PEER)]);
    Comparison {
        operation: format!("batch of {} Groth16 proofs, one key each, no two alike", proofs.len()),
        peer: VERIFY.to_owned(),
        unit: "proof",
        ours: verification(proofs),
        peers,
        batch: true,
    }
}

fn many(proofs: usize) -> Comparison {
    let ours = many_keys(proofs, SLOTS);
    let what = if proofs == 1 { "one Groth16 proof".to_owned() } else { format!("batch of {proofs} Groth16 proofs") };
    Comparison {
        operation: format!("{what} of {SLOTS} keys, verification"),
        peer: format!("{VERIFY}, one key a proof"),
        unit: "key",
        ours: many_verification(ours, SLOTS),
        peers: ark(&one_key(2)),
        batch: proofs > 1,
    }
}

fn one_proving(layout_kept: bool) -> Comparison {
    let how = if layout_kept { "create_proof_with_reduction_and_matrices, layout kept" } else { "prove" };
    Comparison {
        operation: "Groth16 proof of one key, proving".to_owned(),
        peer: format!("ark-groth16 {how}"),
        unit: "key",
        ours: proving(),
        peers: ark_proving(layout_kept),
        batch: false,
    }
}

fn sixty_four_proving() -> Comparison {
    Comparison {
        operation: format!("Groth16 proof of {SLOTS} keys, proving"),
        peer: "ark-groth16 prove, one key a proof".to_owned(),
        unit: "key",
        ours: many_proving(SLOTS),
        peers: ark_proving(false),
        batch: false,
    }
}

fn ark_proving(layout_kept: bool) -> Side {
    let claim = snarks::one_key(&ONE_KEY, SUITE, 1);
    let proven = claim.prove(&ONE_KEY);
    let inputs = Groth16Inputs::new(&proven.context, proven.single()).unwrap();
    let prove = move || {
        let proof = if layout_kept { ArkGroth16::prove_with_matrices } else { ArkGroth16::prove };
        proof(&ARK, &inputs, claim.secret()).unwrap()
    };
    // Either side accepts the other's.
    snarks::verify(&ONE_KEY, &[Proven { proof: prove(), ..proven }]).unwrap();
    Side::new(1, move || assert!(!prove().is_empty()))
}

/// Our proving of one key.
pub(crate) fn proving() -> Side {
    snarks::proving(ONE_KEY.clone(), snarks::one_key(&ONE_KEY, SUITE, 0), 1)
}

/// Our proving of several keys in one proof.
pub(crate) fn many_proving(keys: usize) -> Side {
    snarks::proving(MANY_KEYS.clone(), snarks::many_keys(&MANY_KEYS, SUITE, keys, 0), keys)
}

/// Our verification of proofs of one key.
pub(crate) fn verification(proofs: Vec<Proven>) -> Side {
    let units = proofs.len();
    snarks::verification(ONE_KEY.clone(), proofs, units)
}

/// Our verification of proofs of several keys each.
pub(crate) fn many_verification(proofs: Vec<Proven>, keys: usize) -> Side {
    let units = proofs.len() * keys;
    snarks::verification(MANY_KEYS.clone(), proofs, units)
}

/// Multiplications in the base field for each proof of a batch, counted in docs/performance.md.
const MULTIPLICATIONS: f64 = 8_200.0;

/// The time of [`MULTIPLICATIONS`], in seconds.
pub(crate) fn parts(mode: Mode) -> f64 {
    const COUNT: usize = 100_000;
    MULTIPLICATIONS * median(mode, Side::new(COUNT, bn254_multiplications(COUNT)))
}
