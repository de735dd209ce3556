//! A recorded assignment as a system of equations among classes of equal cells.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ff::{Field, PrimeField};
use halo2_proofs::{pasta::Fp, plonk::Any};

use super::{
    evaluate::{Dual, Ring, evaluate},
    expression::{Description, Expression, Query},
    linear::{Row, kernel},
    record::{At, Record},
};

/// A gate's polynomial, or a lookup, on one row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    Gate(usize),
    Lookup(usize),
}

struct Constraint {
    rule: Rule,
    row: usize,
    /// The classes that it reads.
    reads: Vec<usize>,
    /// What must be 0 to first order: of a gate its polynomial, of a lookup each input.
    slopes: Vec<Row<Fp>>,
}

/// Cells that copies make equal.
#[derive(Default)]
pub(crate) struct Class {
    pub(crate) cells: Vec<At>,
    /// Whether a fixed cell is among them.
    constant: bool,
    /// Rows of the instance column among them.
    public: Vec<usize>,
}

/// The system.
pub(crate) struct System {
    description: Description,
    record: Record,
    rows: usize,
    pub(crate) classes: Vec<Class>,
    class_of: HashMap<At, usize>,
    values: Vec<Fp>,
    constraints: Vec<Constraint>,
    tables: Vec<HashSet<Vec<[u8; 32]>>>,
}

/// What a search for tangents found.
#[derive(Default)]
pub(crate) struct Tangents {
    /// Dimension of the space of tangents.
    pub(crate) dimension: usize,
    /// Classes that move in it.
    pub(crate) moved: BTreeSet<usize>,
    /// Gates with rows that follow from others, to first order, and how many rows: by the polynomial's number.
    pub(crate) redundant: BTreeMap<usize, usize>,
}

impl System {
    /// # Panics
    /// When the recorded assignment does not satisfy the circuit.
    pub(crate) fn new(k: u32, description: Description, record: Record) -> Self {
        let mut system = Self {
            description,
            record,
            rows: 1 << k,
            classes: Vec::new(),
            class_of: HashMap::new(),
            values: Vec::new(),
            constraints: Vec::new(),
            tables: Vec::new(),
        };
        system.find_classes();
        system.find_constraints();
        let broken = (0..system.constraints.len()).find(|index| !system.holds(*index, &system.values));
        if let Some(Constraint { rule, row, .. }) = broken.map(|index| &system.constraints[index]) {
            panic!("the honest assignment breaks {rule:?} on row {row}");
        }
        system
    }

    fn value_at(&self, (kind, column, row): At) -> Fp {
        match kind {
            Any::Advice => self.record.advice.get(&(column, row)).map_or(Fp::ZERO, |(value, _)| *value),
            Any::Fixed => self.record.fixed.get(&(column, row)).copied().unwrap_or_default(),
            Any::Instance => self.record.public.get(row).copied().unwrap_or_default(),
        }
    }

    fn find_classes(&mut self) {
        let mut parent: BTreeMap<At, At> = BTreeMap::new();
        fn root(parent: &BTreeMap<At, At>, mut at: At) -> At {
            while let Some(up) = parent.get(&at) {
                at = *up;
            }
            at
        }
        let mut cells: BTreeSet<At> =
            self.record.advice.keys().map(|(column, row)| (Any::Advice, *column, *row)).collect();
        for (left, right) in &self.record.copies {
            for (kind, column, _) in [left, right] {
                let copied = (format!("{kind:?}"), *column);
                assert!(self.description.permutation.contains(&copied), "{copied:?} takes no copies");
            }
            cells.extend([*left, *right]);
            let (left, right) = (root(&parent, *left), root(&parent, *right));
            if left != right {
                parent.insert(left, right);
            }
        }
        for at in cells {
            let top = root(&parent, at);
            let class = *self.class_of.entry(top).or_insert_with(|| {
                self.classes.push(Class::default());
                self.classes.len() - 1
            });
            self.add(class, at);
        }
    }

    fn add(&mut self, class: usize, at: At) {
        self.class_of.insert(at, class);
        let value = self.value_at(at);
        if self.values.len() == class {
            self.values.push(value);
        }
        assert!(self.values[class] == value, "the honest assignment breaks a copy to {at:?}");
        let members = &mut self.classes[class];
        members.cells.push(at);
        match at.0 {
            Any::Advice => {}
            Any::Fixed => members.constant = true,
            Any::Instance => members.public.push(at.2),
        }
    }

    fn shifted(&self, row: usize, query: Query) -> usize {
        (row as i64 + i64::from(query.rotation)).rem_euclid(self.rows as i64) as usize
    }

    fn dual(&self, expression: &Expression, row: usize) -> Dual {
        let cell = |kind, query: Query| {
            let at = (kind, query.column, self.shifted(row, query));
            match kind {
                Any::Fixed => Dual::constant(self.value_at(at)),
                Any::Advice | Any::Instance => {
                    let class = self.class_of.get(&at).copied().unwrap_or(usize::MAX);
                    Dual { value: self.value_at(at), slope: Row::from([(class, Fp::ONE)]) }
                }
            }
        };
        evaluate(expression, &cell, &|selector| self.record.selectors.contains(&(selector, row)))
    }

    /// Cells that a constraint reads and no one wrote are the prover's choice too: they get classes of their own.
    fn adopt(&mut self, expression: &Expression, row: usize) {
        let found = std::cell::RefCell::new(Vec::new());
        let cell = |kind, query: Query| {
            let at = (kind, query.column, self.shifted(row, query));
            if kind == Any::Fixed {
                return Dual::constant(self.value_at(at));
            }
            if !self.class_of.contains_key(&at) {
                found.borrow_mut().push(at);
            }
            Dual { value: self.value_at(at), slope: Row::from([(0, Fp::ONE)]) }
        };
        evaluate(expression, &cell, &|selector| self.record.selectors.contains(&(selector, row)));
        for at in found.into_inner() {
            assert!(at.2 < self.record.usable, "row {row}: a constraint reads {at:?}, which is blinded");
            if !self.class_of.contains_key(&at) {
                self.classes.push(Class::default());
                self.add(self.classes.len() - 1, at);
            }
        }
    }

    fn find_constraints(&mut self) {
        let description = std::mem::replace(
            &mut self.description,
            Description {
                fixed: 0,
                advice: 0,
                instance: 0,
                selectors: 0,
                gates: vec![],
                lookups: vec![],
                constants: vec![],
                permutation: vec![],
            },
        );
        for (index, gate) in description.gates.iter().enumerate() {
            for row in 0..self.rows {
                self.adopt(gate, row);
                let dual = self.dual(gate, row);
                self.constrain(Rule::Gate(index), row, vec![dual]);
            }
        }
        for (index, lookup) in description.lookups.iter().enumerate() {
            let tuple =
                |system: &Self, row| lookup.table.iter().map(|part| system.dual(part, row).value.to_repr()).collect();
            self.tables.push((0..self.record.usable).map(|row| tuple(self, row)).collect());
            for row in 0..self.record.usable {
                lookup.inputs.iter().for_each(|input| self.adopt(input, row));
                let duals = lookup.inputs.iter().map(|input| self.dual(input, row)).collect();
                self.constrain(Rule::Lookup(index), row, duals);
            }
        }
        self.description = description;
    }

    fn constrain(&mut self, rule: Rule, row: usize, duals: Vec<Dual>) {
        let reads: BTreeSet<usize> = duals.iter().flat_map(|dual| dual.slope.keys().copied()).collect();
        let broken = matches!(rule, Rule::Gate(_)) && duals.iter().any(|dual| dual.value != Fp::ZERO);
        assert!(!broken, "the honest assignment breaks {rule:?} on row {row}");
        if reads.is_empty() {
            return;
        }
        let nonzero = |dual: Dual| dual.slope.into_iter().filter(|(_, slope)| *slope != Fp::ZERO).collect();
        let slopes = duals.into_iter().map(nonzero).collect();
        self.constraints.push(Constraint { rule, row, reads: reads.into_iter().collect(), slopes });
    }

    /// Whether a constraint holds for other values of the classes.
    fn holds(&self, constraint: usize, values: &[Fp]) -> bool {
        let Constraint { rule, row, .. } = self.constraints[constraint];
        let cell = |kind, query: Query| {
            let at = (kind, query.column, self.shifted(row, query));
            match self.class_of.get(&at) {
                Some(class) if kind != Any::Fixed => values[*class],
                _ => self.value_at(at),
            }
        };
        let value = |expression: &Expression| -> Fp {
            evaluate(expression, &cell, &|selector| self.record.selectors.contains(&(selector, row)))
        };
        match rule {
            Rule::Gate(index) => value(&self.description.gates[index]) == Fp::ZERO,
            Rule::Lookup(index) => {
                let inputs = self.description.lookups[index].inputs.iter();
                self.tables[index].contains(&inputs.map(|input| value(input).to_repr()).collect::<Vec<_>>())
            }
        }
    }

    /// Whether the prover may choose: no fixed or public cell is among the class.
    fn is_witness(&self, class: usize) -> bool {
        !self.classes[class].constant && self.classes[class].public.is_empty()
    }

    /// Classes that can be changed by one of `changes`, all cells together, and nothing refuses.
    ///
    /// A cell that is changed without its copies is refused by the copy, so this covers single cells.
    pub(crate) fn loose(&self, changes: &[Fp]) -> Vec<usize> {
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); self.classes.len()];
        for (index, constraint) in self.constraints.iter().enumerate() {
            constraint.reads.iter().for_each(|class| readers[*class].push(index));
        }
        let mut values = self.values.clone();
        let mut loose = Vec::new();
        for class in (0..self.classes.len()).filter(|class| self.is_witness(*class)) {
            let honest = values[class];
            let free = changes.iter().any(|change| {
                values[class] = honest + change;
                readers[class].iter().all(|constraint| self.holds(*constraint, &values))
            });
            values[class] = honest;
            if free {
                loose.push(class);
            }
        }
        loose
    }

    /// The tangents, with `free` rows of the instance column set free and `pinned` classes held.
    pub(crate) fn tangents(&self, free: &[usize], pinned: &BTreeSet<usize>, trace: bool) -> Tangents {
        let variable = |class: usize| {
            let Class { constant, public, .. } = &self.classes[class];
            !constant && !pinned.contains(&class) && public.iter().all(|row| free.contains(row))
        };
        let variables: Vec<usize> = (0..self.classes.len()).filter(|class| variable(*class)).collect();
        let number: HashMap<usize, usize> =
            variables.iter().enumerate().map(|(index, class)| (*class, index)).collect();
        let mut rules = Vec::new();
        let mut rows = Vec::new();
        for constraint in &self.constraints {
            for slope in &constraint.slopes {
                rules.push(constraint.rule);
                rows.push(slope.iter().filter_map(|(class, slope)| Some((*number.get(class)?, *slope))).collect());
            }
        }
        let found = kernel(variables.len(), rows, trace);
        let mut redundant = BTreeMap::new();
        for row in found.redundant {
            if let Rule::Gate(gate) = rules[row] {
                *redundant.entry(gate).or_insert(0) += 1;
            }
        }
        Tangents {
            dimension: found.dimension,
            moved: found.moved.into_iter().map(|index| variables[index]).collect(),
            redundant,
        }
    }

    /// Classes that no chain of constraints ties to a public input.
    pub(crate) fn detached(&self) -> Vec<usize> {
        let mut next: Vec<Vec<usize>> = vec![Vec::new(); self.classes.len()];
        for constraint in &self.constraints {
            let open: Vec<usize> =
                constraint.reads.iter().copied().filter(|class| !self.classes[*class].constant).collect();
            for pair in open.windows(2) {
                next[pair[0]].push(pair[1]);
                next[pair[1]].push(pair[0]);
            }
        }
        let public = (0..self.classes.len()).filter(|class| !self.classes[*class].public.is_empty());
        let mut reached: HashSet<usize> = public.collect();
        let mut open: Vec<usize> = reached.iter().copied().collect();
        while let Some(class) = open.pop() {
            open.extend(next[class].iter().copied().filter(|other| reached.insert(*other)));
        }
        (0..self.classes.len()).filter(|class| !self.classes[*class].constant && !reached.contains(class)).collect()
    }

    /// Public inputs that are in no constraint: anyone who sees a proof could change one.
    pub(crate) fn unbound(&self) -> Vec<usize> {
        let read: BTreeSet<usize> = self.constraints.iter().flat_map(|constraint| constraint.reads.clone()).collect();
        let bound =
            |row: &usize| self.class_of.get(&(Any::Instance, 0, *row)).is_some_and(|class| read.contains(class));
        (0..self.record.public.len()).filter(|row| !bound(row)).collect()
    }

    /// A class as people know it: its cells' names, columns and rows.
    pub(crate) fn describe(&self, class: usize) -> String {
        let cell = |(kind, column, row): &At| match (kind, self.record.advice.get(&(*column, *row))) {
            (Any::Advice, Some((_, name))) => format!("{name} (advice {column}, row {row})"),
            _ => format!("({kind:?} {column}, row {row})"),
        };
        self.classes[class].cells.iter().map(cell).collect::<Vec<_>>().join(" = ")
    }

    /// How many constraints there are, and how large the circuit is.
    pub(crate) fn shape(&self) -> Shape {
        let Description { fixed, advice, selectors, gates, lookups, .. } = &self.description;
        Shape {
            advice_columns: *advice,
            fixed_columns: *fixed,
            selectors: *selectors,
            polynomials: gates.len(),
            lookups: lookups.len(),
            public: self.record.public.len(),
            cells: self.record.advice.len(),
            rows: self.record.advice.keys().map(|(_, row)| row + 1).max().unwrap_or(0),
            copies: self.record.copies.len(),
            constraints: self.constraints.len(),
        }
    }

    /// The record, to change it and look again.
    pub(crate) fn into_parts(self) -> (Description, Record) {
        (self.description, self.record)
    }

    /// The record.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }
}

/// A circuit in numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Shape {
    pub(crate) advice_columns: usize,
    pub(crate) fixed_columns: usize,
    pub(crate) selectors: usize,
    /// Polynomials of all gates.
    pub(crate) polynomials: usize,
    pub(crate) lookups: usize,
    /// Public inputs.
    pub(crate) public: usize,
    /// Advice cells that are assigned.
    pub(crate) cells: usize,
    /// Rows with an advice cell.
    pub(crate) rows: usize,
    pub(crate) copies: usize,
    /// Polynomials and lookups, on the rows where they are not 0 for every assignment.
    pub(crate) constraints: usize,
}
