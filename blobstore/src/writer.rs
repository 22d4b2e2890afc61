//! Storing items: deduplication, frames, compression, packs, upload.
//!
//! ```text
//! ItemStream (one per layer) --frame--> compression threads --> pack of the kind --> upload
//!    keeps neighbours together   bounded queue              one open pack     bounded uploads
//! ```
//! Items that the index knows, or that another stream of the same writer has taken, are not stored
//! again. Whoever relies on that holds a [`Lease`](crate::Lease). A pack is in the local index only
//! once it and the copy of its index are durable.

mod assembler;

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::runtime::Handle;

use crate::crash::CrashHook;
use crate::frame::{self, FRAME_BYTES_TARGET, FRAME_ITEMS_MAX, FrameError};
use crate::pack::{Item, ItemKind, PackKind};
use crate::{BlobStore, Chunk, ChunkIndex, Digest, IndexError, StoreError};
use assembler::Assembler;

/// Frames that wait for compression at most, for each thread.
const QUEUED_FRAMES_PER_THREAD: usize = 2;

/// Why items could not be stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The store failed.
    #[error("write pack: {0}")]
    Store(#[source] Arc<StoreError>),
    /// The local index failed.
    #[error("write pack: {0}")]
    Index(#[source] Arc<IndexError>),
    /// A frame could not be compressed.
    #[error("write pack: {0}")]
    Frame(#[from] FrameError),
    /// A compression or upload task ended without a result.
    #[error("write pack: a worker ended early")]
    Stopped,
}

impl From<IndexError> for WriteError {
    fn from(error: IndexError) -> Self {
        Self::Index(Arc::new(error))
    }
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// How a writer works.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Threads that compress, at least 1.
    pub threads: usize,
    /// Plain bytes at which a frame is closed.
    pub frame_bytes: usize,
    /// What tests do at each point of the write.
    pub crash: CrashHook,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            threads: 1,
            frame_bytes: FRAME_BYTES_TARGET,
            crash: CrashHook::default(),
        }
    }
}

/// What a writer has stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteStats {
    /// Chunks that were not in the store.
    pub chunks_new: u64,
    /// Chunks that were, or came again.
    pub chunks_known: u64,
    /// Plain bytes of the new chunks.
    pub bytes_new_plain: u64,
    /// Bytes written to the store: packs and the copies of their indexes.
    pub bytes_stored: u64,
    /// Packs written.
    pub packs: u64,
}

/// What all streams and workers of a writer share.
#[derive(Debug)]
struct Shared {
    index: Arc<ChunkIndex>,
    /// Items on their way, so that two streams do not store the same one.
    taken: Mutex<HashSet<ItemKind>>,
    /// The first failure; every later call reports it.
    failure: Mutex<Option<WriteError>>,
    stats: Mutex<WriteStats>,
}

impl Shared {
    fn fail(&self, error: WriteError) {
        lock(&self.failure).get_or_insert(error);
    }

    fn check(&self) -> Result<(), WriteError> {
        lock(&self.failure).clone().map_or(Ok(()), Err)
    }
}

/// The data under these locks is whole after a panic: each holder makes one change.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stores items in packs of one kind.
#[derive(Debug)]
pub struct PackWriter {
    shared: Arc<Shared>,
    assembler: Arc<Assembler>,
    frames: SyncSender<PlainFrame>,
    workers: Vec<JoinHandle<()>>,
    frame_bytes: usize,
}

/// A frame before its compression.
#[derive(Debug)]
struct PlainFrame {
    plain: Vec<u8>,
    items: Vec<(Item, u32)>,
}

impl PackWriter {
    /// Starts a writer; uploads run on `runtime`.
    ///
    /// Memory: some 4 frames for each thread, one pack being filled, and
    /// three packs being written.
    pub fn new(
        kind: PackKind,
        store: Arc<dyn BlobStore>,
        index: Arc<ChunkIndex>,
        runtime: Handle,
        options: WriterOptions,
    ) -> Self {
        let WriterOptions {
            threads,
            frame_bytes,
            crash,
        } = options;
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            index,
            taken: Mutex::default(),
            failure: Mutex::default(),
            stats: Mutex::default(),
        });
        let assembler = Arc::new(Assembler::new(
            kind,
            store,
            Arc::clone(&shared),
            runtime,
            crash,
        ));
        let (frames, queue) = sync_channel(threads * QUEUED_FRAMES_PER_THREAD);
        let queue = Arc::new(Mutex::new(queue));
        let worker = |_| {
            let (queue, assembler) = (Arc::clone(&queue), Arc::clone(&assembler));
            std::thread::spawn(move || compress_frames(&queue, &assembler))
        };
        let workers = (0..threads).map(worker).collect();
        Self {
            shared,
            assembler,
            frames,
            workers,
            frame_bytes,
        }
    }

    /// Starts a stream of items that belong together, such as the files of one layer.
    pub fn stream(&self) -> ItemStream {
        ItemStream {
            shared: Arc::clone(&self.shared),
            frames: self.frames.clone(),
            open: PlainFrame {
                plain: Vec::new(),
                items: Vec::new(),
            },
            frame_bytes: self.frame_bytes,
        }
    }

    /// Waits until all that was added is durable and in the index. All streams must have been
    /// flushed and dropped. Blocks; not for the reactor.
    ///
    /// # Errors
    /// The first failure of any stream, thread or upload.
    pub fn finish(self) -> Result<WriteStats, WriteError> {
        drop(self.frames);
        for worker in self.workers {
            if worker.join().is_err() {
                self.shared.fail(WriteError::Stopped);
            }
        }
        self.shared.check()?;
        self.assembler.finish();
        self.shared.check()?;
        Ok(*lock(&self.shared.stats))
    }
}

fn compress_frames(queue: &Mutex<Receiver<PlainFrame>>, assembler: &Assembler) {
    loop {
        let next = lock(queue).recv();
        let Ok(PlainFrame { plain, items }) = next else {
            return;
        };
        match frame::compress(&plain) {
            Ok(stored) => assembler.push(&stored, &items),
            Err(error) => assembler.fail(error.into()),
        }
    }
}

/// Items in the order in which they will be read: neighbours share frames.
#[derive(Debug)]
pub struct ItemStream {
    shared: Arc<Shared>,
    frames: SyncSender<PlainFrame>,
    open: PlainFrame,
    frame_bytes: usize,
}

impl ItemStream {
    /// Adds a chunk, unless it is in the store. Blocks while the queue is full.
    ///
    /// # Errors
    /// The writer's first failure, which may stem from earlier items.
    pub fn add_chunk(&mut self, chunk: &Chunk) -> Result<(), WriteError> {
        let item = Item {
            kind: ItemKind::Chunk(chunk.id()),
            hash: *chunk.id().digest(),
        };
        let new = self.add(item, chunk.bytes())?;
        let mut stats = lock(&self.shared.stats);
        if new {
            stats.chunks_new += 1;
            stats.bytes_new_plain += chunk.bytes().len() as u64;
        } else {
            stats.chunks_known += 1;
        }
        Ok(())
    }

    /// Adds an encoded tree or chunk list, unless it is in the store. Blocks while the queue is
    /// full.
    ///
    /// # Errors
    /// The writer's first failure, which may stem from earlier items.
    pub fn add_metadata(&mut self, kind: ItemKind, bytes: &[u8]) -> Result<(), WriteError> {
        self.add(
            Item {
                kind,
                hash: Digest::of(bytes),
            },
            bytes,
        )
        .map(drop)
    }

    fn add(&mut self, item: Item, bytes: &[u8]) -> Result<bool, WriteError> {
        self.shared.check()?;
        // Taken before looked up: an upload enters the index before it gives its items free.
        if !lock(&self.shared.taken).insert(item.kind) {
            return Ok(false);
        }
        if self.shared.index.locate(item.kind)?.is_some() {
            lock(&self.shared.taken).remove(&item.kind);
            return Ok(false);
        }
        let len_bytes = u32::try_from(bytes.len()).expect("items are at most FRAME_BYTES_MAX");
        let PlainFrame { plain, items } = &mut self.open;
        let full = plain.len() + bytes.len() > self.frame_bytes || items.len() == FRAME_ITEMS_MAX;
        if full && !items.is_empty() {
            self.flush()?;
        }
        self.open.plain.extend_from_slice(bytes);
        self.open.items.push((item, len_bytes));
        Ok(true)
    }

    /// Sends the open frame off. Must be called before the stream is dropped.
    ///
    /// # Errors
    /// The writer's first failure.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        if self.open.items.is_empty() {
            return Ok(());
        }
        let next = PlainFrame {
            plain: Vec::with_capacity(self.frame_bytes),
            items: Vec::new(),
        };
        let frame = std::mem::replace(&mut self.open, next);
        self.frames.send(frame).map_err(|_| WriteError::Stopped)
    }
}

#[cfg(test)]
mod tests;
