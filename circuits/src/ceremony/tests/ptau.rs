//! Files in the form of snarkjs, and files that only look like one. tests/ceremony.rs takes files of snarkjs itself.

use std::path::PathBuf;

use ark_bn254::Fq;
use ark_ff::{BigInteger, PrimeField};

use super::*;

/// The honest powers, in a domain of 2^10: twice the circuit's.
static POWERS: LazyLock<Powers> = LazyLock::new(|| {
    let mut powers = Powers::one(1 << 10);
    powers.contribute(&[(); 3].map(|()| Secret::draw("alice", b"")));
    powers
});

fn coordinates(bytes: &mut Vec<u8>, coordinates: &[Fq]) {
    for coordinate in coordinates {
        bytes.extend(coordinate.0.to_bytes_le());
    }
}

fn g1(points: &[G1Affine]) -> Vec<u8> {
    let mut bytes = Vec::new();
    points.iter().for_each(|point| coordinates(&mut bytes, &[point.x, point.y]));
    bytes
}

fn g2(points: &[G2Affine]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let both = |point: &G2Affine| [point.x.c0, point.x.c1, point.y.c0, point.y.c1];
    points.iter().for_each(|point| coordinates(&mut bytes, &both(point)));
    bytes
}

fn header(modulus: &[u8], power: u32) -> Vec<u8> {
    [&32_u32.to_le_bytes(), modulus, &power.to_le_bytes(), &power.to_le_bytes()].concat()
}

fn sections(powers: &Powers) -> Vec<(u32, Vec<u8>)> {
    let power = powers.tau_g2.len().ilog2();
    vec![
        (1, header(&Fq::MODULUS.to_bytes_le(), power)),
        (2, g1(&powers.tau_g1)),
        (3, g2(&powers.tau_g2)),
        (4, g1(&powers.alpha_g1)),
        (5, g1(&powers.beta_g1)),
        (6, g2(&[powers.beta_g2])),
        (7, 3_u32.to_le_bytes().to_vec()),
        (12, vec![7; 100]),
    ]
}

fn file(sections: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = [&b"ptau"[..], &1_u32.to_le_bytes(), &(sections.len() as u32).to_le_bytes()].concat();
    for (kind, section) in sections {
        bytes.extend(kind.to_le_bytes());
        bytes.extend((section.len() as u64).to_le_bytes());
        bytes.extend(section);
    }
    bytes
}

fn read(bytes: &[u8]) -> Result<Ceremony, CeremonyError> {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("powers.ptau");
    std::fs::write(&path, bytes).unwrap();
    Ceremony::from_ptau(Groth16Circuit::OneKey, &path, &quiet)
}

fn refused(bytes: &[u8]) -> CeremonyError {
    read(bytes).err().unwrap()
}

fn refused_powers(change: fn(&mut Powers)) -> CeremonyError {
    let mut powers = POWERS.clone();
    change(&mut powers);
    refused(&file(&sections(&powers)))
}

#[test]
fn phase_2_goes_on_from_a_ptau_file() {
    let mut ceremony = read(&file(&sections(&POWERS))).unwrap();
    let source = Source::Ptau { powers: ceremony.powers.digest(), contributions: 3 };
    assert_eq!((ceremony.source(), ceremony.phase()), (&source, Phase::Circuit));
    assert_eq!(ceremony.powers.tau_g1, POWERS.tau_g1[..2 * DOMAIN - 1]);
    assert!(matches!(ceremony.end_phase(beacon(), &quiet), Err(CeremonyError::Order(_))));
    ceremony.contribute("alice", b"", &quiet).unwrap();
    ceremony.end_phase(beacon(), &quiet).unwrap();
    verdict(&ceremony).unwrap().parameters().unwrap();

    // Other powers afterwards, however consistent.
    ceremony.powers.contribute(&[(); 3].map(|()| Secret::draw("mallory", b"")));
    assert_eq!(offence(&ceremony), CeremonyError::Foundation("the digest of the powers"));
    ceremony.source = Source::Ptau { powers: ceremony.powers.digest(), contributions: 3 };
    assert_eq!(offence(&ceremony), CeremonyError::Knowledge { contribution: 1, secret: "delta" });
}

#[test]
fn powers_that_are_none_are_refused() {
    assert!(matches!(refused_powers(|powers| powers.tau_g1.swap(8, 9)), CeremonyError::Powers(_)));
    assert!(matches!(refused_powers(|powers| powers.tau_g2.swap(8, 9)), CeremonyError::Powers(_)));
    assert!(matches!(refused_powers(|powers| powers.alpha_g1.swap(8, 9)), CeremonyError::Powers(_)));
    assert!(matches!(refused_powers(|powers| powers.beta_g1.swap(8, 9)), CeremonyError::Powers(_)));
    assert!(matches!(refused_powers(|powers| powers.beta_g2 = powers.tau_g2[2]), CeremonyError::Powers(_)));
    let identity = |powers: &mut Powers| powers.tau_g1[500] = G1Affine::identity();
    assert!(matches!(refused_powers(identity), CeremonyError::Point { why: "it is the identity", .. }));
    let off_curve = |powers: &mut Powers| powers.tau_g2[500].x.c1 += Fq::from(1);
    assert!(matches!(refused_powers(off_curve), CeremonyError::Point { why: "it is not on its curve", .. }));
}

#[test]
fn a_file_of_another_form_is_refused() {
    let honest = sections(&POWERS);
    let bytes = file(&honest);
    for length in [0, 4, 11, 12, 20, 40, 60, 1000, bytes.len() - 1] {
        assert!(matches!(refused(&bytes[..length]), CeremonyError::Ptau(_)), "{length}");
    }
    assert!(matches!(refused(&[bytes.as_slice(), &[0]].concat()), CeremonyError::Ptau(_)));
    let with = |index: usize, section: (u32, Vec<u8>)| {
        let mut changed = honest.clone();
        changed[index] = section;
        refused(&file(&changed))
    };
    let modulus = Fq::MODULUS.to_bytes_le();
    let ptau = |offence| matches!(offence, CeremonyError::Ptau(_));
    assert!(ptau(with(0, (1, header(&[7; 32], 10)))), "another curve");
    assert!(ptau(with(0, (1, header(&modulus, 8)))), "too small");
    assert!(ptau(with(0, (1, header(&modulus, 29)))), "too large");
    assert!(ptau(with(0, (1, header(&modulus, 11)))), "a power that the lengths deny");
    assert!(ptau(with(3, (3, vec![]))), "a section that occurs twice");
    assert!(ptau(with(3, (99, vec![]))), "a section that is missing");
    let mut above = g1(&POWERS.tau_g1);
    above[64..96].copy_from_slice(&modulus);
    assert!(ptau(with(1, (2, above))), "a coordinate that is not below the modulus");
}
