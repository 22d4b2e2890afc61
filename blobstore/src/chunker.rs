//! Cutting contents into chunks.
//!
//! A content of at most [`CHUNK_BYTES_MAX`] is one chunk, so that most files have the same id as
//! content and as chunk and need no chunk list. Larger ones are cut by `FastCDC` (Xia et al. 2020,
//! crate `fastcdc`), so that an insertion changes the chunks around it and no others.

use std::io::{self, Read};

use bytes::Bytes;
use fastcdc::v2020::FastCDC;

use crate::chunk::{CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX};
use crate::{Chunk, ChunkId, ChunkList, ContentId, Digest};

/// Bytes that are cut at once; several largest chunks, so that little is moved.
const BUFFER_BYTES: usize = 8 * CHUNK_BYTES_MAX;

/// A content as the chunker found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunked {
    /// The id of the whole.
    pub content: ContentId,
    /// Its length.
    pub size_bytes: u64,
    /// The chunks, in order.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl Chunked {
    /// Returns the list to store, or `None` when the content is empty or one chunk and needs none.
    pub fn list(&self) -> Option<ChunkList> {
        if self.chunks.len() <= 1 {
            return None;
        }
        let chunks = self.chunks.iter().copied();
        Some(ChunkList::new(self.content, chunks).expect("the chunker keeps the limits"))
    }
}

/// Cuts contents one after the other, reusing its buffer.
#[derive(Debug)]
pub struct Chunker {
    buffer: Vec<u8>,
    average_bytes: usize,
}

/// A chunk is no shorter than this fraction of the average, but for a content's last.
const MIN_FRACTION: usize = 4;

impl Default for Chunker {
    fn default() -> Self {
        Self::with_average(CHUNK_BYTES_AVERAGE)
    }
}

impl Chunker {
    /// Makes a chunker that aims at `average_bytes`, kept within 4 KiB and half of
    /// [`CHUNK_BYTES_MAX`]. Its buffer of some 8 MiB is allocated when first needed.
    pub fn with_average(average_bytes: usize) -> Self {
        // FastCDC wants even sizes.
        let average_bytes = average_bytes.clamp(4 << 10, CHUNK_BYTES_MAX / 2) & !7;
        Self {
            buffer: Vec::new(),
            average_bytes,
        }
    }

    /// Reads `input` to its end and gives each chunk to `sink`.
    ///
    /// # Errors
    /// Those of `input` and of `sink`.
    pub fn cut<E: From<io::Error>>(
        &mut self,
        input: &mut impl Read,
        mut sink: impl FnMut(Chunk) -> Result<(), E>,
    ) -> Result<Chunked, E> {
        let mut whole = blake3::Hasher::new();
        let mut size_bytes = 0;
        let mut chunks = Vec::new();
        let mut filled = 0;
        let mut ended = false;
        self.buffer.resize(BUFFER_BYTES, 0);
        while !ended || filled > 0 {
            while !ended && filled < BUFFER_BYTES {
                let read = match input.read(&mut self.buffer[filled..]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read?,
                };
                ended = read == 0;
                filled += read;
            }
            // While more may come, a chunk is only cut where it could not become longer.
            let keep = if ended { 0 } else { CHUNK_BYTES_MAX };
            let mut start = 0;
            while filled - start > keep {
                let whole_left = size_bytes == 0 && ended;
                let len = self.next_len(&self.buffer[start..filled], whole_left);
                let chunk = Chunk::of(Bytes::copy_from_slice(&self.buffer[start..start + len]));
                let len_bytes = u32::try_from(len).expect("a chunk is at most CHUNK_BYTES_MAX");
                chunks.push((chunk.id(), len_bytes));
                let only = ended && size_bytes == 0 && len == filled;
                if !only {
                    whole.update(chunk.bytes());
                }
                size_bytes += u64::from(len_bytes);
                start += len;
                sink(chunk)?;
            }
            self.buffer.copy_within(start..filled, 0);
            filled -= start;
        }
        let content = match chunks.as_slice() {
            [(only, _)] => ContentId::new(*only.digest()),
            _ => ContentId::new(Digest::from_bytes(*whole.finalize().as_bytes())),
        };
        Ok(Chunked {
            content,
            size_bytes,
            chunks,
        })
    }

    /// Returns the length of the chunk at the start of `bytes`; `whole` says that they are all
    /// there is of the content.
    fn next_len(&self, bytes: &[u8], whole: bool) -> usize {
        if whole && bytes.len() <= CHUNK_BYTES_MAX {
            return bytes.len();
        }
        let (average, min) = (self.average_bytes, self.average_bytes / MIN_FRACTION);
        FastCDC::new(bytes, min, average, CHUNK_BYTES_MAX)
            .cut(0, bytes.len())
            .1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Incompressible bytes that are the same in every run.
    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cut(mut input: impl Read) -> (Chunked, Vec<u8>) {
        let mut plain = Vec::new();
        let sink = |chunk: Chunk| -> io::Result<()> {
            plain.extend_from_slice(chunk.bytes());
            Ok(())
        };
        let chunked = Chunker::default().cut(&mut input, sink).unwrap();
        (chunked, plain)
    }

    /// Gives at most `step` bytes a read.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let len = buf.len().min(self.1);
            self.0.read(&mut buf[..len])
        }
    }

    #[test]
    fn chunks_make_the_content_and_keep_their_limits() {
        for len in [
            0,
            1,
            CHUNK_BYTES_MAX,
            CHUNK_BYTES_MAX + 1,
            3 * BUFFER_BYTES + 7,
        ] {
            let bytes = noise(len);
            let (chunked, plain) = cut(&bytes[..]);
            assert!(plain == bytes);
            assert_eq!(chunked.content, ContentId::new(Digest::of(&bytes)), "{len}");
            assert_eq!(chunked.size_bytes, len as u64);
            assert_eq!(chunked.list().is_none(), len <= CHUNK_BYTES_MAX);
            let lens = chunked.chunks.iter().map(|chunk| chunk.1 as usize);
            let min = CHUNK_BYTES_AVERAGE / MIN_FRACTION;
            let inner = lens.clone().rev().skip(1);
            assert!(lens.max().unwrap_or(0) <= CHUNK_BYTES_MAX);
            assert!(inner.min().unwrap_or(min) >= min);
        }
    }

    #[test]
    fn cuts_do_not_depend_on_how_the_bytes_arrive() {
        let bytes = noise(2 * BUFFER_BYTES + 12_345);
        assert_eq!(cut(&bytes[..]).0, cut(Slow(&bytes, 70_001)).0);
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let before = noise(20 << 20);
        let mut after = before.clone();
        after.splice(5 << 20..5 << 20, *b"inserted");
        let ids = |bytes: &[u8]| cut(bytes).0.chunks;
        let known = ids(&before);
        let new = ids(&after)
            .iter()
            .filter(|chunk| !known.contains(chunk))
            .count();
        assert!((1..=3).contains(&new), "{new} new chunks");
    }
}
