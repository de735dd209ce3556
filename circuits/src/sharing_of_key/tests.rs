#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use ff::Field;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{relation::*, *};
use crate::{
    ClaimContext, Kind,
    key_knowledge::symmetric::{fingerprint, tests as keys},
};

pub(super) fn trust_domain() -> TrustDomain {
    "acme.example".parse().unwrap()
}

/// A dealing of a fixed key among holders at 3, 6, 9, ..., and a claim of it.
pub(super) fn dealt(
    algorithm: KeyAlgorithm,
    threshold: u16,
    holders: u16,
) -> (ClaimContext, Instance, Witness, Vec<Opening>) {
    let points: Vec<u16> = (1..=holders).map(|holder| 3 * holder).collect();
    let mut rng = StdRng::seed_from_u64(u64::from(threshold) << 16 | u64::from(holders));
    let (instance, witness, openings) =
        Witness::deal(algorithm, &keys::key(algorithm), &trust_domain(), threshold, &points, &mut rng).unwrap();
    let (mut context, ..) = keys::claim(Kind::SharingOfKeyHalo2, Suite::Halo2Pasta, algorithm);
    context.instance = instance.digest();
    (context, instance, witness, openings)
}

/// What a prover shows and what it knows.
pub(super) struct Attempt {
    pub(super) public: PublicInputs,
    pub(super) secrets: Secrets,
}

impl Attempt {
    /// One that holds.
    pub(super) fn honest(algorithm: KeyAlgorithm, threshold: u16, holders: u16) -> Self {
        let (context, instance, witness, _) = dealt(algorithm, threshold, holders);
        let secrets = Arc::into_inner(witness.secrets).unwrap();
        Self { public: PublicInputs::new(&context, &instance).unwrap(), secrets }
    }

    fn slot(&mut self, slot: usize) -> &mut Slot {
        &mut self.public.sharing.slots[slot]
    }

    /// The commitment of a slot to its share plus these differences.
    pub(super) fn commitment(&self, slot: usize, [low, high, blinder]: [Fp; 3]) -> Fp {
        let (Slot { x, domain, .. }, blinders) = (self.public.sharing.slots[slot], &self.secrets.blinders.0);
        let share = self.secrets.evaluate(x);
        commit(domain, share.0 + low, share.1 + high, blinders[slot] + blinder)
    }

    /// Fingerprint and commitments of the secrets as they are now.
    fn shown_anew(mut self) -> Self {
        self.public.key.fingerprint = Fp::hash(self.public.key.domain, self.secrets.key.low, self.secrets.key.high());
        for slot in 0..MAX_HOLDERS {
            let commitment = self.commitment(slot, [Fp::ZERO; 3]);
            let used = self.slot(slot).used;
            self.slot(slot).commitment = used * commitment;
        }
        self
    }
}

/// Ways to break exactly one clause for 3 of 5 holders, the others kept.
pub(super) fn strategies() -> Vec<(&'static str, Attempt)> {
    use KeyAlgorithm::{Aes128, Aes192, Aes256, HmacSha256};
    type Break = fn(&mut Attempt);
    const ZERO: Fp = Fp::ZERO;
    const ONE: Fp = Fp::ONE;
    fn two_to_64() -> Fp {
        Fp::from_number(1 << 64)
    }
    // What is shown follows from the broken secrets.
    let broken_secrets: [(&str, KeyAlgorithm, Break); 13] = [
        ("low_limb_over_128_bits", Aes256, |a| a.secrets.key.low += two_to_64().square()),
        ("low_limb_below_zero", Aes128, |a| a.secrets.key.low = -ONE),
        ("mid_limb_over_64_bits", Aes256, |a| {
            a.secrets.key.mid += two_to_64();
            a.secrets.key.top -= ONE;
        }),
        ("top_limb_over_64_bits", Aes256, |a| a.secrets.key.top += two_to_64()),
        ("aes128_key_with_nonzero_high_limb", Aes128, |a| a.secrets.key.mid = ONE),
        ("aes192_key_with_nonzero_top_limb", Aes192, |a| a.secrets.key.top = ONE),
        ("low_polynomial_of_degree_t", Aes256, |a| a.secrets.low.0[2] = ONE),
        ("high_polynomial_of_degree_t", Aes256, |a| a.secrets.high.0[2] = ONE),
        ("high_polynomial_of_degree_t_for_a_short_key", Aes128, |a| a.secrets.high.0[2] = ONE),
        ("low_polynomial_of_highest_degree", Aes256, |a| a.secrets.low.0[HIGHER - 1] = -ONE),
        ("high_polynomial_of_highest_degree", Aes256, |a| a.secrets.high.0[HIGHER - 1] = -ONE),
        ("lower_threshold_than_dealt", Aes256, |a| a.public.sharing.allowed[1] = ZERO),
        ("threshold_of_one_where_three_were_dealt", Aes256, |a| a.public.sharing.allowed = [ZERO; HIGHER]),
    ];
    let broken_shown: [(&str, KeyAlgorithm, Break); 20] = [
        ("low_share_off_the_polynomial", Aes256, |a| a.slot(1).commitment = a.commitment(1, [ONE, ZERO, ZERO])),
        ("high_share_off_the_polynomial", Aes256, |a| a.slot(1).commitment = a.commitment(1, [ZERO, ONE, ZERO])),
        ("every_share_of_another_low_limb", Aes256, |a| {
            (0..5).for_each(|slot| a.slot(slot).commitment = a.commitment(slot, [ONE, ZERO, ZERO]));
        }),
        ("every_share_of_another_high_limb", Aes256, |a| {
            (0..5).for_each(|slot| a.slot(slot).commitment = a.commitment(slot, [ZERO, ONE, ZERO]));
        }),
        ("constant_term_is_not_the_low_limb", Aes256, |a| a.secrets.key.low += ONE),
        ("constant_term_is_not_the_high_limb", Aes256, |a| a.secrets.key.mid += ONE),
        ("another_coefficient", Aes256, |a| a.secrets.low.0[1] += ONE),
        ("commitment_with_another_blinder", Aes256, |a| a.secrets.blinders.0[4] += ONE),
        ("commitment_to_another_share", Aes256, |a| {
            let x = a.slot(1).x;
            let (low, high) = a.secrets.evaluate(x);
            let (domain, blinder) = (a.slot(0).domain, a.secrets.blinders.0[0]);
            a.slot(0).commitment = commit(domain, low, high, blinder);
        }),
        ("swapped_commitments", Aes256, |a| {
            let (first, second) = (a.slot(0).commitment, a.slot(1).commitment);
            (a.slot(0).commitment, a.slot(1).commitment) = (second, first);
        }),
        ("swapped_points", Aes256, |a| {
            let (first, second) = (a.slot(0).x, a.slot(1).x);
            (a.slot(0).x, a.slot(1).x) = (second, first);
        }),
        ("two_holders_at_one_point", Aes256, |a| a.slot(1).x = a.slot(0).x),
        ("another_holders_domain", Aes256, |a| a.slot(1).domain = a.slot(0).domain),
        ("empty_slot_with_a_commitment", Aes256, |a| a.slot(5).commitment = a.commitment(5, [ZERO; 3])),
        ("empty_slot_marked_used", Aes256, |a| a.slot(31).used = ONE),
        ("holder_marked_absent", Aes256, |a| a.slot(0).used = ZERO),
        ("holder_without_a_commitment", Aes256, |a| a.slot(4).commitment = ZERO),
        ("fingerprint_in_a_foreign_trust_domain", Aes256, |a| {
            let foreign = fingerprint(&"evil.example".parse().unwrap(), Aes256, Suite::Halo2Pasta, &keys::key(Aes256));
            a.public.key.fingerprint = Fp::from_canonical(&foreign.unwrap().bytes.0).unwrap();
        }),
        ("fingerprint_of_a_foreign_algorithm", Aes256, |a| {
            let foreign = fingerprint(&trust_domain(), HmacSha256, Suite::Halo2Pasta, &keys::key(Aes256));
            a.public.key.fingerprint = Fp::from_canonical(&foreign.unwrap().bytes.0).unwrap();
        }),
        ("commitment_in_a_foreign_trust_domain", Aes256, |a| {
            let (_, instance, ..) = dealt(Aes256, 3, 5);
            let foreign = share_domain(&"evil.example".parse().unwrap(), &instance, instance.shares[0].x);
            let x = a.slot(0).x;
            let (low, high) = a.secrets.evaluate(x);
            a.slot(0).commitment = commit(foreign, low, high, a.secrets.blinders.0[0]);
        }),
    ];
    let attempt = |algorithm, spoil: Break| {
        let mut attempt = Attempt::honest(algorithm, 3, 5);
        spoil(&mut attempt);
        attempt
    };
    let secrets = broken_secrets.map(|(name, algorithm, spoil)| (name, attempt(algorithm, spoil).shown_anew()));
    let shown = broken_shown.map(|(name, algorithm, spoil)| (name, attempt(algorithm, spoil)));
    secrets.into_iter().chain(shown).collect()
}

#[test]
fn native_relation_refuses_every_strategy() {
    for algorithm in keys::ALGORITHMS {
        let honest = Attempt::honest(algorithm, 3, 5);
        honest.public.check(&honest.secrets).unwrap();
        let shown_anew = Attempt::honest(algorithm, 3, 5).shown_anew();
        assert_eq!(shown_anew.public, honest.public);
    }
    for (name, Attempt { public, secrets }) in strategies() {
        assert!(matches!(public.check(&secrets), Err(Error::WitnessRefused(_))), "{name}");
    }
}

#[test]
fn a_witness_holds_for_its_own_instance_alone() {
    let (_, instance, witness, _) = dealt(KeyAlgorithm::Aes256, 3, 5);
    SharingOfKey::holds(&trust_domain(), &instance, &witness).unwrap();
    let refused = |trust_domain: &TrustDomain, instance: &Instance| {
        assert!(matches!(SharingOfKey::holds(trust_domain, instance, &witness), Err(Error::WitnessRefused(_))));
    };
    refused(&"evil.example".parse().unwrap(), &instance);
    refused(&trust_domain(), &dealt(KeyAlgorithm::HmacSha256, 3, 5).1);
    refused(&trust_domain(), &dealt(KeyAlgorithm::Aes256, 4, 5).1);
    refused(&trust_domain(), &Instance { algorithm: KeyAlgorithm::HmacSha256, ..instance.clone() });
    refused(&trust_domain(), &Instance { threshold: 2, ..instance.clone() });
    // A polynomial of lower degree than the threshold allows is no contradiction: leading coefficients may be zero.
    let (_, mut lower, witness, _) = dealt(KeyAlgorithm::Aes256, 3, 5);
    lower.threshold = 4;
    SharingOfKey::holds(&trust_domain(), &lower, &witness).unwrap();
}

#[test]
fn an_instance_that_makes_no_sense_is_not_read() {
    let (_, honest, ..) = dealt(KeyAlgorithm::Aes256, 3, 5);
    let bytes = honest.to_bytes();
    assert_eq!((bytes[0], bytes.len()), (CODE, 39 + 34 * 5));
    assert_eq!(Instance::from_bytes(&bytes).unwrap(), honest);
    assert_eq!(crate::Instance::from_bytes(&bytes).unwrap(), honest.clone().into());
    type Break = fn(&mut Instance);
    let strategies: [(&str, Break); 12] = [
        ("no_threshold", |i| i.threshold = 0),
        ("threshold_above_the_holders", |i| i.threshold = 6),
        ("no_holders", |i| i.shares.clear()),
        ("two_holders_at_one_point", |i| i.shares[1].x = i.shares[0].x),
        ("two_holders_at_one_point_apart", |i| i.shares[4].x = i.shares[0].x),
        ("points_out_of_order", |i| i.shares.swap(0, 1)),
        ("holder_at_zero", |i| i.shares[0].x = 0),
        ("commitment_that_is_not_canonical", |i| i.shares[2].commitment = Digest([0xff; 32])),
        ("asymmetric_algorithm", |i| i.algorithm = KeyAlgorithm::Ed25519),
        ("fingerprint_of_another_suite", |i| i.fingerprint.suite = Suite::Groth16Bn254),
        ("fingerprint_that_is_not_canonical", |i| i.fingerprint.bytes = Digest([0xff; 32])),
        ("more_holders_than_the_circuit_has_slots", |i| {
            i.shares = (1..=33).map(|x| CommittedShare { x, commitment: Digest([0; 32]) }).collect();
        }),
    ];
    for (name, spoil) in strategies {
        let mut instance = honest.clone();
        spoil(&mut instance);
        assert!(matches!(Instance::from_bytes(&instance.to_bytes()), Err(Error::Malformed { .. })), "{name}");
    }
}

#[test]
fn any_threshold_of_openings_makes_the_key() {
    let mut rng = StdRng::seed_from_u64(5);
    for algorithm in keys::ALGORITHMS {
        for (threshold, holders) in [(1, 1), (1, 4), (3, 5), (5, 5), (32, 32)] {
            let (_, instance, _, mut openings) = dealt(algorithm, threshold, holders);
            openings.iter().for_each(|opening| instance.check_opening(&trust_domain(), opening).unwrap());
            openings.shuffle(&mut rng);
            let made = |openings: &[Opening]| instance.reconstruct(&trust_domain(), openings);
            let threshold = usize::from(threshold);
            assert_eq!(*made(&openings).unwrap(), keys::key(algorithm));
            assert_eq!(*made(&openings[openings.len() - threshold..]).unwrap(), keys::key(algorithm));
            assert!(matches!(made(&openings[1..threshold]), Err(Error::WitnessRefused(_))));
        }
    }
    // Keys whose limbs begin or end with zeros keep their length.
    for key in
        [[0; 32], [0xff; 32], std::array::from_fn(|i| u8::from(i == 16)), std::array::from_fn(|i| (i / 24) as u8)]
    {
        let deal = Witness::deal(KeyAlgorithm::Aes256, &key, &trust_domain(), 2, &[1, u16::MAX], &mut rng);
        let (instance, _, openings) = deal.unwrap();
        assert_eq!(*instance.reconstruct(&trust_domain(), &openings).unwrap(), key);
    }
}

#[test]
fn a_false_opening_is_refused() {
    let (_, instance, _, openings) = dealt(KeyAlgorithm::Aes256, 2, 3);
    let changed = |byte: usize| {
        let mut bytes = openings[0].to_bytes();
        assert_eq!(Opening::from_bytes(&bytes).unwrap().to_bytes(), bytes);
        bytes[byte] ^= 1;
        Opening::from_bytes(&bytes).unwrap()
    };
    // The point, either value, the blinder.
    for byte in [0, 1, 2, 34, 66] {
        let opening = changed(byte);
        assert!(matches!(instance.check_opening(&trust_domain(), &opening), Err(Error::WitnessRefused(_))), "{byte}");
        let with_another = [opening, Opening::from_bytes(&openings[1].to_bytes()).unwrap()];
        assert!(matches!(instance.reconstruct(&trust_domain(), &with_another), Err(Error::WitnessRefused(_))));
    }
    assert!(instance.check_opening(&"evil.example".parse().unwrap(), &openings[0]).is_err());
    let of_another_dealing = &dealt(KeyAlgorithm::Aes256, 3, 3).3[0];
    assert!(instance.check_opening(&trust_domain(), of_another_dealing).is_err());
    let twice = [&openings[0], &openings[0]].map(|opening| Opening::from_bytes(&opening.to_bytes()).unwrap());
    assert!(matches!(instance.reconstruct(&trust_domain(), &twice), Err(Error::Malformed { .. })));
    let mut beyond = openings[0].to_bytes();
    beyond[33] = 0xff;
    assert!(Opening::from_bytes(&beyond).is_err());
}

#[test]
fn a_commitment_alone_does_not_make_the_shares_the_keys() {
    // A dealer that commits to whatever it likes has no proof; if holders skip it, the fingerprint still refuses.
    let (_, mut instance, _, _) = dealt(KeyAlgorithm::Aes256, 2, 2);
    let openings = [3, 6].map(|x| {
        let mut bytes = [0; 98];
        bytes[1] = x;
        bytes[2] = x;
        Opening::from_bytes(&bytes).unwrap()
    });
    for (share, opening) in instance.shares.iter_mut().zip(&openings) {
        let bytes = opening.to_bytes();
        let low = Fp::from_canonical(bytes[2..34].try_into().unwrap()).unwrap();
        let domain = share_domain(&trust_domain(), &dealt(KeyAlgorithm::Aes256, 2, 2).1, share.x);
        share.commitment = Digest(commit(domain, low, Fp::ZERO, Fp::ZERO).to_canonical());
    }
    openings.iter().for_each(|opening| instance.check_opening(&trust_domain(), opening).unwrap());
    let made = instance.reconstruct(&trust_domain(), &openings);
    assert_eq!(made, Err(Error::WitnessRefused("the shares make another key")));
}

#[test]
fn secrets_are_not_printed() {
    let (_, _, witness, openings) = dealt(KeyAlgorithm::Aes256, 2, 2);
    assert_eq!(format!("{witness:?}"), "Witness(sharing of aes256, secret)");
    assert_eq!(format!("{:?}", openings[0]), "Opening(x = 3, secret)");
}

#[test]
fn a_dealing_is_random() {
    let deal = || {
        let key = keys::key(KeyAlgorithm::Aes256);
        Witness::deal(KeyAlgorithm::Aes256, &key, &trust_domain(), 1, &[1], &mut rand::rngs::OsRng).unwrap()
    };
    let ((first, ..), (second, ..)) = (deal(), deal());
    assert_eq!(first.fingerprint, second.fingerprint);
    assert_ne!(first.shares[0].commitment, second.shares[0].commitment);
}
