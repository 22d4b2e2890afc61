//! What was served from where, and how long readers waited.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of the histogram: 4 for each power of two of microseconds, up to 2^32 (71 minutes).
const BUCKETS: usize = 4 * 32;

/// Counts of a [`NodeCache`](super::NodeCache) since it was opened. Where fetched bytes came from
/// is counted by the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeCacheStats {
    /// Reads answered from local files alone.
    pub node_reads: u64,
    /// Bytes of those.
    pub node_bytes: u64,
    /// Reads that waited for the reader.
    pub fetched_reads: u64,
    /// Bytes of those.
    pub fetched_bytes: u64,
    /// Chunks and contents that could not be written to the local disk, so only served.
    pub unstored: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Contents that were evicted.
    pub evicted: u64,
    /// Bytes of those, on the disk. Files that mounts hold open keep theirs until they are closed.
    pub evicted_bytes: u64,
    /// Contents that were checked for rot in the background.
    pub rechecked: u64,
    /// Contents that proved bad on the disk, and were dropped.
    pub rotten: u64,
    /// Contents on the disk, partial and unchecked ones included.
    pub contents: u64,
    /// Bytes of those, as the disk counts them.
    pub bytes: u64,
    /// Bytes that may be on the disk.
    pub bytes_max: u64,
    /// Contents that may be on the disk.
    pub files_max: u64,
    /// Bytes that may be on the disk now: fewer than `bytes_max` after the disk was full.
    pub bytes_in_force: u64,
    /// Whether all that was there at the start is counted in `contents` and `bytes`.
    pub loaded: bool,
    /// Median of the time that the reads which waited for the reader took, in microseconds,
    /// rounded up by at most a quarter.
    pub wait_p50_us: u64,
    /// 99th percentile of the same.
    pub wait_p99_us: u64,
}

/// Counters that many threads add to.
#[derive(Debug)]
pub(super) struct Counters {
    node_reads: AtomicU64,
    node_bytes: AtomicU64,
    fetched_reads: AtomicU64,
    fetched_bytes: AtomicU64,
    unstored: AtomicU64,
    failed_reads: AtomicU64,
    evicted: AtomicU64,
    evicted_bytes: AtomicU64,
    rechecked: AtomicU64,
    rotten: AtomicU64,
    waits: [AtomicU64; BUCKETS],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            node_reads: AtomicU64::default(),
            node_bytes: AtomicU64::default(),
            fetched_reads: AtomicU64::default(),
            fetched_bytes: AtomicU64::default(),
            unstored: AtomicU64::default(),
            failed_reads: AtomicU64::default(),
            evicted: AtomicU64::default(),
            evicted_bytes: AtomicU64::default(),
            rechecked: AtomicU64::default(),
            rotten: AtomicU64::default(),
            waits: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl Counters {
    pub(super) fn served_locally(&self, bytes: usize) {
        self.node_reads.fetch_add(1, Ordering::Relaxed);
        self.node_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn served_after(&self, bytes: usize, wait: Duration) {
        self.fetched_reads.fetch_add(1, Ordering::Relaxed);
        self.fetched_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        self.waits[bucket(wait)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed_reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unstored(&self) {
        self.unstored.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn evicted(&self, bytes: u64) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
        self.evicted_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn rechecked(&self) {
        self.rechecked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rotten(&self) {
        self.rotten.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns what was counted; what is on the disk is for the quota to say.
    pub(super) fn stats(&self) -> NodeCacheStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let waits = self.waits.each_ref().map(get);
        NodeCacheStats {
            node_reads: get(&self.node_reads),
            node_bytes: get(&self.node_bytes),
            fetched_reads: get(&self.fetched_reads),
            fetched_bytes: get(&self.fetched_bytes),
            unstored: get(&self.unstored),
            failed_reads: get(&self.failed_reads),
            evicted: get(&self.evicted),
            evicted_bytes: get(&self.evicted_bytes),
            rechecked: get(&self.rechecked),
            rotten: get(&self.rotten),
            wait_p50_us: percentile_us(&waits, 50),
            wait_p99_us: percentile_us(&waits, 99),
            ..NodeCacheStats::default()
        }
    }
}

/// Returns the bucket of a time: its power of two and the two bits after the leading one.
fn bucket(wait: Duration) -> usize {
    let us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX).max(1);
    let power = us.ilog2();
    let quarter = (us << 2 >> power) & 3;
    let bucket = u64::from(power) * 4 + quarter;
    usize::try_from(bucket).map_or(BUCKETS - 1, |bucket| bucket.min(BUCKETS - 1))
}

/// Returns the end of the bucket in which the percentile lies, or 0 without any wait.
fn percentile_us(waits: &[u64; BUCKETS], percent: u64) -> u64 {
    let total: u64 = waits.iter().sum();
    let rank = (total * percent).div_ceil(100);
    let mut seen = 0;
    for (bucket, count) in (0_u64..).zip(waits) {
        seen += count;
        if total > 0 && seen >= rank {
            return ((5 + bucket % 4) << (bucket / 4)).div_ceil(4);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_quarter() {
        let counters = Counters::default();
        assert_eq!(counters.stats(), NodeCacheStats::default());
        for us in 1..=1000 {
            counters.served_after(1, Duration::from_micros(us));
        }
        let stats = counters.stats();
        assert!(
            (500..=625).contains(&stats.wait_p50_us),
            "{}",
            stats.wait_p50_us
        );
        assert!(
            (990..=1238).contains(&stats.wait_p99_us),
            "{}",
            stats.wait_p99_us
        );
        assert_eq!((stats.fetched_reads, stats.fetched_bytes), (1000, 1000));
    }

    #[test]
    fn every_time_has_a_bucket() {
        for wait in [Duration::ZERO, Duration::from_micros(1), Duration::MAX] {
            let _in_range: usize = bucket(wait);
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert!((0..10_000).is_sorted_by_key(|us| bucket(Duration::from_micros(us))));
    }
}
