//! Poseidon (Zcash Orchard's P128Pow5T3) in rows of twelve cells, for circuits that hash much.
//!
//! A permutation takes seven rows, and every cell holds the input of one S-box:
//!
//! | row | cells |
//! |---|---|
//! | 0 | the whole state before the full rounds 0, 1, 2, 3 |
//! | 1 to 5 | the first word of the state before each of the 56 partial rounds; four cells are left over |
//! | 6 | the whole state before the full rounds 60, 61, 62, 63 |
//!
//! In the partial rounds two words of the state pass no S-box, so they are linear in what came before and need no cells. They follow
//! z' = N z + n s + r, where N is the lower right part of the matrix, n its first column and s the S-box's output; the next
//! S-box input is u' = M_00 s + m z + c. By Cayley and Hamilton, N^2 = tr(N) N - det(N), so that z drops out of
//! u_(t+3) - tr(N) u_(t+2) + det(N) u_(t+1): each input follows from the three before it, with the same factors in each round.
//! Round constants join one constant for each cell.

use std::sync::Arc;

use ff::Field;
use halo2_poseidon::{P128Pow5T3, Spec};
use halo2_proofs::{
    circuit::{Region, Value},
    pasta::Fp,
    plonk::{
        Advice, Column, ConstraintSystem, Constraints, Error as PlonkError, Expression, Fixed, Selector, VirtualCells,
    },
    poly::Rotation,
};

/// Cells of a row.
pub(crate) const WIDTH: usize = 12;
/// Rows of a permutation.
pub(crate) const ROWS: usize = 7;
/// Words of the state.
const WORDS: usize = 3;
/// Full rounds before the partial ones, and after them; they fill a row.
const HALF: usize = WIDTH / WORDS;
/// Partial rounds.
const PARTIAL: usize = 56;

/// The cells of a permutation, row by row.
pub(crate) type Cells = [[Fp; WIDTH]; ROWS];

/// Words of the state that pass no S-box, or factors of them.
type Pair = [Fp; 2];

fn dot<const N: usize>(left: [Fp; N], right: [Fp; N]) -> Fp {
    left.into_iter().zip(right).map(|(left, right)| left * right).sum()
}

fn fifth(base: Fp) -> Fp {
    base.square().square() * base
}

/// `rows · column`.
fn apply<const N: usize, const M: usize>(rows: [[Fp; N]; M], column: [Fp; N]) -> [Fp; M] {
    rows.map(|row| dot(row, column))
}

fn add<const N: usize>(left: [Fp; N], right: [Fp; N]) -> [Fp; N] {
    let mut sums = left;
    sums.iter_mut().zip(right).for_each(|(sum, addend)| *sum += addend);
    sums
}

/// The matrix in parts, as the module's description names them.
struct Matrix {
    whole: [[Fp; WORDS]; WORDS],
    /// M_00.
    corner: Fp,
    /// m.
    row: Pair,
    /// n.
    column: Pair,
    /// N.
    rest: [Pair; 2],
    /// m N.
    row_rest: Pair,
}

impl Matrix {
    fn new(whole: [[Fp; WORDS]; WORDS]) -> Self {
        let [[corner, a, b], [c, d, e], [f, g, h]] = whole;
        let (row, rest) = ([a, b], [[d, e], [g, h]]);
        Self { whole, corner, row, column: [c, f], rest, row_rest: [a * d + b * g, a * e + b * h] }
    }

    fn trace(&self) -> Fp {
        let [[d, _], [_, h]] = self.rest;
        d + h
    }

    fn determinant(&self) -> Fp {
        let [[d, e], [g, h]] = self.rest;
        d * h - e * g
    }

    /// Factors of the words without an S-box, `factors · z`, in terms of the fifth powers of a whole state before them.
    fn through(&self, factors: Pair) -> [Fp; WORDS] {
        let [_, second, third] = self.whole;
        let [x, y] = factors;
        add(second.map(|entry| entry * x), third.map(|entry| entry * y))
    }
}

/// What a word after the partial rounds is made of: u_54, u_55, u_53^5, u_54^5, u_55^5, 1.
type Form = [Fp; 6];

/// The factors of the gates and the constants of the cells.
struct Factors {
    matrix: Matrix,
    rounds: Vec<[Fp; WORDS]>,
    /// Of u_t^5, u_(t+1)^5, u_(t+2)^5 in u_(t+3).
    fifths: [Fp; 3],
    /// Of u_(t+1), u_(t+2) in u_(t+3).
    linear: [Fp; 2],
    /// Of the last full state's fifth powers, and of u_0^5, u_1^5, in u_0, u_1, u_2.
    start: [([Fp; WORDS], [Fp; 2]); 3],
    /// Of the words after the partial rounds.
    end: [Form; WORDS],
    /// Added in each cell.
    constants: Cells,
}

impl Factors {
    fn new() -> Self {
        let (rounds, matrix, _) = <P128Pow5T3 as Spec<Fp, WORDS, 2>>::constants();
        let matrix = Matrix::new(matrix);
        let (trace, determinant) = (matrix.trace(), matrix.determinant());
        let [through, deep] = [matrix.row, matrix.row_rest].map(|factors| dot(factors, matrix.column));
        let [first, _, _] = matrix.whole;
        let mut factors = Self {
            rounds,
            fifths: [
                deep - trace * through + determinant * matrix.corner,
                through - trace * matrix.corner,
                matrix.corner,
            ],
            linear: [-determinant, trace],
            start: [
                (first, [Fp::ZERO; 2]),
                (matrix.through(matrix.row), [matrix.corner, Fp::ZERO]),
                (matrix.through(matrix.row_rest), [through, matrix.corner]),
            ],
            end: [[Fp::ZERO; 6]; WORDS],
            constants: [[Fp::ZERO; WIDTH]; ROWS],
            matrix,
        };
        factors.end = factors.after_partial();
        factors.constants = factors.cell_constants();
        factors
    }

    /// Round constants of partial round `t`, of the first word and of the others. Round 56 is the full one after them.
    fn partial(&self, t: usize) -> (Fp, Pair) {
        let [first, rest @ ..] = self.rounds.get(HALF + t).copied().unwrap_or_default();
        (first, rest)
    }

    /// The constant of u_t; for `t` at least 3.
    fn constant(&self, t: usize) -> Fp {
        let Matrix { row, row_rest, .. } = self.matrix;
        let [(one, one_rest), (two, two_rest), (three, _)] = [t - 2, t - 1, t].map(|t| self.partial(t));
        three + dot(row_rest, one_rest) + dot(row, two_rest) + self.matrix.determinant() * one
            - self.matrix.trace() * (two + dot(row, one_rest))
    }

    /// The state before the first full round after the partial ones, from the last three S-box inputs.
    fn after_partial(&self) -> [Form; WORDS] {
        let Matrix { corner, row, column, rest, row_rest, .. } = self.matrix;
        let atom = |index: usize| -> Form { std::array::from_fn(|other| Fp::from(u64::from(index == other))) };
        let scale = |form: Form, factor: Fp| form.map(|entry| entry * factor);
        let (fifths, one) = ([2, 3, 4].map(atom), atom(5));
        let [fifth_53, fifth_54, _] = fifths;
        let [(_, _), (c_54, r_54), (c_55, _)] = [53, 54, 55].map(|t| self.partial(t));
        // m z_53 and m N z_53 are known from u_54 and u_55, and give z_53.
        let known = [
            add(add(atom(0), scale(fifth_53, -corner)), scale(one, -c_54)),
            add(
                add(add(atom(1), scale(fifth_54, -corner)), scale(fifth_53, -dot(row, column))),
                scale(one, -dot(row, r_54) - c_55),
            ),
        ];
        let combine = |[x, y]: Pair, [left, right]: [Form; 2]| add(scale(left, x), scale(right, y));
        let [[a, b], [c, d]] = [row, row_rest];
        let inverse = (a * d - b * c).invert().unwrap_or(Fp::ZERO);
        let mut others = [[d, -b], [-c, a]].map(|pair| scale(combine(pair, known), inverse));
        let mut first = atom(0);
        for (t, fifth) in (54..).zip(fifths) {
            let (constant, constants) = self.partial(t);
            let next =
                |factor, row, constant| add(add(scale(fifth, factor), combine(row, others)), scale(one, constant));
            first = next(corner, row, constant);
            let ([n, o], [row_n, row_o], [r, s]) = (column, rest, constants);
            others = [next(n, row_n, r), next(o, row_o, s)];
        }
        let [second, third] = others;
        [first, second, third]
    }

    /// The constant of each cell.
    fn cell_constants(&self) -> Cells {
        let Matrix { row, row_rest, .. } = self.matrix;
        let [(zero, zero_rest), (one, one_rest), (two, _)] = [0, 1, 2].map(|t| self.partial(t));
        let starts = [zero, dot(row, zero_rest) + one, dot(row_rest, zero_rest) + dot(row, one_rest) + two];
        let partial = starts.into_iter().chain((3..PARTIAL).map(|t| self.constant(t)));
        let spare = (ROWS - 2) * WIDTH - PARTIAL;
        let before = self.rounds.iter().take(HALF).flatten().copied();
        let entry = self.end.map(|[.., constant]| constant);
        let after = entry.into_iter().chain(self.rounds.iter().skip(HALF + PARTIAL + 1).flatten().copied());
        let mut all = before.chain(partial).chain(std::iter::repeat_n(Fp::ZERO, spare)).chain(after);
        std::array::from_fn(|_| std::array::from_fn(|_| all.next().unwrap_or_default()))
    }

    /// A full round: the matrix on the fifth powers, before the next round's constants.
    fn mix(&self, state: [Fp; WORDS]) -> [Fp; WORDS] {
        apply(self.matrix.whole, state.map(fifth))
    }

    /// The cells of a permutation whose first round sees `state`, constants included; and what it yields.
    fn permute(&self, state: [Fp; WORDS]) -> (Cells, [Fp; WORDS]) {
        let mut cells: Vec<Fp> = Vec::with_capacity(ROWS * WIDTH);
        let mut state = state;
        let mut rounds = self.rounds.iter().skip(1);
        let mut constants = || rounds.next().copied().unwrap_or_default();
        for _ in 0..HALF {
            cells.extend(state);
            state = add(self.mix(state), constants());
        }
        for _ in 0..PARTIAL {
            let [first, second, third] = state;
            cells.push(first);
            state = add(apply(self.matrix.whole, [fifth(first), second, third]), constants());
        }
        while cells.len() < (ROWS - 1) * WIDTH {
            cells.push(self.step(&cells));
        }
        for _ in 0..HALF {
            cells.extend(state);
            state = add(self.mix(state), constants());
        }
        let mut all = cells.into_iter();
        (std::array::from_fn(|_| std::array::from_fn(|_| all.next().unwrap_or_default())), state)
    }

    /// The S-box input after the last three of `cells`, without a constant.
    fn step(&self, cells: &[Fp]) -> Fp {
        let [.., x, y, z] = cells else { return Fp::ZERO };
        dot(self.fifths, [*x, *y, *z].map(fifth)) + dot(self.linear, [*y, *z])
    }
}

/// A fifth power.
fn power(base: &Expression<Fp>) -> Expression<Fp> {
    let square = base.clone() * base.clone();
    square.clone() * square * base.clone()
}

/// `factors · terms`.
fn sum<const N: usize>(factors: [Fp; N], terms: [Expression<Fp>; N]) -> Expression<Fp> {
    let terms = terms.into_iter().zip(factors).filter(|(_, factor)| *factor != Fp::ZERO);
    terms
        .map(|(term, factor)| term * factor)
        .reduce(|left, right| left + right)
        .unwrap_or(Expression::Constant(Fp::ZERO))
}

/// Columns and gates of permutations.
#[derive(Clone)]
pub(crate) struct PoseidonConfig {
    factors: Arc<Factors>,
    cells: [Column<Advice>; WIDTH],
    constants: [Column<Fixed>; WIDTH],
    /// On rows 0 and 6.
    full: Selector,
    /// On row 1.
    start: Selector,
    /// On rows 1 to 5.
    partial: Selector,
    /// On rows 2 to 5.
    further: Selector,
    /// On row 6.
    end: Selector,
}

impl PoseidonConfig {
    /// Lays out columns and gates. What goes into a permutation, and what comes out, is for the circuit's own gates:
    /// [`Self::input`] and [`Self::output`].
    pub(crate) fn configure(meta: &mut ConstraintSystem<Fp>) -> Self {
        let cells = [(); WIDTH].map(|()| meta.advice_column());
        let constants = [(); WIDTH].map(|()| meta.fixed_column());
        let [full, start, partial, further, end] = [(); 5].map(|()| meta.selector());
        let config = Self { factors: Arc::new(Factors::new()), cells, constants, full, start, partial, further, end };
        config.full_gate(meta);
        config.partial_gates(meta);
        config.edge_gates(meta);
        config
    }

    /// The cells of a row, without their constants, and the cells themselves.
    fn row(&self, meta: &mut VirtualCells<'_, Fp>, rotation: Rotation) -> [Expression<Fp>; WIDTH] {
        self.cells.map(|column| meta.query_advice(column, rotation))
    }

    fn without_constants(&self, meta: &mut VirtualCells<'_, Fp>) -> [Expression<Fp>; WIDTH] {
        let mut row = self.row(meta, Rotation::cur());
        row.iter_mut().zip(self.constants).for_each(|(cell, constant)| {
            *cell = cell.clone() - meta.query_fixed(constant);
        });
        row
    }

    fn full_gate(&self, meta: &mut ConstraintSystem<Fp>) {
        meta.create_gate("full rounds", |meta| {
            let (cells, targets) = (self.row(meta, Rotation::cur()), self.without_constants(meta));
            let (rounds, _) = cells.as_chunks::<WORDS>();
            let (targets, _) = targets.as_chunks::<WORDS>();
            let round = |(state, next): (&[_; WORDS], &[Expression<Fp>; WORDS])| {
                let mixed = self.mixed(state);
                next.clone().into_iter().zip(mixed).map(|(next, mixed)| mixed - next).collect::<Vec<_>>()
            };
            let polynomials: Vec<_> = rounds.iter().zip(targets.iter().skip(1)).flat_map(round).collect();
            Constraints::with_selector(meta.query_selector(self.full), polynomials)
        });
    }

    fn mixed(&self, state: &[Expression<Fp>; WORDS]) -> [Expression<Fp>; WORDS] {
        self.factors.matrix.whole.map(|row| sum(row, state.each_ref().map(power)))
    }

    fn partial_gates(&self, meta: &mut ConstraintSystem<Fp>) {
        // Each polynomial: three cells, and the one that follows.
        let follow = |cells: &[Expression<Fp>], target: &Expression<Fp>| {
            let [.., x, y, z] = cells else { return None };
            let linear = sum(self.factors.linear, [y.clone(), z.clone()]);
            Some(sum(self.factors.fifths, [x, y, z].map(power)) + linear - target.clone())
        };
        meta.create_gate("partial rounds", |meta| {
            let (cells, targets) = (self.row(meta, Rotation::cur()), self.without_constants(meta));
            let polynomials: Vec<_> = cells
                .windows(3)
                .zip(targets.iter().skip(3))
                .filter_map(|(cells, target)| follow(cells, target))
                .collect();
            Constraints::with_selector(meta.query_selector(self.partial), polynomials)
        });
        meta.create_gate("partial rounds, from the row before", |meta| {
            let (before, now) = (self.row(meta, Rotation::prev()), self.row(meta, Rotation::cur()));
            let targets = self.without_constants(meta);
            let cells = [before, now].concat();
            let polynomials: Vec<_> = cells
                .windows(3)
                .skip(WIDTH - 3)
                .zip(targets.iter().take(3))
                .filter_map(|(cells, target)| follow(cells, target))
                .collect();
            Constraints::with_selector(meta.query_selector(self.further), polynomials)
        });
    }

    fn edge_gates(&self, meta: &mut ConstraintSystem<Fp>) {
        meta.create_gate("into the partial rounds", |meta| {
            let [.., x, y, z] = self.row(meta, Rotation::prev());
            let [first, second, ..] = self.row(meta, Rotation::cur());
            let targets = self.without_constants(meta);
            let state = [&x, &y, &z].map(power);
            let inputs = [&first, &second].map(power);
            let polynomials: Vec<_> = targets
                .into_iter()
                .zip(self.factors.start)
                .map(|(target, (old, new))| sum(old, state.clone()) + sum(new, inputs.clone()) - target)
                .collect();
            Constraints::with_selector(meta.query_selector(self.start), polynomials)
        });
        meta.create_gate("out of the partial rounds", |meta| {
            let before = self.row(meta, Rotation::prev());
            let targets = self.without_constants(meta);
            // u_53, u_54, u_55.
            let last = before.into_iter().skip(PARTIAL - 4 * WIDTH - 3).take(3).collect::<Vec<_>>();
            let polynomials = match last.as_slice() {
                [x, y, z] => {
                    let atoms = [y.clone(), z.clone(), power(x), power(y), power(z)];
                    let ends = self.factors.end.map(|[a, b, c, d, e, _]| sum([a, b, c, d, e], atoms.clone()));
                    targets.into_iter().zip(ends).map(|(target, end)| end - target).collect()
                }
                _ => Vec::new(),
            };
            Constraints::with_selector(meta.query_selector(self.end), polynomials)
        });
    }

    /// What a permutation is given, seen from its row 0.
    pub(crate) fn input(&self, meta: &mut VirtualCells<'_, Fp>) -> [Expression<Fp>; WORDS] {
        let [x, y, z, ..] = self.without_constants(meta);
        [x, y, z]
    }

    /// What a permutation yields; `rotation` leads to its row 6.
    pub(crate) fn output(&self, meta: &mut VirtualCells<'_, Fp>, rotation: Rotation) -> [Expression<Fp>; WORDS] {
        let [.., x, y, z] = self.row(meta, rotation);
        self.mixed(&[x, y, z])
    }

    /// Fills in a permutation of `state` from row `offset` of the region. Returns what it yields: values that no cell holds.
    pub(crate) fn assign(
        &self,
        region: &mut Region<'_, Fp>,
        offset: usize,
        state: [Value<Fp>; WORDS],
    ) -> Result<[Value<Fp>; WORDS], PlonkError> {
        for (row, on) in [(0, self.full), (1, self.start), (ROWS - 1, self.full), (ROWS - 1, self.end)] {
            on.enable(region, offset + row)?;
        }
        (1..ROWS - 1).try_for_each(|row| self.partial.enable(region, offset + row))?;
        (2..ROWS - 1).try_for_each(|row| self.further.enable(region, offset + row))?;
        let [x, y, z] = state;
        let first = self.factors.rounds.first().copied().unwrap_or_default();
        let filled = x.zip(y).zip(z).map(|((x, y), z)| self.factors.permute(add([x, y, z], first)));
        for (row, constants) in self.factors.constants.iter().enumerate() {
            let mut columns = self.cells.iter().zip(&self.constants).zip(constants).enumerate();
            columns.try_for_each(|(index, ((cell, column), constant))| {
                region.assign_fixed(|| "constant", *column, offset + row, || Value::known(*constant))?;
                let value = filled.as_ref().map(|(cells, _)| cells.get(row).and_then(|row| row.get(index)).copied());
                region.assign_advice(
                    || format!("S-box {row}.{index}"),
                    *cell,
                    offset + row,
                    || value.map(Option::unwrap_or_default),
                )?;
                Ok::<_, PlonkError>(())
            })?;
        }
        Ok([0, 1, 2].map(|word: usize| filled.as_ref().map(|(_, state)| state.get(word).copied().unwrap_or_default())))
    }
}
