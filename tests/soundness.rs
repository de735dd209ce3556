//! Attacks on a proof's bytes and on the names around it, for every kind.

use keywitness_circuits::{Error, Kind, registry};

use crate::statements::{case, parameters, verify};

/// Proofs up to this length are attacked byte by byte, longer ones element by element.
const SHORT: usize = 256;

/// Encodings of 32 bytes that stand for no usable point or scalar in one proof system or another.
pub(crate) fn unusable() -> Vec<[u8; 32]> {
    let ending = |first: u8, last: u8| {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (first, last);
        bytes
    };
    let around_p25519 = |first: u8, last: u8| {
        let mut bytes = [0xff; 32];
        (bytes[0], bytes[31]) = (first, last);
        bytes
    };
    let hex = |text: &str| -> [u8; 32] { data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap() };
    let mut all = vec![
        [0; 32],
        [0xff; 32],
        // edwards25519: the identity, its encodings with a sign and with p added; order 2; order 4 with a sign; p.
        ending(1, 0),
        ending(1, 0x80),
        around_p25519(0xee, 0x7f),
        around_p25519(0xec, 0x7f),
        ending(0, 0x80),
        around_p25519(0xed, 0x7f),
        // No point of edwards25519 has y = 2.
        ending(2, 0),
        // BN254: the point at infinity, alone and with a sign.
        ending(0, 0x40),
        ending(0, 0xc0),
        // The moduli of BN254 (base and scalar field) and of Pasta (Fp, Fq), little-endian.
        hex("47fd7cd8168c203c8dca7168916a81975d588181b64550b829a031e1724e6430"),
        hex("010000f093f5e1439170b97948e833285d588181b64550b829a031e1724e6430"),
        hex("01000000ed302d991bf94c09fc98462200000000000000000000000000000040"),
        hex("0100000021eb468cdda89409fc98462200000000000000000000000000000040"),
        // The orders of edwards25519 (little-endian), P-256 and secp256k1 (big-endian).
        hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010"),
        hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"),
        hex("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"),
    ];
    // edwards25519: the points of order 8, in all four signs.
    for text in [
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ] {
        let point = hex(text);
        let mut signed = point;
        signed[31] |= 0x80;
        all.extend([point, signed]);
    }
    all
}

/// Offsets of a proof's elements: 32 bytes each, counted from its start and, after a point of 33 bytes, from its end.
fn elements(proof: &[u8]) -> Vec<usize> {
    let from_start = (0..=proof.len() - 32).step_by(32);
    let from_end = (0..=proof.len() - 32).rev().step_by(32);
    let mut offsets: Vec<usize> = from_start.chain(from_end).collect();
    offsets.sort_unstable();
    offsets.dedup();
    offsets
}

#[test]
fn every_part_of_a_proof_counts() {
    for kind in Kind::ALL {
        let case = case(kind, 3);
        let proof = case.prove();
        let refused = |bytes: &[u8]| verify(&case.context, &case.instance, bytes).is_err();
        if proof.len() <= SHORT {
            for (at, bit) in (0..proof.len()).flat_map(|at| [0x01, 0x10, 0x80].map(|bit| (at, bit))) {
                let mut changed = proof.clone();
                changed[at] ^= bit;
                assert!(refused(&changed), "{kind}: byte {at}");
            }
        } else {
            assert_eq!(proof.len() % 32, 0, "{kind}");
            for (turn, at) in elements(&proof).into_iter().enumerate() {
                let mut changed = proof.clone();
                // The lowest bit, and a point's sign.
                changed[at + if turn % 2 == 0 { 0 } else { 31 }] ^= if turn % 2 == 0 { 0x01 } else { 0x80 };
                assert!(refused(&changed), "{kind}: element at {at}");
                if at >= 32 {
                    let mut swapped = proof.clone();
                    let before = proof[at - 32..at].to_vec();
                    swapped.copy_within(at..at + 32, at - 32);
                    swapped[at..at + 32].copy_from_slice(&before);
                    assert!(swapped == proof || refused(&swapped), "{kind}: elements before and at {at}");
                }
            }
        }
    }
}

#[test]
fn no_other_length_is_a_proof() {
    for kind in Kind::ALL {
        let case = case(kind, 3);
        let proof = case.prove();
        for length in 0..proof.len() {
            assert!(verify(&case.context, &case.instance, &proof[..length]).is_err(), "{kind}: {length} bytes");
        }
        for surplus in [&[0][..], &[0xff], &[0; 32], &proof] {
            let longer = [proof.as_slice(), surplus].concat();
            assert!(verify(&case.context, &case.instance, &longer).is_err(), "{kind}: {} more", surplus.len());
        }
    }
}

#[test]
fn unusable_points_and_scalars_are_refused() {
    let unusable = unusable();
    for kind in Kind::ALL {
        let case = case(kind, 3);
        let proof = case.prove();
        let offsets = elements(&proof);
        for (turn, at) in offsets.iter().enumerate() {
            // Of a long proof, the first element gets them all, and each further one two of them in turn.
            let all = proof.len() <= SHORT || turn == 0;
            let count = if all { unusable.len() } else { 2 };
            for bytes in unusable.iter().cycle().skip(if all { 0 } else { 2 * turn }).take(count) {
                let mut changed = proof.clone();
                changed[*at..at + 32].copy_from_slice(bytes);
                let refused = changed == proof || verify(&case.context, &case.instance, &changed).is_err();
                assert!(refused, "{kind}: {bytes:02x?} at {at}");
            }
        }
        // SEC 1 (2.3.4): the identity, a hybrid and an uncompressed tag, x = p, an x that no point has.
        if proof.len() % 32 == 1 {
            let p256 = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
            let secp256k1 = "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f";
            let x = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
            let own = proof[1..33].to_vec();
            for (tag, x) in
                [(0, own.clone()), (4, own.clone()), (6, own), (2, x(p256)), (3, x(secp256k1)), (0, vec![0; 32])]
            {
                let mut changed = proof.clone();
                changed[0] = tag;
                changed[1..33].copy_from_slice(&x);
                let malformed = verify(&case.context, &case.instance, &changed);
                // A tag or an x of the other curve may still be a point of this one.
                assert!(malformed.is_err(), "{kind}: tag {tag}");
                assert!(tag == 2 || tag == 3 || matches!(malformed, Err(Error::Malformed { .. })), "{kind}: tag {tag}");
            }
        }
    }
}

#[test]
fn a_version_is_part_of_the_name() {
    for kind in Kind::ALL {
        let mut case = case(kind, 3);
        let proof = case.prove();
        let (name, version) = kind.name().rsplit_once('/').unwrap();
        let next = version.parse::<u32>().unwrap() + 1;
        let others = [
            format!("{name}/{next}"),
            format!("{name}/0"),
            format!("{name}/0{version}"),
            format!("{name}/"),
            name.to_owned(),
        ];
        for other in others.into_iter().filter(|other| other.parse::<Kind>().is_err()) {
            case.context.statement = other.clone();
            assert_eq!(verify(&case.context, &case.instance, &proof), Err(Error::UnknownStatement(other)), "{kind}");
        }
        // A version that exists is another kind, for which the proof was not made.
        for other in Kind::ALL.into_iter().filter(|other| *other != kind && other.name().starts_with(name)) {
            case.context.statement = other.name().to_owned();
            case.context.verifying_key = registry::verifying_key(parameters(), other).unwrap();
            assert!(verify(&case.context, &case.instance, &proof).is_err(), "{kind} as {other}");
        }
    }
}

#[test]
fn a_claim_names_its_keys_and_no_others() {
    for kind in Kind::ALL {
        let case = case(kind, 3);
        let proof = case.prove();
        let first = case.context.keys[0].clone();
        for count in (0..=case.context.keys.len() + 1).chain([64, 65]).filter(|count| *count != case.context.keys.len())
        {
            let mut context = case.context.clone();
            context.keys.resize(count, first.clone());
            assert!(verify(&context, &case.instance, &proof).is_err(), "{kind}: {count} keys");
        }
    }
}

#[test]
fn a_proof_cut_to_another_kinds_length_is_none_of_it() {
    for kind in Kind::ALL {
        let proof = case(kind, 3).prove();
        for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
            let other_case = case(other, 3);
            let own = other_case.prove();
            let mut cut = proof.clone();
            cut.resize(own.len(), 0);
            assert!(verify(&other_case.context, &other_case.instance, &cut).is_err(), "{kind} as {other}");
            // Its beginning, with the rest of an honest proof.
            let mut spliced = own.clone();
            spliced[..32].copy_from_slice(&proof[..32]);
            assert!(verify(&other_case.context, &other_case.instance, &spliced).is_err(), "{kind} into {other}");
        }
    }
}
