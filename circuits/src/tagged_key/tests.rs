#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::collections::HashSet;

use ff::Field;

use super::*;
use crate::{KeyClaim, Timestamp};

const BEACON: Nonce = Nonce([5; 32]);
const ALGORITHMS: [KeyAlgorithm; 3] = [KeyAlgorithm::Aes128Cmac, KeyAlgorithm::Aes192Cmac, KeyAlgorithm::Aes256Cmac];

fn home() -> TrustDomain {
    "acme.example".parse().unwrap()
}

fn witness() -> Witness {
    // Distinct, and each with its highest bit set.
    Witness::from_tags(&[0xa5; TAG_LEN], &[0xc3; TAG_LEN])
}

/// A claim of fixed tags, with the instance it names.
pub(super) fn claim() -> (ClaimContext, Instance, Witness) {
    let instance = witness().instance(&home(), KeyAlgorithm::Aes256Cmac, &BEACON).unwrap();
    let context = ClaimContext {
        statement: Kind::TaggedKeyHalo2.name().to_owned(),
        verifying_key: Digest([1; 32]),
        trust_domain: home(),
        manager: "manager".parse().unwrap(),
        cluster: "cluster".parse().unwrap(),
        hsm: "hsm-1".parse().unwrap(),
        enrolment: 1,
        keys: vec![KeyClaim { key: "key".parse().unwrap(), epoch: 1, attributes: Digest([2; 32]) }],
        instance: crate::context::instance_digest(&instance.to_bytes()),
        challenge: Nonce([3; 32]),
        not_before: Timestamp(1),
        not_after: Timestamp(2),
        checkpoint: None,
        evidence: None,
    };
    (context, instance, witness())
}

/// Public inputs and tags that satisfy the relation.
pub(super) fn satisfied() -> (PublicInputs, TagElements) {
    let (context, instance, witness) = claim();
    let tags = TagElements { identifier: number(&witness.identifier), round: number(&witness.round) };
    (PublicInputs::new(&context, &instance).unwrap(), tags)
}

/// Ways to break exactly one clause, the others kept: both fingerprints are computed anew from the broken tags, except
/// where a fingerprint is what is wrong.
pub(super) fn strategies() -> Vec<(&'static str, PublicInputs, TagElements)> {
    type Break = fn(&mut PublicInputs, &mut TagElements);
    let honest: [(&'static str, Break); 4] = [
        ("identifier_tag_over_128_bits", |_, tags| tags.identifier += Fp::from_number(1 << 127).double()),
        ("identifier_tag_below_zero", |_, tags| tags.identifier = -Fp::ONE),
        ("round_tag_over_128_bits", |_, tags| tags.round += Fp::from_number(1 << 127).double()),
        ("round_tag_below_zero", |_, tags| tags.round = -Fp::ONE),
    ];
    let wrong: [(&'static str, Break); 11] = [
        ("identifier_of_another_key", |_, tags| tags.identifier += Fp::ONE),
        ("identifier_of_another_trust_domain", |public, tags| {
            let domain = identifier_domain(&"evil.example".parse().unwrap(), KeyAlgorithm::Aes256Cmac);
            public.identifier = tag_fingerprint(domain, tags.identifier);
        }),
        ("identifier_of_another_algorithm", |public, tags| {
            let domain = identifier_domain(&home(), KeyAlgorithm::Aes128Cmac);
            public.identifier = tag_fingerprint(domain, tags.identifier);
        }),
        ("identifier_from_the_round_tag", |public, tags| {
            public.identifier = tag_fingerprint(public.identifier_domain, tags.round);
        }),
        ("identifier_with_a_third_element", |public, tags| {
            public.identifier = Fp::hash(public.identifier_domain, tags.identifier, Fp::ONE);
        }),
        ("round_tag_of_another_key", |_, tags| tags.round += Fp::ONE),
        ("round_tag_of_another_trust_domain", |public, tags| {
            let domain = round_domain(&"evil.example".parse().unwrap(), KeyAlgorithm::Aes256Cmac, &BEACON);
            public.round = tag_fingerprint(domain, tags.round);
        }),
        ("round_tag_under_another_beacon", |public, tags| {
            let domain = round_domain(&home(), KeyAlgorithm::Aes256Cmac, &Nonce([6; 32]));
            public.round = tag_fingerprint(domain, tags.round);
        }),
        ("identifier_tag_in_place_of_the_round_tag", |public, tags| {
            public.round = tag_fingerprint(public.round_domain, tags.identifier);
        }),
        ("round_tag_with_a_third_element", |public, tags| {
            public.round = Fp::hash(public.round_domain, tags.round, Fp::ONE);
        }),
        ("tags_exchanged", |_, tags| std::mem::swap(&mut tags.identifier, &mut tags.round)),
    ];
    let broken = |name, spoil: Break| {
        let (mut public, mut tags) = satisfied();
        spoil(&mut public, &mut tags);
        (name, public, tags)
    };
    let honest = honest.into_iter().map(|(name, spoil)| {
        let (name, mut public, tags) = broken(name, spoil);
        public.identifier = tag_fingerprint(public.identifier_domain, tags.identifier);
        public.round = tag_fingerprint(public.round_domain, tags.round);
        (name, public, tags)
    });
    honest.chain(wrong.into_iter().map(|(name, spoil)| broken(name, spoil))).collect()
}

#[test]
fn native_relation_refuses_every_strategy() {
    let (public, tags) = satisfied();
    public.check(&tags).unwrap();
    for (name, public, tags) in strategies() {
        assert!(matches!(public.check(&tags), Err(Error::WitnessRefused(_))), "{name}");
    }
}

#[test]
fn the_statement_refuses_foreign_tags_rounds_and_domains() {
    let (_, instance, witness) = claim();
    TaggedKey::holds(&home(), &instance, &witness).unwrap();
    let refused = |trust_domain: &TrustDomain, instance: &Instance, witness: &Witness| {
        matches!(TaggedKey::holds(trust_domain, instance, witness), Err(Error::WitnessRefused(_)))
    };
    assert!(refused(&"other.example".parse().unwrap(), &instance, &witness));
    let round = Round { beacon: Nonce([6; 32]), ..instance.round.clone().unwrap() };
    assert!(refused(&home(), &Instance { round: Some(round), ..instance.clone() }, &witness));
    assert!(refused(&home(), &Instance { algorithm: KeyAlgorithm::Aes128Cmac, ..instance.clone() }, &witness));
    assert!(refused(&home(), &instance, &Witness::from_tags(&witness.round, &witness.identifier)));
    assert!(matches!(TaggedKey::holds(&home(), &instance.identifier(), &witness), Err(Error::WrongInstance(_))));
}

#[test]
fn messages_are_reserved_distinct_and_of_one_reading() {
    let mut seen = HashSet::new();
    for trust_domain in ["a", "a.b", "acme.example"].map(|name| name.parse().unwrap()) {
        let beacons = [Nonce([0; 32]), BEACON].map(|beacon| round_message(&trust_domain, &beacon));
        for message in beacons.into_iter().chain([identifier_message(&trust_domain)]) {
            assert!(message.starts_with(label::RESERVED_PREFIX.as_bytes()));
            assert!(seen.insert(message));
        }
    }
    // Pinned: tokens in the field compute exactly these.
    let expected = b"keywitness/v1/tag-identifier\0\0\0\0\x0cacme.example".to_vec();
    assert_eq!(identifier_message(&home()), expected);
    let expected = [b"keywitness/v1/tag-round\0\0\0\0\x0cacme.example\0\0\0\x20".as_slice(), &[5; 32]].concat();
    assert_eq!(round_message(&home(), &BEACON), expected);
}

#[test]
fn fingerprints_are_separated_and_pinned() {
    let tag = [0xa5; TAG_LEN];
    let mut seen = HashSet::new();
    for trust_domain in ["acme.example", "other.example"].map(|name| name.parse().unwrap()) {
        for algorithm in ALGORITHMS {
            for beacon in [BEACON, Nonce([6; 32])] {
                // One tag in both places: the domains alone tell identifier, round, algorithm and beacon apart.
                let instance = Witness::from_tags(&tag, &tag).instance(&trust_domain, algorithm, &beacon).unwrap();
                assert!(seen.insert(*instance.round_tag().unwrap()));
                let first = beacon == BEACON;
                assert_eq!(seen.insert(instance.fingerprint().bytes), first, "an identifier lasts for all rounds");
            }
        }
    }
    let (_, instance, _) = claim();
    assert_eq!(instance.fingerprint().suite, Suite::Halo2PastaTag);
    assert_eq!(
        instance.fingerprint().bytes.to_string(),
        "25a5c5455cda47d9500a5ae9c5e5aa10af96a7bdfd568909de01bf91c50a8222"
    );
}

#[test]
fn both_forms_have_one_encoding() {
    let (_, round, _) = claim();
    let enrolled = round.identifier();
    assert_eq!(enrolled, Instance::enrolled(&home(), KeyAlgorithm::Aes256Cmac, &witness().identifier).unwrap());
    assert_eq!((enrolled.beacon(), enrolled.round_tag()), (None, None));
    assert_eq!(round.beacon(), Some(&BEACON));
    for (instance, form, length) in [(&enrolled, 5, 34), (&round, 6, 98)] {
        let bytes = instance.to_bytes();
        assert_eq!((bytes[0], bytes.len()), (form, length));
        assert_eq!(Instance::from_bytes(&bytes).unwrap(), *instance);
        let read = crate::Instance::from_bytes(&bytes).unwrap();
        assert_eq!(read, instance.clone().into());
        assert_eq!((read.kind(), read.algorithm()), (Some(Kind::TaggedKeyHalo2), Some(KeyAlgorithm::Aes256Cmac)));
        assert_eq!(read.fingerprint().unwrap(), round.fingerprint());
        let changed = |at: std::ops::Range<usize>, byte| {
            let mut changed = bytes.clone();
            changed[at].fill(byte);
            Instance::from_bytes(&changed)
        };
        assert!(changed(0..1, 11 - form).is_err(), "the other form's code");
        assert!(changed(0..1, 4).is_err());
        assert!(changed(1..2, KeyAlgorithm::Aes256.code()).is_err(), "not a CMAC key");
        assert!(changed(2..34, 0xff).is_err(), "not canonical");
        assert!(form == 5 || changed(66..98, 0xff).is_err(), "not canonical");
    }
}

#[test]
fn a_cmac_key_has_no_fingerprint_of_the_key_itself() {
    use crate::key_knowledge::{self, symmetric};
    for algorithm in ALGORITHMS {
        let key = vec![7; algorithm.secret_len()];
        for suite in Suite::ALL {
            assert!(symmetric::fingerprint(&home(), algorithm, suite, &key).is_err(), "{algorithm}, {suite}");
            let fingerprint = Fingerprint { suite, bytes: Digest([0; 32]) };
            assert!(symmetric::check_fingerprint(algorithm, &fingerprint).is_err(), "{algorithm}, {suite}");
            assert_eq!(algorithm.kinds(&[suite]), [Kind::TaggedKeyHalo2]);
        }
        assert!(key_knowledge::Witness::new(algorithm, &key).is_err());
    }
    // Nor has any other key one in the suite of tags, or tags.
    let fingerprint = Fingerprint { suite: Suite::Halo2PastaTag, bytes: Digest([0; 32]) };
    for algorithm in KeyAlgorithm::ALL {
        assert!(symmetric::check_fingerprint(algorithm, &fingerprint).is_err());
        assert_eq!(Instance::enrolled(&home(), algorithm, &[1; TAG_LEN]).is_ok(), algorithm.is_cmac());
    }
    assert!(KeyAlgorithm::Aes128.kinds(&[Suite::Halo2PastaTag]).is_empty());
}

#[cfg(feature = "prove")]
#[test]
fn one_key_agrees_with_itself_and_with_no_other() {
    let of = |key: u8, beacon| {
        let witness = Witness::of_key(KeyAlgorithm::Aes128Cmac, &[key; 16], &home(), beacon).unwrap();
        witness.instance(&home(), KeyAlgorithm::Aes128Cmac, beacon).unwrap()
    };
    let ours = of(1, &BEACON);
    assert_eq!(ours, of(1, &BEACON));
    let later = of(1, &Nonce([6; 32]));
    assert_eq!(ours.identifier(), later.identifier());
    assert_ne!(ours.round_tag(), later.round_tag());
    assert_ne!(ours.fingerprint(), of(2, &BEACON).fingerprint());
    assert_ne!(ours.round_tag(), of(2, &BEACON).round_tag());
}
