//! Which member has what: rendezvous hashing of aligned spans, with bounded load.
//!
//! A pack is spread by spans of [`SPAN_BYTES`]: the pack that a burst of one image reads (a boot
//! pack, say) is then served by all members instead of by one. The price is a second request for
//! ranges that cross a boundary, one in eight of the largest.
//!
//! Sources: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998), for
//! the order; Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads" (2016),
//! for passing over a member that has more than its share.

use std::ops::Range;

use nacre_blobstore::{Digest, Key};

/// Bytes of an object that one member serves, aligned. A multiple of any member's block.
pub(crate) const SPAN_BYTES: u64 = 8 << 20;
/// Members that are asked for one span before the region counts as down.
pub(crate) const CANDIDATES_MAX: usize = 3;
/// Requests of this client at one member below which it is never passed over: a span that moves is
/// read from the origin once more.
const LOAD_MIN: usize = 48;
/// How much more than the mean a member may have under way, in percent.
const LOAD_PERCENT_MAX: usize = 150;

/// A span of an object, as a number that all nodes agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Spot(u64);

impl Spot {
    /// Names the span of `key` that holds the byte at `offset`.
    pub(crate) fn of(key: &Key, offset: u64) -> Self {
        let span = (offset / SPAN_BYTES).to_le_bytes();
        Self(hash(&[key.as_str().as_bytes(), &span].concat()))
    }
}

/// Returns the number by which a member is ranked.
pub(crate) fn member_hash(name: &str) -> u64 {
    hash(name.as_bytes())
}

fn hash(bytes: &[u8]) -> u64 {
    let digest = Digest::of(bytes);
    let first = digest.as_bytes().first_chunk();
    u64::from_le_bytes(*first.expect("a digest has 32 bytes"))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): equal on every node and version.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Orders members, given by their hashes, for a spot: numbers of the first [`CANDIDATES_MAX`].
pub(crate) fn rank(spot: Spot, members: &[u64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    let weight = |member: &usize| std::cmp::Reverse((mix(members[*member] ^ spot.0), *member));
    let wanted = CANDIDATES_MAX.min(order.len());
    if wanted < order.len() {
        order.select_nth_unstable_by_key(wanted, weight);
        order.truncate(wanted);
    }
    order.sort_unstable_by_key(weight);
    order
}

/// Moves candidates that have more than their share under way behind the others. `loads` are the
/// requests under way at each candidate, `all` those at all of `members` members.
pub(crate) fn relieve<T>(candidates: &mut [T], loads: &[usize], all: usize, members: usize) {
    let share = (all + 1) * LOAD_PERCENT_MAX / 100;
    let bound = share.div_ceil(members.max(1)).max(LOAD_MIN);
    let free = loads.iter().position(|load| *load < bound);
    if let Some(free) = free.filter(|free| *free > 0 && *free < candidates.len()) {
        candidates[..=free].rotate_right(1);
    }
}

/// Cuts a range at the boundaries of spans.
pub(crate) fn parts(range: &Range<u64>) -> Vec<Range<u64>> {
    let mut parts = Vec::new();
    let mut start = range.start;
    while start < range.end {
        let end = (start / SPAN_BYTES + 1)
            .saturating_mul(SPAN_BYTES)
            .min(range.end);
        parts.push(start..end);
        start = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        Key::new(format!("packs/{number}")).unwrap()
    }

    fn names(count: usize) -> Vec<u64> {
        (0..count)
            .map(|n| member_hash(&format!("10.0.0.{n}:80")))
            .collect()
    }

    #[test]
    fn spans_spread_evenly_and_few_move_with_a_member() {
        const SPANS: u32 = 20_000;
        let (ten, nine) = (names(10), names(9));
        let (mut shares, mut moved) = ([0_u32; 10], 0_u32);
        for number in 0..SPANS {
            let spot = Spot::of(&key(number / 4), u64::from(number % 4) * SPAN_BYTES);
            let (before, after) = (rank(spot, &nine), rank(spot, &ten));
            shares[after[0]] += 1;
            if before[0] != after[0] {
                assert_eq!(after[0], 9, "only the new member takes spans");
                assert_eq!(after[1], before[0], "the one before comes second");
                moved += 1;
            }
            let distinct: std::collections::BTreeSet<_> = after.iter().collect();
            assert_eq!(distinct.len(), CANDIDATES_MAX);
        }
        let even = SPANS / 10;
        assert!(
            shares.iter().all(|s| s.abs_diff(even) < even / 10),
            "{shares:?}"
        );
        assert!(moved.abs_diff(even) < even / 10, "{moved}");
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let forward = names(7);
        let turned: Vec<u64> = forward.iter().rev().copied().collect();
        for number in 0..100 {
            let spot = Spot::of(&key(number), 0);
            let named = |list: &[u64]| -> Vec<u64> {
                rank(spot, list).into_iter().map(|n| list[n]).collect()
            };
            assert_eq!(named(&forward), named(&turned));
        }
        assert_eq!(rank(Spot::of(&key(0), 0), &[]), [0; 0]);
    }

    #[test]
    fn a_member_with_more_than_its_share_is_passed_over() {
        let order = |loads: [usize; 3], all| {
            let mut candidates = ["a", "b", "c"];
            relieve(&mut candidates, &loads, all, 3);
            candidates
        };
        assert_eq!(
            order([LOAD_MIN - 1, 0, 0], 0),
            ["a", "b", "c"],
            "too little to matter"
        );
        assert_eq!(order([LOAD_MIN, 0, 0], LOAD_MIN), ["b", "a", "c"]);
        assert_eq!(
            order([300, 300, 300], 900),
            ["a", "b", "c"],
            "all are as busy"
        );
        assert_eq!(order([460, 220, 220], 900), ["b", "a", "c"]);
        let mut candidates = ["a", "b", "c"];
        relieve(&mut candidates, &[300, 300, 0], 600, 4);
        assert_eq!(candidates, ["c", "a", "b"], "of four");
    }

    #[test]
    fn ranges_are_cut_where_spans_end() {
        assert_eq!(parts(&(3..3)), [0..0; 0]);
        let one = std::iter::once(1..SPAN_BYTES);
        assert_eq!(parts(&(1..SPAN_BYTES)), one.collect::<Vec<_>>());
        let end = 2 * SPAN_BYTES + 1;
        let cut = [
            5..SPAN_BYTES,
            SPAN_BYTES..2 * SPAN_BYTES,
            2 * SPAN_BYTES..end,
        ];
        assert_eq!(parts(&(5..end)), cut);
        assert_eq!(parts(&(u64::MAX - 1..u64::MAX)).len(), 1);
    }
}
