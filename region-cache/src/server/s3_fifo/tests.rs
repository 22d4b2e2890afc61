use super::*;

const T0: Duration = Duration::ZERO;

/// A cache of 100 entries that is used as the tiers use it.
struct Cache {
    fifo: S3Fifo<u64, u64>,
    now: Duration,
}

impl Cache {
    fn new() -> Self {
        Self {
            fifo: S3Fifo::new(100, 100),
            now: T0,
        }
    }

    /// Reads an entry, adding it when it is missing; tells whether it was a hit.
    fn read(&mut self, key: u64) -> bool {
        if let Some(value) = self.fifo.get(&key, self.now) {
            assert_eq!(*value, key * 2);
            return true;
        }
        self.fifo.insert(key, key * 2, 1, self.now);
        while self.fifo.is_over() {
            let (key, value) = self.fifo.evict().unwrap();
            assert_eq!(value, key * 2);
        }
        assert!(self.fifo.weight() <= 100);
        assert_eq!(self.fifo.weight(), self.fifo.len() as u64);
        false
    }

    fn read_all(&mut self, keys: std::ops::Range<u64>) {
        for key in keys {
            self.read(key);
        }
    }
}

#[test]
fn a_scan_leaves_the_hot_set_alone() {
    let mut cache = Cache::new();
    let hot_hits = |cache: &mut Cache, scan: Option<&mut u64>| {
        let mut hits = 0;
        let mut scanned = scan;
        for _ in 0..20 {
            cache.now += BURST;
            for key in 0..50 {
                hits += u64::from(cache.read(key));
                // One block of the scan for each of the hot set, read in pieces.
                if let Some(next) = scanned.as_deref_mut() {
                    *next += 1;
                    for _ in 0..4 {
                        cache.read(*next);
                    }
                }
            }
        }
        hits
    };
    hot_hits(&mut cache, None);
    let before = hot_hits(&mut cache, None);
    let mut scan = 1_000_000;
    let during = hot_hits(&mut cache, Some(&mut scan));
    assert_eq!(before, 1000);
    // 1,000 blocks are ten times what fits.
    assert_eq!(scan, 1_001_000);
    assert!(during * 100 >= before * 95, "{during} of {before}");
}

#[test]
fn uses_within_a_burst_are_one() {
    for (at, stays) in [(T0, false), (BURST / 2, false), (BURST, true)] {
        let mut fifo = S3Fifo::new(10, 10);
        fifo.insert(1, 1, 1, T0);
        fifo.insert(2, 2, 9, T0);
        assert_eq!(fifo.get(&1, at), Some(&1));
        let first = if stays { (2, 2) } else { (1, 1) };
        assert_eq!(fifo.evict(), Some(first), "used at {at:?}");
    }
}

#[test]
fn what_comes_back_soon_is_kept() {
    let mut cache = Cache::new();
    cache.read_all(0..100);
    assert!(!cache.read(100));
    assert!(cache.fifo.peek(&0).is_none(), "the first goes first");
    assert!(!cache.read(0));
    // Through the small queue it would be gone after this.
    cache.read_all(1000..1095);
    assert!(cache.fifo.peek(&0).is_some());
}

#[test]
fn removed_entries_leave_nothing() {
    let mut fifo = S3Fifo::new(10, 10);
    for round in 0..10_000_u64 {
        fifo.insert(1, round, 5, T0);
        assert_eq!(fifo.peek(&1), Some(&round));
        assert_eq!(fifo.weight(), 5);
        if round % 2 == 0 {
            assert_eq!(fifo.remove(&1), Some(round));
            assert_eq!(fifo.weight(), 0);
        }
    }
    assert!(fifo.small.order.len() < 2 * STALE_MIN);
    assert_eq!(fifo.evict(), Some((1, 9_999)));
    assert_eq!(fifo.evict(), None);
    assert_eq!((fifo.len(), fifo.weight()), (0, 0));
}

#[test]
fn ghosts_are_bounded() {
    let mut cache = Cache::new();
    cache.read_all(0..10_000);
    assert_eq!(cache.fifo.ghosts.len(), 100);
    assert_eq!(cache.fifo.ghost_set.len(), 100);
}
