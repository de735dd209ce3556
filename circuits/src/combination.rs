//! Random linear combinations: many equations checked as one.
//!
//! Each equation E_i = O of a group of prime order l is weighted by w_i, drawn after all equations are fixed: where
//! one of them fails, Σ w_i·E_i = O for at most one value of its weight whatever the others are, so for a weight of 128
//! uniform bits with a probability of at most 2^-128 (Bellare, Garay, Rabin, "Fast batch verification", EUROCRYPT 1998).

use std::iter::Sum;

use curve25519_dalek::{Scalar, traits::VartimeMultiscalarMul};
use rand::{Rng, SeedableRng, rngs::OsRng, rngs::StdRng};
use rayon::prelude::*;

/// Fewest points of a multiplication of their own.
const CHUNK: usize = 512;

/// Weights of 128 bits, from a generator that the operating system seeds for this set alone.
pub fn weights(count: usize) -> Vec<u128> {
    let mut seed = [0; 32];
    rand::RngCore::fill_bytes(&mut OsRng, &mut seed);
    let mut generator = StdRng::from_seed(seed);
    (0..count).map(|_| generator.r#gen()).collect()
}

/// Σ k_i·P_i on Curve25519, in variable time, on the rayon pool that it is called in.
pub fn multiply<P>(scalars: &[Scalar], points: &[P]) -> P
where
    P: VartimeMultiscalarMul<Point = P> + Clone + Sum + Send + Sync,
{
    let chunk = points.len().div_ceil(rayon::current_num_threads()).max(CHUNK);
    let sums = scalars.par_chunks(chunk).zip(points.par_chunks(chunk));
    sums.map(|(scalars, points)| P::vartime_multiscalar_mul(scalars, points)).sum()
}
