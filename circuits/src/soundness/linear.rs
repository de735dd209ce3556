//! Sparse elimination over a prime field.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    ops::{Add, Mul, Neg},
};

/// An element of a prime field, of either proof system's library.
pub(crate) trait Element:
    Copy + PartialEq + Add<Output = Self> + Mul<Output = Self> + Neg<Output = Self>
{
    /// 0.
    fn zero() -> Self;
    /// 1.
    fn one() -> Self;
    /// 1/self; self is not 0.
    fn inverse(self) -> Self;
}

impl Element for halo2_proofs::pasta::Fp {
    fn zero() -> Self {
        ff::Field::ZERO
    }
    fn one() -> Self {
        ff::Field::ONE
    }
    fn inverse(self) -> Self {
        ff::Field::invert(&self).unwrap()
    }
}

impl Element for ark_bn254::Fr {
    fn zero() -> Self {
        ark_ff::AdditiveGroup::ZERO
    }
    fn one() -> Self {
        ark_ff::Field::ONE
    }
    fn inverse(self) -> Self {
        ark_ff::Field::inverse(&self).unwrap()
    }
}

/// A linear form: factors by variable, none of them 0.
pub(crate) type Row<E> = BTreeMap<usize, E>;

/// Adds `factor`·`other` to `row`. Returns the variables that came in.
fn add_scaled<E: Element>(row: &mut Row<E>, factor: E, other: &Row<E>) -> Vec<usize> {
    let mut entered = Vec::new();
    for (variable, value) in other {
        let old = row.get(variable).copied();
        let new = old.unwrap_or(E::zero()) + factor * *value;
        if new == E::zero() {
            row.remove(variable);
        } else {
            row.insert(*variable, new);
            if old.is_none() {
                entered.push(*variable);
            }
        }
    }
    entered
}

/// The solutions of a homogeneous system.
#[derive(Clone)]
pub(crate) struct Kernel {
    /// Their dimension.
    pub(crate) dimension: usize,
    /// Variables that are not 0 in all of them.
    pub(crate) moved: BTreeSet<usize>,
    /// Rows that follow from others: taking away one of them adds no solution. Empty unless asked for.
    pub(crate) redundant: BTreeSet<usize>,
}

struct Elimination<E> {
    rows: Vec<Row<E>>,
    /// Each row as a sum of the given ones; empty unless asked for.
    origin: Vec<Row<E>>,
    /// The rows that hold a variable, and perhaps some that no longer do.
    holders: Vec<BTreeSet<usize>>,
    /// Rows by length, shortest first; entries go stale when a row changes.
    queue: BinaryHeap<Reverse<(usize, usize)>>,
}

impl<E: Element> Elimination<E> {
    fn new(variables: usize, rows: Vec<Row<E>>, trace: bool) -> Self {
        let mut holders = vec![BTreeSet::new(); variables];
        for (index, row) in rows.iter().enumerate() {
            for variable in row.keys() {
                holders[*variable].insert(index);
            }
        }
        let queue = rows.iter().enumerate().map(|(index, row)| Reverse((row.len(), index))).collect();
        let count = if trace { rows.len() } else { 0 };
        let origin = (0..count).map(|index| Row::from([(index, E::one())])).collect();
        Self { rows, origin, holders, queue }
    }

    /// Takes the shortest row and eliminates its rarest variable from all others: little fills in that way.
    fn step(&mut self) -> Option<(usize, Row<E>)> {
        loop {
            let Reverse((length, index)) = self.queue.pop()?;
            if length == 0 || length != self.rows[index].len() {
                continue;
            }
            let row = std::mem::take(&mut self.rows[index]);
            let pivot = *row.keys().min_by_key(|variable| self.holders[**variable].len()).unwrap();
            for variable in row.keys() {
                self.holders[*variable].remove(&index);
            }
            let inverse = row[&pivot].inverse();
            for other in std::mem::take(&mut self.holders[pivot]) {
                let Some(value) = self.rows[other].get(&pivot).copied() else { continue };
                let factor = -(value * inverse);
                for variable in add_scaled(&mut self.rows[other], factor, &row) {
                    self.holders[variable].insert(other);
                }
                if !self.origin.is_empty() {
                    let source = self.origin[index].clone();
                    add_scaled(&mut self.origin[other], factor, &source);
                }
                self.queue.push(Reverse((self.rows[other].len(), other)));
            }
            if let Some(origin) = self.origin.get_mut(index) {
                // It is a pivot, and follows from nothing that is left.
                origin.clear();
            }
            return Some((pivot, row));
        }
    }
}

/// Solves `row · x = 0` for all of `rows`, whose variables are 0..`variables`. With `trace`, says which rows are
/// redundant.
pub(crate) fn kernel<E: Element>(variables: usize, rows: Vec<Row<E>>, trace: bool) -> Kernel {
    let mut elimination = Elimination::new(variables, rows, trace);
    let mut pivots = Vec::new();
    while let Some(pivot) = elimination.step() {
        pivots.push(pivot);
    }
    let fixed: BTreeSet<usize> = pivots.iter().map(|(variable, _)| *variable).collect();
    // Each variable in terms of the free ones; a pivot's row holds later pivots and free variables.
    let mut value: BTreeMap<usize, Row<E>> = (0..variables)
        .filter(|variable| !fixed.contains(variable))
        .map(|free| (free, Row::from([(free, E::one())])))
        .collect();
    let dimension = value.len();
    if dimension > 0 {
        for (pivot, row) in pivots.iter().rev() {
            let inverse = row[pivot].inverse();
            let mut sum = Row::new();
            for (variable, factor) in row.iter().filter(|(variable, _)| *variable != pivot) {
                if let Some(terms) = value.get(variable) {
                    add_scaled(&mut sum, -(*factor * inverse), terms);
                }
            }
            if !sum.is_empty() {
                value.insert(*pivot, sum);
            }
        }
    }
    let redundant = elimination.origin.iter().flat_map(|origin| origin.keys().copied()).collect();
    Kernel { dimension, moved: value.into_keys().collect(), redundant }
}

#[cfg(test)]
mod tests {
    use halo2_proofs::pasta::Fp;

    use super::*;

    fn row(terms: &[(usize, u64)]) -> Row<Fp> {
        terms.iter().map(|(variable, factor)| (*variable, Fp::from(*factor))).collect()
    }

    #[test]
    fn kernels_and_redundant_rows() {
        // x + y = 0, y + z = 0: one direction, which moves all three.
        let rows = vec![row(&[(0, 1), (1, 1)]), row(&[(1, 1), (2, 1)])];
        let found = kernel(4, rows.clone(), true);
        assert_eq!((found.dimension, found.redundant.len()), (2, 0));
        assert_eq!(found.moved, BTreeSet::from([0, 1, 2, 3]));
        // 2x + 3y + z = 2(x + y) + (y + z) says nothing new; w is pinned by a row of its own.
        let more = [rows.clone(), vec![row(&[(0, 2), (1, 3), (2, 1)]), row(&[(3, 5)])]].concat();
        let found = kernel(4, more, true);
        assert_eq!((found.dimension, found.moved), (1, BTreeSet::from([0, 1, 2])));
        assert_eq!(found.redundant, BTreeSet::from([0, 1, 2]));
        // x + z = 0 pins all: y + z = 0 and x + y = 0 give x = z.
        let closed = [rows, vec![row(&[(0, 1), (2, 1)])]].concat();
        assert_eq!(kernel(3, closed, false).dimension, 0);
    }
}
