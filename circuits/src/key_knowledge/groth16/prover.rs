//! Groth16's prover (Groth, EUROCRYPT 2016, section 3.2), for any circuit and faster than the library's.
//!
//! Per key, once: the domains, and tables for the points of the proving key ([`Bases::fixed`], at most 4 MiB for each
//! of three queries in G1 and 8 MiB in G2, unless a query has more than 2^16 points). Per proof: C's polynomial is
//! subtracted as coefficients, which saves one of seven transforms; L's and H's points are added in one sum; δ, α
//! and β are further points of the sums. The outcome is that of ark-groth16 for the same r and s.
//!
//! The time that a proof takes depends on the witness, as it does in ark-groth16.

use std::collections::BTreeSet;

use ark_bn254::{Bn254, Fr, G1Affine, g1, g2};
use ark_ec::CurveGroup;
use ark_ff::{AdditiveGroup, FftField, Field, One, PrimeField};
use ark_groth16::{Proof, ProvingKey};
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};
use ark_relations::utils::matrix::Matrix;
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::msm::{Bases, Scalar};

/// A proving key, prepared for proofs.
pub(crate) struct Prover {
    /// The constant and the public inputs.
    inputs: usize,
    variables: usize,
    domain: Radix2EvaluationDomain<Fr>,
    coset: Radix2EvaluationDomain<Fr>,
    /// 1 / Z on the coset, where Z vanishes on the domain.
    vanishing_inverse: Fr,
    /// Points of H.
    quotient: usize,
    /// A's points, then δ and α.
    a: Bases<g1::Config>,
    /// B's points in G1, then δ and β.
    b1: Bases<g1::Config>,
    /// B's points in G2, then δ and β.
    b2: Bases<g2::Config>,
    /// H's points, L's points, then δ.
    c: Bases<g1::Config>,
}

impl Prover {
    /// Prepares a proving key of the circuit with these matrices A, B and C; none where they do not fit together.
    pub(crate) fn new(key: &ProvingKey<Bn254>, matrices: &[Matrix<Fr>]) -> Option<Self> {
        let [a, b, c] = matrices else { return None };
        let (variables, inputs) = (key.a_query.len(), key.vk.gamma_abc_g1.len());
        let domain = Radix2EvaluationDomain::new(a.len().checked_add(inputs)?)?;
        let coset = domain.get_coset(Fr::GENERATOR)?;
        let fits = [b.len(), c.len()] == [a.len(); 2]
            && [key.b_g1_query.len(), key.b_g2_query.len()] == [variables; 2]
            && inputs.checked_add(key.l_query.len()) == Some(variables)
            && key.h_query.len() + 1 == domain.size()
            && matrices.iter().flatten().flatten().all(|(_, variable)| *variable < variables);
        if !fits {
            return None;
        }
        let bits = bits(a, b, c);
        let small = |skip: usize| bits.iter().filter(|variable| **variable >= skip).count();
        let full = |length: usize, skip: usize| length.saturating_sub(small(skip));
        let present = key.b_g1_query.iter().enumerate().filter(|(place, point)| {
            let point: &G1Affine = point;
            *point != G1Affine::identity() && !bits.contains(place)
        });
        let (delta, full_b) = (key.delta_g1, present.count());
        let with = |query: &[G1Affine], rest: &[G1Affine]| [query, rest].concat();
        Some(Self {
            inputs,
            variables,
            domain,
            coset,
            vanishing_inverse: domain.evaluate_vanishing_polynomial(Fr::GENERATOR).inverse()?,
            quotient: key.h_query.len(),
            a: Bases::fixed(&with(&key.a_query, &[delta, key.vk.alpha_g1]), full(variables, 0)),
            b1: Bases::fixed(&with(&key.b_g1_query, &[delta, key.beta_g1]), full_b),
            b2: Bases::fixed(&[key.b_g2_query.as_slice(), &[key.vk.delta_g2, key.vk.beta_g2]].concat(), full_b),
            c: Bases::fixed(
                &[key.h_query.as_slice(), &key.l_query, &[delta]].concat(),
                key.h_query.len() + full(key.l_query.len(), inputs),
            ),
        })
    }

    /// The proof for `assignment` (the constant, the public inputs, the witness) with randomness r and s, and the
    /// matrices that the prover was made with; none for an assignment of another length, or with another constant than 1. The proof verifies where
    /// the assignment satisfies the constraints.
    pub(crate) fn prove(&self, matrices: &[Matrix<Fr>], assignment: &[Fr], r: Fr, s: Fr) -> Option<Proof<Bn254>> {
        if assignment.len() != self.variables || !assignment.first().is_some_and(Fr::is_one) {
            return None;
        }
        let mut scalars = Zeroizing::new(Vec::with_capacity(self.variables + 2));
        scalars.extend(assignment.iter().map(|value| value.into_bigint()));
        let with = |blinding: Fr| -> Zeroizing<Vec<Scalar>> {
            let mut all = Zeroizing::new(Vec::with_capacity(self.variables + 2));
            all.extend_from_slice(&scalars);
            all.extend([blinding.into_bigint(), Fr::one().into_bigint()]);
            all
        };
        let (for_a, for_b) = (with(r), with(s));
        let sum_c = || {
            let quotient = self.quotient(matrices, assignment)?;
            let mut all = Zeroizing::new(Vec::with_capacity(self.quotient + self.variables + 1));
            all.extend(quotient.iter().take(self.quotient).map(|value| value.into_bigint()));
            all.extend(scalars.iter().skip(self.inputs).copied());
            all.push((-(r * s)).into_bigint());
            Some(self.c.sum(&all))
        };
        let (c, (b2, (a, b1))) = rayon::join(sum_c, || {
            rayon::join(|| self.b2.sum(&for_b), || rayon::join(|| self.a.sum(&for_a), || self.b1.sum(&for_b)))
        });
        let c = c? + a * s + b1 * r;
        Some(Proof { a: a.into_affine(), b: b2.into_affine(), c: c.into_affine() })
    }

    /// Coefficients of (A·B - C) / Z.
    fn quotient(&self, matrices: &[Matrix<Fr>], assignment: &[Fr]) -> Option<Zeroizing<Vec<Fr>>> {
        let [a, b, c] = matrices else { return None };
        let inputs = assignment.get(..self.inputs)?;
        let transformed = |matrix, inputs| {
            let mut values = self.evaluate(matrix, assignment, inputs);
            self.domain.ifft_in_place(&mut values);
            self.coset.fft_in_place(&mut values);
            values
        };
        let (mut product, b) = rayon::join(|| transformed(a, inputs), || transformed(b, &[]));
        product.iter_mut().zip(b.iter()).for_each(|(left, right)| *left *= right);
        self.coset.ifft_in_place(&mut product);
        let mut c = self.evaluate(c, assignment, &[]);
        self.domain.ifft_in_place(&mut c);
        for (value, c) in product.iter_mut().zip(c.iter()) {
            *value = (*value - c) * self.vanishing_inverse;
        }
        Some(product)
    }

    /// The values of each row of `matrix`, then `inputs`, filled up with zeros.
    fn evaluate(&self, matrix: &Matrix<Fr>, assignment: &[Fr], inputs: &[Fr]) -> Zeroizing<Vec<Fr>> {
        let mut values = Zeroizing::new(vec![Fr::ZERO; self.domain.size()]);
        values.par_iter_mut().with_min_len(64).zip(matrix).for_each(|(value, row)| {
            for (coefficient, variable) in row {
                let Some(factor) = assignment.get(*variable) else { continue };
                *value += if coefficient.is_one() { *factor } else { *factor * coefficient };
            }
        });
        values.iter_mut().skip(matrix.len()).zip(inputs).for_each(|(value, input)| *value = *input);
        values
    }
}

/// Variables x that a constraint x·x = x makes a bit.
fn bits(a: &Matrix<Fr>, b: &Matrix<Fr>, c: &Matrix<Fr>) -> BTreeSet<usize> {
    let only = |row: &[(Fr, usize)]| match row {
        [(coefficient, variable)] if coefficient.is_one() => Some(*variable),
        _ => None,
    };
    let rows = a.iter().zip(b).zip(c).map(|((a, b), c)| [a, b, c].map(|row| only(row)));
    rows.filter_map(|[a, b, c]| if a == b && b == c { a } else { None }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use ark_ff::UniformRand;
    use rand::{Rng, rngs::OsRng};

    use super::*;
    use crate::{
        key_knowledge::{
            groth16::{
                Snark, circuit,
                circuit::{CONSTRAINTS, VARIABLES, matrices},
            },
            symmetric::tests as common,
        },
        params::Groth16Parameters,
    };

    #[test]
    fn proofs_are_those_of_the_library() {
        let parameters = Groth16Parameters::develop().unwrap();
        let (key, prover, matrices) = (parameters.proving_key(), parameters.prover().unwrap(), matrices().unwrap());
        let inputs = key.vk.gamma_abc_g1.len();
        let agrees = |values: &[Fr], r: Fr, s: Fr| {
            let expected =
                Snark::create_proof_with_reduction_and_matrices(key, r, s, matrices, inputs, CONSTRAINTS, values);
            let proof = prover.prove(matrices, values, r, s).unwrap();
            assert_eq!(proof, expected.unwrap());
            proof
        };
        let random = || Fr::rand(&mut OsRng);
        for algorithm in common::ALGORITHMS {
            let (public, limbs) = common::satisfied(algorithm);
            let values = circuit::assignment(public, limbs).unwrap();
            let proof = agrees(&values, random(), random());
            assert!(Snark::verify_proof(parameters.prepared(), &proof, &values[1..inputs]).unwrap());
            agrees(&values, Fr::ZERO, Fr::ZERO);
            // Some variables changed, which satisfies nothing.
            let change = |value: &Fr| if OsRng.gen_ratio(1, 5) { random() } else { *value };
            agrees(&constant_first(values.iter().map(change)), random(), -Fr::one());
        }
        // Limbs out of range, and what else the circuit refuses.
        for (_, public, limbs) in common::strategies() {
            let Ok(values) = circuit::assignment(public, limbs) else { continue };
            let proof = agrees(&values, random(), random());
            assert!(!Snark::verify_proof(parameters.prepared(), &proof, &values[1..inputs]).unwrap());
        }
        let values = constant_first((0..VARIABLES).map(|_| random()));
        agrees(&values, random(), random());
        agrees(&constant_first([Fr::ZERO; VARIABLES].into_iter()), random(), random());
        agrees(&constant_first([-Fr::one(); VARIABLES].into_iter()), random(), random());
        assert!(prover.prove(matrices, &values[1..], random(), random()).is_none());
        assert!(prover.prove(matrices, &[random(); VARIABLES], random(), random()).is_none());
    }

    fn constant_first(values: impl Iterator<Item = Fr>) -> Vec<Fr> {
        std::iter::once(Fr::one()).chain(values.skip(1)).collect()
    }

    #[test]
    fn a_key_of_another_circuit_is_refused() {
        let parameters = Groth16Parameters::develop().unwrap();
        let (key, matrices) = (parameters.proving_key(), matrices().unwrap());
        assert!(Prover::new(key, &matrices[..2]).is_none());
        let changes: [fn(&mut ProvingKey<Bn254>); 4] = [
            |key| key.a_query.truncate(9),
            |key| key.b_g2_query.truncate(9),
            |key| key.h_query.truncate(9),
            |key| key.l_query.truncate(9),
        ];
        for change in changes {
            let mut key = key.clone();
            change(&mut key);
            assert!(Prover::new(&key, matrices).is_none());
        }
        // Where only a verifying key is at hand, there are no points.
        let verifying = Groth16Parameters::for_verifying(parameters.origin(), &parameters.verifying_key()).unwrap();
        assert!(verifying.prover().is_err());
    }
}
