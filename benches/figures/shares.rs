//! Checks of shares beside frost-core, which evaluates Σ x^k·C_k with one multiplication by x^k for each coefficient.
//!
//! Both sides have commitments decoded beforehand. Where the peer would take long it checks a sample of the shares, spread
//! evenly, and the table says how many.

use std::sync::Arc;

use curve25519_dalek::{RistrettoPoint, Scalar};
use frost_ristretto255::{
    Identifier, Signature, SigningKey, VerifyingKey,
    keys::{SecretShare, SigningShare, VerifiableSecretSharingCommitment, VerifyingShare},
};
use keywitness_circuits::{
    Error, Parameters, ProofSystem,
    context::HashedContext,
    share_correctness::{Commitments, Instance, Opened, Scheme, Witness, feldman::Feldman},
};
use keywitness_custody::{Opening, Share, public::on_one_polynomial, verify_shares};
use rand::rngs::OsRng;
use rayon::prelude::*;

use crate::{
    claims,
    harness::{Comparison, Mode, Row, Side},
};

/// Holders and threshold, and the ratios that are wanted of share proofs and of public dealings.
const SIZES: [(usize, usize, f64, f64); 3] =
    [(16, 11, 25.0, 25.0), (100, 67, 150.0, 150.0), (1000, 667, 1000.0, 400.0)];
/// Multiplications that the peer does in one round at most.
const PEER: usize = 16_000;

pub(crate) fn rows() -> Vec<Row> {
    let name = |what: &str, n: usize, t: usize| format!("{what}-{n}-{t}");
    // In quick rounds every row has the smallest size.
    let size = |mode: Mode, n: usize, t: usize| (mode.size(n, 5), mode.size(t, 3));
    let mut rows = Vec::new();
    for (n, t, wanted, _) in SIZES {
        rows.push(Row::new(name("share-proofs", n, t), wanted, move |mode| {
            let (n, t) = size(mode, n, t);
            proofs(1, n, t)
        }));
    }
    rows.push(Row::new("share-proofs-1000-dealings", 10.0, |mode| proofs(mode.size(1000, 3), 5, 3)));
    for (n, t, ..) in SIZES {
        rows.push(Row::new(name("own-shares", n, t), 10.0, move |mode| {
            let (n, t) = size(mode, n, t);
            own_shares(n, t)
        }));
    }
    for (n, t, _, wanted) in SIZES {
        rows.push(Row::new(name("public-dealing", n, t), wanted, move |mode| {
            let (n, t) = size(mode, n, t);
            public_dealing(n, t)
        }));
    }
    rows
}

/// Up to `most` of the numbers below `of`, spread evenly, the last among them.
fn sample(of: usize, most: usize) -> Vec<usize> {
    let taken = most.clamp(1, of);
    (1..=taken).map(|i| i * of / taken - 1).collect()
}

fn sampled(taken: usize, of: usize) -> String {
    if taken < of { format!(" (sample of {taken} of {of})") } else { String::new() }
}

/// A polynomial and its commitments.
struct Dealing {
    polynomial: Vec<Scalar>,
    ours: Arc<Commitments>,
}

impl Dealing {
    fn random(threshold: usize) -> Self {
        let polynomial: Vec<Scalar> = (0..threshold).map(|_| Scalar::random(&mut OsRng)).collect();
        let points = polynomial.par_iter().map(|a| RistrettoPoint::mul_base(a).compress().to_bytes()).collect();
        Self::new(polynomial, points)
    }

    fn new(polynomial: Vec<Scalar>, points: Vec<[u8; 32]>) -> Self {
        Self { polynomial, ours: Arc::new(Commitments::new(Scheme::Feldman, points).unwrap()) }
    }

    /// The commitments as the peer has them.
    fn frost(&self) -> VerifiableSecretSharingCommitment {
        VerifiableSecretSharingCommitment::deserialize(self.ours.encoded()).unwrap()
    }

    fn share(&self, index: u16) -> Scalar {
        self.polynomial.iter().rev().fold(Scalar::ZERO, |sum, a| sum * Scalar::from(index) + a)
    }
}

fn identifier(index: u16) -> Identifier {
    index.try_into().unwrap()
}

/// A share proof: its context, the dealing's commitments, the holder's index.
struct Proven {
    context: HashedContext<'static>,
    commitments: Arc<Commitments>,
    index: u16,
    proof: Vec<u8>,
}

/// Opens and checks all of them. The instances are made anew, because they keep what they compute.
fn verify(proofs: &[Proven]) -> Result<(), Error> {
    let parameters = Parameters::transparent();
    let open = |Proven { context, commitments, index, proof }: &Proven| {
        Feldman::open(&parameters, context, &Instance::new(commitments.clone(), *index)?, proof)
    };
    let opened: Vec<Opened> = proofs.par_iter().with_min_len(64).map(open).collect::<Result<_, Error>>()?;
    Feldman::check(&parameters, &opened.iter().collect::<Vec<_>>())
}

/// All holders' share proofs against `dealings` dealings, beside: a verifying share for each, and one Schnorr check.
fn proofs(dealings: usize, n: usize, t: usize) -> Comparison {
    let dealings: Vec<Dealing> = (0..dealings).map(|_| Dealing::random(t)).collect();
    let all: Vec<(usize, u16)> = (0..dealings.len()).flat_map(|j| (1..=n as u16).map(move |x| (j, x))).collect();
    let taken = sample(all.len(), PEER / t);
    let signed = taken.iter().map(|place| signature(&dealings[all[*place].0], all[*place].1)).collect();
    let which = if dealings.len() == 1 { "one dealing".to_owned() } else { format!("{} dealings", dealings.len()) };
    Comparison {
        operation: format!("{} share proofs against {which} ({n}, {t})", all.len()),
        peer: format!("frost-core from_commitment, then VerifyingKey::verify{}", sampled(taken.len(), all.len())),
        unit: "share",
        ours: share_proofs(&dealings, n),
        peers: frost_signatures(signed),
        batch: true,
    }
}

/// Ours: opening and checking the proofs of `n` holders against each of `dealings`.
fn share_proofs(dealings: &[Dealing], n: usize) -> Side {
    let parameters = Parameters::transparent();
    let mut proofs: Vec<Proven> = Vec::with_capacity(dealings.len() * n);
    for dealing in dealings {
        for index in 1..=n as u16 {
            let instance = Instance::new(dealing.ours.clone(), index).unwrap();
            let context = claims::context(&parameters, Feldman::KIND, 1, instance.digest(), proofs.len());
            let witness = Witness::new(Scheme::Feldman, dealing.share(index).as_bytes()).unwrap();
            let proof = Feldman::prove(&parameters, &context, &instance, &witness).unwrap();
            let (context, commitments) = (claims::hashed(context), dealing.ours.clone());
            proofs.push(Proven { context, commitments, index, proof });
        }
    }
    let last = proofs.len() - 1;
    proofs[last].proof[32] ^= 1;
    assert_eq!(verify(&proofs), Err(Error::ProofRefused), "a response was changed");
    proofs[last].proof[32] ^= 1;
    let (left, right) = proofs.split_at_mut(1);
    std::mem::swap(&mut left[0].proof, &mut right[0].proof);
    assert_eq!(verify(&proofs), Err(Error::ProofRefused), "two proofs were exchanged");
    let (left, right) = proofs.split_at_mut(1);
    std::mem::swap(&mut left[0].proof, &mut right[0].proof);
    Side::new(proofs.len(), move || verify(&proofs).unwrap())
}

/// Growth with n and t: one dealing.
pub(crate) fn one_dealing(n: usize, t: usize) -> Side {
    share_proofs(&[Dealing::random(t)], n)
}

/// Growth with n and t: the degree check of one dealing.
pub(crate) fn one_degree(n: usize, t: usize) -> Side {
    degree(&Dealing::random(t), n)
}

/// Growth with n and t: what the peer does for one of n shares.
pub(crate) fn frost(n: usize, t: usize) -> Side {
    frost_signatures(vec![signature(&Dealing::random(t), n as u16)])
}

struct Signed {
    commitment: VerifiableSecretSharingCommitment,
    identifier: Identifier,
    message: [u8; 32],
    signature: Vec<u8>,
}

fn signature(dealing: &Dealing, index: u16) -> Signed {
    let (mut message, key) = ([7; 32], SigningKey::deserialize(dealing.share(index).as_bytes()).unwrap());
    message[..2].copy_from_slice(&index.to_le_bytes());
    let signature = key.sign(OsRng, &message).serialize().unwrap();
    Signed { commitment: dealing.frost(), identifier: identifier(index), message, signature }
}

fn frost_signatures(mut signed: Vec<Signed>) -> Side {
    let verify = |Signed { commitment, identifier, message, signature }: &Signed| {
        let share = VerifyingShare::from_commitment(*identifier, commitment);
        let signature = Signature::deserialize(signature).unwrap();
        VerifyingKey::new(share.to_element()).verify(message, &signature).is_ok()
    };
    signed[0].message[31] ^= 1;
    assert!(!verify(&signed[0]), "another message");
    signed[0].message[31] ^= 1;
    Side::new(signed.len(), move || assert!(signed.iter().all(verify)))
}

/// The shares that one holder received from n dealers, beside: frost-core's check of each.
fn own_shares(n: usize, t: usize) -> Comparison {
    let index = n as u16;
    let dealings = received(n, t);
    let taken = sample(n, PEER / t);
    let share = |dealing: &Dealing, wrong: Scalar| {
        let opening = Opening::from_bytes(Scheme::Feldman, (dealing.share(index) + wrong).as_bytes()).unwrap();
        Share { index, opening }
    };
    let mut ours: Vec<(Arc<Commitments>, Share)> =
        dealings.iter().map(|dealing| (dealing.ours.clone(), share(dealing, Scalar::ZERO))).collect();
    let verify = |received: &[(Arc<Commitments>, Share)]| {
        verify_shares(&received.iter().map(|(commitments, share)| (commitments, share)).collect::<Vec<_>>())
    };
    let good = std::mem::replace(&mut ours[1].1, share(&dealings[1], Scalar::ONE));
    assert!(verify(&ours).is_err(), "a wrong share");
    ours[1].1 = good;
    let frost = |dealing: &Dealing, wrong: Scalar| {
        let share = SigningShare::deserialize((dealing.share(index) + wrong).as_bytes()).unwrap();
        SecretShare::new(identifier(index), share, dealing.frost())
    };
    assert!(frost(&dealings[0], Scalar::ONE).verify().is_err(), "a wrong share");
    let theirs: Vec<SecretShare> = taken.iter().map(|place| frost(&dealings[*place], Scalar::ZERO)).collect();
    Comparison {
        operation: format!("one holder's own shares of {n} dealings, threshold {t}, index {index}"),
        peer: format!("frost-core SecretShare::verify{}", sampled(taken.len(), n)),
        unit: "share",
        ours: Side::new(n, move || verify(&ours).unwrap()),
        peers: Side::new(theirs.len(), move || assert!(theirs.iter().all(|share| share.verify().is_ok()))),
        batch: true,
    }
}

/// `n` dealings of polynomials f + j·g with random f and g, which are quicker to make than `n` random ones.
fn received(n: usize, t: usize) -> Vec<Dealing> {
    let random = || -> Vec<Scalar> { (0..t).map(|_| Scalar::random(&mut OsRng)).collect() };
    let (mut polynomial, step) = (random(), random());
    let mut points: Vec<RistrettoPoint> = polynomial.par_iter().map(RistrettoPoint::mul_base).collect();
    let steps: Vec<RistrettoPoint> = step.par_iter().map(RistrettoPoint::mul_base).collect();
    let two = Scalar::from(2u8);
    (0..n)
        .map(|_| {
            polynomial.iter_mut().zip(&step).for_each(|(a, b)| *a += b);
            points.iter_mut().zip(&steps).for_each(|(point, step)| *point += step);
            // Encoding a double costs a share of one inversion; so the dealing is of 2·(f + j·g).
            let encoded = RistrettoPoint::double_and_compress_batch(&points);
            let doubled = polynomial.iter().map(|a| a * two).collect();
            Dealing::new(doubled, encoded.iter().map(|point| point.to_bytes()).collect())
        })
        .collect()
}

/// Whether n public shares lie on one polynomial: the dual code, beside: each evaluated from the commitments and compared.
fn public_dealing(n: usize, t: usize) -> Comparison {
    let dealing = Dealing::random(t);
    let taken = sample(n, PEER / t);
    let public = |index: u16| RistrettoPoint::mul_base(&dealing.share(index));
    let theirs: Vec<(Identifier, RistrettoPoint)> =
        taken.iter().map(|place| *place as u16 + 1).map(|index| (identifier(index), public(index))).collect();
    let (ours, commitment) = (degree(&dealing, n), dealing.frost());
    let lies_on = move |(identifier, point): &(Identifier, RistrettoPoint)| {
        VerifyingShare::from_commitment(*identifier, &commitment).to_element() == *point
    };
    assert!(!lies_on(&(theirs[0].0, theirs[0].1 + theirs[0].1)), "another point");
    Comparison {
        operation: format!("degree of a public dealing ({n}, {t}), by the dual code"),
        peer: format!("frost-core from_commitment for each share, compared{}", sampled(theirs.len(), n)),
        unit: "share",
        ours,
        peers: Side::new(theirs.len(), move || assert!(theirs.iter().all(&lies_on))),
        batch: true,
    }
}

fn degree(dealing: &Dealing, n: usize) -> Side {
    let (threshold, indices): (u16, Vec<u16>) = (dealing.ours.threshold(), (1..=n as u16).collect());
    let mut points: Vec<RistrettoPoint> =
        indices.iter().map(|index| RistrettoPoint::mul_base(&dealing.share(*index))).collect();
    let good = std::mem::replace(&mut points[0], RistrettoPoint::mul_base(&Scalar::ONE));
    assert!(!on_one_polynomial(&indices, threshold, &points), "another point");
    points[0] = good;
    assert!(!on_one_polynomial(&indices, threshold - 1, &points), "a lower degree");
    Side::new(n, move || assert!(on_one_polynomial(&indices, threshold, &points)))
}
