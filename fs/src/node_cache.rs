//! thin
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use nacre_blobstore::{ContentId, ReadError};

use crate::ContentReader;

/// Reads contents.
#[derive(Debug)]
pub struct NodeCache {
    reader: Arc<dyn ContentReader>,
}

impl NodeCache {
    /// Reads through `reader` alone.
    pub fn without_disk(reader: Arc<dyn ContentReader>) -> Self {
        Self { reader }
    }

    /// Returns the reader behind the cache.
    pub fn reader(&self) -> &dyn ContentReader {
        &*self.reader
    }

    /// Reads up to `len_bytes` at `offset_bytes`; fewer only at the end.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(
        &self,
        content: ContentId,
        size_bytes: u64,
        offset_bytes: u64,
        len_bytes: u32,
    ) -> Result<Bytes, ReadError> {
        let end = size_bytes.min(offset_bytes.saturating_add(len_bytes.into()));
        if offset_bytes >= end {
            return Ok(Bytes::new());
        }
        let list = self.reader.chunk_list(content, size_bytes).await?;
        let mut out = BytesMut::new();
        for extent in &list.extents()[list.overlapping(offset_bytes, end - offset_bytes)] {
            let chunk = self.reader.chunk(extent.id).await?;
            let from = offset_bytes.saturating_sub(extent.offset_bytes);
            let to = end.min(extent.end_bytes()) - extent.offset_bytes;
            let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            let part = range.and_then(|(from, to)| chunk.bytes().get(from..to));
            out.extend_from_slice(part.ok_or_else(|| ReadError::Corrupt {
                what: content.to_string(),
                reason: "chunk of another length".into(),
            })?);
        }
        Ok(out.freeze())
    }
}
