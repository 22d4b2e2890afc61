//! Reading chunks, trees and chunk lists, from whichever tier has them.

use std::sync::Arc;

use crate::{Chunk, ChunkId, ChunkList, ContentId, StoreError, Tree, TreeId};

/// Reads verified chunks, trees and chunk lists.
#[derive(Debug)]
pub struct Reader {}

/// Why something could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// No pack known to the index holds it.
    #[error("{0} is in no known pack")]
    NotFound(String),
    /// Every tier was tried, and at least one gave bytes that do not match their hash.
    #[error("{0} is corrupt")]
    Corrupt(String),
    /// Every tier was tried and none answered.
    #[error("read {what}: {source}")]
    Unavailable {
        /// What was to be read.
        what: String,
        /// The last tier's error.
        source: Arc<StoreError>,
    },
}

impl Reader {
    /// Returns a verified chunk.
    pub async fn chunk(&self, _id: ChunkId) -> Result<Chunk, ReadError> {
        Err(ReadError::NotFound(String::new()))
    }
    /// Returns a verified tree.
    pub async fn tree(&self, _id: TreeId) -> Result<Arc<Tree>, ReadError> {
        Err(ReadError::NotFound(String::new()))
    }
    /// Returns the chunks of a content of `size_bytes`.
    pub async fn chunk_list(
        &self,
        _content: ContentId,
        _size_bytes: u64,
    ) -> Result<Arc<ChunkList>, ReadError> {
        Err(ReadError::NotFound(String::new()))
    }
}
