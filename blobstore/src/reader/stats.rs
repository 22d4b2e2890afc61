//! Counting where bytes came from.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Tier;

/// Reads from one tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierStats {
    /// Requests that brought frames, one or several neighbours each.
    pub reads: u64,
    /// Bytes fetched, as stored.
    pub bytes: u64,
    /// Frames that did not match their hash.
    pub corrupt: u64,
}

/// Reads of a [`Reader`](crate::Reader) since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReaderStats {
    /// From the region's cache.
    pub region: TierStats,
    /// From the object store.
    pub origin: TierStats,
}

#[derive(Debug, Default)]
struct TierCounters {
    reads: AtomicU64,
    bytes: AtomicU64,
    corrupt: AtomicU64,
}

/// The counters behind [`ReaderStats`]. Each is exact; together they are not one instant.
#[derive(Debug, Default)]
pub(super) struct Counters {
    region: TierCounters,
    origin: TierCounters,
}

impl Counters {
    fn of(&self, tier: Tier) -> &TierCounters {
        match tier {
            Tier::Node | Tier::Region => &self.region,
            Tier::Origin => &self.origin,
        }
    }

    pub(super) fn fetched(&self, tier: Tier, bytes: u64) {
        self.of(tier).reads.fetch_add(1, Ordering::Relaxed);
        self.of(tier).bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn corrupt(&self, tier: Tier) {
        self.of(tier).corrupt.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> ReaderStats {
        let tier = |t: &TierCounters| TierStats {
            reads: t.reads.load(Ordering::Relaxed),
            bytes: t.bytes.load(Ordering::Relaxed),
            corrupt: t.corrupt.load(Ordering::Relaxed),
        };
        ReaderStats {
            region: tier(&self.region),
            origin: tier(&self.origin),
        }
    }
}
