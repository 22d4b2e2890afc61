//! The disk tier: blocks in the slots of one large file, and a table that says what is where.
//!
//! - `blocks` has a slot of a block's length for each block, `table` a record for each slot
//!   ([`record`]). Both are written through the page cache and never synced: every unit of a
//!   block is checked against its checksum each time it is read from here, so whatever a crash, the
//!   disk or anybody else made of the files costs a fetch, never a wrong byte.
//! - What is on the disk is found again at the next start, also after `kill -9`.
//! - A disk that is full, or fails, stores less: reads go on from memory and from the origin. So they
//!   do while it hangs, whose reads nothing can end: no more of them are begun until it answers.
//! - Blocks are read past the page cache, whose pages would cost more than all else that a read
//!   takes: what is read often is in memory anyway. They are not mapped: a file that is cut off, or a
//!   sector that cannot be read, is an error of one read, where a mapping would end the process by
//!   SIGBUS.

mod buffers;
mod record;
mod slots;
mod write;

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nacre_blobstore::Clock;
use rustix::fs::{Advice, FlockOperation, OFlags, flock};
use rustix::io::Errno;
use tokio::sync::Semaphore;

pub(super) use self::buffers::Buffer;
use self::buffers::Buffers;
use self::record::{HEAD_BYTES, Record, head, record_bytes};
pub(super) use self::slots::Slot;
use self::slots::Slots;
pub(super) use self::write::{Stored, Writer};
use super::block::{BlockId, UNIT_BYTES, checksum};

/// Bytes that are read at once of a block that does not go to memory.
pub(super) const READ_BYTES: u32 = 512 << 10;

/// Reads that the disk has to answer at once, each on a thread, for each core.
const READS_PER_CORE: usize = 4;

/// A read that the disk has not answered for so long is given up, its turn included: far longer than
/// those wait who stand in line at a disk that is merely busy.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Why a disk tier cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process uses it.
    #[error("another process uses {0}")]
    Busy(String),
    /// It cannot be created or read.
    #[error("open {path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// The cause.
        source: io::Error,
    },
}

/// Why a block could not be read. Unless the disk hangs it is no longer in the tier then.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlockError {
    /// The bytes are not those that were written.
    #[error("block on the disk does not match its checksum")]
    Corrupt,
    /// The disk failed.
    #[error("read block from the disk: {0}")]
    Io(#[from] io::Error),
    /// The disk does not answer.
    #[error("the disk hangs")]
    Hangs,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct DiskCounters {
    pub(super) evictions: AtomicU64,
    pub(super) corrupt: AtomicU64,
    pub(super) errors: AtomicU64,
    /// Blocks that were not stored: the disk was full, failed, or too slow.
    pub(super) unstored: AtomicU64,
}

/// The blocks on the disk.
#[derive(Debug)]
pub(super) struct Disk {
    blocks: File,
    /// The same, past the page cache; where the file system cannot, as `blocks`.
    direct: File,
    table: File,
    slots: Slots,
    block_bytes: u32,
    reads: Arc<Semaphore>,
    /// Reads that were given up, and that it may answer yet.
    unanswered: Arc<AtomicUsize>,
    buffers: Buffers,
    pub(super) counters: DiskCounters,
}

impl Disk {
    /// Opens the tier in the folder `path`, which may grow to `bytes_max` and a table of 0.04 % of
    /// that. Blocks of another length than `block_bytes` that are there are forgotten. Calls `found`
    /// with the object and the object's length of each block that is taken over.
    pub(super) fn open(
        path: &Path,
        bytes_max: u64,
        block_bytes: u32,
        clock: Arc<dyn Clock>,
        mut found: impl FnMut(&BlockId, u64),
    ) -> Result<Self, DiskError> {
        let fail = |path: &Path| {
            let path = path.display().to_string();
            move |source| DiskError::Io { path, source }
        };
        std::fs::create_dir_all(path).map_err(fail(path))?;
        let open = |name: &str| {
            let path = path.join(name);
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            file.map_err(fail(&path))
        };
        let (table, blocks) = (open("table")?, open("blocks")?);
        match flock(&table, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(DiskError::Busy(path.display().to_string())),
            Err(error) => return Err(fail(path)(error.into())),
        }
        // Where it is read through the page cache after all: the kernel would guess up to
        // `read_ahead_kb` of other blocks with it.
        rustix::fs::fadvise(&blocks, 0, None, Advice::Random).unwrap_or_default();
        let direct = File::options()
            .read(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(path.join("blocks"))
            .or_else(|_| blocks.try_clone())
            .map_err(fail(path))?;
        let count = u32::try_from(bytes_max / u64::from(block_bytes)).unwrap_or(u32::MAX);
        prepare(&table, &blocks, count, block_bytes).map_err(fail(path))?;
        let records = Records::new(&table, count, block_bytes).inspect(|(_, record)| {
            if let Some(record) = record {
                found(&record.id, record.object_bytes);
            }
        });
        let slots = Slots::new(count, records, clock);
        Ok(Self {
            blocks,
            direct,
            table,
            slots,
            block_bytes,
            reads: Arc::new(Semaphore::new(reads_max())),
            unanswered: Arc::default(),
            buffers: Buffers::new(READ_BYTES as usize),
            counters: DiskCounters::default(),
        })
    }

    /// Returns the slot of a block and counts a use.
    pub(super) fn get(&self, id: &BlockId) -> Option<Arc<Slot>> {
        self.slots.get(id)
    }

    /// Returns the slot of a block.
    pub(super) fn peek(&self, id: &BlockId) -> Option<Arc<Slot>> {
        self.slots.peek(id)
    }

    /// Forgets a block. `false` when it is not here.
    pub(super) fn remove(&self, id: &BlockId) -> bool {
        let slot = self.slots.remove(id);
        if let Some(slot) = &slot {
            // Before the slot can be used again: it is still held here.
            self.erase(slot.record.slot);
        }
        slot.is_some()
    }

    /// Returns the blocks that are stored, and the slots that could not be written.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.slots.len(), self.slots.bad())
    }

    /// Returns how many reads the disk has not answered in time, and not since.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Has the disk answer nothing until what is returned is dropped.
    #[cfg(test)]
    pub(super) async fn hang(&self) -> tokio::sync::OwnedSemaphorePermit {
        let turns = u32::try_from(reads_max()).unwrap();
        let reads = Arc::clone(&self.reads);
        reads.acquire_many_owned(turns).await.unwrap()
    }

    /// Reads the units that `within` of a block touches, and checks them. Returns them and where
    /// they begin in the block.
    ///
    /// # Errors
    /// [`BlockError`]; the block is gone then, unless the disk hangs.
    pub(super) async fn read(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        within: &Range<u32>,
    ) -> Result<(Buffer, u32), BlockError> {
        let units = units(within, slot.record.len);
        if self.unanswered() > 0 {
            return Err(BlockError::Hangs);
        }
        let bytes = self.buffers.get((units.end - units.start) as usize);
        let at = self.offset(slot.record.slot) + u64::from(units.start);
        let (bytes, read) = self.read_waiting(bytes, at).await?;
        let outcome = match read {
            Ok(()) if is_intact(bytes.as_ref(), units.start, &slot.record) => {
                return Ok((bytes, units.start));
            }
            Ok(()) => Err(BlockError::Corrupt),
            // The file was cut off.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(BlockError::Corrupt),
            Err(error) => Err(error.into()),
        };
        self.drop_failed(slot, outcome.as_ref().err());
        outcome
    }

    /// Reads on a thread that may block, for as long as anybody can wait for it.
    async fn read_waiting(
        self: &Arc<Self>,
        mut bytes: Buffer,
        at: u64,
    ) -> Result<(Buffer, io::Result<()>), BlockError> {
        let disk = Arc::clone(self);
        let mut reading = Box::pin(async move {
            let turn = Arc::clone(&disk.reads).acquire_owned().await;
            let blocking = tokio::task::spawn_blocking(move || {
                let read = disk.read_direct(&mut bytes, at);
                drop(turn);
                (bytes, read)
            });
            blocking.await.map_err(io::Error::other)
        });
        match tokio::time::timeout(ANSWER_MAX, &mut reading).await {
            Ok(done) => Ok(done?),
            Err(_) => {
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
                let unanswered = Arc::clone(&self.unanswered);
                unanswered.fetch_add(1, Ordering::Relaxed);
                // Nothing can end it.
                tokio::spawn(async move {
                    drop(reading.await);
                    unanswered.fetch_sub(1, Ordering::Relaxed);
                });
                Err(BlockError::Hangs)
            }
        }
    }

    fn read_direct(&self, bytes: &mut Buffer, at: u64) -> io::Result<()> {
        match self.direct.read_exact_at(bytes.pages_mut(), at) {
            // Larger sectors, or a file that ends within a page.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.blocks.read_exact_at(bytes.as_mut(), at)
            }
            read => read,
        }
    }

    fn drop_failed(&self, slot: &Arc<Slot>, error: Option<&BlockError>) {
        let counter = match error {
            Some(BlockError::Io(_)) => {
                slot.mark_bad();
                &self.counters.errors
            }
            _ => &self.counters.corrupt,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.slots.remove_slot(slot);
        self.erase(slot.record.slot);
    }

    /// Makes sure that the next start does not take a slot for what it held.
    fn erase(&self, slot: u32) {
        let blank = vec![0; record_bytes(self.block_bytes)];
        // If it fails the checksums tell.
        drop(self.table.write_all_at(&blank, self.record_offset(slot)));
    }

    fn offset(&self, slot: u32) -> u64 {
        u64::from(slot) * u64::from(self.block_bytes)
    }

    fn record_offset(&self, slot: u32) -> u64 {
        record_offset(slot, self.block_bytes)
    }
}

fn reads_max() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    cores * READS_PER_CORE
}

fn record_offset(slot: u32, block_bytes: u32) -> u64 {
    HEAD_BYTES + u64::from(slot) * record_bytes(block_bytes) as u64
}

/// Returns the bytes of the units that `within` touches, in a block of `len` bytes.
fn units(within: &Range<u32>, len: u32) -> Range<u32> {
    let start = within.start / UNIT_BYTES * UNIT_BYTES;
    start..within.end.next_multiple_of(UNIT_BYTES).min(len)
}

fn is_intact(bytes: &[u8], start: u32, record: &Record) -> bool {
    let first = (start / UNIT_BYTES) as usize;
    let mut units = bytes
        .chunks(UNIT_BYTES as usize)
        .zip(record.checksums.iter().skip(first));
    units.all(|(unit, sum)| checksum(unit) == *sum)
}

/// Gives the files their lengths, and empties them if they are of another kind of tier.
fn prepare(table: &File, blocks: &File, count: u32, block_bytes: u32) -> io::Result<()> {
    let head = head(block_bytes);
    let mut found = vec![0; head.len()];
    let known = table.read_exact_at(&mut found, 0).is_ok() && found == head;
    if !known {
        table.set_len(0)?;
        blocks.set_len(0)?;
        table.write_all_at(&head, 0)?;
    }
    blocks.set_len(u64::from(count) * u64::from(block_bytes))?;
    table.set_len(record_offset(count, block_bytes))
}

/// The records of a table, read some at a time.
struct Records<'a> {
    table: &'a File,
    next: u32,
    count: u32,
    block_bytes: u32,
    buffer: Vec<u8>,
    at: usize,
}

impl<'a> Records<'a> {
    /// Records that are read at once.
    const BATCH: u32 = 4096;

    const fn new(table: &'a File, count: u32, block_bytes: u32) -> Self {
        Self {
            table,
            next: 0,
            count,
            block_bytes,
            buffer: Vec::new(),
            at: 0,
        }
    }
}

impl Iterator for Records<'_> {
    type Item = (u32, Option<Record>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.count {
            return None;
        }
        let size = record_bytes(self.block_bytes);
        if self.at == self.buffer.len() {
            let batch = Self::BATCH.min(self.count - self.next) as usize;
            self.buffer.clear();
            self.buffer.resize(batch * size, 0);
            self.at = 0;
            let offset = record_offset(self.next, self.block_bytes);
            if self.table.read_exact_at(&mut self.buffer, offset).is_err() {
                // Free slots, all of them.
                self.buffer.fill(0);
            }
        }
        let slot = self.next;
        let bytes = &self.buffer[self.at..self.at + size];
        let record = Record::decode(bytes, slot, self.block_bytes);
        self.next += 1;
        self.at += size;
        Some((slot, record))
    }
}

#[cfg(test)]
mod tests;
