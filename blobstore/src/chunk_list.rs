//! The chunks that make a content.
//!
//! ```text
//! magic "NCL1" | content id | count uvarint | (chunk id, length uvarint)*
//! ```

use crate::chunk::CHUNK_BYTES_MAX;
use crate::wire::{Put, Truncated, Wire};
use crate::{ChunkId, ContentId, Digest};

const MAGIC: &[u8; 4] = b"NCL1";
/// Largest encoded chunk list, in bytes: some 900,000 chunks, 200 GiB of content.
pub const CHUNK_LIST_BYTES_MAX: usize = 32 << 20;

/// Why a chunk list is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkListError {
    /// The bytes are not in the format.
    #[error("malformed chunk list: {0}")]
    Malformed(&'static str),
    /// The content has too many chunks to be stored.
    #[error("content needs a chunk list of {0} bytes, above the limit of {CHUNK_LIST_BYTES_MAX}")]
    TooLarge(usize),
}

impl From<Truncated> for ChunkListError {
    fn from(error: Truncated) -> Self {
        Self::Malformed(error.0)
    }
}

/// One element of a [`ChunkList`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkExtent {
    /// The chunk.
    pub id: ChunkId,
    /// Where its bytes start in the content.
    pub offset_bytes: u64,
    /// How long it is; at most [`CHUNK_BYTES_MAX`], never 0.
    pub len_bytes: u32,
}

impl ChunkExtent {
    /// Returns where its bytes end in the content.
    pub fn end_bytes(&self) -> u64 {
        self.offset_bytes + u64::from(self.len_bytes)
    }
}

/// The chunks of a content, in order and without gaps. Empty for empty content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkList {
    content: ContentId,
    extents: Vec<ChunkExtent>,
}

impl ChunkList {
    /// Lists `chunks` (id and length of each, in order) as the chunks of `content`.
    ///
    /// Returns `None` when a length is 0 or above [`CHUNK_BYTES_MAX`].
    pub fn new(
        content: ContentId,
        chunks: impl IntoIterator<Item = (ChunkId, u32)>,
    ) -> Option<Self> {
        let mut offset_bytes = 0;
        let mut extents = Vec::new();
        for (id, len_bytes) in chunks {
            if len_bytes == 0 || len_bytes as usize > CHUNK_BYTES_MAX {
                return None;
            }
            extents.push(ChunkExtent {
                id,
                offset_bytes,
                len_bytes,
            });
            offset_bytes += u64::from(len_bytes);
        }
        Some(Self { content, extents })
    }

    /// Returns the content that these chunks make.
    pub const fn content(&self) -> ContentId {
        self.content
    }

    /// Returns the chunks in order.
    pub fn extents(&self) -> &[ChunkExtent] {
        &self.extents
    }

    /// Returns the length of the content in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.extents.last().map_or(0, ChunkExtent::end_bytes)
    }

    /// Returns the index range of the chunks that hold any byte of `offset..offset + len`.
    pub fn overlapping(&self, offset_bytes: u64, len_bytes: u64) -> std::ops::Range<usize> {
        let end = offset_bytes.saturating_add(len_bytes);
        let first = self
            .extents
            .partition_point(|e| e.end_bytes() <= offset_bytes);
        let last = self.extents.partition_point(|e| e.offset_bytes < end);
        first..last.max(first)
    }

    /// Encodes the list.
    ///
    /// # Errors
    /// [`ChunkListError::TooLarge`] beyond [`CHUNK_LIST_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, ChunkListError> {
        let mut out = Vec::with_capacity(40 + self.extents.len() * 35);
        out.put(MAGIC);
        out.put(self.content.as_bytes());
        out.put_uvarint(self.extents.len() as u64);
        for extent in &self.extents {
            out.put(extent.id.as_bytes());
            out.put_uvarint(extent.len_bytes.into());
        }
        if out.len() > CHUNK_LIST_BYTES_MAX {
            return Err(ChunkListError::TooLarge(out.len()));
        }
        Ok(out)
    }

    /// Decodes a list whose bytes were verified.
    ///
    /// # Errors
    /// [`ChunkListError::Malformed`] for anything but the encoding of a valid list.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChunkListError> {
        let mut wire = Wire::new(bytes);
        if wire.array::<4>()? != *MAGIC {
            return Err(ChunkListError::Malformed("not a chunk list"));
        }
        let content = ContentId::new(Digest::from_bytes(wire.array()?));
        let count = wire.count(Digest::LEN + 1)?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            let id = ChunkId::new(Digest::from_bytes(wire.array()?));
            chunks.push((id, wire.uvarint32()?));
        }
        wire.finish()?;
        Self::new(content, chunks).ok_or(ChunkListError::Malformed("length of a chunk"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(lengths: &[u32]) -> ChunkList {
        let id = ChunkId::new(Digest::of(b"x"));
        ChunkList::new(
            ContentId::new(Digest::of(b"x")),
            lengths.iter().map(|l| (id, *l)),
        )
        .unwrap()
    }

    #[test]
    fn overlapping_finds_exactly_the_chunks_of_a_range() {
        let list = list(&[10, 20, 5]);
        assert_eq!(list.size_bytes(), 35);
        for (offset, len, expected) in [
            (0, 1, 0..1),
            (9, 1, 0..1),
            (10, 1, 1..2),
            (9, 2, 0..2),
            (0, 35, 0..3),
            (29, 1, 1..2),
            (30, 100, 2..3),
            (34, 1, 2..3),
            (u64::MAX, 9, 3..3),
        ] {
            assert_eq!(list.overlapping(offset, len), expected, "{offset}+{len}");
        }
        assert!(list.overlapping(35, 1).is_empty());
        assert!(list.overlapping(10, 0).is_empty());
    }

    #[test]
    fn encoding_round_trips_and_every_cut_is_refused() {
        let list = list(&[10, 20, 5]);
        let bytes = list.encode().unwrap();
        assert_eq!(ChunkList::decode(&bytes), Ok(list));
        for end in 0..bytes.len() {
            assert!(ChunkList::decode(&bytes[..end]).is_err());
        }
    }
}
