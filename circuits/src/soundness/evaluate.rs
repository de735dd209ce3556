//! Expressions evaluated: to a value, or to a value and its slope in every class of cells.

use ff::Field;
use halo2_proofs::{pasta::Fp, plonk::Any};

use super::{
    expression::{Expression, Query},
    linear::Row,
};

/// A value, and how it changes with each class that it reads.
pub(super) struct Dual {
    pub(super) value: Fp,
    pub(super) slope: Row<Fp>,
}

/// What expressions are evaluated to.
pub(super) trait Ring: Sized {
    fn constant(value: Fp) -> Self;
    /// Whether it is 0 whatever the cells hold.
    fn vanishes(&self) -> bool;
    fn scale(self, factor: Fp) -> Self;
    fn add(self, other: Self) -> Self;
    fn multiply(self, other: Self) -> Self;
}

impl Ring for Dual {
    fn constant(value: Fp) -> Self {
        Self { value, slope: Row::new() }
    }
    fn vanishes(&self) -> bool {
        self.slope.is_empty() && self.value == Fp::ZERO
    }
    fn scale(mut self, factor: Fp) -> Self {
        self.slope.values_mut().for_each(|slope| *slope *= factor);
        Self { value: self.value * factor, slope: self.slope }
    }
    fn add(mut self, other: Self) -> Self {
        for (class, slope) in other.slope {
            *self.slope.entry(class).or_insert(Fp::ZERO) += slope;
        }
        Self { value: self.value + other.value, slope: self.slope }
    }
    fn multiply(self, other: Self) -> Self {
        let (value, other_value) = (self.value, other.value);
        let slope =
            Self { value: Fp::ZERO, ..self }.scale(other_value).add(Self { value: Fp::ZERO, ..other }.scale(value));
        Self { value: value * other_value, slope: slope.slope }
    }
}

impl Ring for Fp {
    fn constant(value: Fp) -> Self {
        value
    }
    fn vanishes(&self) -> bool {
        *self == Fp::ZERO
    }
    fn scale(self, factor: Fp) -> Self {
        self * factor
    }
    fn add(self, other: Self) -> Self {
        self + other
    }
    fn multiply(self, other: Self) -> Self {
        self * other
    }
}

/// The value of an expression whose cells are given by `cell`; `on` says whether a selector is enabled.
pub(super) fn evaluate<R: Ring>(
    expression: &Expression,
    cell: &impl Fn(Any, Query) -> R,
    on: &impl Fn(usize) -> bool,
) -> R {
    let part = |expression: &Expression| evaluate(expression, cell, on);
    match expression {
        Expression::Constant(value) => R::constant(*value),
        Expression::Selector(index) => R::constant(if on(*index) { Fp::ONE } else { Fp::ZERO }),
        Expression::Fixed(query) => cell(Any::Fixed, *query),
        Expression::Advice(query) => cell(Any::Advice, *query),
        Expression::Instance(query) => cell(Any::Instance, *query),
        Expression::Negated(inner) => part(inner).scale(-Fp::ONE),
        Expression::Sum(left, right) => part(left).add(part(right)),
        Expression::Product(left, right) => {
            let left = part(left);
            if left.vanishes() { left } else { left.multiply(part(right)) }
        }
        Expression::Scaled(inner, factor) => part(inner).scale(*factor),
    }
}
