//! The tiers together: memory, disk, and the origin behind a fair queue.
//!
//! A block is fetched once, however many ask for it ([`flight`]). What came from the origin goes
//! to memory and to the disk; what is read from the disk often goes to memory again. A
//! block that is bad on the disk is fetched anew, and its reader does not notice.

mod flight;

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nacre_blobstore::{BlobStore, Clock, Digest, StoreError};
use tokio_util::task::TaskTracker;
use tracing::Span;

use self::flight::Flight;
use super::block::{BLOCK_BYTES, BLOCK_BYTES_MAX, Block, BlockId, Part, UNIT_BYTES, parts};
use super::budget::{Budget, charged};
use super::disk::{Disk, DiskError, READ_BYTES, Stored, Writer};
use super::fair::{Admission, ClientId, FairQueue, Priority};
use super::metrics::{Metrics, Tier};
use super::object::ObjectName;
use super::s3_fifo::S3Fifo;

/// Requests to the origin under way at once, unless the options say otherwise.
pub const ORIGIN_REQUESTS: usize = 32;
/// Longest range that is asked of the origin at once, and how far ahead of an answer.
pub(super) const ORIGIN_GET_BYTES_MAX: u32 = 4 << 20;
/// Fetches that were turned away which one that is not joins, one after the other.
const JOINS_MAX: usize = 8;
/// The least memory that a member works with.
pub const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Objects whose lengths are remembered, by some 150 bytes each.
const LENGTHS_MAX: u64 = 1 << 18;
/// Evicted blocks that the memory tier remembers, by 72 bytes each.
const GHOSTS_MAX: usize = 1 << 16;

/// What a member keeps, and where.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// Limit of all blocks in memory, in bytes; [`MEMORY_BYTES_MIN`] at least.
    pub memory_bytes: u64,
    /// Folder of the disk tier and its limit in bytes; none means memory alone.
    pub disk: Option<(PathBuf, u64)>,
    /// Length of a block: a multiple of 32 KiB, up to [`BLOCK_BYTES_MAX`].
    pub block_bytes: u32,
    /// Requests to the origin under way at once.
    pub origin_requests: usize,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 1 << 30,
            disk: None,
            block_bytes: BLOCK_BYTES,
            origin_requests: ORIGIN_REQUESTS,
        }
    }
}

/// Why bytes cannot be served. Cheap to clone: all who wait for a fetch get the same.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum CacheError {
    #[error("there is no such object")]
    NotFound,
    /// The object ends before the range.
    #[error("the object has {0} bytes")]
    Beyond(u64),
    /// The origin is overloaded.
    #[error("the origin is busy")]
    Shed { retry_after_s: u64 },
    #[error("{0}")]
    Unavailable(Arc<str>),
}

/// Who asks, how urgently, whether it may be turned away, and by which request.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) client: ClientId,
    pub(super) priority: Priority,
    pub(super) admission: Admission,
    /// The parent of the spans of what the origin is asked for.
    pub(super) span: Span,
}

/// A part of a block, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// What was asked for from its start on, one byte at least. There may be more of it: the
    /// caller asks for the rest.
    pub(super) bytes: Bytes,
    pub(super) object_bytes: u64,
    pub(super) tier: Tier,
}

/// The blocks of a member.
#[derive(Debug)]
pub(super) struct Cache {
    store: Arc<dyn BlobStore>,
    clock: Arc<dyn Clock>,
    pub(super) block_bytes: u32,
    pub(super) budget: Budget,
    memory: Mutex<S3Fifo<BlockId, Block>>,
    disk: Option<(Arc<Disk>, Writer)>,
    lengths: Mutex<S3Fifo<Digest, u64>>,
    flights: Mutex<HashMap<BlockId, Flight>>,
    pub(super) queue: Arc<FairQueue>,
    pub(super) metrics: Metrics,
    tasks: TaskTracker,
}

impl Cache {
    /// Opens the tiers over `store`.
    pub(super) fn open(
        options: &CacheOptions,
        store: Arc<dyn BlobStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DiskError> {
        let block_bytes = options.block_bytes.next_multiple_of(UNIT_BYTES);
        let block_bytes = block_bytes.clamp(UNIT_BYTES, BLOCK_BYTES_MAX);
        let budget = Budget::new(options.memory_bytes.max(MEMORY_BYTES_MIN));
        let mut lengths = S3Fifo::new(LENGTHS_MAX, 0);
        let open = |(path, bytes): &(PathBuf, u64)| {
            let now = clock.elapsed();
            let found = |id: &BlockId, object_bytes| {
                if lengths.peek(&id.object).is_none() && lengths.weight() < LENGTHS_MAX {
                    lengths.insert(id.object, object_bytes, 1, now);
                }
            };
            let disk = Disk::open(path, *bytes, block_bytes, Arc::clone(&clock), found)?;
            let disk = Arc::new(disk);
            let writer = Writer::start(Arc::clone(&disk)).map_err(|source| DiskError::Io {
                path: path.display().to_string(),
                source,
            })?;
            Ok((disk, writer))
        };
        let disk = options.disk.as_ref().map(open).transpose()?;
        Ok(Self {
            store,
            block_bytes,
            memory: Mutex::new(S3Fifo::new(budget.tier_bytes(), GHOSTS_MAX)),
            budget,
            disk,
            lengths: Mutex::new(lengths),
            flights: Mutex::default(),
            queue: Arc::new(FairQueue::new(options.origin_requests, Arc::clone(&clock))),
            metrics: Metrics::default(),
            tasks: TaskTracker::new(),
            clock,
        })
    }

    /// Returns the length of an object, if it is known without asking the origin.
    pub(super) fn known_length(&self, object: Digest) -> Option<u64> {
        let now = self.clock.elapsed();
        lock(&self.lengths).get(&object, now).copied()
    }

    fn note_length(&self, object: Digest, bytes: u64) {
        let mut lengths = lock(&self.lengths);
        if lengths.peek(&object) != Some(&bytes) {
            lengths.insert(object, bytes, 1, self.clock.elapsed());
            while lengths.is_over() && lengths.evict().is_some() {}
        }
    }

    /// Returns a part of a block. `last` is the last block that the answer will want: an extent that
    /// it wants as a whole is fetched as one.
    ///
    /// # Errors
    /// [`CacheError`], of the origin alone.
    pub(super) async fn part(
        self: &Arc<Self>,
        name: &ObjectName,
        part: &Part,
        last: u32,
        asker: &Asker,
    ) -> Result<Piece, CacheError> {
        let since = self.clock.elapsed();
        let id = BlockId {
            object: name.id(),
            number: part.number,
        };
        let piece = match self.local(&id, part).await {
            Some(piece) => piece,
            None => {
                let block = self.landed(name, part.number, last, asker).await?;
                slice(&block, &part.within, Tier::Origin)?
            }
        };
        let wait = self.clock.elapsed().saturating_sub(since);
        self.metrics
            .served(piece.tier, piece.bytes.len() as u64, wait);
        Ok(piece)
    }

    /// Waits for a block from the origin. An answer that has begun does not end because the fetch
    /// that it joined was turned away: it makes one of its own.
    async fn landed(
        self: &Arc<Self>,
        name: &ObjectName,
        number: u32,
        last: u32,
        asker: &Asker,
    ) -> Result<Block, CacheError> {
        let mut landed = self.flight(name, number, last, asker).await;
        for _ in 0..JOINS_MAX {
            let shed = matches!(landed, Err(CacheError::Shed { .. }));
            if !shed || asker.admission == Admission::MayShed {
                break;
            }
            landed = self.flight(name, number, last, asker).await;
        }
        landed
    }

    /// Starts to fetch the blocks `numbers`, which an answer up to `last` will want soon.
    pub(super) fn ahead(
        self: &Arc<Self>,
        name: &ObjectName,
        numbers: RangeInclusive<u32>,
        last: u32,
        asker: &Asker,
    ) {
        for number in numbers {
            self.block_ahead(name, number, last, asker);
        }
    }

    /// Returns the blocks that are to be on their way when block `number` of an answer up to `last` is
    /// waited for.
    pub(super) fn blocks_ahead(&self, number: u32, last: u32) -> RangeInclusive<u32> {
        let distance = ORIGIN_GET_BYTES_MAX / self.block_bytes;
        number.saturating_add(1)..=number.saturating_add(distance).min(last)
    }

    fn block_ahead(self: &Arc<Self>, name: &ObjectName, number: u32, last: u32, asker: &Asker) {
        let id = BlockId {
            object: name.id(),
            number,
        };
        if lock(&self.memory).peek(&id).is_some() {
            return;
        }
        let on_disk =
            |(disk, _): &(Arc<Disk>, Writer)| disk.unanswered() == 0 && disk.peek(&id).is_some();
        if !self.disk.as_ref().is_some_and(on_disk) {
            drop(self.flight(name, number, last, asker));
        }
    }

    /// Returns a part of a block that is here, from memory or from the disk.
    async fn local(&self, id: &BlockId, part: &Part) -> Option<Piece> {
        let within = &part.within;
        let now = self.clock.elapsed();
        let block = lock(&self.memory).get(id, now).cloned();
        if let Some(block) = block {
            // A use there, too: what is hot has to be on the disk when it leaves the memory, or when
            // the process ends.
            if let Some((disk, _)) = &self.disk {
                drop(disk.get(id));
            }
            return slice(&block, within, Tier::Memory).ok();
        }
        let (disk, _) = self.disk.as_ref()?;
        let slot = disk.get(id)?;
        let len = slot.len();
        let piece = within.start..within.end.min(piece_end(within.start));
        let whole = slot.is_worth_memory((piece.end - piece.start).into());
        let wanted = if whole { 0..len } else { piece };
        if within.start >= len {
            return None;
        }
        let charge = self.budget.charge(u64::from(
            len.min(wanted.end - wanted.start) + 2 * UNIT_BYTES,
        ));
        let mut charge = charge.await;
        let (bytes, start) = match disk.read(&slot, &wanted).await {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, object = %id.object, block = id.number, "ask the origin for a block");
                return None;
            }
        };
        let object_bytes = slot.object_bytes();
        let read = Block {
            bytes: charge.split(bytes.as_ref().len() as u64).cover(bytes),
            object_bytes,
        };
        if whole {
            self.remember(*id, read.clone());
        }
        let end = if whole { within.end } else { wanted.end };
        let shifted = within.start - start..end - start;
        slice(&read, &shifted, Tier::Disk).ok()
    }

    /// Tells whether all blocks that `range` of an object touches are here.
    pub(super) fn has_all(&self, name: &ObjectName, range: &Range<u64>) -> bool {
        parts(range.clone(), self.block_bytes).all(|part| {
            self.has(&BlockId {
                object: name.id(),
                number: part.number,
            })
        })
    }

    /// Puts a block into the memory tier.
    fn remember(&self, id: BlockId, block: Block) {
        let now = self.clock.elapsed();
        let weight = charged(block.bytes.len() as u64);
        let mut gone = Vec::new();
        let mut memory = lock(&self.memory);
        memory.insert(id, block, weight, now);
        while memory.is_over()
            && let Some(evicted) = memory.evict()
        {
            gone.push(evicted);
        }
        drop(memory);
        self.metrics.memory_evictions.add(gone.len() as u64);
    }

    /// Forgets the blocks that `range` of an object touches: somebody got a wrong byte from here.
    /// Returns how many there were.
    pub(super) fn forget(&self, name: &ObjectName, range: Range<u64>) -> u64 {
        let mut dropped = 0;
        for part in parts(range, self.block_bytes) {
            let id = BlockId {
                object: name.id(),
                number: part.number,
            };
            let in_memory = lock(&self.memory).remove(&id).is_some();
            let on_disk = self.disk.as_ref().is_some_and(|(disk, _)| disk.remove(&id));
            dropped += u64::from(in_memory || on_disk);
        }
        dropped
    }

    /// Keeps blocks, from the block `first` on, that were written through. Tells whether all of
    /// them are on the disk.
    pub(super) async fn keep(&self, name: &ObjectName, first: u32, blocks: Vec<Block>) -> bool {
        let mut stored = self.disk.is_some();
        for (number, block) in (first..).zip(blocks) {
            let id = BlockId {
                object: name.id(),
                number,
            };
            self.note_length(id.object, block.object_bytes);
            self.remember(id, block.clone());
            if let Some((_, writer)) = &self.disk {
                stored &= writer.write(id, block, true).await == Stored::Yes;
            }
        }
        stored
    }

    /// Returns the bytes and blocks of the memory tier.
    pub(super) fn memory_use(&self) -> (u64, usize) {
        let memory = lock(&self.memory);
        (memory.weight(), memory.len())
    }

    pub(super) fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref().map(|(disk, _)| &**disk)
    }

    /// Waits for fetches that are under way and for what is on its way to the disk.
    pub(super) async fn settle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Returns where a piece ends that is read from the disk at once.
const fn piece_end(start: u32) -> u32 {
    (start / UNIT_BYTES * UNIT_BYTES).saturating_add(READ_BYTES)
}

/// Cuts a part out of a block, no further than the block goes.
fn slice(block: &Block, within: &Range<u32>, tier: Tier) -> Result<Piece, CacheError> {
    let (start, end) = (within.start as usize, within.end as usize);
    let end = end.min(block.bytes.len());
    if start >= end {
        return Err(CacheError::Beyond(block.object_bytes));
    }
    Ok(Piece {
        bytes: block.bytes.slice(start..end),
        object_bytes: block.object_bytes,
        tier,
    })
}

impl CacheError {
    fn of(error: &StoreError) -> Self {
        match error {
            StoreError::NotFound(_) => Self::NotFound,
            StoreError::Size { actual, .. } => Self::Beyond(*actual),
            error => Self::Unavailable(error.to_string().into()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
