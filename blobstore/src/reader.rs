//! Reading chunks, trees and chunk lists, from the nearest tier that has them.
//!
//! One fetch per frame, however many readers wait for it. They share its error too, unless it may
//! have passed since the fetch began. What fails its hash in one tier is asked of the next; what
//! fails everywhere is [`ReadError::Corrupt`], never wrong bytes. Recently used frames and trees stay
//! in memory.
//!
//! Frames come ahead of their readers in two ways: [`Reader::prefetch`] when it is known what will
//! be read, and around what is read when it is not (see [`read_ahead`]).

mod fetch;
mod find;
mod flight;
mod memory;
mod prefetch;
mod read_ahead;
mod recent;
mod stats;

pub use prefetch::{Prefetched, Suspended};
pub use stats::{ReaderStats, TierStats};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::chunk_list::ChunkListError;
use crate::frame::FrameEntry;
use crate::index::LOCATIONS_MAX;
use crate::pack::ItemKind;
use crate::{
    CatalogError, Chunk, ChunkId, ChunkIndex, ChunkList, ChunkSource, ContentId, Digest,
    IndexError, KeptItems, Location, PackLoader, StoreError, Tier, Tree, TreeError, TreeId,
    UnverifiedBytes,
};
use fetch::{Fetched, Shared};
use flight::SingleFlight;
use read_ahead::ReadAhead;
use recent::Recent;
use stats::Counters;

/// How long anything is waited for, unless the options say otherwise.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(120);

/// Limits of a [`Reader`].
#[derive(Debug, Clone, Copy)]
pub struct ReaderOptions {
    /// Plain bytes of decompressed frames that are kept in memory.
    pub frame_cache_bytes: usize,
    /// Stored bytes of frames that are kept in memory, fetched ahead or read before.
    pub ahead_cache_bytes: usize,
    /// Encoded bytes of decoded trees that are kept in memory; decoded they take some 3 times that.
    pub tree_cache_bytes: usize,
    /// How much may be fetched in vain because it was near what was read, in percent of the bytes
    /// that were read. 0: fetch only what is asked for.
    pub read_ahead_percent: u64,
    /// How long one step of a read waits: for the packs that may hold what it wants, or for a frame
    /// with all tiers tried. A step that ends by it is tried anew by the next read.
    pub wait_max: Duration,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        Self {
            frame_cache_bytes: 24 << 20,
            ahead_cache_bytes: 64 << 20,
            tree_cache_bytes: 8 << 20,
            read_ahead_percent: 10,
            wait_max: READ_WAIT_MAX,
        }
    }
}

/// Why something could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// No pack known to the index holds it.
    #[error("{0} is in no known pack")]
    NotFound(String),
    /// At least one tier gave bytes that do not match their hash, and none gave right ones.
    #[error("{what} is corrupt: {reason}")]
    Corrupt {
        /// What was to be read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Every tier was tried and none answered.
    #[error("read {what}: {source}")]
    Unavailable {
        /// What was to be read.
        what: String,
        /// The last tier's error.
        source: Arc<StoreError>,
    },
    /// The local index failed.
    #[error("look up {what}: {source}")]
    Index {
        /// What was to be read.
        what: String,
        /// The index's error.
        source: Arc<IndexError>,
    },
    /// A pack that may hold it is not to be made known.
    #[error("look up {what}: {source}")]
    Catalog {
        /// What was to be read.
        what: String,
        /// Why not.
        source: Arc<CatalogError>,
    },
    /// The runtime is shutting down.
    #[error("read {0}: stopped")]
    Stopped(String),
}

impl ReadError {
    /// Tells whether a store or a network is to blame that did not answer, so that the same read may
    /// succeed now.
    pub fn may_have_passed(&self) -> bool {
        match self {
            Self::Unavailable { source, .. } => source.is_retryable(),
            Self::Catalog { source, .. } => match &**source {
                CatalogError::Store(error) => error.is_retryable(),
                CatalogError::Waited { .. } => true,
                _ => false,
            },
            _ => false,
        }
    }

    /// Tells whether the last tier has not got the pack.
    fn is_of_missing_pack(&self) -> bool {
        matches!(self, Self::Unavailable { source, .. } if matches!(**source, StoreError::NotFound(_)))
    }
}

/// Reads verified items through a list of tiers. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    trees: Mutex<Recent<TreeId, Arc<Tree>>>,
    /// The node's disk, for trees and chunk lists.
    kept: Option<Arc<KeptItems>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    /// Reads what `index` knows from `sources`, nearest first.
    pub fn new(
        index: Arc<ChunkIndex>,
        sources: Vec<Arc<dyn ChunkSource>>,
        options: ReaderOptions,
    ) -> Self {
        Self::build(index, None, sources, options)
    }

    /// Reads as [`Reader::new`] does, and waits for the packs that `loader` awaits, where an item
    /// may be in one of them.
    pub fn with_loader(
        loader: Arc<PackLoader>,
        sources: Vec<Arc<dyn ChunkSource>>,
        options: ReaderOptions,
    ) -> Self {
        let index = Arc::clone(loader.index());
        Self::build(index, Some(loader), sources, options)
    }

    fn build(
        index: Arc<ChunkIndex>,
        loader: Option<Arc<PackLoader>>,
        sources: Vec<Arc<dyn ChunkSource>>,
        options: ReaderOptions,
    ) -> Self {
        let shared = Arc::new(Shared {
            index,
            loader,
            sources,
            frames: Mutex::new(Recent::new(options.frame_cache_bytes)),
            packed: Mutex::new(Recent::new(options.ahead_cache_bytes)),
            held: Mutex::default(),
            flights: SingleFlight::default(),
            ahead: ReadAhead::new(options.read_ahead_percent),
            ahead_turns: Arc::new(Semaphore::new(prefetch::AHEAD_TASKS_MAX)),
            prefetch_room: Arc::new(Semaphore::new(prefetch::PREFETCH_KIB_MAX)),
            counters: Counters::default(),
            wait_max: options.wait_max,
        });
        let trees = Mutex::new(Recent::new(options.tree_cache_bytes));
        let kept = None;
        Self {
            shared,
            trees,
            kept,
        }
    }

    /// Keeps the trees and chunk lists that are read from a tier in `kept`, and reads them there first.
    pub fn keeping(mut self, kept: Arc<KeptItems>) -> Self {
        self.kept = Some(kept);
        self
    }

    /// Returns the index that this reader looks things up in.
    pub fn index(&self) -> &Arc<ChunkIndex> {
        &self.shared.index
    }

    /// Returns how much was read from which tier.
    pub fn stats(&self) -> ReaderStats {
        self.shared.counters.snapshot()
    }

    /// Returns a verified chunk.
    ///
    /// # Errors
    /// Any [`ReadError`]. May be cancelled; a fetch that others wait for goes on.
    pub async fn chunk(&self, id: ChunkId) -> Result<Chunk, ReadError> {
        let bytes = self.item(ItemKind::Chunk(id)).await?;
        let corrupt = |e: crate::ChunkMismatch| corrupt(ItemKind::Chunk(id), &e);
        Chunk::verify(id, bytes.into_untrusted()).map_err(corrupt)
    }

    /// Returns a verified chunk if its frame is in memory. Does not count as reading it. Blocks for as
    /// long as decompressing takes, about a millisecond.
    pub fn at_hand(&self, id: ChunkId) -> Option<Chunk> {
        let location = self.known(id)?;
        let arrived = self.shared.get((location.pack, location.frame))?;
        let bytes = arrived.frame.item(location.item)?;
        Chunk::verify(id, bytes.into_untrusted()).ok()
    }

    /// Returns a verified tree.
    ///
    /// # Errors
    /// Any [`ReadError`].
    pub async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        if let Some(tree) = lock(&self.trees).get(&id) {
            return Ok(tree);
        }
        let kept = self.kept.as_ref().and_then(|kept| kept.tree(id));
        let (tree, len_bytes) = match kept {
            Some(kept) => kept,
            None => {
                let bytes = self.item(ItemKind::Tree(id)).await?.into_untrusted();
                let tree = Tree::decode(id, &bytes);
                let tree = tree.map_err(|e: TreeError| corrupt(ItemKind::Tree(id), &e))?;
                let len_bytes = bytes.len();
                self.keep(move |kept| kept.keep_tree(id, &bytes)).await;
                (tree, len_bytes)
            }
        };
        let tree = Arc::new(tree);
        lock(&self.trees).insert(id, Arc::clone(&tree), len_bytes);
        Ok(tree)
    }

    fn kept_chunk_list(&self, content: ContentId) -> Option<ChunkList> {
        let kept = self.kept.as_ref()?.chunk_list(content)?;
        (kept.content() == content).then_some(kept)
    }

    /// Keeps what was read from a tier, on a thread for what blocks.
    async fn keep(&self, keep: impl FnOnce(&KeptItems) + Send + 'static) {
        if let Some(kept) = self.kept.clone() {
            // What is not kept is read again.
            drop(tokio::task::spawn_blocking(move || keep(&kept)).await);
        }
    }

    /// Returns the verified chunks' list of a content that is `size_bytes` long.
    ///
    /// # Errors
    /// Any [`ReadError`]; [`ReadError::Corrupt`] also for a list of another length.
    pub async fn chunk_list(
        &self,
        content: ContentId,
        size_bytes: u64,
    ) -> Result<Arc<ChunkList>, ReadError> {
        let kind = ItemKind::ChunkList(content);
        let single = content.as_single_chunk();
        let small = usize::try_from(size_bytes).is_ok_and(|size| size <= crate::CHUNK_BYTES_MAX);
        let list = if size_bytes == 0 {
            ChunkList::new(content, [])
        } else if small {
            ChunkList::new(content, u32::try_from(size_bytes).map(|len| (single, len)))
        } else {
            let kept = self.kept_chunk_list(content);
            match kept.filter(|list| is_of(list, content, size_bytes)) {
                Some(kept) => Some(kept),
                None => Some(self.stored_chunk_list(content, size_bytes).await?),
            }
        };
        match list {
            Some(list) if is_of(&list, content, size_bytes) => Ok(Arc::new(list)),
            _ => Err(corrupt(kind, &"the list is of another content or length")),
        }
    }

    /// Returns a chunk list that a tier has, as its pack's index describes it.
    async fn stored_chunk_list(
        &self,
        content: ContentId,
        size_bytes: u64,
    ) -> Result<ChunkList, ReadError> {
        let kind = ItemKind::ChunkList(content);
        let (location, bytes) = self.found(kind).await?;
        let bytes = bytes.into_untrusted();
        let expected = self
            .entry(kind, location)?
            .items
            .get(location.item as usize)
            .copied();
        if expected.is_none_or(|item| item.hash != Digest::of(&bytes)) {
            return Err(corrupt(kind, &"bytes do not match their hash"));
        }
        let list = ChunkList::decode(&bytes).map_err(|e: ChunkListError| corrupt(kind, &e))?;
        if is_of(&list, content, size_bytes) {
            self.keep(move |kept| kept.keep_chunk_list(content, &bytes))
                .await;
        }
        Ok(list)
    }

    /// Returns the length of a content that is in a known pack.
    ///
    /// # Errors
    /// Any [`ReadError`]; the list of a content of several chunks is read for it.
    pub async fn content_size(&self, content: ContentId) -> Result<u64, ReadError> {
        let chunk = ItemKind::Chunk(content.as_single_chunk());
        if content.as_bytes() == Digest::of(b"").as_bytes() {
            return Ok(0);
        }
        let list = ItemKind::ChunkList(content);
        let found = self.shared.find(&[chunk, list]).await?;
        let (kind, location) = found.ok_or_else(|| not_found(chunk))?;
        if kind == chunk {
            let entry = self.entry(chunk, location)?;
            let item = entry.items.get(location.item as usize);
            return item
                .map(|i| i.len_bytes.into())
                .ok_or_else(|| not_found(chunk));
        }
        if let Some(list) = self.kept_chunk_list(content) {
            return Ok(list.size_bytes());
        }
        let bytes = self.item(kind).await?.into_untrusted();
        let list = ChunkList::decode(&bytes).map_err(|e| corrupt(kind, &e))?;
        Ok(list.size_bytes())
    }

    /// Returns where the frame of a chunk came from, while that is in memory.
    pub fn tier_of(&self, chunk: ChunkId) -> Option<Tier> {
        let location = self.known(chunk)?;
        self.shared.tier_of((location.pack, location.frame))
    }

    /// Returns where a chunk is, if the index knows it now.
    fn known(&self, chunk: ChunkId) -> Option<Location> {
        self.index().chunk(chunk).ok().flatten()
    }

    async fn locate(&self, kind: ItemKind) -> Result<Location, ReadError> {
        let found = self.shared.find(&[kind]).await?;
        found
            .map(|(_, location)| location)
            .ok_or_else(|| not_found(kind))
    }

    fn entry(&self, kind: ItemKind, location: Location) -> Result<FrameEntry, ReadError> {
        self.index()
            .frame(location)
            .map_err(|e| index_error(kind, e))
    }

    /// Returns the bytes of an item of a frame that matched its hash, not yet checked themselves.
    async fn item(&self, kind: ItemKind) -> Result<UnverifiedBytes, ReadError> {
        Ok(self.found(kind).await?.1)
    }

    /// Returns an item and where it was. When its pack was collected it may be in another one.
    async fn found(&self, kind: ItemKind) -> Result<(Location, UnverifiedBytes), ReadError> {
        let mut location = self.locate(kind).await?;
        for _ in 0..LOCATIONS_MAX {
            let error = match self.item_at(kind, location).await {
                Ok(bytes) => return Ok((location, bytes)),
                Err(error) if error.is_of_missing_pack() => error,
                Err(error) => return Err(error),
            };
            self.index().note_gone(location.pack);
            let mut other = self.locate(kind).await;
            if !matches!(&other, Ok(other) if other.pack != location.pack)
                && self.relocate(location.pack).await
            {
                other = self.locate(kind).await;
            }
            match other {
                Ok(other) if other.pack != location.pack => {
                    tracing::info!(item = %kind, %error, "read from another pack");
                    location = other;
                }
                _ => return Err(error),
            }
        }
        let bytes = self.item_at(kind, location).await?;
        Ok((location, bytes))
    }

    /// Looks where what was needed of a pack that is gone has moved to.
    async fn relocate(&self, pack: u32) -> bool {
        let (Some(loader), Ok(name)) = (&self.shared.loader, self.index().pack(pack)) else {
            return false;
        };
        match loader.relocate(name).await {
            Ok(moved) => moved,
            Err(error) => {
                tracing::warn!(pack = ?name, %error, "look where a pack moved");
                false
            }
        }
    }

    async fn item_at(
        &self,
        kind: ItemKind,
        location: Location,
    ) -> Result<UnverifiedBytes, ReadError> {
        let key = (location.pack, location.frame);
        let cached = self.shared.get(key);
        self.shared.read_ahead(key, cached.is_none());
        let frame = match cached {
            Some(frame) => frame,
            None => {
                let entry = self.entry(kind, location)?;
                let pack = self.index().pack(location.pack);
                let pack = pack.map_err(|e| index_error(kind, e))?;
                let shared = Arc::clone(&self.shared);
                let fetch = async move { shared.fetch(key, pack, entry).await };
                let landed = || self.shared.get(key).map(Ok);
                let passed =
                    |fetched: &Fetched| fetched.as_ref().is_err_and(ReadError::may_have_passed);
                let stopped = || Err(ReadError::Stopped(kind.to_string()));
                let flights = &self.shared.flights;
                flights.run(key, landed, fetch, passed, stopped).await?
            }
        };
        frame
            .frame
            .item(location.item)
            .ok_or_else(|| corrupt(kind, &"frame has no such item"))
    }
}

fn is_of(list: &ChunkList, content: ContentId, size_bytes: u64) -> bool {
    list.content() == content && list.size_bytes() == size_bytes
}

fn not_found(kind: ItemKind) -> ReadError {
    ReadError::NotFound(kind.to_string())
}

fn corrupt(kind: ItemKind, reason: &dyn std::fmt::Display) -> ReadError {
    ReadError::Corrupt {
        what: kind.to_string(),
        reason: reason.to_string(),
    }
}

fn index_error(kind: ItemKind, source: IndexError) -> ReadError {
    ReadError::Index {
        what: kind.to_string(),
        source: Arc::new(source),
    }
}

#[cfg(test)]
mod tests;
