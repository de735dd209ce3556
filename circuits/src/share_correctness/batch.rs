//! Opened proofs of both schemes, checked alone or together.
//!
//! Alone: z·G + z'·H = R + c·S exactly, with S by Horner's rule. Together: Σ w_i·(R_i + c_i·S_i - z_i·G - z'_i·H) is the
//! identity for weights w_i of 128 bits, and S_i = Σ x_i^k·C_k is put in: a dealing's n proofs need its t commitments with the
//! coefficients Σ w_i·c_i·x_i^k, and no S. `spec.md` has the argument.

use std::collections::{BTreeMap, HashMap};

use curve25519_dalek::{
    RistrettoPoint, Scalar,
    constants::RISTRETTO_BASEPOINT_POINT,
    traits::{IsIdentity, VartimeMultiscalarMul},
};
use rayon::prelude::*;

use super::{Instance, Scheme, blinding_generator, evaluation_step};
use crate::{
    Digest, Error,
    combination::{multiply, weights},
    power_sums::power_sums,
};

/// What a point with a full-size scalar costs in one multiplication, in additions of [`evaluation_step`].
const POINT_IN_A_SUM: usize = 32;

/// A share proof that was read: points decoded, challenge derived.
#[derive(Clone, Debug)]
pub struct Opened {
    pub(super) instance: Instance,
    /// R.
    pub(super) commitment: RistrettoPoint,
    /// c.
    pub(super) challenge: Scalar,
    /// z, or z_s.
    pub(super) response: Scalar,
    /// z_r; zero under Feldman's scheme.
    pub(super) blinding: Scalar,
}

impl Opened {
    /// What is proven.
    pub const fn instance(&self) -> &Instance {
        &self.instance
    }

    fn holds(&self) -> bool {
        let (z, c, s) = (&self.response, &self.challenge, self.instance.point());
        let sum = match self.instance.commitments().scheme() {
            Scheme::Feldman => RistrettoPoint::vartime_double_scalar_mul_basepoint(&-c, s, z),
            Scheme::Pedersen => RistrettoPoint::vartime_multiscalar_mul(
                [z, &self.blinding, &-c],
                [&RISTRETTO_BASEPOINT_POINT, blinding_generator(), s],
            ),
        };
        sum == self.commitment
    }
}

/// Checks proofs, of either scheme and of any dealings.
///
/// # Errors
/// [`Error::ProofRefused`], also for an empty set.
pub(super) fn check(proofs: &[&Opened]) -> Result<(), Error> {
    let holds = match proofs {
        [] => false,
        [proof] => proof.holds(),
        _ => hold_together(proofs),
    };
    if holds { Ok(()) } else { Err(Error::ProofRefused) }
}

/// Proofs against one dealing: by index, one of the instances and Σ w·c.
type OfOneDealing<'a> = BTreeMap<u16, (&'a Instance, Scalar)>;

fn hold_together(proofs: &[&Opened]) -> bool {
    let weights: Vec<Scalar> = weights(proofs.len()).into_iter().map(Scalar::from).collect();
    let (mut of_g, mut of_h, mut blinded) = (Scalar::ZERO, Scalar::ZERO, false);
    let mut dealings: HashMap<Digest, OfOneDealing<'_>> = HashMap::new();
    for (proof, weight) in proofs.iter().zip(&weights) {
        of_g -= weight * proof.response;
        if proof.instance.commitments().scheme() == Scheme::Pedersen {
            of_h -= weight * proof.blinding;
            blinded = true;
        }
        let shares = dealings.entry(proof.instance.sharing_digest()).or_default();
        shares.entry(proof.instance.index()).or_insert((&proof.instance, Scalar::ZERO)).1 += weight * proof.challenge;
    }
    let mut scalars = weights;
    let mut points: Vec<RistrettoPoint> = proofs.iter().map(|proof| proof.commitment).collect();
    let dealings: Vec<OfOneDealing<'_>> = dealings.into_values().collect();
    let terms: Vec<_> = if let [dealing] = dealings.as_slice() {
        vec![terms(dealing)]
    } else {
        dealings.par_iter().with_min_len(16).map(terms).collect()
    };
    for (of_dealing, in_dealing) in terms {
        scalars.extend(of_dealing);
        points.extend(in_dealing);
    }
    scalars.push(of_g);
    points.push(RISTRETTO_BASEPOINT_POINT);
    if blinded {
        scalars.push(of_h);
        points.push(*blinding_generator());
    }
    multiply(&scalars, &points).is_identity()
}

/// The scalars and points whose products are Σ v_i·S_i, for the proofs against one dealing: its commitments, or, where that
/// is cheaper because few of many holders prove, each S_i by Horner's rule.
fn terms(shares: &OfOneDealing<'_>) -> (Vec<Scalar>, Vec<RistrettoPoint>) {
    let Some((instance, _)) = shares.values().next() else { return (Vec::new(), Vec::new()) };
    let commitments = instance.commitments();
    let threshold = commitments.points().len();
    let evaluating: usize = shares.keys().map(|x| evaluation_step(*x) * (threshold - 1) + POINT_IN_A_SUM).sum();
    if evaluating < threshold * POINT_IN_A_SUM {
        return shares.values().map(|(instance, factor)| (*factor, *instance.point())).unzip();
    }
    let factors: Vec<(u16, Scalar)> = shares.iter().map(|(x, (_, factor))| (*x, *factor)).collect();
    (power_sums(&factors, threshold), commitments.points().to_vec())
}

#[cfg(all(test, feature = "prove"))]
#[path = "batch_tests.rs"]
mod tests;
