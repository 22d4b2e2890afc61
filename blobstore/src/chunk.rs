//! Chunks: verified pieces of a file's plain bytes, and the lists that make contents of them.

use bytes::Bytes;

use crate::{ChunkId, ContentId, Digest};

/// Largest chunk, in bytes. A file up to this size is one chunk. `docs/FORMAT.md` has the
/// measurements behind the sizes.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Smallest chunk the chunker cuts, but for a file's last.
pub const CHUNK_BYTES_MIN: usize = 64 << 10;
/// Size the chunker aims at, for files above [`CHUNK_BYTES_MAX`].
pub const CHUNK_BYTES_AVERAGE: usize = 256 << 10;

/// A chunk's plain bytes. Exists only if they hash to its id, so bytes that were not checked
/// cannot reach a reader (the idea of mountpoint-s3's `ChecksummedBytes`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    id: ChunkId,
    bytes: Bytes,
}

/// The bytes do not hash to the id they were read for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bytes of {expected:?} do not match their hash")]
pub struct ChunkMismatch {
    /// The id that the bytes should have.
    pub expected: ChunkId,
}

impl Chunk {
    /// Names bytes by hashing them.
    pub fn of(bytes: Bytes) -> Self {
        Self { id: ChunkId::new(Digest::of(&bytes)), bytes }
    }

    /// Checks bytes against the id they were read for.
    ///
    /// # Errors
    /// [`ChunkMismatch`] when they do not hash to it.
    pub fn verify(id: ChunkId, bytes: Bytes) -> Result<Self, ChunkMismatch> {
        let chunk = Self::of(bytes);
        if chunk.id == id { Ok(chunk) } else { Err(ChunkMismatch { expected: id }) }
    }

    /// Returns the chunk's id.
    pub const fn id(&self) -> ChunkId {
        self.id
    }

    /// Returns the verified bytes.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
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
            extents.push(ChunkExtent { id, offset_bytes, len_bytes });
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
        let first = self.extents.partition_point(|e| e.end_bytes() <= offset_bytes);
        let last = self.extents.partition_point(|e| e.offset_bytes < end);
        first..last.max(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(lengths: &[u32]) -> ChunkList {
        let id = ChunkId::new(Digest::of(b"x"));
        ChunkList::new(ContentId::new(Digest::of(b"x")), lengths.iter().map(|l| (id, *l))).unwrap()
    }

    #[test]
    fn a_chunk_exists_only_if_it_matches() {
        let chunk = Chunk::of(Bytes::from_static(b"right"));
        assert_eq!(Chunk::verify(chunk.id(), Bytes::from_static(b"right")), Ok(chunk.clone()));
        let wrong = Chunk::verify(chunk.id(), Bytes::from_static(b"wrong"));
        assert_eq!(wrong, Err(ChunkMismatch { expected: chunk.id() }));
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
}
