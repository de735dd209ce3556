//! The searches over halo2 circuits.

use std::{collections::BTreeSet, time::Instant};

use halo2_proofs::{dev::MockProver, pasta::Fp, plonk::Circuit};

pub(crate) use super::system::Shape;
use super::{
    mock::{Change, Perturbed},
    record::{At, Record},
    system::{System, Tangents},
};
use crate::params::{Halo2Circuit, Halo2Keys};

/// Cells that halo2's own checker is asked about in [`assert_constrained`]; of large circuits a quarter as many.
const SAMPLE: usize = 48;
/// Largest K for which redundant rows are traced.
const SMALL: u32 = 8;
/// Every cell is changed by each of these.
const CHANGES: [Change; 4] = [Change::One, Change::MinusOne, Change::Limb, Change::Random(0x9e37_79b9_7f4a_7c15)];

/// What a circuit leaves open on purpose.
#[derive(Clone, Copy)]
pub(crate) struct Allowed<'a> {
    /// Rows of the instance column that are no function of the witness: domains, lengths, context. All others
    /// (fingerprints, commitments) are set free together in the second search for tangents. Listing a row here that
    /// is computed from the witness weakens the search.
    pub(crate) inputs: &'a [usize],
    /// Dimensions of the witness that are left when those are free: secrets that may be any field element.
    pub(crate) freedom: usize,
    /// How many of those dimensions are left when all that is public is fixed. To first order one equation determines
    /// one of the secrets in it, so a commitment to several with a blinder leaves the others open.
    pub(crate) hidden: usize,
    /// Cells that may hold anything, by a part of their names, each with the reason why that does no harm.
    pub(crate) cells: &'a [(&'a str, &'a str)],
    /// Copies, by parts of the names of the two cells, at which the circuit is cut into parts that are searched as well.
    ///
    /// Where a value is computed on one side and taken apart into isolated values on the other, it is determined twice,
    /// and a constraint that is missing on one side leaves no tangent. Cut there, each side must stand alone.
    pub(crate) cuts: &'a [(&'a str, &'a str)],
}

impl Allowed<'_> {
    /// Nothing.
    pub(crate) const CLOSED: Self = Self { inputs: &[], freedom: 0, hidden: 0, cells: &[], cuts: &[] };
}

/// What the searches found.
pub(crate) struct Report {
    pub(crate) shape: Shape,
    /// One line for each thing that is wrong.
    pub(crate) findings: Vec<String>,
    /// Rows of gates that follow from others to first order, by the polynomial's number: (polynomial, rows).
    pub(crate) redundant: Vec<(usize, usize)>,
}

fn system<C: Circuit<Fp>>(k: u32, circuit: &C, public: &[Fp]) -> System {
    parts(k, circuit, public, &[])
}

/// The circuit without the copies at which it is cut.
fn parts<C: Circuit<Fp>>(k: u32, circuit: &C, public: &[Fp], cuts: &[(&str, &str)]) -> System {
    let (description, mut record) = Record::of(k, circuit, public);
    for (left, right) in cuts {
        let before = record.copies.len();
        let kept = |copy: &(At, At)| {
            let names = [&copy.0, &copy.1].map(|at| record.name(at));
            !(names.iter().any(|name| name.contains(left)) && names.iter().any(|name| name.contains(right)))
        };
        let copies = record.copies.iter().copied().filter(kept).collect();
        record.copies = copies;
        assert_eq!(record.copies.len() + 1, before, "{left} = {right} is one copy");
    }
    System::new(k, description, record)
}

/// A circuit in numbers.
pub(crate) fn shape<C: Halo2Circuit>(circuit: &C, public: &[Fp]) -> Shape {
    system(C::K, circuit, public).shape()
}

/// The searches over a recorded system.
pub(super) fn search(system: &System, allowed: &Allowed<'_>, trace: bool) -> Report {
    let mut findings = Vec::new();
    let mut pinned = BTreeSet::new();
    let mut stale: BTreeSet<&str> = allowed.cells.iter().map(|(name, _)| *name).collect();
    let mut report = |what: &str, classes: &mut dyn Iterator<Item = usize>| {
        for class in classes {
            let name = system.describe(class);
            let declared = allowed.cells.iter().find(|(part, _)| name.contains(part));
            match declared {
                Some((part, _)) => {
                    stale.remove(part);
                    pinned.insert(class);
                }
                None => findings.push(format!("{what}: {name}")),
            }
        }
    };
    let changes: Vec<Fp> = CHANGES.iter().map(|change| change.delta()).collect();
    report("can be changed alone", &mut system.loose(&changes).into_iter());
    report("tied to no public input", &mut system.detached().into_iter());
    findings.extend(stale.into_iter().map(|name| format!("declared free, and is not: {name}")));
    findings.extend(system.unbound().into_iter().map(|row| format!("public input {row} is in no constraint")));

    let (directions, redundant) = directions(system, allowed, &pinned, trace);
    findings.extend(directions);
    Report { shape: system.shape(), findings, redundant }
}

/// The two searches for tangents, and which rows of gates follow from others.
fn directions(
    system: &System,
    allowed: &Allowed<'_>,
    pinned: &BTreeSet<usize>,
    trace: bool,
) -> (Vec<String>, Vec<(usize, usize)>) {
    let outputs: Vec<usize> = (0..system.shape().public).filter(|row| !allowed.inputs.contains(row)).collect();
    let freed = system.tangents(&outputs, pinned, trace);
    // Whatever is left with the outputs fixed is left with them free.
    let fixed = if freed.dimension == 0 { Tangents::default() } else { system.tangents(&[], pinned, false) };
    let mut findings = Vec::new();
    for (found, expected, what) in
        [(&fixed, allowed.hidden, "the public inputs fixed"), (&freed, allowed.freedom, "the public outputs free")]
    {
        if found.dimension != expected {
            findings.push(format!("{} directions are left with {what}, not {expected}; they move", found.dimension));
            findings.extend(found.moved.iter().take(12).map(|class| format!("  {}", system.describe(*class))));
        }
    }
    (findings, freed.redundant.into_iter().collect())
}

/// Puts a circuit through every search, and prints what it is made of.
///
/// # Panics
/// When a search finds something that is not declared, or when halo2's checker disagrees with the recorded system.
pub(crate) fn assert_constrained<C: Halo2Circuit>(circuit: C, public: &[Fp], allowed: &Allowed<'_>) -> Report {
    let start = Instant::now();
    assert_eq!(public.len(), C::PUBLIC, "{}", C::KIND);
    let system = system(C::K, &circuit, public);
    let report = search(&system, allowed, C::K <= SMALL);
    assert!(report.findings.is_empty(), "{}:\n{}", C::KIND, report.findings.join("\n"));
    if !allowed.cuts.is_empty() {
        assert!(allowed.cells.is_empty(), "which cells are free is found in the whole circuit");
        let parts = parts(C::K, &circuit, public, allowed.cuts);
        let (findings, _) = directions(&parts, allowed, &BTreeSet::new(), false);
        assert!(findings.is_empty(), "{}, cut:\n{}", C::KIND, findings.join("\n"));
    }
    let searched = start.elapsed();
    let sample = if C::K <= 9 { SAMPLE } else { SAMPLE / 4 };
    let checked = ask_halo2(C::K, circuit, public, &system, allowed, sample);
    println!("{}: {:?}", C::KIND, report.shape);
    println!("  redundant to first order, (polynomial, rows): {:?}", report.redundant);
    println!("  searched in {searched:.1?}; halo2's checker refused {checked} changed cells, {:.1?}", start.elapsed());
    report
}

/// Changes every advice cell in turn and asks halo2's own checker, at 5 ms and more for a cell of the smallest circuits.
pub(crate) fn assert_every_cell_refused<C: Halo2Circuit>(circuit: C, public: &[Fp], allowed: &Allowed<'_>) {
    let system = system(C::K, &circuit, public);
    let cells = system.shape().cells;
    assert_eq!(ask_halo2(C::K, circuit, public, &system, allowed, usize::MAX), cells);
}

/// Changes cells one by one and asks halo2's own checker: the first of each region and others, evenly spread, at most
/// `most` of them. The recorded system has looked at every cell; this is to see that the two agree.
fn ask_halo2<C: Circuit<Fp>>(
    k: u32,
    circuit: C,
    public: &[Fp],
    system: &System,
    allowed: &Allowed<'_>,
    most: usize,
) -> usize {
    let record = system.record();
    let perturbed = Perturbed(circuit);
    assert!(perturbed.accepted(k, public, None), "halo2 refuses the honest assignment");
    let mut chosen = Vec::new();
    let mut region = "";
    for (index, at) in record.order.iter().enumerate() {
        let name = record.advice[at].1.as_str();
        // A cell that is assigned again later keeps nothing of this.
        let last = record.order.iter().skip(index + 1).take(64).all(|other| other != at);
        let free = allowed.cells.iter().any(|(part, _)| name.contains(part));
        let of = name.rsplit_once('/').map_or("", |(of, _)| of);
        if last && !free {
            chosen.push((of != region, index));
        }
        region = of;
    }
    let (first, rest): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|(first, _)| *first);
    let spread = |from: Vec<(bool, usize)>| {
        let step = from.len().div_ceil(most.div_ceil(2)).max(1);
        from.into_iter().step_by(step).map(|(_, index)| index)
    };
    let sample: Vec<usize> = spread(first).chain(spread(rest)).collect();
    for (turn, index) in sample.iter().enumerate() {
        let change = CHANGES[turn % CHANGES.len()];
        let at = record.order[*index];
        assert!(
            !perturbed.accepted(k, public, Some((*index, change))),
            "halo2 lets {} be changed",
            record.advice[&at].1
        );
    }
    sample.len()
}

/// Forces consistent wrong witnesses: each circuit is filled in as its own (wrong) witness says, for the public row
/// beside it, and neither halo2's checker nor the verifier may accept.
///
/// The first `proofs` cases are proven as well; a proof takes about as long as an honest one.
pub(crate) fn assert_refused<C: Halo2Circuit>(
    keys: &Halo2Keys<C>,
    cases: impl IntoIterator<Item = (&'static str, C, Vec<Fp>)>,
    proofs: usize,
) {
    let mut count = 0;
    for (name, circuit, public) in cases {
        assert_eq!(public.len(), C::PUBLIC, "{name}");
        let mock = MockProver::run(C::K, &circuit, vec![public.clone()]);
        assert!(mock.is_err() || mock.is_ok_and(|mock| mock.verify().is_err()), "{}: {name} holds", C::KIND);
        if count < proofs
            && let Ok(proof) = keys.prove(circuit, &public)
        {
            assert!(keys.verify(&public, &proof).is_err(), "{}: {name} has a proof", C::KIND);
        }
        count += 1;
    }
    assert!(count > 0, "{}: no strategy", C::KIND);
}

/// Takes enabled selectors and copies away in turn, every `step`th of them, and lists those that the searches miss
/// neither in the circuit's parts nor in the whole.
pub(crate) fn weakened<C: Halo2Circuit>(circuit: &C, public: &[Fp], allowed: &Allowed<'_>, step: usize) -> Vec<String> {
    let system_without = |cuts, weaken: &dyn Fn(&mut Record)| {
        let (description, mut record) = parts(C::K, circuit, public, cuts).into_parts();
        weaken(&mut record);
        System::new(C::K, description, record)
    };
    let missed = |weaken: &dyn Fn(&mut Record)| {
        let in_parts = || {
            let parts = system_without(allowed.cuts, weaken);
            !directions(&parts, allowed, &BTreeSet::new(), false).0.is_empty()
        };
        (!allowed.cuts.is_empty() && in_parts())
            || !search(&system_without(&[], weaken), allowed, false).findings.is_empty()
    };
    let (_, whole) = system(C::K, circuit, public).into_parts();
    let selectors = whole.selectors.iter().step_by(step).filter(|on| {
        !missed(&|record| {
            record.selectors.remove(*on);
        })
    });
    let copies =
        whole.copies.iter().step_by(step).filter(|copy| !missed(&|record| record.copies.retain(|of| of != *copy)));
    let selectors = selectors.map(|(selector, row)| format!("selector {selector} on row {row}"));
    let copies = copies.map(|(left, right)| format!("copy {} = {}", whole.name(left), whole.name(right)));
    selectors.chain(copies).collect()
}
