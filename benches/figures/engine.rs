//! The verification engine, on a thread of its own: beside single checks, and with bad proofs beside none.

use std::collections::VecDeque;

use keywitness_circuits::{
    KeyAlgorithm, Parameters, ProofSystem, Suite, Witness,
    codec::Canonical as _,
    key_knowledge::{
        self,
        schnorr::{Ristretto255, Schnorr},
    },
    registry,
};
use keywitness_verifier::engine::{Claim, Engine, EngineConfig, EngineError, Priority, Ticket, Work};
use rand::{RngCore as _, rngs::OsRng};

use crate::{
    claims,
    harness::{Comparison, Mode, Row, Side},
};

/// HSMs that send proofs.
const SOURCES: usize = 512;
/// One proof of so many is bad.
const BAD: usize = 100;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row::new("engine-audit", 0.0, |mode| {
            let claims = proven(mode.size(4096, 8));
            Comparison {
                operation: format!("engine: audit of {} Schnorr proofs, each of another key", claims.len()),
                peer: "registry::verify, one by one".to_owned(),
                unit: "proof",
                peers: singly(claims.clone()),
                ours: engine(claims, 0),
                batch: false,
            }
        }),
        Row::new("engine-bad-hsms", 0.6, |mode: Mode| {
            let mut claims = proven(mode.size(8192, 1024));
            let all = attesting(claims.clone(), 0);
            // All that some HSMs send is bad: one in a hundred.
            let culprits = claims.iter_mut().enumerate().filter(|(number, _)| number % SOURCES % BAD == BAD / 2);
            let bad = culprits.map(|(_, claim)| claim.proof[32] ^= 1).count();
            Comparison {
                operation: format!(
                    "engine: {} attestations, {bad} of them bad, all from one HSM in {BAD}",
                    claims.len()
                ),
                peer: "the engine, none bad".to_owned(),
                unit: "proof",
                ours: attesting(claims, bad),
                peers: all,
                batch: false,
            }
        }),
        Row::new("engine-bad-everywhere", 0.0, |mode: Mode| {
            let mut claims = proven(mode.size(4096, 101));
            let all = engine(claims.clone(), 0);
            let bad = spoil(&mut claims);
            Comparison {
                operation: format!(
                    "engine: an audit with {bad} bad proofs among {}, each from another HSM",
                    claims.len()
                ),
                peer: "the engine, none bad".to_owned(),
                unit: "proof",
                ours: engine(claims, bad),
                peers: all,
                batch: false,
            }
        }),
    ]
}

fn proven(count: usize) -> Vec<Claim> {
    let (parameters, domain) = (Parameters::transparent(), claims::trust_domain());
    let claim = |number: usize| {
        let mut secret = [0; 32];
        OsRng.fill_bytes(&mut secret[..31]);
        let witness = key_knowledge::Witness::new(KeyAlgorithm::Ristretto255, &secret).unwrap();
        let instance = witness.instance(&domain, Suite::PublicKey).unwrap();
        let kind = <Schnorr<Ristretto255> as ProofSystem>::KIND;
        let mut context = claims::context(&parameters, kind, 1, instance.digest(), number);
        context.hsm = format!("hsm-{}", number % SOURCES).parse().unwrap();
        let instance = instance.to_bytes();
        let proof = registry::prove(&parameters, &context, &instance, &Witness::from(witness)).unwrap();
        Claim { context, instance, proof }
    };
    (0..count).map(claim).collect()
}

/// Changes one response of so many, and says how many.
fn spoil(claims: &mut [Claim]) -> usize {
    let bad = claims.iter_mut().skip(BAD / 2).step_by(BAD);
    bad.map(|claim| claim.proof[32] ^= 1).count()
}

/// A new engine for each round, because it remembers who sent bad proofs.
fn engine(claims: Vec<Claim>, bad: usize) -> Side {
    let config = EngineConfig { threads: 1, ..EngineConfig::default() };
    Side::new(claims.len(), move || {
        let engine = Engine::new(Parameters::transparent(), &config).unwrap();
        let refused = engine.verify_many(claims.iter().cloned()).filter(Result::is_err).count();
        assert_eq!(refused, bad);
    })
}

/// As many proofs wait as the engine has room for. A new engine for each round.
fn attesting(claims: Vec<Claim>, bad: usize) -> Side {
    let config = EngineConfig { threads: 1, ..EngineConfig::default() };
    Side::new(claims.len(), move || {
        let engine = Engine::new(Parameters::transparent(), &config).unwrap();
        let (mut waiting, mut refused) = (VecDeque::<Ticket>::new(), 0);
        let answer = |ticket: Option<Ticket>| usize::from(ticket.is_some_and(|ticket| ticket.wait().is_err()));
        for claim in &claims {
            let work = || Work { claim: claim.clone(), source: claim.context.hsm.clone(), priority: Priority::Fresh };
            let ticket = loop {
                match engine.submit(work()) {
                    Ok(ticket) => break ticket,
                    Err(EngineError::Busy { .. }) if !waiting.is_empty() => refused += answer(waiting.pop_front()),
                    Err(error) => panic!("{error}"),
                }
            };
            waiting.push_back(ticket);
        }
        refused += waiting.into_iter().map(|ticket| answer(Some(ticket))).sum::<usize>();
        assert_eq!(refused, bad);
    })
}

fn singly(claims: Vec<Claim>) -> Side {
    let parameters = Parameters::transparent();
    Side::new(claims.len(), move || {
        for Claim { context, instance, proof } in &claims {
            registry::verify(&parameters, context, instance, proof).unwrap();
        }
    })
}
