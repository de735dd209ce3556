//! The engine with real proofs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod faults;
mod load;

use std::{
    pin::pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, Wake, Waker},
    thread,
};

use keywitness_circuits::{
    Digest, KeyAlgorithm, KeyClaim, Nonce, Suite, Timestamp, codec::Canonical, context::instance_digest,
    key_knowledge::Witness,
};
use proptest::prelude::*;

use super::*;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

const QUICK: [KeyAlgorithm; 4] =
    [KeyAlgorithm::Ed25519, KeyAlgorithm::Ristretto255, KeyAlgorithm::P256, KeyAlgorithm::Secp256k1];

fn hsm(number: usize) -> HsmId {
    format!("hsm-{number}").parse().unwrap()
}

/// A true claim of an HSM about the key of that number.
fn claim(algorithm: KeyAlgorithm, source: usize, key: u8) -> Claim {
    let domain = "acme.example".parse().unwrap();
    let secret: Vec<u8> = (0..32).map(|at| if at == 0 || at == 31 { 1 } else { key }).collect();
    let witness = Witness::new(algorithm, &secret).unwrap();
    let instance: keywitness_circuits::Instance = witness.instance(&domain, Suite::Halo2Pasta).unwrap().into();
    let (kind, encoded, parameters) = (instance.kind().unwrap(), instance.to_bytes(), Parameters::transparent());
    let context = ClaimContext {
        statement: kind.name().to_owned(),
        verifying_key: registry::verifying_key(&parameters, kind).unwrap(),
        trust_domain: domain,
        manager: "m1".parse().unwrap(),
        cluster: "eu".parse().unwrap(),
        hsm: hsm(source),
        enrolment: 1,
        keys: vec![KeyClaim { key: "k".parse().unwrap(), epoch: 1, attributes: Digest([7; 32]) }],
        instance: instance_digest(&encoded),
        challenge: Nonce::random(),
        not_before: Timestamp(1),
        not_after: Timestamp(2),
        checkpoint: None,
        evidence: None,
    };
    let proof = registry::prove(&parameters, &context, &encoded, &witness.into()).unwrap();
    Claim { context, instance: encoded, proof }
}

fn ed25519(source: usize) -> Claim {
    claim(KeyAlgorithm::Ed25519, source, 5)
}

/// The claim with the proof of another one: every point and scalar is in order, and the equation is not.
fn forged(algorithm: KeyAlgorithm, source: usize) -> Claim {
    Claim { proof: claim(algorithm, source, 5).proof, ..claim(algorithm, source, 5) }
}

/// A halo2 proof takes seconds to make.
static HALO2: LazyLock<Claim> = LazyLock::new(|| claim(KeyAlgorithm::Aes256, 1, 5));

fn forged_halo2() -> Claim {
    let mut context = HALO2.context.clone();
    context.challenge = Nonce::random();
    Claim { context, ..HALO2.clone() }
}

fn fresh(claim: Claim) -> Work {
    Work { source: claim.context.hsm.clone(), claim, priority: Priority::Fresh }
}

fn engine() -> Engine {
    let config = EngineConfig { threads: 2, ..EngineConfig::default() };
    Engine::new(Parameters::transparent(), &config).unwrap()
}

/// Waits for a verdict, but not for ever.
#[track_caller]
fn verdict(ticket: &Ticket) -> Verdict {
    ticket.wait_timeout(PATIENCE).expect("an answer in time")
}

fn singly(claim: &Claim) -> Verdict {
    registry::verify(&Parameters::transparent(), &claim.context, &claim.instance, &claim.proof)
        .map_err(EngineError::Refused)
}

const REFUSED: EngineError = EngineError::Refused(Error::ProofRefused);

#[test]
fn every_caller_gets_its_own_answer() {
    let engine = engine();
    thread::scope(|scope| {
        for caller in 0..6 {
            let engine = &engine;
            scope.spawn(move || {
                for turn in 0..8 {
                    let algorithm = QUICK[(caller + turn) % QUICK.len()];
                    let bad = (caller * turn) % 5 == 4;
                    let claim = if bad { forged(algorithm, caller) } else { claim(algorithm, caller, turn as u8 + 1) };
                    let given = engine.verify(fresh(claim.clone()));
                    assert_eq!(given, singly(&claim));
                    assert_eq!(given.is_err(), bad);
                    assert!(given.is_err() || given.unwrap().context() == &claim.context.digest());
                }
            });
        }
        for (claim, holds) in [(HALO2.clone(), true), (forged_halo2(), false)] {
            let engine = &engine;
            scope.spawn(move || {
                let given = engine.verify(fresh(claim.clone()));
                assert_eq!((given.is_ok(), &given), (holds, &singly(&claim)));
            });
        }
    });
    let stats = engine.stats();
    assert_eq!((stats.queued, stats.panics, stats.busy), (0, 0, 0));
    assert!(stats.batches > 0 && stats.mean_batch() >= 1.0);
}

#[test]
fn what_cannot_be_checked_is_refused_at_once() {
    let engine = engine();
    let refused = |claim: Claim| match engine.submit(fresh(claim)) {
        Err(error) => error,
        Ok(ticket) => verdict(&ticket).unwrap_err(),
    };
    let mut unknown = ed25519(1);
    unknown.context.statement = "none/such/1".to_owned();
    let mut foreign = ed25519(1);
    foreign.context.verifying_key = Digest([0; 32]);
    let mut crossed = ed25519(1);
    crossed.instance = claim(KeyAlgorithm::Ed25519, 1, 6).instance;
    let mut short = ed25519(1);
    short.proof.pop();
    let mut noise = ed25519(1);
    noise.instance.push(0);
    for wrong in [unknown, foreign, crossed, short, noise] {
        assert_eq!(refused(wrong.clone()), singly(&wrong).unwrap_err());
    }
    assert_eq!(engine.stats().isolated, 0, "none of these can spoil a set");
}

#[test]
fn an_audit_gives_verdicts_in_order_and_takes_few_claims_ahead() {
    let config = EngineConfig { threads: 2, queue: 8, ..EngineConfig::default() };
    let engine = Engine::new(Parameters::transparent(), &config).unwrap();
    let (good, bad) = (ed25519(1), forged(KeyAlgorithm::Ed25519, 2));
    let expected: Vec<bool> = (0..300).map(|number| number % 37 != 5).collect();
    let taken = std::cell::Cell::new(0_usize);
    let claims = expected.iter().map(|good_one| {
        taken.set(taken.get() + 1);
        if *good_one { good.clone() } else { bad.clone() }
    });
    let mut given = Vec::new();
    for verdict in engine.verify_many(claims) {
        given.push(verdict.is_ok());
        assert!(taken.get() <= given.len() + 2048);
    }
    assert_eq!(given, expected);
    assert_eq!(engine.verify_many(std::iter::empty()).count(), 0);
    let mut unknown = ed25519(1);
    unknown.context.statement = "none/such/1".to_owned();
    let mixed: Vec<bool> = engine.verify_many([unknown, ed25519(1)]).map(|verdict| verdict.is_ok()).collect();
    assert_eq!(mixed, [false, true]);
}

#[test]
fn audits_beside_each_other_and_beside_fresh_proofs_all_end() {
    let config = EngineConfig { threads: 2, queue: 4, ..EngineConfig::default() };
    let engine = Engine::new(Parameters::transparent(), &config).unwrap();
    let (good, engine) = (ed25519(1), &engine);
    thread::scope(|scope| {
        for _ in 0..3 {
            let good = good.clone();
            scope.spawn(move || {
                assert!(engine.verify_many(std::iter::repeat_n(good, 100)).all(|verdict| verdict.is_ok()));
            });
        }
        for _ in 0..60 {
            engine.verify(fresh(good.clone())).unwrap();
        }
    });
}

/// Wakes the thread that polls.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn a_ticket_is_a_future() {
    let engine = engine();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    for (claim, expected) in [(ed25519(1), true), (forged(KeyAlgorithm::Ed25519, 1), false)] {
        let mut ticket = pin!(engine.submit(fresh(claim)).unwrap());
        let until = Instant::now() + PATIENCE;
        let given = loop {
            match ticket.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(given) => break given,
                Poll::Pending => thread::park_timeout(until.saturating_duration_since(Instant::now())),
            }
            assert!(Instant::now() < until);
        };
        assert_eq!(given.is_ok(), expected);
    }
}

#[test]
fn only_instances_of_true_claims_are_kept() {
    let config = EngineConfig { threads: 1, instances: 2, ..EngineConfig::default() };
    let engine = Engine::new(Parameters::transparent(), &config).unwrap();
    engine.verify(fresh(forged(KeyAlgorithm::P256, 1))).unwrap_err();
    assert_eq!(engine.stats().instances, 0);
    for key in [1, 2, 1, 3, 4] {
        engine.verify(fresh(claim(KeyAlgorithm::P256, 2, key))).unwrap();
    }
    assert_eq!(engine.stats().instances, 2);
    // A known instance makes no other claim true: another key's, or under a digest that is not its own.
    let mut other = claim(KeyAlgorithm::P256, 2, 4);
    other.context.instance = claim(KeyAlgorithm::P256, 2, 3).context.instance;
    assert_eq!(engine.verify(fresh(other.clone())), singly(&other));
    assert!(singly(&other).is_err());
    assert_eq!(engine.verify(fresh(forged(KeyAlgorithm::P256, 2))), Err(REFUSED));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// What a proof, an instance or a context becomes under a changed byte is judged as it is alone.
    #[test]
    fn the_engine_says_what_single_verification_says(
        changes in prop::collection::vec((0..4_usize, 0..8_usize, any::<prop::sample::Index>(), 1..=255_u8), 1..24),
    ) {
        let engine = engine();
        let claims: Vec<Claim> = changes.iter().map(|(algorithm, what, place, mask)| {
            let mut claim = claim(QUICK[*algorithm], *what, 1 + *mask % 7);
            match what {
                0 => { let at = place.index(claim.proof.len()); claim.proof[at] ^= mask; }
                1 => { let at = place.index(claim.instance.len()); claim.instance[at] ^= mask; }
                2 => claim.context.challenge.0[place.index(32)] ^= mask,
                _ => {}
            }
            claim
        }).collect();
        let tickets: Vec<_> = claims.iter().map(|claim| engine.submit(fresh(claim.clone())).unwrap()).collect();
        for (ticket, claim) in tickets.iter().zip(&claims) {
            prop_assert_eq!(verdict(ticket), singly(claim));
        }
    }
}
