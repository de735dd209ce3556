//! A proof is accepted alone and in company, or neither: for every statement kind, over good proofs, spoilt ones, and
//! ones that are spoilt so that their errors cancel where equations are added up without weights.

use curve25519_dalek::Scalar;
use keywitness_circuits::{
    ClaimContext, Error, Kind, Nonce,
    registry::{self, DecodedInstance, Opened},
};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::{
    soundness::unusable,
    statements::{Case, case, parameters, verify},
};

/// A proof, perhaps spoilt, with what is said of it alone.
struct Candidate {
    what: String,
    opened: Result<Opened, Error>,
    alone: Result<(), Error>,
}

impl Candidate {
    fn new(what: &str, case: &Case, proof: &[u8]) -> Self {
        Self::of(what, &case.context, &case.instance, proof)
    }

    fn of(what: &str, context: &ClaimContext, instance: &[u8], proof: &[u8]) -> Self {
        Self {
            what: what.to_owned(),
            opened: registry::open(parameters(), context, &DecodedInstance::read(instance).unwrap(), proof),
            alone: verify(context, instance, proof),
        }
    }
}

/// How many honest proofs of a kind are made: as many as take a moment.
fn honest(kind: Kind) -> u8 {
    if kind.name().contains("halo2") || kind.name().contains("many") { 2 } else { 4 }
}

/// Honest proofs, and each of them spoilt in several ways.
fn candidates(kind: Kind) -> Vec<Candidate> {
    let made: Vec<(Case, Vec<u8>)> = (1..=honest(kind))
        .map(|secret| {
            let case = case(kind, secret);
            let proof = case.prove();
            (case, proof)
        })
        .collect();
    let mut all = Vec::new();
    for (at, (case, proof)) in made.iter().enumerate() {
        all.push(Candidate::new("honest", case, proof));
        // A second proof of the same claim, and the same proof for another claim.
        let (_, other) = &made[(at + 1) % made.len()];
        all.push(Candidate::new("another key's", case, other));
        let mut context = case.context.clone();
        context.challenge = Nonce([8; 32]);
        all.push(Candidate::of("of another challenge", &context, &case.instance, proof));
        for position in [0, 31, 32, proof.len() / 2, proof.len() - 32, proof.len() - 1] {
            let mut changed = proof.clone();
            changed[position] ^= 1;
            all.push(Candidate::new(&format!("byte {position} changed"), case, &changed));
        }
        for length in [0, proof.len() - 32, proof.len() - 1] {
            all.push(Candidate::new(&format!("cut to {length}"), case, &proof[..length]));
        }
        all.push(Candidate::new("longer", case, &[proof.as_slice(), &[0]].concat()));
    }
    let (case, proof) = &made[0];
    // The points at the edges of every group, in place of the first element, one in the middle, and the last.
    for (number, edge) in unusable().into_iter().enumerate() {
        for position in [0, proof.len() / 64 * 32, proof.len() - 32] {
            let mut changed = proof.clone();
            changed[position..position + 32].copy_from_slice(&edge);
            all.push(Candidate::new(&format!("edge {number} at {position}"), case, &changed));
        }
    }
    all
}

fn together(set: &[&Candidate]) -> Result<usize, Error> {
    let opened: Vec<&Opened> = set.iter().map(|candidate| candidate.opened.as_ref().unwrap()).collect();
    registry::verify_all(&opened).map(|verified| verified.len())
}

#[test]
fn alone_and_in_company_the_same_proofs_are_accepted() {
    for kind in Kind::ALL {
        let all = candidates(kind);
        for candidate in &all {
            assert!(candidate.opened.is_ok() || candidate.alone.is_err(), "{kind}, {}", candidate.what);
            assert_eq!(candidate.alone.is_ok(), candidate.what == "honest", "{kind}, {}", candidate.what);
        }
        let (good, bad): (Vec<_>, Vec<_>) =
            all.iter().filter(|candidate| candidate.opened.is_ok()).partition(|candidate| candidate.alone.is_ok());
        assert!(good.len() == usize::from(honest(kind)) && bad.len() >= 2, "{kind}");
        let cases = if honest(kind) == 2 { 12 } else { 48 };
        let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..Default::default() });
        let set = (proptest::collection::vec(any::<prop::sample::Index>(), 1..6), any::<prop::sample::Index>());
        // Every bad one in the company of good ones, the same proof perhaps several times.
        for spoilt in &bad {
            let company: Vec<_> = good.iter().copied().chain([*spoilt]).collect();
            assert_eq!(together(&company), Err(Error::ProofRefused), "{kind}, {}", spoilt.what);
        }
        runner
            .run(&(set, any::<bool>()), |((chosen, place), spoil)| {
                let mut company: Vec<_> = chosen.iter().map(|index| good[index.index(good.len())]).collect();
                if spoil {
                    let at = place.index(company.len());
                    company[at] = bad[place.index(bad.len())];
                }
                let expected = if spoil { Err(Error::ProofRefused) } else { Ok(company.len()) };
                prop_assert_eq!(together(&company), expected, "{}", kind);
                Ok(())
            })
            .unwrap();
    }
}

/// Adds `by` to the last scalar of a proof, in the group of `kind`.
fn shifted(kind: Kind, proof: &[u8], by: i8) -> Vec<u8> {
    let (head, last) = proof.split_at(proof.len() - 32);
    let last: [u8; 32] = last.try_into().unwrap();
    let one = |negative: bool, one: Scalar| if negative { -one } else { one };
    let scalar = match kind {
        Kind::KeyKnowledgeP256 | Kind::KeyPossessionP256 => {
            use p256::elliptic_curve::PrimeField as _;
            let (scalar, one) = (p256::Scalar::from_repr(last.into()).unwrap(), p256::Scalar::ONE);
            (if by < 0 { scalar - one } else { scalar + one }).to_repr().into()
        }
        Kind::KeyKnowledgeSecp256k1 | Kind::KeyPossessionSecp256k1 => {
            use k256::elliptic_curve::PrimeField as _;
            let (scalar, one) = (k256::Scalar::from_repr(last.into()).unwrap(), k256::Scalar::ONE);
            (if by < 0 { scalar - one } else { scalar + one }).to_repr().into()
        }
        _ => (Scalar::from_canonical_bytes(last).unwrap() + one(by < 0, Scalar::ONE)).to_bytes(),
    };
    [head, &scalar].concat()
}

#[test]
fn errors_that_cancel_do_not_pass_together() {
    let with_scalars =
        Kind::ALL.into_iter().filter(|kind| !kind.name().contains("halo2") && !kind.name().contains("groth16"));
    for kind in with_scalars {
        let (first, second) = (case(kind, 1), case(kind, 2));
        let (one, other) = (first.prove(), second.prove());
        let good = [Candidate::new("first", &first, &one), Candidate::new("second", &second, &other)];
        assert_eq!(together(&good.iter().collect::<Vec<_>>()), Ok(2));
        // s + 1 and s' - 1: the sum of the equations holds. The same within one key's proofs.
        for (partner, proof) in [(&second, &other), (&first, &first.prove())] {
            let up = Candidate::new("up", &first, &shifted(kind, &one, 1));
            let down = Candidate::new("down", partner, &shifted(kind, proof, -1));
            assert!(up.alone.is_err() && down.alone.is_err(), "{kind}");
            assert_eq!(together(&[&up, &down]), Err(Error::ProofRefused), "{kind}");
        }
    }
}

#[test]
fn sets_of_nothing_and_of_several_groups_are_refused() {
    let pair = [Kind::KeyKnowledgeRistretto255, Kind::KeyKnowledgeEd25519].map(|kind| {
        let case = case(kind, 1);
        Candidate::new("honest", &case, &case.prove())
    });
    assert_eq!(registry::verify_all(&[]).err(), Some(Error::ProofRefused));
    assert_eq!(together(&pair.iter().collect::<Vec<_>>()), Err(Error::WrongVerifyingKey));
}
