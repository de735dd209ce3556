//! How two operations are compared: interleaved rounds in one process, the ratio of each round, and the median of the
//! ratios.

use std::{
    fmt::Write as _,
    sync::LazyLock,
    time::{Duration, Instant},
};

use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::time::{ClockId, clock_gettime};

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Full sizes, several rounds.
    Full,
    /// The smallest sizes, one round: shows that everything still runs and refuses what it must.
    Quick,
}

impl Mode {
    /// A size of this mode.
    pub(crate) fn size(self, full: usize, quick: usize) -> usize {
        if self == Self::Full { full } else { quick }
    }

    const fn rounds(self) -> usize {
        if matches!(self, Self::Full) { 9 } else { 1 }
    }

    /// An operation is repeated for at least this long in each round.
    const fn at_least(self) -> Duration {
        Duration::from_millis(if matches!(self, Self::Full) { 100 } else { 0 })
    }

    /// After this long no further round begins, once there are [`FEWEST`].
    const fn at_most(self) -> Duration {
        Duration::from_secs(if matches!(self, Self::Full) { 15 } else { 0 })
    }
}

/// Fewest rounds of a full measurement.
const FEWEST: usize = 3;

/// What is read before and after an operation.
#[derive(Clone, Copy)]
pub(crate) enum Clock {
    /// CPU time of the whole process, all threads: what other programs do counts little.
    Cpu,
    /// Wall time.
    Wall,
}

impl Clock {
    fn now(self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        match self {
            Self::Wall => START.elapsed(),
            Self::Cpu => {
                let time = clock_gettime(ClockId::ProcessCPUTime);
                Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
            }
        }
    }
}

/// A pool of `threads` threads. Everything that is measured runs inside of one.
pub(crate) fn pool(threads: usize) -> &'static ThreadPool {
    static POOLS: LazyLock<[ThreadPool; 2]> =
        LazyLock::new(|| [1, 2].map(|threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap()));
    &POOLS[threads - 1]
}

/// One side of a comparison.
pub(crate) struct Side {
    /// Proofs, shares or keys that one call deals with.
    units: f64,
    work: Box<dyn FnMut() + Send>,
}

impl Side {
    /// `work` deals with `units` at a time, and panics where the outcome is wrong.
    pub(crate) fn new(units: usize, work: impl FnMut() + Send + 'static) -> Self {
        Self { units: units as f64, work: Box::new(work) }
    }

    /// Seconds for each unit, over as many calls as fill `at_least`.
    pub(crate) fn seconds(&mut self, threads: usize, clock: Clock, at_least: Duration) -> f64 {
        let Self { units, work } = self;
        pool(threads).install(|| {
            let (start, mut calls) = (clock.now(), 0.0);
            loop {
                work();
                calls += 1.0;
                let spent = clock.now() - start;
                if spent >= at_least {
                    return spent.as_secs_f64() / calls / *units;
                }
            }
        })
    }
}

/// A row, with both sides ready.
pub(crate) struct Comparison {
    /// What both sides do, with sizes.
    pub(crate) operation: String,
    /// Who does it on the other side, and how.
    pub(crate) peer: String,
    /// What the times are of: "proof", "share".
    pub(crate) unit: &'static str,
    pub(crate) ours: Side,
    pub(crate) peers: Side,
    /// Whether ours is a batch, whose work two threads can share.
    pub(crate) batch: bool,
}

/// A row of the table.
pub(crate) struct Row {
    /// What `--row` selects.
    pub(crate) name: String,
    /// The ratio that is wanted; zero where none is.
    pub(crate) wanted: f64,
    /// Makes both sides ready, and panics unless they accept what is good and refuse what is bad.
    pub(crate) build: Box<dyn Fn(Mode) -> Comparison>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, wanted: f64, build: impl Fn(Mode) -> Comparison + 'static) -> Self {
        Self { name: name.into(), wanted, build: Box::new(build) }
    }
}

/// What was measured in one row.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) operation: String,
    pub(crate) peer: String,
    pub(crate) unit: &'static str,
    /// Medians, in seconds a unit.
    pub(crate) ours: f64,
    pub(crate) peers: f64,
    /// Median and quartiles of the peer's time divided by ours.
    pub(crate) ratio: f64,
    pub(crate) spread: [f64; 2],
    pub(crate) wanted: f64,
    pub(crate) rounds: usize,
}

/// Measures a row; a batch also on two threads beside one.
pub(crate) fn measure(row: &Row, mode: Mode) -> Vec<Figure> {
    let Comparison { operation, peer, unit, mut ours, mut peers, batch } = (row.build)(mode);
    let figure = |name: String, operation, peer, wanted, times: Vec<[f64; 2]>| {
        let quantile = |share: f64, of: fn(&[f64; 2]) -> f64| quantile(share, times.iter().map(of));
        let ratio = |[ours, peers]: &[f64; 2]| peers / ours;
        let spread = [quantile(0.25, ratio), quantile(0.75, ratio)];
        let (ours, peers, rounds) = (quantile(0.5, |pair| pair[0]), quantile(0.5, |pair| pair[1]), times.len());
        let ratio = quantile(0.5, ratio);
        Figure { name, operation, peer, unit, ours, peers, ratio, spread, wanted, rounds }
    };
    let alone =
        interleave(mode, |at_least| [ours.seconds(1, Clock::Cpu, at_least), peers.seconds(1, Clock::Cpu, at_least)]);
    let shared = batch.then(|| {
        drop(peers);
        let times = interleave(mode, |at_least| [2, 1].map(|threads| ours.seconds(threads, Clock::Wall, at_least)));
        let name = format!("{}/2-threads", row.name);
        figure(name, operation.clone(), "the same on one thread, wall time".to_owned(), 1.7, times)
    });
    std::iter::once(figure(row.name.clone(), operation, peer, row.wanted, alone)).chain(shared).collect()
}

/// Rounds of ours beside the peer's, after one that is not counted.
fn interleave(mode: Mode, mut round: impl FnMut(Duration) -> [f64; 2]) -> Vec<[f64; 2]> {
    let start = Instant::now();
    if mode == Mode::Full {
        round(Duration::ZERO);
    }
    let mut times = Vec::with_capacity(mode.rounds());
    while times.len() < mode.rounds() && (times.len() < FEWEST || start.elapsed() < mode.at_most()) {
        times.push(round(mode.at_least()));
    }
    times
}

/// Linear between the two nearest values.
fn quantile(share: f64, values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let place = share * (values.len() - 1) as f64;
    let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// Median time of some rounds of one operation, in seconds a unit: a point of a plot.
pub(crate) fn median(mode: Mode, mut side: Side) -> f64 {
    let at_least = mode.at_least() / 3;
    side.seconds(1, Clock::Cpu, Duration::ZERO);
    let rounds = if mode == Mode::Full { 5 } else { 1 };
    quantile(0.5, (0..rounds).map(|_| side.seconds(1, Clock::Cpu, at_least)))
}

/// A time with three digits and its unit.
pub(crate) fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// A number with about three digits.
pub(crate) fn three_digits(value: f64) -> String {
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    let mut text = String::new();
    write!(text, "{value:.digits$}").unwrap();
    text
}
