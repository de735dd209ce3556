//! Planted bugs, each of which the searches must find, and the real circuits with one part taken away.

use ark_bn254::Fr;
use ark_ff::AdditiveGroup;
use ark_r1cs_std::{
    alloc::AllocVar,
    eq::EqGadget,
    fields::{FieldVar, fp::FpVar},
};
use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner, Value},
    dev::MockProver,
    pasta::Fp,
    plonk::{Circuit, ConstraintSystem, Constraints, Error, Expression, Selector, TableColumn},
    poly::Rotation,
};

use super::{
    halo2::{Allowed, search},
    mock::{Change, Perturbed},
    r1cs::Rank1,
    record::Record,
    system::System,
};
use crate::{
    gadgets::halo2::{Cell, KeyConfig, Lane},
    key_knowledge::symmetric::SuiteField,
};

const K: u32 = 7;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Bug {
    None,
    /// A limb goes into the hash without a range check.
    NoRange,
    /// The limb that is checked is not the one that is hashed.
    NoCopy,
    /// A bit is not constrained to be one.
    NoBoolean,
    /// A cell that nothing reads.
    NoReader,
    /// A public input that nothing reads.
    NoInput,
}

/// F = hash(d, low, bit), with F and d public.
struct Planted(Bug);

impl Planted {
    const LOW: u128 = 0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978;

    fn row(&self) -> Vec<Fp> {
        let (d, low, bit) = (Fp::from(7), Fp::from_number(Self::LOW), Fp::from(1));
        let mut row = vec![Fp::hash(d, low, bit), d];
        if self.0 == Bug::NoInput {
            row.push(Fp::from(9));
        }
        row
    }

    fn cell(config: &KeyConfig, layouter: &mut impl Layouter<Fp>, name: &str, value: Fp) -> Result<Cell, Error> {
        layouter.assign_region(
            || "alone",
            |mut region| region.assign_advice(|| name, config.state[0], 0, || Value::known(value)),
        )
    }
}

impl Circuit<Fp> for Planted {
    type Config = (KeyConfig, Selector);
    type FloorPlanner = SimpleFloorPlanner;

    fn without_witnesses(&self) -> Self {
        Self(self.0)
    }

    fn configure(meta: &mut ConstraintSystem<Fp>) -> Self::Config {
        let config = KeyConfig::configure(meta);
        let boolean = meta.selector();
        let column = config.state[1];
        meta.create_gate("boolean", |meta| {
            let (selector, bit) = (meta.query_selector(boolean), meta.query_advice(column, Rotation::cur()));
            Constraints::with_selector(selector, [("0 or 1", (Expression::Constant(Fp::from(1)) - bit.clone()) * bit)])
        });
        (config, boolean)
    }

    fn synthesize(&self, (config, boolean): Self::Config, mut layouter: impl Layouter<Fp>) -> Result<(), Error> {
        let low = Fp::from_number(Self::LOW);
        let mut hashed = match self.0 {
            Bug::NoRange => Self::cell(&config, &mut layouter, "low", low)?,
            _ => config.number(layouter.namespace(|| "low"), Lane::Sum, Value::known(low), 128)?,
        };
        if self.0 == Bug::NoCopy {
            hashed = Self::cell(&config, &mut layouter, "another low", low)?;
        }
        if self.0 == Bug::NoReader {
            Self::cell(&config, &mut layouter, "nobody's", low)?;
        }
        let bit = layouter.assign_region(
            || "bit",
            |mut region| {
                if self.0 != Bug::NoBoolean {
                    boolean.enable(&mut region, 0)?;
                }
                region.assign_advice(|| "bit", config.state[1], 0, || Value::known(Fp::from(1)))
            },
        )?;
        let domain = config.public_cell(layouter.namespace(|| "d"), 1)?;
        let fingerprint = config.hash(layouter.namespace(|| "hash"), [domain, hashed, bit])?;
        layouter.constrain_instance(fingerprint.cell(), config.public, 0)
    }
}

fn findings(bug: Bug) -> Vec<String> {
    let circuit = Planted(bug);
    let row = circuit.row();
    MockProver::run(K, &circuit, vec![row.clone()]).unwrap().verify().unwrap();
    let (description, record) = Record::of(K, &circuit, &row);
    search(&System::new(K, description, record), &Allowed { inputs: &[1], ..Allowed::CLOSED }, true).findings
}

#[test]
fn planted_bugs_are_found() {
    assert_eq!(findings(Bug::None), Vec::<String>::new());
    for (bug, expected) in [
        (Bug::NoRange, "1 directions are left with the public outputs free"),
        (Bug::NoCopy, "tied to no public input: low/number"),
        (Bug::NoCopy, "1 directions are left with the public outputs free"),
        (Bug::NoBoolean, "1 directions are left with the public outputs free"),
        (Bug::NoReader, "can be changed alone: /alone/nobody's"),
        (Bug::NoInput, "public input 2 is in no constraint"),
    ] {
        let found = findings(bug);
        assert!(found.iter().any(|line| line.starts_with(expected)), "{bug:?}: {found:#?}");
    }
}

#[test]
fn halo2_agrees_about_a_loose_cell() {
    let circuit = Planted(Bug::NoReader);
    let row = circuit.row();
    let (_, record) = Record::of(K, &circuit, &row);
    let perturbed = Perturbed(circuit);
    for (index, at) in record.order.iter().enumerate() {
        let loose = record.advice[at].1.ends_with("nobody's");
        let accepted = perturbed.accepted(K, &row, Some((index, Change::One)));
        assert_eq!(accepted, loose, "{}", record.advice[at].1);
    }
}

#[test]
fn a_cell_that_may_be_free_is_declared() {
    let circuit = Planted(Bug::NoReader);
    let (description, record) = Record::of(K, &circuit, &circuit.row());
    let system = System::new(K, description, record);
    let allowed = Allowed { inputs: &[1], cells: &[("nobody's", "a control")], ..Allowed::CLOSED };
    assert_eq!(search(&system, &allowed, false).findings, Vec::<String>::new());
    // A declaration of what is not free is out of date.
    let stale = Allowed { inputs: &[1], cells: &[("nobody's", "a control"), ("bit/bit", "wrong")], ..allowed };
    assert_eq!(search(&system, &stale, false).findings, ["declared free, and is not: bit/bit"]);
}

/// F = hash(.. hash(hash(d, n_0, m_0), n_1, m_1) ..) with n_i in a running sum's range and m_i in a lookup table; of one
/// link, m_i is not looked up.
struct Chain {
    unchecked: Option<usize>,
}

impl Chain {
    const K: u32 = 11;
    const LINKS: usize = 20;

    fn link(index: usize) -> (Fp, Fp) {
        (Fp::from_number(Planted::LOW + index as u128), Fp::from(index as u64 % 16))
    }

    fn row() -> [Fp; 2] {
        let domain = Fp::from(7);
        let links = (0..Self::LINKS).map(Self::link);
        [links.fold(domain, |state, (low, nibble)| Fp::hash(state, low, nibble)), domain]
    }
}

impl Circuit<Fp> for Chain {
    type Config = (KeyConfig, Selector, TableColumn);
    type FloorPlanner = SimpleFloorPlanner;

    fn without_witnesses(&self) -> Self {
        Self { ..*self }
    }

    fn configure(meta: &mut ConstraintSystem<Fp>) -> Self::Config {
        let config = KeyConfig::configure(meta);
        let (small, table) = (meta.complex_selector(), meta.lookup_table_column());
        let column = config.state[2];
        meta.lookup(|meta| {
            let (small, nibble) = (meta.query_selector(small), meta.query_advice(column, Rotation::cur()));
            vec![(small * nibble, table)]
        });
        (config, small, table)
    }

    fn synthesize(&self, config: Self::Config, mut layouter: impl Layouter<Fp>) -> Result<(), Error> {
        let (config, small, numbers) = config;
        layouter.assign_table(
            || "numbers below 16",
            |mut table| {
                (0..16_usize).try_for_each(|number| {
                    table.assign_cell(|| "n", numbers, number, || Value::known(Fp::from(number as u64)))
                })
            },
        )?;
        let mut state = config.public_cell(layouter.namespace(|| "d"), 1)?;
        for index in 0..Self::LINKS {
            let (low, nibble) = Self::link(index);
            let low = config.number(layouter.namespace(|| "low"), Lane::Sum, Value::known(low), 128)?;
            let nibble = layouter.assign_region(
                || "nibble",
                |mut region| {
                    if self.unchecked != Some(index) {
                        small.enable(&mut region, 0)?;
                    }
                    region.assign_advice(|| "nibble", config.state[2], 0, || Value::known(nibble))
                },
            )?;
            state = config.hash(layouter.namespace(|| "hash"), [state, low, nibble])?;
        }
        layouter.constrain_instance(state.cell(), config.public, 0)
    }
}

#[test]
fn one_missing_lookup_among_thousands_of_cells_is_found() {
    let row = Chain::row();
    MockProver::run(Chain::K, &Chain { unchecked: None }, vec![row.to_vec()]).unwrap().verify().unwrap();
    let findings = |unchecked| {
        let start = std::time::Instant::now();
        let (description, record) = Record::of(Chain::K, &Chain { unchecked }, &row);
        let system = System::new(Chain::K, description, record);
        let found = search(&system, &Allowed { inputs: &[1], ..Allowed::CLOSED }, false).findings;
        println!("{:?}: {:.1?}", system.shape(), start.elapsed());
        found
    };
    assert_eq!(findings(None), Vec::<String>::new());
    let found = findings(Some(11));
    assert!(found[0].starts_with("1 directions are left with the public outputs free"), "{found:#?}");
    assert!(found.iter().any(|line| line.contains("nibble/nibble")), "{found:#?}");
}

/// b0 + 2·b1 = x with x public, as bits or not.
fn sum(boolean: bool, output: bool) -> Rank1 {
    Rank1::of(|cs| {
        let x = FpVar::new_input(cs.clone(), || Ok(Fr::from(3)))?;
        let bits = [FpVar::new_witness(cs.clone(), || Ok(Fr::from(1)))?, FpVar::new_witness(cs, || Ok(Fr::from(1)))?];
        bits[0].square_equals(&bits[0])?;
        if boolean {
            bits[1].square_equals(&bits[1])?;
        }
        let [low, high] = bits;
        if output { (low + high.double()?).enforce_equal(&x) } else { low.enforce_equal(&FpVar::Constant(Fr::from(1))) }
    })
}

#[test]
fn planted_bugs_in_rank_1_are_found() {
    assert_eq!(sum(true, true).search(&[], &[]).findings, Vec::<String>::new());
    // With x fixed, the sum determines the bit to first order, and nothing would be seen.
    assert_eq!(sum(false, true).search(&[1], &[]).findings, Vec::<String>::new());
    assert!(sum(false, true).search(&[], &[]).findings[0].starts_with("1 directions with the public outputs free"));
    let loose = sum(true, false).search(&[], &[1]).findings;
    assert!(loose.iter().any(|line| line == "input 1 is free"), "{loose:?}");
    assert!(loose.iter().any(|line| line == "2 variables are tied to no public input"), "{loose:?}");
    let broken = Rank1 { values: vec![Fr::from(1), Fr::ZERO, Fr::ZERO, Fr::from(1)], ..sum(true, true) };
    assert!(broken.search(&[], &[]).findings[0].contains("breaks constraint"));
}
