//! The policy alone: simulations, and a model of the bookkeeping.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const KIB: u64 = 1 << 10;

fn id(number: u32) -> ContentId {
    ContentId::new(Digest::of(&number.to_le_bytes()))
}

fn second(second: u64) -> Moment {
    Moment::at(Duration::from_secs(second))
}

/// A cache of contents of 4 KiB, of which only the names are there.
struct Simulation {
    table: Table,
    contents_max: u64,
    now: u64,
    hits: u32,
}

impl Simulation {
    fn new(contents_max: u64) -> Self {
        Self {
            table: Table::default(),
            contents_max,
            now: 0,
            hits: 0,
        }
    }

    fn access(&mut self, number: u32) {
        let (content, now) = (id(number), second(self.now));
        if self.table.find(content).is_some() {
            self.hits += 1;
            return self.table.touch(content, now);
        }
        while self.table.len() >= self.contents_max {
            let bytes_max = self.contents_max * 4 * KIB;
            let candidate = self.table.choose(bytes_max, now).unwrap();
            self.table.take(candidate.content, now).unwrap();
        }
        self.table.insert(content, 4 * KIB, now);
    }

    fn has(&self, number: u32) -> bool {
        self.table.find(id(number)).is_some()
    }
}

#[test]
fn a_scan_of_ten_times_the_quota_leaves_the_hot_set() {
    let mut cache = Simulation::new(1_000);
    let hot = 0..600;
    for _ in 0..3 {
        for number in hot.clone() {
            cache.access(number);
        }
        cache.now += 30;
    }
    for number in 10_000..20_000 {
        cache.access(number);
        // Twenty each second, and nobody uses the hot set meanwhile.
        cache.now += u64::from(number % 20 == 0);
    }
    let left = hot.filter(|number| cache.has(*number)).count();
    assert_eq!(left, 600);
}

/// The policy that this is compared with.
#[derive(Default)]
struct Lru {
    used: HashMap<u32, u64>,
    tick: u64,
    hits: u32,
}

impl Lru {
    fn access(&mut self, number: u32, contents_max: usize) {
        self.tick += 1;
        self.hits += u32::from(self.used.contains_key(&number));
        if self.used.len() >= contents_max && !self.used.contains_key(&number) {
            let oldest = *self.used.iter().min_by_key(|(_, used)| **used).unwrap().0;
            self.used.remove(&oldest);
        }
        self.used.insert(number, self.tick);
    }
}

#[test]
fn hot_files_among_many_that_are_read_once_hit_more_often_than_with_lru() {
    let (mut cache, mut lru) = (Simulation::new(300), Lru::default());
    let mut once = 1_000_000;
    for round in 0..200_u32 {
        let hot = (0..20).map(|i| (round * 20 + i) % 250);
        let scan = (0..40).map(|_| {
            once += 1;
            once
        });
        for number in hot.chain(scan).collect::<Vec<_>>() {
            cache.access(number);
            lru.access(number, 300);
        }
        cache.now += 11;
    }
    assert!(
        cache.hits > 2 * lru.hits,
        "{} hits, LRU {}",
        cache.hits,
        lru.hits
    );
}

#[test]
fn what_was_used_just_now_is_never_chosen() {
    let mut table = Table::default();
    for number in 0..100 {
        table.insert(id(number), 4 * KIB, second(0));
    }
    assert_eq!(table.choose(KIB, second(9)), None);
    table.touch(id(3), second(9));
    let chosen: HashSet<_> =
        std::iter::from_fn(|| table.choose(KIB, second(10)).map(|c| c.content)).collect();
    assert_eq!(chosen.len(), 99);
    assert!(!chosen.contains(&id(3)));
    // Used between the choice and its execution.
    table.touch(id(4), second(10));
    assert_eq!(table.take(id(4), second(10)), None);
    assert_eq!(table.take(id(5), second(10)), Some(4 * KIB));
}

#[test]
fn a_ghost_returns_to_the_main_queue() {
    let mut table = Table::default();
    table.insert(id(1), 4 * KIB, second(0));
    let candidate = table.choose(KIB, second(60)).unwrap();
    table.take(candidate.content, second(60)).unwrap();
    table.insert(id(1), 4 * KIB, second(61));
    table.insert(id(2), 4 * KIB, second(61));
    assert_eq!((table.small.order.len(), table.main.order.len()), (1, 1));
}

#[test]
fn an_entry_takes_at_most_64_bytes() {
    // The index: 5 bytes for each of at least 7/16 of its buckets, 7/8 when it is full.
    assert_eq!(size_of::<Slot>(), 48);
}

#[derive(Debug, Clone)]
enum Op {
    Insert(u32, u64),
    Found(u32, u64),
    Touch(u32),
    Resize(u32, u64),
    Remove(u32),
    Evict,
    Spare(bool, bool),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let number = || 0_u32..24;
    let bytes = || (0_u64..20).prop_map(|blocks| blocks * BLOCK_BYTES);
    prop_oneof![
        4 => (number(), bytes()).prop_map(|(n, b)| Op::Insert(n, b)),
        1 => (number(), bytes()).prop_map(|(n, b)| Op::Found(n, b)),
        2 => number().prop_map(Op::Touch),
        1 => (number(), bytes()).prop_map(|(n, b)| Op::Resize(n, b)),
        1 => number().prop_map(Op::Remove),
        3 => Just(Op::Evict),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(u, a)| Op::Spare(u, a)),
        2 => (0_u64..15).prop_map(Op::Wait),
    ]
}

proptest! {
    #[test]
    fn the_bookkeeping_is_that_of_a_map(ops in proptest::collection::vec(op(), 0..200)) {
        let mut table = Table::default();
        let mut model: HashMap<ContentId, (u64, Option<u64>)> = HashMap::new();
        let mut now = 0;
        for op in ops {
            match op {
                Op::Insert(n, bytes) => {
                    table.insert(id(n), bytes, second(now));
                    model.insert(id(n), (bytes, Some(now)));
                }
                Op::Found(n, bytes) => {
                    table.insert_found(id(n), bytes);
                    model.entry(id(n)).or_insert((bytes, None));
                }
                Op::Touch(n) => {
                    table.touch(id(n), second(now));
                    model.entry(id(n)).and_modify(|entry| entry.1 = Some(now));
                }
                Op::Resize(n, bytes) => {
                    let known = table.resize(id(n), bytes, second(now));
                    prop_assert_eq!(known, model.contains_key(&id(n)));
                    model.entry(id(n)).and_modify(|entry| *entry = (bytes, Some(now)));
                }
                Op::Remove(n) => {
                    let bytes = model.remove(&id(n)).map(|entry| entry.0);
                    prop_assert_eq!(table.remove(id(n)), bytes);
                }
                Op::Evict => {
                    let candidate = table.choose(8 * KIB, second(now));
                    let old = |used: Option<u64>| used.is_none_or(|used| now - used >= 10);
                    prop_assert_eq!(candidate.is_some(), model.values().any(|e| old(e.1)));
                    if let Some(candidate) = candidate {
                        let (bytes, used) = model.remove(&candidate.content).unwrap();
                        prop_assert!(old(used));
                        prop_assert_eq!(table.take(candidate.content, second(now)), Some(bytes));
                    }
                }
                Op::Spare(in_use, aged) => {
                    if let Some(candidate) = table.choose(8 * KIB, second(now)) {
                        table.spare(candidate.content, in_use, aged);
                    }
                }
                Op::Wait(seconds) => now += seconds,
            }
            prop_assert_eq!(table.len(), model.len() as u64);
            prop_assert_eq!(table.bytes(), model.values().map(|entry| entry.0).sum::<u64>());
            let mut found = HashSet::new();
            let mut from = 0;
            while let Some((content, next)) = table.next(from) {
                found.insert(content);
                from = next;
            }
            prop_assert_eq!(found.len(), model.len());
            let unused = table.slots.len() - model.len();
            let dead = |queue: &Queue| {
                let slots = queue.order.iter();
                slots.filter(|&&i| table.slot(i).state == State::Dead).count()
            };
            prop_assert_eq!(table.vacant.len() + dead(&table.small) + dead(&table.main), unused);
        }
    }
}
