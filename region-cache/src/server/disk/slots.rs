//! The slots of the disk tier: which are free, which hold what, which cannot be written.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nacre_blobstore::Clock;

use super::record::Record;
use crate::server::block::BlockId;
use crate::server::s3_fifo::S3Fifo;

/// Blocks that one write evicts at most, when those that it evicts are still being read.
const EVICTIONS_MAX: usize = 16;
/// After this time a slot that could not be written is tried again.
const BAD_RETRY: Duration = Duration::from_secs(10);
/// Evicted blocks that are remembered, by 72 bytes each.
const GHOSTS_MAX: usize = 1 << 18;

/// Times that a block's length is read from the disk before the block goes to memory.
const READS_OF_ALL: u64 = 2;

/// A slot that holds a block. It is used again when nobody reads it any more.
#[derive(Debug)]
pub(in crate::server) struct Slot {
    pub(super) record: Record,
    /// Bytes that were read since it was written, or went to memory.
    read: AtomicU64,
    /// Whether the disk failed at it.
    bad: AtomicBool,
    free: Arc<FreeSlots>,
}

impl Slot {
    /// Returns the length of the block.
    pub(in crate::server) const fn len(&self) -> u32 {
        self.record.len
    }

    /// Returns the length of the object that it is a part of.
    pub(in crate::server) const fn object_bytes(&self) -> u64 {
        self.record.object_bytes
    }

    /// Counts bytes that are about to be read. Tells whether the block is worth its place in
    /// memory: when it was read often enough that reading all of it once more costs little. Many
    /// small reads that are spread over many blocks must not read each block whole.
    pub(in crate::server) fn is_worth_memory(&self, bytes: u64) -> bool {
        let worth = READS_OF_ALL * u64::from(self.record.len);
        let read = self.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let is_worth = read > worth;
        if is_worth {
            self.read.store(0, Ordering::Relaxed);
        }
        is_worth
    }

    pub(super) fn mark_bad(&self) {
        self.bad.store(true, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let list = if *self.bad.get_mut() {
            &self.free.bad
        } else {
            &self.free.good
        };
        lock(list).push(self.record.slot);
    }
}

/// Slots that hold nothing.
#[derive(Debug)]
pub(super) struct FreeSlots {
    good: Mutex<Vec<u32>>,
    bad: Mutex<Vec<u32>>,
}

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    index: Mutex<S3Fifo<BlockId, Arc<Slot>>>,
    free: Arc<FreeSlots>,
    bad_tried: Mutex<Duration>,
    count: u32,
    clock: Arc<dyn Clock>,
}

impl Slots {
    /// Takes over what the records say; of two that name one block the first.
    pub(super) fn new(
        count: u32,
        records: impl Iterator<Item = (u32, Option<Record>)>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let ghosts = usize::try_from(count).map_or(GHOSTS_MAX, |count| count.min(GHOSTS_MAX));
        let mut index = S3Fifo::new(count.into(), ghosts);
        let free = Arc::new(FreeSlots {
            good: Mutex::default(),
            bad: Mutex::default(),
        });
        let now = clock.elapsed();
        for (number, record) in records {
            match record {
                Some(record) if index.peek(&record.id).is_none() => {
                    let (id, slot) = (record.id, occupied(record, &free));
                    // Whether it was ever used twice is not known: it gets the better queue.
                    index.insert_main(id, slot, 1, now);
                }
                _ => lock(&free.good).push(number),
            }
        }
        // The first slot is taken first.
        lock(&free.good).reverse();
        Self {
            index: Mutex::new(index),
            free,
            bad_tried: Mutex::new(now),
            count,
            clock,
        }
    }

    /// Returns the slot of a block and counts a use.
    pub(super) fn get(&self, id: &BlockId) -> Option<Arc<Slot>> {
        let now = self.clock.elapsed();
        lock(&self.index).get(id, now).map(Arc::clone)
    }

    /// Returns the slot of a block.
    pub(super) fn peek(&self, id: &BlockId) -> Option<Arc<Slot>> {
        lock(&self.index).peek(id).map(Arc::clone)
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.index).len()
    }

    pub(super) fn bad(&self) -> usize {
        lock(&self.free.bad).len()
    }

    /// Removes a block.
    pub(super) fn remove(&self, id: &BlockId) -> Option<Arc<Slot>> {
        lock(&self.index).remove(id)
    }

    /// Removes the block of `slot`, unless another slot has it by now.
    pub(super) fn remove_slot(&self, slot: &Arc<Slot>) {
        let mut index = lock(&self.index);
        let id = &slot.record.id;
        if index.peek(id).is_some_and(|now| Arc::ptr_eq(now, slot)) {
            drop(index.remove(id));
        }
    }

    /// Takes a slot to write to, evicting what it must; `evicted` is told how often. `None` when
    /// all that could go is being read.
    pub(super) fn take(&self, mut evicted: impl FnMut()) -> Option<u32> {
        for _ in 0..EVICTIONS_MAX {
            if let Some(number) = lock(&self.free.good).pop() {
                return Some(number);
            }
            if let Some(number) = self.retry_bad() {
                return Some(number);
            }
            let gone = lock(&self.index).evict()?;
            evicted();
            // Outside the lock: this may put the slot on the free list.
            drop(gone);
        }
        lock(&self.free.good).pop()
    }

    fn retry_bad(&self) -> Option<u32> {
        let now = self.clock.elapsed();
        let mut tried = lock(&self.bad_tried);
        if now.saturating_sub(*tried) < BAD_RETRY {
            return None;
        }
        let number = lock(&self.free.bad).pop()?;
        *tried = now;
        drop(tried);
        self.fit();
        Some(number)
    }

    /// Gives back a slot that was taken and could not be written.
    pub(super) fn give_back_bad(&self, number: u32) {
        lock(&self.free.bad).push(number);
        *lock(&self.bad_tried) = self.clock.elapsed();
        self.fit();
    }

    /// Counts the slots that can be written as the capacity.
    fn fit(&self) {
        let capacity = u64::from(self.count).saturating_sub(self.bad() as u64);
        lock(&self.index).set_capacity(capacity);
    }

    /// Enters a block that was written. `keep` says that it is to stay for longer than one that
    /// may be of a scan.
    pub(super) fn enter(&self, record: Record, keep: bool) {
        let now = self.clock.elapsed();
        let (id, slot) = (record.id, occupied(record, &self.free));
        let mut index = lock(&self.index);
        let before = index.remove(&id);
        if keep {
            index.insert_main(id, slot, 1, now);
        } else {
            index.insert(id, slot, 1, now);
        }
        drop(index);
        drop(before);
    }
}

fn occupied(record: Record, free: &Arc<FreeSlots>) -> Arc<Slot> {
    Arc::new(Slot {
        record,
        read: AtomicU64::new(0),
        bad: AtomicBool::new(false),
        free: Arc::clone(free),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
