//! The node's disk tier: contents in local files, fetched once and checked where they enter.
//!
//! Owns the folders below `ROOT/cache` (see [`layout`] for their shape) and every
//! read of file bytes on the node. Promises:
//!
//! - Only bytes that matched their hash are served. Chunks are checked by the reader as they
//!   enter; what was on disk before the machine lost power is checked again at its first use
//!   ([`trust`]). A local copy that turns out bad or short
//!   is dropped and fetched again.
//! - One fetch for a chunk, however many wait for it, and they share its error. A fetch goes on
//!   when those who asked for it are gone.
//! - A read is answered as soon as the chunks that it overlaps are there; writing them to disk
//!   happens after the answer. Until a large content is complete its bytes are right as far as
//!   its list of chunks is, which is checked by then. A disk that is full or broken costs repeated
//!   fetches, not errors.
//! - Contents of one chunk go to the store whole; larger ones collect chunks in a file with
//!   holes, which moves to the store once all are there and their hash is the content's id.
//! - A small content that a lookup of overlayfs waits for is in the store and the arrivals before
//!   the lookup is answered: see [`NodeCache::place`].
//! - What comes ahead on a guess is where nobody finds it unseen until somebody comes for it: see
//!   [`NodeCache::bring_ahead`].
//! - What it takes on the disk stays within a quota ([`quota`]), and what goes is what is least
//!   likely to be used again ([`table`], [`eviction`]), never what was used in the last seconds.
//!
//! Memory: [`FETCHES_MAX`] chunks under way, [`LOCALS_MAX`] open files, and 64 bytes for each
//! content.

mod admit;
mod ahead;
mod counters;
mod eviction;
mod expect;
mod fetch;
mod in_part;
mod layout;
mod load;
mod local;
mod names;
mod observe;
mod options;
mod partial;
mod place;
mod quota;
mod read_ahead;
mod rot;
mod single_flight;
mod store;
mod survey;
mod table;
mod trust;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use nacre_blobstore::{
    CHUNK_BYTES_MAX, Clock, ContentId, ReadError, in_span, range_text, span_number,
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

pub use counters::NodeCacheStats;
pub use options::NodeCacheOptions;
pub use place::Placed;
pub use survey::{NodeCacheCheck, NodeCachePrune, NodeCacheUsage};

use crate::ContentReader;
use ahead::Ahead;
use counters::Counters;
use fetch::Inner;
use in_part::InPart;
use layout::{Layers, Layout};
use load::Walk;
use local::{Local, Locals, off_reactor, read_file};
use names::Names;
use partial::Partial;
use quota::Quota;
use single_flight::{Joined, SingleFlight};

/// Chunks that are fetched or written at once, each of at most 1 MiB.
const FETCHES_MAX: usize = 64;
/// Reads that wait for fetches at once; those beyond wait for their turn. Reads of what is on the
/// node never do.
const READS_WAITING_MAX: usize = 1024;
/// Fetches that one read starts at once.
const READ_FAN_OUT: usize = 8;
/// Contents whose local file is held open.
const LOCALS_MAX: usize = 512;
/// Fetches that must be free for read-ahead to start one: readers come first.
const READ_AHEAD_SPARE: usize = FETCHES_MAX / 2;
/// How often a read starts over because the local copy went bad under it.
const ATTEMPTS_MAX: usize = 3;

/// Why the cache could not be opened or closed.
#[derive(Debug, thiserror::Error)]
pub enum NodeCacheError {
    /// Another process has it open.
    #[error("node cache {0} is in use by another process")]
    Busy(PathBuf),
    /// The file system refused.
    #[error("{verb} node cache {folder}: {source}")]
    Io {
        /// What was asked for.
        verb: &'static str,
        /// The cache's folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The node's contents. Share it behind an `Arc`.
#[derive(Debug)]
pub struct NodeCache {
    inner: Arc<Inner>,
    flights: Arc<SingleFlight<(ContentId, usize), Result<Bytes, ReadError>>>,
    opening: Arc<SingleFlight<ContentId, Result<Local, ReadError>>>,
    tasks: TaskTracker,
    _walk: Walk,
}

impl NodeCache {
    /// Opens or creates the cache in `folder`, in front of `reader`, with the limits that
    /// [`NodeCacheOptions`] has by default.
    ///
    /// # Errors
    /// [`NodeCacheError`].
    pub fn open(
        folder: &Path,
        reader: Arc<dyn ContentReader>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, NodeCacheError> {
        Self::open_with(folder, reader, clock, NodeCacheOptions::default())
    }

    /// Opens or creates the cache in `folder`, in front of `reader`. Blocks for some hundred
    /// renames at most; what is there is counted by a thread, which then evicts what is too much.
    ///
    /// # Errors
    /// [`NodeCacheError`].
    pub fn open_with(
        folder: &Path,
        reader: Arc<dyn ContentReader>,
        clock: Arc<dyn Clock>,
        options: NodeCacheOptions,
    ) -> Result<Self, NodeCacheError> {
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::WouldBlock => NodeCacheError::Busy(folder.to_path_buf()),
            _ => NodeCacheError::Io {
                verb: "open",
                folder: folder.to_path_buf(),
                source,
            },
        };
        let layout = Layout::open(folder).map_err(fail)?;
        let disk = layout.open_folder().map_err(fail)?;
        let (bytes_max, files_max) = options.limits(&disk).map_err(fail)?;
        let inner = Arc::new(Inner {
            folder: folder.to_path_buf(),
            layout,
            names: Names::default(),
            quota: Quota::new(disk, bytes_max, files_max),
            reader,
            clock,
            locals: Locals::new(LOCALS_MAX),
            fetches: Semaphore::new(FETCHES_MAX),
            waiting: Semaphore::new(READS_WAITING_MAX),
            counters: Counters::default(),
            in_part: InPart::default(),
            ahead: Ahead::default(),
            observer: OnceLock::new(),
        });
        Ok(Self {
            _walk: Walk::start(Arc::clone(&inner)).map_err(fail)?,
            inner,
            flights: Arc::default(),
            opening: Arc::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// Waits for what is under way and marks the cache as clean, so that the next start trusts
    /// it. Reads that come later are a mistake of the caller's. A caller that cannot wait for slow
    /// fetches drops the future: the cache is unclean then.
    ///
    /// # Errors
    /// [`NodeCacheError::Io`]; the next start checks everything then.
    pub async fn close(&self) -> Result<(), NodeCacheError> {
        self.tasks.close();
        self.tasks.wait().await;
        let inner = Arc::clone(&self.inner);
        let closed = off_reactor(move || inner.layout.close()).await;
        closed
            .unwrap_or_else(|| Err(io::Error::other("the runtime is shutting down")))
            .map_err(|source| {
                let folder = self.inner.folder.clone();
                NodeCacheError::Io {
                    verb: "close",
                    folder,
                    source,
                }
            })
    }

    /// Returns the reader behind the cache.
    pub fn reader(&self) -> &dyn ContentReader {
        &*self.inner.reader
    }

    /// Returns the two folders that overlayfs may take as data-only layers: store and arrivals.
    pub fn layers(&self) -> [PathBuf; 2] {
        self.inner.layout.layers()
    }

    /// Returns what was counted since the cache was opened, and what is on the disk.
    pub fn stats(&self) -> NodeCacheStats {
        let level = self.inner.quota.level();
        NodeCacheStats {
            contents: level.contents,
            bytes: level.bytes,
            bytes_max: level.bytes_max,
            files_max: level.files_max,
            bytes_in_force: level.bytes_in_force,
            loaded: level.loaded,
            ..self.inner.counters.stats()
        }
    }

    /// Counts a use of a content that the cache does not see, so that it stays for longer.
    pub fn used(&self, content: ContentId) {
        let now = self.inner.now();
        self.inner.quota.with(|table| table.touch(content, now));
    }

    /// Reads up to `len_bytes` at `offset_bytes` of a content of `size_bytes`; fewer only at its
    /// end. May be cancelled; fetches go on.
    ///
    /// # Errors
    /// Any [`ReadError`] of the reader, never one of the local disk.
    pub async fn read(
        &self,
        content: ContentId,
        size_bytes: u64,
        offset_bytes: u64,
        len_bytes: u32,
    ) -> Result<Bytes, ReadError> {
        let end_bytes = size_bytes.min(offset_bytes.saturating_add(len_bytes.into()));
        if offset_bytes >= end_bytes {
            return Ok(Bytes::new());
        }
        let range = offset_bytes..end_bytes;
        let watch = self.watch();
        for _ in 0..ATTEMPTS_MAX {
            let local = self.local(content, size_bytes).await?;
            let file = match &local {
                Local::Complete(file) => Some(file.as_ref()),
                Local::Partial(partial) => {
                    let chunks = partial
                        .list
                        .overlapping(range.start, range.end - range.start);
                    partial.file_with(chunks)
                }
                Local::Absent | Local::Wrong => None,
            };
            if file.is_none() {
                let read = self.read_fetched(content, size_bytes, &local, range.clone());
                let read = in_span(read_span(content, &range), read).await;
                self.observe(watch, content, size_bytes, range, true);
                return read;
            }
            if let Some(bytes) = read_file(&local, range.clone()).await {
                self.used(content);
                self.inner.counters.served_locally(bytes.len());
                self.observe(watch, content, size_bytes, range.clone(), false);
                self.read_ahead(content, &local, &range, false);
                return Ok(bytes);
            }
            self.inner.forget_local(content).await;
        }
        let reason = "the local copy cannot be read".into();
        Err(ReadError::Corrupt {
            what: content.to_string(),
            reason,
        })
    }

    /// Returns what the node has of a content.
    async fn local(&self, content: ContentId, size_bytes: u64) -> Result<Local, ReadError> {
        match self.inner.locals.get(content) {
            Some(local) => Ok(local),
            None if is_small(size_bytes) && self.inner.quota.is_absent(content) => {
                Ok(Local::Absent)
            }
            None => self.open_local(content, size_bytes).await,
        }
    }

    /// Opens what the node has of a content, and begins a file for a larger one.
    async fn open_local(&self, content: ContentId, size_bytes: u64) -> Result<Local, ReadError> {
        let join = || {
            let stopped = Err(ReadError::Stopped(content.to_string()));
            let inner = Arc::clone(&self.inner);
            self.opening
                .join(content, &self.tasks, stopped, |answer| async move {
                    answer.send(inner.open_local(content, size_bytes).await);
                })
        };
        join().answer(join).await
    }

    /// Reads a range of which something must be fetched.
    async fn read_fetched(
        &self,
        content: ContentId,
        size_bytes: u64,
        local: &Local,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, ReadError> {
        let start = self.inner.clock.elapsed();
        let turn = self.inner.waiting.acquire().await;
        let read = match local {
            Local::Partial(partial) => self.read_chunks(content, partial, &range).await,
            Local::Wrong => {
                let reason = "its chunks do not make it".into();
                Err(ReadError::Corrupt {
                    what: content.to_string(),
                    reason,
                })
            }
            Local::Absent | Local::Complete(_) => {
                let whole = self.fetch_small(content, size_bytes, Layers::Store).await;
                whole.and_then(|whole| part(content, &whole, 0, &range))
            }
        };
        match &read {
            Ok(bytes) => {
                let wait = self.inner.clock.elapsed().saturating_sub(start);
                self.inner.counters.served_after(bytes.len(), wait);
                self.read_ahead(content, local, &range, true);
            }
            Err(_) => self.inner.counters.failed(),
        }
        drop(turn);
        read
    }

    /// Fetches a content of one chunk into the store at least, as nobody but the first says where.
    async fn fetch_small(
        &self,
        content: ContentId,
        size_bytes: u64,
        layers: Layers,
    ) -> Result<Bytes, ReadError> {
        let join = || {
            let stopped = Err(ReadError::Stopped(content.to_string()));
            let inner = Arc::clone(&self.inner);
            self.flights
                .join((content, 0), &self.tasks, stopped, |answer| {
                    let fetch = inner.fetch_small(content, size_bytes, layers, answer);
                    fetch.instrument(fetch_span(content, 0))
                })
        };
        join().answer(join).await
    }

    async fn fetch_chunk(
        &self,
        content: ContentId,
        partial: &Arc<Partial>,
        index: usize,
    ) -> Result<Bytes, ReadError> {
        let join = || self.begin_chunk(content, partial, index);
        join().answer(join).await
    }

    /// Begins to fetch a chunk, unless that is under way.
    fn begin_chunk(
        &self,
        content: ContentId,
        partial: &Arc<Partial>,
        index: usize,
    ) -> Joined<Result<Bytes, ReadError>> {
        let stopped = Err(ReadError::Stopped(content.to_string()));
        let (inner, partial) = (Arc::clone(&self.inner), Arc::clone(partial));
        self.flights
            .join((content, index), &self.tasks, stopped, |answer| {
                let fetch = inner.fetch_chunk(content, partial, index, answer);
                fetch.instrument(fetch_span(content, index))
            })
    }

    /// Reads a range of a large content chunk by chunk, several at once.
    async fn read_chunks(
        &self,
        content: ContentId,
        partial: &Arc<Partial>,
        range: &std::ops::Range<u64>,
    ) -> Result<Bytes, ReadError> {
        let chunks = partial
            .list
            .overlapping(range.start, range.end - range.start);
        let parts: Vec<Bytes> = stream::iter(chunks)
            .map(async |index| {
                self.inner.expect_around(partial, index);
                let bytes = self.fetch_chunk(content, partial, index).await?;
                part(content, &bytes, partial.extent(index).offset_bytes, range)
            })
            .buffered(READ_FAN_OUT)
            .try_collect()
            .await?;
        match <[Bytes; 1]>::try_from(parts) {
            Ok([only]) => Ok(only),
            Err(parts) => {
                let mut bytes = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                parts.iter().for_each(|part| bytes.extend_from_slice(part));
                Ok(bytes.freeze())
            }
        }
    }

    /// Starts fetching what follows a sequential read, as far as readers leave room for it.
    fn read_ahead(
        &self,
        content: ContentId,
        local: &Local,
        range: &std::ops::Range<u64>,
        waited: bool,
    ) {
        let Local::Partial(partial) = local else {
            return;
        };
        let Some(after_bytes) = self.inner.reader.guesses_after() else {
            return;
        };
        if partial.file_with(0..0).is_none() {
            return;
        }
        let next = partial
            .streams
            .advance(&partial.list, range, waited, after_bytes);
        for index in next.filter(|index| !partial.is_present(*index)) {
            if self.inner.fetches.available_permits() <= READ_AHEAD_SPARE {
                return;
            }
            drop(self.begin_chunk(content, partial, index));
        }
    }
}

/// Returns the span of a read that waits for a fetch.
fn read_span(content: ContentId, range: &std::ops::Range<u64>) -> Span {
    tracing::debug_span!(
        "read",
        %content,
        range = range_text(range),
        otel.status_code = tracing::field::Empty,
    )
}

/// Returns the span of a fetch, as a child of the read that was the first to want it.
fn fetch_span(content: ContentId, chunk: usize) -> Span {
    tracing::debug_span!("fetch", %content, chunk = span_number(chunk as u64))
}

/// Tells whether a content has one chunk, which is all of it.
const fn is_small(size_bytes: u64) -> bool {
    size_bytes <= CHUNK_BYTES_MAX as u64
}

/// Cuts out of `bytes`, which start at `start_bytes` of a content, what lies in `range`.
fn part(
    content: ContentId,
    bytes: &Bytes,
    start_bytes: u64,
    range: &std::ops::Range<u64>,
) -> Result<Bytes, ReadError> {
    let len = bytes.len() as u64;
    let from = range.start.saturating_sub(start_bytes).min(len);
    let to = range.end.saturating_sub(start_bytes).min(len);
    let cut = usize::try_from(from)
        .ok()
        .zip(usize::try_from(to).ok())
        .filter(|(f, t)| f < t);
    let reason = || "a chunk has another length than its list says".into();
    let (from, to) = cut.ok_or_else(|| ReadError::Corrupt {
        what: content.to_string(),
        reason: reason(),
    })?;
    Ok(bytes.slice(from..to))
}

#[cfg(test)]
mod tests;
