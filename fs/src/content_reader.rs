//! The seams to the tiers above the node: [`ContentReader`], and [`TreeReader`] for who needs trees
//! alone.

use std::fmt;
use std::sync::Arc;

use nacre_blobstore::{
    Chunk, ChunkId, ChunkList, ContentId, ReadError, Reader, Tier, Tree, TreeId,
};

/// Reads verified chunks, trees and chunk lists from wherever they are.
///
/// Every method may be cancelled by dropping its future.
#[async_trait::async_trait]
pub trait ContentReader: fmt::Debug + Send + Sync + 'static {
    /// Returns a chunk.
    async fn chunk(&self, id: ChunkId) -> Result<Chunk, ReadError>;

    /// Returns a tree.
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError>;

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

    /// Returns where a chunk that was read recently came from, if that is remembered.
    fn tier_of(&self, _chunk: ChunkId) -> Option<Tier> {
        None
    }
}

/// Reads verified trees, from wherever they are.
#[async_trait::async_trait]
pub trait TreeReader: Send + Sync {
    /// Returns a tree. May be cancelled by dropping its future.
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError>;
}

#[async_trait::async_trait]
impl<T: ContentReader + ?Sized> TreeReader for T {
    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        ContentReader::tree(self, id).await
    }
}

#[async_trait::async_trait]
impl ContentReader for Reader {
    async fn chunk(&self, id: ChunkId) -> Result<Chunk, ReadError> {
        Self::chunk(self, id).await
    }

    async fn tree(&self, id: TreeId) -> Result<Arc<Tree>, ReadError> {
        Self::tree(self, id).await
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

    fn tier_of(&self, chunk: ChunkId) -> Option<Tier> {
        Self::tier_of(self, chunk)
    }
}
