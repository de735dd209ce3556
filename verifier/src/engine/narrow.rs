//! Finding what is wrong with a set that failed, by halves.

use std::ops::Range;

/// Narrows down a set of `count` items, in which something is known to be bad, to those that have to be looked at one by
/// one: every bad item is among them, and no item outside them is bad, as far as `holds` is right about ranges of items.
///
/// A failing range is halved. Where the first half holds, the fault is in the second, which needs no check of its own to
/// be halved further. Ranges of `floor` items or fewer are left to the caller, who checks their items singly.
///
/// # Cost
/// With k bad items among n, at most about 2k·(log2(n/k) + 2) calls of `holds`, and k·`floor` items are left. When many
/// are bad, halving costs more than it saves: it ends once the ranges that were checked sum up to 2n items, which is
/// never before a single bad item is found. Whatever an attacker sends, a failed set of n costs at most one check of n
/// together, checks of sets of 2n items in all, and n single checks. Where a single check costs r times an item's part of
/// a set, that is at most 1 + 3/r times the price of checking everything singly.
pub(super) fn narrow(count: usize, floor: usize, mut holds: impl FnMut(Range<usize>) -> bool) -> Vec<usize> {
    let whole = 0..count;
    let (mut failing, mut rest, mut spent) = (vec![whole], Vec::new(), 0_usize);
    let most = count.saturating_mul(2);
    while !failing.is_empty() {
        let mut next = Vec::with_capacity(failing.len());
        for range in failing {
            if range.len() <= floor.max(1) || spent + range.len() > most {
                rest.extend(range);
                continue;
            }
            let middle = range.start + range.len() / 2;
            let (first, second) = (range.start..middle, middle..range.end);
            spent += first.len();
            if holds(first.clone()) {
                next.push(second);
                continue;
            }
            next.push(first);
            spent += second.len();
            if !holds(second.clone()) {
                next.push(second);
            }
        }
        failing = next;
    }
    rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    /// The bad items that are found, the checks of ranges, the items in those ranges, the single checks.
    fn find(bad: &[bool], floor: usize) -> (Vec<usize>, usize, usize, usize) {
        let (mut checks, mut items) = (0, 0);
        let rest = narrow(bad.len(), floor, |range| {
            checks += 1;
            items += range.len();
            !bad[range].contains(&true)
        });
        let singles = rest.len();
        let mut found: Vec<usize> = rest.into_iter().filter(|at| bad[*at]).collect();
        found.sort_unstable();
        (found, checks, items, singles)
    }

    proptest! {
        #[test]
        fn exactly_the_bad_ones_are_found_at_a_bounded_cost(
            count in 1..700_usize, floor in 1..9_usize, places in prop::collection::vec(any::<prop::sample::Index>(), 1..40),
        ) {
            let mut bad = vec![false; count];
            places.iter().for_each(|place| bad[place.index(count)] = true);
            let expected: Vec<usize> = (0..count).filter(|at| bad[*at]).collect();
            let (found, checks, items, singles) = find(&bad, floor);
            let (n, k) = (count as f64, expected.len() as f64);
            prop_assert_eq!(found, expected);
            prop_assert!(checks as f64 <= 2.0 * k * ((n / k).log2() + 2.0), "{checks} checks of {k} among {n}");
            prop_assert!(items <= 2 * count && singles <= count);
        }
    }

    #[test]
    fn one_bad_item_is_always_cornered() {
        for count in [2, 3, 5, 64, 100, 1023, 1024] {
            for at in [0, 1, count / 2, count - 1] {
                let mut bad = vec![false; count];
                bad[at] = true;
                let (found, checks, _, singles) = find(&bad, 1);
                assert_eq!((found, singles), (vec![at], 1));
                assert!(checks <= 2 * count.next_power_of_two().ilog2() as usize, "{checks} for {count}");
            }
        }
    }

    #[test]
    fn when_everything_is_bad_halving_gives_up_soon() {
        let (found, checks, items, singles) = find(&[true; 1024], 4);
        assert_eq!((found.len(), items, singles), (1024, 2048, 1024));
        assert_eq!(checks, 6, "two halves, four quarters");
    }
}
