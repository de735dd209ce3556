//! halo2's own checker, with one cell changed: what the recorded system says must be what the library says.

use std::{cell::Cell, marker::PhantomData};

use ff::Field;
use halo2_proofs::{
    circuit::{Layouter, Value},
    dev::MockProver,
    pasta::Fp,
    plonk::{
        Advice, Any, Assigned, Assignment, Circuit, Column, ConstraintSystem, Error, Fixed, FloorPlanner, Instance,
        Selector,
    },
};

/// By what a cell is changed. Over every field, because a floor planner is.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    One,
    MinusOne,
    /// 2^64.
    Limb,
    /// The third power of a 64-bit number.
    Random(u64),
}

impl Change {
    pub(crate) fn delta<F: Field>(self) -> F {
        let number = |bits: u64| {
            (0..64).rev().fold(F::ZERO, |sum, bit| sum.double() + if bits >> bit & 1 == 1 { F::ONE } else { F::ZERO })
        };
        match self {
            Self::One => F::ONE,
            Self::MinusOne => -F::ONE,
            Self::Limb => number(1 << 63).double(),
            Self::Random(seed) => number(seed).cube(),
        }
    }
}

thread_local! {
    /// Which assignment of an advice cell is changed: a floor planner is a type, and holds nothing.
    static TARGET: Cell<Option<(usize, Change)>> = const { Cell::new(None) };
}

/// A circuit, one of whose advice cells is changed after it was computed: all that was derived from it stays honest.
pub(crate) struct Perturbed<C>(pub(crate) C);

impl<C: Circuit<Fp>> Perturbed<C> {
    /// Whether the checker accepts the circuit with the `index`th assignment changed, or with none.
    pub(crate) fn accepted(&self, k: u32, public: &[Fp], target: Option<(usize, Change)>) -> bool {
        TARGET.set(target);
        let accepted = MockProver::run(k, self, vec![public.to_vec()]).unwrap().verify().is_ok();
        TARGET.set(None);
        accepted
    }
}

impl<C: Circuit<Fp>> Circuit<Fp> for Perturbed<C> {
    type Config = C::Config;
    type FloorPlanner = Planner<C::FloorPlanner>;

    fn without_witnesses(&self) -> Self {
        Self(self.0.without_witnesses())
    }

    fn configure(meta: &mut ConstraintSystem<Fp>) -> Self::Config {
        C::configure(meta)
    }

    fn synthesize(&self, config: Self::Config, layouter: impl Layouter<Fp>) -> Result<(), Error> {
        self.0.synthesize(config, layouter)
    }
}

/// Another planner, whose assignments pass through [`Shift`].
pub(crate) struct Planner<P>(PhantomData<P>);

impl<P: FloorPlanner> FloorPlanner for Planner<P> {
    fn synthesize<F: Field, CS: Assignment<F>, C: Circuit<F>>(
        cs: &mut CS,
        circuit: &C,
        config: C::Config,
        constants: Vec<Column<Fixed>>,
    ) -> Result<(), Error> {
        let target = TARGET.get().map(|(index, change)| (index, change.delta()));
        P::synthesize(&mut Shift { inner: cs, count: 0, target }, circuit, config, constants)
    }
}

struct Shift<'a, F, CS> {
    inner: &'a mut CS,
    count: usize,
    target: Option<(usize, F)>,
}

impl<F: Field, CS: Assignment<F>> Assignment<F> for Shift<'_, F, CS> {
    fn enter_region<NR: Into<String>, N: FnOnce() -> NR>(&mut self, name: N) {
        self.inner.enter_region(name);
    }
    fn exit_region(&mut self) {
        self.inner.exit_region();
    }
    fn enable_selector<A: FnOnce() -> AR, AR: Into<String>>(
        &mut self,
        annotation: A,
        selector: &Selector,
        row: usize,
    ) -> Result<(), Error> {
        self.inner.enable_selector(annotation, selector, row)
    }
    fn query_instance(&self, column: Column<Instance>, row: usize) -> Result<Value<F>, Error> {
        self.inner.query_instance(column, row)
    }
    fn assign_advice<V, VR, A, AR>(
        &mut self,
        annotation: A,
        column: Column<Advice>,
        row: usize,
        to: V,
    ) -> Result<(), Error>
    where
        V: FnOnce() -> Value<VR>,
        VR: Into<Assigned<F>>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        let delta = self.target.filter(|(index, _)| *index == self.count).map_or(F::ZERO, |(_, delta)| delta);
        self.count += 1;
        self.inner.assign_advice(annotation, column, row, || {
            to().map(|value| {
                let value: Assigned<F> = value.into();
                value + Assigned::from(delta)
            })
        })
    }
    fn assign_fixed<V, VR, A, AR>(
        &mut self,
        annotation: A,
        column: Column<Fixed>,
        row: usize,
        to: V,
    ) -> Result<(), Error>
    where
        V: FnOnce() -> Value<VR>,
        VR: Into<Assigned<F>>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        self.inner.assign_fixed(annotation, column, row, to)
    }
    fn copy(&mut self, left: Column<Any>, left_row: usize, right: Column<Any>, right_row: usize) -> Result<(), Error> {
        self.inner.copy(left, left_row, right, right_row)
    }
    fn fill_from_row(&mut self, column: Column<Fixed>, row: usize, to: Value<Assigned<F>>) -> Result<(), Error> {
        self.inner.fill_from_row(column, row, to)
    }
    fn push_namespace<NR: Into<String>, N: FnOnce() -> NR>(&mut self, name: N) {
        self.inner.push_namespace(name);
    }
    fn pop_namespace(&mut self, gadget_name: Option<String>) {
        self.inner.pop_namespace(gadget_name);
    }
}
