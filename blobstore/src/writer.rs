//! Storing items: deduplication, frames, compression, packs, upload.
//!
//! ```text
//! ItemStream (one per layer) --frame--> compression threads --> pack of the kind --> upload
//!    keeps neighbours together   bounded queue              one open pack     bounded uploads
//! ```
//! Items that the index knows, or that another stream of the same writer has taken, are not stored
//! again, unless copies are asked for. Whoever relies on that holds a [`Lease`](crate::Lease). A pack
//! is in the local index only once it and the copy of its index are durable. A pack's frames are put
//! in order when it is full: by affinity, then by stream, then as they came.

mod assembler;
mod stream;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::runtime::Handle;

use crate::crash::CrashHook;
use crate::frame::{self, FRAME_BYTES_TARGET, FrameError};
use crate::pack::{Item, ItemKind, PackKind};
use crate::{BlobStore, ChunkIndex, IndexError, StoreError};
use assembler::{Assembler, FrameOrder};
pub use stream::{Affinity, ItemStream};

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
    /// Whether items that the index knows are stored again. It then says that they are where they
    /// were stored last.
    pub copies: bool,
    /// What tests do at each point of the write.
    pub crash: CrashHook,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            threads: 1,
            frame_bytes: FRAME_BYTES_TARGET,
            copies: false,
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
    copies: bool,
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
    streams: AtomicU32,
}

/// A frame before its compression.
#[derive(Debug)]
struct PlainFrame {
    order: FrameOrder,
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
            copies,
            crash,
        } = options;
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            index,
            copies,
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
            streams: AtomicU32::new(0),
        }
    }

    /// Starts a stream of items that belong together, such as the files of one layer.
    pub fn stream(&self) -> ItemStream {
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        let (shared, frames) = (Arc::clone(&self.shared), self.frames.clone());
        ItemStream::new(shared, frames, self.frame_bytes, number)
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
        let Ok(PlainFrame {
            order,
            plain,
            items,
        }) = next
        else {
            return;
        };
        match frame::compress(&plain) {
            Ok(stored) => assembler.push(order, stored, items),
            Err(error) => assembler.fail(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
