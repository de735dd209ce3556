//! What one address or one HSM takes is not taken from others.

use std::{
    net::Ipv4Addr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use keywitness_circuits::codec::Canonical;
use keywitness_verifier::wire::{AttestAnswer, AttestBatch, ProblemKind, Role, join_envelopes, path};

use super::{Api, Hold};
use crate::{
    limits::{Budget, LimitsConfig},
    service::testing::{TestHsm, TestKey, World},
};

const PATIENCE: Duration = Duration::from_secs(60);

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, number)
}

/// An HSM's batch of one envelope, which anyone may bring.
fn batch(api: &Api, hsm: &TestHsm, key: &TestKey) -> Vec<u8> {
    let challenge = hsm.challenge(&api.world, key).unwrap();
    let envelope = hsm.answer(&api.world, "eu", key, &challenge).to_bytes();
    join_envelopes([envelope.as_slice()])
}

/// Posts `count` batches of so many HSMs at once while no proof is checked: `judged` of them wait for that, and the others are
/// turned away and consume nothing. One of another HSM, from another address, is not.
fn crowd(hsms: u8, from: impl Fn(usize) -> Ipv4Addr + Sync, count: usize, judged: usize) {
    let api = &Api::of(World::with_config(|config| {
        config.limits.loopback = true;
        config.verify_threads = 1;
    }));
    let key = &TestKey::ed25519("k", 1);
    let enrolled = |number: u8| {
        let hsm = api.world.hsm(&format!("hsm-{number}"), "eu");
        hsm.enrol_key(&api.world, key).unwrap();
        hsm
    };
    let (hsms, honest): (Vec<_>, _) = ((0..hsms).map(enrolled).collect(), enrolled(u8::MAX));
    let batches: Vec<_> = hsms.iter().cycle().take(count).map(|hsm| batch(api, hsm, key)).collect();
    let last = batch(api, &honest, key);
    let post = |from: Ipv4Addr, batch: &[u8]| api.call_from(from, "POST", path::ATTESTATION_BATCHES, None, batch);
    let recorded = |response: super::Response| {
        let answer: AttestBatch = response.json();
        assert!(
            matches!(answer.items.as_slice(), [AttestAnswer::Records(records)] if records.len() == 1),
            "{answer:?}"
        );
    };
    let first = honest.challenge(&api.world, key).unwrap();
    let hold = Hold::engine(&api.world, &honest.answer(&api.world, "eu", key, &first));
    let turned_away = thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        for (number, batch) in batches.iter().enumerate() {
            let (tell, from, post) = (tell.clone(), &from, &post);
            scope.spawn(move || tell.send((number, post(from(number), batch))).unwrap());
        }
        let next = || told.recv_timeout(PATIENCE).unwrap();
        let turned_away: Vec<_> = (judged..count).map(|_| next()).collect();
        for (_, response) in &turned_away {
            response.refused(ProblemKind::Unavailable);
            assert!(response.head.contains("retry-after: "), "{}", response.head);
        }
        // Whoever is neither that HSM nor at that address is let in while all of those are waited for.
        let last = scope.spawn(|| post(address(200), &last));
        let until = Instant::now() + PATIENCE;
        while api.world.manager.verification().queued <= judged as u64 {
            assert!(!last.is_finished() && Instant::now() < until);
            thread::yield_now();
        }
        hold.release();
        recorded(last.join().unwrap());
        (0..judged).for_each(|_| recorded(next().1));
        turned_away.into_iter().map(|(number, _)| number).collect::<Vec<_>>()
    });
    for number in turned_away {
        recorded(post(from(number), &batches[number]));
    }
}

#[test]
fn an_address_has_eight_batches_judged_at_once_whoever_signed_them_and_others_get_through() {
    crowd(8, |_| address(2), 32, 8);
}

#[test]
fn an_hsm_has_four_batches_judged_at_once_wherever_they_come_from_and_others_get_through() {
    crowd(1, |number| address(2 + number as u8), 12, 4);
}

#[test]
fn a_status_list_of_the_past_costs_its_address_fifty_requests_and_nobody_else_any() {
    let budget = Budget::new(200, 1);
    let limits = LimitsConfig { address: budget, loopback: true, ..LimitsConfig::default() };
    let api = Api::of(World::with_config(|config| config.limits = limits));
    let (greedy, other, third) = (address(2), address(3), address(4));
    let now = format!("{}/0", path::STATUS_LISTS);
    let past = format!("{now}?time=1");
    let get = |from: Ipv4Addr, target: &str| api.call_from(from, "GET", target, None, b"");
    for _ in 0..4 {
        assert_eq!(get(greedy, &past).status, 200);
    }
    let refused = get(greedy, &past);
    refused.refused(ProblemKind::TooManyRequests);
    let wait = refused.head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
    assert!((1..=50).contains(&wait.parse::<u64>().unwrap()), "{wait}");
    // A list of now costs one request, and others have all of theirs.
    for _ in 0..100 {
        assert_eq!(get(third, &now).status, 200);
    }
    assert_eq!(get(other, &past).status, 200);
    let viewer = format!("Bearer {}", api.credential(Role::Viewer));
    assert_eq!(api.call_from(other, "GET", path::STATUS, Some(&viewer), b"").status, 200);
    let limited = api.world.manager.limits().limited();
    assert_eq!((limited.len(), limited[0].caller.as_str()), (1, "address 127.0.0.2"));
}
