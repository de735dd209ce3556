//! Every clause of the relation, broken by name: the native relation and the protocol must both refuse.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use curve25519_dalek::{RistrettoPoint, Scalar, traits::Identity};

use super::{Commitments, Instance, MAX_HOLDERS, Scheme, ShareCorrectness, Witness, blinding_generator};
use super::{feldman, pedersen};
use crate::{
    ClaimContext, Digest, Error, KeyClaim, Kind, Nonce, Parameters, ProofSystem, Statement, Timestamp,
    codec::Canonical, context::instance_digest, key_knowledge::schnorr::SchnorrGroup, registry,
};

const SCHEMES: [Scheme; 2] = [Scheme::Feldman, Scheme::Pedersen];
const INDEX: u16 = 5;

/// The coefficients of a polynomial and of its blinding.
pub(super) struct Polynomials {
    scheme: Scheme,
    pub(super) secret: Vec<Scalar>,
    pub(super) blinding: Vec<Scalar>,
}

fn at(polynomial: &[Scalar], x: u16) -> Scalar {
    polynomial.iter().rev().fold(Scalar::ZERO, |sum, a| sum * Scalar::from(x) + a)
}

impl Polynomials {
    pub(super) fn new(scheme: Scheme, threshold: usize, seed: u64) -> Self {
        let coefficients = |from: u64| (0..threshold as u64).map(|k| Scalar::from(from + 7 * k + 1)).collect();
        Self { scheme, secret: coefficients(seed << 32), blinding: coefficients(seed << 40) }
    }

    fn points(&self) -> Vec<[u8; 32]> {
        let point = |(a, b): (&Scalar, &Scalar)| match self.scheme {
            Scheme::Feldman => RistrettoPoint::mul_base(a),
            Scheme::Pedersen => RistrettoPoint::mul_base(a) + blinding_generator() * b,
        };
        self.secret.iter().zip(&self.blinding).map(|pair| point(pair).compress().to_bytes()).collect()
    }

    pub(super) fn commitments(&self) -> Result<Commitments, Error> {
        Commitments::new(self.scheme, self.points())
    }

    pub(super) fn instance(&self, index: u16) -> Result<Instance, Error> {
        Instance::new(self.commitments()?, index)
    }

    pub(super) fn share(&self, index: u16) -> (Scalar, Scalar) {
        (at(&self.secret, index), at(&self.blinding, index))
    }
}

fn witness(scheme: Scheme, (share, blinding): (Scalar, Scalar)) -> Witness {
    match scheme {
        Scheme::Feldman => Witness::new(scheme, share.as_bytes()).unwrap(),
        Scheme::Pedersen => Witness::new(scheme, &[share.to_bytes(), blinding.to_bytes()].concat()).unwrap(),
    }
}

pub(super) fn context(instance: &Instance) -> ClaimContext {
    ClaimContext {
        statement: instance.kind().name().to_owned(),
        verifying_key: registry::verifying_key(&Parameters::transparent(), instance.kind()).unwrap(),
        trust_domain: "acme.example".parse().unwrap(),
        manager: "manager-1".parse().unwrap(),
        cluster: "custody".parse().unwrap(),
        hsm: "hsm-1".parse().unwrap(),
        enrolment: 1,
        keys: vec![KeyClaim { key: "vault".parse().unwrap(), epoch: 1, attributes: Digest([1; 32]) }],
        instance: instance.digest(),
        challenge: Nonce([7; 32]),
        not_before: Timestamp(1),
        not_after: Timestamp(2),
        checkpoint: None,
        evidence: None,
    }
}

fn verify(context: &ClaimContext, instance: &Instance, proof: &[u8]) -> Result<(), Error> {
    match instance.kind() {
        Kind::ShareCorrectnessFeldman => feldman::Feldman::verify(&Parameters::transparent(), context, instance, proof),
        _ => pedersen::Pedersen::verify(&Parameters::transparent(), context, instance, proof),
    }
}

/// The prover's messages, without the prover's own check of its witness.
pub(super) fn unchecked(context: &ClaimContext, instance: &Instance, (share, blinding): (Scalar, Scalar)) -> Vec<u8> {
    match instance.commitments().scheme() {
        Scheme::Feldman => feldman::respond(context, instance, &share),
        Scheme::Pedersen => pedersen::respond(context, instance, &share, &blinding),
    }
}

fn holds(instance: &Instance, witness: &Witness) -> Result<(), Error> {
    ShareCorrectness::holds(&"acme.example".parse().unwrap(), instance, witness)
}

/// Refused natively, by the prover and by the verifier.
fn refused(name: &str, instance: &Instance, secret: (Scalar, Scalar)) {
    let (scheme, context) = (instance.commitments().scheme(), context(instance));
    let witness = witness(scheme, secret);
    assert!(matches!(holds(instance, &witness), Err(Error::WitnessRefused(_))), "{name}: natively");
    let asked = registry::prove(&Parameters::transparent(), &context, &instance.to_bytes(), &witness.into());
    assert!(matches!(asked, Err(Error::WitnessRefused(_))), "{name}: the prover");
    assert_eq!(verify(&context, instance, &unchecked(&context, instance, secret)), Err(Error::ProofRefused), "{name}");
}

#[test]
fn a_share_of_the_dealing_is_proven_at_every_index() {
    for scheme in SCHEMES {
        for threshold in [2, 3, 7] {
            let dealing = Polynomials::new(scheme, threshold, 1);
            for index in [1, 2, 3, 511, 512, MAX_HOLDERS] {
                let instance = dealing.instance(index).unwrap();
                let (context, secret) = (context(&instance), dealing.share(index));
                assert_eq!(instance.public_share(), Ok(witness(scheme, secret).point().compress().to_bytes()));
                let proof = registry::prove(
                    &Parameters::transparent(),
                    &context,
                    &instance.to_bytes(),
                    &witness(scheme, secret).into(),
                );
                verify(&context, &instance, &proof.unwrap()).unwrap();
            }
        }
    }
}

#[test]
fn shares_that_the_dealing_does_not_fix() {
    for scheme in SCHEMES {
        let (ours, theirs) = (Polynomials::new(scheme, 3, 1), Polynomials::new(scheme, 3, 2));
        let instance = ours.instance(INDEX).unwrap();
        let (share, blinding) = ours.share(INDEX);
        refused("share_of_another_index", &instance, ours.share(INDEX + 1));
        refused("share_of_another_dealing", &instance, theirs.share(INDEX));
        refused("secret_in_place_of_a_share", &instance, ours.share(0));
        refused("share_plus_one", &instance, (share + Scalar::ONE, blinding));
        refused("negated_share", &instance, (-share, -blinding));
        refused("zero_share", &instance, (Scalar::ZERO, Scalar::ZERO));
        let higher =
            Polynomials { secret: [&ours.secret[..], &[Scalar::ONE]].concat(), ..Polynomials::new(scheme, 4, 1) };
        refused("share_of_a_higher_degree", &instance, (higher.share(INDEX).0, blinding));
        for changed in 0..3 {
            let mut points = ours.points();
            points[changed] = (RistrettoPoint::mul_base(&Scalar::from(9u8))).compress().to_bytes();
            let instance = Instance::new(Commitments::new(scheme, points).unwrap(), INDEX).unwrap();
            refused("commitment_changed", &instance, (share, blinding));
        }
    }
}

#[test]
fn blindings_that_the_dealing_does_not_fix() {
    let ours = Polynomials::new(Scheme::Pedersen, 3, 1);
    let instance = ours.instance(INDEX).unwrap();
    let (share, blinding) = ours.share(INDEX);
    refused("blinding_of_another_index", &instance, (share, ours.share(INDEX + 1).1));
    refused("blinding_left_out", &instance, (share, Scalar::ZERO));
    refused("share_left_out", &instance, (Scalar::ZERO, blinding));
    refused("share_and_blinding_swapped", &instance, (blinding, share));
}

#[test]
fn a_witness_of_the_other_scheme() {
    for (scheme, other) in [(Scheme::Feldman, Scheme::Pedersen), (Scheme::Pedersen, Scheme::Feldman)] {
        let dealing = Polynomials::new(scheme, 3, 1);
        let instance = dealing.instance(INDEX).unwrap();
        assert!(matches!(holds(&instance, &witness(other, dealing.share(INDEX))), Err(Error::WitnessRefused(_))));
        // The very points, read as the other scheme's.
        let foreign = Instance::new(Commitments::new(other, dealing.points()).unwrap(), INDEX).unwrap();
        let proof = unchecked(&context(&instance), &instance, dealing.share(INDEX));
        verify(&context(&instance), &instance, &proof).unwrap();
        assert!(verify(&context(&instance), &foreign, &proof).is_err());
        let parameters = Parameters::transparent();
        let crossed = match other {
            Scheme::Feldman => pedersen::Pedersen::verify(&parameters, &context(&instance), &foreign, &proof),
            Scheme::Pedersen => feldman::Feldman::verify(&parameters, &context(&instance), &foreign, &proof),
        };
        assert!(matches!(crossed, Err(Error::WrongInstance(_))));
    }
    // A Feldman share is a Pedersen share with no blinding, of the same points; the transcripts differ.
    let dealing = Polynomials::new(Scheme::Feldman, 3, 1);
    let (feldman, secret) = (dealing.instance(INDEX).unwrap(), dealing.share(INDEX));
    let blinded = Instance::new(Commitments::new(Scheme::Pedersen, dealing.points()).unwrap(), INDEX).unwrap();
    let proof = unchecked(&context(&feldman), &feldman, secret);
    let padded = [&proof[..], &[0; 32]].concat();
    assert_eq!(verify(&context(&feldman), &blinded, &padded), Err(Error::ProofRefused));
}

#[test]
fn instances_that_say_nothing() {
    let identity = RistrettoPoint::identity().compress().to_bytes();
    for scheme in SCHEMES {
        let ours = Polynomials::new(scheme, 4, 1);
        let with = |at: usize, point: [u8; 32]| {
            let mut points = ours.points();
            points[at] = point;
            Commitments::new(scheme, points)
        };
        for (name, at) in [("secret_of_zero", 0), ("degree_below_the_threshold", 3)] {
            assert!(matches!(with(at, identity), Err(Error::Malformed { .. })), "{name}");
        }
        // A zero coefficient in between lowers nothing, and its share is proven as any other.
        let mut sparse = Polynomials::new(scheme, 4, 1);
        (sparse.secret[2], sparse.blinding[2]) = (Scalar::ZERO, Scalar::ZERO);
        let instance = sparse.instance(INDEX).unwrap();
        assert_eq!(instance.commitments().encoded()[2], identity);
        let proof = unchecked(&context(&instance), &instance, sparse.share(INDEX));
        verify(&context(&instance), &instance, &proof).unwrap();
        // A polynomial with a root at the holder's index.
        let x = Scalar::from(INDEX);
        let mut rooted = Polynomials::new(scheme, 2, 1);
        (rooted.secret[0], rooted.blinding[0]) = (-x * rooted.secret[1], -x * rooted.blinding[1]);
        let zero = rooted.instance(INDEX).unwrap();
        for asked in [zero.fingerprint().map(drop), registry::Instance::from(zero).fingerprint().map(drop)] {
            assert!(matches!(asked, Err(Error::Malformed { .. })), "public_share_is_the_identity");
        }
        assert!(rooted.instance(INDEX + 1).unwrap().fingerprint().is_ok());
        for index in [0, MAX_HOLDERS + 1, u16::MAX] {
            assert!(matches!(ours.instance(index), Err(Error::Malformed { .. })), "index_out_of_range");
        }
        for threshold in [0, 1, usize::from(MAX_HOLDERS) + 1] {
            let points = vec![ours.points()[1]; threshold];
            assert!(matches!(Commitments::new(scheme, points), Err(Error::Malformed { .. })), "threshold_out_of_range");
        }
    }
}

#[test]
fn encodings_that_are_not_canonical() {
    for scheme in SCHEMES {
        let ours = Polynomials::new(scheme, 3, 1);
        let bytes = ours.instance(INDEX).unwrap().to_bytes();
        assert_eq!(Instance::from_bytes(&bytes).unwrap().to_bytes(), bytes);
        for point in 0..3 {
            let mut changed = bytes.clone();
            // A negative field element: of the two square roots, ristretto255 encodes the other one.
            changed[3 + 32 * point] |= 1;
            assert!(Instance::from_bytes(&changed).is_err());
            changed[3 + 32 * point..][..32].fill(0xff);
            assert!(Instance::from_bytes(&changed).is_err());
        }
        let (instance, order) = (ours.instance(INDEX).unwrap(), [0xff; 32]);
        let length = if scheme == Scheme::Feldman { 32 } else { 64 };
        assert!(Witness::new(scheme, &order.repeat(2)[..length]).is_err(), "share_above_the_group_order");
        assert!(Witness::new(scheme, &vec![1; length - 1]).is_err());
        let proof = unchecked(&context(&instance), &instance, ours.share(INDEX));
        for at in (0..proof.len()).step_by(32) {
            let mut changed = proof.clone();
            changed[at..at + 32].copy_from_slice(&order);
            assert!(matches!(verify(&context(&instance), &instance, &changed), Err(Error::Malformed { .. })));
        }
        let largest = Polynomials::new(scheme, MAX_HOLDERS.into(), 1).instance(1).unwrap().to_bytes();
        assert_eq!(largest.len(), 32_773);
        Instance::from_bytes(&largest).unwrap();
    }
}

#[test]
fn the_statement_is_in_the_transcript() {
    for scheme in SCHEMES {
        let ours = Polynomials::new(scheme, 3, 1);
        let instance = ours.instance(INDEX).unwrap();
        let context = context(&instance);
        let proof = unchecked(&context, &instance, ours.share(INDEX));
        // statement_chosen_after_the_challenge: other commitments with the same public share. The equation is the
        // same, so only the transcript can tell them apart, under one context.
        let x = Scalar::from(INDEX);
        let mut moved = Polynomials::new(scheme, 3, 1);
        moved.secret[0] += x;
        moved.secret[1] -= Scalar::ONE;
        let moved = moved.instance(INDEX).unwrap();
        assert_eq!(moved.public_share(), instance.public_share());
        assert_eq!(verify(&context, &moved, &proof), Err(Error::ProofRefused), "commitments");
        // index_not_bound: a polynomial that has this share at another index too.
        let mut level = Polynomials::new(scheme, 3, 1);
        let difference = |f: &[Scalar]| at(f, INDEX + 1) - at(f, INDEX);
        let (by, blinding_by) = (difference(&level.secret), difference(&level.blinding));
        level.secret[1] -= by;
        level.blinding[1] -= blinding_by;
        let (here, there) = (level.instance(INDEX).unwrap(), level.instance(INDEX + 1).unwrap());
        assert_eq!(here.public_share(), there.public_share());
        let proof = unchecked(&context, &here, level.share(INDEX));
        verify(&context, &here, &proof).unwrap();
        assert_eq!(verify(&context, &there, &proof), Err(Error::ProofRefused), "index");
    }
}

#[test]
fn a_simulated_proof_is_refused() {
    // c and z first, then R = z·G - c·S: accepted by a verifier that does not hash R.
    let ours = Polynomials::new(Scheme::Feldman, 3, 1);
    let instance = ours.instance(INDEX).unwrap();
    let (z, c) = (Scalar::from(11u8), Scalar::from(13u8));
    let r = RistrettoPoint::mul_base(&z) - instance.point() * c;
    assert!(crate::key_knowledge::schnorr::Ristretto255::equation_holds(&z, &r, &c, instance.point()));
    let proof = [r.compress().to_bytes(), z.to_bytes()].concat();
    assert_eq!(verify(&context(&instance), &instance, &proof), Err(Error::ProofRefused));
}

#[test]
fn what_others_compare() {
    let (ours, theirs) = (Polynomials::new(Scheme::Feldman, 3, 1), Polynomials::new(Scheme::Feldman, 3, 2));
    let (a, b, c) = (ours.instance(1).unwrap(), ours.instance(2).unwrap(), theirs.instance(1).unwrap());
    assert_eq!(a.sharing_digest(), b.sharing_digest());
    assert_ne!(a.sharing_digest(), c.sharing_digest());
    assert_ne!(a.fingerprint(), b.fingerprint());
    assert_eq!(a.fingerprint(), ours.instance(1).unwrap().fingerprint());
    assert_eq!((a.threshold(), a.index()), (3, 1));
    assert_eq!(instance_digest(&a.to_bytes()), a.digest());
    let printed = format!("{:?}", witness(Scheme::Pedersen, ours.share(1)));
    assert_eq!(printed, "Witness(Pedersen share, secret)");
    // Nobody chose the second generator: it is pinned.
    let h = blinding_generator().compress().to_bytes();
    assert_eq!(data_encoding::HEXLOWER.encode(&h), "9e11b6d0cacb4eb506e8654a2907ff8efa88c1d150be8ec634f1008c51828d51");
}
