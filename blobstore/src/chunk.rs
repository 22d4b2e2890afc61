//! Chunks: verified pieces of a file's plain bytes.

use bytes::Bytes;

use crate::{ChunkId, Digest};

/// Largest chunk, in bytes. A file up to this size is one chunk. `docs/FORMAT.md` has the
/// measurements behind the sizes.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Size the chunker aims at by default, for files above [`CHUNK_BYTES_MAX`].
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
        Self {
            id: ChunkId::new(Digest::of(&bytes)),
            bytes,
        }
    }

    /// Checks bytes against the id they were read for.
    ///
    /// # Errors
    /// [`ChunkMismatch`] when they do not hash to it.
    pub fn verify(id: ChunkId, bytes: Bytes) -> Result<Self, ChunkMismatch> {
        let chunk = Self::of(bytes);
        if chunk.id == id {
            Ok(chunk)
        } else {
            Err(ChunkMismatch { expected: id })
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_exists_only_if_it_matches() {
        let chunk = Chunk::of(Bytes::from_static(b"right"));
        assert_eq!(
            Chunk::verify(chunk.id(), Bytes::from_static(b"right")),
            Ok(chunk.clone())
        );
        let wrong = Chunk::verify(chunk.id(), Bytes::from_static(b"wrong"));
        assert_eq!(
            wrong,
            Err(ChunkMismatch {
                expected: chunk.id()
            })
        );
    }
}
