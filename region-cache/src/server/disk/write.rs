//! The way to the disk: one thread, and a bounded queue before it.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::record::Record;
use super::{BlockId, Disk};
use crate::server::block::{Block, checksums};

/// Blocks that wait for the disk.
const QUEUE_BLOCKS: usize = 32;
/// How long a block waits for a place in the queue before it is not stored.
const QUEUE_WAIT: Duration = Duration::from_secs(1);

/// Whether a block is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Stored {
    Yes,
    No,
}

struct Job {
    id: BlockId,
    block: Block,
    keep: bool,
    done: oneshot::Sender<Stored>,
}

/// Writes blocks. Ends, with all that was handed to it written, when it is dropped.
#[derive(Debug)]
pub(in crate::server) struct Writer {
    disk: Arc<Disk>,
    queue: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub(in crate::server) fn start(disk: Arc<Disk>) -> io::Result<Self> {
        let (queue, mut jobs) = mpsc::channel::<Job>(QUEUE_BLOCKS);
        let writes = Arc::clone(&disk);
        let thread = std::thread::Builder::new()
            .name("region-disk".to_owned())
            .spawn(move || {
                while let Some(job) = jobs.blocking_recv() {
                    let stored = writes.store(job.id, &job.block, job.keep);
                    // Nobody may wait for it.
                    let _unheard = job.done.send(stored);
                }
            })?;
        Ok(Self {
            disk,
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Stores a block, and returns when it was written. `keep` says that it is to stay for longer
    /// than one that may be of a scan. When the disk does not keep up it is not stored.
    pub(in crate::server) async fn write(&self, id: BlockId, block: Block, keep: bool) -> Stored {
        let (done, written) = oneshot::channel();
        let job = Job {
            id,
            block,
            keep,
            done,
        };
        let stored = match &self.queue {
            Some(queue) if queue.send_timeout(job, QUEUE_WAIT).await.is_ok() => {
                written.await.unwrap_or(Stored::No)
            }
            _ => Stored::No,
        };
        if stored == Stored::No {
            self.disk.counters.unstored.fetch_add(1, Ordering::Relaxed);
        }
        stored
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Disk {
    /// Writes a block that is not stored yet.
    fn store(&self, id: BlockId, block: &Block, keep: bool) -> Stored {
        if self.slots.peek(&id).is_some() {
            return Stored::Yes;
        }
        let evicted = || {
            self.counters.evictions.fetch_add(1, Ordering::Relaxed);
        };
        let (Ok(len), Some(slot)) = (u32::try_from(block.bytes.len()), self.slots.take(evicted))
        else {
            return Stored::No;
        };
        let record = Record {
            slot,
            id,
            len,
            object_bytes: block.object_bytes,
            checksums: checksums(&block.bytes),
        };
        // A process that is killed in between leaves a free slot.
        self.erase(slot);
        let written = self
            .blocks
            .write_all_at(&block.bytes, self.offset(slot))
            .and_then(|()| {
                let bytes = record.encode(self.block_bytes);
                self.table.write_all_at(&bytes, self.record_offset(slot))
            });
        match written {
            Ok(()) => {
                self.slots.enter(record, keep);
                Stored::Yes
            }
            Err(error) => {
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, slot, "write block to the disk");
                self.slots.give_back_bad(slot);
                Stored::No
            }
        }
    }
}
