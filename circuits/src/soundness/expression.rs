//! The gates and lookups of a circuit.
//!
//! halo2_proofs keeps them to itself, except in the pinned description, which its keys' digests are made of too. So
//! they are read from there; a form that is not known stops the test.

use ff::PrimeField;
use halo2_proofs::{pasta::Fp, plonk::ConstraintSystem};

/// A polynomial in cells relative to a row.
#[derive(Debug)]
pub(crate) enum Expression {
    Constant(Fp),
    Selector(usize),
    Fixed(Query),
    Advice(Query),
    Instance(Query),
    Negated(Box<Expression>),
    Sum(Box<Expression>, Box<Expression>),
    Product(Box<Expression>, Box<Expression>),
    Scaled(Box<Expression>, Fp),
}

/// A column, and how many rows further down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    pub(crate) column: usize,
    pub(crate) rotation: i32,
}

/// A lookup: on every row, the inputs are a row of the table.
pub(crate) struct Lookup {
    pub(crate) inputs: Vec<Expression>,
    pub(crate) table: Vec<Expression>,
}

/// What a circuit's configuration lays down.
pub(crate) struct Description {
    pub(crate) fixed: usize,
    pub(crate) advice: usize,
    pub(crate) instance: usize,
    pub(crate) selectors: usize,
    pub(crate) gates: Vec<Expression>,
    pub(crate) lookups: Vec<Lookup>,
    /// Fixed columns that take constants.
    pub(crate) constants: Vec<usize>,
    /// Columns that take copies: their type and index.
    pub(crate) permutation: Vec<(String, usize)>,
}

impl Description {
    pub(crate) fn of(meta: &ConstraintSystem<Fp>) -> Self {
        let text = format!("{:?}", meta.pinned());
        let mut parser = Parser { rest: &text };
        let root = parser.node();
        assert!(parser.rest.is_empty() && root.name == "PinnedConstraintSystem", "another form of description");
        let expressions = |node: &Node<'_>| node.items.iter().map(|(_, item)| expression(item)).collect();
        let columns = |node: &Node<'_>| -> Vec<(String, usize)> {
            let column = |item: &Node<'_>| (item.field("column_type").name.to_owned(), item.field("index").number());
            node.items.iter().map(|(_, item)| column(item)).collect()
        };
        let lookup = |node: &Node<'_>| Lookup {
            inputs: expressions(node.field("input_expressions")),
            table: expressions(node.field("table_expressions")),
        };
        Self {
            fixed: root.field("num_fixed_columns").number(),
            advice: root.field("num_advice_columns").number(),
            instance: root.field("num_instance_columns").number(),
            selectors: root.field("num_selectors").number(),
            gates: expressions(root.field("gates")),
            lookups: root.field("lookups").items.iter().map(|(_, item)| lookup(item)).collect(),
            constants: columns(root.field("constants")).into_iter().map(|(_, index)| index).collect(),
            permutation: columns(root.field("permutation").field("columns")),
        }
    }
}

/// A value as `Debug` prints it.
struct Node<'a> {
    name: &'a str,
    items: Vec<(&'a str, Node<'a>)>,
}

impl Node<'_> {
    fn field(&self, label: &str) -> &Self {
        let found = self.items.iter().find(|(name, _)| *name == label);
        &found.unwrap_or_else(|| panic!("no {label} in {}", self.name)).1
    }

    fn item(&self, index: usize) -> &Self {
        &self.items[index].1
    }

    fn number<T: std::str::FromStr>(&self) -> T {
        self.name.parse().ok().unwrap_or_else(|| panic!("{} is not a number", self.name))
    }

    fn scalar(&self) -> Fp {
        let mut bytes = data_encoding::HEXLOWER.decode(self.name.strip_prefix("0x").unwrap().as_bytes()).unwrap();
        bytes.reverse();
        Fp::from_repr(bytes.try_into().unwrap()).unwrap()
    }
}

fn expression(node: &Node<'_>) -> Expression {
    let query =
        || Query { column: node.field("column_index").number(), rotation: node.field("rotation").item(0).number() };
    let part = |index| Box::new(expression(node.item(index)));
    match node.name {
        "Constant" => Expression::Constant(node.item(0).scalar()),
        "Selector" => Expression::Selector(node.item(0).item(0).number()),
        "Fixed" => Expression::Fixed(query()),
        "Advice" => Expression::Advice(query()),
        "Instance" => Expression::Instance(query()),
        "Negated" => Expression::Negated(part(0)),
        "Sum" => Expression::Sum(part(0), part(1)),
        "Product" => Expression::Product(part(0), part(1)),
        "Scaled" => Expression::Scaled(part(0), node.item(1).scalar()),
        other => panic!("no expression is called {other}"),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn skip(&mut self, expected: char) -> bool {
        let rest = self.rest.trim_start();
        let found = rest.strip_prefix(expected);
        self.rest = found.unwrap_or(rest);
        found.is_some()
    }

    fn word(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// `Name`, `Name(..)`, `Name { label: .. }`, `(..)` or `[..]`.
    fn node(&mut self) -> Node<'a> {
        let name = self.word();
        let mut items = Vec::new();
        for (open, close) in [('(', ')'), ('[', ']'), ('{', '}')] {
            if !self.skip(open) {
                continue;
            }
            while !self.skip(close) {
                let label = if open == '{' { self.word() } else { "" };
                assert!(open != '{' || self.skip(':'), "a field without a value");
                items.push((label, self.node()));
                self.skip(',');
            }
            break;
        }
        Node { name, items }
    }
}
