//! Phase 2: from the powers of tau to a circuit's proving key, with δ = 1, and δ's way from there.
//!
//! The reduction is libsnark's, as ark-groth16 has it: row j of the matrices A, B, C belongs to the j-th root
//! of unity, and after the constraints A has one row more for each of the constant and the public inputs, which
//! makes their polynomials linearly independent. γ is 1, as in eprint 2017/1050. L_j is the j-th Lagrange
//! polynomial; L_j(τ)·G comes from the points τ^i·G by an inverse Fourier transform.

use std::sync::{Arc, Mutex, PoisonError};

use ark_bn254::{Fr, G1Affine, G2Affine};
use ark_ec::{
    AffineRepr, CurveGroup,
    short_weierstrass::{Affine, Projective, SWCurveConfig},
};
use ark_ff::{Field, One};
use ark_groth16::{ProvingKey, VerifyingKey};
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};
use ark_relations::utils::matrix::Matrix;
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::{
    CeremonyError,
    knowledge::Secret,
    points::{self, Ratio, combine, same_ratio, weights},
    powers::Powers,
};
use crate::{
    Digest,
    codec::{Reader, Writer},
    params::Groth16Circuit,
    transcript::label,
};

/// The name of phase 2's secret.
pub(super) const SECRETS: [&str; 1] = ["delta"];
/// A variable's column of a matrix: coefficients and rows.
type Column = Vec<(Fr, usize)>;

fn columns(matrix: &Matrix<Fr>, variables: usize) -> Vec<Column> {
    let mut columns = vec![Column::new(); variables];
    for (row, terms) in matrix.iter().enumerate() {
        for (coefficient, variable) in terms {
            if let Some(column) = columns.get_mut(*variable) {
                column.push((*coefficient, row));
            }
        }
    }
    columns
}

/// The columns of A, with the rows of the inputs, of B and of C.
fn matrices(circuit: Groth16Circuit) -> Result<[Vec<Column>; 3], CeremonyError> {
    let [a, b, c] = circuit.matrices()? else { return Err(CeremonyError::Circuit) };
    let [mut a, b, c] = [a, b, c].map(|matrix| columns(matrix, circuit.variables()));
    for (input, column) in a.iter_mut().take(circuit.input_points()).enumerate() {
        column.push((Fr::one(), circuit.constraints() + input));
    }
    Ok([a, b, c])
}

/// Digest of a circuit: of the non-zero coefficients of A, B and C by variable.
pub(super) fn circuit_digest(circuit: Groth16Circuit) -> Result<Digest, CeremonyError> {
    static DIGESTS: Mutex<Vec<(Groth16Circuit, Digest)>> = Mutex::new(Vec::new());
    let digests = || DIGESTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, digest)) = digests().iter().find(|(known, _)| *known == circuit) {
        return Ok(*digest);
    }
    let mut writer = Writer::default();
    let (constraints, inputs) = (circuit.constraints() as u32, circuit.input_points() as u32);
    writer.bytes(b"circuit").u32(circuit.domain() as u32).u32(constraints).u32(inputs);
    for columns in matrices(circuit)? {
        for column in columns {
            writer.u32(column.len() as u32);
            for (coefficient, row) in column {
                writer.u32(row as u32).array(&crate::key_knowledge::symmetric::SuiteField::to_canonical(coefficient));
            }
        }
    }
    let digest = Digest::of(label::CEREMONY, &writer.into_bytes());
    digests().push((circuit, digest));
    Ok(digest)
}

/// L_j(τ)·G for all j, times whatever the powers are multiplied with.
fn lagrange<C: SWCurveConfig<ScalarField = Fr>>(
    powers: &[Affine<C>],
    size: usize,
) -> Result<Vec<Affine<C>>, CeremonyError> {
    let domain = Radix2EvaluationDomain::<Fr>::new(size).ok_or(CeremonyError::Circuit)?;
    let mut values: Vec<Projective<C>> = powers.iter().take(size).map(|point| point.into_group()).collect();
    domain.ifft_in_place(&mut values);
    Ok(Projective::normalize_batch(&values))
}

/// Σ coefficient·L_row(τ)·G over a column. On one thread: columns are many and short.
fn evaluate<C: SWCurveConfig<ScalarField = Fr>>(lagrange: &[Affine<C>], column: &[(Fr, usize)]) -> Projective<C> {
    // An S-box reads its input in two rows, so that coefficients come in pairs: their points are added first.
    let mut terms: Vec<(Fr, Projective<C>)> = Vec::with_capacity(column.len());
    for (coefficient, row) in column {
        let Some(point) = lagrange.get(*row) else { continue };
        match terms.iter_mut().rev().take(PAIRED).find(|(known, _)| known == coefficient) {
            Some((_, sum)) => *sum += point,
            None => terms.push((*coefficient, point.into_group())),
        }
    }
    points::combine_alone(&terms)
}

/// How far back [`evaluate`] looks for a coefficient that it has met already.
const PAIRED: usize = 4;

/// Every element of the proving key, with γ = δ = 1.
pub(super) struct InitialKey {
    alpha_g1: G1Affine,
    beta_g1: G1Affine,
    beta_g2: G2Affine,
    a: Vec<G1Affine>,
    b_g1: Vec<G1Affine>,
    b_g2: Vec<G2Affine>,
    /// β·A + α·B + C for the constant and the public inputs.
    inputs: Vec<G1Affine>,
    /// The same for the witness.
    l: Vec<G1Affine>,
    /// τ^i·Z(τ), with Z = X^n - 1.
    h: Vec<G1Affine>,
}

/// What a derived key follows from: its circuit, and the powers by their digest.
type Foundation = (Groth16Circuit, Digest);

/// Keys that this process has derived. A ceremony's powers stay while phase 2 goes on.
static DERIVED: Mutex<Vec<(Foundation, Arc<InitialKey>)>> = Mutex::new(Vec::new());
const MAX_DERIVED: usize = 4;

impl InitialKey {
    /// Derives the key from powers of at least the circuit's domain, unless this process has just done so.
    pub(super) fn of(circuit: Groth16Circuit, powers: &Powers) -> Result<Arc<Self>, CeremonyError> {
        let which = (circuit, powers.digest());
        let derived = || DERIVED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, key)) = derived().iter().find(|(derived, _)| *derived == which) {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(Self::derive(circuit, powers)?);
        let mut kept = derived();
        kept.truncate(MAX_DERIVED - 1);
        kept.insert(0, (which, Arc::clone(&key)));
        Ok(key)
    }

    fn derive(circuit: Groth16Circuit, powers: &Powers) -> Result<Self, CeremonyError> {
        let [a, b, c] = matrices(circuit)?;
        let size = circuit.domain();
        let tau_g1 = lagrange(&powers.tau_g1, size)?;
        let tau_g2 = lagrange(&powers.tau_g2, size)?;
        let (alpha, beta) = (lagrange(&powers.alpha_g1, size)?, lagrange(&powers.beta_g1, size)?);
        let all = |lagrange: &[G1Affine], columns: &[Column]| -> Vec<_> {
            columns.par_iter().map(|column| evaluate(lagrange, column)).collect()
        };
        let b_g2: Vec<_> = b.par_iter().map(|column| evaluate(&tau_g2, column)).collect();
        let mixed: Vec<_> = all(&beta, &a).into_iter().zip(all(&alpha, &b)).zip(all(&tau_g1, &c)).collect();
        let mixed: Vec<_> = mixed.into_iter().map(|((a, b), c)| a + b + c).collect();
        let mut inputs = Projective::normalize_batch(&mixed);
        let l = inputs.split_off(circuit.input_points());
        let shifted = powers.tau_g1.iter().skip(size).zip(&powers.tau_g1);
        let h: Vec<_> = shifted.take(size - 1).map(|(high, low)| high.into_group() - low).collect();
        let [_, alpha_g1, beta_g1] = powers.heads();
        Ok(Self {
            alpha_g1,
            beta_g1,
            beta_g2: powers.beta_g2,
            a: Projective::normalize_batch(&all(&tau_g1, &a)),
            b_g1: Projective::normalize_batch(&all(&tau_g1, &b)),
            b_g2: Projective::normalize_batch(&b_g2),
            inputs,
            l,
            h: Projective::normalize_batch(&h),
        })
    }

    /// The proving key with the δ that `delta` holds.
    pub(super) fn with_delta(&self, delta_g1: G1Affine, delta: &Delta) -> ProvingKey<ark_bn254::Bn254> {
        ProvingKey {
            vk: VerifyingKey {
                alpha_g1: self.alpha_g1,
                beta_g2: self.beta_g2,
                gamma_g2: G2Affine::generator(),
                delta_g2: delta.in_g2,
                gamma_abc_g1: self.inputs.clone(),
            },
            beta_g1: self.beta_g1,
            delta_g1,
            a_query: self.a.clone(),
            b_g1_query: self.b_g1.clone(),
            b_g2_query: self.b_g2.clone(),
            h_query: delta.h.clone(),
            l_query: delta.l.clone(),
        }
    }
}

/// What phase 2 changes: δ in G2, and the queries that are divided by it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Delta {
    pub(super) in_g2: G2Affine,
    pub(super) h: Vec<G1Affine>,
    pub(super) l: Vec<G1Affine>,
}

impl Delta {
    /// Where phase 2 begins: δ = 1.
    pub(super) fn one(initial: &InitialKey) -> Self {
        Self { in_g2: G2Affine::generator(), h: initial.h.clone(), l: initial.l.clone() }
    }

    /// Multiplies δ by a contributor's secret.
    pub(super) fn contribute(&mut self, delta: &Secret) {
        let inverse = Zeroizing::new(delta.scalar().inverse().expect("a secret is not zero"));
        self.in_g2 = (self.in_g2 * delta.scalar()).into_affine();
        for query in [&mut self.h, &mut self.l] {
            let factors = Zeroizing::new(vec![*inverse; query.len()]);
            points::scale(query, &factors);
        }
    }

    /// Checks that every element is the initial one, divided by the δ that the contributions lead to.
    pub(super) fn check(&self, initial: &InitialKey, delta_g1: G1Affine) -> Result<(), CeremonyError> {
        let (g1, g2) = (G1Affine::generator(), G2Affine::generator());
        let to_one = Ratio { from: self.in_g2, to: g2 };
        if !same_ratio(Ratio { from: delta_g1, to: g1 }, to_one) {
            return Err(CeremonyError::PhaseTwo("delta in G2 is not what the contributions lead to"));
        }
        let queries = [
            (&initial.h, &self.h, "an element of the H query is not the circuit's"),
            (&initial.l, &self.l, "an element of the L query is not the circuit's"),
        ];
        for (from, to, what) in queries {
            let weights = weights(from.len());
            let ratio = Ratio { from: combine(from, &weights), to: combine(to, &weights) };
            if from.len() != to.len() || !same_ratio(ratio, to_one) {
                return Err(CeremonyError::PhaseTwo(what));
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        points::write(writer, &[self.in_g2]);
        points::write(writer, &self.h);
        points::write(writer, &self.l);
    }

    pub(super) fn read(reader: &mut Reader<'_>, circuit: Groth16Circuit) -> Result<Self, CeremonyError> {
        Ok(Self {
            in_g2: points::read_one(reader, "delta in G2")?,
            h: points::read(reader, "the H query", circuit.domain() - 1)?,
            l: points::read(reader, "the L query", circuit.variables() - circuit.input_points())?,
        })
    }
}
