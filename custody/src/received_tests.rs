//! Alone and in company the same shares are good, and the wrong ones are named.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::{Opening, Scheme, polynomial::Polynomial, sharing::verify_share};

const SCHEMES: [Scheme; 2] = [Scheme::Feldman, Scheme::Pedersen];

/// A dealing's commitments, and the polynomials behind them.
struct Dealt {
    commitments: Arc<Commitments>,
    polynomials: [Polynomial; 2],
}

fn dealt_by(scheme: Scheme, polynomials: [Polynomial; 2]) -> Dealt {
    let [f, g] = &polynomials;
    let blinding = |b| (scheme == Scheme::Pedersen).then_some(b);
    let commit = |(a, b)| opened(a, blinding(b)).compress().to_bytes();
    let points = f.coefficients().iter().zip(g.coefficients()).map(commit).collect();
    Dealt { commitments: Commitments::new(scheme, points).unwrap().into(), polynomials }
}

fn dealt(scheme: Scheme, threshold: u16) -> Dealt {
    let random = || Polynomial::random(&Scalar::random(&mut rand::rngs::OsRng), threshold);
    dealt_by(scheme, [random(), random()])
}

impl Dealt {
    fn share(&self, index: u16) -> Share {
        let [value, blinding] = self.polynomials.each_ref().map(|polynomial| polynomial.at(index));
        let blinding = (self.commitments.scheme() == Scheme::Pedersen).then_some(blinding);
        Share { index, opening: Opening { value, blinding } }
    }
}

/// The verdict together; each verdict alone must be the same.
fn verdict(dealings: &[Dealt], shares: &[Share]) -> Result<(), Error> {
    let received: Vec<_> = dealings.iter().map(|dealing| &dealing.commitments).zip(shares).collect();
    let together = verify_shares(&received);
    let domain = "acme.example".parse().unwrap();
    let wrong = received.iter().enumerate().filter(|(place, (commitments, share))| {
        let alone = verify_shares(&received[*place..=*place]);
        assert_eq!(alone.is_ok(), verify_share(commitments, &domain, share).is_ok());
        alone.is_err()
    });
    let wrong: Vec<usize> = wrong.map(|(place, _)| place).collect();
    assert_eq!(together, if wrong.is_empty() { Ok(()) } else { Err(Error::WrongShares(wrong)) });
    together
}

#[test]
fn wrong_shares_of_a_round_are_named() {
    for scheme in SCHEMES {
        let dealings: Vec<Dealt> = (2..8).map(|threshold| dealt(scheme, threshold)).collect();
        let honest = || -> Vec<Share> { dealings.iter().map(|dealing| dealing.share(7)).collect() };
        verdict(&dealings, &honest()).unwrap();
        let named = |change: &dyn Fn(&mut [Share]), places: &[usize]| {
            let mut shares = honest();
            change(&mut shares);
            assert_eq!(verdict(&dealings, &shares), Err(Error::WrongShares(places.to_vec())));
        };
        named(&|shares| *shares[2].opening.value += Scalar::ONE, &[2]);
        // errors_that_cancel: a sum without weights would not see them.
        let cancel = |shares: &mut [Share]| {
            *shares[1].opening.value += Scalar::from(9u8);
            *shares[4].opening.value -= Scalar::from(9u8);
        };
        named(&cancel, &[1, 4]);
        named(&|shares| shares.swap(0, 3), &[0, 3]);
        named(&|shares| shares[5].index = 8, &[5]);
        named(&|shares| shares[5].index = 0, &[5]);
        named(&|shares| shares[5].index = 1025, &[5]);
        named(&|shares| shares[3].opening = dealings[3].share(8).opening, &[3]);
        named(&|shares| shares[3].opening = Opening::random(scheme), &[3]);
        let other = if scheme == Scheme::Feldman { Scheme::Pedersen } else { Scheme::Feldman };
        named(&|shares| shares[0].opening = Opening::random(other), &[0]);
        if scheme == Scheme::Pedersen {
            let swap = |shares: &mut [Share]| {
                let Opening { value, blinding: Some(blinding) } = &mut shares[1].opening else { panic!() };
                std::mem::swap(value, blinding);
            };
            named(&swap, &[1]);
            named(&|shares| **shares[1].opening.blinding.as_mut().unwrap() = Scalar::ZERO, &[1]);
        }
    }
    assert!(matches!(verify_shares(&[]), Err(Error::Refused(_))), "an empty set");
}

#[test]
fn many_dealings_at_one_index_and_at_several() {
    for scheme in SCHEMES {
        let dealings: Vec<Dealt> = (0..40).map(|i| dealt(scheme, 2 + i % 3)).collect();
        for index in [1, 700, 1023] {
            let mut shares: Vec<Share> = dealings.iter().map(|dealing| dealing.share(index)).collect();
            verdict(&dealings, &shares).unwrap();
            *shares[9].opening.value += Scalar::ONE;
            *shares[11].opening.value -= Scalar::ONE;
            assert_eq!(verdict(&dealings, &shares), Err(Error::WrongShares(vec![9, 11])));
            // Several indices in one set.
            shares[9] = dealings[9].share(index + 1);
            shares[11] = dealings[11].share(index + 1);
            verdict(&dealings, &shares).unwrap();
        }
    }
}

#[test]
fn coefficients_of_zero_and_shares_of_zero() {
    let (one, x) = (Scalar::ONE, Scalar::from(1023u16));
    for scheme in SCHEMES {
        for count in [2, 20] {
            let mut dealings: Vec<Dealt> = (1..count).map(|_| dealt(scheme, 3)).collect();
            let gap = || Polynomial::from_coefficients(vec![one, Scalar::ZERO, one]);
            dealings.push(dealt_by(scheme, [gap(), gap()]));
            let mut shares: Vec<Share> = dealings.iter().map(|dealing| dealing.share(1023)).collect();
            verdict(&dealings, &shares).unwrap();
            // A root at the holder's index: everybody knows the share.
            let rooted = || Polynomial::from_coefficients(vec![-x, one]);
            dealings[0] = dealt_by(scheme, [rooted(), rooted()]);
            shares[0] = dealings[0].share(1023);
            assert_eq!(verdict(&dealings, &shares), Err(Error::WrongShares(vec![0])));
        }
    }
}
