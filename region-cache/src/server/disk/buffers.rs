//! Memory for what is read from the disk, used again while it is still in the processor's cache.
//!
//! The pieces are neighbours in one allocation, which the kernel backs with huge pages if it is told
//! to (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`): a disk fills one such piece by one transfer, and
//! scattered pages by one for each. `docs/BENCHMARKS.md` has what that is worth. Nor does a piece that
//! is used again cost a pass that writes zeros.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;

/// How many pieces there are; more are made when these are in use.
const PIECES: usize = 32;

/// What reads past the page cache want memory and offsets to be aligned to: the largest sector of
/// disks, and the page of every file system.
const ALIGNMENT: usize = 4096;

type Free = Arc<Mutex<Vec<BytesMut>>>;

/// Pieces of which nobody holds bytes.
#[derive(Debug)]
pub(super) struct Buffers {
    free: Free,
    piece_bytes: usize,
}

/// Bytes that were read. If they are in a piece it goes back when they are dropped.
#[derive(Debug)]
pub(in crate::server) struct Buffer {
    /// Whole pages.
    pages: BytesMut,
    len: usize,
    /// Where the piece goes.
    home: Option<Free>,
}

impl Buffers {
    /// Makes the pieces, of `piece_bytes` each, which must be whole pages.
    pub(super) fn new(piece_bytes: usize) -> Self {
        let mut all = aligned(PIECES * piece_bytes);
        let pieces = (0..PIECES).map(|_| all.split_to(piece_bytes)).collect();
        Self {
            free: Arc::new(Mutex::new(pieces)),
            piece_bytes,
        }
    }

    /// Returns a buffer of `len` bytes, which may hold those of an earlier read. It is in a piece if it
    /// fits and one is free.
    pub(super) fn get(&self, len: usize) -> Buffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = match len <= self.piece_bytes {
            true => free.pop(),
            false => None,
        };
        drop(free);
        let home = piece.is_some().then(|| Arc::clone(&self.free));
        Buffer {
            pages: piece.unwrap_or_else(|| aligned(len.next_multiple_of(ALIGNMENT))),
            len,
            home,
        }
    }
}

/// Returns zeros that begin at a page.
fn aligned(len: usize) -> BytesMut {
    let mut bytes = BytesMut::zeroed(len + ALIGNMENT);
    let before = bytes.as_ptr().align_offset(ALIGNMENT);
    drop(bytes.split_to(before));
    bytes.truncate(len);
    bytes
}

impl Buffer {
    /// Returns the whole pages that the bytes begin.
    pub(super) fn pages_mut(&mut self) -> &mut [u8] {
        &mut self.pages[..self.len.next_multiple_of(ALIGNMENT)]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.pages[..self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.pages[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let mut free = home.lock().unwrap_or_else(PoisonError::into_inner);
            free.push(std::mem::take(&mut self.pages));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = 2 * ALIGNMENT;

    fn free(buffers: &Buffers) -> usize {
        buffers.free.lock().unwrap().len()
    }

    #[test]
    fn a_buffer_has_the_length_that_is_wanted_whatever_it_was_before() {
        let buffers = Buffers::new(PIECE);
        for len in [100, PIECE, 1, 5000, 0, 100, PIECE + 1] {
            let mut buffer = buffers.get(len);
            assert_eq!(buffer.as_ref().len(), len);
            assert_eq!(buffer.as_mut().len(), len);
            let pages = buffer.pages_mut();
            assert_eq!(pages.len(), len.next_multiple_of(ALIGNMENT));
            assert_eq!(pages.as_ptr().align_offset(ALIGNMENT), 0);
        }
    }

    #[test]
    fn pieces_are_apart_and_come_back_and_others_do_not() {
        let buffers = Buffers::new(PIECE);
        let fill = |number: usize| {
            let mut buffer = buffers.get(PIECE);
            buffer.as_mut().fill(u8::try_from(number).unwrap());
            buffer
        };
        let many: Vec<_> = (0..PIECES + 2).map(fill).collect();
        assert_eq!(free(&buffers), 0);
        for (number, buffer) in many.iter().enumerate() {
            assert!(
                buffer
                    .as_ref()
                    .iter()
                    .all(|byte| usize::from(*byte) == number)
            );
        }
        drop(many);
        assert_eq!(free(&buffers), PIECES);
        let large = buffers.get(PIECE + 1);
        assert_eq!(free(&buffers), PIECES);
        drop(large);
        assert_eq!(free(&buffers), PIECES);
    }
}
