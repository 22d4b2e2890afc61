//! A limit on the bytes of blocks that are in memory, wherever they are: in the memory tier, on
//! their way from the origin or the disk, in the queue to the disk, or in an answer.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of this many.
const GRAIN_BYTES: u64 = 1 << 10;
/// The part of the memory that blocks on their way always have is one in this many; the memory
/// tier has the rest.
const TRANSIT_SHARE: u64 = 4;

/// The limit. Who wants memory waits in line for it: grants are in order of requests, so that of
/// the blocks of one answer the first is never kept waiting by the later ones.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    grains: Arc<Semaphore>,
    total: u64,
}

/// Returns what bytes of this length are charged: what holds them must count them alike.
pub(super) const fn charged(bytes: u64) -> u64 {
    bytes.div_ceil(GRAIN_BYTES) * GRAIN_BYTES
}

/// A part of the limit that is in use, until it is dropped.
#[derive(Debug)]
pub(super) struct Charge(OwnedSemaphorePermit);

impl Budget {
    /// Limits memory to `bytes`.
    pub(super) fn new(bytes: u64) -> Self {
        let total = (bytes / GRAIN_BYTES).clamp(1, Semaphore::MAX_PERMITS as u64);
        let grains = usize::try_from(total).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            grains: Arc::new(Semaphore::new(grains)),
            total,
        }
    }

    /// Returns the part of the limit that the memory tier may fill.
    pub(super) const fn tier_bytes(&self) -> u64 {
        (self.total - self.total / TRANSIT_SHARE) * GRAIN_BYTES
    }

    /// Returns the limit.
    pub(super) const fn bytes_max(&self) -> u64 {
        self.total * GRAIN_BYTES
    }

    /// Returns the bytes in use.
    pub(super) fn bytes(&self) -> u64 {
        (self.total - self.grains.available_permits() as u64) * GRAIN_BYTES
    }

    /// Waits for `bytes`, which must be less than what blocks on their way always have.
    pub(super) async fn charge(&self, bytes: u64) -> Charge {
        let grains = u32::try_from(bytes.div_ceil(GRAIN_BYTES)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.grains).acquire_many_owned(grains).await;
        Charge(permit.expect("the semaphore is never closed"))
    }
}

impl Charge {
    /// Takes a part of the charge off it; all that is left when that is less.
    pub(super) fn split(&mut self, bytes: u64) -> Self {
        let grains = usize::try_from(bytes.div_ceil(GRAIN_BYTES)).unwrap_or(usize::MAX);
        let part = self.0.split(grains.min(self.0.num_permits()));
        Self(part.expect("no more is split off than is there"))
    }

    /// Ties the charge to bytes: it ends with the last clone or slice of them.
    pub(super) fn cover(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Charged {
            bytes,
            _charge: self,
        })
    }
}

struct Charged<T> {
    bytes: T,
    _charge: Charge,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Charged<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn memory_is_in_use_until_the_last_slice_is_gone() {
        let budget = Budget::new(8 << 10);
        let mut charge = budget.charge(8 << 10).await;
        assert_eq!(budget.bytes(), 8 << 10);
        let bytes = charge.split(4 << 10).cover(vec![1; 4 << 10]);
        drop(charge);
        assert_eq!(budget.bytes(), 4 << 10);
        let slice = bytes.slice(1..2);
        drop(bytes);
        assert!(budget.charge(5 << 10).now_or_never().is_none());
        drop(slice);
        assert!(budget.charge(5 << 10).now_or_never().is_some());
        assert_eq!(budget.bytes(), 0);
    }

    #[tokio::test]
    async fn grants_are_in_order() {
        let budget = Budget::new(8 << 10);
        let held = budget.charge(6 << 10).await;
        let mut large = Box::pin(budget.charge(4 << 10));
        assert!(futures::poll!(&mut large).is_pending());
        // There would be room for it, but it came later.
        assert!(budget.charge(1 << 10).now_or_never().is_none());
        drop(held);
        assert!(futures::poll!(&mut large).is_ready());
    }
}
