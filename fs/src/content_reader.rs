//! The seam to the tiers above the node.

use std::fmt;
use std::sync::Arc;

use nacre_blobstore::{Chunk, ChunkId, ChunkList, ContentId, ReadError, Reader, Tier, TreeReader};

/// Reads verified chunks and chunk lists, beside trees, from wherever they are.
///
/// Every method may be cancelled by dropping its future.
#[async_trait::async_trait]
pub trait ContentReader: TreeReader + fmt::Debug + 'static {
    /// Returns a chunk.
    async fn chunk(&self, id: ChunkId) -> Result<Chunk, ReadError>;

    /// Returns the chunks of a content of `size_bytes`.
    async fn chunk_list(
        &self,
        content: ContentId,
        size_bytes: u64,
    ) -> Result<Arc<ChunkList>, ReadError>;

    /// Returns the length in bytes of a content, or `None` when no known pack holds it.
    async fn content_size(&self, content: ContentId) -> Result<Option<u64>, ReadError>;

    /// Says that chunks will probably be read soon. Returns at once.
    fn expect(&self, _chunks: Vec<ChunkId>) {}

    /// Tells whether somebody who knew that a chunk would be read had it brought ahead.
    fn is_foretold(&self, _chunk: ChunkId) -> bool {
        false
    }

    /// Says that somebody comes for a content that was brought ahead, which is as good as reading it.
    /// Returns at once.
    fn comes_for(&self, _content: ContentId) {}

    /// Returns how much of a file has to be read in order before what follows is fetched on a guess.
    /// `None`: nothing is, for what will be read is known, and on its way.
    fn guesses_after(&self) -> Option<u64> {
        Some(0)
    }

    /// Returns where a chunk that was read recently came from, if that is remembered.
    fn tier_of(&self, _chunk: ChunkId) -> Option<Tier> {
        None
    }
}

#[async_trait::async_trait]
impl ContentReader for Reader {
    async fn chunk(&self, id: ChunkId) -> Result<Chunk, ReadError> {
        Self::chunk(self, id).await
    }

    async fn chunk_list(
        &self,
        content: ContentId,
        size_bytes: u64,
    ) -> Result<Arc<ChunkList>, ReadError> {
        Self::chunk_list(self, content, size_bytes).await
    }

    async fn content_size(&self, content: ContentId) -> Result<Option<u64>, ReadError> {
        match Self::content_size(self, content).await {
            Ok(size_bytes) => Ok(Some(size_bytes)),
            Err(ReadError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn expect(&self, chunks: Vec<ChunkId>) {
        Self::expect(self, chunks);
    }

    fn is_foretold(&self, chunk: ChunkId) -> bool {
        Self::is_foretold(self, chunk)
    }

    fn guesses_after(&self) -> Option<u64> {
        Self::guesses_after(self)
    }

    fn tier_of(&self, chunk: ChunkId) -> Option<Tier> {
        Self::tier_of(self, chunk)
    }
}
