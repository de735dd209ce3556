#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::collections::HashSet;

use ff::Field;

use super::{
    relation::{Expansion, PublicInputs},
    *,
};
use crate::{
    ClaimContext, KeyAttributes, KeyClaim, KeyOrigin, Nonce, Timestamp,
    gadgets::canonical::{Split, T_P, tests::plus_modulus},
};
use KeyAlgorithm::{Aes128, Aes192, Aes256, HmacSha256};

const ALGORITHMS: [KeyAlgorithm; 4] = [Aes128, Aes192, Aes256, HmacSha256];

fn home() -> TrustDomain {
    "acme.example".parse().unwrap()
}

fn target(algorithm: KeyAlgorithm, epoch: u32) -> Target {
    Target { key: "storage".parse().unwrap(), algorithm, epoch }
}

fn master_key(algorithm: KeyAlgorithm, seed: u8) -> Vec<u8> {
    (1..=algorithm.secret_len()).map(|byte| (7 * byte) as u8 ^ seed).collect()
}

/// Master and derived algorithms: every length on either side.
pub(super) fn pairs() -> [(KeyAlgorithm, KeyAlgorithm); 4] {
    [(Aes128, Aes256), (Aes192, HmacSha256), (Aes256, Aes128), (HmacSha256, Aes192)]
}

/// A claim of a key that is derived from a fixed master, with the instance it names.
pub(super) fn claim(master: KeyAlgorithm, derived: KeyAlgorithm) -> (ClaimContext, Instance, Witness) {
    claim_of(master, derived, 0)
}

fn claim_of(master: KeyAlgorithm, derived: KeyAlgorithm, seed: u8) -> (ClaimContext, Instance, Witness) {
    let witness = Witness::new(master, &master_key(master, seed)).unwrap();
    let instance = witness.instance(&home(), &target(derived, 3)).unwrap();
    let context = ClaimContext {
        statement: Kind::KeyDerivationHalo2.name().to_owned(),
        verifying_key: Digest([1; 32]),
        trust_domain: home(),
        manager: "manager".parse().unwrap(),
        cluster: "cluster".parse().unwrap(),
        hsm: "hsm-1".parse().unwrap(),
        enrolment: 1,
        keys: vec![KeyClaim { key: "storage".parse().unwrap(), epoch: 3, attributes: Digest([2; 32]) }],
        instance: crate::context::instance_digest(&instance.to_bytes()),
        challenge: Nonce([3; 32]),
        not_before: Timestamp(1),
        not_after: Timestamp(2),
        checkpoint: None,
        evidence: None,
    };
    (context, instance, witness)
}

/// Public inputs and an expansion that satisfy the relation.
pub(super) fn satisfied(master: KeyAlgorithm, derived: KeyAlgorithm) -> (PublicInputs, Expansion) {
    satisfied_of(master, derived, 0)
}

fn satisfied_of(master: KeyAlgorithm, derived: KeyAlgorithm, seed: u8) -> (PublicInputs, Expansion) {
    let (context, instance, _) = claim_of(master, derived, seed);
    let public = PublicInputs::new(&context, &instance).unwrap();
    let limbs = KeyLimbs::new(master, &master_key(master, seed)).unwrap();
    (public, Expansion::new(limbs, public.kdf))
}

fn two_to(power: u32) -> Fp {
    (0..power).fold(Fp::ONE, |number, _| number.double())
}

/// mid and top as the low half of z2 has them.
fn halve(expansion: &mut Expansion) {
    let half = low_bits(expansion.second.low);
    (expansion.mid, expansion.top) = (Fp::from_number((half as u64).into()), Fp::from_number(half >> 64));
}

/// A master one of whose outputs has a second decomposition that only the empty middle refuses: the comparison with t
/// would let it pass. One master in seven is such.
fn with_second_decomposition(output: fn(&mut Expansion) -> &mut Split) -> (PublicInputs, Expansion) {
    (0..=255)
        .find_map(|seed| {
            let (public, mut expansion) = satisfied_of(Aes256, Aes256, seed);
            let split = output(&mut expansion);
            let z = split.low + two_to(128) * split.middle + two_to(254) * split.top;
            *split = plus_modulus(z)?;
            (low_bits(split.low) < T_P).then_some((public, expansion))
        })
        .unwrap()
}

/// Ways to break exactly one clause, the others kept: what follows from the broken part is computed anew.
pub(super) fn strategies() -> Vec<(&'static str, PublicInputs, Expansion)> {
    let mut all = masters();
    all.extend(outputs());
    all.extend(derived());
    all
}

/// The master key is not one, or not the fingerprint's. All that is derived from it is honest.
fn masters() -> Vec<(&'static str, PublicInputs, Expansion)> {
    type Break = fn(&mut KeyLimbs<Fp>);
    let limbs: [(&'static str, KeyAlgorithm, Break); 5] = [
        ("master_low_over_128_bits", Aes256, |limbs| limbs.low += two_to(128)),
        ("master_mid_over_64_bits", Aes256, |limbs| {
            limbs.mid += two_to(64);
            limbs.top -= Fp::ONE;
        }),
        ("master_top_over_64_bits", Aes256, |limbs| limbs.top += two_to(64)),
        ("aes128_master_with_a_middle", Aes128, |limbs| limbs.mid = Fp::ONE),
        ("aes192_master_with_a_top", Aes192, |limbs| limbs.top = Fp::ONE),
    ];
    let mut all: Vec<_> = limbs
        .into_iter()
        .map(|(name, algorithm, spoil)| {
            let (mut public, _) = satisfied(algorithm, Aes256);
            let mut limbs = KeyLimbs::new(algorithm, &master_key(algorithm, 0)).unwrap();
            spoil(&mut limbs);
            public.master.fingerprint = limbs.fingerprint(public.master.domain);
            let expansion = Expansion::new(limbs, public.kdf);
            public.derived.fingerprint = public.derived_fingerprint(&expansion);
            (name, public, expansion)
        })
        .collect();
    // A key that is derived from a master of one's own, under the fingerprint of the attested one.
    let (mut public, expansion) = satisfied_of(Aes256, Aes256, 1);
    public.master = satisfied(Aes256, Aes256).0.master;
    all.push(("another_master", public, expansion));
    let (mut public, expansion) = satisfied(Aes256, Aes256);
    let foreign = symmetric::domain(&"evil.example".parse().unwrap(), Aes256);
    public.master.fingerprint = expansion.master.fingerprint(foreign);
    all.push(("master_of_another_trust_domain", public, expansion));
    all
}

/// An output is taken apart in another way than the one. What is derived from the parts is honest.
fn outputs() -> Vec<(&'static str, PublicInputs, Expansion)> {
    type Break = fn(&mut Expansion);
    let broken: [(&'static str, Break); 9] = [
        ("first_output_below_its_parts", |all| all.first.low += Fp::ONE),
        ("first_low_over_128_bits", |all| {
            all.first.low += two_to(128);
            all.first.middle -= Fp::ONE;
        }),
        ("first_low_below_zero", |all| {
            all.first.low -= two_to(128);
            all.first.middle += Fp::ONE;
        }),
        ("second_output_below_its_parts", |all| {
            all.second.low += Fp::ONE;
            halve(all);
        }),
        ("first_middle_with_the_top_bit", |all| high_bit_in_the_middle(&mut all.first)),
        ("second_middle_with_the_top_bit", |all| {
            high_bit_in_the_middle(&mut all.second);
            halve(all);
        }),
        ("second_low_not_its_halves", |all| all.mid += Fp::ONE),
        ("mid_over_64_bits", |all| {
            all.mid += two_to(64);
            all.top -= Fp::ONE;
        }),
        ("top_below_zero", |all| {
            all.mid += two_to(64) * all.top + two_to(64);
            all.top = -Fp::ONE;
        }),
    ];
    let mut all: Vec<_> = broken
        .into_iter()
        .map(|(name, spoil)| {
            let (public, mut expansion) = satisfied(Aes256, Aes256);
            spoil(&mut expansion);
            (name, public, expansion)
        })
        .collect();
    // THE attack: the same output as a number above the modulus, which would give another key.
    let (public, expansion) = with_second_decomposition(|all| &mut all.first);
    all.push(("first_output_plus_the_modulus", public, expansion));
    let (public, mut expansion) = with_second_decomposition(|all| &mut all.second);
    halve(&mut expansion);
    all.push(("second_output_plus_the_modulus", public, expansion));
    for (_, public, expansion) in &mut all {
        let honest = public.derived.fingerprint;
        public.derived.fingerprint = public.derived_fingerprint(expansion);
        // Moving bits between mid and top alone changes no key; all else would make another.
        let same = expansion.mid + two_to(64) * expansion.top == expansion.second.low;
        assert!(same || public.derived.fingerprint != honest);
    }
    all
}

/// z + p with bit 254 left in the middle, which then has 127 bits.
fn high_bit_in_the_middle(split: &mut Split) {
    let z = split.low + two_to(128) * split.middle + two_to(254) * split.top;
    *split = plus_modulus(z).unwrap();
    split.middle += split.top * two_to(126);
    split.top = Fp::ZERO;
}

/// The derived key's fingerprint is of something else than what the parts make.
fn derived() -> Vec<(&'static str, PublicInputs, Expansion)> {
    type Break = fn(&mut PublicInputs, &mut Expansion);
    fn under(public: &mut PublicInputs, expansion: &Expansion, kdf: [Fp; 2]) {
        let master = KeyLimbs { low: expansion.master.low, mid: expansion.master.mid, top: expansion.master.top };
        public.derived.fingerprint = public.derived_fingerprint(&Expansion::new(master, kdf));
    }
    let broken: [(&'static str, KeyAlgorithm, Break); 11] = [
        ("another_derived_key", Aes256, |public, _| public.derived.fingerprint += Fp::ONE),
        ("derived_key_of_another_epoch", Aes256, |public, all| {
            under(public, all, kdf_domains(&home(), Aes256, &target(Aes256, 4)));
        }),
        ("derived_key_of_another_name", Aes256, |public, all| {
            let target = Target { key: "archive".parse().unwrap(), ..target(Aes256, 3) };
            under(public, all, kdf_domains(&home(), Aes256, &target));
        }),
        ("derived_key_of_another_algorithm", Aes256, |public, all| {
            under(public, all, kdf_domains(&home(), Aes256, &target(HmacSha256, 3)));
        }),
        ("derived_key_of_another_trust_domain", Aes256, |public, all| {
            under(public, all, kdf_domains(&"evil.example".parse().unwrap(), Aes256, &target(Aes256, 3)));
        }),
        ("derived_key_of_another_master_algorithm", Aes256, |public, all| {
            under(public, all, kdf_domains(&home(), HmacSha256, &target(Aes256, 3)));
        }),
        ("outputs_exchanged", Aes256, |public, all| under(public, all, [public.kdf[1], public.kdf[0]])),
        ("fingerprint_of_another_algorithm", Aes256, |public, all| {
            let domain = symmetric::domain(&home(), HmacSha256);
            public.derived.fingerprint = Fp::hash(domain, all.first.low, all.second.low);
        }),
        ("aes128_with_a_high_limb", Aes128, |public, all| {
            public.derived.fingerprint = Fp::hash(public.derived.domain, all.first.low, all.mid);
        }),
        ("aes192_with_a_top", Aes192, |public, all| {
            public.derived.fingerprint = Fp::hash(public.derived.domain, all.first.low, all.second.low);
        }),
        ("aes256_without_a_top", Aes256, |public, all| {
            public.derived.fingerprint = Fp::hash(public.derived.domain, all.first.low, all.mid);
        }),
    ];
    let spoil = |(name, algorithm, spoil): (&'static str, KeyAlgorithm, Break)| {
        let (mut public, mut expansion) = satisfied(Aes256, algorithm);
        spoil(&mut public, &mut expansion);
        (name, public, expansion)
    };
    broken.into_iter().map(spoil).collect()
}

#[test]
fn native_relation_refuses_every_strategy() {
    for (master, derived) in pairs() {
        let (public, expansion) = satisfied(master, derived);
        public.check(&expansion).unwrap();
    }
    for (name, public, expansion) in strategies() {
        assert!(matches!(public.check(&expansion), Err(Error::WitnessRefused(_))), "{name}");
    }
}

#[test]
fn the_fingerprints_are_those_of_the_keys() {
    for master in ALGORITHMS {
        for derived in ALGORITHMS {
            let (_, instance, witness) = claim(master, derived);
            KeyDerivation::holds(&home(), &instance, &witness).unwrap();
            let key = derive(&home(), master, &master_key(master, 0), &target(derived, 3)).unwrap();
            assert_eq!(key.len(), derived.secret_len());
            let fingerprint =
                |algorithm, key: &[u8]| symmetric::fingerprint(&home(), algorithm, Suite::Halo2Pasta, key).unwrap();
            assert_eq!(instance.fingerprint(), fingerprint(derived, &key));
            assert_eq!(instance.master(), fingerprint(master, &master_key(master, 0)));
        }
    }
}

#[test]
fn everything_that_names_the_key_makes_another() {
    let of = |trust_domain: &str, master: KeyAlgorithm, target: &Target| {
        derive(&trust_domain.parse().unwrap(), master, &master_key(master, 0), target).unwrap()
    };
    let other_name = Target { key: "archive".parse().unwrap(), ..target(Aes256, 1) };
    let mut starts = HashSet::new();
    for key in [
        of("acme.example", Aes256, &target(Aes256, 1)),
        of("acme.example", Aes256, &target(Aes256, 2)),
        of("acme.example", Aes256, &target(HmacSha256, 1)),
        of("acme.example", Aes256, &target(Aes192, 1)),
        of("acme.example", Aes256, &target(Aes128, 1)),
        of("acme.example", Aes256, &other_name),
        of("acme.example", HmacSha256, &target(Aes256, 1)),
        of("other.example", Aes256, &target(Aes256, 1)),
    ] {
        assert!(starts.insert(key[..16].to_vec()));
        assert!(key.len() == 16 || starts.insert(key[16..24].to_vec()));
    }
    let pinned = of("acme.example", Aes256, &target(Aes256, 1));
    let text = data_encoding::HEXLOWER.encode(&pinned);
    assert_eq!(text, "1095f666759339e0f7c0b7a2136cb00112442c769797b590000bee201f79bc32");
}

#[test]
fn only_symmetric_keys_are_masters_or_derived() {
    for algorithm in KeyAlgorithm::ALL {
        let usable = ALGORITHMS.contains(&algorithm);
        let key = vec![7; algorithm.secret_len()];
        assert_eq!(Witness::new(algorithm, &key).is_ok(), usable, "{algorithm}");
        assert_eq!(derive(&home(), Aes128, &[7; 16], &target(algorithm, 1)).is_ok(), usable, "{algorithm}");
        let attributes = KeyAttributes::new(algorithm, KeyOrigin::Derived, true);
        assert_eq!(KeyAttributes::from_bytes(&attributes.to_bytes()).is_ok(), usable, "{algorithm}");
        assert_eq!(attributes.kinds(&[]), [Kind::KeyDerivationHalo2]);
    }
    assert!(Witness::new(Aes128, &[7; 32]).is_err());
}

#[test]
fn an_instance_has_one_encoding() {
    let (_, instance, _) = claim(Aes128, Aes256);
    let bytes = instance.to_bytes();
    assert_eq!(crate::Instance::from_bytes(&bytes).unwrap(), instance.clone().into());
    // Form, algorithm, F of the master; name, algorithm and epoch; F of the derived key.
    let name = 4 + "storage".len();
    assert_eq!((bytes[0], bytes.len()), (7, 2 + 32 + name + 1 + 4 + 32));
    let changed = |at: std::ops::Range<usize>, byte| {
        let mut changed = bytes.clone();
        changed[at].fill(byte);
        Instance::from_bytes(&changed)
    };
    assert!(changed(0..1, 6).is_err());
    for at in [1, 34 + name] {
        assert!(changed(at..at + 1, KeyAlgorithm::Aes256Cmac.code()).is_err());
        assert!(changed(at..at + 1, KeyAlgorithm::Ed25519.code()).is_err());
    }
    assert!(changed(2..34, 0xff).is_err(), "not canonical");
    assert!(changed(bytes.len() - 32..bytes.len(), 0xff).is_err(), "not canonical");
}

#[test]
fn the_claim_must_name_the_key_and_epoch_that_were_derived() {
    let (context, instance, _) = claim(Aes256, Aes256);
    assert!(PublicInputs::new(&context, &instance).is_ok());
    for change in
        [(|claim: &mut KeyClaim| claim.epoch = 4) as fn(&mut KeyClaim), |claim| claim.key = "archive".parse().unwrap()]
    {
        let mut context = context.clone();
        change(&mut context.keys[0]);
        assert!(matches!(PublicInputs::new(&context, &instance), Err(Error::WrongInstance(_))));
    }
}
