//! The searches over rank-1 constraint systems.

use std::collections::BTreeSet;

use ark_bn254::Fr;
use ark_ff::{AdditiveGroup, Field};
use ark_relations::{
    gr1cs::{ConstraintSystem, ConstraintSystemRef, OptimizationGoal, R1CS_PREDICATE_LABEL, SynthesisError},
    utils::matrix::Matrix,
};

use super::linear::{Row, kernel};

/// A system (A z) ∘ (B z) = C z and a z that satisfies it: the constant 1, the public inputs, the witness.
pub(crate) struct Rank1 {
    pub(crate) matrices: Vec<Matrix<Fr>>,
    pub(crate) values: Vec<Fr>,
    /// How many public inputs there are.
    pub(crate) public: usize,
}

/// What the searches found.
pub(crate) struct Report {
    /// One line for each thing that is wrong.
    pub(crate) findings: Vec<String>,
    /// Constraints that follow from others to first order, with the public outputs free.
    pub(crate) redundant: BTreeSet<usize>,
}

impl Rank1 {
    /// The system and the assignment that `synthesize` makes.
    pub(crate) fn of(synthesize: impl FnOnce(ConstraintSystemRef<Fr>) -> Result<(), SynthesisError>) -> Self {
        let cs = ConstraintSystem::new_ref();
        cs.set_optimization_goal(OptimizationGoal::Constraints);
        synthesize(cs.clone()).unwrap();
        cs.finalize();
        let matrices = cs.to_matrices().unwrap().remove(R1CS_PREDICATE_LABEL).unwrap();
        let assignments = cs.into_inner().unwrap().assignments;
        let public = assignments.instance_assignment.len() - 1;
        let values = [assignments.instance_assignment, assignments.witness_assignment].concat();
        Self { matrices, values, public }
    }

    /// How many constraints there are.
    pub(crate) fn constraints(&self) -> usize {
        self.matrices[0].len()
    }

    fn form(&self, matrix: usize, constraint: usize, values: &[Fr]) -> Fr {
        self.matrices[matrix][constraint].iter().map(|(factor, variable)| *factor * values[*variable]).sum()
    }

    /// Whether a constraint holds.
    pub(crate) fn holds(&self, constraint: usize, values: &[Fr]) -> bool {
        let [a, b, c] = [0, 1, 2].map(|matrix| self.form(matrix, constraint, values));
        a * b == c
    }

    /// The variables that a constraint reads.
    fn reads(&self, constraint: usize) -> BTreeSet<usize> {
        self.matrices.iter().flat_map(|matrix| matrix[constraint].iter().map(|(_, variable)| *variable)).collect()
    }

    /// Variables, the public ones among them, that can be changed alone.
    fn loose(&self) -> BTreeSet<usize> {
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); self.values.len()];
        for constraint in 0..self.constraints() {
            self.reads(constraint).into_iter().for_each(|variable| readers[variable].push(constraint));
        }
        let random = Fr::from(0x9e37_79b9_7f4a_7c15_u64).square();
        let mut values = self.values.clone();
        let mut loose = BTreeSet::new();
        for variable in 1..values.len() {
            for change in [Fr::ONE, -Fr::ONE, Fr::from(1_u128 << 64), random] {
                values[variable] = self.values[variable] + change;
                if readers[variable].iter().all(|constraint| self.holds(*constraint, &values)) {
                    loose.insert(variable);
                }
            }
            values[variable] = self.values[variable];
        }
        loose
    }

    /// Witness variables that no chain of constraints ties to a public input.
    fn detached(&self) -> usize {
        let reads: Vec<_> = (0..self.constraints()).map(|constraint| self.reads(constraint)).collect();
        let mut reached: BTreeSet<usize> = (1..=self.public).collect();
        loop {
            let before = reached.len();
            for read in &reads {
                if read.iter().any(|variable| reached.contains(variable)) {
                    reached.extend(read.iter().copied().filter(|variable| *variable > 0));
                }
            }
            if reached.len() == before {
                return self.values.len() - 1 - before;
            }
        }
    }

    /// Tangents of all variables but the constant 1 and the `fixed` ones.
    fn tangents(&self, fixed: &[usize]) -> super::linear::Kernel {
        let variables: Vec<usize> = (1..self.values.len()).filter(|variable| !fixed.contains(variable)).collect();
        let mut number = vec![None; self.values.len()];
        variables.iter().enumerate().for_each(|(index, variable)| number[*variable] = Some(index));
        let slope = |constraint: usize| {
            let [a, b] = [0, 1].map(|matrix| self.form(matrix, constraint, &self.values));
            let mut row = Row::new();
            for (matrix, factor) in [(0, b), (1, a), (2, -Fr::ONE)] {
                for (entry, variable) in &self.matrices[matrix][constraint] {
                    if let Some(index) = number[*variable] {
                        *row.entry(index).or_insert(Fr::ZERO) += *entry * factor;
                    }
                }
            }
            row.retain(|_, slope| *slope != Fr::ZERO);
            row
        };
        let mut found = kernel(variables.len(), (0..self.constraints()).map(slope).collect(), true);
        found.moved = found.moved.into_iter().map(|index| variables[index]).collect();
        found
    }

    /// Every search. `inputs` are the public inputs that are no function of the witness, numbered from 1; of these,
    /// `free` can be changed alone at this assignment.
    pub(crate) fn search(&self, inputs: &[usize], free: &[usize]) -> Report {
        let mut findings = Vec::new();
        let mut say = |text: String| findings.push(text);
        for constraint in (0..self.constraints()).filter(|constraint| !self.holds(*constraint, &self.values)) {
            say(format!("the honest assignment breaks constraint {constraint}"));
        }
        let loose = self.loose();
        let expected: BTreeSet<usize> = free.iter().copied().collect();
        loose
            .symmetric_difference(&expected)
            .for_each(|variable| say(format!("variable {variable} can be changed alone")));
        if self.detached() > 0 {
            say(format!("{} variables are tied to no public input", self.detached()));
        }
        let read: BTreeSet<usize> = (0..self.constraints()).flat_map(|constraint| self.reads(constraint)).collect();
        (1..=self.public).filter(|input| !read.contains(input)).for_each(|input| say(format!("input {input} is free")));
        let all: Vec<usize> = (1..=self.public).collect();
        let (fixed, freed) = (self.tangents(&all), self.tangents(inputs));
        for (found, what) in [(fixed, "inputs fixed"), (freed.clone(), "outputs free")] {
            if found.dimension > 0 {
                say(format!("{} directions with the public {what} move {:?}", found.dimension, found.moved));
            }
        }
        Report { findings, redundant: freed.redundant }
    }

    /// The same system without one constraint.
    pub(crate) fn without(&self, constraint: usize) -> Self {
        let mut matrices = self.matrices.clone();
        matrices.iter_mut().for_each(|matrix| drop(matrix.remove(constraint)));
        Self { matrices, values: self.values.clone(), public: self.public }
    }
}
