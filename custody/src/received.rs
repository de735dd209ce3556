//! A holder's own shares of many dealings, checked together: in a distributed key generation every holder receives one from
//! every dealer.
//!
//! The share (s_j, r_j) of dealing j is good when s_j·G + r_j·H = S_j, where S_j = Σ x^k·C_{j,k}. With weights w_j of 128
//! bits from the checker's own randomness, (Σ w_j·s_j)·G + (Σ w_j·r_j)·H = Σ w_j·S_j holds for good shares, and for a set
//! with a bad one with a probability of at most 2^-128. The left side is computed in constant time. The right side is public,
//! each S_j by Horner's rule: an index is so small that this takes less than a weight of 128 bits for every coefficient would.

use std::sync::Arc;

use curve25519_dalek::{RistrettoPoint, Scalar, traits::IsIdentity};
use keywitness_circuits::{
    combination::{multiply, weights},
    share_correctness::{Commitments, MAX_HOLDERS, blinding_generator},
};
use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::{Error, Share};

/// Checks shares against the commitments of their dealings, all together, and names those that are wrong.
///
/// The same shares are good as by [`crate::sharing::verify_share`], but for a probability of 2^-128 for each set. Uses the
/// rayon pool it is called in.
///
/// # Errors
/// [`Error::WrongShares`] with the places, from 0; [`Error::Refused`] for an empty set.
pub fn verify_shares(received: &[(&Arc<Commitments>, &Share)]) -> Result<(), Error> {
    if received.is_empty() {
        let (what, why) = ("set of shares", "it is empty");
        return Err(Error::Refused(keywitness_circuits::Error::Malformed { what, why }));
    }
    let together = received.len() > 1;
    if together && received.iter().all(|(commitments, share)| plausible(commitments, share)) && hold(received) {
        return Ok(());
    }
    let alone = received.par_iter().enumerate().filter(|(_, (commitments, share))| !holds(commitments, share));
    let wrong: Vec<usize> = alone.map(|(place, _)| place).collect();
    if wrong.is_empty() { Ok(()) } else { Err(Error::WrongShares(wrong)) }
}

/// Index and scheme fit.
fn plausible(commitments: &Commitments, share: &Share) -> bool {
    (1..=MAX_HOLDERS).contains(&share.index) && share.opening.scheme() == commitments.scheme()
}

/// One share, exactly.
fn holds(commitments: &Commitments, share: &Share) -> bool {
    plausible(commitments, share) && {
        let point = commitments.evaluate(share.index);
        !point.is_identity() && point == opened(&share.opening.value, share.opening.blinding.as_deref())
    }
}

/// s·G + r·H, in constant time.
fn opened(value: &Scalar, blinding: Option<&Scalar>) -> RistrettoPoint {
    let point = RistrettoPoint::mul_base(value);
    blinding.map_or(point, |blinding| point + blinding_generator() * blinding)
}

fn hold(received: &[(&Arc<Commitments>, &Share)]) -> bool {
    let weights: Vec<Scalar> = weights(received.len()).into_iter().map(Scalar::from).collect();
    let (mut value, mut blinding) = (Zeroizing::new(Scalar::ZERO), None::<Zeroizing<Scalar>>);
    for ((_, share), weight) in received.iter().zip(&weights) {
        *value += weight * *share.opening.value;
        if let Some(part) = &share.opening.blinding {
            **blinding.get_or_insert_default() += weight * **part;
        }
    }
    public_sum(received, &weights).is_some_and(|sum| sum == opened(&value, blinding.as_deref()))
}

/// Σ w_j·S_j; none where an S_j is the identity.
fn public_sum(received: &[(&Arc<Commitments>, &Share)], weights: &[Scalar]) -> Option<RistrettoPoint> {
    let evaluated = received.par_iter().map(|(commitments, share)| commitments.evaluate(share.index));
    let points: Vec<RistrettoPoint> = evaluated.collect();
    if points.iter().any(IsIdentity::is_identity) { None } else { Some(multiply(weights, &points)) }
}

#[cfg(all(test, feature = "prove"))]
#[path = "received_tests.rs"]
mod tests;
