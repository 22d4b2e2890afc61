//! Taking in what will be read before anybody reads it.

use std::ops::Range;

use futures::{StreamExt, stream};
use nacre_blobstore::{ChunkId, ContentId, ReadError};

use super::layout::Layers;
use super::local::Local;
use super::{NodeCache, READ_FAN_OUT};

impl NodeCache {
    /// Returns which chunks that hold bytes of `range` of a content are not on the node: their
    /// numbers and ids. What is [ahead](Self::bring_ahead) is not, until somebody comes for it.
    ///
    /// # Errors
    /// Any [`ReadError`] of reading the list of chunks.
    pub async fn missing(
        &self,
        content: ContentId,
        size_bytes: u64,
        range: Range<u64>,
    ) -> Result<Vec<(u32, ChunkId)>, ReadError> {
        if self.is_ahead(content) {
            return Ok(vec![(0, content.as_single_chunk())]);
        }
        let local = self.local(content, size_bytes).await?;
        Ok(match &local {
            Local::Complete(_) | Local::Wrong => Vec::new(),
            Local::Absent => vec![(0, content.as_single_chunk())],
            Local::Partial(partial) => {
                let len_bytes = range.end.saturating_sub(range.start);
                let missing = |index: &usize| !partial.is_present(*index);
                let named = |index| Some((u32::try_from(index).ok()?, partial.extent(index).id));
                let chunks = partial.list.overlapping(range.start, len_bytes);
                chunks.filter(missing).filter_map(named).collect()
            }
        })
    }

    /// Brings chunks `chunks` of a content to the node's disk, or all of it when it is one chunk;
    /// what is there costs nothing. Returns once the bytes are at hand, which may be before they
    /// are on the disk. Numbers beyond the last chunk are passed over.
    ///
    /// # Errors
    /// Any [`ReadError`] of the reader, never one of the local disk.
    pub async fn admit(
        &self,
        content: ContentId,
        size_bytes: u64,
        chunks: Range<u32>,
    ) -> Result<(), ReadError> {
        let local = self.local(content, size_bytes).await?;
        match &local {
            Local::Complete(_) | Local::Wrong => Ok(()),
            Local::Absent => self
                .fetch_small(content, size_bytes, Layers::Store)
                .await
                .map(drop),
            Local::Partial(partial) => {
                let count = partial.list.extents().len();
                let missing = chunks
                    .map_while(|index| usize::try_from(index).ok().filter(|i| *i < count))
                    .filter(|index| !partial.is_present(*index));
                let fetched = stream::iter(missing)
                    .map(async |index| self.fetch_chunk(content, partial, index).await)
                    .buffer_unordered(READ_FAN_OUT);
                let mut fetched = std::pin::pin!(fetched);
                while let Some(chunk) = fetched.next().await {
                    chunk?;
                }
                Ok(())
            }
        }
    }
}
