//! Groth16's verification (Groth, EUROCRYPT 2016, section 3.2): of one proof, and of many under one key together.
//!
//! N proofs hold where e(A_i, B_i) = e(α, β) · e(I_i, γ) · e(C_i, δ) for each, with I_i = Σ_j a_ij IC_j. With
//! random weights r_i, one equation is checked in their place (Bellare, Garay, Rabin, EUROCRYPT 1998):
//!
//! Π e(r_i A_i, B_i) · e(-Σ r_i · α, β) · e(-Σ_j (Σ_i r_i a_ij) IC_j, γ) · e(-Σ r_i C_i, δ) = 1
//!
//! by N + 3 Miller loops and one final exponentiation. All points lie in groups of prime order r, so each proof's
//! error is an element of a group of that order. Where one is not 1, at most one weight of that proof, given
//! the others, lets the product be 1.
//!
//! The weights are r_i = k + k'λ with k and k' uniform below 2^64, where λ is the eigenvalue of G1's endomorphism
//! φ(x, y) = (ζx, y) (Gallant, Lambert, Vanstone, CRYPTO 2001), so that r_i A = kA + k'φ(A) takes 64 doublings. These are 2^128
//! different weights: were two equal modulo r, their differences (d, d') would have d + d'λ = 0 modulo r, and so r would
//! divide (d + d'λ)(d + d'λ²) = d² - dd' + d'², which is below 3 · 2^128 < r; so it is 0, and d = d' = 0. A
//! bad set passes with probability 2^-128 at most.

use std::collections::BTreeMap;

use ark_bn254::{Bn254, Fr, G1Affine, G1Projective, g1};
use ark_ec::{
    AdditiveGroup, AffineRepr, CurveGroup, PrimeGroup,
    pairing::{MillerLoopOutput, Pairing},
    scalar_mul::glv::GLVConfig,
};
use ark_ff::{BigInteger, One, PrimeField, Zero};
use ark_groth16::{PreparedVerifyingKey, Proof};
use rayon::prelude::*;

use super::{
    miller,
    msm::{Bases, Scalar},
};
use crate::combination;

type Target = <Bn254 as Pairing>::TargetField;
type Prepared = <Bn254 as Pairing>::G2Prepared;

/// Most proofs whose Miller loops are run in step.
const TOGETHER: usize = 128;
/// Inputs of the same large value from which on their points are added first.
const MERGED: usize = 16;

/// A verifying key, prepared for single proofs and for many.
pub(crate) struct Verifier {
    key: PreparedVerifyingKey<Bn254>,
    beta: Prepared,
    /// The constant's point and those of the public inputs.
    inputs: Bases<g1::Config>,
}

impl Verifier {
    /// Prepares a key, whose points the caller has checked.
    pub(crate) fn new(key: &PreparedVerifyingKey<Bn254>) -> Self {
        let points = &key.vk.gamma_abc_g1;
        // Selectors are small, and domains the same in many places.
        let inputs = Bases::fixed(points, points.len().div_ceil(4) + 2);
        Self { key: key.clone(), beta: key.vk.beta_g2.into(), inputs }
    }

    /// Whether all proofs hold, each for its row of public inputs; false for none, and for a row of a wrong length.
    pub(crate) fn check(&self, proofs: &[(&Proof<Bn254>, &[Fr])]) -> bool {
        if proofs.iter().any(|(_, row)| row.len() + 1 != self.key.vk.gamma_abc_g1.len()) {
            return false;
        }
        match proofs {
            [] => false,
            [(proof, row)] => self.check_one(proof, row),
            _ => self.check_many(proofs),
        }
    }

    fn check_one(&self, proof: &Proof<Bn254>, row: &[Fr]) -> bool {
        let inputs = self.input_sum(std::iter::once(Fr::one()).chain(row.iter().copied()));
        let (gamma, delta) = (self.key.gamma_g2_neg_pc.clone(), self.key.delta_g2_neg_pc.clone());
        let output = Bn254::multi_miller_loop([proof.a, inputs.into(), proof.c], [proof.b.into(), gamma, delta]);
        Bn254::final_exponentiation(output).is_some_and(|value| value.0 == self.key.alpha_g1_beta_g2)
    }

    fn check_many(&self, proofs: &[(&Proof<Bn254>, &[Fr])]) -> bool {
        let weights: Vec<Weight> = combination::weights(proofs.len()).into_iter().map(Weight::new).collect();
        let weighted: Vec<_> = weights.iter().zip(proofs).collect();
        let scalars: Vec<Fr> = weights.iter().map(Weight::scalar).collect();
        let chunk = proofs.len().div_ceil(rayon::current_num_threads()).min(TOGETHER);
        let loops = weighted.par_chunks(chunk).map(|chunk| {
            let a: Vec<_> = chunk.iter().map(|(weight, (proof, _))| weight.multiple(&proof.a)).collect();
            let b = chunk.iter().map(|(_, (proof, _))| proof.b);
            miller::product(G1Projective::normalize_batch(&a).into_iter().zip(b)).0
        });
        let fixed = || {
            let total: Fr = scalars.iter().sum();
            let rows: Vec<&[Fr]> = proofs.iter().map(|(_, row)| *row).collect();
            let inputs = self.input_sum(std::iter::once(total).chain(combine(&scalars, &rows)));
            let c: Vec<_> = proofs.iter().flat_map(|(proof, _)| [proof.c, endomorphism(&proof.c)]).collect();
            let halves: Vec<Scalar> =
                weights.iter().flat_map(|weight| [weight.low.into(), weight.high.into()]).collect();
            let points = [-(self.key.vk.alpha_g1 * total), inputs, Bases::once(&c).sum(&halves)];
            let (gamma, delta) = (self.key.gamma_g2_neg_pc.clone(), self.key.delta_g2_neg_pc.clone());
            Bn254::multi_miller_loop(G1Projective::normalize_batch(&points), [self.beta.clone(), gamma, delta]).0
        };
        let (loops, fixed) = rayon::join(|| loops.product::<Target>(), fixed);
        Bn254::final_exponentiation(MillerLoopOutput(loops * fixed)).is_some_and(|value| value.0.is_one())
    }

    /// The sum of the scalars' multiples of the constant's point and the inputs' points.
    fn input_sum(&self, scalars: impl Iterator<Item = Fr>) -> G1Projective {
        let mut scalars: Vec<Scalar> = scalars.map(PrimeField::into_bigint).collect();
        let mut places = BTreeMap::<Scalar, Vec<usize>>::new();
        for (place, scalar) in scalars.iter().enumerate().filter(|(_, scalar)| scalar.num_bits() > 64) {
            places.entry(*scalar).or_default().push(place);
        }
        let mut merged = G1Projective::zero();
        for (scalar, places) in places.into_iter().filter(|(_, places)| places.len() >= MERGED) {
            let points = places.iter().filter_map(|place| self.key.vk.gamma_abc_g1.get(*place));
            merged += points.sum::<G1Projective>().mul_bigint(scalar);
            for place in places {
                if let Some(scalar) = scalars.get_mut(place) {
                    *scalar = Scalar::zero();
                }
            }
        }
        merged + self.inputs.sum(&scalars)
    }
}

/// Σ_i r_i a_ij for each j.
fn combine(weights: &[Fr], rows: &[&[Fr]]) -> Vec<Fr> {
    let length = rows.first().map_or(0, |row| row.len());
    let zero = || vec![Fr::ZERO; length];
    let add = |mut sums: Vec<Fr>, (weight, row): (&Fr, &&[Fr])| {
        sums.iter_mut().zip(row.iter()).for_each(|(sum, value)| *sum += *weight * value);
        sums
    };
    let join = |mut left: Vec<Fr>, right: Vec<Fr>| {
        left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
        left
    };
    weights.par_iter().zip(rows).with_min_len(16).fold(zero, add).reduce(zero, join)
}

fn endomorphism(point: &G1Affine) -> G1Affine {
    g1::Config::endomorphism_affine(point)
}

/// The weight k + k'λ of a proof.
struct Weight {
    low: u64,
    high: u64,
}

impl Weight {
    fn new(bits: u128) -> Self {
        Self { low: bits as u64, high: (bits >> 64) as u64 }
    }

    fn scalar(&self) -> Fr {
        Fr::from(self.low) + Fr::from(self.high) * g1::Config::LAMBDA
    }

    /// kP + k'φ(P), with both halves in width-4 non-adjacent form.
    fn multiple(&self, point: &G1Affine) -> G1Projective {
        let digits = |half: u64| Scalar::from(half).find_wnaf(4).unwrap_or_default();
        let (low, high) = (digits(self.low), digits(self.high));
        let mut odd = [point.into_group(); 4];
        let double = odd.first().map(AdditiveGroup::double).unwrap_or_default();
        let mut multiple = point.into_group();
        for place in odd.iter_mut().skip(1) {
            multiple += double;
            *place = multiple;
        }
        let images = odd.map(|point| g1::Config::endomorphism(&point));
        let add = |sum: &mut G1Projective, table: &[G1Projective; 4], digit: Option<&i64>| {
            let digit = digit.copied().unwrap_or_default();
            match table.get(digit.unsigned_abs() as usize / 2) {
                Some(point) if digit > 0 => *sum += point,
                Some(point) if digit < 0 => *sum -= point,
                _ => {}
            }
        };
        let mut sum = G1Projective::zero();
        for place in (0..low.len().max(high.len())).rev() {
            sum.double_in_place();
            add(&mut sum, &odd, low.get(place));
            add(&mut sum, &images, high.get(place));
        }
        sum
    }
}

#[cfg(all(test, feature = "prove"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::sync::LazyLock;

    use ark_bn254::G2Affine;
    use ark_ff::{Field, UniformRand};
    use ark_groth16::prepare_verifying_key;
    use rand::{Rng, rngs::OsRng};

    use super::*;
    use crate::{
        key_knowledge::{
            groth16::{Snark, SuiteField, circuit},
            symmetric::{KeyLimbs, tests as common},
        },
        params::Groth16Parameters,
    };

    type Claims = Vec<(Proof<Bn254>, Vec<Fr>)>;

    static PARAMETERS: LazyLock<Groth16Parameters> = LazyLock::new(|| Groth16Parameters::develop().unwrap());
    /// Proofs of different keys, with their rows.
    static CLAIMS: LazyLock<Claims> = LazyLock::new(|| {
        let claim = |number: usize| {
            let algorithm = common::ALGORITHMS[number % common::ALGORITHMS.len()];
            let (mut public, _) = common::satisfied::<Fr>(algorithm);
            let limbs = KeyLimbs::new(algorithm, &vec![number as u8 + 1; algorithm.secret_len()]).unwrap();
            public.fingerprint = Fr::hash(public.domain, limbs.low, limbs.high());
            (circuit::prove_row(&PARAMETERS, public, limbs).unwrap(), public.row().to_vec())
        };
        (0..5).map(claim).collect()
    });

    fn holds(claims: &[(Proof<Bn254>, Vec<Fr>)]) -> bool {
        let claims: Vec<_> = claims.iter().map(|(proof, row)| (proof, row.as_slice())).collect();
        PARAMETERS.verifier().check(&claims)
    }

    /// Refused in company, and whoever of them is bad alone.
    fn refused(claims: &[(Proof<Bn254>, Vec<Fr>)]) {
        assert!(!holds(claims));
        for (proof, row) in claims {
            let key = PARAMETERS.prepared();
            assert_eq!(holds(&[(proof.clone(), row.clone())]), Snark::verify_proof(key, proof, row).unwrap());
        }
    }

    #[test]
    fn good_proofs_hold_alone_and_in_company() {
        assert!(!holds(&[]));
        for length in 1..=CLAIMS.len() {
            assert!(holds(&CLAIMS[..length]) && holds(&CLAIMS[length - 1..length]));
        }
        // The same proof twice, another proof of the same row, and both signs turned, which changes no pairing.
        let (proof, row) = &CLAIMS[0];
        let other = Snark::rerandomize_proof(&PARAMETERS.prepared().vk, proof, &mut OsRng);
        let turned = Proof { a: -proof.a, b: -proof.b, c: proof.c };
        let same: Claims = [proof, proof, &other, &turned].map(|proof| (proof.clone(), row.clone())).into();
        assert!(holds(&same) && same.chunks(1).all(holds));
        // More than one Miller loop at a time, on one thread and on several.
        let many: Claims = CLAIMS.iter().cycle().take(TOGETHER + 3).cloned().collect();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(|| holds(&many)));
        }
        let mut bad = many;
        bad[TOGETHER + 1].1[0] += Fr::one();
        refused(&bad);
    }

    #[test]
    fn one_bad_proof_in_any_place_is_refused() {
        let (d1, d2) = (G1Affine::rand(&mut OsRng), G2Affine::rand(&mut OsRng));
        for place in 0..CLAIMS.len() {
            let (proof, row) = &CLAIMS[place];
            let mut changed: Claims = vec![
                (Proof { a: -proof.a, ..proof.clone() }, row.clone()),
                (Proof { b: -proof.b, ..proof.clone() }, row.clone()),
                (Proof { c: -proof.c, ..proof.clone() }, row.clone()),
                (Proof { a: (proof.a + d1).into(), ..proof.clone() }, row.clone()),
                (Proof { b: (proof.b + d2).into(), ..proof.clone() }, row.clone()),
                (Proof { c: (proof.c + d1).into(), ..proof.clone() }, row.clone()),
            ];
            for input in 0..row.len() {
                let mut row = row.clone();
                row[input] += Fr::one();
                changed.push((proof.clone(), row));
            }
            for bad in changed {
                let mut claims = CLAIMS.clone();
                claims[place] = bad;
                refused(&claims);
            }
        }
    }

    #[test]
    fn errors_that_cancel_each_other_are_refused() {
        let error = G1Affine::rand(&mut OsRng);
        let mut claims = CLAIMS.clone();
        claims[0].0.c = (claims[0].0.c + error).into();
        claims[1].0.c = (claims[1].0.c - error).into();
        refused(&claims);
        refused(&claims[..2]);
        // Parts and rows that changed places.
        let swaps: [fn(&mut Claims); 4] = [
            |claims| (claims[0].1, claims[1].1) = (claims[1].1.clone(), claims[0].1.clone()),
            |claims| (claims[0].0.a, claims[1].0.a) = (claims[1].0.a, claims[0].0.a),
            |claims| (claims[0].0.b, claims[1].0.b) = (claims[1].0.b, claims[0].0.b),
            |claims| (claims[0].0.c, claims[1].0.c) = (claims[1].0.c, claims[0].0.c),
        ];
        for swap in swaps {
            let mut claims = CLAIMS.clone();
            swap(&mut claims);
            refused(&claims);
        }
        // Both proofs under one input's error of opposite sign.
        let mut claims: Claims = vec![CLAIMS[0].clone(), CLAIMS[0].clone()];
        claims[0].1[0] += Fr::one();
        claims[1].1[0] -= Fr::one();
        refused(&claims);
    }

    #[test]
    fn rows_of_another_length_are_refused() {
        for change in [|row: &mut Vec<Fr>| row.push(Fr::ZERO), |row: &mut Vec<Fr>| row.truncate(5), Vec::clear] {
            let mut claims = CLAIMS.clone();
            change(&mut claims[1].1);
            assert!(!holds(&claims) && !holds(&claims[1..2]));
        }
    }

    #[test]
    fn company_changes_no_outcome() {
        for _ in 0..8 {
            let mut claims = CLAIMS.clone();
            for (_, row) in &mut claims {
                row[0] += Fr::from(OsRng.gen_ratio(1, 6));
            }
            assert_eq!(holds(&claims), claims.chunks(1).all(holds));
        }
    }

    #[test]
    fn many_inputs_are_summed_right() {
        let mut key = PARAMETERS.prepared().vk.clone();
        let points: Vec<_> = (0..90).map(|_| G1Projective::rand(&mut OsRng)).collect();
        key.gamma_abc_g1 = G1Projective::normalize_batch(&points);
        key.gamma_abc_g1[7] = G1Affine::identity();
        key.gamma_abc_g1[9] = key.gamma_abc_g1[8];
        key.gamma_abc_g1[11] = -key.gamma_abc_g1[10];
        let prepared = prepare_verifying_key(&key);
        let verifier = Verifier::new(&prepared);
        let same = Fr::rand(&mut OsRng);
        let row: Vec<Fr> = (1..90_u64)
            .map(|place| match place % 4 {
                0 => same,
                1 => Fr::from(place % 3),
                2 => -Fr::from(place / 40),
                _ if place < 12 => -same,
                _ => Fr::rand(&mut OsRng),
            })
            .collect();
        let sum = verifier.input_sum(std::iter::once(Fr::one()).chain(row.iter().copied()));
        assert_eq!(sum, Snark::prepare_inputs(&prepared, &row).unwrap());
    }

    #[test]
    fn weights_are_different_and_multiply() {
        // d² - dd' + d'² is what the argument at the top needs.
        let lambda = g1::Config::LAMBDA;
        assert!((lambda.square() + lambda + Fr::one()).is_zero());
        assert!(Fr::MODULUS > Scalar::from(3_u64) << 128);
        for bits in [0, 1, u128::MAX, 1 << 64, u64::MAX.into(), OsRng.r#gen()] {
            let (weight, point) = (Weight::new(bits), G1Affine::rand(&mut OsRng));
            assert_eq!(weight.multiple(&point), point * weight.scalar());
            assert_eq!(endomorphism(&point), point * lambda);
        }
        assert!(Weight::new(u128::MAX).multiple(&G1Affine::identity()).is_zero());
    }
}
