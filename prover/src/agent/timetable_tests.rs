//! The timetable at any hour, and an hour of it as a whole.
#![allow(clippy::unwrap_used)]

use keywitness_circuits::{KeyAlgorithm, KeyOrigin, context::MAX_KEYS};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::timetable::*;
use super::{batch::MOST, *};
use crate::testing::name;

fn task(kind: Kind, key: &str) -> Task {
    Task { kind, key: KeyRef { key: name(key), epoch: 1 } }
}

fn entry(task: &Task) -> (Kind, KeyEntry) {
    let attributes = keywitness_circuits::KeyAttributes::new(KeyAlgorithm::Ed25519, KeyOrigin::Generated, false);
    (task.kind, KeyEntry { key: task.key.clone(), attributes })
}

/// Keeps these tasks; new ones are due at `first`.
fn keep(timetable: &mut Timetable, tasks: &[Task], first: impl Fn(&Task) -> Timestamp) {
    let first = |task: &Task, _| First { due: first(task), life: None };
    timetable.keep(&name("hsm-1"), tasks.iter().map(entry), |_, _| 1, first);
}

/// The life of a record that expires at `expires`.
fn life(expires: Timestamp) -> Life {
    Life { expires, on_the_wall: expires, lifetime: 100 }
}

/// A timetable of one task that is due at `due`.
fn of(task: &Task, due: Timestamp) -> Timetable {
    let mut timetable = Timetable::new();
    keep(&mut timetable, std::slice::from_ref(task), |_| due);
    timetable
}

proptest! {
    #[test]
    fn a_slot_is_between_a_tenth_and_seven_tenths_of_the_lifetime_and_there_is_one(
        made in 0..1_u64 << 40, lifetime in 2..1_u64 << 40, phase: u64,
    ) {
        let due = slot(Timestamp(made), lifetime, phase).0;
        prop_assert!(due > made && due < made + lifetime, "never after expiry");
        prop_assert!(lifetime < 10 || (due >= made + lifetime / 10 && due <= made + lifetime * 7 / 10));
        // Whoever is late, or early, comes to the same slot.
        let (period, earliest) = (lifetime * 6 / 10, made + (lifetime / 10).max(1));
        if due > earliest {
            prop_assert_eq!(slot(Timestamp(made + 1), lifetime, phase).0, due);
        }
        if period > 0 {
            prop_assert_eq!(slot(Timestamp(made + period), lifetime, phase).0, due + period);
        }
    }

    #[test]
    fn a_slot_never_overflows(made: u64, lifetime: u64, phase: u64) {
        prop_assert!(slot(Timestamp(made), lifetime, phase).0 >= made);
    }

    #[test]
    fn a_back_off_is_at_least_a_second_and_at_most_its_cap(failures: u32, cap in 1..10_000_u64, seed: u64) {
        let wait = back_off(failures, cap, &mut StdRng::seed_from_u64(seed));
        prop_assert!(wait >= 1 && wait <= cap);
        prop_assert!(failures >= 63 || wait <= 1 << failures);
    }

    #[test]
    fn a_timetable_never_waits_longer_than_it_says(
        failures in 1..40_u32, long: bool, now in 0..1_u64 << 40, seed: u64,
    ) {
        let signing = task(Kind::KeyKnowledgeEd25519, "signing");
        let (mut timetable, mut rng) = (of(&signing, Timestamp(now)), StdRng::seed_from_u64(seed));
        let (pause, cap) = if long { (Pause::Long, MAX_REFUSED_BACK_OFF) } else { (Pause::Short, MAX_BACK_OFF) };
        for _ in 0..failures {
            let due = timetable.failed(std::slice::from_ref(&signing), Timestamp(now), pause, &mut rng);
            prop_assert!(due.0 > now && due.0 <= now + cap);
            prop_assert_eq!(timetable.next(Lane::Signatures).unwrap().1, due);
        }
    }
}

/// One HSM's hour: 10,000 Ed25519 keys and 1,000 AES keys, which all are due at the start, and an absence of the manager later.
#[test]
fn no_minute_has_twice_the_work_of_another() {
    const TTL: u64 = 3600;
    let signing = (0..10_000).map(|number| task(Kind::KeyKnowledgeEd25519, &format!("signing-{number}")));
    let storage = (0..1000).map(|number| task(Kind::KeyKnowledgeHalo2, &format!("storage-{number}")));
    let tasks: Vec<_> = signing.chain(storage).collect();
    let mut timetable = Timetable::new();
    let together = |kind: Kind, _| if kind.many().is_some() { MAX_KEYS } else { 1 };
    let begin = Timestamp(1_700_000_000);
    let first = |_: &Task, _| First { due: begin, life: None };
    timetable.keep(&name("hsm-1"), tasks.iter().map(entry), together, first);
    let (away, back) = (begin.plus(4 * TTL), begin.plus(4 * TTL + 900));
    let mut signed: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    let mut proven: BTreeMap<u64, usize> = BTreeMap::new();
    for second in 0..8 * TTL {
        let now = begin.plus(second);
        if now >= away && now < back {
            continue;
        }
        let minute = second / 60;
        while let Some((task, _)) = timetable.next(Lane::Signatures).filter(|(_, due)| *due <= now) {
            let (task, ahead) = (task.clone(), now.plus(batch_window(TTL)));
            let batch = timetable.due(task.lane(), now, ahead, MOST);
            let (batches, keys) = signed.entry(minute).or_default();
            (*batches, *keys) = (*batches + 1, *keys + batch.len());
            for task in batch {
                timetable.succeeded(&task, timetable.renewal(&task, now, TTL), life(now.plus(TTL)));
            }
        }
        while let Some((task, _)) = timetable.next(Lane::Proofs).filter(|(_, due)| *due <= now) {
            let task = task.clone();
            let company = timetable.company(&task, now, now.plus(company_window(TTL)), MAX_KEYS);
            *proven.entry(minute).or_default() += 1;
            let due = timetable.renewal(company.first().unwrap(), now, TTL);
            company.iter().for_each(|task| timetable.succeeded(task, due, life(now.plus(TTL))));
        }
        let tally = timetable.tally(now);
        assert!(tally.expired == 0 && tally.in_force == tasks.len(), "{second}: {tally:?}");
    }
    // Without the start, the first period in which everything finds its slot, and the catching up.
    let flat = |minute: &u64| (60..4 * 60).contains(minute) || (6 * 60..8 * 60).contains(minute);
    let keys: Vec<usize> = signed.iter().filter(|(minute, _)| flat(minute)).map(|(_, (_, keys))| *keys).collect();
    let batches: usize = signed.iter().filter(|(minute, _)| flat(minute)).map(|(_, (batches, _))| batches).sum();
    let (most, mean) = (*keys.iter().max().unwrap(), keys.iter().sum::<usize>() / keys.len());
    assert!((270..290).contains(&mean) && most < mean * 2, "{most} keys a minute at most, {mean} in the mean");
    assert!(batches < keys.len() * 3, "{batches} batches in {} minutes", keys.len());
    let claims: Vec<usize> = proven.iter().filter(|(minute, _)| flat(minute)).map(|(_, claims)| *claims).collect();
    let whole: usize = claims.iter().sum();
    // Sixteen claims in each of eight periods of 36 minutes and a third, were it not for those that take keys of the next slot along.
    assert!((125..=160).contains(&whole) && claims.iter().all(|claims| *claims <= 2), "{whole}: {claims:?}");
    // The first round's load, from nothing, is flat in its first period already.
    let early = signed.iter().filter(|(minute, _)| (7..42).contains(*minute)).map(|(_, (_, keys))| *keys);
    assert!(early.clone().max().unwrap() < early.clone().sum::<usize>() / early.count() * 2);
}

#[test]
fn hsms_with_the_same_keys_do_not_come_at_once() {
    let signing = task(Kind::KeyKnowledgeEd25519, "signing");
    let due = |hsm: usize| {
        let mut timetable = of(&signing, Timestamp(0));
        let first = |_: &Task, _| First { due: Timestamp(0), life: None };
        timetable.keep(&name(&format!("hsm-{hsm}")), [entry(&signing)], |_, _| 1, first);
        timetable.renewal(&signing, Timestamp(0), 1000).0 / 100
    };
    let hundreds: std::collections::BTreeSet<_> = (0..50).map(due).collect();
    assert!(hundreds.len() >= 6, "{hundreds:?}");
}

#[test]
fn a_busy_manager_is_left_alone_as_long_as_it_asks_but_not_for_ever() {
    let (signing, mut rng) = (task(Kind::KeyKnowledgeHalo2, "storage"), StdRng::seed_from_u64(1));
    let mut timetable = of(&signing, Timestamp(0));
    for (asked, least) in [(0, 1), (7, 8), (u64::MAX, MAX_BACK_OFF + 1), (1, 2), (1, 2), (1, 2)] {
        let pause = Pause::After(asked);
        let due = timetable.failed(std::slice::from_ref(&signing), Timestamp(100), pause, &mut rng).0 - 100;
        assert!(due >= least && due <= least - 1 + MAX_BACK_OFF, "{due}");
    }
    let other = task(Kind::KeyKnowledgeHalo2, "other");
    keep(&mut timetable, &[signing.clone(), other.clone()], |_| Timestamp(0));
    let late = Timestamp(1000);
    assert_eq!(timetable.company(&other, late, late, 64).len(), 2, "it is not claimed alone for that");
}

#[test]
fn while_nobody_answers_everything_waits_and_afterwards_what_expires_soonest_comes_first() {
    let mut rng = StdRng::seed_from_u64(1);
    let tasks: Vec<_> = (0..9).map(|number| task(Kind::KeyKnowledgeEd25519, &format!("signing-{number}"))).collect();
    let mut timetable = Timetable::new();
    let place = |task: &Task| tasks.iter().position(|known| known == task).unwrap();
    keep(&mut timetable, &tasks, |task| Timestamp(90 - 10 * place(task) as u64));
    let late = Timestamp(100);
    let order = timetable.due(Lane::Signatures, late, late, 4);
    assert_eq!(order.iter().map(place).collect::<Vec<_>>(), [8, 7, 6, 5]);
    timetable.failed(&order, late, Pause::Unanswered, &mut rng);
    assert_eq!(timetable.due(Lane::Signatures, late, late, 4), order, "they keep their places");
    timetable.hold(Timestamp(160));
    assert_eq!(timetable.next(Lane::Signatures).unwrap(), (order.first().unwrap(), Timestamp(160)));
    // Where it is one claim's fault that nobody answers, the others have their turn.
    let again = timetable.failed(&order, late, Pause::Unanswered, &mut rng);
    assert!(again > late);
    let others = timetable.due(Lane::Signatures, late, late, 9);
    assert_eq!(others.iter().map(place).collect::<Vec<_>>(), [4, 3, 2, 1, 0]);
}

#[test]
fn back_offs_are_spread() {
    let mut rng = StdRng::seed_from_u64(1);
    let waits: Vec<_> = (0..200).map(|_| back_off(20, MAX_BACK_OFF, &mut rng)).collect();
    assert!(waits.iter().max().unwrap() - waits.iter().min().unwrap() > 45);
}

#[test]
fn signatures_do_not_wait_for_proofs_and_the_soonest_and_cheapest_comes_first() {
    let (proof, signature) = (task(Kind::KeyKnowledgeHalo2, "aes"), task(Kind::KeyKnowledgeP256, "signing"));
    let cheaper = task(Kind::KeyKnowledgeEd25519, "signing");
    let mut timetable = Timetable::new();
    assert!(timetable.next(Lane::Signatures).is_none());
    keep(&mut timetable, &[proof.clone(), signature.clone(), cheaper.clone()], |_| Timestamp(5));
    assert_eq!(timetable.next(Lane::Signatures), Some((&cheaper, Timestamp(5))));
    assert_eq!(timetable.next(Lane::Proofs), Some((&proof, Timestamp(5))));
    timetable.succeeded(&cheaper, Timestamp(100), life(Timestamp(200)));
    assert_eq!(timetable.next(Lane::Signatures), Some((&signature, Timestamp(5))));
    timetable.succeeded(&signature, Timestamp(101), life(Timestamp(200)));
    assert_eq!(timetable.next(Lane::Signatures), Some((&cheaper, Timestamp(100))));
    assert_eq!(timetable.next(Lane::Proofs), Some((&proof, Timestamp(5))));
}

#[test]
fn tasks_come_and_go_and_keep_their_time() {
    let (first, second) = (task(Kind::KeyKnowledgeP256, "first"), task(Kind::KeyKnowledgeP256, "second"));
    let mut timetable = of(&first, Timestamp(1));
    timetable.succeeded(&first, Timestamp(50), life(Timestamp(60)));
    keep(&mut timetable, &[first.clone(), second.clone()], |_| Timestamp(2));
    assert_eq!(timetable.next(Lane::Signatures), Some((&second, Timestamp(2))));
    assert_eq!(timetable.due(Lane::Signatures, Timestamp(2), Timestamp(50), 9), [second.clone(), first.clone()]);
    keep(&mut timetable, std::slice::from_ref(&first), |_| Timestamp(3));
    assert_eq!(timetable.next(Lane::Signatures), Some((&first, Timestamp(50))));
    assert_eq!(timetable.due(Lane::Signatures, Timestamp(2), Timestamp(60), 9), [first]);
    assert!(timetable.entry(&second).is_none());
}

#[test]
fn a_tally_says_how_the_keys_stand() {
    let tasks: Vec<_> = (0..4).map(|number| task(Kind::KeyKnowledgeP256, &format!("key-{number}"))).collect();
    let [first, second, third, _] = tasks.as_slice() else { panic!() };
    let mut timetable = Timetable::new();
    keep(&mut timetable, &tasks, |_| Timestamp(10));
    timetable.succeeded(first, Timestamp(50), life(Timestamp(60)));
    timetable.succeeded(second, Timestamp(20), life(Timestamp(30)));
    timetable.failed(std::slice::from_ref(third), Timestamp(10), Pause::Revoked(3600), &mut StdRng::seed_from_u64(1));
    let expected = Tally { in_force: 1, expired: 1, unproven: 2, failing: 1, due: 2, late: 25 };
    assert_eq!(timetable.tally(Timestamp(35)), expected);
}

#[test]
fn a_task_is_in_company_until_it_fails_for_a_reason_of_its_own() {
    let mut rng = StdRng::seed_from_u64(1);
    let tasks: Vec<_> = (0..20).map(|number| task(Kind::KeyKnowledgeGroth16, &format!("aes-{number:02}"))).collect();
    let other = task(Kind::KeyKnowledgeHalo2, "aes-00");
    let at = |number: usize| Timestamp(if number < 10 { 5 } else { 8 });
    let number = |task: &Task| tasks.iter().position(|known| known == task);
    let mut timetable = Timetable::new();
    keep(&mut timetable, &[tasks.clone(), vec![other.clone()]].concat(), |task| number(task).map_or(Timestamp(0), at));
    let company =
        |timetable: &Timetable, task: &Task, until: u64| timetable.company(task, Timestamp(5), Timestamp(until), 64);
    let (first, rest) = tasks.split_first().unwrap();
    assert_eq!(company(&timetable, first, 8), tasks);
    assert_eq!(timetable.company(first, Timestamp(5), Timestamp(8), 12), tasks.split_at(12).0);
    assert_eq!(company(&timetable, first, 7), tasks.split_at(10).0);
    assert_eq!(company(&timetable, &other, 8), std::slice::from_ref(&other));

    // What failed together for a reason that may pass stays together, for a while, and waits its time.
    let late = |timetable: &Timetable, due: Timestamp| timetable.company(first, due, due.plus(1000), 64);
    for failures in 1..4 {
        let due = timetable.failed(&tasks, Timestamp(10), Pause::Short, &mut rng);
        assert_eq!(late(&timetable, due), tasks, "{failures}");
        assert!(late(&timetable, Timestamp(due.0 - 1)).len() == 1);
    }
    timetable.failed(&tasks, Timestamp(10), Pause::Short, &mut rng);
    assert_eq!(late(&timetable, Timestamp(10_000)), std::slice::from_ref(first));
    let succeed = |timetable: &mut Timetable, task| timetable.succeeded(task, Timestamp(100), life(Timestamp(200)));
    tasks.iter().for_each(|task| succeed(&mut timetable, task));
    assert_eq!(late(&timetable, Timestamp(100)), tasks);

    // One that was refused on its own, or is suspected, does not come along until it succeeds.
    timetable.failed(std::slice::from_ref(first), Timestamp(10), Pause::Long, &mut rng);
    let (second, rest) = rest.split_first().unwrap();
    timetable.alone(second, Timestamp(20));
    let in_time = |timetable: &Timetable, task: &Task| timetable.company(task, Timestamp(10_000), Timestamp(0), 64);
    assert_eq!(in_time(&timetable, second), std::slice::from_ref(second));
    let third = rest.first().unwrap();
    assert_eq!(in_time(&timetable, third), rest);
    succeed(&mut timetable, second);
    assert_eq!(in_time(&timetable, third).len(), 19);
}

#[test]
fn a_revocation_waits_for_exactly_the_recheck() {
    let (first, second) = (task(Kind::KeyKnowledgeP256, "first"), task(Kind::KeyKnowledgeP256, "second"));
    let mut timetable = Timetable::new();
    keep(&mut timetable, &[first.clone(), second.clone()], |_| Timestamp(10));
    let revoked = Pause::Revoked(3600);
    let until = timetable.failed(std::slice::from_ref(&first), Timestamp(10), revoked, &mut StdRng::seed_from_u64(1));
    assert_eq!(until, Timestamp(3610));
    timetable.postpone(until, |task| task.key == second.key);
    assert_eq!(timetable.next(Lane::Signatures), Some((&first, Timestamp(3610))));
    timetable.succeeded(&first, Timestamp(9999), life(Timestamp(99_999)));
    assert_eq!(timetable.next(Lane::Signatures), Some((&second, Timestamp(3610))));
}

#[test]
fn a_clock_that_was_set_makes_due_what_expires_by_it_and_puts_nothing_off() {
    const WALL: u64 = 1_700_000_000;
    let mut rng = StdRng::seed_from_u64(1);
    let tasks: Vec<_> = (0..4).map(|number| task(Kind::KeyKnowledgeP256, &format!("key-{number}"))).collect();
    let [old, young, failing, unproven] = tasks.as_slice() else { panic!() };
    let mut timetable = Timetable::new();
    keep(&mut timetable, &tasks, |_| Timestamp(10));
    let now = Timestamp(1000);
    let life = |expires| Life { expires: Timestamp(expires), on_the_wall: Timestamp(WALL + expires), lifetime: 1000 };
    timetable.succeeded(old, Timestamp(1100), life(1500));
    timetable.succeeded(young, Timestamp(1600), life(1900));
    timetable.succeeded(failing, Timestamp(1100), life(1500));
    timetable.failed(std::slice::from_ref(failing), now, Pause::Revoked(3600), &mut rng);
    timetable.failed(std::slice::from_ref(unproven), now, Pause::Revoked(3600), &mut rng);
    let next = |timetable: &Timetable| timetable.next(Lane::Signatures).map(|(task, due)| (task.clone(), due)).unwrap();
    let before = timetable.tally(now);

    // Back, and back again to where it was, nothing changes.
    for wall in [WALL, WALL + 1000] {
        assert_eq!(timetable.set_clock(now, Timestamp(wall)), 0);
        assert_eq!((next(&timetable), timetable.tally(now)), ((old.clone(), Timestamp(1100)), before));
    }
    // Five hundred seconds forth: the old record has expired, and was due three tenths of its life before that.
    assert_eq!(timetable.set_clock(now, Timestamp(WALL + 1500)), 1);
    assert_eq!(next(&timetable), (old.clone(), Timestamp(700)));
    assert_eq!(timetable.due(Lane::Signatures, now, now, 9), std::slice::from_ref(old));
    let tally = timetable.tally(now);
    assert_eq!((tally.in_force, tally.expired, tally.unproven, tally.due), (1, 2, 1, 1));
    assert_eq!(timetable.expiry(young), Some(Timestamp(1400)));
    timetable.succeeded(old, Timestamp(1700), life(2600));
    assert_eq!(next(&timetable), (young.clone(), Timestamp(1100)), "three tenths of its life are left then");
    // Set back again, a record lasts as long as it does; what is due stays so.
    timetable.set_clock(now, Timestamp(WALL + 1000));
    assert_eq!((next(&timetable).1, timetable.expiry(young)), (Timestamp(1100), Some(Timestamp(1900))));
}

#[test]
fn what_the_store_fails_over_is_in_no_batch_until_it_succeeds() {
    let now = Timestamp(10);
    for kind in [Kind::KeyKnowledgeP256, Kind::KeyKnowledgeHalo2] {
        let tasks: Vec<_> = (0..4).map(|number| task(kind, &format!("key-{number}"))).collect();
        let [first, hangs, third, fourth] = tasks.as_slice() else { panic!() };
        let batch = |timetable: &Timetable, lane| {
            let next = timetable.next(lane).unwrap().0;
            assert_eq!(timetable.alike(next, now, 9), timetable.due(lane, now, now, 9));
            timetable.alike(next, now, 9)
        };
        let mut timetable = Timetable::new();
        keep(&mut timetable, &tasks, |_| Timestamp(5));
        assert_eq!(batch(&timetable, first.lane()), tasks);
        timetable.apart(hangs);
        assert_eq!(batch(&timetable, first.lane()), [first.clone(), third.clone(), fourth.clone()]);
        timetable.succeeded(first, Timestamp(100), life(Timestamp(200)));
        assert_eq!(batch(&timetable, first.lane()), std::slice::from_ref(hangs), "by itself, when it is the first");
        timetable.succeeded(hangs, Timestamp(5), life(Timestamp(200)));
        assert_eq!(batch(&timetable, first.lane()), [hangs.clone(), third.clone(), fourth.clone()]);
    }
}
