//! Queues, limits, priorities, cancellation and the end.

use super::{faults::Seam, *};

/// An engine with one thread that is held in its first check, with that check's ticket.
fn held(queue: usize) -> (Engine, Arc<Seam>, Ticket) {
    let seam = Arc::new(Seam::default());
    let config = EngineConfig { threads: 1, queue, ..EngineConfig::default() };
    let engine = Engine::over(Box::new(Arc::clone(&seam)), Parameters::transparent(), &config).unwrap();
    seam.close();
    let first = engine.submit(fresh(ed25519(0))).unwrap();
    seam.await_checks(1);
    (engine, seam, first)
}

#[test]
fn what_comes_during_a_check_is_the_next_batch() {
    let (engine, seam, first) = held(4096);
    let tickets: Vec<_> = (1..30).map(|source| engine.submit(fresh(ed25519(source))).unwrap()).collect();
    assert_eq!((engine.stats().queued, engine.stats().running), (29, 1));
    seam.release();
    verdict(&first).unwrap();
    tickets.iter().for_each(|ticket| drop(verdict(ticket).unwrap()));
    assert_eq!(seam.sets().iter().map(Vec::len).collect::<Vec<_>>(), [1, 29]);
    assert_eq!((engine.stats().batches, engine.stats().mean_batch()), (2, 15.0));
}

#[test]
fn another_kind_waits_for_no_one() {
    let seam = Arc::new(Seam::default());
    let config = EngineConfig { threads: 2, ..EngineConfig::default() };
    let engine = Engine::over(Box::new(Arc::clone(&seam)), Parameters::transparent(), &config).unwrap();
    seam.close();
    let one = engine.submit(fresh(ed25519(1))).unwrap();
    let other = engine.submit(fresh(claim(KeyAlgorithm::P256, 1, 1))).unwrap();
    seam.await_checks(2);
    seam.release();
    verdict(&one).unwrap();
    verdict(&other).unwrap();
}

#[test]
fn a_dropped_ticket_takes_its_proof_back() {
    let (engine, seam, first) = held(8);
    let kept = engine.submit(fresh(ed25519(1))).unwrap();
    let gone = ed25519(2);
    drop(engine.submit(fresh(gone.clone())).unwrap());
    assert_eq!(engine.stats().queued, 1);
    drop(first);
    seam.release();
    verdict(&kept).unwrap();
    let sets = seam.sets();
    assert_eq!(sets.len(), 2);
    assert!(!sets.concat().contains(&(gone.context.digest(), gone.context.hsm)));
}

#[test]
fn a_full_queue_says_so_at_once() {
    let (engine, seam, first) = held(8);
    let mut tickets = vec![engine.submit(fresh(ed25519(1))).unwrap()];
    let busy = |work| match engine.submit(work) {
        Err(EngineError::Busy { retry_after }) => {
            assert!(retry_after >= Duration::from_millis(50) && retry_after <= Duration::from_secs(60));
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("there is no room"),
    };
    // One source has an eighth of the queue.
    busy(fresh(ed25519(1)));
    tickets.extend((2..9).map(|source| engine.submit(fresh(ed25519(source))).unwrap()));
    busy(fresh(ed25519(9)));
    // Audits have room of their own.
    let audit = || Work { priority: Priority::Audit, ..fresh(ed25519(1)) };
    tickets.extend((0..8).map(|_| engine.submit(audit()).unwrap()));
    busy(audit());
    assert_eq!((engine.stats().busy, engine.stats().queued), (2, 16));
    tickets.remove(3);
    tickets.push(engine.submit(fresh(ed25519(9))).unwrap());
    seam.release();
    verdict(&first).unwrap();
    tickets.iter().for_each(|ticket| drop(verdict(ticket).unwrap()));
    engine.verify(fresh(ed25519(1))).unwrap();
}

#[test]
fn bytes_are_bounded_too() {
    let seam = Arc::new(Seam::default());
    let config = EngineConfig { threads: 1, queue_bytes: 8 * 1000, ..EngineConfig::default() };
    let engine = Engine::over(Box::new(Arc::clone(&seam)), Parameters::transparent(), &config).unwrap();
    seam.close();
    let _first = engine.submit(fresh(ed25519(0))).unwrap();
    seam.await_checks(1);
    let large = |source| fresh(Claim { proof: vec![0; 900], ..ed25519(source) });
    let _tickets: Vec<_> = (1..9).map(|source| engine.submit(large(source)).unwrap()).collect();
    assert!(matches!(engine.submit(large(1)), Err(EngineError::Busy { .. })), "its share");
    assert!(matches!(engine.submit(large(9)), Err(EngineError::Busy { .. })), "the whole");
    seam.release();
}

#[test]
fn fresh_proofs_come_before_audits() {
    let (engine, seam, first) = held(64);
    let audits: Vec<Claim> = (1..4).map(ed25519).collect();
    let audits: Vec<_> = audits
        .into_iter()
        .map(|claim| engine.submit(Work { priority: Priority::Audit, ..fresh(claim) }).unwrap())
        .collect();
    let later: Vec<_> = (11..14).map(|source| engine.submit(fresh(ed25519(source))).unwrap()).collect();
    seam.release();
    for ticket in [&first].into_iter().chain(&later).chain(&audits) {
        verdict(ticket).unwrap();
    }
    let sources: Vec<Vec<HsmId>> =
        seam.sets().into_iter().map(|set| set.into_iter().map(|(_, source)| source).collect()).collect();
    let of = |numbers: std::ops::Range<usize>| numbers.map(hsm).collect::<Vec<_>>();
    assert_eq!(sources, [of(0..1), of(11..14), of(1..4)]);
}

fn job(source: usize, priority: Priority) -> Job {
    let work = Work { source: hsm(source), priority, claim: ed25519(source) };
    Job { work, slot: Arc::new(Slot::default()) }
}

#[test]
fn audits_and_isolated_sources_are_not_starved() {
    let (kind, now) = (Kind::KeyKnowledgeEd25519, Instant::now());
    let mut queue = Queue::new(&EngineConfig { threads: 1, ..EngineConfig::default() });
    let suspects = Suspects::default();
    queue.push(kind, job(1, Priority::Audit), false);
    queue.push(kind, job(2, Priority::Fresh), true);
    let mut order = Vec::new();
    // There is always something fresh, at work and waiting.
    queue.push(kind, job(3, Priority::Fresh), false);
    for _ in 0..12 {
        queue.push(kind, job(3, Priority::Fresh), false);
        while let Some(batch) = queue.begin(&suspects, now) {
            order.push(batch.class);
            queue.push(kind, job(3, Priority::Fresh), false);
            if batch.class == Class::Fresh {
                queue.ended(kind, batch.class, batch.jobs.len(), Duration::from_millis(1));
                break;
            }
            queue.ended(kind, batch.class, batch.jobs.len(), Duration::from_millis(1));
        }
    }
    let at = |class| order.iter().position(|one| *one == class).unwrap();
    assert_eq!((at(Class::Isolated), at(Class::Audit)), (4, 9), "{order:?}");
    assert_eq!(order.iter().filter(|class| **class == Class::Fresh).count(), 12);
}

#[test]
fn only_whole_batches_run_beside_each_other() {
    let (kind, now, suspects) = (Kind::KeyKnowledgeHalo2, Instant::now(), Suspects::default());
    let mut queue = Queue::new(&EngineConfig { threads: 3, ..EngineConfig::default() });
    let filler = job(1, Priority::Fresh);
    let one = |source| Job { work: Work { source: hsm(source), ..filler.work.clone() }, slot: Arc::default() };
    for source in 0..300 {
        queue.push(kind, one(source), false);
    }
    let sizes: Vec<usize> = std::iter::from_fn(|| queue.begin(&suspects, now)).map(|batch| batch.jobs.len()).collect();
    assert_eq!((sizes, queue.len(), queue.rounds()), (vec![64; 3], 108, 3));
    queue.ended(kind, Class::Fresh, 64, Duration::from_secs(1));
    assert_eq!(queue.begin(&suspects, now).unwrap().jobs.len(), 64);
    queue.ended(kind, Class::Fresh, 64, Duration::from_secs(1));
    assert!(queue.begin(&suspects, now).is_none(), "44 wait for what runs");
    (0..2).for_each(|_| queue.ended(kind, Class::Fresh, 64, Duration::from_secs(1)));
    assert_eq!(queue.begin(&suspects, now).unwrap().jobs.len(), 44);
    assert!(queue.begin(&suspects, now).is_none() && queue.len() == 0);
}

#[test]
fn the_end_answers_what_waits_and_lets_checks_end() {
    let (engine, seam, first) = held(64);
    let waiting: Vec<_> = (1..4).map(|source| engine.submit(fresh(ed25519(source))).unwrap()).collect();
    let ended = thread::spawn(move || drop(engine));
    for ticket in &waiting {
        assert_eq!(verdict(ticket), Err(EngineError::Stopped));
    }
    seam.release();
    verdict(&first).unwrap();
    ended.join().unwrap();
    drop(waiting);
}
