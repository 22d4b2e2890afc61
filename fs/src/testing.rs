//! A reader in memory with faults, for the tests of this crate and those above it, and what is
//! decoded here and nowhere else, for any bytes to be tried.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nacre_blobstore::{
    CHUNK_BYTES_MAX, Chunk, ChunkId, ChunkList, ContentId, Digest, ReadError, StoreError, Tree,
    TreeError, TreeId, TreeReader,
};

use crate::ContentReader;
pub use crate::fuse::recode_keeper_message;
pub use crate::view::recode_inode_log;

/// Chunks, trees and contents in memory. Counts what is asked of it, and fails on demand.
#[derive(Debug, Default)]
pub struct MemoryReader {
    state: Mutex<State>,
    chunk_reads: AtomicU64,
    tree_reads: AtomicU64,
    expected: Mutex<Vec<ChunkId>>,
    came_for: Mutex<Vec<ContentId>>,
    known: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    chunks: HashMap<ChunkId, Bytes>,
    trees: HashMap<TreeId, Arc<Tree>>,
    lists: HashMap<ContentId, Arc<ChunkList>>,
    delay: Duration,
    broken: HashSet<Digest>,
    unavailable: bool,
}

impl MemoryReader {
    /// Adds a content, in chunks of `chunk_bytes` when it is larger than one chunk may be.
    pub fn add_content(&self, bytes: &[u8], chunk_bytes: usize) -> ContentId {
        let content = ContentId::new(Digest::of(bytes));
        self.add_content_as(content, bytes, chunk_bytes);
        content
    }

    /// Adds a content under an id that need not be its own.
    pub fn add_content_as(&self, content: ContentId, bytes: &[u8], chunk_bytes: usize) {
        let chunk_bytes = if bytes.len() <= CHUNK_BYTES_MAX {
            CHUNK_BYTES_MAX
        } else {
            chunk_bytes
        };
        let mut state = self.state();
        let mut chunks = Vec::new();
        for part in bytes.chunks(chunk_bytes) {
            let chunk = Chunk::of(Bytes::copy_from_slice(part));
            let len = u32::try_from(part.len()).expect("chunks are at most 1 MiB");
            chunks.push((chunk.id(), len));
            state.chunks.insert(chunk.id(), chunk.bytes().clone());
        }
        let list = ChunkList::new(content, chunks).expect("chunks are at most 1 MiB");
        state.lists.insert(content, Arc::new(list));
    }

    /// Adds a tree.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`].
    pub fn add_tree(&self, tree: Tree) -> Result<TreeId, TreeError> {
        let (id, _) = tree.encode()?;
        self.state().trees.insert(id, Arc::new(tree));
        Ok(id)
    }

    /// Makes every read take at least this long.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Makes reads of a chunk or tree fail as corrupt.
    pub fn corrupt(&self, digest: Digest) {
        self.state().broken.insert(digest);
    }

    /// Takes back [`MemoryReader::corrupt`].
    pub fn heal(&self, digest: Digest) {
        self.state().broken.remove(&digest);
    }

    /// Makes every read fail as unavailable, or work again.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.state().unavailable = unavailable;
    }

    /// Says that it is known what will be read, or no more.
    pub fn know(&self, known: bool) {
        self.known.store(known, Ordering::Relaxed);
    }

    /// Returns how many chunks were asked for.
    pub fn chunk_reads(&self) -> u64 {
        self.chunk_reads.load(Ordering::Relaxed)
    }

    /// Returns the chunks that were said to be read soon.
    pub fn expected(&self) -> Vec<ChunkId> {
        let expected = self.expected.lock();
        expected.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the contents that somebody came for when they were ahead.
    pub fn came_for(&self) -> Vec<ContentId> {
        let came_for = self.came_for.lock();
        came_for.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many trees were asked for.
    pub fn tree_reads(&self) -> u64 {
        self.tree_reads.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fault(&self, digest: &Digest) -> Result<(), ReadError> {
        let delay = self.state().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let state = self.state();
        let what = digest.to_string();
        if state.unavailable {
            let source = Arc::new(StoreError::Unsupported("made to fail".into()));
            return Err(ReadError::Unavailable { what, source });
        }
        if state.broken.contains(digest) {
            Err(corrupt(&what))
        } else {
            Ok(())
        }
    }
}

#[async_trait::async_trait]
impl TreeReader for MemoryReader {
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        self.tree_reads.fetch_add(1, Ordering::Relaxed);
        self.fault(id.digest()).await?;
        let tree = self.state().trees.get(&id).cloned();
        tree.ok_or_else(|| ReadError::NotFound(id.to_string()))
    }
}

#[async_trait::async_trait]
impl ContentReader for MemoryReader {
    async fn chunk(&self, id: ChunkId) -> Result<Chunk, ReadError> {
        self.chunk_reads.fetch_add(1, Ordering::Relaxed);
        self.fault(id.digest()).await?;
        let bytes = self.state().chunks.get(&id).cloned();
        let bytes = bytes.ok_or_else(|| ReadError::NotFound(id.to_string()))?;
        Chunk::verify(id, bytes).map_err(|_| corrupt(&id))
    }

    async fn chunk_list(
        &self,
        content: ContentId,
        _size_bytes: u64,
    ) -> Result<Arc<ChunkList>, ReadError> {
        self.fault(content.digest()).await?;
        let list = self.state().lists.get(&content).cloned();
        list.ok_or_else(|| ReadError::NotFound(content.to_string()))
    }

    async fn content_size(&self, content: ContentId) -> Result<Option<u64>, ReadError> {
        Ok(self
            .state()
            .lists
            .get(&content)
            .map(|list| list.size_bytes()))
    }

    fn expect(&self, chunks: Vec<ChunkId>) {
        let expected = self.expected.lock();
        expected
            .unwrap_or_else(PoisonError::into_inner)
            .extend(chunks);
    }

    fn comes_for(&self, content: ContentId) {
        let came_for = self.came_for.lock();
        came_for
            .unwrap_or_else(PoisonError::into_inner)
            .push(content);
    }

    fn guesses_after(&self) -> Option<u64> {
        (!self.known.load(Ordering::Relaxed)).then_some(0)
    }
}

fn corrupt(what: &dyn std::fmt::Display) -> ReadError {
    ReadError::Corrupt {
        what: what.to_string(),
        reason: "made to fail".into(),
    }
}

#[cfg(test)]
pub(crate) mod model;
