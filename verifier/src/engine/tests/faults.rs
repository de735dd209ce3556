//! Bad proofs, bad sources, and proof systems that panic.

use std::sync::Mutex;

use super::*;

/// The real proof systems, behind a gate; with a log of what was checked together, and claims that make them panic.
#[derive(Default)]
pub(super) struct Seam {
    state: Mutex<State>,
    changed: Condvar,
}

type Set = Vec<(Digest, HsmId)>;

#[derive(Default)]
struct State {
    closed: bool,
    sources: std::collections::HashMap<Digest, HsmId>,
    sets: Vec<Set>,
    panics_at_opening: Option<Digest>,
    panics_at_checking: Option<Digest>,
}

impl Seam {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Holds every check that begins from now on.
    pub(super) fn close(&self) {
        self.state().closed = true;
    }

    /// Lets checks go on.
    pub(super) fn release(&self) {
        self.state().closed = false;
        self.changed.notify_all();
    }

    /// Waits until so many checks have begun.
    pub(super) fn await_checks(&self, count: usize) {
        let waiting = self.changed.wait_timeout_while(self.state(), PATIENCE, |state| state.sets.len() < count);
        assert!(!waiting.unwrap().1.timed_out());
    }

    /// What was checked together.
    pub(super) fn sets(&self) -> Vec<Set> {
        self.state().sets.clone()
    }
}

impl Backend for Arc<Seam> {
    fn open(&self, context: &ClaimContext, instance: &DecodedInstance, proof: &[u8]) -> Result<Opened, Error> {
        let panics = {
            let mut state = self.state();
            state.sources.insert(context.digest(), context.hsm.clone());
            state.panics_at_opening == Some(context.digest())
        };
        assert!(!panics, "a fault of a proof system");
        registry::open(&Parameters::transparent(), context, instance, proof)
    }

    fn check(&self, proofs: &[&Opened]) -> Result<Vec<Verified>, Error> {
        let panics = {
            let mut state = self.state();
            let set: Set =
                proofs.iter().map(|opened| (*opened.context(), state.sources[opened.context()].clone())).collect();
            let panics = set.iter().any(|(digest, _)| state.panics_at_checking == Some(*digest));
            state.sets.push(set);
            self.changed.notify_all();
            let (_state, timeout) = self.changed.wait_timeout_while(state, PATIENCE, |state| state.closed).unwrap();
            assert!(!timeout.timed_out());
            panics
        };
        assert!(!panics, "a fault of a proof system");
        registry::verify_all(proofs)
    }
}

fn seamed() -> (Engine, Arc<Seam>) {
    let seam = Arc::new(Seam::default());
    let config = EngineConfig { threads: 2, ..EngineConfig::default() };
    (Engine::over(Box::new(Arc::clone(&seam)), Parameters::transparent(), &config).unwrap(), seam)
}

/// Submits all of them while one check holds the lane, so that they make one batch; gives their verdicts.
fn together(engine: &Engine, seam: &Seam, claims: &[Claim]) -> Vec<Verdict> {
    let before = seam.sets().len();
    seam.close();
    let first = engine.submit(fresh(ed25519(1000))).unwrap();
    seam.await_checks(before + 1);
    let tickets: Vec<_> = claims.iter().map(|claim| engine.submit(fresh(claim.clone())).unwrap()).collect();
    seam.release();
    verdict(&first).unwrap();
    tickets.iter().map(verdict).collect()
}

#[test]
fn exactly_the_bad_ones_are_refused() {
    let (engine, seam) = seamed();
    let bad = [3, 4, 29, 50];
    let claims: Vec<Claim> = (0..60)
        .map(|source| if bad.contains(&source) { forged(KeyAlgorithm::Ed25519, source) } else { ed25519(source) })
        .collect();
    let verdicts = together(&engine, &seam, &claims);
    for (source, given) in verdicts.iter().enumerate() {
        assert_eq!(given.is_ok(), !bad.contains(&source));
        assert_eq!(given, &singly(&claims[source]));
    }
    assert_eq!((engine.stats().splits, engine.stats().isolated), (1, 4));
    assert!(seam.sets().len() < 60, "fewer checks than proofs");
}

#[test]
fn everything_bad_is_everything_refused() {
    let (engine, seam) = seamed();
    let claims: Vec<Claim> = (0..20).map(|source| forged(KeyAlgorithm::Ed25519, source)).collect();
    assert!(together(&engine, &seam, &claims).iter().all(|given| *given == Err(REFUSED)));
}

#[test]
fn a_source_that_had_a_bad_proof_spoils_no_other_set() {
    let (engine, seam) = seamed();
    let villain = 7;
    assert_eq!(engine.verify(fresh(forged(KeyAlgorithm::Ed25519, villain))), Err(REFUSED));
    assert_eq!(engine.stats().isolated, 1);
    let before = seam.sets().len();
    let claims: Vec<Claim> = (0..24)
        .map(|number| if number % 4 == 0 { forged(KeyAlgorithm::Ed25519, villain) } else { ed25519(number) })
        .collect();
    let verdicts = together(&engine, &seam, &claims);
    assert!(verdicts.iter().enumerate().all(|(number, given)| given.is_ok() == (number % 4 != 0)));
    let sets = &seam.sets()[before..];
    let villainous = |set: &Set| set.iter().filter(|(_, source)| *source == hsm(villain)).count();
    let mixed = sets.iter().filter(|set| villainous(set) > 0 && villainous(set) < set.len());
    // Number 7 is the villain's own good proof.
    assert_eq!(mixed.count(), 0, "{sets:?}");
    let others: Vec<usize> = sets.iter().filter(|set| villainous(set) == 0).map(Vec::len).collect();
    assert_eq!(others, [1, 17], "the others are checked once");
    for _ in 0..16 {
        engine.verify(fresh(ed25519(villain))).unwrap();
    }
    assert_eq!(engine.stats().isolated, 0, "good proofs are believed again");
}

#[test]
fn work_that_waits_is_kept_apart_once_its_source_is_known_to_be_bad() {
    let (engine, seam) = seamed();
    seam.close();
    let bad = engine.submit(fresh(forged(KeyAlgorithm::Ed25519, 7))).unwrap();
    seam.await_checks(1);
    let waiting: Vec<_> =
        [7, 8, 7, 9].map(|source| engine.submit(fresh(ed25519(source))).unwrap()).into_iter().collect();
    seam.release();
    assert_eq!(verdict(&bad), Err(REFUSED));
    waiting.iter().for_each(|ticket| drop(verdict(ticket).unwrap()));
    let sources: Vec<Vec<HsmId>> =
        seam.sets().into_iter().map(|set| set.into_iter().map(|(_, source)| source).collect()).collect();
    assert_eq!(sources, [vec![hsm(7)], vec![hsm(8), hsm(9)], vec![hsm(7), hsm(7)]]);
}

#[test]
fn a_panic_is_one_callers_error() {
    let (engine, seam) = seamed();
    let claims: Vec<Claim> = (0..30).map(ed25519).collect();
    seam.state().panics_at_checking = Some(claims[11].context.digest());
    seam.state().panics_at_opening = Some(claims[20].context.digest());
    let verdicts = together(&engine, &seam, &claims);
    for (number, given) in verdicts.into_iter().enumerate() {
        match number {
            11 | 20 => assert_eq!(given, Err(EngineError::Internal)),
            _ => drop(given.unwrap()),
        }
    }
    assert!(engine.stats().panics >= 2);
    // Alone, it is the same; and the engine goes on.
    assert_eq!(engine.verify(fresh(claims[11].clone())), Err(EngineError::Internal));
    seam.state().panics_at_checking = None;
    engine.verify(fresh(claims[11].clone())).unwrap();
}

#[test]
fn a_job_that_is_lost_is_answered() {
    let slot = Arc::new(Slot::default());
    drop(Job { work: fresh(ed25519(1)), slot: Arc::clone(&slot) });
    let ticket = Ticket::new(slot, std::sync::Weak::new(), Kind::KeyKnowledgeEd25519, 0);
    assert_eq!(verdict(&ticket), Err(EngineError::Internal));
}
