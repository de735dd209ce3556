//! One assignment of a circuit, written down: every cell, selector and copy.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use halo2_proofs::{
    circuit::Value,
    pasta::Fp,
    plonk::{
        Advice, Any, Assigned, Assignment, Circuit, Column, ConstraintSystem, Error, Fixed, FloorPlanner, Instance,
        Selector,
    },
};

use super::expression::Description;

/// A cell: its column's type and index, and its row.
pub(crate) type At = (Any, usize, usize);

/// Columns and selectors as the library holds them, with their indices, which it does not show.
struct Names {
    columns: HashMap<Column<Any>, (Any, usize)>,
    selectors: HashMap<Selector, usize>,
    constants: Vec<Column<Fixed>>,
}

impl Names {
    fn of(description: &Description) -> Self {
        let (mut meta, mut complex) = (ConstraintSystem::<Fp>::default(), ConstraintSystem::<Fp>::default());
        let fixed: Vec<_> = (0..description.fixed).map(|_| meta.fixed_column()).collect();
        let mut columns: HashMap<_, _> =
            fixed.iter().enumerate().map(|(index, column)| ((*column).into(), (Any::Fixed, index))).collect();
        columns.extend((0..description.advice).map(|index| (meta.advice_column().into(), (Any::Advice, index))));
        columns.extend((0..description.instance).map(|index| (meta.instance_column().into(), (Any::Instance, index))));
        let selectors = (0..description.selectors)
            .flat_map(|index| [(meta.selector(), index), (complex.complex_selector(), index)])
            .collect();
        Self { columns, selectors, constants: description.constants.iter().map(|index| fixed[*index]).collect() }
    }
}

/// What a circuit wrote, given one witness and one instance column.
pub(crate) struct Record {
    names: Names,
    /// Rows that a circuit may use; the rest are blinded.
    pub(crate) usable: usize,
    /// The values of the instance column, zeros after them.
    pub(crate) public: Vec<Fp>,
    /// Values of advice cells, and what their regions call them.
    pub(crate) advice: BTreeMap<(usize, usize), (Fp, String)>,
    pub(crate) fixed: BTreeMap<(usize, usize), Fp>,
    pub(crate) selectors: BTreeSet<(usize, usize)>,
    pub(crate) copies: Vec<(At, At)>,
    /// Advice cells in the order of their assignment.
    pub(crate) order: Vec<(usize, usize)>,
    path: Vec<String>,
    region: String,
}

impl Record {
    /// Runs the circuit's own floor planner.
    pub(crate) fn of<C: Circuit<Fp>>(k: u32, circuit: &C, public: &[Fp]) -> (Description, Self) {
        let mut meta = ConstraintSystem::default();
        let config = C::configure(&mut meta);
        let description = Description::of(&meta);
        assert_eq!(description.instance, 1, "everything public is in one column");
        let names = Names::of(&description);
        let constants = names.constants.clone();
        let mut record = Self {
            names,
            usable: (1 << k) - meta.blinding_factors() - 1,
            public: public.to_vec(),
            advice: BTreeMap::new(),
            fixed: BTreeMap::new(),
            selectors: BTreeSet::new(),
            copies: Vec::new(),
            order: Vec::new(),
            path: Vec::new(),
            region: String::new(),
        };
        C::FloorPlanner::synthesize(&mut record, circuit, config, constants).expect("the circuit can be filled in");
        (description, record)
    }

    fn at(&self, column: Column<Any>, row: usize) -> At {
        let (kind, index) = self.names.columns[&column];
        (kind, index, row)
    }

    /// What its region calls an advice cell; another cell's place.
    pub(crate) fn name(&self, at: &At) -> String {
        match self.advice.get(&(at.1, at.2)) {
            Some((_, name)) if at.0 == Any::Advice => name.clone(),
            _ => format!("{at:?}"),
        }
    }

    fn in_range(&self, row: usize) -> Result<(), Error> {
        if row < self.usable { Ok(()) } else { Err(Error::BoundsFailure) }
    }
}

fn known<V: Into<Assigned<Fp>>>(value: Value<V>) -> Result<Fp, Error> {
    let mut known = None;
    value.map(|value| known = Some(value.into().evaluate()));
    known.ok_or(Error::Synthesis)
}

impl Assignment<Fp> for Record {
    fn enter_region<NR: Into<String>, N: FnOnce() -> NR>(&mut self, name: N) {
        self.region = name().into();
    }

    fn exit_region(&mut self) {
        self.region.clear();
    }

    fn enable_selector<A: FnOnce() -> AR, AR: Into<String>>(
        &mut self,
        _: A,
        selector: &Selector,
        row: usize,
    ) -> Result<(), Error> {
        self.in_range(row)?;
        self.selectors.insert((self.names.selectors[selector], row));
        Ok(())
    }

    fn query_instance(&self, _: Column<Instance>, row: usize) -> Result<Value<Fp>, Error> {
        self.in_range(row)?;
        Ok(Value::known(self.public.get(row).copied().unwrap_or_default()))
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
        VR: Into<Assigned<Fp>>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        self.in_range(row)?;
        let (_, index, _) = self.at(column.into(), row);
        let name = format!("{}/{}/{}", self.path.join("/"), self.region, annotation().into());
        self.advice.insert((index, row), (known(to())?, name));
        self.order.push((index, row));
        Ok(())
    }

    fn assign_fixed<V, VR, A, AR>(&mut self, _: A, column: Column<Fixed>, row: usize, to: V) -> Result<(), Error>
    where
        V: FnOnce() -> Value<VR>,
        VR: Into<Assigned<Fp>>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        self.in_range(row)?;
        let (_, index, _) = self.at(column.into(), row);
        self.fixed.insert((index, row), known(to())?);
        Ok(())
    }

    fn copy(&mut self, left: Column<Any>, left_row: usize, right: Column<Any>, right_row: usize) -> Result<(), Error> {
        self.in_range(left_row)?;
        self.in_range(right_row)?;
        self.copies.push((self.at(left, left_row), self.at(right, right_row)));
        Ok(())
    }

    fn fill_from_row(&mut self, column: Column<Fixed>, row: usize, to: Value<Assigned<Fp>>) -> Result<(), Error> {
        (row..self.usable).try_for_each(|row| self.assign_fixed(|| "", column, row, || to))
    }

    fn push_namespace<NR: Into<String>, N: FnOnce() -> NR>(&mut self, name: N) {
        self.path.push(name().into());
    }

    fn pop_namespace(&mut self, _: Option<String>) {
        self.path.pop();
    }
}
