//! What a member counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where bytes of an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Tier {
    Memory,
    Disk,
    Origin,
}

impl Tier {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Origin];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Origin => "origin",
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets of a histogram of waits, each twice as wide as the one before.
pub(super) const BUCKETS: usize = 24;
/// Upper bound of the first, in microseconds; that of the last but one is 84 s.
const BUCKET_FIRST_US: u64 = 20;

/// How long something took.
#[derive(Debug, Default)]
pub(super) struct Waits {
    buckets: [Counter; BUCKETS],
    total_us: Counter,
}

impl Waits {
    pub(super) fn add(&self, wait: Duration) {
        let us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let bucket = (0..BUCKETS - 1).find(|bucket| us <= bucket_end_us(*bucket));
        self.buckets[bucket.unwrap_or(BUCKETS - 1)].add(1);
        self.total_us.add(us);
    }

    /// Returns the waits in each bucket.
    pub(super) fn counts(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|bucket| self.buckets[bucket].get())
    }

    pub(super) fn total(&self) -> Duration {
        Duration::from_micros(self.total_us.get())
    }
}

/// Returns the longest wait of a bucket; the last bucket has none.
pub(super) const fn bucket_end_us(bucket: usize) -> u64 {
    BUCKET_FIRST_US << bucket
}

/// What one tier served.
#[derive(Debug, Default)]
pub(super) struct TierCounters {
    /// Parts of blocks.
    pub(super) reads: Counter,
    pub(super) bytes: Counter,
    /// From the first look for a part of a block until it was there.
    pub(super) waits: Waits,
}

/// All counters but those of the disk.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    tiers: [TierCounters; 3],
    /// Reads that joined a fetch which was under way.
    pub(super) joined: Counter,
    pub(super) origin_gets: Counter,
    pub(super) origin_bytes: Counter,
    pub(super) origin_errors: Counter,
    /// Requests that were turned away.
    pub(super) shed: Counter,
    pub(super) memory_evictions: Counter,
    pub(super) reports: Counter,
    pub(super) reported_blocks: Counter,
    pub(super) puts: Counter,
    pub(super) put_bytes: Counter,
    pub(super) refused: Counter,
    pub(super) connections: Counter,
    pub(super) connections_closed: Counter,
    pub(super) requests: Counter,
    /// Bursts that a node was told of.
    pub(super) bursts: Counter,
}

impl Metrics {
    pub(super) const fn tier(&self, tier: Tier) -> &TierCounters {
        &self.tiers[tier as usize]
    }

    /// Counts a part of a block that was served.
    pub(super) fn served(&self, tier: Tier, bytes: u64, wait: Duration) {
        let counters = self.tier(tier);
        counters.reads.add(1);
        counters.bytes.add(bytes);
        counters.waits.add(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_in_the_bucket_that_ends_at_or_after_it() {
        let waits = Waits::default();
        for (us, bucket) in [
            (0, 0),
            (20, 0),
            (21, 1),
            (40, 1),
            (bucket_end_us(22), 22),
            (bucket_end_us(22) + 1, 23),
            (u64::MAX, 23),
        ] {
            let before = waits.counts()[bucket];
            waits.add(Duration::from_micros(us));
            assert_eq!(waits.counts()[bucket], before + 1, "{us}");
        }
    }
}
