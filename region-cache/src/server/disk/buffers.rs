//! Memory for what is read from the disk, used again while it is still in the processor's cache.
//!
//! A fresh buffer costs a pass over it that writes zeros, which was 4 to 8 % of a member's time when
//! it served from the disk.

use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that are kept, and how large they may be: those of whole blocks go to the memory tier.
const KEPT_MAX: usize = 16;
const KEPT_BYTES_MAX: usize = 288 << 10;

type Kept = Arc<Mutex<Vec<Vec<u8>>>>;

/// Buffers of which nobody holds bytes.
#[derive(Debug, Default)]
pub(super) struct Buffers(Kept);

/// Bytes that were read. Their memory goes back when they are dropped.
#[derive(Debug)]
pub(in crate::server) struct Buffer {
    bytes: Vec<u8>,
    kept: Kept,
}

impl Buffers {
    /// Returns a buffer of `len` bytes, which may be those of an earlier read.
    pub(super) fn get(&self, len: usize) -> Buffer {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = if len > KEPT_BYTES_MAX {
            None
        } else {
            kept.pop()
        };
        drop(kept);
        let mut bytes = last.unwrap_or_default();
        // Not more than that: what grew beyond what is kept would be lost.
        bytes.reserve_exact(len.saturating_sub(bytes.len()));
        bytes.resize(len, 0);
        Buffer {
            bytes,
            kept: Arc::clone(&self.0),
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.capacity() > KEPT_BYTES_MAX {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(buffers: &Buffers) -> usize {
        buffers.0.lock().unwrap().len()
    }

    #[test]
    fn a_buffer_has_the_length_that_is_wanted_whatever_it_was_before() {
        let buffers = Buffers::default();
        for len in [100, KEPT_BYTES_MAX, 1, 5000, 0, 100] {
            assert_eq!(buffers.get(len).as_ref().len(), len);
            assert_eq!(kept(&buffers), 1, "used again");
        }
    }

    #[test]
    fn few_are_kept_and_none_that_is_large() {
        let buffers = Buffers::default();
        let many: Vec<_> = (0..2 * KEPT_MAX).map(|_| buffers.get(10)).collect();
        drop(many);
        assert_eq!(kept(&buffers), KEPT_MAX);
        drop(buffers.get(KEPT_BYTES_MAX + 1));
        assert_eq!(kept(&buffers), KEPT_MAX);
    }
}
