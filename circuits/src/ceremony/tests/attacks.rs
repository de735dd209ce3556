//! Contributors and couriers who cheat.

use ark_bn254::{G1Affine, G2Affine};
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::PrimeField;

use super::*;
use crate::ceremony::{file::seal, points};

/// Index of the closed ceremony's contributions: alice, bob, carol, beacon, twice.
const CAROL: usize = 2;
const CAROL_DELTA: usize = 6;

/// A point on the twist outside the subgroup of prime order.
fn outside() -> G2Affine {
    (1_u64..)
        .filter_map(|x| G2Affine::get_point_from_x_unchecked(x.into(), false))
        .find(|point| !point.is_in_correct_subgroup_assuming_on_curve())
        .unwrap()
}

fn doubled<P: AffineRepr>(point: P) -> P {
    (point.into_group() + point).into_affine()
}

#[test]
fn a_contributor_without_a_proof_is_named() {
    for (index, share, secret) in
        [(CAROL, 0, "tau"), (CAROL, 1, "alpha"), (CAROL, 2, "beta"), (CAROL_DELTA, 0, "delta")]
    {
        let mut ceremony = closed();
        ceremony.contributions[index].shares[share].knowledge = G2Affine::generator();
        assert_eq!(offence(&ceremony), CeremonyError::Knowledge { contribution: index + 1, secret });
    }
}

#[test]
fn anothers_proof_is_refused() {
    // Carol repeats bob's share as her own: the secret is then squared, and she need not know it.
    let mut ceremony = HONEST[2].clone();
    let bob = ceremony.contributions[1].clone();
    let mut carol = bob.clone();
    carol.name = "carol".to_owned();
    ceremony.contributions.push(carol);
    assert_eq!(offence(&ceremony), CeremonyError::Knowledge { contribution: 3, secret: "tau" });
    // In bob's own name too.
    ceremony.contributions[2] = bob;
    assert_eq!(offence(&ceremony), CeremonyError::Knowledge { contribution: 3, secret: "tau" });
    // The proof of one secret does not serve for another.
    let mut ceremony = HONEST[3].clone();
    let carol = &mut ceremony.contributions[2].shares;
    (carol[0].in_g1, carol[0].in_g2) = (carol[1].in_g1, carol[1].in_g2);
    carol[0].knowledge = carol[1].knowledge;
    assert_eq!(offence(&ceremony), CeremonyError::Knowledge { contribution: 3, secret: "tau" });
}

#[test]
fn a_name_is_bound_to_its_contribution() {
    let mut ceremony = closed();
    ceremony.contributions[CAROL].name = "mallory".to_owned();
    assert_eq!(offence(&ceremony), CeremonyError::Knowledge { contribution: 3, secret: "tau" });
}

#[test]
fn tau_changed_in_one_group_only_is_refused() {
    let secrets = || [(); 3].map(|()| Secret::draw("mallory", b""));
    // The chain is left as it is.
    let mut ceremony = HONEST[3].clone();
    let mut changed = ceremony.powers.clone();
    changed.contribute(&secrets());
    ceremony.powers.tau_g1 = changed.tau_g1.clone();
    assert_eq!(offence(&ceremony), CeremonyError::Foundation("tau"));
    // A contribution goes with it, but tau in G2 stays.
    let mut ceremony = HONEST[3].clone();
    let before = ceremony.powers.clone();
    ceremony.add_powers("mallory", None, secrets()).unwrap();
    let honest = ceremony.powers.clone();
    ceremony.powers.tau_g2 = before.tau_g2.clone();
    assert!(matches!(offence(&ceremony), CeremonyError::Powers("tau in G1 against tau in G2")));
    // One power alone, anywhere.
    type Change = fn(&mut Powers);
    let changes: [(Change, &str); 7] = [
        (|powers| powers.tau_g1[1022] = G1Affine::generator(), "tau in G1 against tau in G2"),
        (|powers| powers.tau_g2[511] = G2Affine::generator(), "tau in G2 against tau in G1"),
        (|powers| powers.alpha_g1[511] = G1Affine::generator(), "alpha times the powers of tau"),
        (|powers| powers.beta_g1[511] = G1Affine::generator(), "beta times the powers of tau"),
        (|powers| powers.beta_g2 = G2Affine::generator(), "beta in G1 against beta in G2"),
        (|powers| powers.tau_g1[0] = powers.tau_g1[1], "they do not begin with the generators"),
        (|powers| powers.tau_g2[0] = powers.tau_g2[1], "they do not begin with the generators"),
    ];
    for (change, what) in changes {
        ceremony.powers = honest.clone();
        change(&mut ceremony.powers);
        assert_eq!(offence(&ceremony), CeremonyError::Powers(what));
    }
}

#[test]
fn a_secret_that_differs_between_the_groups_is_refused() {
    let mut ceremony = closed();
    let share = &mut ceremony.contributions[CAROL].shares[0];
    share.in_g2 = doubled(share.in_g2);
    assert_eq!(offence(&ceremony), CeremonyError::Groups { contribution: 3, secret: "tau" });
}

#[test]
fn the_identity_is_refused_everywhere() {
    type Change = fn(&mut Ceremony);
    let changes: [Change; 10] = [
        |file| file.contributions[CAROL].shares[0].in_g1 = G1Affine::identity(),
        |file| file.contributions[CAROL].shares[1].after = G1Affine::identity(),
        |file| file.contributions[CAROL].shares[2].in_g2 = G2Affine::identity(),
        |file| file.contributions[CAROL_DELTA].shares[0].knowledge = G2Affine::identity(),
        |file| file.powers.tau_g1[17] = G1Affine::identity(),
        |file| file.powers.tau_g2[17] = G2Affine::identity(),
        |file| file.powers.beta_g2 = G2Affine::identity(),
        |file| file.delta.as_mut().unwrap().in_g2 = G2Affine::identity(),
        |file| file.delta.as_mut().unwrap().h[17] = G1Affine::identity(),
        |file| file.delta.as_mut().unwrap().l[17] = G1Affine::identity(),
    ];
    for change in changes {
        let mut ceremony = closed();
        change(&mut ceremony);
        let offence = offence(&ceremony);
        assert!(matches!(offence, CeremonyError::Point { why: "it is the identity", .. }), "{offence}");
    }
}

#[test]
fn points_off_curve_or_subgroup_are_refused() {
    type Change = fn(&mut Ceremony);
    let subgroup: [Change; 4] = [
        |file| file.contributions[CAROL].shares[0].in_g2 = outside(),
        |file| file.contributions[CAROL].shares[0].knowledge = outside(),
        |file| file.powers.tau_g2[511] = (file.powers.tau_g2[511] + outside()).into_affine(),
        |file| file.delta.as_mut().unwrap().in_g2 = outside(),
    ];
    for change in subgroup {
        let mut ceremony = closed();
        change(&mut ceremony);
        let offence = offence(&ceremony);
        assert!(matches!(offence, CeremonyError::Point { why: "it is outside the subgroup of prime order", .. }));
    }
    let mut ceremony = closed();
    ceremony.powers.tau_g1[3].x += ark_bn254::Fq::from(1);
    let named = CeremonyError::Point { what: "tau in G1", index: 3, why: "it is not on its curve" };
    assert_eq!(offence(&ceremony), named);
}

#[test]
fn an_altered_l_or_h_query_is_refused() {
    type Change = fn(&mut Delta);
    let (l, h) = ("an element of the L query is not the circuit's", "an element of the H query is not the circuit's");
    let changes: [(Change, &str); 6] = [
        (|delta| delta.l.swap(10, 11), l),
        (|delta| delta.l[500] = doubled(delta.l[500]), l),
        (|delta| delta.h[0] = (delta.h[0] + G1Affine::generator()).into_affine(), h),
        (|delta| delta.h[510] = (delta.h[510] + delta.h[0]).into_affine(), h),
        (|delta| delta.in_g2 = doubled(delta.in_g2), "delta in G2 is not what the contributions lead to"),
        // A change that the whole query shares.
        (|delta| delta.l.iter_mut().for_each(|point| *point = doubled(*point)), l),
    ];
    // In the middle of phase 2 and at its end.
    for honest in [&HONEST[5], HONEST.last().unwrap()] {
        for (change, what) in changes {
            let mut ceremony = honest.clone();
            change(ceremony.delta.as_mut().unwrap());
            assert_eq!(offence(&ceremony), CeremonyError::PhaseTwo(what));
        }
    }
}

#[test]
fn phase_1_cannot_change_once_phase_2_began() {
    // Consistent powers of mallory's own, with the honest chain.
    let mut own = HONEST[0].clone();
    own.contribute("mallory", b"", &quiet).unwrap();
    let mut ceremony = closed();
    ceremony.powers = own.powers.clone();
    assert_eq!(offence(&ceremony), CeremonyError::Foundation("tau"));
    // With a chain of her own in front, phase 2's proofs are of another transcript.
    own.end_phase(beacon(), &quiet).unwrap();
    let mut phase_two = closed().contributions.split_off(4);
    own.contributions.append(&mut phase_two);
    own.delta = closed().delta;
    assert_eq!(offence(&own), CeremonyError::Knowledge { contribution: 3, secret: "delta" });
    // One more contribution to phase 1 after its beacon has no place in the file's form.
    let mut ceremony = HONEST[4].clone();
    let late = ceremony.contributions[0].clone();
    ceremony.contributions.push(late);
    assert!(Ceremony::from_bytes(&ceremony.to_bytes().unwrap()).is_err());
}

#[test]
fn a_forgotten_contribution_is_noticed() {
    // From the middle: what follows was bound to it.
    for (index, secret) in [(1, "tau"), (5, "delta")] {
        let mut ceremony = closed();
        ceremony.contributions.remove(index);
        assert_eq!(offence(&ceremony), CeremonyError::Knowledge { contribution: index + 1, secret });
    }
    // From the end, with the state of before: a ceremony by itself, which bob misses himself in.
    let mut ceremony = HONEST[1].clone();
    ceremony.contribute("mallory", b"", &quiet).unwrap();
    let bob = HONEST[2].digest().unwrap();
    assert_eq!(verdict(&ceremony).unwrap().expect(&bob), Err(CeremonyError::Missing(bob)));
}

#[test]
fn a_chain_that_starts_anew_is_refused() {
    // Mallory's contribution is honest, but for building on the generator instead of on what was there.
    let honest = HONEST[2].clone();
    let places = honest.places().unwrap();
    let secrets = [(); 3].map(|()| Secret::draw("mallory", b""));
    let generators = Phase::Powers.generators();
    let mut ceremony = honest.clone();
    let made = Contribution::new("mallory", None, Phase::Powers, &places.last, &generators, &secrets);
    ceremony.contributions.push(made);
    ceremony.powers = Powers::one(DOMAIN);
    ceremony.powers.contribute(&secrets);
    assert_eq!(offence(&ceremony), CeremonyError::Chain { contribution: 3, secret: "tau" });

    let honest = HONEST[5].clone();
    let places = honest.places().unwrap();
    let secrets = [Secret::draw("mallory", b"")];
    let mut ceremony = honest.clone();
    let generators = Phase::Circuit.generators();
    let made = Contribution::new("mallory", None, Phase::Circuit, &places.last, &generators, &secrets);
    ceremony.contributions.push(made);
    let mut delta = HONEST[4].delta.clone().unwrap();
    delta.contribute(&secrets[0]);
    ceremony.delta = Some(delta);
    assert_eq!(offence(&ceremony), CeremonyError::Chain { contribution: 6, secret: "delta" });
}

#[test]
fn a_wrong_beacon_is_refused() {
    let other = Beacon::new(b"a value that mallory likes".to_vec(), 10).unwrap();
    // Secrets that mallory knows, said to be the beacon's.
    let mut ceremony = HONEST[3].clone();
    ceremony.add_powers("beacon", Some(beacon()), [(); 3].map(|()| Secret::draw("mallory", b""))).unwrap();
    ceremony.delta = Some(Delta::one(&InitialKey::of(Groth16Circuit::OneKey, &ceremony.powers).unwrap()));
    assert_eq!(offence(&ceremony), CeremonyError::Beacon { contribution: 4 });
    let mut ceremony = HONEST[7].clone();
    ceremony.add_delta("beacon", Some(beacon()), &[Secret::draw("mallory", b"")]).unwrap();
    assert_eq!(offence(&ceremony), CeremonyError::Beacon { contribution: 8 });
    // The secrets of another value, or of other rounds.
    for wrong in [other, Beacon::new(beacon().value().to_vec(), 9).unwrap()] {
        let mut ceremony = HONEST[7].clone();
        let before = ceremony.digest().unwrap();
        let secrets = wrong.secrets(&key::SECRETS, &before, &quiet).unwrap();
        ceremony.add_delta("beacon", Some(beacon()), &secrets).unwrap();
        assert_eq!(offence(&ceremony), CeremonyError::Beacon { contribution: 8 });
    }
    // The value changed after the fact.
    let mut ceremony = closed();
    ceremony.contributions[7].beacon = Some(Beacon::new(vec![7; 32], 10).unwrap());
    assert_eq!(offence(&ceremony), CeremonyError::Knowledge { contribution: 8, secret: "delta" });
    // A phase of nothing but its beacon.
    let mut ceremony = HONEST[0].clone();
    let before = ceremony.digest().unwrap();
    let secrets = beacon().secrets(&powers::SECRETS, &before, &quiet).unwrap();
    ceremony.add_powers("beacon", Some(beacon()), secrets).unwrap();
    ceremony.delta = Some(Delta::one(&InitialKey::of(Groth16Circuit::OneKey, &ceremony.powers).unwrap()));
    assert!(matches!(offence(&ceremony), CeremonyError::Order(_)));
}

#[test]
fn damage_and_trailing_bytes_are_found() {
    let bytes = closed().to_bytes().unwrap();
    let why = |bytes: &[u8]| Ceremony::from_bytes(bytes).err().unwrap();
    for index in (0..bytes.len()).step_by(9973) {
        let mut changed = bytes.clone();
        changed[index] ^= 1;
        assert_eq!(why(&changed), CeremonyError::Damaged);
    }
    for length in [0, 31, 32, 100, bytes.len() - 1] {
        assert_eq!(why(&bytes[..length]), CeremonyError::Damaged);
    }
    assert_eq!(why(&[bytes.as_slice(), &[0]].concat()), CeremonyError::Damaged);

    // With the right digest on top.
    let body = &bytes[..bytes.len() - 32];
    let sealed = |body: &[u8]| why(&seal(body.to_vec()));
    for length in [0, 9, 11, 40, 74, 80, 200, 1000, 100_000, body.len() - 1] {
        let offence = sealed(&body[..length]);
        assert!(matches!(offence, CeremonyError::Malformed(_)), "{length}: {offence}");
    }
    assert!(matches!(sealed(&[body, &[0]].concat()), CeremonyError::Malformed(_)));
    for (index, circuit) in [(0, false), (9, false), (20, true), (50, true)] {
        let mut changed = body.to_vec();
        changed[index] ^= 1;
        assert_eq!(sealed(&changed) == CeremonyError::Circuit, circuit, "{index}");
    }
}

#[test]
fn another_encoding_of_a_point_is_refused() {
    let bytes = closed().to_bytes().unwrap();
    let body = &bytes[..bytes.len() - 32];
    let point = points::encode(&[closed().powers.tau_g1[5]]);
    let place = body.windows(64).position(|window| window == point.as_slice()).unwrap();
    // The flag of the greater y, which uncompressed points do not need.
    let mut flagged = body.to_vec();
    flagged[place + 63] ^= 0x80;
    // x + p, where it fits.
    let mut wrapped = body.to_vec();
    let mut carry = 0;
    for (index, add) in ark_bn254::Fq::MODULUS.0.iter().flat_map(|word| word.to_le_bytes()).enumerate() {
        let sum = u16::from(wrapped[place + index]) + u16::from(add) + carry;
        wrapped[place + index] = sum as u8;
        carry = sum >> 8;
    }
    assert_eq!(carry, 0, "twice the modulus is below 2^256");
    for changed in [flagged, wrapped] {
        let offence = Ceremony::from_bytes(&seal(changed)).err().unwrap();
        assert!(matches!(offence, CeremonyError::Point { what: "tau in G1", index: 5, .. }), "{offence}");
    }
}
